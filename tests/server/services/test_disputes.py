"""Disputes through the whole server: what both sides see, and where the money comes from."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from dcp.v1 import admin_pb2, jobs_pb2, statements_pb2, webhooks_pb2, withdrawals_pb2
from dcp.v1 import disputes_pb2 as pb
from dcp.v1 import privacy_pb2 as privacy

from server.domain.disputes import EVIDENCE_BYTES, MAX_OPEN_DISPUTES
from server.domain.money import micros
from server.domain.payouts import PayoutTerms
from server.store import proof
from server.store.models import Renter
from tests.server.services.test_payouts import earnings, later, purse, withdraw
from tests.support import running_server
from tests.support.databases import execute
from tests.support.manual_clock import ManualClock
from tests.support.running_server import Daemon, Market, Party, read_refusal, refusal
from tests.support.webhook_receiver import receiving

DAY_SECONDS = 24 * 3600
IBAN = "SA0380000000608010167519"
UPHOLD, REJECT = pb.DISPUTE_DECISION_UPHOLD, pb.DISPUTE_DECISION_REJECT


@pytest.fixture
async def waiting_market(database_url: str, clock: ManualClock) -> AsyncIterator[Market]:
    """A running server on each kind of database, whose payouts mature for a week."""
    terms = PayoutTerms(dispute_days=30)
    async with running_server.running(database_url, clock, payouts=terms) as market:
        yield market


class Scene:
    """A renter, a provider with a daemon, and jobs of twenty minutes: 3000 halala, 2250 for the provider."""

    def __init__(self, market: Market, renter: Party, provider: Party, daemon: Daemon) -> None:
        self.market = market
        self.renter = renter
        self.provider = provider
        self.daemon = daemon

    async def job(self, renter: Party | None = None, *output: bytes) -> jobs_pb2.Job:
        first, *others = output or (b"Lorem ipsum.",)
        await self.daemon.heartbeat()
        job, lease = await self.market.running_job(
            renter or self.renter, self.provider, self.daemon, output=first, duration_minutes=20
        )
        for seq, data in enumerate(others, 2):
            await self.daemon.output(lease, seq, data)
        self.market.clock.advance(1200)
        await self.daemon.finished(lease, seconds=1200, last_output_seq=1 + len(others))
        return job

    async def dispute(self, job: jobs_pb2.Job, reason: str = "It is filler.") -> jobs_pb2.Dispute:
        request = pb.OpenDisputeRequest(job_id=job.job_id, reason=reason)
        answer = await self.market.dispute_service.OpenDispute(request, metadata=self.renter.metadata)
        return answer.dispute

    async def decide(
        self, dispute: jobs_pb2.Dispute, decision: Any, refund: int | None = None, note: str = "seen"
    ) -> jobs_pb2.Dispute:
        request = pb.DecideDisputeRequest(
            dispute_id=dispute.id, decision=decision, refund_halala=refund, note=note
        )
        metadata = self.market.admin_metadata
        return (await self.market.dispute_service.DecideDispute(request, metadata=metadata)).dispute

    async def purse(self) -> tuple[int, int, int]:
        """What the provider can withdraw, what matures, and what is held."""
        return await purse(self.market, self.provider)

    async def debt(self) -> int:
        return (await earnings(self.market, self.provider)).debt_halala

    async def end_withdrawal(self, *, pays: bool) -> None:
        service, metadata = self.market.withdrawal_service, self.market.admin_metadata
        overview = await self.market.admin_service.ListWithdrawals(
            admin_pb2.ListWithdrawalsRequest(), metadata=metadata
        )
        number = overview.pending[0].id
        if not pays:
            request = withdrawals_pb2.RejectWithdrawalRequest(withdrawal_id=number, reason="no account")
            await service.RejectWithdrawal(request, metadata=metadata)
            return
        await service.ProcessWithdrawal(
            withdrawals_pb2.ProcessWithdrawalRequest(withdrawal_id=number), metadata=metadata
        )
        pay = withdrawals_pb2.PayWithdrawalRequest(withdrawal_id=number, reference="B")
        await service.PayWithdrawal(pay, metadata=metadata)


async def scene_in(market: Market, halala: int = 20_000) -> Scene:
    renter, provider = await market.renter(halala), await market.provider()
    return Scene(market, renter, provider, await market.daemon(provider))


async def test_dispute_holds_the_payout_until_it_is_rejected(waiting_market: Market) -> None:
    market, scene = waiting_market, await scene_in(waiting_market)
    await scene.job()
    disputed = await scene.job()
    opened = await scene.dispute(disputed)
    assert (opened.status, opened.reason) == (jobs_pb2.DISPUTE_STATUS_OPEN, "It is filler.")
    assert (opened.charged_halala, opened.held_halala) == (3000, 2250)
    assert await scene.purse() == (0, 2250, 2250)
    await later(market, 200)
    assert await scene.purse() == (2250, 0, 2250)  # the other payout matured, and no more than it
    await market.assert_money_adds_up()
    decided = await scene.decide(opened, REJECT)
    assert decided.status == jobs_pb2.DISPUTE_STATUS_REJECTED
    assert not decided.HasField("refund_halala")
    assert await scene.purse() == (4500, 0, 0)
    assert await market.wallet(scene.renter) == (14_000, 0)
    await market.assert_money_adds_up()


async def test_both_sides_and_the_operator_see_the_dispute(market: Market) -> None:
    scene = await scene_in(market)
    job = await scene.job()
    opened = await scene.dispute(job)
    assert await scene.dispute(job, "again") == opened  # a job has one dispute
    request = jobs_pb2.GetJobRequest(job_id=job.job_id)
    for metadata in (scene.renter.metadata, scene.provider.metadata, market.admin_metadata):
        shown = await market.job_service.GetJob(request, metadata=metadata)
        assert shown.job.dispute == opened
    other = await market.renter()
    service = market.dispute_service
    for who, expected in ((scene.renter, [opened]), (other, [])):
        own = await service.ListOwnDisputes(pb.ListOwnDisputesRequest(), metadata=who.metadata)
        assert list(own.disputes) == expected
    for who, expected in ((scene.provider, [opened]), (await market.provider(), [])):
        listed = await service.ListProviderDisputes(pb.ListProviderDisputesRequest(), metadata=who.metadata)
        assert list(listed.disputes) == expected
    second = await scene.dispute(await scene.job())
    await scene.decide(opened, REJECT)
    for status, expected_ids in ((None, [2, 1]), (jobs_pb2.DISPUTE_STATUS_OPEN, [second.id])):
        page = pb.ListDisputesRequest(status=status)
        listed_all = await service.ListDisputes(page, metadata=market.admin_metadata)
        assert [dispute.id for dispute in listed_all.disputes] == expected_ids
    page = pb.ListDisputesRequest(page_size=1)
    first_page = await service.ListDisputes(page, metadata=market.admin_metadata)
    assert first_page.next_before_id == second.id


async def test_operator_decides_with_the_evidence(market: Market) -> None:
    scene = await scene_in(market)
    await scene.job()
    job = await scene.job(None, b"x" * (EVIDENCE_BYTES - 1), b"\xff!")
    opened = await scene.dispute(job)
    await scene.job()  # ended after the disputed job: not in the record
    request = pb.GetDisputeRequest(dispute_id=opened.id)
    found = await market.dispute_service.GetDispute(request, metadata=market.admin_metadata)
    assert (found.dispute, found.job.job_id) == (opened, job.job_id)
    assert (found.output, found.output_truncated) == ("x" * (EVIDENCE_BYTES - 1) + "\ufffd", True)
    assert (found.log, found.log_truncated) == ("", False)
    assert [(each.attempt, each.run_seconds) for each in found.attempts] == [(1, 1200.0)]
    record = found.provider
    assert (record.provider_id, record.reliability, record.reliability_attempts) == (
        scene.provider.id,
        1.0,
        2,
    )
    assert len(record.attempts) == 2
    assert (record.open_disputes, record.upheld_disputes, record.rejected_disputes) == (1, 0, 0)


async def test_evidence_stays_until_the_dispute_is_decided(any_market: Market) -> None:
    """Other texts go when their time has ended, and so do these after the decision."""
    market, scene = any_market, await scene_in(any_market)
    job, other = await scene.job(), await scene.job()
    opened = await scene.dispute(job)
    request = pb.GetDisputeRequest(dispute_id=opened.id)
    for output in ("Lorem ipsum.", ""):
        market.clock.advance(31 * DAY_SECONDS)
        await market.server.services.retention.tick()
        found = await market.dispute_service.GetDispute(request, metadata=market.admin_metadata)
        assert found.output == output
        assert (await market.job(other)).HasField("texts_removed_at")
        if output:
            await scene.decide(opened, REJECT)
    assert (await market.job(job)).HasField("texts_removed_at")


async def test_upheld_dispute_refunds_both_parts(waiting_market: Market) -> None:
    market, scene = waiting_market, await scene_in(waiting_market)
    opened = await scene.dispute(await scene.job())
    decided = await scene.decide(opened, UPHOLD)
    assert (decided.status, decided.refund_halala, decided.note) == (
        jobs_pb2.DISPUTE_STATUS_UPHELD,
        3000,
        "seen",
    )
    assert await market.wallet(scene.renter) == (20_000, 0)
    assert await scene.purse() == (0, 0, 0)
    figures = await market.server.services.dashboard.figures()
    assert (figures.payout_micros, figures.fee_micros) == (0, 0)
    request = statements_pb2.ListOwnLedgerRequest()
    statement = await market.statement_service.ListOwnLedger(request, metadata=scene.renter.metadata)
    assert {(line.amount_halala, line.description) for line in statement.lines[:2]} == {
        (2250, "refunded by the provider after a dispute about a llm-inference job"),
        (750, "refunded by the platform after a dispute about a llm-inference job"),
    }
    found = await refusal(scene.decide(opened, REJECT))
    assert (found.reason, found.facts.status) == ("WRONG_STATE", "upheld")
    entries = await market.admin_service.ListAuditEntries(
        admin_pb2.ListAuditEntriesRequest(object="dispute"), metadata=market.admin_metadata
    )
    (entry,) = entries.entries
    assert (entry.action, entry.object_id, entry.before) == ("dispute.uphold", "1", '{"status": "open"}')
    await market.assert_money_adds_up()


async def test_partial_refund_returns_the_rest_of_what_was_held(waiting_market: Market) -> None:
    market, scene = waiting_market, await scene_in(waiting_market)
    opened = await scene.dispute(await scene.job())
    await scene.decide(opened, UPHOLD, 1001)  # 751 of the provider and 250 of the platform
    assert await market.wallet(scene.renter) == (18_001, 0)
    assert await scene.purse() == (2250 - 751, 0, 0)
    await market.assert_money_adds_up()


async def test_refund_of_withdrawn_money_is_a_debt_that_later_payouts_repay(any_market: Market) -> None:
    market, scene = any_market, await scene_in(any_market)
    job = await scene.job()
    await withdraw(market, scene.provider, 2000)
    await scene.end_withdrawal(pays=True)
    opened = await scene.dispute(job)
    assert opened.held_halala == 250
    await scene.decide(opened, UPHOLD)
    assert await market.wallet(scene.renter) == (20_000, 0)
    assert (await scene.purse(), await scene.debt()) == ((0, 0, 0), 2000)
    proof = await market.server.services.proofs.prove()
    assert (proof.is_balanced, proof.debt_micros) == (True, micros(2000))
    await scene.job()
    assert (await scene.purse(), await scene.debt()) == ((250, 0, 0), 2000)  # shown without the debt
    found = await refusal(withdraw(market, scene.provider, 1000))
    assert (found.reason, found.facts.balance_halala) == ("EARNINGS_TOO_LOW", 250)
    await market.server.services.payouts.tick()
    assert (await scene.purse(), await scene.debt()) == ((250, 0, 0), 0)
    await market.assert_money_adds_up()


async def test_debt_is_repaid_before_a_withdrawal_even_if_no_duty_ran(any_market: Market) -> None:
    market, scene = any_market, await scene_in(any_market)
    job = await scene.job()
    await withdraw(market, scene.provider, 2250)
    await scene.end_withdrawal(pays=True)
    await scene.decide(await scene.dispute(job), UPHOLD)
    await scene.job()
    await scene.job()
    await withdraw(market, scene.provider, 2250)
    assert (await scene.purse(), await scene.debt()) == ((0, 0, 2250), 0)
    await market.assert_money_adds_up()


@pytest.mark.parametrize("pays", [True, False])
async def test_dispute_during_a_withdrawal_leaves_what_is_reserved(any_market: Market, pays: bool) -> None:
    market, scene = any_market, await scene_in(any_market)
    job = await scene.job()
    await withdraw(market, scene.provider, 2250)
    opened = await scene.dispute(job)
    assert opened.held_halala == 0
    await scene.decide(opened, UPHOLD)
    assert (await scene.purse(), await scene.debt()) == ((0, 0, 2250), 2250)
    await market.assert_money_adds_up()
    await scene.end_withdrawal(pays=pays)
    await market.server.services.payouts.tick()
    assert (await scene.purse(), await scene.debt()) == ((0, 0, 0), 2250 if pays else 0)
    await market.assert_money_adds_up()


async def test_refund_takes_other_maturing_money_before_what_can_be_withdrawn(waiting_market: Market) -> None:
    market, scene = waiting_market, await scene_in(waiting_market)
    job = await scene.job()
    await later(market, 168)
    await withdraw(market, scene.provider, 2000)
    opened = await scene.dispute(job)
    assert opened.held_halala == 250
    await scene.job()
    assert await scene.purse() == (0, 2250, 2250)
    await scene.decide(opened, UPHOLD)
    assert (await scene.purse(), await scene.debt()) == ((0, 250, 2000), 0)
    await later(market, 169)  # what is left of the other payout matures
    assert await scene.purse() == (250, 0, 2000)
    await market.assert_money_adds_up()


async def test_refund_of_maturing_money_makes_no_other_payout_mature_early(waiting_market: Market) -> None:
    """The oldest payouts bear it: a younger one would have to be withdrawn before its time."""
    market, scene = waiting_market, await scene_in(waiting_market)
    job = await scene.job()
    await later(market, 168)
    await withdraw(market, scene.provider, 2250)
    opened = await scene.dispute(job)
    await scene.job()
    await scene.decide(opened, UPHOLD)
    assert await scene.purse() == (0, 0, 2250)
    await later(market, 100)
    young = await scene.job()
    await later(market, 69)  # the payout of which nothing is left is old enough
    assert await scene.purse() == (0, 2250, 2250)
    await later(market, 98)
    assert await scene.purse() == (0, 2250, 2250)
    held = await scene.dispute(young)
    assert held.held_halala == 2250
    await scene.decide(held, REJECT)
    await scene.job()
    await later(market, 169)  # what was taken counts once
    assert await scene.purse() == (4500, 0, 2250)
    await market.assert_money_adds_up()


async def test_refund_of_a_deleted_renter_goes_to_the_platform(any_market: Market) -> None:
    market, scene = any_market, await scene_in(any_market, 3000)
    opened = await scene.dispute(await scene.job(), "mrkreason")
    email = await market.sql(lambda: str(Renter.get_by_id(scene.renter.id).email))
    request = privacy.DeleteOwnAccountRequest(email=email, forfeit_balance_halala=0)
    await market.privacy_service.DeleteOwnAccount(request, metadata=scene.renter.metadata)
    decided = await scene.decide(opened, UPHOLD)
    assert (decided.refund_halala, decided.reason) == (3000, "")
    assert await scene.purse() == (0, 0, 0)
    await market.assert_money_adds_up()
    figures = await market.server.services.dashboard.figures()
    assert (figures.payout_micros, figures.fee_micros) == (0, 0)


TAMPERINGS = {
    "renter": "UPDATE dispute SET renter_id = {other} WHERE state = '{state}'",
    "provider": "UPDATE dispute SET provider_id = {another} WHERE state = '{state}'",
    "charge": "UPDATE dispute SET charge_micros = charge_micros + 1 WHERE state = '{state}'",
    "payout": "UPDATE dispute SET payout_micros = payout_micros + 1 WHERE state = '{state}'",
    "transfer of the payout": "UPDATE dispute SET payout_id = payout_id + 1 WHERE state = '{state}'",
    "maturing part": "UPDATE dispute SET maturing_micros = maturing_micros - 1 WHERE state = '{state}'",
}


@pytest.mark.parametrize("state", ["open", "upheld", "rejected"])
@pytest.mark.parametrize("tampering", TAMPERINGS)
async def test_proof_names_a_dispute_that_was_tampered_with(
    waiting_market: Market, tampering: str, state: str
) -> None:
    """Whoever gets a refund, and how much of it, is in the dispute's row until it is decided."""
    market, scene = waiting_market, await scene_in(waiting_market)
    other, another = await market.renter(), await market.provider()
    opened = [await scene.dispute(await scene.job()) for _ in range(3)]
    await scene.decide(opened[1], UPHOLD, 100)
    await scene.decide(opened[2], REJECT)
    await market.assert_money_adds_up()
    change = TAMPERINGS[tampering].format(other=other.id, another=another.id, state=state)
    database = market.server._database
    await market.sql(lambda: execute(database, change))
    for prove in (proof.prove, proof.replay):
        found = " | ".join((await database.read(prove)).discrepancies)
        number = {"open": 0, "upheld": 1, "rejected": 2}[state]
        assert f"the dispute of {opened[number].job_id}" in found


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE matured_payouts SET through_id = (SELECT MAX(id) FROM transfer)",
        "UPDATE matured_payouts SET through_id = 0",
        "DELETE FROM matured_payouts",
    ],
)
async def test_replay_names_a_cursor_that_was_moved(waiting_market: Market, change: str) -> None:
    """Payouts before it would never mature; those after it again, in the place of younger ones."""
    market, scene = waiting_market, await scene_in(waiting_market)
    await scene.job()
    await later(market, 169)
    await scene.job()
    database = market.server._database
    assert (await database.read(proof.replay)).discrepancies == ()
    await market.sql(lambda: execute(database, change))
    (found,) = (await database.read(proof.replay)).discrepancies
    assert f"provider {scene.provider.id} has 2250 halala maturing" in found


async def test_webhook_hears_of_the_dispute_and_the_decision(sqlite_url: str, clock: ManualClock) -> None:
    running = running_server.running(sqlite_url, clock, webhooks_allow_private=True)
    async with running as market, receiving() as receiver:
        scene = await scene_in(market)
        job = await scene.job()
        request = webhooks_pb2.SetWebhookRequest(url=receiver.url)
        await market.webhook_service.SetWebhook(request, metadata=scene.renter.metadata)
        opened = await scene.dispute(job)
        await scene.decide(opened, UPHOLD, 8)
        await market.server.services.deliveries.tick()
        await market.server.services.deliveries.settled()
        bodies = {
            body["type"]: body["data"] for body in (json.loads(each.body) for each in receiver.received)
        }
    assert bodies.keys() == {"dispute.opened", "dispute.decided"}
    assert (bodies["dispute.opened"]["status"], bodies["dispute.opened"]["reason"]) == (
        "open",
        "It is filler.",
    )
    decided = bodies["dispute.decided"]
    assert (decided["status"], decided["refund_halala"], decided["note"]) == ("upheld", 8, "seen")


async def test_only_a_charge_of_the_renters_own_can_be_disputed_in_time(market: Market) -> None:
    scene, other = await scene_in(market), await market.renter()
    free, lease = await market.running_job(scene.renter, scene.provider, scene.daemon)
    found = await refusal(scene.dispute(free))
    assert (found.reason, found.facts.status) == ("NOT_CHARGED", "running")
    await scene.daemon.finished(lease, seconds=0)
    found = await refusal(scene.dispute(free))
    assert (found.reason, found.facts.status) == ("NOT_CHARGED", "completed")
    found = await refusal(scene.dispute(await scene.job(other)))
    assert (found.code, found.reason) == (grpc.StatusCode.PERMISSION_DENIED, "NOT_OWNER")
    assert (await refusal(scene.dispute(jobs_pb2.Job(job_id="job-none")))).reason == "JOB_NOT_FOUND"
    for seconds, is_late in ((7 * DAY_SECONDS, False), (7 * DAY_SECONDS + 1, True)):
        job = await scene.job()
        market.clock.advance(seconds)
        if is_late:
            assert (await refusal(scene.dispute(job))).reason == "DISPUTE_TOO_LATE"
        else:
            await scene.dispute(job)


async def test_open_disputes_of_a_renter_are_bounded(market: Market) -> None:
    scene = await scene_in(market, 100_000)
    jobs = [await scene.job() for _ in range(MAX_OPEN_DISPUTES + 1)]
    opened = [await scene.dispute(job) for job in jobs[:MAX_OPEN_DISPUTES]]
    assert (await refusal(scene.dispute(jobs[-1]))).reason == "TOO_MANY_DISPUTES"
    await scene.decide(opened[0], REJECT)
    await scene.dispute(jobs[-1])
    await market.assert_money_adds_up()


async def test_bad_refund_changes_nothing(market: Market) -> None:
    scene = await scene_in(market)
    opened = await scene.dispute(await scene.job())
    for decision, refund in ((UPHOLD, 3001), (REJECT, 1)):
        found = await refusal(scene.decide(opened, decision, refund))
        assert (found.reason, found.facts.field) == ("INVALID_FIELD", "refund_halala")
    missing = jobs_pb2.Dispute(id=99)
    assert (await refusal(scene.decide(missing, REJECT))).reason == "DISPUTE_NOT_FOUND"
    assert (await scene.decide(opened, REJECT)).status == jobs_pb2.DISPUTE_STATUS_REJECTED


async def test_only_one_of_two_decisions_counts(any_market: Market) -> None:
    market, scene = any_market, await scene_in(any_market)
    opened = await scene.dispute(await scene.job())
    decisions = (scene.decide(opened, decision) for decision in (UPHOLD, REJECT, UPHOLD))
    answers = await asyncio.gather(*decisions, return_exceptions=True)
    refused = [read_refusal(answer) for answer in answers if isinstance(answer, grpc.aio.AioRpcError)]
    assert [each.reason for each in refused] == ["WRONG_STATE"] * 2
    await market.assert_money_adds_up()


async def test_dispute_and_maturing_at_once_move_the_payout_once(waiting_market: Market) -> None:
    market, scene = waiting_market, await scene_in(waiting_market)
    jobs = [await scene.job() for _ in range(4)]
    market.clock.advance(7 * DAY_SECONDS)
    service = market.server.services.payouts
    disputes = (scene.dispute(job) for job in jobs[1:])
    opened, *_ = await asyncio.gather(asyncio.gather(*disputes), service.tick(), service.tick())
    assert [each.held_halala for each in opened] == [2250] * 3
    assert sum(await scene.purse()) == 9000
    await later(market, 24)
    assert await scene.purse() == (2250, 0, 6750)
    await market.assert_money_adds_up()

"""Suspension, approval and pause: who gets jobs, what happens to running jobs, and what is logged."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from dcp.v1 import accounts_pb2 as pb
from dcp.v1 import admin_pb2, jobs_pb2, providers_pb2, sessions_pb2

from server.domain.jobs import JobType
from server.domain.placement import Wants
from server.domain.providers import AccountState, ProviderStatus
from server.services.fleet import Fleet, Presence
from tests.support import running_server
from tests.support.manual_clock import ManualClock
from tests.support.running_server import Market, Party, refusal

ONLINE = providers_pb2.PROVIDER_STATUS_ONLINE
PAUSED = providers_pb2.PROVIDER_STATUS_PAUSED
SUSPENDED = providers_pb2.PROVIDER_STATUS_SUSPENDED


async def suspend(market: Market, provider: Party, reason: str = "reported") -> Any:
    request = pb.SuspendProviderRequest(provider_id=provider.id, reason=reason)
    return await market.account_service.SuspendProvider(request, metadata=market.admin_metadata)


async def unsuspend(market: Market, provider: Party) -> Any:
    request = pb.UnsuspendProviderRequest(provider_id=provider.id)
    return await market.account_service.UnsuspendProvider(request, metadata=market.admin_metadata)


async def approve(market: Market, provider: Party) -> Any:
    request = pb.ApproveProviderRequest(provider_id=provider.id)
    return await market.account_service.ApproveProvider(request, metadata=market.admin_metadata)


async def suspend_renter(market: Market, renter: Party) -> Any:
    request = pb.SuspendRenterRequest(renter_id=renter.id, reason="payment reversed")
    return await market.account_service.SuspendRenter(request, metadata=market.admin_metadata)


async def unsuspend_renter(market: Market, renter: Party) -> Any:
    request = pb.UnsuspendRenterRequest(renter_id=renter.id)
    return await market.account_service.UnsuspendRenter(request, metadata=market.admin_metadata)


async def pause(market: Market, provider: Party) -> Any:
    request = providers_pb2.PauseOwnProviderRequest()
    return await market.provider_service.PauseOwnProvider(request, metadata=provider.metadata)


async def resume(market: Market, provider: Party) -> Any:
    request = providers_pb2.ResumeOwnProviderRequest()
    return await market.provider_service.ResumeOwnProvider(request, metadata=provider.metadata)


async def audit_log(market: Market) -> list[tuple[str, str, Any, Any]]:
    request = admin_pb2.ListAuditEntriesRequest()
    answer = await market.admin_service.ListAuditEntries(request, metadata=market.admin_metadata)
    return [(e.action, e.object_id, json.loads(e.before), json.loads(e.after)) for e in answer.entries]


async def test_suspended_provider_without_a_job_loses_its_session_at_once(any_market: Market) -> None:
    market = any_market
    provider = await market.provider()
    daemon = await market.daemon(provider)
    assert (await suspend(market, provider)).status == SUSPENDED
    ended = await daemon.ended()
    assert ended is not None
    assert ended.reason == "PROVIDER_SUSPENDED"
    again = market.connect(provider)
    await again.say(hello=sessions_pb2.Hello(boot_id="b", protocol_version=1, slots=1))
    refused = await again.ended()
    assert refused is not None
    assert refused.reason == "PROVIDER_SUSPENDED"


async def test_running_job_of_a_suspended_provider_finishes_and_is_paid(any_market: Market) -> None:
    market = any_market
    provider, renter = await market.provider(), await market.renter()
    daemon = await market.daemon(provider, slots=2)
    job, lease = await market.running_job(renter, provider, daemon, output=b"Hello.")
    await suspend(market, provider)
    waiting = await market.submit(renter)
    await market.tick()
    await daemon.heard_nothing()
    market.clock.advance(75)
    assert await daemon.finished(lease, seconds=75) == sessions_pb2.RESULT_DISPOSITION_ACCEPTED
    assert (await market.job(job)).status == jobs_pb2.JOB_STATE_COMPLETED
    assert (await market.job(waiting)).status == jobs_pb2.JOB_STATE_QUEUED
    assert await market.earned(provider) == 141
    await daemon.say(heartbeat=sessions_pb2.SessionHeartbeat(sequence=99))
    ended = await daemon.ended()
    assert ended is not None
    assert ended.reason == "PROVIDER_SUSPENDED"
    await market.assert_money_adds_up()


async def test_suspended_daemon_may_reconnect_for_its_running_job(market: Market) -> None:
    provider, renter = await market.provider(), await market.renter()
    daemon = await market.daemon(provider)
    job, lease = await market.running_job(renter, provider, daemon, output=b"Hello.")
    await suspend(market, provider)
    daemon.cut()
    again = market.connect(provider)
    await again.hello(held_leases=[lease])
    directive = await again.expect("lease_directive")
    assert directive.action == sessions_pb2.LEASE_ACTION_KEEP
    market.clock.advance(75)
    assert await again.finished(lease, seconds=75) == sessions_pb2.RESULT_DISPOSITION_ACCEPTED
    assert (await market.job(job)).billing.actual_cost_halala == 188


async def test_credential_check_keeps_the_stream_of_a_suspended_daemon_with_a_running_job(
    market: Market,
) -> None:
    provider, renter = await market.provider(), await market.renter(10_000)
    daemon = await market.daemon(provider)
    _, lease = await market.running_job(renter, provider, daemon, duration_minutes=60)
    await suspend(market, provider)
    for _ in range(11):
        market.clock.advance(29)
        await daemon.heartbeat()
        await market.tick()
    assert await daemon.finished(lease, seconds=10) == sessions_pb2.RESULT_DISPOSITION_ACCEPTED


async def test_suspension_revokes_an_offer_that_was_not_accepted(any_market: Market) -> None:
    market = any_market
    provider, renter = await market.provider(), await market.renter()
    daemon = await market.daemon(provider)
    job = await market.submit(renter, provider)
    await daemon.expect("job_offer")
    await suspend(market, provider)
    after = await market.job(job)
    assert (after.status, after.attempt) == (jobs_pb2.JOB_STATE_QUEUED, 0)


async def test_unsuspended_provider_gets_jobs_again(market: Market) -> None:
    provider, renter = await market.provider(), await market.renter()
    await suspend(market, provider)
    await unsuspend(market, provider)
    daemon = await market.daemon(provider)
    await market.submit(renter)
    await daemon.expect("job_offer")


@pytest.mark.parametrize(
    ("state", "decide", "status"),
    [
        ("active", unsuspend, "active"),
        ("paused", unsuspend, "paused"),
        ("suspended", suspend, "suspended"),
        ("active", approve, "active"),
        ("suspended", approve, "suspended"),
    ],
)
async def test_decision_in_the_wrong_state_changes_nothing(
    market: Market, state: str, decide: Any, status: str
) -> None:
    provider = await market.provider()
    await market.set_provider(provider, state=state)
    refused = await refusal(decide(market, provider))
    assert (refused.reason, refused.facts.status) == ("WRONG_STATE", status)
    assert await audit_log(market) == []


async def test_decisions_about_unknown_accounts_are_refused(market: Market) -> None:
    unknown = Party(999, "")
    for act in (suspend, unsuspend, approve):
        assert (await refusal(act(market, unknown))).reason == "PROVIDER_NOT_FOUND"
    for act_on_renter in (suspend_renter, unsuspend_renter):
        assert (await refusal(act_on_renter(market, unknown))).reason == "RENTER_NOT_FOUND"


async def test_simultaneous_suspensions_take_effect_once(any_market: Market) -> None:
    market = any_market
    provider = await market.provider()
    outcomes = await asyncio.gather(*(suspend(market, provider) for _ in range(8)), return_exceptions=True)
    assert sum(not isinstance(outcome, BaseException) for outcome in outcomes) == 1
    assert len(await audit_log(market)) == 1


async def test_suspension_is_logged_with_its_reason(market: Market) -> None:
    provider, renter = await market.provider(), await market.renter(0)
    await suspend(market, provider, "mines coins")
    await unsuspend(market, provider)
    await suspend_renter(market, renter)
    assert await audit_log(market) == [
        (
            "renter.suspend",
            str(renter.id),
            {"status": "active"},
            {"status": "suspended", "reason": "payment reversed"},
        ),
        ("provider.unsuspend", str(provider.id), {"status": "suspended"}, {"status": "active"}),
        (
            "provider.suspend",
            str(provider.id),
            {"status": "active"},
            {"status": "suspended", "reason": "mines coins"},
        ),
    ]


async def test_suspended_renter_cannot_submit_and_its_running_job_continues(any_market: Market) -> None:
    market = any_market
    provider, renter = await market.provider(), await market.renter()
    daemon = await market.daemon(provider)
    job, lease = await market.running_job(renter, provider, daemon)
    assert (await suspend_renter(market, renter)).suspended
    assert (await refusal(market.submit(renter))).reason == "RENTER_SUSPENDED"
    await daemon.finished(lease, seconds=0)
    assert (await market.job(job)).status == jobs_pb2.JOB_STATE_COMPLETED
    assert not (await unsuspend_renter(market, renter)).suspended
    await market.submit(renter)
    refused = await refusal(unsuspend_renter(market, renter))
    assert (refused.reason, refused.facts.status) == ("WRONG_STATE", "active")


@pytest.mark.parametrize("is_required", [True, False])
async def test_new_provider_waits_for_approval_if_the_server_requires_it(
    sqlite_url: str, clock: ManualClock, is_required: bool
) -> None:
    async with running_server.running(sqlite_url, clock, provider_approval=is_required) as market:
        provider = await market.provider()
        if is_required:
            waiting = market.connect(provider)
            await waiting.say(hello=sessions_pb2.Hello(boot_id="b", protocol_version=1, slots=1))
            refused = await waiting.ended()
            assert refused is not None
            assert refused.reason == "PROVIDER_NOT_APPROVED"
            await approve(market, provider)
            assert (await audit_log(market))[0][0] == "provider.approve"
        daemon = await market.daemon(provider)
        await market.submit(await market.renter())
        await daemon.expect("job_offer")


async def test_paused_provider_gets_no_new_job_and_finishes_its_running_job(any_market: Market) -> None:
    market = any_market
    provider, renter = await market.provider(), await market.renter()
    daemon = await market.daemon(provider, slots=2)
    job, lease = await market.running_job(renter, provider, daemon)
    assert (await pause(market, provider)).status == PAUSED
    refused = await refusal(market.submit(renter, provider))
    assert (refused.reason, refused.facts.status) == ("PROVIDER_UNAVAILABLE", "paused")
    waiting = await market.submit(renter)
    await market.tick()
    await daemon.heard_nothing()
    await daemon.finished(lease)
    assert (await market.job(job)).status == jobs_pb2.JOB_STATE_COMPLETED
    await daemon.heard_nothing()
    assert (await pause(market, provider)).status == PAUSED
    assert (await resume(market, provider)).status == ONLINE
    await market.tick()
    assert (await daemon.expect("job_offer")).lease.job_id == waiting.job_id


async def test_placement_skips_a_paused_provider_at_once(market: Market) -> None:
    """Without a tick in between, the job goes to the other provider although the paused one ranks higher."""
    better, other = await market.provider(), await market.provider()
    first = await market.daemon(better, slots=4)
    second = await market.daemon(other)
    await pause(market, better)
    job = await market.submit(await market.renter())
    assert job.status == jobs_pb2.JOB_STATE_PENDING
    assert (await second.expect("job_offer")).lease.job_id == job.job_id
    await first.heard_nothing()


def test_paused_daemons_do_not_crowd_out_the_others() -> None:
    """Placement looks at some providers of a large fleet, and only at those that take jobs."""
    fleet = Fleet()
    for number in (1, 2):
        fleet.join(Presence(number, 1, "b1", lambda _: None, 0, 1, frozenset(JobType), ()))
        fleet.beat(number, 10, None)
    fleet.set_state(1, AccountState.PAUSED)
    assert [candidate.provider_id for candidate in fleet.candidates(Wants(JobType.TRAINING), 10, 0)] == [2]
    paused = fleet.get(1)
    assert paused is not None
    assert paused.candidate(10).status is ProviderStatus.PAUSED


async def test_daemon_that_connects_while_paused_is_skipped(market: Market) -> None:
    better, other = await market.provider(), await market.provider()
    await pause(market, better)
    first = await market.daemon(better, slots=4)
    second = await market.daemon(other)
    job = await market.submit(await market.renter())
    assert job.status == jobs_pb2.JOB_STATE_PENDING
    assert (await second.expect("job_offer")).lease.job_id == job.job_id
    await first.heard_nothing()


async def test_pause_at_another_server_is_known_after_a_tick(market: Market) -> None:
    better, other = await market.provider(), await market.provider()
    await market.daemon(better, slots=4)
    second = await market.daemon(other)
    await market.set_provider(better, state="paused")
    await market.tick()
    job = await market.submit(await market.renter())
    assert job.status == jobs_pb2.JOB_STATE_PENDING
    assert (await second.expect("job_offer")).lease.job_id == job.job_id


@pytest.mark.parametrize(
    ("state", "reason"),
    [("suspended", "PROVIDER_SUSPENDED"), ("pending_approval", "PROVIDER_NOT_APPROVED")],
)
async def test_suspended_or_unapproved_provider_cannot_pause_or_resume(
    market: Market, state: str, reason: str
) -> None:
    provider = await market.provider()
    await market.set_provider(provider, state=state)
    for act in (pause, resume):
        assert (await refusal(act(market, provider))).reason == reason

"""Canaries: the market's own jobs look like any others, and tell honest providers from those that are not."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
from dcp.v1 import (
    admin_pb2,
    canaries_pb2,
    disputes_pb2,
    honesty_pb2,
    jobs_pb2,
    operations_pb2,
    renters_pb2,
    sessions_pb2,
)
from google.protobuf.json_format import MessageToDict

from server.domain import canaries as rules
from server.domain.canaries import Canary, CanaryFault, CanaryVerdict
from server.domain.jobs import Logprobs
from server.domain.prompts import Shape
from server.store import canaries, jobs
from server.store.models import ApiKey, Renter
from tests.server.services.test_verdicts import gpu_status, verdict
from tests.support import plans, running_server
from tests.support.chats import answer_to, texts_of
from tests.support.manual_clock import ManualClock
from tests.support.running_server import Daemon, Market, Party

pytestmark = pytest.mark.in_turns

PASSED, FAILED, WAITING = CanaryVerdict.PASSED, CanaryVerdict.FAILED, CanaryVerdict.WAITING
WORDS = (
    *("sun", "rain", "road", "stone", "river", "bread", "lamp", "door"),
    *("chair", "field", "winter", "music", "paper", "silver", "garden", "cloud"),
)
FILLER = (
    "I would be happy to help you with that, so please tell me more about what you would like to know today."
)
DAY = 24 * 3600


@pytest.fixture
async def checked(database_url: str, clock: ManualClock) -> AsyncIterator[Market]:
    """A market that checks providers."""
    async with running_server.running(database_url, clock, canary_percent=1) as market:
        yield market


def honest(prompt: str) -> str:
    """What the model of these tests answers to a prompt."""
    digest = hashlib.sha512(prompt.encode()).digest()
    return " ".join(WORDS[byte % len(WORDS)] for byte in digest[:40])


def prompt_of(offer: sessions_pb2.JobOffer) -> str:
    return "\n".join(texts_of(offer))


class Machine:
    """A provider and its daemon, which answers what a test says."""

    def __init__(self, market: Market, party: Party, daemon: Daemon) -> None:
        self.market, self.party, self.daemon = market, party, daemon
        self.offers: list[sessions_pb2.JobOffer] = []

    async def answer(
        self, text: str | None = None, seconds: float = 2, tokens: int = 40, thinks: float = 0, **report: Any
    ) -> None:
        """Runs the job that it is offered; by default it answers honestly."""
        offer = await self.daemon.expect("job_offer")
        self.offers.append(offer)
        await self.daemon.start(offer.lease)
        self.market.clock.advance(thinks)
        said = honest(prompt_of(offer)) if text is None else text
        if said:
            await self.daemon.output(offer.lease, 1, answer_to(offer, said))
        await self.daemon.heard_nothing()
        self.market.clock.advance(seconds)
        usage = jobs_pb2.Usage(prompt_tokens=9, completion_tokens=tokens)
        await self.daemon.finished(
            offer.lease, seconds=seconds, last_output_seq=int(bool(said)), usage=usage, **report
        )

    async def found(self) -> list[Canary]:
        """Its canaries, oldest first."""
        return (await self.market.sql(lambda: canaries.of_provider(self.party.id, 100)))[::-1]

    async def is_asked(self) -> bool:
        """Whether a canary of it has not ended."""
        return CanaryVerdict.PENDING in await self.verdicts()

    async def judged(self) -> set[CanaryVerdict]:
        """What those of its canaries say that say something."""
        return {PASSED, FAILED}.intersection(await self.verdicts())

    async def verdicts(self) -> list[CanaryVerdict]:
        return [canary.verdict for canary in await self.found()]


async def machine(market: Market, **hello: Any) -> Machine:
    party = await market.provider()
    return Machine(market, party, await market.daemon(party, **hello))


async def three(market: Market, texts: tuple[str | None, ...], **answer: Any) -> list[Machine]:
    """Machines that got the same question and answered it, and were judged."""
    machines = [await machine(market) for _ in texts]
    await market.check()
    for each, text in zip(machines, texts, strict=True):
        await each.answer(text, **answer)
    await market.check()
    return machines


async def until_checked(market: Market, each: Machine) -> None:
    """Lets the time pass until the provider gets its next canary."""
    before = len(await each.found())
    for _ in range(5_000):
        market.clock.advance(1800)
        await each.daemon.heartbeat()
        await market.check()
        if len(await each.found()) > before:
            return
    raise AssertionError("no canary came")


async def test_new_providers_are_asked_the_same_and_honest_ones_pass(checked: Market) -> None:
    machines = await three(checked, (None, None))
    assert [await each.verdicts() for each in machines] == [[PASSED], [PASSED]]
    first, second = [await each.found() for each in machines]
    assert first[0].question == second[0].question
    assert (first[0].figure, first[0].tokens_per_second) == (1, 20)
    await checked.assert_money_adds_up()


async def test_first_token_of_a_check_is_timed_from_the_offer_to_the_first_output(checked: Market) -> None:
    first, second = [await machine(checked) for _ in range(2)]
    await checked.check()
    await first.answer(thinks=0.5)
    await second.answer(thinks=1.5)
    await checked.check()
    renter = await checked.renter()
    asked = renters_pb2.ListAvailableProvidersRequest(model=running_server.MODEL)
    listed = await checked.renter_service.ListAvailableProviders(asked)
    prices = [price for each in listed.providers for price in each.prices if price.model]
    # The second waited while the first answered, and both after the offer came.
    assert [price.first_token_ms for price in prices] == [500, 500 + 2000 + 1500]
    params = jobs_pb2.JobParams(model=running_server.MODEL, prompt="x", max_tokens=9)
    request = jobs_pb2.QuoteJobRequest(job_type=jobs_pb2.JOB_TYPE_LLM_INFERENCE, params=params)
    quoted = await checked.job_service.QuoteJob(request, metadata=renter.metadata)
    shown = {each.provider_id: each.first_token_ms for each in quoted.providers}
    assert shown == {first.party.id: 500, second.party.id: 4000}


def logprobs(shift: float = 0) -> list[sessions_pb2.TokenLogprob]:
    """How likely the tokens of an answer were."""
    return [sessions_pb2.TokenLogprob(token=word, logprob=-n / 9 - shift) for n, word in enumerate(WORDS)]


async def kept(each: Machine) -> Logprobs:
    """The probabilities that are stored of the first job of a machine."""
    job = await each.market.sql(lambda: jobs.get(each.offers[0].lease.job_id))
    assert job is not None
    return job.logprobs


async def until_judged(market: Market, last: Machine, reports: dict[Machine, dict[str, Any]]) -> None:
    """Lets machines answer their canaries with these reports until one of them was judged."""
    for _ in range(60):
        await market.check()
        for each, report in reports.items():
            if await each.is_asked():
                await each.answer(**report)
                await each.daemon.heard_nothing()
        if await last.judged():
            return
        market.clock.advance(1800)
        for each in reports:
            await each.daemon.heartbeat()


async def test_copied_text_whose_probabilities_are_invented_fails(checked: Market) -> None:
    """The probabilities are those of the model; the text can be had from somebody else."""
    one, other, copier = [await machine(checked) for _ in range(3)]
    shifts = {one: 0.0, other: 0.01, copier: 2.0}
    reports = {each: {"logprobs": logprobs(shift)} for each, shift in shifts.items()}
    await until_judged(checked, copier, reports)
    assert await copier.judged() == {FAILED}
    assert [await each.judged() for each in (one, other)] == [{PASSED}, {PASSED}]


async def test_provider_that_counts_more_tokens_than_others_in_the_same_text_fails(checked: Market) -> None:
    """Tokens are paid for by the provider's own count, up to the bytes of the text: a check compares it."""
    one, other, inflated = [await machine(checked) for _ in range(3)]
    tokens = {one: 40, other: 41, inflated: 48}
    await until_judged(checked, inflated, {each: {"tokens": count} for each, count in tokens.items()})
    assert await inflated.judged() == {FAILED}
    assert CanaryFault.TOKENS_IMPOSSIBLE in {canary.fault for canary in await inflated.found()}
    assert [await each.judged() for each in (one, other)] == [{PASSED}, {PASSED}]


@pytest.mark.parametrize(
    "untrue",
    [
        [sessions_pb2.TokenLogprob(token="a", logprob=0.5)],
        [sessions_pb2.TokenLogprob(token="a", logprob=float("nan"))],
        [sessions_pb2.TokenLogprob(token="a", logprob=float("-inf"))],
        [sessions_pb2.TokenLogprob(token="a" * 101, logprob=-1)],
        [sessions_pb2.TokenLogprob(token="a", logprob=-1)] * 65,
    ],
)
async def test_probabilities_that_cannot_be_are_dropped_and_the_result_counts(
    checked: Market, untrue: list[sessions_pb2.TokenLogprob]
) -> None:
    one, other = await machine(checked), await machine(checked)
    await checked.check()
    await one.answer(logprobs=untrue)
    await other.answer(logprobs=logprobs())
    await checked.check()
    assert [await each.verdicts() for each in (one, other)] == [[PASSED], [PASSED]]
    assert [len(await kept(each)) for each in (one, other)] == [0, len(WORDS)]


async def test_probabilities_are_kept_of_the_markets_own_jobs_alone(market: Market) -> None:
    renter = await market.renter(1000)
    each = await machine(market)
    job = await market.submit(renter)
    await each.answer(logprobs=logprobs())
    assert (await market.job(job)).status == jobs_pb2.JOB_STATE_COMPLETED
    assert await kept(each) == ()


async def rounds(market: Market, texts: dict[Machine, list[str]]) -> None:
    """Lets machines answer their canaries, those that are listed with these texts, until nobody is asked."""
    for _ in range(30):
        await market.check()
        for each, answers in texts.items():
            if await each.is_asked():
                await each.answer(answers.pop(0) if answers else None)
                await each.daemon.heard_nothing()


def nonsense(number: int) -> str:
    """A text that answers nothing, another one each time."""
    return f"{number} " + " ".join(f"{honest(f'{number}-{n}')}" for n in range(2))


async def test_answers_to_nothing_fail_the_first_canaries_beside_honest_ones(checked: Market) -> None:
    one, liar, other = [await machine(checked) for _ in range(3)]
    await rounds(checked, {one: [], liar: [nonsense(n) for n in range(20)], other: []})
    verdicts = await liar.verdicts()
    unlike = [CanaryVerdict.UNDECIDED, CanaryVerdict.UNDECIDED, FAILED]
    assert verdicts[:6] == 2 * unlike
    assert len(verdicts) <= rules.AT_FIRST_IN_DOUBT  # it is suspect, and no longer asked at once
    for honest_one in (one, other):
        assert await honest_one.judged() == {PASSED}
    last = (await liar.found())[5]
    assert last.fault is CanaryFault.ANSWER_DIFFERS
    assert last.figure is not None
    assert last.figure < 0.1


async def test_no_answer_fails_without_any_other_provider(checked: Market) -> None:
    (silent,) = await three(checked, ("",))
    canary = (await silent.found())[0]
    assert (canary.verdict, canary.fault) == (FAILED, CanaryFault.NO_ANSWER)


async def test_run_that_never_ends_fails(checked: Market) -> None:
    silent = await machine(checked)
    await checked.check()
    offer = await silent.daemon.expect("job_offer")
    await silent.daemon.start(offer.lease)
    await silent.daemon.heard_nothing()
    for _ in range(offer.run_limit.ToSeconds() // 60 + 1):
        checked.clock.advance(60)
        await silent.daemon.heartbeat()
    await checked.tick()
    await checked.check()
    canary = (await silent.found())[0]
    assert (canary.verdict, canary.fault) == (FAILED, CanaryFault.NO_ANSWER)


async def test_two_that_differ_wait_for_a_third(checked: Market) -> None:
    one, liar = await three(checked, (None, nonsense(1)))
    assert [(await each.verdicts())[0] for each in (one, liar)] == [WAITING, WAITING]
    third = await machine(checked)
    await rounds(checked, {one: [], liar: [nonsense(n) for n in range(2, 20)], third: []})
    assert await one.judged() == await third.judged() == {PASSED}
    assert await liar.judged() == {FAILED}


async def test_wait_ends_and_then_tells_nothing(checked: Market) -> None:
    (alone,) = await three(checked, (None,))
    assert (await alone.verdicts())[0] is WAITING
    checked.clock.advance(4 * DAY)
    await checked.check()
    assert (await alone.verdicts())[0] is CanaryVerdict.UNDECIDED
    assert await checked.sql(lambda: canaries.newest([alone.party.id])) == {alone.party.id: ()}


async def test_same_answer_to_different_questions_fails_without_any_other_provider(checked: Market) -> None:
    liar = await machine(checked)
    await rounds(checked, {liar: [FILLER, FILLER]})
    assert (await liar.verdicts())[:2] == [WAITING, FAILED]
    first, second = liar.offers[:2]
    assert prompt_of(first) != prompt_of(second)


async def test_provider_that_is_far_slower_than_others_with_its_gpu_fails(checked: Market) -> None:
    machines = [await machine(checked) for _ in range(3)]
    for each in machines:
        await checked.set_provider(each.party, gpu_model="RTX 4090")
    await checked.check()
    for each, seconds in zip(machines, (1.0, 1.2, 9.0), strict=True):
        await each.answer(seconds=seconds)
    await checked.check()
    found = [(canary.verdict, canary.fault) for each in machines for canary in (await each.found())[:1]]
    assert found == [(PASSED, None), (PASSED, None), (FAILED, CanaryFault.TOO_SLOW)]


async def test_count_that_cannot_belong_to_the_answer_fails(checked: Market) -> None:
    (liar,) = await three(checked, (None,), tokens=1)
    canary = (await liar.found())[0]
    assert (canary.verdict, canary.fault) == (FAILED, CanaryFault.TOKENS_IMPOSSIBLE)


async def test_results_are_listed_oldest_first_and_counted(checked: Market) -> None:
    one, silent = await three(checked, (None, ""))
    await rounds(checked, {one: [], silent: [""] * 9})
    ids = [one.party.id, silent.party.id, 999]
    newest = await checked.sql(lambda: canaries.newest(ids))
    assert newest[ids[1]][:2] == (False, False)
    assert not any(newest[ids[1]])
    assert newest[999] == ()
    assert await checked.sql(lambda: canaries.newest(ids, 1)) | {ids[0]: ()} == {
        ids[0]: (),
        ids[1]: (False,),
        999: (),
    }
    assert await checked.sql(lambda: canaries.passed(ids)) == {ids[0]: len(newest[ids[0]]), ids[1]: 0, 999: 0}


@pytest.mark.parametrize("is_chat", [False, True])
async def test_daemon_cannot_tell_a_canary_from_a_renters_job(
    checked: Market, is_chat: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The offer has the same fields as that of a renter who asks for no randomness."""
    monkeypatch.setattr("server.services.canaries.Shape", lambda most, long, _: Shape(most, long, is_chat))
    provider, _ = await three(checked, (None, None))
    canary = provider.offers[0]
    assert bool(canary.chat_request) is is_chat
    renter = await checked.renter()
    if is_chat:
        job = await checked.chat(
            renter, canary.chat_request, model=canary.params.model, max_tokens=canary.params.max_tokens
        )
    else:
        job = await checked.submit(
            renter,
            provider.party,
            params=canary.params,
            duration_minutes=canary.run_limit.ToSeconds() / 60,
        )
    await provider.answer()
    theirs = provider.offers[1]
    assert theirs.lease.job_id == job.job_id
    assert [len(offer.lease.job_id) for offer in provider.offers] == [len(job.job_id)] * 2
    for offer in (canary, theirs):
        offer.ClearField("lease")
    assert canary == theirs


async def test_providers_view_of_its_jobs_does_not_name_the_renter(checked: Market) -> None:
    provider, _ = await three(checked, (None, None))
    renter = await checked.renter()
    await checked.submit(renter, provider.party)
    await provider.answer()
    listed = await checked.job_service.ListProviderJobs(
        jobs_pb2.ListProviderJobsRequest(), metadata=provider.party.metadata
    )
    shown = [
        (
            await checked.job_service.GetJob(
                jobs_pb2.GetJobRequest(job_id=job.job_id), metadata=provider.party.metadata
            )
        ).job
        for job in listed.jobs
    ]
    assert [job.renter_id for job in (*listed.jobs, *shown)] == [0] * 4
    others, canary = (MessageToDict(job).keys() for job in listed.jobs)
    assert others == canary


async def test_market_pays_and_the_provider_earns_as_with_any_job(checked: Market) -> None:
    (provider,) = await three(checked, (None,), seconds=60)
    assert await checked.earned(provider.party) > 0
    await checked.assert_money_adds_up()


async def test_markets_renters_are_nobody(checked: Market) -> None:
    """No key, and in none of the operator's figures of renters."""
    await three(checked, (None, None))
    renter = await checked.renter()
    own = await checked.sql(lambda: [row.id for row in Renter.select().where(Renter.is_market)])
    assert own
    assert await checked.sql(
        lambda: [key.owner_id for key in ApiKey.select().where(ApiKey.role == "renter")]
    ) == [renter.id]
    listed = await checked.operation_service.ListRenters(
        operations_pb2.ListRentersRequest(), metadata=checked.admin_metadata
    )
    assert [entry.id for entry in listed.renters] == [renter.id]
    board = await checked.admin_service.GetDashboard(
        admin_pb2.GetDashboardRequest(), metadata=checked.admin_metadata
    )
    assert board.stats.total_renters == 1
    assert [signup.id for signup in board.recent_signups if signup.role == "renter"] == [renter.id]


async def test_market_without_canaries_checks_nobody(market: Market) -> None:
    provider = await machine(market)
    await market.check()
    await provider.daemon.heard_nothing()
    assert await provider.found() == []


async def test_gpu_is_claimed_until_a_check_passed(checked: Market) -> None:
    one = await machine(checked, gpu_status=gpu_status("GPU-a"))
    other = await machine(checked, gpu_status=gpu_status("GPU-b"))
    unproved = (honesty_pb2.VERDICT_CLAIMED, ["NOT_CHECKED", "NOT_PROVED"])
    assert await verdict(checked, one.party) == unproved
    await checked.check()
    await one.answer()
    await other.answer()
    await checked.check()
    checked.clock.advance(60)
    await one.daemon.heartbeat(gpu_status=gpu_status("GPU-a"))
    assert await verdict(checked, one.party) == (honesty_pb2.VERDICT_CLAIMED, ["NOT_PROVED"])


async def test_computation_in_a_container_has_a_known_result(checked: Market) -> None:
    kinds = {"job_types": [jobs_pb2.JOB_TYPE_CUSTOM_CONTAINER], "models": []}
    images = sessions_pb2.AllowedImages(patterns=["docker.io/library/busybox"])
    right, wrong = [await machine(checked, images=images, **kinds) for _ in range(2)]
    barred = await machine(checked, images=sessions_pb2.AllowedImages(patterns=["ghcr.io/acme/*"]), **kinds)
    await checked.check()
    await right.answer(rules.computed((await right.found())[0].question) + "\n", tokens=0)
    await wrong.answer("0" * 64, tokens=0)
    await barred.daemon.heard_nothing()
    async with asyncio.timeout(running_server.HANG_SECONDS):
        while len(await wrong.found()) < 2:  # it is asked again once its slot is known to be free
            await checked.check()
    assert await right.verdicts() == [PASSED]
    assert [canary.fault for canary in await wrong.found()] == [CanaryFault.ANSWER_DIFFERS, None]
    assert await barred.found() == []


async def test_dispute_shows_the_checks_near_its_job(checked: Market) -> None:
    (liar,) = await three(checked, ("",))
    await rounds(checked, {liar: [""]})
    renter = await checked.renter()
    job = await checked.submit(renter, liar.party)
    await liar.answer(FILLER, seconds=60)
    opened = await checked.dispute_service.OpenDispute(
        disputes_pb2.OpenDisputeRequest(job_id=job.job_id, reason="No answer at all."),
        metadata=renter.metadata,
    )
    evidence = await checked.dispute_service.GetDispute(
        disputes_pb2.GetDisputeRequest(dispute_id=opened.dispute.id), metadata=checked.admin_metadata
    )
    assert len(evidence.provider.canaries) == 2
    shown = evidence.provider.canaries[0]
    assert shown.job_id == (await liar.found())[-1].job_id
    assert (shown.kind, shown.verdict, shown.fault) == (
        canaries_pb2.CANARY_KIND_ANSWER,
        canaries_pb2.CANARY_VERDICT_FAILED,
        canaries_pb2.CANARY_FAULT_NO_ANSWER,
    )


async def test_duty_walks_through_no_table(checked: Market, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither through those that grow with jobs, nor through all canaries or all renters."""
    monkeypatch.setattr(plans, "GROWING", plans.GROWING | {"canary", "renter"})
    monkeypatch.setattr(
        plans, "OF_THE_OPEN", plans.OF_THE_OPEN | {"canary_pending", "canary_waiting", "renter_market"}
    )
    one, liar = [await machine(checked) for _ in range(2)]
    database = checked.server._database
    with plans.recorded(database, monkeypatch) as statements:
        await rounds(checked, {one: [], liar: [nonsense(n) for n in range(9)]})
    assert len(statements) > 50
    assert await plans.walks(database, statements) == {}

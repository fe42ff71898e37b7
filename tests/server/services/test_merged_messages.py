"""Merged messages at the server: the acceptance with the start, and the result with the last output."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from dcp.v1 import jobs_pb2, sessions_pb2
from google.protobuf.message import Message

from server.domain.leases import MARKER_BYTES, MAX_CHUNK_BYTES
from server.domain.sessions import MAX_RESENDS
from server.store.models import Lease
from tests.support import running_server
from tests.support.manual_clock import ManualClock
from tests.support.running_server import Daemon, Market, Party

STOP = sessions_pb2.LEASE_ACTION_STOP_AND_DISCARD
RESEND = sessions_pb2.LEASE_ACTION_RESEND
ACCEPTED = sessions_pb2.RESULT_DISPOSITION_ACCEPTED
SUCCEEDED = sessions_pb2.RUN_OUTCOME_SUCCEEDED
RELEASED = sessions_pb2.RUN_OUTCOME_RELEASED
ALREADY = sessions_pb2.RESULT_DISPOSITION_ALREADY
SMALL = 100


@pytest.fixture
async def small_outputs(sqlite_url: str, clock: ManualClock) -> AsyncIterator[Market]:
    """A server whose jobs may write SMALL bytes."""
    async with running_server.running(sqlite_url, clock, max_output_bytes=SMALL) as market:
        yield market


async def started_job(
    market: Market, renter: Party, provider: Party, daemon: Daemon
) -> tuple[jobs_pb2.Job, sessions_pb2.Lease]:
    """A job whose acceptance said its start too."""
    job = await market.submit(renter, provider)
    lease = (await daemon.expect("job_offer")).lease
    daemon.held.append(lease)
    await daemon.say(offer_reply=sessions_pb2.OfferReply(lease=lease, accepted=True, started=True))
    await daemon.heard_nothing()
    return job, lease


async def test_welcome_says_that_merged_messages_are_taken(market: Market) -> None:
    assert (await market.connect(await market.provider()).hello()).takes_merged_messages


async def test_job_of_merged_messages_is_billed_from_its_start_to_its_result(any_market: Market) -> None:
    market = any_market
    provider, renter = await market.provider(), await market.renter()
    daemon = await market.daemon(provider)
    job, lease = await started_job(market, renter, provider, daemon)
    running = await market.job(job)
    assert (running.status, running.attempt) == (jobs_pb2.JOB_STATE_RUNNING, 1)
    market.clock.advance(75)
    # An inference without output is free; this one's only output comes with its result.
    answer = await daemon.finished(lease, seconds=75, last_output_seq=1, last_output=b"Hello")
    assert answer == ACCEPTED
    assert (await market.output(job, renter)).response == "Hello"
    assert await market.wallet(renter) == (5000 - 188, 0)
    assert await market.earned(provider) == 141
    await market.assert_money_adds_up()


async def test_result_that_is_repeated_with_its_output_is_stored_and_billed_once(market: Market) -> None:
    provider, renter = await market.provider(), await market.renter()
    daemon = await market.daemon(provider)
    job, lease = await started_job(market, renter, provider, daemon)
    await daemon.output(lease, 1, b"Hel")
    market.clock.advance(60)
    assert await daemon.finished(lease, seconds=60, last_output_seq=2, last_output=b"lo") == ACCEPTED
    daemon.cut()
    again = await market.daemon(provider, unacknowledged_results=[lease])
    # A daemon that lost the acknowledgement may repeat it in either form.
    assert await again.finished(lease, seconds=60, last_output_seq=2, last_output=b"lo") == ALREADY
    assert await again.finished(lease, seconds=60, last_output_seq=2) == ALREADY
    assert (await market.output(job, renter)).response == "Hello"
    assert await market.wallet(renter) == (5000 - 150, 0)
    await market.assert_money_adds_up()


async def test_last_output_that_was_stored_already_is_not_stored_twice(market: Market) -> None:
    provider, renter = await market.provider(), await market.renter()
    daemon = await market.daemon(provider)
    job, lease = await started_job(market, renter, provider, daemon)
    await daemon.output(lease, 1, b"Hello")
    assert await daemon.finished(lease, last_output_seq=1, last_output=b"Hello") == ACCEPTED
    assert (await market.output(job, renter)).response == "Hello"


async def test_result_with_a_gap_before_its_output_asks_for_what_is_missing(market: Market) -> None:
    provider, renter = await market.provider(), await market.renter()
    daemon = await market.daemon(provider)
    job, lease = await started_job(market, renter, provider, daemon)
    await daemon.finish(lease, last_output_seq=2, last_output=b"lo")
    directive = await daemon.expect("lease_directive")
    assert (directive.action, directive.output_through_seq) == (RESEND, 0)
    await daemon.output(lease, 1, b"Hel")
    assert await daemon.finished(lease, last_output_seq=2, last_output=b"lo") == ACCEPTED
    assert (await market.output(job, renter)).response == "Hello"


async def test_result_with_output_counts_whichever_session_sends_it(market: Market) -> None:
    provider, renter = await market.provider(), await market.renter()
    old = await market.daemon(provider)
    job, lease = await started_job(market, renter, provider, old)
    # The result arrives by a session that does not hold the lease, as after a late Hello.
    await market.sql(lambda: Lease.update(session_epoch=7).where(Lease.job_id == job.job_id).execute())
    await old.finish(lease, last_output_seq=1, last_output=b"Hello")
    assert (await old.expect("result_ack")).disposition == ACCEPTED
    assert (await market.output(job, renter)).response == "Hello"


async def test_acceptance_that_repeats_with_the_start_starts_the_run_once(market: Market) -> None:
    provider, renter = await market.provider(), await market.renter()
    daemon = await market.daemon(provider)
    job = await market.submit(renter, provider)
    lease = (await daemon.expect("job_offer")).lease
    await daemon.accept(lease)
    for _ in range(2):
        await daemon.say(offer_reply=sessions_pb2.OfferReply(lease=lease, accepted=True, started=True))
    await daemon.heard_nothing()
    running = await market.job(job)
    assert (running.status, running.attempt) == (jobs_pb2.JOB_STATE_RUNNING, 1)


async def test_acceptance_with_the_start_of_an_offer_that_is_over_is_stale(market: Market) -> None:
    provider, renter = await market.provider(), await market.renter()
    daemon = await market.daemon(provider)
    job = await market.submit(renter, provider)
    lease = (await daemon.expect("job_offer")).lease
    await market.cancel(job, renter)
    await daemon.expect("cancel_run")
    await daemon.say(offer_reply=sessions_pb2.OfferReply(lease=lease, accepted=True, started=True))
    assert (await daemon.expect("lease_directive")).action == STOP
    assert (await market.job(job)).status == jobs_pb2.JOB_STATE_CANCELLED
    assert await market.wallet(renter) == (5000, 0)


@pytest.mark.parametrize(
    ("data", "seq"), [(b"x" * (MAX_CHUNK_BYTES + 1), 1), (b"x", 0), (b"x", -1)], ids=["size", "0", "-1"]
)
async def test_last_output_that_breaks_the_rules_ends_its_lease(
    market: Market, data: bytes, seq: int
) -> None:
    provider, renter = await market.provider(), await market.renter()
    daemon = await market.daemon(provider)
    job, lease = await started_job(market, renter, provider, daemon)
    await daemon.finish(lease, last_output_seq=seq, last_output=data)
    assert (await daemon.expect("lease_directive")).action == STOP
    assert (await market.job(job)).attempt == 1
    assert (await daemon.expect("job_offer")).lease.lease_epoch == 2


async def test_last_output_before_the_start_ends_its_lease(market: Market) -> None:
    provider, renter = await market.provider(), await market.renter()
    daemon = await market.daemon(provider)
    await market.submit(renter, provider)
    lease = (await daemon.expect("job_offer")).lease
    await daemon.accept(lease)
    await daemon.finish(lease, last_output_seq=1, last_output=b"x")
    assert (await daemon.expect("lease_directive")).action == STOP


async def test_last_output_obeys_the_limit_of_the_output(small_outputs: Market) -> None:
    market = small_outputs
    provider, renter = await market.provider(), await market.renter()
    daemon = await market.daemon(provider)
    job, lease = await started_job(market, renter, provider, daemon)
    room = SMALL + MARKER_BYTES
    await daemon.output(lease, 1, b"x" * (room - 1))
    await daemon.finish(lease, last_output_seq=2, last_output=b"yy")
    assert (await daemon.expect("lease_directive")).action == STOP
    second = (await daemon.expect("job_offer")).lease
    daemon.held.append(second)
    await daemon.say(offer_reply=sessions_pb2.OfferReply(lease=second, accepted=True, started=True))
    await daemon.output(second, 1, b"x" * (room - 1))
    assert await daemon.finished(second, last_output_seq=2, last_output=b"y") == ACCEPTED
    assert len((await market.output(job, renter)).response) == room


async def test_too_much_last_output_of_a_lease_that_the_session_does_not_hold_is_not_stored(
    small_outputs: Market,
) -> None:
    market = small_outputs
    provider, renter = await market.provider(), await market.renter()
    daemon = await market.daemon(provider)
    _, lease = await started_job(market, renter, provider, daemon)
    (presence,) = market.server.services.fleet.all()
    session = presence.send.__self__  # type: ignore[attr-defined]
    held = session._protocol._held.popitem()
    for _ in range(MAX_RESENDS):
        await daemon.finish(lease, last_output_seq=1, last_output=b"x" * (SMALL + MARKER_BYTES + 1))
        directive = await daemon.expect("lease_directive")
        assert (directive.action, directive.output_through_seq) == (RESEND, 0)
    session._protocol._held[held[0]] = held[1]
    assert await daemon.finished(lease, last_output_seq=1, last_output=b"x") == ACCEPTED


@pytest.mark.parametrize(
    "message",
    [
        {"job_started": sessions_pb2.JobStarted()},
        {"output_chunk": sessions_pb2.OutputChunk(seq=1, data=b"x")},
        {"job_finished": sessions_pb2.JobFinished(outcome=SUCCEEDED, last_output_seq=1, last_output=b"x")},
        {"job_finished": sessions_pb2.JobFinished(outcome=RELEASED)},
        {"job_finished": sessions_pb2.JobFinished(outcome=77)},  # type: ignore[arg-type]
    ],
    ids=["start", "output", "last output", "release", "unknown outcome"],
)
async def test_offer_that_is_not_answered_as_it_must_be_goes_to_another_provider(
    any_market: Market, message: dict[str, Message]
) -> None:
    """The daemon would get it again at once, hundreds of times a second, and nobody else would get it."""
    market = any_market
    provider, other, renter = await market.provider(), await market.provider(), await market.renter()
    daemon = await market.daemon(provider)
    job = await market.submit(renter)
    second = await market.daemon(other)
    ((kind, body),) = message.items()
    answer = type(body)()
    answer.CopyFrom(body)
    answer.lease.CopyFrom((await daemon.expect("job_offer")).lease)  # type: ignore[attr-defined]
    await daemon.say(**{kind: answer})
    await daemon.hear()
    await daemon.heard_nothing()
    await market.tick()
    assert (await second.expect("job_offer")).lease.job_id == job.job_id
    assert (await market.job(job)).attempt == 0, "it was not an attempt"
    await market.assert_money_adds_up()

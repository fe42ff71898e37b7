"""Sessions over real gRPC: reconnects, superseded sessions, stale and repeated messages, foreign leases."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import grpc
import pytest
from dcp.v1 import gpus_pb2, jobs_pb2, providers_pb2, sessions_pb2

from server.domain.errors import DomainError
from server.domain.gpus import GpuReport
from server.domain.jobs import JobType
from server.domain.leases import MAX_ATTEMPTS, Channel, FinishReport, LeaseRef, RunOutcome
from server.domain.messages import (
    Chunk,
    Finished,
    Heartbeat,
    HeartbeatAck,
    Hello,
    Reconnect,
    ServerMessage,
    Started,
    Welcome,
)
from server.domain.placement import Model
from server.domain.sessions import MAX_RESENDS
from server.services.sessions import HELLOS_AT_ONCE, Session
from server.services.stream_outbox import Outbox
from server.store import leases, providers
from server.store.models import Lease, Provider
from tests.support import databases, running_server
from tests.support.databases import execute
from tests.support.manual_clock import ManualClock
from tests.support.running_server import HANG_SECONDS, MODEL, Market, Party, Refusal, read_refusal, refusal

KEEP = sessions_pb2.LEASE_ACTION_KEEP
STOP = sessions_pb2.LEASE_ACTION_STOP_AND_DISCARD
RESEND = sessions_pb2.LEASE_ACTION_RESEND
ACCEPTED = sessions_pb2.RESULT_DISPOSITION_ACCEPTED
ALREADY = sessions_pb2.RESULT_DISPOSITION_ALREADY
STALE = sessions_pb2.RESULT_DISPOSITION_STALE
HELLO = Hello("boot", "1.0", 1, GpuReport(), (), frozenset({JobType.LLM_INFERENCE}), 1)


async def test_welcome_says_what_the_daemon_must_know(market: Market) -> None:
    provider = await market.provider()
    welcome = await market.connect(provider).hello()
    assert (welcome.session_epoch, welcome.provider_id) == (1, provider.id)
    assert welcome.heartbeat_interval.ToMilliseconds() == 10_000
    assert welcome.lost_after.ToMilliseconds() == 300_000
    assert welcome.chunk_credit > 0
    assert (await market.connect(provider).hello()).session_epoch == 2


@pytest.mark.parametrize(
    "first",
    [
        {"heartbeat": sessions_pb2.SessionHeartbeat(sequence=1)},
        {"goodbye": sessions_pb2.Goodbye()},
        {"hello": sessions_pb2.Hello(boot_id="b", protocol_version=2)},
        {"hello": sessions_pb2.Hello(boot_id="b", protocol_version=1, slots=-1)},
        {},
    ],
)
async def test_stream_that_does_not_begin_with_a_valid_hello_ends(
    market: Market, first: dict[str, object]
) -> None:
    daemon = market.connect(await market.provider())
    await daemon.say(**first)
    ended = await daemon.ended()
    assert isinstance(ended, Refusal)
    assert (ended.code, ended.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "PROTOCOL_VIOLATION")


async def test_stream_without_a_hello_ends_after_its_time_limit(market: Market) -> None:
    session = market.server.services.streams.new(1)
    session.expect_hello()
    assert session.outbox.get_nowait() is None


async def test_stream_with_a_session_is_not_ended_by_the_time_limit_for_hello(market: Market) -> None:
    daemon = await market.daemon(await market.provider())
    (presence,) = market.server.services.fleet.all()
    presence.send.__self__.expect_hello()  # type: ignore[attr-defined]
    await daemon.heard_nothing()


@contextmanager
def blocked_writes(market: Market) -> Iterator[None]:
    """Blocks all writes of the database until the block ends."""
    go_on = threading.Event()
    blocked = asyncio.ensure_future(market.sql(go_on.wait))
    try:
        yield
    finally:
        go_on.set()
        assert not blocked.cancelled()


async def next_message(session: Session) -> ServerMessage | None:
    """The next message of a session that no stream reads."""
    async with asyncio.timeout(HANG_SECONDS):
        while session.outbox.empty():
            await asyncio.sleep(0.001)
    return session.outbox.get_nowait()


async def test_hello_in_time_may_wait_for_the_server(market: Market) -> None:
    session = market.server.services.streams.new((await market.provider()).id)
    with blocked_writes(market):
        opening = asyncio.create_task(session.handle(HELLO))
        await asyncio.sleep(0)
        session.expect_hello()
    await opening
    assert isinstance(await next_message(session), Welcome)


async def test_hellos_of_a_fleet_do_not_fill_the_databases_queue(market: Market) -> None:
    streams = market.server.services.streams
    providers = [await market.provider() for _ in range(HELLOS_AT_ONCE + 10)]
    fleet = [streams.new(provider.id) for provider in providers]
    broken = fleet[-1]
    with blocked_writes(market):
        opening = [asyncio.create_task(session.handle(HELLO)) for session in fleet]
        await asyncio.sleep(0.05)
        writer = market.server._database._writer
        assert writer is not None
        assert writer._queue.qsize() <= HELLOS_AT_ONCE
        opening[-1].cancel()  # its stream broke while it waited: the server opens no session for it
    await asyncio.gather(*opening, return_exceptions=True)
    for session in fleet[:-1]:
        assert isinstance(await next_message(session), Welcome)
    assert broken.outbox.empty()
    epoch = await market.sql(lambda: Provider.get_by_id(broken.provider_id).session_epoch)
    assert epoch == 0


async def test_goodbye_ends_the_session(market: Market) -> None:
    provider = await market.provider()
    daemon = await market.daemon(provider)
    await daemon.say(goodbye=sessions_pb2.Goodbye())
    assert await daemon.ended() is None


@pytest.mark.parametrize(
    ("state", "reason"),
    [("suspended", "PROVIDER_SUSPENDED"), ("pending_approval", "PROVIDER_NOT_APPROVED")],
)
async def test_suspended_or_unapproved_provider_gets_no_session(
    market: Market, state: str, reason: str
) -> None:
    provider = await market.provider()
    await market.set_provider(provider, state=state)
    daemon = market.connect(provider)
    await daemon.say(hello=sessions_pb2.Hello(boot_id="b", protocol_version=1))
    ended = await daemon.ended()
    assert isinstance(ended, Refusal)
    assert (ended.code, ended.reason) == (grpc.StatusCode.PERMISSION_DENIED, reason)
    beat = market.provider_service.Heartbeat(
        providers_pb2.HeartbeatRequest(gpu_status=gpus_pb2.GpuStatus()), metadata=provider.metadata
    )
    assert (await refusal(beat)).reason == reason


async def test_newer_session_supersedes_the_older(market: Market) -> None:
    provider, renter = await market.provider(), await market.renter()
    older = await market.daemon(provider)
    newer = await market.daemon(provider)
    assert (await older.expect("superseded")).by_session_epoch == 2
    assert await older.ended() is None
    await market.submit(renter, provider)
    await newer.expect("job_offer")


async def test_late_hello_of_the_same_process_asks_it_to_reconnect(market: Market) -> None:
    """The Hello came by a stream that the process had left, so the process is not superseded."""
    provider, renter = await market.provider(), await market.renter()
    living = await market.daemon(provider, boot_id="one")
    late = await market.daemon(provider, boot_id="one")
    await living.expect("reconnect")
    assert await living.ended() is None
    late.cut()
    back = await market.daemon(provider, boot_id="one")
    await market.submit(renter, provider)
    await back.expect("job_offer")


async def test_end_of_the_older_stream_leaves_the_newer_session_open(market: Market) -> None:
    provider, renter = await market.provider(), await market.renter()
    older = await market.daemon(provider)
    newer = await market.daemon(provider)
    await older.expect("superseded")
    older.cut()
    await newer.heartbeat()
    profile = await market.provider_service.GetOwnProvider(
        providers_pb2.GetOwnProviderRequest(), metadata=provider.metadata
    )
    assert profile.provider.connected
    await market.submit(renter, provider)
    await newer.expect("job_offer")


async def test_messages_of_a_superseded_session_change_nothing(market: Market) -> None:
    """The older session still exists in memory; its messages are refused by their session epoch."""
    provider, renter = await market.provider(), await market.renter()
    daemon = await market.daemon(provider)
    job = await market.submit(renter, provider)
    lease = (await daemon.expect("job_offer")).lease
    await daemon.accept(lease)
    await daemon.heard_nothing()
    (presence,) = market.server.services.fleet.all()
    older = presence.send.__self__  # type: ignore[attr-defined]
    newer = market.connect(provider)
    await newer.hello(held_leases=[lease])
    assert (await newer.expect("lease_directive")).action == KEEP
    ref = LeaseRef(lease.job_id, lease.lease_epoch, lease.lease_secret)
    before = await market.job(job)
    await older.handle(Started(ref))
    await older.handle(Chunk(ref, Channel.LOG, 1, b"x"))
    assert await market.job(job) == before
    await newer.say(job_started=sessions_pb2.JobStarted(lease=lease))
    await newer.heard_nothing()
    assert (await market.job(job)).status == jobs_pb2.JOB_STATE_RUNNING


async def test_older_session_of_a_moved_run_is_asked_to_reconnect(market: Market) -> None:
    """Its run is healthy: if the server called it stale, the daemon would discard it."""
    provider, renter = await market.provider(), await market.renter()
    daemon = await market.daemon(provider)
    job, lease = await market.running_job(renter, provider, daemon)
    ref = LeaseRef(lease.job_id, lease.lease_epoch, lease.lease_secret)
    (presence,) = market.server.services.fleet.all()
    older = presence.send.__self__  # type: ignore[attr-defined]
    newer = market.connect(provider)
    await newer.hello(held_leases=[lease])
    await newer.expect("lease_directive")
    older.outbox = Outbox()
    await older.handle(Chunk(ref, Channel.OUTPUT, 1, b"x"))
    assert older.outbox.get_nowait() == Reconnect(0.0, 0.0)
    assert older.outbox.get_nowait() is None
    assert (await newer.output(lease, 1, b"x")).output_through_seq == 1
    assert (await market.job(job)).status == jobs_pb2.JOB_STATE_RUNNING


async def test_result_counts_whichever_session_sends_it(market: Market) -> None:
    """A run has one result, and the lease's secret proves it, also after a newer session has opened."""
    provider, renter = await market.provider(), await market.renter()
    daemon = await market.daemon(provider)
    job, lease = await market.running_job(renter, provider, daemon)
    ref = LeaseRef(lease.job_id, lease.lease_epoch, lease.lease_secret)
    (presence,) = market.server.services.fleet.all()
    older = presence.send.__self__  # type: ignore[attr-defined]
    newer = market.connect(provider)
    await newer.hello(held_leases=[lease])
    await newer.expect("lease_directive")
    market.clock.advance(2)
    await older.handle(Finished(FinishReport(ref, RunOutcome.SUCCEEDED, 2000, 0)))
    assert (await market.job(job)).status == jobs_pb2.JOB_STATE_COMPLETED
    assert await newer.finished(lease, seconds=2) == ALREADY
    await market.assert_money_adds_up()


async def test_reconnect_keeps_the_run_and_bills_it_once(any_market: Market) -> None:
    market = any_market
    provider, renter = await market.provider(), await market.renter()
    daemon = await market.daemon(provider)
    job, lease = await market.running_job(renter, provider, daemon)
    await daemon.output(lease, 1, b"one ")
    daemon.cut()
    market.clock.advance(40)
    again = market.connect(provider)
    await again.hello(held_leases=[lease])
    directive = await again.expect("lease_directive")
    assert (directive.action, directive.output_through_seq) == (KEEP, 1)
    assert (await again.output(lease, 1, b"one ")).output_through_seq == 1
    await again.output(lease, 2, b"two")
    market.clock.advance(35)
    assert await again.finished(lease, seconds=75, last_output_seq=2) == ACCEPTED
    assert (await market.output(job, renter)).response == "one two"
    assert await market.wallet(renter) == (5000 - 188, 0)
    await market.assert_money_adds_up()


async def test_lease_missing_from_the_hello_is_lost_and_the_job_is_queued_again(market: Market) -> None:
    provider, renter = await market.provider(), await market.renter()
    daemon = await market.daemon(provider)
    job, lease = await market.running_job(renter, provider, daemon)
    daemon.cut()
    again = await market.daemon(provider)
    offer = await again.expect("job_offer")
    assert (offer.lease.job_id, offer.lease.lease_epoch, offer.attempt) == (job.job_id, 2, 2)
    assert offer.lease.lease_secret != lease.lease_secret
    assert await again.finished(lease) == STALE
    assert (await market.job(job)).status == jobs_pb2.JOB_STATE_PENDING


async def test_unknown_lease_in_the_hello_is_stopped_and_discarded(market: Market) -> None:
    provider = await market.provider()
    daemon = market.connect(provider)
    unknown = sessions_pb2.Lease(job_id="job-unknown", lease_epoch=3, lease_secret=b"s")
    await daemon.hello(held_leases=[unknown])
    directive = await daemon.expect("lease_directive")
    assert (directive.action, directive.lease) == (STOP, unknown)


async def test_lease_of_another_provider_is_refused_and_its_run_continues(market: Market) -> None:
    owner, thief, renter = await market.provider(), await market.provider(), await market.renter()
    daemon = await market.daemon(owner)
    job, lease = await market.running_job(renter, owner, daemon)
    other = market.connect(thief)
    await other.hello(held_leases=[lease], unacknowledged_results=[lease])
    assert (await other.expect("lease_directive")).action == STOP
    for kind in (
        {"offer_reply": sessions_pb2.OfferReply(lease=lease, accepted=True)},
        {"offer_reply": sessions_pb2.OfferReply(lease=lease)},
        {"job_started": sessions_pb2.JobStarted(lease=lease)},
        {"output_chunk": sessions_pb2.OutputChunk(lease=lease, seq=1, data=b"stolen")},
        {"log_chunk": sessions_pb2.LogChunk(lease=lease, seq=1, data=b"stolen")},
        {"job_started": sessions_pb2.JobStarted()},
    ):
        await other.say(**kind)
        assert (await other.expect("lease_directive")).action == STOP
    assert await other.finished(lease, seconds=60) == STALE
    assert (await market.job(job)).status == jobs_pb2.JOB_STATE_RUNNING
    await daemon.output(lease, 1, b"mine")
    assert await daemon.finished(lease, last_output_seq=1) == ACCEPTED
    assert (await market.output(job, renter)).response == "mine"
    assert await market.earned(thief) == 0


async def test_repeated_result_is_acknowledged_as_already_recorded(market: Market) -> None:
    provider, renter = await market.provider(), await market.renter()
    daemon = await market.daemon(provider)
    job, lease = await market.running_job(renter, provider, daemon, output=b"Hello.")
    market.clock.advance(75)
    assert await daemon.finished(lease, seconds=75) == ACCEPTED
    ended = await market.job(job)
    market.clock.advance(75)
    assert await daemon.finished(lease, seconds=75) == ALREADY
    daemon.cut()
    again = market.connect(provider)
    await again.hello(unacknowledged_results=[lease])
    assert await again.finished(lease, seconds=75) == ALREADY
    assert await market.job(job) == ended
    assert await market.earned(provider) == 141
    await market.assert_money_adds_up()


async def test_different_outcome_after_the_end_is_stale(market: Market) -> None:
    provider, renter = await market.provider(), await market.renter()
    daemon = await market.daemon(provider)
    job, lease = await market.running_job(renter, provider, daemon)
    await daemon.finished(lease)
    ended = await market.job(job)
    assert await daemon.finished(lease, outcome=sessions_pb2.RUN_OUTCOME_FAILED) == STALE
    assert await market.job(job) == ended


async def test_result_with_missing_output_asks_for_the_output(market: Market) -> None:
    provider, renter = await market.provider(), await market.renter()
    daemon = await market.daemon(provider)
    job, lease = await market.running_job(renter, provider, daemon)
    await daemon.output(lease, 1, b"one ")
    await daemon.finish(lease, last_output_seq=2)
    directive = await daemon.expect("lease_directive")
    assert (directive.action, directive.output_through_seq) == (RESEND, 1)
    assert (await market.job(job)).status == jobs_pb2.JOB_STATE_RUNNING
    await daemon.output(lease, 2, b"two")
    assert await daemon.finished(lease, last_output_seq=2) == ACCEPTED
    assert (await market.output(job, renter)).response == "one two"


async def test_unacknowledged_result_is_asked_for_again_after_a_reconnect(market: Market) -> None:
    provider, renter = await market.provider(), await market.renter()
    daemon = await market.daemon(provider)
    job, lease = await market.running_job(renter, provider, daemon)
    daemon.cut()
    again = market.connect(provider)
    await again.hello(unacknowledged_results=[lease])
    assert (await again.expect("lease_directive")).action == RESEND
    assert await again.finished(lease) == ACCEPTED
    assert (await market.job(job)).status == jobs_pb2.JOB_STATE_COMPLETED


@pytest.mark.parametrize("gap", [3, 0, -1])
async def test_gap_in_the_output_ends_only_its_lease(
    market: Market, caplog: pytest.LogCaptureFixture, gap: int
) -> None:
    provider, renter = await market.provider(), await market.renter()
    daemon = await market.daemon(provider, slots=2)
    job, lease = await market.running_job(renter, provider, daemon)
    other, other_lease = await market.running_job(renter, provider, daemon)
    await daemon.output(lease, 1, b"one")
    for seq in (gap, 4, 5):
        await daemon.say(output_chunk=sessions_pb2.OutputChunk(lease=lease, seq=seq, data=b"x"))
    directive = await daemon.expect("lease_directive")
    assert (directive.lease, directive.action) == (lease, STOP)
    daemon.held.remove(lease)
    again = await daemon.expect("job_offer")
    assert (again.lease.job_id, again.lease.lease_epoch, again.attempt) == (job.job_id, 2, 2)
    await daemon.start(again.lease)
    await daemon.output(again.lease, 1, b"anew")
    await daemon.finished(again.lease, last_output_seq=1)
    assert (await market.output(job, renter)).response == "anew"
    assert await daemon.finished(other_lease) == ACCEPTED
    assert (await market.job(other)).status == jobs_pb2.JOB_STATE_COMPLETED
    assert sum("broke the protocol" in record.getMessage() for record in caplog.records) == 1
    await market.assert_money_adds_up()


async def test_after_a_database_restore_only_the_run_with_lost_output_ends(market: Market) -> None:
    """The server had acknowledged output that the restored copy lacks, so the daemon cannot send it again."""
    provider, renter = await market.provider(), await market.renter()
    daemon = await market.daemon(provider, slots=2)
    job, lease = await market.running_job(renter, provider, daemon)
    _, other = await market.running_job(renter, provider, daemon)
    daemon.cut()
    again = market.connect(provider)
    await again.hello(slots=2, held_leases=[lease, other])
    for _ in range(2):
        directive = await again.expect("lease_directive")
        assert (directive.action, directive.output_through_seq) == (KEEP, 0)
    await again.say(output_chunk=sessions_pb2.OutputChunk(lease=lease, seq=105, data=b"x"))
    assert (await again.expect("lease_directive")).action == STOP
    again.held.remove(lease)
    assert (await again.expect("job_offer")).lease.job_id == job.job_id
    await again.output(other, 1, b"goes on")
    assert await again.finished(other, last_output_seq=1) == ACCEPTED


async def test_output_without_a_recorded_start_ends_its_lease(market: Market) -> None:
    """A daemon does not repeat a start whose output was acknowledged, so a restored database lacks it."""
    provider, renter = await market.provider(), await market.renter()
    daemon = await market.daemon(provider)
    job = await market.submit(renter, provider)
    lease = (await daemon.expect("job_offer")).lease
    await daemon.accept(lease)
    await daemon.say(output_chunk=sessions_pb2.OutputChunk(lease=lease, seq=1, data=b"x"))
    assert (await daemon.expect("lease_directive")).action == STOP
    assert (await daemon.expect("job_offer")).lease.job_id == job.job_id


async def test_result_whose_output_never_arrives_ends_its_lease(market: Market) -> None:
    """The server does not ask forever for output that a daemon cannot send."""
    provider, renter = await market.provider(), await market.renter()
    daemon = await market.daemon(provider)
    job, lease = await market.running_job(renter, provider, daemon)
    for action in [RESEND] * MAX_RESENDS + [STOP]:
        await daemon.finish(lease, last_output_seq=2)
        assert (await daemon.expect("lease_directive")).action == action
    again = await daemon.expect("job_offer")
    assert (again.lease.job_id, again.attempt) == (job.job_id, 2)


async def test_job_whose_attempts_all_break_the_protocol_fails_as_lost(
    market: Market,
) -> None:
    provider, renter = await market.provider(), await market.renter()
    daemon = await market.daemon(provider)
    job = await market.submit(renter, provider)
    for _ in range(MAX_ATTEMPTS):
        lease = (await daemon.expect("job_offer")).lease
        await daemon.start(lease)
        await daemon.say(output_chunk=sessions_pb2.OutputChunk(lease=lease, seq=2, data=b"x"))
        assert (await daemon.expect("lease_directive")).action == STOP
        daemon.held.clear()
    await daemon.heard_nothing()
    ended = await market.job(job)
    assert ended.status == jobs_pb2.JOB_STATE_FAILED
    assert ended.failure_reason == jobs_pb2.FAILURE_REASON_PROVIDER_LOST
    assert await market.wallet(renter) == (5000, 0)
    await market.assert_money_adds_up()


async def test_repeated_chunk_is_acknowledged_and_stored_once(market: Market) -> None:
    provider, renter = await market.provider(), await market.renter()
    daemon = await market.daemon(provider)
    job, lease = await market.running_job(renter, provider, daemon)
    for seq, data in ((1, b"one"), (1, b"xxx"), (2, b"two"), (1, b"xxx")):
        await daemon.output(lease, seq, data)
    await daemon.finished(lease, last_output_seq=2)
    assert (await market.output(job, renter)).response == "onetwo"


async def test_message_for_a_cancelled_job_is_stale(market: Market) -> None:
    provider, renter = await market.provider(), await market.renter()
    daemon = await market.daemon(provider)
    job = await market.submit(renter, provider)
    lease = (await daemon.expect("job_offer")).lease
    await market.cancel(job, renter)
    await daemon.expect("cancel_run")
    await daemon.accept(lease)
    assert (await daemon.expect("lease_directive")).action == STOP
    assert (await market.job(job)).status == jobs_pb2.JOB_STATE_CANCELLED


async def test_released_run_is_queued_again_without_a_charge(market: Market) -> None:
    provider, renter = await market.provider(), await market.renter()
    daemon = await market.daemon(provider)
    job, lease = await market.running_job(renter, provider, daemon)
    other = await market.provider()
    second = await market.daemon(other)
    await daemon.say(drain=sessions_pb2.Drain())
    released = await daemon.finished(lease, outcome=sessions_pb2.RUN_OUTCOME_RELEASED, seconds=9)
    assert released == ACCEPTED
    now = await market.job(job)
    assert (now.status, now.attempt) == (jobs_pb2.JOB_STATE_QUEUED, 1)
    await market.tick()
    await second.heard_nothing()  # the job names the first provider and waits for it


# Leases that heartbeats list.


async def test_unknown_lease_in_a_heartbeat_is_stopped_and_discarded(market: Market) -> None:
    provider, renter = await market.provider(), await market.renter()
    daemon = await market.daemon(provider)
    job, lease = await market.running_job(renter, provider, daemon)
    unknown = sessions_pb2.Lease(job_id="job-unknown", lease_epoch=3, lease_secret=b"s")
    forged = sessions_pb2.Lease(job_id=job.job_id, lease_epoch=lease.lease_epoch, lease_secret=b"s")
    await daemon.heartbeat(held_leases=[unknown, lease, forged])
    for ref in (unknown, forged):
        directive = await daemon.expect("lease_directive")
        assert (directive.action, directive.lease) == (STOP, ref)
    await daemon.heard_nothing()
    assert (await market.job(job)).status == jobs_pb2.JOB_STATE_RUNNING


async def test_wrong_lease_secret_changes_nothing(any_market: Market) -> None:
    """Job ids and epochs can be guessed. The store checks the secret again, after the session."""
    market = any_market
    provider, renter = await market.provider(), await market.renter()
    daemon = await market.daemon(provider)
    job, lease = await market.running_job(renter, provider, daemon)
    forged = sessions_pb2.Lease(job_id=job.job_id, lease_epoch=lease.lease_epoch, lease_secret=b"s" * 32)
    assert await daemon.finished(forged, seconds=1) == STALE
    ref = LeaseRef(job.job_id, lease.lease_epoch, b"s" * 32)
    epoch = market.server.services.fleet.all()[0].session_epoch

    def store() -> bool:
        return leases.store_chunk(ref, provider.id, epoch, Channel.OUTPUT, 1, b"forged", 1)

    assert not await market.server._database.run(store)
    assert (await market.job(job)).status == jobs_pb2.JOB_STATE_RUNNING
    assert (await daemon.output(lease, 1, b"real")).output_through_seq == 1
    assert await daemon.finished(lease, seconds=1, last_output_seq=1) == ACCEPTED
    assert (await market.output(job, renter)).response == "real"


async def test_store_takes_each_chunk_once_and_in_order(any_market: Market) -> None:
    """The store checks it itself: two sessions of a daemon may both write for a moment."""
    market = any_market
    provider, renter = await market.provider(), await market.renter()
    daemon = await market.daemon(provider)
    job, lease = await market.running_job(renter, provider, daemon)
    ref = LeaseRef(lease.job_id, lease.lease_epoch, lease.lease_secret)
    epoch = market.server.services.fleet.all()[0].session_epoch

    def store_all() -> list[bool]:
        chunks = [(1, b"one "), (1, b"one "), (3, b"three"), (2, b"two"), (2, b"two"), (1, b"one ")]
        return [leases.store_chunk(ref, provider.id, epoch, Channel.OUTPUT, *chunk, 1) for chunk in chunks]

    stored = await market.server._database.run(store_all)
    assert stored == [True, False, False, True, False, False]
    assert await daemon.finished(lease, seconds=1, last_output_seq=2) == ACCEPTED
    assert (await market.output(job, renter)).response == "one two"


@pytest.mark.parametrize("started", [False, True])
async def test_lease_missing_from_two_heartbeats_is_lost_and_the_job_is_queued_again(
    any_market: Market, started: bool
) -> None:
    market = any_market
    provider, renter = await market.provider(), await market.renter()
    daemon = await market.daemon(provider)
    job = await market.submit(renter, provider)
    lease = (await daemon.expect("job_offer")).lease
    await (daemon.start(lease) if started else daemon.accept(lease))
    await daemon.heartbeat(held_leases=[])
    await daemon.heartbeat()  # listed again: nothing is lost
    await daemon.heartbeat(held_leases=[])
    before = await market.job(job)
    assert before.status in (jobs_pb2.JOB_STATE_ASSIGNED, jobs_pb2.JOB_STATE_RUNNING)
    daemon.held = []
    await daemon.heartbeat()
    assert (await daemon.expect("lease_directive")).action == STOP
    offer = await daemon.expect("job_offer")
    assert (offer.lease.job_id, offer.lease.lease_epoch, offer.attempt) == (job.job_id, 2, 2)
    assert await daemon.finished(lease) == STALE
    await market.assert_money_adds_up()


async def test_heartbeats_that_agree_with_the_session_cost_no_query(market: Market) -> None:
    provider, renter = await market.provider(), await market.renter()
    daemon = await market.daemon(provider)
    await market.running_job(renter, provider, daemon)
    await market.tick()
    await market.sql(lambda: Lease.update(state="ended").execute())  # a query would notice this
    for _ in range(3):
        await daemon.heartbeat()
    await daemon.heard_nothing()


async def test_result_that_waits_for_output_keeps_its_lease(market: Market) -> None:
    """A daemon that has reported the result stops listing the lease while it sends the output again."""
    provider, renter = await market.provider(), await market.renter()
    daemon = await market.daemon(provider)
    job, lease = await market.running_job(renter, provider, daemon)
    await daemon.finish(lease, last_output_seq=1)
    assert (await daemon.expect("lease_directive")).action == RESEND
    for _ in range(4):
        await daemon.heartbeat(held_leases=[])
    await daemon.output(lease, 1, b"late")
    assert await daemon.finished(lease, last_output_seq=1) == ACCEPTED
    assert (await market.output(job, renter)).response == "late"


async def test_heartbeat_of_a_superseded_session_renews_nothing(market: Market) -> None:
    provider = await market.provider()
    daemon = await market.daemon(provider)
    (presence,) = market.server.services.fleet.all()
    older: Session = presence.send.__self__  # type: ignore[attr-defined]
    await market.daemon(provider)
    await daemon.expect("superseded")
    await market.tick()
    before = await market.sql(lambda: Provider.get_by_id(provider.id).renewed_ms)
    market.clock.advance(20)
    await older.handle(Heartbeat(1, None))
    await market.tick()
    assert await market.sql(lambda: Provider.get_by_id(provider.id).renewed_ms) == before


# The store is unavailable.


async def test_without_the_store_no_job_is_offered_no_lease_renewed_and_no_daemon_lost(
    market: Market,
) -> None:
    provider, renter = await market.provider(), await market.renter(50_000)
    daemon = await market.daemon(provider, slots=2)
    job, _ = await market.running_job(renter, provider, daemon, duration_minutes=60)
    queued = await market.submit(
        renter, params=jobs_pb2.JobParams(model="other", prompt="hi"), wait_for_supply=True
    )
    market.clock.advance(5)
    await daemon.heartbeat()
    rename = partial(execute, market.server._database)
    await market.sql(lambda: rename("ALTER TABLE provider RENAME TO gone"))
    with pytest.raises(DomainError, match="database"):
        await market.tick()
    assert (await refusal(market.submit(renter))).reason == "STORE_UNAVAILABLE"
    for sequence in range(100, 140):  # heartbeats go on for longer than the lost period
        market.clock.advance(10)
        await daemon.say(heartbeat=sessions_pb2.SessionHeartbeat(sequence=sequence, held_leases=daemon.held))
        await daemon.say(job_started=sessions_pb2.JobStarted())
        await daemon.expect("lease_directive")  # no acknowledgement came before it
        with pytest.raises(DomainError, match="database"):
            await market.tick()
    await market.sql(lambda: rename("ALTER TABLE gone RENAME TO provider"))
    await market.tick()
    assert (await market.job(job)).status == jobs_pb2.JOB_STATE_RUNNING
    assert (await market.job(queued)).status == jobs_pb2.JOB_STATE_QUEUED
    market.clock.advance(10)
    await daemon.heartbeat()  # its acknowledgement is the next message: none came before it
    await market.assert_money_adds_up()


async def stuck_session(market: Market, provider: Party) -> Session:
    """A session whose daemon reads nothing: its outbox is full."""
    session = market.server.services.streams.new(provider.id)
    await session.handle(
        Hello("b", "", 1, GpuReport(), (Model(MODEL),), frozenset({JobType.LLM_INFERENCE}), slots=5)
    )
    while session.outbox.put(HeartbeatAck(0)):
        pass
    return session


async def test_stuck_daemon_does_not_harm_its_own_newer_session(market: Market) -> None:
    provider = await market.provider()
    await stuck_session(market, provider)
    newer = market.connect(provider)
    assert (await newer.hello()).session_epoch == 2
    await newer.heartbeat()


async def test_stuck_daemon_does_not_harm_the_renter(market: Market) -> None:
    provider, renter = await market.provider(), await market.renter()
    session = await stuck_session(market, provider)
    job = await market.submit(renter, provider)
    assert job.status == jobs_pb2.JOB_STATE_PENDING
    assert (await market.cancel(job, renter)).status == jobs_pb2.JOB_STATE_CANCELLED
    while session.outbox.get_nowait() is not None:
        pass
    assert session.outbox.is_over  # its stream ends


async def test_heartbeats_by_stream_and_by_post_change_the_same_record(market: Market) -> None:
    provider = await market.provider()
    daemon = await market.daemon(provider)
    await daemon.heartbeat(gpu_status={"gpu_name": "by stream", "gpu_vram_mib": 2**40 // 2**20})
    await market.tick()
    names = []
    for name in ("by stream", "by post"):
        if name == "by post":
            await market.provider_service.Heartbeat(
                providers_pb2.HeartbeatRequest(gpu_status={"gpu_name": name}),  # type: ignore[arg-type]
                metadata=provider.metadata,
            )
            await market.tick()
        profile = await market.provider_service.GetOwnProvider(
            providers_pb2.GetOwnProviderRequest(), metadata=provider.metadata
        )
        names.append((profile.provider.gpu_model, profile.provider.gpu_status.gpu_name))
    assert names == [("by stream", "by stream"), ("by post", "by post")]


async def test_result_of_an_unknown_outcome_ends_only_its_lease(market: Market) -> None:
    """A newer daemon may know more outcomes."""
    provider, renter = await market.provider(), await market.renter()
    daemon = await market.daemon(provider, slots=2)
    job, lease = await market.running_job(renter, provider, daemon)
    other, kept = await market.running_job(renter, provider, daemon, output=b"x")
    await daemon.finish(lease, outcome=99)
    directive = await daemon.expect("lease_directive")
    assert (directive.lease, directive.action) == (lease, STOP)
    again = await daemon.expect("job_offer")
    assert (again.lease.job_id, again.attempt) == (job.job_id, 2)
    assert await daemon.finished(kept, last_output_seq=1) == ACCEPTED
    assert (await market.job(other)).status == jobs_pb2.JOB_STATE_COMPLETED


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ({"hello": sessions_pb2.Hello(boot_id="b", protocol_version=1)}, "PROTOCOL_VIOLATION"),
        ({"job_started": sessions_pb2.JobStarted(lease=sessions_pb2.Lease())}, "INVALID_FIELD"),
    ],
)
async def test_reason_comes_as_a_message_before_the_end_of_the_stream(
    market: Market, message: dict[str, object], reason: str
) -> None:
    """A daemon that writes meanwhile may lose the status of its stream."""
    daemon = await market.daemon(await market.provider())
    await daemon.say(**message)
    ended = await daemon.ended()
    assert isinstance(ended, Refusal)
    assert daemon.refusal == sessions_pb2.SessionRefusal(reason=reason, message=ended.message)


async def test_message_of_a_newer_daemon_is_skipped_and_logged_once(
    market: Market, caplog: pytest.LogCaptureFixture
) -> None:
    provider = await market.provider()
    daemon = market.connect(provider)
    newer = sessions_pb2.DaemonMessage.FromString(b"\xf2\x3f\x02hi")  # field 1022
    await daemon._call.write(newer)
    await daemon.hello()
    for _ in range(3):
        await daemon._call.write(newer)
    await daemon.heard_nothing()
    assert sum("of a kind that this server does not know" in text for text in caplog.messages) == 1


async def test_empty_message_breaks_the_protocol(market: Market) -> None:
    daemon = await market.daemon(await market.provider())
    await daemon.say()
    ended = await daemon.ended()
    assert ended is not None
    assert ended.reason == "PROTOCOL_VIOLATION"


async def own_hindrances(market: Market, provider: Party) -> list[int]:
    own = await market.provider_service.GetOwnProvider(
        providers_pb2.GetOwnProviderRequest(), metadata=provider.metadata
    )
    return [hindrance.code for hindrance in own.provider.hindrances]


async def newcomer(market: Market, provider: Party, boot_id: str) -> str:
    """Another process with the provider's key; returns the server's answer."""
    daemon = market.connect(provider)
    await daemon.say(hello=sessions_pb2.Hello(boot_id=boot_id, protocol_version=1, slots=1))
    try:
        answer = await daemon.hear()
    except grpc.aio.AioRpcError as error:
        return read_refusal(error).reason
    assert answer is not None
    return str(answer.WhichOneof("kind"))


async def test_session_with_a_run_is_kept_against_a_daemon_that_it_took_over_from(market: Market) -> None:
    provider, renter = await market.provider(), await market.renter()
    await market.daemon(provider, boot_id="machine")
    clone = await market.daemon(provider, boot_id="clone")
    assert await own_hindrances(market, provider) == []
    job, lease = await market.running_job(renter, provider, clone, output=b"x")
    # The machine's service manager starts its daemon again, each time as a new process.
    for number in range(3):
        assert await newcomer(market, provider, f"machine again {number}") == "SESSION_SUPERSEDED"
    assert await own_hindrances(market, provider) == [jobs_pb2.OBSTACLE_TWO_DAEMONS]
    assert await clone.finished(lease, last_output_seq=1) == ACCEPTED
    assert (await market.job(job)).status == jobs_pb2.JOB_STATE_COMPLETED
    # A session without runs loses nothing.
    assert await newcomer(market, provider, "machine at last") == "welcome"


async def test_session_that_is_silent_is_not_kept_against_another_process(market: Market) -> None:
    """A machine that lost power twice comes back while its old stream has not been noticed to be dead."""
    provider, renter = await market.provider(), await market.renter()
    await market.daemon(provider, boot_id="one")
    second = await market.daemon(provider, boot_id="two")
    await market.running_job(renter, provider, second)
    market.clock.advance(16)
    assert await newcomer(market, provider, "three") == "welcome"
    assert await own_hindrances(market, provider) == [jobs_pb2.OBSTACLE_TWO_DAEMONS]


async def test_heartbeat_by_post_proves_no_session(market: Market) -> None:
    """It may come from the very process that wants to take over, or from a third one."""
    provider, renter = await market.provider(), await market.renter()
    await market.daemon(provider, boot_id="one")
    second = await market.daemon(provider, boot_id="two")
    await market.running_job(renter, provider, second)
    market.clock.advance(16)
    report = providers_pb2.HeartbeatRequest(gpu_status=gpus_pb2.GpuStatus(gpu_name="NVIDIA L4"))
    await market.provider_service.Heartbeat(report, metadata=provider.metadata)
    assert await newcomer(market, provider, "three") == "welcome"


async def test_wait_for_the_database_makes_no_daemon_look_silent(market: Market) -> None:
    """Its first heartbeat counts from when it is stored."""
    provider, entered, release = await market.provider(), threading.Event(), threading.Event()

    def hold_the_writer() -> None:
        entered.set()
        release.wait(HANG_SECONDS)

    holding = asyncio.create_task(market.sql(hold_the_writer))
    await asyncio.to_thread(entered.wait, HANG_SECONDS)
    daemon = market.connect(provider)
    await daemon.say(hello=sessions_pb2.Hello(boot_id="b", protocol_version=1, slots=1))
    writer: Any = market.server._database._writer
    async with asyncio.timeout(HANG_SECONDS):
        while not writer._queue.qsize():
            await asyncio.sleep(0.01)
    market.clock.advance(100)
    release.set()
    await holding
    await daemon.expect("welcome")
    stored = await market.sql(lambda: Provider.get_by_id(provider.id))
    now_ms = int(market.clock.now() * 1000)
    assert (stored.last_heartbeat_ms, stored.renewed_ms) == (now_ms, now_ms)


async def test_offers_to_a_daemon_whose_sessions_end_at_once_are_bounded(any_market: Market) -> None:
    market = any_market
    provider, renter = await market.provider(), await market.renter()
    job = await market.submit(renter, wait_for_supply=True)
    offers = 0
    for _ in range(6):
        daemon = await market.daemon(provider)
        await daemon.say(heartbeat=sessions_pb2.SessionHeartbeat(sequence=1))
        while (message := await daemon.hear()) is not None and not message.HasField("heartbeat_ack"):
            offers += message.HasField("job_offer")
        daemon.cut()
    assert offers == 2
    assert (await market.job(job)).status == jobs_pb2.JOB_STATE_QUEUED
    history = await market.sql(lambda: leases.of_job(job.job_id, 10))
    assert sorted(str(lease.outcome) for lease in history) == ["expired", "lost"]


async def test_server_that_stops_leaves_no_session_on_record(database_url: str, clock: ManualClock) -> None:
    async with running_server.running(database_url, clock) as market:
        provider = await market.provider()
        await market.daemon(provider)
        row = await market.sql(lambda: providers.get(provider.id))
        assert row is not None
        assert row.connected
    async with databases.opened(database_url) as database:
        row = await database.read(lambda: providers.get(provider.id))
        assert row is not None
        assert (row.connected, row.server_id) == (False, None)

"""Messages of one stream about different jobs, over real gRPC: side by side, in order, with faults apart."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Callable
from typing import Any

import grpc
import pytest
from dcp.v1 import jobs_pb2, sessions_pb2

from server.domain.errors import DomainError, Reason
from server.domain.lanes import AT_ONCE, WAITING
from server.domain.leases import MAX_CHUNK_BYTES, FinishReport
from server.domain.messages import Chunk
from server.rpc.sessions import _Writer
from server.services.sessions import Session
from server.store import leases
from tests.support.running_server import HANG_SECONDS, Daemon, Market, Party, Refusal

ACCEPTED = sessions_pb2.RESULT_DISPOSITION_ACCEPTED


async def running_jobs(
    market: Market, provider: Party, daemon: Daemon, count: int
) -> list[tuple[str, sessions_pb2.Lease]]:
    """Jobs that their daemon has started."""
    renter = await market.renter(100_000)
    running = []
    for _ in range(count):
        job, lease = await market.running_job(renter, provider, daemon)
        running.append((job.job_id, lease))
    return running


class Gates:
    """Holds the writes of chunks up, each until the test lets those of its job pass."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.at_once = self.most_at_once = 0
        self.order: list[tuple[str, int]] = []
        self._held: dict[str, asyncio.Event] = {}
        chunk = Session._chunk

        async def held_up(session: Session, message: Any) -> None:
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
            try:
                if (gate := self._held.get(message.lease.job_id)) is not None:
                    await gate.wait()
                self.order.append((message.lease.job_id, message.seq))
                await chunk(session, message)
            finally:
                self.at_once -= 1

        monkeypatch.setattr(Session, "_chunk", held_up)

    def hold(self, job_id: str) -> None:
        self._held[job_id] = asyncio.Event()

    def let_pass(self, job_id: str) -> None:
        self._held[job_id].set()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(HANG_SECONDS):
        while not condition():
            await asyncio.sleep(0.001)


async def say_chunk(daemon: Daemon, lease: sessions_pb2.Lease, seq: int, data: bytes = b"x") -> None:
    await daemon.say(output_chunk=sessions_pb2.OutputChunk(lease=lease, seq=seq, data=data))


async def test_message_does_not_wait_for_one_about_another_job(
    market: Market, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider = await market.provider()
    daemon = await market.daemon(provider, slots=2)
    (slow, slow_lease), (fast, fast_lease) = await running_jobs(market, provider, daemon, 2)
    gates = Gates(monkeypatch)
    gates.hold(slow)
    await say_chunk(daemon, slow_lease, 1)
    await say_chunk(daemon, slow_lease, 2)
    assert (await daemon.output(fast_lease, 1, b"x")).lease == fast_lease
    assert await daemon.finished(fast_lease, last_output_seq=1) == ACCEPTED
    gates.let_pass(slow)
    through = [(await daemon.expect("output_ack")).output_through_seq for _ in range(2)]
    assert through == [1, 2], "those about one job keep their order"
    assert gates.order == [(fast, 1), (slow, 1), (slow, 2)]


async def test_heartbeat_waits_for_the_messages_before_it_and_those_after_it_wait_for_it(
    market: Market, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider = await market.provider()
    daemon = await market.daemon(provider, slots=2)
    (first, lease), (_, other) = await running_jobs(market, provider, daemon, 2)
    gates = Gates(monkeypatch)
    gates.hold(first)
    await say_chunk(daemon, lease, 1)
    await daemon.say(heartbeat=sessions_pb2.SessionHeartbeat(sequence=9, held_leases=[lease, other]))
    await say_chunk(daemon, other, 1)
    await until(lambda: gates.at_once == 1)
    await asyncio.sleep(0.05)
    assert gates.order == []
    gates.let_pass(first)
    assert (await daemon.expect("output_ack")).lease == lease
    assert (await daemon.expect("heartbeat_ack")).sequence == 9
    assert (await daemon.expect("output_ack")).lease == other


async def test_messages_of_one_stream_are_bounded(market: Market, monkeypatch: pytest.MonkeyPatch) -> None:
    """The daemon must wait while AT_ONCE messages are handled and WAITING more wait."""
    provider = await market.provider()
    count = AT_ONCE + 4
    await market.vouch(provider)
    daemon = await market.daemon(provider, slots=count)
    running = await running_jobs(market, provider, daemon, count)
    gates = Gates(monkeypatch)
    taken: list[Any] = []
    pass_message = market.server._limits.pass_message

    async def counted(provider_id: int) -> None:
        taken.append(provider_id)
        await pass_message(provider_id)

    monkeypatch.setattr(market.server._limits, "pass_message", counted)
    for job_id, _ in running:
        gates.hold(job_id)
    for seq in (1, 2, 3):
        for _, lease in running:
            await say_chunk(daemon, lease, seq)
    await until(lambda: gates.at_once == AT_ONCE)
    await asyncio.sleep(0.1)
    # One more was read, and waits in the hands of the reader.
    assert len(taken) == AT_ONCE + WAITING + 1
    for job_id, _ in running:
        gates.let_pass(job_id)
    acknowledged = [await daemon.expect("output_ack") for _ in range(3 * count)]
    assert {ack.output_through_seq for ack in acknowledged} == {1, 2, 3}
    assert gates.most_at_once == AT_ONCE


async def test_messages_that_wait_hold_no_more_than_they_may_say(
    market: Market, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A message may have 8 MiB, and 32 of a stream may wait while the database is busy."""
    provider = await market.provider()
    daemon = await market.daemon(provider)
    ((job_id, lease),) = await running_jobs(market, provider, daemon, 1)
    gates = Gates(monkeypatch)
    gates.hold(job_id)
    await say_chunk(daemon, lease, 1)
    large = b"x" * (1 << 20)
    for seq in range(2, WAITING, 3):
        await say_chunk(daemon, lease, seq, large)
        await daemon.say(log_chunk=sessions_pb2.LogChunk(lease=lease, seq=seq, data=large))
        await daemon.finish(lease, last_output_seq=seq, last_output=large)
    await until(lambda: gates.at_once == 1)
    await asyncio.sleep(0.1)
    waiting = [message for message in gc.get_objects() if isinstance(message, Chunk | FinishReport)]
    assert sum(len(getattr(message, "data", b"")) for message in waiting) <= WAITING * MAX_CHUNK_BYTES
    assert sum(len(getattr(message, "last_output", b"")) for message in waiting) <= WAITING * MAX_CHUNK_BYTES
    gates.let_pass(job_id)
    await daemon.expect("output_ack")
    assert (await daemon.expect("lease_directive")).action == sessions_pb2.LEASE_ACTION_STOP_AND_DISCARD


async def test_message_that_the_server_fails_at_costs_its_lease_and_no_other(
    market: Market, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider = await market.provider()
    daemon = await market.daemon(provider, slots=2)
    (bad, bad_lease), (_, good_lease) = await running_jobs(market, provider, daemon, 2)
    store = leases.store_chunk

    def failing(ref: Any, *args: Any) -> bool:
        if ref.job_id == bad:
            raise ZeroDivisionError
        return store(ref, *args)

    monkeypatch.setattr(leases, "store_chunk", failing)
    await say_chunk(daemon, bad_lease, 1)
    directive = await daemon.expect("lease_directive")
    assert (directive.lease, directive.action) == (
        bad_lease,
        sessions_pb2.LEASE_ACTION_STOP_AND_DISCARD,
    )
    assert (await daemon.expect("job_offer")).lease.job_id == bad, "it waits for a provider again"
    await daemon.output(good_lease, 1, b"x")
    assert await daemon.finished(good_lease, last_output_seq=1) == ACCEPTED
    await market.assert_money_adds_up()


async def test_error_that_is_not_about_one_job_ends_the_stream_with_its_reason(
    market: Market, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider = await market.provider()
    daemon = await market.daemon(provider)
    ((_, lease),) = await running_jobs(market, provider, daemon, 1)

    async def unavailable(session: Session, message: Any) -> None:
        raise DomainError(Reason.STORE_UNAVAILABLE, "the database is down")

    monkeypatch.setattr(Session, "_chunk", unavailable)
    await say_chunk(daemon, lease, 1)
    ended = await daemon.ended()
    assert isinstance(ended, Refusal)
    assert (ended.code, ended.reason) == (grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE")
    assert daemon.refusal is not None
    assert daemon.refusal.reason == "STORE_UNAVAILABLE"


async def test_messages_before_the_end_of_a_stream_are_handled(market: Market) -> None:
    provider, renter = await market.provider(), await market.renter()
    daemon = await market.daemon(provider)
    job, lease = await market.running_job(renter, provider, daemon)
    go_on = threading.Event()
    blocked = asyncio.ensure_future(market.sql(go_on.wait))
    await say_chunk(daemon, lease, 1)
    await daemon.finish(lease, last_output_seq=1)
    await daemon._call.done_writing()
    await asyncio.sleep(0.05)
    go_on.set()
    await blocked
    assert (await daemon.expect("output_ack")).output_through_seq == 1
    assert (await daemon.expect("result_ack")).disposition == ACCEPTED
    assert (await market.output(job, renter)).response == "x"
    assert await daemon.ended() is None


async def test_answers_are_written_before_the_end_of_a_stream(
    market: Market, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The daemon would send its result, with all of its output, again."""
    provider, renter = await market.provider(), await market.renter()
    daemon = await market.daemon(provider)
    _, lease = await market.running_job(renter, provider, daemon)

    write = _Writer._write

    async def slow(writer: _Writer) -> None:
        await asyncio.sleep(0.1)
        await write(writer)

    monkeypatch.setattr(_Writer, "_write", slow)
    for seq in range(1, 6):
        await say_chunk(daemon, lease, seq)
    await daemon.finish(lease, last_output_seq=5)
    await daemon._call.done_writing()
    for seq in range(1, 6):
        assert (await daemon.expect("output_ack")).output_through_seq == seq
    assert (await daemon.expect("result_ack")).disposition == ACCEPTED
    assert await daemon.ended() is None


async def test_messages_in_flight_of_a_session_that_is_superseded_change_nothing(market: Market) -> None:
    provider, renter = await market.provider(), await market.renter()
    old = await market.daemon(provider, slots=2)
    job, lease = await market.running_job(renter, provider, old)
    go_on = threading.Event()
    blocked = asyncio.ensure_future(market.sql(go_on.wait))
    new = market.connect(provider)
    await new.say(hello=sessions_pb2.Hello(boot_id="new", protocol_version=1, slots=1))
    await asyncio.sleep(0.05)
    await say_chunk(old, lease, 1)
    await old.finish(lease, outcome=sessions_pb2.RUN_OUTCOME_FAILED)
    await asyncio.sleep(0.05)
    go_on.set()
    await blocked
    await new.expect("welcome")
    assert (await market.job(job)).status == jobs_pb2.JOB_STATE_QUEUED, "its new daemon does not hold it"
    assert (await market.wallet(renter))[1] > 0

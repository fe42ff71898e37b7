"""Watching a job over gRPC: its events, and how a reader continues after any of them."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import grpc
import peewee
import pytest
from dcp.v1 import jobs_pb2, keys_pb2, options_pb2, sessions_pb2
from hypothesis import given
from hypothesis import strategies as st

from server.domain.leases import Channel
from server.domain.providers import AccountState
from server.domain.watch import Cursor, Text, text_events
from server.services.keys import ADMIN, Caller
from server.services.watch import WatchLimits
from server.store import leases
from tests.support import running_server
from tests.support.manual_clock import ManualClock
from tests.support.running_server import HANG_SECONDS, Daemon, Market, Party, read_refusal, refusal

Event = jobs_pb2.WatchJobResponse
ARABIC = "مرحبا 🌍 world\n"


@pytest.fixture
async def market(database_url: str, clock: ManualClock) -> AsyncIterator[Market]:
    async with running_server.running(database_url, clock) as running:
        yield running


class Reader:
    """A stream of events under the control of a test."""

    def __init__(self, call: Any) -> None:
        self.call = call

    async def read(self) -> Event | None:
        """The next event; None at the end of the stream. Raises AioRpcError."""
        async with asyncio.timeout(HANG_SECONDS):
            message = await self.call.read()
        if message is grpc.aio.EOF:
            return None
        return message if message.WhichOneof("event") else await self.read()

    async def next(self) -> Event:
        """The next event, which must come."""
        event = await self.read()
        assert event is not None, "the stream ended"
        return event

    async def until(self, kind: str) -> list[Event]:
        """The events up to the first one of a kind."""
        found: list[Event] = []
        while not found or found[-1].WhichOneof("event") != kind:
            found.append(await self.next())
        return found

    async def opened(self) -> None:
        """Waits until the stream is open; it may not have sent an event."""
        async with asyncio.timeout(HANG_SECONDS):
            assert not (await self.call.read()).WhichOneof("event")


def watch(market: Market, job: jobs_pb2.Job, who: Party, after: str = "") -> Reader:
    request = jobs_pb2.WatchJobRequest(job_id=job.job_id, last_event_id=after)
    return Reader(market.job_service.WatchJob(request, metadata=who.metadata))


async def whole(market: Market, job: jobs_pb2.Job, who: Party, after: str = "") -> list[Event]:
    """All events of a job that has ended."""
    reader, found = watch(market, job, who, after), list[Event]()
    while (event := await reader.read()) is not None:
        found.append(event)
    return found


async def refused(market: Market, job_id: str, who: Party, after: str = "") -> Any:
    request = jobs_pb2.WatchJobRequest(job_id=job_id, last_event_id=after)
    return await refusal(market.job_service.WatchJob(request, metadata=who.metadata).read())


def kinds(events: Iterable[Event]) -> list[str]:
    """The events in short: states by name, all others by kind."""
    names = []
    for event in events:
        kind = event.WhichOneof("event") or ""
        state = jobs_pb2.JobState.Name(event.state.status).removeprefix("JOB_STATE_").lower()
        names.append(state if kind == "state" else kind)
    return names


def text(events: Iterable[Event], kind: str = "output") -> str:
    """What a reader has of a channel after these events: after `attempt`, it begins again."""
    written = ""
    for event in events:
        if event.HasField("attempt"):
            written = ""
        elif event.WhichOneof("event") == kind:
            written += getattr(event, kind).text
    return written


async def log(daemon: Daemon, lease: sessions_pb2.Lease, seq: int, data: bytes) -> None:
    await daemon.say(log_chunk=sessions_pb2.LogChunk(lease=lease, seq=seq, data=data))
    await daemon.expect("output_ack")


@asynccontextmanager
async def ended_job(market: Market, chunks: list[bytes]) -> AsyncIterator[tuple[jobs_pb2.Job, Party, str]]:
    """A completed job that wrote these chunks, its renter and the text."""
    renter, provider = await market.renter(), await market.provider()
    daemon = await market.daemon(provider)
    job, lease = await market.running_job(renter, provider, daemon)
    for seq, data in enumerate(chunks, 1):
        await daemon.output(lease, seq, data)
    await log(daemon, lease, 1, b"loaded\n")
    market.clock.advance(2)
    await daemon.finished(lease, seconds=2, last_output_seq=len(chunks))
    yield job, renter, b"".join(chunks).decode(errors="replace")


async def test_queued_job_is_watched_to_its_end_as_it_goes(market: Market) -> None:
    renter, provider = await market.renter(), await market.provider()
    daemon = await market.daemon(provider)
    _, other = await market.running_job(renter, provider, daemon)
    job = await market.submit(renter, provider)
    reader = watch(market, job, renter)
    assert kinds([await reader.next()]) == ["queued"]
    await daemon.finished(other)
    lease = (await daemon.expect("job_offer")).lease
    assert kinds([await reader.next()]) == ["pending"]
    await daemon.start(lease)
    assert kinds([await reader.next(), await reader.next()]) == ["assigned", "running"]
    await daemon.output(lease, 1, b"Hello")
    assert (await reader.next()).output.text == "Hello"
    await log(daemon, lease, 1, b"loaded\n")
    assert (await reader.next()).log.text == "loaded\n"
    await daemon.output(lease, 2, b", world")
    assert (await reader.next()).output.text == ", world"
    market.clock.advance(3)
    await daemon.finished(lease, seconds=3, last_output_seq=2)
    end = await reader.next()
    assert await reader.read() is None
    shown = await market.job_service.GetJob(
        jobs_pb2.GetJobRequest(job_id=job.job_id), metadata=renter.metadata
    )
    assert end.end.job == shown.job
    assert end.end.job.billing.actual_cost_halala > 0


async def test_reader_continues_after_any_event_without_gap_or_repeat(market: Market) -> None:
    data = ARABIC.encode() * 3
    chunks = [data[at : at + 1] for at in range(20)] + [data[20:31], data[31:]]
    async with ended_job(market, chunks) as (job, renter, written):
        events = await whole(market, job, renter)
        assert kinds(events)[:4] == ["queued", "pending", "assigned", "running"]
        assert kinds(events)[-2:] == ["log", "end"]
        assert text(events) == written
        for count, event in enumerate(events, 1):
            assert await whole(market, job, renter, event.id) == events[count:]


async def test_long_output_is_sent_in_pages_and_continues_within_a_chunk(market: Market) -> None:
    chunk = (ARABIC * 3000).encode()[: 64 * 1024 - 1]
    async with ended_job(market, [chunk, *[b"\n"], chunk]) as (job, renter, _):
        events = await whole(market, job, renter)
        assert text(events) == b"".join([chunk, b"\n", chunk]).decode(errors="replace")
        assert max(len(event.output.text.encode()) for event in events) <= 8 * 1024 + 2
        for event in events[:: len(events) // 4]:
            count = events.index(event) + 1
            assert text(await whole(market, job, renter, event.id)) == text(events[count:])


async def test_character_split_between_chunks_arrives_whole(market: Market) -> None:
    renter, provider = await market.renter(), await market.provider()
    daemon = await market.daemon(provider)
    job, lease = await market.running_job(renter, provider, daemon)
    reader = watch(market, job, renter)
    await reader.until("state")
    for seq, byte in enumerate("🌍".encode(), 1):
        await daemon.output(lease, seq, bytes([byte]))
    events = await reader.until("output")
    assert events[-1].output.text == "🌍"
    await daemon.output(lease, 5, "é".encode()[:1])
    await daemon.output(lease, 6, "é".encode()[1:] + b"!")
    assert text(await reader.until("output")) == "é!"
    await daemon.finished(lease, last_output_seq=6)


async def test_character_that_never_ends_is_replaced_at_the_end(market: Market) -> None:
    renter, provider = await market.renter(), await market.provider()
    daemon = await market.daemon(provider)
    job, lease = await market.running_job(renter, provider, daemon, output=b"a" + "🌍".encode()[:2])
    await daemon.finished(lease, last_output_seq=1)
    events = await whole(market, job, renter)
    assert text(events) == (await market.output(job, renter)).response == "a�"
    for count, event in enumerate(events, 1):
        assert await whole(market, job, renter, event.id) == events[count:]


async def test_attempt_that_begins_anew_makes_what_was_sent_void(market: Market) -> None:
    renter, provider = await market.renter(), await market.provider()
    daemon = await market.daemon(provider)
    job, _ = await market.running_job(renter, provider, daemon, output=b"half")
    reader = watch(market, job, renter)
    before = await reader.until("output")
    daemon.held = []
    for _ in range(2):
        await daemon.say(heartbeat=sessions_pb2.SessionHeartbeat(sequence=_ + 1))
    events = await reader.until("attempt")
    assert events[-1].attempt.ended_attempt == 1
    assert events[-1].attempt.outcome == jobs_pb2.ATTEMPT_OUTCOME_LOST
    while (message := await daemon.hear()) is not None and message.WhichOneof("kind") != "job_offer":
        pass
    assert message is not None
    again = message.job_offer.lease
    await daemon.start(again)
    await daemon.output(again, 1, b"whole")
    await daemon.finished(again, last_output_seq=1)
    events += await reader.until("end")
    assert text(before + events) == "whole"
    # It is offered again at once, so its moment in the queue may have passed before the reader looks.
    assert [kind for kind in kinds(events)[:3] if kind != "queued"][:2] == ["attempt", "pending"]
    # Who knows the first attempt hears that it is void; who does not, hears only of the newest.
    late = await whole(market, job, renter, before[-1].id)
    assert (kinds(late)[0], text(before + late)) == ("attempt", "whole")
    fresh = await whole(market, job, renter)
    assert ("attempt" not in kinds(fresh), text(fresh)) == (True, "whole")
    for event in events:
        rest = await whole(market, job, renter, event.id)
        assert text([*events[: events.index(event) + 1], *rest]) == "whole"


async def test_cancel_of_a_running_job_is_an_event_before_its_end(market: Market) -> None:
    renter, provider = await market.renter(), await market.provider()
    daemon = await market.daemon(provider)
    job, lease = await market.running_job(renter, provider, daemon, output=b"part")
    reader = watch(market, job, renter)
    await reader.until("output")
    await market.cancel(job, renter)
    asked = await reader.next()
    assert asked.state.cancel_requested
    await daemon.expect("cancel_run")
    await daemon.finished(lease, outcome=sessions_pb2.RUN_OUTCOME_CANCELLED, last_output_seq=1)
    end = await reader.next()
    assert end.end.job.status == jobs_pb2.JOB_STATE_CANCELLED


async def test_job_that_never_ran_ends(market: Market) -> None:
    renter = await market.renter()
    job = await market.submit(renter, wait_for_supply=True)
    reader = watch(market, job, renter)
    assert kinds([await reader.next()]) == ["queued"]
    await market.cancel(job, renter)
    assert kinds([await reader.next()]) == ["end"]
    assert kinds(await whole(market, job, renter)) == ["queued", "end"]


async def test_reader_at_the_end_gets_nothing_more(market: Market) -> None:
    async with ended_job(market, [b"x"]) as (job, renter, _):
        last = (await whole(market, job, renter))[-1]
        reader = watch(market, job, renter, last.id)
        assert await reader.call.read() is grpc.aio.EOF
        assert await reader.call.code() is grpc.StatusCode.OK


@pytest.mark.parametrize(
    ("given_id", "why"),
    [
        ("garbage", "is not the id of an event"),
        ("1.4.1.0.1.0", "is not the id of an event"),
        ("0.0.1.0.1.0.00000000", "is not the id of an event"),
        ("١.4.1.0.1.0.00000000", "is not the id of an event"),
    ],
)
async def test_id_that_is_none_is_refused(market: Market, given_id: str, why: str) -> None:
    renter = await market.renter()
    job = await market.submit(renter, wait_for_supply=True)
    error = await refused(market, job.job_id, renter, given_id)
    assert (error.reason, error.facts.field) == ("INVALID_FIELD", "Last-Event-ID")
    assert why in error.message


async def test_id_of_another_job_or_of_the_future_is_refused(market: Market) -> None:
    renter, provider = await market.renter(), await market.provider()
    daemon = await market.daemon(provider)
    job, lease = await market.running_job(renter, provider, daemon, output=b"one")
    other = await market.submit(renter, provider)
    last = (await watch(market, job, renter).until("output"))[-1].id
    error = await refused(market, other.job_id, renter, last)
    assert error.facts.field == "Last-Event-ID"
    assert "another job" in error.message
    epoch, step, seq, *rest = last.split(".")
    for future in (
        [str(int(epoch) + 1), step, seq, *rest],
        [epoch, step, str(int(seq) + 2), *rest],
        [epoch, step, str(int(seq) + 1), "1", *rest[1:]],
        [epoch, "9", seq, *rest],
        [epoch, "7", seq, *rest],
    ):
        error = await refused(market, job.job_id, renter, ".".join(future))
        assert error.facts.field == "Last-Event-ID"
        assert "has not happened" in error.message
    await daemon.finished(lease, last_output_seq=1)


async def test_only_its_parties_watch_a_job(market: Market) -> None:
    renter, stranger = await market.renter(), await market.renter()
    provider, other = await market.provider(), await market.provider()
    daemon = await market.daemon(provider)
    job, lease = await market.running_job(renter, provider, daemon, output=b"x")
    for who in (stranger, other):
        assert (await refused(market, job.job_id, who)).reason == "NOT_OWNER"
    assert (await refused(market, "job-none", renter)).reason == "JOB_NOT_FOUND"
    operator = Party(0, running_server.ADMIN_TOKEN)
    for who in (renter, provider, operator):
        await watch(market, job, who).until("output")
    await daemon.finished(lease, last_output_seq=1)
    (end,) = (event for event in await whole(market, job, provider) if event.HasField("end"))
    assert end.end.job.renter_id == 0


async def test_provider_that_lost_the_job_is_sent_away(market: Market) -> None:
    renter, provider = await market.renter(), await market.provider()
    daemon = await market.daemon(provider)
    job = await market.submit(renter)
    lease = (await daemon.expect("job_offer")).lease
    await daemon.start(lease)
    await daemon.heard_nothing()
    reader = watch(market, job, provider)
    await reader.until("state")
    await daemon.say(goodbye=sessions_pb2.Goodbye())
    await daemon.ended()
    await market.later(400)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await reader.until("end")
    assert read_refusal(caught.value).reason == "NOT_OWNER"


async def test_removed_texts_are_left_out_and_the_rest_is_sent(market: Market) -> None:
    async with ended_job(market, [b"secret"]) as (job, renter, _):
        (output,) = (event for event in await whole(market, job, renter) if event.HasField("output"))
        market.clock.advance(400 * 86400)
        await market.server.services.retention.tick()
        events = await whole(market, job, renter)
        assert kinds(events) == ["queued", "pending", "assigned", "running", "end"]
        assert events[-1].end.texts_removed
        assert kinds(await whole(market, job, renter, output.id)) == ["end"]


async def test_texts_of_a_deleted_account_are_left_out_before_they_are_erased(market: Market) -> None:
    operator = Party(0, running_server.ADMIN_TOKEN)
    async with ended_job(market, [b"secret"]) as (job, renter, _):
        assert text(await whole(market, job, operator)) == "secret"
        await market.set_renter(renter, state=AccountState.DELETED.value)
        events = await whole(market, job, operator)
        assert kinds(events) == ["queued", "pending", "assigned", "running", "end"]
        assert events[-1].end.texts_removed


async def test_image_is_named_and_not_sent_as_text(market: Market) -> None:
    renter, provider = await market.renter(), await market.provider()
    daemon = await market.daemon(provider, job_types=[jobs_pb2.JOB_TYPE_IMAGE_GENERATION])
    params = jobs_pb2.JobParams(prompt="A cat")
    job, lease = await market.running_job(
        renter,
        provider,
        daemon,
        output=b"\x89PNG\r\n",
        job_type=jobs_pb2.JOB_TYPE_IMAGE_GENERATION,
        params=params,
        container_spec=jobs_pb2.ContainerSpec(),
    )
    await daemon.finished(lease, last_output_seq=1, content_type="image/png")
    events = await whole(market, job, renter)
    assert kinds(events)[-2:] == ["file", "end"]
    assert "output" not in kinds(events)
    assert events[-2].file == jobs_pb2.JobFileEvent(
        content_type="image/png", size_bytes=6, path=f"/api/jobs/{job.job_id}/output"
    )
    for count, event in enumerate(events, 1):
        assert await whole(market, job, renter, event.id) == events[count:]


@given(st.text(max_size=60), st.lists(st.integers(0, 240), max_size=20), st.data())
def test_text_is_the_same_from_any_place_however_it_was_split(
    written: str, cuts: list[int], data: st.DataObject
) -> None:
    """Also for bytes that are no UTF-8."""
    raw = written.encode() + data.draw(st.binary(max_size=10))
    edges = [0, *sorted(min(cut, len(raw)) for cut in cuts), len(raw)]
    chunks = list(enumerate((raw[a:b] for a, b in pairwise(edges)), 1))

    def read(cursor: Cursor, until: int, *, is_last: bool) -> list[Any]:
        rest = [(seq, part) for seq, part in chunks[:until] if seq >= cursor.output.seq]
        return list(text_events(cursor, Channel.OUTPUT, rest, is_last=is_last, most_bytes=1 << 20))

    cursor, got = Cursor(), b""
    for until in [*sorted(data.draw(st.lists(st.integers(0, len(chunks))))), len(chunks)]:
        for event in read(cursor, until, is_last=False):
            cursor, got = event.cursor, got + event.kind.data
    for event in read(cursor, len(chunks), is_last=True):
        got += event.kind.data
    assert got.decode() == raw.decode(errors="replace")


async def test_readers_of_one_job_share_its_reads(sqlite_url: str, clock: ManualClock) -> None:
    """A thousand readers cost one read for a chunk, not a thousand."""
    readers, chunks = 1000, 5
    async with running_server.running(sqlite_url, clock) as market:
        renter, provider = await market.renter(), await market.provider()
        daemon = await market.daemon(provider)
        job, lease = await market.running_job(renter, provider, daemon)
        streams = [watch(market, job, renter) for _ in range(readers)]
        for stream in streams:
            while kinds([await stream.next()]) != ["running"]:
                pass
        with counting() as counted:
            for seq in range(1, chunks + 1):
                await daemon.output(lease, seq, b"x" * seq)
            for stream in streams:
                got = ""
                while len(got) < sum(range(1, chunks + 1)):
                    got += (await stream.next()).output.text
        assert counted.count == 0, "who follows closely is shown each chunk without a read"
        await daemon.finished(lease, last_output_seq=chunks)
        for stream in streams:
            assert kinds([await stream.next()]) == ["end"]
        await gone(market)


class HeldWriter:
    """SQLite's writer with a group of transactions that has run and is not committed."""

    def __init__(self, market: Market) -> None:
        self._database = market.server._database
        self._is_held, self._begin, self._commit = threading.Event(), threading.Event(), threading.Event()
        self._failure: Exception | None = None
        self._works: list[asyncio.Task[object]] = []

    async def hold(self, one_more: Callable[[], Awaitable[object]]) -> None:
        """Runs what `one_more` writes, and leaves it before its commit."""
        self._works.append(asyncio.create_task(self._database.run(self._wait)))
        await asyncio.to_thread(self._is_held.wait, HANG_SECONDS)
        await one_more()
        await self._until_waiting(1)
        self._works.append(asyncio.create_task(self._database.run(self._end)))
        await self._until_waiting(2)
        self._begin.set()

    async def end(self, failure: Exception | None = None) -> None:
        """Commits it, or lets it fail."""
        self._failure = failure
        self._commit.set()
        await asyncio.gather(*self._works, return_exceptions=True)

    def _wait(self) -> None:
        self._is_held.set()
        self._begin.wait(HANG_SECONDS)

    def _end(self) -> None:
        self._commit.wait(HANG_SECONDS)
        if self._failure is not None:
            raise self._failure

    async def _until_waiting(self, count: int) -> None:
        async with asyncio.timeout(HANG_SECONDS):
            while self._database.waiting["write"] != count:
                await asyncio.sleep(0.005)


@dataclass
class Followed:
    """A running job, and a reader that has every event of it."""

    market: Market
    renter: Party
    provider: Party
    daemon: Daemon
    job: jobs_pb2.Job
    lease: sessions_pb2.Lease
    reader: Reader

    async def show(self, data: bytes) -> tuple[HeldWriter, Event]:
        """Has the first chunk shown to the reader, and not committed."""
        writer = HeldWriter(self.market)
        chunk = sessions_pb2.OutputChunk(lease=self.lease, seq=1, data=data)
        await writer.hold(lambda: self.daemon.say(output_chunk=chunk))
        event = await self.reader.next()
        assert event.output.text == data.decode()
        assert await self.stored() == b""
        return writer, event

    async def stored(self) -> bytes:
        """Its output in the database."""
        read = partial(leases.read_stream, self.job.job_id, self.lease.lease_epoch, Channel.OUTPUT)
        return await self.market.server._database.read(read)


@pytest.fixture
async def followed(sqlite_url: str, clock: ManualClock) -> AsyncIterator[Followed]:
    async with running_server.running(sqlite_url, clock) as market:
        renter, provider = await market.renter(), await market.provider()
        daemon = await market.daemon(provider)
        job, lease = await market.running_job(renter, provider, daemon)
        reader = watch(market, job, renter)
        while kinds([await reader.next()]) != ["running"]:
            pass
        yield Followed(market, renter, provider, daemon, job, lease, reader)


async def test_chunk_is_shown_while_it_is_stored_and_acknowledged_when_it_is(followed: Followed) -> None:
    writer, _ = await followed.show(b"one")
    await writer.end()
    assert (await followed.daemon.expect("output_ack")).output_through_seq == 1
    assert await followed.stored() == b"one"
    await followed.daemon.finished(followed.lease, last_output_seq=1)
    assert kinds([await followed.reader.next()]) == ["end"], "it is not sent twice"


async def test_chunk_whose_commit_fails_is_shown_once_and_stored_when_it_comes_again(
    followed: Followed,
) -> None:
    market, job, renter, lease = followed.market, followed.job, followed.renter, followed.lease
    writer, shown = await followed.show(b"one")
    await writer.end(peewee.OperationalError("disk I/O error"))
    assert await followed.stored() == b""
    # A reader that comes back before the daemon does has more than is stored, and loses nothing.
    again = watch(market, job, renter, shown.id)
    await again.opened()
    daemon = await market.daemon(followed.provider, held_leases=[lease])
    assert (await daemon.expect("lease_directive")).output_through_seq == 0
    await daemon.output(lease, 1, b"one")
    await daemon.output(lease, 2, b"two")
    await daemon.finished(lease, last_output_seq=2)
    for reader in (followed.reader, again):
        assert text(await reader.until("end")) == "two"
    assert (await market.output(job, renter)).response == "onetwo"
    await market.assert_money_adds_up()


async def test_attempt_that_is_lost_with_a_chunk_that_was_shown_begins_anew(followed: Followed) -> None:
    writer, _ = await followed.show(b"one")
    await writer.end(peewee.OperationalError("disk I/O error"))
    # Its process was killed: the next one knows nothing of the lease.
    daemon = await followed.market.daemon(followed.provider)
    await followed.reader.until("attempt")
    lease = (await daemon.expect("job_offer")).lease
    await daemon.start(lease)
    await daemon.output(lease, 1, b"two")
    await daemon.finished(lease, last_output_seq=1)
    assert text(await followed.reader.until("end")) == "two"


async def test_reader_of_a_chunk_that_was_lost_with_its_attempt_comes_back(followed: Followed) -> None:
    market, clock = followed.market, followed.market.clock
    writer, shown = await followed.show(b"one")
    await writer.end(peewee.OperationalError("disk I/O error"))
    followed.daemon.cut()
    for _ in range(35):  # until the silent provider has lost the job; nobody else takes it
        clock.advance(10)
        await market.tick()
    assert (await market.job(followed.job)).status == jobs_pb2.JOB_STATE_QUEUED
    again = watch(market, followed.job, followed.renter, shown.id)
    assert kinds(await again.until("attempt"))[-1] == "attempt"


async def gone(market: Market) -> None:
    """Waits until the server has no readers."""
    watches = market.server.services.watches
    async with asyncio.timeout(HANG_SECONDS):
        while watches.readers or watches.feeds:
            await asyncio.sleep(0.01)


async def test_reader_that_leaves_is_forgotten_at_once(market: Market) -> None:
    renter = await market.renter()
    job = await market.submit(renter, wait_for_supply=True)
    readers = [watch(market, job, renter) for _ in range(3)]
    for reader in readers:
        await reader.next()
    assert market.server.services.watches.readers == 3
    for reader in readers:
        reader.call.cancel()
    await gone(market)


async def test_job_that_nobody_watches_any_more_wakes_nothing(market: Market) -> None:
    renter = await market.renter()
    job = await market.submit(renter, wait_for_supply=True)
    first = watch(market, job, renter)
    await first.next()
    (feed,) = market.server.services.watches.feeds
    first.call.cancel()
    await gone(market)
    version = feed.version
    second = watch(market, job, renter)
    await second.next()
    await market.cancel(job, renter)
    await second.until("end")
    assert feed.version == version


async def test_slow_reader_holds_little_and_gets_everything(market: Market) -> None:
    """It takes nothing while two MiB are written; then it reads on from what is stored."""
    renter, provider = await market.renter(), await market.provider()
    daemon = await market.daemon(provider)
    job, lease = await market.running_job(renter, provider, daemon)
    reader, quick = watch(market, job, renter), watch(market, job, renter)
    await quick.until("state")
    chunk = ("مرحبا " * 6000).encode()[:64_000]
    for seq in range(1, 31):
        await daemon.output(lease, seq, chunk)
    (feed,) = market.server.services.watches.feeds
    assert feed.held_bytes < 256 * 1024
    await daemon.finished(lease, last_output_seq=30)
    assert text(await reader.until("end")) == (chunk * 30).decode()


async def test_pages_of_a_reader_that_is_behind_are_bounded(market: Market) -> None:
    """What the service holds for a reader that takes nothing more is its present page."""
    async with ended_job(market, [bytes([0x80 + n % 64]) * 64_000 for n in range(20)]) as (job, _, _):
        operator = Caller(ADMIN)
        size = most = 0
        async for events in market.server.services.watches.watch(operator, job.job_id, ""):
            size = sum(len(event.kind.data) for event in events if isinstance(event.kind, Text))
            most = max(most, size)
        assert 0 < most < 128 * 1024


async def test_readers_beyond_the_limits_are_refused(market: Market) -> None:
    renter = await market.renter()
    jobs = [await market.submit(renter, wait_for_supply=True) for _ in range(3)]
    watches = market.server.services.watches
    watches.limits = WatchLimits(of_job=2, of_account=3, in_all=4)
    operator = Party(0, running_server.ADMIN_TOKEN)
    for job, who in ((jobs[0], renter), (jobs[0], renter), (jobs[1], renter), (jobs[1], operator)):
        await watch(market, job, who).next()
    for job, who, whose in (
        (jobs[0], renter, "this job may have 2"),
        (jobs[2], renter, "this account may have 3"),
        (jobs[2], operator, "all jobs together may have 4"),
    ):
        error = await refused(market, job.job_id, who)
        assert (error.code, error.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "RATE_LIMITED")
        assert whose in error.message


async def test_readers_that_come_at_once_do_not_pass_the_limit(market: Market) -> None:
    renter = await market.renter()
    job = await market.submit(renter, wait_for_supply=True)
    market.server.services.watches.limits = WatchLimits(of_job=3)
    answers = await asyncio.gather(
        *(watch(market, job, renter).next() for _ in range(12)), return_exceptions=True
    )
    reasons = [read_refusal(each).reason for each in answers if isinstance(each, grpc.aio.AioRpcError)]
    assert reasons == ["RATE_LIMITED"] * 9


async def test_account_whose_readers_left_may_watch_again(market: Market) -> None:
    renter = await market.renter()
    job = await market.submit(renter, wait_for_supply=True)
    market.server.services.watches.limits = WatchLimits(of_account=1)
    for _ in range(3):
        reader = watch(market, job, renter)
        await reader.next()
        reader.call.cancel()
        await gone(market)


async def test_stream_that_is_old_is_cut_and_continues(market: Market) -> None:
    renter = await market.renter()
    job = await market.submit(renter, wait_for_supply=True)
    reader = watch(market, job, renter)
    first = await reader.next()
    market.clock.advance(3600)
    for feed in market.server.services.watches.feeds:
        feed.changed()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await reader.next()
    error = read_refusal(caught.value)
    assert (error.reason, error.facts.retry_after_seconds) == ("UNAVAILABLE", 1)
    again = watch(market, job, renter, first.id)
    await again.opened()
    await market.cancel(job, renter)
    assert kinds([await again.next()]) == ["end"]


async def test_reader_continues_after_a_restart_of_the_server(database_url: str, clock: ManualClock) -> None:
    async with running_server.running(database_url, clock) as market:
        renter, provider = await market.renter(), await market.provider()
        daemon = await market.daemon(provider)
        job, lease = await market.running_job(renter, provider, daemon, output=b"before, ")
        reader = watch(market, job, renter)
        events = await reader.until("output")
        await market.stop()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await reader.next()
        assert read_refusal(caught.value).reason == "UNAVAILABLE"
    async with running_server.running(database_url, clock) as market:
        reader = watch(market, job, renter, events[-1].id)
        await reader.opened()
        daemon = await market.daemon(provider, held_leases=[lease])
        await daemon.expect("lease_directive")
        await daemon.output(lease, 2, b"after")
        await daemon.finished(lease, last_output_seq=2)
        events += await reader.until("end")
        assert text(events) == "before, after"


async def test_reader_whose_key_is_revoked_is_sent_away(market: Market) -> None:
    renter = await market.renter()
    job = await market.submit(renter, wait_for_supply=True)
    made = await market.key_service.CreateKey(
        keys_pb2.CreateKeyRequest(name="watcher", scopes=[options_pb2.SCOPE_READ]), metadata=renter.metadata
    )
    reader, other = watch(market, job, Party(renter.id, made.api_key)), watch(market, job, renter)
    await reader.next()
    await other.next()
    await market.key_service.RevokeKey(
        keys_pb2.RevokeKeyRequest(key_id=made.key.id), metadata=renter.metadata
    )
    await market.later(61)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await reader.next()
    assert read_refusal(caught.value).reason == "INVALID_CREDENTIAL"
    await market.cancel(job, renter)
    assert kinds([await other.next()]) == ["end"]


async def test_hint_that_was_lost_costs_only_time(market: Market) -> None:
    renter = await market.renter()
    job = await market.submit(renter, wait_for_supply=True)
    reader = watch(market, job, renter)
    await reader.next()
    market.server._database.announce = lambda changed: None
    await market.cancel(job, renter)
    for feed in market.server.services.watches.feeds:
        feed.look()
    assert kinds([await reader.next()]) == ["end"]


class Statements(logging.Handler):
    """Counts the statements that read chunks, as peewee logs them."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.count = 0

    def emit(self, record: logging.LogRecord) -> None:
        self.count += 'FROM "chunk"' in str(record.msg)


@contextmanager
def counting() -> Iterator[Statements]:
    log, counted = logging.getLogger("peewee"), Statements()
    log.addHandler(counted)
    log.setLevel(logging.DEBUG)
    try:
        yield counted
    finally:
        log.removeHandler(counted)
        log.setLevel(logging.NOTSET)

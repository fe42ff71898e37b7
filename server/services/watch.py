"""Watchers of jobs: each gets the events after its cursor, from what is stored, as they happen.

A hint of the bus only wakes them; a chunk that is being stored at this server is shown to them at once,
before its commit. All readers of one job share its reads: the newest events are kept for those that follow
closely, and who is behind reads pages from the database, so a slow reader costs no more than a page.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

from server.bus import Bus
from server.clock import Clock, ms
from server.domain.errors import DomainError, Reason
from server.domain.jobs import Job
from server.domain.leases import Channel
from server.domain.messages import Chunk
from server.domain.preparations import Preparation
from server.domain.watch import (
    PAGE_BYTES,
    Cursor,
    Event,
    Seen,
    Step,
    Text,
    check,
    final_events,
    parse_event_id,
    shown_events,
    state_events,
    text_events,
)
from server.services.attendance import Attendance, Attending
from server.services.jobs import visible
from server.services.keys import PROVIDER, Caller
from server.services.preparations import Preparations
from server.store import jobs, keys, leases
from server.store.database import Database
from server.store.operators import access

LIFE_SECONDS = 3600.0
"""How long a reader is served before it has to come again."""
LOOK_SECONDS = 15.0
"""How often a watched job is looked at although no hint came."""
CHECK_SECONDS = 60.0
"""How often the keys of readers are checked."""
RETRY_SECONDS = 1
CHUNKS_BYTES = 64 * 1024
TAIL_BYTES = 64 * 1024
"""Most bytes of the newest events of a job that are kept for its readers."""
_EVENT_BYTES = 256


@dataclass(frozen=True, slots=True)
class WatchLimits:
    """How many readers there may be at once."""

    of_job: int = 1000
    of_account: int = 2000
    in_all: int = 5000
    """Half of the streams that one gateway's connection can have."""


@dataclass(eq=False, slots=True)
class Reader:
    """Who watches a job, with a key or the admin token."""

    key_id: int
    is_operator: bool
    feed: Feed
    has_lost_its_key: bool = False


@dataclass(frozen=True, slots=True)
class Page:
    """Events after a cursor, in order."""

    events: Sequence[Event]
    job: Job
    is_full: bool
    """Whether more are stored."""


class Watches:
    """All readers of jobs on this server."""

    def __init__(
        self,
        database: Database,
        bus: Bus,
        clock: Clock,
        preparations: Preparations,
        attendance: Attendance,
        limits: WatchLimits | None = None,
    ) -> None:
        self._database = database
        self._bus = bus
        self._clock = clock
        self._preparations = preparations
        self._attendance = attendance
        preparations.changed = self._note_preparation
        self.limits = limits or WatchLimits()
        self._feeds: dict[str, Feed] = {}
        self._accounts: Counter[tuple[str, int]] = Counter()
        self._readers: set[Reader] = set()
        self._is_stopping = False
        self._next_check = clock.now() + CHECK_SECONDS

    @property
    def readers(self) -> int:
        """How many readers there are."""
        return len(self._readers)

    @property
    def feeds(self) -> list[Feed]:
        """Those of the jobs that have readers."""
        return list(self._feeds.values())

    async def watch(
        self, caller: Caller, job_id: str, last_event_id: str, *, cancels_when_left: bool = False
    ) -> AsyncGenerator[Sequence[Event], None]:
        """The events after ``last_event_id``, in batches, up to the end of the job.

        ``cancels_when_left``: the reader attends the job (``server.services.attendance``).

        The first batch is empty if nothing is to be sent yet; without any batch, there will never be.
        Raises JOB_NOT_FOUND, NOT_OWNER, INVALID_FIELD and RATE_LIMITED before the first batch; later
        UNAVAILABLE when the reader has to come again, and NOT_OWNER when another provider has the job.
        """
        cursor = parse_event_id(job_id, last_event_id) if last_event_id else Cursor()
        self._refuse_too_many(caller, job_id)
        await self._database.read(lambda: _open(caller, job_id, cursor))
        until = self._clock.now() + LIFE_SECONDS
        attended = self._attendance.of(caller, job_id) if cancels_when_left else nullcontext(Attending())
        with self._counted(caller, job_id) as reader, attended as attending:
            feed, is_first = reader.feed, True
            last: Preparation | None = None
            while True:
                seen, stirred = feed.version, feed.stirred
                page = await feed.after(cursor)
                _refuse_former(caller, page.job)
                if page.events or (is_first and cursor.step is not Step.END):
                    yield page.events
                is_first = False
                if page.events:
                    cursor = page.events[-1].cursor
                if cursor.step is Step.END:
                    attending.has_seen_end = True
                    return
                preparation = self._preparations.of(page.job)
                if preparation not in (None, last) and cursor.step is not Step.NOTHING:
                    yield [Event(cursor, preparation)]
                last = preparation
                if not page.events:
                    await feed.news(seen, stirred)
                self._refuse_further(reader, until)

    def _note_preparation(self, job_id: str) -> None:
        if (feed := self._feeds.get(job_id)) is not None:
            feed.stir()

    def _refuse_further(self, reader: Reader, until: float) -> None:
        """Raises UNAVAILABLE if the reader has to come again, and INVALID_CREDENTIAL if it may not."""
        if reader.has_lost_its_key:
            raise DomainError(Reason.INVALID_CREDENTIAL, "this key is no longer valid")
        if self._is_stopping:
            raise _come_again("the server is stopping")
        if self._clock.now() >= until:
            raise _come_again(f"the stream was open for {LIFE_SECONDS / 60:.0f} minutes")

    def show(self, chunk: Chunk) -> None:
        """Shows a chunk to the readers of its job while it is stored, whose guards have passed.

        Called in the thread of the transaction. If its commit fails, the daemon sends the same chunk again,
        or its attempt is over, which the readers learn.
        """
        feed = self._feeds.get(chunk.lease.job_id)
        if feed is not None:
            feed.call_soon(lambda: feed.show(chunk))

    def stored(self, job_ids: Iterable[str]) -> None:
        """Jobs have a new chunk. Called after its commit, in the thread of the transaction."""
        for job_id in job_ids:
            feed = self._feeds.get(job_id)
            if feed is not None:
                feed.call_soon(feed.stored)

    def check_soon(self) -> None:
        """Lets the next look check every key: some may have ended."""
        self._next_check = 0.0

    async def check_credentials(self) -> None:
        """Every minute sends away the readers whose key was revoked or has expired."""
        if self._clock.now() < self._next_check:
            return
        self._next_check = self._clock.now() + CHECK_SECONDS
        for is_operator, find_valid in ((False, keys.valid), (True, access.valid)):
            await self._check_keys(is_operator, find_valid)

    async def _check_keys(
        self, is_operator: bool, find_valid: Callable[[Sequence[int], int], set[int]]
    ) -> None:
        readers = [reader for reader in self._readers if reader.is_operator == is_operator]
        used = {reader.key_id for reader in readers} - {0}
        if not used:
            return
        now_ms = ms(self._clock)
        valid = await self._database.read(lambda: find_valid(tuple(used), now_ms))
        for reader in readers:
            if reader.key_id in used - valid:
                reader.has_lost_its_key = True
                reader.feed.changed()

    async def stop(self) -> None:
        """Ends all readers such that they come again."""
        self._is_stopping = True
        await self._attendance.stop()
        for feed in self._feeds.values():
            feed.changed()

    @contextmanager
    def _counted(self, caller: Caller, job_id: str) -> Iterator[Reader]:
        self._refuse_too_many(caller, job_id)
        account = (caller.role, caller.id)
        feed = self._feeds.get(job_id)
        if feed is None:
            feed = self._feeds[job_id] = Feed(
                lambda cursor: self._database.read(lambda: read_page(job_id, cursor))
            )
            feed.leave_bus = self._bus.subscribe(job_id, feed.changed)
        reader = Reader(caller.key_id, caller.operator is not None, feed)
        self._readers.add(reader)
        feed.readers += 1
        self._accounts[account] += 1
        try:
            yield reader
        finally:
            self._readers.discard(reader)
            self._accounts[account] -= 1
            if not self._accounts[account]:
                del self._accounts[account]
            feed.readers -= 1
            if not feed.readers:
                feed.close()
                del self._feeds[job_id]

    def _refuse_too_many(self, caller: Caller, job_id: str) -> None:
        if self._is_stopping:
            raise _come_again("the server is stopping")
        feed = self._feeds.get(job_id)
        for count, most, whose in (
            (feed.readers if feed else 0, self.limits.of_job, "this job"),
            (self._accounts[caller.role, caller.id], self.limits.of_account, "this account"),
            (self.readers, self.limits.in_all, "all jobs together"),
        ):
            if count >= most:
                raise DomainError(
                    Reason.RATE_LIMITED,
                    f"{whose} may have {most} watchers at once; close some, or ask for the job's state "
                    "instead",
                    retry_after_seconds=30,
                )


class Feed:
    """The events of one job for all of its readers.

    The tail has the newest ones, up to TAIL_BYTES; whoever has one of their cursors is served from it. All
    others read pages.
    """

    def __init__(self, read: Callable[[Cursor], Awaitable[Page]]) -> None:
        self.readers = 0
        self.version = 0
        """Rises with each hint."""
        self.stirred = 0
        """Rises when there is something to say that is not stored."""
        self.leave_bus: Callable[[], None] = lambda: None
        self._read = read
        self._news = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_later(LOOK_SECONDS, self.look)
        self._tasks: dict[tuple[Cursor, int], asyncio.Task[Page]] = {}
        self._tail = _Tail()
        self._has_newest = False
        """Whether the tail has the chunk that came last."""

    @property
    def held_bytes(self) -> int:
        """The bytes of the texts that are kept for its readers."""
        return self._tail.size

    def call_soon(self, work: Callable[[], None]) -> None:
        """Calls it on the event loop; any thread may ask."""
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(work)

    def show(self, chunk: Chunk) -> None:
        """A chunk is being stored: those who have all before it get it without a read."""
        tail = self._tail
        if (page := tail.shown(chunk)) is not None:
            is_current = tail.version == self.version
            self.changed()
            tail.add(page, self.version if is_current else tail.version)
        self._has_newest = tail.has(chunk)

    def stored(self) -> None:
        """The last chunk that was shown, or one that nobody could be shown, is stored."""
        if not self._has_newest:
            self.changed()

    def changed(self) -> None:
        """The job has changed."""
        self.version += 1
        self._wake()

    def stir(self) -> None:
        """There is something to say about the job that is not stored: nothing is read for it."""
        self.stirred += 1
        self._wake()

    def _wake(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()

    async def news(self, version: int, stirred: int) -> None:
        """Waits until something has changed since a version, or there is something else to say."""
        while (self.version, self.stirred) == (version, stirred):
            await self._news.wait()

    async def after(self, cursor: Cursor) -> Page:
        """The next events after a cursor; none if there are none at the version at which it was called."""
        version = self.version
        while True:
            kept = self._tail.after(cursor)
            if kept is None:
                page = await self._shared(cursor)
                if not page.is_full:
                    self._tail.begin(cursor, page, version)
                return page
            if kept.events or self._tail.version >= version:
                return kept
            await self._refresh()

    def close(self) -> None:
        """Frees everything. Nobody reads any more."""
        self.leave_bus()
        self._timer.cancel()
        for task in self._tasks.values():
            task.cancel()

    def look(self) -> None:
        """Acts as if the job had changed, in case that a hint was lost."""
        self._timer.cancel()
        self.changed()
        self._timer = self._loop.call_later(LOOK_SECONDS, self.look)

    async def _refresh(self) -> None:
        """Adds to the tail what is stored after it."""
        version, tip = self.version, self._tail.tip
        page = await self._shared(tip)
        if self._tail.tip == tip:
            self._tail.add(page, version if not page.is_full else self._tail.version)

    async def _shared(self, cursor: Cursor) -> Page:
        """Reads a page; readers with the same cursor share the read, unless it began before a change."""
        key = cursor, self.version
        task = self._tasks.get(key)
        if task is None:
            # Without the context of the call that happens to come first: the read is not its own.
            task = contextvars.Context().run(self._loop.create_task, _coroutine(self._read(cursor)))
            self._tasks[key] = task
            task.add_done_callback(lambda _: self._tasks.pop(key, None))
        return await asyncio.shield(task)


class _Tail:
    """The newest events of a job, and the cursors before and after each."""

    def __init__(self) -> None:
        self.version = -1
        """The version of the feed at which nothing more was stored."""
        self.size = 0
        self._events: list[Event] = []
        self._places: dict[Cursor, int] = {}
        """How many events were dropped and kept before each cursor."""
        self._dropped = 0
        self._job: Job | None = None
        self.tip = Cursor()

    def after(self, cursor: Cursor) -> Page | None:
        """What is kept after a cursor; None for a cursor that is not in the tail."""
        place = self._places.get(cursor)
        if place is None or self._job is None:
            return None
        return Page(tuple(self._events[place - self._dropped :]), self._job, is_full=False)

    def shown(self, chunk: Chunk) -> Page | None:
        """The events of a chunk, if it follows the newest one; None if it does not."""
        job, epoch = self._job, chunk.lease.lease_epoch
        if job is None:
            return None
        events = shown_events(self.tip, job, epoch, chunk.stream, chunk.seq, chunk.data)
        return Page(events, job, is_full=False) if events else None

    def has(self, chunk: Chunk) -> bool:
        """Whether the events of a whole chunk are there."""
        is_of_attempt = self.tip.lease_epoch == chunk.lease.lease_epoch
        return is_of_attempt and self.tip.place(chunk.stream).seq > chunk.seq

    def begin(self, cursor: Cursor, page: Page, version: int) -> None:
        """Begins with a page that a reader read to its end, unless the tail has begun."""
        if self._job is None:
            self.tip = page.events[-1].cursor if page.events else cursor
            self._job, self.version = page.job, version
            self._places = {self.tip: 0}

    def add(self, page: Page, version: int) -> None:
        """Adds what was read after the tip."""
        self._job, self.version = page.job, version
        for event in page.events:
            self._events.append(event)
            self.size += _size(event)
            self.tip = event.cursor
            self._places[self.tip] = self._dropped + len(self._events)
        self._trim()

    def _trim(self) -> None:
        drop = 0
        while self.size > TAIL_BYTES:
            self.size -= _size(self._events[drop])
            drop += 1
        if drop:
            del self._events[:drop]
            self._dropped += drop
            self._places = {c: place for c, place in self._places.items() if place >= self._dropped}


def _size(event: Event) -> int:
    """What an event takes, at least as much as it holds; an end holds a job without its request."""
    return _EVENT_BYTES + (len(event.kind.data) if isinstance(event.kind, Text) else 0)


async def _coroutine(reading: Awaitable[Page]) -> Page:
    return await reading


def _open(caller: Caller, job_id: str, cursor: Cursor) -> None:
    """Raises JOB_NOT_FOUND, NOT_OWNER, and INVALID_FIELD for a cursor that cannot be."""
    visible(caller, job_id)
    if cursor.step is not Step.NOTHING:
        check(cursor, _seen(job_id, cursor))


def _seen(job_id: str, cursor: Cursor) -> Seen:
    job = jobs.get_listed(job_id)
    if job is None:
        raise DomainError(Reason.JOB_NOT_FOUND, f"job_id: no job {job_id!r}", field="job_id")
    epoch, known = job.lease_epoch, cursor.lease_epoch
    return Seen(
        job,
        leases.get(job_id, epoch) if epoch else None,
        leases.get(job_id, known) if 0 < known < epoch else None,
        job.texts_removed_ms is not None or bool(job.is_renter_deleted),
    )


def read_page(job_id: str, cursor: Cursor) -> Page:
    """The next events after a cursor. It runs in a read transaction, and is short whatever is stored."""
    seen = _seen(job_id, cursor)
    events = list(state_events(cursor, seen))
    cursor = events[-1].cursor if events else cursor
    for channel in _channels(cursor, seen):
        is_full = _add_texts(events, cursor, channel, seen)
        cursor = events[-1].cursor if events else cursor
        if is_full:
            return Page(events, seen.job, is_full=True)
    if seen.is_final:
        events += final_events(cursor, seen)
    return Page(events, seen.job, is_full=False)


def _channels(cursor: Cursor, seen: Seen) -> list[Channel]:
    """The channels whose texts are sent."""
    if seen.lease is None or seen.waits or seen.texts_removed or cursor.step >= Step.FILE:
        return []
    return [Channel.LOG] if seen.is_image else [Channel.OUTPUT, Channel.LOG]


def _add_texts(events: list[Event], cursor: Cursor, channel: Channel, seen: Seen) -> bool:
    """Adds what is stored of a channel after the cursor; returns whether more is."""
    lease, place = seen.lease, cursor.place(channel)
    assert lease is not None
    through = lease.output_through_seq if channel is Channel.OUTPUT else lease.log_through_seq
    if place.seq > through:
        return False
    chunks = leases.chunks_from(lease.job_id, lease.lease_epoch, channel, place.seq, CHUNKS_BYTES)
    is_whole = bool(chunks) and chunks[-1][0] == through
    is_last = seen.is_final and is_whole
    size = 0
    for event in text_events(cursor, channel, chunks, is_last=is_last, most_bytes=PAGE_BYTES):
        events.append(event)
        size += _size(event) - _EVENT_BYTES
    return bool(chunks) and (not is_whole or size >= PAGE_BYTES)


def _refuse_former(caller: Caller, job: Job) -> None:
    """Raises NOT_OWNER for a provider that no longer has the job."""
    if caller.role == PROVIDER and job.provider_id != caller.id:
        raise DomainError(
            Reason.NOT_OWNER, "this job is no longer yours: it waits again or another provider has it"
        )


def _come_again(why: str) -> DomainError:
    return DomainError(
        Reason.UNAVAILABLE,
        f"{why}; open it again with the id of the last event as Last-Event-ID, and it continues",
        retry_after_seconds=RETRY_SECONDS,
    )

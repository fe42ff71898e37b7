"""What other servers do, as this one knows it: their sessions, in its fleet, and the hints that they send.

The rows tell; a hint of the bus only makes this server look at once instead of within the next second or so.
A look costs one query over the sessions at other servers, and it is rarer when that takes long.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from server.bus import Bus, Topic
from server.clock import ms
from server.domain.honesty import Verdict
from server.domain.jobs import FINAL
from server.domain.leases import LeaseState
from server.domain.messages import Reconnect, ServerMessage
from server.domain.placement import Model
from server.domain.reliability import TrackRecord
from server.services.each import side_by_side
from server.services.fleet import Presence
from server.services.sessions import Shared, farewell
from server.services.streams import Streams
from server.store import jobs, leases, providers, reliability, sessions, terms
from server.store.providers import ProviderRow
from server.store.sessions import Elsewhere
from server.store.terms import Commitments

log = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
# A look takes at most this part of the time.
LOOK_SHARE = 0.05
# How old what seldom changes may be of a session at another server, such as its GPUs' health.
FULL_MS = 60_000
# Providers that one transaction reads whole.
BATCH = 200
ROWS_AT_ONCE = 500
RECONNECTS_PER_SECOND = 500.0


@dataclass(frozen=True, slots=True)
class _Whole:
    """A provider's row with what its session needs."""

    row: ProviderRow
    models: list[Model]
    commitments: Commitments
    record: TrackRecord


@dataclass(frozen=True, slots=True)
class _Known:
    """Which state of a session elsewhere was read whole, and when."""

    session_epoch: int
    capacity_no: int
    read_ms: int


class Neighbours:
    """Keeps the sessions of other servers in this server's fleet, and follows their hints."""

    def __init__(self, shared: Shared, streams: Streams, bus: Bus) -> None:
        self._database = shared.database
        self._servers = shared.servers
        self._fleet = shared.fleet
        self._dispatch = shared.dispatch
        self._heartbeats = shared.heartbeats
        self._clock = shared.clock
        self._streams = streams
        self._known: dict[int, _Known] = {}
        self._next_look = 0.0
        self._streamless: dict[int, int] = {}
        """The sessions on record here that the last look found without a stream, with their epochs."""
        self._told: set[tuple[str, int]] = set()
        """The runs whose cancel was passed on to daemons here."""
        self._changed = _Gathered("changes at other servers", self._look_at)
        self._placed = _Gathered("a job that another server queued", self._offer)
        self._ended = _Gathered("runs that another server ended", self._end_runs)
        bus.listen(Topic.PROVIDER, self._hear_of_providers)
        bus.listen(Topic.PLACED, self._placed.add)
        bus.listen(Topic.ENDED, self._ended.add)
        bus.listen(Topic.SLOTS, self._hear_of_slots)

    async def tick(self) -> None:
        """Looks at the sessions of other servers, unless the last look was too short a time ago."""
        if self._database.is_sqlite or time.monotonic() < self._next_look:
            return
        began = time.monotonic()
        await self._look()
        await self._end_cancelled()
        took = time.monotonic() - began
        self._next_look = began + max(LOOK_SECONDS, took / LOOK_SHARE)

    async def stop(self) -> None:
        """Waits for no hint any more."""
        for gathered in (self._changed, self._placed, self._ended):
            gathered.stop()

    def _hear_of_providers(self, ids: frozenset[str]) -> None:
        if ids:
            self._changed.add(ids)
        else:
            self._next_look = 0.0

    def _hear_of_slots(self, ids: frozenset[str]) -> None:
        now_ms = ms(self._clock)
        for provider_id, epoch, slots in (found for text in ids if (found := _numbers(text, 3))):
            presence = self._fleet.get(provider_id)
            if presence is not None and not presence.is_here and presence.session_epoch == epoch:
                presence.note_used(slots, now_ms)

    async def _offer(self, ids: Sequence[str]) -> None:
        wanted = [provider_id for text in ids for provider_id in _numbers(text, 1) or ()]
        await side_by_side("a provider's free slots", wanted, self._dispatch.offer)

    async def _end_runs(self, ids: Sequence[str]) -> None:
        await side_by_side("a run that another server ended", ids, self._end_run)

    async def _end_run(self, text: str) -> None:
        """Ends a run if what is stored says so, too."""
        provider, _, rest = text.partition(" ")
        job_id, _, epoch = rest.partition(" ")
        named = _numbers(f"{provider} {epoch}", 2)
        if not named or not job_id.isprintable() or self._fleet.get_here(named[0]) is None:
            return
        provider_id, lease_epoch = named
        found = await self._database.read(partial(_is_to_end, job_id, lease_epoch))
        if found is not None:
            self._dispatch.end_run(provider_id, job_id, lease_epoch, keep_files=found)
            await self._dispatch.fill(provider_id)

    async def _end_cancelled(self) -> None:
        """Ends the cancelled runs whose hint was lost."""
        if not self._servers.are_several:
            return
        found = await self._database.read(jobs.cancelled_runs)
        runs = {(job_id, epoch) for job_id, _, epoch, _ in found}
        for job_id, provider_id, epoch, keep_files in found:
            if (job_id, epoch) not in self._told:
                self._dispatch.end_run(provider_id, job_id, epoch, keep_files=keep_files)
        self._told = runs

    async def _look(self) -> None:
        """Compares the fleet with the rows: what is new is read whole, what has ended here begins anew."""
        before = self._epochs_here()

        def read() -> tuple[list[Elsewhere], dict[int, tuple[int, int]], dict[int, int]]:
            elsewhere = sessions.elsewhere(self._servers.id)
            used = leases.open_by_provider() if elsewhere else {}
            return elsewhere, used, sessions.open_at(self._servers.id)

        elsewhere, used, own = await self._database.read(read)
        now_ms = ms(self._clock)
        self._drop(self._known.keys() - {row.provider_id for row in elsewhere})
        to_read = []
        for number, row in enumerate(elsewhere):
            if number % ROWS_AT_ONCE == ROWS_AT_ONCE - 1:
                await asyncio.sleep(0)  # thousands of sessions must not block the event loop
            presence, known = self._fleet.get(row.provider_id), self._known.get(row.provider_id)
            is_known = known is not None and presence is not None and not presence.is_here
            if not is_known or not _is_fresh(known, row, now_ms):
                to_read.append(row.provider_id)
                continue
            assert presence is not None
            presence.draining = row.draining
            self._fleet.hear_of(row.provider_id, row.last_heartbeat_ms, row.renewed_ms)
            used_slots, presence.open_value_micros = used.get(row.provider_id, (0, 0))
            presence.note_used(used_slots, now_ms)
        await self._read_whole(to_read)
        self._begin_anew([id_ for id_, epoch in before.items() if own.get(id_) != epoch], before)
        await self._end_without_stream(own)

    async def _end_without_stream(self, own: Mapping[int, int]) -> None:
        """Ends sessions on record here that two looks found without a stream.

        Their Hello was stored, but the answer to its COMMIT was lost, or the stream broke at that moment.
        """
        here = self._epochs_here()
        streamless = {id_: epoch for id_, epoch in own.items() if here.get(id_) != epoch}
        ended = [(id_, epoch) for id_, epoch in streamless.items() if self._streamless.get(id_) == epoch]
        self._streamless = streamless
        if ended:
            await self._database.run(lambda: sessions.end_each(ended))
            log.warning("ended sessions without a stream count=%d", len(ended))

    def _epochs_here(self) -> dict[int, int]:
        """The epochs of the sessions whose streams are here, by provider."""
        return {presence.provider_id: presence.session_epoch for presence in self._fleet.here()}

    def _begin_anew(self, provider_ids: Sequence[int], epochs: dict[int, int]) -> None:
        """Asks daemons to reconnect whose session is no longer on record, though its stream is open.

        Another server has taken this one for gone, or a newer session of the provider has come and gone.
        """
        for provider_id in provider_ids:
            presence = self._fleet.get_here(provider_id)
            if presence is not None and presence.session_epoch == epochs[provider_id]:
                log.warning(
                    "a session is no longer on record provider_id=%d session_epoch=%d",
                    provider_id,
                    presence.session_epoch,
                )
                presence.send(Reconnect(0.0, len(provider_ids) / RECONNECTS_PER_SECOND))

    def _drop(self, provider_ids: Iterable[int]) -> None:
        for provider_id in list(provider_ids):
            self._known.pop(provider_id, None)
            presence = self._fleet.get(provider_id)
            if presence is not None and not presence.is_here:
                self._fleet.leave(presence)

    async def _look_at(self, ids: Sequence[str]) -> None:
        wanted = [provider_id for text in ids for provider_id in _numbers(text, 1) or ()]
        await self._read_whole(wanted)

    async def _read_whole(self, provider_ids: Sequence[int]) -> None:
        for first in range(0, len(provider_ids), BATCH):
            batch = provider_ids[first : first + BATCH]
            found = await self._database.read(partial(_whole, batch))
            now_ms = ms(self._clock)
            for whole in found:
                if whole.row.server_id in (None, self._servers.id):
                    self._drop([whole.row.id])
                    self._refresh(whole)
                    continue
                self._known[whole.row.id] = _Known(whole.row.session_epoch, whole.row.capacity_no, now_ms)
                self._join(whole, now_ms)

    def _refresh(self, whole: _Whole) -> None:
        """Applies to a session here what another server stored of its provider."""
        presence = self._fleet.get_here(whole.row.id)
        if presence is None or presence.session_epoch != whole.row.session_epoch:
            return
        presence.apply_terms(whole.commitments.terms)
        self._fleet.apply(presence, whole.commitments.granted)
        if judged := self._fleet.judged.get(whole.row.id):
            judged.again_ms = min(judged.again_ms, ms(self._clock))  # it may have proved its GPUs
        if presence.state is not whole.row.state:
            presence.state = whole.row.state
            self._streams.recheck(whole.row.id, whole.row.state)

    def _join(self, whole: _Whole, now_ms: int) -> None:
        row, stored = whole.row, whole.commitments
        presence = Presence(
            row.id,
            row.session_epoch,
            row.boot_id,
            _send_nothing,
            now_ms,
            row.slots,
            row.job_types,
            tuple(whole.models),
            row.gpu_model,
            row.gpu_vram_mib,
            draining=row.draining,
            state=row.state,
            terms=stored.terms,
            self_tests=row.self_tests,
            is_suspect=row.verdict is Verdict.SUSPECT,
            runs_plain_processes=row.runs_plain_processes,
            image_patterns=row.image_patterns,
            architecture=row.architecture,
            open_value_micros=stored.open_value_micros,
            record=whole.record,
            is_here=False,
        )
        presence.note_temperature(row.report)
        presence.note_used(stored.used_slots, now_ms)
        self._fleet.apply(presence, stored.granted)
        self._heartbeats.refresh_hindrances(presence, row.report)
        older = self._fleet.join(presence)
        self._fleet.hear_of(row.id, row.last_heartbeat_ms or 0, row.last_heartbeat_ms or 0)
        if older is not None and older is not presence and older.is_here:
            older.send(farewell(older, presence))


class _Gathered:
    """Hints that wait for the work at those before them; one that comes again meanwhile is one."""

    def __init__(self, what: str, work: Callable[[Sequence[str]], Awaitable[None]]) -> None:
        self._what = what
        self._work = work
        self._waiting: dict[str, None] = {}
        self._task: asyncio.Task[None] | None = None

    def add(self, ids: frozenset[str]) -> None:
        """Works at these ids, after those before them."""
        self._waiting.update(dict.fromkeys(ids))
        if self._waiting and self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run())

    def stop(self) -> None:
        """Drops what waits."""
        self._waiting.clear()
        if self._task is not None:
            self._task.cancel()

    async def _run(self) -> None:
        try:
            while self._waiting:
                ids, self._waiting = list(self._waiting), {}
                try:
                    await self._work(ids)
                except Exception as error:
                    # The next look finds what this one missed.
                    log.warning("could not follow a hint what=%s error=%r", self._what, error)
        finally:
            self._task = None


def _is_fresh(known: _Known | None, row: Elsewhere, now_ms: int) -> bool:
    return (
        known is not None
        and known.session_epoch == row.session_epoch
        and known.capacity_no == row.capacity_no
        and now_ms - known.read_ms < FULL_MS
    )


def _whole(provider_ids: Sequence[int]) -> list[_Whole]:
    """Providers as rows, with all that their sessions need. Inside a transaction."""
    rows = providers.by_ids(provider_ids)
    ids = [row.id for row in rows]
    if not ids:
        return []
    models, records = providers.models_of(ids), reliability.track_records(ids)
    bound = terms.commitments_of(ids)
    return [_Whole(row, models[row.id], bound[row.id], records[row.id]) for row in rows]


def _is_to_end(job_id: str, lease_epoch: int) -> bool | None:
    """Whether a run that is to end keeps its files; None: it has not ended for the market, and nobody
    requested its cancel. Inside a transaction.
    """
    lease, job = leases.get(job_id, lease_epoch), jobs.get(job_id)
    if lease is None or job is None:
        return None
    if lease.state is LeaseState.ENDED or job.state in FINAL:
        return False
    return job.keeps_files if job.cancel_requested else None


def _numbers(text: str, count: int) -> list[int] | None:
    parts = text.split(" ")
    if len(parts) != count or not all(
        part.isascii() and part.isdecimal() and len(part) < 19 for part in parts
    ):
        return None
    return [int(part) for part in parts]


def _send_nothing(message: ServerMessage) -> None:
    """The server that has the session sends its messages."""

"""Heartbeats, by stream and by POST: noted in memory, written in batches, judged.

No heartbeat has a write of its own: the newest of each provider waits here, and ``write_all`` writes them
in one transaction a second. How a heartbeat affects a session's leases is in server.services.sessions.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from server.clock import Clock, ms
from server.domain.gpus import GpuReport, without_figures
from server.domain.hindrances import Minimums, hindrances
from server.domain.providers import ProviderStatus, is_live, status
from server.services.each import raise_if_all, together
from server.services.fleet import Fleet, Presence
from server.services.honesty import Honesty
from server.services.metrics import Metrics
from server.services.providers import ANY_VERSION, existing, refuse_shut_out
from server.store import sessions
from server.store.database import Database, PartError
from server.store.sessions import Beat

# How old the stored figures of a live provider may be, such as temperatures.
FIGURES_MS = 60_000


class Heartbeats:
    """The heartbeats of all providers of this server."""

    def __init__(
        self,
        database: Database,
        fleet: Fleet,
        metrics: Metrics,
        clock: Clock,
        minimums: Minimums = ANY_VERSION,
        checks_are_on: bool = False,
    ) -> None:
        self._database = database
        self._fleet = fleet
        self._metrics = metrics
        self._clock = clock
        self._minimums = minimums
        self.honesty = Honesty(database, fleet, clock, checks_are_on)
        self._unwritten: dict[int, Beat] = {}
        self._written: dict[int, tuple[int, int]] = {}
        """Of each provider's newest stored report, when it was reported and a hash of all but its figures."""
        self.store_is_up = True
        """Whether the last batch of heartbeats was written, or at least some of it."""
        self.recorded = 0
        """How many heartbeats have arrived since the start."""
        self.refused: dict[int, PartError] = {}
        """The providers whose newest heartbeat could not be written, when those of others could."""

    async def post(self, provider_id: int, report: GpuReport) -> ProviderStatus:
        """Records a heartbeat by POST. Raises PROVIDER_SUSPENDED, PROVIDER_NOT_APPROVED."""
        provider = await self._database.read(lambda: existing(provider_id))
        refuse_shut_out(provider.state)
        await self.record(provider_id, report, renews=False)
        return status(provider.state, True, provider.draining)

    async def record(self, provider_id: int, report: GpuReport | None, *, renews: bool) -> None:
        """Records a heartbeat by stream or by POST; only a heartbeat by stream ``renews`` the leases.

        It is written with the next batch. A heartbeat that brings a provider back is written at once, so
        that every server sees the provider as live.
        """
        self.recorded += 1
        now_ms = ms(self._clock)
        was_live = is_live(self._fleet.last_heartbeat_ms(provider_id, None), now_ms)
        self._keep(Beat(provider_id, now_ms, report, now_ms if renews else None))
        self._fleet.beat(provider_id, now_ms, report, renews=renews)
        if not was_live:
            await self.write_all()
            if error := self.refused.get(provider_id):
                raise error
        self._read(provider_id, report)

    def opened(self, beat: Beat) -> None:
        """Takes the first heartbeat of a session, which was written together with its Hello."""
        if beat.provider_id in self._unwritten:
            self._keep(beat)  # what an earlier one brought must not be lost, nor be written after this one
        self._note_written([beat])
        self.refused.pop(beat.provider_id, None)
        self._fleet.beat(beat.provider_id, beat.at_ms, beat.report)
        self._read(beat.provider_id, beat.report)

    def _read(self, provider_id: int, report: GpuReport | None) -> None:
        if report:
            self._metrics.record(provider_id, report)
            if presence := self._fleet.get(provider_id):
                self.refresh_hindrances(presence, report)
            self.honesty.reported(provider_id, report)

    def refresh_hindrances(self, presence: Presence, report: GpuReport) -> None:
        """Computes what keeps jobs away from a session, by its self-tests and this report."""
        presence.hindrances = hindrances(report, presence.self_tests, self._minimums)

    @property
    def unwritten(self) -> int:
        """How many providers' heartbeats wait to be written."""
        return len(self._unwritten)

    def is_stored(self, provider_id: int) -> bool:
        """Whether a provider's newest heartbeats were written. Renewals are acknowledged only then."""
        return self.store_is_up and provider_id not in self.refused

    async def write_all(self) -> None:
        """Writes all waiting heartbeats in one transaction; keeps those that could not be written.

        One that cannot be written holds up no other. Raises the error if none could be written.
        """
        beats, self._unwritten = self._unwritten, {}
        if not beats:
            return

        def write(provider_ids: Sequence[int]) -> None:
            sessions.write_beats(self._to_write(beats[provider_id]) for provider_id in provider_ids)

        known = frozenset(self.refused)
        try:
            failed = await together(self._database, "a heartbeat", list(beats), write, known)
        except Exception:
            self.store_is_up = False
            self._unwritten = beats | self._unwritten
            raise
        # A batch with none but those that were refused before says nothing of the database.
        self.store_is_up = len(failed) < len(beats) or failed.keys() <= known
        self._unwritten = {provider_id: beats[provider_id] for provider_id in failed} | self._unwritten
        others = {other: error for other, error in self.refused.items() if other not in beats}
        self.refused = others | failed
        self._note_written(beat for provider_id, beat in beats.items() if provider_id not in failed)
        raise_if_all(failed, list(beats))

    def _to_write(self, beat: Beat) -> Beat:
        """The heartbeat without its report if only figures have changed since a report was stored lately.

        A report is written in full at least once a minute. The newest is read from memory.
        """
        if not beat.report:
            return beat
        at_ms, known = self._written.get(beat.provider_id, (0, 0))
        is_new = beat.at_ms - at_ms >= FIGURES_MS or known != hash(without_figures(beat.report))
        return beat if is_new else replace(beat, report=None)

    def _note_written(self, beats: Iterable[Beat]) -> None:
        for beat in beats:
            is_newest = beat.at_ms >= self._written.get(beat.provider_id, (0, 0))[0]
            if is_newest and beat.report and self._to_write(beat).report:
                self._written[beat.provider_id] = (beat.at_ms, hash(without_figures(beat.report)))

    def forget_gone(self) -> None:
        """Drops what is known of providers that are gone, so that memory use follows the live fleet."""
        for provider_id in [known for known in self._written if not self._fleet.is_heard(known)]:
            del self._written[provider_id]

    def _keep(self, beat: Beat) -> None:
        """Keeps a heartbeat for the next batch; takes what it lacks from an earlier one that waits."""
        if waiting := self._unwritten.get(beat.provider_id):
            beat = replace(
                beat,
                report=beat.report or waiting.report,
                renewed_ms=waiting.renewed_ms if beat.renewed_ms is None else beat.renewed_ms,
            )
        self._unwritten[beat.provider_id] = beat

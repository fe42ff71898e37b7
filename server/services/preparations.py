"""How far the runs of this market are with their inputs and images, as daemons reported last; in memory.

Every server knows the newest report of each run, whichever has the session: they go over the bus. One that is
lost is followed by the next, and a server that has just started learns of it within a second or two.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from server.bus import Bus, Topic
from server.clock import Clock, ms
from server.domain.jobs import Job
from server.domain.preparations import LEAST_MS, Preparation, PreparationStep, as_text, from_text

MOST = 20_000
"""Runs that are known at once; of more, those that were reported longest ago are forgotten."""


class Preparations:
    """The newest report of each run."""

    def __init__(self, bus: Bus, clock: Clock) -> None:
        self._bus = bus
        self._clock = clock
        self._found: OrderedDict[str, tuple[int, Preparation]] = OrderedDict()
        self.changed: Callable[[str], None] = lambda job_id: None
        """Gets the id of a job with a new report, on the event loop."""
        bus.listen(Topic.PREPARATION, self._hear)

    def note(
        self, job_id: str, lease_epoch: int, step: PreparationStep, done_bytes: int, total_bytes: int
    ) -> None:
        """Takes what the daemon of a session here reports, at most once a second for each run."""
        now_ms = ms(self._clock)
        known = self._found.get(job_id)
        if known is not None and known[0] == lease_epoch and now_ms - known[1].at_ms < LEAST_MS:
            return
        found = Preparation(step, done_bytes, total_bytes, now_ms)
        self._keep(job_id, lease_epoch, found)
        self._bus.publish(Topic.PREPARATION, [as_text(job_id, lease_epoch, found)])

    def of(self, job: Job) -> Preparation | None:
        """How far a job is; None unless it is being prepared and its daemon has reported it."""
        epoch, found = self._found.get(job.job_id, (0, None))
        return found if found is not None and epoch == job.lease_epoch and found.is_of(job) else None

    def _hear(self, ids: frozenset[str]) -> None:
        for text in ids:
            if (heard := from_text(text)) is None:
                continue
            job_id, epoch, found = heard
            known = self._found.get(job_id)
            # Servers' clocks may differ, and hints that come at once have no order.
            if known is None or (epoch, found.at_ms) > (known[0], known[1].at_ms):
                self._keep(job_id, epoch, found)

    def _keep(self, job_id: str, lease_epoch: int, found: Preparation) -> None:
        self._found[job_id] = lease_epoch, found
        self._found.move_to_end(job_id)
        if len(self._found) > MOST:
            self._found.popitem(last=False)
        self.changed(job_id)

"""Notices that a job has as many processes as it may have.

The kernel refuses the next one and counts that in the job's control group, which is gone as soon as the job
is: so it is read while the job runs. Best effort, only on this machine. It must not know containers.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

LOOK_SECONDS = 0.5
_CONTROL_GROUPS = Path("/sys/fs/cgroup")


class Crowd:
    """Whether the kernel refused a process."""

    was_full = False

    @contextlib.asynccontextmanager
    async def watched(self, pid: int | None) -> AsyncIterator[None]:
        """Looks meanwhile at the control group of a process."""
        watching = asyncio.create_task(self._watch(pid)) if pid is not None else None
        try:
            yield
        finally:
            if watching is not None:
                watching.cancel()

    async def _watch(self, pid: int) -> None:
        counter = _counter_of(pid)
        while counter is not None and not self.was_full:
            self.was_full = _refused(counter) > 0
            await asyncio.sleep(LOOK_SECONDS)


def _counter_of(pid: int) -> Path | None:
    """Where the kernel counts for the control group of a process, in its second hierarchy or its first."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/cgroup").read_text(encoding="utf-8").splitlines():
            _, controllers, path = line.split(":", 2)
            for folder in controllers.split(","):
                counter = _CONTROL_GROUPS / folder / path.lstrip("/") / "pids.events"
                if counter.exists():
                    return counter
    return None


def _refused(counter: Path) -> int:
    """How many processes were refused; 0 also where the group is gone."""
    try:
        facts = dict(line.split() for line in counter.read_text(encoding="utf-8").splitlines())
        return int(facts.get("max", 0))
    except (OSError, ValueError):
        return 0

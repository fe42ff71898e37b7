"""What a run of jobs that do nothing is: the times of each job, and what the processes used meanwhile."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from scripts.benchmarks.processes import BenchError

IN_FLIGHT = 16


@dataclass(frozen=True, slots=True)
class Ran:
    """The times of one job, in seconds by the monotonic clock. A peer's have only ``sent``."""

    job_id: str
    sent: float
    answered: float = 0.0
    read_back: float = 0.0
    polls: int = 0


@dataclass(frozen=True, slots=True)
class Run:
    """One run: its jobs, its length, and the CPU seconds of each process by name."""

    ran: Sequence[Ran]
    to_started: Sequence[float]
    """Seconds from each submit to the start."""
    seconds: float
    cpu_seconds: Mapping[str, float]

    @staticmethod
    def of(
        ran: Sequence[Ran], starts: Mapping[str, float], seconds: float, cpu_seconds: Mapping[str, float]
    ) -> Run:
        """The run of these jobs. Raises BenchError if one of them has not started."""
        missing = [job.job_id for job in ran if job.job_id not in starts]
        if missing:
            raise BenchError(f"{missing[0]} and {len(missing) - 1} other jobs did not start")
        return Run(ran, [starts[job.job_id] - job.sent for job in ran], seconds, cpu_seconds)

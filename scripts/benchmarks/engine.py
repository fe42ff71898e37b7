"""An engine that does nothing, so that a benchmark measures everything except the run itself."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path

from dcp.v1 import jobs_pb2, sessions_pb2

from daemon.engines import Engine


class NoopEngine(Engine):
    """Answers every job at once with one piece of text.

    For each job it writes a line to a file: the job's id, and its start in seconds by the monotonic clock,
    which all processes of a Linux machine share.
    """

    def __init__(self, model: str, starts: Path, slots: int) -> None:
        self._model = model
        self._slots = slots
        self._starts = os.open(starts, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    @property
    def slots(self) -> int:
        """The number of slots that the benchmark chose."""
        return self._slots

    def models(self) -> Sequence[sessions_pb2.ServedModel]:
        """The only model."""
        return [sessions_pb2.ServedModel(name=self._model, context_tokens=2048, warm=True)]

    async def prepare(self, offer: sessions_pb2.JobOffer) -> None:
        """Does nothing: the engine needs no preparation."""

    async def generate(self, offer: sessions_pb2.JobOffer) -> AsyncGenerator[str | jobs_pb2.Usage, None]:
        """Yields one piece of text, and the usage."""
        os.write(self._starts, f"{offer.lease.job_id} {time.monotonic():.7f}\n".encode())
        yield "done"
        yield jobs_pb2.Usage(prompt_tokens=1, completion_tokens=1)

    async def self_test(self, model: str = "") -> None:
        """Always passes."""

    async def close(self) -> None:
        """Closes the file."""
        os.close(self._starts)


def read_starts(path: Path) -> dict[str, float]:
    """The first start of each job, in seconds by the monotonic clock."""
    begun: dict[str, float] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        job_id, _, at = line.partition(" ")
        begun.setdefault(job_id, float(at))
    return begun

"""An engine that does nothing: what is measured with it is everything around a run."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path

from dcp.v1 import jobs_pb2, sessions_pb2

from daemon.engines import Engine


class NoopEngine(Engine):
    """Answers every job with one piece of text, at once.

    It notes in a file when it began which job: a line with the job's id and the monotonic clock in
    seconds, which on Linux is one clock for all processes of the machine.
    """

    def __init__(self, model: str, starts: Path, slots: int) -> None:
        self._model = model
        self._slots = slots
        self._starts = os.open(starts, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    @property
    def slots(self) -> int:
        """As many as the benchmark asks for."""
        return self._slots

    def models(self) -> Sequence[sessions_pb2.ServedModel]:
        """The one model."""
        return [sessions_pb2.ServedModel(name=self._model, context_tokens=2048, warm=True)]

    async def prepare(self, offer: sessions_pb2.JobOffer) -> None:
        """There is nothing to prepare."""

    async def generate(self, offer: sessions_pb2.JobOffer) -> AsyncGenerator[str | jobs_pb2.Usage, None]:
        """One piece, and the usage."""
        os.write(self._starts, f"{offer.lease.job_id} {time.monotonic():.7f}\n".encode())
        yield "done"
        yield jobs_pb2.Usage(prompt_tokens=1, completion_tokens=1)

    async def self_test(self) -> None:
        """Passes, and is not measured."""

    async def close(self) -> None:
        """Closes the file."""
        os.close(self._starts)


def read_starts(path: Path) -> dict[str, float]:
    """When each job was begun, by the monotonic clock; the first time counts."""
    begun: dict[str, float] = {}
    for line in path.read_text().splitlines():
        job_id, _, at = line.partition(" ")
        begun.setdefault(job_id, float(at))
    return begun

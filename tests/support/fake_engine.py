"""Engines for tests and benchmarks that behave like a model server but have no model."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence

from dcp.v1 import jobs_pb2, sessions_pb2

from daemon.engines import Engine, EngineError
from daemon.runners import Picture
from daemon.runners import Piece as RunnerPiece

Piece = str | Picture | asyncio.Event | EngineError | Exception

DEFAULT_MODEL = "test/model"


class ScriptedEngine(Engine):
    """Plays a script for every job: it yields texts, waits for events and raises errors.

    `prepare_gate`: preparing waits for it. `jobs`, `cancelled`: the ids of the
    jobs that were begun, and of those stopped before their script's end.
    `pieces_played`: how far the scripts have come. `tests`: how many self-tests
    were begun; one waits for `test_gate` and raises `test_error`, where there are.
    """

    def __init__(
        self,
        script: Sequence[Piece] = ("Hello", ", ", "world"),
        *,
        model: str = DEFAULT_MODEL,
        usage: jobs_pb2.Usage | None = None,
        prepare_gate: asyncio.Event | None = None,
        prepare_error: Exception | None = None,
        slots: int = 1,
        job_types: Sequence[jobs_pb2.JobType.ValueType] = (),
    ) -> None:
        self.script = list(script)
        self.jobs: list[str] = []
        self.cancelled: list[str] = []
        self.closed = False
        self.pieces_played = 0
        self.tests = 0
        self.test_error: Exception | None = None
        self.test_gate: asyncio.Event | None = None
        self._model = model
        self._slots = slots
        self._job_types = job_types
        self._usage = usage or jobs_pb2.Usage(prompt_tokens=3, completion_tokens=len(self.script))
        self.prepare_gate = prepare_gate
        self._prepare_error = prepare_error

    @property
    def slots(self) -> int:
        """The number of slots that the test set."""
        return self._slots

    def job_types(self) -> Sequence[jobs_pb2.JobType.ValueType]:
        """The job types that the test set; the default is inference."""
        return self._job_types or super().job_types()

    def models(self) -> Sequence[sessions_pb2.ServedModel]:
        """The single model of the script."""
        return [
            sessions_pb2.ServedModel(
                name=self._model, context_tokens=2048, warm=True, job_types=self._job_types
            )
        ]

    async def prepare(self, offer: sessions_pb2.JobOffer) -> None:
        """Waits for the gate and raises the error, if the test set them."""
        self.jobs.append(offer.lease.job_id)
        if self.prepare_gate is not None:
            await self.prepare_gate.wait()
        if self._prepare_error is not None:
            raise self._prepare_error

    async def generate(self, offer: sessions_pb2.JobOffer) -> AsyncGenerator[RunnerPiece, None]:
        """Plays the script."""
        whole = False
        try:
            for piece in self.script:
                self.pieces_played += 1
                if isinstance(piece, asyncio.Event):
                    await piece.wait()
                elif isinstance(piece, Exception):
                    whole = True
                    raise piece
                else:
                    yield piece
            whole = True
            yield self._usage
        finally:
            if not whole:
                self.cancelled.append(offer.lease.job_id)

    async def self_test(self, model: str = "") -> None:
        """Raises the test's error, if it is set. It plays no script."""
        self.tests += 1
        if self.test_gate is not None:
            await self.test_gate.wait()
        if self.test_error is not None:
            raise self.test_error

    async def close(self) -> None:
        """Records that it was closed."""
        self.closed = True


class NoopEngine(ScriptedEngine):
    """Ends every job at once without output, to measure everything except the work."""

    def __init__(self, model: str = DEFAULT_MODEL) -> None:
        super().__init__(script=(), model=model)

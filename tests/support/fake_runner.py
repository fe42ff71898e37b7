"""A runner for tests: it plays a script of pieces instead of a container."""

from __future__ import annotations

from collections.abc import Sequence

from dcp.v1 import jobs_pb2, sessions_pb2

from daemon.runners import Piece, Pieces, Runner, RunnerError
from daemon.work.artifacts import Artifact


class ScriptedRunner(Runner):
    """Yields the pieces of its script for every container job, and raises an error in the script.

    ``swept``, ``tidied``: how often it was asked to remove unknown containers, and to make room.
    """

    def __init__(self, *script: Piece | RunnerError) -> None:
        self.script = script
        self.swept = self.tidied = 0

    def job_types(self) -> Sequence[jobs_pb2.JobType.ValueType]:
        """Only containers."""
        return (jobs_pb2.JOB_TYPE_CUSTOM_CONTAINER,)

    async def prepare(self, offer: sessions_pb2.JobOffer) -> None:
        """Is always ready."""

    async def run(self, offer: sessions_pb2.JobOffer) -> Pieces:
        """Plays the script."""
        for piece in self.script:
            if isinstance(piece, RunnerError):
                raise piece
            yield piece

    async def sweep(self) -> None:
        """Records the call."""
        self.swept += 1

    async def tidy(self) -> None:
        """Records the call."""
        self.tidied += 1

    async def close(self) -> None:
        """Does nothing."""


class MemorySink:
    """Stores the files that it gets in memory, or raises an error."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.files: dict[str, dict[str, bytes]] = {}

    async def upload(self, lease: sessions_pb2.Lease, artifacts: Sequence[Artifact]) -> None:
        """Reads every file, or raises the error."""
        if self.error is not None:
            raise self.error
        self.files[lease.job_id] = {artifact.name: artifact.path.read_bytes() for artifact in artifacts}

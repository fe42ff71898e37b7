"""The engines port: what answers inference jobs.

It must not know sessions, leases' fate or how any engine works.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from typing import Protocol

from dcp.v1 import jobs_pb2, sessions_pb2


class EngineError(Exception):
    """A job could not be done; `message` is for the renter: no paths, keys or prompts."""

    def __init__(self, reason: jobs_pb2.FailureReason.ValueType, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


class Engine(Protocol):
    """A model server that the daemon owns. Inherit it for what has a default."""

    def models(self) -> Sequence[sessions_pb2.ServedModel]:
        """The models that it answers for, and whether each is loaded."""
        ...

    async def prepare(self, offer: sessions_pb2.JobOffer) -> None:
        """Checks the job and loads its model; the meter does not run yet. Raises EngineError."""
        ...

    def generate(self, offer: sessions_pb2.JobOffer) -> AsyncGenerator[str | jobs_pb2.Usage, None]:
        """Yields the answer piece by piece and the usage last. Raises EngineError.

        Closing the generator stops the work at once.
        """
        ...

    async def adopt(
        self, offer: sessions_pb2.JobOffer, written_bytes: int
    ) -> AsyncGenerator[str | jobs_pb2.Usage, None] | None:
        """What is left of a run that an earlier daemon began, after so many bytes of its output.

        None: it does not run any more, as with every engine whose runs end with the daemon.
        """
        return None

    async def kill(self, lease: sessions_pb2.Lease) -> None:
        """Ends the work on a lease that did not stop when asked, whatever else that ends."""
        return

    async def close(self) -> None:
        """Ends whatever the engine started."""
        ...

"""The engines port: what answers inference jobs.

It must not know sessions, leases' fate or how any engine works.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Protocol

from dcp.v1 import jobs_pb2, sessions_pb2

LLM_INFERENCE = jobs_pb2.JOB_TYPE_LLM_INFERENCE


class EngineError(Exception):
    """A job could not be done; `message` is for the renter: no paths, keys or prompts."""

    def __init__(self, reason: jobs_pb2.FailureReason.ValueType, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


@dataclass(frozen=True)
class Picture:
    """An output that is no text: its media type and its bytes."""

    content_type: str
    data: bytes


Piece = str | Picture | jobs_pb2.Usage
"""What a run yields: text, or one picture; and the usage last."""


def can_answer(model: sessions_pb2.ServedModel, offer: sessions_pb2.JobOffer) -> bool:
    """Whether a served model is what an offer asks for."""
    return model.name == offer.params.model and offer.job_type in (model.job_types or (LLM_INFERENCE,))


class Engine(Protocol):
    """A model server that the daemon uses. Inherit it for what has a default."""

    @property
    def slots(self) -> int:
        """How many jobs it answers at once."""
        return 1

    def models(self) -> Sequence[sessions_pb2.ServedModel]:
        """The models that it answers for, and whether each is loaded."""
        ...

    async def prepare(self, offer: sessions_pb2.JobOffer) -> None:
        """Checks the job and loads its model; the meter does not run yet. Raises EngineError."""
        ...

    @property
    def job_types(self) -> Sequence[jobs_pb2.JobType.ValueType]:
        """The kinds of job that its models may answer."""
        return (LLM_INFERENCE,)

    async def refresh(self) -> None:
        """Looks what it serves now; asked every few seconds. Never raises."""
        return

    def generate(self, offer: sessions_pb2.JobOffer) -> AsyncGenerator[Piece, None]:
        """Yields the answer piece by piece and the usage last. Raises EngineError.

        Closing the generator stops the work at once.
        """
        ...

    async def adopt(
        self, offer: sessions_pb2.JobOffer, written_bytes: int
    ) -> AsyncGenerator[Piece, None] | None:
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

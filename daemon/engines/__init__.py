"""The engines port: what answers inference jobs.

It must not know sessions, leases' fate or how any engine works.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Collection, Sequence
from contextlib import aclosing
from typing import Protocol

from dcp.v1 import jobs_pb2, sessions_pb2

SELF_TEST_TOKENS = 4


class EngineError(Exception):
    """A job could not be done; `message` is for the renter: no paths, keys or prompts."""

    def __init__(self, reason: jobs_pb2.FailureReason.ValueType, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


class Engine(Protocol):
    """A model server that the daemon owns. Inherit it for what has a default."""

    name: str = "engine"
    """What its self-test is called."""
    self_test_seconds: float = 300.0
    """How long a self-test may take; it loads a model."""

    def job_types(self) -> Sequence[jobs_pb2.JobType.ValueType]:
        """The kinds of job that it does."""
        return (jobs_pb2.JOB_TYPE_LLM_INFERENCE,)

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

    async def self_test(self) -> None:
        """Proves that it works, by the smallest job that there is. Raises EngineError with what is wrong.

        By default each model answers a prompt with a few tokens.
        """
        for model in self.models():
            params = jobs_pb2.JobParams(
                model=model.name, prompt="Say hello.", max_tokens=SELF_TEST_TOKENS, temperature=0
            )
            offer = sessions_pb2.JobOffer(lease=sessions_pb2.Lease(job_id="self-test"), params=params)
            await self.prepare(offer)
            usage = jobs_pb2.Usage()
            async with aclosing(self.generate(offer)) as pieces:
                async for piece in pieces:
                    usage = usage if isinstance(piece, str) else piece
            if not usage.completion_tokens:
                raise EngineError(
                    jobs_pb2.FAILURE_REASON_ENGINE_FAILED, f"The model {model.name} answered nothing."
                )

    def gpus(self, lease: sessions_pb2.Lease) -> Collection[str] | None:
        """The UUIDs of the GPUs that a run is on; None: it may be on any of the machine's."""
        return None

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

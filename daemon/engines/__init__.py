"""The engines port: model servers, the runners that answer inference jobs.

It must not know sessions, leases' fate or how any engine works.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Protocol

from dcp.v1 import jobs_pb2, sessions_pb2

from daemon.runners import Ability, Piece, Pieces, Runner, RunnerError

LLM_INFERENCE = jobs_pb2.JOB_TYPE_LLM_INFERENCE
EMBEDDINGS = jobs_pb2.JOB_TYPE_EMBEDDINGS
OFFERED = {Ability.IMAGE: jobs_pb2.JOB_TYPE_IMAGE_GENERATION, Ability.EMBEDDING: EMBEDDINGS}
"""The job types of models by what they can do; others serve inference, which needs not be said."""

SELF_TEST_TOKENS = 4


class EngineError(RunnerError):
    """An inference job could not be done."""


class NoChatError(EngineError):
    """The model does not chat, whatever the prompt: it may do something else."""

    def __init__(self, message: str) -> None:
        super().__init__(jobs_pb2.FAILURE_REASON_ENGINE_FAILED, message)


def can_answer(model: sessions_pb2.ServedModel, offer: sessions_pb2.JobOffer) -> bool:
    """Whether a served model is what an offer asks for."""
    return model.name == offer.params.model and offer.job_type in kinds_of(model)


def kinds_of(model: sessions_pb2.ServedModel) -> Sequence[jobs_pb2.JobType.ValueType]:
    """The types of job that a model serves."""
    return model.job_types or (LLM_INFERENCE,)


def job_types_for(ability: Ability | None) -> Sequence[jobs_pb2.JobType.ValueType]:
    """The types of job that a model serves with this ability, as a served model says them."""
    return (OFFERED[ability],) if ability in OFFERED else ()


class Engine(Runner, Protocol):
    """A model server that the daemon uses. Inherit it for what has a default."""

    name: str = "engine"
    """What its self-test is called."""
    self_test_seconds: float = 300.0
    """How long the self-test of a model may take; it may load it."""

    def job_types(self) -> Sequence[jobs_pb2.JobType.ValueType]:
        """Only inference."""
        return (LLM_INFERENCE,)

    def models(self) -> Sequence[sessions_pb2.ServedModel]:
        """The models that it answers for, and whether each is loaded."""
        ...

    def takes(self, offer: sessions_pb2.JobOffer) -> bool:
        """Whether it serves the job's model, for such jobs."""
        return any(can_answer(model, offer) for model in self.models())

    def generate(self, offer: sessions_pb2.JobOffer) -> AsyncGenerator[Piece, None]:
        """Yields the answer piece by piece and the usage last. Raises EngineError.

        Closing the generator stops the work at once.
        """
        ...

    def run(self, offer: sessions_pb2.JobOffer) -> Pieces:
        """The answer."""
        return self.generate(offer)

    async def self_test(self, model: str = "") -> Ability | None:
        """A model that writes text answers a prompt with a few tokens; one that embeds, embeds a word.

        Raises EngineError.
        """
        served = next((served for served in self.models() if served.name == model), None)
        if served is not None and EMBEDDINGS in kinds_of(served):
            return await self.test_embedding(model)
        if served is None or LLM_INFERENCE not in kinds_of(served):
            return None
        params = jobs_pb2.JobParams(
            model=model, prompt="Say hello.", max_tokens=SELF_TEST_TOKENS, temperature=0
        )
        offer = sessions_pb2.JobOffer(lease=sessions_pb2.Lease(job_id="self-test"), params=params)
        try:
            usage = await self._tested(offer)
        except EngineError as error:
            if error.reason == jobs_pb2.FAILURE_REASON_NO_ANSWER:
                return Ability.CHAT  # it works: a model that thinks first needs more tokens for a text
            if error.reason != jobs_pb2.FAILURE_REASON_BAD_PARAMS:
                raise
            # There is nothing wrong with the prompt: it is no model for chats, as those that make embeddings.
            raise NoChatError(f"The model {model} does not answer chat requests.") from None
        if not usage.completion_tokens:
            raise EngineError(jobs_pb2.FAILURE_REASON_ENGINE_FAILED, f"The model {model} answered nothing.")
        return Ability.CHAT

    async def test_embedding(self, model: str) -> Ability:
        """The model embeds a word. Raises EngineError."""
        offer = sessions_pb2.JobOffer(
            lease=sessions_pb2.Lease(job_id="self-test"),
            job_type=EMBEDDINGS,
            params=jobs_pb2.JobParams(model=model),
            embeddings_request=b'{"input":["Hello"]}',
        )
        await self._tested(offer)
        return Ability.EMBEDDING

    async def _tested(self, offer: sessions_pb2.JobOffer) -> jobs_pb2.Usage:
        usage = jobs_pb2.Usage()
        await self.prepare(offer)
        async with aclosing(self.generate(offer)) as pieces:
            async for piece in pieces:
                usage = piece if isinstance(piece, jobs_pb2.Usage) else usage
        return usage

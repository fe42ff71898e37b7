"""Conversations, and texts to embed, which are submitted as jobs."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import Any

from server.domain import chats, embeddings
from server.domain.batches import PRIORITY
from server.domain.jobs import Job, JobRequest, JobType
from server.services.fleet import Fleet
from server.services.jobs import Jobs

# Who waits at a connection does not want to wait for long, neither for a start nor for a lost provider.
START_WITHIN_MS, LOST_AFTER_MS = 60_000, 60_000
DEFAULT_MAX_TOKENS = 4096
"""Where no context is known."""


@dataclass(frozen=True, slots=True)
class InBatch:
    """What a batch says of the job of one of its lines."""

    id: int
    """The batch, by its row."""
    start_within_ms: int
    left_micros: int | None
    """What is left of its budget; None without one."""


class Chats:
    """The use cases of requests in the form of other APIs."""

    def __init__(self, jobs: Jobs, fleet: Fleet) -> None:
        self._jobs = jobs
        self._fleet = fleet

    async def submit(
        self,
        renter_id: int,
        key_id: int | None,
        model: str,
        request: bytes,
        *,
        max_tokens: int | None = None,
        cache_key: str = "",
        idempotency_key: str = "",
        batch: InBatch | None = None,
    ) -> Job:
        """Submits a conversation; without ``max_tokens``, for as long an answer as context and wallet allow.

        Raises INVALID_FIELD, and what a submit of a job raises.
        """
        chat = chats.read(request)
        most = max_tokens or self._fleet.longest_context(model, None) or DEFAULT_MAX_TOKENS
        params = {"model": model, "max_tokens": most}
        wanted = replace(
            _wanted(JobType.LLM_INFERENCE, model, {"params": params, "chat": chat.spec}, idempotency_key),
            fits_wallet=max_tokens is None,
            cache_key=cache_key or chat.beginning,
            digest=_digest(f"{model}\0{max_tokens}\0".encode() + request),
        )
        return await self._jobs.submit(renter_id, _unhurried(wanted, batch), key_id)

    async def submit_embeddings(
        self,
        renter_id: int,
        key_id: int | None,
        model: str,
        request: bytes,
        *,
        idempotency_key: str = "",
        batch: InBatch | None = None,
    ) -> Job:
        """Submits texts to embed; where time is paid for, for as long as the wallet allows.

        Raises INVALID_FIELD, and what a submit of a job raises.
        """
        texts = embeddings.read(request)
        wanted = replace(
            _wanted(
                JobType.EMBEDDINGS,
                model,
                {"params": {"model": model}, "embeddings": texts.spec},
                idempotency_key,
            ),
            fits_wallet=True,
            digest=_digest(f"{model}\0embeddings\0".encode() + request),
        )
        return await self._jobs.submit(renter_id, _unhurried(wanted, batch), key_id)


def _unhurried(wanted: JobRequest, batch: InBatch | None) -> JobRequest:
    """The job as the line of a batch: it waits as long as its batch does, behind all other jobs."""
    if batch is None:
        return wanted
    return replace(
        wanted,
        priority=PRIORITY,
        start_within_ms=batch.start_within_ms,
        of_batch=batch.id,
        most_hold_micros=batch.left_micros,
        wait_for_supply=True,
        fits_wallet=False,
        is_awaited=False,
    )


def _wanted(kind: JobType, model: str, spec: dict[str, Any], idempotency_key: str) -> JobRequest:
    return JobRequest(
        kind,
        duration_ms=0,
        model=model,
        spec={"container_spec": {}, **spec},
        start_within_ms=START_WITHIN_MS,
        lost_after_ms=LOST_AFTER_MS,
        is_awaited=True,
        idempotency_key=idempotency_key or None,
    )


def _digest(asked: bytes) -> str:
    return hashlib.sha256(asked).hexdigest()

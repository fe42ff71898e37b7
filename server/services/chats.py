"""Conversations, which are submitted as jobs."""

from __future__ import annotations

import hashlib

from server.domain import chats
from server.domain.jobs import Job, JobRequest, JobType
from server.services.fleet import Fleet
from server.services.jobs import Jobs

# Who waits at a connection does not want to wait for long, neither for a start nor for a lost provider.
START_WITHIN_MS, LOST_AFTER_MS = 60_000, 60_000
DEFAULT_MAX_TOKENS = 4096
"""Where no context is known."""


class Chats:
    """The use cases of conversations."""

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
    ) -> Job:
        """Submits a conversation; without ``max_tokens``, for as long an answer as context and wallet allow.

        Raises INVALID_FIELD, and what a submit of a job raises.
        """
        chat = chats.read(request)
        most = max_tokens or self._fleet.longest_context(model, None) or DEFAULT_MAX_TOKENS
        asked = f"{model}\0{max_tokens}\0".encode() + request
        wanted = JobRequest(
            JobType.LLM_INFERENCE,
            duration_ms=0,
            model=model,
            spec={"container_spec": {}, "params": {"model": model, "max_tokens": most}, "chat": chat.spec},
            start_within_ms=START_WITHIN_MS,
            lost_after_ms=LOST_AFTER_MS,
            fits_wallet=max_tokens is None,
            cache_key=cache_key or chat.beginning,
            idempotency_key=idempotency_key or None,
            digest=hashlib.sha256(asked).hexdigest(),
        )
        return await self._jobs.submit(renter_id, wanted, key_id)

"""The llamacpp engine: one model, served by a child process that stays warm between jobs.

It must not know the session. A child that misbehaves is ended, and the next job
gets a new one.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from daemon.engines import gguf
from daemon.engines.child import ModelServer, start_model_server
from daemon.engines.served import ServedEngine, size_and_more_mib
from daemon.engines.warm import WarmModels
from daemon.runners import Ability

CONTEXT_TOKENS = 2048


class LlamaCppEngine(ServedEngine[ModelServer]):
    """Serves one GGUF file under a public name."""

    name = "llamacpp"

    def __init__(
        self,
        name: str,
        path: Path,
        *,
        slots: int = 1,
        context_tokens: int = CONTEXT_TOKENS,
        warm: WarmModels | None = None,
        environment: Mapping[str, str] | None = None,
        watch: bool = False,
        visible_gpus: Callable[[], Sequence[str] | None] = lambda: None,
        embeds: bool = False,
    ) -> None:
        """`slots`: how many jobs at once; `environment`: all that the child's holds, by default nothing.

        `watch`: let the child report what its slots do, for tests. `visible_gpus`: what a server sees that
        starts now; None: all. `embeds`: it makes embeddings and does not chat; a server of llama.cpp does one
        of the two.
        """
        super().__init__(
            name,
            slots=slots,
            needed_mib=lambda: size_and_more_mib(path),
            warm=warm,
            ability=Ability.EMBEDDING if embeds else None,
        )
        self._embeds = embeds
        self._path = path
        self._context_tokens = context_tokens
        self._environment = environment or {}
        self._watch = watch
        self._see = visible_gpus

    @property
    def context_tokens(self) -> int:
        """The length of the context that a job has."""
        return self._context_tokens

    async def start_server(self) -> ModelServer:
        """A child that has loaded the file. Raises StartError."""
        settings = {
            "model_path": str(self._path),
            "api_key": secrets.token_urlsafe(32),
            "slots": self._slots,
            "context_tokens": self._context_tokens,
            "threads": os.cpu_count() or 1,
            "endpoint_slots": self._watch,
            "visible_gpus": self._see(),
            "embeds": self._embeds,
            # A model that was not made for embeddings says nothing; the mean of its tokens is as good as any.
            "pools_mean": self._embeds and not gguf.has_pooling(self._path),
        }
        return await start_model_server(settings, self._environment)

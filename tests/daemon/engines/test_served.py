"""What all engines share that start their own server: jobs and a server whose GPU the owner takes away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Collection

from dcp.v1 import jobs_pb2, sessions_pb2

from daemon.engines.served import ServedEngine, Server, client_of
from daemon.engines.warm import WarmModels
from daemon.runners import Piece
from tests.daemon.fake_server import offer


class FakeServer(Server):
    """A server on some GPUs."""

    def __init__(self, gpus: Collection[str] | None) -> None:
        self.client = client_of("http://127.0.0.1:1")
        self.is_closed = False
        self._gpus = gpus

    @property
    def alive(self) -> bool:
        """Until it is closed."""
        return not self.is_closed

    @property
    def visible_gpus(self) -> Collection[str] | None:
        """Those that the test chose."""
        return self._gpus

    async def healthy(self) -> bool:
        """Always, while it is alive."""
        return self.alive

    async def close(self) -> None:
        """Records it."""
        await self.client.aclose()
        self.is_closed = True

    async def kill(self) -> None:
        """The same."""
        await self.close()


class FakeEngine(ServedEngine[FakeServer]):
    """Answers when the test lets it."""

    def __init__(self, warm: WarmModels) -> None:
        super().__init__("m", slots=2, needed_mib=lambda: 1, warm=warm)
        self.gpus_of_next: Collection[str] | None = None
        self.gate = asyncio.Event()

    async def start_server(self) -> FakeServer:
        """A server on the GPUs that are to be seen now."""
        return FakeServer(self.gpus_of_next)

    async def _answer(self, server: FakeServer, offer: sessions_pb2.JobOffer) -> AsyncGenerator[Piece, None]:
        await self.gate.wait()
        assert server.alive
        yield jobs_pb2.Usage(completion_tokens=1)


async def answered(engine: FakeEngine, job_id: str) -> None:
    await engine.prepare(offer(job_id))
    async for _ in engine.generate(offer(job_id)):
        pass


async def test_job_that_comes_to_a_kept_gpu_waits_for_the_jobs_there_and_goes_elsewhere() -> None:
    kept: set[str] = set()
    engine = FakeEngine(WarmModels(lambda: 1000, lambda: kept))
    async with asyncio.timeout(10):
        first = asyncio.create_task(answered(engine, "job-1"))
        while engine.server is None:
            await asyncio.sleep(0)
        server = engine.server
        assert engine.visible_gpus(offer().lease) is None
        kept.add("GPU-a")
        engine.gpus_of_next = ["GPU-b"]
        second = asyncio.create_task(answered(engine, "job-2"))
        for _ in range(20):
            await asyncio.sleep(0)
        assert engine.server is server
        assert not server.is_closed
        engine.gate.set()
        await asyncio.gather(first, second)
    assert server.is_closed
    assert engine.visible_gpus(offer().lease) == ["GPU-b"]
    # What is loaded on other GPUs stays: no job needs a new server.
    before = engine.server
    await answered(engine, "job-3")
    assert engine.server is before
    await engine.close()

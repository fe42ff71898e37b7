"""What images may take of the provider's disk: while they are pulled, after that, and how long they stay."""

from __future__ import annotations

import asyncio
import json
import subprocess
from pathlib import Path
from typing import Any, cast

import pytest

from common.images import parse
from daemon.runners.containers.brought import LATELY_SECONDS, BroughtImages
from daemon.runners.containers.docker import Docker, DockerRefusedError, EngineFacts
from daemon.runners.containers.image_store import MAX_REMOVED, ImageStore
from daemon.runners.containers.settings import MIB, ContainerSettings
from tests.daemon.runners.bench import SETTINGS, Bench, offer, until
from tests.support.fake_registry import running_registry
from tests.support.private_engine import IMAGE, PrivateEngine

engine_test = pytest.mark.engine
DAY = 86400.0


def disk_mib(engine: PrivateEngine) -> int:
    """What the engine's folder takes on the disk."""
    used = subprocess.run(["du", "-xsm", engine.socket.parent], check=False, capture_output=True, text=True)
    return int(used.stdout.split()[0])


def images(engine: PrivateEngine) -> str:
    return engine.docker("images", "--all", "--format", "{{.Repository}}:{{.Tag}}")


@engine_test
@pytest.mark.parametrize("engine", ["docker"], indirect=True)  # Podman unpacks a layer to its end
async def test_pull_of_an_image_that_unpacks_without_bound_is_stopped_and_leaves_nothing(
    bench: Bench,
) -> None:
    bench.restrict(image_bytes=32 * MIB, unpacked_bytes=256 * MIB)
    before = disk_mib(bench.engine)
    with running_registry(zeros=8192 * MIB) as registry:
        outcome = await bench.run(offer("true", image=registry.name))
    assert outcome.reason == "IMAGE_PULL_FAILED"
    assert "256 MiB unpacked" in str(outcome.error)
    assert registry.name not in images(bench.engine)
    await until(lambda: disk_mib(bench.engine) - before < 64)
    assert json.loads((bench.folder / "images.json").read_text()) == {}


@engine_test
@pytest.mark.parametrize("engine", ["podman"], indirect=True)  # Docker stops
@pytest.mark.slow
async def test_image_that_comes_after_its_pull_was_stopped_is_removed(bench: Bench) -> None:
    bench.restrict(image_bytes=32 * MIB, unpacked_bytes=32 * MIB)
    before = disk_mib(bench.engine)
    with running_registry(zeros=300 * MIB) as registry:
        outcome = await bench.run(offer("true", image=registry.name))
        assert outcome.reason == "IMAGE_PULL_FAILED"
        known = bench.folder / "images.json"
        assert registry.name in json.loads(known.read_text()), "or a restart would forget it"
        await until(lambda: json.loads(known.read_text()) == {}, 120)
    assert registry.name not in images(bench.engine)
    assert disk_mib(bench.engine) - before < 64


@engine_test
async def test_image_of_a_job_that_is_too_large_by_now_is_given_to_no_job(bench: Bench) -> None:
    with running_registry(b"1" * 8 * MIB) as registry:
        assert (await bench.run(offer("true", image=registry.name))).reason == ""
        await bench.runner.close()
        bench.restrict(unpacked_bytes=4 * MIB)
        outcome = await bench.run(offer("true", image=registry.name))
        assert outcome.reason == "IMAGE_PULL_FAILED"
        assert "4 MiB unpacked" in str(outcome.error)
    assert registry.name not in images(bench.engine)


@engine_test
async def test_layers_without_an_announced_size_count_by_what_has_come(bench: Bench) -> None:
    bench.restrict(image_bytes=4 * MIB, unpacked_bytes=256 * MIB)
    with running_registry(announces_sizes=False) as registry:
        outcome = await bench.run(offer("true", image=registry.name))
        assert outcome.reason == "IMAGE_PULL_FAILED"
        assert "4 MiB compressed" in str(outcome.error)
        assert registry.name not in images(bench.engine)


@engine_test
async def test_images_that_jobs_brought_go_by_age_and_room_and_the_providers_stay(
    engine: PrivateEngine, tmp_path: Path
) -> None:
    now, docker = [1_000_000.0], Docker(str(engine.socket))

    def store(**settings: int) -> ImageStore:
        # As after a restart: what it knows is in the file.
        granted = SETTINGS.__class__(**{**SETTINGS.__dict__, **settings})
        return ImageStore(docker, engine.facts, granted, tmp_path / "images.json", lambda: now[0])

    with running_registry(b"1" * MIB) as one, running_registry(b"2" * MIB) as two:
        for name in (one.name, two.name):
            assert (await store().get(parse(name)))["Id"]
            now[0] += LATELY_SECONDS
        await store().get(parse(one.name))
        await store().get(parse(IMAGE))  # the provider's own
        await store(kept_bytes=0).tidy()
        assert one.name in images(engine), "it was used a moment ago"
        assert two.name not in images(engine)
        now[0] += 14 * DAY + 1
        await store().tidy()
    assert one.name not in images(engine)
    assert "busybox:test" in images(engine)
    now[0] += 1000 * DAY
    await store(kept_bytes=0).tidy()
    assert "busybox:test" in images(engine)
    await docker.close()


@engine_test
async def test_disk_without_room_gives_the_job_back_before_anything_is_pulled(bench: Bench) -> None:
    bench.restrict(free_bytes=10**16)
    with running_registry() as registry:
        outcome = await bench.run(offer("true", image=registry.name))
        assert registry.asked == []
    assert outcome.error is not None
    assert outcome.error.gives_back
    assert "no room" in str(outcome.error)


@engine_test
async def test_image_for_another_processor_is_refused_before_the_start(bench: Bench) -> None:
    with running_registry(architecture="arm64") as registry:
        for _ in range(2):
            outcome = await bench.run(offer("true", image=registry.name))
            assert outcome.reason == "OTHER_ARCHITECTURE"
            assert outcome.error is not None
            assert outcome.error.gives_back
            assert "is for arm64, and this provider's processor is amd64" in str(outcome.error)
            assert outcome.log == b"", "it was never started"
        assert sum("/blobs/" in path for path in registry.asked) <= 4, "it is pulled once"


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"a": "x"}', "[" * 100_000, '{"a": null}'])
def test_damaged_list_of_images_is_empty(tmp_path: Path, text: str) -> None:
    file = tmp_path / "images.json"
    file.write_text(text)
    brought = BroughtImages(file, lambda: 0.0)
    assert brought.names() == []
    brought.bring("new")
    assert BroughtImages(file, lambda: 0.0).names() == ["new"]


def test_images_that_were_unused_for_longest_make_room_first(tmp_path: Path) -> None:
    now = [0.0]
    brought = BroughtImages(tmp_path / "images.json", lambda: now[0])
    for name in ("a", "b", "c"):
        brought.bring(name)
        now[0] += 10 * LATELY_SECONDS
    brought.use("a")
    brought.use("never brought")
    sizes = {"a": 10, "b": 10, "c": 10}
    assert brought.to_remove(sizes, 30, 1e9) == []
    assert brought.to_remove(sizes, 29, 1e9) == ["b"]
    assert brought.to_remove(sizes, 0, 1e9) == ["b", "c"], "the one that was used a moment ago stays"
    assert brought.to_remove(sizes, 30, 11 * LATELY_SECONDS) == ["b"]
    now[0] = -1e6  # the machine's clock was set back
    assert brought.to_remove(sizes, 0, 1e9) == []


class SlowEngine:
    """A container engine that takes its time to remove an image."""

    def __init__(self) -> None:
        self.removed: list[str] = []
        self.in_use = "docker.io/x/0:latest"
        self.gate = asyncio.Semaphore(0)

    async def inspect_image(self, name: str) -> dict[str, Any]:
        return {"Id": name, "Size": 1}

    async def remove_image(self, name: str) -> None:
        if name == self.in_use:
            raise DockerRefusedError(409, "it is in use")
        await self.gate.acquire()
        self.removed.append(name)


async def test_job_waits_for_one_removal_at_most_and_a_tidying_is_bounded(tmp_path: Path) -> None:
    file, now = tmp_path / "images.json", [1e9]
    names = [f"docker.io/x/{number}:latest" for number in range(30)]
    file.write_text(json.dumps({name: float(number) for number, name in enumerate(names)}))
    engine = SlowEngine()
    facts = EngineFacts("Engine", "28.0.1", "x86_64", ("local",), ())
    store = ImageStore(cast(Any, engine), facts, ContainerSettings(), file, lambda: now[0])
    tidying = asyncio.create_task(store.tidy())
    await asyncio.sleep(0)
    wanted = asyncio.create_task(store.get(parse("x/29")))
    for _ in range(2):
        engine.gate.release()
        await asyncio.sleep(0.01)
    assert wanted.done()
    assert len(engine.removed) <= 2
    for _ in range(40):
        engine.gate.release()
    await tidying
    assert engine.removed == names[1 : 1 + MAX_REMOVED], "one that is in use holds up no other"
    await store.tidy()
    assert names[29] not in engine.removed, "a job has just used it"

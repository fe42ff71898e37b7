"""A container runner on the private engine, with a check of what each test leaves."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.daemon.runners.bench import Bench
from tests.support import private_engine
from tests.support.private_engine import PrivateEngine


@pytest.fixture(params=["docker", pytest.param("podman", marks=pytest.mark.slow)])
def engine(request: pytest.FixtureRequest) -> Iterator[PrivateEngine]:
    """A real container engine of each kind, on which a test leaves nothing.

    The plain run uses Docker, and Podman too for the tests of what isolates a job and of
    what the two engines do differently: those are marked `bench.both_engines`.
    """
    running: PrivateEngine = request.getfixturevalue(f"{request.param}_engine")
    yield running
    running.prove_empty()


@pytest.fixture
def engine_without_gpus() -> Iterator[PrivateEngine]:
    """An engine on a machine without NVIDIA's container toolkit."""
    if why := private_engine.missing():
        pytest.skip(why)
    with private_engine.running_engine(has_gpus=False) as running:
        yield running


@pytest.fixture
async def bench(engine: PrivateEngine, tmp_path: Path) -> AsyncIterator[Bench]:
    """A runner on the engine; fails a test that leaves anything behind."""
    running = Bench(engine, tmp_path)
    yield running
    left = engine.left()
    await running.close()
    assert left == [], "left before the runner was closed"
    assert list((tmp_path / "artifacts").glob("*")) == []

"""A private engine for the tests of runners, and what makes a runner of it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.daemon.runners.bench import Bench
from tests.support import private_engine
from tests.support.private_engine import PrivateEngine


@pytest.fixture(scope="session")
def engine() -> Iterator[PrivateEngine]:
    """One real engine, started by the first test that needs it."""
    if why := private_engine.missing():
        pytest.skip(why)
    with private_engine.running_engine() as running:
        yield running


@pytest.fixture
async def bench(engine: PrivateEngine, tmp_path: Path) -> AsyncIterator[Bench]:
    """A runner on the engine; whatever a test leaves is an error of its own."""
    running = Bench(engine, tmp_path)
    yield running
    left = engine.left()
    await running.close()
    assert left == []
    assert list((tmp_path / "artifacts").glob("*")) == []

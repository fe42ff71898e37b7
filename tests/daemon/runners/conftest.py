"""A container runner on the private engine, and a look at what each test leaves."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.daemon.runners.bench import Bench
from tests.support.private_engine import PrivateEngine


@pytest.fixture
async def bench(engine: PrivateEngine, tmp_path: Path) -> AsyncIterator[Bench]:
    """A runner on the engine; whatever a test leaves is an error of its own."""
    running = Bench(engine, tmp_path)
    yield running
    left = engine.left()
    await running.close()
    assert left == []
    assert list((tmp_path / "artifacts").glob("*")) == []

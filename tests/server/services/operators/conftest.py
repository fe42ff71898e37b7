"""A market for the tests of operators, on both databases."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.whole_stack import Stack, running_stack


@pytest.fixture
async def stack(database_url: str, tmp_path: Path) -> AsyncIterator[Stack]:
    settings: dict[str, Any] = {
        "DCP_DATABASE_URL": database_url,
        "DCP_LIMIT_REGISTRATIONS": "0",
        "DCP_SANDBOX_TOPUP": "true",
    }
    async with running_stack(tmp_path, None, True, **settings) as stack:
        await stack.server._end_loops()
        yield stack

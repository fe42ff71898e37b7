"""What the tests of pages share: Chromium, and how long they wait for it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, expect

from scripts.browser import running_browser
from tests.support.browsers import PATIENCE_MS

# It holds for all files of a process, so none sets another.
expect.set_options(timeout=PATIENCE_MS)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium, for one file: while it runs, no test of its process can have an event loop."""
    with running_browser() as running:
        yield running

"""Finds and starts Chromium for the screenshots and the tests of the pages."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Browser, sync_playwright

# Chromium's sandbox cannot start in containers or as root, and it opens only our own pages here. The other
# flags stop all connections except to these pages.
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


# Each window of a whole Chromium also draws its own buttons and tabs, though nobody sees them: the one that
# has none opens a page in a third of the processor time.
_PROGRAMS = ("chromium-headless-shell", "chromium", "google-chrome")


def chromium() -> str | None:
    """The path of the system's Chromium, or None to use the one that playwright installed."""
    return next(filter(None, map(shutil.which, _PROGRAMS)), None)


@contextmanager
def running_browser() -> Iterator[Browser]:
    """Runs a headless Chromium and closes it afterwards."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=list(FLAGS))
        try:
            yield browser
        finally:
            browser.close()

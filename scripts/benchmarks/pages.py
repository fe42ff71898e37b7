"""Measures the first load of both pages in Chromium: bytes transferred, and seconds until the page is usable.

A separate market serves the pages; each load uses a new browser context with an empty cache.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from playwright.sync_api import Browser

from scripts.benchmarks.figures import Figure, at_most, percentile
from scripts.benchmarks.processes import say
from scripts.benchmarks.sizes import Sizes
from scripts.browser import running_browser
from scripts.market import Market

READY = {"/docs": "html[data-ready]", "/": ".live-count:not(:empty)"}
MAX_KILOBYTES = at_most(300)
MAX_SECONDS = at_most(1)


def run(sizes: Sizes) -> list[Figure]:
    """Loads each page for the first time, several times, and returns the figures."""
    figures, loads = [], sizes.page_loads
    with (
        tempfile.TemporaryDirectory() as data,
        Market(Path(data), admin_token="operator-token-of-benchmarks-only") as market,
        running_browser() as browser,
    ):
        for path, ready in READY.items():
            say(f"pages: {loads} first loads of {path}")
            measured = [_load(browser, market.url + path, ready) for _ in range(loads)]
            seconds = percentile([taken for taken, _ in measured], 50)
            kilobytes = max(size for _, size in measured) / 1000
            figures += [
                Figure(f"first load of {path}, transferred", kilobytes, "kB", MAX_KILOBYTES),
                Figure(f"first load of {path}, until usable, p50", seconds, "s", MAX_SECONDS),
            ]
    return figures


def _load(browser: Browser, url: str, ready: str) -> tuple[float, int]:
    """Seconds until the page is usable, and the bytes transferred."""
    context = browser.new_context()
    try:
        tab = context.new_page()
        client = context.new_cdp_session(tab)
        client.send("Network.enable")
        sizes: list[int] = []
        client.on("Network.loadingFinished", lambda event: sizes.append(int(event["encodedDataLength"])))
        started = time.perf_counter()
        tab.goto(url)
        tab.wait_for_selector(ready)
        return time.perf_counter() - started, sum(sizes)
    finally:
        context.close()

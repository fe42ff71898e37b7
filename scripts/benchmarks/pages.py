"""Measures the pages in Chromium: the first load of each, and a chat's first token beside the API's.

The figures of a first load are the bytes transferred and the seconds until the page is usable. Each load uses
a new browser context with an empty cache. The chats have a market of their own.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from playwright.sync_api import Browser

from scripts.benchmarks import playground
from scripts.benchmarks.figures import Figure, at_most, percentile
from scripts.benchmarks.processes import say
from scripts.benchmarks.sizes import Sizes
from scripts.browser import running_browser
from scripts.tour import PUBLIC, ROLES, Tour, touring, window

MAX_KILOBYTES = at_most(150)
MAX_SECONDS = at_most(0.5)
LARGEST = "first load of the largest page, transferred"
SLOWEST = "first load of the slowest page, until usable, p50"


def run(sizes: Sizes) -> list[Figure]:
    """Returns the figures of the pages, and those of the playground."""
    with running_browser() as browser:
        figures = _first_loads(browser, sizes.page_loads)
        with tempfile.TemporaryDirectory() as data:
            return figures + playground.first_token(browser, Path(data), sizes.page_answers)


def _first_loads(browser: Browser, loads: int) -> list[Figure]:
    """Loads each page for the first time, several times; the worst of all comes first."""
    kilobytes: dict[str, float] = {}
    seconds: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as data, touring(Path(data)) as tour:
        paths = dict.fromkeys(PUBLIC.values(), "") | {f"/{role}": role for role in ROLES}
        for path, role in paths.items():
            say(f"pages: {loads} first loads of {path}")
            measured = [_load(browser, tour, path, role) for _ in range(loads)]
            seconds[path] = percentile([taken for taken, _ in measured], 50)
            kilobytes[path] = max(size for _, size in measured) / 1000
    figures = [
        Figure(LARGEST, max(kilobytes.values()), "kB", MAX_KILOBYTES),
        Figure(SLOWEST, max(seconds.values()), "s", MAX_SECONDS),
    ]
    for path in kilobytes:
        figures += [
            Figure(f"first load of {path}, transferred", kilobytes[path], "kB", MAX_KILOBYTES),
            Figure(f"first load of {path}, until usable, p50", seconds[path], "s", MAX_SECONDS),
        ]
    return figures


def _load(browser: Browser, tour: Tour, path: str, role: str) -> tuple[float, int]:
    """Seconds until the page is usable, and the bytes transferred."""
    with window(browser) as context:
        if role:
            tour.log_in(context, role)
        tab = context.new_page()
        client = context.new_cdp_session(tab)
        client.send("Network.enable")
        sizes: list[int] = []
        client.on("Network.loadingFinished", lambda event: sizes.append(int(event["encodedDataLength"])))
        started = time.perf_counter()
        tour.open(tab, path)
        return time.perf_counter() - started, sum(sizes)

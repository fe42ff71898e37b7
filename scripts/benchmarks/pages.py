"""Measures the pages in Chromium: the first load of each, and a chat's first token beside the API's.

The figures of a first load are the bytes transferred and the seconds until the page is usable, which each
page marks itself: by the browser's clock, from the beginning of the navigation, so that the driver's own
waiting does not count. Each load uses a new browser context with an empty cache. The pages take turns, with
the smallest file of the site as the floor: what Chromium takes for itself. The chats have a market of their
own.
"""

from __future__ import annotations

import tempfile
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
_USABLE = "performance.getEntriesByName('usable')[0].startTime"
_LOADED = "performance.getEntriesByType('navigation')[0].domComplete"


def run(sizes: Sizes) -> list[Figure]:
    """Returns the figures of the pages, and those of the playground."""
    with running_browser() as browser:
        figures = _first_loads(browser, sizes.page_loads)
        with tempfile.TemporaryDirectory() as data:
            return figures + playground.first_token(browser, Path(data), sizes.page_answers)


def _first_loads(browser: Browser, loads: int) -> list[Figure]:
    """Loads each page for the first time, several times; the worst of all comes first."""
    paths = dict.fromkeys(PUBLIC.values(), "") | {f"/{role}": role for role in ROLES}
    measured: dict[str, list[tuple[float, int]]] = {path: [] for path in paths}
    floors: list[float] = []
    with tempfile.TemporaryDirectory() as data, touring(Path(data)) as tour:
        for number in range(loads):
            say(f"pages: first load {number + 1} of {loads} of each page")
            floors.append(_floor(browser, tour))
            for path, role in paths.items():
                measured[path].append(_load(browser, tour, path, role))
    kilobytes = {path: max(size for _, size in loaded) / 1000 for path, loaded in measured.items()}
    seconds = {path: percentile([taken for taken, _ in loaded], 50) for path, loaded in measured.items()}
    figures = [
        Figure(LARGEST, max(kilobytes.values()), "kB", MAX_KILOBYTES),
        Figure(SLOWEST, max(seconds.values()), "s", MAX_SECONDS),
        Figure("the floor: first load of the site's icon alone, p50", percentile(floors, 50), "s"),
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
        tour.open(tab, path)
        return tab.evaluate(_USABLE) / 1000, sum(sizes)


def _floor(browser: Browser, tour: Tour) -> float:
    """Seconds for a document without scripts and styles, until Chromium has loaded it."""
    with window(browser) as context:
        tab = context.new_page()
        tab.goto("about:blank")
        tab.goto(f"{tour.url}{tour.icon()}")
        return float(tab.evaluate(_LOADED)) / 1000

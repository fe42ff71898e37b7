"""Owns the list of the site's pages and how a browser gets to each, for the screenshots and the benchmark.

Views of accounts are read from the pages themselves, so that a new one is in both. It knows no figures.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from playwright.sync_api import Browser, BrowserContext, Page

from scripts.market import UNLIMITED, Market

PUBLIC = {
    "home": "/",
    "log-in": "/log-in",
    "docs": "/docs",
    "docs-inference": "/docs/inference",
    "docs-job": "/docs/job",
    "docs-guide": "/docs/guides/renters",
    "docs-operators": "/docs/guides/operators",
    "docs-settings": "/docs/guides/settings",
    "docs-events": "/docs/events",
    "docs-errors": "/docs/errors",
    "docs-objects": "/docs/objects",
}
"""The pages that need no account, by the name of their pictures."""
ROLES = ("renter", "provider")
READY = "html[data-ready]"
PATIENCE_MS = 300_000
"""A loaded machine is slow; a page that never comes is an error all the same."""
MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"
_HOME_READY = ".live-count:not(:empty)"
_GPUS = (
    ("NVIDIA GeForce RTX 4090", 24564, "Riyadh RTX Node"),
    ("NVIDIA H100 80GB HBM3", 81559, "Jeddah H100"),
    ("NVIDIA A100-SXM4-80GB", 81920, "Dammam A100"),
    ("NVIDIA L40S", 46068, "Madinah L40S"),
    ("NVIDIA GeForce RTX 3090", 24576, "Abha Workstation"),
    ("NVIDIA GeForce RTX 4080", 16376, "Tabuk 4080"),
    ("NVIDIA RTX A6000", 49140, "Khobar Studio"),
)


class Tour:
    """A running market with live providers and two accounts that have something to show."""

    def __init__(self, market: Market) -> None:
        self.market = market
        self.keys: dict[str, str] = {}
        """The keys of the two accounts by role."""
        self.nodes: list[str] = []
        """The keys of the other providers, which only report their GPUs."""

    def furnish(self) -> None:
        """Creates the accounts, the providers and a few jobs."""
        provider_key = self.market.register_provider("Buraydah Node", "provider@example.com")[1]
        self.market.add_daemon(provider_key)
        renter_id, renter_key = self.market.register_renter("Acme AI", "renter@example.com")
        self.market.credit(renter_id, 25_000)
        self.keys = {"renter": renter_key, "provider": provider_key}
        for number, (_, _, name) in enumerate(_GPUS):
            self.nodes.append(self.market.register_provider(name, f"node-{number}@example.com")[1])
        renter = {"x-renter-key": renter_key}
        self.market.post("/api/renters/keys", {"name": "Nightly batch", "scopes": ["inference"]}, **renter)
        for prompt in ("What is a GPU?", "Name three cities in Saudi Arabia."):
            body = {
                "job_type": "llm-inference",
                "duration_minutes": 3,
                "params": {"model": MODEL, "prompt": prompt, "max_tokens": 32},
            }
            self.market.post("/api/jobs/submit", body, **renter)

    def beat(self) -> None:
        """Has all providers report their GPUs, without which they are not live for long."""
        for key, (gpu, memory, _) in zip(self.nodes, _GPUS, strict=True):
            report = {"gpu_name": gpu, "gpu_vram_mib": memory}
            self.market.post("/api/providers/heartbeat", {"gpu_status": report}, **{"x-provider-key": key})

    def open(self, tab: Page, path: str, language: str = "en") -> None:
        """Opens a page and waits until it can be used. ``path`` can name a view after a #."""
        address, _, view = path.partition("#")
        if address == "/":
            self.beat()
        tab.goto("about:blank")
        tab.goto(f"{self.market.url}{address}?lang={language}{f'#{view}' if view else ''}")
        tab.wait_for_selector(_HOME_READY if address == "/" else READY)

    def log_in(self, context: BrowserContext, role: str) -> None:
        """Logs a browser in by the account's key, as the page does."""
        headers = {"origin": self.market.url, f"x-{role}-key": self.keys[role]}
        answer = httpx.post(f"{self.market.url}/api/log-in", json={}, headers=headers)
        answer.raise_for_status()
        for name, value in answer.cookies.items():
            cookie: Any = {"name": name, "value": value, "url": self.market.url, "sameSite": "Strict"}
            context.add_cookies([cookie])

    def views(self, role: str) -> Sequence[str]:
        """The paths of the views of an account's page, as its own list names them."""
        page = self.market.http.get(f"/{role}").raise_for_status().text
        listed = page.partition('<nav class="views"')[2].partition("</nav>")[0]
        return [f"/{role}#{part.partition(chr(34))[0]}" for part in listed.split('href="#')[1:]]


@contextmanager
def touring(folder: Path) -> Iterator[Tour]:
    """Runs a market for the pages."""
    with Market(folder, "operator-token-of-the-pages-only", settings=UNLIMITED) as market:
        tour = Tour(market)
        tour.furnish()
        yield tour


@contextmanager
def window(
    browser: Browser, width: int = 1440, height: int = 900, theme: str = "light"
) -> Iterator[BrowserContext]:
    """A browser without memory, of a size and a theme."""
    context = browser.new_context(
        viewport={"width": width, "height": height},
        color_scheme="dark" if theme == "dark" else "light",
        reduced_motion="reduce",
    )
    context.set_default_timeout(PATIENCE_MS)
    try:
        yield context
    finally:
        context.close()

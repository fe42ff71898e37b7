"""Owns the list of the site's pages and how a browser gets to each, for the screenshots and the benchmark.

Views of accounts are read from the pages themselves, so that a new one is in both. What each role sees is
real: jobs that ran, a payout that waits, a dispute, an incident. It knows no figures.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import httpx
from playwright.sync_api import Browser, BrowserContext, Page

from scripts import operators
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
ROLES = ("renter", "provider", "operator")
READY = "html[data-ready]"
PATIENCE_MS = 300_000
"""A loaded machine is slow; a page that never comes is an error all the same."""
MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"
_GPUS = (
    ("NVIDIA GeForce RTX 4090", 24564, "Riyadh RTX Node"),
    ("NVIDIA H100 80GB HBM3", 81559, "Jeddah H100"),
    ("NVIDIA A100-SXM4-80GB", 81920, "Dammam A100"),
    ("NVIDIA L40S", 46068, "Madinah L40S"),
    ("NVIDIA GeForce RTX 3090", 24576, "Abha Workstation"),
    ("NVIDIA GeForce RTX 4080", 16376, "Tabuk 4080"),
    ("NVIDIA RTX A6000", 49140, "Khobar Studio"),
)


_SETTINGS = UNLIMITED | {
    "DCP_PAYOUT_MATURES_HOURS": "0",
    "DCP_NEW_PAYOUT_MATURES_HOURS": "0",
    "DCP_INCIDENT_UNSERVED_MINUTES": "1",
}
_IBAN = "SA0380000000608010167519"
_LAUNCH_PRICE, _PRICE = "100000", "0.60"
"""SAR for a million tokens: with the first, a few short answers are enough for a payout."""
_LEAST_HALALA = 1_000
"""The least amount of a withdrawal."""
_WAIT_SECONDS = 600.0
_BEAT_SECONDS = 10.0
_Found = TypeVar("_Found")


class Tour:
    """A running market with live providers, and accounts of each role that have something to show."""

    def __init__(self, market: Market) -> None:
        self.market = market
        self.url = operators.address(market)
        self.keys: dict[str, str] = {}
        """The keys of the renter and the provider by role."""
        self.nodes: list[str] = []
        """The keys of the other providers, which only report their GPUs."""
        self.details: dict[str, list[str]] = {}
        """The views of single things, by role."""
        self._cookies: dict[str, Any] = {}
        """The log-ins of browsers, by role."""

    def furnish(self) -> None:
        """Creates the accounts, the providers, jobs, and what an operator decides."""
        provider_id, provider_key = self.market.register_provider("Buraydah Node", "provider@example.com")
        self.market.add_daemon(provider_key)
        renter_id, renter_key = self.market.register_renter("Acme AI", "renter@example.com")
        self.market.credit(renter_id, 25_000)
        self.keys = {"renter": renter_key, "provider": provider_key}
        for number, (_, _, name) in enumerate(_GPUS):
            self.nodes.append(self.market.register_provider(name, f"node-{number}@example.com")[1])
        renter = {"x-renter-key": renter_key}
        self.market.post("/api/renters/keys", {"name": "Nightly batch", "scopes": ["inference"]}, **renter)
        for prompt in ("What is a GPU?", "Name three cities in Saudi Arabia."):
            self._submit({"model": MODEL, "prompt": prompt, "max_tokens": 32})
        self._submit({"model": "Qwen/Qwen3-8B", "prompt": "What is zakat?"}, wait_for_supply=True)
        self._set_price(_LAUNCH_PRICE)
        charged = self._chat("Write a haiku.")
        payout = self._ask_for_payout()
        self._set_price(_PRICE)
        reason = {"reason": "The answer repeats one line and stops in the middle of a word."}
        dispute = self.market.post(f"/api/jobs/{charged}/dispute", reason, **renter)["dispute"]["id"]
        self._suspend()
        self.details = {
            "renter": [f"job/{charged}"],
            "operator": [
                f"payout/{payout}",
                f"dispute/{dispute}",
                f"renter/{renter_id}",
                f"provider/{provider_id}",
                f"job/{charged}",
            ],
        }

    def _as_admin(self, path: str, body: object) -> dict[str, Any]:
        return self.market.post(path, body, **{"x-admin-token": self.market.admin_token})

    def _submit(self, params: dict[str, object], **more: object) -> None:
        body = {"job_type": "llm-inference", "duration_minutes": 3, "params": params, **more}
        self.market.post("/api/jobs/submit", body, **{"x-renter-key": self.keys["renter"]})

    def _set_price(self, price: str) -> None:
        kinds = ("input", "cached_input", "output")
        prices = {f"sar_per_million_{kind}_tokens": price for kind in kinds}
        self._as_admin("/api/admin/prices", {"model": MODEL, **prices})

    def _chat(self, prompt: str) -> str:
        """The id of a job that was answered and charged."""
        body = {"model": MODEL, "max_tokens": 160, "messages": [{"role": "user", "content": prompt}]}
        own = {"x-renter-key": self.keys["renter"]}

        def ask() -> str:
            answer = self.market.http.post("/v1/chat/completions", json=body, headers=own, timeout=120)
            return "" if answer.is_error else answer.headers["x-request-id"]

        return _eventually("an answer", ask)

    def _ask_for_payout(self) -> int:
        """The id of the provider's withdrawal request, once its earnings are enough for one."""
        own = {"x-provider-key": self.keys["provider"]}

        def earnings() -> int:
            earned = int(self.market.get("/api/providers/earnings", **own)["claimable_halala"])
            if earned < _LEAST_HALALA:
                self._chat("Name as many GPUs as you know.")  # answers of a small model are of any length
            return earned if earned >= _LEAST_HALALA else 0

        earned = _eventually("the earnings", earnings)
        body = {"amount_halala": max(_LEAST_HALALA, earned // 2), "iban": _IBAN}
        return int(self.market.post("/api/providers/withdrawals", body, **own)["withdrawal"]["id"])

    def _suspend(self) -> None:
        """A renter whom an operator suspended: the audit log has its reason."""
        renter_id, _ = self.market.register_renter("Filler Ltd", "filler@example.com")
        self._as_admin(f"/api/admin/renters/{renter_id}/suspend", {"reason": "The card was reported stolen."})

    def wait_for_incident(self) -> None:
        """Waits until the market reports that nobody serves a model that is wanted: about three minutes."""
        admin = {"x-admin-token": self.market.admin_token}
        _eventually("an incident", lambda: self.market.get("/api/admin/incidents", **admin)["incidents"])

    def beat_until(self, end: threading.Event) -> None:
        """Has all providers report their GPUs now and then, without which they are not live for long."""
        while True:
            self._beat()
            if end.wait(_BEAT_SECONDS):
                return

    def _beat(self) -> None:
        for key, (gpu, memory, _) in zip(self.nodes, _GPUS, strict=True):
            report = {"gpu_name": gpu, "gpu_vram_mib": memory}
            self.market.post("/api/providers/heartbeat", {"gpu_status": report}, **{"x-provider-key": key})

    def open(self, tab: Page, path: str, language: str = "en") -> None:
        """Opens a page and waits until it can be used. ``path`` can name a view after a #."""
        address, _, view = path.partition("#")
        tab.goto("about:blank")
        tab.goto(f"{self.url}{address}?lang={language}{f'#{view}' if view else ''}")
        tab.wait_for_selector(READY)

    def icon(self) -> str:
        """The path of the smallest file of the site."""
        page = self.market.http.get("/").raise_for_status().text
        return page.partition('<link rel="icon" href="')[2].partition('"')[0]

    def log_in(self, context: BrowserContext, role: str) -> None:
        """Logs a browser in; all of a role share one log-in."""
        if role not in self._cookies:
            is_operator = role == "operator"
            self._cookies[role] = self._joined(context.browser) if is_operator else self._logged_in(role)
        context.add_cookies(self._cookies[role])

    def _logged_in(self, role: str) -> Any:
        """The cookies of a log-in by an account's key, made as the page makes it."""
        headers = {"origin": self.url, f"x-{role}-key": self.keys[role]}
        answer = httpx.post(f"{self.url}/api/log-in", json={}, headers=headers)
        answer.raise_for_status()
        return [
            {"name": name, "value": value, "url": self.url, "sameSite": "Strict"}
            for name, value in answer.cookies.items()
        ]

    def _joined(self, browser: Browser | None) -> Any:
        """The cookies of an operator, who comes by an invitation and a passkey, in a browser of its own."""
        assert browser is not None, "a context that was opened by a browser"
        with window(browser) as context:
            tab = context.new_page()
            operators.add_authenticator(tab)
            operators.accept(tab, operators.invite(self.market, "Sara", "admin")[1])
            return context.cookies()

    def views(self, role: str) -> Sequence[str]:
        """The paths of the views of an account's page: those of its own list, then those of single things."""
        page = self.market.http.get(f"/{role}").raise_for_status().text
        listed = page.partition('<nav class="views"')[2].partition("</nav>")[0]
        names = [part.partition(chr(34))[0] for part in listed.split('href="#')[1:]]
        return [f"/{role}#{name}" for name in (*names, *self.details.get(role, ()))]


def _eventually(what: str, look: Callable[[], _Found | None]) -> _Found:
    """Looks again and again until there is something. Raises TimeoutError."""
    deadline = time.monotonic() + _WAIT_SECONDS
    while time.monotonic() < deadline:
        if found := look():
            return found
        time.sleep(0.5)
    raise TimeoutError(f"{what} did not come")


@contextmanager
def touring(folder: Path) -> Iterator[Tour]:
    """Runs a market for the pages."""
    with Market(folder, "operator-token-of-the-pages-only", settings=_SETTINGS) as market:
        tour = Tour(market)
        tour.furnish()
        end = threading.Event()
        beats = threading.Thread(target=tour.beat_until, args=(end,))
        beats.start()
        try:
            yield tour
        finally:
            end.set()
            beats.join()


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

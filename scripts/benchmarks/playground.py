"""Measures how much later an answer's first token is on the playground's page than at a client of the API.

Chats are asked in turns by a program and by the page, of the same market and the same scripted engine. Each
is the first message of its conversation, so that the page sends no more than the program.
"""

from __future__ import annotations

import asyncio
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from playwright.sync_api import Browser, Page

from scripts.benchmarks import chat_client
from scripts.benchmarks.chat_client import Endpoint
from scripts.benchmarks.figures import Figure, at_most, percentile
from scripts.benchmarks.processes import say
from scripts.benchmarks.scripted_engine import PACED
from scripts.market import UNLIMITED, Market, Program

MAX_LATER_MS = at_most(10)
TOKENS = 16
WARM_UPS = 3

# Milliseconds from the submit of the form until the first text is in the page, and until its frame is drawn.
_FIRST_TEXT = """() => new Promise((resolve) => {
  const log = document.querySelector('[role="log"]');
  document.querySelector("#anew").click();
  const observer = new MutationObserver(() => {
    if (!log.children[1]?.querySelector("p").textContent) return;
    observer.disconnect();
    const there = performance.now() - began;
    requestAnimationFrame(() => resolve([there, performance.now() - began]));
  });
  observer.observe(log, { childList: true, subtree: true, characterData: true });
  document.querySelector("#prompt").value = "What is a GPU?";
  const began = performance.now();
  document.querySelector("form:has(#prompt)").requestSubmit();
})"""


def first_token(browser: Browser, folder: Path, answers: int) -> list[Figure]:
    """Starts a market in an empty folder, asks so many chats on each way, and returns the figures."""
    say(f"playground: the first token of {answers} answers on the page and by the API")
    command = [sys.executable, "-m", "scripts.benchmarks.scripted_engine"]
    engine = Program("engine", env={}, folder=folder, command=command)
    try:
        with Market(folder, admin_token="operator-token-of-benchmarks-only", settings=UNLIMITED) as market:
            _, provider = market.register_provider("Bench", "bench@example.com")
            market.add_daemon(provider, settings={"DCP_ATTACHED_URL": engine.address})
            renter_id, key = market.register_renter("Bench", "renter@example.com")
            market.credit(renter_id, 1_000_000)
            endpoint = Endpoint(f"{market.url}/v1/chat/completions", key, PACED)
            context = browser.new_context(base_url=market.url)
            try:
                page = _playground(context.new_page(), key)
                found = [(_of_api(endpoint), *_of_page(page)) for _ in range(WARM_UPS + answers)]
            finally:
                context.close()
    finally:
        engine.stop()
    by_api, on_page, drawn = (percentile(each, 50) for each in zip(*found[WARM_UPS:], strict=True))
    return [
        Figure("first token of a chat, by the API, p50", by_api, "ms"),
        Figure("first token of a chat, on the playground's page, p50", on_page, "ms"),
        Figure("the page's first token: later than the API's, p50", on_page - by_api, "ms", MAX_LATER_MS),
        Figure("the same, until its frame is drawn", drawn - by_api, "ms"),
    ]


def _playground(page: Page, key: str) -> Page:
    page.goto("/log-in?lang=en&role=renter")
    page.fill("#key", key)
    page.click("form:has(#key) button")
    page.wait_for_url("**/renter")
    page.goto("/renter#playground")
    page.locator("#most").fill(str(TOKENS))
    page.locator("#model").select_option(PACED)
    return page


def _of_api(endpoint: Endpoint) -> float:
    with ThreadPoolExecutor(1) as other:  # this thread has a loop already, that of playwright
        answer = other.submit(asyncio.run, chat_client.ask(endpoint, TOKENS)).result()
    return answer.first_seconds * 1000


def _of_page(page: Page) -> tuple[float, float]:
    there, drawn = page.evaluate(_FIRST_TEXT)
    page.wait_for_selector("form:has(#prompt):not([aria-busy])")
    return float(there), float(drawn)

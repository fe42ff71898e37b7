"""Takes screenshots of every page in both languages, both widths and both themes, for review.

It starts its own market with one live provider, and uses the form of the reference page.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
from pathlib import Path

from playwright.sync_api import Browser, Page

from scripts.browser import running_browser
from scripts.market import Market

ROOT = Path(__file__).resolve().parent.parent
PAGES = {"home": "/", "docs": "/docs"}
LANGUAGES = ("en", "ar")
WIDTHS = {"desktop": 1440, "phone": 390}
THEMES = ("light", "dark")
HEIGHT = 900


def main() -> int:
    """Writes the screenshots and prints their paths."""
    folder = Path(_options().folder)
    folder.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory() as data,
        Market(Path(data), admin_token="operator-token-of-screenshots-only") as market,
        running_browser() as browser,
    ):
        market.add_daemon(market.register_provider("Riyadh RTX Node", "provider@example.com")[1])
        for page, language, width, theme in itertools.product(PAGES, LANGUAGES, WIDTHS, THEMES):
            path = folder / f"{page}-{language}-{width}-{theme}.png"
            _photograph(browser, market.url, page, language, width, theme, path)
            print(path, flush=True)
    return 0


def _photograph(
    browser: Browser, url: str, page: str, language: str, width: str, theme: str, path: Path
) -> None:
    context = browser.new_context(
        viewport={"width": WIDTHS[width], "height": HEIGHT},
        color_scheme="dark" if theme == "dark" else "light",
        reduced_motion="reduce",
    )
    try:
        tab = context.new_page()
        tab.goto(f"{url}{PAGES[page]}?lang={language}")
        if page == "home":
            tab.wait_for_selector("#providers li")
            tab.screenshot(path=path, full_page=True)
            return
        tab.wait_for_selector("html[data-ready]")
        tab.screenshot(path=path)
        _break_the_body(tab)
        tab.screenshot(path=path.with_stem(f"{path.stem}-try"))
        _open_everything(tab)
        tab.screenshot(path=path.with_stem(f"{path.stem}-endpoint"))
    finally:
        context.close()


def _break_the_body(tab: Page) -> None:
    """Sends a request without a key, then fills in a body with mistakes."""
    tab.select_option("#endpoint", "get-own-renter")
    tab.click("#send")
    tab.wait_for_selector("#explained:not([hidden])")
    tab.select_option("#endpoint", "submit-job")
    tab.fill("#body", '{\n  "job_type": "inference",\n  "duration_minutes": 0,\n  "colour": "green"\n}')
    tab.locator("#try").scroll_into_view_if_needed()
    tab.evaluate("document.querySelector('#try').scrollIntoView()")


def _open_everything(tab: Page) -> None:
    """Opens an endpoint's code samples and errors."""
    tab.evaluate(
        "() => { const a = document.getElementById('submit-job');"
        "a.querySelectorAll('details').forEach((d) => { d.open = true; }); a.scrollIntoView(); }"
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/screenshots", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "folder",
        nargs="?",
        default=str(ROOT / "screenshots"),
        help="folder for the screenshots (default: screenshots/)",
    )
    return parser.parse_args()


if __name__ == "__main__":
    raise SystemExit(main())

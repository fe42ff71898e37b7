"""Takes screenshots of every page in both languages, both widths and both themes, for review.

It starts its own market with live providers, and uses the form of the reference page. With --pictures it
writes the few that README.md and docs/ show.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from playwright.sync_api import Browser, Page

from scripts.browser import running_browser
from scripts.tour import PUBLIC, ROLES, Tour, touring, window

ROOT = Path(__file__).resolve().parent.parent
PICTURES = ROOT / "docs" / "pictures"
LANGUAGES = ("en", "ar")
WIDTHS = {"desktop": 1440, "phone": 390}
THEMES = ("light", "dark")
HEIGHT = 900
PICTURE_SIZES = {"desktop": (1200, 640), "phone": (390, 844)}
MAX_PICTURE_BYTES = 150_000


class Look(NamedTuple):
    """How a page is shown."""

    language: str = "en"
    width: str = "desktop"
    theme: str = "light"

    def __str__(self) -> str:
        return "-".join(self)


class Picture(NamedTuple):
    """A picture of the documents: where a page is opened, and what is done there first."""

    path: str
    look: Look = Look()
    role: str = ""
    act: Callable[[Page], None] = lambda tab: None


def main() -> int:
    """Writes the screenshots and prints their paths."""
    options = _options()
    folder = PICTURES if options.pictures else Path(options.folder)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as data, touring(Path(data)) as tour, running_browser() as browser:
        if options.pictures:
            for name, picture in CHOSEN.items():
                if picture.role == "operator":
                    tour.wait_for_incident()
                _draw(browser, tour, picture, folder / f"{name}.png")
            return 0
        looks = [Look(*values) for values in itertools.product(LANGUAGES, WIDTHS, THEMES)]
        for look in looks:
            for name, path in PUBLIC.items():
                _photograph(browser, tour, name, path, look, folder)
        tour.wait_for_incident()  # as most pages are done, hardly ever for long
        for look in looks:
            for role in ROLES:
                _photograph_account(browser, tour, role, look, folder)
    return 0


def _take(tab: Page, path: Path, *, whole: bool = False) -> None:
    tab.screenshot(path=path, full_page=whole)
    print(path, flush=True)


def _draw(browser: Browser, tour: Tour, picture: Picture, path: Path) -> None:
    with window(browser, *PICTURE_SIZES[picture.look.width], picture.look.theme) as context:
        if picture.role:
            tour.log_in(context, picture.role)
        tab = context.new_page()
        tour.open(tab, picture.path, picture.look.language)
        picture.act(tab)
        _take(tab, path)
    if path.stat().st_size > MAX_PICTURE_BYTES:
        raise SystemExit(f"{path} has {path.stat().st_size:,} bytes; at most {MAX_PICTURE_BYTES:,}")


def _photograph_account(browser: Browser, tour: Tour, role: str, look: Look, folder: Path) -> None:
    """Takes a picture of each view of an account."""
    with window(browser, WIDTHS[look.width], HEIGHT, look.theme) as context:
        tour.log_in(context, role)
        tab = context.new_page()
        for view in tour.views(role):
            tour.open(tab, view, look.language)
            name = view.partition("#")[2].partition("/")[0]  # without the id of a single thing
            _take(tab, folder / f"{role}-{name}-{look}.png", whole=True)


def _photograph(browser: Browser, tour: Tour, name: str, path: str, look: Look, folder: Path) -> None:
    with window(browser, WIDTHS[look.width], HEIGHT, look.theme) as context:
        tab = context.new_page()
        tour.open(tab, path, look.language)
        if name == "home":
            tab.wait_for_selector("#providers tr")
        _take(tab, folder / f"{name}-{look}.png", whole=name in ("home", "docs", "docs-inference"))
        if name == "docs-job":
            break_the_body(tab)
            _take(tab, folder / f"{name}-try-{look}.png")
            open_everything(tab)
            _take(tab, folder / f"{name}-endpoint-{look}.png")
        if name == "docs":
            search(tab)
            _take(tab, folder / f"{name}-search-{look}.png")


def break_the_body(tab: Page) -> None:
    """Sends a request without a key, then fills in a body with mistakes."""
    tab.select_option("#endpoint", "get-own-renter")
    tab.click("#send")
    tab.wait_for_selector("#explained:not([hidden])")
    tab.select_option("#endpoint", "submit-job")
    tab.fill("#body", '{\n  "job_type": "inference",\n  "duration_minutes": 0,\n  "colour": "green"\n}')
    tab.locator("#try").scroll_into_view_if_needed()
    tab.evaluate("document.querySelector('#try').scrollIntoView()")


def open_everything(tab: Page) -> None:
    """Opens an endpoint's code samples and errors."""
    tab.evaluate(
        "() => { const a = document.getElementById('submit-job');"
        "a.querySelectorAll('details').forEach((d) => { d.open = true; }); a.scrollIntoView(); }"
    )


def search(tab: Page) -> None:
    """Looks for something that guides, endpoints and errors have."""
    tab.fill("#search", "balance")
    tab.wait_for_selector("#results a")


def _see_the_market(tab: Page) -> None:
    tab.wait_for_selector("#providers tr")


def _see_the_submit(tab: Page) -> None:
    tab.evaluate("document.getElementById('submit-job').scrollIntoView()")


CHOSEN = {
    "market": Picture("/", act=_see_the_market),
    "market-phone": Picture("/", Look("ar", "phone", "dark"), act=_see_the_market),
    "documents": Picture("/docs/job", act=_see_the_submit),
    "documents-arabic": Picture("/docs/guides/renters", Look("ar")),
    "inference": Picture("/docs/inference", Look(theme="dark")),
    "renter": Picture("/renter#jobs", role="renter"),
    "provider": Picture("/provider#earnings", Look("ar"), role="provider"),
    "operator": Picture("/operator#health", Look(theme="dark"), role="operator"),
}
"""The pictures that README.md and docs/ show, by their names."""


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
    parser.add_argument("--pictures", action="store_true", help="write docs/pictures instead")
    return parser.parse_args()


if __name__ == "__main__":
    raise SystemExit(main())

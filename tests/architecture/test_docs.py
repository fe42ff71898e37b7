"""The documentation: entry pages are short, links work, and every named file, module and script exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from scripts.benchmarks import page as figures_page
from scripts.benchmarks.figures import Figure, Target
from tests.architecture.tools import ROOT, run, tracked_files

DOCS = sorted(path for path in tracked_files() if path.suffix == ".md")
NAMES = [str(path.relative_to(ROOT)) for path in DOCS]
# The changelog describes the past and is not corrected later.
PRESENT = [name for name in NAMES if name != "CHANGELOG.md"]
MOST_LINES = {"README.md": 150, "ARCHITECTURE.md": 150, "docs/wording.md": 60}
# A path in backticks, relative to the repository; X and N are placeholders.
ROOMS = "server|gateway|market|daemon|common|protos|generated|deploy|scripts|tests|docs"
PATH = re.compile(rf"`((?:{ROOMS})/[\w./-]*\w/?)(?: [^`]*)?`")
MODULE = re.compile(r"python -m ([\w.]+)")
COMMAND = re.compile(r"(?<![\w/.-])(scripts/[\w-]+)(?![\w./-])")


def without_code_blocks(text: str) -> str:
    """The text without its blocks of code."""
    return re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)


def links(text: str) -> list[str]:
    return re.findall(r"\[[^\]]*\]\(([^)\s]+)\)", without_code_blocks(text))


def anchors(path: Path) -> set[str]:
    """The anchors of the headings, as GitHub forms them."""
    headings = re.findall(r"^#+ (.+)$", without_code_blocks(path.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken_links(path: Path, text: str) -> list[str]:
    broken = []
    for link in links(text):
        if "://" in link:
            continue
        name, _, anchor = link.partition("#")
        target = (path.parent / name).resolve() if name else path
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    return broken


def missing_names(text: str) -> list[str]:
    paths = [name for name in PATH.findall(text) if "X" not in name and not (ROOT / name).exists()]
    modules = [name for name in MODULE.findall(text) if not (ROOT / f"{name.replace('.', '/')}.py").exists()]
    commands = [name for name in COMMAND.findall(text) if not (ROOT / name).exists()]
    return paths + modules + commands


@pytest.mark.parametrize("name", MOST_LINES)
def test_entry_pages_are_short(name: str) -> None:
    assert len((ROOT / name).read_text().splitlines()) <= MOST_LINES[name]


@pytest.mark.parametrize("name", NAMES)
def test_links_work(name: str) -> None:
    assert broken_links(ROOT / name, (ROOT / name).read_text()) == []


@pytest.mark.parametrize("name", PRESENT)
def test_named_files_modules_and_scripts_exist(name: str) -> None:
    assert missing_names((ROOT / name).read_text()) == []


def test_every_page_is_linked_from_the_readme_or_the_architecture() -> None:
    linked = {
        (ROOT / link.partition("#")[0]).resolve()
        for name in ("README.md", "ARCHITECTURE.md")
        for link in links((ROOT / name).read_text())
    }
    assert [name for name in NAMES if name.startswith("docs/") and ROOT / name not in linked] == []


def test_every_folder_is_on_the_map() -> None:
    """A new room at the top is a decision, and the map says what it owns."""
    on_map = set(re.findall(r"^\| `(\w+)[/`]", (ROOT / "ARCHITECTURE.md").read_text(), re.MULTILINE))
    folders = {path.relative_to(ROOT).parts[0] for path in tracked_files() if path.parent != ROOT}
    assert {name for name in folders if not name.startswith(".")} == on_map


def test_decisions_are_dated_and_sorted_by_date() -> None:
    for path in sorted((ROOT / "docs/decisions").glob("*.md")):
        entries = path.read_text().split("\n\n")[2:]
        dates = [re.match(r"(\d{4}-\d{2}-\d{2}) · \*\*", entry) for entry in entries]
        assert all(dates), path.name
        found = [date[1] for date in dates if date]
        assert found == sorted(found), path.name


@pytest.mark.parametrize(
    "text",
    ["[x](docs/no-such.md)", "[x](docs/renters.md#no-such-heading)", "[x](#no-such-heading)"],
)
def test_broken_link_is_found(text: str) -> None:
    assert broken_links(ROOT / "README.md", text) == links(text) != []


@pytest.mark.parametrize(
    "text", ["`server/no_such.py`", "python -m scripts.no_such", "run scripts/no-such now"]
)
def test_missing_name_is_found(text: str) -> None:
    assert len(missing_names(text)) == 1


def test_every_program_starts_under_its_documented_name() -> None:
    """The documentation calls the programs dcp-server, dcp-gateway, dcp-market and dcp-daemon."""
    for module in ("server", "gateway", "market", "daemon"):
        done = run("python", "-m", module, "--help")
        assert done.returncode == 0, done.stderr
        assert f"dcp-{module}" in done.stdout


def test_recorded_figures_replace_only_their_own_part() -> None:
    page = "# Figures\n\n## gateway\n\nold\n\n## pages\n\nkept\n"
    figures = [Figure("first load", 1.5, "s", Target(3))]
    written = figures_page.updated(page, {"gateway": figures}, "2026-11-26", "2 cores")
    assert "old" not in written
    assert "| first load | 1.50 | s | <= 3 | yes |  |  |" in written
    assert written.endswith("\n## pages\n\nkept\n")
    assert figures_page.updated(written, {"gateway": figures}, "2026-11-26", "2 cores") == written


def test_page_of_figures_has_every_part_of_the_bench() -> None:
    from scripts.benchmarks.__main__ import PAGE, PARTS

    for part in PARTS:
        assert f"\n## {part}\n" in PAGE.read_text()

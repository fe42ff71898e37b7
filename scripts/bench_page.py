"""The page of figures, docs/figures.md: a section for each part of the bench, replaced when it is measured.

It knows texts only: no program and no clock.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from scripts.bench_figures import Figure, row


def updated(page: str, measured: Mapping[str, Sequence[Figure]], date: str, machine: str) -> str:
    """The page with the sections of the measured parts written anew; all else stays."""
    for part, figures in measured.items():
        section = f"## {part}\n\n{date}, on {machine}.\n\n{_table(figures)}\n"
        found = re.search(rf"^## {re.escape(part)}\n.*?(?=^## |\Z)", page, re.MULTILINE | re.DOTALL)
        if found is None:
            raise ValueError(f"the page has no section '## {part}'")
        page = f"{page[: found.start()]}{section}\n{page[found.end() :]}"
    return page.rstrip("\n") + "\n"


def _table(figures: Sequence[Figure]) -> str:
    head = ("figure", "value", "unit", "mark", "met", "goal", "met")
    lines = [head, ("---", "---:", *["---"] * 5), *(row(figure) for figure in figures)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)

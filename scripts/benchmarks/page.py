"""The page docs/figures.md: one section for each part of the bench, replaced when that part is measured.

This module only edits text; it must not know the programs or a clock.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from scripts.benchmarks.figures import Figure, row


def updated(page: str, measured: Mapping[str, Sequence[Figure]], date: str, machine: str) -> str:
    """The page with new sections for the measured parts; the rest is unchanged."""
    for part, figures in measured.items():
        section = f"## {part}\n\n{date}, on {machine}.\n\n{_table(figures)}\n"
        found = re.search(rf"^## {re.escape(part)}\n.*?(?=^## |\Z)", page, re.MULTILINE | re.DOTALL)
        if found is None:
            raise ValueError(f"docs/figures.md has no section '## {part}'; add the heading")
        page = f"{page[: found.start()]}{section}\n{page[found.end() :]}"
    return page.rstrip("\n") + "\n"


def _table(figures: Sequence[Figure]) -> str:
    head = ("figure", "value", "unit", "mark", "met", "goal", "met")
    lines = [head, ("---", "---:", *["---"] * 5), *(row(figure) for figure in figures)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)

"""The benchmarks' figures: percentiles, targets, and the table of results.

This module starts nothing and must not know the programs.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

NOT_MEASURED = "-"
COLUMNS = ("value", "unit", "goal", "met", "beyond", "met")


@dataclass(frozen=True, slots=True)
class Target:
    """The lower or upper limit with which a figure is compared."""

    limit: float
    at_least: bool = False

    def met(self, value: float) -> bool:
        """Whether the value is within the limit."""
        return value >= self.limit if self.at_least else value <= self.limit

    def __str__(self) -> str:
        return f"{'>=' if self.at_least else '<='} {_number(self.limit)}"


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured value. ``goal`` is what it is to reach now, ``beyond`` what the project aims at later."""

    name: str
    value: float
    unit: str
    goal: Target | None = None
    beyond: Target | None = None

    def as_json(self) -> dict[str, object]:
        """The figure for ``--json``."""
        return {
            "name": self.name,
            "value": None if math.isnan(self.value) else self.value,
            "unit": self.unit,
            "goal": str(self.goal) if self.goal else None,
            "goal_met": self.goal.met(self.value) if self.goal else None,
            "beyond": str(self.beyond) if self.beyond else None,
            "beyond_met": self.beyond.met(self.value) if self.beyond else None,
        }


def percentile(values: Iterable[float], percent: float) -> float:
    """The nearest-rank percentile; NaN without values."""
    ordered = sorted(values)
    if not ordered:
        return math.nan
    return ordered[max(0, math.ceil(percent / 100 * len(ordered)) - 1)]


def latencies(
    name: str,
    seconds: Sequence[float],
    *,
    goal_p99: Target | None = None,
) -> list[Figure]:
    """p50 and p99 of durations in seconds, as figures in milliseconds."""
    return [
        Figure(f"{name}, p50", percentile(seconds, 50) * 1000, "ms"),
        Figure(f"{name}, p99", percentile(seconds, 99) * 1000, "ms", goal_p99),
    ]


def table(title: str, figures: Sequence[Figure]) -> str:
    """The figures as an aligned text table, each with its goals."""
    head = (title, *COLUMNS)
    rows = [head, *(row(figure) for figure in figures)]
    widths = [max(len(cells[column]) for cells in rows) for column in range(len(head))]
    lines = []
    for cells in rows:
        aligned = [
            cell.rjust(width) if column == 1 else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        lines.append("  ".join(aligned).rstrip())
    lines.insert(1, "-" * len(lines[0]))
    return "\n".join(lines)


def row(figure: Figure) -> tuple[str, ...]:
    """The cells of a figure: its name, then COLUMNS."""
    return (
        figure.name,
        _number(figure.value),
        figure.unit,
        str(figure.goal or ""),
        _verdict(figure.goal, figure.value),
        str(figure.beyond or ""),
        _verdict(figure.beyond, figure.value),
    )


def _verdict(target: Target | None, value: float) -> str:
    if target is None or math.isnan(value):
        return ""
    return "yes" if target.met(value) else "no"


def _number(value: float) -> str:
    if math.isnan(value):
        return NOT_MEASURED
    if abs(value) >= 100 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.2f}" if abs(value) >= 0.1 else f"{value:.3f}"


def at_most(limit: float) -> Target:
    """The target of a figure that should be small."""
    return Target(limit)


def at_least(limit: float) -> Target:
    """The target of a figure that should be large."""
    return Target(limit, at_least=True)


def ratio(value: float, other: float) -> float:
    """How many times the other value a value is; NaN if there is no other value."""
    return value / other if other else math.nan

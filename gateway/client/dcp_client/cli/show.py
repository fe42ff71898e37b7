"""Owns what the command writes: tables for people, JSON for programs, and what a terminal must not get.

Answers go to standard output, notes to standard error. It asks no market.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone
from decimal import Decimal
from typing import Any

from dcp_client.cli.texts import say
from rich.cells import cell_len
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    ProgressColumn,
    TaskProgressColumn,
    TextColumn,
    TransferSpeedColumn,
)
from rich.table import Table
from rich.text import Text

# A table with less than this many columns of text for each of its columns is shown as blocks instead.
_LEAST_CELL = 7
# A bar and the facts beside it need so many columns.
_LEAST_BAR = 60
# Control characters would steer the terminal of whoever reads a job's output: its colours, title and keys.
_STEERING = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)?"
    r"|[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]"
)


class Screen:
    """Standard output and error of the command."""

    def __init__(self) -> None:
        self.as_json = False
        self.out = Console(highlight=False, markup=False, emoji=False)
        self.err = Console(stderr=True, highlight=False, markup=False, emoji=False)

    @property
    def is_interactive(self) -> bool:
        """Whether a person can be asked."""
        return sys.stdin.isatty() and self.err.is_terminal

    def json(self, value: Any) -> None:
        """Writes a value for programs."""
        self._write(json.dumps(value, ensure_ascii=False, indent=2) + "\n")

    def _write(self, text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()

    def raw(self, text: str) -> None:
        """Writes text of a job as it is, or without control characters to a terminal."""
        self._write(plain(text) if self.out.is_terminal else text)

    def line(self, text: str, style: str = "") -> None:
        """Writes a line of the answer."""
        self.out.print(Text(plain(text), style=style), soft_wrap=not self.out.is_terminal)

    def note(self, text: str, style: str = "dim") -> None:
        """Writes a line that is not the answer."""
        self.err.print(Text(plain(text), style=style), soft_wrap=not self.err.is_terminal)

    def error(self, text: str) -> None:
        """Writes what went wrong."""
        self.err.print(Text.assemble(("dcp: ", "bold red"), plain(text)), soft_wrap=not self.err.is_terminal)

    def bar(self, *facts: ProgressColumn) -> Progress:
        """A bar with facts beside it, on a terminal; where it has no room for them, how much is done."""
        name = TextColumn("{task.description}")
        has_room = self.err.width >= _LEAST_BAR
        columns = (name, BarColumn(), *facts) if has_room else (name, TaskProgressColumn())
        return Progress(*columns, console=self.err, transient=True, disable=not self.err.is_terminal)

    @contextmanager
    def progress(self, name: str) -> Iterator[Callable[[str, int, int], None]]:
        """Shows how much of a file is there, on a terminal; it is gone when the block ends."""
        with self.bar(DownloadColumn(), TransferSpeedColumn()) as bar:
            task = bar.add_task(escape(plain(name)))
            yield lambda _, done, total: bar.update(task, completed=done, total=total)

    def table(self, head: Sequence[str], rows: Iterable[Sequence[object]], empty: str) -> None:
        """Writes rows: a table on a terminal, columns for a pipe, blocks where a table has no room."""
        texts = [["" if cell is None else plain(str(cell)) for cell in row] for row in rows]
        if not texts:
            self.note(empty)
        elif self.out.is_terminal:
            self.out.print(self.drawn(head, texts))
        else:
            self._write("\n".join(_columns([list(head), *texts])) + "\n")

    def drawn(self, head: Sequence[str], texts: Sequence[Sequence[str]]) -> Any:
        """A table for a terminal of this width."""
        if self.out.width < _LEAST_CELL * len(head):
            blocks = ["\n".join(f"{name}: {cell}" for name, cell in zip(head, row) if cell) for row in texts]
            return Text("\n\n".join(blocks))
        table = Table(box=None, pad_edge=False, header_style="bold")
        for name in head:
            table.add_column(name, overflow="fold")
        for row in texts:
            table.add_row(*(Text(cell) for cell in row))
        return table

    def facts(self, pairs: Iterable[tuple[str, object]]) -> None:
        """Writes names and values, a line each, without those that have no value."""
        there = [(name, plain(str(value))) for name, value in pairs if value not in (None, "")]
        width = max((cell_len(name) for name, _ in there), default=0)
        if self.out.is_terminal and self.out.width < 2 * width:
            width = 0
        for name, value in there:
            gap = " " * max(1, width - cell_len(name) + 2)
            self.out.print(Text.assemble((name, "bold"), gap, value), soft_wrap=not self.out.is_terminal)

    def answer(self, value: Any, show: Callable[[], None]) -> None:
        """Writes a value as JSON if that is asked for; otherwise shows it."""
        if self.as_json:
            self.json(value)
        else:
            show()


def _columns(rows: Sequence[Sequence[str]]) -> Iterable[str]:
    widths = [max(cell_len(cell) for cell in column) for column in zip(*rows)]
    for row in rows:
        cells = (cell + " " * (width - cell_len(cell)) for cell, width in zip(row, widths))
        yield "  ".join(cells).rstrip()


def plain(text: str) -> str:
    """The text without what would steer a terminal."""
    return _STEERING.sub("", text)


def sar(halala: int, micro_halala: int = 0) -> str:
    """An amount in SAR, with parts of a halala where there are any."""
    amount = Decimal(halala) / 100
    if micro_halala and micro_halala % 1_000_000:
        return f"{Decimal(micro_halala) / 100_000_000:.6f}".rstrip("0") + " SAR"
    return f"{amount:.2f} SAR"


def moment(at: datetime | None) -> str:
    """A time on this machine's clock."""
    return at.astimezone().strftime("%Y-%m-%d %H:%M") if at else ""


def since(at: datetime | None) -> str:
    """How long ago a time was, in its greatest unit."""
    if at is None:
        return ""
    return span((datetime.now(timezone.utc) - at).total_seconds())


def span(seconds: float) -> str:
    """A length of time, in its two greatest units."""
    whole = max(0, int(seconds))
    units = ((86400, say("d")), (3600, say("h")), (60, say("min")), (1, say("s")))
    for (size, big), (part, small) in zip(units, units[1:]):
        if whole >= size:
            rest = whole % size // part
            return f"{whole // size} {big}" + (f" {rest} {small}" if rest else "")
    return f"{whole} {say('s')}"


def size(count: int) -> str:
    """A number of bytes."""
    number, unit = float(count), "B"
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if number < 1024 or unit == "TiB":
            break
        number /= 1024
    return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"

"""CSV for spreadsheets: what renters wrote never becomes a formula there."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence

# With one of these a cell is a formula to some spreadsheet, or is cut where one begins (OWASP, CSV
# injection); the last four are the full-width forms that some programs read alike.
_FORMULA = tuple("=+-@\t\r\n\uff1d\uff0b\uff0d\uff20")

Cell = str | int | None


def csv_text(names: Sequence[str], rows: Iterable[Sequence[Cell]]) -> str:
    """A CSV file (RFC 4180). Numbers stay numbers, None is empty, no text begins a formula."""
    file = io.StringIO(newline="")
    writer = csv.writer(file)
    writer.writerow(names)
    writer.writerows([_defused(cell) for cell in row] for row in rows)
    return file.getvalue()


def _defused(cell: Cell) -> Cell:
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(_FORMULA) else cell

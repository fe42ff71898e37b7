"""StatementService at the wire, and its CSV file, in which no text of a renter becomes a formula."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from datetime import UTC, date, datetime, timedelta

from dcp.v1 import statements_pb2 as pb
from dcp.v1 import statements_pb2_grpc

from server.domain.ledger import TransferKind
from server.domain.statements import JobMoney, Line
from server.rpc import convert
from server.rpc.context import Context
from server.rpc.enums import enum_map
from server.rpc.interceptors import caller
from server.services.statements import Statements

# A cell that begins with one of these is a formula to some spreadsheets, or is cut where one begins (OWASP,
# CSV injection); the last four are the full-width forms that some programs read alike.
_FORMULA = tuple("=+-@\t\r\n\uff1d\uff0b\uff0d\uff20")
_FIRST_DAY = date(1970, 1, 1)
_CSV_NAMES = (
    "id",
    "time",
    "kind",
    "amount_halala",
    "balance_halala",
    "charged_halala",
    "job_id",
    "job_type",
    "model",
    "description",
)

_KINDS = enum_map(TransferKind, pb.TransferKind)
Cell = str | int | None


class StatementServicer(statements_pb2_grpc.StatementServiceServicer):
    def __init__(self, statements: Statements) -> None:
        self._statements = statements

    async def ListOwnLedger(
        self, request: pb.ListOwnLedgerRequest, context: Context
    ) -> pb.ListOwnLedgerResponse:
        page = await self._statements.lines(caller().id, request.before_id or None, request.page_size)
        return pb.ListOwnLedgerResponse(
            lines=[line(one) for one in page.rows], next_before_id=page.next_before_id
        )

    async def GetOwnLedgerCsv(
        self, request: pb.GetOwnLedgerCsvRequest, context: Context
    ) -> pb.GetOwnLedgerCsvResponse:
        page = await self._statements.lines(caller().id, request.before_id or None, request.max_lines)
        return pb.GetOwnLedgerCsvResponse(csv=csv_text(_CSV_NAMES, [_cells(one) for one in page.rows]))

    async def GetOwnSpending(
        self, request: pb.GetOwnSpendingRequest, context: Context
    ) -> pb.GetOwnSpendingResponse:
        days = await self._statements.spending(caller().id, request.days)
        whole = _together(days.values())
        return pb.GetOwnSpendingResponse(
            days=[
                pb.DaySpending(
                    date=_date(day),
                    spent_halala=one.total_halala,
                    jobs=one.jobs,
                    by_job_type=_by_name(one),
                )
                for day, one in days.items()
            ],
            spent_halala=whole.total_halala,
            jobs=whole.jobs,
            by_job_type=_by_name(whole),
        )

    async def GetOwnEarnings(
        self, request: pb.GetOwnEarningsRequest, context: Context
    ) -> pb.GetOwnEarningsResponse:
        days = await self._statements.earnings(caller().id, request.days)
        whole = _together(days.values())
        return pb.GetOwnEarningsResponse(
            days=[
                pb.DayEarnings(
                    date=_date(day),
                    earned_halala=one.total_halala,
                    jobs=one.jobs,
                    by_job_type=_by_name(one),
                )
                for day, one in days.items()
            ],
            earned_halala=whole.total_halala,
            jobs=whole.jobs,
            by_job_type=_by_name(whole),
        )


def line(one: Line) -> pb.LedgerLine:
    """A line of the statement as its renter sees it."""
    return pb.LedgerLine(
        id=one.id,
        time=convert.timestamp(one.at_ms),
        kind=_KINDS[one.kind],
        amount_halala=one.amount_halala,
        balance_halala=one.balance_halala,
        charged_halala=one.charged_halala,
        job_id=one.job_id,
        job_type=one.job_type,
        model=one.model,
        description=one.description,
    )


def csv_text(names: Sequence[str], rows: Iterable[Sequence[Cell]]) -> str:
    """A CSV file (RFC 4180). Numbers stay numbers, None is empty, and no text begins a formula."""
    file = io.StringIO(newline="")
    writer = csv.writer(file)
    writer.writerow(names)
    writer.writerows([_defused(cell) for cell in row] for row in rows)
    return file.getvalue()


def _defused(cell: Cell) -> Cell:
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(_FORMULA) else cell


def _cells(one: Line) -> list[Cell]:
    time = datetime.fromtimestamp(one.at_ms // 1000, UTC).replace(microsecond=one.at_ms % 1000 * 1000)
    return [
        one.id,
        time.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        one.kind.value,
        one.amount_halala,
        one.balance_halala,
        one.charged_halala,
        one.job_id,
        one.job_type,
        one.model,
        one.description,
    ]


def _date(day: int) -> str:
    return (_FIRST_DAY + timedelta(days=day)).isoformat()


def _by_name(money: JobMoney) -> dict[str, int]:
    return {kind.value: amount for kind, amount in money.by_job_type.items()}


def _together(days: Iterable[JobMoney]) -> JobMoney:
    whole = JobMoney()
    for one in days:
        whole.jobs += one.jobs
        whole.by_job_type += one.by_job_type
    return whole

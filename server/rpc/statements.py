"""StatementService at the wire, and its CSV file, in which no text of a renter becomes a formula."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any

from dcp.v1 import statements_pb2 as pb
from dcp.v1 import statements_pb2_grpc

from server.domain.errors import invalid_field
from server.domain.ledger import TransferKind
from server.domain.money import whole_halala, whole_or_none
from server.domain.statements import JobMoney, Line, Period
from server.domain.usage import Selection, UsageGroup, UsageRow, read_position, select, write_position
from server.rpc import convert
from server.rpc.context import Context
from server.rpc.enums import enum_map, member_map
from server.rpc.interceptors import caller
from server.services.statements import Statements

# A cell that begins with one of these is a formula in some spreadsheet, or is split so that one begins
# (OWASP, CSV injection). The last four are full-width forms that some programs treat in the same way.
_FORMULA = tuple("=+-@\t\r\n\uff1d\uff0b\uff0d\uff20")
# Without it, Excel reads the file in the machine's own encoding and garbles Arabic.
_BYTE_ORDER_MARK = "\ufeff"
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
    "amount_micro_halala",
    "balance_micro_halala",
    "charged_micro_halala",
)

_USAGE_NUMBERS = (
    "jobs",
    "input_tokens",
    "output_tokens",
    "billed_seconds",
    "charged_halala",
    "charged_micro_halala",
)
_USAGE_NAMES = ("date", "key_id", "key_name", "model", *_USAGE_NUMBERS)

_KINDS = enum_map(TransferKind, pb.TransferKind)
_GROUPS = member_map(UsageGroup, pb.UsageGroup)
Cell = str | int | float | None


class StatementServicer(statements_pb2_grpc.StatementServiceServicer):
    def __init__(self, statements: Statements) -> None:
        self._statements = statements

    async def ListOwnLedger(
        self, request: pb.ListOwnLedgerRequest, context: Context
    ) -> pb.ListOwnLedgerResponse:
        before_id, period = request.before_id or None, _period(request)
        page = await self._statements.lines(caller().id, before_id, period, request.page_size)
        return pb.ListOwnLedgerResponse(lines=[line(row) for row in page.rows], next_before_id=page.next_id)

    async def GetOwnLedgerCsv(
        self, request: pb.GetOwnLedgerCsvRequest, context: Context
    ) -> pb.GetOwnLedgerCsvResponse:
        text = await self._statements.file(
            caller().id,
            request.before_id or None,
            _period(request),
            request.max_lines,
            lambda rows: csv_text(_CSV_NAMES, (_cells(row) for row in rows)),
        )
        return pb.GetOwnLedgerCsvResponse(csv=text)

    async def GetOwnSpending(
        self, request: pb.GetOwnSpendingRequest, context: Context
    ) -> pb.GetOwnSpendingResponse:
        days = await self._statements.spending(caller().id, request.days)
        whole = _together(days.values())
        response = pb.GetOwnSpendingResponse(
            days=[
                convert.with_money(
                    pb.DaySpending(date=_date(day), jobs=money.jobs, by_job_type=_by_name(money)),
                    spent=money.total_micros,
                )
                for day, money in days.items()
            ],
            jobs=whole.jobs,
            by_job_type=_by_name(whole),
        )
        return convert.with_money(response, spent=whole.total_micros)

    async def GetOwnUsage(self, request: pb.GetOwnUsageRequest, context: Context) -> pb.GetOwnUsageResponse:
        selection = self._selection(request)
        after = read_position(request.after, selection.groups)
        rows, next_ = await self._statements.usage(caller().id, selection, after, request.page_size)
        return pb.GetOwnUsageResponse(
            rows=[usage_row(row, selection.groups) for row in rows],
            next_after=write_position(next_) if next_ is not None else None,
        )

    async def GetOwnUsageCsv(
        self, request: pb.GetOwnUsageCsvRequest, context: Context
    ) -> pb.GetOwnUsageCsvResponse:
        selection = self._selection(request)

        def write(rows: list[UsageRow]) -> str:
            shown = (usage_row(row, selection.groups) for row in rows)
            return csv_text(_USAGE_NAMES, (_usage_cells(row) for row in shown))

        text = await self._statements.usage_file(caller().id, selection, request.max_lines, write)
        return pb.GetOwnUsageCsvResponse(csv=text)

    def _selection(self, request: pb.GetOwnUsageRequest | pb.GetOwnUsageCsvRequest) -> Selection:
        try:
            groups = [_GROUPS[number] for number in request.group_by]
        except KeyError:
            raise invalid_field("group_by", f"must be some of: {', '.join(UsageGroup)}") from None
        first, last = _day(getattr(request, "from")), _day(request.to)
        return select(first, last, groups, self._statements.today())

    async def GetOwnEarnings(
        self, request: pb.GetOwnEarningsRequest, context: Context
    ) -> pb.GetOwnEarningsResponse:
        days, has = await self._statements.earnings(caller().id, request.days)
        whole = _together(days.values())
        response = pb.GetOwnEarningsResponse(
            days=[
                convert.with_money(
                    pb.DayEarnings(
                        date=_date(day),
                        jobs=money.jobs,
                        by_job_type=_by_name(money),
                        by_job_type_micro=_micros_by_name(money),
                    ),
                    earned=money.total_micros,
                )
                for day, money in days.items()
            ],
            jobs=whole.jobs,
            by_job_type=_by_name(whole),
            by_job_type_micro=_micros_by_name(whole),
        )
        return convert.with_money(
            response,
            earned=whole.total_micros,
            claimable=has.claimable_micros,
            maturing=has.maturing_micros,
            held=has.held_micros,
            debt=has.debt_micros,
        )


def line(row: Line) -> pb.LedgerLine:
    """A line of the statement as its renter sees it."""
    shown = pb.LedgerLine(
        id=row.id,
        time=convert.timestamp(row.at_ms),
        kind=_KINDS[row.kind],
        job_id=row.job_id,
        job_type=row.job_type,
        model=row.model,
        description=row.description,
    )
    return convert.with_money(
        shown, amount=row.amount_micros, balance=row.balance_micros, charged=row.charged_micros
    )


def kind_number(kind: TransferKind) -> pb.TransferKind.ValueType:
    """The kind of a transfer at the wire."""
    return _KINDS[kind]


def usage_row(row: UsageRow, groups: Sequence[UsageGroup]) -> pb.UsageRow:
    """A row of usage as its renter sees it."""
    by: dict[UsageGroup, Any] = dict(zip(groups, row.position, strict=True))
    shown = pb.UsageRow(
        date=_date(by[UsageGroup.DAY]) if UsageGroup.DAY in by else None,
        key_id=by.get(UsageGroup.KEY) or None,
        key_name=row.key_name,
        model=by.get(UsageGroup.MODEL) or None,
        jobs=row.jobs,
        input_tokens=row.input_tokens,
        output_tokens=row.output_tokens,
        billed_seconds=row.billed_ms / 1000,
    )
    return convert.with_money(shown, charged=row.charge_micros)


def csv_text(names: Sequence[str], rows: Iterable[Sequence[Cell]]) -> str:
    """A CSV file (RFC 4180) that begins with a byte order mark.

    Numbers stay numbers, None becomes an empty cell, and no text begins a formula.
    """
    file = io.StringIO(newline="")
    writer = csv.writer(file)
    writer.writerow(names)
    writer.writerows([_defused(cell) for cell in row] for row in rows)
    return _BYTE_ORDER_MARK + file.getvalue()


def _defused(cell: Cell) -> Cell:
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(_FORMULA) else cell


def _cells(row: Line) -> list[Cell]:
    time = datetime.fromtimestamp(row.at_ms // 1000, UTC).replace(microsecond=row.at_ms % 1000 * 1000)
    return [
        row.id,
        time.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        row.kind.value,
        whole_halala(row.amount_micros),
        whole_halala(row.balance_micros),
        whole_or_none(row.charged_micros),
        row.job_id,
        row.job_type,
        row.model,
        row.description,
        row.amount_micros,
        row.balance_micros,
        row.charged_micros,
    ]


def _usage_cells(row: pb.UsageRow) -> list[Cell]:
    values = {field.name: value for field, value in row.ListFields()}
    return [values.get(name, 0 if name in _USAGE_NUMBERS else None) for name in _USAGE_NAMES]


def _day(text: str) -> int | None:
    return (date.fromisoformat(text) - _FIRST_DAY).days if text else None


def _period(request: pb.ListOwnLedgerRequest | pb.GetOwnLedgerCsvRequest) -> Period:
    period = Period(_day(getattr(request, "from")), _day(request.to))
    if period.first_day is not None and period.last_day is not None and period.last_day < period.first_day:
        raise invalid_field("from", "is later than `to`; send an earlier day")
    return period


def _date(day: int) -> str:
    return (_FIRST_DAY + timedelta(days=day)).isoformat()


def _by_name(money: JobMoney) -> dict[str, int]:
    return {kind.value: whole_halala(amount) for kind, amount in money.by_job_type.items()}


def _micros_by_name(money: JobMoney) -> dict[str, int]:
    return {kind.value: amount for kind, amount in money.by_job_type.items()}


def _together(days: Iterable[JobMoney]) -> JobMoney:
    whole = JobMoney()
    for money in days:
        whole.jobs += money.jobs
        whole.by_job_type += money.by_job_type
    return whole

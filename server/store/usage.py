"""What a renter's charged jobs used, calculated from their holds. Runs inside its caller's transaction."""

from __future__ import annotations

from typing import Any

import peewee as pw

from server.domain.ledger import HoldState
from server.domain.log_ins import NAME
from server.domain.statements import DAY_MS
from server.domain.usage import Position, Selection, UsageGroup, UsageRow
from server.store import states
from server.store.models import ApiKey, Hold, Job, tuples

# SQL text instead of parameters: PostgreSQL treats two parameters with one value as different expressions.
_COLUMNS = {
    UsageGroup.DAY: Hold.resolved_ms / pw.SQL(str(DAY_MS)),
    UsageGroup.KEY: pw.fn.COALESCE(Job.key_id, pw.SQL("0")),
    UsageGroup.MODEL: pw.fn.COALESCE(Job.model, pw.SQL("''")),
}


def rows(renter_id: int, selection: Selection, after: Position | None, limit: int) -> list[UsageRow]:
    """The next rows after a position, in order. The index ``hold_posted`` finds the days' charged jobs."""
    by = [_COLUMNS[group] for group in selection.groups]
    name = pw.fn.MAX(ApiKey.name) if UsageGroup.KEY in selection.groups else pw.Value(None)
    query = (
        Hold.select(
            *by,
            name,
            pw.fn.COUNT(Hold.job_id),
            _sum(_tokens("prompt_tokens")),
            _sum(_tokens("completion_tokens")),
            _sum(Job.billed_ms),
            _sum(Hold.charge_micros),
        )
        .join(Job, on=(Job.job_id == Hold.job_id))
        .join(ApiKey, pw.JOIN.LEFT_OUTER, on=(ApiKey.id == Job.key_id))
        .where(
            Hold.renter_id == renter_id,
            states.is_exactly(Hold.state, HoldState.POSTED),
            Hold.resolved_ms >= selection.first_day * DAY_MS,
            Hold.resolved_ms < (selection.last_day + 1) * DAY_MS,
        )
    )
    if after is not None:
        query = query.where(pw.Tuple(*by) > pw.Tuple(*after))
    found = tuples(query.group_by(*by).order_by(*by).limit(limit))
    return [_row(row, selection) for row in found]


def _row(row: tuple[Any, ...], selection: Selection) -> UsageRow:
    width = len(selection.groups)
    position, (name, *numbers) = row[:width], row[width:]
    if name is None and dict(zip(selection.groups, position, strict=True)).get(UsageGroup.KEY):
        name = NAME  # only log-ins leave the table of keys, a day after their end
    return UsageRow(tuple(position), name or None, *map(int, numbers))


def _sum(column: Any) -> Any:
    return pw.fn.COALESCE(pw.fn.SUM(column), 0)


def _tokens(name: str) -> Any:
    if Job._meta.database.for_update:
        return pw.fn.JSON_EXTRACT_PATH_TEXT(Job.usage.cast("json"), name).cast("bigint")
    return pw.fn.JSON_EXTRACT(Job.usage, f"$.{name}")

"""The ledger counts micros, millionths of a halala: stored amounts are multiplied, none changes its value.

Checkpoints of the proof are digests of amounts, so they are made anew; the first one reads all transfers.
"""

import json
from typing import Any

import peewee

MICROS = 1_000_000
# Each table with its columns of money, as they were named.
COLUMNS = {
    "account": ("balance_halala",),
    "transfer": ("amount_halala",),
    "hold": ("amount_halala", "charge_halala"),
    "job": ("hold_halala", "charge_halala"),
    "withdrawal": ("amount_halala",),
    "dispute": ("charge_halala", "payout_halala", "held_halala", "maturing_halala", "refund_halala"),
    "provider_standing": ("value_halala",),
    "provider_customer": ("paid_halala",),
    "checkpoint_sum": ("sum_halala",),
    "checkpoint_hold": ("amount_halala",),
    "day_sum": ("halala",),
}
# The provider's share of a charge was rounded to whole halala before; on the right side are the old amounts.
OLD_PAYOUT = f"payout_micros = (charge_micros * 75 + 50) / 100 * {MICROS}"
# Tables whose rows the database itself refuses to change.
GUARDED = ("transfer", "checkpoint", "checkpoint_sum", "checkpoint_hold")
SWITCH = ("DISABLE", "ENABLE")
STATEMENTS = (
    "DELETE FROM checkpoint_hold",
    "DELETE FROM checkpoint_sum",
    "DELETE FROM checkpoint",
    "ALTER TABLE job ADD COLUMN payout_micros BIGINT",
)
# Events whose facts are read at once.
EVENTS = 1000


def up(migrator: Any, db: peewee.Database) -> None:
    """Renames and multiplies the columns, and the amounts in the facts of stored events."""
    unguard, guard = _guards(db)
    for statement in (*unguard, *STATEMENTS):
        db.execute_sql(statement)
    for table, columns in COLUMNS.items():
        names = {column: column.replace("halala", "micros") for column in columns}
        for before, after in names.items():
            db.execute_sql(f"ALTER TABLE {table} RENAME COLUMN {before} TO {after}")
        changes = [f"{name} = {name} * {MICROS}" for name in names.values()]
        changes += [OLD_PAYOUT] if table == "job" else []
        db.execute_sql(f"UPDATE {table} SET {', '.join(changes)}")  # noqa: S608  (constants)
    _change_events(db)
    for statement in guard:
        db.execute_sql(statement)


def _guards(db: peewee.Database) -> tuple[list[str], list[str]]:
    """What lets rows that are written once be changed, and what then protects them again."""
    if not isinstance(db, peewee.SqliteDatabase):
        switches = [[f"ALTER TABLE {table} {verb} TRIGGER USER" for table in GUARDED] for verb in SWITCH]
        return switches[0], switches[1]
    names = ", ".join(f"'{table}'" for table in GUARDED)
    found = db.execute_sql(
        f"SELECT name, sql FROM sqlite_schema WHERE type = 'trigger' AND tbl_name IN ({names})"  # noqa: S608
    ).fetchall()
    return [f"DROP TRIGGER {name}" for name, _ in found], [sql for _, sql in found]


def _change_events(db: peewee.Database) -> None:
    """The bills and disputes in the facts of stored events, as their readers expect them."""
    mark, after_id = db.param, 0
    while True:
        rows = db.execute_sql(
            f"SELECT id, facts FROM webhook_delivery WHERE id > {mark} ORDER BY id LIMIT {EVENTS}",  # noqa: S608
            (after_id,),
        ).fetchall()
        if not rows:
            return
        for id_, text in rows:
            facts = json.loads(text)
            is_dispute = "payout_id" in facts
            if is_dispute or "bill" in facts:
                changed = _multiplied(facts) if is_dispute else facts | {"bill": _multiplied(facts["bill"])}
                db.execute_sql(
                    f"UPDATE webhook_delivery SET facts = {mark} WHERE id = {mark}",  # noqa: S608
                    (json.dumps(changed), id_),
                )
        after_id = rows[-1][0]


def _multiplied(amounts: dict[str, Any]) -> dict[str, Any]:
    return {
        name.replace("_halala", "_micros"): value * MICROS if name.endswith("_halala") and value else value
        for name, value in amounts.items()
    }

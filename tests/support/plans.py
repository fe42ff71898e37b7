"""Records the statements of a server, and finds those that walk through a table that grows with the jobs."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from server.store.database import Database
from tests.support.databases import connection

GROWING = frozenset({"job", "hold", "lease", "transfer", "chunk", "batch_line"})
# Partial indexes of what has not ended: a walk through one of them reads no past job.
OF_THE_OPEN = frozenset(
    {"hold_open", "job_open", "job_queue", "job_running", "job_start_by", "lease_of_provider"}
)
EXPLAINED = ("SELECT", "INSERT", "UPDATE", "DELETE", "WITH")
Statement = tuple[str, Any]


@contextlib.contextmanager
def recorded(database: Database, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Statement]]:
    """The statements that the database runs in this block, with their parameters."""
    seen: list[Statement] = []
    run: Callable[..., Any] = database.peewee.execute_sql

    def watched(sql: str, params: Any = None, *rest: Any, **options: Any) -> Any:
        seen.append((sql, params))
        return run(sql, params, *rest, **options)

    with monkeypatch.context() as patch:
        patch.setattr(database.peewee, "execute_sql", watched)
        yield seen


async def walks(database: Database, statements: list[Statement]) -> dict[str, list[str]]:
    """The statements that read more rows of a growing table than they need, each with the steps that do.

    SQLite's plans do not depend on how many rows there are, as nobody runs ANALYZE. PostgreSQL's do: here it
    may not walk through a table in its order if there is any index, so what is found has none.
    """
    plan = _of_sqlite if database.is_sqlite else _of_postgres

    def find() -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for sql, params in statements:
            if sql.lstrip("( ").startswith(EXPLAINED) and sql not in found:
                found[sql] = plan(database, sql, params or ())
        return {sql: steps for sql, steps in found.items() if steps}

    return await database.read(find)


async def sorts(database: Database, statements: list[Statement]) -> list[str]:
    """The statements whose rows are sorted before the first of them is answered."""
    sql_of = [(sql, params or ()) for sql, params in statements if sql.lstrip("( ").startswith("SELECT")]

    def find() -> list[str]:
        run = connection(database).execute
        if database.is_sqlite:
            plans = [[row[-1] for row in run(f"EXPLAIN QUERY PLAN {sql}", values)] for sql, values in sql_of]
        else:
            run("SET LOCAL enable_seqscan = off")
            plans = [[row[0] for row in run(f"EXPLAIN {sql}", values)] for sql, values in sql_of]
        named = zip((sql for sql, _ in sql_of), plans, strict=True)
        return [sql for sql, plan in named if any("ORDER BY" in step or "Sort" in step for step in plan)]

    return await database.read(find)


def _of_sqlite(database: Database, sql: str, params: Any) -> list[str]:
    rows = connection(database).execute(f"EXPLAIN QUERY PLAN {sql}", params).fetchall()
    named = {alias: table for table, alias in re.findall(r'"(\w+)" AS "(\w+)"', sql)}
    steps = [row[-1] for row in rows]
    scans = [step for step in steps if _is_scan(step, named, sql)]
    searches = [step.split()[1] for step in steps if step.startswith("SEARCH") and "(job_id=?" not in step]
    if {named.get(name, name) for name in searches} & GROWING and " LIMIT " in sql:
        scans += [step for step in steps if step == "USE TEMP B-TREE FOR ORDER BY"]
    return scans


def _is_scan(step: str, named: dict[str, str], sql: str) -> bool:
    found = re.match(r"SCAN (\w+)(?: USING (?:COVERING )?INDEX (\w+))?", step)
    if not found or named.get(found[1], found[1]) not in GROWING or found[2] in OF_THE_OPEN:
        return False
    # The first rows in the order of an index, all of which are wanted.
    return not (found[2] and " WHERE " not in sql and " LIMIT " in sql)


def _of_postgres(database: Database, sql: str, params: Any) -> list[str]:
    run = connection(database).execute
    run("SET LOCAL enable_seqscan = off")
    plan = run(f"EXPLAIN (FORMAT JSON) {sql}", params).fetchone()[0]
    return list(_sequential(plan if isinstance(plan, list) else json.loads(plan)))


def _sequential(plan: Any) -> Iterator[str]:
    if isinstance(plan, dict):
        if plan.get("Node Type") == "Seq Scan" and plan.get("Relation Name") in GROWING:
            yield f"Seq Scan on {plan['Relation Name']}"
        plan = list(plan.values())
    if isinstance(plan, list):
        for part in plan:
            yield from _sequential(part)

"""What transactions count: only what was committed, and each once."""

from __future__ import annotations

import asyncio

import pytest

from common.telemetry import Exporter
from server.store import counted
from server.store.database import Database, PartError, apart
from server.telemetry import METRICS
from tests.support import databases

NAME = "dcp_leases_ended_total"


@pytest.fixture
def measures(database: Database) -> Exporter:
    database.telemetry = Exporter(METRICS, "test", "1")
    return database.telemetry


def counts(measures: Exporter) -> dict[str, float]:
    return {
        outcome: measures.registry.get_sample_value(NAME, {"outcome": outcome}) or 0
        for outcome in ("lost", "failed", "expired")
    }


def note(outcome: str, *, fails: bool = False) -> None:
    counted.note(NAME, outcome)
    if fails:
        raise LookupError


async def test_what_was_committed_is_counted_once(database: Database, measures: Exporter) -> None:
    await asyncio.gather(*(database.run(lambda: note("lost")) for _ in range(50)))
    assert counts(measures) == {"lost": 50, "failed": 0, "expired": 0}


async def test_what_was_undone_is_not_counted(database: Database, measures: Exporter) -> None:
    def work(number: int) -> None:
        note("failed" if number % 3 == 0 else "lost", fails=number % 3 == 0)

    outcomes = await asyncio.gather(
        *(database.run(lambda n=n: work(n)) for n in range(60)),  # type: ignore[misc]
        return_exceptions=True,
    )
    assert sum(isinstance(outcome, LookupError) for outcome in outcomes) == 20
    assert counts(measures) == {"lost": 40, "failed": 0, "expired": 0}


async def test_part_that_was_undone_is_not_counted(database: Database, measures: Exporter) -> None:
    def work() -> None:
        note("lost")
        with pytest.raises(PartError):
            apart(lambda: note("failed", fails=True))
        note("expired")

    await database.run(work)
    assert counts(measures) == {"lost": 1, "failed": 0, "expired": 1}


async def test_measurement_that_fails_loses_no_transaction(database: Database, measures: Exporter) -> None:
    await database.run(lambda: counted.note("no such metric"))
    await database.run(lambda: databases.execute(database, "SELECT 1"))
    await database.run(lambda: note("lost"))
    assert counts(measures)["lost"] == 1

"""What a server measures: its duties, the open jobs, and the proof of the ledger."""

from __future__ import annotations

import pytest

from common.telemetry import OFF, Exporter
from server.figures import Figures, measured
from server.loops import Duty, Loop
from server.store.database import Database
from server.store.models import Account
from server.telemetry import METRICS
from tests.support.running_server import Market


@pytest.fixture
def exporter() -> Exporter:
    return Exporter(METRICS, "server", "1")


def value(exporter: Exporter, name: str, **labels: str) -> float | None:
    return exporter.registry.get_sample_value(name, labels)


def figures(market: Market, exporter: Exporter) -> Figures:
    database: Database = market.server._database
    return Figures(exporter, market.server.services, database, market.clock)


async def test_duties_are_measured_and_fail_as_before(market: Market, exporter: Exporter) -> None:
    async def good() -> None:
        pass

    async def bad() -> None:
        raise LookupError

    loops = (Loop(1.0, (Duty("good", good), Duty("bad", bad))),)
    database: Database = market.server._database
    first, *own = measured(loops, exporter, market.server.services, database, market.clock)
    assert [type(error) for error in await first.tick()] == [LookupError]
    assert first.failures["bad"] == 1
    for duty, failures in (("good", 0), ("bad", 1)):
        assert value(exporter, "dcp_duty_duration_seconds_count", duty=duty) == 1
        assert value(exporter, "dcp_duty_failures_total", duty=duty) == failures
    for loop in own:
        assert await loop.tick() == []
    assert measured(loops, OFF, market.server.services, database, market.clock) is loops


async def test_open_jobs_are_counted_by_state_and_type(market: Market, exporter: Exporter) -> None:
    renter = await market.renter(10_000)
    await market.submit(renter)
    market.clock.advance(30)
    await figures(market, exporter).read_jobs()
    queued = {"state": "queued", "job_type": "llm-inference"}
    assert value(exporter, "dcp_jobs_open", **queued) == 1
    assert value(exporter, "dcp_jobs_open", state="running", job_type="llm-inference") == 0
    assert value(exporter, "dcp_job_queue_oldest_seconds", job_type="llm-inference") == 30
    assert value(exporter, "dcp_job_queue_oldest_seconds", job_type="training") == 0
    assert value(exporter, "dcp_database_up") == 1


async def test_ledger_that_does_not_balance_is_seen_within_a_minute(
    market: Market, exporter: Exporter
) -> None:
    await market.renter(10_000)
    looks = figures(market, exporter)
    await looks.prove()
    assert value(exporter, "dcp_ledger_balanced") == 1
    await market.sql(lambda: Account.update(balance_micros=7).where(Account.kind == "renter").execute())
    await looks.prove()
    assert value(exporter, "dcp_ledger_balanced") == 1, "it was proved a moment ago"
    market.clock.advance(60)
    await looks.prove()
    assert value(exporter, "dcp_ledger_balanced") == 0
    assert (value(exporter, "dcp_ledger_discrepancies") or 0) > 0

"""Duties fail independently: a duty that raises is logged and counted, and the others still run."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from dcp.v1 import jobs_pb2, sessions_pb2

from server.clock import ms
from server.domain.errors import DomainError, Reason
from server.loops import Duty, Loop
from server.store.models import Provider
from tests.support.running_server import Daemon, Market, Party

QUEUED, RUNNING = jobs_pb2.JOB_STATE_QUEUED, jobs_pb2.JOB_STATE_RUNNING
LOST_SECONDS = 300
ENDS = "end overdue leases and jobs"
DUTIES = [
    "write heartbeats",
    "look at other servers",
    "read provider states",
    "read terms",
    ENDS,
    "offer waiting jobs",
    "check credentials",
    "check credentials of watchers",
    "write uses of keys",
    "erase deleted accounts",
    "store metrics",
    "store discards",
]


class Counted:
    """A duty that counts its ticks, and raises the given error."""

    def __init__(self, error: Exception | None = None) -> None:
        self.ticks = 0
        self._error = error

    async def tick(self) -> None:
        self.ticks += 1
        if self._error is not None:
            raise self._error


async def test_duty_that_raises_is_counted_and_logged_and_stops_no_other(
    caplog: pytest.LogCaptureFixture,
) -> None:
    broken, unlucky = Counted(ValueError("a fault")), Counted(DomainError(Reason.STORE_UNAVAILABLE, "no"))
    first, last = Counted(), Counted()
    duties = [Duty("first", first.tick), Duty("broken", broken.tick), Duty("unlucky", unlucky.tick)]
    loop = Loop(1.0, (*duties, Duty("last", last.tick)))
    with caplog.at_level(logging.ERROR, "server.loops"):
        for _ in range(3):
            assert [type(error) for error in await loop.tick()] == [ValueError, DomainError]
    assert [duty.ticks for duty in (first, broken, unlucky, last)] == [3, 3, 3, 3]
    assert loop.failures == {"broken": 3, "unlucky": 3}
    assert caplog.messages[-2:] == [
        "a duty failed duty=broken failures=3",
        "postponed a duty duty=unlucky failures=3 reason=STORE_UNAVAILABLE",
    ]
    assert "ValueError: a fault" in caplog.text


async def test_server_runs_every_duty_once(market: Market) -> None:
    loops = market.server.loops
    assert [duty.name for duty in loops[0].duties] == DUTIES
    assert [duty.name for loop in loops[1:] for duty in loop.duties] == [
        "report this server",
        "judge reports",
        "send webhooks",
        "fetch inputs",
        "send letters",
        "clean artifacts",
        "clean inputs",
        "remove old batches",
        "remove old texts of jobs",
        "remove old discards",
        "remove old letters",
        "remove old incidents",
        "remove old log-ins",
        "remove old credentials of operators",
        "check providers",
        "assess providers",
        "mature payouts",
        "watch for incidents",
        "charge for storage",
        "make checkpoints",
        "count jobs of past days",
        "add up past days",
        "run batches",
        "report health",
    ]


@pytest.mark.parametrize("name", [name for name in DUTIES if name != ENDS])
async def test_offer_expires_whichever_other_duty_fails(market: Market, name: str) -> None:
    loop = market.server.loops[0]
    broken = Counted(ValueError("a fault"))
    duties = tuple(replace(duty, tick=broken.tick) if duty.name == name else duty for duty in loop.duties)
    loop.duties = duties
    provider, renter = await market.provider(), await market.renter()
    daemon = await market.daemon(provider)
    job = await market.submit(renter, provider)
    await daemon.expect("job_offer")
    market.clock.advance(11)
    await loop.tick()
    assert (await market.job(job)).status == QUEUED
    assert broken.ticks >= 1  # the server's own loop also ticks, in real time
    assert set(loop.failures) == {name}


# A fault in the database that affects only one duty.
UNWRITABLE = (
    "CREATE TRIGGER unwritable BEFORE UPDATE OF renewed_ms ON provider "
    "BEGIN SELECT RAISE(ABORT, 'a row that cannot be written'); END"
)


async def send_heartbeat_without_acknowledgement(market: Market, provider: Party, daemon: Daemon) -> None:
    """Sends a heartbeat that arrives and is not acknowledged."""
    await daemon.say(heartbeat=sessions_pb2.SessionHeartbeat(sequence=1000, held_leases=daemon.held))
    fleet, now_ms = market.server.services.fleet, ms(market.clock)
    async with asyncio.timeout(10):
        while fleet.last_heartbeat_ms(provider.id, None) != now_ms:
            await asyncio.sleep(0.002)


async def test_daemon_is_not_lost_while_its_heartbeats_cannot_be_written(market: Market) -> None:
    """A heartbeat that arrived but could not be written counts; deadlines and limits still apply."""
    provider, renter = await market.provider(), await market.renter()
    daemon = await market.daemon(provider, slots=2)
    for _ in range(LOST_SECONDS // 10):
        market.clock.advance(10)
        await daemon.heartbeat()
        await market.tick()
    job, _ = await market.running_job(renter, provider, daemon, duration_minutes=30)
    offered = await market.submit(renter, provider, start_within_seconds=60)
    await daemon.expect("job_offer")
    loop = market.server.loops[0]

    await market.sql(lambda: Provider._meta.database.execute_sql(UNWRITABLE))
    for _ in range(LOST_SECONDS // 10 + 1):
        market.clock.advance(10)
        await send_heartbeat_without_acknowledgement(market, provider, daemon)
        await loop.tick()
    assert set(loop.failures) == {"write heartbeats"}
    assert (await market.job(job)).status == RUNNING
    assert (await market.job(offered)).failure_reason == jobs_pb2.FAILURE_REASON_START_DEADLINE

    await market.sql(lambda: Provider._meta.database.execute_sql("DROP TRIGGER unwritable"))
    await market.tick()
    assert (await market.job(job)).status == RUNNING


async def test_heartbeat_that_cannot_be_written_holds_up_no_other(
    market: Market, caplog: pytest.LogCaptureFixture
) -> None:
    """Its provider is heard, so it loses no job, and gets no acknowledgement of what could be forgotten."""
    broken, healthy, renter = await market.provider(), await market.provider(), await market.renter(9000)
    daemons = {provider.id: await market.daemon(provider) for provider in (broken, healthy)}
    jobs = [
        (await market.running_job(renter, one, daemons[one.id], duration_minutes=30))[0]
        for one in (broken, healthy)
    ]
    await market.tick()
    of_one = UNWRITABLE.replace("BEGIN", f"WHEN OLD.id = {broken.id} BEGIN")
    await market.sql(lambda: Provider._meta.database.execute_sql(of_one))
    caplog.clear()
    for _ in range(LOST_SECONDS // 10 + 1):
        market.clock.advance(10)
        await send_heartbeat_without_acknowledgement(market, broken, daemons[broken.id])
        await daemons[healthy.id].heartbeat()
        await market.tick()
    assert [(await market.job(job)).status for job in jobs] == [RUNNING, RUNNING]
    assert [text for text in caplog.messages if "passed over" in text] == [
        f"passed over one that failed what=a heartbeat item={broken.id} "
        "error=IntegrityError: a row that cannot be written"
    ]
    await market.sql(lambda: Provider._meta.database.execute_sql("DROP TRIGGER unwritable"))
    await market.tick()
    await daemons[broken.id].say(heartbeat=sessions_pb2.SessionHeartbeat(sequence=2000))
    heard = [(await daemons[broken.id].expect("heartbeat_ack")).sequence for _ in range(2)]
    assert heard == [1000, 2000]  # the first arrived before it was known that they cannot be written


async def test_provider_that_falls_silent_loses_its_job_though_its_last_heartbeat_was_refused(
    market: Market,
) -> None:
    broken, healthy, renter = await market.provider(), await market.provider(), await market.renter()
    daemon, other = await market.daemon(broken), await market.daemon(healthy)
    job, _ = await market.running_job(renter, broken, daemon, duration_minutes=30)
    of_one = UNWRITABLE.replace("BEGIN", f"WHEN OLD.id = {broken.id} BEGIN")
    await market.sql(lambda: Provider._meta.database.execute_sql(of_one))
    await send_heartbeat_without_acknowledgement(market, broken, daemon)
    for _ in range(LOST_SECONDS // 10 + 1):
        market.clock.advance(10)
        await other.heartbeat()
        await market.tick()
    assert (await market.job(job)).status == QUEUED


async def test_server_that_cannot_write_its_last_heartbeats_still_ends_its_work(
    market: Market, tmp_path: Path
) -> None:
    renter, provider = await market.renter(), await market.provider()
    daemon = await market.daemon(provider)
    await market.wallet(renter)
    await market.sql(lambda: Provider._meta.database.execute_sql(UNWRITABLE))
    market.clock.advance(1)
    await send_heartbeat_without_acknowledgement(market, provider, daemon)
    await market.stop()
    with pytest.raises(DomainError, match="the server is stopping"):
        await market.sql(lambda: None)
    with closing(sqlite3.connect(tmp_path / "dcp.sqlite3")) as stored:
        uses = stored.execute("SELECT COUNT(last_used_ms) FROM api_key WHERE role = 'renter'").fetchone()
    assert uses == (1,)

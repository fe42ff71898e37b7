"""Incidents through the whole server: what begins and ends them, and what the operators' webhook gets."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from dcp.v1 import admin_pb2, jobs_pb2, oversight_pb2
from dcp.v1 import incidents_pb2 as pb

from server.domain.incidents import (
    BEGINS_AFTER_SECONDS,
    ENDS_AFTER_SECONDS,
    KEEP_DAYS,
    LOST_WITHIN_SECONDS,
    REMIND_SECONDS,
    Condition,
    Thresholds,
)
from server.services.operators import incidents as watching
from server.services.operators.incidents import Incidents
from server.store.models import Account, Incident, Job, Withdrawal
from tests.server.services.test_webhooks import assert_described, cancelled_job, deliver, set_webhook
from tests.server.services.test_withdrawals import provider_with_earnings, reject, request_withdrawal
from tests.support import running_server
from tests.support.manual_clock import ManualClock
from tests.support.running_server import MODEL, Market, Party, refusal
from tests.support.webhook_receiver import Receiver, receiving

PERIOD = 15


@pytest.fixture
async def any_market(database_url: str, clock: ManualClock) -> AsyncIterator[Market]:
    """A running server on each kind of database, which may send events to private addresses."""
    async with running_server.running(database_url, clock, webhooks_allow_private=True) as market:
        yield market


@pytest.fixture
async def market(sqlite_url: str, clock: ManualClock) -> AsyncIterator[Market]:
    """A running server on SQLite, which may send events to private addresses."""
    async with running_server.running(sqlite_url, clock, webhooks_allow_private=True) as market:
        yield market


async def listen(market: Market, receiver: Receiver) -> str:
    """Sets the operators' webhook; returns its secret."""
    request = pb.SetOperatorWebhookRequest(url=receiver.url)
    answer = await market.incident_service.SetOperatorWebhook(request, metadata=market.admin_metadata)
    return answer.secret


async def watch(
    market: Market, seconds: int = PERIOD, incidents: Incidents | None = None, *, period: int = PERIOD
) -> None:
    """Reads the conditions for so long, and sends what is due."""
    for _ in range(0, seconds, period):
        market.clock.advance(period)
        await (incidents or market.server.services.incidents).tick()
    await deliver(market)


async def listed(market: Market, **fields: Any) -> pb.ListIncidentsResponse:
    request = pb.ListIncidentsRequest(**fields)
    return await market.incident_service.ListIncidents(request, metadata=market.admin_metadata)


def reported(receiver: Receiver) -> list[tuple[str, str]]:
    """The kinds of events and the conditions that the webhook got, in the order of their ids."""
    for event in receiver.received:
        assert_described(event)
    bodies = [json.loads(event.body) for event in receiver.received]
    return [(body["type"].removeprefix("incident."), body["data"]["condition"]) for body in bodies]


def data(receiver: Receiver, number: int = -1) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(receiver.received[number].body)["data"]
    return found


async def request_payout(market: Market, hours_ago: float) -> int:
    """A withdrawal request of 20 SAR that was made so long ago."""
    provider = await provider_with_earnings(market)
    number = int((await request_withdrawal(market, provider)).withdrawal.id)
    at_ms = int((market.clock.now() - hours_ago * 3600) * 1000)
    await market.sql(Withdrawal.update(created_ms=at_ms).where(Withdrawal.id == number).execute)
    return number


async def wait_for(market: Market, renter: Party, seconds: int, **fields: Any) -> jobs_pb2.Job:
    """A queued job that was submitted so long ago."""
    job = await market.submit(renter, start_within_seconds=3600, **fields)
    at_ms = int((market.clock.now() - seconds) * 1000)
    await market.sql(Job.update(created_ms=at_ms).where(Job.job_id == job.job_id).execute)
    return job


async def test_jobs_that_wait_for_a_model_nobody_serves_are_an_incident_until_somebody_does(
    any_market: Market,
) -> None:
    market = any_market
    renter = await market.renter(100_000)
    async with receiving() as receiver:
        await listen(market, receiver)
        jobs = [await wait_for(market, renter, 290) for _ in range(2)]
        await watch(market, BEGINS_AFTER_SECONDS[Condition.MODEL_UNSERVED])
        assert reported(receiver) == []
        await watch(market)
        assert reported(receiver) == [("began", "model_unserved")]
        found = data(receiver)
        assert found["summary"] == "No provider serves the models of 2 waiting jobs."
        assert (found["severity"], found["unserved"]["jobs"]) == ("ticket", 2)
        assert [(each["model"], each["jobs"]) for each in found["unserved"]["models"]] == [(MODEL, 2)]
        daemon = await market.daemon(await market.provider())
        await daemon.start((await daemon.expect("job_offer")).lease)
        await watch(market)  # one job is still queued, but not for want of a provider
        for job in jobs:
            await market.cancel(job, renter)
        await watch(market, ENDS_AFTER_SECONDS)
        assert reported(receiver) == [("began", "model_unserved"), ("ended", "model_unserved")]


async def test_jobs_that_name_a_provider_or_wait_for_a_busy_one_are_no_incident(market: Market) -> None:
    renter, provider = await market.renter(100_000), await market.provider()
    daemon = await market.daemon(provider)
    await market.running_job(renter, provider, daemon, duration_minutes=30)
    absent = await market.provider()
    await wait_for(market, renter, 3000)
    changed = Job.update(named_provider_id=absent.id, model="absent").where(Job.state == "queued")
    await market.sql(changed.execute)
    await wait_for(market, renter, 3000)
    for _ in range(20):
        await daemon.heartbeat()
        await market.tick()
        await watch(market)
    assert list((await listed(market)).incidents) == []


async def test_payouts_that_wait_too_long_are_an_incident(any_market: Market) -> None:
    market = any_market
    async with receiving() as receiver:
        await listen(market, receiver)
        first = await request_payout(market, 71.9)
        await watch(market)
        assert reported(receiver) == []
        second = await request_payout(market, 80)
        await watch(market, 600)
        assert reported(receiver) == [("began", "payouts_wait")]
        assert data(receiver)["payouts"]["requests"] == 1
        assert data(receiver)["payouts"]["amount_halala"] == 2000
        await reject(market, second)
        await watch(market, REMIND_SECONDS, period=3600)
        assert reported(receiver)[1:] == [("lasts", "payouts_wait")]  # the first one is too old by now
        await reject(market, first)
        await watch(market, ENDS_AFTER_SECONDS + PERIOD)
        assert reported(receiver)[2:] == [("ended", "payouts_wait")]
        assert len({data(receiver, number)["id"] for number in range(3)}) == 1
        (incident,) = (await listed(market)).incidents
        assert incident.HasField("ended_at")


async def test_ledger_that_does_not_balance_pages(any_market: Market) -> None:
    market = any_market
    await market.renter()
    async with receiving() as receiver:
        await listen(market, receiver)
        await watch(market)
        await market.sql(Account.update(balance_micros=Account.balance_micros + 1).execute)
        await watch(market, 315)
        assert reported(receiver) == [("began", "proof_unclean")]
        assert data(receiver)["severity"] == "page"
        assert data(receiver)["proof"]["discrepancies"] >= 1


class Disks:
    """Disks of which a test says how full they are."""

    def __init__(self) -> None:
        self.free: dict[Path, int] = {}
        self.fault: Exception | None = None
        self.hangs = threading.Event()
        self.hangs.set()
        self.read = 0

    def usage(self, path: Path) -> tuple[int, int, int]:
        self.read += 1
        self.hangs.wait()
        if self.fault:
            raise self.fault
        free = self.free.get(path, 1000)
        return 1000, 1000 - free, free


def with_disks(market: Market, disks: Disks, places: Mapping[str, Path]) -> Incidents:
    services = market.server.services
    return Incidents(
        market.server._database,
        services.fleet,
        services.proofs,
        market.clock,
        Thresholds(),
        places,
        usage=disks.usage,
    )


async def test_disk_that_fills_upreported_once_before_it_is_full_and_when_it_is(
    market: Market, tmp_path: Path
) -> None:
    disks = Disks()
    incidents = with_disks(market, disks, {"files": tmp_path / "not" / "yet", "database": tmp_path})
    async with receiving() as receiver:
        await listen(market, receiver)
        disks.free[tmp_path] = 99
        await watch(market, 90, incidents)
        assert reported(receiver) == [("began", "disk_nearly_full")]
        assert data(receiver)["disks"] == [
            {"place": place, "free_bytes": 99, "total_bytes": 1000} for place in ("files", "database")
        ]
        disks.free[tmp_path] = 19
        await watch(market, 90, incidents)
        assert reported(receiver)[1:] == [("began", "disk_full")]
        assert data(receiver)["severity"] == "page"
        disks.free[tmp_path] = 115  # neither bad nor fine
        await watch(market, 2 * ENDS_AFTER_SECONDS, incidents)
        assert reported(receiver)[2:] == [("ended", "disk_full")]
        disks.free[tmp_path] = 500
        await watch(market, 2 * ENDS_AFTER_SECONDS, incidents)
        assert reported(receiver)[3:] == [("ended", "disk_nearly_full")]


async def test_disk_of_this_server_is_read(market: Market) -> None:
    """The machine's own disks: their rooms are what the operating system says."""
    rooms = market.server.services.incidents._rooms()
    assert [room.place for room in rooms] == ["files", "database"]
    assert all(0 < room.free_bytes < room.total_bytes for room in rooms)


async def test_disk_that_cannot_be_read_or_hangs_stops_no_other_reading(
    market: Market, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "DISK_SECONDS", 0.05)
    disks = Disks()
    incidents = with_disks(market, disks, {"files": tmp_path})
    await request_payout(market, 100)
    disks.fault = OSError("a fault")
    market.clock.advance(PERIOD)
    with pytest.raises(OSError, match="a fault"):
        await incidents.tick()
    assert [each.condition for each in (await listed(market)).incidents] == [
        pb.INCIDENT_CONDITION_PAYOUTS_WAIT
    ]
    disks.fault, disks.read = None, 0
    disks.hangs.clear()
    for _ in range(5):
        with pytest.raises(TimeoutError):
            await incidents.tick()
    assert disks.read == 1  # one thread waits for the disk, not five
    disks.hangs.set()
    await asyncio.sleep(0.1)
    await incidents.tick()
    await incidents.tick()


async def test_provider_whose_heartbeats_come_by_post_has_not_gone_away(any_market: Market) -> None:
    market = any_market
    now_ms = int(market.clock.now() * 1000)
    for _ in range(3):
        await market.set_provider(await market.provider(), last_heartbeat_ms=now_ms)

    async def lost() -> int:
        health = await market.oversight_service.GetHealth(
            oversight_pb2.GetHealthRequest(), metadata=market.admin_metadata
        )
        return int(health.sessions.lost)

    await market.later(20)
    assert await lost() == 0
    await market.later(20)
    assert await lost() == 3


async def test_daemons_that_go_away_at_once_are_an_incident_until_most_are_back(any_market: Market) -> None:
    market = any_market
    providers = [await market.provider() for _ in range(5)]
    daemons = {provider.id: await market.daemon(provider) for provider in providers}

    async def pass_time(seconds: int) -> None:
        for _ in range(0, seconds, PERIOD):
            for daemon in daemons.values():
                await daemon.heartbeat()
            await market.tick()
            await watch(market)

    async with receiving() as receiver:
        await listen(market, receiver)
        await pass_time(60)
        for provider in providers[:3]:
            daemons.pop(provider.id).cut()
        await asyncio.sleep(0)
        async with asyncio.timeout(10):
            while len(market.server.services.fleet.all()) > 2:
                await asyncio.sleep(0.01)
        await pass_time(BEGINS_AFTER_SECONDS[Condition.SESSIONS_LOST])
        assert reported(receiver) == []
        await pass_time(PERIOD)
        assert reported(receiver) == [("began", "sessions_lost")]
        assert data(receiver)["sessions"] == {"before": 5, "present": 2}
        await pass_time(LOST_WITHIN_SECONDS + 60)  # they are not lost lately any more
        assert len(receiver.received) == 1
        for provider in providers[:2]:
            daemons[provider.id] = await market.daemon(provider)
        await pass_time(ENDS_AFTER_SECONDS + 2 * PERIOD)
        assert reported(receiver)[1:] == [("ended", "sessions_lost")]


async def test_incident_goes_on_after_a_restart_andreported_once_once(
    database_url: str, clock: ManualClock
) -> None:
    async with receiving() as receiver:
        for number in range(3):
            running = running_server.running(database_url, clock, webhooks_allow_private=True)
            async with running as market:
                if number == 0:
                    await listen(market, receiver)
                    payout = await request_payout(market, 100)
                await watch(market, 60)
                if number == 1:
                    await reject(market, payout)
                    await watch(market, ENDS_AFTER_SECONDS - 30)
                    assert len(receiver.received) == 1
        assert reported(receiver) == [("began", "payouts_wait"), ("ended", "payouts_wait")]


async def test_two_servers_that_watch_at_once_report_an_incident_once(any_market: Market) -> None:
    market = any_market
    watchers = [with_disks(market, Disks(), {}) for _ in range(8)]
    async with receiving() as receiver:
        await listen(market, receiver)
        payout = await request_payout(market, 100)
        for _ in range(3):
            await asyncio.gather(*(each.tick() for each in watchers))
            await deliver(market)
        await reject(market, payout)
        for seconds in (0, ENDS_AFTER_SECONDS, 1):
            market.clock.advance(seconds)
            await asyncio.gather(*(each.tick() for each in watchers))
            await deliver(market)
        assert reported(receiver) == [("began", "payouts_wait"), ("ended", "payouts_wait")]
        assert len((await listed(market)).incidents) == 1


async def test_webhook_that_is_set_later_hears_of_what_lasts(market: Market) -> None:
    await request_payout(market, 100)
    await watch(market, 60)
    assert [each.summary for each in (await listed(market)).incidents] == [
        "1 withdrawal request waited too long for an operator."
    ]
    async with receiving() as receiver:
        await listen(market, receiver)
        await watch(market, 60)
        assert reported(receiver) == [("began", "payouts_wait")]


async def test_new_address_of_the_webhook_hears_of_what_lasts(any_market: Market) -> None:
    async with receiving() as old, receiving() as new:
        await listen(any_market, old)
        await request_payout(any_market, 100)
        await watch(any_market, 60)
        await listen(any_market, old)
        await watch(any_market, 60)
        assert reported(old) == [("began", "payouts_wait")], "the same address is told once"
        await listen(any_market, new)
        await watch(any_market, 60)
        assert reported(new) == [("began", "payouts_wait")]


async def test_incidents_have_pages_and_are_kept_for_90_days(market: Market) -> None:
    now_ms = int(market.clock.now() * 1000)

    def insert() -> None:
        row = {"condition": "payouts_wait", "bad_since_ms": 1, "read_ms": 1, "began_ms": 1}
        facts = json.dumps({"requests": 1, "amount_micros": 1, "oldest_ms": 1})
        for days in (KEEP_DAYS + 1, KEEP_DAYS - 1, 1):
            ended_ms = now_ms - days * 24 * 3600 * 1000
            Incident.insert(**row, facts=facts, ended_ms=ended_ms).execute()

    await market.sql(insert)
    page = await listed(market, page_size=2)
    rest = await listed(market, page_size=2, before_id=page.next_before_id)
    assert [each.id for each in (*page.incidents, *rest.incidents)] == [3, 2, 1]
    await market.server.services.incidents.clean()
    assert [each.id for each in (await listed(market)).incidents] == [3, 2]


async def test_operators_webhook_works_as_a_renters_and_is_another(any_market: Market) -> None:
    market, service, admin = any_market, any_market.incident_service, any_market.admin_metadata
    refused = await refusal(service.TestOperatorWebhook(pb.TestOperatorWebhookRequest(), metadata=admin))
    assert (refused.reason, refused.facts.status) == ("WRONG_STATE", "none")
    renter = await market.renter()
    async with receiving() as receiver, receiving() as of_renter:
        secret = await listen(market, receiver)
        assert secret.startswith("whsec_")
        assert await listen(market, receiver) == ""
        await set_webhook(market, renter, of_renter.url)
        await cancelled_job(market, renter)
        await service.TestOperatorWebhook(pb.TestOperatorWebhookRequest(), metadata=admin)
        await deliver(market)
        assert [json.loads(event.body)["type"] for event in receiver.received] == ["webhook.test"]
        assert [json.loads(event.body)["type"] for event in of_renter.received] == ["job.cancelled"]
        assert_described(receiver.received[0])
        listing = await service.ListOperatorWebhookDeliveries(
            pb.ListOperatorWebhookDeliveriesRequest(), metadata=admin
        )
        assert [each.status_code for each in listing.deliveries] == [200]
        rotation = await service.RotateOperatorWebhookSecret(
            pb.RotateOperatorWebhookSecretRequest(), metadata=admin
        )
        shown = await service.GetOperatorWebhook(pb.GetOperatorWebhookRequest(), metadata=admin)
        assert shown.webhook.url == receiver.url
        await service.RemoveOperatorWebhook(pb.RemoveOperatorWebhookRequest(), metadata=admin)
        gone = await service.GetOperatorWebhook(pb.GetOperatorWebhookRequest(), metadata=admin)
        assert not gone.HasField("webhook")
        audit = await market.admin_service.ListAuditEntries(
            admin_pb2.ListAuditEntriesRequest(object="webhook"), metadata=admin
        )
        assert [entry.action for entry in audit.entries] == [
            *("webhook.remove", "webhook.rotate", "webhook.test", "webhook.set", "webhook.set")
        ]
        for text in (secret, rotation.secret, "/events"):
            assert text not in str(audit) + str(listing)


async def test_private_address_of_operators_is_refused(sqlite_url: str, clock: ManualClock) -> None:
    async with running_server.running(sqlite_url, clock) as market:
        request = pb.SetOperatorWebhookRequest(url="https://127.0.0.1/")
        refused = await refusal(
            market.incident_service.SetOperatorWebhook(request, metadata=market.admin_metadata)
        )
        assert (refused.reason, refused.facts.field) == ("INVALID_FIELD", "url")

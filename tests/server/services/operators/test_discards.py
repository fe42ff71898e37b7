"""What daemons report and the server does not know is recorded once, within limits, and forgotten in time."""

from __future__ import annotations

from functools import partial
from typing import Any

import grpc
import pytest
from dcp.v1 import admin_pb2, sessions_pb2

from server.domain.discards import DiscardKind, Unknown
from server.services.operators.discards import KEEP_MS
from server.store.models import Discard
from server.store.operators import discards
from tests.support.running_server import Market, Party

LEASE, RUN, KEY = (admin_pb2.DISCARD_KIND_LEASE, admin_pb2.DISCARD_KIND_RUN, admin_pb2.DISCARD_KIND_KEY)
STALE = sessions_pb2.RESULT_DISPOSITION_STALE
FORGOTTEN = sessions_pb2.Lease(job_id="job-of-yesterday", lease_epoch=3, lease_secret=b"s" * 16)


async def listed(market: Market, **filters: Any) -> list[admin_pb2.Discard]:
    """The records, after what waits was stored."""
    await market.server.services.discards.tick()
    request = admin_pb2.ListDiscardsRequest(**filters)
    answer = await market.admin_service.ListDiscards(request, metadata=market.admin_metadata)
    return list(answer.discards)


async def today(market: Market) -> int:
    board = await market.admin_service.GetDashboard(
        admin_pb2.GetDashboardRequest(), metadata=market.admin_metadata
    )
    return board.stats.discards_today


async def test_lease_that_is_not_on_record_is_discarded_and_recorded_once(any_market: Market) -> None:
    market, provider = any_market, await any_market.provider()
    daemon = market.connect(provider)
    await daemon.hello(held_leases=[FORGOTTEN])
    assert (await daemon.expect("lease_directive")).lease == FORGOTTEN
    await daemon.say(output_chunk=sessions_pb2.OutputChunk(lease=FORGOTTEN, seq=105, data=b"x"))
    assert (await daemon.expect("lease_directive")).lease == FORGOTTEN
    assert await daemon.finished(FORGOTTEN) == STALE
    (found,) = await listed(market)
    assert (found.kind, found.provider_id, found.job_id, found.lease_epoch, found.times) == (
        LEASE,
        provider.id,
        FORGOTTEN.job_id,
        3,
        3,
    )
    assert found.detail == "no job with this id is on record"
    assert await daemon.finished(FORGOTTEN) == STALE
    (again,) = await listed(market, provider_id=provider.id)
    assert (again.id, again.times) == (found.id, 4)
    assert await listed(market, provider_id=provider.id + 1) == []
    assert await today(market) == 1


async def test_lease_of_another_secret_or_number_says_what_differs(market: Market) -> None:
    provider, renter = await market.provider(), await market.renter()
    daemon = await market.daemon(provider)
    _, lease = await market.running_job(renter, provider, daemon)
    other = sessions_pb2.Lease(job_id=lease.job_id, lease_epoch=1, lease_secret=b"other")
    later = sessions_pb2.Lease(job_id=lease.job_id, lease_epoch=2, lease_secret=lease.lease_secret)
    for unknown in (other, later):
        assert await daemon.finished(unknown) == STALE
    details = {found.lease_epoch: found.detail for found in await listed(market)}
    assert "is another" in details[1]
    assert details[2] == "the job has no lease with this number"


async def test_late_message_about_a_lease_that_ended_leaves_no_record(market: Market) -> None:
    provider, renter = await market.provider(), await market.renter()
    daemon = await market.daemon(provider)
    job, lease = await market.running_job(renter, provider, daemon)
    await market.cancel(job, renter)
    await daemon.expect("cancel_run")
    await daemon.finished(lease)
    await daemon.say(output_chunk=sessions_pb2.OutputChunk(lease=lease, seq=1, data=b"x"))
    await daemon.expect("lease_directive")
    assert await listed(market) == []
    assert market.server.services.discards._noted == {}


async def test_run_that_does_not_continue_what_is_stored_is_recorded(market: Market) -> None:
    provider, renter = await market.provider(), await market.renter()
    daemon = await market.daemon(provider)
    _, lease = await market.running_job(renter, provider, daemon)
    await daemon.say(output_chunk=sessions_pb2.OutputChunk(lease=lease, seq=105, data=b"x"))
    await daemon.expect("lease_directive")
    (found,) = await listed(market)
    assert (found.kind, found.job_id, found.detail) == (RUN, lease.job_id, "output chunk 105 came after 0")


async def test_only_the_end_of_an_unknown_providers_key_is_recorded(market: Market) -> None:
    for key in ("dcp-provider-" + "k" * 40 + "wxyz", "dcp-renter-" + "k" * 44, "whatever"):
        daemon = market.connect(Party(0, key))
        with pytest.raises(grpc.aio.AioRpcError):
            await daemon.hear()
    (found,) = await listed(market)
    assert (found.kind, found.key_last4, found.detail) == (KEY, "wxyz", "no account has this key")
    assert "127.0.0.1" in found.address
    assert not found.HasField("provider_id")
    stored = await market.sql(lambda: list(Discard.select().dicts()))
    assert "kk" not in repr(stored)


async def test_oldest_records_of_a_provider_make_room(
    any_market: Market, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(discards, "limit_of", lambda provider_id: 3)
    for number, provider_id in [(1, 1), (2, 1), (3, 1), (1, 1), (4, 1), (5, 1), (9, 2)]:
        about = Unknown(DiscardKind.LEASE, provider_id, f"job-{number}", 1)
        any_market.clock.advance(1)
        now_ms = int(any_market.clock.now() * 1000)
        await any_market.sql(partial(discards.record, about, "why", 1, now_ms))
    kept = [(found.job_id, found.times) for found in await listed(any_market)]
    assert kept == [("job-9", 1), ("job-5", 1), ("job-4", 1), ("job-1", 2)]


async def test_what_waits_to_be_recorded_is_bounded(market: Market, caplog: pytest.LogCaptureFixture) -> None:
    services = market.server.services
    for number in range(1200):
        services.discards.note_key(f"dcp-provider-{number:04}", "192.0.2.1")
    assert len(services.discards._noted) == 1000
    assert len(await listed(market, page_size=200)) == 200
    assert await market.sql(lambda: Discard.select().count()) == 1000
    assert "count=200" in caplog.text


async def test_records_are_removed_30_days_after_their_last_time(any_market: Market) -> None:
    services = any_market.server.services
    services.discards.note_key("dcp-provider-0000", "192.0.2.1")
    assert len(await listed(any_market)) == 1
    any_market.clock.advance(KEEP_MS / 1000 - 1)
    services.discards.note_key("dcp-provider-1111", "192.0.2.1")
    await services.discards.tick()
    await services.discards.clean()
    assert len(await listed(any_market)) == 2
    any_market.clock.advance(2)
    await services.discards.clean()
    assert [found.key_last4 for found in await listed(any_market)] == ["1111"]


async def test_record_that_cannot_be_stored_waits(market: Market, monkeypatch: pytest.MonkeyPatch) -> None:
    services = market.server.services
    services.discards.note_key("dcp-provider-0000", "192.0.2.1")
    with monkeypatch.context() as broken:
        broken.setattr(discards, "record", lambda *arguments: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            await services.discards.tick()
    services.discards.note_key("dcp-provider-0000", "192.0.2.1")
    (found,) = await listed(market)
    assert found.times == 2

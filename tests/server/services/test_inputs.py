"""Inputs that renters upload: pieces that are resumed, digests, quotas, retention, and whose they are."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Awaitable
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from server.blobs.files import MARK
from server.domain.errors import DomainError
from server.domain.inputs import Input, InputLimits, Purpose
from server.domain.storage import StorageLimits
from server.services.inputs import Announced, Inputs
from server.store import storage
from server.store.models import Input as Row
from server.store.models import InputPiece, Renter
from tests.support import running_server
from tests.support.manual_clock import ManualClock
from tests.support.running_server import Market
from tests.support.s3_server import BUCKET, running_s3
from tests.support.whole_renter import delete

DAY = 24 * 3600
CONTENT = bytes(range(256)) * 1000
DIGEST = hashlib.sha256(CONTENT).digest()
LIMITS = InputLimits(file_bytes=1 << 20, count=3, days=30)


@asynccontextmanager
async def market_with(url: str, store: Path | str, renter_bytes: int = 1 << 20) -> AsyncIterator[Market]:
    async with running_server.running(
        url,
        ManualClock(),
        blob_store=store if isinstance(store, str) else f"file:{store}",
        input_limits=LIMITS,
        storage_limits=StorageLimits(renter_bytes=renter_bytes),
    ) as market:
        yield market


@pytest.fixture
async def site(sqlite_url: str, tmp_path: Path) -> AsyncIterator[Market]:
    async with market_with(sqlite_url, tmp_path / "files") as market:
        yield market


@pytest.fixture
async def any_site(database_url: str, tmp_path: Path) -> AsyncIterator[Market]:
    async with market_with(database_url, tmp_path / "files") as market:
        yield market


def of(market: Market) -> Inputs:
    return market.server.services.inputs


async def send(
    market: Market, renter_id: int, data: bytes = CONTENT, piece: int = 100_000, **changes: Any
) -> Input:
    """Uploads an input whole."""
    announced = replace(Announced("a", len(data), hashlib.sha256(data).digest()), **changes)
    found = await of(market).begin(renter_id, announced)
    for first in range(0, len(data), piece):
        found = await of(market).append(renter_id, found.input_id, first, data[first : first + piece])
    return await of(market).finish(renter_id, found.input_id)


async def read(market: Market, found: Input, first: int = 0, count: int | None = None) -> bytes:
    async with aclosing(
        of(market).pieces_of(found, first, found.size_bytes if count is None else count)
    ) as pieces:
        return b"".join([piece async for piece in pieces])


async def refusal(call: Awaitable[Any]) -> DomainError:
    with pytest.raises(DomainError) as caught:
        await call
    return caught.value


def blobs(folder: Path) -> list[Path]:
    return [path for path in (folder / "files").rglob("*") if path.is_file() and path.name != MARK]


async def counted(market: Market, renter_id: int) -> tuple[int, int]:
    """The bytes that the renter's row counts, and those of its inputs' rows."""

    def both() -> tuple[int, int]:
        rows = Row.select().where(Row.renter_id == renter_id, Row.state != "doomed")
        return Renter.get_by_id(renter_id).input_bytes, sum(row.size_bytes for row in rows)

    return await market.sql(both)


async def test_an_input_arrives_in_pieces_and_is_read_in_parts(any_site: Market, tmp_path: Path) -> None:
    renter = await any_site.renter()
    found = await send(any_site, renter.id)
    assert (found.is_ready, found.size_bytes, found.sha256) == (True, len(CONTENT), DIGEST)
    assert len(blobs(tmp_path)) == 3
    assert await read(any_site, found) == CONTENT
    assert await read(any_site, found, 99_999, 100_002) == CONTENT[99_999:200_001]
    assert await any_site.sql(lambda: storage.of_renter(renter.id)) == len(CONTENT)


async def test_an_interrupted_upload_goes_on_at_another_server(sqlite_url: str, tmp_path: Path) -> None:
    async with market_with(sqlite_url, tmp_path) as market:
        renter = await market.renter()
        found = await of(market).begin(renter.id, Announced("a", len(CONTENT), DIGEST))
        await of(market).append(renter.id, found.input_id, 0, CONTENT[:1000])
        await of(market).append(renter.id, found.input_id, 1000, CONTENT[1000:5000])
    async with market_with(sqlite_url, tmp_path) as market:
        inputs = of(market)
        found = await inputs.get(renter.id, found.input_id)
        assert found.received_bytes == 5000
        early = await refusal(inputs.finish(renter.id, found.input_id))
        assert (early.reason, early.facts["received_bytes"]) == ("INPUT_NOT_READY", 5000)
        await inputs.append(renter.id, found.input_id, 5000, CONTENT[5000:])
        found = await inputs.finish(renter.id, found.input_id)
        assert await read(market, found) == CONTENT


async def test_a_repeated_piece_changes_nothing_and_a_wrong_place_is_refused(
    site: Market, tmp_path: Path
) -> None:
    renter = await site.renter()
    inputs = of(site)
    found = await inputs.begin(renter.id, Announced("a", 10, b""))
    await inputs.append(renter.id, found.input_id, 0, b"12345")
    again = await inputs.append(renter.id, found.input_id, 0, b"12345")
    assert again.received_bytes == 5
    for first, data in ((0, b"1234"), (6, b"7"), (10, b"x")):
        wrong = await refusal(inputs.append(renter.id, found.input_id, first, data))
        assert (wrong.reason, wrong.facts["received_bytes"]) == ("INPUT_OFFSET_WRONG", 5)
    too_much = await refusal(inputs.append(renter.id, found.input_id, 5, b"678901"))
    assert too_much.reason == "INPUT_TOO_LARGE"
    assert len(blobs(tmp_path)) == 1


async def test_of_two_pieces_at_one_place_one_is_kept(any_site: Market, tmp_path: Path) -> None:
    renter = await any_site.renter()
    inputs = of(any_site)
    found = await inputs.begin(renter.id, Announced("a", 8, b""))
    results = await asyncio.gather(
        *(inputs.append(renter.id, found.input_id, 0, data) for data in (b"1234", b"12345")),
        return_exceptions=True,
    )
    refused = [result for result in results if isinstance(result, DomainError)]
    assert [error.reason for error in refused] == ["INPUT_OFFSET_WRONG"]
    await inputs.stop()
    assert len(blobs(tmp_path)) == 1
    assert await any_site.sql(lambda: InputPiece.select().count()) == 1


async def test_a_wrong_digest_keeps_nothing(any_site: Market, tmp_path: Path) -> None:
    renter = await any_site.renter()
    wrong = await refusal(send(any_site, renter.id, sha256=bytes(32)))
    assert wrong.reason == "INPUT_DAMAGED"
    assert DIGEST.hex() in wrong.message
    assert await of(any_site).list(renter.id, None, 10) == []
    assert await counted(any_site, renter.id) == (0, 0)
    await of(any_site).clean()
    assert blobs(tmp_path) == []
    assert await any_site.sql(lambda: Row.select().count()) == 0


async def test_the_same_content_of_an_account_is_stored_once(any_site: Market, tmp_path: Path) -> None:
    renter, other = await any_site.renter(), await any_site.renter()
    first = await of(any_site).begin(renter.id, Announced("a", len(CONTENT), DIGEST))
    assert await of(any_site).begin(renter.id, Announced("b", len(CONTENT), DIGEST)) == first
    second = await of(any_site).begin(renter.id, Announced("b", len(CONTENT)))
    for found in (first, second):
        await of(any_site).append(renter.id, found.input_id, 0, CONTENT)
    done = [await of(any_site).finish(renter.id, found.input_id) for found in (first, second)]
    assert {found.input_id for found in done} == {first.input_id}
    assert (await of(any_site).begin(renter.id, Announced("c", len(CONTENT), DIGEST))).is_ready
    assert await counted(any_site, renter.id) == (len(CONTENT), len(CONTENT))
    await of(any_site).clean()
    assert len(blobs(tmp_path)) == 1
    # Nobody learns from it what somebody else has.
    assert await of(any_site).find(other.id, DIGEST) is None
    assert not (await of(any_site).begin(other.id, Announced("c", len(CONTENT), DIGEST))).is_ready


async def test_somebody_elses_input_does_not_exist(site: Market) -> None:
    renter, other = await site.renter(), await site.renter()
    found = await send(site, renter.id)
    inputs = of(site)
    for call in (
        inputs.get(other.id, found.input_id),
        inputs.append(other.id, found.input_id, 0, b"1"),
        inputs.finish(other.id, found.input_id),
        inputs.delete(other.id, found.input_id),
    ):
        assert (await refusal(call)).reason == "INPUT_NOT_FOUND"
    assert await inputs.list(other.id, None, 10) == []


async def test_a_full_quota_names_what_is_free(sqlite_url: str, tmp_path: Path) -> None:
    async with market_with(sqlite_url, tmp_path, renter_bytes=300_000) as market:
        renter = await market.renter()
        await of(market).begin(renter.id, Announced("a", 256_000, b""))
        full = await refusal(of(market).begin(renter.id, Announced("b", 50_000, b"")))
        assert full.reason == "RENTER_STORAGE_FULL"
        assert "44000 bytes are free" in full.message
        assert full.facts["free_bytes"] == 44_000


async def test_a_quota_that_is_reached_in_the_middle_cuts_no_upload_that_was_announced(
    sqlite_url: str, tmp_path: Path
) -> None:
    async with market_with(sqlite_url, tmp_path, renter_bytes=300_000) as market:
        renter, inputs = await market.renter(), of(market)
        first = await inputs.begin(renter.id, Announced("a", len(CONTENT), DIGEST))
        await inputs.append(renter.id, first.input_id, 0, CONTENT[:100_000])
        second = await inputs.begin(renter.id, Announced("b", 300_000 - len(CONTENT)))
        third = Announced("c", 1)
        assert (await refusal(inputs.begin(renter.id, third))).reason == "RENTER_STORAGE_FULL"
        await inputs.append(renter.id, first.input_id, 100_000, CONTENT[100_000:])
        assert (await inputs.finish(renter.id, first.input_id)).is_ready
        await inputs.delete(renter.id, second.input_id)
        await inputs.begin(renter.id, third)


async def test_size_and_number_of_inputs_are_limited(site: Market) -> None:
    renter = await site.renter()
    large = await refusal(of(site).begin(renter.id, Announced("a", (1 << 20) + 1)))
    assert (large.reason, large.facts["field"]) == ("INPUT_TOO_LARGE", "size_bytes")
    for name in "abc":
        await of(site).begin(renter.id, Announced(name, 1))
    assert (await refusal(of(site).begin(renter.id, Announced("d", 1)))).reason == "TOO_MANY_INPUTS"
    await of(site).begin(renter.id, Announced("d", 1, purpose=Purpose.BATCH))


async def test_an_upper_bound_becomes_the_size_at_the_end(any_site: Market) -> None:
    renter = await any_site.renter()

    async def pieces() -> AsyncIterator[bytes]:
        for first in range(0, len(CONTENT), 70_000):
            yield CONTENT[first : first + 70_000]

    announced = Announced("a", 1 << 19, purpose=Purpose.BATCH)
    found = await of(any_site).store(renter.id, announced, pieces())
    assert (found.size_bytes, found.sha256) == (len(CONTENT), DIGEST)
    assert await counted(any_site, renter.id) == (len(CONTENT), len(CONTENT))
    assert await of(any_site).list(renter.id, None, 10) == []
    assert len(await of(any_site).list(renter.id, None, 10, Purpose.BATCH)) == 1


async def test_unused_and_unfinished_inputs_go_with_their_bytes(any_site: Market, tmp_path: Path) -> None:
    renter = await any_site.renter()
    kept = await send(any_site, renter.id)
    begun = await of(any_site).begin(renter.id, Announced("b", 10, b""))
    await of(any_site).append(renter.id, begun.input_id, 0, b"1")
    any_site.clock.advance(DAY + 1)
    await of(any_site).clean()
    assert [found.input_id for found in await of(any_site).list(renter.id, None, 10)] == [kept.input_id]
    any_site.clock.advance(29 * DAY)
    await of(any_site).begin(renter.id, Announced("again", len(CONTENT), DIGEST))
    await of(any_site).clean()
    assert await read(any_site, kept) == CONTENT
    any_site.clock.advance(30 * DAY + 1)
    await of(any_site).clean()
    assert blobs(tmp_path) == []
    assert await counted(any_site, renter.id) == (0, 0)


async def test_a_search_for_stray_bytes_leaves_inputs_alone(site: Market, tmp_path: Path) -> None:
    renter = await site.renter()
    found = await send(site, renter.id)
    site.clock.advance(20 * DAY)
    for path in blobs(tmp_path):
        os.utime(path, (0, 0))
    for _ in range(5):
        await site.server.services.cleaning.tick()
    assert await read(site, found) == CONTENT


async def test_a_deleted_account_leaves_no_bytes(any_site: Market, tmp_path: Path) -> None:
    renter = await any_site.renter(halala=0)
    email = await any_site.sql(lambda: str(Renter.get_by_id(renter.id).email))
    await send(any_site, renter.id)
    await delete(any_site, renter, email, forfeit=0)
    await of(any_site).clean()
    assert blobs(tmp_path) == []
    assert await any_site.sql(lambda: Row.select().count()) == 0


async def test_inputs_are_stored_in_a_bucket(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with running_s3() as s3:
        for name, value in s3.environment.items():
            monkeypatch.setenv(name, value)
        async with market_with(sqlite_url, f"s3://{BUCKET}/market") as market:
            renter = await market.renter()
            found = await send(market, renter.id)
            assert await read(market, found, 5, 200_000) == CONTENT[5:200_005]

"""Inputs that the market fetches: by resume, by digest, and never from where it must not."""

from __future__ import annotations

import asyncio
import hashlib
import socket
import ssl
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path

import pytest
import trustme

from server.domain.errors import DomainError
from server.domain.inputs import MAX_PIECE_BYTES, FetchError, Input, InputLimits
from server.loops import server_loops
from server.outbound import Outbound
from server.services.input_fetches import AT_ONCE, OF_A_RENTER, TURN_SECONDS, InputFetches
from server.services.inputs import Announced
from server.store.models import Input as InputRow
from tests.support import running_server
from tests.support.file_server import FileServer, serving_file
from tests.support.manual_clock import ManualClock
from tests.support.running_server import Market

DATA = bytes(range(256)) * 40_000
SHA256 = hashlib.sha256(DATA).digest()


@pytest.fixture
async def site(sqlite_url: str, tmp_path: Path) -> AsyncIterator[Market]:
    async with running_server.running(
        sqlite_url,
        ManualClock(),
        blob_store=f"file:{tmp_path / 'files'}",
        input_limits=InputLimits(),
        webhooks_allow_private=True,
    ) as market:
        yield market


@pytest.fixture
async def source() -> AsyncIterator[FileServer]:
    async with serving_file(DATA) as server:
        yield server


async def fetched(site: Market, source: FileServer, sha256: bytes = SHA256, size: int = len(DATA)) -> Input:
    """Announces the file, and returns it when its fetch has ended."""
    renter = await site.renter()
    announced = Announced("a", size, sha256, url=f"http://127.0.0.1:{source.port}/a")
    found = await site.server.services.inputs.begin(renter.id, announced)
    return await again(site, found)


async def again(site: Market, found: Input) -> Input:
    fetches = site.server.services.input_fetches
    await fetches.tick()
    await fetches.settled()
    return await site.server.services.inputs.get(found.renter_id, found.input_id)


async def test_an_address_becomes_a_ready_input(site: Market, source: FileServer) -> None:
    source.location = "/file"
    found = await fetched(site, source)
    assert (found.is_ready, found.problem, found.received_bytes) == (True, "", len(DATA))
    assert source.asked == [("/a", ""), ("/file", "")]


@pytest.mark.parametrize("knows_ranges", [True, False])
async def test_what_broke_off_goes_on_when_it_is_announced_again(
    site: Market, source: FileServer, knows_ranges: bool
) -> None:
    source.breaks_after, source.knows_ranges = 5_000_000, knows_ranges
    found = await fetched(site, source)
    assert "broke off" in found.problem
    assert 4 << 20 <= found.received_bytes < 5_000_000
    announced = Announced("a", len(DATA), SHA256, url=found.url)
    renewed = await site.server.services.inputs.begin(found.renter_id, announced)
    assert renewed.input_id == found.input_id
    assert (await again(site, renewed)).is_ready
    assert source.asked[-1] == ("/a", f"bytes={found.received_bytes}-")


async def test_wrong_digests_and_sizes_are_told(site: Market, source: FileServer) -> None:
    assert SHA256.hex() in (await fetched(site, source, bytes(32))).problem
    assert "more than the announced 10 bytes" in (await fetched(site, source, size=10)).problem
    assert "of the announced" in (await fetched(site, source, size=len(DATA) + 1)).problem


async def test_an_endless_source_ends(site: Market, source: FileServer) -> None:
    source.is_endless = True
    found = await fetched(site, source)
    assert "more than the announced" in found.problem


async def test_a_source_that_trickles_is_left(
    site: Market, source: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.outbound.LEAST_SECONDS", 0.3)
    source.trickles = True
    async with asyncio.timeout(20):
        found = await fetched(site, source)
    assert "less than" in found.problem


async def test_many_addresses_of_one_account_do_not_hold_up_those_of_another(
    site: Market, source: FileServer
) -> None:
    inputs, open_gate = site.server.services.inputs, asyncio.Event()
    begun: list[str] = []

    async def get(url: str, first_byte: int) -> AsyncGenerator[bytes, None]:
        begun.append(url.rpartition("/")[2])
        await open_gate.wait()
        yield DATA

    crowd, other = await site.renter(), await site.renter()
    for number in range(60):
        announced = Announced("a", len(DATA), number.to_bytes(32), url=f"http://127.0.0.1:1/{number}")
        await inputs.begin(crowd.id, announced)
    own = await inputs.begin(other.id, Announced("a", len(DATA), SHA256, url="http://127.0.0.1:1/own"))
    fetches = InputFetches(site.server._database, inputs, get)
    await fetches.tick()
    await asyncio.sleep(0)
    assert begun == ["0", "1", "own"]
    open_gate.set()
    await fetches.settled()
    assert (await inputs.get(other.id, own.input_id)).is_ready


async def test_slow_hosts_make_way_for_others_that_wait_and_go_on_after_them(site: Market) -> None:
    inputs, seconds, begun = site.server.services.inputs, 0.0, list[tuple[str, int]]()
    quick = asyncio.Event()

    async def get(url: str, first_byte: int) -> AsyncGenerator[bytes, None]:
        name = url.rpartition("/")[2]
        begun.append((name, first_byte))
        if name == "quick":
            await quick.wait()
            yield DATA
            return
        yield DATA[first_byte : first_byte + MAX_PIECE_BYTES]
        await asyncio.Event().wait()

    fetches = InputFetches(site.server._database, inputs, get, lambda: seconds)

    async def announce(renter_id: int, number: int, name: str) -> Input:
        sha256 = SHA256 if name == "quick" else number.to_bytes(32)
        announced = Announced("a", len(DATA), sha256, url=f"http://127.0.0.1:1/{name}")
        return await inputs.begin(renter_id, announced)

    async def began() -> list[tuple[str, int]]:
        """What a tick begins, once all that has arrived is stored."""
        before = len(begun)
        await fetches.tick()
        for _ in range(1000):
            stored = await asyncio.gather(*(inputs.get(one.renter_id, one.input_id) for one in slow))
            if all(one.received_bytes == MAX_PIECE_BYTES for one in stored):
                break
            await asyncio.sleep(0.01)
        return begun[before:]

    slow: list[Input] = []
    for renter in [await site.renter() for _ in range(AT_ONCE // OF_A_RENTER)]:
        slow += [await announce(renter.id, len(slow) + each, f"slow{len(slow) + each}") for each in range(2)]
        await announce(renter.id, 100 + len(slow), f"more{len(slow)}")
    assert len(await began()) == AT_ONCE
    other = await announce((await site.renter()).id, 0, "quick")
    assert await began() == [], "each has its turn"
    seconds = TURN_SECONDS
    assert await began() == [("quick", 0)], "the first that was slow makes way, and its others do not take it"
    quick.set()
    await until_ready(site, other)
    assert await began() == [("slow0", MAX_PIECE_BYTES)], "it goes on where it was"
    assert {(await inputs.get(one.renter_id, one.input_id)).problem for one in slow} == {""}
    seconds += TURN_SECONDS
    assert await began() == [], "an account's own others do not take its places"
    await fetches.stop()


async def test_a_slow_fetch_goes_on_while_nobody_waits(site: Market) -> None:
    inputs, seconds, begun = site.server.services.inputs, 0.0, list[str]()

    async def get(url: str, first_byte: int) -> AsyncGenerator[bytes, None]:
        begun.append(url)
        await asyncio.Event().wait()
        yield b""

    fetches = InputFetches(site.server._database, inputs, get, lambda: seconds)
    for number in range(AT_ONCE):
        announced = Announced("a", len(DATA), number.to_bytes(32), url=f"http://127.0.0.1:1/{number}")
        await inputs.begin((await site.renter()).id, announced)
    for at in (0.0, TURN_SECONDS, 10 * TURN_SECONDS):
        seconds = at
        await fetches.tick()
        await asyncio.sleep(0)
    assert len(begun) == AT_ONCE
    await fetches.stop()


async def until_ready(site: Market, found: Input) -> None:
    for _ in range(1000):
        if (await site.server.services.inputs.get(found.renter_id, found.input_id)).is_ready:
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it is not ready")


async def test_a_job_cannot_name_what_could_not_be_fetched(site: Market, source: FileServer) -> None:
    source.location = f"http://127.0.0.1:{source.port}/b"
    found = await fetched(site, source)
    assert found.problem == "it redirects more than 5 times"
    assert not found.is_ready


async def test_what_its_renter_sends_after_a_failed_fetch_is_ready_without_a_problem(
    site: Market, source: FileServer
) -> None:
    source.breaks_after = 5_000_000
    found = await fetched(site, source)
    assert found.problem
    done = await sent(site, found)
    assert (done.is_ready, done.problem) == (True, "")


@pytest.mark.parametrize("is_late", [True, False])
async def test_a_fetch_beside_its_renters_own_upload_leaves_no_problem(site: Market, is_late: bool) -> None:
    """The renter sends bytes while the fetch runs, and then the fetch fails, or its bytes do not follow."""
    inputs = site.server.services.inputs

    async def get(url: str, first_byte: int) -> AsyncGenerator[bytes, None]:
        if is_late:
            await sent(site, found)
            raise FetchError("the connection broke off")
        await inputs.append(found.renter_id, found.input_id, 0, DATA[:3])
        yield DATA

    fetches = InputFetches(site.server._database, inputs, get)
    announced = Announced("a", len(DATA), SHA256, url="http://127.0.0.1:1/a")
    found = await inputs.begin((await site.renter()).id, announced)
    await fetches.tick()
    await fetches.settled()
    found = await inputs.get(found.renter_id, found.input_id)
    assert (found.problem, found.received_bytes) == ("", len(DATA) if is_late else 3)


async def test_a_server_that_is_not_the_first_any_more_ends_its_fetches(
    site: Market, source: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    services = site.server.services
    asked, ended = asyncio.Event(), asyncio.Event()

    async def get(url: str, first_byte: int) -> AsyncGenerator[bytes, None]:
        asked.set()
        try:
            await asyncio.Event().wait()
            yield b""
        finally:
            ended.set()

    services.input_fetches = InputFetches(site.server._database, services.inputs, get)
    duty = next(
        duty for loop in server_loops(services) for duty in loop.duties if duty.name == "fetch inputs"
    )
    announced = Announced("a", len(DATA), SHA256, url="http://127.0.0.1:1/a")
    await services.inputs.begin((await site.renter()).id, announced)
    await duty.tick()
    await asked.wait()
    monkeypatch.setattr(services.servers, "is_first", False)
    await duty.tick()
    assert ended.is_set()


async def test_a_ready_input_with_a_problem_is_repaired_by_announcing_it_again(
    site: Market, source: FileServer
) -> None:
    """An earlier release could leave one."""
    found = await fetched(site, source)
    await site.sql(InputRow.update(problem="it broke off").execute)
    announced = Announced("a", len(DATA), SHA256, url=found.url)
    renewed = await site.server.services.inputs.begin(found.renter_id, announced)
    assert renewed == await site.server.services.inputs.get(found.renter_id, found.input_id)
    assert (renewed.is_ready, renewed.problem) == (True, "")


async def sent(site: Market, found: Input) -> Input:
    """The renter itself sends what is missing of an input."""
    inputs = site.server.services.inputs
    place = found.received_bytes
    while place < len(DATA):
        piece = DATA[place : place + MAX_PIECE_BYTES]
        place = (await inputs.append(found.renter_id, found.input_id, place, piece)).received_bytes
    return await inputs.finish(found.renter_id, found.input_id)


async def test_private_and_plain_addresses_are_refused_at_once(sqlite_url: str, tmp_path: Path) -> None:
    async with running_server.running(
        sqlite_url, ManualClock(), blob_store=f"file:{tmp_path / 'files'}"
    ) as market:
        renter = await market.renter()
        for url in ("http://data.example/a", "https://127.0.0.1/a", "https://[::1]/a", "file:///etc/passwd"):
            with pytest.raises(DomainError) as refused:
                await market.server.services.inputs.begin(renter.id, Announced("a", 1, SHA256, url=url))
            assert refused.value.facts["field"] == "url"


@pytest.mark.parametrize(
    "location",
    ["https://127.0.0.2:1/a", "https://inner.example/a", "http://data.example/a", "https://[::1]/"],
)
async def test_a_redirect_to_a_private_address_is_not_followed(
    monkeypatch: pytest.MonkeyPatch, location: str
) -> None:
    """127.0.0.1 is taken for a public address, so that there is a public source that redirects."""
    authority = trustme.CA()
    tls, trust = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert("data.example").configure_cert(tls)
    authority.configure_trust(trust)
    real = socket.getaddrinfo

    def lookup(host: str | bytes, port: int, *rest: int, **more: int) -> object:
        name = host.decode() if isinstance(host, bytes) else host
        where = {"data.example": "127.0.0.1", "inner.example": "127.0.0.2"}.get(name, name)
        return real(where, port, *rest, **more)

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    monkeypatch.setattr("server.outbound.is_public", lambda address: address == "127.0.0.1")
    async with serving_file(DATA, tls) as source:
        outbound = Outbound(allow_private=False, trust=trust)
        url = f"https://data.example:{source.port}/a"
        assert b"".join([data async for data in outbound.get(url)]) == DATA
        source.location = location
        with pytest.raises(FetchError, match="not public"):
            async with asyncio.timeout(10):
                [data async for data in outbound.get(url)]

"""Watching a job over HTTP: the real gateway on a socket, the real server, a daemon's messages."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import httpx
import orjson
import pytest
from dcp.v1 import jobs_pb2, sessions_pb2

from gateway.channel import CHANNEL_OPTIONS
from market.channel import EmbeddedChannel
from tests.support import http_gateway, running_server
from tests.support.manual_clock import ManualClock
from tests.support.running_server import HANG_SECONDS, Market, Party

TEXT = "مرحبا، 🌍! One line,\n\ttwo\r\n…"


@dataclass
class Doors:
    """The way to a server, as the gateway's tests have it."""

    market: Market
    embedded: bool = False
    files: tuple[()] = field(default=())

    def open_channel(self) -> Any:
        if self.embedded:
            return EmbeddedChannel(self.market.server.methods.handler)
        return grpc.aio.insecure_channel(self.market.server.address, options=CHANNEL_OPTIONS)


@asynccontextmanager
async def gateway_to(market: Market, *, embedded: bool = False) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a gateway to a server."""
    doors: Any = Doors(market, embedded)
    async with http_gateway.serving(doors) as served:
        base = f"http://127.0.0.1:{served.port}"
        async with httpx.AsyncClient(base_url=base, timeout=HANG_SECONDS) as client:
            yield client


async def events(
    client: httpx.AsyncClient, job: jobs_pb2.Job, who: Party, after: str = ""
) -> AsyncIterator[dict[str, Any]]:
    """The events of a job as a client reads them: blocks of lines, by name."""
    headers = {"x-renter-key": who.key} | ({"last-event-id": after} if after else {})
    async with client.stream("GET", f"/api/jobs/{job.job_id}/events", headers=headers) as answer:
        assert answer.status_code in (200, 204), await answer.aread()
        found: dict[str, Any] = {}
        async for line in answer.aiter_lines():
            name, _, value = line.partition(": ")
            if name in ("id", "event"):
                found[name] = value
            elif name == "data":
                found[name] = orjson.loads(value)
            elif not line and "data" in found:
                yield found
                found = {}


async def all_events(client: httpx.AsyncClient, job: jobs_pb2.Job, who: Party, after: str = "") -> list[Any]:
    return [event async for event in events(client, job, who, after)]


@pytest.fixture(params=["by wire", "embedded"])
def embedded(request: pytest.FixtureRequest) -> bool:
    return bool(request.param == "embedded")


@pytest.mark.parametrize("seed", range(4))
async def test_replay_from_each_id_gives_exactly_the_rest(
    database_url: str, clock: ManualClock, seed: int
) -> None:
    """However the output was split into chunks, also within characters and with bytes that are no UTF-8."""
    chance = random.Random(seed)
    raw = (TEXT * chance.randint(1, 60)).encode() + bytes(chance.choices(range(256), k=5))
    cuts = sorted(chance.choices(range(len(raw)), k=chance.randint(0, 40)))
    chunks = [part for a, b in zip([0, *cuts], [*cuts, len(raw)], strict=True) if (part := raw[a:b])]
    async with running_server.running(database_url, clock) as market, gateway_to(market) as client:
        renter, provider = await market.renter(), await market.provider()
        daemon = await market.daemon(provider)
        job, lease = await market.running_job(renter, provider, daemon)
        for seq, chunk in enumerate(chunks, 1):
            await daemon.output(lease, seq, chunk)
        await daemon.finished(lease, last_output_seq=len(chunks))
        whole = await all_events(client, job, renter)
        texts = [event["data"]["text"] for event in whole if event["event"] == "output"]
        assert "".join(texts) == raw.decode(errors="replace")
        assert len({event["id"] for event in whole}) == len(whole)
        for count, event in enumerate(whole, 1):
            assert await all_events(client, job, renter, event["id"]) == whole[count:]


async def test_events_arrive_while_the_job_runs_and_end_with_the_bill(
    sqlite_url: str, clock: ManualClock, embedded: bool
) -> None:
    async with (
        running_server.running(sqlite_url, clock) as market,
        gateway_to(market, embedded=embedded) as client,
    ):
        renter, provider = await market.renter(), await market.provider()
        daemon = await market.daemon(provider)
        job, lease = await market.running_job(renter, provider, daemon, output=b"first ")
        async with aclosing(events(client, job, renter)) as reading, asyncio.timeout(HANG_SECONDS):  # type: ignore[type-var]
            seen = [await anext(reading) for _ in range(5)]
            assert [event["event"] for event in seen] == ["state"] * 4 + ["output"]
            await daemon.output(lease, 2, b"second")
            assert (await anext(reading))["data"] == {"text": "second"}
            market.clock.advance(2)
            await daemon.finished(lease, seconds=2, last_output_seq=2)
            end = await anext(reading)
        shown = (await client.get(f"/api/jobs/{job.job_id}", headers={"x-renter-key": renter.key})).json()
        assert end["data"]["job"] == shown["job"]
        assert end["data"]["job"]["billing"]["actual_cost_halala"] > 0
        assert await all_events(client, job, renter, end["id"]) == []


async def test_reader_resumes_after_a_restart_of_the_server(
    database_url: str, clock: ManualClock, embedded: bool
) -> None:
    seen: list[dict[str, Any]] = []
    async with (
        running_server.running(database_url, clock) as market,
        gateway_to(market, embedded=embedded) as client,
    ):
        renter, provider = await market.renter(), await market.provider()
        daemon = await market.daemon(provider)
        job, lease = await market.running_job(renter, provider, daemon, output="é".encode()[:1])
        reading = events(client, job, renter)
        seen += [await anext(reading) for _ in range(4)]
        stopping = asyncio.create_task(market.stop())
        seen.append(await anext(reading))
        with pytest.raises(httpx.RemoteProtocolError):
            await anext(reading)
        await stopping
        broken = seen.pop()
        assert (broken["event"], broken["data"]["code"]) == ("error", "UNAVAILABLE")
        assert "end" not in [event["event"] for event in seen]
    async with (
        running_server.running(database_url, clock) as market,
        gateway_to(market, embedded=embedded) as client,
    ):
        daemon = await market.daemon(provider, held_leases=[lease])
        await daemon.expect("lease_directive")
        await daemon.output(lease, 2, "é".encode()[1:])
        await daemon.finished(lease, last_output_seq=2)
        seen += await all_events(client, job, renter, seen[-1]["id"])
        assert [event["event"] for event in seen] == ["state"] * 4 + ["output", "end"]
        assert seen[4]["data"] == {"text": "é"}


@pytest.mark.parametrize("garbage", ["x", "-1", "1.4.1.0.1.0.zzzzzzzz", "9" * 150, "null"])
async def test_id_that_is_none_is_refused_by_name(sqlite_url: str, clock: ManualClock, garbage: str) -> None:
    async with running_server.running(sqlite_url, clock) as market, gateway_to(market) as client:
        renter = await market.renter()
        job = await market.submit(renter, wait_for_supply=True)
        path = f"/api/jobs/{job.job_id}/events"
        answer = await client.get(path, headers={"x-renter-key": renter.key, "last-event-id": garbage})
        error = answer.json()
        assert (answer.status_code, error["code"], error["field"]) == (400, "INVALID_FIELD", "Last-Event-ID")
        assert "send the id of the last event" in error["error"]


async def test_attempt_that_is_lost_is_an_event(sqlite_url: str, clock: ManualClock) -> None:
    async with running_server.running(sqlite_url, clock) as market, gateway_to(market) as client:
        renter, provider = await market.renter(), await market.provider()
        daemon = await market.daemon(provider)
        job, lease = await market.running_job(renter, provider, daemon, output=b"void")
        reading = events(client, job, renter)
        seen = [await anext(reading) for _ in range(5)]
        await daemon.finish(lease, outcome=sessions_pb2.RUN_OUTCOME_RELEASED, last_output_seq=1)
        async with asyncio.timeout(HANG_SECONDS):
            while seen[-1]["event"] != "attempt":
                seen.append(await anext(reading))
        assert seen[-1]["data"]["ended_attempt"] == 1
        assert seen[-1]["data"]["outcome"] == "released"

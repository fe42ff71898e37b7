"""Jobs that are cancelled when the last reader that wants them has gone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Any

import pytest
from dcp.v1 import chats_pb2, jobs_pb2, keys_pb2, options_pb2

from server.bus import Heard, Topic
from server.bus.local import LocalBus
from server.services import attendance
from server.services.attendance import Attendance
from server.services.keys import RENTER, Caller
from tests.support import running_server, vectors
from tests.support.manual_clock import ManualClock
from tests.support.running_server import HANG_SECONDS, Daemon, Market, Party, refusal

ME = Caller(RENTER, 1)


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attendance, "LEFT_SECONDS", 0.2)
    monkeypatch.setattr(attendance, "ASK_SECONDS", 0.2)


@pytest.fixture
async def market(sqlite_url: str, clock: ManualClock) -> AsyncIterator[Market]:
    async with running_server.running(sqlite_url, clock) as running:
        yield running


def attend(market: Market, job: jobs_pb2.Job, who: Party, *, attends: bool = True) -> Any:
    request = jobs_pb2.WatchJobRequest(job_id=job.job_id, cancel_when_left=attends)
    return market.job_service.WatchJob(request, metadata=who.metadata)


async def running_job(market: Market) -> tuple[Party, Daemon, jobs_pb2.Job, Any]:
    renter, provider = await market.renter(), await market.provider()
    daemon = await market.daemon(provider)
    job, lease = await market.running_job(renter, provider, daemon, output=b"part")
    return renter, daemon, job, lease


def tasks_of(market: Market) -> dict[str, asyncio.Task[None]]:
    """The jobs whose readers are away."""
    return market.server.services.attendance._left


async def decided(market: Market) -> None:
    """Waits until the server has decided about every reader that left."""
    async with asyncio.timeout(HANG_SECONDS):
        while market.server.services.watches.readers or tasks_of(market):
            await asyncio.sleep(0.01)


async def is_cancelled(market: Market, job: jobs_pb2.Job) -> bool:
    found = await market.job(job)
    return found.cancel_requested or found.status == jobs_pb2.JOB_STATE_CANCELLED


async def test_job_whose_reader_has_gone_is_cancelled_and_costs_what_was_delivered(market: Market) -> None:
    renter, daemon, job, _ = await running_job(market)
    reader = attend(market, job, renter)
    await reader.read()
    reader.cancel()
    await daemon.expect("cancel_run")
    assert await is_cancelled(market, job)


@pytest.mark.parametrize("comes", ["before", "after"])
async def test_other_reader_keeps_the_job(market: Market, comes: str) -> None:
    renter, _, job, _ = await running_job(market)
    reader = attend(market, job, renter)
    await reader.read()
    if comes == "before":
        other = attend(market, job, renter)
        await other.read()
    reader.cancel()
    async with asyncio.timeout(HANG_SECONDS):
        while market.server.services.watches.readers != (comes == "before"):
            await asyncio.sleep(0.01)
    if comes == "after":
        other = attend(market, job, renter)
        await other.read()
    await asyncio.sleep(0.6)
    assert not await is_cancelled(market, job)
    other.cancel()
    await decided(market)
    assert await is_cancelled(market, job)


async def test_reader_without_the_wish_neither_ends_nor_keeps_a_job(market: Market) -> None:
    renter, _, job, _ = await running_job(market)
    plain = attend(market, job, renter, attends=False)
    await plain.read()
    plain.cancel()
    await decided(market)
    assert not await is_cancelled(market, job)
    plain, reader = attend(market, job, renter, attends=False), attend(market, job, renter)
    await plain.read()
    await reader.read()
    reader.cancel()
    async with asyncio.timeout(HANG_SECONDS):
        while not await is_cancelled(market, job):
            await asyncio.sleep(0.01)


async def test_key_that_may_only_read_cannot_have_a_job_cancelled_by_leaving(market: Market) -> None:
    renter, _, job, _ = await running_job(market)
    made = await market.key_service.CreateKey(
        keys_pb2.CreateKeyRequest(name="eyes", scopes=[options_pb2.SCOPE_READ]), metadata=renter.metadata
    )
    eyes = Party(renter.id, made.api_key)
    assert (await refusal(attend(market, job, eyes).read())).reason == "MISSING_SCOPE"
    await attend(market, job, eyes, attends=False).read()


async def test_only_the_jobs_renter_attends_it(market: Market) -> None:
    _, _, job, _ = await running_job(market)
    operator = Party(0, running_server.ADMIN_TOKEN)
    found = await refusal(attend(market, job, operator).read())
    assert found.reason == "INVALID_FIELD"
    assert found.message.startswith("cancel_when_left: ")
    other = await market.renter()
    assert (await refusal(attend(market, job, other).read())).reason == "NOT_OWNER"
    await decided(market)
    assert not await is_cancelled(market, job)


async def test_job_that_has_ended_is_left_as_it_is(market: Market) -> None:
    renter, daemon, job, lease = await running_job(market)
    reader = attend(market, job, renter)
    await reader.read()
    market.clock.advance(1)
    await daemon.finished(lease, seconds=1, last_output_seq=1)
    reader.cancel()  # before it has read the end
    await decided(market)
    assert (await market.job(job)).status == jobs_pb2.JOB_STATE_COMPLETED


SUBMITS = {
    "SubmitChat": chats_pb2.SubmitChatRequest(
        model=running_server.MODEL, request=b'{"messages": [{"role": "user", "content": "Hello"}]}'
    ),
    "SubmitEmbeddings": chats_pb2.SubmitEmbeddingsRequest(model=vectors.MODEL, request=b'{"input": "Hello"}'),
}


@pytest.mark.parametrize("method", SUBMITS)
async def test_job_whose_reader_never_comes_is_cancelled_and_one_that_is_read_is_not(
    market: Market, method: str
) -> None:
    renter = await market.renter()
    await market.daemon(await market.provider())
    kinds = [jobs_pb2.JOB_TYPE_EMBEDDINGS]
    await market.daemon(await market.provider(), models=[vectors.served()], job_types=kinds)
    submit, request = getattr(market.chat_service, method), SUBMITS[method]
    kept = (await submit(request, metadata=renter.metadata)).job
    request.cancel_when_left = True  # type: ignore[attr-defined]
    alone, read = [(await submit(request, metadata=renter.metadata)).job for _ in range(2)]
    reader = attend(market, read, renter)
    await reader.read()
    async with asyncio.timeout(HANG_SECONDS):
        while tasks_of(market):
            await asyncio.sleep(0.01)
    assert [await is_cancelled(market, job) for job in (kept, alone, read)] == [False, True, False]


async def test_server_that_stops_cancels_nothing(market: Market) -> None:
    renter, _, job, _ = await running_job(market)
    reader = attend(market, job, renter)
    await reader.read()
    reader.cancel()
    async with asyncio.timeout(HANG_SECONDS):
        while not tasks_of(market):
            await asyncio.sleep(0.01)
    await market.server.services.watches.stop()
    assert not tasks_of(market)
    assert not await is_cancelled(market, job)


class Wire:
    """What connects the buses of some servers."""

    def __init__(self) -> None:
        self.ends: list[End] = []


class End(LocalBus):
    """The bus of one server, which hears the others."""

    def __init__(self, wire: Wire) -> None:
        super().__init__()
        self._wire = wire
        self._heard: dict[Topic, Heard] = {}
        wire.ends.append(self)

    def listen(self, topic: Topic, heard: Heard) -> None:
        self._heard[topic] = heard

    def publish(self, topic: Topic, ids: Iterable[str]) -> None:
        told = frozenset(ids)
        for end in self._wire.ends:
            if end is not self and self.is_connected and end.is_connected:
                end._heard[topic](told)

    def reconnect(self) -> None:
        """Hints may have been lost meanwhile."""
        self.is_connected = True
        for heard in self._heard.values():
            heard(frozenset())


class Site:
    """A server of several, as far as it concerns readers."""

    def __init__(self, wire: Wire) -> None:
        self.cancelled: list[str] = []
        self.bus = End(wire)
        self.attendance = Attendance(self.bus, self._cancel)

    async def _cancel(self, caller: Caller, job_id: str) -> None:
        assert caller == ME
        self.cancelled.append(job_id)

    def leave(self, job_id: str) -> None:
        with self.attendance.of(ME, job_id):
            pass

    async def decided(self) -> None:
        """Waits for the decisions about the readers that left."""
        await asyncio.gather(*self.attendance._left.values(), return_exceptions=True)


async def test_reader_that_went_on_at_another_server_keeps_the_job() -> None:
    wire = Wire()
    here, there = Site(wire), Site(wire)
    with there.attendance.of(ME, "job-1"):
        here.leave("job-1")
        here.leave("job-2")
        await here.decided()
        assert here.cancelled == ["job-2"]
    await there.decided()
    assert there.cancelled == ["job-1"]


async def test_without_its_bus_a_server_cancels_nothing_and_asks_again_when_it_is_back() -> None:
    wire = Wire()
    here, there = Site(wire), Site(wire)
    here.bus.is_connected = False
    with there.attendance.of(ME, "job-1"):
        here.leave("job-1")
        here.leave("job-2")
        await asyncio.sleep(1)
        assert not here.cancelled
        here.bus.reconnect()
        await here.decided()
    assert here.cancelled == ["job-2"]


async def test_server_whose_bus_stays_away_leaves_the_job_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attendance, "ASKED_TIMES", 2)
    here = Site(Wire())
    here.bus.is_connected = False
    here.leave("job-1")
    await here.decided()
    assert not here.cancelled
    assert not here.attendance._left

"""How far a run is before its start: in `why` and in its events, at every server, never stored."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import pytest
from dcp.v1 import jobs_pb2, sessions_pb2

from server.bus import Topic
from server.bus.local import LocalBus
from server.domain.preparations import Preparation, PreparationStep, as_text, from_text
from server.services.preparations import MOST, Preparations
from tests.support.manual_clock import ManualClock
from tests.support.running_server import HANG_SECONDS, Daemon, Market, Party

INPUTS, IMAGE = jobs_pb2.PREPARATION_STEP_INPUTS, jobs_pb2.PREPARATION_STEP_IMAGE


async def report(
    daemon: Daemon, lease: sessions_pb2.Lease, done: int, total: int = 100, step: Any = INPUTS
) -> None:
    sent = sessions_pb2.PreparationReport(lease=lease, step=step, done_bytes=done, total_bytes=total)
    await daemon.say(preparation=sent)


async def watched(market: Market, renter: Party, job_id: str) -> AsyncIterator[jobs_pb2.WatchJobResponse]:
    call: Any = market.job_service.WatchJob(jobs_pb2.WatchJobRequest(job_id=job_id), metadata=renter.metadata)
    try:
        async for event in call:
            if event.WhichOneof("event"):
                yield event
    finally:
        call.cancel()


async def why(market: Market, renter: Party, job_id: str) -> jobs_pb2.ExplainJobResponse:
    asked = jobs_pb2.ExplainJobRequest(job_id=job_id)
    found: jobs_pb2.ExplainJobResponse = await market.job_service.ExplainJob(asked, metadata=renter.metadata)
    return found


async def test_renter_sees_how_far_its_run_is_until_it_starts(any_market: Market) -> None:
    market = any_market
    renter, provider = await market.renter(), await market.provider()
    daemon = market.connect(provider)
    assert (await daemon.hello()).takes_preparation
    job = await market.submit(renter)
    offer = await daemon.expect("job_offer")
    async with aclosing(watched(market, renter, job.job_id)) as events, asyncio.timeout(HANG_SECONDS):  # type: ignore[type-var]
        await report(daemon, offer.lease, 1)  # before its acceptance: it changes nothing
        await daemon.accept(offer.lease)
        states = [await anext(events) for _ in range(3)]
        assert [event.WhichOneof("event") for event in states] == ["state"] * 3
        await report(daemon, offer.lease, 40)
        first = await anext(events)
        assert (first.preparation.done_bytes, first.preparation.total_bytes) == (40, 100)
        assert first.id == states[-1].id, "who continues gets what follows the last stored event"
        found = await why(market, renter, job.job_id)
        assert (found.preparation.step, found.preparation.done_bytes) == (INPUTS, 40)
        assert "40 of 100 bytes of its inputs" in found.message
        await report(daemon, offer.lease, 50)  # within a second: it is dropped
        await daemon.heartbeat()  # it has arrived
        market.clock.advance(1)
        await report(daemon, offer.lease, 7, 0, IMAGE)
        second = (await anext(events)).preparation
        assert (second.step, second.done_bytes, second.HasField("total_bytes")) == (IMAGE, 7, False)
        await daemon.say(job_started=sessions_pb2.JobStarted(lease=offer.lease))
        assert (await anext(events)).state.status == jobs_pb2.JOB_STATE_RUNNING
        assert not (await why(market, renter, job.job_id)).HasField("preparation")
        market.clock.advance(1)
        await report(daemon, offer.lease, 100)  # too late
        await daemon.output(offer.lease, 1, b"text")
        assert (await anext(events)).output.text == "text"


async def test_daemon_reports_only_about_its_own_leases(market: Market) -> None:
    renter, provider, other = await market.renter(), await market.provider(), await market.provider()
    daemon = await market.daemon(provider)
    job = await market.submit(renter)
    offer = await daemon.expect("job_offer")
    await daemon.accept(offer.lease)
    liar = await market.daemon(other)
    await report(liar, offer.lease, 99)
    forged = sessions_pb2.Lease(job_id=job.job_id, lease_epoch=1, lease_secret=b"x" * 16)
    await report(daemon, forged, 98)
    await liar.heartbeat()
    market.clock.advance(1)
    await report(daemon, offer.lease, 40)
    async with asyncio.timeout(HANG_SECONDS):
        while not (found := await why(market, renter, job.job_id)).HasField("preparation"):
            await asyncio.sleep(0.01)
    assert found.preparation.done_bytes == 40


class Wire(LocalBus):
    """A bus by which two parts of a test hear one another."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[Any] = []

    def listen(self, topic: Topic, heard: Any) -> None:
        self.heard.append(heard)

    def publish(self, topic: Topic, ids: Any) -> None:
        for heard in self.heard:
            heard(frozenset(ids))


def test_every_server_knows_the_newest_report_and_bounds_how_many_it_keeps() -> None:
    wire, clock = Wire(), ManualClock()
    here, there = Preparations(wire, clock), Preparations(wire, clock)
    woken: list[str] = []
    there.changed = woken.append
    here.note("job-1", 1, PreparationStep.INPUTS, 5, 10)
    here.note("job-1", 1, PreparationStep.INPUTS, 6, 10)
    assert woken == ["job-1"], "at most one a second"
    here.note("job-1", 2, PreparationStep.IMAGE, 1, 0)
    assert woken == ["job-1", "job-1"], "another lease is another run"
    wire.publish(Topic.PREPARATION, ["", "job-1 2", "job-1 2 inputs x 1 1", "job-1 1 inputs 9 9 1"])
    assert len(woken) == 2, "neither nonsense nor what is older"
    for number in range(MOST + 5):
        here.note(f"job-{number}", 9, PreparationStep.INPUTS, 1, 1)
    assert len(here._found) == len(there._found) == MOST


@pytest.mark.parametrize("step", PreparationStep)
def test_report_is_the_same_at_the_other_server(step: PreparationStep) -> None:
    found = Preparation(step, 123, 0, 1_800_000_000_000)
    assert from_text(as_text("job-1", 3, found)) == ("job-1", 3, found)

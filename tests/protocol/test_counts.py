"""Counts the cost of a job, a heartbeat and a Hello, which does not depend on a machine's speed or load.

Later changes lower the counts; a test fails if one rises.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.counted_market import Market, counted_market, within
from tests.support.fake_engine import ScriptedEngine

HEARTBEAT = {"> heartbeat": 1, "< heartbeat_ack": 1}
NOTHING = {"statements": 0, "write transactions": 0, "read transactions": 0, "syncs": 0}


@pytest.fixture
async def market(tmp_path: Path) -> AsyncIterator[Market]:
    async with counted_market(tmp_path) as market:
        yield market


async def test_job_that_does_nothing(market: Market, tmp_path: Path) -> None:
    counter = market.counter
    async with market.daemon(tmp_path / "daemon") as daemon:
        await daemon.job()  # the first job prepares statements
        await daemon.heartbeat()
        await market.stack.get("/api/renters/me", market.renter)  # keys are cached for ten seconds
        counter.clear()
        await daemon.job()
        await daemon.heartbeat()  # it costs the database and the journal nothing, see below
        assert counter.http == {"POST /api/jobs/submit": 1, "GET /api/jobs/{id}/output": 1}
        assert counter.calls.methods == {"SubmitJob": 1, "GetJobOutput": 1}
        assert counter.messages == HEARTBEAT | {
            "< job_offer": 1,
            "> offer_reply": 1,  # with the start, as the model is loaded
            "> job_finished": 1,
            "< result_ack": 1,
        }
        assert counter.database() == {
            "statements": 38,
            "write transactions": 3,
            "read transactions": 2,
            "syncs": 3,
        }
        assert counter.journal_syncs == 1


async def test_job_with_a_short_answer(market: Market, tmp_path: Path) -> None:
    counter = market.counter
    async with market.daemon(tmp_path / "daemon", ScriptedEngine()) as daemon:
        await daemon.job(status=200)
        await daemon.heartbeat()
        await market.stack.get("/api/renters/me", market.renter)  # keys are cached for ten seconds
        counter.clear()
        await daemon.job(status=200)
        await daemon.heartbeat()
        assert counter.messages == HEARTBEAT | {
            "< job_offer": 1,
            "> offer_reply": 1,
            "> job_finished": 1,  # with the output
            "< result_ack": 1,
        }
        assert counter.database() == {
            "statements": 40,
            "write transactions": 3,
            "read transactions": 2,
            "syncs": 3,
        }
        assert counter.journal_syncs == 1


async def test_heartbeat(market: Market, tmp_path: Path) -> None:
    counter = market.counter
    async with market.daemon(tmp_path / "daemon") as daemon:
        counter.clear()
        await daemon.heartbeat()
        assert counter.messages == HEARTBEAT
        # With the sample of one GPU. HTTP/2 and gRPC add 14 bytes to each message, TLS and TCP more.
        assert counter.bytes == {"> heartbeat": 175, "< heartbeat_ack": 4}
        assert counter.database() == NOTHING
        assert counter.journal_syncs == 0


async def test_first_hello_of_a_provider(market: Market, tmp_path: Path) -> None:
    counter = market.counter
    counter.clear()
    async with market.daemon(tmp_path / "daemon"):
        assert counter.messages == HEARTBEAT | {"> hello": 1, "< welcome": 1}
        assert counter.database() == {
            "statements": 18,
            "write transactions": 1,
            "read transactions": 2,
            "syncs": 1,
        }


async def test_hello_of_a_daemon_that_starts_again(market: Market, tmp_path: Path) -> None:
    counter = market.counter
    async with market.daemon(tmp_path / "daemon"):
        counter.clear()
    await within(counter.written())  # the end of its session
    counter.clear()
    async with market.daemon(tmp_path / "daemon"):
        assert counter.http == counter.calls.methods == {}
        assert counter.messages == HEARTBEAT | {"> hello": 1, "< welcome": 1}
        assert counter.database() == {
            "statements": 15,
            "write transactions": 1,
            "read transactions": 2,
            "syncs": 1,
        }
        assert counter.journal_syncs == 0

"""The server reports the newest version of the daemon and its own time."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator

import pytest
from dcp.v1 import gpus_pb2, providers_pb2

from daemon import link
from server.domain.versions import is_older
from server.version import CURRENT
from tests.support import running_server
from tests.support.manual_clock import ManualClock
from tests.support.running_server import Market


@pytest.fixture
async def market(sqlite_url: str, clock: ManualClock) -> AsyncIterator[Market]:
    async with running_server.running(sqlite_url, clock, newest_daemon="1.4.0") as running:
        yield running


CASES = [
    ("1.3.9", True),
    ("1.4", False),
    ("1.4.0", False),
    ("1.10.0", False),
    ("", False),
    ("new", False),
    ("1.4.0rc1", True),
]


@pytest.mark.parametrize(("reported", "is_reported"), CASES)
async def test_session_reports_a_newer_daemon(market: Market, reported: str, is_reported: bool) -> None:
    welcome = await market.connect(await market.provider()).hello(daemon_version=reported)
    assert (welcome.newest_daemon, welcome.update_available) == ("1.4.0", is_reported)


@pytest.mark.parametrize(("reported", "is_reported"), CASES)
async def test_heartbeat_by_post_reports_a_newer_daemon(
    market: Market, reported: str, is_reported: bool
) -> None:
    provider = await market.provider()
    answer = await market.provider_service.Heartbeat(
        providers_pb2.HeartbeatRequest(gpu_status=gpus_pb2.GpuStatus(daemon_version=reported)),
        metadata=provider.metadata,
    )
    assert answer.update_available is is_reported


async def test_doctor_gets_the_time_and_the_newest_daemon(market: Market) -> None:
    probe = await link.probe(link.ServerAddress(market.server.address))
    assert (probe.problem, probe.newest_daemon) == ("", "1.4.0")
    assert probe.date is not None
    assert abs(probe.date.timestamp() - time.time()) < 60
    assert probe.round_trip_ms > 0


def test_newest_daemon_is_the_servers_own_version_unless_configured() -> None:
    assert not is_older(CURRENT, CURRENT)
    assert is_older("0.0.0.1", CURRENT)

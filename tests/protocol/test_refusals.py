"""A daemon learns why the server refuses its stream, also while it writes and the status gets lost."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from dcp.v1 import sessions_pb2

from daemon.link import KeyRefusedError, Link, LinkBrokenError, ServerAddress
from server.domain.limits import OFF
from tests.support import databases, running_server
from tests.support.manual_clock import ManualClock

STREAMS = 20
UNKNOWN = "dcp-provider-" + "k" * 44


async def refused(address: str, key: str) -> Exception:
    """What a daemon that writes a lot learns."""
    chunk = sessions_pb2.OutputChunk(data=b"x" * 30_000)
    async with Link(ServerAddress(address), key).open() as stream:
        for _ in range(1000):
            stream.send(sessions_pb2.DaemonMessage(output_chunk=chunk))
        with pytest.raises((KeyRefusedError, LinkBrokenError)) as caught:
            await stream.converse(lambda message: None)
    return caught.value


async def test_daemon_that_writes_learns_that_its_key_is_unknown(tmp_path: Path) -> None:
    """Else it would take the lost status for a broken connection, and connect again in seconds."""
    async with running_server.running(databases.empty_sqlite(tmp_path), ManualClock()) as market:
        for _ in range(STREAMS):
            error = await refused(market.server.address, UNKNOWN)
            assert isinstance(error, KeyRefusedError), error
            assert "INVALID_CREDENTIAL" in str(error)


async def test_daemon_that_writes_learns_that_it_called_too_often(tmp_path: Path) -> None:
    limits = replace(OFF, key_per_minute=1)
    url = databases.empty_sqlite(tmp_path)
    async with running_server.running(url, ManualClock(), limits=limits) as market:
        provider = await market.provider()
        await refused(market.server.address, provider.key)  # the one call that is allowed
        for _ in range(STREAMS):
            error = await refused(market.server.address, provider.key)
            assert isinstance(error, LinkBrokenError), error
            assert "RATE_LIMITED" in str(error)
            assert error.is_refusal

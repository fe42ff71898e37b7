"""The time limit of a run: when it is asked to end, and when it is killed."""

from __future__ import annotations

import asyncio

import pytest

from daemon.runners.limit import TimeLimit, margins


@pytest.mark.parametrize(
    ("limit", "asked", "killed"),
    [(3600.0, 5.0, 1.0), (50.0, 5.0, 1.0), (20.0, 2.0, 1.0), (6.0, 0.6, 0.3), (0.0, 0.0, 0.0)],
)
def test_long_runs_get_seconds_to_end_and_short_runs_a_tenth_of_their_limit(
    limit: float, asked: float, killed: float
) -> None:
    assert margins(limit) == pytest.approx((asked, killed))


async def sent_by(limit_seconds: float, ran_seconds: float = 0.0) -> list[str]:
    """The signals to a run that ends only at SIGKILL."""
    sent: list[str] = []
    killed = asyncio.Event()

    async def signal(name: str) -> None:
        sent.append(name)
        if name == "SIGKILL":
            killed.set()

    limit = TimeLimit(limit_seconds, signal)
    async with asyncio.timeout(20), limit.kept(ran_seconds):
        assert not limit.is_reached
        await killed.wait()
    assert limit.is_reached
    return sent


@pytest.mark.parametrize("ran_seconds", [0.0, 0.3, 900.0])
async def test_run_is_asked_to_end_before_it_is_killed(ran_seconds: float) -> None:
    assert await sent_by(0.5, ran_seconds) == ["SIGTERM", "SIGKILL"]


async def test_run_that_ends_in_time_gets_no_signal() -> None:
    sent: list[str] = []

    async def signal(name: str) -> None:
        sent.append(name)

    limit = TimeLimit(0.2, signal)
    async with limit.kept():
        pass
    await asyncio.sleep(0.3)
    assert (sent, limit.is_reached) == ([], False)


async def test_failed_signal_to_the_engine_raises_no_error() -> None:
    async def signal(name: str) -> None:
        raise ConnectionError(name)

    limit = TimeLimit(0.1, signal)
    async with limit.kept():
        await asyncio.sleep(0.3)
    assert limit.is_reached

"""When a run that uses up its time is asked to end, and made to."""

from __future__ import annotations

import asyncio

import pytest

from daemon.runners.limit import TimeLimit, margins


@pytest.mark.parametrize(
    ("limit", "asked", "made"),
    [(3600.0, 5.0, 1.0), (50.0, 5.0, 1.0), (20.0, 2.0, 1.0), (6.0, 0.6, 0.3), (0.0, 0.0, 0.0)],
)
def test_long_runs_get_seconds_and_short_ones_a_tenth(limit: float, asked: float, made: float) -> None:
    assert margins(limit) == pytest.approx((asked, made))


async def sent_by(limit_seconds: float, ran_seconds: float = 0.0) -> list[str]:
    """The signals that a run gets that heeds none but the last."""
    sent: list[str] = []
    made = asyncio.Event()

    async def signal(name: str) -> None:
        sent.append(name)
        if name == "SIGKILL":
            made.set()

    limit = TimeLimit(limit_seconds, signal)
    async with asyncio.timeout(20), limit.kept(ran_seconds):
        assert not limit.is_reached
        await made.wait()
    assert limit.is_reached
    return sent


@pytest.mark.parametrize("ran_seconds", [0.0, 0.3, 900.0])
async def test_run_is_asked_before_it_is_made_to(ran_seconds: float) -> None:
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


async def test_engine_that_cannot_be_told_ends_nothing_else() -> None:
    async def signal(name: str) -> None:
        raise ConnectionError(name)

    limit = TimeLimit(0.1, signal)
    async with limit.kept():
        await asyncio.sleep(0.3)
    assert limit.is_reached

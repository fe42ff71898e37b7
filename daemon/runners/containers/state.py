"""Owns how the engine's words on a container's state are read: was it started, how long it ran."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any


def was_started(state: Mapping[str, Any]) -> bool:
    """Whether it runs, or did."""
    return bool(state.get("Running")) or not str(state.get("StartedAt", "0001")).startswith("0001")


def ran_to(limit_ms: int, state: Mapping[str, Any]) -> bool:
    """Whether a container that has ended had run that long."""
    try:
        began, ended = (_time(str(state[key])) for key in ("StartedAt", "FinishedAt"))
    except (KeyError, ValueError):
        return False
    return (ended - began).total_seconds() * 1000 >= limit_ms


def seconds_since_start(state: Mapping[str, Any]) -> float:
    """How long a container runs by now; the engine's clock is this machine's. Raises KeyError, ValueError."""
    return (datetime.now(UTC) - _time(str(state["StartedAt"]))).total_seconds()


def pids_of(*containers: Mapping[str, Any] | None) -> tuple[int, ...]:
    """The first processes of those containers that run, by the machine's numbers."""
    pids = (int(found["State"].get("Pid") or 0) for found in containers if found is not None)
    return tuple(pid for pid in pids if pid)


def _time(text: str) -> datetime:
    # Nanoseconds are more than Python reads.
    return datetime.fromisoformat(f"{text[:19]}+00:00")

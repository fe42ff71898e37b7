"""Shortens the trace of a violation: leaves out actions that it does not need, for a limited time."""

from __future__ import annotations

import time
from collections.abc import Sequence

from scripts.simulation.actions import Action
from scripts.simulation.schedule import Outcome, replay

SHRINK_SECONDS = 30.0


def shrink(seed: int, found: Outcome, seconds: float = SHRINK_SECONDS) -> list[Action]:
    """The shortest list of actions found in this time that still violates the same invariant."""
    until = time.monotonic() + seconds
    actions = _fitting(seed, found, found.actions)
    size = max(1, len(actions) // 2)
    while time.monotonic() < until:
        shorter = _without_a_chunk(seed, found, actions, size, until)
        if len(shorter) < len(actions):
            actions = shorter
        elif size == 1:
            break
        size = max(1, min(size // 2, len(actions) // 2))
    merged = _with_merged_time(actions)
    return merged if _violates(seed, found, merged) else actions


def _with_merged_time(actions: Sequence[Action]) -> list[Action]:
    """The actions, with consecutive steps of time joined into one."""
    merged: list[Action] = []
    for action in actions:
        if merged and action[0] == merged[-1][0] == "advance":
            merged[-1] = ("advance", int(merged[-1][1]) + int(action[1]))
        else:
            merged.append(action)
    return merged


def _without_a_chunk(
    seed: int, found: Outcome, actions: list[Action], size: int, until: float
) -> list[Action]:
    """The actions without the chunks of this size that the violation does not need, tried from the end."""
    at = len(actions) - size
    while at > -size and time.monotonic() < until:
        shorter = actions[: max(0, at)] + actions[at + size :]
        if _violates(seed, found, shorter):
            actions = shorter
        at -= size
    return actions


def _fitting(seed: int, found: Outcome, actions: Sequence[Action]) -> list[Action]:
    """The actions as a list. Raises RuntimeError if they do not violate the invariant again."""
    if not _violates(seed, found, actions):
        raise RuntimeError(f"schedule {found.index} of seed {seed} is not deterministic")
    return list(actions)


def _violates(seed: int, found: Outcome, actions: Sequence[Action]) -> bool:
    outcome = replay(seed, found.index, actions, with_end=found.at_end)
    return outcome.invariant == found.invariant

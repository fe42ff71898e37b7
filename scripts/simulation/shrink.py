"""Makes the trace of a violation short: leaves out what it does not need, for a limited time."""

from __future__ import annotations

import time
from collections.abc import Sequence

from scripts.simulation.schedule import Outcome, replay
from scripts.simulation.world import Action

SHRINK_SECONDS = 30.0


def shrink(seed: int, found: Outcome, seconds: float = SHRINK_SECONDS) -> list[Action]:
    """The fewest actions found in the time that still violate the same invariant."""
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
    together = _with_time_together(actions)
    return together if _violates(seed, found, together) else actions


def _with_time_together(actions: Sequence[Action]) -> list[Action]:
    """The same, with what passes of time between two events in one piece."""
    together: list[Action] = []
    for action in actions:
        if together and action[0] == together[-1][0] == "advance":
            together[-1] = ("advance", int(together[-1][1]) + int(action[1]))
        else:
            together.append(action)
    return together


def _without_a_chunk(
    seed: int, found: Outcome, actions: list[Action], size: int, until: float
) -> list[Action]:
    """The actions without every chunk of this size that can be spared, from the end on."""
    at = len(actions) - size
    while at > -size and time.monotonic() < until:
        shorter = actions[: max(0, at)] + actions[at + size :]
        if _violates(seed, found, shorter):
            actions = shorter
        at -= size
    return actions


def _fitting(seed: int, found: Outcome, actions: Sequence[Action]) -> list[Action]:
    """The actions as a list; a violation that does not come again was none of the schedule's."""
    if not _violates(seed, found, actions):
        raise RuntimeError(f"schedule {found.index} of seed {seed} is not deterministic")
    return list(actions)


def _violates(seed: int, found: Outcome, actions: Sequence[Action]) -> bool:
    outcome = replay(seed, found.index, actions, with_end=found.at_end)
    return outcome.invariant == found.invariant

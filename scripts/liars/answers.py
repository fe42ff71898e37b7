"""The texts of the simulated market: what builds of an engine, other models and liars answer.

How often another build parts from the first, and where, was measured with the smallest model that the
project knows (python -m scripts.calibrate); larger ones part less.
"""

from __future__ import annotations

import string
from dataclasses import dataclass, field
from functools import lru_cache
from random import Random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from scripts.liars.machines import Machine

# How far the answers of another build are the same, one figure for each question.
OTHER_BUILD = (0.66, 0.13, 1.0, 0.73, 1.0, 1.0, 0.18, 1.0, 0.05, 0.57, 1.0, 1.0, 0.0, 1.0, 1.0, 0.04)
WORDS = 10


@dataclass(slots=True)
class Question:
    """What several machines are asked."""

    seed: int
    asked_ms: int
    answers: dict[int, tuple[Machine, str, bool]] = field(default_factory=dict)
    """Of each machine that answered: its text, and whether it took far too long."""
    asked: set[int] = field(default_factory=set)
    waiting: list[int] = field(default_factory=list)
    """The machines whose answers could not be compared yet."""
    copied: str = ""
    """The answer that those who copy have."""


def right(seed: int, build: int) -> str:
    """What a build of the engine answers to a question."""
    words = _words(f"{seed}")
    if not build:
        return " ".join(words)
    shared = round(WORDS * Random(f"{seed}/parts").choice(OTHER_BUILD))
    return " ".join(words[:shared] + _words(f"{seed}/{build}")[shared:])


def smaller(seed: int) -> str:
    """What a smaller model answers: the same at everybody who has it."""
    return " ".join(_words(f"{seed}/smaller"))


def filler(draw: Random) -> str:
    """A text that answers nothing, and is never the same."""
    return " ".join(_words(f"{draw.random()}"))


@lru_cache(maxsize=20_000)
def _words(seed: str) -> list[str]:
    draw = Random(seed)
    return ["".join(draw.choices(string.ascii_lowercase, k=5)) for _ in range(WORDS)]

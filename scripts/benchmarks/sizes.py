"""How much each part of the bench measures: at full size, and at the small one of ``--quick``."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Sizes:
    """Durations are in seconds, the rest are numbers of things. No size is above its value in LARGEST."""

    gateway_seconds: float = 5.0
    gateway_rounds: int = 2
    gateway_connections: int = 32
    dispatch_jobs: int = 150
    dispatch_rounds: int = 2
    peers: int = 1
    """1: compares with peers, which are installed if necessary; 0: does not."""
    inference_answers: int = 3
    inference_rounds: int = 2
    inference_tokens: int = 64
    inference_seconds: float = 3.0
    fleet_daemons: int = 10_000
    fleet_hold_seconds: float = 30.0
    fleet_jobs: int = 100
    storm_daemons: int = 10_000
    load_processes: int = 1
    at_once: int = 256
    growth_jobs: int = 1_000_000
    growth_small_jobs: int = 1_000
    growth_requests: int = 25
    queue_jobs: int = 50_000
    queue_measured_jobs: int = 100
    queue_rounds: int = 2
    cluster_servers: int = 3
    cluster_daemons: int = 6
    cluster_jobs: int = 100
    cluster_rounds: int = 2
    cluster_hints: int = 20
    cluster_elsewhere: int = 10_000
    startup_rounds: int = 5
    page_loads: int = 10
    page_answers: int = 30
    fresh: bool = False
    """Whether the database of growth is created again."""

    def changed(self, text: str) -> Sizes:
        """These sizes with ``NAME=NUMBER`` applied. Raises ValueError, with a sentence for a person."""
        name, _, number = text.partition("=")
        numbers = {field.name: field for field in dataclasses.fields(self) if field.name != "fresh"}
        if (field := numbers.get(name)) is None:
            raise ValueError(f"{name!r} is not a size; the sizes are {', '.join(numbers)}")
        least = 0 if name == "peers" or name.endswith("_jobs") else 1
        try:
            value = float(number) if isinstance(field.default, float) else int(number)
        except ValueError:
            value = -1
        if not least <= value <= LARGEST:
            raise ValueError(f"{text!r}: {name} must be a number from {least} to {LARGEST:,}")
        changes: dict[str, Any] = {name: value}
        return dataclasses.replace(self, **changes)


LARGEST = 2_000_000
FULL = Sizes()
QUICK = Sizes(
    gateway_seconds=1.0,
    gateway_rounds=1,
    dispatch_jobs=20,
    dispatch_rounds=1,
    inference_answers=2,
    inference_rounds=1,
    inference_tokens=32,
    inference_seconds=1.0,
    fleet_daemons=300,
    fleet_hold_seconds=5.0,
    fleet_jobs=10,
    storm_daemons=1_000,
    growth_jobs=5_000,
    growth_requests=5,
    queue_jobs=5_000,
    queue_measured_jobs=20,
    queue_rounds=1,
    cluster_servers=2,
    cluster_daemons=2,
    cluster_jobs=10,
    cluster_rounds=1,
    cluster_hints=3,
    cluster_elsewhere=1_000,
    startup_rounds=1,
    page_loads=1,
    page_answers=3,
)

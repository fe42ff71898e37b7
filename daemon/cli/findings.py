"""What a check of this machine found: how bad it is, and the remedy. It must not know any check."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import Enum
from typing import Any


class Level(Enum):
    """How bad a finding is."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True)
class Finding:
    """What one check found."""

    level: Level
    text: str

    def __str__(self) -> str:
        return f"{self.level.value:<5}{self.text}"

    def plain(self) -> dict[str, Any]:
        """The same for a program."""
        return asdict(self) | {"level": self.level.value}

"""The standings that a provider can have, and which of them the jobs that name no provider go to.

How a standing follows from facts is in server.domain.standing.
"""

from __future__ import annotations

from enum import StrEnum


class Standing(StrEnum):
    """How far a provider is trusted, the least first."""

    BANNED = "banned"
    SUSPECT = "suspect"
    NEW = "new"
    PROVEN = "proven"
    TRUSTED = "trusted"

    @property
    def level(self) -> int:
        """Its place in the order: higher is more trusted."""
        return _LEVELS[self]

    def reaches(self, least: Standing) -> bool:
        """Whether it is at least this one."""
        return self.level >= least.level


_LEVELS = {standing: level for level, standing in enumerate(Standing)}


class Unasked(StrEnum):
    """Which providers get a job that names none."""

    BEST = "best"
    """Those of the best standing that is there and can run it, though they be busy; see ``tier``."""
    NEWCOMERS = "newcomers"
    """New ones first, then the others, suspects only if nobody else is there: so newcomers can rise."""
    NEW = "new"
    PROVEN = "proven"
    TRUSTED = "trusted"

    @property
    def least(self) -> Standing | None:
        """The least standing that it takes; None: it depends on who is there."""
        return None if self in (Unasked.BEST, Unasked.NEWCOMERS) else Standing(self.value)


# Of a hundred jobs that name no provider and ask for no standing, how many prefer newcomers.
NEWCOMERS_PERCENT = 5


def tier(standing: Standing) -> Standing:
    """What counts as the same for jobs that go to the best: proven and trusted ones get them alike."""
    return min(standing, Standing.PROVEN, key=lambda one: one.level)

"""When a provider's work is checked: by jobs of the marketplace's own, which nobody can tell from others.

Pure; the facts and the time are arguments. A check costs what a job costs, so the checks of a provider follow
what it earns: a share of its jobs, at least some each day, and many while a failed one raises a doubt.
"""

from __future__ import annotations

from server.domain.levels import Standing

HOUR_MS = 3_600_000
# After a failed check the next follows soon, until the doubt is gone or proved.
DOUBT_MS = HOUR_MS // 4
# The longest time between two checks of a provider that is there.
LONGEST_MS = {
    Standing.SUSPECT: 8 * HOUR_MS,
    Standing.NEW: 8 * HOUR_MS,
    Standing.PROVEN: 12 * HOUR_MS,
    Standing.TRUSTED: 24 * HOUR_MS,
}
# The first checks of a provider, before which it gets no unasked job, and soon after each other.
FIRST_CHECKS = 2


def is_due(
    standing: Standing,
    made: int,
    doubt: float,
    jobs_since: int,
    since_ms: int | None,
    *,
    percent: float,
) -> bool:
    """Whether a provider's work is to be checked now.

    ``made`` is how many checks of it have a result, and ``doubt`` what they speak against it, as
    ``server.domain.standing.evidence`` says. ``jobs_since`` and ``since_ms`` are the jobs that it ended and
    the time since its last check; None: there was none.
    """
    if standing is Standing.BANNED or percent <= 0:
        return False
    if since_ms is None or made < FIRST_CHECKS:
        return True
    if doubt > 0 and standing is not Standing.SUSPECT:
        return since_ms >= DOUBT_MS
    return since_ms >= LONGEST_MS[standing] or jobs_since * percent >= 100

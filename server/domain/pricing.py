"""The rate card and the three sums made of it: hold, charge, shares.

One table is the source of quote, public price list and bill (contract, 4). Money is integer
halala, time is integer milliseconds, and every sum is exact integer arithmetic.
"""

from __future__ import annotations

from server.domain.jobs import JobType

RATE_HALALA_PER_MINUTE: dict[JobType, int] = {
    JobType.LLM_INFERENCE: 150,
    JobType.IMAGE_GENERATION: 200,
    JobType.TRAINING: 250,
    JobType.RENDERING: 200,
    JobType.BENCHMARK: 100,
    JobType.CUSTOM_CONTAINER: 100,
    JobType.VLLM_SERVE: 200,
}
PROVIDER_PERCENT = 75
MS_PER_MINUTE = 60_000


def cost_halala(rate_halala_per_minute: int, time_ms: int) -> int:
    """The price of a time, rounded up to a whole halala."""
    return -(-rate_halala_per_minute * time_ms // MS_PER_MINUTE)


def hold_and_limit(
    rate_halala_per_minute: int, duration_ms: int, max_cost_halala: int | None
) -> tuple[int, int]:
    """What to hold, and how long the job may run, in milliseconds, so that it never costs more.

    Without ``max_cost_halala`` the hold is the price of the whole duration. With it the run is
    stopped before it is passed: the longest time whose rounded-up price is still within.
    """
    hold = cost_halala(rate_halala_per_minute, duration_ms)
    if max_cost_halala is None or hold <= max_cost_halala:
        return hold, duration_ms
    return max_cost_halala, max_cost_halala * MS_PER_MINUTE // rate_halala_per_minute


def billed_ms(daemon_ms: int, server_ms: int, limit_ms: int) -> int:
    """The time to bill: the least of the daemon's run time, the server's own count and the limit."""
    return max(0, min(daemon_ms, server_ms, limit_ms))


def charge_halala(rate_halala_per_minute: int, billed: int, hold_halala: int) -> int:
    """What ``billed`` milliseconds cost: one rounding, up, and never above the hold."""
    return min(hold_halala, cost_halala(rate_halala_per_minute, billed))


def shares(charge: int) -> tuple[int, int]:
    """The provider's and the platform's part of a charge; they sum exactly."""
    payout = (charge * PROVIDER_PERCENT + 50) // 100
    return payout, charge - payout

"""The platform's rates, and the amounts calculated from them: hold, charge and shares.

One table is the source of quote, public price list and bill (contract, 4). Money is integer micros of a
halala (server.domain.money), time is integer milliseconds, and every calculation is exact integer arithmetic.
"""

from __future__ import annotations

from server.domain.jobs import JobType
from server.domain.money import MICROS, micros, whole_halala

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


def cost_micros(rate_halala_per_minute: int, time_ms: int) -> int:
    """The price of a run time, rounded up to a whole halala."""
    return -(-rate_halala_per_minute * time_ms // MS_PER_MINUTE) * MICROS


def hold_and_limit(
    rate_halala_per_minute: int, duration_ms: int, max_cost_halala: int | None
) -> tuple[int, int]:
    """The hold in micros, and the longest run in milliseconds that never costs more than the hold.

    The hold is the price of the whole duration, or ``max_cost_halala`` if that is lower: then the limit is
    the longest time whose rounded-up price does not exceed it.
    """
    hold = cost_micros(rate_halala_per_minute, duration_ms)
    if max_cost_halala is None or hold <= micros(max_cost_halala):
        return hold, duration_ms
    return micros(max_cost_halala), max_cost_halala * MS_PER_MINUTE // rate_halala_per_minute


def billed_ms(daemon_ms: int, server_ms: int, limit_ms: int) -> int:
    """The time to bill: the shortest of the daemon's run time, the server's own measure and the limit."""
    return max(0, min(daemon_ms, server_ms, limit_ms))


def charge_micros(rate_halala_per_minute: int, billed: int, hold_micros: int) -> int:
    """The price of ``billed`` milliseconds: rounded up once, and at most the hold."""
    return min(hold_micros, cost_micros(rate_halala_per_minute, billed))


def shares(charge: int) -> tuple[int, int]:
    """The provider's and the platform's share of a charge in micros; they sum to it exactly."""
    payout = (charge * PROVIDER_PERCENT + 50) // 100
    return payout, charge - payout


def whole_shares(charge: int) -> tuple[int, int]:
    """Both shares of a charge in micros as whole halala, rounded, which sum to its whole halala."""
    return shares(whole_halala(charge))

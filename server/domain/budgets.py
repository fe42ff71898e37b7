"""Limits of a sub-key: its budgets, and the models and providers that its jobs may use. Pure.

A job counts against the budgets of the key that submitted it, on the day and in the month of its submit: with
its hold, and from its end on with its charge. Days and months are those of UTC. Money is in micros.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum

from server.domain.errors import DomainError, Reason
from server.domain.money import halala_up, text
from server.domain.statements import DAY_MS, day_of


class Period(StrEnum):
    """What a budget is for."""

    DAY = "day"
    MONTH = "month"
    TOTAL = "total"


_NAMES = {Period.DAY: "per day", Period.MONTH: "per month", Period.TOTAL: "in all"}
FIELDS = {
    Period.DAY: "budget_halala_per_day",
    Period.MONTH: "budget_halala_per_month",
    Period.TOTAL: "budget_halala_total",
}
"""The field of the API that sets each budget."""
# The longest first: a budget that a job exceeds is reported if no longer one is exceeded too.
_LONGEST_FIRST = (Period.TOTAL, Period.MONTH, Period.DAY)


@dataclass(frozen=True, slots=True)
class KeyLimits:
    """The limits of a key. An empty member is no limit."""

    budgets: Mapping[Period, int] = field(default_factory=dict)
    models: tuple[str, ...] = ()
    providers: tuple[int, ...] = ()


NO_LIMITS = KeyLimits()


class BudgetReachedError(DomainError):
    """A job would exceed a budget of its key."""

    def __init__(
        self,
        key_id: int,
        period: Period,
        budget: int,
        used: int,
        asked: int,
        at_ms: int,
        *,
        is_reported: bool = False,
    ) -> None:
        """``is_reported``: the event about this budget was added before."""
        self.key_id, self.period, self.at_ms, self.is_reported = key_id, period, at_ms, is_reported
        ends_ms = end_ms(period, at_ms)
        wait = f"wait until {_utc(ends_ms)}, " if ends_ms is not None else ""
        waits = {"retry_after_seconds": -(-(ends_ms - at_ms) // 1000)} if ends_ms is not None else {}
        super().__init__(
            Reason.BUDGET_REACHED,
            f"this key may spend {text(budget)} halala {_NAMES[period]}; {text(used)} are spent or held, "
            f"and the job holds {text(asked)}; ask for a shorter duration_minutes or a lower "
            f"max_cost_halala, {wait}or raise {FIELDS[period]} with the main key",
            budget=period.value,
            # Rounded up, so that the parts of a sum that is too high show it.
            budget_halala=halala_up(budget),
            used_halala=halala_up(used),
            required_halala=halala_up(asked),
            **waits,
        )


def windows(at_ms: int) -> dict[Period, int]:
    """The first day, since 1970, of the day and the month of a time; 0 for the total."""
    first = datetime.fromtimestamp(at_ms // 1000, UTC).replace(day=1)
    return {Period.DAY: day_of(at_ms), Period.MONTH: day_of(_ms(first)), Period.TOTAL: 0}


def end_ms(period: Period, at_ms: int) -> int | None:
    """When the day or the month of a time ends; None for the total, which never starts again."""
    if period is Period.TOTAL:
        return None
    if period is Period.DAY:
        return (day_of(at_ms) + 1) * DAY_MS
    return windows((windows(at_ms)[Period.MONTH] + 31) * DAY_MS)[Period.MONTH] * DAY_MS


def check_budgets(
    key_id: int,
    limits: KeyLimits,
    used: Mapping[Period, int],
    asked: int,
    at_ms: int,
    reported: Collection[Period] = (),
) -> None:
    """Raises BUDGET_REACHED if a budget does not allow what is used, of which ``asked`` is the new job's."""
    for period in _LONGEST_FIRST:
        budget = limits.budgets.get(period)
        if budget is not None and used[period] > budget:
            use = (key_id, period, budget, used[period] - asked, asked, at_ms)
            raise BudgetReachedError(*use, is_reported=period in reported)


def check_allowed(limits: KeyLimits, model: str | None, provider_id: int | None) -> None:
    """Raises MODEL_NOT_ALLOWED or PROVIDER_NOT_ALLOWED. A job that names none is not allowed either."""
    if limits.models and model not in limits.models:
        names = ", ".join(limits.models)
        raise DomainError(
            Reason.MODEL_NOT_ALLOWED,
            f"params.model: this key may use {names}, and the job names {model or 'no model'}; name one of "
            "these, or change allowed_models with the main key",
            field="params.model",
        )
    if limits.providers and provider_id not in limits.providers:
        ids = ", ".join(map(str, limits.providers))
        names = f"provider {provider_id}" if provider_id is not None else "no provider"
        raise DomainError(
            Reason.PROVIDER_NOT_ALLOWED,
            f"provider_id: this key may use the providers {ids}, and the job names {names}; name one of "
            "these, or change allowed_providers with the main key",
            field="provider_id",
        )


def _ms(at: datetime) -> int:
    return int(at.timestamp()) * 1000


def _utc(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms // 1000, UTC).strftime("%Y-%m-%d %H:%M UTC")

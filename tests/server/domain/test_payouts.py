"""When payouts mature: in the order of their transfers, and never early."""

from __future__ import annotations

from server.domain.payouts import (
    BATCH,
    HOUR_MS,
    LOOK_AGAIN_MS,
    SETTLED_MS,
    Matured,
    Payout,
    PayoutTerms,
    matured,
)

DAY_MS = 24 * HOUR_MS
NOW_MS = 100 * DAY_MS


def test_only_payouts_of_the_whole_period_mature() -> None:
    payouts = [
        Payout(3, 10, NOW_MS - DAY_MS - 5),
        Payout(7, 20, NOW_MS - DAY_MS),
        Payout(8, 40, NOW_MS - DAY_MS + 1),
    ]
    assert matured(payouts, 1, DAY_MS, NOW_MS) == Matured(7, 30, NOW_MS + 1)


def test_a_young_payout_holds_up_those_after_it() -> None:
    """Another server's clock was behind: the cursor must not pass a payout that is not old enough."""
    payouts = [Payout(3, 10, NOW_MS), Payout(7, 20, NOW_MS - 9 * DAY_MS)]
    assert matured(payouts, 1, DAY_MS, NOW_MS) == Matured(1, 0, NOW_MS + LOOK_AGAIN_MS)


def test_the_next_look_is_when_the_next_payout_matures_or_within_an_hour() -> None:
    soon = Payout(9, 5, NOW_MS - DAY_MS + 60_000)
    assert matured([soon], 1, DAY_MS, NOW_MS).due_ms == NOW_MS + 60_000
    assert matured([], 1, DAY_MS, NOW_MS).due_ms == NOW_MS + LOOK_AGAIN_MS
    assert matured([], 1, 0, NOW_MS).due_ms == NOW_MS + SETTLED_MS


def test_a_full_batch_is_continued_at_once() -> None:
    payouts = [Payout(number, 1, 0) for number in range(1, BATCH + 1)]
    assert matured(payouts, 0, DAY_MS, NOW_MS) == Matured(BATCH, BATCH, NOW_MS)


def test_without_a_period_nothing_matures() -> None:
    assert matured([Payout(3, 10, 0)], 1, None, NOW_MS) == Matured(1, 0, NOW_MS + LOOK_AGAIN_MS)


def test_even_without_a_period_a_payout_is_settled_first() -> None:
    """PostgreSQL may still commit a smaller id, which a cursor behind it would never look at."""
    payouts = [Payout(3, 10, NOW_MS - SETTLED_MS), Payout(4, 10, NOW_MS - SETTLED_MS + 1)]
    assert matured(payouts, 1, 0, NOW_MS).through_id == 3


def test_periods_follow_from_the_settings() -> None:
    terms = PayoutTerms(24, 168)
    assert (terms.period_ms(is_proven=True), terms.period_ms(is_proven=False)) == (DAY_MS, 7 * DAY_MS)
    assert not terms.is_immediate
    assert not PayoutTerms(0, 1).is_immediate
    assert not PayoutTerms(1, 0).is_immediate
    assert PayoutTerms(0, 0).is_immediate

"""Prices: the contract's example, and invariants for every rate, time and limit."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.domain import pricing
from server.domain.holds import reserve
from server.domain.jobs import Bill, JobRequest, JobType
from server.domain.ledger import make_bill
from server.domain.money import MICROS, micros, text, whole_halala
from server.domain.pricing import Counts, Price, TimePrice, TokenPrice, parse, per_minute

RATES = st.integers(1, 100_000)
MINUTES_MS = st.integers(6_000, 1440 * 60_000)
TIMES_MS = st.integers(0, 2 * 1440 * 60_000)
MAX_COSTS = st.none() | st.integers(1, 10**12)


def hold_and_limit(rate: int, duration_ms: int, max_cost_halala: int | None) -> tuple[int, int]:
    request = JobRequest(JobType.LLM_INFERENCE, duration_ms, max_cost_halala=max_cost_halala)
    reserved = reserve(per_minute(rate), request)
    return reserved.hold_micros, reserved.limit_ms


def bill_of(hold: int, rate: int, billed_ms: int) -> Bill:
    return make_bill(hold, per_minute(rate).cost_micros(billed_ms), billed_ms)


def test_example_of_the_contract() -> None:
    hold, limit_ms = hold_and_limit(150, 3 * 60_000, None)
    bill = bill_of(hold, 150, pricing.billed_ms(75_000, 75_100, limit_ms))
    assert (hold, limit_ms) == (micros(450), 180_000)
    assert (bill.charge_micros, bill.refund_micros) == (micros(188), micros(262))
    assert (bill.payout_micros, bill.fee_micros) == (micros(141), micros(47))


def test_default_rates_are_those_of_the_contract() -> None:
    assert {kind.value: rate for kind, rate in pricing.RATE_HALALA_PER_MINUTE.items()} == {
        "llm-inference": 150,
        "image_generation": 200,
        "vllm_serve": 200,
        "training": 250,
        "rendering": 200,
        "benchmark": 100,
        "custom_container": 100,
        "embeddings": 100,
    }
    assert set(pricing.RATE_HALALA_PER_MINUTE) == set(JobType)


@pytest.mark.parametrize(
    ("rate", "time_ms", "cost"),
    [
        (150, 0, 0),
        (150, 1, 1),
        (150, 400, 1),
        (150, 401, 2),
        (150, 60_000, 150),
        (100, 600, 1),
        (100, 601, 2),
    ],
)
def test_cost_is_rounded_up_to_a_whole_halala(rate: int, time_ms: int, cost: int) -> None:
    assert per_minute(rate).cost_micros(time_ms) == micros(cost)


@pytest.mark.parametrize(
    ("daemon_ms", "server_ms", "limit_ms", "billed"),
    [(1, 2, 3, 1), (2, 1, 3, 1), (3, 2, 1, 1), (-5, 2, 3, 0), (5, -2, 3, 0), (0, 2, 3, 0)],
)
def test_billed_time_is_the_least_and_never_negative(
    daemon_ms: int, server_ms: int, limit_ms: int, billed: int
) -> None:
    assert pricing.billed_ms(daemon_ms, server_ms, limit_ms) == billed


@given(RATES, MINUTES_MS, MAX_COSTS, TIMES_MS)
def test_bill_adds_up_and_stays_within_the_hold(
    rate: int, duration_ms: int, max_cost: int | None, run_ms: int
) -> None:
    hold, limit_ms = hold_and_limit(rate, duration_ms, max_cost)
    bill = bill_of(hold, rate, pricing.billed_ms(run_ms, run_ms, limit_ms))
    assert 0 <= bill.charge_micros <= hold
    assert bill.charge_micros + bill.refund_micros == hold
    assert bill.payout_micros + bill.fee_micros == bill.charge_micros
    assert bill.payout_micros >= 0
    assert bill.fee_micros >= 0


@given(RATES, MINUTES_MS, MAX_COSTS)
def test_max_cost_is_never_exceeded_even_by_a_run_to_the_limit(
    rate: int, duration_ms: int, max_cost: int | None
) -> None:
    hold, limit_ms = hold_and_limit(rate, duration_ms, max_cost)
    assert hold > 0
    assert 0 <= limit_ms <= duration_ms
    # Without the cap by the hold: the time limit is enough to keep the price below the maximum.
    assert per_minute(rate).cost_micros(limit_ms) <= hold
    if max_cost is not None:
        assert hold <= micros(max_cost)


@given(RATES, MINUTES_MS, st.integers(1, 10**9))
def test_limit_under_a_max_cost_is_the_longest_possible(rate: int, duration_ms: int, max_cost: int) -> None:
    hold, limit_ms = hold_and_limit(rate, duration_ms, max_cost)
    if limit_ms < duration_ms:
        assert per_minute(rate).cost_micros(limit_ms + 1) > hold


@given(RATES, st.integers(1, 10**15), TIMES_MS, TIMES_MS)
def test_charge_never_decreases_with_time(rate: int, hold: int, one_ms: int, other_ms: int) -> None:
    less, more = sorted((one_ms, other_ms))
    assert bill_of(hold, rate, less).charge_micros <= bill_of(hold, rate, more).charge_micros


@given(st.integers(0, 10**15))
def test_provider_gets_three_quarters_and_the_platform_the_rest(charge: int) -> None:
    payout, fee = pricing.shares(charge)
    assert payout + fee == charge
    assert abs(payout * 4 - charge * 3) <= 2


@given(st.integers(0, 10**9))
def test_shares_of_a_whole_halala_are_exact_and_none_is_lost(charge: int) -> None:
    payout, fee = pricing.shares(micros(charge))
    assert (4 * payout, 4 * fee) == (3 * micros(charge), micros(charge))


@given(st.integers(0, 10**15))
def test_whole_shares_sum_to_the_whole_charge(charge: int) -> None:
    payout, fee = pricing.whole_shares(charge)
    assert payout + fee == whole_halala(charge)


@given(st.integers(-(10**18), 10**18))
def test_whole_halala_never_exceed_the_amount(amount: int) -> None:
    whole = whole_halala(amount)
    assert abs(micros(whole)) <= abs(amount) < abs(micros(whole)) + MICROS
    assert whole * amount >= 0


@pytest.mark.parametrize(
    ("amount", "said"),
    [(0, "0"), (1, "0.000001"), (30_750_000, "30.75"), (-500_000, "-0.5"), (2_000_000, "2")],
)
def test_amounts_are_written_with_as_many_decimals_as_they_need(amount: int, said: str) -> None:
    assert text(amount) == said


QUOTE = TokenPrice(10, 5, 20)


@pytest.mark.parametrize(
    ("price", "is_within"),
    [
        (QUOTE, True),
        (TokenPrice(1, 1, 1), True),
        (TokenPrice(11, 1, 1), False),
        (TokenPrice(1, 6, 1), False),
        (TokenPrice(1, 1, 21), False),
        (TimePrice(10**12), True),
    ],
)
def test_price_by_tokens_is_within_a_quote_in_each_part(price: Price, is_within: bool) -> None:
    assert price.is_within(QUOTE) is is_within


@pytest.mark.parametrize(("micros_per_hour", "is_within"), [(100, True), (101, False)])
def test_price_by_time_is_within_a_quote_that_is_no_lower(micros_per_hour: int, is_within: bool) -> None:
    assert TimePrice(micros_per_hour).is_within(TimePrice(100)) is is_within
    assert QUOTE.is_within(TimePrice(1)), "what is priced by another measure takes the quote"


TOKEN_PRICES = st.builds(TokenPrice, *[st.integers(0, 10**13) for _ in range(3)])
PRICES = st.builds(TimePrice, st.integers(1, 10**15)) | TOKEN_PRICES


@given(PRICES)
def test_stored_price_is_read_as_it_was(price: Price) -> None:
    assert parse(price.text) == price


@given(st.integers(1, 10**6))
def test_price_of_an_older_job_is_its_rate(rate: int) -> None:
    assert parse(str(rate)) == per_minute(rate)
    assert per_minute(rate).halala_per_minute == rate


COUNTS = st.builds(Counts, st.integers(0, 10**6), st.integers(0, 10**6), st.integers(0, 2 * 10**6))


@given(TOKEN_PRICES, COUNTS, COUNTS)
def test_hold_by_tokens_is_enough_for_every_count_up_to_its_own(
    price: TokenPrice, most: Counts, less: Counts
) -> None:
    used = Counts(min(less.prompt, most.prompt), min(less.completion, most.completion), less.cached)
    carried = pricing.PARTS - 1
    assert (price.cost_parts(used) + carried) // pricing.PARTS <= price.hold_micros(most)


@given(
    st.builds(TokenPrice, *[st.integers(0, 10**13) for _ in range(3)]),
    st.integers(0, 10**5),
    st.integers(1, 10**15),
)
def test_longest_answer_for_a_hold_is_held_by_it_and_one_token_more_is_not(
    price: TokenPrice, prompt: int, hold: int
) -> None:
    longest = price.most_completion(prompt, hold)
    if longest >= 0:
        assert price.hold_micros(Counts(prompt, longest)) <= hold
        assert price.hold_micros(Counts(prompt, longest + 1)) > hold
    elif price.completion:
        assert price.hold_micros(Counts(prompt, 0)) > hold

"""Prices by tokens and by GPU, and quotes: what a job holds, what it is charged, and who could run it."""

from __future__ import annotations

import asyncio
import math
import random
from fractions import Fraction
from typing import Any

import pytest
from dcp.v1 import (
    admin_pb2,
    gpus_pb2,
    jobs_pb2,
    prices_pb2,
    renters_pb2,
    sessions_pb2,
    statements_pb2,
    terms_pb2,
)

from server.domain.honesty import Verdict
from server.domain.pricing import sar_micros
from server.domain.tokens import PAID_TEMPLATE_TOKENS
from tests.support.running_server import MODEL, Daemon, Market, Party, refusal

HALALA = 10**6
GPU = "RTX 4090"
PROMPT = "Say hello."
MOST_PROMPT = len(PROMPT) + PAID_TEMPLATE_TOKENS


def by_tokens(tokens_in: str, tokens_out: str, cached: str = "") -> dict[str, str]:
    amounts = {"sar_per_million_input_tokens": tokens_in, "sar_per_million_output_tokens": tokens_out}
    return amounts | ({"sar_per_million_cached_input_tokens": cached} if cached else {})


async def set_price(market: Market, **fields: Any) -> prices_pb2.ListPricesResponse:
    request = prices_pb2.SetPriceRequest(**fields)
    answer: prices_pb2.ListPricesResponse = await market.price_service.SetPrice(
        request, metadata=market.admin_metadata
    )
    return answer


async def set_own(market: Market, provider: Party, **fields: Any) -> list[prices_pb2.OwnPrice]:
    request = prices_pb2.SetPriceRequest(**fields)
    return list((await market.price_service.SetOwnPrice(request, metadata=provider.metadata)).prices)


async def quote(
    market: Market, renter: Party, provider: Party | None = None, **changes: Any
) -> jobs_pb2.QuoteJobResponse:
    values: dict[str, Any] = {"job_type": jobs_pb2.JOB_TYPE_LLM_INFERENCE, "params": asks()} | changes
    if provider is not None:
        values["provider_id"] = provider.id
    request = jobs_pb2.QuoteJobRequest(**values)
    answer: jobs_pb2.QuoteJobResponse = await market.job_service.QuoteJob(request, metadata=renter.metadata)
    return answer


def asks(most: int = 100, **params: Any) -> jobs_pb2.JobParams:
    values: dict[str, Any] = {"model": MODEL, "prompt": PROMPT, "max_tokens": most} | params
    return jobs_pb2.JobParams(**values)


async def run(
    market: Market,
    daemon: Daemon,
    prompt: int,
    completion: int,
    text: bytes = b"",
    cached: int = 0,
    seconds: int = 1,
) -> sessions_pb2.JobOffer:
    """The daemon runs the job that it is offered; returns the offer."""
    offer: sessions_pb2.JobOffer = await daemon.expect("job_offer")
    await daemon.start(offer.lease)
    await daemon.output(offer.lease, 1, text or b"word " * completion)
    market.clock.advance(seconds)
    usage = jobs_pb2.Usage(prompt_tokens=prompt, completion_tokens=completion, cached_tokens=cached)
    await daemon.finished(offer.lease, seconds=seconds, last_output_seq=1, usage=usage)
    return offer


async def test_tokens_are_charged_exactly_and_the_hold_is_the_prompt_and_the_longest_answer(
    any_market: Market,
) -> None:
    market = any_market
    await set_price(market, model=MODEL, **by_tokens("0.3", "0.9", cached="0.1"))
    renter, provider = await market.renter(1000), await market.provider()
    daemon = await market.daemon(provider)
    job = await market.submit(renter, params=asks())
    hold = MOST_PROMPT * 30 + 100 * 90 + 1
    assert (job.cost_halala, job.rate_halala_per_minute) == (0, 0)
    assert job.price == jobs_pb2.Price(
        sar_per_million_input_tokens="0.3",
        sar_per_million_cached_input_tokens="0.1",
        sar_per_million_output_tokens="0.9",
    )
    await run(market, daemon, prompt=40, completion=60, cached=10)
    billing = (await market.job(job)).billing
    charge = 30 * 30 + 10 * 10 + 60 * 90
    assert (billing.hold_micro_halala, billing.actual_cost_micro_halala) == (hold, charge)
    assert billing.provider_micro_halala + billing.platform_micro_halala == charge
    assert billing.provider_micro_halala == charge * 3 // 4
    await market.assert_money_adds_up()


async def test_parts_of_a_micro_are_carried_until_they_are_a_whole_one(any_market: Market) -> None:
    market = any_market
    price = by_tokens("0.00000001", "0.00000007")  # 1 and 7 micros for a million tokens
    await set_price(market, model=MODEL, **price)
    renter, provider = await market.renter(1000), await market.provider()
    daemon = await market.daemon(provider)
    exact, charged = Fraction(0), 0
    for _ in range(4):
        job = await market.submit(renter, params=asks(60_000))
        await run(market, daemon, prompt=9, completion=50_000, text=b"x" * 60_000)
        charged += (await market.job(job)).billing.actual_cost_micro_halala
        exact += Fraction(9 * 1 + 50_000 * 7, 10**6)
        assert charged == exact.__floor__()
    assert charged == 1
    await market.assert_money_adds_up()


async def test_count_beyond_what_was_asked_for_is_not_paid(any_market: Market) -> None:
    market = any_market
    await set_price(market, model=MODEL, **by_tokens("1", "1"))
    renter, provider = await market.renter(1000), await market.provider()
    daemon = await market.daemon(provider)
    job = await market.submit(renter, params=asks(10))
    await run(market, daemon, prompt=10**6, completion=10**6, text=b"x" * 5000)
    billing = (await market.job(job)).billing
    assert billing.actual_cost_micro_halala == (MOST_PROMPT + 10) * 100
    await market.assert_money_adds_up()


async def test_silence_costs_nothing_by_tokens_either(market: Market) -> None:
    await set_price(market, model=MODEL, **by_tokens("1", "1"))
    renter, provider = await market.renter(1000), await market.provider()
    daemon = await market.daemon(provider)
    job = await market.submit(renter, params=asks(10))
    offer = await daemon.expect("job_offer")
    await daemon.start(offer.lease)
    market.clock.advance(1)
    usage = jobs_pb2.Usage(prompt_tokens=10, completion_tokens=10)
    await daemon.finished(offer.lease, seconds=1, last_output_seq=0, usage=usage)
    assert (await market.job(job)).billing.actual_cost_micro_halala == 0
    await market.assert_money_adds_up()


async def test_cancelled_run_pays_for_what_it_wrote(any_market: Market) -> None:
    """By the count of its daemon, and without one by the bytes."""
    market = any_market
    await set_price(market, model=MODEL, **by_tokens("1", "1"))
    renter, provider = await market.renter(1000), await market.provider()
    daemon = await market.daemon(provider)
    charges = []
    for usage in (None, jobs_pb2.Usage(prompt_tokens=12, completion_tokens=7)):
        job = await market.submit(renter, params=asks(100))
        offer = await daemon.expect("job_offer")
        await daemon.start(offer.lease)
        await daemon.output(offer.lease, 1, b"x" * 40)
        market.clock.advance(1)
        await market.job_service.CancelJob(
            jobs_pb2.CancelJobRequest(job_id=job.job_id), metadata=renter.metadata
        )
        await daemon.expect("cancel_run")
        await daemon.finished(
            offer.lease,
            seconds=1,
            last_output_seq=1,
            usage=usage,
            outcome=sessions_pb2.RUN_OUTCOME_CANCELLED,
        )
        charges.append((await market.job(job)).billing.actual_cost_micro_halala)
    assert charges == [10 * 100, 19 * 100]
    await market.assert_money_adds_up()


async def test_hold_is_for_no_longer_answer_than_any_context_allows(any_market: Market) -> None:
    """Clients ask for more tokens than a model can write; the daemon here has a context of 2,048."""
    market = any_market
    await set_price(market, model=MODEL, **by_tokens("0", "1"))
    renter, provider = await market.renter(1000), await market.provider()
    daemon = await market.daemon(provider)
    hold = 2048 * 100 + 1
    assert (await quote(market, renter, params=asks(100_000))).hold_micro_halala == hold
    job = await market.submit(renter, params=asks(100_000))
    offer = await run(market, daemon, prompt=10, completion=2048, text=b"x" * 5000)
    assert offer.params.max_tokens == 100_000
    billing = (await market.job(job)).billing
    assert (billing.hold_micro_halala, billing.actual_cost_micro_halala) == (hold, hold - 1)


async def test_max_cost_shortens_the_answer(any_market: Market) -> None:
    market = any_market
    await set_price(market, model=MODEL, **by_tokens("100", "5000"))
    renter, provider = await market.renter(1000), await market.provider()
    daemon = await market.daemon(provider)
    job = await market.submit(renter, params=asks(1000), max_cost_halala=3)
    offer = await run(market, daemon, prompt=MOST_PROMPT, completion=1000, text=b"x" * 5000)
    assert job.cost_halala == 3
    assert offer.params.max_tokens == (3 * HALALA - 1 - MOST_PROMPT * 10_000) // 500_000
    billing = (await market.job(job)).billing
    assert billing.actual_cost_micro_halala == MOST_PROMPT * 10_000 + offer.params.max_tokens * 500_000
    refused = await refusal(market.submit(renter, params=asks(1000), max_cost_halala=1))
    assert (refused.reason, refused.facts.field) == ("INVALID_FIELD", "max_cost_halala")
    assert "at least 2" in refused.message
    await market.assert_money_adds_up()


async def test_five_hundred_small_prompts_run_on_a_wallet_for_little_more_than_they_cost(
    any_market: Market,
) -> None:
    """What a batch costs together is 1,252 halala, and the wallet has 1,300; eight are always held."""
    market = any_market
    await set_price(market, model=MODEL, **by_tokens("1", "250"))
    renter, provider = await market.renter(1300), await market.provider()
    daemon = await market.daemon(provider)
    cost = 40 * 100 + 100 * 25_000
    assert 499 * cost < 1300 * HALALA
    jobs = []
    for number in range(507):
        if number < 500:
            jobs.append(await market.submit(renter, params=asks(100)))
        if number >= 7:
            await run(market, daemon, prompt=40, completion=100, seconds=0)
    charged = [(await market.job(job)).billing.actual_cost_micro_halala for job in jobs]
    assert charged == [cost] * 500
    wallet, held = await market.wallet(renter)
    assert (wallet, held) == ((1300 * HALALA - 500 * cost) // HALALA, 0)
    await market.assert_money_adds_up()


async def test_wallet_for_some_of_many_simultaneous_submits_takes_exactly_these(any_market: Market) -> None:
    market = any_market
    await set_price(market, model=MODEL, **by_tokens("0", "10000"))
    hold = 100 * HALALA + 1
    renter = await market.renter(37 * 100 + 1)
    await market.daemon(await market.provider(), slots=1)
    answers = await asyncio.gather(
        *(market.submit(renter, params=asks(100)) for _ in range(200)), return_exceptions=True
    )
    assert (
        sum(isinstance(answer, jobs_pb2.Job) for answer in answers) == (37 * 100 + 1) * HALALA // hold == 37
    )
    await market.assert_money_adds_up()


async def test_job_keeps_its_price_when_prices_change(market: Market) -> None:
    renter, provider = await market.renter(1000), await market.provider()
    daemon = await market.daemon(provider)
    by_time = await market.submit(renter, params=asks(10))
    await set_price(market, model=MODEL, **by_tokens("1", "1"))
    await run(market, daemon, prompt=10, completion=10)
    assert (await market.job(by_time)).billing.actual_cost_halala == 3  # a second at 150 halala a minute
    by_token = await market.submit(renter, params=asks(10))
    await set_price(market, model=MODEL, remove=True)
    await run(market, daemon, prompt=10, completion=10)
    assert (await market.job(by_token)).billing.actual_cost_micro_halala == 20 * 100
    assert (await market.submit(renter, params=asks(10))).rate_halala_per_minute == 150
    await market.assert_money_adds_up()


# Own prices.


async def test_own_price_is_for_jobs_that_name_the_provider_and_keeps_others_away(any_market: Market) -> None:
    market = any_market
    await set_price(market, model=MODEL, **by_tokens("1", "2"))
    renter, dear, fair = await market.renter(1000), await market.provider(), await market.provider()
    await market.daemon(dear, slots=5)
    (own,) = await set_own(market, dear, model=MODEL, **by_tokens("0.5", "6", cached="0.6"))
    assert (own.own, own.price.sar_per_million_output_tokens) == (True, "6")
    assert (own.least.sar_per_million_output_tokens, own.most.sar_per_million_output_tokens) == ("1", "6")
    named = await market.submit(renter, dear, params=asks(10))
    assert named.price.sar_per_million_output_tokens == "6"
    waits = await market.submit(renter, params=asks(10))
    assert waits.status == jobs_pb2.JOB_STATE_QUEUED
    (listed,) = (await market.why(waits)).providers
    assert listed.message == (
        "It charges 0.5 (0.6 if cached) and 6 SAR for a million input and output tokens and the job was "
        "quoted 1 (1 if cached) and 2 SAR for a million input and output tokens; name it in provider_id to "
        "be quoted its price."
    )
    daemon = await market.daemon(fair)
    assert (await daemon.expect("job_offer")).lease.job_id == waits.job_id
    await set_own(market, dear, model=MODEL, remove=True)
    assert (await market.submit(renter, params=asks(10))).status == jobs_pb2.JOB_STATE_PENDING


@pytest.mark.parametrize("price", [("0.49", "2"), ("1", "6.00000001"), ("3.1", "2"), ("1", "0.9")])
async def test_own_price_out_of_bounds_is_refused_in_each_part(
    market: Market, price: tuple[str, str]
) -> None:
    await set_price(market, model=MODEL, **by_tokens("1", "2"))
    provider = await market.provider()
    refused = await refusal(set_own(market, provider, model=MODEL, **by_tokens(*price, cached="1")))
    assert (refused.reason, refused.facts.field) == ("RATE_OUT_OF_BOUNDS", "model")
    assert "from 0.5 (0.5 if cached) and 1 SAR" in refused.message


async def test_there_is_no_own_price_of_what_the_platform_has_none_of(market: Market) -> None:
    provider = await market.provider()
    refused = await refusal(set_own(market, provider, gpu_model=GPU, sar_per_hour="2"))
    assert (refused.reason, refused.facts.field) == ("RATE_OUT_OF_BOUNDS", "gpu_model")


async def test_own_price_stays_when_the_platforms_bounds_move_past_it(market: Market) -> None:
    await set_price(market, model=MODEL, **by_tokens("1", "2"))
    renter, provider = await market.renter(1000), await market.provider()
    await market.daemon(provider)
    await set_own(market, provider, model=MODEL, **by_tokens("3", "6"))
    await set_price(market, model=MODEL, **by_tokens("0.1", "0.2"))
    job = await market.submit(renter, provider, params=asks(10))
    assert job.price.sar_per_million_output_tokens == "6"
    await set_price(market, model=MODEL, remove=True)
    answer = await market.price_service.ListOwnPrices(
        prices_pb2.ListOwnPricesRequest(), metadata=provider.metadata
    )
    assert [(entry.own, entry.HasField("platform")) for entry in answer.prices] == [(True, False)]


# By GPU.


async def training(
    market: Market, renter: Party, provider: Party | None = None, **changes: Any
) -> jobs_pb2.Job:
    return await market.submit(
        renter, provider, job_type=jobs_pb2.JOB_TYPE_TRAINING, duration_minutes=60, **changes
    )


async def with_gpu(market: Market, **hello: Any) -> tuple[Party, Daemon]:
    provider = await market.provider()
    daemon = await market.daemon(provider, job_types=[jobs_pb2.JOB_TYPE_TRAINING], **hello)
    await daemon.heartbeat(gpu_status=gpus_pb2.GpuStatus(gpu_name=GPU, gpu_vram_mib=24576))
    return provider, daemon


async def test_hours_of_a_gpu_are_priced_by_its_model(any_market: Market) -> None:
    market = any_market
    await set_price(market, gpu_model="nvidia geforce rtx 4090", sar_per_hour="2.25")
    renter = await market.renter(100_000)
    _, daemon = await with_gpu(market)
    requirements = jobs_pb2.GpuRequirements(gpu_model=GPU)
    job = await training(market, renter, gpu_requirements=requirements)
    assert (job.price.sar_per_hour, job.cost_halala, job.rate_halala_per_minute) == ("2.25", 225, 4)
    lease = (await daemon.expect("job_offer")).lease
    await daemon.start(lease)
    for _ in range(50):
        market.clock.advance(20)
        await daemon.heartbeat()
    await daemon.finished(lease, seconds=1000)
    billing = (await market.job(job)).billing
    assert billing.actual_cost_halala == math.ceil(225 * billing.billed_seconds / 3600) > 60
    spec = jobs_pb2.ContainerSpec(image="busybox", gpu_count=2)
    both = await training(market, renter, gpu_requirements=requirements, container_spec=spec)
    assert both.cost_halala == 450
    await market.assert_money_adds_up()


async def test_gpu_that_is_only_claimed_makes_no_job_dearer(market: Market) -> None:
    """Training costs 150 SAR an hour by its type; the GPU's price is above it."""
    await set_price(market, gpu_model=GPU, sar_per_hour="200")
    renter = await market.renter(100_000)
    provider, _ = await with_gpu(market)
    await market.set_provider(provider, gpu_model=GPU, verdict=Verdict.CLAIMED.value)
    assert (await training(market, renter, provider)).price.sar_per_hour == "150"
    await set_price(market, gpu_model=GPU, sar_per_hour="2")
    assert (await training(market, renter, provider)).price.sar_per_hour == "2"
    await set_price(market, gpu_model=GPU, sar_per_hour="200")
    await market.set_provider(provider, verdict=Verdict.VERIFIED.value)
    assert (await training(market, renter, provider)).price.sar_per_hour == "200"


async def test_market_shows_what_each_provider_costs_by_the_hour_and_by_tokens(any_market: Market) -> None:
    market = any_market
    await set_price(market, model=MODEL, **by_tokens("1", "2"))
    await set_price(market, gpu_model=GPU, sar_per_hour="2")
    cheap, machine = await market.provider(), (await with_gpu(market))[0]
    await market.daemon(cheap)
    await set_own(market, cheap, model=MODEL, **by_tokens("0.5", "1"))
    await market.set_provider(machine, gpu_model=GPU)
    request = renters_pb2.ListAvailableProvidersRequest()
    answer = await market.renter_service.ListAvailableProviders(request)
    shown = {
        (entry.id, offered.job_type, offered.model): offered.price
        for entry in answer.providers
        for offered in entry.prices
    }
    inference, train = jobs_pb2.JOB_TYPE_LLM_INFERENCE, jobs_pb2.JOB_TYPE_TRAINING
    assert shown[cheap.id, inference, MODEL].sar_per_million_output_tokens == "1"
    assert shown[cheap.id, inference, ""].sar_per_hour == "90"
    assert shown[machine.id, train, ""].sar_per_hour == "2"
    assert len(shown) == 3


# Setting them.


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({}, "model"),
        ({"model": MODEL, "gpu_model": GPU, "sar_per_hour": "1"}, "gpu_model"),
        ({"model": " ", **by_tokens("1", "1")}, "model"),
        ({"model": MODEL}, "sar_per_million_input_tokens"),
        ({"model": MODEL, "sar_per_million_input_tokens": "1"}, "sar_per_million_output_tokens"),
        ({"model": MODEL, "sar_per_hour": "1", **by_tokens("1", "1")}, "sar_per_hour"),
        ({"model": MODEL, "remove": True, **by_tokens("1", "1")}, "sar_per_million_input_tokens"),
        ({"gpu_model": GPU}, "sar_per_hour"),
        ({"gpu_model": GPU, "sar_per_hour": "0"}, "sar_per_hour"),
        (
            {"gpu_model": GPU, "sar_per_hour": "1", "sar_per_million_output_tokens": "1"},
            "sar_per_million_output_tokens",
        ),
        *(
            ({"gpu_model": GPU, "sar_per_hour": amount}, "sar_per_hour")
            for amount in (
                "-1",
                "+1",
                "1e3",
                "NaN",
                "inf",
                "1,5",
                "1.",
                ".5",
                "1.123456789",
                "٣",
                "0x10",
                "1 ",
                "100001",
            )
        ),
    ],
)
async def test_price_that_is_none_is_refused_with_its_field(
    market: Market, fields: dict[str, Any], field: str
) -> None:
    refused = await refusal(set_price(market, **fields))
    assert (refused.reason, refused.facts.field) == ("INVALID_FIELD", field)


async def test_prices_are_public_and_changes_are_in_the_log(any_market: Market) -> None:
    market = any_market
    await set_price(market, model=MODEL, **by_tokens("1", "2"))
    await set_price(market, model=MODEL, **by_tokens("1", "2"))
    await set_price(market, gpu_model=GPU, sar_per_hour="2.5")
    listed = (await market.price_service.ListPrices(prices_pb2.ListPricesRequest())).prices
    shown = {entry.model or entry.gpu_model or entry.job_type: entry.price for entry in listed}
    assert shown[MODEL].sar_per_million_cached_input_tokens == "1"
    assert shown[GPU].sar_per_hour == "2.5"
    assert shown[jobs_pb2.JOB_TYPE_LLM_INFERENCE].sar_per_hour == "90"
    request = admin_pb2.ListAuditEntriesRequest()
    log = (await market.admin_service.ListAuditEntries(request, metadata=market.admin_metadata)).entries
    assert [entry.object_id for entry in log if entry.action == "price.change"] == [GPU, MODEL]


async def test_simultaneous_changes_of_a_price_leave_one(any_market: Market) -> None:
    market = any_market
    amounts = [f"{number}.5" for number in range(1, 13)]
    await asyncio.gather(*(set_price(market, gpu_model=GPU, sar_per_hour=amount) for amount in amounts))
    listed = (await market.price_service.ListPrices(prices_pb2.ListPricesRequest())).prices
    (entry,) = [entry for entry in listed if entry.gpu_model == GPU]
    assert entry.price.sar_per_hour in amounts


# What is kept.


async def keep(market: Market, renter: Party, size: int) -> None:
    await market.set_renter(renter, request_bytes=size)


async def charge_for_storage(market: Market) -> None:
    await market._do("charge for storage")


async def test_inputs_alone_are_paid_for_like_all_that_is_kept(any_market: Market) -> None:
    market = any_market
    renter = await market.renter(100)
    await market.set_renter(renter, input_bytes=2 * 10**9)
    await set_storage_price(market, "0.01")
    for _ in range(2):
        await charge_for_storage(market)
    assert await market.wallet(renter) == (98, 0)


async def test_what_is_kept_is_paid_for_once_a_day(any_market: Market) -> None:
    market = any_market
    renter, other, poor = await market.renter(100), await market.renter(100), await market.renter(1)
    await keep(market, renter, 3 * 10**9 // 2)
    await keep(market, poor, 10**12)
    await charge_for_storage(market)
    assert await market.wallet(renter) == (100, 0)
    await set_storage_price(market, "0.01")
    for _ in range(3):
        await charge_for_storage(market)
    balances = [(await market.wallet(who))[0] for who in (renter, other, poor)]
    assert balances == [98, 100, 0]  # 1.5 halala; nothing is kept; more than it has
    market.clock.advance(24 * 3600)
    await charge_for_storage(market)
    assert (await market.wallet(renter))[0] == 97
    statement = await market.statement_service.ListOwnLedger(
        statements_pb2.ListOwnLedgerRequest(), metadata=renter.metadata
    )
    newest = statement.lines[0]
    assert (newest.kind, newest.description) == (
        statements_pb2.TRANSFER_KIND_STORAGE,
        "paid for what was kept on a day",
    )
    await market.assert_money_adds_up()
    await set_storage_price(market, "0")
    market.clock.advance(24 * 3600)
    await charge_for_storage(market)
    assert (await market.wallet(renter))[0] == 97


async def test_parts_of_what_is_kept_are_carried_from_day_to_day(market: Market) -> None:
    renter = await market.renter(100)
    await keep(market, renter, 5)
    await set_storage_price(market, "1")  # half a micro a day for five bytes
    paid = []
    for _ in range(4):
        await charge_for_storage(market)
        market.clock.advance(24 * 3600)
        ledger_of = await market.renter_service.GetOwnRenter(
            renters_pb2.GetOwnRenterRequest(), metadata=renter.metadata
        )
        paid.append(100 * HALALA - ledger_of.renter.balance_micro_halala)
    assert paid == [0, 1, 1, 2]
    await market.assert_money_adds_up()


async def set_storage_price(market: Market, amount: str) -> prices_pb2.ListPricesResponse:
    request = prices_pb2.SetStoragePriceRequest(sar_per_gb_day=amount)
    answer: prices_pb2.ListPricesResponse = await market.price_service.SetStoragePrice(
        request, metadata=market.admin_metadata
    )
    return answer


async def test_price_of_what_is_kept_is_public(market: Market) -> None:
    shown = await market.price_service.ListPrices(prices_pb2.ListPricesRequest())
    assert not shown.HasField("sar_per_gb_day")
    assert (await set_storage_price(market, "0.015")).sar_per_gb_day == "0.015"
    shown = await market.price_service.ListPrices(prices_pb2.ListPricesRequest())
    assert shown.sar_per_gb_day == "0.015"
    for amount in ("", "-1", "x", "1.123456789", "100001"):
        refused = await refusal(set_storage_price(market, amount))
        assert (refused.reason, refused.facts.field) == ("INVALID_FIELD", "sar_per_gb_day")


# Quotes.


async def test_quote_says_what_is_held_and_who_could_run_it(any_market: Market) -> None:
    market = any_market
    await set_price(market, model=MODEL, **by_tokens("1", "2"))
    renter, fair, dear = await market.renter(0), await market.provider(), await market.provider()
    await market.daemon(fair)
    await market.daemon(dear)
    await set_own(market, dear, model=MODEL, **by_tokens("2", "4"))
    quoted = await quote(market, renter)
    hold = MOST_PROMPT * 100 + 100 * 200 + 1
    assert (quoted.hold_halala, quoted.hold_micro_halala) == (0, hold)
    assert quoted.likely_micro_halala == -(-MOST_PROMPT // 4) * 100 + 100 * 200
    assert (quoted.able, quoted.duration_minutes) == (1, 10)
    (listed,) = quoted.providers
    assert (listed.provider_id, listed.hold_micro_halala, listed.free_slots) == (fair.id, hold, 1)
    named = await quote(market, renter, dear)
    (listed,) = named.providers
    assert (listed.provider_id, listed.hold_micro_halala) == (dear.id, 2 * hold - 1)
    assert named.price.sar_per_million_output_tokens == "4"
    assert await market.wallet(renter) == (0, 0)


async def test_quoted_price_is_binding_until_it_expires(any_market: Market) -> None:
    market = any_market
    renter, provider = await market.renter(10_000), await market.provider()
    await market.daemon(provider, slots=9)
    quoted = await quote(market, renter, duration_minutes=3)
    assert (quoted.hold_halala, quoted.price.sar_per_hour) == (450, "90")
    await set_price(market, model=MODEL, **by_tokens("1", "2"))
    body: dict[str, Any] = {"params": asks(), "duration_minutes": 3, "quote_id": quoted.quote_id}
    job = await market.submit(renter, **body)
    assert (job.cost_halala, job.price.sar_per_hour) == (450, "90")
    market.clock.advance(299)
    assert (await market.submit(renter, **body)).price.sar_per_hour == "90"
    market.clock.advance(1)
    refused = await refusal(market.submit(renter, **body))
    assert (refused.reason, refused.facts.field) == ("INVALID_FIELD", "quote_id")
    assert "expired" in refused.message


async def test_quote_of_another_of_another_request_or_altered_is_refused(market: Market) -> None:
    renter, other, provider = (
        await market.renter(10_000),
        await market.renter(10_000),
        await market.provider(),
    )
    await market.daemon(provider)
    quoted = await quote(market, renter, duration_minutes=3)
    body: dict[str, Any] = {"params": asks(), "duration_minutes": 3, "quote_id": quoted.quote_id}
    altered = quoted.quote_id[:30] + ("A" if quoted.quote_id[30] != "A" else "B") + quoted.quote_id[31:]
    for who, changes in (
        (other, {}),
        (renter, {"duration_minutes": 4}),
        (renter, {"provider_id": provider.id}),
        (renter, {"params": asks(101)}),
        (renter, {"quote_id": altered}),
        (renter, {"quote_id": "x"}),
        (renter, {"quote_id": "ü" * 50}),
        (renter, {"quote_id": quoted.quote_id + "A"}),
    ):
        refused = await refusal(market.submit(who, **(body | changes)))
        assert (refused.reason, refused.facts.field) == ("INVALID_FIELD", "quote_id")
    assert await market.wallet(renter) == (10_000, 0)


async def test_likely_cost_and_limit_follow_the_renters_own_jobs(any_market: Market) -> None:
    market = any_market
    renter, provider = await market.renter(10_000), await market.provider()
    daemon = await market.daemon(provider)
    assert not (await quote(market, renter)).HasField("likely_halala")
    for seconds in (60, 120, 240):
        job, lease = await market.running_job(renter, provider, daemon, output=b"Hello.")
        for _ in range(seconds // 20):
            market.clock.advance(20)
            await daemon.heartbeat()
        await daemon.finished(lease, seconds=seconds)
    quoted = await quote(market, renter)
    assert quoted.duration_minutes == pytest.approx(3 * 3)  # three times the three minutes of the longest
    assert quoted.likely_halala == 300  # two minutes at 150
    job = await market.submit(renter, params=asks(), duration_minutes=None)
    assert job.duration_minutes == pytest.approx(9)


def test_amounts_in_sar_are_exact() -> None:
    generator = random.Random(5)
    for _ in range(2000):
        micros = generator.randrange(10 ** generator.randint(1, 15))
        amount = Fraction(micros, 10**8)
        text = f"{micros // 10**8}.{micros % 10**8:08d}"
        assert sar_micros(text) == micros == amount * 10**8


async def test_both_kinds_of_own_prices_live_side_by_side(market: Market) -> None:
    """A rate by job type is no price by tokens; a change of one keeps the other."""
    await set_price(market, model=MODEL, **by_tokens("1", "2"))
    renter, provider = await market.renter(10_000), await market.provider()
    await market.daemon(provider, slots=5)
    await set_own(market, provider, model=MODEL, **by_tokens("2", "4"))
    rate = terms_pb2.SetOwnRateRequest(job_type=jobs_pb2.JOB_TYPE_LLM_INFERENCE, halala_per_minute=120)
    await market.terms_service.SetOwnRate(rate, metadata=provider.metadata)
    job = await market.submit(renter, provider, params=asks())
    assert job.price.sar_per_million_output_tokens == "4"
    await set_own(market, provider, model=MODEL, remove=True)
    job = await market.submit(renter, provider, params=asks())
    assert job.rate_halala_per_minute == 120


async def test_quote_says_since_when_each_provider_has_a_free_slot(market: Market) -> None:
    renter, (idle, busy, half) = await market.renter(100_000), [await market.provider() for _ in range(3)]
    joined = market.clock.now()
    daemons = [await market.daemon(one, slots=slots) for one, slots in ((idle, 1), (busy, 1), (half, 2))]
    market.clock.advance(60)
    for daemon in daemons:
        await daemon.heartbeat()
    _, lease = await market.running_job(renter, busy, daemons[1], duration_minutes=30)
    await market.running_job(renter, half, daemons[2], duration_minutes=30)

    async def since() -> dict[int, float | None]:
        offers = (await quote(market, renter)).providers
        return {
            each.provider_id: each.free_since.ToMilliseconds() / 1000 if each.HasField("free_since") else None
            for each in offers
        }

    assert await since() == {idle.id: joined, half.id: joined, busy.id: None}
    market.clock.advance(7)
    await daemons[1].finished(lease)
    assert await since() == {idle.id: joined, half.id: joined, busy.id: joined + 67}


def test_quote_asks_for_what_a_submit_asks_for() -> None:
    submit, asked = jobs_pb2.SubmitJobRequest.DESCRIPTOR, jobs_pb2.QuoteJobRequest.DESCRIPTOR
    numbers = {field.name: (field.number, field.type) for field in submit.fields}
    of_quote = {field.name: (field.number, field.type) for field in asked.fields}
    assert numbers.keys() - of_quote.keys() == {"idempotency_key", "quote_id"}
    assert of_quote.items() <= numbers.items()

"""Renters compare providers by price, measured speed, reliability, memory and job type."""

from __future__ import annotations

import base64
import itertools
import random
from typing import Any

import pytest
from dcp.v1 import jobs_pb2, prices_pb2, renters_pb2, standing_pb2, terms_pb2

from server.domain.canaries import CanaryKind, Measured
from server.domain.jobs import JobRequest, JobType
from server.domain.pricing import per_minute
from server.services import market as service
from server.services.market import SPEEDS_MS
from server.store import canaries, jobs
from server.store.models import Canary
from tests.support.plans import recorded, walks
from tests.support.running_server import MODEL, Daemon, Market, Party, refusal

pytestmark = pytest.mark.in_turns

JOBS = itertools.count(1)
LLM, TRAINING = jobs_pb2.JOB_TYPE_LLM_INFERENCE, jobs_pb2.JOB_TYPE_TRAINING
BOTH = [LLM, TRAINING]
ID, PRICE, SPEED, RELIABILITY, VRAM, FIRST = (
    renters_pb2.PROVIDER_SORT_ID,
    renters_pb2.PROVIDER_SORT_PRICE,
    renters_pb2.PROVIDER_SORT_TOKENS_PER_SECOND,
    renters_pb2.PROVIDER_SORT_RELIABILITY,
    renters_pb2.PROVIDER_SORT_VRAM,
    renters_pb2.PROVIDER_SORT_FIRST_TOKEN,
)


async def ask(market: Market, **fields: Any) -> renters_pb2.ListAvailableProvidersResponse:
    request = renters_pb2.ListAvailableProvidersRequest(**fields)
    answer: renters_pb2.ListAvailableProvidersResponse = await market.renter_service.ListAvailableProviders(
        request
    )
    return answer


async def ids(market: Market, **fields: Any) -> list[int]:
    answer = await ask(market, **fields)
    assert answer.total == len(answer.providers)
    return [provider.id for provider in answer.providers]


async def walk(market: Market, page_size: int, **fields: Any) -> list[int]:
    """The ids on all pages, as a client walks them."""
    found: list[int] = []
    more: dict[str, Any] = {}
    while True:
        assert len(found) < 100, "the walk does not end"
        answer = await ask(market, page_size=page_size, **fields, **more)
        found += [provider.id for provider in answer.providers]
        assert not (answer.HasField("next_cursor") and answer.HasField("next_after_id"))
        if answer.HasField("next_cursor"):
            more = {"cursor": answer.next_cursor}
        elif answer.HasField("next_after_id"):
            more = {"after_id": answer.next_after_id}
        else:
            return found


async def joined(market: Market, count: int, **hello: Any) -> tuple[list[Party], list[Daemon]]:
    parties = [await market.provider() for _ in range(count)]
    return parties, [await market.daemon(party, **hello) for party in parties]


async def set_price(market: Market, tokens_in: str, tokens_out: str) -> None:
    request = prices_pb2.SetPriceRequest(
        model=MODEL, sar_per_million_input_tokens=tokens_in, sar_per_million_output_tokens=tokens_out
    )
    await market.price_service.SetPrice(request, metadata=market.admin_metadata)


async def set_own(market: Market, provider: Party, tokens_in: str, tokens_out: str) -> None:
    request = prices_pb2.SetPriceRequest(
        model=MODEL, sar_per_million_input_tokens=tokens_in, sar_per_million_output_tokens=tokens_out
    )
    await market.price_service.SetOwnPrice(request, metadata=provider.metadata)


async def set_rate(market: Market, provider: Party, kind: jobs_pb2.JobType.ValueType, rate: int) -> None:
    request = terms_pb2.SetOwnRateRequest(job_type=kind, halala_per_minute=rate)
    await market.terms_service.SetOwnRate(request, metadata=provider.metadata)


async def measure(
    market: Market, provider: Party, speed: float, age_ms: int = 0, first_ms: int | None = None
) -> None:
    """The market measures a speed of a provider with the model."""
    renter, job_id = await market.renter(0), f"job-{next(JOBS)}"
    now_ms = int(market.clock.now() * 1000) - age_ms
    request = JobRequest(JobType.LLM_INFERENCE, 60_000, model=MODEL)

    def work() -> None:
        price = per_minute(1)
        jobs.insert(job_id, renter.id, request, price=price, hold_micros=1, limit_ms=1, now_ms=now_ms)
        canaries.insert(
            provider_id=provider.id,
            job_id=job_id,
            kind=CanaryKind.ANSWER,
            subject=MODEL,
            question="q",
            now_ms=now_ms,
        )
        canaries.note_measured(Canary.get(Canary.job_id == job_id).id, Measured(speed, first_ms))

    await market.sql(work)


async def succeed(market: Market, renter: Party, provider: Party, daemon: Daemon, times: int) -> None:
    """The provider completes jobs that name it."""
    for _ in range(times):
        await market.submit(renter, provider)
        offer = await daemon.expect("job_offer")
        await daemon.start(offer.lease)
        await daemon.finished(offer.lease)


async def test_list_by_price_has_the_cheapest_answer_first_and_hours_after_tokens(any_market: Market) -> None:
    market = any_market
    await set_price(market, "1", "2")
    (platform, dear, cheap, same_output), _ = await joined(market, 4)
    await set_own(market, dear, "1", "6")
    await set_own(market, cheap, "2", "1")
    await set_own(market, same_output, "0.5", "2")
    expected = [cheap.id, same_output.id, platform.id, dear.id]
    assert await ids(market, model=MODEL, sort=PRICE) == expected
    assert await ids(market, sort=PRICE) == [party.id for party in (platform, dear, cheap, same_output)]
    shown = (await ask(market, model=MODEL, sort=PRICE)).providers
    outputs = [
        price.price.sar_per_million_output_tokens
        for provider in shown
        for price in provider.prices
        if price.model == MODEL
    ]
    assert outputs == ["1", "2", "2", "6"]


async def test_list_by_price_is_that_of_the_job_type_and_who_does_not_run_it_comes_last(
    any_market: Market,
) -> None:
    market = any_market
    (dear, cheap), _ = await joined(market, 2, job_types=BOTH)
    (other,), _ = await joined(market, 1)
    await set_rate(market, dear, TRAINING, 500)
    await set_rate(market, cheap, TRAINING, 200)
    await set_rate(market, cheap, LLM, 450)
    assert await ids(market, sort=PRICE, job_type=TRAINING) == [cheap.id, dear.id]
    assert await ids(market, sort=PRICE) == [dear.id, other.id, cheap.id]
    trainers, _ = await joined(market, 1, job_types=[TRAINING])
    assert await ids(market, sort=PRICE) == [dear.id, other.id, cheap.id, trainers[0].id]
    assert await ids(market, job_type=TRAINING) == [dear.id, cheap.id, trainers[0].id]


async def test_most_that_is_paid_bounds_the_list_to_the_last_decimal(any_market: Market) -> None:
    market = any_market
    (own, platform, dear), _ = await joined(market, 3)
    await set_rate(market, own, LLM, 100)  # 60 SAR an hour; the platform's is 90
    await set_rate(market, dear, LLM, 450)
    assert await ids(market, max_sar_per_hour="60") == [own.id]
    assert await ids(market, max_sar_per_hour="59.99999999") == []
    assert await ids(market, max_sar_per_hour="90") == [own.id, platform.id]
    assert await ids(market, max_sar_per_hour="9999999") == [own.id, platform.id, dear.id]
    assert await ids(market, max_sar_per_hour="90", job_type=TRAINING) == []
    assert await ids(market, max_sar_per_million_output_tokens="9", model=MODEL) == []
    await set_price(market, "0.5", "1")
    await set_own(market, dear, "0.5", "2")
    of_model = {"model": MODEL}
    assert await ids(market, max_sar_per_million_output_tokens="1", **of_model) == [platform.id]
    assert await ids(market, max_sar_per_million_output_tokens="2", **of_model) == [platform.id, dear.id]
    assert await ids(market, max_sar_per_million_output_tokens="0.99999999", **of_model) == []
    assert await ids(market, max_sar_per_hour="999", **of_model) == [own.id]  # the others by tokens
    assert await ids(market, max_sar_per_hour="90") == [own.id, platform.id]


async def test_gpu_that_is_only_claimed_is_compared_at_the_price_of_the_job_type(any_market: Market) -> None:
    market = any_market
    request = prices_pb2.SetPriceRequest(gpu_model="H100", sar_per_hour="400")
    await market.price_service.SetPrice(request, metadata=market.admin_metadata)
    (claimed, verified), _ = await joined(market, 2, job_types=BOTH)
    await market.set_provider(claimed, gpu_model="H100")
    await market.set_provider(verified, gpu_model="H100", verdict="verified")
    assert await ids(market, max_sar_per_hour="150", job_type=TRAINING) == [claimed.id]
    assert await ids(market, max_sar_per_hour="400", job_type=TRAINING) == [claimed.id, verified.id]


async def test_list_by_speed_has_what_the_market_measured_last(any_market: Market) -> None:
    market = any_market
    (unmeasured, slow, fast, old), _ = await joined(market, 4)
    await measure(market, slow, 90.0, age_ms=1000)
    await measure(market, slow, 10.5)
    await measure(market, fast, 20.0)
    await measure(market, old, 99.0, age_ms=SPEEDS_MS + 1)
    assert await ids(market, model=MODEL, sort=SPEED) == [fast.id, slow.id, unmeasured.id, old.id]
    assert await ids(market, model=MODEL, min_tokens_per_second=10.5) == [slow.id, fast.id]
    assert await ids(market, model=MODEL, min_tokens_per_second=10.501) == [fast.id]
    assert await ids(market, model=MODEL, min_tokens_per_second=0) == [slow.id, fast.id]


async def test_list_by_first_token_has_the_quickest_first_and_those_not_measured_last(
    any_market: Market,
) -> None:
    market = any_market
    (unmeasured, slow, quick, unnoted), _ = await joined(market, 4)
    await measure(market, slow, 90.0, age_ms=1000, first_ms=10)
    await measure(market, slow, 10.5, first_ms=900)
    await measure(market, quick, 1.0, first_ms=250)
    await measure(market, unnoted, 5.0)
    assert await ids(market, model=MODEL, sort=FIRST) == [quick.id, slow.id, unmeasured.id, unnoted.id]
    assert await ids(market, model=MODEL, max_first_token_ms=900) == [slow.id, quick.id]
    assert await ids(market, model=MODEL, max_first_token_ms=899) == [quick.id]
    assert await ids(market, model=MODEL, max_first_token_ms=0) == []
    prices = [price for each in (await ask(market, model=MODEL)).providers for price in each.prices]
    shown = [price.first_token_ms for price in prices if price.HasField("first_token_ms")]
    assert shown == [900, 250]


async def test_list_by_reliability_agrees_with_what_it_shows(any_market: Market) -> None:
    market = any_market
    renter = await market.renter(100_000)
    (none, one, three), daemons = await joined(market, 3)
    await succeed(market, renter, one, daemons[1], 1)
    await succeed(market, renter, three, daemons[2], 3)
    shown = (await ask(market, sort=RELIABILITY)).providers
    assert [provider.id for provider in shown] == [three.id, one.id, none.id]
    bounds = [provider.reliability_lower for provider in shown]
    assert bounds == sorted(bounds, reverse=True)
    assert bounds[0] > bounds[1] > bounds[2] == 0
    assert await ids(market, min_reliability=bounds[0]) == [three.id]
    assert await ids(market, min_reliability=bounds[1]) == [one.id, three.id]
    assert await ids(market, min_reliability=0) == [none.id, one.id, three.id]
    assert await ids(market, min_reliability=1) == []


async def test_list_by_memory_leaves_out_what_owners_reserve(any_market: Market) -> None:
    market = any_market
    (unknown, large, reserved), _ = await joined(market, 3)
    await market.set_provider(unknown, gpu_vram_mib=0)
    await market.set_provider(large, gpu_vram_mib=24_000)
    await market.set_provider(reserved, gpu_vram_mib=30_000)
    settings = terms_pb2.SetOwnSettingsRequest(vram_reserve_mib=10_000)
    await market.terms_service.SetOwnSettings(settings, metadata=reserved.metadata)
    assert await ids(market, sort=VRAM) == [large.id, reserved.id, unknown.id]


@pytest.mark.parametrize("sort", [ID, PRICE, SPEED, RELIABILITY, VRAM])
async def test_walk_in_any_order_has_everybody_once_also_those_who_are_equal(
    any_market: Market, sort: int
) -> None:
    market = any_market
    await set_price(market, "1", "2")
    parties, _ = await joined(market, 9)
    draw = random.Random(7)
    for party in parties:
        await market.set_provider(party, gpu_vram_mib=draw.choice([0, 8000, 24_000]))
        if draw.random() < 0.6:
            await measure(market, party, draw.choice([5.0, 50.25]))
            await set_own(market, party, "1", draw.choice(["1", "3"]))
    whole = await ids(market, model=MODEL, sort=sort)
    assert sorted(whole) == [party.id for party in parties]
    for page_size in (1, 2, 4, 9):
        assert await walk(market, page_size, model=MODEL, sort=sort) == whole
    bounded = await ids(market, model=MODEL, sort=sort, min_reliability=0, verified=False)
    assert await walk(market, 2, model=MODEL, sort=sort, min_reliability=0) == bounded == whole


async def test_walk_goes_on_when_providers_come_and_go(any_market: Market) -> None:
    market = any_market
    parties, _ = await joined(market, 4)
    for memory, party in enumerate(parties):
        await market.set_provider(party, gpu_vram_mib=1000 - memory)
    first = await ask(market, sort=VRAM, page_size=2)
    await market.set_provider(parties[1], last_heartbeat_ms=1)
    (late,), _ = await joined(market, 1)
    await market.set_provider(late, gpu_vram_mib=5000)
    rest = await ask(market, sort=VRAM, page_size=2, cursor=first.next_cursor)
    assert [provider.id for provider in rest.providers] == [parties[2].id, parties[3].id]


@pytest.mark.parametrize(
    ("fields", "field", "remedy"),
    [
        ({"min_tokens_per_second": 1}, "model", "is required"),
        ({"max_sar_per_million_output_tokens": "1"}, "model", "is required"),
        ({"sort": SPEED}, "model", "is required"),
        ({"sort": FIRST}, "model", "is required"),
        ({"max_first_token_ms": 5}, "model", "is required"),
        ({"max_first_token_ms": -1, "model": MODEL}, "max_first_token_ms", "at least 0"),
        ({"min_tokens_per_second": 1, "model": " "}, "model", "is required"),
        ({"min_tokens_per_second": -1, "model": MODEL}, "min_tokens_per_second", "at least 0"),
        ({"min_tokens_per_second": 1e9, "model": MODEL}, "min_tokens_per_second", "at most 1,000,000"),
        ({"min_reliability": 1.01}, "min_reliability", "at most 1"),
        ({"min_reliability": float("nan")}, "min_reliability", "finite"),
        ({"max_sar_per_hour": "1.123456789"}, "max_sar_per_hour", "at most 8 decimals"),
        ({"max_sar_per_hour": "-1"}, "max_sar_per_hour", "such as 0.6"),
        ({"max_sar_per_hour": "1e3"}, "max_sar_per_hour", "such as 0.6"),
        ({"max_sar_per_hour": "٣"}, "max_sar_per_hour", "such as 0.6"),
        ({"max_sar_per_hour": "9" * 21}, "max_sar_per_hour", "at most 20"),
        ({"max_sar_per_hour": "99999999"}, "max_sar_per_hour", "such as 0.6"),
        (
            {"max_sar_per_million_output_tokens": "free", "model": MODEL},
            "max_sar_per_million_output_tokens",
            "such as 0.6",
        ),
        ({"sort": 99}, "sort", "send one of id, price, tokens_per_second, first_token, reliability, vram"),
        ({"job_type": 99}, "job_type", "send one of "),
    ],
)
async def test_filter_that_makes_no_sense_is_refused_with_its_field_and_what_to_send(
    market: Market, fields: dict[str, Any], field: str, remedy: str
) -> None:
    refused = await refusal(ask(market, **fields))
    assert (refused.reason, refused.facts.field) == ("INVALID_FIELD", field)
    assert remedy in refused.message


def forged(*parts: str) -> str:
    return base64.urlsafe_b64encode(" ".join(parts).encode()).decode().rstrip("=")


async def test_position_of_another_list_is_refused(market: Market) -> None:
    await joined(market, 3)
    cursor = (await ask(market, sort=VRAM, page_size=1)).next_cursor
    digest = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode().split(" ")[0]
    of_others: list[dict[str, Any]] = [
        {"sort": RELIABILITY, "cursor": cursor},
        {"sort": VRAM, "cursor": cursor, "verified": True},
        {"sort": VRAM, "cursor": cursor, "min_reliability": 0.5},
        {"sort": ID, "cursor": cursor},
        {"sort": ID, "cursor": cursor, "min_reliability": 0.5},
        {"cursor": cursor},
        *(
            {"sort": VRAM, "cursor": text}
            for text in ("x", "é", "===", cursor[:-2], cursor + "AAAA", forged("1"), "W" * 300)
        ),
        *(
            {"sort": VRAM, "cursor": forged(*parts)}
            for parts in ((digest,), (digest, "1.5"), (digest, "1", "x"), (digest, "1", ""), ("", "1", "1"))
        ),
    ]
    for fields in of_others:
        refused = await refusal(ask(market, **fields))
        assert (refused.reason, refused.facts.field) == ("PAGE_NOT_FOUND", "cursor"), fields
        assert "send the value that the previous page returned" in refused.message
    refused = await refusal(ask(market, sort=VRAM, after_id=1))
    assert (refused.reason, refused.facts.field) == ("PAGE_NOT_FOUND", "after_id")


async def test_only_the_first_providers_are_compared(market: Market, monkeypatch: pytest.MonkeyPatch) -> None:
    parties, _ = await joined(market, 3)
    await market.set_provider(parties[2], gpu_vram_mib=1000)
    monkeypatch.setattr(service, "MOST_COMPARED", 2)
    assert await ids(market, sort=VRAM) == [parties[0].id, parties[1].id]
    assert await ids(market) == [party.id for party in parties]


async def test_no_comparison_walks_through_a_table_that_grows_with_the_jobs(
    any_market: Market, monkeypatch: pytest.MonkeyPatch
) -> None:
    market = any_market
    (provider, _), (daemon, _) = await joined(market, 2)
    await succeed(market, await market.renter(), provider, daemon, 2)
    database = market.server._database
    with recorded(database, monkeypatch) as seen:
        for sort in (ID, PRICE, SPEED, RELIABILITY, VRAM):
            await walk(
                market,
                1,
                sort=sort,
                model=MODEL,
                job_type=LLM,
                gpu_model="",
                min_vram_gb=0,
                min_reliability=0,
                max_sar_per_hour="1000",
                min_standing=standing_pb2.STANDING_NEW if sort == ID else 0,
            )
    assert await walks(database, list(seen)) == {}

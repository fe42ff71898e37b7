"""The models that are served now: OpenAI's list, what routers read, and their prices in dollars."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

import pytest
from dcp.v1 import jobs_pb2, models_pb2, prices_pb2, sessions_pb2
from google.protobuf.timestamp_pb2 import Timestamp

from server.services.catalogue import KEPT_MS
from tests.support import running_server
from tests.support.manual_clock import ManualClock
from tests.support.running_server import MODEL, Market

pytestmark = pytest.mark.in_turns


async def listed(market: Market) -> list[models_pb2.ServedModelEntry]:
    answer = await market.model_service.ListModels(models_pb2.ListModelsRequest())
    assert answer.object == "list"
    return list(answer.data)


async def priced(market: Market) -> dict[str, models_pb2.ModelPrice]:
    answer = await market.model_service.ListModelPrices(models_pb2.ListModelPricesRequest())
    assert (answer.object, answer.currency) == ("list", "USD")
    return {each.id: each for each in answer.data}


async def set_price(market: Market, tokens_in: str, tokens_out: str, cached: str = "") -> None:
    request = prices_pb2.SetPriceRequest(
        model=MODEL,
        sar_per_million_input_tokens=tokens_in,
        sar_per_million_output_tokens=tokens_out,
        sar_per_million_cached_input_tokens=cached,
    )
    await market.price_service.SetPrice(request, metadata=market.admin_metadata)


def served(*models: tuple[str, int]) -> Sequence[sessions_pb2.ServedModel]:
    return [sessions_pb2.ServedModel(name=name, context_tokens=tokens) for name, tokens in models]


async def later(market: Market) -> None:
    """The list that is kept is old, and no provider is."""
    market.clock.advance(KEPT_MS / 1000)


async def test_model_has_the_fields_that_routers_and_openai_clients_read(any_market: Market) -> None:
    market = any_market
    await set_price(market, "0.3", "0.9", cached="0.15")
    await market.daemon(await market.provider())
    (model,) = await listed(market)
    assert model == models_pb2.ServedModelEntry(
        id=MODEL,
        object="model",
        created=int(market.clock.now()),
        owned_by="test",
        name=MODEL,
        input_modalities=["text"],
        output_modalities=["text"],
        context_length=2048,
        max_output_length=2048,
        pricing=models_pb2.TokenPricing(
            prompt="0.00000008",
            completion="0.00000024",
            request="0",
            image="0",
            input_cache_read="0.00000004",
        ),
        supported_sampling_parameters=[
            *("temperature", "top_p", "max_tokens", "stop", "seed"),
            *("presence_penalty", "frequency_penalty", "response_format"),
        ],
        type="model",
        display_name=MODEL,
        created_at=Timestamp(seconds=int(market.clock.now())),
    )


async def test_context_is_the_longest_and_what_most_serve_comes_first(any_market: Market) -> None:
    market = any_market
    await market.daemon(await market.provider(), models=served(("a", 0), ("b", 4096)))
    await market.daemon(await market.provider(), models=served(("b", 3_000_000), ("c", 100)))
    first, *others = await listed(market)
    assert (first.id, first.context_length, first.max_output_length) == ("b", 3_000_000, 1_000_000)
    assert [model.id for model in others] == ["a", "c"]
    unknown = others[0]
    assert not unknown.HasField("context_length")
    assert not unknown.HasField("max_output_length")
    assert unknown.owned_by == "dcp"


async def test_silent_paused_draining_and_other_providers_serve_nothing(any_market: Market) -> None:
    market = any_market
    names = ("silent", "paused", "draining", "images")
    for name in names:
        kind = jobs_pb2.JOB_TYPE_IMAGE_GENERATION if name == "images" else jobs_pb2.JOB_TYPE_LLM_INFERENCE
        provider = await market.provider()
        await market.daemon(provider, models=served((name, 1)), job_types=[kind])
        if name == "silent":
            await market.set_provider(provider, last_heartbeat_ms=1)
        elif name == "paused":
            await market.set_provider(provider, state="paused")
        elif name == "draining":
            await market.set_provider(provider, draining=True)
    assert await listed(market) == []


async def test_model_that_stops_being_served_leaves_the_list(any_market: Market) -> None:
    market = any_market
    provider = await market.provider()
    await market.daemon(provider)
    assert [model.id for model in await listed(market)] == [MODEL]
    await market.set_provider(provider, last_heartbeat_ms=1)
    await later(market)
    assert await listed(market) == []
    assert await priced(market) == {}


async def test_model_without_a_price_by_tokens_is_priced_by_the_minute_and_only_in_pricing(
    any_market: Market,
) -> None:
    market = any_market
    await market.daemon(await market.provider())
    (model,) = await listed(market)
    assert not model.HasField("pricing")
    (price,) = (await priced(market)).values()
    assert price == models_pb2.ModelPrice(id=MODEL, usd_per_minute="0.4")  # 1.5 SAR
    await set_price(market, "0.3", "0.9")
    (price,) = (await priced(market)).values()
    assert (price.HasField("usd_per_minute"), price.pricing.completion) == (False, "0.00000024")


@pytest.mark.parametrize(
    ("rate", "sar", "dollars"),
    [
        ("3.75", "0.00000001", "0.00000000000000266667"),  # no finite decimal: rounded up
        ("3.75", "100000", "0.02666666666666666667"),
        ("1", "0.00000001", "0.00000000000001"),
        ("1", "100000", "0.1"),
        ("0.000001", "100000", "100000"),
        ("3.75", "0", "0"),
    ],
)
async def test_price_in_dollars_is_exact_and_never_too_low(
    sqlite_url: str, clock: ManualClock, rate: str, sar: str, dollars: str
) -> None:
    async with running_server.running(sqlite_url, clock, sar_per_usd=Decimal(rate)) as market:
        await set_price(market, sar, "1")
        await market.daemon(await market.provider())
        (model,) = await listed(market)
        assert model.pricing.prompt == dollars

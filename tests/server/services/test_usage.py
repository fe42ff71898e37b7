"""Usage by day, key and model, as JSON and as CSV."""

from __future__ import annotations

import csv
import io
from typing import Any

import pytest
from dcp.v1 import jobs_pb2, keys_pb2, log_ins_pb2, log_ins_pb2_grpc, options_pb2, sessions_pb2
from dcp.v1 import statements_pb2 as pb

from tests.support.running_server import MODEL, Daemon, Market, Party, refusal

pytestmark = pytest.mark.in_turns

OTHER_MODEL = "other/model"
DAY, KEY, BY_MODEL = pb.USAGE_GROUP_DAY, pb.USAGE_GROUP_KEY, pb.USAGE_GROUP_MODEL
DAY_SECONDS = 24 * 3600
SECONDS = 75
CHARGE = 188  # what 75 seconds cost


async def sub_key(market: Market, renter: Party, name: str, *scopes: Any) -> tuple[Party, int]:
    request = keys_pb2.CreateKeyRequest(name=name, scopes=scopes or [options_pb2.SCOPE_INFERENCE])
    created = await market.key_service.CreateKey(request, metadata=renter.metadata)
    return Party(renter.id, created.api_key), created.key.id


async def run(market: Market, key: Party, provider: Party, daemon: Daemon, model: str = MODEL) -> None:
    """A job of 75 seconds, with 3 tokens in and 5 out."""
    await daemon.heartbeat()
    params = jobs_pb2.JobParams(model=model, prompt="Say hello to everybody here.", max_tokens=100)
    _, lease = await market.running_job(key, provider, daemon, output=b"hello you", params=params)
    market.clock.advance(SECONDS)
    usage = jobs_pb2.Usage(prompt_tokens=3, completion_tokens=5)
    await daemon.finished(lease, seconds=SECONDS, last_output_seq=1, usage=usage)


async def usage(market: Market, renter: Party, **fields: Any) -> pb.GetOwnUsageResponse:
    request = pb.GetOwnUsageRequest(**fields)
    return await market.statement_service.GetOwnUsage(request, metadata=renter.metadata)


async def scene(market: Market) -> tuple[Party, int, int, str, str]:
    """Jobs of two keys, two models and two days; returns the ids of the keys, and the days."""
    renter, provider = await market.renter(100_000), await market.provider()
    models = [sessions_pb2.ServedModel(name=name, context_tokens=2048) for name in (MODEL, OTHER_MODEL)]
    daemon = await market.daemon(provider, models=models)
    first, first_id = await sub_key(market, renter, "=first")
    second, second_id = await sub_key(market, renter, "second")
    await run(market, first, provider, daemon)
    await run(market, first, provider, daemon)
    await market.cancel(
        await market.submit(first, params=jobs_pb2.JobParams(model=MODEL, prompt="x")), renter
    )
    before = _today(market)
    market.clock.advance(DAY_SECONDS)
    await run(market, first, provider, daemon, OTHER_MODEL)
    await run(market, second, provider, daemon)
    await run(market, renter, provider, daemon)
    stranger = await market.renter()
    await run(market, stranger, provider, daemon)
    return renter, first_id, second_id, before, _today(market)


def _today(market: Market) -> str:
    from datetime import UTC, datetime

    return datetime.fromtimestamp(market.clock.now(), UTC).date().isoformat()


def rows(answer: pb.GetOwnUsageResponse) -> list[tuple[Any, ...]]:
    return [
        (row.date, row.key_id, row.key_name, row.model, row.jobs, row.charged_halala) for row in answer.rows
    ]


async def test_log_in_keeps_its_name_when_its_key_is_gone(any_market: Market) -> None:
    market = any_market
    renter, provider = await market.renter(100_000), await market.provider()
    daemon = await market.daemon(provider)
    stub = log_ins_pb2_grpc.LogInServiceStub(market.channel)
    log_in = await stub.LogIn(log_ins_pb2.LogInRequest(), metadata=renter.metadata)
    page = Party(renter.id, log_in.session)
    await run(market, page, provider, daemon)
    before = await usage(market, renter, group_by=[KEY])
    await stub.LogOut(log_ins_pb2.LogOutRequest(), metadata=page.metadata)
    market.clock.advance(DAY_SECONDS + 1)
    await market.server.services.log_ins.clean()
    after = await usage(market, renter, group_by=[KEY])
    assert [(row.key_name, row.charged_halala) for row in after.rows] == [("browser", CHARGE)]
    assert after == before


async def test_usage_by_day_key_and_model(any_market: Market) -> None:
    market = any_market
    renter, first, second, before, today = await scene(market)
    answer = await usage(market, renter)
    main_id = answer.rows[1].key_id
    assert main_id not in (first, second)
    expected = [
        (before, first, "=first", MODEL, 2, 2 * CHARGE),
        *sorted(
            [
                (today, main_id, "", MODEL, 1, CHARGE),
                (today, first, "=first", OTHER_MODEL, 1, CHARGE),
                (today, second, "second", MODEL, 1, CHARGE),
            ],
            key=lambda row: row[1],
        ),
    ]
    assert rows(answer) == expected
    two = answer.rows[0]
    assert (two.input_tokens, two.output_tokens, two.billed_seconds) == (6, 10, 2 * SECONDS)
    assert two.charged_micro_halala == 2 * CHARGE * 1_000_000
    assert not answer.rows[1].HasField("key_name")
    spending = await market.statement_service.GetOwnSpending(
        pb.GetOwnSpendingRequest(days=2), metadata=renter.metadata
    )
    assert sum(row.charged_halala for row in answer.rows) == spending.spent_halala == 5 * CHARGE
    assert sum(row.jobs for row in answer.rows) == spending.jobs


async def test_rows_are_by_what_is_asked_for(any_market: Market) -> None:
    market = any_market
    renter, first, _, before, today = await scene(market)
    by_model = await usage(market, renter, group_by=[BY_MODEL])
    assert rows(by_model) == [
        ("", 0, "", OTHER_MODEL, 1, CHARGE),
        ("", 0, "", MODEL, 4, 4 * CHARGE),
    ]
    by_day = await usage(market, renter, group_by=[DAY])
    assert rows(by_day) == [(before, 0, "", "", 2, 2 * CHARGE), (today, 0, "", "", 3, 3 * CHARGE)]
    of_one_day = await usage(market, renter, group_by=[KEY, BY_MODEL], to=before, **{"from": before})
    assert rows(of_one_day) == [("", first, "=first", MODEL, 2, 2 * CHARGE)]
    # The order in the request does not matter.
    assert await usage(market, renter, group_by=[BY_MODEL, KEY, DAY]) == await usage(market, renter)


@pytest.mark.parametrize("groups", [[], [DAY], [KEY], [BY_MODEL], [KEY, BY_MODEL], [DAY, BY_MODEL]])
async def test_pages_together_are_the_whole(any_market: Market, groups: list[Any]) -> None:
    market = any_market
    renter, *_ = await scene(market)
    whole = await usage(market, renter, group_by=groups)
    assert not whole.HasField("next_after")
    found, after = list[pb.UsageRow](), ""
    while True:
        page = await usage(market, renter, group_by=groups, page_size=1, after=after)
        found += page.rows
        if not page.HasField("next_after"):
            break
        after = page.next_after
    assert found == list(whole.rows)


async def test_csv_has_a_byte_order_mark_and_no_formula(any_market: Market) -> None:
    market = any_market
    renter, first, _, before, _ = await scene(market)
    request = pb.GetOwnUsageCsvRequest()
    text = (await market.statement_service.GetOwnUsageCsv(request, metadata=renter.metadata)).csv
    assert text.startswith("\ufeffdate,key_id,key_name,model,jobs,")
    table = list(csv.DictReader(io.StringIO(text.removeprefix("\ufeff"))))
    assert table[0] == {
        "date": before,
        "key_id": str(first),
        "key_name": "'=first",
        "model": MODEL,
        "jobs": "2",
        "input_tokens": "6",
        "output_tokens": "10",
        "billed_seconds": "150.0",
        "charged_halala": str(2 * CHARGE),
        "charged_micro_halala": str(2 * CHARGE * 1_000_000),
    }
    assert len(table) == 4
    assert "" in [row["key_name"] for row in table]


@pytest.mark.parametrize(
    ("fields", "reason", "at_fault"),
    [
        ({"from": "2026-02-30"}, "INVALID_FIELD", "from"),
        ({"to": "20260130"}, "INVALID_FIELD", "to"),
        ({"to": "yesterday"}, "INVALID_FIELD", "to"),
        ({"from": "2026-01-02", "to": "2026-01-01"}, "INVALID_FIELD", "from"),
        ({"from": "2026-01-01", "to": "2027-02-05"}, "INVALID_FIELD", "from"),
        ({"group_by": [99]}, "INVALID_FIELD", "group_by"),
        ({"page_size": 1001}, "INVALID_FIELD", "page_size"),
        ({"after": "x"}, "PAGE_NOT_FOUND", "after"),
        ({"after": "1:x:m"}, "PAGE_NOT_FOUND", "after"),
        ({"after": f"1:{'9' * 19}:m"}, "PAGE_NOT_FOUND", "after"),
    ],
)
async def test_bad_selection_is_refused(
    market: Market, fields: dict[str, Any], reason: str, at_fault: str
) -> None:
    refused = await refusal(usage(market, await market.renter(), **fields))
    assert (refused.reason, refused.facts.field) == (reason, at_fault)


async def test_four_hundred_days_can_be_asked_for(market: Market) -> None:
    answer = await usage(market, await market.renter(), **{"from": "2026-01-01", "to": "2027-02-04"})
    assert list(answer.rows) == []


async def test_usage_needs_the_main_key_or_the_scope_billing(market: Market) -> None:
    renter = await market.renter()
    reader, _ = await sub_key(market, renter, "r", options_pb2.SCOPE_READ, options_pb2.SCOPE_INFERENCE)
    assert (await refusal(usage(market, reader))).reason == "MISSING_SCOPE"
    biller, _ = await sub_key(market, renter, "b", options_pb2.SCOPE_BILLING)
    await usage(market, biller)

"""Budgets of sub-keys: what their jobs may cost per day, per month and in all, and what they may use."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest
from dcp.v1 import jobs_pb2, options_pb2, sessions_pb2
from dcp.v1 import keys_pb2 as pb
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from server.domain.money import micros
from server.store import budgets, proof
from server.store.models import BudgetUse, Renter
from tests.support import databases, running_server
from tests.support.lengths import lengths
from tests.support.manual_clock import ManualClock
from tests.support.plans import recorded, walks
from tests.support.running_server import MODEL, Daemon, Market, Party, read_refusal, refusal
from tests.support.whole_renter import delete

INFERENCE, READ = options_pb2.SCOPE_INFERENCE, options_pb2.SCOPE_READ
HOLD = 450  # what three minutes of inference hold
DAY_SECONDS = 24 * 3600


async def limited(market: Market, renter: Party, **limits: Any) -> tuple[Party, int]:
    """The renter's account with a new sub-key that has these limits, and the key's id."""
    request = pb.CreateKeyRequest(name="batch", scopes=[INFERENCE], **limits)
    created = await market.key_service.CreateKey(request, metadata=renter.metadata)
    return Party(renter.id, created.api_key), created.key.id


async def set_limits(market: Market, renter: Party, key_id: int, **limits: Any) -> pb.Key:
    request = pb.SetKeyLimitsRequest(key_id=key_id, **limits)
    return (await market.key_service.SetKeyLimits(request, metadata=renter.metadata)).key


async def shown(market: Market, renter: Party, key_id: int) -> pb.Key:
    listed = await market.key_service.ListKeys(pb.ListKeysRequest(), metadata=renter.metadata)
    return next(key for key in listed.keys if key.id == key_id)


def used(key: pb.Key) -> tuple[int, int, int]:
    return key.used_today_halala, key.used_this_month_halala, key.used_in_total_halala


async def assert_counts_agree(market: Market) -> None:
    assert (await market.sql(proof.replay)).discrepancies == ()


def seconds_to(clock: ManualClock, *date: int) -> float:
    return datetime(*date, tzinfo=UTC).timestamp() - clock.now()  # type: ignore[arg-type,misc]


@lengths("submits", short=40, full=200)
@pytest.mark.parametrize("field", ["budget_halala_per_day", "budget_halala_per_month", "budget_halala_total"])
async def test_submits_at_once_never_pass_a_budget(any_market: Market, field: str, submits: int) -> None:
    market = any_market
    renter = await market.renter(1_000_000)
    key, key_id = await limited(market, renter, **{field: 7 * HOLD + HOLD - 1})
    outcomes = await asyncio.gather(*(market.submit(key) for _ in range(submits)), return_exceptions=True)
    refused = [read_refusal(each) for each in outcomes if isinstance(each, grpc.aio.AioRpcError)]
    assert len(outcomes) - len(refused) == 7
    assert {each.reason for each in refused} == {"BUDGET_REACHED"}
    assert used(await shown(market, renter, key_id)) == (7 * HOLD,) * 3
    assert await market.wallet(renter) == (1_000_000 - 7 * HOLD, 7 * HOLD)
    await assert_counts_agree(market)


@lengths("at_once", short=40, full=200)
async def test_key_with_ten_halala_left_accepts_only_what_fits(any_market: Market, at_once: int) -> None:
    market = any_market
    renter = await market.renter(100_000)
    key, _ = await limited(market, renter, budget_halala_total=HOLD + 10)
    await market.submit(key)
    submits = [market.submit(key, max_cost_halala=3) for _ in range(at_once)]
    outcomes = await asyncio.gather(*submits, return_exceptions=True)
    assert sum(isinstance(each, jobs_pb2.Job) for each in outcomes) == 3
    await assert_counts_agree(market)


async def test_refusal_names_the_budget_and_the_remedy_and_changes_nothing(any_market: Market) -> None:
    market = any_market
    market.clock.advance(seconds_to(market.clock, 2027, 3, 31, 23, 0, 0))
    renter = await market.renter(100_000)
    limits = {"budget_halala_per_day": 500, "budget_halala_per_month": 800, "budget_halala_total": 10_000}
    key, key_id = await limited(market, renter, **limits)
    await market.submit(key)
    refused = await refusal(market.submit(key))
    assert (refused.code, refused.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "BUDGET_REACHED")
    facts = refused.facts
    # The month is exceeded too, and waiting for the next day would not help.
    assert (facts.budget, facts.budget_halala, facts.used_halala, facts.required_halala) == (
        *("month", 800, HOLD, HOLD),
    )
    assert facts.retry_after_seconds == 3600
    assert refused.message == (
        "this key may spend 800 halala per month; 450 are spent or held, and the job holds 450; ask for a "
        "shorter duration_minutes or a lower max_cost_halala, wait until 2027-04-01 00:00 UTC, or raise "
        "budget_halala_per_month with the main key"
    )
    assert used(await shown(market, renter, key_id)) == (HOLD,) * 3
    assert await market.wallet(renter) == (100_000 - HOLD, HOLD)
    await market.submit(renter)  # the main key has no limits


async def test_days_and_months_begin_at_midnight_utc(any_market: Market) -> None:
    market = any_market
    renter = await market.renter(100_000)
    market.clock.advance(seconds_to(market.clock, 2028, 2, 28, 23, 59, 59))
    key, key_id = await limited(market, renter, budget_halala_per_day=HOLD, budget_halala_per_month=2 * HOLD)
    await market.submit(key)
    assert (await refusal(market.submit(key))).facts.retry_after_seconds == 1
    market.clock.advance(1)  # 29 February
    await market.submit(key)
    assert (await refusal(market.submit(key))).facts.budget == "month"
    market.clock.advance(DAY_SECONDS - 0.001)
    assert (await refusal(market.submit(key))).facts.retry_after_seconds == 1
    market.clock.advance(0.001)  # 1 March
    await market.submit(key)
    assert used(await shown(market, renter, key_id)) == (HOLD, HOLD, 3 * HOLD)
    total = await refusal(market.submit(key))
    assert total.facts.budget == "day"
    await assert_counts_agree(market)


async def test_budget_gets_back_what_a_job_did_not_cost(any_market: Market) -> None:
    market = any_market
    renter, provider = await market.renter(), await market.provider()
    daemon = await market.daemon(provider)
    key, key_id = await limited(market, renter, budget_halala_total=HOLD)
    job, lease = await market.running_job(key, provider, daemon, output=b"hello")
    assert (await refusal(market.submit(key))).reason == "BUDGET_REACHED"
    market.clock.advance(75)
    await daemon.finished(lease, seconds=75, last_output_seq=1)
    assert used(await shown(market, renter, key_id)) == (188, 188, 188)
    refused = await refusal(market.submit(key))
    assert refused.facts.used_halala == 188
    small = await market.submit(key, max_cost_halala=HOLD - 188)
    await market.cancel(small, renter)
    assert used(await shown(market, renter, key_id)) == (188, 188, 188)
    await assert_counts_agree(market)
    assert job.key_id == key_id


async def test_job_that_ends_on_another_day_gives_back_to_the_day_of_its_submit(any_market: Market) -> None:
    market = any_market
    renter = await market.renter(100_000)
    key, key_id = await limited(market, renter, budget_halala_per_day=2 * HOLD)
    job = await market.submit(key)
    market.clock.advance(DAY_SECONDS)
    await market.submit(key)
    await market.cancel(job, renter)
    assert used(await shown(market, renter, key_id))[0] == HOLD
    await assert_counts_agree(market)


async def test_repeated_submit_counts_once(any_market: Market) -> None:
    market = any_market
    renter = await market.renter()
    key, key_id = await limited(market, renter, budget_halala_total=HOLD)
    jobs = await asyncio.gather(*(market.submit(key, key="same") for _ in range(10)))
    assert len({job.job_id for job in jobs}) == 1
    assert used(await shown(market, renter, key_id)) == (HOLD,) * 3


async def test_first_budget_of_a_key_counts_what_it_spent_before(any_market: Market) -> None:
    market = any_market
    renter = await market.renter(100_000)
    key, key_id = await limited(market, renter)
    await market.cancel(await market.submit(key), renter)
    await market.submit(key)
    await market.submit(renter)  # another key
    set_ = await set_limits(market, renter, key_id, budget_halala_per_day=2 * HOLD)
    assert used(set_) == (HOLD,) * 3
    await market.submit(key)
    assert (await refusal(market.submit(key))).reason == "BUDGET_REACHED"
    await assert_counts_agree(market)


async def test_budget_below_what_is_used_accepts_nothing_and_says_what_is_used(any_market: Market) -> None:
    market = any_market
    renter = await market.renter(100_000)
    key, key_id = await limited(market, renter, budget_halala_total=5000)
    await market.submit(key)
    lowered = await set_limits(market, renter, key_id, budget_halala_total=1)
    assert (lowered.budget_halala_total, lowered.used_in_total_halala) == (1, HOLD)
    refused = await refusal(market.submit(key, max_cost_halala=1))
    assert (refused.facts.budget, refused.facts.used_halala) == ("total", HOLD)
    raised = await set_limits(market, renter, key_id, budget_halala_total=2 * HOLD)
    assert used(raised) == (HOLD,) * 3
    await market.submit(key)


async def test_setting_limits_replaces_all_of_them(any_market: Market) -> None:
    market = any_market
    renter, provider = await market.renter(100_000), await market.provider()
    await market.daemon(provider)
    limits = {"budget_halala_per_day": 1, "allowed_models": [MODEL], "allowed_providers": [provider.id]}
    key, key_id = await limited(market, renter, **limits)
    listed = await shown(market, renter, key_id)
    assert (listed.budget_halala_per_day, list(listed.allowed_models), list(listed.allowed_providers)) == (
        *(1, [MODEL], [provider.id]),
    )
    cleared = await set_limits(market, renter, key_id)
    for name in ("budget_halala_per_day", "used_today_halala", "used_in_total_halala"):
        assert not cleared.HasField(name)
    assert (list(cleared.allowed_models), list(cleared.allowed_providers)) == ([], [])
    await market.submit(key)
    assert await market.sql(BudgetUse.select().count) == 0
    again = await set_limits(market, renter, key_id, budget_halala_per_day=1000)
    assert used(again) == (HOLD,) * 3


async def test_key_may_use_only_its_models_and_providers(any_market: Market) -> None:
    market = any_market
    renter, provider, other = await market.renter(100_000), await market.provider(), await market.provider()
    for each in (provider, other):
        models = [jobs_model(MODEL), jobs_model("another/model")]
        await market.daemon(each, models=models)
    by_model, _ = await limited(market, renter, allowed_models=[MODEL])
    await market.submit(by_model)
    refused = await refusal(market.submit(by_model, params=params("another/model")))
    assert (refused.code, refused.reason, refused.facts.field) == (
        *(grpc.StatusCode.PERMISSION_DENIED, "MODEL_NOT_ALLOWED", "params.model"),
    )
    assert refused.message == (
        f"params.model: this key may use {MODEL}, and the job names another/model; name one of these, "
        "or change allowed_models with the main key"
    )
    by_provider, _ = await limited(market, renter, allowed_providers=[provider.id])
    await market.submit(by_provider, provider)
    for elsewhere in (other, None):
        refused = await refusal(market.submit(by_provider, elsewhere))
        assert (refused.reason, refused.facts.field) == ("PROVIDER_NOT_ALLOWED", "provider_id")
        assert f"this key may use the providers {provider.id}, and the job names " in refused.message
    assert await market.wallet(renter) == (100_000 - 2 * HOLD, 2 * HOLD)


def jobs_model(name: str) -> Any:
    return sessions_pb2.ServedModel(name=name, context_tokens=2048, warm=True)


def params(model: str) -> jobs_pb2.JobParams:
    return jobs_pb2.JobParams(model=model, prompt="Say hello.")


@pytest.mark.parametrize(
    ("limits", "at_fault"),
    [
        ({"budget_halala_per_day": 0}, "budget_halala_per_day"),
        ({"budget_halala_per_month": -1}, "budget_halala_per_month"),
        ({"budget_halala_total": 2**62}, "budget_halala_total"),
        ({"allowed_models": ["a\u200bb"]}, "allowed_models[0]"),
        ({"allowed_models": ["x" * 301]}, "allowed_models[0]"),
        ({"allowed_models": ["x"] * 51}, "allowed_models"),
        ({"allowed_providers": [0]}, "allowed_providers[0]"),
    ],
)
async def test_bad_limits_are_refused(market: Market, limits: dict[str, Any], at_fault: str) -> None:
    renter = await market.renter()
    await market.daemon(await market.provider())
    _, key_id = await limited(market, renter)
    for call in (limited(market, renter, **limits), set_limits(market, renter, key_id, **limits)):
        refused = await refusal(call)
        assert (refused.reason, refused.facts.field) == ("INVALID_FIELD", at_fault)


async def test_unknown_models_and_providers_are_refused(any_market: Market) -> None:
    market = any_market
    renter, provider = await market.renter(), await market.provider()
    await market.daemon(provider)
    _, key_id = await limited(market, renter)
    models, ids = {"allowed_models": ["test/modle"]}, {"allowed_providers": [provider.id, 2**62, 77]}
    for call in (limited(market, renter, **models), set_limits(market, renter, key_id, **models)):
        refused = await refusal(call)
        assert (refused.code, refused.reason, refused.facts.field) == (
            *(grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND", "allowed_models"),
        )
        assert refused.message == (
            "allowed_models: no provider has reported 'test/modle'; did you mean test/model?"
        )
    for call in (limited(market, renter, **ids), set_limits(market, renter, key_id, **ids)):
        refused = await refusal(call)
        assert (refused.reason, refused.facts.field) == ("PROVIDER_NOT_FOUND", "allowed_providers")
        assert refused.message == (
            f"allowed_providers: no provider has the id 77, {2**62}; see /api/renters/available-providers"
        )


async def test_only_a_valid_sub_key_of_the_account_gets_limits_and_only_from_the_main_key(
    market: Market,
) -> None:
    renter, stranger = await market.renter(), await market.renter()
    key, key_id = await limited(market, renter, budget_halala_total=1)
    refused = await refusal(set_limits(market, key, key_id, budget_halala_total=1000))
    assert refused.reason == "MAIN_KEY_NEEDED"
    assert (await refusal(set_limits(market, stranger, key_id))).reason == "KEY_NOT_FOUND"
    listed = await market.key_service.ListKeys(pb.ListKeysRequest(), metadata=renter.metadata)
    main_id = next(each.id for each in listed.keys if each.main)
    refused = await refusal(set_limits(market, renter, main_id, budget_halala_total=1))
    assert (refused.reason, refused.facts.status) == ("WRONG_STATE", "main")
    await market.key_service.RevokeKey(pb.RevokeKeyRequest(key_id=key_id), metadata=renter.metadata)
    refused = await refusal(set_limits(market, renter, key_id, budget_halala_total=1))
    assert (refused.reason, refused.facts.status) == ("WRONG_STATE", "revoked")
    _, short_id = await limited(market, renter, expires_in_seconds=60)
    market.clock.advance(60)
    refused = await refusal(set_limits(market, renter, short_id))
    assert (refused.reason, refused.facts.status) == ("WRONG_STATE", "expired")


async def test_new_limit_holds_for_a_key_that_the_server_knows_from_its_cache(any_market: Market) -> None:
    market = any_market
    renter = await market.renter(100_000)
    key, key_id = await limited(market, renter)
    await market.submit(key)
    await set_limits(market, renter, key_id, budget_halala_total=HOLD)
    assert (await refusal(market.submit(key))).reason == "BUDGET_REACHED"


async def test_key_without_limits_costs_no_statement_more(
    any_market: Market, caplog: pytest.LogCaptureFixture
) -> None:
    market = any_market
    renter = await market.renter(100_000)
    key, _ = await limited(market, renter)
    capped, _ = await limited(market, renter, budget_halala_total=100_000)

    async def statements(party: Party) -> list[str]:
        await market.submit(party)  # prepares the statements
        caplog.clear()
        with caplog.at_level(logging.DEBUG, "peewee"):
            await market.cancel(await market.submit(party), renter)
        return [record.getMessage() for record in caplog.records]

    for party in (renter, key):
        assert not [
            text for text in await statements(party) if 'FROM "api_key"' in text or 'budget_use"' in text
        ]
    assert len([text for text in await statements(capped) if 'budget_use" ' in text]) == 2


async def test_provider_does_not_see_the_key(market: Market) -> None:
    renter, provider = await market.renter(), await market.provider()
    daemon = await market.daemon(provider)
    key, key_id = await limited(market, renter)
    job, _ = await market.running_job(key, provider, daemon)
    request = jobs_pb2.GetJobRequest(job_id=job.job_id)
    own = await market.job_service.GetJob(request, metadata=renter.metadata)
    assert own.job.key_id == key_id
    theirs = await market.job_service.GetJob(request, metadata=provider.metadata)
    assert not theirs.job.HasField("key_id")


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["submit"] * 3 + ["cancel", "finish", "hours", "limit", "unlimit"]),
        st.integers(0, 5),
    ),
    min_size=10,
    max_size=40,
)


class Play:
    """A renter with two keys, of which the second has a budget from the start."""

    def __init__(self, market: Market, renter: Party, keys: list[tuple[Party, int]]) -> None:
        self.market, self.renter, self.keys = market, renter, keys
        self.jobs: list[jobs_pb2.Job] = []

    async def step(self, name: str, number: int, budget_halala: int, daemon: Daemon) -> None:
        key, key_id = self.keys[number % 2]
        if name == "submit":
            job = await accepted(self.market.submit(key, params=params("unserved"), wait_for_supply=True))
            self.jobs += [job] if job is not None else []
        elif name == "cancel" and self.jobs:
            await self.market.cancel(self.jobs.pop(number % len(self.jobs)), self.renter)
        elif name == "finish":
            await daemon.heartbeat()
            if await accepted(self.market.submit(key)) is None:
                return
            lease = (await daemon.expect("job_offer")).lease
            await daemon.start(lease)
            await daemon.output(lease, 1, b"x")
            self.market.clock.advance(number * 20 + 1)
            await daemon.finished(lease, seconds=number * 20 + 1, last_output_seq=1)
        elif name == "hours":
            self.market.clock.advance(number * 5 * 3600)
        elif name == "limit":
            await set_limits(self.market, self.renter, key_id, budget_halala_per_month=budget_halala)
        elif name == "unlimit":
            await set_limits(self.market, self.renter, key_id)


async def accepted(submit: Awaitable[jobs_pb2.Job]) -> jobs_pb2.Job | None:
    """The submitted job; None if a budget did not allow it."""
    (outcome,) = await asyncio.gather(submit, return_exceptions=True)
    if isinstance(outcome, grpc.aio.AioRpcError):
        assert read_refusal(outcome).reason == "BUDGET_REACHED"
        return None
    assert isinstance(outcome, jobs_pb2.Job)
    return outcome


async def play(url: str, steps: list[tuple[str, int]]) -> None:
    async with running_server.running(url, ManualClock()) as market:
        renter, daemon = await market.renter(1_000_000), await market.daemon(await market.provider())
        free, budgeted = (
            await limited(market, renter),
            await limited(market, renter, budget_halala_per_day=1500),
        )
        played = Play(market, renter, [free, budgeted])
        for place, (name, number) in enumerate(steps, 1):
            await played.step(name, number, place * HOLD, daemon)
            assert await market.sql(lambda: list(budgets.wrong())) == []
        await assert_counts_agree(market)


@given(steps=STEPS)
@settings(max_examples=15, phases=(Phase.explicit, Phase.reuse, Phase.generate))
def test_counts_equal_the_jobs_in_any_order(tmp_path_factory: pytest.TempPathFactory, steps: Any) -> None:
    folder: Path = tmp_path_factory.mktemp("budgets")
    asyncio.run(play(databases.empty_sqlite(folder), steps))


async def test_limits_and_ends_of_jobs_at_once_leave_the_counts_right(any_market: Market) -> None:
    """A job that ends while the first budget of its key is counted is in the count once."""
    market = any_market
    renter = await market.renter(1_000_000)
    key, key_id = await limited(market, renter)
    for round_ in range(6):
        jobs = [await market.submit(key) for _ in range(8)]
        await asyncio.gather(
            *(market.cancel(job, renter) for job in jobs[:6]),
            set_limits(market, renter, key_id, budget_halala_total=1_000_000),
            *(market.submit(key) for _ in range(4)),
        )
        assert await market.sql(lambda: list(budgets.wrong())) == []
        key_now = await shown(market, renter, key_id)
        assert key_now.used_in_total_micro_halala == micros((round_ + 1) * 6 * HOLD)
        await set_limits(market, renter, key_id)


async def test_proof_finds_a_count_that_is_wrong(any_market: Market) -> None:
    market = any_market
    renter = await market.renter()
    key, key_id = await limited(market, renter, budget_halala_total=1000)
    await market.submit(key)
    wrong = BudgetUse.update(used_micros=1).where(BudgetUse.period == "total")
    await market.sql(wrong.execute)
    found = await market.sql(partial(proof.replay))
    assert found.discrepancies == (f"key {key_id} uses 0.000001 halala (total 0) and its jobs 450",)


async def test_deleted_account_keeps_no_counts(any_market: Market) -> None:
    market = any_market
    renter = await market.renter()
    key, _ = await limited(market, renter, budget_halala_total=1000)
    await market.cancel(await market.submit(key), renter)
    other = await market.renter()
    others_key, _ = await limited(market, other, budget_halala_total=1000)
    await market.submit(others_key)
    email = await market.sql(lambda: str(Renter.get_by_id(renter.id).email))
    await delete(market, renter, email, 5000)
    assert await market.sql(BudgetUse.select().count) == 3


async def test_statements_of_limits_walk_through_no_table_that_grows(
    any_market: Market, monkeypatch: pytest.MonkeyPatch
) -> None:
    market, database = any_market, any_market.server._database
    renter, provider = await market.renter(), await market.provider()
    await market.daemon(provider)
    key, key_id = await limited(market, renter)
    with recorded(database, monkeypatch) as seen:
        await market.submit(key)
        await set_limits(market, renter, key_id, budget_halala_total=1000, allowed_providers=[provider.id])
        await market.cancel(await market.submit(key, provider), renter)
        await refusal(market.submit(key, provider, duration_minutes=9))
        await set_limits(market, renter, key_id, budget_halala_total=1000, allowed_models=[MODEL])
        await shown(market, renter, key_id)
        await set_limits(market, renter, key_id)
    assert await walks(database, list(seen)) == {}


async def test_counts_of_past_days_and_months_are_dropped(any_market: Market) -> None:
    market = any_market
    renter = await market.renter(100_000)
    key, key_id = await limited(market, renter, budget_halala_total=10_000)
    for _ in range(30):
        await market.cancel(await market.submit(key), renter)
        market.clock.advance(10 * DAY_SECONDS)
    await market.submit(key)
    assert await market.sql(BudgetUse.select().where(BudgetUse.key_id == key_id).count) <= 5 + 2 + 1
    assert used(await shown(market, renter, key_id)) == (HOLD,) * 3
    await assert_counts_agree(market)

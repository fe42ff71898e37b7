"""A provider's terms: own rates, hours, temperature and memory, and who sees them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from dcp.v1 import gpus_pb2, jobs_pb2, operations_pb2, providers_pb2, renters_pb2, sessions_pb2, terms_pb2

import server.services.terms
from server.domain.gpus import GpuReport
from server.domain.jobs import JobType
from server.domain.placement import Wants
from server.domain.pricing import Prices
from server.domain.terms import Settings, Terms, window
from server.services.fleet import Fleet, Presence
from server.store import terms
from tests.support.running_server import MODEL, Daemon, Market, Party, refusal

pytestmark = pytest.mark.in_turns

INFERENCE = jobs_pb2.JOB_TYPE_LLM_INFERENCE
# The clock of the tests stands at Friday, 11:00 in Riyadh.
NOW_MS = 1_800_000_000_000
OFFICE = terms_pb2.WeeklyHours(start="14:00", end="22:00")


def settings_with_hours(start: str, end: str) -> dict[str, Any]:
    """Settings with hours between two times of day."""
    return {"timezone": "UTC", "hours": [terms_pb2.WeeklyHours(start=start, end=end)]}


async def set_own_rate(market: Market, provider: Party, rate: int | None, kind: int = INFERENCE) -> Any:
    """Sets an own rate; None returns to the platform's rate."""
    given: dict[str, Any] = {"platform_rate": True} if rate is None else {"halala_per_minute": rate}
    request = terms_pb2.SetOwnRateRequest(job_type=kind, **given)  # type: ignore[arg-type]
    return await market.terms_service.SetOwnRate(request, metadata=provider.metadata)


async def set_settings(
    market: Market, provider: Party, hours: Sequence[terms_pb2.WeeklyHours] = (), **limits: Any
) -> terms_pb2.ProviderSettings:
    """Replaces the settings; the hours are in Riyadh's time."""
    request = terms_pb2.SetOwnSettingsRequest(hours=hours, timezone="Asia/Riyadh" if hours else "", **limits)
    return (await market.terms_service.SetOwnSettings(request, metadata=provider.metadata)).settings


async def listed(market: Market, provider: Party, **filters: Any) -> renters_pb2.AvailableProvider | None:
    """The provider in the public list."""
    request = renters_pb2.ListAvailableProvidersRequest(**filters)
    found = (await market.renter_service.ListAvailableProviders(request)).providers
    return next((entry for entry in found if entry.id == provider.id), None)


async def is_accepting(market: Market, provider: Party) -> bool:
    """Whether the public list shows the provider as accepting jobs."""
    entry = await listed(market, provider)
    assert entry is not None
    return entry.accepting_jobs


async def change_platform_rate(market: Market, rate: int) -> None:
    """An operator changes the platform's rate for inference."""
    request = operations_pb2.ChangeRateRequest(job_type=INFERENCE, halala_per_minute=rate)
    await market.operation_service.ChangeRate(request, metadata=market.admin_metadata)


async def obstacle(market: Market, job: jobs_pb2.Job, provider: Party) -> tuple[str, str]:
    """A provider's obstacle and message in the job's explanation."""
    (listed,) = [entry for entry in (await market.why(job)).providers if entry.provider_id == provider.id]
    return jobs_pb2.Obstacle.Name(listed.code).removeprefix("OBSTACLE_"), listed.message


async def heartbeat_at(daemon: Daemon, temp_c: float) -> None:
    """A heartbeat with the temperature of the hotter of two GPUs."""
    hot = gpus_pb2.GpuDevice(index=1, temp_c=temp_c)
    status = gpus_pb2.GpuStatus(gpu_name="RTX 4090", gpu_vram_mib=24576, temp_c=30, all_gpus=[hot])
    await daemon.heartbeat(gpu_status=status)


# Own rates.


async def test_job_that_names_the_provider_costs_its_own_rate(any_market: Market) -> None:
    market = any_market
    provider, renter = await market.provider(), await market.renter()
    daemon = await market.daemon(provider)
    answer = await set_own_rate(market, provider, 121)
    own = {rate.job_type: rate for rate in answer.rates}[INFERENCE]
    assert (own.halala_per_minute, own.own, own.platform_halala_per_minute) == (121, True, 150)
    assert (own.least_halala_per_minute, own.most_halala_per_minute) == (75, 450)
    assert [rate.own for rate in answer.rates].count(True) == 1
    shown = await listed(market, provider)
    assert shown is not None
    assert shown.rates_halala_per_minute["llm-inference"] == 121
    assert "training" not in shown.rates_halala_per_minute  # which it does not run
    job, lease = await market.running_job(renter, provider, daemon, output=b"Hello.")
    assert (job.cost_halala, job.rate_halala_per_minute) == (363, 121)
    assert await market.wallet(renter) == (5000 - 363, 363)
    market.clock.advance(75)
    await daemon.finished(lease, seconds=75)
    assert (await market.job(job)).billing.actual_cost_halala == 152  # 151.25, rounded up
    assert await market.earned(provider) == 114
    await market.assert_money_adds_up()


async def test_rates_stand_beside_what_the_other_connected_providers_charge(any_market: Market) -> None:
    market = any_market
    provider, absent = await market.provider(), await market.provider()
    await market.daemon(provider)
    await set_own_rate(market, absent, 449)

    async def others() -> terms_pb2.OthersRates | None:
        request = terms_pb2.ListOwnRatesRequest()
        answer = await market.terms_service.ListOwnRates(request, metadata=provider.metadata)
        (own,) = [rate for rate in answer.rates if rate.job_type == INFERENCE]
        return own.others if own.HasField("others") else None

    assert await others() is None
    for rate in (100, 120, None, 200, 300):
        other = await market.provider()
        await market.daemon(other)
        if rate is not None:
            await set_own_rate(market, other, rate)
    assert await others() == terms_pb2.OthersRates(
        providers=5,
        lowest_halala_per_minute=100,
        lower_quartile_halala_per_minute=120,
        median_halala_per_minute=150,
        upper_quartile_halala_per_minute=200,
        highest_halala_per_minute=300,
    )


@pytest.mark.parametrize("rate", [74, 451])
async def test_rate_out_of_bounds_is_refused_with_the_bounds(market: Market, rate: int) -> None:
    provider = await market.provider()
    refused = await refusal(set_own_rate(market, provider, rate))
    assert (refused.reason, refused.facts.field) == ("RATE_OUT_OF_BOUNDS", "halala_per_minute")
    assert "from 75 to 450 halala per minute" in refused.message
    for accepted in (75, 450):
        await set_own_rate(market, provider, accepted)


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({}, "halala_per_minute"),
        ({"halala_per_minute": 150, "platform_rate": True}, "platform_rate"),
    ],
)
async def test_request_gives_either_an_own_rate_or_the_platforms(
    market: Market, given: dict[str, Any], field: str
) -> None:
    request = terms_pb2.SetOwnRateRequest(job_type=INFERENCE, **given)
    provider = await market.provider()
    call = market.terms_service.SetOwnRate(request, metadata=provider.metadata)
    refused = await refusal(call)
    assert (refused.reason, refused.facts.field) == ("INVALID_FIELD", field)


async def test_provider_without_an_own_rate_follows_the_platforms_rate(market: Market) -> None:
    provider, renter = await market.provider(), await market.renter()
    await market.daemon(provider)
    await set_own_rate(market, provider, 300)
    await set_own_rate(market, provider, 260, jobs_pb2.JOB_TYPE_TRAINING)
    await set_own_rate(market, provider, None)
    await change_platform_rate(market, 160)
    request = terms_pb2.ListOwnRatesRequest()
    answer = await market.terms_service.ListOwnRates(request, metadata=provider.metadata)
    now = {rate.job_type: (rate.halala_per_minute, rate.own) for rate in answer.rates}
    assert (now[INFERENCE], now[jobs_pb2.JOB_TYPE_TRAINING]) == ((160, False), (260, True))
    assert (await market.submit(renter, provider)).rate_halala_per_minute == 160


async def test_job_without_a_provider_goes_to_a_provider_that_asks_at_most_the_platforms_rate(
    any_market: Market,
) -> None:
    market = any_market
    dear, fair = await market.provider(), await market.provider()
    first = await market.daemon(dear, slots=5)
    await set_own_rate(market, dear, 151)
    renter = await market.renter()
    job = await market.submit(renter)
    assert (job.status, job.rate_halala_per_minute) == (jobs_pb2.JOB_STATE_QUEUED, 150)
    assert await obstacle(market, job, dear) == (
        "RATE_ABOVE_QUOTE",
        "It charges 151 halala per minute and the job was quoted 150 halala per minute; "
        "name it in provider_id to be quoted its price.",
    )
    await market.tick()
    await first.heard_nothing()
    second = await market.daemon(fair, slots=5)
    await set_own_rate(market, fair, 80)
    assert (await second.expect("job_offer")).lease.job_id == job.job_id
    assert (await market.submit(renter)).rate_halala_per_minute == 150
    await second.expect("job_offer")
    waiting = await market.submit(renter, params=jobs_pb2.JobParams(model=MODEL, prompt="x"))
    await second.expect("job_offer")
    assert waiting.provider_id == fair.id


async def test_lowering_the_rate_brings_waiting_jobs_at_once(market: Market) -> None:
    provider, renter = await market.provider(), await market.renter()
    daemon = await market.daemon(provider)
    await set_own_rate(market, provider, 400)
    job = await market.submit(renter)
    await daemon.heard_nothing()
    await set_own_rate(market, provider, 150)
    assert (await daemon.expect("job_offer")).lease.job_id == job.job_id


async def test_changed_rate_leaves_submitted_jobs_at_their_quote(market: Market) -> None:
    provider, renter = await market.provider(), await market.renter(10_000)
    daemon = await market.daemon(provider)
    await set_own_rate(market, provider, 100)
    running, lease = await market.running_job(renter, provider, daemon, output=b"Hello.")
    queued = await market.submit(renter, provider)
    held = await market.wallet(renter)
    await set_own_rate(market, provider, 400)
    assert await market.wallet(renter) == held
    market.clock.advance(60)
    await daemon.heartbeat()
    await daemon.finished(lease, seconds=60)
    assert (await market.job(running)).billing.actual_cost_halala == 100
    lease = (await daemon.expect("job_offer")).lease
    assert lease.job_id == queued.job_id  # the job keeps its quote, although the rate is higher now
    await daemon.start(lease)
    await daemon.output(lease, 1, b"Hello.")
    market.clock.advance(60)
    await daemon.finished(lease, seconds=60)
    assert (await market.job(queued)).billing.actual_cost_halala == 100
    await market.assert_money_adds_up()


async def test_queued_job_is_still_offered_after_the_platforms_rate_rises(market: Market) -> None:
    renter = await market.renter()
    job = await market.submit(renter)
    await change_platform_rate(market, 500)
    daemon = await market.daemon(await market.provider())
    assert (await daemon.expect("job_offer")).lease.job_id == job.job_id
    assert (await market.job(job)).rate_halala_per_minute == 150


async def test_own_rate_outside_new_bounds_stays_until_it_is_set_again(market: Market) -> None:
    provider, renter = await market.provider(), await market.renter()
    await market.daemon(provider)
    await set_own_rate(market, provider, 450)
    await change_platform_rate(market, 60)
    assert (await market.submit(renter, provider)).rate_halala_per_minute == 450
    assert (await refusal(set_own_rate(market, provider, 450))).reason == "RATE_OUT_OF_BOUNDS"


async def test_rate_set_at_another_server_counts_from_the_next_offer(any_market: Market) -> None:
    """Even before this server has read it: no provider is offered a job below its rate."""
    market = any_market
    provider, renter = await market.provider(), await market.renter()
    daemon = await market.daemon(provider)
    now_ms = round(market.clock.now() * 1000)
    dear = {JobType.LLM_INFERENCE: 200}
    await market.sql(lambda: terms.change(provider.id, lambda old: replace(old, prices=Prices(dear)), now_ms))
    job = await market.submit(renter)
    assert job.status == jobs_pb2.JOB_STATE_QUEUED
    await daemon.heard_nothing()
    assert (await obstacle(market, job, provider))[0] == "NONE"  # this server has not read the new rate yet
    await market.tick()
    assert (await obstacle(market, job, provider))[0] == "RATE_ABOVE_QUOTE"


async def test_every_change_of_another_server_is_read_however_many_there_are(
    any_market: Market, monkeypatch: pytest.MonkeyPatch
) -> None:
    market = any_market
    monkeypatch.setattr(server.services.terms, "CHANGES_PAGE", 2)
    owners = [await market.provider() for _ in range(5)]
    for provider in owners:
        await market.daemon(provider)
    now_ms = round(market.clock.now() * 1000)
    dear = {JobType.LLM_INFERENCE: 200}

    def in_dear(old: Terms) -> Terms:
        return replace(old, prices=Prices(dear))

    for number, provider in enumerate(owners):
        at_ms = now_ms + number // 3  # some at once, and more than a page
        await market.sql(
            lambda p=provider, at_ms=at_ms: terms.change(p.id, in_dear, at_ms)  # type: ignore[misc]
        )
    await market.tick()
    job = await market.submit(await market.renter())
    assert [(await obstacle(market, job, provider))[0] for provider in owners] == ["RATE_ABOVE_QUOTE"] * 5


# Hours.


async def test_provider_outside_its_hours_gets_no_new_job(any_market: Market) -> None:
    market = any_market
    provider, renter = await market.provider(), await market.renter()
    daemon = await market.daemon(provider, slots=2)
    _, lease = await market.running_job(renter, provider, daemon)
    await set_settings(market, provider, [OFFICE])
    await daemon.expect("settings_update")
    refused = await refusal(market.submit(renter, provider))
    assert (refused.reason, refused.facts.status) == ("PROVIDER_UNAVAILABLE", "outside_hours")
    assert refused.facts.advice == "leave provider_id out"
    assert f"provider {provider.id} takes jobs again at 14:00 Asia/Riyadh" in refused.message
    shown = await listed(market, provider)
    assert shown is not None
    assert not shown.accepting_jobs
    assert shown.opens_at.ToSeconds() == market.clock.now() + 3 * 3600
    waiting = await market.submit(renter, start_within_seconds=86_400)
    assert await obstacle(market, waiting, provider) == (
        "OUTSIDE_HOURS",
        "It takes jobs again at 14:00 Asia/Riyadh.",
    )
    assert await daemon.finished(lease) == sessions_pb2.RESULT_DISPOSITION_ACCEPTED  # the running job went on
    await daemon.heard_nothing()
    market.clock.advance(3 * 3600)
    await daemon.heartbeat()
    await market.tick()
    assert (await daemon.expect("job_offer")).lease.job_id == waiting.job_id
    shown = await listed(market, provider)
    assert shown is not None
    assert (shown.accepting_jobs, shown.HasField("opens_at")) == (True, False)


async def test_job_that_waits_for_a_provider_whose_hours_ended_says_so(market: Market) -> None:
    provider, renter = await market.provider(), await market.renter()
    daemon = await market.daemon(provider)
    await market.running_job(renter, provider, daemon)
    job = await market.submit(renter, provider)
    await set_settings(market, provider, [terms_pb2.WeeklyHours(start="14:00", end="11:00")])
    explanation = await market.why(job)
    assert jobs_pb2.JobCondition.Name(explanation.code) == "JOB_CONDITION_PROVIDER_AWAY"
    assert "leave provider_id out" in explanation.message
    assert not explanation.HasField("estimated_start_seconds")


def test_closed_and_hot_providers_do_not_crowd_out_the_others() -> None:
    """Placement looks at some providers of a large fleet, and only at those that take jobs now."""
    fleet, training = Fleet(), Wants(JobType.TRAINING)
    closed = Settings((window([], "14:00", "22:00"),), "Asia/Riyadh")
    for number, settings in enumerate((closed, Settings(max_temp_c=80), Settings()), start=1):
        own = Terms(settings=settings)
        fleet.join(Presence(number, 1, "b", lambda _: None, 0, 1, frozenset(JobType), (), terms=own))
        fleet.beat(number, NOW_MS, GpuReport(temp_c=81.0))
    assert [candidate.provider_id for candidate in fleet.candidates(training, NOW_MS, 0)] == [3]
    later_ms = NOW_MS + 3 * 3_600_000
    assert [candidate.provider_id for candidate in fleet.candidates(training, later_ms, 0)] == [1, 3]


# Temperature and memory.


async def test_hot_gpu_gets_no_new_job_until_it_is_five_degrees_cooler(any_market: Market) -> None:
    market = any_market
    provider, renter = await market.provider(), await market.renter()
    daemon = await market.daemon(provider, slots=3)
    await set_settings(market, provider, max_temp_c=80)
    await daemon.expect("settings_update")
    await heartbeat_at(daemon, 80)
    await market.submit(renter, provider)
    await daemon.expect("job_offer")
    await heartbeat_at(daemon, 83)
    refused = await refusal(market.submit(renter, provider))
    assert (refused.reason, refused.facts.status) == ("PROVIDER_UNAVAILABLE", "too_hot")
    assert "83 °C" in refused.message
    assert "75 °C or less" in refused.message
    job = await market.submit(renter)
    assert (await obstacle(market, job, provider))[0] == "TOO_HOT"
    await heartbeat_at(daemon, 76)
    await market.tick()
    assert not await is_accepting(market, provider)
    await daemon.heard_nothing()
    await heartbeat_at(daemon, 75)
    assert await is_accepting(market, provider)
    await market.tick()
    assert (await daemon.expect("job_offer")).lease.job_id == job.job_id


async def test_gpu_that_was_too_hot_stays_so_in_the_next_session(market: Market) -> None:
    provider = await market.provider()
    await set_settings(market, provider, max_temp_c=80)
    await heartbeat_at(await market.daemon(provider), 90)
    await market.daemon(provider, gpu_status=gpus_pb2.GpuStatus(temp_c=78))
    assert not await is_accepting(market, provider)


async def test_reserved_memory_is_not_given_to_jobs(any_market: Market) -> None:
    market = any_market
    provider, renter = await market.provider(), await market.renter()
    gpu = gpus_pb2.GpuStatus(gpu_name="RTX 4090", gpu_vram_mib=24576)
    daemon = await market.daemon(provider, gpu_status=gpu, slots=3)
    await set_settings(market, provider, vram_reserve_mib=8192)
    await daemon.expect("settings_update")
    requirements: dict[str, Any] = {"gpu_requirements": jobs_pb2.GpuRequirements(min_vram_gb=17)}
    refused = await refusal(market.submit(renter, provider, **requirements))
    assert (refused.reason, refused.facts.field) == ("INVALID_FIELD", "gpu_requirements.min_vram_gb")
    assert "16384 MiB of GPU memory for jobs" in refused.message
    job = await market.submit(renter, **requirements)
    assert await obstacle(market, job, provider) == (
        "VRAM_RESERVED",
        "Its owner reserves 8192 of its 24576 MiB of GPU memory and the job asks for 17408 MiB.",
    )
    await daemon.heard_nothing()
    shown = await listed(market, provider, min_vram_gb=16)
    assert shown is not None
    assert (shown.gpu_vram_mib, shown.vram_for_jobs_mib) == (24576, 16384)
    assert await listed(market, provider, min_vram_gb=17) is None
    await set_settings(market, provider)
    assert (await daemon.expect("settings_update")).vram_reserve_mib == 0
    assert (await daemon.expect("job_offer")).lease.job_id == job.job_id


# Settings: how they are set, stored and sent to the daemon.


async def test_settings_are_replaced_as_a_whole_and_read_back_unchanged(any_market: Market) -> None:
    market = any_market
    provider = await market.provider()
    days = [terms_pb2.WEEKDAY_FRIDAY, terms_pb2.WEEKDAY_SUNDAY]
    hours = [terms_pb2.WeeklyHours(days=days, start="22:00", end="06:30"), OFFICE]
    saved = await set_settings(market, provider, hours, max_temp_c=85, vram_reserve_mib=1024)
    assert (saved.timezone, saved.max_temp_c, saved.vram_reserve_mib) == ("Asia/Riyadh", 85, 1024)
    assert saved.hours[0] == hours[0]
    assert list(saved.hours[1].days) == list(range(1, 8))
    request = terms_pb2.GetOwnSettingsRequest()
    assert (await market.terms_service.GetOwnSettings(request, metadata=provider.metadata)).settings == saved
    me = providers_pb2.GetOwnProviderRequest()
    mine = (await market.provider_service.GetOwnProvider(me, metadata=provider.metadata)).provider
    assert mine.settings == saved
    assert await set_settings(market, provider) == terms_pb2.ProviderSettings()


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"hours": [OFFICE]}, "timezone"),
        ({"timezone": "Mars/Base"}, "timezone"),
        (settings_with_hours("1400", "22:00"), "hours[0].start"),
        (settings_with_hours("08:60", "17:00"), "hours[0].start"),
        (settings_with_hours("24:00", "08:00"), "hours[0].start"),
        (settings_with_hours("-1:00", "08:00"), "hours[0].start"),
        (settings_with_hours("٠٨:00", "17:00"), "hours[0].start"),
        (settings_with_hours("08:00", "24:01"), "hours[0].end"),
        (settings_with_hours("08:00", "8 pm"), "hours[0].end"),
        (
            {"timezone": "UTC", "hours": [terms_pb2.WeeklyHours(days=[0], start="14:00", end="15:00")]},  # type: ignore[list-item]
            "hours[0].days",
        ),
        ({"max_temp_c": 29}, "max_temp_c"),
        ({"vram_reserve_mib": -1}, "vram_reserve_mib"),
    ],
)
async def test_bad_setting_is_refused_with_its_field(
    market: Market, body: dict[str, Any], field: str
) -> None:
    provider = await market.provider()
    request = terms_pb2.SetOwnSettingsRequest(**body)
    refused = await refusal(market.terms_service.SetOwnSettings(request, metadata=provider.metadata))
    assert (refused.reason, refused.facts.field) == ("INVALID_FIELD", field)


async def test_daemon_receives_the_settings_with_welcome_and_when_they_change(any_market: Market) -> None:
    market = any_market
    provider = await market.provider()
    saved = await set_settings(market, provider, [OFFICE], max_temp_c=80)
    daemon = market.connect(provider)
    assert (await daemon.hello()).settings == saved
    changed = await set_settings(market, provider, max_temp_c=70)
    assert await daemon.expect("settings_update") == changed
    await set_settings(market, provider, max_temp_c=70)
    await set_own_rate(market, provider, 100)
    await market.tick()
    await daemon.heard_nothing()  # unchanged settings and new rates are not sent to it
    now_ms = round(market.clock.now() * 1000)
    at_another_server = lambda old: replace(old, settings=replace(old.settings, max_temp_c=60))  # noqa: E731
    await market.sql(lambda: terms.change(provider.id, at_another_server, now_ms))
    await market.tick()
    assert (await daemon.expect("settings_update")).max_temp_c == 60

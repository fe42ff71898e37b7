"""Verdicts, self-tests and hindrances of providers, as providers and renters see them."""

from __future__ import annotations

from typing import Any

import pytest
from dcp.v1 import (
    gpus_pb2,
    honesty_pb2,
    jobs_pb2,
    operations_pb2,
    providers_pb2,
    renters_pb2,
    sessions_pb2,
)

from server.domain.hindrances import Minimums
from server.store import honesty
from server.store.models import Provider
from tests.support import running_server
from tests.support.manual_clock import ManualClock
from tests.support.running_server import MODEL, Daemon, Market, Party, refusal

pytestmark = pytest.mark.in_turns

INFERENCE, CUSTOM = jobs_pb2.JOB_TYPE_LLM_INFERENCE, jobs_pb2.JOB_TYPE_CUSTOM_CONTAINER
VERIFIED, UNVERIFIED, SUSPECT = (
    honesty_pb2.VERDICT_VERIFIED,
    honesty_pb2.VERDICT_UNVERIFIED,
    honesty_pb2.VERDICT_SUSPECT,
)
DAY_SECONDS = 24 * 3600
SERVED = [sessions_pb2.ServedModel(name=MODEL)]
FAILED_TEST = honesty_pb2.SelfTest(name="llamacpp", reason="It hangs.", models=[MODEL], job_types=[INFERENCE])
PASSED_TEST = honesty_pb2.SelfTest(name="llamacpp", passed=True, models=[MODEL], job_types=[INFERENCE])


def gpu_status(*uuids: str, driver: str = "550.54.15", **first_gpu: Any) -> gpus_pb2.GpuStatus:
    figures: dict[str, Any] = {
        "gpu_name": "NVIDIA L4",
        "gpu_vram_mib": 23034,
        "free_vram_mib": 23000,
        "memory_used_mb": 34,
        "state": gpus_pb2.GPU_STATE_HEALTHY,
    }
    gpus = [gpus_pb2.GpuDevice(index=number, uuid=uuid, **figures) for number, uuid in enumerate(uuids)]
    for name, value in first_gpu.items():
        setattr(gpus[0], name, value)
    return gpus_pb2.GpuStatus(
        gpu_name="NVIDIA L4",
        gpu_vram_mib=23034,
        gpu_count=len(gpus),
        all_gpus=gpus,
        driver_version=driver,
        daemon_version="0.1.0",
    )


def self_tests(*tests: honesty_pb2.SelfTest) -> honesty_pb2.SelfTestReport:
    return honesty_pb2.SelfTestReport(tests=tests)


async def own_profile(market: Market, provider: Party) -> providers_pb2.Provider:
    request = providers_pb2.GetOwnProviderRequest()
    return (await market.provider_service.GetOwnProvider(request, metadata=provider.metadata)).provider


async def list_providers(market: Market, **filters: Any) -> list[renters_pb2.AvailableProvider]:
    request = renters_pb2.ListAvailableProvidersRequest(**filters)
    return list((await market.renter_service.ListAvailableProviders(request)).providers)


async def post_heartbeat(market: Market, provider: Party, status: gpus_pb2.GpuStatus) -> None:
    request = providers_pb2.HeartbeatRequest(gpu_status=status)
    await market.provider_service.Heartbeat(request, metadata=provider.metadata)


async def verdict(market: Market, provider: Party) -> tuple[int, list[str]]:
    """The verdict on the reports that have arrived."""
    await market.judge()
    verification = (await own_profile(market, provider)).verification
    names = [honesty_pb2.VerdictReason.Name(finding.code) for finding in verification.findings]
    assert all(finding.message for finding in verification.findings)
    return verification.verdict, [name.removeprefix("VERDICT_REASON_") for name in names]


async def make_live(daemon: Daemon, market: Market) -> None:
    """Sends a heartbeat and lets the server store it."""
    await daemon.heartbeat()
    await market.tick()


async def test_verdict_is_shown_to_the_provider_renters_and_the_operator(any_market: Market) -> None:
    market = any_market
    honest, bare = await market.provider(), await market.provider()
    await market.daemon(honest, gpu_status=gpu_status("GPU-a"))
    await market.daemon(bare, gpu_status=gpus_pb2.GpuStatus(gpu_count=0, python_version="3.11"))
    assert await verdict(market, honest) == (VERIFIED, [])
    assert await verdict(market, bare) == (UNVERIFIED, ["NO_GPU_MEASURED"])
    verdicts = {entry.id: entry.verification.verdict for entry in await list_providers(market)}
    assert verdicts == {honest.id: VERIFIED, bare.id: UNVERIFIED}
    assert [entry.id for entry in await list_providers(market, verified=True)] == [honest.id]
    listed = await market.operation_service.ListProviders(
        operations_pb2.ListProvidersRequest(), metadata=market.admin_metadata
    )
    assert {entry.id: entry.verification.verdict for entry in listed.providers} == verdicts


@pytest.mark.parametrize("by_stream", [True, False])
async def test_heartbeats_by_stream_and_by_post_get_the_same_verdict(market: Market, by_stream: bool) -> None:
    provider = await market.provider()
    lie = gpu_status("GPU-a", gpu_vram_mib=81920)
    if by_stream:
        await (await market.daemon(provider)).heartbeat(gpu_status=lie)
    else:
        await post_heartbeat(market, provider, lie)
    assert await verdict(market, provider) == (SUSPECT, ["MEMORY_MISMATCH", "FIGURES_IMPLAUSIBLE"])


async def test_false_gpu_model_at_registration_stays_suspect(market: Market) -> None:
    request = providers_pb2.RegisterProviderRequest(name="P", email="claim@example.com", gpu_model="H100")
    registered = await market.provider_service.RegisterProvider(request)
    provider = Party(registered.provider_id, registered.api_key)
    await post_heartbeat(market, provider, gpu_status("GPU-a"))
    assert await verdict(market, provider) == (SUSPECT, ["CLAIM_MISMATCH"])
    market.clock.advance(DAY_SECONDS)
    await post_heartbeat(market, provider, gpu_status("GPU-a", temp_c=40))
    assert await verdict(market, provider) == (SUSPECT, ["CLAIM_MISMATCH"])


async def test_changed_gpus_are_unverified_for_a_day(any_market: Market) -> None:
    market = any_market
    provider = await market.provider()
    await post_heartbeat(market, provider, gpu_status("GPU-a", "GPU-b"))
    assert await verdict(market, provider) == (VERIFIED, [])
    market.clock.advance(120)
    await post_heartbeat(market, provider, gpu_status("GPU-b", "GPU-c"))
    assert await verdict(market, provider) == (UNVERIFIED, ["GPUS_CHANGED"])
    market.clock.advance(DAY_SECONDS - 1)
    await post_heartbeat(market, provider, gpu_status("GPU-b", "GPU-c", temp_c=50))
    assert (await verdict(market, provider))[0] == UNVERIFIED
    market.clock.advance(1)
    await post_heartbeat(market, provider, gpu_status("GPU-b", "GPU-c"))
    assert await verdict(market, provider) == (VERIFIED, [])


async def test_failed_gpu_or_lost_driver_does_not_count_as_changed_gpus(market: Market) -> None:
    provider = await market.provider()
    both = gpu_status("GPU-a", "GPU-b")
    await post_heartbeat(market, provider, both)
    failed = gpu_status("GPU-a", "GPU-b", state=gpus_pb2.GPU_STATE_FAILED)
    for status in (failed, gpus_pb2.GpuStatus(driver_lost=True, all_gpus=both.all_gpus), both):
        market.clock.advance(120)
        await post_heartbeat(market, provider, status)
        assert await verdict(market, provider) == (VERIFIED, [])


async def test_two_live_providers_with_the_same_gpu_are_suspect_until_one_leaves(any_market: Market) -> None:
    market = any_market
    first, second = await market.provider(), await market.provider()
    daemon = await market.daemon(first, gpu_status=gpu_status("GPU-a"))
    await market.tick()
    await market.daemon(second, gpu_status=gpu_status("GPU-a"))
    assert await verdict(market, first) == (SUSPECT, ["UUID_SHARED"])
    assert await verdict(market, second) == (SUSPECT, ["UUID_SHARED"])
    market.clock.advance(900)
    await daemon.heartbeat(gpu_status=gpu_status("GPU-a", temp_c=41))
    assert await verdict(market, first) == (VERIFIED, [])


async def test_all_providers_that_claim_the_same_gpu_are_suspect(market: Market) -> None:
    providers = [await market.provider() for _ in range(25)]
    for provider in providers:
        await post_heartbeat(market, provider, gpu_status("GPU-a"))
        await market.judge()
    assert {(await verdict(market, provider))[0] for provider in providers} == {SUSPECT}
    # Each check reads only some of them, however many there are.
    checked = await market.sql(lambda: honesty.sharing(providers[0].id, ["GPU-a"], 0))
    assert len(checked) == honesty.MAX_SHARING < len(providers) - 1


async def test_machine_that_registers_again_keeps_its_gpus_verified(market: Market) -> None:
    before, after = await market.provider(), await market.provider()
    await post_heartbeat(market, before, gpu_status("GPU-a"))
    market.clock.advance(60)
    await post_heartbeat(market, after, gpu_status("GPU-a"))
    assert await verdict(market, after) == (VERIFIED, [])


async def test_suspect_provider_gets_a_job_only_when_no_other_provider_is_there(market: Market) -> None:
    suspect, honest, renter = await market.provider(), await market.provider(), await market.renter()
    suspect_daemon = await market.daemon(
        suspect, gpu_status=gpu_status("GPU-a", compute_capability="1.0"), slots=9
    )
    honest_daemon = await market.daemon(honest, gpu_status=gpu_status("GPU-b"))
    await market.judge()
    await market.submit(renter)
    await honest_daemon.expect("job_offer")
    await market.submit(renter)  # waits for the honest one, which is busy
    await suspect_daemon.heard_nothing()
    honest_daemon.cut()
    await market.later(1)
    await suspect_daemon.expect("job_offer")


async def test_heartbeat_without_a_change_writes_no_verdict(market: Market) -> None:
    provider = await market.provider()
    daemon = await market.daemon(provider, gpu_status=gpu_status("GPU-a"))
    await market.judge()
    since = (await own_profile(market, provider)).verification.since
    # A heartbeat that wrote the verdict would correct this value.
    await market.set_provider(provider, verdict="suspect")
    for second in range(60):
        market.clock.advance(1)
        await daemon.heartbeat(gpu_status=gpu_status("GPU-a", temp_c=second))
        await market.judge()
    assert (await verdict(market, provider))[0] == SUSPECT
    await market.set_provider(provider, verdict="verified")
    market.clock.advance(2 * 3600)
    await daemon.heartbeat(gpu_status=gpu_status("GPU-a"))
    await market.judge()
    assert (await own_profile(market, provider)).verification.since == since


async def test_no_provider_is_preferred_before_its_report_is_judged(market: Market) -> None:
    """A judgement follows within a second; until then the report may be a lie that was not found yet."""
    known, liar, renter = await market.provider(), await market.provider(), await market.renter()
    honest_daemon = await market.daemon(known, gpu_status=gpu_status("GPU-a"))
    await market.judge()
    lie = gpu_status("GPU-b", compute_capability="1.0")
    liars_daemon = await market.daemon(liar, gpu_status=lie, slots=9)
    await market.submit(renter)
    await honest_daemon.expect("job_offer")
    await liars_daemon.heard_nothing()


async def test_provider_whose_gpu_another_one_claims_in_the_same_second_loses_its_place(
    market: Market,
) -> None:
    """Both reports are judged in one batch; the other one's claim counts though it is judged first."""
    honest, claimed, thief = await market.provider(), await market.provider(), await market.provider()
    renter = await market.renter()
    first = await market.daemon(honest, gpu_status=gpu_status("GPU-a"))
    second = await market.daemon(claimed, gpu_status=gpu_status("GPU-b"), slots=9)
    await market.judge()
    market.clock.advance(3600)
    await market.daemon(thief, gpu_status=gpu_status("GPU-b"), slots=9)
    await second.heartbeat(gpu_status=gpu_status("GPU-b"))
    await first.heartbeat(gpu_status=gpu_status("GPU-a"))
    await market.tick()
    await market.judge()
    await market.submit(renter)
    await first.expect("job_offer")
    assert (await verdict(market, claimed))[0] == (await verdict(market, thief))[0] == SUSPECT


async def test_changed_report_costs_a_verified_provider_its_place_until_it_is_judged(market: Market) -> None:
    changing, other, renter = await market.provider(), await market.provider(), await market.renter()
    first = await market.daemon(changing, gpu_status=gpu_status("GPU-a"), slots=9)
    second = await market.daemon(other, gpu_status=gpu_status("GPU-b"))
    await market.judge()
    market.clock.advance(61)
    await second.heartbeat()
    await first.heartbeat(gpu_status=gpu_status("GPU-a", gpu_vram_mib=81920))
    await market.submit(renter)
    await second.expect("job_offer")
    await first.heard_nothing()


async def test_stored_verdict_counts_for_a_session_without_a_report(market: Market) -> None:
    """As after a restart of the server, while the driver does not answer."""
    suspect, honest, renter = await market.provider(), await market.provider(), await market.renter()
    await market.set_provider(suspect, verdict="suspect")
    suspect_daemon = await market.daemon(suspect, slots=9)
    honest_daemon = await market.daemon(honest)
    await market.submit(renter)
    await honest_daemon.expect("job_offer")
    await suspect_daemon.heard_nothing()


async def test_report_that_cannot_be_judged_holds_up_no_other(any_market: Market) -> None:
    market = any_market
    broken, other = await market.provider(), await market.provider()
    for number, provider in enumerate((broken, other)):
        await post_heartbeat(market, provider, gpu_status(f"GPU-{number}"))
    await market.set_provider(broken, self_tests="[0]")
    await market.judge()
    found = await market.sql(lambda: {row.id: row.verdict for row in Provider.select()})
    assert found == {broken.id: "unverified", other.id: "verified"}
    await market.set_provider(broken, self_tests="[]")
    market.clock.advance(60)
    await post_heartbeat(market, broken, gpu_status("GPU-0"))
    assert await verdict(market, broken) == (VERIFIED, [])


async def test_machine_that_reports_new_gpus_every_second_is_judged_once_a_minute(market: Market) -> None:
    provider = await market.provider()
    for second in range(50):
        await post_heartbeat(market, provider, gpu_status(f"GPU-{second}"))
        await market.judge()
        market.clock.advance(1)
    assert (await own_profile(market, provider)).verification.verdict == VERIFIED
    market.clock.advance(30)
    await post_heartbeat(market, provider, gpu_status("GPU-50"))
    assert await verdict(market, provider) == (UNVERIFIED, ["GPUS_CHANGED"])


async def test_failed_self_test_stops_jobs_and_shows_both_sides_the_reason(any_market: Market) -> None:
    market = any_market
    provider, renter = await market.provider(), await market.renter()
    daemon = await market.daemon(provider, models=[], job_types=[], self_tests=self_tests(FAILED_TEST))
    await make_live(daemon, market)
    (seen,) = await list_providers(market)
    assert not seen.accepting_jobs
    assert "It hangs." in seen.hindrances[0].message
    own = await own_profile(market, provider)
    assert own.self_tests[0] == FAILED_TEST
    assert own.hindrances[0].code == jobs_pb2.OBSTACLE_SELF_TEST_FAILED
    refused = await refusal(market.submit(renter, provider))
    assert (refused.reason, "It hangs." in refused.message) == ("PROVIDER_UNAVAILABLE", True)
    assert (await refusal(market.submit(renter))).reason == "JOB_TYPE_NOT_SERVED"
    job = await market.submit(renter, wait_for_supply=True)
    (considered,) = (await market.why(job)).providers
    assert considered.code == jobs_pb2.OBSTACLE_SELF_TEST_FAILED
    kinds = sessions_pb2.OfferedJobTypes(job_types=[INFERENCE])
    update = sessions_pb2.CapacityUpdate(
        slots=1, models=SERVED, job_types=kinds, self_tests=self_tests(PASSED_TEST)
    )
    await daemon.say(capacity_update=update)
    assert (await daemon.expect("job_offer")).lease.job_id == job.job_id
    (seen,) = await list_providers(market)
    assert (seen.accepting_jobs, list(seen.hindrances)) == (True, [])
    assert list((await own_profile(market, provider)).self_tests) == [PASSED_TEST]


async def test_capacity_update_without_job_types_stops_offers(market: Market) -> None:
    provider, renter = await market.provider(), await market.renter()
    daemon = await market.daemon(provider, self_tests=self_tests(PASSED_TEST))
    update = sessions_pb2.CapacityUpdate(
        slots=1, job_types=sessions_pb2.OfferedJobTypes(), self_tests=self_tests(FAILED_TEST)
    )
    await daemon.say(capacity_update=update)
    await daemon.heard_nothing()
    assert (await market.submit(renter, wait_for_supply=True)).status == jobs_pb2.JOB_STATE_QUEUED
    await daemon.heard_nothing()
    (seen,) = await list_providers(market)
    assert not seen.accepting_jobs


async def test_job_that_names_a_provider_waits_for_its_first_self_test(any_market: Market) -> None:
    market = any_market
    provider, renter = await market.provider(), await market.renter()
    pending = honesty_pb2.SelfTest(name="llamacpp", pending=True, models=[MODEL], job_types=[INFERENCE])
    daemon = await market.daemon(provider, models=[], job_types=[], self_tests=self_tests(pending))
    job = await market.submit(renter, provider)
    await daemon.heard_nothing()
    params = jobs_pb2.JobParams(model="other", prompt="Hi.")
    assert (await refusal(market.submit(renter, provider, params=params))).reason == "PROVIDER_UNAVAILABLE"
    kinds = sessions_pb2.OfferedJobTypes(job_types=[INFERENCE])
    update = sessions_pb2.CapacityUpdate(
        slots=1, models=SERVED, job_types=kinds, self_tests=self_tests(PASSED_TEST)
    )
    await daemon.say(capacity_update=update)
    assert (await daemon.expect("job_offer")).lease.job_id == job.job_id


async def test_capacity_update_may_change_only_the_job_types(market: Market) -> None:
    provider, renter = await market.provider(), await market.renter()
    daemon = await market.daemon(provider)
    for kinds in ([], [INFERENCE]):
        job_types = sessions_pb2.OfferedJobTypes(job_types=kinds)
        await daemon.say(
            capacity_update=sessions_pb2.CapacityUpdate(slots=1, models=SERVED, job_types=job_types)
        )
        if not kinds:
            await daemon.heard_nothing()
            await market.submit(renter, wait_for_supply=True)
            await daemon.heard_nothing()
            assert not (await list_providers(market))[0].accepting_jobs
    await daemon.expect("job_offer")
    assert (await list_providers(market))[0].accepting_jobs


async def test_capacity_update_of_an_older_daemon_keeps_job_types_and_self_tests(market: Market) -> None:
    provider, renter = await market.provider(), await market.renter()
    daemon = await market.daemon(provider, self_tests=self_tests(PASSED_TEST), slots=0)
    await daemon.say(capacity_update=sessions_pb2.CapacityUpdate(slots=1, models=SERVED))
    await daemon.heard_nothing()
    await market.submit(renter)
    await daemon.expect("job_offer")
    (seen,) = await list_providers(market)
    assert seen.accepting_jobs
    assert list((await own_profile(market, provider)).self_tests) == [PASSED_TEST]


async def test_machine_whose_gpus_all_failed_gets_no_job_until_a_gpu_recovers(market: Market) -> None:
    provider, renter = await market.provider(), await market.renter()
    daemon = await market.daemon(provider, gpu_status=gpu_status("GPU-a", state=gpus_pb2.GPU_STATE_FAILED))
    job = await market.submit(renter)
    (considered,) = (await market.why(job)).providers
    assert considered.code == jobs_pb2.OBSTACLE_GPUS_FAILED
    await market.tick()
    (seen,) = await list_providers(market)
    assert not seen.accepting_jobs
    await daemon.heartbeat(gpu_status=gpu_status("GPU-a"))
    await market.tick()
    assert (await daemon.expect("job_offer")).lease.job_id == job.job_id


@pytest.mark.parametrize(
    ("minimums", "code", "kinds"),
    [
        (Minimums(driver="560"), jobs_pb2.OBSTACLE_DRIVER_TOO_OLD, {INFERENCE, CUSTOM}),
        (Minimums(daemon="99"), jobs_pb2.OBSTACLE_DAEMON_TOO_OLD, {INFERENCE, CUSTOM}),
        (Minimums(toolkit="1.14"), jobs_pb2.OBSTACLE_TOOLKIT_TOO_OLD, {CUSTOM}),
    ],
)
async def test_outdated_provider_stays_connected_and_gets_no_jobs_that_need_newer_software(
    sqlite_url: str, clock: ManualClock, minimums: Minimums, code: int, kinds: set[int]
) -> None:
    async with running_server.running(sqlite_url, clock, minimums=minimums) as market:
        provider, renter = await market.provider(), await market.renter()
        daemon = await market.daemon(provider, gpu_status=gpu_status("GPU-a"), job_types=[INFERENCE, CUSTOM])
        await make_live(daemon, market)
        (hindrance,) = (await own_profile(market, provider)).hindrances
        assert (hindrance.code, kinds <= set(hindrance.job_types)) == (code, True)
        (seen,) = await list_providers(market)
        assert list(seen.hindrances) == [hindrance]
        assert seen.accepting_jobs is (INFERENCE not in kinds)
        job = await market.submit(renter)
        if INFERENCE in kinds:
            assert (await market.why(job)).providers[0].code == code
            assert (await refusal(market.submit(renter, provider))).reason == "PROVIDER_UNAVAILABLE"
        else:
            await daemon.expect("job_offer")


async def test_machine_without_containers_gets_container_jobs_only_if_they_name_it(
    sqlite_url: str, clock: ManualClock
) -> None:
    async with running_server.running(sqlite_url, clock) as market:
        provider, renter = await market.provider(), await market.renter()
        daemon = await market.daemon(provider, job_types=[INFERENCE, CUSTOM], runs_plain_processes=True)
        await make_live(daemon, market)
        (seen,) = await list_providers(market)
        assert (seen.runs_plain_processes, seen.accepting_jobs) == (True, True)
        waiting = await market.submit(renter, job_type=CUSTOM)
        await market.tick()
        (considered,) = (await market.why(waiting)).providers
        assert considered.code == jobs_pb2.OBSTACLE_NO_CONTAINERS
        assert "provider_id" in considered.message
        named = await market.submit(renter, provider, job_type=CUSTOM)
        assert (await daemon.expect("job_offer")).lease.job_id == named.job_id
        await daemon.heard_nothing()


async def test_hindrance_stays_after_a_hello_without_a_gpu_report(
    sqlite_url: str, clock: ManualClock
) -> None:
    async with running_server.running(sqlite_url, clock, minimums=Minimums(driver="560")) as market:
        provider, renter = await market.provider(), await market.renter()
        await market.daemon(provider, gpu_status=gpu_status("GPU-a"))
        await market.tick()
        daemon = await market.daemon(provider)
        await market.submit(renter)
        await daemon.heard_nothing()


async def test_run_on_a_failed_gpu_goes_to_another_provider_without_a_charge(any_market: Market) -> None:
    market = any_market
    first, second, renter = await market.provider(), await market.provider(), await market.renter()
    first_daemon = await market.daemon(first)
    job = await market.submit(renter)
    lease = (await first_daemon.expect("job_offer")).lease
    await first_daemon.start(lease)
    await first_daemon.heard_nothing()
    second_daemon = await market.daemon(second)
    failed = {
        "outcome": sessions_pb2.RUN_OUTCOME_RELEASED,
        "failure_reason": jobs_pb2.FAILURE_REASON_GPU_FAILED,
    }
    await first_daemon.say(capacity_update=sessions_pb2.CapacityUpdate(slots=0, models=SERVED))
    assert await first_daemon.finished(lease, **failed) == sessions_pb2.RESULT_DISPOSITION_ACCEPTED
    await market.tick()
    assert (await second_daemon.expect("job_offer")).attempt == 2
    assert "GPU failed" in (await market.why(job)).attempts[0].detail
    assert await market.wallet(renter) == (5000 - 450, 450)
    await market.assert_money_adds_up()


async def test_job_whose_last_attempt_lost_its_gpu_fails_with_that_reason(market: Market) -> None:
    provider, renter = await market.provider(), await market.renter()
    daemon = await market.daemon(provider)
    job = await market.submit(renter)
    for _ in range(5):
        lease = (await daemon.expect("job_offer")).lease
        await daemon.start(lease)
        await daemon.heard_nothing()
        failed = {
            "outcome": sessions_pb2.RUN_OUTCOME_RELEASED,
            "failure_reason": jobs_pb2.FAILURE_REASON_GPU_FAILED,
        }
        await daemon.finished(lease, **failed)
    ended = await market.job(job)
    assert (ended.status, ended.failure_reason) == (
        jobs_pb2.JOB_STATE_FAILED,
        jobs_pb2.FAILURE_REASON_GPU_FAILED,
    )
    assert await market.wallet(renter) == (5000, 0)


async def test_implausible_text_and_unknown_job_types_are_not_stored(any_market: Market) -> None:
    market = any_market
    provider = await market.provider()
    odd = honesty_pb2.SelfTest(name="a", reason="\u202e", models=["\n"], job_types=[0, 999])  # type: ignore[list-item]
    await market.daemon(provider, gpu_status=gpu_status("GPU \n"), self_tests=self_tests(odd))
    assert await verdict(market, provider) == (UNVERIFIED, ["FIGURES_MISSING"])
    stored = await market.sql(lambda: Provider.get_by_id(provider.id).self_tests)
    assert "999" not in stored

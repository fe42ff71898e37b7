"""GPU models in the market: one name in every answer, and a job gets only the model that it asks for."""

from __future__ import annotations

from typing import Any

import pytest
from dcp.v1 import admin_pb2, admin_pb2_grpc, jobs_pb2, providers_pb2, renters_pb2

from server.store import jobs, providers
from server.store.models import Job, Provider
from tests.support.running_server import ADMIN_TOKEN, Market, bearer, refusal

pytestmark = pytest.mark.in_turns

A100_80 = {"gpu_name": "NVIDIA A100-SXM4-80GB", "gpu_vram_mib": 81920}


async def registered(market: Market, gpu_model: str) -> str:
    """The model in the own profile of a provider that registered with this name."""
    answer = await market.provider_service.RegisterProvider(
        providers_pb2.RegisterProviderRequest(
            name="P", email=f"{len(gpu_model)}@a.example", gpu_model=gpu_model
        )
    )
    me = await market.provider_service.GetOwnProvider(
        providers_pb2.GetOwnProviderRequest(), metadata=bearer(answer.api_key)
    )
    return str(me.provider.gpu_model)


async def listed(market: Market, **filters: Any) -> renters_pb2.ListAvailableProvidersResponse:
    request = renters_pb2.ListAvailableProvidersRequest(**filters)
    answer: renters_pb2.ListAvailableProvidersResponse = await market.renter_service.ListAvailableProviders(
        request
    )
    return answer


def needs(gpu_model: str) -> jobs_pb2.GpuRequirements:
    return jobs_pb2.GpuRequirements(gpu_model=gpu_model)


async def test_claimed_and_reported_names_are_shown_as_one(market: Market) -> None:
    assert await registered(market, "rtx4090") == "RTX 4090"
    assert await registered(market, "my own card") == "my own card"
    for name in ("NVIDIA RTX 4090", "NVIDIA GeForce RTX 4090"):
        await market.daemon(await market.provider(), gpu_status={"gpu_name": name, "gpu_vram_mib": 24564})
    answer = await listed(market)
    assert [(one.gpu_model, one.gpu_name) for one in answer.providers] == [
        ("RTX 4090", "NVIDIA RTX 4090"),
        ("RTX 4090", "NVIDIA GeForce RTX 4090"),
    ]
    dashboard = await admin_pb2_grpc.AdminServiceStub(market.channel).GetDashboard(
        admin_pb2.GetDashboardRequest(), metadata=bearer(ADMIN_TOKEN)
    )
    assert (dashboard.gpus[0].gpu_model, dashboard.gpus[0].providers) == ("RTX 4090", 3)


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ("A100", 1),
        ("a100-80gb", 1),
        ("A100 40GB", 0),
        ("A10", 0),
        ("A100 MIG 1g.10gb", 0),
    ],
)
async def test_market_and_queue_agree_on_a_wanted_model(any_market: Market, wanted: str, found: int) -> None:
    market = any_market
    provider, renter = await market.provider(), await market.renter()
    daemon = await market.daemon(provider, gpu_status=A100_80)
    assert (await listed(market, gpu_model=wanted)).total == found
    if not found:
        refused = await refusal(market.submit(renter, provider, gpu_requirements=needs(wanted)))
        assert refused.facts.field == "gpu_requirements.gpu_model"
        assert "A100 with 81920 MiB" in refused.message
    job = await market.submit(renter, gpu_requirements=needs(wanted))
    if found:
        assert (await daemon.expect("job_offer")).lease.job_id == job.job_id
        return
    await market.tick()
    await daemon.heard_nothing()
    told = await market.why(job, renter)
    assert [one.code for one in told.providers] == [jobs_pb2.OBSTACLE_OTHER_GPU]
    assert told.providers[0].message.startswith("It has A100 with 81920 MiB and the job asks for ")


async def test_queued_job_gets_the_model_that_it_wants_once_one_is_there(any_market: Market) -> None:
    renter = await any_market.renter()
    job = await any_market.submit(renter, gpu_requirements=needs("nvidia a100 80 GB"))
    await any_market.daemon(
        await any_market.provider(), gpu_status={"gpu_name": "NVIDIA A100-PCIE-40GB", "gpu_vram_mib": 40960}
    )
    daemon = await any_market.daemon(await any_market.provider(), gpu_status=A100_80)
    assert (await daemon.expect("job_offer")).lease.job_id == job.job_id


async def test_a_name_that_nobody_knows_is_refused_with_the_nearest_ones(market: Market) -> None:
    renter = await market.renter()
    await market.daemon(
        await market.provider(), gpu_status={"gpu_name": "Acme  Card 9", "gpu_vram_mib": 8192}
    )
    refused = await refusal(market.submit(renter, gpu_requirements=needs("RTX 4091")))
    assert (refused.reason, refused.facts.field) == ("INVALID_FIELD", "gpu_requirements.gpu_model")
    assert "did you mean RTX 4090 or RTX 4090 D or RTX 5090?" in refused.message
    assert await market.wallet(renter) == (5000, 0)
    assert list((await listed(market, gpu_model="RTX 4091")).nearest_gpu_models) == [
        "RTX 4090",
        "RTX 4090 D",
        "RTX 5090",
    ]
    for own in ("acme card9", "ACME CARD 9"):
        answer = await listed(market, gpu_model=own)
        assert (answer.total, list(answer.nearest_gpu_models)) == (1, [])
    await market.submit(renter, gpu_requirements=needs("acme card9"))
    known = await listed(market, gpu_model="H100")  # known: nobody has it now, but a job may wait for one
    assert (known.total, list(known.nearest_gpu_models)) == (0, [])


async def test_memory_of_a_gpu_that_shares_the_machines_is_that_of_its_model(market: Market) -> None:
    provider, renter = await market.provider(), await market.renter()
    daemon = await market.daemon(provider, gpu_status={"gpu_name": "NVIDIA GB10"})
    (one,) = (await listed(market, min_vram_gb=100)).providers
    assert (one.gpu_model, one.gpu_vram_mib) == ("GB10", 128 * 1024)
    await market.submit(renter, provider, gpu_requirements=jobs_pb2.GpuRequirements(min_vram_gb=100))
    await daemon.expect("job_offer")


@pytest.mark.parametrize(
    ("reported", "sentence"),
    [
        ({"gpu_name": "NVIDIA Something 1"}, "does not report how much memory its NVIDIA Something 1 has"),
        ({}, "reports no GPU"),
    ],
)
async def test_memory_that_is_not_known_is_never_called_zero(
    market: Market, reported: dict[str, str], sentence: str
) -> None:
    provider, renter = await market.provider(), await market.renter()
    await market.daemon(provider, gpu_status=reported)
    wanted = jobs_pb2.GpuRequirements(min_vram_gb=4)
    refused = await refusal(market.submit(renter, provider, gpu_requirements=wanted))
    assert f"provider {provider.id} {sentence} and the job asks for 4096 MiB" in refused.message
    waiting = await market.submit(renter, gpu_requirements=wanted)
    (told,) = (await market.why(waiting, renter)).providers
    assert told.message == (
        "It does not report the memory of its NVIDIA Something 1 and the job asks for 4096 MiB."
        if reported
        else "It reports no GPU and the job asks for 4096 MiB."
    )
    expected = jobs_pb2.OBSTACLE_VRAM_UNKNOWN if reported else jobs_pb2.OBSTACLE_TOO_LITTLE_VRAM
    assert told.code == expected
    (listed_one,) = (await listed(market)).providers
    assert not listed_one.HasField("gpu_vram_mib")
    assert not listed_one.HasField("vram_for_jobs_mib")


async def test_memory_shared_with_the_machine_is_marked_and_serves_jobs(market: Market) -> None:
    provider, renter = await market.provider(), await market.renter()
    status = {"gpu_name": "Orin (nvgpu)", "gpu_vram_mib": 62_000, "vram_is_shared": True}
    daemon = await market.daemon(provider, gpu_status=status)
    (one,) = (await listed(market)).providers
    assert (one.gpu_vram_mib, one.gpu_vram_is_shared) == (62_000, True)
    await market.submit(renter, provider, gpu_requirements=jobs_pb2.GpuRequirements(min_vram_gb=32))
    await daemon.expect("job_offer")


async def test_memory_of_a_gpu_that_was_replaced_is_forgotten(any_market: Market) -> None:
    provider = await any_market.provider()
    daemon = await any_market.daemon(provider, gpu_status={"gpu_name": "RTX 4090", "gpu_vram_mib": 24564})
    await daemon.heartbeat(gpu_status={"gpu_name": "RTX 4090"})
    await any_market.tick()
    assert (await listed(any_market)).providers[0].gpu_vram_mib == 24564
    await daemon.heartbeat(gpu_status={"gpu_name": "NVIDIA Something 1"})
    await any_market.tick()
    assert not (await listed(any_market)).providers[0].HasField("gpu_vram_mib")


async def test_gpu_that_answers_after_the_session_began_gets_the_jobs_that_need_it(market: Market) -> None:
    provider, renter = await market.provider(), await market.renter()
    daemon = await market.daemon(provider)
    await daemon.heartbeat(gpu_status={"gpu_name": "RTX 4090", "gpu_vram_mib": 24564})
    await market.tick()
    await market.submit(renter, provider, gpu_requirements=jobs_pb2.GpuRequirements(min_vram_gb=8))
    await daemon.expect("job_offer")


async def test_rows_of_older_releases_get_their_canonical_names(any_market: Market) -> None:
    renter = await any_market.renter()
    job = await any_market.submit(renter, gpu_requirements=needs("H100"))
    provider = await any_market.provider()
    await any_market.set_provider(provider, gpu_model="NVIDIA GeForce RTX 3090")
    await any_market.sql(lambda: Job.update(gpu_model="nvidia h100").execute())
    await any_market.sql(providers.rename_gpus)
    await any_market.sql(jobs.rename_gpus)
    assert await any_market.sql(lambda: Provider.get_by_id(provider.id).gpu_model) == "RTX 3090"
    assert await any_market.sql(lambda: Job.get_by_id(job.job_id).gpu_model) == "H100"

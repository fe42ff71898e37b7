"""Jobs that bring an image: which providers allow it, can run it, and how often it may fail to come."""

from __future__ import annotations

from typing import Any

import pytest
from dcp.v1 import gpus_pb2, jobs_pb2, renters_pb2, sessions_pb2

from server.services.jobs import FAILED_PULLS_SECONDS, MAX_FAILED_PULLS
from tests.support.running_server import Daemon, Market, refusal

pytestmark = pytest.mark.in_turns

QUEUED = jobs_pb2.JOB_STATE_QUEUED
CUSTOM = jobs_pb2.JOB_TYPE_CUSTOM_CONTAINER
ACME, OTHER = "ghcr.io/acme/trainer:1", "docker.io/library/python:3.12"


def allowing(*patterns: str, architecture: str = "") -> dict[str, Any]:
    """The Hello of a daemon that runs containers of these images."""
    status = gpus_pb2.GpuStatus(architecture=architecture) if architecture else gpus_pb2.GpuStatus()
    images = sessions_pb2.AllowedImages(patterns=patterns)
    return {"job_types": [CUSTOM], "images": images, "gpu_status": status}


def bringing(image: str, **changes: Any) -> dict[str, Any]:
    """The fields of a job that brings an image."""
    spec = jobs_pb2.ContainerSpec(image=image, **changes)
    return {"job_type": CUSTOM, "params": jobs_pb2.JobParams(), "container_spec": spec}


async def give_back(daemon: Daemon, offer: sessions_pb2.JobOffer, reason: str) -> None:
    await daemon.accept(offer.lease)
    number = jobs_pb2.FailureReason.Value(f"FAILURE_REASON_{reason}")
    await daemon.finished(offer.lease, outcome=sessions_pb2.RUN_OUTCOME_RELEASED, failure_reason=number)


async def test_image_that_nobody_allows_is_refused_with_those_that_are(any_market: Market) -> None:
    market = any_market
    provider, renter = await market.provider(), await market.renter()
    daemon = await market.daemon(provider, **allowing("ghcr.io/acme/*"))
    for named in (None, provider):
        refused = await refusal(market.submit(renter, named, **bringing(OTHER)))
        assert (refused.reason, refused.facts.field) == ("IMAGE_NOT_ALLOWED", "container_spec.image")
        assert OTHER in refused.message
        assert "such as ghcr.io/acme/*" in refused.message
    assert await market.wallet(renter) == (5000, 0)
    waiting = await market.submit(renter, **bringing(OTHER), wait_for_supply=True)
    (considered,) = (await market.why(waiting)).providers
    assert considered.code == jobs_pb2.OBSTACLE_IMAGE_NOT_ALLOWED
    # A job that waits keeps no other from the provider.
    allowed = await market.submit(renter, **bringing(ACME))
    offer = await daemon.expect("job_offer")
    assert offer.lease.job_id == allowed.job_id
    await daemon.refuse(offer.lease)
    await daemon.heard_nothing()
    await market.cancel(allowed, renter)
    # The owner allows more: the job that waits is offered.
    update = sessions_pb2.CapacityUpdate(
        slots=2, images=sessions_pb2.AllowedImages(patterns=["ghcr.io/acme/*", "python"])
    )
    await daemon.say(capacity_update=update)
    assert (await daemon.expect("job_offer")).lease.job_id == waiting.job_id
    await market.assert_money_adds_up()


async def test_daemon_that_reports_no_images_decides_itself(market: Market) -> None:
    hello = allowing()
    hello.pop("images")
    daemon = await market.daemon(await market.provider(), **hello)
    await market.submit(await market.renter(), **bringing(OTHER))
    assert (await daemon.expect("job_offer")).container_spec.image == OTHER


async def test_registry_on_a_private_network_is_refused_though_every_image_is_allowed(market: Market) -> None:
    provider, renter = await market.provider(), await market.renter()
    daemon = await market.daemon(provider, **allowing("*", "nas.lan:5000/*"))
    refused = await refusal(market.submit(renter, **bringing("127.0.0.1:8080/internal/secret:1")))
    assert refused.reason == "IMAGE_NOT_ALLOWED"
    await market.submit(renter, **bringing("nas.lan:5000/tool:1"))
    await daemon.expect("job_offer")


async def test_job_gets_a_provider_with_the_processor_that_it_names(any_market: Market) -> None:
    market = any_market
    renter, one, other = await market.renter(), await market.provider(), await market.provider()
    await market.daemon(one, **allowing("*", architecture="amd64"))
    spec = bringing(OTHER, architecture="arm64")
    refused = await refusal(market.submit(renter, one, **spec))
    assert (refused.reason, refused.facts.field) == ("INVALID_FIELD", "container_spec.architecture")
    assert "has the processor amd64" in refused.message
    job = await market.submit(renter, **spec)
    assert job.status == QUEUED
    (considered,) = (await market.why(job)).providers
    assert considered.code == jobs_pb2.OBSTACLE_OTHER_ARCHITECTURE
    arm = await market.daemon(other, **allowing("*", architecture="arm64"))
    assert (await arm.expect("job_offer")).lease.job_id == job.job_id
    for architecture, ids in (("arm64", [other.id]), ("amd64", [one.id]), ("", [one.id, other.id])):
        listed = await market.renter_service.ListAvailableProviders(
            renters_pb2.ListAvailableProvidersRequest(architecture=architecture, page=1, page_size=50)
        )
        assert [provider.id for provider in listed.providers] == ids
        assert all(list(provider.image_patterns) == ["*"] for provider in listed.providers)
        assert not architecture or {found.architecture for found in listed.providers} == {architecture}


async def test_image_for_another_processor_costs_nothing_and_goes_elsewhere(any_market: Market) -> None:
    market = any_market
    renter, one, other = await market.renter(), await market.provider(), await market.provider()
    amd = await market.daemon(one, **allowing("*", architecture="amd64"))
    job = await market.submit(renter, **bringing(OTHER))
    await give_back(amd, await amd.expect("job_offer"), "OTHER_ARCHITECTURE")
    assert (await market.job(job)).status == QUEUED
    await market.later(60)
    await amd.heartbeat()
    await market.tick()
    await amd.heard_nothing()
    (considered,) = (await market.why(job)).providers
    assert considered.code == jobs_pb2.OBSTACLE_OTHER_ARCHITECTURE
    arm = await market.daemon(other, **allowing("*", architecture="arm64"))
    assert (await arm.expect("job_offer")).lease.job_id == job.job_id
    listed = await market.renter_service.ListAvailableProviders(
        renters_pb2.ListAvailableProvidersRequest(architecture="amd64", page=1, page_size=50)
    )
    assert [found.reliability_attempts for found in listed.providers] == [0]
    assert not listed.providers[0].HasField("reliability")  # nothing is known
    await market.assert_money_adds_up()


async def test_provider_without_room_for_an_image_is_not_asked_again_at_once(any_market: Market) -> None:
    market = any_market
    renter, full, roomy = await market.renter(), await market.provider(), await market.provider()
    daemon = await market.daemon(full, **allowing("*"))
    job = await market.submit(renter, **bringing(OTHER))
    await give_back(daemon, await daemon.expect("job_offer"), "IMAGE_PULL_FAILED")
    await market.tick()
    await daemon.heard_nothing()
    other = await market.daemon(roomy, **allowing("*"))
    assert (await other.expect("job_offer")).lease.job_id == job.job_id


async def test_processor_that_is_reported_after_the_session_began_counts(market: Market) -> None:
    renter, provider = await market.renter(), await market.provider()
    daemon = await market.daemon(provider, **allowing("*"))
    job = await market.submit(renter, **bringing(OTHER, architecture="arm64"))
    await daemon.heard_nothing()
    await daemon.heartbeat(gpu_status=gpus_pb2.GpuStatus(architecture="arm64"))
    await market.tick()
    assert (await daemon.expect("job_offer")).lease.job_id == job.job_id


async def test_many_providers_that_do_not_allow_an_image_hide_none_that_does(
    market: Market, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.services.dispatch.CANDIDATES_LIMIT", 2)
    renter = await market.renter()
    for _ in range(3):
        await market.daemon(await market.provider(), **allowing("ghcr.io/acme/*"))
    last = await market.daemon(await market.provider(), **allowing("python"))
    job = await market.submit(renter, **bringing(OTHER))
    assert (await last.expect("job_offer")).lease.job_id == job.job_id


async def test_renter_whose_images_fail_to_come_again_and_again_has_to_wait(any_market: Market) -> None:
    market = any_market
    renter, another = await market.renter(100_000), await market.renter()
    daemon = await market.daemon(await market.provider(), **allowing("*"))
    reason = jobs_pb2.FAILURE_REASON_IMAGE_PULL_FAILED
    for _ in range(MAX_FAILED_PULLS):
        await market.submit(renter, **bringing("evil.example.org/bomb:1"))
        offer = await daemon.expect("job_offer")
        await daemon.accept(offer.lease)
        await daemon.finished(offer.lease, outcome=sessions_pb2.RUN_OUTCOME_FAILED, failure_reason=reason)
        await daemon.heard_nothing()  # the search for jobs that the end of its run began has ended
    refused = await refusal(market.submit(renter, **bringing(OTHER)))
    assert refused.reason == "RATE_LIMITED"
    assert refused.facts.retry_after_seconds == FAILED_PULLS_SECONDS
    await market.submit(another, **bringing(OTHER))
    await market.later(FAILED_PULLS_SECONDS + 1)
    await market.submit(renter, **bringing(OTHER), wait_for_supply=True)
    await market.assert_money_adds_up()


@pytest.mark.parametrize(
    "name", ["LD_PRELOAD", "ld_audit", "LD_LIBRARY_PATH", "NVIDIA_X", "DCP_X", "1X", "A B"]
)
async def test_variable_that_a_job_may_not_set_is_refused_at_the_submit(market: Market, name: str) -> None:
    await market.daemon(await market.provider(), **allowing("*"))
    refused = await refusal(market.submit(await market.renter(), **bringing(OTHER, env={name: "x"})))
    assert refused.reason == "INVALID_FIELD"
    assert refused.facts.field == f"container_spec.env.{name}"

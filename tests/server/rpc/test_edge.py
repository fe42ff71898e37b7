"""The edge: internal errors without details, health, reflection, and an orderly stop."""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from typing import Any

import grpc
import pytest
from dcp.v1 import jobs_pb2, providers_pb2, renters_pb2, sessions_pb2, terms_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from server.app import MAX_MESSAGE_BYTES, Server
from server.config import Config, ConfigError
from tests.server.rpc.methods import METHODS
from tests.support import running_server
from tests.support.databases import execute
from tests.support.manual_clock import ManualClock
from tests.support.running_server import ADMIN_TOKEN, HANG_SECONDS, Market, refusal


async def test_internal_error_shows_only_an_id(market: Market, caplog: pytest.LogCaptureFixture) -> None:
    provider = await market.provider()
    await market.set_provider(provider, gpu_status="{secret-in-the-row")
    with caplog.at_level(logging.ERROR):
        refused = await refusal(
            market.provider_service.GetOwnProvider(
                providers_pb2.GetOwnProviderRequest(),
                metadata=(*provider.metadata, ("x-request-id", "request-7")),
            )
        )
    assert (refused.code, refused.reason) == (grpc.StatusCode.INTERNAL, "INTERNAL")
    assert refused.facts.request_id == "request-7"
    for leak in ("secret-in-the-row", "JSON", "Traceback", "line", ".py", "sqlite"):
        assert leak not in str(refused)
    assert "request-7" in caplog.text
    assert "JSONDecodeError" in caplog.text
    assert provider.key not in caplog.text


async def test_missing_database_is_store_unavailable(
    market: Market, caplog: pytest.LogCaptureFixture
) -> None:
    renter = await market.renter()
    await market.sql(partial(execute, market.server._database, "ALTER TABLE job RENAME TO gone"))
    for call in (market.submit(renter), market.wallet(renter)):
        refused = await refusal(call)
        assert (refused.code, refused.reason) == (grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE")
        assert "gone" not in refused.message
        assert "no such table" not in str(refused)
    await market.sql(partial(execute, market.server._database, "ALTER TABLE gone RENAME TO job"))
    assert await market.wallet(renter) == (5000, 0)


async def test_fault_after_a_commit_is_not_told_as_if_nothing_was_changed(market: Market) -> None:
    provider = await market.provider()
    database, fleet = market.server._database, market.server.services.fleet

    def break_after_commit(provider_id: int) -> None:
        """Is called between the commit and the read of the answer."""
        database._submit(partial(execute, database, "ALTER TABLE provider RENAME TO gone")).result()

    fleet.announce = break_after_commit
    call = market.provider_service.PauseOwnProvider(
        providers_pb2.PauseOwnProviderRequest(), metadata=provider.metadata
    )
    assert (await refusal(call)).reason == "OUTCOME_UNKNOWN"
    await market.sql(partial(execute, database, "ALTER TABLE gone RENAME TO provider"))


async def test_stored_change_is_a_success_though_no_job_can_be_offered_now(market: Market) -> None:
    provider = await market.provider()
    await market.daemon(provider)
    database = market.server._database
    await market.sql(partial(execute, database, "ALTER TABLE lease RENAME TO gone"))
    rate = terms_pb2.SetOwnRateRequest(job_type=jobs_pb2.JOB_TYPE_LLM_INFERENCE, halala_per_minute=120)
    answer = await market.terms_service.SetOwnRate(rate, metadata=provider.metadata)
    assert answer.success
    await market.sql(partial(execute, database, "ALTER TABLE gone RENAME TO lease"))


async def test_unknown_method_is_unimplemented(market: Market) -> None:
    call: Any = market.channel.unary_unary("/dcp.v1.JobService/Nothing")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call(b"")
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_message_over_the_size_limit_is_refused(market: Market) -> None:
    renter = await market.renter()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await market.submit(
            renter,
            params=jobs_pb2.JobParams(
                model="m", messages=[jobs_pb2.ChatMessage(role="user", content="x" * (MAX_MESSAGE_BYTES + 1))]
            ),
        )
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


SERVICES = sorted({method.containing_service.full_name for method in METHODS.values()})


@pytest.mark.parametrize("service", ["", *SERVICES])
async def test_health_is_served_without_a_credential(market: Market, service: str) -> None:
    stub = health_pb2_grpc.HealthStub(market.channel)
    answer = await stub.Check(health_pb2.HealthCheckRequest(service=service))
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


async def test_reflection_lists_every_service_of_the_protos(market: Market) -> None:
    stub = reflection_pb2_grpc.ServerReflectionStub(market.channel)
    call = stub.ServerReflectionInfo(iter([reflection_pb2.ServerReflectionRequest(list_services="")]))
    listed = {service.name async for answer in call for service in answer.list_services_response.service}
    assert {name for name in listed if name.startswith("dcp.")} == set(SERVICES)


async def test_stop_asks_daemons_to_reconnect(market: Market) -> None:
    provider = await market.provider()
    daemon = await market.daemon(provider)
    stopping = asyncio.create_task(market.stop())
    message = await daemon.expect("reconnect")
    assert message.after.ToMilliseconds() > 0
    assert message.jitter.ToMilliseconds() > 0
    daemon.cut()
    await stopping
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await market.provider()
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_stop_notifies_every_stream_and_ends_although_they_stay_open(market: Market) -> None:
    """No daemon hangs up, one sent no Hello, and one does not read; the server ends nevertheless."""
    daemons = [await market.daemon(await market.provider()) for _ in range(20)]
    daemons.append(market.connect(await market.provider()))
    await market.connect(await market.provider()).say(**hello_of_daemon_that_never_reads())
    async with asyncio.timeout(HANG_SECONDS):
        await market.stop()
    for daemon in daemons:
        assert (await daemon.expect("reconnect")).jitter.ToMilliseconds() > 0
        assert await daemon.ended() is None


def hello_of_daemon_that_never_reads() -> dict[str, Any]:
    return {"hello": sessions_pb2.Hello(boot_id="b", protocol_version=1)}


async def test_accepted_job_and_session_survive_a_restart(sqlite_url: str, clock: ManualClock) -> None:
    async with running_server.running(sqlite_url, clock) as market:
        renter, provider = await market.renter(), await market.provider()
        daemon = await market.daemon(provider)
        job, lease = await market.running_job(renter, provider, daemon, output=b"Hello.")
    async with running_server.running(sqlite_url, clock) as market:
        daemon = market.connect(provider)
        await daemon.hello(held_leases=[lease])
        await daemon.expect("lease_directive")
        assert (await market.job(job)).status == jobs_pb2.JOB_STATE_RUNNING
        clock.advance(75)
        await daemon.finished(lease, seconds=75)
        assert await market.wallet(renter) == (5000 - 188, 0)


async def test_port_in_use_is_reported_with_the_variable(market: Market, sqlite_url: str) -> None:
    config = Config(f"{sqlite_url}2", market.server.address, ADMIN_TOKEN, False, None, "INFO")
    second = Server(config)
    with pytest.raises(ConfigError, match="DCP_GRPC_LISTEN: cannot listen"):
        await second.start()
    second._database.stop()


async def test_address_can_be_registered_once_in_any_case_and_form(market: Market) -> None:
    for email, reason in (
        ("Some.One@Example.com", None),
        ("some.one@example.COM", "EMAIL_TAKEN"),
        ("SOME.ONE@example.com", "EMAIL_TAKEN"),
        ("someone@example.com", None),
    ):
        call = market.renter_service.RegisterRenter(renters_pb2.RegisterRenterRequest(name="R", email=email))
        if reason is None:
            await call
            continue
        refused = await refusal(call)
        assert (refused.code, refused.reason) == (grpc.StatusCode.ALREADY_EXISTS, reason)
        assert refused.facts.field == "email"

"""Limits at the edge: per account, per address, on registrations, wrong keys, open jobs and streams."""

from __future__ import annotations

import asyncio
import ipaddress
from typing import Any

import grpc
import pytest
from dcp.v1 import jobs_pb2, options_pb2, providers_pb2, renters_pb2

from server.domain.limits import OFF, Limits
from server.rpc.addresses import Addresses
from tests.server.rpc import methods
from tests.server.rpc.methods import METHODS
from tests.support import running_server
from tests.support.manual_clock import ManualClock
from tests.support.running_server import ADMIN_TOKEN, Market, Metadata, Party, Refusal, bearer, refusal

HOME: Metadata = (("x-forwarded-for", "192.0.2.1"),)
ELSEWHERE: Metadata = (("x-forwarded-for", "192.0.2.2"),)


def limited(url: str, clock: ManualClock, **figures: int) -> Any:
    """A server with only these limits."""
    values = dict.fromkeys(Limits.__dataclass_fields__, 0) | figures
    return running_server.running(url, clock, limits=Limits(**values))


async def call_with_key(market: Market, who: Party, address: Metadata = ()) -> Any:
    """A call with a renter's key."""
    request = renters_pb2.GetOwnRenterRequest()
    return await market.renter_service.GetOwnRenter(request, metadata=(*who.metadata, *address))


async def call_without_key(market: Market, address: Metadata) -> Any:
    """A call without credentials."""
    request = renters_pb2.ListAvailableProvidersRequest()
    return await market.renter_service.ListAvailableProviders(request, metadata=address)


async def register(market: Market, number: int, address: Metadata) -> Any:
    """Registers a renter."""
    request = renters_pb2.RegisterRenterRequest(name="R", email=f"new{number}@example.com")
    return await market.renter_service.RegisterRenter(request, metadata=address)


def limit_facts(refused: Refusal) -> tuple[str, str, int, int]:
    """Reason, limit, figure and waiting time of a refusal."""
    assert refused.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    facts = refused.facts
    return refused.reason, facts.limit, facts.limit_per_minute, facts.retry_after_seconds


async def test_account_over_its_limit_is_refused_and_another_is_not(
    sqlite_url: str, clock: ManualClock
) -> None:
    async with limited(sqlite_url, clock, key_per_minute=3) as market:
        renter, other = await market.renter(0), await market.renter(0)
        for _ in range(3):
            await call_with_key(market, renter)
        assert limit_facts(await refusal(call_with_key(market, renter))) == ("RATE_LIMITED", "key", 3, 20)
        await call_with_key(market, other)
        clock.advance(20)
        await call_with_key(market, renter)


async def test_account_is_counted_across_addresses(sqlite_url: str, clock: ManualClock) -> None:
    async with limited(sqlite_url, clock, key_per_minute=2) as market:
        renter = await market.renter(0)
        await call_with_key(market, renter, HOME)
        await call_with_key(market, renter, ELSEWHERE)
        assert limit_facts(await refusal(call_with_key(market, renter, HOME)))[1] == "key"


async def test_address_over_its_limit_is_refused_and_another_is_not(
    sqlite_url: str, clock: ManualClock
) -> None:
    async with limited(sqlite_url, clock, address_per_minute=6) as market:
        for _ in range(6):
            await call_without_key(market, HOME)
        assert limit_facts(await refusal(call_without_key(market, HOME))) == (
            "RATE_LIMITED",
            "address",
            6,
            10,
        )
        await call_without_key(market, ELSEWHERE)
        clock.advance(10)
        await call_without_key(market, HOME)


async def test_registrations_have_their_own_limit(sqlite_url: str, clock: ManualClock) -> None:
    async with limited(sqlite_url, clock, registrations_per_minute=2) as market:
        await register(market, 1, HOME)
        request = providers_pb2.RegisterProviderRequest(name="P", email="p@example.com")
        await market.provider_service.RegisterProvider(request, metadata=HOME)
        assert limit_facts(await refusal(register(market, 2, HOME))) == (
            "RATE_LIMITED",
            "registration",
            2,
            30,
        )
        await register(market, 3, ELSEWHERE)
        await call_without_key(market, HOME)


async def test_unknown_keys_are_limited_by_address(sqlite_url: str, clock: ManualClock) -> None:
    async with limited(sqlite_url, clock, failed_keys_per_minute=2) as market:
        guess = Party(0, "dcp-renter-" + "x" * 43)
        for _ in range(2):
            assert (await refusal(call_with_key(market, guess, HOME))).reason == "INVALID_CREDENTIAL"
        assert limit_facts(await refusal(call_with_key(market, guess, HOME))) == (
            "RATE_LIMITED",
            "failed-key",
            2,
            30,
        )
        assert (await refusal(call_with_key(market, guess, ELSEWHERE))).reason == "INVALID_CREDENTIAL"


async def test_correct_key_after_too_many_wrong_keys_is_refused(sqlite_url: str, clock: ManualClock) -> None:
    async with limited(sqlite_url, clock, failed_keys_per_minute=1) as market:
        await refusal(call_with_key(market, Party(0, "wrong-token"), HOME))
        method = METHODS["AdminService.GetDashboard"]
        call = methods.call(market, method, methods.empty(method), (*bearer(ADMIN_TOKEN), *HOME))
        assert limit_facts(await refusal(call))[1] == "failed-key"


async def test_recently_used_key_works_at_an_address_with_too_many_wrong_keys(
    sqlite_url: str, clock: ManualClock
) -> None:
    async with limited(sqlite_url, clock, failed_keys_per_minute=1) as market:
        renter = await market.renter(0)
        await call_with_key(market, renter, HOME)
        for _ in range(3):
            await refusal(call_with_key(market, Party(0, "wrong-token"), HOME))
        await call_with_key(market, renter, HOME)


async def test_daemons_of_one_address_are_limited_only_by_key(sqlite_url: str, clock: ManualClock) -> None:
    """A fleet behind one router: all streams and heartbeats are admitted, and each key has its own limit."""
    async with limited(sqlite_url, clock, address_per_minute=1, key_per_minute=3) as market:
        fleet = [await market.provider() for _ in range(5)]
        for provider in fleet:
            await market.daemon(provider)
            for _ in range(2):
                await post_heartbeat(market, provider)
        assert limit_facts(await refusal(post_heartbeat(market, fleet[0])))[1] == "key"


async def post_heartbeat(market: Market, provider: Party) -> Any:
    """Sends a heartbeat by POST."""
    request = providers_pb2.HeartbeatRequest(gpu_status=providers_pb2.HeartbeatRequest().gpu_status)
    return await market.provider_service.Heartbeat(request, metadata=(*provider.metadata, *HOME))


async def test_protos_declare_the_rate_classes() -> None:
    """A new RPC gets the default limits without code; these RPCs differ."""
    differing = {name: methods.rule(m).rate for name, m in METHODS.items() if methods.rule(m).rate}
    assert differing == {
        "ProviderService.RegisterProvider": options_pb2.RATE_CLASS_REGISTRATION,
        "RenterService.RegisterRenter": options_pb2.RATE_CLASS_REGISTRATION,
        "ProviderService.Heartbeat": options_pb2.RATE_CLASS_DAEMON,
        "SessionService.Connect": options_pb2.RATE_CLASS_DAEMON,
        "ArtifactService.UploadArtifact": options_pb2.RATE_CLASS_DAEMON,
    }


async def test_without_limits_nothing_is_counted(sqlite_url: str, clock: ManualClock) -> None:
    async with running_server.running(sqlite_url, clock, limits=OFF) as market:
        for _ in range(50):
            await call_without_key(market, HOME)


# The address of a caller.

PROXIES = (ipaddress.ip_network("10.8.0.0/16"), ipaddress.ip_network("2001:db8:1::/48"))


@pytest.mark.parametrize(
    ("peer", "forwarded", "address"),
    [
        ("ipv4:198.51.100.7:4321", None, "198.51.100.7"),
        ("ipv4:198.51.100.7:4321", "192.0.2.1", "198.51.100.7"),  # the peer is not a trusted proxy
        ("ipv4:127.0.0.1:4321", "192.0.2.1", "192.0.2.1"),
        ("ipv4:127.0.0.1:4321", None, "127.0.0.1"),
        ("ipv6:%5B::1%5D:4321", "192.0.2.1", "192.0.2.1"),
        ("ipv6:[::1]:4321", "192.0.2.1", "192.0.2.1"),
        ("ipv6:%5B::ffff:198.51.100.7%5D:4321", "192.0.2.1", "198.51.100.7"),
        ("ipv4:10.8.9.9:4321", "192.0.2.1", "192.0.2.1"),
        ("ipv4:10.9.9.9:4321", "192.0.2.1", "10.9.9.9"),
        ("ipv6:%5B2001:db8:1::5%5D:4321", "192.0.2.1", "192.0.2.1"),
        ("unix:/run/dcp", "192.0.2.1", "192.0.2.1"),
        # The address that the last proxy saw; an IPv6 address counts as its /64 network.
        ("ipv4:127.0.0.1:1", "203.0.113.9, 192.0.2.1", "192.0.2.1"),
        ("ipv4:127.0.0.1:1", "2001:db8::5:6:7:8", "2001:db8::/64"),
        ("ipv6:%5B2001:db8::5:6:7:8%5D:1", None, "2001:db8::/64"),
        ("ipv4:127.0.0.1:1", "x" * 1000, "x" * 64),
    ],
)
def test_address_is_the_peers_unless_a_trusted_proxy_forwards_another(
    peer: str, forwarded: str | None, address: str
) -> None:
    metadata = [("x-request-id", "r")]
    if forwarded is not None:
        metadata.append(("x-forwarded-for", forwarded))
    assert Addresses(PROXIES).of(peer, metadata) == address


# Open jobs and streams.


async def test_renter_over_the_limit_of_open_jobs_is_refused(database_url: str, clock: ManualClock) -> None:
    async with limited(database_url, clock, open_jobs=2) as market:
        renter, other = await market.renter(), await market.renter()
        first = await market.submit(renter, key="first")
        await market.submit(renter)
        refused = await refusal(market.submit(renter))
        assert (refused.reason, refused.facts.retry_after_seconds) == ("RATE_LIMITED", 10)
        assert "2 jobs of this account have not ended" in refused.message
        await market.submit(other)
        assert (await market.submit(renter, key="first")).job_id == first.job_id  # a repeat is not a new job
        await market.cancel(first, renter)
        await market.submit(renter)
        await market.assert_money_adds_up()


async def test_parallel_submits_do_not_exceed_the_limit(database_url: str, clock: ManualClock) -> None:
    async with limited(database_url, clock, open_jobs=3) as market:
        renter = await market.renter()
        results = await asyncio.gather(*(market.submit(renter) for _ in range(10)), return_exceptions=True)
        assert sum(isinstance(result, jobs_pb2.Job) for result in results) == 3


async def test_provider_over_the_limit_of_streams_is_refused(sqlite_url: str, clock: ManualClock) -> None:
    async with limited(sqlite_url, clock, streams=2) as market:
        provider, other = await market.provider(), await market.provider()
        waiting = market.connect(provider)
        daemon = await market.daemon(provider)
        refused = await market.connect(provider).ended()
        assert refused is not None
        assert (refused.reason, refused.facts.retry_after_seconds) == ("RATE_LIMITED", 30)
        await market.daemon(other)
        await daemon.heartbeat()  # the open session is not affected
        waiting.cut()
        newest = await connect_until_admitted(market, provider)
        await newest.heartbeat()


async def connect_until_admitted(market: Market, provider: Party) -> Any:
    """Connects again until the server has noticed that a stream ended."""
    for _ in range(200):
        daemon = market.connect(provider)
        try:
            await daemon.hello()
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED:
                raise
            continue
        return daemon
    raise AssertionError("the server did not notice that a stream was gone")


async def test_ended_stream_no_longer_counts(sqlite_url: str, clock: ManualClock) -> None:
    async with limited(sqlite_url, clock, streams=1) as market:
        provider = await market.provider()
        for _ in range(3):
            daemon = await connect_until_admitted(market, provider)
            daemon.cut()

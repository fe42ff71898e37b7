"""Limits at the edge: per account, per address, on registrations, wrong keys, open jobs and streams."""

from __future__ import annotations

import asyncio
import ipaddress
from typing import Any

import grpc
import pytest
from dcp.v1 import jobs_pb2, options_pb2, providers_pb2, renters_pb2, sessions_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

import server.rpc.limits
from common.addresses import SITE_FACTOR
from server.domain.limits import OFF, Limits
from server.domain.sessions import MAX_SLOTS
from server.rpc.addresses import Addresses
from server.services.keys import CACHE_SECONDS
from server.store.database import Database
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


def of_ipv6(site: int, network: int, host: int = 1) -> Metadata:
    """The address of a host in one of the networks of a site."""
    return (("x-forwarded-for", f"2001:db8:{site:x}:{network:x}::{host:x}"),)


async def test_hosts_of_an_ipv6_network_share_a_limit_and_its_site_has_a_larger_one(
    sqlite_url: str, clock: ManualClock
) -> None:
    async with limited(sqlite_url, clock, registrations_per_minute=2) as market:
        await register(market, 1, of_ipv6(1, 0, host=1))
        await register(market, 2, of_ipv6(1, 0, host=2))
        assert limit_facts(await refusal(register(market, 3, of_ipv6(1, 0, host=3))))[2:] == (2, 30)
        for number in range(2, 2 * SITE_FACTOR):
            await register(market, 10 + number, of_ipv6(1, number // 2))
        refused = await refusal(register(market, 100, of_ipv6(1, 0xFFFF)))
        assert limit_facts(refused) == ("RATE_LIMITED", "registration", 2 * SITE_FACTOR, 4)
        assert "the network 2001:db8:1::/48" in refused.message
        await register(market, 101, of_ipv6(2, 0))
        clock.advance(4)
        await register(market, 102, of_ipv6(1, 0xFFFE))


async def test_guesses_and_streams_of_an_ipv6_site_have_its_limit(
    sqlite_url: str, clock: ManualClock
) -> None:
    async with limited(sqlite_url, clock, failed_keys_per_minute=1, open_streams=1) as market:
        guess = Party(0, "dcp-renter-" + "x" * 43)
        for network in range(SITE_FACTOR):
            refused = await refusal(call_with_key(market, guess, of_ipv6(1, network)))
            assert refused.reason == "INVALID_CREDENTIAL"
        refused = await refusal(call_with_key(market, guess, of_ipv6(1, 99)))
        assert limit_facts(refused)[:3] == ("RATE_LIMITED", "failed-key", SITE_FACTOR)
        watches = [await until_watching(market, of_ipv6(1, network)) for network in range(SITE_FACTOR)]
        assert (await refusal(watch(market, of_ipv6(1, 99)).read())).reason == "RATE_LIMITED"
        watches.append(await until_watching(market, of_ipv6(2, 0)))
        for call in watches:
            call.cancel()


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


async def test_valid_credentials_pass_from_an_address_that_guesses(
    database_url: str, clock: ManualClock
) -> None:
    """A renter that never called before, the operator, and a daemon; none of them is in any cache."""
    async with limited(database_url, clock, failed_keys_per_minute=1) as market:
        renter, provider = await market.renter(0), await market.provider()
        for guess in ("wrong-token", "dcp-renter-" + "x" * 43, "dcp-provider-" + "x" * 43) * 3:
            await refusal(call_with_key(market, Party(0, guess)))
        clock.advance(CACHE_SECONDS + 1)
        await call_with_key(market, renter)
        method = METHODS["AdminService.GetDashboard"]
        await methods.call(market, method, methods.empty(method), bearer(ADMIN_TOKEN))
        await market.daemon(provider)
        assert (
            limit_facts(await refusal(call_with_key(market, Party(0, "dcp-renter-" + "y" * 43))))[1]
            == "failed-key"
        )


async def test_guesses_of_a_slowed_address_are_looked_up_one_at_a_time(
    sqlite_url: str, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_once = [0, 0]

    class Counted:
        def __init__(self, database: Database) -> None:
            self._database = database

        async def read(self, work: Any) -> Any:
            at_once[0] += 1
            at_once[1] = max(at_once)
            try:
                return await self._database.read(work)
            finally:
                at_once[0] -= 1

    async with limited(sqlite_url, clock, failed_keys_per_minute=1) as market:
        keys = market.server.services.keys
        guesses = [Party(0, f"dcp-renter-{number:043}") for number in range(20)]
        await refusal(call_with_key(market, guesses[0], HOME))
        monkeypatch.setattr(keys, "_database", Counted(keys._database))
        await asyncio.gather(*(refusal(call_with_key(market, guess, HOME)) for guess in guesses))
        assert at_once == [0, 1]


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
        "LogInService.LogIn": options_pb2.RATE_CLASS_REGISTRATION,
        "LogInService.AskToLogIn": options_pb2.RATE_CLASS_REGISTRATION,
        "LogInService.RedeemLogInCode": options_pb2.RATE_CLASS_REGISTRATION,
        "OperatorService.OpenInvitation": options_pb2.RATE_CLASS_REGISTRATION,
        "OperatorService.AcceptInvitation": options_pb2.RATE_CLASS_REGISTRATION,
        "OperatorService.AskForPasskey": options_pb2.RATE_CLASS_REGISTRATION,
        "OperatorService.LogInByPasskey": options_pb2.RATE_CLASS_REGISTRATION,
        "OperatorService.LogInOperator": options_pb2.RATE_CLASS_REGISTRATION,
        "RecoveryService.ReportLostKey": options_pb2.RATE_CLASS_REGISTRATION,
        "RecoveryService.RedeemKeyCode": options_pb2.RATE_CLASS_REGISTRATION,
        "ProviderService.Heartbeat": options_pb2.RATE_CLASS_DAEMON,
        "SessionService.Connect": options_pb2.RATE_CLASS_DAEMON,
        "GpuProofService.ProveGpus": options_pb2.RATE_CLASS_DAEMON,
        "ArtifactService.UploadArtifact": options_pb2.RATE_CLASS_DAEMON,
        "InputService.ReadJobInput": options_pb2.RATE_CLASS_DAEMON,
    }


async def test_without_limits_nothing_is_counted(sqlite_url: str, clock: ManualClock) -> None:
    async with running_server.running(sqlite_url, clock, limits=OFF) as market:
        for _ in range(50):
            await call_without_key(market, HOME)


# Streams that need no key, and messages of sessions.

HEALTH = health_pb2.HealthCheckRequest()
LIST = reflection_pb2.ServerReflectionRequest(list_services="")


def watch(market: Market, address: Metadata) -> Any:
    """A stream of the server's health."""
    return health_pb2_grpc.HealthStub(market.channel).Watch(HEALTH, metadata=address)


async def until_watching(market: Market, address: Metadata) -> Any:
    """A stream of the server's health, as soon as the server has noticed that another one ended."""
    for _ in range(500):
        call = watch(market, address)
        try:
            await call.read()
        except grpc.aio.AioRpcError:
            await asyncio.sleep(0.01)
            continue
        return call
    raise AssertionError("the server did not notice that a stream was gone")


async def test_streams_without_a_key_are_few_on_any_connection(sqlite_url: str, clock: ManualClock) -> None:
    async with limited(sqlite_url, clock, open_streams=3) as market:
        calls = [watch(market, HOME) for _ in range(3)]
        for call in calls:
            assert (await call.read()).status == health_pb2.HealthCheckResponse.SERVING
        for refused in [await refusal(watch(market, HOME).read()) for _ in range(20)]:
            assert (refused.reason, refused.facts.retry_after_seconds) == ("RATE_LIMITED", 30)
        stub = reflection_pb2_grpc.ServerReflectionStub(market.channel)
        reflecting = stub.ServerReflectionInfo(iter([LIST]), metadata=HOME)
        assert (await refusal(reflecting.read())).reason == "RATE_LIMITED"
        other = watch(market, ELSEWHERE)
        await other.read()
        calls.pop().cancel()
        calls.append(await until_watching(market, HOME))
        for call in (*calls, other):
            call.cancel()


async def test_streams_without_a_key_are_bounded_in_all(
    sqlite_url: str, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server.rpc.limits, "MAX_OPEN_STREAMS", 4)
    async with limited(sqlite_url, clock, open_streams=2) as market:
        calls = [watch(market, (("x-forwarded-for", f"192.0.2.{number // 2}"),)) for number in range(4)]
        for call in calls:
            await call.read()
        assert (await refusal(watch(market, ELSEWHERE).read())).reason == "RATE_LIMITED"
        for call in calls:
            call.cancel()


async def test_health_and_reflection_count_as_calls_of_their_address(
    sqlite_url: str, clock: ManualClock
) -> None:
    async with limited(sqlite_url, clock, address_per_minute=4) as market:
        await health_pb2_grpc.HealthStub(market.channel).Check(HEALTH, metadata=HOME)
        stub = reflection_pb2_grpc.ServerReflectionStub(market.channel)
        reflecting = stub.ServerReflectionInfo(metadata=HOME)
        for _ in range(2):
            await reflecting.write(LIST)
            await reflecting.read()
        await reflecting.write(LIST)
        assert limit_facts(await refusal(reflecting.read()))[1] == "address"
        check = health_pb2_grpc.HealthStub(market.channel).Check(HEALTH, metadata=HOME)
        assert limit_facts(await refusal(check))[1] == "address"
        await health_pb2_grpc.HealthStub(market.channel).Check(HEALTH, metadata=ELSEWHERE)


async def test_flood_of_messages_waits_and_is_not_an_error(sqlite_url: str, clock: ManualClock) -> None:
    """20 messages a second, 40 at once. The clock stands still, so that no more are handled."""
    async with limited(sqlite_url, clock, messages_per_minute=1200) as market:
        provider, other = await market.provider(), await market.provider()
        flood, calm = await market.daemon(provider), await market.daemon(other)
        for _ in range(39):
            await flood.heartbeat()
        for sequence in range(40, 45):
            await flood.say(heartbeat=sessions_pb2.SessionHeartbeat(sequence=sequence))
        answer = asyncio.ensure_future(flood.expect("heartbeat_ack"))
        for _ in range(10):
            await calm.heartbeat()
        done, _ = await asyncio.wait({answer}, timeout=0.3)
        assert not done
        clock.advance(0.06)
        assert (await answer).sequence == 40
        clock.advance(1)
        for sequence in range(41, 45):
            assert (await flood.expect("heartbeat_ack")).sequence == sequence


def test_honest_daemon_is_far_below_the_rate_of_messages() -> None:
    limits = Limits()
    assert limits.messages_per_minute >= 60 * 4 * 134  # four a job, at the jobs a second of docs/figures.md
    assert limits.messages_at_once >= 2 * MAX_SLOTS  # output and result of each slot after an outage


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
        ("ipv4:127.0.0.1:1", "203.0.113.9, 10.8.0.1", "203.0.113.9"),
        ("ipv4:127.0.0.1:1", "192.0.2.1:4711", "192.0.2.1"),
        ("ipv4:127.0.0.1:1", "[2001:db8::5:6:7:8]:4711", "2001:db8::/64"),
        ("ipv4:127.0.0.1:1", "[2001:db8::5]", "2001:db8::/64"),
        ("ipv4:127.0.0.1:1", "fe80::7%eth0", "fe80::/64"),
        ("ipv4:127.0.0.1:1", "::ffff:192.0.2.1", "192.0.2.1"),
        # What is not an address is the peer's.
        ("ipv4:127.0.0.1:1", "x" * 1000, "127.0.0.1"),
        ("ipv4:127.0.0.1:1", "unknown7", "127.0.0.1"),
        ("ipv4:127.0.0.1:1", "192.0.2.1, unknown", "127.0.0.1"),
        ("ipv4:127.0.0.1:1", "192.0.2.1%eth0", "127.0.0.1"),
        ("ipv4:127.0.0.1:1", "", "127.0.0.1"),
        ("ipv4:127.0.0.1:1", ", ".join(["10.8.0.1"] * 100), "127.0.0.1"),
        ("ipv4:10.8.9.9:1", "_hidden", "10.8.9.9"),
        ("unix:/run/dcp", "unknown", "unix:/run/dcp"),
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

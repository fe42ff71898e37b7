"""Limits at the server's door: by account, by address, of registrations, of guesses, of jobs and streams."""

from __future__ import annotations

import asyncio
import ipaddress
from typing import Any

import grpc
import pytest
from dcp.v1 import jobs_pb2, options_pb2, providers_pb2, renters_pb2

from server.domain.limits import OFF, Limits
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
    """A server with these limits alone."""
    values = dict.fromkeys(Limits.__dataclass_fields__, 0) | figures
    return running_server.running(url, clock, limits=Limits(**values))


async def look(market: Market, who: Party, address: Metadata = ()) -> Any:
    """A call of a renter's."""
    request = renters_pb2.GetOwnRenterRequest()
    return await market.renter_service.GetOwnRenter(request, metadata=(*who.metadata, *address))


async def look_around(market: Market, address: Metadata) -> Any:
    """A call without a credential."""
    request = renters_pb2.ListAvailableProvidersRequest()
    return await market.renter_service.ListAvailableProviders(request, metadata=address)


async def register(market: Market, number: int, address: Metadata) -> Any:
    """A new renter."""
    request = renters_pb2.RegisterRenterRequest(name="R", email=f"new{number}@example.com")
    return await market.renter_service.RegisterRenter(request, metadata=address)


def told(refused: Refusal) -> tuple[str, str, int, int]:
    """What a refusal by a limit tells."""
    assert refused.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    facts = refused.facts
    return refused.reason, facts.limit, facts.limit_per_minute, facts.retry_after_seconds


async def test_account_is_refused_beyond_its_figure_and_another_is_not(
    sqlite_url: str, clock: ManualClock
) -> None:
    async with limited(sqlite_url, clock, key_per_minute=3) as market:
        one, other = await market.renter(0), await market.renter(0)
        for _ in range(3):
            await look(market, one)
        assert told(await refusal(look(market, one))) == ("RATE_LIMITED", "key", 3, 20)
        await look(market, other)
        clock.advance(20)
        await look(market, one)


async def test_account_is_counted_wherever_it_calls_from(sqlite_url: str, clock: ManualClock) -> None:
    async with limited(sqlite_url, clock, key_per_minute=2) as market:
        renter = await market.renter(0)
        await look(market, renter, HOME)
        await look(market, renter, ELSEWHERE)
        assert told(await refusal(look(market, renter, HOME)))[1] == "key"


async def test_address_is_refused_beyond_its_figure_and_another_is_not(
    sqlite_url: str, clock: ManualClock
) -> None:
    async with limited(sqlite_url, clock, address_per_minute=6) as market:
        for _ in range(6):
            await look_around(market, HOME)
        assert told(await refusal(look_around(market, HOME))) == ("RATE_LIMITED", "address", 6, 10)
        await look_around(market, ELSEWHERE)
        clock.advance(10)
        await look_around(market, HOME)


async def test_registrations_have_a_limit_of_their_own(sqlite_url: str, clock: ManualClock) -> None:
    async with limited(sqlite_url, clock, registrations_per_minute=2) as market:
        await register(market, 1, HOME)
        request = providers_pb2.RegisterProviderRequest(name="P", email="p@example.com")
        await market.provider_service.RegisterProvider(request, metadata=HOME)
        assert told(await refusal(register(market, 2, HOME))) == ("RATE_LIMITED", "registration", 2, 30)
        await register(market, 3, ELSEWHERE)
        await look_around(market, HOME)


async def test_unknown_keys_are_limited_by_address(sqlite_url: str, clock: ManualClock) -> None:
    async with limited(sqlite_url, clock, failed_keys_per_minute=2) as market:
        guess = Party(0, "dcp-renter-" + "x" * 43)
        for _ in range(2):
            assert (await refusal(look(market, guess, HOME))).reason == "INVALID_CREDENTIAL"
        assert told(await refusal(look(market, guess, HOME))) == ("RATE_LIMITED", "failed-key", 2, 30)
        assert (await refusal(look(market, guess, ELSEWHERE))).reason == "INVALID_CREDENTIAL"


async def test_valid_credentials_pass_from_an_address_that_guesses(
    database_url: str, clock: ManualClock
) -> None:
    """A renter that never called before, the operator, and a daemon; none of them is in any cache."""
    async with limited(database_url, clock, failed_keys_per_minute=1) as market:
        renter, provider = await market.renter(0), await market.provider()
        for guess in ("wrong-token", "dcp-renter-" + "x" * 43, "dcp-provider-" + "x" * 43) * 3:
            await refusal(look(market, Party(0, guess)))
        clock.advance(CACHE_SECONDS + 1)
        await look(market, renter)
        method = METHODS["AdminService.GetDashboard"]
        await methods.call(market, method, methods.empty(method), bearer(ADMIN_TOKEN))
        await market.daemon(provider)
        assert told(await refusal(look(market, Party(0, "dcp-renter-" + "y" * 43))))[1] == "failed-key"


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
        await refusal(look(market, guesses[0], HOME))
        monkeypatch.setattr(keys, "_database", Counted(keys._database))
        await asyncio.gather(*(refusal(look(market, guess, HOME)) for guess in guesses))
        assert at_once == [0, 1]


async def test_daemons_of_one_address_are_limited_by_key_alone(sqlite_url: str, clock: ManualClock) -> None:
    """A fleet behind one router: streams and heartbeats of all are let in, each key has its own figure."""
    async with limited(sqlite_url, clock, address_per_minute=1, key_per_minute=3) as market:
        fleet = [await market.provider() for _ in range(5)]
        for provider in fleet:
            await market.daemon(provider)
            for _ in range(2):
                await beat(market, provider)
        assert told(await refusal(beat(market, fleet[0])))[1] == "key"


async def beat(market: Market, provider: Party) -> Any:
    """A heartbeat by a call."""
    request = providers_pb2.HeartbeatRequest(gpu_status=providers_pb2.HeartbeatRequest().gpu_status)
    return await market.provider_service.Heartbeat(request, metadata=(*provider.metadata, *HOME))


async def test_rates_stand_in_the_protos() -> None:
    """A new RPC has limits without code; these are the ones that differ."""
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
            await look_around(market, HOME)


# Where a call comes from.

PROXIES = (ipaddress.ip_network("10.8.0.0/16"), ipaddress.ip_network("2001:db8:1::/48"))


@pytest.mark.parametrize(
    ("peer", "forwarded", "address"),
    [
        ("ipv4:198.51.100.7:4321", None, "198.51.100.7"),
        ("ipv4:198.51.100.7:4321", "192.0.2.1", "198.51.100.7"),  # a stranger says so
        ("ipv4:127.0.0.1:4321", "192.0.2.1", "192.0.2.1"),
        ("ipv4:127.0.0.1:4321", None, "127.0.0.1"),
        ("ipv6:%5B::1%5D:4321", "192.0.2.1", "192.0.2.1"),
        ("ipv6:[::1]:4321", "192.0.2.1", "192.0.2.1"),
        ("ipv6:%5B::ffff:198.51.100.7%5D:4321", "192.0.2.1", "198.51.100.7"),
        ("ipv4:10.8.9.9:4321", "192.0.2.1", "192.0.2.1"),
        ("ipv4:10.9.9.9:4321", "192.0.2.1", "10.9.9.9"),
        ("ipv6:%5B2001:db8:1::5%5D:4321", "192.0.2.1", "192.0.2.1"),
        ("unix:/run/dcp", "192.0.2.1", "192.0.2.1"),
        # The last proxy's word, and one customer's whole network.
        ("ipv4:127.0.0.1:1", "203.0.113.9, 192.0.2.1", "192.0.2.1"),
        ("ipv4:127.0.0.1:1", "2001:db8::5:6:7:8", "2001:db8::/64"),
        ("ipv6:%5B2001:db8::5:6:7:8%5D:1", None, "2001:db8::/64"),
        ("ipv4:127.0.0.1:1", "x" * 1000, "x" * 64),
    ],
)
def test_address_is_the_peers_unless_a_trusted_one_tells_another(
    peer: str, forwarded: str | None, address: str
) -> None:
    metadata = [("x-request-id", "r")]
    if forwarded is not None:
        metadata.append(("x-forwarded-for", forwarded))
    assert Addresses(PROXIES).of(peer, metadata) == address


# Open jobs and streams.


async def test_renter_has_at_most_so_many_open_jobs(database_url: str, clock: ManualClock) -> None:
    async with limited(database_url, clock, open_jobs=2) as market:
        renter, other = await market.renter(), await market.renter()
        first = await market.submit(renter, key="first")
        await market.submit(renter)
        refused = await refusal(market.submit(renter))
        assert (refused.reason, refused.facts.retry_after_seconds) == ("RATE_LIMITED", 10)
        assert "2 jobs of this account have not ended" in refused.message
        await market.submit(other)
        assert (await market.submit(renter, key="first")).job_id == first.job_id  # a repeat is no new job
        await market.cancel(first, renter)
        await market.submit(renter)
        await market.assert_money_adds_up()


async def test_parallel_submits_do_not_pass_the_limit_together(database_url: str, clock: ManualClock) -> None:
    async with limited(database_url, clock, open_jobs=3) as market:
        renter = await market.renter()
        results = await asyncio.gather(*(market.submit(renter) for _ in range(10)), return_exceptions=True)
        assert sum(isinstance(result, jobs_pb2.Job) for result in results) == 3


async def test_provider_opens_at_most_so_many_streams(sqlite_url: str, clock: ManualClock) -> None:
    async with limited(sqlite_url, clock, streams=2) as market:
        provider, other = await market.provider(), await market.provider()
        waiting = market.connect(provider)
        daemon = await market.daemon(provider)
        refused = await market.connect(provider).ended()
        assert refused is not None
        assert (refused.reason, refused.facts.retry_after_seconds) == ("RATE_LIMITED", 30)
        await market.daemon(other)
        await daemon.heartbeat()  # the session that there is does not suffer
        waiting.cut()
        newest = await until_admitted(market, provider)
        await newest.heartbeat()


async def until_admitted(market: Market, provider: Party) -> Any:
    """A session, as soon as the server has noticed that a stream is gone."""
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


async def test_stream_that_ended_counts_no_more(sqlite_url: str, clock: ManualClock) -> None:
    async with limited(sqlite_url, clock, streams=1) as market:
        provider = await market.provider()
        for _ in range(3):
            daemon = await until_admitted(market, provider)
            daemon.cut()

"""Authorization: every RPC of the protos with every kind of credential."""

from __future__ import annotations

from typing import Any, cast

import grpc
import pytest
from dcp.v1 import options_pb2

from server.domain.errors import DomainError
from server.domain.limits import OFF
from server.rpc.addresses import Addresses
from server.rpc.interceptors import Authentication, Rule
from server.rpc.limits import RateLimits
from tests.server.rpc import methods
from tests.server.rpc.methods import METHODS
from tests.support import running_server
from tests.support.manual_clock import ManualClock
from tests.support.running_server import ADMIN_TOKEN, Market, Metadata, bearer, read_refusal

CREDENTIALS = ("none", "bad", "provider", "renter", "admin", "two different", "same twice", "no bearer")
ROLES = {
    "provider": options_pb2.ROLE_PROVIDER,
    "renter": options_pb2.ROLE_RENTER,
    "admin": options_pb2.ROLE_ADMIN,
}
ADMITTED = "admitted"


def expected(roles: set[int], credential: str, configured: bool) -> str:
    """The reason for which the credential is refused, or ADMITTED."""
    if options_pb2.ROLE_PUBLIC in roles:
        return ADMITTED
    if roles == {options_pb2.ROLE_ADMIN} and not configured:
        return "ADMIN_NOT_CONFIGURED"
    if credential == "none":
        return "MISSING_CREDENTIAL"
    if credential == "two different":
        return "CONFLICTING_CREDENTIALS"
    if credential in ("bad", "no bearer") or (credential == "admin" and not configured):
        return "INVALID_CREDENTIAL"
    role = ROLES["renter" if credential == "same twice" else credential]
    return ADMITTED if role in roles else "WRONG_ROLE"


CODES = {
    "MISSING_CREDENTIAL": grpc.StatusCode.UNAUTHENTICATED,
    "INVALID_CREDENTIAL": grpc.StatusCode.UNAUTHENTICATED,
    "WRONG_ROLE": grpc.StatusCode.UNAUTHENTICATED,
    "CONFLICTING_CREDENTIALS": grpc.StatusCode.INVALID_ARGUMENT,
    "ADMIN_NOT_CONFIGURED": grpc.StatusCode.UNAVAILABLE,
}


async def credentials(market: Market) -> dict[str, Metadata]:
    provider, renter = await market.provider(), await market.renter(0)
    return {
        "none": (),
        "bad": bearer("dcp-renter-" + "x" * 43),
        "provider": (("x-provider-key", provider.key),),
        "renter": renter.metadata,
        "admin": (("x-admin-token", ADMIN_TOKEN),),
        "two different": (*renter.metadata, ("x-provider-key", provider.key)),
        "same twice": (*renter.metadata, ("x-renter-key", renter.key)),
        "no bearer": (("authorization", renter.key),),
    }


async def outcome(market: Market, name: str, metadata: Metadata) -> str:
    """The reason if the credential is refused, else ADMITTED: an empty request may fail for other reasons."""
    try:
        await methods.call(market, METHODS[name], methods.empty(METHODS[name]), metadata)
    except grpc.aio.AioRpcError as error:
        refused = read_refusal(error)
        if refused.reason not in CODES:
            return ADMITTED
        assert refused.code is CODES[refused.reason]
        return refused.reason
    return ADMITTED


@pytest.mark.parametrize("configured", [True, False], ids=["admin configured", "admin not configured"])
async def test_every_rpc_admits_only_its_roles(sqlite_url: str, clock: ManualClock, configured: bool) -> None:
    token = ADMIN_TOKEN if configured else None
    async with running_server.running(sqlite_url, clock, admin_token=token) as market:
        metadata = await credentials(market)
        got = {(n, c): await outcome(market, n, metadata[c]) for n in METHODS for c in CREDENTIALS}
    want = {
        (name, credential): expected(set(methods.rule(method).roles), credential, configured)
        for name, method in METHODS.items()
        for credential in CREDENTIALS
    }
    assert got == want
    assert len(METHODS) >= 16


async def test_credential_is_checked_before_the_limits_of_a_request(market: Market) -> None:
    """A caller without credentials does not learn the limits of the fields."""
    refused = await running_server.refusal(
        methods.call(
            market, METHODS["JobService.SubmitJob"], methods.empty(METHODS["JobService.SubmitJob"]), ()
        )
    )
    assert refused.reason == "MISSING_CREDENTIAL"


class Context:
    """The part of a call that the interceptor uses."""

    def __init__(self, metadata: Metadata) -> None:
        self._metadata = metadata

    def invocation_metadata(self) -> Metadata:
        return self._metadata

    def peer(self) -> str:
        return "ipv4:192.0.2.1:4321"


@pytest.mark.parametrize("credential", CREDENTIALS)
async def test_rpc_without_roles_admits_nobody(market: Market, credential: str) -> None:
    """An RPC whose options were forgotten is closed to everybody."""
    metadata = (await credentials(market))[credential]
    keys = market.server.services.keys
    admission = Authentication(
        keys, RateLimits(OFF, market.clock), Addresses(), lambda key, address: None, lambda *call: None
    )
    with pytest.raises(DomainError) as caught:
        await admission._admit(Rule(), cast(Any, Context(metadata)))
    assert caught.value.reason.value in CODES


async def test_admin_call_to_a_server_without_a_token_is_refused_with_a_retry_time(
    sqlite_url: str, clock: ManualClock
) -> None:
    async with running_server.running(sqlite_url, clock, admin_token=None) as market:
        method = METHODS["AdminService.GetDashboard"]
        refused = await running_server.refusal(
            methods.call(market, method, methods.empty(method), bearer("x" * 20))
        )
    assert (refused.code, refused.reason) == (grpc.StatusCode.UNAVAILABLE, "ADMIN_NOT_CONFIGURED")
    assert refused.facts.retry_after_seconds == 60


async def test_key_is_refused_soon_after_it_was_revoked(market: Market) -> None:
    from server.services.keys import digest
    from server.store.models import ApiKey

    renter = await market.renter(0)
    await market.wallet(renter)
    await market.sql(lambda: ApiKey.update(revoked_ms=1).where(ApiKey.sha256 == digest(renter.key)).execute())
    market.clock.advance(10.5)  # the documented ten seconds
    assert (await running_server.refusal(market.wallet(renter))).reason == "INVALID_CREDENTIAL"


async def test_keys_are_long_and_different_and_not_stored(market: Market, sqlite_url: str) -> None:
    from pathlib import Path

    parties = [await market.renter(0), await market.renter(0), await market.provider()]
    assert len({party.key for party in parties}) == 3
    assert all(len(party.key) - len("dcp-renter-") >= 43 for party in parties)  # 256 bits
    path = Path(sqlite_url.removeprefix("sqlite:///"))
    stored = b"".join(file.read_bytes() for file in path.parent.glob(f"{path.name}*"))
    assert not [party for party in parties if party.key.encode() in stored]

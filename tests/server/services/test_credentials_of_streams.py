"""Credentials of open streams: checked again every five minutes, all in one query."""

from __future__ import annotations

import logging

import grpc
import pytest

from server.services.keys import digest
from server.services.streams import CHECK_SECONDS
from server.store.models import ApiKey
from tests.support.running_server import Market, Party


async def revoke(market: Market, party: Party) -> None:
    """Revokes the account's key."""
    own = ApiKey.sha256 == digest(party.key)
    await market.sql(lambda: ApiKey.update(revoked_ms=1).where(own).execute())


async def test_stream_with_a_revoked_key_ends_within_five_minutes(any_market: Market) -> None:
    market = any_market
    bad, good = await market.provider(), await market.provider()
    ending, staying = await market.daemon(bad), await market.daemon(good)
    await revoke(market, bad)
    await market.later(CHECK_SECONDS - 1)
    await ending.heartbeat()
    await market.later(1)
    refused = await ending.ended()
    assert refused is not None
    assert (refused.code, refused.reason) == (grpc.StatusCode.UNAUTHENTICATED, "INVALID_CREDENTIAL")
    await staying.heartbeat()


@pytest.mark.parametrize(
    ("state", "reason"),
    [("suspended", "PROVIDER_SUSPENDED"), ("pending_approval", "PROVIDER_NOT_APPROVED")],
)
async def test_stream_of_a_provider_that_another_server_shut_out_ends_within_a_second(
    market: Market, state: str, reason: str
) -> None:
    provider = await market.provider()
    daemon = await market.daemon(provider)
    await market.set_provider(provider, state=state)
    await market.later(1)
    refused = await daemon.ended()
    assert refused is not None
    assert (refused.code, refused.reason) == (grpc.StatusCode.PERMISSION_DENIED, reason)


async def test_streams_are_checked_repeatedly(market: Market) -> None:
    provider = await market.provider()
    daemon = await market.daemon(provider)
    for _ in range(3):
        await market.later(CHECK_SECONDS)
        await daemon.heartbeat()
    await revoke(market, provider)
    await market.later(CHECK_SECONDS)
    refused = await daemon.ended()
    assert refused is not None
    assert refused.reason == "INVALID_CREDENTIAL"


async def test_stream_without_a_hello_is_also_checked(market: Market) -> None:
    provider = await market.provider()
    silent = market.connect(provider)
    while not market.server.services.streams.open:
        await market.sql(lambda: None)
    await revoke(market, provider)
    await market.later(CHECK_SECONDS)
    refused = await silent.ended()
    assert refused is not None
    assert refused.reason == "INVALID_CREDENTIAL"


async def test_all_streams_cost_one_query(market: Market, caplog: pytest.LogCaptureFixture) -> None:
    daemons = [await market.daemon(await market.provider()) for _ in range(5)]
    with caplog.at_level(logging.DEBUG, "peewee"):
        await market.later(CHECK_SECONDS)
    asked = [record.getMessage() for record in caplog.records if record.name == "peewee"]
    assert sum('"api_key"' in statement for statement in asked) == 1
    for daemon in daemons:
        await daemon.heartbeat()

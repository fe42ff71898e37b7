"""Sub-keys and rotation through the whole server: what each key may do, and for how long."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import grpc
import pytest
from dcp.v1 import jobs_pb2, ledger_pb2, options_pb2, renters_pb2, sessions_pb2
from dcp.v1 import keys_pb2 as pb

import server.services.keys
from server.domain.keys import MAX_MAIN_KEYS, MAX_SUB_KEYS
from server.services.keys import USES_PERIOD_SECONDS, digest
from server.services.streams import CHECK_SECONDS
from tests.support.running_server import Market, Party, bearer, read_refusal, refusal

READ, BILLING, INFERENCE = options_pb2.SCOPE_READ, options_pb2.SCOPE_BILLING, options_pb2.SCOPE_INFERENCE
DAY_SECONDS = 24 * 3600


async def create(market: Market, renter: Party, *scopes: Any, **fields: Any) -> pb.CreateKeyResponse:
    request = pb.CreateKeyRequest(**({"name": "batch", "scopes": scopes} | fields))
    return await market.key_service.CreateKey(request, metadata=renter.metadata)


async def sub_key(market: Market, renter: Party, *scopes: Any, **fields: Any) -> Party:
    """The renter's account with a new sub-key."""
    return Party(renter.id, (await create(market, renter, *scopes, **fields)).api_key)


async def list_keys(market: Market, renter: Party, **fields: Any) -> pb.ListKeysResponse:
    return await market.key_service.ListKeys(pb.ListKeysRequest(**fields), metadata=renter.metadata)


async def revoke(market: Market, renter: Party, key_id: int) -> pb.RevokeKeyResponse:
    return await market.key_service.RevokeKey(pb.RevokeKeyRequest(key_id=key_id), metadata=renter.metadata)


async def rotate(market: Market, renter: Party, **fields: Any) -> Party:
    request = pb.RotateRenterKeyRequest(**fields)
    response = await market.key_service.RotateRenterKey(request, metadata=renter.metadata)
    return Party(renter.id, response.api_key)


async def rotate_provider(market: Market, provider: Party, **fields: Any) -> Party:
    request = pb.RotateProviderKeyRequest(**fields)
    response = await market.key_service.RotateProviderKey(request, metadata=provider.metadata)
    return Party(provider.id, response.api_key)


async def test_full_cache_of_keys_forgets_the_oldest(market: Market, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server.services.keys, "CACHE_SIZE", 2)
    renters = [await market.renter() for _ in range(3)]
    for renter in renters:
        await market.wallet(renter)
    known = market.server.services.keys
    assert [known.recall(renter.key) is not None for renter in renters] == [False, True, True]


async def test_sub_key_may_do_only_what_its_scopes_allow(any_market: Market) -> None:
    market = any_market
    renter = await market.renter()
    submitter = await sub_key(market, renter, INFERENCE)
    job = await market.submit(submitter)
    shown = await market.job_service.GetJob(
        jobs_pb2.GetJobRequest(job_id=job.job_id), metadata=submitter.metadata
    )
    assert shown.job.job_id == job.job_id
    refused = await refusal(
        market.job_service.ListOwnJobs(jobs_pb2.ListOwnJobsRequest(), metadata=submitter.metadata)
    )
    assert (refused.code, refused.reason) == (grpc.StatusCode.PERMISSION_DENIED, "MISSING_SCOPE")
    assert refused.message == "this needs a key with the scope read; this sub-key has inference"
    reader = await sub_key(market, renter, READ, BILLING)
    refused = await refusal(market.submit(reader))
    assert refused.message == "this needs a key with the scope inference; this sub-key has billing and read"
    assert await market.wallet(reader) == await market.wallet(renter)


async def test_sub_key_never_manages_keys(market: Market) -> None:
    renter = await market.renter()
    all_scopes = await create(market, renter, READ, BILLING, INFERENCE)
    sub_key_with_all_scopes = Party(renter.id, all_scopes.api_key)
    for attempt in (
        create(market, sub_key_with_all_scopes, READ),
        list_keys(market, sub_key_with_all_scopes),
        revoke(market, sub_key_with_all_scopes, all_scopes.key.id),
        rotate(market, sub_key_with_all_scopes),
    ):
        refused = await refusal(attempt)
        assert (refused.code, refused.reason) == (grpc.StatusCode.PERMISSION_DENIED, "MAIN_KEY_NEEDED")
    assert len((await list_keys(market, renter)).keys) == 2


async def test_list_describes_each_key_and_never_shows_it(any_market: Market) -> None:
    market = any_market
    renter = await market.renter()
    created = await create(market, renter, READ, INFERENCE, name="  Nightly  ", expires_in_seconds=60)
    newest, main = (await list_keys(market, renter)).keys
    assert newest == created.key
    assert (newest.name, list(newest.scopes), newest.main) == ("Nightly", [INFERENCE, READ], False)
    assert newest.last4 == created.api_key[-4:]
    assert newest.expires_at.seconds - newest.created_at.seconds == 60
    assert not newest.HasField("revoked_at")
    assert (main.main, list(main.scopes), main.last4) == (True, [], renter.key[-4:])
    assert created.api_key not in str(await list_keys(market, renter))
    page = await list_keys(market, renter, page_size=1)
    rest = await list_keys(market, renter, page_size=1, before_id=page.next_before_id)
    assert [key.id for key in (*page.keys, *rest.keys)] == [newest.id, main.id]
    assert not rest.HasField("next_before_id")


async def test_revoked_key_is_refused_at_once(any_market: Market) -> None:
    market = any_market
    renter = await market.renter()
    created = await create(market, renter, READ)
    reader = Party(renter.id, created.api_key)
    await market.wallet(reader)  # the server has cached the key now
    revoked = await revoke(market, renter, created.key.id)
    assert revoked.key.HasField("revoked_at")
    assert (await refusal(market.wallet(reader))).reason == "INVALID_CREDENTIAL"
    market.clock.advance(5)
    assert (await revoke(market, renter, created.key.id)).key == revoked.key


async def test_key_of_another_account_is_not_found(market: Market) -> None:
    renter, stranger = await market.renter(), await market.renter()
    created = await create(market, renter, READ)
    refused = await refusal(revoke(market, stranger, created.key.id))
    assert (refused.code, refused.reason) == (grpc.StatusCode.NOT_FOUND, "KEY_NOT_FOUND")
    await market.wallet(Party(renter.id, created.api_key))
    assert created.key.id not in [key.id for key in (await list_keys(market, stranger)).keys]


async def test_current_main_key_cannot_be_revoked(market: Market) -> None:
    renter = await market.renter()
    (main,) = (await list_keys(market, renter)).keys
    assert (await refusal(revoke(market, renter, main.id))).reason == "WRONG_STATE"
    await rotate(market, renter)
    assert (
        await revoke(market, renter, main.id)
    ).key.main  # a replaced key may be revoked within its grace period
    assert (await refusal(market.wallet(renter))).reason == "INVALID_CREDENTIAL"


async def test_sub_key_expires(market: Market) -> None:
    renter = await market.renter()
    reader = await sub_key(market, renter, READ, expires_in_seconds=60)
    market.clock.advance(59)
    await market.wallet(reader)
    market.clock.advance(1)
    assert (await refusal(market.wallet(reader))).reason == "INVALID_CREDENTIAL"


@pytest.mark.parametrize(
    ("fields", "at_fault"),
    [
        ({"scopes": []}, "scopes"),
        ({"scopes": [0]}, "scopes"),
        ({"scopes": [99]}, "scopes"),
        ({"scopes": [READ] * 4}, "scopes"),
        ({"name": " "}, "name"),
        ({"name": "x" * 101}, "name"),
        ({"expires_in_seconds": 59}, "expires_in_seconds"),
        ({"expires_in_seconds": 2**62}, "expires_in_seconds"),
    ],
)
async def test_bad_sub_key_is_refused(market: Market, fields: dict[str, Any], at_fault: str) -> None:
    renter = await market.renter()
    refused = await refusal(create(market, renter, READ, **fields))
    assert (refused.reason, refused.facts.field) == ("INVALID_FIELD", at_fault)


async def test_account_has_a_maximum_number_of_keys(market: Market) -> None:
    renter = await market.renter()
    sub_keys = [await create(market, renter, READ) for _ in range(MAX_SUB_KEYS)]
    assert (await refusal(create(market, renter, READ))).reason == "TOO_MANY_KEYS"
    await revoke(market, renter, sub_keys[0].key.id)
    await create(market, renter, READ)
    for _ in range(MAX_MAIN_KEYS - 1):
        await rotate(market, renter)
    assert (await refusal(rotate(market, renter))).reason == "TOO_MANY_KEYS"
    newest = await rotate(market, renter, grace_seconds=0)
    assert (
        len([key for key in (await list_keys(market, newest, page_size=200)).keys if key.main])
        > MAX_MAIN_KEYS
    )


async def test_replaced_key_works_until_its_grace_period_ends(any_market: Market) -> None:
    market = any_market
    old = await market.renter()
    reader = await sub_key(market, old, READ)
    new = await rotate(market, old, grace_seconds=100)
    market.clock.advance(99)
    for key in (old, new, reader):
        await market.wallet(key)
    market.clock.advance(1)
    assert (await refusal(market.wallet(old))).reason == "INVALID_CREDENTIAL"
    for key in (new, reader):
        await market.wallet(key)


async def test_grace_period_is_a_day_by_default_and_zero_ends_the_key_at_once(market: Market) -> None:
    first = await market.renter()
    await market.wallet(first)  # the server has cached the key now
    second = await rotate(market, first)
    market.clock.advance(DAY_SECONDS - 1)
    await market.wallet(first)
    third = await rotate(market, second, grace_seconds=0)
    for key in (first, second):
        assert (await refusal(market.wallet(key))).reason == "INVALID_CREDENTIAL"
    await market.wallet(third)


async def test_later_rotation_does_not_extend_an_earlier_grace_period(market: Market) -> None:
    first = await market.renter()
    second = await rotate(market, first, grace_seconds=10)
    await rotate(market, second, grace_seconds=1000)
    market.clock.advance(10)
    assert (await refusal(market.wallet(first))).reason == "INVALID_CREDENTIAL"
    await market.wallet(second)


async def test_simultaneous_rotations_leave_one_valid_key(any_market: Market) -> None:
    market = any_market
    old = await market.renter()
    rotated = await asyncio.gather(*(rotate(market, old, grace_seconds=60) for _ in range(5)))
    market.clock.advance(60)
    outcomes = await asyncio.gather(*(market.wallet(key) for key in (old, *rotated)), return_exceptions=True)
    refused = [outcome for outcome in outcomes if isinstance(outcome, grpc.aio.AioRpcError)]
    assert [read_refusal(error).reason for error in refused] == ["INVALID_CREDENTIAL"] * len(rotated)


async def test_grace_period_longer_than_seven_days_is_refused(market: Market) -> None:
    for seconds in (-1, 7 * DAY_SECONDS + 1):
        refused = await refusal(rotate(market, await market.renter(), grace_seconds=seconds))
        assert (refused.reason, refused.facts.field) == ("INVALID_FIELD", "grace_seconds")


async def test_stream_continues_through_the_grace_period_of_its_key_and_then_ends(any_market: Market) -> None:
    """The daemon keeps its running job and reconnects with the new key."""
    market = any_market
    old, renter = await market.provider(), await market.renter()
    daemon = await market.daemon(old)
    job, lease = await market.running_job(renter, old, daemon)
    new = await rotate_provider(market, old, grace_seconds=int(CHECK_SECONDS) + 50)
    for _ in range(2):  # both heartbeats come within the grace period
        await market.later(CHECK_SECONDS / 2)
        await daemon.heartbeat()
    await market.later(CHECK_SECONDS)
    refused = await daemon.ended()
    assert refused is not None
    assert (refused.code, refused.reason) == (grpc.StatusCode.UNAUTHENTICATED, "INVALID_CREDENTIAL")
    shut_out = await market.connect(old).ended()
    assert shut_out is not None
    assert shut_out.reason == "INVALID_CREDENTIAL"
    again = market.connect(new)
    await again.hello(held_leases=[lease])
    assert (await again.expect("lease_directive")).action == sessions_pb2.LEASE_ACTION_KEEP
    assert (await market.job(job)).status == jobs_pb2.JOB_STATE_RUNNING


async def test_last_use_of_a_key_is_written_once_a_minute_and_not_by_the_call(
    any_market: Market, caplog: pytest.LogCaptureFixture
) -> None:
    market = any_market
    renter = await market.renter()
    reader = await sub_key(market, renter, READ)
    await market.later(USES_PERIOD_SECONDS)  # earlier uses are written
    with caplog.at_level(logging.DEBUG, "peewee"):
        for _ in range(3):
            await market.wallet(reader)
            await market.tick()
        assert not [
            r for r in caplog.records if "last_used_ms" in r.getMessage() and "UPDATE" in r.getMessage()
        ]
        used_at = market.clock.now()
        await market.later(USES_PERIOD_SECONDS)
    written = [r for r in caplog.records if "last_used_ms" in r.getMessage() and "UPDATE" in r.getMessage()]
    assert len(written) == 1
    newest = (await list_keys(market, renter)).keys[0]
    assert newest.last_used_at.seconds == int(used_at)


async def test_sub_key_of_a_suspended_account_cannot_submit(market: Market) -> None:
    renter = await market.renter()
    submitter = await sub_key(market, renter, INFERENCE)
    await market.set_renter(renter, state="suspended")
    assert (await refusal(market.submit(submitter))).reason == "RENTER_SUSPENDED"


async def test_sub_key_has_only_the_role_of_its_account(market: Market) -> None:
    submitter = await sub_key(market, await market.renter(), READ, BILLING, INFERENCE)
    credit = ledger_pb2.CreditRenterRequest(renter_id=submitter.id, amount_halala=1)
    for call in (
        market.ledger_service.CreditRenter(credit, metadata=submitter.metadata),
        rotate_provider(market, submitter),
    ):
        assert (await refusal(call)).reason == "WRONG_ROLE"


async def test_public_calls_need_no_scope(market: Market) -> None:
    submitter = await sub_key(market, await market.renter(), BILLING)
    request = renters_pb2.ListAvailableProvidersRequest()
    answer = await market.renter_service.ListAvailableProviders(request, metadata=bearer(submitter.key))
    assert answer.total == 0


async def test_key_that_is_revoked_during_its_lookup_is_not_cached(market: Market) -> None:
    renter, known = await market.renter(), market.server.services.keys
    looking = asyncio.create_task(known.identify(renter.key))
    await asyncio.sleep(0)  # the query is under way, and its answer waits for this loop
    known.forget(digest(renter.key))
    assert (await looking).id == renter.id
    assert known.recall(renter.key) is None
    await known.identify(renter.key)
    assert known.recall(renter.key) is not None


async def test_bad_hint_of_a_key_keeps_none_beside_it_in_the_cache(market: Market) -> None:
    """What comes over the bus is checked: each text may be anything."""
    renter = await market.renter()
    await market.wallet(renter)
    known = market.server.services.keys
    assert known.recall(renter.key) is not None
    bad = {"g" * 64, "\xe9" * 64, "", "\0", "a", *(f"{number:064x} " for number in range(3))}
    known._hear_of_keys(frozenset({*bad, digest(renter.key).hex()}))
    assert known.recall(renter.key) is None

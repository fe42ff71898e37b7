"""Each act of an operator is in the audit log, under its name.

The RPCs come from the descriptors: one that operators may call and that is no read needs a scene here.
"""

from __future__ import annotations

import base64
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import pytest
from dcp.v1 import (
    accounts_pb2,
    incidents_pb2,
    jobs_pb2,
    log_ins_pb2,
    operations_pb2,
    operators_pb2,
    options_pb2,
    prices_pb2,
    recovery_pb2,
)
from google.protobuf.message import Message

from server.domain.operators import OperatorRole
from server.services.keys import OPERATOR_KEY, OPERATOR_LOG_IN, digest
from server.store.models import AuditEntry
from server.store.operators import access, passkeys, roster
from tests.server.rpc.methods import METHODS, call, rule
from tests.server.services import test_repeats
from tests.support import running_server
from tests.support.authenticator import Authenticator
from tests.support.manual_clock import ManualClock
from tests.support.operators import local_passkey
from tests.support.running_server import Market, Metadata, bearer

ACTS = [
    name
    for name, method in METHODS.items()
    if options_pb2.ROLE_ADMIN in rule(method).roles and rule(method).repeat
]
CHANGES_NOTHING = {"OperatorService.BeginPasskey": "it only asks: the passkey that answers is an act"}
NAME = "Sara"


@dataclass
class Acting:
    """An operator who is an admin: its browser's log-in by a passkey, its key, and what else is its own."""

    log_in: Metadata
    key: Metadata
    key_id: int
    passkey_id: int


Scene = tuple[Message, Metadata]
Make = Callable[[Market, Acting], Awaitable[Scene]]


async def acting(market: Market) -> Acting:
    """Adds the operator, with two passkeys: the last one cannot be removed."""
    secrets = [f"{beginning}{'x' * 40}" for beginning in (OPERATOR_LOG_IN, OPERATOR_KEY)]
    now_ms = int(market.clock.now() * 1000)
    ends_ms = now_ms + 3_600_000

    def add() -> tuple[int, int]:
        operator_id = roster.add(NAME, NAME, "", OperatorRole.ADMIN, b"handle", now_ms)
        first, second = (passkeys.add(operator_id, each, b"", 0, "p", now_ms) for each in (b"1", b"2"))
        assert first is not None
        assert second is not None
        log_in, key = (digest(secret) for secret in secrets)
        access.add(operator_id, log_in, "last", "browser", now_ms, ends_ms, is_log_in=True, passkey_id=first)
        return access.add(operator_id, key, "last", "script", now_ms, ends_ms, is_log_in=False), second

    key_id, passkey_id = await market.sql(add)
    log_in, key = (bearer(secret) for secret in secrets)
    return Acting(log_in, key, key_id, passkey_id)


def as_it_is(request: Message) -> Make:
    """A request that needs nothing to be there before."""

    async def make(market: Market, own: Acting) -> Scene:
        return request, own.log_in

    return make


def about(role: str, kind: Any, first: Any = None, **fields: object) -> Make:
    """A request about a new account; ``first`` is the one that must have been sent before."""

    async def make(market: Market, own: Acting) -> Scene:
        party = await (market.provider() if role == "provider" else market.renter())
        name = {f"{role}_id": party.id}
        if first is not None:
            await send(market, first(**name, reason="reported"), own.log_in)
        return kind(**name, **fields), own.log_in

    return make


def after(first: Message, request: Message) -> Make:
    """A request that needs another one to be sent before."""

    async def make(market: Market, own: Acting) -> Scene:
        await send(market, first, own.log_in)
        return request, own.log_in

    return make


def about_another(kind: Any, **fields: object) -> Make:
    """A request about another operator."""

    async def make(market: Market, own: Acting) -> Scene:
        invited: Any = await send(market, INVITE, own.log_in)
        return kind(operator_id=invited.operator.id, **fields), own.log_in

    return make


async def approve(market: Market, own: Acting) -> Scene:
    provider = await market.provider()
    await market.set_provider(provider, state="pending_approval")
    return accounts_pb2.ApproveProviderRequest(provider_id=provider.id), own.log_in


async def cancel(market: Market, own: Acting) -> Scene:
    job = await market.submit(await market.renter())
    return jobs_pb2.CancelJobRequest(job_id=job.job_id), own.log_in


async def add_passkey(market: Market, own: Acting) -> Scene:
    asked: Any = await send(market, operators_pb2.BeginPasskeyRequest(), own.log_in)
    passkey: Authenticator = local_passkey()
    texts = {name: base64.b64encode(getattr(asked, name)).decode() for name in ("challenge", "user")}
    created = passkey.create(texts)
    name = created.pop("name")
    answer = {field: base64.b64decode(text) for field, text in created.items()}
    request = operators_pb2.AddPasskeyRequest(name=name, asked=asked.asked, **answer)
    return request, own.log_in


async def remove_passkey(market: Market, own: Acting) -> Scene:
    return operators_pb2.RemovePasskeyRequest(passkey_id=own.passkey_id), own.log_in


async def log_in(market: Market, own: Acting) -> Scene:
    return operators_pb2.LogInOperatorRequest(), own.key


async def revoke_key(market: Market, own: Acting) -> Scene:
    return operators_pb2.RevokeOperatorKeyRequest(key_id=own.key_id), own.log_in


def keyed(name: str) -> Make:
    """The scene of a request that takes an Idempotency-Key, for this operator."""

    async def make(market: Market, own: Acting) -> Scene:
        return (await test_repeats.SCENES[name](market)).request, own.log_in

    return make


INVITE = operators_pb2.InviteOperatorRequest(name="Noura", role=options_pb2.OPERATOR_ROLE_SUPPORT)
SET_WEBHOOK = incidents_pb2.SetOperatorWebhookRequest(url="https://pager.example/dcp")
SCENES: dict[str, Make] = {
    "AccountService.SuspendProvider": about(
        "provider", accounts_pb2.SuspendProviderRequest, reason="reported"
    ),
    "AccountService.UnsuspendProvider": about(
        "provider", accounts_pb2.UnsuspendProviderRequest, accounts_pb2.SuspendProviderRequest
    ),
    "AccountService.ApproveProvider": approve,
    "AccountService.VouchForProvider": about(
        "provider", accounts_pb2.VouchForProviderRequest, vouched=True, reason="seen"
    ),
    "AccountService.SuspendRenter": about("renter", accounts_pb2.SuspendRenterRequest, reason="reported"),
    "AccountService.UnsuspendRenter": about(
        "renter", accounts_pb2.UnsuspendRenterRequest, accounts_pb2.SuspendRenterRequest
    ),
    "IncidentService.SetOperatorWebhook": as_it_is(SET_WEBHOOK),
    "IncidentService.RemoveOperatorWebhook": after(SET_WEBHOOK, incidents_pb2.RemoveOperatorWebhookRequest()),
    "IncidentService.RotateOperatorWebhookSecret": after(
        SET_WEBHOOK, incidents_pb2.RotateOperatorWebhookSecretRequest()
    ),
    "IncidentService.TestOperatorWebhook": after(SET_WEBHOOK, incidents_pb2.TestOperatorWebhookRequest()),
    "JobService.CancelJob": cancel,
    "LogInService.LogOut": as_it_is(log_ins_pb2.LogOutRequest()),
    "OperationService.ChangeRate": as_it_is(
        operations_pb2.ChangeRateRequest(job_type=jobs_pb2.JOB_TYPE_BENCHMARK, halala_per_minute=175)
    ),
    "OperatorService.InviteOperator": as_it_is(INVITE),
    "OperatorService.InviteOperatorAgain": about_another(operators_pb2.InviteOperatorAgainRequest),
    "OperatorService.SetOperatorRole": about_another(
        operators_pb2.SetOperatorRoleRequest, role=options_pb2.OPERATOR_ROLE_FINANCE
    ),
    "OperatorService.RemoveOperator": about_another(operators_pb2.RemoveOperatorRequest),
    "OperatorService.AddPasskey": add_passkey,
    "OperatorService.RemovePasskey": remove_passkey,
    "OperatorService.LogInOperator": log_in,
    "OperatorService.CreateOperatorKey": as_it_is(
        operators_pb2.CreateOperatorKeyRequest(name="script", expires_in_seconds=3600)
    ),
    "OperatorService.RevokeOperatorKey": revoke_key,
    "PriceService.SetPrice": as_it_is(prices_pb2.SetPriceRequest(gpu_model="RTX 4090", sar_per_hour="2.25")),
    "PriceService.SetStoragePrice": as_it_is(prices_pb2.SetStoragePriceRequest(sar_per_gb_day="0.02")),
    "RecoveryService.RecoverRenterKey": about(
        "renter", recovery_pb2.RecoverRenterKeyRequest, reason="passport seen"
    ),
    "RecoveryService.RecoverProviderKey": about(
        "provider", recovery_pb2.RecoverProviderKeyRequest, reason="passport seen"
    ),
    **{name: keyed(name) for name in ACTS if name in test_repeats.SCENES},
}


async def send(market: Market, request: Message, metadata: Metadata) -> Message:
    """Calls the method of a request."""
    (method,) = [each for each in METHODS.values() if each.input_type is request.DESCRIPTOR]
    return await call(market, method, request, metadata)


def test_every_act_of_operators_has_a_scene() -> None:
    assert set(ACTS) == set(SCENES) | set(CHANGES_NOTHING)


@pytest.mark.parametrize("name", SCENES)
async def test_act_is_in_the_audit_log_under_its_operator(
    sqlite_url: str, clock: ManualClock, name: str
) -> None:
    async with running_server.running(sqlite_url, clock) as market:
        own = await acting(market)
        request, metadata = await SCENES[name](market, own)
        before = await market.sql(lambda: AuditEntry.select().count())
        await call(market, METHODS[name], request, metadata)
        actors = await market.sql(
            lambda: [row.actor for row in AuditEntry.select().order_by(AuditEntry.id).offset(before)]
        )
        assert actors == [NAME]

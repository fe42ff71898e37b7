"""KeyService at the wire."""

from __future__ import annotations

from typing import Any

from dcp.v1 import keys_pb2 as pb
from dcp.v1 import keys_pb2_grpc, options_pb2

from server.domain.budgets import FIELDS, KeyLimits, Period
from server.domain.errors import DomainError, Reason, invalid_field
from server.domain.keys import Scope
from server.domain.money import micros, whole_halala
from server.rpc import convert
from server.rpc.context import Context
from server.rpc.enums import enum_map, member_map
from server.rpc.interceptors import caller
from server.services.key_ring import KeyRing, Rotation
from server.store.keys import KeyRow

_SCOPES = member_map(Scope, options_pb2.Scope)
_NUMBERS = enum_map(Scope, options_pb2.Scope)
_USED = {Period.DAY: "used_today", Period.MONTH: "used_this_month", Period.TOTAL: "used_in_total"}


class KeyServicer(keys_pb2_grpc.KeyServiceServicer):
    def __init__(self, ring: KeyRing) -> None:
        self._ring = ring

    async def CreateKey(self, request: pb.CreateKeyRequest, context: Context) -> pb.CreateKeyResponse:
        row, secret = await self._ring.create(
            caller().id,
            request.name.strip(),
            _scopes(request.scopes),
            request.expires_in_seconds or None,
            _limits(request),
        )
        return pb.CreateKeyResponse(success=True, key=key(row), api_key=secret)

    async def ListKeys(self, request: pb.ListKeysRequest, context: Context) -> pb.ListKeysResponse:
        page = await self._ring.own(caller().id, request.before_id or None, request.page_size)
        return pb.ListKeysResponse(keys=[key(row) for row in page.rows], next_before_id=page.next_id)

    async def RevokeKey(self, request: pb.RevokeKeyRequest, context: Context) -> pb.RevokeKeyResponse:
        return pb.RevokeKeyResponse(
            success=True, key=key(await self._ring.revoke(caller().id, request.key_id))
        )

    async def SetKeyLimits(
        self, request: pb.SetKeyLimitsRequest, context: Context
    ) -> pb.SetKeyLimitsResponse:
        row = await self._ring.limit(caller().id, request.key_id, _limits(request))
        return pb.SetKeyLimitsResponse(success=True, key=key(row))

    async def RotateRenterKey(
        self, request: pb.RotateRenterKeyRequest, context: Context
    ) -> pb.RotateRenterKeyResponse:
        rotation = await self._rotate(request)
        return pb.RotateRenterKeyResponse(
            success=True,
            api_key=rotation.api_key,
            previous_expires_at=convert.timestamp(rotation.previous_expires_ms),
        )

    async def RotateProviderKey(
        self, request: pb.RotateProviderKeyRequest, context: Context
    ) -> pb.RotateProviderKeyResponse:
        rotation = await self._rotate(request)
        return pb.RotateProviderKeyResponse(
            success=True,
            api_key=rotation.api_key,
            previous_expires_at=convert.timestamp(rotation.previous_expires_ms),
        )

    async def _rotate(self, request: pb.RotateRenterKeyRequest | pb.RotateProviderKeyRequest) -> Rotation:
        if caller().is_log_in:  # whoever reads the account's mail must wait for a new key, see docs/decisions
            raise DomainError(
                Reason.MAIN_KEY_NEEDED,
                "a new main key needs the present one, not a log-in; if it is lost, ask for a code at "
                "POST /api/accounts/lost-key",
            )
        return await self._ring.rotate(caller().role, caller().id, request.grace_seconds)


def _scopes(numbers: Any) -> frozenset[Scope]:
    try:
        return frozenset(_SCOPES[number] for number in numbers)
    except KeyError:
        raise invalid_field("scopes", f"must be some of: {', '.join(Scope)}") from None


def _limits(request: pb.CreateKeyRequest | pb.SetKeyLimitsRequest) -> KeyLimits:
    amounts = {period: micros(getattr(request, name)) for period, name in FIELDS.items()}
    return KeyLimits(
        {period: amount for period, amount in amounts.items() if amount},
        tuple(dict.fromkeys(name.strip() for name in request.allowed_models)),
        tuple(dict.fromkeys(request.allowed_providers)),
    )


def key(row: KeyRow) -> pb.Key:
    """A key as its owner sees it."""
    budgets = {FIELDS[period]: whole_halala(amount) for period, amount in row.limits.budgets.items()}
    shown = pb.Key(
        id=row.id,
        name=row.name,
        scopes=[_NUMBERS[scope] for scope in Scope if scope in (row.scopes or ())],
        last4=row.last4,
        created_at=convert.timestamp(row.created_ms),
        expires_at=convert.timestamp(row.expires_ms),
        last_used_at=convert.timestamp(row.last_used_ms),
        revoked_at=convert.timestamp(row.revoked_ms),
        main=row.scopes is None,
        allowed_models=row.limits.models,
        allowed_providers=row.limits.providers,
        **budgets,
    )
    return convert.with_money(shown, **{_USED[period]: amount for period, amount in row.used.items()})

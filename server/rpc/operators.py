"""OperatorService at the wire."""

from __future__ import annotations

from typing import TypeVar

from dcp.v1 import operators_pb2 as pb
from dcp.v1 import operators_pb2_grpc, options_pb2

from server.domain.errors import invalid_field
from server.domain.operators import OperatorRole
from server.rpc import convert
from server.rpc.context import Context
from server.rpc.enums import enum_map, member_map
from server.rpc.interceptors import caller, operator, request_id
from server.services.operators.access import Access, OperatorLogIn
from server.services.operators.passkeys import Answer, Asked, New, Passkeys
from server.services.operators.roster import Invitation, Roster
from server.store.operators.access import OperatorKeyRow
from server.store.operators.passkeys import PasskeyRow
from server.store.operators.roster import OperatorRow

_ROLES = member_map(OperatorRole, options_pb2.OperatorRole)
_NUMBERS = enum_map(OperatorRole, options_pb2.OperatorRole)

Invited = TypeVar("Invited", pb.InviteOperatorResponse, pb.InviteOperatorAgainResponse)
Creation = TypeVar("Creation", pb.OpenInvitationResponse, pb.BeginPasskeyResponse)
LoggedIn = TypeVar(
    "LoggedIn", pb.AcceptInvitationResponse, pb.LogInByPasskeyResponse, pb.LogInOperatorResponse
)


class OperatorServicer(operators_pb2_grpc.OperatorServiceServicer):
    def __init__(self, roster: Roster, access: Access, passkeys: Passkeys, public_url: str) -> None:
        self._roster = roster
        self._access = access
        self._passkeys = passkeys
        self._public_url = public_url

    async def GetOwnOperator(
        self, request: pb.GetOwnOperatorRequest, context: Context
    ) -> pb.GetOwnOperatorResponse:
        who = caller()
        if not who.id:
            token = pb.Operator(name=who.name, role=options_pb2.OPERATOR_ROLE_ADMIN)
            return pb.GetOwnOperatorResponse(operator=token, by=pb.OPERATOR_CREDENTIAL_TOKEN)
        return pb.GetOwnOperatorResponse(
            operator=shown(await self._roster.get(who.id)),
            by=pb.OPERATOR_CREDENTIAL_LOG_IN if who.is_log_in else pb.OPERATOR_CREDENTIAL_KEY,
            expires_at=convert.timestamp(await self._access.expiry(who)),
        )

    async def ListOperators(
        self, request: pb.ListOperatorsRequest, context: Context
    ) -> pb.ListOperatorsResponse:
        page = await self._roster.page(request.before_id or None, request.page_size)
        return pb.ListOperatorsResponse(
            operators=[shown(row) for row in page.rows], next_before_id=page.next_id
        )

    async def InviteOperator(
        self, request: pb.InviteOperatorRequest, context: Context
    ) -> pb.InviteOperatorResponse:
        name, role = request.name.strip(), _role(request.role)
        invited = await self._roster.invite(caller(), operator(context), name, request.email.strip(), role)
        return self._invited(pb.InviteOperatorResponse, invited)

    async def InviteOperatorAgain(
        self, request: pb.InviteOperatorAgainRequest, context: Context
    ) -> pb.InviteOperatorAgainResponse:
        return self._invited(
            pb.InviteOperatorAgainResponse,
            await self._roster.invite_again(caller(), operator(context), request.operator_id),
        )

    async def SetOperatorRole(
        self, request: pb.SetOperatorRoleRequest, context: Context
    ) -> pb.SetOperatorRoleResponse:
        row = await self._roster.set_role(
            caller(), operator(context), request.operator_id, _role(request.role)
        )
        return pb.SetOperatorRoleResponse(success=True, operator=shown(row))

    async def RemoveOperator(
        self, request: pb.RemoveOperatorRequest, context: Context
    ) -> pb.RemoveOperatorResponse:
        row = await self._roster.remove(caller(), operator(context), request.operator_id)
        return pb.RemoveOperatorResponse(success=True, operator=shown(row))

    async def OpenInvitation(
        self, request: pb.OpenInvitationRequest, context: Context
    ) -> pb.OpenInvitationResponse:
        return _creation(pb.OpenInvitationResponse, await self._passkeys.open(request.invitation))

    async def AcceptInvitation(
        self, request: pb.AcceptInvitationRequest, context: Context
    ) -> pb.AcceptInvitationResponse:
        found = await self._passkeys.accept(
            request.asked, request.invitation, _new(request), request_id(context)
        )
        return _logged_in(pb.AcceptInvitationResponse, found)

    async def AskForPasskey(
        self, request: pb.AskForPasskeyRequest, context: Context
    ) -> pb.AskForPasskeyResponse:
        asked = await self._passkeys.ask()
        return pb.AskForPasskeyResponse(
            success=True,
            challenge=asked.challenge,
            domain=asked.domain,
            expires_at=convert.timestamp(asked.expires_ms),
            asked=asked.browser,
        )

    async def LogInByPasskey(
        self, request: pb.LogInByPasskeyRequest, context: Context
    ) -> pb.LogInByPasskeyResponse:
        answer = Answer(
            request.credential,
            request.client_data,
            request.authenticator_data,
            request.signature,
            request.user,
        )
        return _logged_in(
            pb.LogInByPasskeyResponse, await self._passkeys.log_in(request.asked, answer, request_id(context))
        )

    async def BeginPasskey(
        self, request: pb.BeginPasskeyRequest, context: Context
    ) -> pb.BeginPasskeyResponse:
        return _creation(pb.BeginPasskeyResponse, await self._passkeys.begin(caller()))

    async def AddPasskey(self, request: pb.AddPasskeyRequest, context: Context) -> pb.AddPasskeyResponse:
        row = await self._passkeys.add(caller(), operator(context), request.asked, _new(request))
        return pb.AddPasskeyResponse(success=True, passkey=_passkey(row))

    async def ListPasskeys(
        self, request: pb.ListPasskeysRequest, context: Context
    ) -> pb.ListPasskeysResponse:
        rows = await self._passkeys.own(caller().id)
        return pb.ListPasskeysResponse(passkeys=[_passkey(row) for row in rows])

    async def RemovePasskey(
        self, request: pb.RemovePasskeyRequest, context: Context
    ) -> pb.RemovePasskeyResponse:
        row = await self._passkeys.remove(caller(), operator(context), request.passkey_id)
        return pb.RemovePasskeyResponse(success=True, passkey=_passkey(row))

    async def LogInOperator(
        self, request: pb.LogInOperatorRequest, context: Context
    ) -> pb.LogInOperatorResponse:
        return _logged_in(pb.LogInOperatorResponse, await self._access.by_key(caller(), operator(context)))

    async def CreateOperatorKey(
        self, request: pb.CreateOperatorKeyRequest, context: Context
    ) -> pb.CreateOperatorKeyResponse:
        row, secret = await self._access.create_key(
            caller(), operator(context), request.name.strip(), request.expires_in_seconds
        )
        return pb.CreateOperatorKeyResponse(success=True, key=_key(row), api_key=secret)

    async def ListOperatorKeys(
        self, request: pb.ListOperatorKeysRequest, context: Context
    ) -> pb.ListOperatorKeysResponse:
        page = await self._access.keys(caller().id, request.before_id or None, request.page_size)
        return pb.ListOperatorKeysResponse(keys=[_key(row) for row in page.rows], next_before_id=page.next_id)

    async def RevokeOperatorKey(
        self, request: pb.RevokeOperatorKeyRequest, context: Context
    ) -> pb.RevokeOperatorKeyResponse:
        row = await self._access.revoke_key(caller().id, operator(context), request.key_id)
        return pb.RevokeOperatorKeyResponse(success=True, key=_key(row))

    def _invited(self, answer: type[Invited], invited: Invitation) -> Invited:
        return answer(
            success=True,
            operator=shown(invited.operator),
            link=f"{self._public_url}/invitation#{invited.code}",
            expires_at=convert.timestamp(invited.expires_ms),
        )


def _role(number: int) -> OperatorRole:
    if number not in _ROLES:
        raise invalid_field("role", f"must be one of: {', '.join(OperatorRole)}")
    return _ROLES[number]


def shown(row: OperatorRow) -> pb.Operator:
    """An operator as operators see it."""
    return pb.Operator(
        id=row.id,
        name=row.name,
        email=row.email,
        role=_NUMBERS[row.role],
        created_at=convert.timestamp(row.created_ms),
        removed_at=convert.timestamp(row.removed_ms),
        passkeys=row.passkeys,
        invited_until=convert.timestamp(row.invited_until_ms),
    )


def _logged_in(answer: type[LoggedIn], found: OperatorLogIn) -> LoggedIn:
    return answer(
        success=True,
        operator=shown(found.operator),
        expires_at=convert.timestamp(found.expires_ms),
        session=found.secret,
    )


def _creation(answer: type[Creation], asked: Asked) -> Creation:
    assert asked.operator is not None
    return answer(
        success=True,
        operator=shown(asked.operator),
        challenge=asked.challenge,
        domain=asked.domain,
        user=asked.operator.handle,
        known=asked.known,
        expires_at=convert.timestamp(asked.expires_ms),
        asked=asked.browser,
    )


def _new(request: pb.AcceptInvitationRequest | pb.AddPasskeyRequest) -> New:
    return New(request.credential, request.client_data, request.attestation, request.name.strip())


def _passkey(row: PasskeyRow) -> pb.Passkey:
    return pb.Passkey(
        id=row.id,
        name=row.name,
        created_at=convert.timestamp(row.created_ms),
        last_used_at=convert.timestamp(row.last_used_ms),
    )


def _key(row: OperatorKeyRow) -> pb.OperatorKey:
    return pb.OperatorKey(
        id=row.id,
        name=row.name,
        last4=row.last4,
        created_at=convert.timestamp(row.created_ms),
        expires_at=convert.timestamp(row.expires_ms),
        last_used_at=convert.timestamp(row.last_used_ms),
        revoked_at=convert.timestamp(row.revoked_ms),
    )

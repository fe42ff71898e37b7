"""RecoveryService at the wire."""

from __future__ import annotations

from dcp.v1 import recovery_pb2 as pb
from dcp.v1 import recovery_pb2_grpc

from server.domain.errors import invalid_field
from server.rpc import convert
from server.rpc.context import Context
from server.rpc.interceptors import caller, operator, request_id
from server.rpc.validate import mailbox_of
from server.services.keys import PROVIDER, RENTER
from server.services.recovery import Recovery

_ROLES: dict[int, str] = {pb.ACCOUNT_ROLE_PROVIDER: PROVIDER, pb.ACCOUNT_ROLE_RENTER: RENTER}
ROLE_NUMBERS = {role: number for number, role in _ROLES.items()}


def account_role(number: int) -> str:
    """The role of an account that a request names. Raises INVALID_FIELD."""
    if number not in _ROLES:
        raise invalid_field("role", "must be provider or renter")
    return _ROLES[number]


class RecoveryServicer(recovery_pb2_grpc.RecoveryServiceServicer):
    def __init__(self, recovery: Recovery) -> None:
        self._recovery = recovery

    async def ReportLostKey(
        self, request: pb.ReportLostKeyRequest, context: Context
    ) -> pb.ReportLostKeyResponse:
        await self._recovery.report(account_role(request.role), mailbox_of(request.email))
        return pb.ReportLostKeyResponse(success=True)

    async def RedeemKeyCode(
        self, request: pb.RedeemKeyCodeRequest, context: Context
    ) -> pb.RedeemKeyCodeResponse:
        redemption = await self._recovery.redeem(request_id(context), request.code)
        return pb.RedeemKeyCodeResponse(
            success=True,
            role=ROLE_NUMBERS[redemption.role],  # type: ignore[arg-type]
            account_id=redemption.account_id,
            ready_at=convert.timestamp(redemption.ready_ms),
            api_key=redemption.api_key,
        )

    async def CancelKeyRecovery(
        self, request: pb.CancelKeyRecoveryRequest, context: Context
    ) -> pb.CancelKeyRecoveryResponse:
        cancelled = await self._recovery.cancel(request_id(context), caller().role, caller().id)
        return pb.CancelKeyRecoveryResponse(success=True, cancelled=cancelled)

    async def RecoverRenterKey(
        self, request: pb.RecoverRenterKeyRequest, context: Context
    ) -> pb.RecoverRenterKeyResponse:
        code = await self._recovery.start(
            operator(context), RENTER, request.renter_id, request.reason.strip()
        )
        return pb.RecoverRenterKeyResponse(success=True, renter_id=request.renter_id, code=code)

    async def RecoverProviderKey(
        self, request: pb.RecoverProviderKeyRequest, context: Context
    ) -> pb.RecoverProviderKeyResponse:
        code = await self._recovery.start(
            operator(context), PROVIDER, request.provider_id, request.reason.strip()
        )
        return pb.RecoverProviderKeyResponse(success=True, provider_id=request.provider_id, code=code)

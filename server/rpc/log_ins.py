"""LogInService at the wire."""

from __future__ import annotations

from dcp.v1 import log_ins_pb2 as pb
from dcp.v1 import log_ins_pb2_grpc

from server.rpc import convert
from server.rpc.context import Context
from server.rpc.interceptors import caller, operator
from server.rpc.recovery import ROLE_NUMBERS, account_role
from server.rpc.validate import mailbox_of
from server.services.keys import ADMIN
from server.services.log_ins import LogIns
from server.services.operators.access import Access


class LogInServicer(log_ins_pb2_grpc.LogInServiceServicer):
    def __init__(self, log_ins: LogIns, of_operators: Access) -> None:
        self._log_ins = log_ins
        self._of_operators = of_operators

    async def LogIn(self, request: pb.LogInRequest, context: Context) -> pb.LogInResponse:
        found = await self._log_ins.by_key(caller())
        return pb.LogInResponse(
            success=True,
            role=ROLE_NUMBERS[found.role],  # type: ignore[arg-type]
            account_id=found.account_id,
            expires_at=convert.timestamp(found.expires_ms),
            session=found.secret,
        )

    async def AskToLogIn(self, request: pb.AskToLogInRequest, context: Context) -> pb.AskToLogInResponse:
        asked = await self._log_ins.ask(account_role(request.role), mailbox_of(request.email))
        expires_at = convert.timestamp(asked.expires_ms)
        return pb.AskToLogInResponse(success=True, expires_at=expires_at, asked=asked.secret)

    async def RedeemLogInCode(
        self, request: pb.RedeemLogInCodeRequest, context: Context
    ) -> pb.RedeemLogInCodeResponse:
        found = await self._log_ins.redeem(request.asked, request.code)
        return pb.RedeemLogInCodeResponse(
            success=True,
            role=ROLE_NUMBERS[found.role],  # type: ignore[arg-type]
            account_id=found.account_id,
            expires_at=convert.timestamp(found.expires_ms),
            session=found.secret,
        )

    async def LogOut(self, request: pb.LogOutRequest, context: Context) -> pb.LogOutResponse:
        everywhere = request.everywhere
        if caller().role == ADMIN:
            ended = await self._of_operators.log_out(caller(), operator(context), everywhere=everywhere)
        else:
            ended = await self._log_ins.log_out(caller(), everywhere=everywhere)
        return pb.LogOutResponse(success=True, ended=ended)

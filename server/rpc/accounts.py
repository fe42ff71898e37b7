"""AccountService at the wire."""

from __future__ import annotations

from typing import Any

from dcp.v1 import accounts_pb2 as pb
from dcp.v1 import accounts_pb2_grpc

from server.domain.providers import AccountDecision, AccountState
from server.rpc import convert
from server.rpc.context import Context
from server.rpc.interceptors import operator
from server.services.operators.accounts import Accounts
from server.services.standing import Standings


class AccountServicer(accounts_pb2_grpc.AccountServiceServicer):
    def __init__(self, accounts: Accounts, standings: Standings) -> None:
        self._accounts = accounts
        self._standings = standings

    async def SuspendProvider(
        self, request: pb.SuspendProviderRequest, context: Context
    ) -> pb.SuspendProviderResponse:
        status = await self._provider(context, request.provider_id, AccountDecision.SUSPEND, request.reason)
        return pb.SuspendProviderResponse(success=True, provider_id=request.provider_id, status=status)

    async def UnsuspendProvider(
        self, request: pb.UnsuspendProviderRequest, context: Context
    ) -> pb.UnsuspendProviderResponse:
        status = await self._provider(context, request.provider_id, AccountDecision.UNSUSPEND)
        return pb.UnsuspendProviderResponse(success=True, provider_id=request.provider_id, status=status)

    async def ApproveProvider(
        self, request: pb.ApproveProviderRequest, context: Context
    ) -> pb.ApproveProviderResponse:
        status = await self._provider(context, request.provider_id, AccountDecision.APPROVE)
        return pb.ApproveProviderResponse(success=True, provider_id=request.provider_id, status=status)

    async def VouchForProvider(
        self, request: pb.VouchForProviderRequest, context: Context
    ) -> pb.VouchForProviderResponse:
        row = await self._standings.vouch(
            operator(context), request.provider_id, request.vouched, request.reason.strip()
        )
        return pb.VouchForProviderResponse(
            success=True, provider_id=request.provider_id, standing=convert.standing(row)
        )

    async def SuspendRenter(
        self, request: pb.SuspendRenterRequest, context: Context
    ) -> pb.SuspendRenterResponse:
        suspended = await self._renter(context, request.renter_id, AccountDecision.SUSPEND, request.reason)
        return pb.SuspendRenterResponse(success=True, renter_id=request.renter_id, suspended=suspended)

    async def UnsuspendRenter(
        self, request: pb.UnsuspendRenterRequest, context: Context
    ) -> pb.UnsuspendRenterResponse:
        suspended = await self._renter(context, request.renter_id, AccountDecision.UNSUSPEND)
        return pb.UnsuspendRenterResponse(success=True, renter_id=request.renter_id, suspended=suspended)

    async def _provider(
        self, context: Context, provider_id: int, decision: AccountDecision, reason: str = ""
    ) -> Any:
        return convert.provider_status(
            await self._accounts.decide_provider(operator(context), provider_id, decision, reason.strip())
        )

    async def _renter(
        self, context: Context, renter_id: int, decision: AccountDecision, reason: str = ""
    ) -> bool:
        state = await self._accounts.decide_renter(operator(context), renter_id, decision, reason.strip())
        return state is AccountState.SUSPENDED

"""WithdrawalService at the wire."""

from __future__ import annotations

from dcp.v1 import admin_pb2, withdrawals_pb2_grpc
from dcp.v1 import withdrawals_pb2 as pb

from server.domain.money import whole_halala
from server.domain.withdrawals import Withdrawal, WithdrawalAction, WithdrawalState
from server.rpc import convert
from server.rpc.context import Context
from server.rpc.enums import enum_map
from server.rpc.interceptors import caller, operator
from server.rpc.repeats import once
from server.rpc.validate import compact_iban
from server.services.withdrawals import Withdrawals

_STATUSES = enum_map(WithdrawalState, admin_pb2.WithdrawalStatus)


class WithdrawalServicer(withdrawals_pb2_grpc.WithdrawalServiceServicer):
    def __init__(self, withdrawals: Withdrawals) -> None:
        self._withdrawals = withdrawals

    async def RequestWithdrawal(
        self, request: pb.RequestWithdrawalRequest, context: Context
    ) -> pb.RequestWithdrawalResponse:
        return await once(
            request,
            self._withdrawals.request(
                caller().id, convert.micros_of(request.amount_halala), compact_iban(request.iban)
            ),
            pb.RequestWithdrawalResponse,
            lambda result: pb.RequestWithdrawalResponse(
                success=True, withdrawal=message(result[0]), claimable_halala=whole_halala(result[1])
            ),
        )

    async def CancelWithdrawal(
        self, request: pb.CancelWithdrawalRequest, context: Context
    ) -> pb.CancelWithdrawalResponse:
        return await once(
            request,
            self._withdrawals.cancel(caller().id, request.withdrawal_id),
            pb.CancelWithdrawalResponse,
            lambda after: pb.CancelWithdrawalResponse(success=True, withdrawal=message(after)),
        )

    async def ListOwnWithdrawals(
        self, request: pb.ListOwnWithdrawalsRequest, context: Context
    ) -> pb.ListOwnWithdrawalsResponse:
        page = await self._withdrawals.own(caller().id, request.before_id or None, request.page_size)
        return pb.ListOwnWithdrawalsResponse(
            withdrawals=[message(withdrawal) for withdrawal in page.rows], next_before_id=page.next_id
        )

    async def GetWithdrawal(
        self, request: pb.GetWithdrawalRequest, context: Context
    ) -> pb.GetWithdrawalResponse:
        found = await self._withdrawals.get(request.withdrawal_id)
        return pb.GetWithdrawalResponse(withdrawal=message(found), iban=found.iban)

    async def ProcessWithdrawal(
        self, request: pb.ProcessWithdrawalRequest, context: Context
    ) -> pb.ProcessWithdrawalResponse:
        return await once(
            request,
            self._withdrawals.act(operator(context), request.withdrawal_id, WithdrawalAction.PROCESS),
            pb.ProcessWithdrawalResponse,
            lambda after: pb.ProcessWithdrawalResponse(success=True, withdrawal=message(after)),
        )

    async def PayWithdrawal(
        self, request: pb.PayWithdrawalRequest, context: Context
    ) -> pb.PayWithdrawalResponse:
        return await once(
            request,
            self._withdrawals.act(
                operator(context),
                request.withdrawal_id,
                WithdrawalAction.PAY,
                reference=request.reference.strip(),
            ),
            pb.PayWithdrawalResponse,
            lambda after: pb.PayWithdrawalResponse(success=True, withdrawal=message(after)),
        )

    async def RejectWithdrawal(
        self, request: pb.RejectWithdrawalRequest, context: Context
    ) -> pb.RejectWithdrawalResponse:
        return await once(
            request,
            self._withdrawals.act(
                operator(context),
                request.withdrawal_id,
                WithdrawalAction.REJECT,
                reason=request.reason.strip(),
            ),
            pb.RejectWithdrawalResponse,
            lambda after: pb.RejectWithdrawalResponse(success=True, withdrawal=message(after)),
        )


def message(withdrawal: Withdrawal) -> admin_pb2.Withdrawal:
    """A request as providers and operators see it: with only the last four characters of the IBAN."""
    return admin_pb2.Withdrawal(
        id=withdrawal.id,
        provider_id=withdrawal.provider_id,
        amount_halala=whole_halala(withdrawal.amount_micros),
        status=_STATUSES[withdrawal.state],
        iban_last4=withdrawal.iban_last4,
        created_at=convert.timestamp(withdrawal.created_ms),
        updated_at=convert.timestamp(withdrawal.updated_ms),
        reference=withdrawal.reference,
        reason=withdrawal.reason,
    )

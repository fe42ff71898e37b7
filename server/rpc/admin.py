"""AdminService at the wire."""

from __future__ import annotations

from typing import Any

from dcp.v1 import admin_pb2 as pb
from dcp.v1 import admin_pb2_grpc

from server.rpc import convert
from server.services.admin import Admin
from server.store.admin import WithdrawalRow

DEFAULT_PAGE_SIZE = 50


class AdminServicer(admin_pb2_grpc.AdminServiceServicer):
    def __init__(self, admin: Admin) -> None:
        self._admin = admin

    async def GetDashboard(self, request: pb.GetDashboardRequest, context: Any) -> pb.GetDashboardResponse:
        board = await self._admin.dashboard()
        return pb.GetDashboardResponse(
            stats=pb.DashboardStats(
                total_providers=board.total_providers,
                online_now=board.online_now,
                total_renters=board.total_renters,
                total_jobs=sum(board.jobs_by_state.values()),
                active_jobs=board.active_jobs,
                charged_halala=board.payout_halala + board.fee_halala,
                fee_halala=board.fee_halala,
                payout_halala=board.payout_halala,
                held_halala=board.held_halala,
            ),
            jobs_by_state={state.value: count for state, count in board.jobs_by_state.items()},
            providers_by_gpu={name or "unknown": count for name, count in board.providers_by_gpu.items()},
        )

    async def ListWithdrawals(
        self, request: pb.ListWithdrawalsRequest, context: Any
    ) -> pb.ListWithdrawalsResponse:
        page, page_size = request.page or 1, request.page_size or DEFAULT_PAGE_SIZE
        found = await self._admin.withdrawals(page, page_size)
        count = {state: totals[0] for state, totals in found.totals.items()}
        amount = {state: totals[1] for state, totals in found.totals.items()}
        return pb.ListWithdrawalsResponse(
            pending=[_withdrawal(row) for row in found.pending],
            all=[_withdrawal(row) for row in found.page],
            summary=pb.WithdrawalSummary(
                pending_count=count.get("pending", 0),
                pending_halala=amount.get("pending", 0),
                processing_count=count.get("processing", 0),
                paid_count=count.get("paid", 0),
                paid_halala=amount.get("paid", 0),
                rejected_count=count.get("rejected", 0),
            ),
            pagination=pb.Pagination(page=page, page_size=page_size, total=sum(count.values())),
        )


def _withdrawal(row: WithdrawalRow) -> pb.Withdrawal:
    return pb.Withdrawal(
        id=row.id,
        provider_id=row.provider_id,
        amount_halala=row.amount_halala,
        status=pb.WithdrawalStatus.Value(f"WITHDRAWAL_STATUS_{row.state.upper()}"),
        iban_last4=row.iban_last4,
        created_at=convert.timestamp(row.created_ms),
    )

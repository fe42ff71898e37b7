"""AdminService at the wire."""

from __future__ import annotations

from dcp.v1 import admin_pb2 as pb
from dcp.v1 import admin_pb2_grpc

from server.domain.discards import DiscardKind
from server.domain.ledger import AccountKind
from server.domain.money import whole_halala
from server.domain.withdrawals import WithdrawalState
from server.rpc import convert
from server.rpc.context import Context
from server.rpc.enums import enum_map
from server.rpc.withdrawals import message
from server.services.operators.audit import Audit
from server.services.operators.dashboard import Dashboard
from server.services.operators.discards import Discards
from server.services.withdrawals import Withdrawals
from server.store.operators.audit import Entry
from server.store.operators.discards import DiscardRow

_DISCARD_KINDS = enum_map(DiscardKind, pb.DiscardKind)


class AdminServicer(admin_pb2_grpc.AdminServiceServicer):
    def __init__(
        self, dashboard: Dashboard, withdrawals: Withdrawals, audit: Audit, discards: Discards
    ) -> None:
        self._discards = discards
        self._dashboard = dashboard
        self._withdrawals = withdrawals
        self._audit = audit

    async def GetDashboard(
        self, request: pb.GetDashboardRequest, context: Context
    ) -> pb.GetDashboardResponse:
        board = await self._dashboard.figures()
        own = board.of_providers
        return pb.GetDashboardResponse(
            stats=pb.DashboardStats(
                total_providers=board.total_providers,
                online_now=board.online_now,
                total_renters=board.total_renters,
                total_jobs=sum(board.jobs_by_state.values()),
                active_jobs=board.active_jobs,
                charged_halala=whole_halala(board.payout_micros + board.fee_micros),
                fee_halala=whole_halala(board.fee_micros),
                payout_halala=whole_halala(board.payout_micros),
                held_halala=whole_halala(board.held_micros),
                fee_today_halala=whole_halala(board.fee_today_micros),
                claimable_halala=whole_halala(own[AccountKind.PROVIDER]),
                maturing_halala=whole_halala(own[AccountKind.PROVIDER_MATURING]),
                disputed_halala=whole_halala(own[AccountKind.PROVIDER_DISPUTED]),
                reserved_halala=whole_halala(own[AccountKind.WITHDRAWAL]),
                debt_halala=whole_halala(-own[AccountKind.PROVIDER_DEBT]),
                discards_today=board.discards_today,
            ),
            jobs_by_state={state.value: count for state, count in board.jobs_by_state.items()},
            providers_by_gpu={name or "unknown": count for name, count, _ in board.gpus},
            gpus=[
                pb.GpuFigures(gpu_model=name or "unknown", providers=count, live=live)
                for name, count, live in board.gpus
            ],
            recent_signups=[
                pb.Signup(role=role, id=number, name=name, created_at=convert.timestamp(at_ms))
                for role, number, name, at_ms in board.signups
            ],
        )

    async def ListWithdrawals(
        self, request: pb.ListWithdrawalsRequest, context: Context
    ) -> pb.ListWithdrawalsResponse:
        page, page_size = request.page, request.page_size
        found = await self._withdrawals.overview(request.before_id or None, page, page_size)
        count = {state: found.totals.get(state, (0, 0))[0] for state in WithdrawalState}
        amount = {state: found.totals.get(state, (0, 0))[1] for state in WithdrawalState}
        return pb.ListWithdrawalsResponse(
            pending=[message(withdrawal) for withdrawal in found.pending],
            all=[message(withdrawal) for withdrawal in found.page.rows],
            next_before_id=found.page.next_id,
            summary=pb.WithdrawalSummary(
                pending_count=count[WithdrawalState.PENDING],
                pending_halala=whole_halala(amount[WithdrawalState.PENDING]),
                processing_count=count[WithdrawalState.PROCESSING],
                paid_count=count[WithdrawalState.PAID],
                paid_halala=whole_halala(amount[WithdrawalState.PAID]),
                rejected_count=count[WithdrawalState.REJECTED],
            ),
            pagination=pb.Pagination(page=page, page_size=page_size, total=sum(count.values())),
        )

    async def ListAuditEntries(
        self, request: pb.ListAuditEntriesRequest, context: Context
    ) -> pb.ListAuditEntriesResponse:
        page = await self._audit.entries(
            request.object or None,
            request.object_id or None,
            request.actor.strip() or None,
            request.before_id or None,
            request.page_size,
        )
        return pb.ListAuditEntriesResponse(
            entries=[_entry(entry) for entry in page.rows], next_before_id=page.next_id
        )

    async def ListDiscards(
        self, request: pb.ListDiscardsRequest, context: Context
    ) -> pb.ListDiscardsResponse:
        page = await self._discards.page(
            request.provider_id or None, request.before_id or None, request.page_size
        )
        return pb.ListDiscardsResponse(
            discards=[_discard(row) for row in page.rows], next_before_id=page.next_id
        )


def _discard(row: DiscardRow) -> pb.Discard:
    about = row.about
    return pb.Discard(
        id=row.id,
        kind=_DISCARD_KINDS[about.kind],
        provider_id=about.provider_id or None,
        job_id=about.job_id or None,
        lease_epoch=about.lease_epoch or None,
        key_last4=about.key_last4 or None,
        address=about.address or None,
        detail=row.detail,
        times=row.times,
        first_at=convert.timestamp(row.first_ms),
        last_at=convert.timestamp(row.last_ms),
    )


def _entry(entry: Entry) -> pb.AuditEntry:
    return pb.AuditEntry(
        id=entry.id,
        at=convert.timestamp(entry.at_ms),
        actor=entry.actor,
        action=entry.action,
        object=entry.object,
        object_id=entry.object_id,
        before=entry.before,
        after=entry.after,
        request_id=entry.request_id,
    )

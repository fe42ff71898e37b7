"""OversightService at the wire."""

from __future__ import annotations

from collections import Counter
from datetime import date, timedelta

from dcp.v1 import incidents_pb2, oversight_pb2_grpc
from dcp.v1 import oversight_pb2 as pb

from server.domain.disputes import DisputeState
from server.domain.jobs import FailureReason, JobState
from server.domain.ledger import AccountKind, TransferKind
from server.domain.money import whole_halala
from server.domain.payout_findings import SENTENCES, PayoutFinding
from server.domain.placement import Obstacle
from server.domain.providers import AccountState
from server.domain.recent_calls import CallFigures
from server.rpc import convert, incidents, keys, providers, renters, statements, withdrawals
from server.rpc.context import Context
from server.rpc.enums import enum_map
from server.services.operators.health import Health, JobFigures, MarketHealth, Waiting, percentile
from server.services.operators.oversight import Oversight
from server.store.operators.oversight import Payer, ProviderTransfer

_FIRST_DAY = date(1970, 1, 1)
_ACCOUNTS = {
    AccountKind.PROVIDER: pb.PROVIDER_ACCOUNT_KIND_PROVIDER,
    AccountKind.PROVIDER_MATURING: pb.PROVIDER_ACCOUNT_KIND_PROVIDER_MATURING,
    AccountKind.PROVIDER_DISPUTED: pb.PROVIDER_ACCOUNT_KIND_PROVIDER_DISPUTED,
    AccountKind.PROVIDER_DEBT: pb.PROVIDER_ACCOUNT_KIND_PROVIDER_DEBT,
    AccountKind.WITHDRAWAL: pb.PROVIDER_ACCOUNT_KIND_WITHDRAWAL,
}
_FINDINGS = enum_map(PayoutFinding, pb.PayoutFindingCode)
MOST_OBSTACLES = 5


class OversightServicer(oversight_pb2_grpc.OversightServiceServicer):
    def __init__(self, health: MarketHealth, oversight: Oversight) -> None:
        self._health = health
        self._oversight = oversight

    async def GetHealth(self, request: pb.GetHealthRequest, context: Context) -> pb.GetHealthResponse:
        return _health(await self._health.now())

    async def ListMoneyByDay(
        self, request: pb.ListMoneyByDayRequest, context: Context
    ) -> pb.ListMoneyByDayResponse:
        days = await self._oversight.money(request.days)
        return pb.ListMoneyByDayResponse(days=[_day(day, moved) for day, moved in days.items()])

    async def GetRenterAccount(
        self, request: pb.GetRenterAccountRequest, context: Context
    ) -> pb.GetRenterAccountResponse:
        profile = await self._oversight.renter(request.renter_id)
        return pb.GetRenterAccountResponse(
            renter=renters.message(profile),
            suspended=profile.renter.state is AccountState.SUSPENDED,
            deleted=profile.renter.state is AccountState.DELETED,
        )

    async def ListRenterLedger(
        self, request: pb.ListRenterLedgerRequest, context: Context
    ) -> pb.ListRenterLedgerResponse:
        page = await self._oversight.renter_lines(
            request.renter_id, request.before_id or None, request.page_size
        )
        lines = [statements.line(row) for row in page.rows]
        return pb.ListRenterLedgerResponse(lines=lines, next_before_id=page.next_id)

    async def ListRenterKeys(
        self, request: pb.ListRenterKeysRequest, context: Context
    ) -> pb.ListRenterKeysResponse:
        page = await self._oversight.renter_keys(
            request.renter_id, request.before_id or None, request.page_size
        )
        return pb.ListRenterKeysResponse(
            keys=[keys.key(row) for row in page.rows], next_before_id=page.next_id
        )

    async def GetProviderAccount(
        self, request: pb.GetProviderAccountRequest, context: Context
    ) -> pb.GetProviderAccountResponse:
        profile = await self._oversight.provider(request.provider_id)
        return pb.GetProviderAccountResponse(provider=providers.message(profile))

    async def ListProviderLedger(
        self, request: pb.ListProviderLedgerRequest, context: Context
    ) -> pb.ListProviderLedgerResponse:
        page = await self._oversight.provider_transfers(
            request.provider_id, request.before_id or None, request.page_size
        )
        return pb.ListProviderLedgerResponse(
            transfers=[_transfer(row) for row in page.rows], next_before_id=page.next_id
        )

    async def ListProviderKeys(
        self, request: pb.ListProviderKeysRequest, context: Context
    ) -> pb.ListProviderKeysResponse:
        page = await self._oversight.provider_keys(
            request.provider_id, request.before_id or None, request.page_size
        )
        return pb.ListProviderKeysResponse(
            keys=[keys.key(row) for row in page.rows], next_before_id=page.next_id
        )

    async def GetPayoutEvidence(
        self, request: pb.GetPayoutEvidenceRequest, context: Context
    ) -> pb.GetPayoutEvidenceResponse:
        found = await self._oversight.evidence(request.withdrawal_id)
        return pb.GetPayoutEvidenceResponse(
            withdrawal=withdrawals.message(found.withdrawal),
            provider=providers.message(found.profile),
            payers=[_payer(row) for row in found.payers],
            earlier=[withdrawals.message(row) for row in found.earlier],
            same_bank_account=found.same_bank_account,
            open_disputes=found.disputes.get(DisputeState.OPEN, 0),
            upheld_disputes=found.disputes.get(DisputeState.UPHELD, 0),
            findings=[
                pb.PayoutFinding(code=_FINDINGS[finding], message=SENTENCES[finding])
                for finding in found.findings
            ],
        )


def _health(found: Health) -> pb.GetHealthResponse:
    requests, amount_micros, oldest_ms = found.payouts
    return pb.GetHealthResponse(
        as_of=convert.timestamp(found.as_of_ms),
        queues=[_queue(waiting) for waiting in found.queues],
        more_queues=found.has_more_queues,
        sessions=pb.SessionFigures(
            live=found.live, lost=found.lost, slots_used=found.slots_used, slots=found.slots
        ),
        calls=_calls(found.calls),
        jobs=_jobs(found.jobs),
        disks=[
            incidents_pb2.FullDisk(place=room.place, free_bytes=room.free_bytes, total_bytes=room.total_bytes)
            for room in found.rooms
        ],
        incidents=[incidents.message(incident) for incident in found.incidents],
        payouts=incidents_pb2.WaitingPayouts(
            requests=requests,
            amount_halala=whole_halala(amount_micros),
            oldest_at=convert.timestamp(oldest_ms),
        ),
        open_disputes=found.open_disputes,
        ledger_balanced=found.is_balanced,
    )


def _queue(waiting: Waiting) -> pb.WaitingQueue:
    kind = waiting.kind
    return pb.WaitingQueue(
        model=kind.wants.model,
        job_type=kind.wants.job_type.value,
        provider_id=kind.named_provider_id,
        jobs=kind.jobs,
        oldest_at=convert.timestamp(kind.oldest_ms),
        first_job_id=kind.first_job_id,
        code=convert.condition_number(waiting.condition),
        message=waiting.message,
        obstacles=[
            pb.ObstacleCount(code=convert.obstacle_number(obstacle), providers=count)
            for obstacle, count in waiting.obstacles.most_common(MOST_OBSTACLES)
            if obstacle is not Obstacle.NONE
        ],
    )


def _calls(found: CallFigures) -> pb.CallFigures:
    return pb.CallFigures(
        calls=found.calls,
        failed=found.failed,
        p50_ms=found.p50_ms,
        p95_ms=found.p95_ms,
        p99_ms=found.p99_ms,
        failures=[pb.FailedCalls(method=method, calls=calls) for method, calls in found.failures],
        since=convert.timestamp(int(found.since_s * 1000)),
    )


def _jobs(found: JobFigures) -> pb.JobFigures:
    known = {reason.value for reason in FailureReason}
    return pb.JobFigures(
        completed=found.by_state[JobState.COMPLETED.value],
        failed=found.by_state[JobState.FAILED.value],
        cancelled=found.by_state[JobState.CANCELLED.value],
        failures=[
            pb.FailedJobs(reason=convert.failure_reason_number(FailureReason(reason)), jobs=jobs)
            for reason, jobs in found.failures
            if reason in known
        ],
        waited_p50_ms=percentile(found.waited_ms, 50),
        waited_p95_ms=percentile(found.waited_ms, 95),
        more=found.has_more,
    )


def _day(day: int, moved: Counter[TransferKind]) -> pb.DayMoney:
    return convert.with_money(
        pb.DayMoney(date=(_FIRST_DAY + timedelta(days=day)).isoformat()),
        charged=moved[TransferKind.PAYOUT] + moved[TransferKind.FEE],
        fee=moved[TransferKind.FEE],
        payout=moved[TransferKind.PAYOUT],
        paid_out=moved[TransferKind.WITHDRAWAL_PAID],
        credited=moved[TransferKind.CREDIT],
        topped_up=moved[TransferKind.TOPUP],
        refunded=moved[TransferKind.DISPUTE_REFUND] + moved[TransferKind.FEE_REFUND],
    )


def _transfer(row: ProviderTransfer) -> pb.ProviderTransfer:
    shown = pb.ProviderTransfer(
        id=row.id,
        time=convert.timestamp(row.at_ms),
        kind=statements.kind_number(row.kind),
        from_account=_ACCOUNTS[row.from_kind] if row.from_kind is not None else None,
        to_account=_ACCOUNTS[row.to_kind] if row.to_kind is not None else None,
        job_id=row.job_id,
        withdrawal_id=row.withdrawal_id,
    )
    return convert.with_money(shown, amount=row.amount_micros)


def _payer(row: Payer) -> pb.Payer:
    shown = pb.Payer(
        renter_id=row.renter_id,
        name="" if row.state is AccountState.DELETED else row.name,
        created_at=convert.timestamp(row.created_ms),
        suspended=row.state is AccountState.SUSPENDED,
        market=row.is_market,
    )
    return convert.with_money(shown, paid=row.paid_micros)

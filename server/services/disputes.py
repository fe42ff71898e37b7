"""Disputes: a renter contests a charge, both sides see it, and an operator decides with the evidence."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from server.clock import Clock, ms
from server.domain import disputes as rules
from server.domain import ledger as accounts
from server.domain.canaries import Canary
from server.domain.disputes import (
    DAY_MS,
    EVIDENCE_ATTEMPTS,
    EVIDENCE_BYTES,
    EVIDENCE_CANARIES,
    MAX_OPEN_DISPUTES,
    NEAR_MS,
    Dispute,
    DisputeEvent,
    DisputeState,
)
from server.domain.errors import DomainError, Reason, invalid_field
from server.domain.jobs import Job
from server.domain.leases import Channel
from server.domain.ledger import PLATFORM, AccountKind, ProviderMoney
from server.domain.money import whole_halala, whole_or_none
from server.domain.providers import AccountState
from server.domain.reliability import TrackRecord, track_record
from server.domain.webhooks import WebhookEvent
from server.services import outbox, outputs
from server.services.explain import ATTEMPTS_LIMIT, Attempt, numbered
from server.services.jobs import visible
from server.services.keys import Caller
from server.services.operators.audit import Operator
from server.services.pages import Page, read_page
from server.services.payouts import settle_debt
from server.services.renters import existing, present
from server.services.repeats import once
from server.store import canaries, disputes, jobs, leases, ledger, payouts, reliability
from server.store.database import Database
from server.store.reliability import PastAttempt

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Text:
    """The beginning of what a job wrote."""

    data: bytes
    is_cut: bool


@dataclass(frozen=True, slots=True)
class Evidence:
    """What an operator decides with."""

    dispute: Dispute
    job: Job
    attempts: list[Attempt]
    output: Text
    log: Text
    canaries: list[Canary]
    """Checks of the provider's work near the end of the job, newest first."""
    record: TrackRecord
    past: list[PastAttempt]
    """The provider's attempts that ended until the job's end, newest first."""
    counts: dict[DisputeState, int]
    """The disputes about the provider's jobs."""


class Disputes:
    """The use cases of disputes."""

    def __init__(self, database: Database, clock: Clock, days: int) -> None:
        self._database = database
        self._clock = clock
        self._days = days

    async def open(self, caller: Caller, job_id: str, reason: str) -> Dispute:
        """Opens the dispute of a job and holds its payout; a job that has a dispute keeps it as it is.

        Raises JOB_NOT_FOUND, NOT_OWNER, NOT_CHARGED, DISPUTE_TOO_LATE, TOO_MANY_DISPUTES, RENTER_DELETED.
        """
        now_ms = ms(self._clock)
        return await self._database.run(lambda: self._open(caller, job_id, reason, now_ms))

    def _open(self, caller: Caller, job_id: str, reason: str, now_ms: int) -> Dispute:
        present(caller.id)
        job = visible(caller, job_id)
        if found := disputes.of_job(job_id):
            return found
        charge, provider_id, ended_ms = self._contestable(job, now_ms)
        _refuse_too_many(caller.id)
        # The cursor's lock first: no payout matures between this look and the transfer.
        through_id = payouts.lock_cursor(provider_id)
        money = _locked_money(provider_id)
        payout = ledger.payout_of(job_id, provider_id, ended_ms)
        assert payout is not None, "each charge has a payout"
        payout_id, credited = payout
        is_matured = credited is AccountKind.PROVIDER or payout_id <= through_id
        payout_micros = job.bill.payout_micros if job.bill is not None else 0
        transfers = rules.opening(job_id, provider_id, payout_micros, money, is_matured)
        from_maturing = accounts.maturing(provider_id)
        disputes.insert(
            job_id=job_id,
            renter_id=caller.id,
            provider_id=provider_id,
            reason=reason,
            charge_micros=charge,
            payout_micros=payout_micros,
            payout_id=payout_id,
            held_micros=sum(transfer.amount_micros for transfer in transfers),
            maturing_micros=sum(each.amount_micros for each in transfers if each.debit == from_maturing),
            now_ms=now_ms,
        )
        ledger.apply(transfers, now_ms)
        opened = disputes.of_job(job_id)
        assert opened is not None
        outbox.dispute_changed(opened, WebhookEvent.DISPUTE_OPENED, now_ms)
        log.info("opened a dispute id=%d job_id=%s provider_id=%d", opened.id, job_id, provider_id)
        return opened

    def _contestable(self, job: Job, now_ms: int) -> tuple[int, int, int]:
        """A job's charge, the provider that earned it, and its end. Raises NOT_CHARGED, DISPUTE_TOO_LATE."""
        charge = job.bill.charge_micros if job.bill is not None else 0
        if not charge or job.provider_id is None or job.ended_ms is None:
            raise DomainError(
                Reason.NOT_CHARGED,
                f"job {job.job_id} is {job.state.value} and was not charged; only a charge can be disputed",
                status=job.state.value,
            )
        if now_ms - job.ended_ms > self._days * DAY_MS:
            raise DomainError(
                Reason.DISPUTE_TOO_LATE,
                f"job {job.job_id} ended more than {self._days} days ago, "
                "the time in which its charge could be disputed; write to the operator",
            )
        return charge, job.provider_id, job.ended_ms

    async def own(self, renter_id: int, before_id: int | None, limit: int) -> Page[Dispute]:
        """One page of a renter's disputes, newest first."""
        return await self._database.read(
            lambda: read_page(disputes.of_renter, renter_id, before_id, limit=limit)
        )

    async def of_provider(self, provider_id: int, before_id: int | None, limit: int) -> Page[Dispute]:
        """One page of the disputes about a provider's jobs, newest first."""
        return await self._database.read(
            lambda: read_page(disputes.of_provider, provider_id, before_id, limit=limit)
        )

    async def all(self, state: DisputeState | None, before_id: int | None, limit: int) -> Page[Dispute]:
        """One page of all disputes, or of those in a state, newest first, for an operator."""
        return await self._database.read(lambda: read_page(disputes.in_state, state, before_id, limit=limit))

    async def evidence(self, dispute_id: int) -> Evidence:
        """A dispute with what is known about its job, for an operator. Raises DISPUTE_NOT_FOUND."""
        return await self._database.read(lambda: _evidence(_existing(dispute_id)))

    async def decide(
        self,
        operator: Operator,
        dispute_id: int,
        event: DisputeEvent,
        note: str,
        refund_micros: int | None = None,
    ) -> Dispute:
        """Upholds or rejects a dispute: its state, its money, and an audit entry. The default refund is all.

        Raises DISPUTE_NOT_FOUND, WRONG_STATE if it was decided before, and INVALID_FIELD for a bad refund.
        """
        now_ms = ms(self._clock)

        def change() -> Dispute:
            before = _existing(dispute_id)
            is_deleted = existing(before.renter_id, lock=True).state is AccountState.DELETED
            refund = _refund(before, event, refund_micros)
            if not disputes.decide(before, event, note, now_ms, refund):
                raise _decided(_existing(dispute_id))
            _move_money(before, refund, is_deleted, now_ms)
            after = _existing(dispute_id)
            operator.note(f"dispute.{event}", dispute_id, _audit_facts(before), _audit_facts(after), now_ms)
            outbox.dispute_changed(after, WebhookEvent.DISPUTE_DECIDED, now_ms)
            outbox.wallet_changed(after.renter_id, now_ms)
            return after

        after = await self._database.run(once(change, now_ms))
        log.info("dispute %s id=%d job_id=%s", after.state, after.id, after.job_id)
        return after


def _move_money(dispute: Dispute, refund_micros: int | None, is_deleted: bool, now_ms: int) -> None:
    money = _locked_money(dispute.provider_id, dispute.renter_id)
    if refund_micros is None:
        transfers = rules.rejecting(dispute)
    else:
        transfers = rules.upholding(dispute, refund_micros, money)
        if is_deleted:
            transfers.append(rules.forfeiting(dispute, refund_micros))
    ledger.apply(transfers, now_ms)
    settle_debt(dispute.provider_id, now_ms)


def _locked_money(provider_id: int, renter_id: int | None = None) -> ProviderMoney:
    """A provider's money; locks all accounts that a step of a dispute may touch."""
    others = (PLATFORM, accounts.renter(renter_id)) if renter_id is not None else ()
    ledger.lock({*accounts.accounts_of(provider_id), *others})
    return ledger.of_provider(provider_id)


def _refund(dispute: Dispute, event: DisputeEvent, refund_micros: int | None) -> int | None:
    if event is not DisputeEvent.UPHOLD:
        if refund_micros is not None:
            raise invalid_field("refund_halala", "only an upheld dispute has a refund; leave it out")
        return None
    refund = dispute.charge_micros if refund_micros is None else refund_micros
    if refund > dispute.charge_micros:
        most = whole_halala(dispute.charge_micros)
        raise invalid_field("refund_halala", f"is at most the charge, {most}")
    return refund


def _evidence(dispute: Dispute) -> Evidence:
    job = jobs.get(dispute.job_id)
    assert job is not None
    assert job.ended_ms is not None
    # Numbers are not negative, so the pair is behind every attempt that ended with the job.
    past = reliability.page(dispute.provider_id, (job.ended_ms + 1, 0), EVIDENCE_ATTEMPTS)
    return Evidence(
        dispute,
        job,
        numbered(job, leases.of_job(job.job_id, ATTEMPTS_LIMIT)),
        Text(b"", False) if job.content_type.startswith("image/") else _text(job, Channel.OUTPUT),
        _text(job, Channel.LOG),
        canaries.near(dispute.provider_id, job.ended_ms - NEAR_MS, job.ended_ms + NEAR_MS, EVIDENCE_CANARIES),
        track_record((attempt.outcome, attempt.failure_reason) for attempt in past),
        past,
        disputes.counts_of_provider(dispute.provider_id),
    )


def _text(job: Job, channel: Channel) -> Text:
    data = leases.read_stream(job.job_id, job.lease_epoch, channel)
    data = outputs.said(job, data) if channel is Channel.OUTPUT else data
    return Text(data[:EVIDENCE_BYTES], len(data) > EVIDENCE_BYTES)


def _refuse_too_many(renter_id: int) -> None:
    """Raises TOO_MANY_DISPUTES. The renter's row is locked, so no other dispute is opened in between."""
    if disputes.count_open(renter_id) >= MAX_OPEN_DISPUTES:
        raise DomainError(
            Reason.TOO_MANY_DISPUTES,
            f"{MAX_OPEN_DISPUTES} disputes of this account are open, the most that are allowed at once; "
            "wait until an operator decides one",
        )


def _audit_facts(dispute: Dispute) -> dict[str, object]:
    facts = {"refund_halala": whole_or_none(dispute.refund_micros), "note": dispute.note}
    return {
        "status": dispute.state.value,
        **{name: value for name, value in facts.items() if value is not None},
    }


def _existing(dispute_id: int) -> Dispute:
    found = disputes.get(dispute_id)
    if found is None:
        raise DomainError(
            Reason.DISPUTE_NOT_FOUND, f"dispute_id: no dispute {dispute_id}", field="dispute_id"
        )
    return found


def _decided(dispute: Dispute) -> DomainError:
    return DomainError(
        Reason.WRONG_STATE,
        f"dispute {dispute.id} is {dispute.state.value}, and a decision is final; nothing was changed",
        status=dispute.state.value,
    )

"""Events for webhooks, written in the transaction of the change that they report.

Runs inside its caller's transaction, and notes the facts of an event. server.services.deliveries sends the
events; their bodies are written when they are first sent.
"""

from __future__ import annotations

import secrets
from dataclasses import asdict
from typing import Any

from server.domain import ledger as rules
from server.domain.batches import PRIORITY, Batch, BatchState
from server.domain.budgets import BudgetReachedError, end_ms
from server.domain.disputes import Dispute
from server.domain.incidents import Incident
from server.domain.jobs import Bill, FailureReason, Job, JobEvent
from server.domain.money import micros, whole_halala
from server.domain.webhooks import OPERATORS, WebhookEvent
from server.store import budgets, keys, ledger, webhooks
from server.store.webhooks import Webhook

_ENDS = {
    JobEvent.COMPLETE: WebhookEvent.JOB_COMPLETED,
    JobEvent.FAIL: WebhookEvent.JOB_FAILED,
    JobEvent.CANCEL: WebhookEvent.JOB_CANCELLED,
}


_BATCH_ENDS = {
    BatchState.COMPLETED: WebhookEvent.BATCH_COMPLETED,
    BatchState.FAILED: WebhookEvent.BATCH_FAILED,
    BatchState.EXPIRED: WebhookEvent.BATCH_EXPIRED,
    BatchState.CANCELLED: WebhookEvent.BATCH_CANCELLED,
}


def job_ended(
    job: Job,
    event: JobEvent,
    bill: Bill,
    now_ms: int,
    *,
    failure_reason: FailureReason | None,
    failure_message: str | None,
) -> None:
    """Adds an event about a job's end, and one about the wallet if it fell low, if a webhook is set.

    The lines of a batch have no events of their own: their batch has one.
    """
    webhook = webhooks.lock(job.renter_id)
    if webhook is None:
        return
    if job.priority == PRIORITY:
        wallet_changed(job.renter_id, now_ms)
        return
    facts = {
        "job_id": job.job_id,
        "job_type": job.job_type.value,
        "state": _ENDS[event].value.removeprefix("job."),
        "failure_reason": failure_reason.value if failure_reason is not None else None,
        "failure_message": failure_message,
        "provider_id": job.provider_id,
        "model": job.model,
        "created_ms": job.created_ms,
        "started_ms": job.started_ms,
        "ended_ms": now_ms,
        "price": job.price.text,
        "bill": asdict(bill),
    }
    add(webhook, _ENDS[event], facts, now_ms)
    wallet_changed(job.renter_id, now_ms)


def wallet_changed(renter_id: int, now_ms: int) -> None:
    """Adds an event when the wallet falls below the webhook's threshold: one event for each fall."""
    webhook = webhooks.lock(renter_id)
    if webhook is None or webhook.balance_low_halala is None:
        return
    balance = ledger.balance(rules.renter(renter_id))
    is_low = balance < micros(webhook.balance_low_halala)
    if is_low == webhook.balance_is_low:
        return
    webhooks.set_balance_is_low(renter_id, is_low)
    if is_low:
        facts = {"balance_halala": whole_halala(balance), "balance_low_halala": webhook.balance_low_halala}
        add(webhook, WebhookEvent.BALANCE_LOW, facts, now_ms)


def budget_reached(renter_id: int, reached: BudgetReachedError, now_ms: int) -> None:
    """Adds an event that a submit was refused: one for each budget and its day or month.

    The caller has locked the renter, so that the key's budgets stay as they are.
    """
    webhook = webhooks.lock(renter_id)
    if webhook is None or reached.period not in keys.limits(reached.key_id).budgets:
        return
    if budgets.note_reported(reached.key_id, reached.period, reached.at_ms):
        facts = {"key_id": reached.key_id, "ends_ms": end_ms(reached.period, reached.at_ms), **reached.facts}
        add(webhook, WebhookEvent.BUDGET_REACHED, facts, now_ms)


def batch_changed(batch: Batch, now_ms: int) -> None:
    """Adds an event that a batch has ended, if its renter has a webhook."""
    event = _BATCH_ENDS.get(batch.state)
    if event is not None and (webhook := webhooks.lock(batch.renter_id)):
        facts = {
            "batch_id": batch.batch_id,
            "lines": batch.lines,
            "completed": batch.completed,
            "failed": batch.failed,
            "charged_micros": batch.charged_micros,
        }
        add(webhook, event, facts, now_ms)


def dispute_changed(dispute: Dispute, event: WebhookEvent, now_ms: int) -> None:
    """Adds an event about a dispute, if its renter has a webhook."""
    if webhook := webhooks.lock(dispute.renter_id):
        add(webhook, event, asdict(dispute), now_ms)


def key_recovery_started(renter_id: int, ready_ms: int, now_ms: int) -> None:
    """Adds an event that the main key is about to be replaced, if the renter has a webhook."""
    if webhook := webhooks.lock(renter_id):
        add(webhook, WebhookEvent.KEY_RECOVERY_STARTED, {"ready_ms": ready_ms}, now_ms)


def incident_changed(incident: Incident, event: WebhookEvent, now_ms: int) -> None:
    """Adds an event about an incident to the operators' webhook, which is set."""
    webhook = webhooks.lock(OPERATORS)
    if webhook is not None:
        add(webhook, event, asdict(incident), now_ms)


def add(webhook: Webhook, event: WebhookEvent, facts: dict[str, Any], now_ms: int) -> str:
    """Adds an event to the outbox of a locked webhook; returns the event's id."""
    event_id = f"evt-{secrets.token_hex(12)}"
    webhooks.add(webhook, event, event_id, facts, now_ms)
    return event_id

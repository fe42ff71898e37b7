"""Events for renters' webhooks, written in the transaction of the change that they report.

Runs inside its caller's transaction. server.services.deliveries sends the events.
"""

from __future__ import annotations

import json
import secrets
from datetime import UTC, datetime
from typing import Any

from server.domain import ledger as rules
from server.domain.jobs import Bill, FailureReason, Job, JobEvent
from server.domain.webhooks import WebhookEvent
from server.store import ledger, webhooks
from server.store.webhooks import Webhook

_ENDS = {
    JobEvent.COMPLETE: WebhookEvent.JOB_COMPLETED,
    JobEvent.FAIL: WebhookEvent.JOB_FAILED,
    JobEvent.CANCEL: WebhookEvent.JOB_CANCELLED,
}


def job_ended(
    job: Job, event: JobEvent, bill: Bill, failure_reason: FailureReason | None, now_ms: int
) -> None:
    """Adds an event about a job's end, and one about the wallet if it fell low, if a webhook is set."""
    webhook = webhooks.lock(job.renter_id)
    if webhook is None:
        return
    kind = _ENDS[event]
    data = {
        "job_id": job.job_id,
        "job_type": job.job_type.value,
        "status": kind.value.removeprefix("job."),
        "charged_halala": bill.charge_halala,
        "refunded_halala": bill.refund_halala,
        "failure_reason": failure_reason.value if failure_reason is not None else None,
    }
    add(webhook, kind, data, now_ms)
    wallet_changed(job.renter_id, now_ms)


def wallet_changed(renter_id: int, now_ms: int) -> None:
    """Adds an event when the wallet falls below the webhook's threshold: one event for each fall."""
    webhook = webhooks.lock(renter_id)
    if webhook is None or webhook.balance_low_halala is None:
        return
    balance = ledger.balance(rules.renter(renter_id))
    is_low = balance < webhook.balance_low_halala
    if is_low == webhook.balance_is_low:
        return
    webhooks.set_balance_is_low(renter_id, is_low)
    if is_low:
        data = {"balance_halala": balance, "balance_low_halala": webhook.balance_low_halala}
        add(webhook, WebhookEvent.BALANCE_LOW, data, now_ms)


def add(webhook: Webhook, event: WebhookEvent, data: dict[str, Any], now_ms: int) -> str:
    """Adds an event to the outbox of a locked webhook; returns the event's id."""
    event_id = f"evt-{secrets.token_hex(12)}"
    body = {
        "id": event_id,
        "type": event.value,
        "created_at": datetime.fromtimestamp(now_ms / 1000, UTC).isoformat(timespec="milliseconds"),
        "data": data,
    }
    webhooks.add(webhook, event, event_id, json.dumps(body, ensure_ascii=False), now_ms)
    return event_id

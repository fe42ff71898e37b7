"""Webhooks and their outbox, as rows. Every function runs inside its caller's transaction.

``due_ms`` of a webhook is the earliest time at which an event of its outbox may be sent. It is never too
late, because every function that changes the outbox locks the webhook first.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import peewee as pw

from server.domain.webhooks import (
    GIVE_UP_SECONDS,
    AddressHealth,
    Answer,
    DeliveryStatus,
    PreviousSecret,
    WebhookEvent,
    next_attempt_ms,
)
from server.store import models as db
from server.store.prepared import PreparedRows, arg, locking

KEPT_DELIVERIES = 1000
"""How many ended deliveries of a renter are kept."""
_WAITING = DeliveryStatus.WAITING.value


@dataclass(frozen=True, slots=True)
class Webhook:
    """The address for a renter's events. Its secrets sign them, so they are stored in plain text."""

    renter_id: int
    url: str
    secret: str
    balance_low_halala: int | None
    balance_is_low: bool
    due_ms: int | None
    created_ms: int
    previous_secrets: tuple[PreviousSecret, ...]
    """The replaced secrets, newest first; the grace period of some may have ended."""
    health: AddressHealth


@dataclass(frozen=True, slots=True)
class Delivery:
    """One event and the state of its delivery.

    ``body`` is written from ``facts`` for the first attempt; every attempt sends exactly it. Empty: none yet.
    """

    id: int
    renter_id: int
    event_id: str
    event: WebhookEvent
    facts: dict[str, Any]
    body: str
    status: DeliveryStatus
    created_ms: int
    attempts: int
    last_ms: int | None
    status_code: int | None
    error: str | None


_lock = PreparedRows(db.Webhook, lambda rows: locking(rows.where(db.Webhook.renter_id == arg("id"))))


def get(renter_id: int) -> Webhook | None:
    """A renter's webhook."""
    row = db.Webhook.select().where(db.Webhook.renter_id == renter_id).first()
    return _webhook(row) if row is not None else None


def lock(renter_id: int) -> Webhook | None:
    """A renter's webhook, locked until the transaction ends."""
    row = _lock.one(id=renter_id)
    return _webhook(row) if row is not None else None


def put(
    renter_id: int,
    url: str,
    secret: str,
    *,
    balance_low_halala: int | None,
    balance_is_low: bool,
    now_ms: int,
) -> bool:
    """Creates the webhook, or changes everything except its secret; returns whether it was created.

    The address counts as working, and what waits for it is looked at again at once.
    """
    values = {"url": url, "balance_low_halala": balance_low_halala, "balance_is_low": balance_is_low}
    own = db.Webhook.renter_id == renter_id
    if db.Webhook.update(**values, **_columns(AddressHealth())).where(own).execute():
        db.Webhook.update(due_ms=now_ms).where(own, db.Webhook.due_ms > now_ms).execute()
        return False
    row = db.Webhook.insert(renter_id=renter_id, secret=secret, created_ms=now_ms, **values)
    row.on_conflict_ignore().execute()  # of two concurrent inserts, only one creates the row
    return bool(db.Webhook.get_by_id(renter_id).secret == secret)


def set_secrets(renter_id: int, secret: str, previous: Sequence[PreviousSecret]) -> None:
    """Stores the newest secret, and those that it replaces."""
    pairs = json.dumps([[each.secret, each.expires_ms] for each in previous])
    changed = db.Webhook.update(secret=secret, previous_secrets=pairs)
    changed.where(db.Webhook.renter_id == renter_id).execute()


def set_balance_is_low(renter_id: int, is_low: bool) -> None:
    """Stores whether the wallet is below its threshold."""
    db.Webhook.update(balance_is_low=is_low).where(db.Webhook.renter_id == renter_id).execute()


def remove(renter_id: int) -> None:
    """Deletes the webhook; deliveries that wait in its outbox fail."""
    lock(renter_id)
    db.Webhook.delete().where(db.Webhook.renter_id == renter_id).execute()
    db.WebhookDelivery.update(status=DeliveryStatus.FAILED.value, error="the webhook was removed").where(
        db.WebhookDelivery.renter_id == renter_id, db.WebhookDelivery.status == _WAITING
    ).execute()


def add(webhook: Webhook, event: WebhookEvent, event_id: str, facts: dict[str, Any], now_ms: int) -> None:
    """Puts an event into the outbox of a webhook that the caller has locked."""
    db.WebhookDelivery.insert(
        renter_id=webhook.renter_id,
        event_id=event_id,
        event=event.value,
        facts=json.dumps(facts),
        body="",
        created_ms=now_ms,
        next_ms=now_ms,
    ).execute()
    due_ms = max(now_ms, webhook.health.paused_until_ms)
    if webhook.due_ms is not None:
        due_ms = min(due_ms, webhook.due_ms)
    db.Webhook.update(due_ms=due_ms).where(db.Webhook.renter_id == webhook.renter_id).execute()


def is_waiting(renter_id: int, event: WebhookEvent) -> bool:
    """Whether an event of this kind waits in the outbox."""
    return bool(_waiting(renter_id).where(db.WebhookDelivery.event == event.value).exists())


def delivery(event_id: str) -> Delivery:
    """The delivery of an event; it must exist."""
    return _delivery(db.WebhookDelivery.get(db.WebhookDelivery.event_id == event_id))


def deliveries(renter_id: int, before_id: int | None, limit: int) -> list[Delivery]:
    """A renter's deliveries, newest first; optionally only those before an id."""
    query = db.WebhookDelivery.select().where(db.WebhookDelivery.renter_id == renter_id)
    if before_id is not None:
        query = query.where(db.WebhookDelivery.id < before_id)
    return [_delivery(row) for row in query.order_by(db.WebhookDelivery.id.desc()).limit(limit)]


def due(now_ms: int, limit: int) -> list[int]:
    """The renters whose outboxes are due and not claimed, the longest waiting first."""
    query = (
        db.Webhook.select(db.Webhook.renter_id)
        .where(db.Webhook.due_ms <= now_ms, db.Webhook.claimed_until_ms <= now_ms)
        .order_by(db.Webhook.due_ms)
        .limit(limit)
    )
    return [int(renter_id) for (renter_id,) in db.tuples(query)]


def claim(renter_ids: list[int], now_ms: int, until_ms: int) -> list[int]:
    """Claims outboxes for one sender until ``until_ms``; returns those that were not claimed already."""
    query = db.Webhook.update(claimed_until_ms=until_ms)
    return [
        renter_id
        for renter_id in sorted(renter_ids)
        if query.where(db.Webhook.renter_id == renter_id, db.Webhook.claimed_until_ms <= now_ms).execute()
    ]


def to_send(renter_id: int, now_ms: int, limit: int) -> list[Delivery]:
    """The due deliveries of a renter's outbox: those never sent first, each group from the oldest on.

    Events that fail over and over therefore never stand before one that might arrive.
    """
    query = _waiting(renter_id).where(db.WebhookDelivery.next_ms <= now_ms)
    order = (db.WebhookDelivery.attempts > 0, db.WebhookDelivery.next_ms, db.WebhookDelivery.id)
    return [_delivery(row) for row in query.order_by(*order).limit(limit)]


def record(webhook: Webhook, sent: Delivery, answer: Answer, now_ms: int) -> bool:
    """Records an attempt to the webhook's address; returns whether further events may be sent to it now.

    Nothing is recorded, and nothing further may be sent, if the delivery has ended, was sent by another
    sender or was erased, or if the webhook was removed.
    """
    current = lock(webhook.renter_id)
    if current is None:
        return False
    is_same = current.url == webhook.url
    health = current.health.after(answer, sent.id, now_ms) if is_same else current.health
    next_ms = None
    if not answer.is_good:
        next_ms = next_attempt_ms(sent.created_ms, sent.attempts + 1, now_ms, health.paused_until_ms)
    status = DeliveryStatus.DELIVERED if answer.is_good else DeliveryStatus.WAITING
    if not answer.is_good and next_ms is None:
        status = DeliveryStatus.FAILED
    recorded = db.WebhookDelivery.update(
        body=sent.body,
        attempts=sent.attempts + 1,
        last_ms=now_ms,
        next_ms=next_ms or now_ms,
        status=status.value,
        status_code=answer.status_code,
        error=answer.error,
    ).where(
        db.WebhookDelivery.id == sent.id,
        db.WebhookDelivery.status == _WAITING,
        db.WebhookDelivery.attempts == sent.attempts,
    )
    if not recorded.execute():
        return False
    db.Webhook.update(**_columns(health)).where(db.Webhook.renter_id == webhook.renter_id).execute()
    return is_same and health.paused_until_ms <= now_ms


def release(renter_id: int, now_ms: int) -> None:
    """Releases a claimed outbox, stores when it is due again, and deletes old ended deliveries."""
    webhook = lock(renter_id)
    if webhook is None:
        return
    paused_until_ms = webhook.health.paused_until_ms
    if paused_until_ms > now_ms:
        _give_up_old(renter_id, now_ms)
    next_ms = _waiting(renter_id).select(pw.fn.MIN(db.WebhookDelivery.next_ms)).scalar()
    if next_ms is not None:
        next_ms = max(next_ms, paused_until_ms)
    db.Webhook.update(due_ms=next_ms, claimed_until_ms=0).where(db.Webhook.renter_id == renter_id).execute()
    _drop_old(renter_id)


def _give_up_old(renter_id: int, now_ms: int) -> None:
    """Fails the events of a broken address that happened too long ago, also those whose turn never came."""
    db.WebhookDelivery.update(
        status=DeliveryStatus.FAILED.value, error="given up: the address failed for two hours"
    ).where(
        db.WebhookDelivery.renter_id == renter_id,
        db.WebhookDelivery.status == _WAITING,
        db.WebhookDelivery.created_ms < now_ms - GIVE_UP_SECONDS * 1000,
    ).execute()


def _drop_old(renter_id: int) -> None:
    ended = (db.WebhookDelivery.renter_id == renter_id) & (db.WebhookDelivery.status != _WAITING)
    newest = db.WebhookDelivery.select(db.WebhookDelivery.id).where(ended)
    last = newest.order_by(db.WebhookDelivery.id.desc()).offset(KEPT_DELIVERIES).limit(1).scalar()
    if last is not None:
        db.WebhookDelivery.delete().where(ended, db.WebhookDelivery.id <= last).execute()


def _waiting(renter_id: int) -> Any:
    return db.WebhookDelivery.select().where(
        db.WebhookDelivery.renter_id == renter_id, db.WebhookDelivery.status == _WAITING
    )


def _webhook(row: Any) -> Webhook:
    return Webhook(
        row.renter_id,
        row.url,
        row.secret,
        row.balance_low_halala,
        bool(row.balance_is_low),
        row.due_ms,
        row.created_ms,
        tuple(PreviousSecret(secret, until_ms) for secret, until_ms in json.loads(row.previous_secrets)),
        AddressHealth(row.failures, row.failed_id, row.paused_until_ms),
    )


def _columns(health: AddressHealth) -> dict[str, Any]:
    return {
        "failures": health.failures,
        "failed_id": health.failed_id,
        "paused_until_ms": health.paused_until_ms,
    }


def _delivery(row: Any) -> Delivery:
    return Delivery(
        row.id,
        row.renter_id,
        row.event_id,
        WebhookEvent(row.event),
        json.loads(row.facts),
        row.body,
        DeliveryStatus(row.status),
        row.created_ms,
        row.attempts,
        row.last_ms,
        row.status_code,
        row.error,
    )

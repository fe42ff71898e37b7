"""Webhooks and their outbox, as rows. Every function runs inside its caller's transaction.

A webhook belongs to a renter, or to the operators, whose id in the columns ``renter_id`` is ``OPERATORS``.

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
    OPERATORS,
    AddressHealth,
    Answer,
    DeliveryStatus,
    PreviousSecret,
    WebhookEvent,
    next_attempt_ms,
)
from server.store import changes
from server.store import models as db
from server.store.prepared import PreparedRows, arg, locking

KEPT_DELIVERIES = 1000
"""How many ended deliveries of an owner are kept."""
_WAITING = DeliveryStatus.WAITING.value


@dataclass(frozen=True, slots=True)
class Webhook:
    """The address for an owner's events. Its secrets sign them, so they are stored in plain text."""

    owner_id: int
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
    owner_id: int
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


def get(owner_id: int) -> Webhook | None:
    """An owner's webhook."""
    row = db.Webhook.select().where(db.Webhook.renter_id == owner_id).first()
    return _webhook(row) if row is not None else None


def lock(owner_id: int) -> Webhook | None:
    """An owner's webhook, locked until the transaction ends."""
    row = _lock.one(id=owner_id)
    return _webhook(row) if row is not None else None


def put(
    owner_id: int,
    url: str,
    secret: str,
    *,
    balance_low_halala: int | None,
    balance_is_low: bool,
    now_ms: int,
) -> bool:
    """Creates the webhook, or changes everything except its secret; returns whether it was created.

    The address counts as working, and what waits for it is looked at again at once. A new address of the
    operators gets the incidents that last, as a new webhook does: the old one may have got nothing.
    """
    values = {"url": url, "balance_low_halala": balance_low_halala, "balance_is_low": balance_is_low}
    own = db.Webhook.renter_id == owner_id
    if owner_id == OPERATORS:
        db.Webhook.update(created_ms=now_ms).where(own, db.Webhook.url != url).execute()
    if db.Webhook.update(**values, **_columns(AddressHealth())).where(own).execute():
        db.Webhook.update(due_ms=now_ms).where(own, db.Webhook.due_ms > now_ms).execute()
        changes.note_outbox(owner_id)
        return False
    row = db.Webhook.insert(renter_id=owner_id, secret=secret, created_ms=now_ms, **values)
    row.on_conflict_ignore().execute()  # of two concurrent inserts, only one creates the row
    return bool(db.Webhook.get_by_id(owner_id).secret == secret)


def set_secrets(owner_id: int, secret: str, previous: Sequence[PreviousSecret]) -> None:
    """Stores the newest secret, and those that it replaces."""
    pairs = json.dumps([[each.secret, each.expires_ms] for each in previous])
    changed = db.Webhook.update(secret=secret, previous_secrets=pairs)
    changed.where(db.Webhook.renter_id == owner_id).execute()


def set_balance_is_low(owner_id: int, is_low: bool) -> None:
    """Stores whether the wallet is below its threshold."""
    db.Webhook.update(balance_is_low=is_low).where(db.Webhook.renter_id == owner_id).execute()


def remove(owner_id: int) -> None:
    """Deletes the webhook; deliveries that wait in its outbox fail."""
    lock(owner_id)
    db.Webhook.delete().where(db.Webhook.renter_id == owner_id).execute()
    db.WebhookDelivery.update(status=DeliveryStatus.FAILED.value, error="the webhook was removed").where(
        db.WebhookDelivery.renter_id == owner_id, db.WebhookDelivery.status == _WAITING
    ).execute()


def add(webhook: Webhook, event: WebhookEvent, event_id: str, facts: dict[str, Any], now_ms: int) -> None:
    """Puts an event into the outbox of a webhook that the caller has locked."""
    db.WebhookDelivery.insert(
        renter_id=webhook.owner_id,
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
    db.Webhook.update(due_ms=due_ms).where(db.Webhook.renter_id == webhook.owner_id).execute()
    if due_ms <= now_ms:
        changes.note_outbox(webhook.owner_id)


def is_waiting(owner_id: int, event: WebhookEvent) -> bool:
    """Whether an event of this kind waits in the outbox."""
    return bool(_waiting(owner_id).where(db.WebhookDelivery.event == event.value).exists())


def delivery(event_id: str) -> Delivery:
    """The delivery of an event; it must exist."""
    return _delivery(db.WebhookDelivery.get(db.WebhookDelivery.event_id == event_id))


def deliveries(owner_id: int, before_id: int | None, limit: int) -> list[Delivery]:
    """An owner's deliveries, newest first; optionally only those before an id."""
    query = db.WebhookDelivery.select().where(db.WebhookDelivery.renter_id == owner_id)
    if before_id is not None:
        query = query.where(db.WebhookDelivery.id < before_id)
    return [_delivery(row) for row in query.order_by(db.WebhookDelivery.id.desc()).limit(limit)]


def due(now_ms: int, limit: int) -> list[int]:
    """The owners whose outboxes are due and not claimed, the longest waiting first."""
    query = (
        db.Webhook.select(db.Webhook.renter_id)
        .where(db.Webhook.due_ms <= now_ms, db.Webhook.claimed_until_ms <= now_ms)
        .order_by(db.Webhook.due_ms)
        .limit(limit)
    )
    return [int(owner_id) for (owner_id,) in db.tuples(query)]


def claim(owner_ids: list[int], now_ms: int, until_ms: int) -> list[int]:
    """Claims outboxes for one sender until ``until_ms``; returns those that were not claimed already."""
    query = db.Webhook.update(claimed_until_ms=until_ms)
    return [
        owner_id
        for owner_id in sorted(owner_ids)
        if query.where(db.Webhook.renter_id == owner_id, db.Webhook.claimed_until_ms <= now_ms).execute()
    ]


def to_send(owner_id: int, now_ms: int, limit: int) -> list[Delivery]:
    """The due deliveries of an owner's outbox: those never sent first, each group from the oldest on.

    Events that fail over and over therefore never stand before one that might arrive.
    """
    query = _waiting(owner_id).where(db.WebhookDelivery.next_ms <= now_ms)
    order = (db.WebhookDelivery.attempts > 0, db.WebhookDelivery.next_ms, db.WebhookDelivery.id)
    return [_delivery(row) for row in query.order_by(*order).limit(limit)]


def record(webhook: Webhook, sent: Delivery, answer: Answer, now_ms: int) -> bool:
    """Records an attempt to the webhook's address; returns whether further events may be sent to it now.

    Nothing is recorded, and nothing further may be sent, if the delivery has ended, was sent by another
    sender or was erased, or if the webhook was removed.
    """
    current = lock(webhook.owner_id)
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
    db.Webhook.update(**_columns(health)).where(db.Webhook.renter_id == webhook.owner_id).execute()
    return is_same and health.paused_until_ms <= now_ms


def release(owner_id: int, now_ms: int) -> None:
    """Releases a claimed outbox, stores when it is due again, and deletes old ended deliveries."""
    webhook = lock(owner_id)
    if webhook is None:
        return
    paused_until_ms = webhook.health.paused_until_ms
    if paused_until_ms > now_ms:
        _give_up_old(owner_id, now_ms)
    next_ms = _waiting(owner_id).select(pw.fn.MIN(db.WebhookDelivery.next_ms)).scalar()
    if next_ms is not None:
        next_ms = max(next_ms, paused_until_ms)
        if next_ms <= now_ms:
            changes.note_outbox(owner_id)
    db.Webhook.update(due_ms=next_ms, claimed_until_ms=0).where(db.Webhook.renter_id == owner_id).execute()
    _drop_old(owner_id)


def _give_up_old(owner_id: int, now_ms: int) -> None:
    """Fails the events of a broken address that happened too long ago, also those whose turn never came."""
    db.WebhookDelivery.update(
        status=DeliveryStatus.FAILED.value, error="given up: the address failed for two hours"
    ).where(
        db.WebhookDelivery.renter_id == owner_id,
        db.WebhookDelivery.status == _WAITING,
        db.WebhookDelivery.created_ms < now_ms - GIVE_UP_SECONDS * 1000,
    ).execute()


def _drop_old(owner_id: int) -> None:
    ended = (db.WebhookDelivery.renter_id == owner_id) & (db.WebhookDelivery.status != _WAITING)
    newest = db.WebhookDelivery.select(db.WebhookDelivery.id).where(ended)
    last = newest.order_by(db.WebhookDelivery.id.desc()).offset(KEPT_DELIVERIES).limit(1).scalar()
    if last is not None:
        db.WebhookDelivery.delete().where(ended, db.WebhookDelivery.id <= last).execute()


def _waiting(owner_id: int) -> Any:
    return db.WebhookDelivery.select().where(
        db.WebhookDelivery.renter_id == owner_id, db.WebhookDelivery.status == _WAITING
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

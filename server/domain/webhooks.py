"""Rules of webhooks: how events are signed, and when they are sent again.

A failure belongs to one event or to the address. Only a failure of the address holds up other events, and
only for a bounded time.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import StrEnum

GIVE_UP_SECONDS = 2 * 3600
"""An event is sent again for this long after it happened."""
RETRY_SECONDS = (10, 30, 60, 120, 300, 600, 1200)
"""The delay after each attempt of an event until its next; the last value repeats."""
PAUSE_SECONDS = (10, 10, 30, 60)
"""How long nothing is sent to an address that failed this many events in a row; the last value repeats."""
MAX_RETRY_AFTER_SECONDS = 600
"""A longer ``Retry-After`` counts as this."""
MAX_SECRETS = 10
"""At most this many secrets of a webhook sign: the newest, and older ones in their grace period."""
OPERATORS = 0
"""The owner of the operators' webhook; every other owner is a renter, by its id."""
STANDARD_SINCE = "@1795824000"
"""Since when the headers that Standard Webhooks replaces are deprecated (RFC 9745): 2026-11-28."""
_SECRET_PREFIX = "whsec_"  # noqa: S105 - a prefix, not a secret
# Statuses by which an address speaks of itself, and not of the event.
_BUSY = (429, 503)
# Statuses that say nothing about the event, although they are 4xx.
_NOT_ABOUT_THE_EVENT = (408, 425)


class WebhookEvent(StrEnum):
    """The kinds of events."""

    JOB_COMPLETED = "job.completed"
    JOB_FAILED = "job.failed"
    JOB_CANCELLED = "job.cancelled"
    BALANCE_LOW = "balance.low"
    TEST = "webhook.test"
    DISPUTE_OPENED = "dispute.opened"
    DISPUTE_DECIDED = "dispute.decided"
    KEY_RECOVERY_STARTED = "key.recovery_started"
    BUDGET_REACHED = "budget.reached"
    INCIDENT_BEGAN = "incident.began"
    INCIDENT_LASTS = "incident.lasts"
    INCIDENT_ENDED = "incident.ended"
    BATCH_COMPLETED = "batch.completed"
    BATCH_FAILED = "batch.failed"
    BATCH_EXPIRED = "batch.expired"
    BATCH_CANCELLED = "batch.cancelled"


class DeliveryStatus(StrEnum):
    """The state of a delivery."""

    WAITING = "waiting"
    DELIVERED = "delivered"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Answer:
    """The result of one attempt: the HTTP status, if there was an answer, and the error."""

    status_code: int | None
    error: str | None = None
    retry_after: str = ""
    """The header ``Retry-After`` of the answer."""
    was_sent: bool = True
    """False if this server failed before it had an answer, which says nothing about the address."""

    @property
    def is_good(self) -> bool:
        """Whether the receiver accepted the event."""
        return self.error is None

    @property
    def is_busy(self) -> bool:
        """Whether the address asks for time."""
        return self.status_code in _BUSY

    @property
    def shows_that_address_works(self) -> bool:
        """Whether the receiver judged this event: it accepted, refused or redirected it."""
        status = self.status_code
        return status is not None and status < 500 and not self.is_busy and status not in _NOT_ABOUT_THE_EVENT


@dataclass(frozen=True, slots=True)
class AddressHealth:
    """How an address answered lately.

    ``failures`` counts the events in a row that it failed; one event that fails again and again counts once,
    so it never makes the address seem broken. ``failed_id`` is the last of these events.
    """

    failures: int = 0
    failed_id: int | None = None
    paused_until_ms: int = 0

    def after(self, answer: Answer, delivery_id: int, now_ms: int) -> AddressHealth:
        """The health after an attempt to deliver one event."""
        if not answer.was_sent:
            return self
        if answer.shows_that_address_works:
            return AddressHealth()
        failures = self.failures + (delivery_id != self.failed_id)
        return AddressHealth(failures, delivery_id, now_ms + 1000 * _pause_seconds(answer, failures, now_ms))


def _pause_seconds(answer: Answer, failures: int, now_ms: int) -> int:
    """How long an address rests that did not judge the event.

    An error such as 500 can be the event's: it is the address's from the second event on.
    """
    if answer.status_code is not None and not answer.is_busy and failures < 2:
        return 0
    usual = PAUSE_SECONDS[min(failures, len(PAUSE_SECONDS)) - 1]
    asked = _retry_after_seconds(answer.retry_after, now_ms) if answer.is_busy else 0
    return max(usual, min(asked, MAX_RETRY_AFTER_SECONDS))


def _retry_after_seconds(text: str, now_ms: int) -> int:
    """The seconds of a header ``Retry-After``, which is a number or a date; 0 if it is neither."""
    text = text.strip()
    if text.isascii() and text.isdigit():
        return int(text[:10])
    try:
        at = parsedate_to_datetime(text)
        at = at if at.tzinfo else at.replace(tzinfo=UTC)
        return max(0, int((at - datetime.fromtimestamp(now_ms / 1000, UTC)).total_seconds()))
    except (ValueError, TypeError, OverflowError):
        return 0


@dataclass(frozen=True, slots=True)
class PreviousSecret:
    """A replaced secret, which signs beside the newest one until its grace period ends."""

    secret: str
    expires_ms: int


def rotated(
    secret: str, previous: Sequence[PreviousSecret], expires_ms: int, now_ms: int
) -> tuple[PreviousSecret, ...]:
    """The replaced secrets that still sign, newest first, when ``secret`` is replaced too.

    As with main keys, a later rotation never moves the end of an earlier one back.
    """
    older = (PreviousSecret(each.secret, min(each.expires_ms, expires_ms)) for each in previous)
    return still_valid((PreviousSecret(secret, expires_ms), *older), now_ms)


def still_valid(previous: Sequence[PreviousSecret], now_ms: int) -> tuple[PreviousSecret, ...]:
    """The replaced secrets whose grace period has not ended."""
    return tuple(each for each in previous if each.expires_ms > now_ms)


def written_secret(random: bytes) -> str:
    """A secret in the form of Standard Webhooks."""
    return _SECRET_PREFIX + base64.b64encode(random).decode()


def sign(secret: str, timestamp: str, body: bytes) -> str:
    """The header ``DCP-Signature``; it covers the time and the raw body, so neither can be changed."""
    return "v1=" + hmac.new(secret.encode(), timestamp.encode() + b"." + body, hashlib.sha256).hexdigest()


def sign_standard(secret: str, event_id: str, timestamp: str, body: bytes) -> str:
    """One signature of the header ``webhook-signature``, as Standard Webhooks defines it."""
    signed = f"{event_id}.{timestamp}.".encode() + body
    return "v1," + base64.b64encode(hmac.new(_standard_key(secret), signed, hashlib.sha256).digest()).decode()


def _standard_key(secret: str) -> bytes:
    """The bytes that a secret stands for. Older secrets (``whsec-...``) are their own text."""
    if secret.startswith(_SECRET_PREFIX):
        return base64.b64decode(secret.removeprefix(_SECRET_PREFIX))
    return secret.encode()


def next_attempt_ms(created_ms: int, attempts: int, now_ms: int, not_before_ms: int = 0) -> int | None:
    """When an event that was sent ``attempts`` times is sent again; None means never."""
    delay_ms = RETRY_SECONDS[min(attempts, len(RETRY_SECONDS)) - 1] * 1000
    after = max(now_ms + delay_ms, not_before_ms)
    return after if after <= created_ms + GIVE_UP_SECONDS * 1000 else None

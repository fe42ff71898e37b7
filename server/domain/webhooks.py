"""Rules of webhooks: how events are signed, and when they are sent again."""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from enum import StrEnum

GIVE_UP_SECONDS = 2 * 3600
"""An event is sent again for this long after it happened."""
RETRY_SECONDS = (10, 30, 60, 120, 300, 600, 1200)
"""The delay after each attempt until the next; the last value repeats."""
PAUSE_SECONDS = 10
"""After a failed attempt, nothing is sent to that address for this long."""


class WebhookEvent(StrEnum):
    """The kinds of events."""

    JOB_COMPLETED = "job.completed"
    JOB_FAILED = "job.failed"
    JOB_CANCELLED = "job.cancelled"
    BALANCE_LOW = "balance.low"
    TEST = "webhook.test"


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

    @property
    def is_good(self) -> bool:
        """Whether the receiver accepted the event."""
        return self.error is None


def sign(secret: str, timestamp: str, body: bytes) -> str:
    """The header ``DCP-Signature``; it covers the time and the raw body, so neither can be changed."""
    return "v1=" + hmac.new(secret.encode(), timestamp.encode() + b"." + body, hashlib.sha256).hexdigest()


def next_attempt_ms(created_ms: int, attempts: int, now_ms: int) -> int | None:
    """When an event that was sent ``attempts`` times is sent again; None means never."""
    after = now_ms + RETRY_SECONDS[min(attempts, len(RETRY_SECONDS)) - 1] * 1000
    return after if after <= created_ms + GIVE_UP_SECONDS * 1000 else None

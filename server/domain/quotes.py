"""Quotes: a price that is promised for some minutes, and what a job will likely cost. Pure.

A quote is not stored: its id holds what is promised, to whom and for which request, under the market's own
signature.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from server.domain import tokens
from server.domain.errors import invalid_field
from server.domain.jobs import INFERENCE, JobRequest
from server.domain.pricing import PARTS, Counts, Price, TimePrice, parse

VALID_MS = 5 * 60_000
# The limit of a job that gives none: this much more than the longest of its like, within bounds.
MARGIN = 3
LEAST_LIMIT_MS, MOST_LIMIT_MS = 60_000, 24 * 3600 * 1000
# Without any like it.
LIMIT_MS, CONTAINER_LIMIT_MS = 10 * 60_000, 3600 * 1000
_SIGNATURE_BYTES = 16


@dataclass(frozen=True, slots=True)
class PastRun:
    """A completed run of the same renter with a job like this one."""

    billed_ms: int
    completion_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Quote:
    """What is promised: a price, for one request of one renter, until a time."""

    renter_id: int
    request_digest: str
    price: Price
    expires_ms: int

    def sign(self, key: bytes) -> str:
        """Its id."""
        body = f"{self.renter_id} {self.request_digest} {self.price.text} {self.expires_ms}".encode()
        return base64.urlsafe_b64encode(_signature(key, body) + body).decode().rstrip("=")


def read(quote_id: str, key: bytes) -> Quote | None:
    """The quote of an id; None if this market did not make it."""
    try:
        data = base64.urlsafe_b64decode(quote_id + "=" * (-len(quote_id) % 4))
    except ValueError:
        return None
    signature, body = data[:_SIGNATURE_BYTES], data[_SIGNATURE_BYTES:]
    if not hmac.compare_digest(signature, _signature(key, body)):
        return None
    renter_id, digest, price, expires_ms = body.decode().split(" ")
    return Quote(int(renter_id), digest, parse(price), int(expires_ms))


def promised(quote_id: str, key: bytes, renter_id: int, request_digest: str, now_ms: int) -> Price:
    """The price that a quote promises. Raises INVALID_FIELD if it promises none to this job."""
    quote = read(quote_id, key)
    if quote is None or quote.renter_id != renter_id:
        raise invalid_field("quote_id", "is no quote of this account; ask for one at /api/jobs/quote")
    if quote.request_digest != request_digest:
        raise invalid_field("quote_id", "is for another request; send the body that was quoted, or ask again")
    if quote.expires_ms <= now_ms:
        raise invalid_field("quote_id", "has expired; ask for a new quote")
    return quote.price


def limit_ms(request: JobRequest, past: Sequence[PastRun]) -> int:
    """How long a job may run that gives no limit: by the longest of its like, else by its type."""
    if not past:
        return LIMIT_MS if request.job_type in INFERENCE else CONTAINER_LIMIT_MS
    longest = max(run.billed_ms for run in past)
    return max(LEAST_LIMIT_MS, min(MOST_LIMIT_MS, MARGIN * longest))


def likely_micros(
    price: Price, request: JobRequest, past: Sequence[PastRun], tokens_per_second: float | None
) -> int | None:
    """What a job will likely cost: as the median of its like; None if nothing is known of them."""
    answers = [run.completion_tokens for run in past if run.completion_tokens]
    paid = tokens.paid(request.spec)
    wanted = min(paid.completion, round(median(answers))) if answers else paid.completion
    if not isinstance(price, TimePrice):
        # Most texts have a token for about four bytes.
        counts = Counts(-(-paid.prompt // tokens.BYTES_A_TOKEN), wanted)
        return -(-price.cost_parts(counts) // PARTS)
    if request.job_type in INFERENCE and tokens_per_second:
        return price.cost_micros(round(1000 * wanted / tokens_per_second))
    return price.cost_micros(round(median(run.billed_ms for run in past))) if past else None


def _signature(key: bytes, body: bytes) -> bytes:
    return hmac.new(key, b"quote " + body, hashlib.sha256).digest()[:_SIGNATURE_BYTES]

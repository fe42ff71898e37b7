"""Owns the check of events that the market sends to a renter's webhook: the signature of Standard Webhooks.

It knows no server: hand it the raw body and the headers as they came.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import time
from collections.abc import Mapping
from typing import Any

from dcp_client.errors import DCPError
from dcp_client.reading import MalformedError, loads

TOLERANCE_SECONDS = 300


class SignatureError(DCPError):
    """An event is forged, damaged or old: answer with 400 and do nothing."""


def verify(
    body: bytes, headers: Mapping[str, str], secret: str, *, now: float | None = None
) -> Mapping[str, Any]:
    """The event in a body whose signature is right. Raises SignatureError.

    The same event can come twice: its `id` is the same.
    """
    given = {name.lower(): value for name, value in headers.items()}
    event_id, stamp = given.get("webhook-id", ""), given.get("webhook-timestamp", "")
    if not (stamp.isascii() and stamp.isdigit()):
        raise SignatureError("webhook-timestamp is missing or not a number")
    if abs((time.time() if now is None else now) - int(stamp)) > TOLERANCE_SECONDS:
        raise SignatureError("webhook-timestamp is more than five minutes away: the event is old")
    digest = hmac.new(_key(secret), f"{event_id}.{stamp}.".encode() + body, hashlib.sha256).digest()
    right = b"v1," + base64.b64encode(digest)
    signatures = given.get("webhook-signature", "").split()
    # Several are there while a secret is replaced.
    if not any(hmac.compare_digest(right, each.encode()) for each in signatures):
        raise SignatureError("webhook-signature does not belong to this body and secret")
    try:
        event = loads(body)
    except MalformedError as error:
        raise SignatureError(str(error)) from error
    if not isinstance(event, dict):
        raise SignatureError("the body is not a JSON object")
    return event


def _key(secret: str) -> bytes:
    prefix = "whsec_"
    if not secret.startswith(prefix):
        return secret.encode()  # an older secret is a key as it stands
    try:
        return base64.b64decode(secret[len(prefix) :], validate=True)
    except binascii.Error as error:
        raise SignatureError("the secret is not one of the market's: it begins with whsec_") from error

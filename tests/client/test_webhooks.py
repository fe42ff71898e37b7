"""The check of events' signatures accepts what Standard Webhooks signs, and nothing else."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime

import pytest
import standardwebhooks
from dcp_client import SignatureError, verify_webhook

SECRET = "whsec_" + base64.b64encode(b"k" * 32).decode()
OTHER = "whsec_" + base64.b64encode(b"o" * 32).decode()
NOW = 1_790_000_000
BODY = json.dumps({"id": "evt-1", "type": "job.completed"})


def headers(*secrets: str, at: int = NOW) -> dict[str, str]:
    signed = [
        standardwebhooks.Webhook(secret).sign("evt-1", datetime.fromtimestamp(at, UTC), BODY)
        for secret in secrets
    ]
    return {"Webhook-Id": "evt-1", "Webhook-Timestamp": str(at), "Webhook-Signature": " ".join(signed)}


@pytest.mark.parametrize("secrets", [(SECRET,), (OTHER, SECRET)], ids=["one", "rotation"])
def test_signed_event_is_accepted(secrets: tuple[str, ...]) -> None:
    assert verify_webhook(BODY.encode(), headers(*secrets), SECRET, now=NOW)["type"] == "job.completed"


@pytest.mark.parametrize(
    ("body", "given", "secret", "now"),
    [
        (BODY + " ", headers(SECRET), SECRET, NOW),
        (BODY, headers(OTHER), SECRET, NOW),
        (BODY, headers(SECRET), SECRET, NOW + 301),
        (BODY, headers(SECRET), SECRET, NOW - 301),
        (BODY, headers(SECRET) | {"Webhook-Id": "evt-2"}, SECRET, NOW),
        (BODY, headers(SECRET) | {"Webhook-Timestamp": "soon"}, SECRET, NOW),
        (BODY, {}, SECRET, NOW),
        (BODY, headers(SECRET), "whsec_???", NOW),
    ],
)
def test_forged_changed_and_old_events_are_refused(
    body: str, given: dict[str, str], secret: str, now: float
) -> None:
    with pytest.raises(SignatureError):
        verify_webhook(body.encode(), given, secret, now=now)

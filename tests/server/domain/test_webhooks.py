"""The rules of webhooks: signatures, and the times of attempts."""

from __future__ import annotations

import base64
import time
from datetime import UTC, datetime
from email.utils import format_datetime

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from server.domain.webhooks import (
    GIVE_UP_SECONDS,
    AddressHealth,
    Answer,
    next_attempt_ms,
    sign,
    sign_standard,
    written_secret,
)

NOW_MS = 1_700_000_000_000
NOW = datetime.fromtimestamp(NOW_MS // 1000, UTC)


def test_signature_is_the_hmac_of_the_time_and_the_body() -> None:
    """The figure is from `printf '1700000000.{"a":1}' | openssl dgst -sha256 -hmac whsec-test`."""
    assert (
        sign("whsec-test", "1700000000", b'{"a":1}')
        == "v1=fed7a1a6c799a6367d73724d76bc70c16678908a32a879cd1ded6565ac05cece"
    )


def test_an_independent_receiver_accepts_the_standard_signature() -> None:
    secret, timestamp, body = written_secret(bytes(range(32))), str(int(time.time())), '{"a":"م"}'
    headers = {
        "webhook-id": "evt-1",
        "webhook-timestamp": timestamp,
        "webhook-signature": sign_standard(secret, "evt-1", timestamp, body.encode()),
    }
    assert Webhook(secret).verify(body, headers) == {"a": "م"}
    with pytest.raises(WebhookVerificationError):
        Webhook(secret).verify(body, headers | {"webhook-id": "evt-2"})


def test_secret_from_before_the_standard_form_signs_with_its_text() -> None:
    old, now = "whsec-abc_DEF-0123456789", datetime.now(UTC)
    receiver = Webhook(base64.b64encode(old.encode()).decode())
    timestamp = str(int(now.timestamp()))
    assert sign_standard(old, "evt-1", timestamp, b"{}") == receiver.sign("evt-1", now, "{}")


@pytest.mark.parametrize(
    ("retry_after", "seconds"),
    [
        ("", 10),
        ("5", 10),
        ("90", 90),
        ("601", 600),
        ("9" * 400, 600),
        ("-5", 10),
        ("٩٠", 10),
        (format_datetime(NOW.replace(minute=NOW.minute + 5), usegmt=True), 300),
        ("Tue, 14 Nov 2023 22:18:20 -0000", 300),
        ("Mon, 01 Jan 2001 00:00:00 GMT", 10),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 600),
        ("Fri, 31 Foo 9999", 10),
    ],
)
def test_pause_that_a_busy_address_asks_for_is_bounded(retry_after: str, seconds: int) -> None:
    health = AddressHealth().after(Answer(429, "busy", retry_after), 1, NOW_MS)
    assert health.paused_until_ms == NOW_MS + seconds * 1000


def test_only_busy_addresses_ask_for_pauses() -> None:
    assert AddressHealth().after(Answer(500, "failed", "90"), 1, NOW_MS).paused_until_ms == NOW_MS
    assert AddressHealth().after(Answer(400, "refused", "90"), 1, NOW_MS) == AddressHealth()


@pytest.mark.parametrize("status", [None, 408, 425, 429, 500, 503, 599])
def test_pauses_of_a_broken_address_grow_to_a_minute_and_end_with_the_first_event_that_it_judges(
    status: int | None,
) -> None:
    health, pauses = AddressHealth(), []
    for delivery_id in range(6):
        health = health.after(Answer(status, "failed"), delivery_id, NOW_MS)
        pauses.append((health.paused_until_ms - NOW_MS) // 1000)
    is_known_at_once = status in (None, 429, 503)
    assert pauses == [10 if is_known_at_once else 0, 10, 30, 60, 60, 60]
    for judged in (Answer(204), Answer(307, "redirected"), Answer(400, "refused"), Answer(404, "refused")):
        assert health.after(judged, 9, NOW_MS) == AddressHealth()


def test_event_is_not_sent_again_while_its_address_rests() -> None:
    assert next_attempt_ms(0, 1, 0) == 10_000
    assert next_attempt_ms(0, 1, 0, 60_000) == 60_000
    assert next_attempt_ms(0, 1, 0, GIVE_UP_SECONDS * 1000 + 1) is None


def test_attempts_become_rarer_and_end_after_two_hours() -> None:
    now_ms, attempts, waits = 0, 0, []
    while True:
        attempts += 1
        after = next_attempt_ms(0, attempts, now_ms)
        if after is None:
            break
        waits.append(after - now_ms)
        now_ms = after
    assert waits == sorted(waits)
    assert waits[0] == 10_000
    assert GIVE_UP_SECONDS * 1000 - max(waits) < now_ms <= GIVE_UP_SECONDS * 1000
    assert attempts > 8

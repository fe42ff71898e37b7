"""The rules of webhooks: signatures, and the times of attempts."""

from __future__ import annotations

from server.domain.webhooks import GIVE_UP_SECONDS, next_attempt_ms, sign


def test_signature_is_the_hmac_of_the_time_and_the_body() -> None:
    """The figure is from `printf '1700000000.{"a":1}' | openssl dgst -sha256 -hmac whsec-test`."""
    assert (
        sign("whsec-test", "1700000000", b'{"a":1}')
        == "v1=fed7a1a6c799a6367d73724d76bc70c16678908a32a879cd1ded6565ac05cece"
    )


def test_attempts_come_less_and_less_often_and_end_after_two_hours() -> None:
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

"""When a request is sent again, and with what."""

from __future__ import annotations

import pytest
from dcp_client.calls import Call, Failure, Retries, page_of, path_of, retry_after
from dcp_client.generated.models import ListKeysResponse

GET = Call("GET", "/x")
KEYED = Call("POST", "/x", repeat="keyed")
SECRET = Call("POST", "/x", repeat="secret")
RETRIES = Retries(attempts=3, longest_wait_seconds=60)


@pytest.mark.parametrize(
    ("call", "failure", "is_cut", "pause"),
    [
        (GET, None, True, 0.25),
        (KEYED, None, True, 0.25),
        (SECRET, None, True, None),
        (SECRET, None, False, 0.25),
        (GET, Failure(503, "UNAVAILABLE", 2), False, 2.25),
        (SECRET, Failure(503, "UNAVAILABLE", 2), False, None),
        (SECRET, Failure(503, "OVERLOADED", 1), False, 1.25),
        (SECRET, Failure(429, "RATE_LIMITED", 30), False, 30.25),
        (GET, Failure(429, "RATE_LIMITED", 61), False, None),
        (GET, Failure(429, "TOO_MANY_WATCHERS", None), False, None),
        (KEYED, Failure(504, "TIMEOUT", None), False, 0.25),
        (GET, Failure(503, "ADMIN_NOT_CONFIGURED", None), False, None),
        (GET, Failure(400, "INVALID_FIELD", None), False, None),
        (KEYED, Failure(402, "INSUFFICIENT_BALANCE", None), False, None),
    ],
)
def test_what_is_sent_again_and_when(
    call: Call, failure: Failure | None, is_cut: bool, pause: float | None
) -> None:
    assert RETRIES.pause(call, 1, failure, 0.5, is_cut) == pause


def test_pauses_grow_to_a_bound_and_attempts_end() -> None:
    retries = Retries(attempts=20)
    pauses = [retries.pause(GET, attempt, None, 1.0) for attempt in range(1, 20)]
    assert pauses[:3] == [0.5, 1.0, 2.0]
    assert max(pause or 0 for pause in pauses) == 20.0
    assert retries.pause(GET, 20, None, 1.0) is None


def test_only_keyed_calls_have_a_key_and_each_its_own() -> None:
    drawn = {KEYED.all_headers()["Idempotency-Key"] for _ in range(100)}
    assert len(drawn) == 100
    assert Call("POST", "/x", repeat="keyed", key="mine").all_headers()["Idempotency-Key"] == "mine"
    assert all("Idempotency-Key" not in each.all_headers() for each in (GET, SECRET))


def test_query_has_only_what_is_set() -> None:
    call = Call("GET", "/x", query={"a": None, "b": True, "c": ["day", "key"], "d": 0})
    assert call.parameters() == {"b": "true", "c": ["day", "key"], "d": 0}


def test_fields_of_a_path_cannot_leave_it() -> None:
    assert path_of("/api/jobs/{job_id}", job_id="a b?c#d") == "/api/jobs/a%20b%3Fc%23d"
    assert path_of("/f/{name}", name="model/w.bin") == "/f/model/w.bin"


def test_next_page_is_that_of_the_first_cursor_that_is_there() -> None:
    order = [("before_id", "next_before_id")]
    assert page_of(ListKeysResponse(next_before_id=7), order) == {"before_id": 7}
    assert page_of(ListKeysResponse(), order) is None


@pytest.mark.parametrize(("header", "seconds"), [("3", 3.0), (None, None), ("", None), ("soon", None)])
def test_retry_after_is_in_seconds(header: str | None, seconds: float | None) -> None:
    assert retry_after(header) == seconds

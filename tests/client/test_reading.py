"""Models are open: what is newer than the client is kept, and what is not the API's is an error."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from dcp_client import bodies, objects, reasons
from dcp_client.errors import APIError, ResponseError, from_answer
from dcp_client.reading import MalformedError, loads


def test_values_have_the_types_of_their_fields() -> None:
    job = objects.Job.from_json(
        {
            "job_id": "job-1",
            "created_at": "2026-11-26T10:00:00.250Z",
            "billing": {"actual_cost_halala": 188, "price": {"sar_per_hour": "90.10"}},
        }
    )
    assert job.created_at == datetime(2026, 11, 26, 10, 0, 0, 250_000, tzinfo=UTC)
    assert job.billing is not None
    assert job.billing.actual_cost_halala == 188
    assert job.billing.price == objects.Price(sar_per_hour=Decimal("90.10"))


def test_missing_and_null_fields_are_empty() -> None:
    job = objects.Job.from_json({"provider_id": None})
    assert (job.provider_id, job.status, job.billing, job.cancel_requested) == (None, "", None, False)
    assert objects.GetOwnEarningsResponse.from_json({}).days == []


def test_fields_and_values_that_are_newer_than_the_client_are_kept() -> None:
    job = objects.Job.from_json({"status": "hibernating", "moon_phase": {"full": True}})
    assert job.status == "hibernating"
    assert job.raw["moon_phase"] == {"full": True}


@pytest.mark.parametrize(
    "values",
    [
        [],
        None,
        {"billing": 3},
        {"created_at": 5},
        {"created_at": "yesterday"},
        {"billing": {"price": {"sar_per_hour": "much"}}},
    ],
)
def test_what_is_not_the_api_is_malformed(values: Any) -> None:
    with pytest.raises(MalformedError):
        objects.Job.from_json(values)


@pytest.mark.parametrize("text", [b"", b"{", b"\xff", b"[" * 100_000])
def test_text_that_is_not_json_is_malformed(text: bytes) -> None:
    with pytest.raises(MalformedError):
        loads(text)


def test_objects_are_equal_by_their_known_fields_and_show_what_is_there() -> None:
    one = objects.Usage.from_json({"prompt_tokens": 3, "newer": 1})
    assert one == objects.Usage(prompt_tokens=3)
    assert hash(one) == hash(objects.Usage(prompt_tokens=3))
    assert one != objects.Usage(prompt_tokens=4)
    assert one != objects.Price()
    assert repr(one) == "Usage(prompt_tokens=3)"


def test_an_enum_is_a_list_of_texts() -> None:
    assert objects.JobState.COMPLETED == "completed"
    assert objects.MetricsRange._1H == "1h"


def test_bodies_know_what_is_required() -> None:
    assert bodies.SubmitJobBody.__required_keys__ == {"job_type"}
    assert "api_key" not in bodies.SubmitJobBody.__annotations__


def test_each_reason_has_its_class_under_one_base() -> None:
    error = from_answer(
        402,
        {"error": "too little", "code": "INSUFFICIENT_BALANCE", "shortfall_halala": 5},
        reasons.BY_REASON,
    )
    assert type(error) is reasons.InsufficientBalanceError
    assert (error.status, str(error), error.facts.shortfall_halala) == (402, "too little", 5)
    assert all(issubclass(each, APIError) for each in reasons.BY_REASON.values())
    assert reasons.ServerTimeoutError.REASON == "TIMEOUT"


def test_a_reason_that_is_newer_than_the_client_is_an_error_of_the_base() -> None:
    error = from_answer(409, {"error": "no", "code": "ECLIPSE", "field": "sun"}, reasons.BY_REASON)
    assert (type(error), error.reason, error.field) == (APIError, "ECLIPSE", "sun")


def test_errors_of_v1_have_our_reason() -> None:
    answer = {"error": {"message": "no", "type": "x", "code": "y", "param": "model", "reason": "BAD_PARAMS"}}
    error = from_answer(400, answer, reasons.BY_REASON)
    assert (error.reason, error.field, error.message) == ("BAD_PARAMS", "model", "no")


@pytest.mark.parametrize("answer", [None, [], "busy", {}, {"error": 5}, {"error": {"message": "x"}}])
def test_an_error_of_something_else_is_none_of_the_market(answer: Any) -> None:
    with pytest.raises(ResponseError):
        from_answer(502, answer, reasons.BY_REASON)

"""Texts to embed: what a request may hold, and how many tokens it is believed, held and charged for."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.embeddings import MAX_DIMENSIONS, MAX_INPUTS
from server.domain import embeddings, tokens
from server.domain.errors import DomainError, Reason
from tests.support.vectors import VECTOR, lines

TEXTS = st.lists(st.text(min_size=1, max_size=30), min_size=1, max_size=20)
FLOATS = st.floats(allow_nan=False, allow_infinity=False)
IDS = st.lists(st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=30), min_size=1, max_size=20)


def spec(given: Any, **more: Any) -> dict[str, Any]:
    """The spec of a job with this input."""
    request = json.dumps({"input": given, **more}).encode()
    return {"params": {"model": "m"}, "embeddings": embeddings.read(request).spec}


def read(given: Any) -> tuple[dict[str, Any] | None, DomainError | None]:
    """What is read of an input, or the error."""
    try:
        return spec(given)["embeddings"], None
    except DomainError as error:
        return None, error


@given(TEXTS | IDS)
def test_hold_is_enough_for_whatever_is_counted(inputs: list[Any]) -> None:
    asked = spec(inputs)
    paid = tokens.paid(asked)
    most = sum(len(each.encode()) if isinstance(each, str) else len(each) for each in inputs)
    assert paid.completion == 0
    assert most < paid.prompt <= tokens.most_prompt(asked)
    for counted in (0, 1, most, paid.prompt + 1, 2**31 - 1):
        usage = {"prompt_tokens": counted, "completion_tokens": 9, "cached_tokens": counted}
        bill = tokens.billed(asked, usage, len(inputs))
        assert 0 < bill.prompt <= paid.prompt
        assert (bill.completion, bill.cached <= bill.prompt) == (0, True)
        assert bill.prompt == counted or counted in (0, paid.prompt + 1, 2**31 - 1)


@given(TEXTS | IDS)
def test_without_a_count_each_vector_has_its_share(inputs: list[Any]) -> None:
    asked = spec(inputs)
    shares = [tokens.billed(asked, None, written).prompt for written in range(len(inputs) + 2)]
    assert shares == sorted(shares)
    assert shares[0] == 0
    assert shares[-1] == shares[-2] == asked["embeddings"]["likely_tokens"]


@given(st.recursive(st.none() | st.booleans() | st.integers() | FLOATS | st.text(max_size=5), st.lists))
def test_any_input_is_bounded_or_refused_by_its_name(value: Any) -> None:
    asked, refusal = read(value)
    if asked is None:
        assert refusal is not None
        assert refusal.reason is Reason.INVALID_FIELD
        assert str(refusal.facts["field"]).startswith("request.input")
        return
    inputs = asked["request"]["input"]
    assert 1 <= len(inputs) <= MAX_INPUTS
    assert len({type(each) for each in inputs}) == 1
    assert all(inputs)
    assert spec(inputs)["embeddings"] == asked, "what is passed on would be taken as it is"


@pytest.mark.parametrize(
    "request_",
    [b"", b"[]", b"null", b'"a"', b"{", b'{"input": "\\ud800"}', b'{"input": NaN}', b"[" * 100_000],
)
def test_what_is_no_request_is_refused(request_: bytes) -> None:
    with pytest.raises(DomainError) as refused:
        embeddings.read(request_)
    assert refused.value.reason is Reason.INVALID_FIELD


def test_most_inputs_and_dimensions_are_bounded() -> None:
    assert spec(["a"] * MAX_INPUTS, dimensions=MAX_DIMENSIONS)
    assert spec([1] * (MAX_INPUTS + 1)), "one input of many tokens"
    for inputs, dimensions in ((["a"] * (MAX_INPUTS + 1), 1), (["a"], MAX_DIMENSIONS + 1), (["a"], 1.0)):
        with pytest.raises(DomainError):
            spec(inputs, dimensions=dimensions)


def test_what_nobody_knows_is_left_out() -> None:
    asked = spec("a", user="me", input_type="query", model="m", encoding_format="base64")
    assert asked["embeddings"]["request"] == {"input": ["a"]}


def test_context_is_that_of_one_text() -> None:
    asked = spec(["x" * 100] * 9)
    assert tokens.is_too_long(asked, 131)
    assert not tokens.is_too_long(asked, 132)


def test_output_is_what_was_asked_for_or_says_why_not() -> None:
    assert embeddings.problem(spec(["a", "b"]), lines(VECTOR, VECTOR)) == ""
    assert "1 vectors for 2" in embeddings.problem(spec(["a", "b"]), lines(VECTOR))
    assert "other than 2" in embeddings.problem(spec("a", dimensions=2), lines(VECTOR))
    assert embeddings.problem({"params": {}}, b"any text") == ""
    assert embeddings.most_bytes({"params": {}}) == 0
    assert embeddings.most_bytes(spec("a", dimensions=3)) >= len(lines(VECTOR))

"""JSON of other programs: a caller gets a value or a sentence, whatever the text is."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.documents import DocumentError, parse, parse_object


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (b"[" * 200_000, "its JSON is nested too deeply"),
        (b'{"a":' * 200_000, "its JSON is nested too deeply"),
        (b"", "it is empty"),
        (b" \n", "it is empty"),
        (b"<html><body>It works!</body></html>", "it is HTML, not JSON"),
        (b"\xef\xbb\xbf<!doctype html>", "it is HTML, not JSON"),
        (b"{not json}", "it is not JSON"),
        (b"\xff\xfe\xfd", "it is not JSON"),
        (b'{"figure": NaN}', "it is not JSON"),
        (b"9" * 5000, "it is not JSON"),
        (b'"' + b"x" * 2000 + b'"', "it is larger than 1000 bytes"),
    ],
)
def test_unusable_text_has_its_own_sentence(text: bytes, why: str) -> None:
    with pytest.raises(DocumentError) as caught:
        parse(text, 1000 if b"xx" in text else 2_000_000)
    assert str(caught.value) == why


@pytest.mark.parametrize(("text", "why"), [("null", "it is null"), ("[]", "it is not a JSON object")])
def test_document_that_must_be_an_object_is_one(text: str, why: str) -> None:
    with pytest.raises(DocumentError, match=why):
        parse_object(text)
    assert parse_object('{"a": 1}') == {"a": 1}


def test_byte_order_mark_is_not_part_of_a_document() -> None:
    assert parse(b'\xef\xbb\xbf{"a": 1}') == {"a": 1}


@given(st.binary(max_size=60) | st.text(max_size=60))
def test_any_text_is_a_value_or_a_document_error(text: bytes | str) -> None:
    with suppress(DocumentError):
        parse(text)

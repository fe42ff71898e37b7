"""Owns how the body of a request becomes a JSON object: its length, its compression, its syntax.

The greatest length follows from the limits of the fields. It knows no single RPC and no field's meaning.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Collection, Iterable
from typing import Any, NamedTuple

import orjson
from dcp.v1 import options_pb2
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from starlette.types import Receive

from gateway.edge import body_too_large, read_body
from gateway.errors import ApiError
from gateway.limits import LEAST_BODY_LIMIT

Values = dict[str, Any]
RawHeaders = Iterable[tuple[bytes, bytes]]

# One character in JSON: outside of the Basic Multilingual Plane it takes two escapes, \ud83d\ude00.
_CHARACTER_BYTES = 12
# A value's name is extra; this is for its punctuation, its indentation, and a number.
_VALUE_BYTES = 64
_CREDENTIAL_BYTES = 1024
_TEXTS = (FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES)
_GZIP = 16 + zlib.MAX_WBITS
_ENCODINGS = {b"": False, b"identity": False, b"gzip": True, b"x-gzip": True}
_LONGEST_KEY_SHOWN = 100


class BodyLimit(NamedTuple):
    """The most that a body with a message's fields can have, however its JSON is written."""

    size: int
    """Bytes."""
    values: int
    """Characters that begin or separate values; each character of a text may be one."""

    @classmethod
    def of(cls, message: Descriptor, without: Collection[str] = ()) -> BodyLimit:
        """Computes it from the limits of the fields, except of those that come from elsewhere."""
        characters, rest = _sizes(message, frozenset(without))
        most: int = message.GetOptions().Extensions[options_pb2.message].max_characters
        characters = min(characters, most or characters)
        size = characters * _CHARACTER_BYTES + rest + _CREDENTIAL_BYTES
        return cls(max(size, LEAST_BODY_LIMIT), max(characters + rest, LEAST_BODY_LIMIT))


def _sizes(
    message: Descriptor, without: frozenset[str] = frozenset(), above: tuple[Descriptor, ...] = ()
) -> tuple[int, int]:
    """The most characters of all texts of a message, and the most bytes of everything around them."""
    characters = rest = 0
    for field in message.fields:
        if field.name in without or message in above:
            continue
        rule: options_pb2.FieldRule = field.GetOptions().Extensions[options_pb2.field]
        inner, around = (rule.max_length if field.type in _TEXTS else 0), 0
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            inner = 2 * rule.max_length
        elif field.message_type is not None:
            inner, around = _sizes(field.message_type, above=(*above, message))
        count = rule.max_items if field.is_repeated else 1
        characters += count * inner
        rest += len(field.name) + count * (around + _VALUE_BYTES)
    return characters, rest


class BodyReader:
    """Reads the JSON object in a request's body."""

    def __init__(self, limit: BodyLimit, *, refuses_repeats: bool = True) -> None:
        """``refuses_repeats``: a key that stands twice in an object is an error; else the last one counts."""
        self._limit = limit
        self._refuses_repeats = refuses_repeats

    async def __call__(self, headers: RawHeaders, receive: Receive) -> Values:
        """The object; an empty body is an empty object. Raises ApiError or ClientGoneError."""
        given: dict[bytes, bytes] = {}
        for name, value in headers:
            if name in _READ_HEADERS:
                given[name] = b", ".join((given[name], value) if name in given else (value,)).strip().lower()
        encoding = given.get(b"content-encoding", b"")
        if encoding not in _ENCODINGS:
            raise _wrong_encoding()
        body = await read_body(headers, receive, self._limit.size)
        if _ENCODINGS[encoding]:
            body = self._unpacked(body)
        if len(body) > LEAST_BODY_LIMIT and sum(map(body.count, b"{[,")) > self._limit.values:
            raise ApiError(
                "BODY_TOO_LARGE", "The body has more values than a request of this route can have."
            )
        media_type = given.get(b"content-type", b"").decode("latin-1")
        return parse_object(body, media_type, refuses_repeats=self._refuses_repeats)

    def _unpacked(self, body: bytes) -> bytes:
        """The body without its compression. Unpacking stops at the limit, whatever the rest would become."""
        stream = zlib.decompressobj(_GZIP)
        try:
            whole = stream.decompress(body, self._limit.size + 1)
        except zlib.error:
            raise _bad_gzip() from None
        if len(whole) > self._limit.size:
            raise body_too_large(self._limit.size)
        if body and (stream.unused_data or not stream.eof):
            raise _bad_gzip()
        return whole


_READ_HEADERS = frozenset((b"content-encoding", b"content-type"))


def parse_object(body: bytes, media_type: str = "", *, refuses_repeats: bool = True) -> Values:
    """Parses the body as a JSON object; an empty body is an empty object. Raises ApiError.

    ``media_type`` is used only to say what a body is that is not JSON.
    """
    body = body.removeprefix(b"\xef\xbb\xbf")
    if not body:
        return {}
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise _not_json(body, media_type, error.msg) from None
    if type(value) is not dict:
        raise ApiError("MALFORMED_JSON", "The body must be a JSON object.")
    if refuses_repeats:
        _refuse_repeated_keys(body)
    return value


def _refuse_repeated_keys(body: bytes) -> None:
    """Raises INVALID_FIELD if a key stands twice in one object. orjson would use the last value."""
    try:
        _DECODER(body.decode())
    except RecursionError:
        raise ApiError("MALFORMED_JSON", "The body is nested too deeply.") from None


def _unrepeated(pairs: list[tuple[str, Any]]) -> None:
    """Checks one object, and drops it: the checked values are not used."""
    if len(pairs) > 1:
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                shown = key[:_LONGEST_KEY_SHOWN]
                raise ApiError("INVALID_FIELD", f"{shown}: it stands twice in one object.", field=shown)
            seen.add(key)


# Numbers are dropped, too: int() refuses one of more than 4,300 digits.
_DECODER: Callable[[str], Any] = json.JSONDecoder(
    object_pairs_hook=_unrepeated, parse_int=len, parse_float=len
).decode


def _not_json(body: bytes, media_type: str, what: str) -> ApiError:
    media_type = media_type.partition(";")[0].strip()
    kind = _OTHER_KINDS.get(media_type)
    if kind is not None:
        text = f"The body is {kind} ({media_type}); send JSON with Content-Type: application/json."
        return ApiError("UNSUPPORTED_MEDIA_TYPE", text)
    if body.startswith(b"\x1f\x8b"):
        text = "The body is compressed with gzip; send Content-Encoding: gzip with it."
        return ApiError("MALFORMED_JSON", text)
    if body.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in body[:4]:
        return ApiError("MALFORMED_JSON", "The body is JSON in UTF-16 or UTF-32, or not text; send UTF-8.")
    return ApiError("MALFORMED_JSON", f"The body is not JSON: {what}.")


_OTHER_KINDS = {
    "application/x-www-form-urlencoded": "a form",
    "multipart/form-data": "a form",
    "text/plain": "plain text",
}


def _wrong_encoding() -> ApiError:
    text = (
        "Content-Encoding: only gzip is accepted, once; send the body as plain JSON or compressed with gzip."
    )
    return ApiError(
        "UNSUPPORTED_MEDIA_TYPE", text, headers=[("accept-encoding", "gzip")], field="Content-Encoding"
    )


def _bad_gzip() -> ApiError:
    text = "The body is not whole gzip data, as Content-Encoding says; send all of it, or plain JSON."
    return ApiError("MALFORMED_JSON", text)

"""Owns how a single value of a field is read from JSON, a path or a query.

Readers are compiled once from field descriptors. It does not know whole messages, which `transcode`
assembles, or HTTP.
"""

from __future__ import annotations

import base64
import binascii
import math
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any, NoReturn

from dcp.v1 import options_pb2
from google.protobuf.descriptor import EnumDescriptor, FieldDescriptor

from common.json_form import DURATION, TIMESTAMP, enum_names

Reader = Callable[[Any], Any]

INT32_TYPES = frozenset(
    (FieldDescriptor.TYPE_INT32, FieldDescriptor.TYPE_SINT32, FieldDescriptor.TYPE_SFIXED32)
)
INT64_TYPES = frozenset(
    (FieldDescriptor.TYPE_INT64, FieldDescriptor.TYPE_SINT64, FieldDescriptor.TYPE_SFIXED64)
)
UINT32_TYPES = frozenset((FieldDescriptor.TYPE_UINT32, FieldDescriptor.TYPE_FIXED32))
UINT64_TYPES = frozenset((FieldDescriptor.TYPE_UINT64, FieldDescriptor.TYPE_FIXED64))
FLOAT_TYPES = frozenset((FieldDescriptor.TYPE_FLOAT, FieldDescriptor.TYPE_DOUBLE))

_FLOAT_MAX = (2 - 2**-23) * 2.0**127
_EPOCH_UTC = datetime(1970, 1, 1, tzinfo=UTC)
_RFC3339 = re.compile(
    r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d)", re.ASCII | re.IGNORECASE
)
_EARLIEST_SECONDS = -62_135_596_800  # 0001-01-01, the first day of a Timestamp
_LATEST_SECONDS = 253_402_300_799
_LONGEST_SECONDS = 315_576_000_000  # of a Duration
_INTEGER_TEXT = re.compile(r"-?[0-9]{1,20}")
# grpc-gateway reads these, and clients rely on it: Python writes True.
_BOOLEANS = {"true": True, "t": True, "1": True, "false": False, "f": False, "0": False}
_NUMBER_TEXT = re.compile(r"-?[0-9]{1,400}(\.[0-9]{1,400})?([eE][+-]?[0-9]{1,4})?")


class InvalidError(Exception):
    """A value that cannot be read. Each enclosing value adds its step to the path."""

    def __init__(self, text: str, *, code: str = "INVALID_FIELD", path: str = "") -> None:
        super().__init__(code, path)
        self.text = text
        self.code = code
        self.path = path

    def under(self, step: str) -> InvalidError:
        """The same error with ``step`` added in front of its path."""
        joint = "." if self.path and not self.path.startswith("[") else ""
        self.path = f"{step}{joint}{self.path}"
        return self


def expected(what: str, came: Any) -> InvalidError:
    """The error for a value of the wrong type."""
    return InvalidError(f"expected {what}, got {_kind(came)}")


def scalar_reader(field: FieldDescriptor) -> Reader:
    """Returns a reader of JSON values for a single item of the field."""
    if field.message_type is not None:
        return _read_timestamp if field.message_type.full_name == TIMESTAMP else _read_duration
    if field.enum_type is not None:
        return _enum_reader(field.enum_type)
    if field.type in FLOAT_TYPES:
        return _float_reader(_FLOAT_MAX if field.type == FieldDescriptor.TYPE_FLOAT else math.inf)
    if (limits := integer_limits(field)) is not None:
        return _integer_reader(*limits)
    return {
        FieldDescriptor.TYPE_BOOL: _read_bool,
        FieldDescriptor.TYPE_STRING: _read_string,
        FieldDescriptor.TYPE_BYTES: _read_bytes,
    }[field.type]


def text_reader(field: FieldDescriptor) -> Reader:
    """Returns a reader of texts from a path, a query or a map's key for the field."""
    read = scalar_reader(field)
    parse = _text_parser(field)
    return read if parse is None else lambda text: read(parse(text))


def integer_limits(field: FieldDescriptor) -> tuple[int, int] | None:
    """The least and the greatest value of an integer field; None for other fields."""
    if field.type in INT32_TYPES:
        return -(2**31), 2**31 - 1
    if field.type in INT64_TYPES:
        return -(2**63), 2**63 - 1
    if field.type in UINT32_TYPES:
        return 0, 2**32 - 1
    return (0, 2**64 - 1) if field.type in UINT64_TYPES else None


@cache
def enum_numbers(enum: EnumDescriptor) -> Mapping[str, int]:
    """The number of each name and alias. The unspecified value has no name, because it cannot be sent."""
    names = enum_names(enum)
    numbers = {names[value.number]: value.number for value in enum.values if not _is_unspecified(value)}
    for value in enum.values:
        for alias in value.GetOptions().Extensions[options_pb2.value].aliases:
            numbers[alias] = value.number
    return numbers


def _is_unspecified(value: Any) -> bool:
    return bool(value.number == 0 and value.name.endswith("UNSPECIFIED"))


def _kind(value: Any) -> str:
    """The type of a value. Errors do not quote the value, because it can be long or a secret."""
    if value is None:
        return "null"
    kinds = {bool: "a boolean", int: "an integer", float: "a number", str: "a string", list: "a list"}
    return kinds.get(type(value), "an object")


def _enum_reader(enum: EnumDescriptor) -> Reader:
    numbers = enum_numbers(enum)
    allowed = f"one of {', '.join(name for name in enum_names(enum).values() if name in numbers)}"

    def read(value: Any) -> int:
        if type(value) is not str:
            raise expected(allowed, value)
        number = numbers.get(value)
        if number is None:
            raise InvalidError(f"expected {allowed}")
        return number

    return read


def _integer_reader(least: int, greatest: int) -> Reader:
    def read(value: Any) -> int:
        if type(value) is not int:
            if type(value) is not float or not value.is_integer():
                raise expected("an integer", value)
            value = int(value)
        if not least <= value <= greatest:
            raise InvalidError(f"expected an integer from {least} to {greatest}")
        return int(value)

    return read


def _float_reader(greatest: float) -> Reader:
    def read(value: Any) -> float:
        if type(value) is not float and type(value) is not int:
            raise expected("a number", value)
        if not abs(value) <= greatest or not math.isfinite(value):
            raise InvalidError("the number is too large")
        return float(value)

    return read


def _read_bool(value: Any) -> bool:
    if type(value) is not bool:
        raise expected("true or false", value)
    return value


def _read_string(value: Any) -> str:
    if type(value) is not str:
        raise expected("a string", value)
    return value


def _read_bytes(value: Any) -> bytes:
    try:
        return base64.b64decode(_read_string(value), validate=True)
    except (binascii.Error, ValueError):
        raise InvalidError("expected bytes in base64") from None


def _read_timestamp(value: Any) -> dict[str, int]:
    match = _RFC3339.fullmatch(_read_string(value))
    try:
        moment = datetime.fromisoformat(f"{match[1]}{match[3]}".upper()) if match else None
    except ValueError:
        moment = None
    if match is None or moment is None:
        raise InvalidError("expected a time as in RFC 3339, such as 2026-01-31T12:00:00Z")
    seconds = (moment - _EPOCH_UTC) // timedelta(seconds=1)
    if not _EARLIEST_SECONDS <= seconds <= _LATEST_SECONDS:
        raise InvalidError("the time is out of range")
    return {"seconds": seconds, "nanos": int((match[2] or "0").ljust(9, "0"))}


_read_seconds = _float_reader(_LONGEST_SECONDS)


def _read_duration(value: Any) -> dict[str, int]:
    """Reads a number of seconds to the microsecond: a double cannot hold nanoseconds of a long duration."""
    _read_seconds(value)
    whole = int(value)
    micros = round((value - whole) * 1e6)
    carry = int(micros / 1e6)  # rounding can give a whole second
    return {"seconds": whole + carry, "nanos": (micros - carry * 10**6) * 1000}


def _text_parser(field: FieldDescriptor) -> Callable[[str], Any] | None:
    """Returns a function that parses a text to a JSON value; None if the text itself is the JSON value."""
    if integer_limits(field) is not None:
        return _parse_integer
    is_duration = field.message_type is not None and field.message_type.full_name == DURATION
    if field.type in FLOAT_TYPES or is_duration:
        return _parse_number
    return _parse_bool if field.type == FieldDescriptor.TYPE_BOOL else None


def _parse_integer(text: str) -> int:
    return int(text) if _INTEGER_TEXT.fullmatch(text) else _not_text_of("an integer")


def _parse_number(text: str) -> float:
    return float(text) if _NUMBER_TEXT.fullmatch(text) else _not_text_of("a number")


def _parse_bool(text: str) -> bool:
    value = _BOOLEANS.get(text.lower())
    return _not_text_of("true or false") if value is None else value


def _not_text_of(what: str) -> NoReturn:
    raise InvalidError(f"expected {what}")

"""The JSON form of messages: names of fields are kept, integers are numbers, times end with Z.

The gateway writes the API's answers with it and the server the events of webhooks, so both look the same.
Each descriptor is compiled once, so a message costs no reflection. It reads no JSON and knows no message.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from functools import cache
from typing import Any

from dcp.v1 import options_pb2
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor

Writer = Callable[[Any], Any]
Values = dict[str, Any]
"""A message as an object of JSON."""

TIMESTAMP = "google.protobuf.Timestamp"
DURATION = "google.protobuf.Duration"
WELL_KNOWN = frozenset((TIMESTAMP, DURATION))
"""Messages whose JSON form is a single value."""

_EPOCH = datetime(1970, 1, 1)


def message_writer(message: Descriptor) -> Callable[[Any], Values]:
    """Returns a function that turns a message of this type into values for `orjson.dumps`."""
    return _MessageWriter(message, {})


def object_type(field: FieldDescriptor) -> Descriptor | None:
    """The message type of a field whose JSON value is an object; None for other fields."""
    message = field.message_type
    return None if message is None or message.full_name in WELL_KNOWN else message


def map_entry(field: FieldDescriptor) -> tuple[FieldDescriptor, FieldDescriptor] | None:
    """The key and value fields of a map; None for other fields."""
    message = field.message_type
    if message is None or not message.GetOptions().map_entry:
        return None
    return message.fields_by_name["key"], message.fields_by_name["value"]


def is_cookie(field: FieldDescriptor) -> bool:
    """Whether the field is a cookie of a browser, which is no part of any JSON."""
    return bool(field.GetOptions().Extensions[options_pb2.field].cookie.name)


@cache
def enum_names(enum: EnumDescriptor) -> Mapping[int, str]:
    """The JSON name of each number of the enum."""
    prefix = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", enum.name).upper() + "_"
    upper = enum.GetOptions().Extensions[options_pb2.enum].upper_case
    names: dict[int, str] = {}
    for value in enum.values:
        name = value.name.removeprefix(prefix)
        rule = value.GetOptions().Extensions[options_pb2.value]
        names.setdefault(value.number, rule.json or (name if upper else name.lower()))
    return names


class _MessageWriter:
    """Writes messages of a type."""

    def __init__(self, message: Descriptor, writers: dict[str, _MessageWriter]) -> None:
        writers[message.full_name] = self
        self._fields = [
            (f.name, f.has_presence, _field_writer(f, writers)) for f in message.fields if not is_cookie(f)
        ]

    def __call__(self, message: Any) -> Values:
        values: Values = {}
        for name, has_presence, write in self._fields:
            if has_presence and not message.HasField(name):
                continue
            value = getattr(message, name)
            values[name] = value if write is None else write(value)
        return values


def _field_writer(field: FieldDescriptor, writers: dict[str, _MessageWriter]) -> Writer | None:
    if entry := map_entry(field):
        return _map_writer(*entry, writers)
    write = _item_writer(field, writers)
    if not field.is_repeated:
        return write
    return list if write is None else lambda values: [write(value) for value in values]


def _item_writer(field: FieldDescriptor, writers: dict[str, _MessageWriter]) -> Writer | None:
    nested = object_type(field)
    if nested is None:
        return _scalar_writer(field)
    return writers.get(nested.full_name) or _MessageWriter(nested, writers)


def _map_writer(
    key_field: FieldDescriptor, value_field: FieldDescriptor, writers: dict[str, _MessageWriter]
) -> Writer:
    """Returns a writer that sorts entries: protobuf has no order, and responses should be reproducible."""
    is_text = key_field.type == FieldDescriptor.TYPE_STRING
    write_key: Callable[[Any], str] = str if is_text else lambda key: str(key).lower()
    write = _item_writer(value_field, writers) or (lambda value: value)

    # Values are looked up by key: items() of a map of messages returns copies in some protobuf versions.
    return lambda entries: {write_key(key): write(entries[key]) for key in sorted(entries)}


def _scalar_writer(field: FieldDescriptor) -> Writer | None:
    """Returns a writer of JSON values for a single item of the field; None if it needs no conversion."""
    if field.message_type is not None:
        return _write_timestamp if field.message_type.full_name == TIMESTAMP else _write_duration
    if field.enum_type is not None:
        names = enum_names(field.enum_type)
        return lambda number: names.get(number) or str(number)
    return _write_bytes if field.type == FieldDescriptor.TYPE_BYTES else None


def _write_timestamp(value: Any) -> str:
    moment = _EPOCH + timedelta(seconds=value.seconds, microseconds=value.nanos // 1000)
    return moment.isoformat(timespec="milliseconds") + "Z"


def _write_duration(value: Any) -> float | int:
    return value.seconds + value.nanos / 1e9 if value.nanos else int(value.seconds)


def _write_bytes(value: bytes) -> str:
    return base64.b64encode(value).decode()

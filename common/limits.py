"""Makes a message fit the limits that its fields declare: the options ``(dcp.v1.field)``.

The daemon does so with all that it sends, and the server with what a machine reports about itself: one figure
that cannot be true must not cost more than itself. Each message type is compiled once. It knows no message.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import Any

from dcp.v1 import options_pb2
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

REPLACEMENT = "\ufffd"
"""Stands in place of U+0000, which no text may have."""
_FLOATS = (FieldDescriptor.TYPE_DOUBLE, FieldDescriptor.TYPE_FLOAT)
_WHOLE_NUMBERS = (
    FieldDescriptor.TYPE_INT32,
    FieldDescriptor.TYPE_INT64,
    FieldDescriptor.TYPE_UINT32,
    FieldDescriptor.TYPE_UINT64,
)
# Notes what was left out or cut: the path of the field, and why.
Faults = dict[str, str]


def fit(message: Message, path: str = "") -> Faults:
    """Changes a message so that it keeps its limits; returns what was changed, by the paths of the fields.

    A number that is out of its range or not finite is left out. A text is cut, and a list too. An item of a
    list goes if its own required field is empty or too long, because a cut name is another name. A field of
    bytes stays as it is.
    """
    faults: Faults = {}
    _fit(message, path, faults)
    return faults


@dataclass(frozen=True, slots=True)
class _Limits:
    """What one field must keep."""

    name: str
    is_list: bool
    max_items: int | None
    least: float
    most: float
    max_length: int | None
    is_required: bool
    kind: str
    """`number`, `text`, `message`, or `other`, which has no limits of its own."""


def _fit(message: Message, path: str, faults: Faults) -> bool:
    """Fits one message; False if it cannot be used, because a required text is missing or too long."""
    plan = _plan(message.DESCRIPTOR)
    for field, value in message.ListFields():
        limits = plan.get(field.number)
        if limits is None:
            continue
        where = f"{path}{limits.name}"
        if limits.is_list:
            _fit_list(value, limits, where, faults)
        elif limits.kind == "message":
            _fit(value, f"{where}.", faults)
        elif limits.kind == "number":
            if fault := _untrue(value, limits):
                message.ClearField(limits.name)
                faults[where] = fault
        elif limits.kind == "text" and (text := _cut(value, limits)) != value:
            if limits.is_required and len(text) < len(value):
                text = ""
            setattr(message, limits.name, text)
            faults[where] = _text_fault(value, limits)
    return all(
        getattr(message, limits.name).strip()
        for limits in plan.values()
        if limits.is_required and limits.kind == "text"
    )


def _fit_list(values: Any, limits: _Limits, where: str, faults: Faults) -> None:
    if limits.max_items is not None and len(values) > limits.max_items:
        faults[where] = f"has {len(values)} entries; at most {limits.max_items} are allowed"
        del values[limits.max_items :]
    # From the end, so that the positions of those before it stay.
    for at in reversed(range(len(values))):
        if not _is_good_item(values, at, limits, f"{where}[{at}]", faults):
            faults.setdefault(f"{where}[{at}]", "cannot be sent")
            del values[at]


def _is_good_item(values: Any, at: int, limits: _Limits, where: str, faults: Faults) -> bool:
    value = values[at]
    if limits.kind == "message":
        return _fit(value, f"{where}.", faults)
    fault = ""
    if limits.kind == "number":
        fault = _untrue(value, limits)
    elif limits.kind == "text" and _cut(value, limits) != value:
        fault = _text_fault(value, limits)
    if fault:
        faults[where] = fault
    return not fault


def _untrue(value: float, limits: _Limits) -> str:
    if limits.least <= value <= limits.most and math.isfinite(value):
        return ""
    return f"{value:.15g} is not from {limits.least:,.15g} to {limits.most:,.15g}"


def _cut(text: str, limits: _Limits) -> str:
    return text.replace("\0", REPLACEMENT)[: limits.max_length]


def _text_fault(text: str, limits: _Limits) -> str:
    if limits.max_length is not None and len(text) > limits.max_length:
        return f"has {len(text)} characters; at most {limits.max_length} are allowed"
    return "has the character U+0000"


@cache
def _plan(descriptor: Descriptor) -> dict[int, _Limits]:
    if not descriptor.full_name.startswith("dcp.v1."):
        return {}
    found = {field.number: _limits(field) for field in descriptor.fields}
    return {number: limits for number, limits in found.items() if limits is not None}


def _limits(field: FieldDescriptor) -> _Limits | None:
    rule = field.GetOptions().Extensions[options_pb2.field]
    kind = _kind(field)
    has_limit = rule.HasField("max_items") or kind == "text" or field.type in _FLOATS
    if not (has_limit or kind == "message" or rule.HasField("minimum") or rule.HasField("maximum")):
        return None
    return _Limits(
        name=field.name,
        is_list=field.is_repeated,
        max_items=rule.max_items if rule.HasField("max_items") else None,
        least=rule.minimum if rule.HasField("minimum") else -math.inf,
        most=rule.maximum if rule.HasField("maximum") else math.inf,
        max_length=rule.max_length if rule.HasField("max_length") else None,
        is_required=rule.required,
        kind=kind,
    )


def _kind(field: FieldDescriptor) -> str:
    if field.message_type is not None:
        return "message"
    if field.type == FieldDescriptor.TYPE_STRING:
        return "text"
    return "number" if field.type in (*_FLOATS, *_WHOLE_NUMBERS) else "other"

"""Enforces the declared limits: the options ``(dcp.v1.field)`` of a request's fields.

The limits of each message type are compiled once; a request is checked before its method sees it,
whoever sent it. Raises INVALID_FIELD with the path of the first field at fault.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import phonenumbers
from dcp.v1 import options_pb2
from email_validator import EmailNotValidError, validate_email
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from server.domain.errors import invalid_field

# Checks one value at one path.
Check = Callable[[Any, str], None]


def validate(request: Message) -> None:
    """Checks a request against every limit that its fields declare."""
    _check_message(request, "")


def _check_message(message: Message, path: str) -> None:
    for field, rule, checks, kind in _plan(message.DESCRIPTOR):
        name = rule.header or f"{path}{field.name}"
        if rule.required and not _is_present(message, field):
            raise invalid_field(name, "is required")
        if field.has_presence and not message.HasField(field.name):
            continue
        _check_field(getattr(message, field.name), field, rule, checks, kind, name)


def _check_field(
    value: Any,
    field: FieldDescriptor,
    rule: options_pb2.FieldRule,
    checks: tuple[Check, ...],
    kind: str,
    name: str,
) -> None:
    if kind == "one":
        if field.message_type is not None:
            _check_message(value, f"{name}.")
        for check in checks:
            check(value, name)
        return
    if rule.HasField("max_items") and len(value) > rule.max_items:
        raise invalid_field(name, f"has {len(value)} entries; at most {rule.max_items} are allowed")
    if kind == "map":
        for key, item in value.items():
            for check in checks:
                check(item, f"{name}.{key[:100]}")
            _check_key(key, rule, name)
        return
    for index, item in enumerate(value):
        item_name = f"{name}[{index}]"
        if field.message_type is not None:
            _check_message(item, f"{item_name}.")
        for check in checks:
            check(item, item_name)


def _check_key(key: str, rule: options_pb2.FieldRule, name: str) -> None:
    _no_nul(key, f"{name}: the key")
    if rule.HasField("max_length"):
        _max_length(rule.max_length, key, f"{name}: the key")


@functools.cache
def _plan(
    descriptor: Descriptor,
) -> tuple[tuple[FieldDescriptor, options_pb2.FieldRule, tuple[Check, ...], str], ...]:
    if not descriptor.full_name.startswith("dcp.v1."):
        return ()
    plan = []
    for field in descriptor.fields:
        rule = field.GetOptions().Extensions[options_pb2.field]
        kind = "one"
        if field.is_repeated:
            is_map = field.message_type is not None and field.message_type.GetOptions().map_entry
            kind = "map" if is_map else "list"
        entry = field.message_type if kind == "map" else None
        checked = entry.fields_by_name["value"] if entry is not None else field
        plan.append((field, rule, _checks(checked, rule), kind))
    return tuple(plan)


def _checks(field: FieldDescriptor, rule: options_pb2.FieldRule) -> tuple[Check, ...]:
    checks: list[Check] = []
    if field.type in (FieldDescriptor.TYPE_DOUBLE, FieldDescriptor.TYPE_FLOAT):
        checks.append(_finite)
    if rule.HasField("minimum"):
        checks.append(functools.partial(_minimum, rule.minimum, rule.unit))
    if rule.HasField("maximum"):
        checks.append(functools.partial(_maximum, rule.maximum, rule.unit))
    if rule.HasField("min_length"):
        checks.append(functools.partial(_min_length, rule.min_length))
    if rule.HasField("max_length"):
        checks.append(functools.partial(_max_length, rule.max_length))
    if field.type == FieldDescriptor.TYPE_STRING:
        checks.append(_no_nul)
    if rule.format == options_pb2.FORMAT_EMAIL:
        checks.append(_email)
    elif rule.format == options_pb2.FORMAT_PHONE:
        checks.append(_phone)
    return tuple(checks)


def _is_present(message: Message, field: FieldDescriptor) -> bool:
    if field.is_repeated or not field.has_presence:
        value = getattr(message, field.name)
        return bool(value.strip() if isinstance(value, str) else value)
    return bool(message.HasField(field.name))


def _finite(value: float, name: str) -> None:
    if not math.isfinite(value):
        raise invalid_field(name, "must be a finite number")


def _minimum(least: float, unit: str, value: float, name: str) -> None:
    if value < least:
        raise invalid_field(name, f"must be at least {least:,.15g}{_space(unit)}")


def _maximum(most: float, unit: str, value: float, name: str) -> None:
    if value > most:
        raise invalid_field(name, f"must be at most {most:,.15g}{_space(unit)}")


def _space(unit: str) -> str:
    return f" {unit}" if unit else ""


def _min_length(least: int, value: str, name: str) -> None:
    if len(value) < least:
        raise invalid_field(name, f"must have at least {least} characters")


def _max_length(most: int, value: str | bytes, name: str) -> None:
    if len(value) > most:
        raise invalid_field(name, f"has {len(value)} characters; at most {most} are allowed")


def _no_nul(value: str, name: str) -> None:
    if "\0" in value:
        raise invalid_field(name, "must not contain the character U+0000")


def _email(value: str, name: str) -> None:
    try:
        validate_email(value, check_deliverability=False)
    except EmailNotValidError as error:
        raise invalid_field(name, f"is no e-mail address: {error}") from None


def _phone(value: str, name: str) -> None:
    if not value:
        return
    try:
        number = phonenumbers.parse(value)
    except phonenumbers.NumberParseException:
        number = None
    if number is None or not phonenumbers.is_possible_number(number):
        raise invalid_field(name, "is no telephone number in international form, such as +966500000000")


def email_key(email: str) -> str:
    """The form of an address by which accounts are compared: normalized, without case."""
    return str(validate_email(email, check_deliverability=False).normalized).casefold()

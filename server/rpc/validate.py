"""Enforces the declared limits: the options ``(dcp.v1.field)`` of a request's fields, then `relations`.

The limits of each message type are compiled once. Every request is checked before its method runs, and
the numbers that it does not set then get the defaults of their options.
Raises INVALID_FIELD with the path of the first invalid field.
"""

from __future__ import annotations

import functools
import math
import re
import urllib.parse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

from dcp.v1 import options_pb2
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from stdnum import iban

from server.domain.errors import DomainError, invalid_field
from server.domain.mailboxes import mailbox
from server.domain.pricing import sar_micros
from server.domain.terms import DAY_MINUTES, is_timezone, minute_of, time_of_day
from server.domain.texts import check_shown, cleaned
from server.rpc import relations
from server.rpc.relations import is_present

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_RESERVED_VARIABLES = {
    "NVIDIA_": "is the provider's to set; leave it out",
    "DCP_": "is the provider's to set; leave it out",
    # The dynamic linker reads these, also that of a program of the machine which prepares the container.
    "LD_": "would also apply to programs outside the container; set it in container_spec.command",
}
_IMAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/:@-]*")
_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")
_SAUDI_IBAN = re.compile(r"SA[0-9]{22}")
_FLOATS = (FieldDescriptor.TYPE_DOUBLE, FieldDescriptor.TYPE_FLOAT)
# Checks one value at one path.
Check = Callable[[Any, str], None]


def validate(request: Message) -> None:
    """Checks a request against every limit that its fields declare, then fills in their defaults."""
    _check_message(request, "")


def drop_invalid(report: Message) -> list[str]:
    """Clears the fields of a daemon's report that break a limit, and returns their names.

    For figures that nothing depends on: one that cannot be true must not end the session that carries it.
    """
    plan, dropped = _plan(report.DESCRIPTOR), []
    for field, value in report.ListFields():
        if (found := plan.limits.get(field.number)) is None:
            continue
        try:
            _check_field(value, found, found.name)
        except DomainError:
            report.ClearField(found.name)
            dropped.append(found.name)
    return dropped


@dataclass(frozen=True, slots=True)
class _Limits:
    """The limits of one field, compiled once."""

    name: str
    field: FieldDescriptor
    rule: options_pb2.FieldRule
    checks: tuple[Check, ...]
    is_map: bool
    is_list: bool
    is_message: bool
    max_items: int | None
    clean: Callable[[str], str] | None


@dataclass(frozen=True, slots=True)
class _Plan:
    """The checks of one message type (its required fields, the limits by field number, the relations) and
    the defaults by field name."""

    required: tuple[_Limits, ...]
    limits: dict[int, _Limits]
    relations: tuple[relations.Check, ...] = ()
    defaults: tuple[tuple[str, float], ...] = ()
    max_characters: int = 0


def _check_message(message: Message, path: str) -> None:
    plan = _plan(message.DESCRIPTOR)
    for limits in plan.required:
        if not is_present(message, limits.field):
            raise invalid_field(limits.rule.header or f"{path}{limits.name}", "is required")
    for field, value in message.ListFields():
        if (found := plan.limits.get(field.number)) is not None:
            if found.clean is not None:
                value = _clean(message, found)
            _check_field(value, found, found.rule.header or f"{path}{found.name}")
    if plan.max_characters:
        _check_characters(message, path, plan.max_characters)
    for check in plan.relations:
        check(message, path)
    for name, default in plan.defaults:
        if not message.HasField(name):
            setattr(message, name, default)


def _check_characters(message: Message, path: str, most: int) -> None:
    """Refuses texts that are too long together; the error names the field with the most of them."""
    counts = {field.name: _characters(value) for field, value in message.ListFields()}
    if (total := sum(counts.values())) > most:
        longest = max(counts, key=lambda name: counts[name])
        raise invalid_field(
            f"{path}{longest}",
            f"all texts of the request have {total} characters together; at most {most} are allowed",
        )


def _characters(value: Any) -> int:
    """The number of characters of all texts in a value of a field."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, Message):
        return sum(_characters(inner) for _, inner in value.ListFields())
    if isinstance(value, Mapping):
        return sum(len(key) + _characters(item) for key, item in value.items())
    return sum(map(_characters, value)) if isinstance(value, Sequence) else 0


def _clean(message: Message, limits: _Limits) -> Any:
    """Cleans the field's texts in the message, which a daemon reported; returns the field's value."""
    assert limits.clean is not None
    value = getattr(message, limits.name)
    clean = [limits.clean(item) for item in value] if limits.is_list else limits.clean(value)
    if limits.is_list and clean != list(value):
        del value[:]
        value.extend(clean)
    elif not limits.is_list and clean != value:
        setattr(message, limits.name, clean)
    return clean


def _check_field(value: Any, limits: _Limits, name: str) -> None:
    if limits.max_items is not None and len(value) > limits.max_items:
        raise invalid_field(name, f"has {len(value)} entries; at most {limits.max_items} are allowed")
    if limits.is_map:
        for key, item in value.items():
            _check_key(key, limits.rule, name)
            _check_value(item, limits, f"{name}.{key[:100]}")
    elif limits.is_list:
        for index, item in enumerate(value):
            _check_value(item, limits, f"{name}[{index}]")
    else:
        _check_value(value, limits, name)


def _check_value(value: Any, limits: _Limits, name: str) -> None:
    if limits.is_message:
        _check_message(value, f"{name}.")
    for check in limits.checks:
        check(value, name)


def _check_key(key: str, rule: options_pb2.FieldRule, name: str) -> None:
    _no_nul(key, f"{name}: the key")
    if rule.HasField("max_length"):
        _max_length(rule.max_length, key, f"{name}: the key")
    if rule.key_format:
        _FORMATS[rule.key_format](key, f"{name}.{key[:100]}")


@functools.cache
def _plan(descriptor: Descriptor) -> _Plan:
    if not descriptor.full_name.startswith("dcp.v1."):
        return _Plan((), {})
    limits = [_limits(field) for field in descriptor.fields]
    useful = {each.field.number: each for each in limits if each.checks or each.is_message or each.max_items}
    required = tuple(each for each in limits if each.rule.required)
    defaults = tuple((each.name, _default(each)) for each in limits if each.rule.HasField("default"))
    most = descriptor.GetOptions().Extensions[options_pb2.message].max_characters
    return _Plan(required, useful, relations.relation_checks(descriptor), defaults, most)


def _default(limits: _Limits) -> float:
    """The default in the type of its field: the option holds a double, and an integer field refuses one."""
    is_float = limits.field.type in _FLOATS
    return limits.rule.default if is_float else int(limits.rule.default)


def _limits(field: FieldDescriptor) -> _Limits:
    rule = field.GetOptions().Extensions[options_pb2.field]
    message = field.message_type
    is_map = message is not None and message.GetOptions().map_entry
    checked = message.fields_by_name["value"] if message is not None and is_map else field
    return _Limits(
        name=field.name,
        field=field,
        rule=rule,
        checks=_checks(checked, rule),
        is_map=is_map,
        is_list=field.is_repeated and not is_map,
        is_message=message is not None and not is_map,
        max_items=rule.max_items if rule.HasField("max_items") else None,
        clean=_CLEANERS.get(rule.shown),
    )


def _checks(field: FieldDescriptor, rule: options_pb2.FieldRule) -> tuple[Check, ...]:
    checks: list[Check] = []
    if field.type in _FLOATS:
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
        if rule.header:
            checks.append(_not_blank)
    if rule.shown in _SHOWN:
        checks.append(_SHOWN[rule.shown])
    if rule.format:
        checks.append(_FORMATS[rule.format])
    if rule.values:
        checks.append(functools.partial(_one_of, tuple(rule.values)))
    return tuple(checks)


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


def _not_blank(value: str, name: str) -> None:
    if not value.strip():
        raise invalid_field(name, "is blank; send a value, or leave the header out")


def _email(value: str, name: str) -> None:
    from email_validator import EmailNotValidError, validate_email  # here, as it takes long to load

    try:
        validate_email(value, check_deliverability=False)
    except EmailNotValidError as error:
        raise invalid_field(name, f"is not an e-mail address: {error}") from None


def _phone(value: str, name: str) -> None:
    if not value:
        return
    import phonenumbers  # here, as its tables take long to load

    try:
        number = phonenumbers.parse(value)
    except phonenumbers.NumberParseException:
        number = None
    if number is None or not phonenumbers.is_possible_number(number):
        raise invalid_field(name, "is not a telephone number in international form, such as +966500000000")


def _iban(value: str, name: str) -> None:
    compact = compact_iban(value)
    if _SAUDI_IBAN.fullmatch(compact) is None:
        raise invalid_field(name, "must be a Saudi IBAN: SA and 22 digits")
    if not iban.is_valid(compact, check_country=False):
        raise invalid_field(name, "has wrong check digits; check it for typing errors")


def _uri(value: str, name: str) -> None:
    try:
        host = urllib.parse.urlsplit(value).hostname
    except ValueError:
        host = None
    if not host:
        raise invalid_field(name, "is not a URL; send one such as https://renter.example/events")


def _image(value: str, name: str) -> None:
    if value and _IMAGE.fullmatch(value) is None:
        raise invalid_field(name, "must be a name with a tag or a digest, such as ghcr.io/acme/trainer:1.4")


def _variable_name(value: str, name: str) -> None:
    if _VARIABLE.fullmatch(value) is None:
        raise invalid_field(name, "is not the name of a variable: letters, digits and underscores")
    for start, why in _RESERVED_VARIABLES.items():
        if value.upper().startswith(start):
            raise invalid_field(name, why)


def _timezone(value: str, name: str) -> None:
    if value and not is_timezone(value):
        raise invalid_field(name, "is not an IANA time zone; send a name such as Asia/Riyadh")


def _time_of_day(last: int, value: str, name: str) -> None:
    try:
        good = minute_of(value) <= last
    except ValueError:
        good = False
    if not good:
        raise invalid_field(name, f"must be a time of day such as 08:00, from 00:00 to {time_of_day(last)}")


def _date(value: str, name: str) -> None:
    # An empty text is the same as leaving the field out; other forms of ISO 8601 are not allowed.
    try:
        is_date = not value or date.fromisoformat(value).isoformat() == value
    except ValueError:
        is_date = False
    if not is_date:
        raise invalid_field(name, "must be a date such as 2026-01-31")


def _sar(value: str, name: str) -> None:
    try:
        if value:
            sar_micros(value)
    except ValueError as error:
        raise invalid_field(name, str(error)) from None


def _file_name(value: str, name: str) -> None:
    if _FILE_NAME.fullmatch(value) is None:
        rule = (
            "must be 1 to 100 letters, digits, dots, dashes and underscores, not beginning with a dot or dash"
        )
        raise invalid_field(name, rule)


def _one_of(values: tuple[str, ...], value: str, name: str) -> None:
    if value not in values:
        raise invalid_field(name, f"must be one of: {', '.join(values)}")


def compact_iban(text: str) -> str:
    """An IBAN as it is stored: without spaces, in capitals."""
    return "".join(text.split()).upper()


def mailbox_of(email: str) -> str:
    """The mailbox of a valid address, by which accounts are compared."""
    from email_validator import validate_email

    return mailbox(str(validate_email(email, check_deliverability=False).normalized))


_SHOWN: Mapping[int, Check] = {
    # Blanks and line ends around a line are removed where it is stored.
    options_pb2.SHOWN_LINE: lambda text, name: check_shown(text.strip(), name),
    options_pb2.SHOWN_LINES: functools.partial(check_shown, lines=True),
}
_CLEANERS: Mapping[int, Callable[[str], str]] = {
    options_pb2.SHOWN_REPORTED_LINE: cleaned,
    options_pb2.SHOWN_REPORTED_LINES: functools.partial(cleaned, lines=True),
}
_FORMATS: Mapping[int, Check] = {
    options_pb2.FORMAT_EMAIL: _email,
    options_pb2.FORMAT_PHONE: _phone,
    options_pb2.FORMAT_IBAN: _iban,
    options_pb2.FORMAT_URI: _uri,
    options_pb2.FORMAT_IMAGE: _image,
    options_pb2.FORMAT_FILE_NAME: _file_name,
    options_pb2.FORMAT_VARIABLE_NAME: _variable_name,
    options_pb2.FORMAT_TIMEZONE: _timezone,
    options_pb2.FORMAT_DATE: _date,
    options_pb2.FORMAT_SAR: _sar,
    options_pb2.FORMAT_TIME_OF_DAY: functools.partial(_time_of_day, DAY_MINUTES - 1),
    options_pb2.FORMAT_END_OF_HOURS: functools.partial(_time_of_day, DAY_MINUTES),
}

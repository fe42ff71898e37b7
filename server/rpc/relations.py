"""Enforces the relations between the fields of a message, which the option ``(dcp.v1.message)`` declares.

They are compiled once for each message type; `validate` checks them after the limits of the fields.
Raises INVALID_FIELD with the path of the first invalid field.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from dcp.v1 import options_pb2
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from server.domain.errors import invalid_field

# Checks a message; the path is the prefix of its fields' names in errors.
Check = Callable[[Message, str], None]
_Steps = tuple[FieldDescriptor, ...]


def is_present(message: Message, field: FieldDescriptor) -> bool:
    """Whether a field is set, and is not a blank text or an empty list."""
    value = getattr(message, field.name)
    if field.is_repeated or not field.has_presence:
        return bool(value.strip() if isinstance(value, str) else value)
    return bool(message.HasField(field.name))


def relation_checks(descriptor: Descriptor) -> tuple[Check, ...]:
    """The checks of all relations of a message type. Raises KeyError if one names an unknown field."""
    rule: options_pb2.MessageRule = descriptor.GetOptions().Extensions[options_pb2.message]
    return tuple(_check(descriptor, relation) for relation in rule.relations)


def _check(descriptor: Descriptor, relation: options_pb2.Relation) -> Check:
    holds = _condition(descriptor, relation)
    because = _because(relation)
    required = [(path, _steps(descriptor, path)) for path in relation.required]
    rivals = [(path, _steps(descriptor, path)) for path in relation.exactly_one]

    def check(message: Message, path: str) -> None:
        if not holds(message):
            return
        for name, steps in required:
            if not _is_there(message, steps):
                raise invalid_field(f"{path}{name}", f"is required {because}".rstrip())
        if rivals:
            _exactly_one([name for name, steps in rivals if _is_there(message, steps)], path)

    def _exactly_one(found: Sequence[str], path: str) -> None:
        names = [f"{path}{name}" for name, _ in rivals]
        if not found:
            raise invalid_field(names[0], f"one of {', '.join(names)} is required {because}".rstrip())
        if len(found) > 1:
            raise invalid_field(f"{path}{found[1]}", f"send only one of {', '.join(names)}")

    return check


def _condition(descriptor: Descriptor, relation: options_pb2.Relation) -> Callable[[Message], bool]:
    if not relation.when_field:
        return lambda _: True
    steps = _steps(descriptor, relation.when_field)
    if not relation.when_value:
        return lambda message: _is_there(message, steps)
    enum = steps[-1].enum_type
    assert enum is not None, f"{relation.when_field} is not an enum"
    number = enum.values_by_name[relation.when_value].number
    return lambda message: _value(message, steps) == number


def _because(relation: options_pb2.Relation) -> str:
    if not relation.when_field:
        return ""
    return f"with this {relation.when_field}" if relation.when_value else f"with {relation.when_field}"


def _steps(descriptor: Descriptor, path: str) -> _Steps:
    steps: list[FieldDescriptor] = []
    inner: Descriptor | None = descriptor
    for name in path.split("."):
        assert inner is not None, f"{path} goes through a field that is not a message"
        steps.append(inner.fields_by_name[name])
        inner = steps[-1].message_type
    return tuple(steps)


def _is_there(message: Message, steps: _Steps) -> bool:
    *parents, field = steps
    for parent in parents:
        if not message.HasField(parent.name):
            return False
        message = getattr(message, parent.name)
    return is_present(message, field)


def _value(message: Message, steps: _Steps) -> Any:
    value: Any = message
    for field in steps:
        value = getattr(value, field.name)
    return value

"""Owns how the OpenAPI document expresses conditions between the fields of a message.

They come from the relations in the option ``(dcp.v1.message)``, which the server enforces. For a body they
are expressed in JSON Schema. OpenAPI cannot express them for parameters, so these carry ``x-needs``, or
``x-needs-by-value`` if they hold for one value.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dcp.v1 import options_pb2
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from common.json_form import enum_names

Json = dict[str, Any]

NOT_BLANK = {"pattern": r"\S"}
"""The schema of a text that counts as present."""


def body_conditions(message: Descriptor) -> Json:
    """The keywords of an object's schema for its relations; empty without relations.

    They stand under `then`, which generators of clients skip: an `allOf` of conditions breaks them.
    """
    conditions = [_condition(message, relation) for relation in _relations(message)]
    return {"if": {}, "then": {"allOf": conditions}} if conditions else {}


def parameter_needs(message: Descriptor) -> Mapping[str, list[str]]:
    """The parameters that each parameter requires, by its name."""
    return {r.when_field: list(r.required) for r in _relations(message) if r.when_field and not r.when_value}


def needs_of_values(message: Descriptor) -> Mapping[str, Mapping[str, list[str]]]:
    """The parameters that single values of an enum parameter require, by its name."""
    found: dict[str, dict[str, list[str]]] = {}
    for relation in _relations(message):
        if relation.when_value:
            (value,) = _value_names(message, relation)
            found.setdefault(relation.when_field, {})[value] = list(relation.required)
    return found


def _relations(message: Descriptor) -> list[options_pb2.Relation]:
    rule: options_pb2.MessageRule = message.GetOptions().Extensions[options_pb2.message]
    return list(rule.relations)


def _condition(message: Descriptor, relation: options_pb2.Relation) -> Json:
    then = [_there(message, path.split(".")) for path in relation.required]
    if relation.exactly_one:
        then.append({"oneOf": [_there(message, path.split(".")) for path in relation.exactly_one]})
    holds: Json = {"allOf": then}
    return {"if": _when(message, relation), "then": holds} if relation.when_field else holds


def _when(message: Descriptor, relation: options_pb2.Relation) -> Json:
    if not relation.when_value:
        return _there(message, relation.when_field.split("."))
    names = _value_names(message, relation)
    return {"properties": {relation.when_field: {"enum": names}}, "required": [relation.when_field]}


def _value_names(message: Descriptor, relation: options_pb2.Relation) -> list[str]:
    enum = message.fields_by_name[relation.when_field].enum_type
    assert enum is not None, f"{relation.when_field} is not an enum"
    return [enum_names(enum)[enum.values_by_name[relation.when_value].number]]


def _there(message: Descriptor, steps: list[str]) -> Json:
    """The schema of an object in which the field at the path is present."""
    field, *deeper = steps
    found = message.fields_by_name[field]
    if deeper and found.message_type is not None:
        inner = {"type": "object"} | _there(found.message_type, deeper)
    else:
        inner = _present(found)
    return {"properties": {field: inner}, "required": [field]}


def _present(field: FieldDescriptor) -> Json:
    if field.is_repeated:
        return {"type": "array", "minItems": 1}
    if field.type == FieldDescriptor.TYPE_STRING:
        return {"type": "string"} | NOT_BLANK
    if field.has_presence:
        return {"not": {"type": "null"}}
    return {"const": True} if field.type == FieldDescriptor.TYPE_BOOL else {"not": {"enum": [None, 0, "0"]}}

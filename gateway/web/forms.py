"""Owns what the form of the reference needs to know of the API: requests without their texts, and no answers.

It is a part of the OpenAPI document, in its form, a fifth as long.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import orjson

Json = dict[str, Any]

_KEPT = ("summary", "x-roles", "parameters", "requestBody")
_REFERENCE = re.compile(rb'"#/components/schemas/(\w+)"')


def form_document(api: Json) -> Json:
    """The paths with their parameters and bodies, and the schemas that these refer to."""
    paths = {
        path: {
            verb: {name: value for name, value in operation.items() if name in _KEPT}
            for verb, operation in item.items()
        }
        for path, item in api["paths"].items()
    }
    schemas = api["components"]["schemas"]
    wanted, found = list(_references(paths)), {}
    while wanted:
        name = wanted.pop()
        if name not in found:
            found[name] = _without_texts(schemas[name])
            wanted += _references(found[name])
    return {"paths": paths, "components": {"schemas": found}}


def _references(part: Any) -> Iterator[str]:
    for name in _REFERENCE.findall(orjson.dumps(part)):
        yield name.decode()


def _without_texts(schema: Any) -> Any:
    """A schema without descriptions; a property of that name is a schema itself, and stays."""
    if isinstance(schema, list):
        return [_without_texts(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        name: _without_texts(value)
        for name, value in schema.items()
        if name != "description" or isinstance(value, dict)
    }

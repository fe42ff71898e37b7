"""Owns how JSON becomes models. It is open: what is newer than the client is kept and breaks nothing.

A field that is missing has the value that the API leaves out: nothing, zero, or an empty list. Amounts in SAR
are Decimal, amounts in halala are int, times are aware datetimes. It knows no model by name and no HTTP.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime
from decimal import Decimal, InvalidOperation
from typing import Any, Callable, ClassVar, TypeVar

M = TypeVar("M", bound="Model")

_MODELS: dict[str, type[Model]] = {}


class MalformedError(ValueError):
    """An answer is not what the API answers."""


@dataclass(frozen=True, eq=False, repr=False)
class Model:
    """An object of the API. ``raw`` is all of it as JSON, with fields that this client does not know."""

    raw: Mapping[str, Any] = field(default_factory=dict)
    KINDS: ClassVar[Mapping[str, str]] = {}
    """How values that are more than plain JSON are read, by field."""

    def __init_subclass__(cls) -> None:
        _MODELS[cls.__name__] = cls

    # Here once: generated for each of the models, they would take half of the time of the import.
    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and _values(self) == _values(other)

    def __hash__(self) -> int:
        return hash((type(self), repr(_values(self))))

    def __repr__(self) -> str:
        there = ", ".join(f"{name}={value!r}" for name, value in _values(self).items() if value)
        return f"{type(self).__name__}({there})"

    @classmethod
    def from_json(cls: type[M], values: Any) -> M:
        """The model of an object of JSON. Raises MalformedError."""
        if not isinstance(values, dict):
            raise MalformedError(f"{cls.__name__}: the answer is not a JSON object")
        known = {name: values[name] for name in _names(cls) if values.get(name) is not None}
        for name, kind in cls.KINDS.items():
            if name in known:
                known[name] = _read(f"{cls.__name__}.{name}", kind, known[name])
        return cls(raw=values, **known)


def loads(text: bytes) -> Any:
    """The value of a JSON text. Raises MalformedError."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise MalformedError("the answer is not JSON") from error


def _values(model: Any) -> dict[str, Any]:
    return {name: getattr(model, name) for name in _names(type(model))}


def _names(model: type[Model]) -> Any:
    return (each.name for each in fields(model) if each.name != "raw")


def _read(name: str, kind: str, value: Any) -> Any:
    container, _, item = kind.partition(" ")
    if not item:
        return _read_one(name, kind, value)
    if container == "list" and isinstance(value, list):
        return [_read_one(name, item, each) for each in value]
    if container == "map" and isinstance(value, dict):
        return {key: _read_one(name, item, each) for key, each in value.items()}
    raise MalformedError(f"{name}: the value is not a {container}")


def _read_one(name: str, kind: str, value: Any) -> Any:
    reader: Callable[[Any], Any] | None = _READERS.get(kind)
    try:
        return reader(value) if reader else _MODELS[kind].from_json(value)
    except (ValueError, TypeError, AttributeError, InvalidOperation) as error:
        raise MalformedError(f"{name}: {error}") from error


def _plain(value: Any) -> Any:
    return value


# Python 3.9 reads no Z.
_READERS: Mapping[str, Callable[[Any], Any]] = {
    "plain": _plain,
    "time": lambda text: datetime.fromisoformat(text.replace("Z", "+00:00")),
    "sar": lambda text: Decimal(text) if text else None,
}

"""Owns the reading of protobuf messages from JSON and queries; `common.json_form` writes them.

Each descriptor is compiled once, so a request costs no reflection. Field names are kept, integers are
JSON numbers, and unknown names are refused. It does not know HTTP or the limits of fields, which the
server enforces.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from itertools import chain
from typing import Any, NamedTuple

from dcp.v1 import options_pb2
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from common.json_form import map_entry, object_type
from common.nearest import nearest
from gateway.errors import ApiError
from gateway.scalars import InvalidError, Reader, expected, scalar_reader, text_reader

Values = dict[str, Any]
"""Fields of a message by name, as keyword arguments of its class."""

_LONGEST_NAME_SHOWN = 100


def body_reader(message: Descriptor, without: Collection[str] = ()) -> Callable[[Values], Values]:
    """Returns a reader of JSON objects. It refuses the fields in ``without``, which come from elsewhere."""
    return _reported(_MessageReader(message, {}, without))


def query_reader(
    message: Descriptor, without: Collection[str] = ()
) -> Callable[[Mapping[str, list[str]]], Values]:
    """Returns a reader of queries. The names of nested fields are joined with dots."""
    plan = {name: _QueryField.of(path) for name, path in query_fields(message, without).items()}

    def read(query: Mapping[str, list[str]]) -> Values:
        values: Values = {}
        for name, texts in query.items():
            field = plan.get(name)
            if field is None:
                raise _unknown(name, next(iter(nearest(name, plan)), ""))
            field.put(values, name, texts)
        return values

    return _reported(read)


def query_fields(
    message: Descriptor, without: Collection[str] = ()
) -> dict[str, tuple[FieldDescriptor, ...]]:
    """The fields that a query can carry, by name: for each, its path of fields from the message."""
    return {".".join(field.name for field in path): path for path in _leaves(message, without)}


def single_text_reader(field: FieldDescriptor, name: str) -> Callable[[str], Any]:
    """Returns a reader of a path field or a header. Errors call it ``name``."""
    read = text_reader(field)

    def read_named(text: str) -> Any:
        try:
            return read(text)
        except InvalidError as error:
            raise error.under(name) from None

    return _reported(read_named)


def _reported(read: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Wraps ``read`` so that its errors become errors of the API."""

    def read_or_refuse(value: Any) -> Any:
        try:
            return read(value)
        except InvalidError as error:
            end = "" if error.text.endswith("?") else "."
            raise ApiError(error.code, f"{error.path}: {error.text}{end}", field=error.path) from None
        except RecursionError:
            raise ApiError("MALFORMED_JSON", "The body is nested too deeply.") from None

    return read_or_refuse


class _MessageReader:
    """Reads a JSON object into the fields of a message type."""

    def __init__(
        self, message: Descriptor, readers: dict[str, _MessageReader], without: Collection[str] = ()
    ) -> None:
        if not without:
            readers[message.full_name] = self  # before its fields, which can have the same type
        self._message = message
        self._ignore_unknown = message.GetOptions().Extensions[options_pb2.message].ignore_unknown_fields
        self._fields = {f.name: _field_reader(f, readers) for f in message.fields if f.name not in without}
        self._rivals = {f.name: oneof for f in message.fields if (oneof := _oneof(f))}

    def __call__(self, value: Any) -> Values:
        if type(value) is not dict:
            raise expected("an object", value)
        values: Values = {}
        for name, item in value.items():
            read = self._fields.get(name)
            if read is None:
                if self._ignore_unknown:
                    continue
                raise _unknown(name, self._meant(name))
            if item is not None:
                try:
                    values[name] = read(item)
                except InvalidError as error:
                    raise error.under(name) from None
        if self._rivals:
            self._refuse_rivals(values)
        return values

    def _meant(self, name: str) -> str:
        """The field that an unknown name probably stands for: one deeper in the message, or a close name."""
        return next(chain(_deeper(self._message, name), nearest(name, self._fields)), "")

    def _refuse_rivals(self, values: Values) -> None:
        chosen: dict[str, str] = {}
        for name in values:
            oneof = self._rivals.get(name)
            if oneof and chosen.setdefault(oneof, name) != name:
                raise InvalidError(
                    f"it excludes {chosen[oneof]}, which is also set; send only one", path=name
                )


class _QueryField(NamedTuple):
    parents: tuple[str, ...]
    name: str
    read: Reader
    is_repeated: bool

    @classmethod
    def of(cls, path: tuple[FieldDescriptor, ...]) -> _QueryField:
        *parents, field = path
        return cls(tuple(f.name for f in parents), field.name, text_reader(field), field.is_repeated)

    def put(self, values: Values, full_name: str, texts: list[str]) -> None:
        """Reads the texts and sets the field inside its parents."""
        if not self.is_repeated and len(texts) > 1:
            raise InvalidError("it is given more than once", path=full_name)
        try:
            read = [self.read(text) for text in texts]
        except InvalidError as error:
            raise error.under(full_name) from None
        for parent in self.parents:
            values = values.setdefault(parent, {})
        values[self.name] = read if self.is_repeated else read[0]


def _leaves(
    message: Descriptor, without: Collection[str] = (), above: tuple[FieldDescriptor, ...] = ()
) -> Iterable[tuple[FieldDescriptor, ...]]:
    """The paths to all fields that a query can carry. Lists of messages, maps and recursion are left out."""
    for field in message.fields:
        path = (*above, field)
        if field.name in without:
            continue
        nested = object_type(field)
        if nested is None:
            yield path
        elif not field.is_repeated and all(f.containing_type != nested for f in path):
            yield from _leaves(nested, above=path)


def _deeper(message: Descriptor, name: str, above: tuple[Descriptor, ...] = ()) -> Iterator[str]:
    """The paths of the fields with this name in the messages inside a message."""
    for field in message.fields:
        nested = object_type(field)
        if nested is None or field.is_repeated or nested in above:
            continue
        if name in nested.fields_by_name:
            yield f"{field.name}.{name}"
        for path in _deeper(nested, name, (*above, message)):
            yield f"{field.name}.{path}"


def _oneof(field: FieldDescriptor) -> str:
    """The name of the field's oneof; empty if it has none, or only the hidden one of an optional field."""
    oneof = field.containing_oneof
    return oneof.name if oneof is not None and len(oneof.fields) > 1 else ""


def _unknown(name: str, meant: str) -> InvalidError:
    question = f"; did you mean {meant}?" if meant else ""
    return InvalidError(
        f"there is no such field{question}", code="UNKNOWN_FIELD", path=name[:_LONGEST_NAME_SHOWN] or '""'
    )


def _field_reader(field: FieldDescriptor, readers: dict[str, _MessageReader]) -> Reader:
    if entry := map_entry(field):
        return _map_reader(*entry, readers)
    read = _item_reader(field, readers)
    return _list_reader(read) if field.is_repeated else read


def _item_reader(field: FieldDescriptor, readers: dict[str, _MessageReader]) -> Reader:
    nested = object_type(field)
    if nested is None:
        return scalar_reader(field)
    return readers.get(nested.full_name) or _MessageReader(nested, readers)


def _list_reader(read_item: Reader) -> Reader:
    def read(value: Any) -> list[Any]:
        if type(value) is not list:
            raise expected("a list", value)
        index = 0
        items = []
        try:
            for index, item in enumerate(value):  # noqa: B007
                items.append(read_item(item))
        except InvalidError as error:
            raise error.under(f"[{index}]") from None
        return items

    return read


def _map_reader(
    key_field: FieldDescriptor, value_field: FieldDescriptor, readers: dict[str, _MessageReader]
) -> Reader:
    read_key = text_reader(key_field)
    read_item = _item_reader(value_field, readers)

    def read(value: Any) -> dict[Any, Any]:
        if type(value) is not dict:
            raise expected("an object", value)
        items = {}
        for key, item in value.items():
            try:
                items[read_key(key)] = read_item(item)
            except InvalidError as error:
                raise error.under(key[:_LONGEST_NAME_SHOWN]) from None
        return items

    return read

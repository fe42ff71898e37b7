"""Owns what a model file in the format GGUF says of its model: whether it was made for embeddings, and what
a context takes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

_MAGIC = b"GGUF"
_POOLING = ".pooling_type"
# The types of values, as struct writes them; 8 is a text, 9 a list.
_FORMS = {
    0: "<B",
    1: "<b",
    2: "<H",
    3: "<h",
    4: "<I",
    5: "<i",
    6: "<f",
    7: "<?",
    10: "<Q",
    11: "<q",
    12: "<d",
}
_TEXT, _LIST = 8, 9
_MAX_ENTRIES = 10_000
_MAX_KEY = 65_536
_MAX_LAYERS = 1024
_CACHE_BYTES = 2
"""Of each number of the context, as llama.cpp keeps it."""
_FAULTS = (OSError, struct.error, ValueError, KeyError, OverflowError)


@dataclass(frozen=True)
class Shape:
    """What a file says of its model."""

    architecture: str
    context_tokens: int
    """The longest context that it was made for; 0: it does not say."""
    bytes_per_token: int
    """What one token of a context takes of the memory; 0: it does not say enough."""
    pools: bool
    """Whether it was made for embeddings and says how."""


def has_pooling(path: Path) -> bool:
    """Whether the model was made for embeddings and says how; False also for a file that cannot be read."""
    try:
        with path.open("rb") as file:
            return any(key.endswith(_POOLING) for key, _ in _entries(file))
    except _FAULTS:
        return False


def is_gguf(path: Path) -> bool:
    """Whether the file begins as one of this format does."""
    with path.open("rb") as file:
        return file.read(4) == _MAGIC


def shape(path: Path) -> Shape | None:
    """What the file says; None: it says nothing, or the part of it that is there ends too early."""
    try:
        with path.open("rb") as file:
            said = dict(_entries(file))
    except _FAULTS:
        return None
    architecture = str(said.get("general.architecture") or "")

    def number(name: str) -> int:
        value = said.get(f"{architecture}.{name}")
        return value if isinstance(value, int) and value > 0 else 0

    heads = number("attention.head_count")
    usual = number("embedding_length") // heads if heads else 0
    kept = (number("attention.key_length") or usual) + (number("attention.value_length") or usual)
    layers = min(number("block_count"), _MAX_LAYERS)
    return Shape(
        architecture,
        number("context_length"),
        layers * (number("attention.head_count_kv") or heads) * kept * _CACHE_BYTES,
        any(key.endswith(_POOLING) for key in said),
    )


def _entries(file: BinaryIO) -> Iterator[tuple[str, Any]]:
    """What the file says, a list as None."""
    if file.read(4) != _MAGIC:
        return
    _, _, entries = struct.unpack("<IQQ", file.read(20))
    for _ in range(min(entries, _MAX_ENTRIES)):
        key = _text(file).decode(errors="replace")
        yield key, _value(file, _number(file, "<I"))


def _value(file: BinaryIO, kind: int) -> Any:
    if kind in _FORMS:
        return struct.unpack(_FORMS[kind], file.read(struct.calcsize(_FORMS[kind])))[0]
    if kind != _TEXT:
        return _skip(file, kind)
    length = _number(file, "<Q")
    if length > _MAX_KEY:
        file.seek(length, 1)
        return None
    return file.read(length).decode(errors="replace")


def _skip(file: BinaryIO, kind: int) -> None:
    if kind == _TEXT:
        file.seek(_number(file, "<Q"), 1)
    elif kind == _LIST:
        inner, count = _number(file, "<I"), _number(file, "<Q")
        if inner in _FORMS:
            file.seek(struct.calcsize(_FORMS[inner]) * count, 1)
        else:
            for _ in range(count):
                _skip(file, inner)
    else:
        file.seek(struct.calcsize(_FORMS[kind]), 1)


def _text(file: BinaryIO) -> bytes:
    length = _number(file, "<Q")
    if length > _MAX_KEY:
        raise ValueError("no key is so long")
    return file.read(length)


def _number(file: BinaryIO, form: str) -> int:
    (number,) = struct.unpack(form, file.read(struct.calcsize(form)))
    return int(number)

"""Owns what a model file in the format GGUF says of its model: whether it was made for embeddings."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO

_MAGIC = b"GGUF"
_POOLING = b".pooling_type"
# The sizes of the types of values; 8 is a text, 9 a list.
_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_TEXT, _LIST = 8, 9
_MAX_ENTRIES = 10_000
_MAX_KEY = 65_536


def has_pooling(path: Path) -> bool:
    """Whether the model was made for embeddings and says how; False also for a file that cannot be read."""
    try:
        with path.open("rb") as file:
            return _has_pooling(file)
    except (OSError, struct.error, ValueError, KeyError):
        return False


def _has_pooling(file: BinaryIO) -> bool:
    if file.read(4) != _MAGIC:
        return False
    _, _, entries = struct.unpack("<IQQ", file.read(20))
    for _ in range(min(entries, _MAX_ENTRIES)):
        key = _text(file)
        kind = _number(file, "<I")
        if key.endswith(_POOLING):
            return True
        _skip(file, kind)
    return False


def _skip(file: BinaryIO, kind: int) -> None:
    if kind == _TEXT:
        file.seek(_number(file, "<Q"), 1)
    elif kind == _LIST:
        inner, count = _number(file, "<I"), _number(file, "<Q")
        if inner in _SIZES:
            file.seek(_SIZES[inner] * count, 1)
        else:
            for _ in range(count):
                _skip(file, inner)
    else:
        file.seek(_SIZES[kind], 1)


def _text(file: BinaryIO) -> bytes:
    length = _number(file, "<Q")
    if length > _MAX_KEY:
        raise ValueError("no key is so long")
    return file.read(length)


def _number(file: BinaryIO, form: str) -> int:
    (number,) = struct.unpack(form, file.read(struct.calcsize(form)))
    return int(number)

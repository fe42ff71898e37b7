"""Copies of a GGUF file that are worse: with fewer layers, or with fewer bits. For calibration only."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY, _UINT32 = 8, 9, 4
# Blocks of 32 weights. Q4_1: scale and minimum in 4 bytes, then two weights in each of 16 bytes. Q8_0: the
# scale in 2 bytes, then a signed byte for each weight.
_Q4_1, _Q4_1_BYTES, _Q4_1_HEAD = 3, 20, 4
_Q8_0, _Q8_0_BYTES, _Q8_0_HEAD = 8, 34, 2


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor: its name, the bytes of its description after the name, its type, and its data."""

    name: str
    shape: tuple[int, ...]
    kind: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Model:
    """A GGUF file, read."""

    version: int
    facts: tuple[tuple[str, bytes], ...]
    """Names, and values with their type before them, as in the file."""
    tensors: tuple[Tensor, ...]
    alignment: int = 32

    def layers(self) -> int:
        """How many layers it has."""
        return next(int.from_bytes(raw[4:], "little") for name, raw in self.facts if _is_count(name))

    def with_layers(self, count: int) -> Model:
        """The first layers only."""
        kept = tuple(
            tensor
            for tensor in self.tensors
            if not tensor.name.startswith("blk.") or int(tensor.name.split(".")[1]) < count
        )
        value = struct.pack("<II", _UINT32, count)
        facts = tuple((name, value if _is_count(name) else raw) for name, raw in self.facts)
        return replace(self, facts=facts, tensors=kept)

    def with_levels(self, levels: int) -> Model:
        """The same weights with fewer levels than 16 in each block of four bits, as with fewer bits."""
        nearest = [round(round(n * (levels - 1) / 15) * 15 / (levels - 1)) for n in range(16)]
        table = bytes(nearest[byte >> 4] << 4 | nearest[byte & 15] for byte in range(256))
        return self._translated(_Q4_1, _Q4_1_HEAD, _Q4_1_BYTES, table)

    def with_coarse_words(self, step: int) -> Model:
        """The same, with the vectors of its words, in eight bits, rounded to multiples of a step."""
        signed = [byte - 256 * (byte > 127) for byte in range(256)]
        table = bytes(max(-127, min(127, round(value / step) * step)) % 256 for value in signed)
        return self._translated(_Q8_0, _Q8_0_HEAD, _Q8_0_BYTES, table)

    def _translated(self, kind: int, head: int, size: int, table: bytes) -> Model:
        return replace(
            self,
            tensors=tuple(
                replace(tensor, data=_translated(tensor.data, head, size, table))
                if tensor.kind == kind
                else tensor
                for tensor in self.tensors
            ),
        )

    def write(self, path: Path) -> Path:
        """Writes the file."""
        with path.open("wb") as file:
            file.write(struct.pack("<4sIQQ", b"GGUF", self.version, len(self.tensors), len(self.facts)))
            for name, raw in self.facts:
                _write_string(file, name)
                file.write(raw)
            offset = 0
            for tensor in self.tensors:
                _write_string(file, tensor.name)
                file.write(
                    struct.pack(
                        f"<I{len(tensor.shape)}QIQ", len(tensor.shape), *tensor.shape, tensor.kind, offset
                    )
                )
                offset += len(tensor.data) + -len(tensor.data) % self.alignment
            file.write(bytes(-file.tell() % self.alignment))
            for tensor in self.tensors:
                file.write(tensor.data + bytes(-len(tensor.data) % self.alignment))
        return path


def read(path: Path) -> Model:
    """Reads a GGUF file of version 2 or 3."""
    with path.open("rb") as file:
        magic, version, tensors, facts = struct.unpack("<4sIQQ", file.read(24))
        if magic != b"GGUF":
            raise ValueError(f"{path} is not a GGUF file")
        pairs = tuple((_string(file), _value(file)) for _ in range(facts))
        heads = []
        for _ in range(tensors):
            name = _string(file)
            (dimensions,) = struct.unpack("<I", file.read(4))
            *shape, kind, offset = struct.unpack(f"<{dimensions}QIQ", file.read(8 * dimensions + 12))
            heads.append((name, tuple(shape), kind, offset))
        alignment = next(
            (struct.unpack("<I", raw[4:])[0] for name, raw in pairs if name == "general.alignment"), 32
        )
        file.read(-file.tell() % alignment)
        data = file.read()
    ends = sorted({offset for *_, offset in heads} | {len(data)})
    following = dict(pairwise(ends))
    read_tensors = tuple(
        Tensor(name, shape, kind, data[offset : following[offset]]) for name, shape, kind, offset in heads
    )
    return Model(version, pairs, read_tensors, alignment)


def _is_count(name: str) -> bool:
    return name.endswith(".block_count")


def _translated(data: bytes, head: int, size: int, table: bytes) -> bytes:
    """Replaces each byte of the blocks behind their heads."""
    changed = bytearray(data)
    for place in range(head, size):
        changed[place::size] = changed[place::size].translate(table)
    return bytes(changed)


def _string(file: BinaryIO) -> str:
    (length,) = struct.unpack("<Q", file.read(8))
    return file.read(length).decode()


def _write_string(file: BinaryIO, text: str) -> None:
    file.write(struct.pack("<Q", len(text.encode())) + text.encode())


def _value(file: BinaryIO) -> bytes:
    begin = file.tell()
    (kind,) = struct.unpack("<I", file.read(4))
    _skip(file, kind)
    end = file.tell()
    file.seek(begin)
    return file.read(end - begin)


def _skip(file: BinaryIO, kind: int) -> None:
    skip: Callable[[int], object] = file.read
    if kind == _STRING:
        _string(file)
    elif kind == _ARRAY:
        inner, count = struct.unpack("<IQ", file.read(12))
        if inner in _SCALARS:
            skip(count * struct.calcsize("<" + _SCALARS[inner]))
        else:
            for _ in range(count):
                _skip(file, inner)
    else:
        skip(struct.calcsize("<" + _SCALARS[kind]))

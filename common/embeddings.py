"""Embeddings as they travel: a line of JSON for each input, with its index and its vector as base64.

The daemon writes the lines of what its model server answered, the server looks whether they are whole before
anybody pays for them, and the gateway reads them. It knows no job.
"""

from __future__ import annotations

import base64
import binascii
import math
import sys
from array import array
from collections.abc import Sequence
from typing import Any

from common.documents import DocumentError, parse_object

Values = dict[str, Any]

MAX_INPUTS = 2048
"""Of one request, as in OpenAI's API."""
MAX_DIMENSIONS = 16_384
_BYTES = 4
"""Of a number."""
_LINE_BYTES = 64
"""Of a line, beside its vector."""


class VectorsError(ValueError):
    """These are no embeddings; the message says why, as what "it" is."""


def packed(vector: object) -> str:
    """A vector as it travels, from numbers or base64 as a model server writes them. Raises VectorsError."""
    if isinstance(vector, str):
        _checked(_decoded(vector))
        return vector
    if not isinstance(vector, list) or any(type(each) not in (int, float) for each in vector):
        raise VectorsError("it has a vector that is no list of numbers")
    try:
        numbers = array("f", vector)
    except OverflowError:
        raise VectorsError("it has a number that is not finite") from None
    return base64.b64encode(_little(_checked(numbers)).tobytes()).decode()


def unpacked(text: str) -> list[float]:
    """The numbers of a vector. Raises VectorsError."""
    return _decoded(text).tolist()


def line(index: int, vector: str) -> Values:
    """What the line of an input holds."""
    return {"index": index, "embedding": vector}


def read(text: bytes | str, inputs: int, dimensions: int | None = None) -> list[str]:
    """The vectors of all lines, one for each input, all of one length and finite. Raises VectorsError."""
    found = written(text)
    if len(found) != inputs:
        raise VectorsError(f"it has {len(found)} vectors for {inputs} inputs")
    lengths = {len(_checked(_decoded(vector))) for vector in found}
    if len(lengths) != 1:
        raise VectorsError("it has vectors of different lengths")
    if dimensions is not None and lengths != {dimensions}:
        raise VectorsError(f"it has vectors of other than {dimensions} numbers")
    return found


def written(text: bytes | str) -> list[str]:
    """The vectors of the lines as far as they are in order, whatever they are."""
    found: list[str] = []
    for each in text.splitlines():
        try:
            values = parse_object(each, len(each))
        except DocumentError:
            break
        vector = values.get("embedding")
        if not isinstance(vector, str) or values.get("index") != len(found):
            break
        found.append(vector)
    return found


def most_bytes(inputs: int, dimensions: int | None) -> int:
    """The most bytes of the lines for so many inputs."""
    return inputs * (_LINE_BYTES + packed_length(dimensions or MAX_DIMENSIONS))


def packed_length(dimensions: int) -> int:
    """How long a vector with so many numbers is as it travels."""
    return 4 * -(-_BYTES * dimensions // 3)


def _decoded(text: str) -> array[float]:
    numbers = array("f")
    try:
        numbers.frombytes(base64.b64decode(text, validate=True))
    except (binascii.Error, ValueError):
        raise VectorsError("it has a vector that is no base64 of numbers") from None
    return _little(numbers)


def _checked(numbers: array[float]) -> array[float]:
    if not 1 <= len(numbers) <= MAX_DIMENSIONS:
        raise VectorsError(f"it has a vector with {len(numbers)} numbers")
    # The sum of 32-bit numbers cannot overflow, and one that is not finite shows in it.
    if not math.isfinite(sum(numbers)):
        raise VectorsError("it has a number that is not finite")
    return numbers


def _little(numbers: array[float]) -> array[float]:
    """The same with the least significant byte first, or back."""
    if sys.byteorder != "little":
        numbers = array("f", numbers)
        numbers.byteswap()
    return numbers


def is_input(given: object) -> bool:
    """Whether this can be embedded: a text, or the ids of tokens."""
    if isinstance(given, str):
        return bool(given)
    return is_tokens(given)


def is_tokens(given: object) -> bool:
    """Whether this is a list of the ids of tokens."""
    return (
        isinstance(given, list)
        and bool(given)
        and all(type(each) is int and 0 <= each < 2**31 for each in given)
    )


def inputs_of(given: Any) -> Sequence[Any]:
    """Of the field `input`, the inputs: one text or one list of ids stands for itself."""
    return [given] if isinstance(given, str) or is_tokens(given) else given

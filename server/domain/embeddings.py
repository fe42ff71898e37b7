"""Texts to embed: what a request may hold, and how much a model reads of it. Pure.

A request has the form of OpenAI's embeddings API. What nobody knows is left out, never refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from common import embeddings
from common.documents import DocumentError, parse_object
from common.embeddings import MAX_DIMENSIONS, MAX_INPUTS, VectorsError
from server.domain.chats import FIELD, dumped
from server.domain.errors import DomainError, invalid_field

Values = dict[str, Any]

MAX_OUTPUT_BYTES = 48 * 1024 * 1024
"""The most texts with 4,096 numbers each."""
_BYTES_A_TOKEN = 4
_FORM = "must be a text, a list of texts, a list of token ids, or a list of such lists"


@dataclass(frozen=True, slots=True)
class Texts:
    """A request that may be passed to a model server."""

    request: Values
    sizes: tuple[int, ...]
    """Of each input: the most tokens that it can be, without what a model server adds."""
    likely_tokens: int
    """As many as most models read them as."""

    @property
    def spec(self) -> Values:
        """As it is stored with its job."""
        return {
            "request": self.request,
            "text_bytes": sum(self.sizes),
            "longest_bytes": max(self.sizes),
            "turns": len(self.sizes),
            "media": 0,
            "choices": 0,
            "likely_tokens": self.likely_tokens,
        }


def read(request: bytes) -> Texts:
    """Reads a request, without what is not passed on. Raises INVALID_FIELD with the path of what is wrong."""
    try:
        given = parse_object(request, len(request))
    except DocumentError as error:
        raise invalid_field(FIELD, f"cannot be read: {error}; send a JSON object") from None
    inputs = _inputs(given.get("input"))
    kept: Values = {"input": inputs}
    if (dimensions := given.get("dimensions")) is not None:
        if type(dimensions) is not int or not 1 <= dimensions <= MAX_DIMENSIONS:
            raise _wrong("dimensions", f"must be a whole number from 1 to {MAX_DIMENSIONS}")
        kept["dimensions"] = dimensions
    try:
        sizes = [len(each.encode()) if isinstance(each, str) else len(each) for each in inputs]
    except UnicodeEncodeError:
        raise _wrong("input", "has half of a character (a lone surrogate)") from None
    likely = sum(
        -(-size // _BYTES_A_TOKEN) if isinstance(each, str) else size
        for each, size in zip(inputs, sizes, strict=True)
    )
    return Texts(kept, tuple(sizes), likely)


def of_prompt(prompt: str) -> Texts:
    """One text."""
    return read(dumped({"input": [prompt]}))


def _inputs(given: Any) -> list[Any]:
    if given is None:
        raise _wrong("input", f"is required: it {_FORM}")
    if given == "" or (isinstance(given, list) and not given):
        raise _wrong("input", "must not be empty")
    inputs = list(embeddings.inputs_of(given)) if isinstance(given, str | list) else None
    if inputs is None:
        raise _wrong("input", _FORM)
    if len(inputs) > MAX_INPUTS:
        raise _wrong("input", f"has {len(inputs)} entries; at most {MAX_INPUTS} are allowed")
    kinds = {type(each) for each in inputs}
    for place, each in enumerate(inputs):
        if not embeddings.is_input(each):
            raise _wrong(f"input[{place}]" if len(inputs) > 1 else "input", _of_one(each))
    if len(kinds) > 1:
        raise _wrong("input", "has texts and token ids; send them in two requests")
    return inputs


def _of_one(given: object) -> str:
    if given in ("", []):
        return "must not be empty"
    return _FORM


def _wrong(name: str, text: str) -> DomainError:
    return invalid_field(f"{FIELD}.{name}", text)


# The answer


def asked(spec: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """What a job is to embed; None if it embeds nothing."""
    found: Mapping[str, Any] | None = spec.get("embeddings")
    return found


def problem(spec: Mapping[str, Any], output: bytes) -> str:
    """Why an output is not what its job asked for, as a sentence; empty if it is, or if there is none."""
    if (texts := asked(spec)) is None:
        return ""
    try:
        embeddings.read(output, int(texts["turns"]), texts["request"].get("dimensions"))
    except VectorsError as error:
        return f"its daemon reported success, and the output is not what was asked for: {error}"
    return ""


def most_bytes(spec: Mapping[str, Any]) -> int:
    """The most bytes of a job's vectors that are taken; 0 if it embeds nothing."""
    if (texts := asked(spec)) is None:
        return 0
    most = embeddings.most_bytes(int(texts["turns"]), texts["request"].get("dimensions"))
    return min(most, MAX_OUTPUT_BYTES)

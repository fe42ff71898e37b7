"""OpenAI's embeddings, `POST /v1/embeddings`.

The server says what cannot be embedded. Vectors travel as base64 of 32-bit numbers, which OpenAI's clients
ask for and decode by themselves; whoever asks for no form gets numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from dcp.v1 import jobs_pb2

from common import embeddings
from gateway.dialects import Head
from gateway.dialects.openai_chat import required_model
from gateway.dialects.openai_errors import OpenAIErrors, invalid

Values = dict[str, Any]

_FORMATS = ("float", "base64")


class OpenAIEmbeddings(OpenAIErrors):
    """`POST /v1/embeddings`."""

    def read(self, body: Values) -> Texts:
        """Reads a request. Raises INVALID_FIELD with the name of its field."""
        form = body.get("encoding_format") or "float"
        if form not in _FORMATS:
            raise invalid("encoding_format", f"must be {' or '.join(_FORMATS)}")
        given = {name: value for name in ("input", "dimensions") if (value := body.get(name)) is not None}
        return Texts(required_model(body), given, form == "base64")


@dataclass(frozen=True, slots=True)
class Texts:
    """What a request asks for."""

    model: str
    given: Values
    """The request without what is the market's own."""
    as_base64: bool
    is_stream: bool = False

    def answer(self, head: Head) -> Vectors:
        """How the answer is told."""
        return Vectors(self)


@dataclass(frozen=True, slots=True)
class Vectors:
    """The answer of a job as a list of embeddings."""

    asked: Texts

    def whole(self, lines: Sequence[Values], job: jobs_pb2.Job) -> bytes:
        """The list, of the lines of the job's output."""
        tokens = job.usage.prompt_tokens
        return orjson.dumps(
            {
                "object": "list",
                "data": [self._entry(index, each["embedding"]) for index, each in enumerate(lines)],
                "model": self.asked.model,
                "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
            }
        )

    def _entry(self, index: int, vector: str) -> Values:
        numbers: str | Sequence[float] = vector if self.asked.as_base64 else embeddings.unpacked(vector)
        return {"object": "embedding", "index": index, "embedding": numbers}

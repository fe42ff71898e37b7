"""OpenAI's chat completions. What a model server can read passes through; the server says what cannot.

Fields that nobody knows are ignored, as clients of this API expect.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from dcp.v1 import jobs_pb2

from gateway.dialects import Head
from gateway.dialects.chunks import THOUGHT
from gateway.dialects.openai_errors import OpenAIErrors, invalid
from gateway.errors import ApiError

Values = dict[str, Any]

# What the answer's form and length are, which the market itself reads.
_OWN = ("model", "stream", "stream_options", "max_tokens", "max_completion_tokens", "prompt_cache_key")


class OpenAIChat(OpenAIErrors):
    """`POST /v1/chat/completions`."""

    def read(self, body: Values) -> Conversation:
        """Reads a request. Raises INVALID_FIELD with the name of its field."""
        model, options = required_model(body), body.get("stream_options") or {}
        return Conversation(
            model,
            chat={name: value for name, value in body.items() if name not in _OWN and value is not None},
            is_stream=body.get("stream") is True,
            includes_usage=isinstance(options, dict) and options.get("include_usage") is True,
            max_tokens=most_tokens(body, "max_completion_tokens", "max_tokens"),
            cache_key=text_or_empty(body.get("prompt_cache_key")),
        )


@dataclass(frozen=True, slots=True)
class Conversation:
    """What a request asks for."""

    model: str
    chat: Values
    is_stream: bool
    includes_usage: bool
    """Whether the last chunk of a stream has the counts."""
    max_tokens: int | None
    cache_key: str

    def answer(self, head: Head) -> Completion:
        """How the answer is told."""
        return Completion(self, head)


@dataclass(frozen=True, slots=True)
class Completion:
    """The answer of a job as a completion, or its chunks."""

    asked: Conversation
    head: Head

    def begin(self) -> bytes:
        """The first chunk."""
        return self._chunk([_choice(0, {"role": "assistant", "content": ""}, None, None)])

    def more(self, chunk: Values) -> bytes:
        """The chunk of the model server, under our head."""
        return self._chunk(
            [
                _choice(each["index"], shown(each["delta"]), each["finish_reason"], each["logprobs"])
                for each in chunk["choices"]
            ]
        )

    def ping(self) -> bytes:
        """A comment, which clients skip."""
        return b":\n\n"

    def end(self, job: jobs_pb2.Job) -> bytes:
        """The counts if they were asked for, and the mark that a stream is whole."""
        counts: Values = {**self._values("chat.completion.chunk"), "choices": [], "usage": usage(job)}
        return (_event(counts) if self.asked.includes_usage else b"") + b"data: [DONE]\n\n"

    @property
    def says_broken(self) -> bool:
        """False: clients take a stream that merely stops for a whole one."""
        return False

    def broken(self, error: ApiError) -> bytes:
        """The error as an event."""
        return b"data: " + OpenAIErrors().error_body(error, self.head.job_id) + b"\n\n"

    def whole(self, choices: Sequence[Values], job: jobs_pb2.Job) -> bytes:
        """The answer in one piece."""
        told = [
            {
                "index": each["index"],
                "message": {"refusal": None, **shown(each["message"])},
                "logprobs": each["logprobs"],
                "finish_reason": each["finish_reason"] or "length",
            }
            for each in choices
        ]
        return orjson.dumps({**self._values("chat.completion"), "choices": told, "usage": usage(job)})

    def _chunk(self, choices: list[Values]) -> bytes:
        rest: Values = {"usage": None} if self.asked.includes_usage else {}
        return _event({**self._values("chat.completion.chunk"), "choices": choices, **rest})

    def _values(self, kind: str) -> Values:
        return {
            "id": f"chatcmpl-{self.head.job_id}",
            "object": kind,
            "created": self.head.created,
            "model": self.asked.model,
            "service_tier": "default",
        }


def shown(message: Values) -> Values:
    """A message or a delta with what the model thinks under both names that clients look for."""
    return {**message, "reasoning": message[THOUGHT]} if THOUGHT in message else message


def _choice(index: int, delta: Values, reason: str | None, logprobs: Values | None) -> Values:
    return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": reason}


def _event(data: Values) -> bytes:
    return b"data: " + orjson.dumps(data) + b"\n\n"


def usage(job: jobs_pb2.Job) -> Values:
    """The counts that are billed."""
    counts = job.usage
    return {
        "prompt_tokens": counts.prompt_tokens,
        "completion_tokens": counts.completion_tokens,
        "total_tokens": counts.prompt_tokens + counts.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": counts.cached_tokens},
    }


def required_model(body: Values) -> str:
    """The model of a request. Raises INVALID_FIELD."""
    model = body.get("model")
    if not isinstance(model, str) or not model.strip():
        raise invalid("model", "is required: the name of a model that /v1/models lists")
    return model


def most_tokens(body: Values, *names: str) -> int | None:
    """The first of some fields that is there, which all hold the most tokens. Raises INVALID_FIELD."""
    for name in names:
        if (value := body.get(name)) is not None:
            if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value < 2**31:
                raise invalid(name, "must be a whole number of at least 1")
            return value
    return None


def text_or_empty(value: object) -> str:
    """A text that may be left out, or be of another kind."""
    return value if isinstance(value, str) else ""

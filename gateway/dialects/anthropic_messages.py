"""Anthropic's Messages API: its requests, messages, events and errors.

`anthropic_requests` translates conversations, `anthropic_blocks` the content of answers. Fields that are not
read are ignored, as clients of this API expect: `service_tier`, `container`, `context_management`, ...
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import orjson
from dcp.v1 import jobs_pb2

from gateway.dialects import Head, anthropic_blocks, anthropic_requests
from gateway.dialects.chunks import THOUGHT
from gateway.dialects.openai_chat import most_tokens, required_model, text_or_empty
from gateway.dialects.openai_errors import invalid, told
from gateway.errors import ApiError

Values = dict[str, Any]

_STATUSES: Mapping[str, int] = {"MODEL_NOT_SERVED": 404, "MODEL_NOT_FOUND": 404, "PROVIDER_UNAVAILABLE": 529}
_TYPES: Mapping[int, str] = {
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}
_THREAD = "thread"
_NO_THREADS = {"error_code": "thread_unsupported_request", "unsupported": []}
"""With these details, Anthropic's client sends the whole conversation instead."""
_TOO_LONG = "prompt is too long"
"""Claude Code shortens its conversation at an error with these words."""
_REASONS: Mapping[str, str] = {"length": "max_tokens", "content_filter": "refusal"}


class AnthropicMessages:
    """`POST /v1/messages`."""

    def read(self, body: Values) -> Conversation:
        """Reads a request. Raises INVALID_FIELD with the name of its field."""
        conversation = counted(body)
        if (most := most_tokens(body, "max_tokens")) is None:
            raise invalid("max_tokens", "is required: the most tokens that the answer may have")
        return replace(conversation, max_tokens=most, is_stream=body.get("stream") is True)

    def status_of(self, error: ApiError) -> int:
        """The status that clients of this API expect for an error."""
        return _STATUSES.get(error.code, error.status)

    def error_body(self, error: ApiError, request_id: str) -> bytes:
        """The error as this API writes it."""
        return orjson.dumps(self.values(error, request_id))

    def values(self, error: ApiError, request_id: str) -> Values:
        """The fields of an error."""
        status = self.status_of(error)
        text, _ = told(error, request_id)
        if error.code == "PROMPT_TOO_LONG" and not text.lower().startswith(_TOO_LONG):
            text = f"{_TOO_LONG}: {text}"
        kind = _TYPES.get(status, "api_error" if status >= 500 else "invalid_request_error")
        values: Values = {"type": kind, "message": text}
        if error.facts.get("field") == _THREAD:
            values["details"] = _NO_THREADS
        return {"type": "error", "error": values, "request_id": request_id}


def counted(body: Values) -> Conversation:
    """Reads a request of `POST /v1/messages/count_tokens`, which has no most tokens. Raises INVALID_FIELD."""
    metadata, thinking = body.get("metadata"), body.get("thinking")
    if body.get(_THREAD) is not None:
        raise invalid(_THREAD, "is not kept by this market; send the whole conversation in messages")
    return Conversation(
        required_model(body),
        chat=anthropic_requests.chat(body),
        is_stream=False,
        max_tokens=None,
        # Claude Code writes its session into it, and others their user.
        cache_key=text_or_empty(metadata.get("user_id")) if isinstance(metadata, dict) else "",
        shows_thoughts=not isinstance(thinking, dict) or thinking.get("type") != "disabled",
        eager_tools=anthropic_requests.eager_tools(body),
    )


def count_body(tokens: int) -> bytes:
    """The answer of `POST /v1/messages/count_tokens`."""
    return orjson.dumps({"input_tokens": tokens})


@dataclass(frozen=True, slots=True)
class Conversation:
    """What a request asks for."""

    model: str
    chat: Values
    is_stream: bool
    max_tokens: int | None
    cache_key: str
    shows_thoughts: bool
    """False if the client disabled thinking: it expects no such blocks from a model that thinks anyway."""
    eager_tools: frozenset[str]
    """The tools whose input is streamed as the model writes it."""

    def answer(self, head: Head) -> Message:
        """How the answer is told."""
        return Message(self, head)


class Message:
    """The answer of a job as a message, or its events. Only the first choice counts: this API has one."""

    def __init__(self, asked: Conversation, head: Head) -> None:
        self._asked = asked
        self._job_id = head.job_id
        self._blocks = anthropic_blocks.Stream(head.job_id, asked.eager_tools)
        self._reason: str | None = None

    def begin(self) -> bytes:
        """The message without content. Its counts are not known yet."""
        message = self._message([], None, _usage(jobs_pb2.Job()))
        return _event({"type": "message_start", "message": message}) + self.ping()

    def more(self, chunk: Values) -> bytes:
        """The events of the content; a ping while all of it is held, so that the client does not give up."""
        events: list[bytes] = []
        for choice in chunk["choices"]:
            if choice["index"] == 0:
                self._reason = choice["finish_reason"] or self._reason
                if choice["delta"]:
                    found = self._blocks.add(self._shown(choice["delta"]))
                    events += [_event(each) for each in found] or [self.ping()]
        return b"".join(events)

    def ping(self) -> bytes:
        """An event that clients skip."""
        return _event({"type": "ping"})

    def end(self, job: jobs_pb2.Job) -> bytes:
        """The rest of the content, why it ended, the billed counts, and the mark that the stream is whole."""
        events = self._blocks.end()
        delta = {"stop_reason": _stop_reason(self._reason, self._blocks.has_calls), "stop_sequence": None}
        events.append({"type": "message_delta", "delta": delta, "usage": _usage(job)})
        events.append({"type": "message_stop"})
        return b"".join(map(_event, events))

    @property
    def says_broken(self) -> bool:
        """False: some clients take a stream that merely stops for a whole one."""
        return False

    def broken(self, error: ApiError) -> bytes:
        """The error as an event."""
        return _event(AnthropicMessages().values(error, self._job_id))

    def whole(self, choices: Sequence[Values], job: jobs_pb2.Job) -> bytes:
        """The message in one piece."""
        first = next((each for each in choices if each["index"] == 0), None)
        content = anthropic_blocks.content(self._shown(first["message"]), self._job_id) if first else []
        has_calls = any(block["type"] == "tool_use" for block in content)
        reason = _stop_reason(first["finish_reason"] if first else None, has_calls)
        return orjson.dumps(self._message(content, reason, _usage(job)))

    def _shown(self, message: Values) -> Values:
        if self._asked.shows_thoughts:
            return message
        return {name: value for name, value in message.items() if name != THOUGHT}

    def _message(self, content: list[Values], reason: str | None, usage: Values) -> Values:
        return {
            "id": f"msg_{self._job_id}",
            "type": "message",
            "role": "assistant",
            "model": self._asked.model,
            "content": content,
            "stop_reason": reason,
            "stop_sequence": None,
            "usage": usage,
        }


def _stop_reason(reason: str | None, has_calls: bool) -> str:
    """Why the message ended.

    Clients run tools only if this says so, while some servers report `stop` for an answer with tool calls.
    Which stop sequence ended an answer is not known, so that is the end of a turn.
    """
    if reason is None:
        return "max_tokens"
    return _REASONS.get(reason) or ("tool_use" if has_calls else "end_turn")


def _usage(job: jobs_pb2.Job) -> Values:
    """The counts that are billed; what is cached counts apart from the rest of the prompt."""
    counts = job.usage
    cached = min(counts.cached_tokens, counts.prompt_tokens)
    return {
        "input_tokens": counts.prompt_tokens - cached,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": cached,
        "output_tokens": counts.completion_tokens,
    }


def _event(data: Values) -> bytes:
    name: str = data["type"]
    return b"event: " + name.encode() + b"\ndata: " + orjson.dumps(data) + b"\n\n"

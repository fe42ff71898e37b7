"""OpenAI's chat completions: what a request asks of a job, and a job's answer as a completion or its chunks.

What it does not carry yet is refused by its name, never dropped: tools, images, several choices, and how
likely tokens are. Fields that it does not know are ignored, as clients of this API expect.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson
from dcp.v1 import jobs_pb2

from gateway.errors import ApiError

Values = dict[str, Any]

# Parameters that go to the model server as they are, and the kind of each.
_NUMBERS = ("temperature", "top_p", "presence_penalty", "frequency_penalty")
# What is not carried yet; an empty value asks for nothing.
_NOT_CARRIED = ("tools", "functions", "tool_choice", "function_call", "logprobs", "top_logprobs", "audio")
_TEXT_PARTS = ("text", "input_text", "output_text")
_SYSTEM = ("system", "developer")
_PARAMS = re.compile(r"\bparams\.(?=\w)")
_TYPES: Mapping[int, str] = {
    401: "authentication_error",
    402: "insufficient_quota",
    403: "permission_error",
    429: "rate_limit_error",
}
_CODES: Mapping[str, str] = {
    "INSUFFICIENT_BALANCE": "insufficient_quota",
    "BUDGET_REACHED": "insufficient_quota",
    "MISSING_CREDENTIAL": "invalid_api_key",
    "INVALID_CREDENTIAL": "invalid_api_key",
    "WRONG_ROLE": "invalid_api_key",
    "MODEL_NOT_SERVED": "model_not_found",
    "MODEL_NOT_FOUND": "model_not_found",
    "RATE_LIMITED": "rate_limit_exceeded",
    "PROMPT_TOO_LONG": "context_length_exceeded",
}
# Repeating these heals nothing, but clients repeat 409 by themselves.
_NOT_AGAIN = (402, 409, 410)
_STATUSES: Mapping[str, int] = {"MODEL_NOT_SERVED": 404, "PROVIDER_UNAVAILABLE": 503}


@dataclass(frozen=True, slots=True)
class Conversation:
    """What a request asks for."""

    params: Values
    """The fields of a job's parameters."""
    model: str
    is_stream: bool
    includes_usage: bool
    """Whether the last chunk of a stream has the counts."""
    max_tokens: int | None
    """None: as many as the context leaves."""


def read(body: Values) -> Conversation:
    """Reads a request. Raises INVALID_FIELD with the name of its field."""
    model = body.get("model")
    if not isinstance(model, str) or not model.strip():
        raise _invalid("model", "is required: the name of a model that /v1/models lists")
    _refuse_not_carried(body)
    options = body.get("stream_options") or {}
    params: Values = {"model": model, "messages": _messages(body.get("messages"))}
    for name in _NUMBERS:
        if (number := body.get(name)) is not None:
            params[name] = _number(name, number)
    if (seed := body.get("seed")) is not None:
        params["seed"] = _whole("seed", seed)
    if stop := _stop(body.get("stop")):
        params["stop"] = stop
    if (form := body.get("response_format")) is not None:
        params |= _response_format(form)
    return Conversation(
        params,
        model,
        is_stream=body.get("stream") is True,
        includes_usage=isinstance(options, dict) and options.get("include_usage") is True,
        max_tokens=_max_tokens(body),
    )


def _refuse_not_carried(body: Values) -> None:
    for name in _NOT_CARRIED:
        if body.get(name) not in (None, False, 0, [], {}, "none", "auto"):
            raise _invalid(name, "is not supported yet; leave it out")
    if body.get("n") not in (None, 1):
        raise _invalid("n", "only 1 is supported: send the request again for another answer")
    if body.get("modalities") not in (None, ["text"]):
        raise _invalid("modalities", 'only ["text"] is supported')


def _max_tokens(body: Values) -> int | None:
    """The newer name counts if both are there."""
    for name in ("max_completion_tokens", "max_tokens"):
        if (value := body.get(name)) is not None:
            if (whole := _whole(name, value)) < 1:
                raise _invalid(name, "must be at least 1")
            return whole
    return None


def _messages(given: object) -> list[Values]:
    if not isinstance(given, list) or not given:
        raise _invalid("messages", "must be a list with at least one message")
    return [_message(f"messages[{place}]", each) for place, each in enumerate(given)]


def _message(name: str, given: object) -> Values:
    if not isinstance(given, dict):
        raise _invalid(name, "must be an object with role and content")
    role = given.get("role")
    if given.get("tool_calls") or given.get("function_call") or role in ("tool", "function"):
        raise _invalid(name, "is of a tool; tools are not supported yet")
    if role not in (*_SYSTEM, "user", "assistant"):
        raise _invalid(f"{name}.role", "must be system, developer, user or assistant")
    content = _text(f"{name}.content", given.get("content"))
    return {"role": "system" if role in _SYSTEM else role, "content": content}


def _text(name: str, content: object) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise _invalid(name, "must be a text or a list of text parts")
    texts = []
    for place, part in enumerate(content):
        kind = part.get("type") if isinstance(part, dict) else None
        text = part.get("text") if isinstance(part, dict) else None
        if kind not in _TEXT_PARTS or not isinstance(text, str):
            raise _invalid(f"{name}[{place}]", "only parts of the type text are supported")
        texts.append(text)
    return "".join(texts)


def _stop(given: object) -> list[str]:
    texts = [given] if isinstance(given, str) else given or []
    if not isinstance(texts, list) or not all(isinstance(text, str) and text for text in texts):
        raise _invalid("stop", "must be a text or a list of texts that are not empty")
    return texts


def _response_format(form: object) -> Values:
    if not isinstance(form, dict) or not isinstance(form.get("type"), str):
        raise _invalid("response_format", 'must be an object with a type, such as {"type": "json_object"}')
    return {} if form["type"] == "text" else {"response_format": orjson.dumps(form).decode()}


def _number(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise _invalid(name, "must be a number")
    return float(value)


def _whole(name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) >= 2**53:
        raise _invalid(name, "must be a whole number")
    return value


def _invalid(name: str, text: str) -> ApiError:
    return ApiError("INVALID_FIELD", f"{name} {text}.", field=name)


@dataclass(slots=True)
class Answer:
    """The answer of a job, as it is told."""

    job_id: str
    model: str
    created: int
    """In seconds since 1970."""
    includes_usage: bool
    max_tokens: int
    context_tokens: int
    """0: not known."""

    def begin(self) -> bytes:
        """The first chunk."""
        return self._chunk({"role": "assistant", "content": ""})

    def more(self, text: str) -> bytes:
        """The chunk with the next text."""
        return self._chunk({"content": text})

    def end(self, job: jobs_pb2.Job) -> bytes:
        """The last chunks, and the mark that a stream is whole."""
        last = self._chunk({}, self._finish_reason(job))
        if self.includes_usage:
            last += _event({**self._head("chat.completion.chunk"), "choices": [], "usage": usage(job)})
        return last + b"data: [DONE]\n\n"

    def whole(self, text: str, job: jobs_pb2.Job) -> bytes:
        """The answer in one piece."""
        message = {"role": "assistant", "content": text, "refusal": None}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": self._finish_reason(job)}
        return orjson.dumps({**self._head("chat.completion"), "choices": [choice], "usage": usage(job)})

    def _chunk(self, delta: Values, reason: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        rest: Values = {"usage": None} if self.includes_usage else {}
        return _event({**self._head("chat.completion.chunk"), "choices": [choice], **rest})

    def _finish_reason(self, job: jobs_pb2.Job) -> str:
        """Why the answer ended: at its greatest length, or where the model ended it."""
        written, read = job.usage.completion_tokens, job.usage.prompt_tokens
        is_cut = written >= self.max_tokens or (self.context_tokens and read + written >= self.context_tokens)
        return "length" if is_cut else "stop"

    def _head(self, kind: str) -> Values:
        return {
            "id": f"chatcmpl-{self.job_id}",
            "object": kind,
            "created": self.created,
            "model": self.model,
            "service_tier": "default",
        }


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


def status_of(error: ApiError) -> int:
    """The status that clients of this API expect for an error."""
    return _STATUSES.get(error.code, error.status)


def error_body(error: ApiError, request_id: str) -> bytes:
    """The error as this API writes it."""
    status = status_of(error)
    kind = _TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
    name = error.facts.get("field")
    text = error.text if error.code != "INTERNAL" else f"{error.text} request_id: {request_id}"
    body = {
        "message": _PARAMS.sub("", text),
        "type": kind,
        "param": _PARAMS.sub("", name) if isinstance(name, str) else None,
        "code": _CODES.get(error.code, error.code.lower()),
    }
    return orjson.dumps({"error": body})


def error_event(error: ApiError, request_id: str) -> bytes:
    """The error as an event of a stream that has begun; no mark of a whole stream may follow."""
    return b"data: " + error_body(error, request_id) + b"\n\n"


def error_headers(error: ApiError) -> list[tuple[str, str]]:
    """The headers of the error's response."""
    headers = [(name, value) for name, value in error.headers if name != "retry-after"]
    status = status_of(error)
    if status in (429, 503):
        headers.append(("retry-after", str(error.facts.get("retry_after_seconds", 1))))
    if status in _NOT_AGAIN:
        headers.append(("x-should-retry", "false"))
    return headers

"""OpenAI's Responses API without state: its requests, responses, events and errors.

`responses_requests` translates conversations, `responses_tools` tools, and `responses_items` the content of
answers. No response is kept: `store` is ignored, and what would continue a kept response is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from dcp.v1 import jobs_pb2

from gateway.dialects import Head, responses_items, responses_requests, responses_tools
from gateway.dialects.openai_chat import most_tokens, required_model, text_or_empty, usage
from gateway.dialects.openai_completions import likely_tokens
from gateway.dialects.openai_errors import OpenAIErrors
from gateway.errors import ApiError

Values = dict[str, Any]

_INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter"}
# What Codex acts on in a failed response. After `invalid_prompt` it gives up, and after any other code it
# sends the request again, which is of no use where the request is at fault.
_CODES = ("context_length_exceeded", "insufficient_quota", "rate_limit_exceeded")


class OpenAIResponses(OpenAIErrors):
    """`POST /v1/responses`."""

    def read(self, body: Values) -> Request:
        """Reads a request. Raises INVALID_FIELD with the name of its field."""
        model, tools = required_model(body), responses_tools.tools(body)
        most = most_tokens(body, "max_output_tokens")
        return Request(
            model,
            chat=responses_requests.chat(body, tools),
            is_stream=body.get("stream") is True,
            max_tokens=most,
            cache_key=text_or_empty(body.get("prompt_cache_key")),
            tools=tools,
            shows_summary=bool(responses_requests.object_or_empty(body, "reasoning").get("summary")),
            shows_logprobs=responses_requests.asks_for_logprobs(body),
            repeated={"max_output_tokens": most, **_repeated(body)},
        )


@dataclass(frozen=True, slots=True)
class Request:
    """What a request asks for."""

    model: str
    chat: Values
    is_stream: bool
    max_tokens: int | None
    cache_key: str
    tools: responses_tools.Tools
    shows_summary: bool
    """Whether what the model thinks is shown as a summary, as the client asked; else as its reasoning text.

    Clients such as Codex ask for a summary and show nothing else.
    """
    shows_logprobs: bool
    repeated: Values
    """The fields of the request that the response repeats."""

    def answer(self, head: Head) -> Reply:
        """How the answer is told."""
        return Reply(self, head)


class Reply:
    """The answer of a job as a response, or its events. Only the first choice counts: this API has one."""

    def __init__(self, asked: Request, head: Head) -> None:
        self._asked = asked
        self._head = head
        self._output = self._new_output()
        self._reason: str | None = None
        self._count = 0

    def begin(self) -> bytes:
        """The response without output."""
        response = self._response("in_progress", [])
        return self._events(
            {"type": f"response.{what}", "response": response} for what in ("created", "in_progress")
        )

    def more(self, chunk: Values) -> bytes:
        """The events of the items; a sign of life while all of it is held."""
        events: list[Values] = []
        for choice in _first(chunk["choices"]):
            self._reason = choice["finish_reason"] or self._reason
            events += self._output.add(choice["delta"], self._logprobs(choice))
        return self._events(events) or self.ping()

    def ping(self) -> bytes:
        """A comment, which clients skip."""
        return b":\n\n"

    def end(self, job: jobs_pb2.Job) -> bytes:
        """The rest of the items, and the whole response with the billed counts, which ends the stream."""
        events = self._output.end(_is_cut(self._reason))
        response = self._ended(self._output, self._reason, job)
        events.append({"type": f"response.{response['status']}", "response": response})
        return self._events(events)

    @property
    def says_broken(self) -> bool:
        """True: a failed response is one of the ends that clients know; Codex would not read it otherwise."""
        return True

    def broken(self, error: ApiError) -> bytes:
        """The error, which OpenAI's client raises, and the response as a failed one, which Codex reads."""
        form = OpenAIErrors()
        values = form.values(error, self._head.job_id)
        code = values["code"]
        if code not in _CODES:
            code = "invalid_prompt" if form.status_of(error) < 500 else "server_error"
        failed = self._response("failed", []) | {"error": {"code": code, "message": values["message"]}}
        # The documentation has the fields of an error at the top, and OpenAI's servers write them within.
        flat = {name: value for name, value in values.items() if name != "type"}
        return self._events(
            [{"type": "error", **flat, "error": values}, {"type": "response.failed", "response": failed}]
        )

    def whole(self, choices: Sequence[Values], job: jobs_pb2.Job) -> bytes:
        """The response in one piece."""
        output, reason = self._new_output(), None
        for choice in _first(choices):
            reason = choice["finish_reason"]
            output.add(choice["message"], self._logprobs(choice))
        output.end(_is_cut(reason))
        return orjson.dumps(self._ended(output, reason, job))

    def _new_output(self) -> responses_items.Output:
        thoughts = responses_items.SUMMARY if self._asked.shows_summary else responses_items.REASONING
        return responses_items.Output(self._head.job_id, self._asked.tools, thoughts)

    def _logprobs(self, choice: Values) -> list[Values]:
        found = (choice["logprobs"] or {}).get("content") if self._asked.shows_logprobs else None
        return [_logprob(each) for each in likely_tokens(found)]

    def _events(self, events: Iterable[Values]) -> bytes:
        found = b""
        for event in events:
            found += _event(self._count, event)
            self._count += 1
        return found

    def _ended(self, output: responses_items.Output, reason: str | None, job: jobs_pb2.Job) -> Values:
        details = {"reason": _INCOMPLETE[reason or "length"]} if _is_cut(reason) else None
        status = "incomplete" if details else "completed"
        return self._response(status, output.items) | {"incomplete_details": details, "usage": _usage(job)}

    def _response(self, status: str, output: list[Values]) -> Values:
        return {
            "id": f"resp_{self._head.job_id}",
            "object": "response",
            "created_at": self._head.created,
            "status": status,
            "model": self._asked.model,
            "output": output,
            "error": None,
            "incomplete_details": None,
            "usage": None,
            "background": False,
            "previous_response_id": None,
            "service_tier": "default",
            "store": False,
            **self._asked.repeated,
        }


def _first(choices: Sequence[Values]) -> list[Values]:
    return [choice for choice in choices if choice["index"] == 0]


def _is_cut(reason: str | None) -> bool:
    """Whether the answer is not whole. Without a reason it broke off, as in the chat API."""
    return reason is None or reason in _INCOMPLETE


def _repeated(body: Values) -> Values:
    """The fields of the request that the response repeats, with OpenAI's defaults."""
    reasoning = responses_requests.object_or_empty(body, "reasoning")
    return {
        "instructions": body.get("instructions"),
        "metadata": responses_requests.object_or_empty(body, "metadata"),
        "parallel_tool_calls": body.get("parallel_tool_calls") is not False,
        "prompt_cache_key": body.get("prompt_cache_key"),
        "reasoning": {"effort": reasoning.get("effort"), "summary": reasoning.get("summary")},
        "safety_identifier": body.get("safety_identifier"),
        "temperature": body.get("temperature"),
        "text": {"format": {"type": "text"}, **responses_requests.object_or_empty(body, "text")},
        "tool_choice": body.get("tool_choice") or "auto",
        "tools": body.get("tools") or [],
        "top_logprobs": body.get("top_logprobs") or 0,
        "top_p": body.get("top_p"),
        "truncation": body.get("truncation") or "disabled",
        "user": body.get("user"),
    }


def _usage(job: jobs_pb2.Job) -> Values:
    """The counts that are billed. How many tokens were thoughts is not known."""
    counts = usage(job)
    cached = counts["prompt_tokens_details"]["cached_tokens"]
    return {
        "input_tokens": counts["prompt_tokens"],
        "input_tokens_details": {"cached_tokens": cached, "cache_write_tokens": 0},
        "output_tokens": counts["completion_tokens"],
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": counts["total_tokens"],
    }


def _logprob(given: Values) -> Values:
    return {
        **_token(given),
        "top_logprobs": [_token(top) for top in likely_tokens(given.get("top_logprobs"))],
    }


def _token(given: Values) -> Values:
    written = given.get("bytes")
    return {
        "token": given["token"],
        "logprob": given["logprob"],
        "bytes": written if isinstance(written, list) else list(given["token"].encode()),
    }


def _event(number: int, values: Values) -> bytes:
    kind: str = values["type"]
    data = {"type": kind, "sequence_number": number, **values}
    return b"event: " + kind.encode() + b"\ndata: " + orjson.dumps(data) + b"\n\n"

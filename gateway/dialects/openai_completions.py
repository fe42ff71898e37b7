"""OpenAI's older completions of a prompt, `POST /v1/completions`.

Model servers here speak the chat API only. So the prompt becomes one message of the user and the model's chat
template is applied: the answer is a reply to the prompt, not its continuation. What the model thinks has no
place in this API and is left out. Without `max_tokens` the answer is as long as the context allows.

Offsets of tokens count the characters of the answer, without the prompt.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from dcp.v1 import jobs_pb2

from gateway.dialects import Head
from gateway.dialects.openai_chat import most_tokens, required_model, text_or_empty, usage
from gateway.dialects.openai_errors import OpenAIErrors, invalid
from gateway.errors import ApiError

Values = dict[str, Any]

# What the market itself reads, and what would make a model server call tools, which this API cannot report.
_OWN = (
    *("model", "prompt", "messages", "stream", "stream_options", "max_tokens", "prompt_cache_key", "user"),
    *("suffix", "echo", "best_of", "logprobs", "top_logprobs"),
    *("tools", "tool_choice", "parallel_tool_calls", "functions", "function_call", "modalities"),
)
_ONE_PROMPT = "must be one text: send a request for each of several prompts"
_NO_TOKENS = (
    "must be a text: the ids of tokens depend on the model server (lm-eval: tokenized_requests=False)"
)
_REASONS = ("stop", "length", "content_filter")
_MOST_LOGPROBS = 20


class OpenAICompletions(OpenAIErrors):
    """`POST /v1/completions`."""

    def read(self, body: Values) -> Request:
        """Reads a request. Raises INVALID_FIELD with the name of its field."""
        model, options = required_model(body), body.get("stream_options") or {}
        _refuse(body)
        same = {name: value for name, value in body.items() if name not in _OWN and value is not None}
        return Request(
            model,
            chat={**same, **_logprobs(body), "messages": [{"role": "user", "content": _prompt(body)}]},
            is_stream=body.get("stream") is True,
            includes_usage=isinstance(options, dict) and options.get("include_usage") is True,
            max_tokens=most_tokens(body, "max_tokens"),
            cache_key=text_or_empty(body.get("prompt_cache_key")),
        )


@dataclass(frozen=True, slots=True)
class Request:
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


class Completion:
    """The answer of a job as a completion, or its chunks."""

    def __init__(self, asked: Request, head: Head) -> None:
        self._asked = asked
        self._head = head
        self._lengths: Counter[int] = Counter()
        """The characters of the tokens so far, by choice."""

    def begin(self) -> bytes:
        """A sign of life: chunks of this API begin with text."""
        return self.ping()

    def more(self, chunk: Values) -> bytes:
        """The chunk with its texts; a sign of life while there is none."""
        choices = [
            self._choice(each["index"], each["delta"], each["logprobs"], each["finish_reason"])
            for each in chunk["choices"]
        ]
        told = [each for each in choices if each["text"] or each["finish_reason"] or each["logprobs"]]
        rest: Values = {"usage": None} if self._asked.includes_usage else {}
        return _event(self._values(told) | rest) if told else self.ping()

    def ping(self) -> bytes:
        """A comment, which clients skip."""
        return b":\n\n"

    def end(self, job: jobs_pb2.Job) -> bytes:
        """The counts if they were asked for, and the mark that a stream is whole."""
        counts = _event(self._values([]) | {"usage": usage(job)}) if self._asked.includes_usage else b""
        return counts + b"data: [DONE]\n\n"

    @property
    def says_broken(self) -> bool:
        """False: clients take a stream that merely stops for a whole one."""
        return False

    def broken(self, error: ApiError) -> bytes:
        """The error as an event."""
        return b"data: " + OpenAIErrors().error_body(error, self._head.job_id) + b"\n\n"

    def whole(self, choices: Sequence[Values], job: jobs_pb2.Job) -> bytes:
        """The completion in one piece."""
        told = [
            self._choice(each["index"], each["message"], each["logprobs"], each["finish_reason"] or "length")
            for each in choices
        ]
        return orjson.dumps(self._values(told) | {"usage": usage(job)})

    def _choice(self, index: int, message: Values, logprobs: Values | None, reason: str | None) -> Values:
        return {
            "index": index,
            "text": f"{message.get('content') or ''}{message.get('refusal') or ''}",
            "logprobs": self._tokens(index, logprobs) if self._asked.chat.get("logprobs") else None,
            # Others report calls of tools.
            "finish_reason": reason if reason is None or reason in _REASONS else "stop",
        }

    def _tokens(self, index: int, logprobs: Values | None) -> Values | None:
        """How likely the tokens of a chunk were, in the form of this API; None if it has none."""
        tokens = likely_tokens((logprobs or {}).get("content"))
        if not tokens:
            return None
        offsets = []
        for each in tokens:
            offsets.append(self._lengths[index])
            self._lengths[index] += len(each["token"])
        return {
            "tokens": [each["token"] for each in tokens],
            "token_logprobs": [each["logprob"] for each in tokens],
            "top_logprobs": [
                {top["token"]: top["logprob"] for top in likely_tokens(each.get("top_logprobs"))}
                for each in tokens
            ],
            "text_offset": offsets,
        }

    def _values(self, choices: list[Values]) -> Values:
        return {
            "id": f"cmpl-{self._head.job_id}",
            "object": "text_completion",
            "created": self._head.created,
            "model": self._asked.model,
            "choices": choices,
        }


def likely_tokens(given: object) -> list[Values]:
    """The tokens of a list that say how likely they were, each with `token` and `logprob`."""
    return [each for each in given if _is_token(each)] if isinstance(given, list) else []


def _is_token(given: object) -> bool:
    if not isinstance(given, dict) or not isinstance(given.get("token"), str):
        return False
    return isinstance(given.get("logprob"), int | float)


def _refuse(body: Values) -> None:
    """Raises INVALID_FIELD for what a chat cannot do."""
    if body.get("suffix"):
        raise invalid("suffix", "is not supported: write what must follow into the prompt")
    if body.get("echo"):
        raise invalid("echo", "is not supported: the answer has no prompt and no log probabilities of it")
    if body.get("best_of") not in (None, 1, body.get("n")):
        raise invalid("best_of", "is not supported: ask for n answers and choose among them")


def _prompt(body: Values) -> str:
    prompt = body.get("prompt")
    if isinstance(prompt, list):
        if any(not isinstance(each, str) for each in prompt):
            raise invalid("prompt", _NO_TOKENS)
        if len(prompt) != 1:
            raise invalid("prompt", _ONE_PROMPT)
        prompt = prompt[0]
    if not isinstance(prompt, str):
        raise invalid("prompt", "is required and must be a text")
    return prompt


def _logprobs(body: Values) -> Values:
    most = body.get("logprobs")
    if most is None:
        return {}
    if isinstance(most, bool) or not isinstance(most, int) or not 0 <= most <= _MOST_LOGPROBS:
        raise invalid("logprobs", f"must be a whole number from 0 to {_MOST_LOGPROBS}")
    return {"logprobs": True, "top_logprobs": most}


def _event(data: Values) -> bytes:
    return b"data: " + orjson.dumps(data) + b"\n\n"

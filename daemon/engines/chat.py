"""Owns the translation between a job and the OpenAI chat API: request, stream, models.

Pure: it must not know connections or processes. What a server's errors mean is in `refusals`.
"""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from dcp.v1 import jobs_pb2, sessions_pb2

from common import chats, documents
from common.documents import DocumentError
from daemon.engines import refusals
from daemon.foreign.events import server_events

DEFAULT_MAX_TOKENS = 256
_ROLES = ("system", "user", "assistant")
MAX_REQUEST_BYTES = 33_554_432
"""The limit of `chat_request` in protos/dcp/v1/sessions.proto."""
_END_OF_STREAM = "[DONE]"
MAX_LIST_BYTES = 1024 * 1024
MAX_LISTED = 10_000
MAX_ID_CHARACTERS = 1000
MAX_COUNT = 2**31 - 1
MAX_LOGPROBS, MAX_TOKEN_CHARACTERS = 64, 100
"""The server takes no more of an answer: limits in protos/dcp/v1/sessions.proto."""
_THOUGHTS = ("reasoning_content", "reasoning", "thinking")
"""Where servers put what a model thinks before it answers."""


def request_body(offer: sessions_pb2.JobOffer) -> dict[str, Any]:
    """The body of a streaming chat request. Raises EngineError for parameters that make none."""
    params = offer.params
    asked = _conversation(offer.chat_request) if offer.chat_request else _asked(params)
    return asked | {
        "model": params.model,
        "max_tokens": max_tokens(params),
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def _asked(params: jobs_pb2.JobParams) -> dict[str, Any]:
    body: dict[str, Any] = {"messages": _messages(params)}
    return body | ({"temperature": params.temperature} if params.HasField("temperature") else {})


def _conversation(text: bytes) -> dict[str, Any]:
    """The request of a chat, without what would have the model server do more than the job pays for."""
    try:
        request = documents.parse_object(text, MAX_REQUEST_BYTES)
    except DocumentError as error:
        raise refusals.bad_params(f"The conversation cannot be used: {error}.") from None
    # The server has looked, too; but the network that an address would lead into is this machine's.
    if away := chats.fetched(request):
        raise refusals.bad_params(f"{away} must bring its data along; addresses are not fetched.")
    return {name: value for name, value in request.items() if name in chats.PASSED}


def with_logprobs(body: dict[str, Any]) -> dict[str, Any]:
    """The same request, with how likely each token is."""
    # Where it is asked for no alternative, llama.cpp says nothing of the token itself either.
    return body | {"logprobs": True, "top_logprobs": max(1, body.get("top_logprobs") or 0)}


def is_repeatable(body: dict[str, Any]) -> bool:
    """Whether the answer should be the same each time, so that its probabilities can be compared."""
    return body.get("temperature") == 0


def choices(body: dict[str, Any]) -> int:
    """How many answers a request asks for."""
    return body.get("n") or 1


def max_tokens(params: jobs_pb2.JobParams) -> int:
    """How many tokens the answer may have."""
    return params.max_tokens if params.HasField("max_tokens") else DEFAULT_MAX_TOKENS


def _messages(params: jobs_pb2.JobParams) -> list[dict[str, str]]:
    messages = [{"role": message.role, "content": message.content} for message in params.messages]
    if not messages and params.prompt:
        messages = [{"role": "user", "content": params.prompt}]
    if not messages:
        raise refusals.bad_params("The job needs params.prompt or params.messages.")
    for message in messages:
        if message["role"] not in _ROLES:
            raise refusals.bad_params(f"params.messages[].role must be one of {', '.join(_ROLES)}.")
    return messages


async def events(pieces: AsyncIterator[bytes]) -> AsyncGenerator[dict[str, Any], None]:
    """The JSON events of a stream, without its end and its signs of life. Raises DocumentError."""
    async for event in server_events(pieces):
        data = event.data.strip()
        # Proxies keep a connection open by empty events and by comments inside of events.
        if data and data != _END_OF_STREAM and not data.startswith(":"):
            yield _document(event.kind, data)


def _document(kind: str, data: str) -> dict[str, Any]:
    if kind != "error":
        return documents.parse_object(data)
    try:
        document = documents.parse(data)
    except DocumentError:
        document = data
    is_whole = isinstance(document, dict) and bool(document.get("error"))
    return document if is_whole else {"error": document or "unknown"}


@dataclass(frozen=True)
class Delta:
    """What one event adds to an answer."""

    text: str = ""
    is_thought: bool = False
    """The model thinks: it works, though it writes no text."""
    finish_reason: str = ""
    """Why the answer ends with this event; empty: it does not."""
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cached_tokens: int | None = None
    """Of those of the prompt."""
    logprobs: tuple[sessions_pb2.TokenLogprob, ...] = ()
    """Of the tokens of this event, where the server gives them."""


def chunk_of(event: dict[str, Any], *, with_logprobs: bool) -> dict[str, Any] | None:
    """What of an event the renter of a chat gets: its choices, if one of them says something."""
    given = event.get("choices")
    found = [choice for choice in given if isinstance(choice, dict)] if isinstance(given, list) else []
    # Servers that know only one choice may leave its number out.
    choices = [{"index": 0, **choice} for choice in found]
    for choice in choices:
        if not with_logprobs:
            choice.pop("logprobs", None)
    return {"choices": choices} if any(map(_says_something, choices)) else None


def _says_something(choice: dict[str, Any]) -> bool:
    delta = choice.get("delta")
    said = delta.items() if isinstance(delta, dict) else ()
    return bool(choice.get("finish_reason")) or any(value for name, value in said if name != "role")


def delta_of(event: dict[str, Any]) -> Delta:
    """What an event without an error adds; whatever it holds that makes no sense adds nothing."""
    choices, usage = event.get("choices"), event.get("usage")
    choice = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else {}
    delta = choice.get("delta")
    delta = delta if isinstance(delta, dict) else {}
    usage = usage if isinstance(usage, dict) else {}
    details = usage.get("prompt_tokens_details")
    details = details if isinstance(details, dict) else {}
    reason, content = choice.get("finish_reason"), delta.get("content")
    return Delta(
        text=_text_of(content),
        is_thought=any(delta.get(name) for name in _THOUGHTS) or _has_thought(content),
        # Some servers send an empty text instead of null until the end.
        finish_reason=reason if isinstance(reason, str) else "",
        prompt_tokens=count(usage.get("prompt_tokens")),
        completion_tokens=count(usage.get("completion_tokens")),
        cached_tokens=count(details.get("cached_tokens")),
        logprobs=_logprobs(choice.get("logprobs")),
    )


def _logprobs(found: object) -> tuple[sessions_pb2.TokenLogprob, ...]:
    content = found.get("content") if isinstance(found, dict) else None
    entries = content[:MAX_LOGPROBS] if isinstance(content, list) else []
    # One that makes no sense ends them: those behind it would stand at another's place.
    return tuple(takewhile(lambda each: each is not None, map(_logprob, entries)))  # type: ignore[arg-type]


def _logprob(entry: object) -> sessions_pb2.TokenLogprob | None:
    token, logprob = (entry.get("token"), entry.get("logprob")) if isinstance(entry, dict) else (None, None)
    if not isinstance(token, str) or not isinstance(logprob, (int, float)) or not math.isfinite(logprob):
        return None
    # JSON can hold lone surrogates, and a message cannot.
    text = token[:MAX_TOKEN_CHARACTERS].encode(errors="replace").decode()
    return sessions_pb2.TokenLogprob(token=text, logprob=min(0.0, logprob))


def _text_of(content: object) -> str:
    """The text of an answer's content, which is a text or a list of parts."""
    if isinstance(content, list):
        texts = [part.get("text") for part in content if isinstance(part, dict) and _is_text(part)]
        return "".join(text for text in texts if isinstance(text, str))
    return content if isinstance(content, str) else ""


def _is_text(part: dict[str, Any]) -> bool:
    return part.get("type", "text") in ("text", "output_text")


def _has_thought(content: object) -> bool:
    return isinstance(content, list) and any(
        isinstance(part, dict) and any(part.get(name) for name in _THOUGHTS) for part in content
    )


def count(value: object, most: int = MAX_COUNT) -> int | None:
    """A count that can be true; None for any other value."""
    is_count = isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= most
    return value if is_count else None  # type: ignore[return-value]


def listed(answer: Any) -> dict[str, int]:
    """The ids in an answer to /models, with the length of each context, 0 if it is unknown.

    Raises DocumentError, whose text says what "it" is instead of a list of models.
    """
    if answer is None:
        raise DocumentError("it is null")
    models = answer.get("data") if isinstance(answer, dict) else None
    if isinstance(answer, dict) and "data" in answer and models is None:
        raise DocumentError('it lists no model: its "data" is null')
    if not isinstance(models, list):
        raise DocumentError("it is not a list of models")
    ids = {}
    for entry in models[:MAX_LISTED]:
        name = entry.get("id") if isinstance(entry, dict) else None
        if isinstance(name, str) and 0 < len(name) <= MAX_ID_CHARACTERS:
            ids[name] = count(entry.get("max_model_len")) or 0
    return ids

"""Owns the translation between a job and the OpenAI chat API: request, stream, refusals, models.

Pure: it must not know connections or processes.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Mapping
from typing import Any

from dcp.v1 import jobs_pb2

from daemon.engines import EngineError

DEFAULT_MAX_TOKENS = 256
_ROLES = ("system", "user", "assistant")
_END_OF_STREAM = "[DONE]"
MAX_LINE_BYTES = 1024 * 1024
MAX_LIST_BYTES = 1024 * 1024
MAX_MODELS = 200
_NAME = re.compile(r"[^\s\x00-\x1f\x7f\ud800-\udfff]{1,300}")


def request_body(params: jobs_pb2.JobParams) -> dict[str, Any]:
    """The body of a streaming chat request. Raises EngineError for parameters that make none."""
    body: dict[str, Any] = {
        "model": params.model,
        "messages": _messages(params),
        "max_tokens": max_tokens(params),
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if params.HasField("temperature"):
        body["temperature"] = params.temperature
    return body


def max_tokens(params: jobs_pb2.JobParams) -> int:
    """How many tokens the answer may have."""
    return params.max_tokens if params.HasField("max_tokens") else DEFAULT_MAX_TOKENS


def _messages(params: jobs_pb2.JobParams) -> list[dict[str, str]]:
    messages = [{"role": message.role, "content": message.content} for message in params.messages]
    if not messages and params.prompt:
        messages = [{"role": "user", "content": params.prompt}]
    if not messages:
        raise bad_params("The job needs params.prompt or params.messages.")
    for message in messages:
        if message["role"] not in _ROLES:
            raise bad_params(f"params.messages[].role must be one of {', '.join(_ROLES)}.")
    return messages


async def events(pieces: AsyncIterator[bytes]) -> AsyncIterator[dict[str, Any]]:
    """The JSON events of a server-sent stream, from its bytes in any pieces.

    Split at line feeds only: httpx's own line splitting also breaks at U+2028
    and its like, which an answer may contain.
    """
    rest = b""
    async for piece in pieces:
        *whole, rest = (rest + piece).split(b"\n")
        if len(rest) > MAX_LINE_BYTES:
            raise ValueError("an event without an end")
        for line in whole:
            if line.startswith(b"data:") and (text := line[5:].strip().decode()) != _END_OF_STREAM:
                yield json.loads(text)
            elif line.startswith(b"error:"):
                yield {"error": json.loads(line[6:])}


def refusal(status: int, error: Mapping[str, object], context_tokens: int) -> EngineError:
    """The message for a renter when the model server answers with an error."""
    if _is_too_long(error):
        return prompt_too_long(context_tokens)
    if 400 <= status < 500 and status not in (401, 403, 404, 408, 429):
        return bad_params("The model server refused the job's params.")
    return engine_failed()


def _is_too_long(error: Mapping[str, object]) -> bool:
    """As llama.cpp, OpenAI and vLLM say it."""
    return (
        error.get("type") == "exceed_context_size_error"
        or error.get("code") == "context_length_exceeded"
        or "maximum context length" in str(error.get("message"))
    )


def error_of(body: bytes) -> dict[str, Any]:
    """The error object of an answer; empty when there is none."""
    try:
        error = json.loads(body)["error"]
    except (ValueError, KeyError, TypeError):
        return {}
    return error if isinstance(error, dict) else {}


def prompt_too_long(context_tokens: int) -> EngineError:
    """Prompt and answer do not fit into the context; 0: its length is unknown."""
    size = f" of {context_tokens} tokens" if context_tokens else ""
    return EngineError(
        jobs_pb2.FAILURE_REASON_PROMPT_TOO_LONG,
        f"Prompt and answer do not fit into the model's context{size}: "
        "shorten params.prompt (or params.messages), or lower params.max_tokens.",
    )


def engine_failed() -> EngineError:
    """The model server broke down."""
    return EngineError(jobs_pb2.FAILURE_REASON_ENGINE_FAILED, "The provider's model server broke down.")


def bad_params(message: str) -> EngineError:
    """The job's own parameters are at fault; the message says which."""
    return EngineError(jobs_pb2.FAILURE_REASON_BAD_PARAMS, message)


def listed(answer: Any) -> dict[str, int]:
    """The names in an answer to /models, with the length of each context, 0 if it is unknown.

    Raises ValueError.
    """
    if not isinstance(answer, dict) or not isinstance(answer.get("data"), list):
        raise ValueError("the answer is not a list of models")
    listed = {}
    for entry in answer["data"][:MAX_MODELS]:
        name = entry.get("id") if isinstance(entry, dict) else None
        if isinstance(name, str) and _NAME.fullmatch(name):
            tokens = entry.get("max_model_len")
            listed[name] = tokens if isinstance(tokens, int) and 0 < tokens < 2**31 else 0
    return listed

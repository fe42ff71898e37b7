"""Owns who is at fault when a model server answers with an error, by the public texts of model servers.

Pure. Model servers share the API but not the form or the words of their errors, so the words are a table.
A renter reads our sentences and never the server's, which may hold paths, keys or prompts.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from dcp.v1 import jobs_pb2

from common import documents
from daemon.engines import EngineError, NoChatError

MAX_TEXT = 4096
BUSY = (429, 503)
_UNUSABLE = (401, 403, 404, 408)
"""Refusals of the provider's key or address; the job's parameters are not at fault."""
# Where the words of an error stand. Other fields may echo the request, whose words are the renter's.
_WORDS = ("error", "message", "msg", "detail", "details", "errors", "code", "type", "reason", "title")
_BAD_REQUEST_KINDS = ("badrequesterror", "invalid_request_error")


class Fault(Enum):
    """What an error says about a job, or about its provider."""

    PROMPT_TOO_LONG = "prompt too long"
    NO_CHAT = "no chat"
    PROVIDER = "provider"


def _words(*patterns: str) -> re.Pattern[str]:
    return re.compile("|".join(patterns), re.IGNORECASE | re.DOTALL)


# Which public texts mean what; the first row that is found counts. The comments name who writes them.
TEXTS: tuple[tuple[Fault, re.Pattern[str]], ...] = (
    (
        Fault.PROMPT_TOO_LONG,
        _words(
            r"context[_ ](length|window)[_ ]exceeded",  # OpenAI's code, and that of llama-cpp-python
            r"exceed_context_size",  # llama.cpp's type
            r"ContextWindowExceeded",  # litellm's class
            r"maximum context length",  # OpenAI, vLLM, Mistral, Ollama
            r"context (length|size|window|limit)",  # SGLang, LM Studio, llama.cpp, llama-cpp-python
            r"maximum model length",  # vLLM: "... is longer than the maximum model length of 4096"
            r"max_model_len",  # vLLM's V1 engine
            r"when (the )?context (the )?overflows",  # LM Studio: "Trying to keep the first 4500 tokens ..."
            r"maximum (allowed|input|prompt) length",  # SGLang, TensorRT-LLM
            r"prompt (is )?too (long|big|large)",  # Anthropic, llama.cpp
            r"input (\(\d+ tokens\) )?is too (long|large)",  # Bedrock, llama.cpp
            r"`?inputs`? (must have less than|tokens \+)",  # text-generation-inference
            r"reduce the length of the (messages|prompt|input)",  # OpenAI, Groq
            r"token count.{0,100}exceeds the maximum",  # Google
        ),
    ),
    (
        Fault.NO_CHAT,
        _words(
            r"does not support (chat|generate|completion)",  # Ollama: an embedding model
            r"not a chat model",  # OpenAI
            r"chat[_ ]template",  # vLLM, transformers: a model without one
        ),
    ),
    (
        Fault.PROVIDER,
        _words(
            r"no models? (is |are )?loaded",  # LM Studio
            r"model.{0,300}(not found|does not exist|is not loaded|is not available)",  # vLLM, Ollama
            r"model_not_found",  # OpenAI's code
            r"(invalid|unknown) model",  # litellm
            r"llm provider not provided",  # litellm
            r"(invalid|incorrect|missing|no) api[ _]key",  # OpenAI, litellm
            r"(unsupported|unrecognized|unknown) (parameter|request argument|field).{0,40}"
            r"(max_tokens|stream|stream_options|messages|model)\b",  # OpenAI, for what every request has
        ),
    ),
)


@dataclass(frozen=True)
class ServerError:
    """An error as a model server wrote it, whatever its form."""

    status: int
    """HTTP's status, or the code of an error in a stream; 0: not known."""
    text: str
    """All its words: code, type and message."""

    @property
    def fault(self) -> Fault | None:
        """What its words mean; None: nothing that is known."""
        return next((fault for fault, words in TEXTS if words.search(self.text)), None)


class ServerBusyError(Exception):
    """The model server loads a model or serves others; it asks to be asked again."""

    def __init__(self, retry_after_seconds: float | None = None) -> None:
        super().__init__("the model server is busy")
        self.retry_after_seconds = retry_after_seconds


def error_of_body(status: int, body: bytes) -> ServerError:
    """The error in an answer with a bad status."""
    try:
        document = documents.parse(body)
    except documents.DocumentError:
        document = body.decode("utf-8", "replace")
    return ServerError(status, _text_of(document))


def error_of_event(event: Mapping[str, Any]) -> ServerError | None:
    """The error that an event of a stream carries; None: it carries none."""
    error = event.get("error")
    if not error and event.get("object") != "error":
        return None
    inner = error if isinstance(error, dict) else {}
    # The inner code is often a word, and the outer one the number.
    status = _number(inner.get("code")) or _number(event.get("code")) or _number(inner.get("status"))
    kind = str(inner.get("type") or event.get("type")).lower()
    if not status and kind in _BAD_REQUEST_KINDS:
        status = 400
    return ServerError(status, _text_of(dict(event)))


def refusal(error: ServerError, context_tokens: int) -> EngineError:
    """The end of a job that the model server refused; `context_tokens` 0: not known."""
    if error.fault is Fault.PROMPT_TOO_LONG:
        return prompt_too_long(context_tokens)
    if error.fault is Fault.NO_CHAT:
        return NoChatError("The provider's model does not answer chat requests.")
    is_bad_request = 400 <= error.status < 500 and error.status not in (*_UNUSABLE, *BUSY)
    if is_bad_request and error.fault is not Fault.PROVIDER:
        return bad_params("The model server refused the job's params.")
    return engine_failed()


def prompt_too_long(context_tokens: int) -> EngineError:
    """Prompt and answer do not fit into the context; 0: its length is unknown."""
    size = f" of {context_tokens} tokens" if context_tokens else ""
    return EngineError(
        jobs_pb2.FAILURE_REASON_PROMPT_TOO_LONG,
        f"Prompt and answer do not fit into the model's context{size}: "
        "shorten params.prompt (or params.messages), or lower params.max_tokens.",
    )


def text_too_long(context_tokens: int) -> EngineError:
    """A text to embed does not fit into the context; 0: its length is unknown."""
    size = f" of {context_tokens} tokens" if context_tokens else ""
    return EngineError(
        jobs_pb2.FAILURE_REASON_PROMPT_TOO_LONG,
        f"A text does not fit into the model's context{size}: send shorter ones.",
    )


def no_answer(max_tokens: int) -> EngineError:
    """The model spent all its tokens before it wrote any text."""
    return EngineError(
        jobs_pb2.FAILURE_REASON_NO_ANSWER,
        f"The model wrote no answer within params.max_tokens ({max_tokens}), "
        "for example because it spent them on thinking: raise params.max_tokens.",
    )


def engine_failed() -> EngineError:
    """The model server broke down."""
    return EngineError(jobs_pb2.FAILURE_REASON_ENGINE_FAILED, "The provider's model server broke down.")


def engine_busy() -> EngineError:
    """The model server stayed busy: another provider may have the job."""
    text = "The provider's model server is busy."
    return EngineError(jobs_pb2.FAILURE_REASON_ENGINE_BUSY, text, gives_back=True)


def bad_params(message: str) -> EngineError:
    """The job's own parameters are at fault; the message says which."""
    return EngineError(jobs_pb2.FAILURE_REASON_BAD_PARAMS, message)


def _number(code: object) -> int:
    """A status from a code, which may be a number, a number in quotes, or a word."""
    text = str(code) if not isinstance(code, bool) else ""
    return int(text) if text.isascii() and text.isdigit() and len(text) == 3 else 0


def _text_of(document: object) -> str:
    """The words of an error, wherever they stand in its document; at most 4,096 characters."""
    words: list[str] = []
    pending = [document]
    while pending and len(words) < 100:
        match pending.pop(0):
            case str(text):
                words.append(text[:MAX_TEXT])
            case dict(fields):
                pending += [fields[name] for name in _WORDS if name in fields]
            case list(items):
                pending += items[:20]
    return " ".join(words)[:MAX_TEXT]

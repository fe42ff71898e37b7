"""What the requests of `/v1` are to the server: conversations, or texts to embed."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import orjson
from dcp.v1 import chats_pb2

from gateway.dialects import Asked
from gateway.dialects.chunks import Gathered, Reader
from gateway.dialects.openai_embeddings import Texts

Values = dict[str, Any]
Submission = chats_pb2.SubmitChatRequest | chats_pb2.SubmitEmbeddingsRequest


class Work(NamedTuple):
    """How one kind of request becomes a job, and how the lines of its answer are read."""

    method: str
    """Of ChatService."""
    submission: Callable[[Any, str], Submission]
    """The request of the server for what was asked, under an idempotency key."""
    reader: Callable[[], Callable[[str], Values | None]]
    """What reads the lines of one answer; it gives None for a line that says nothing."""
    gather: Callable[[Iterable[Values]], Sequence[Values]]
    """The whole of all lines."""
    output: str
    """What its models write, as lists of models say it."""
    does: str
    """What its model does, in a sentence."""
    does_not: str
    do: str
    at: str
    """Where it is asked for."""


def _chat(asked: Asked, key: str) -> Submission:
    return chats_pb2.SubmitChatRequest(
        model=asked.model,
        request=orjson.dumps(asked.chat),
        max_tokens=asked.max_tokens,
        cache_key=hashlib.sha256(asked.cache_key.encode()).hexdigest() if asked.cache_key else "",
        idempotency_key=key,
    )


def _choices(chunks: Iterable[Values]) -> Sequence[Values]:
    gathered = Gathered()
    for chunk in chunks:
        gathered.add(chunk)
    return gathered.choices


def _embeddings(asked: Texts, key: str) -> Submission:
    return chats_pb2.SubmitEmbeddingsRequest(
        model=asked.model, request=orjson.dumps(asked.given), idempotency_key=key
    )


def _vector(line: str) -> Values | None:
    """The vector in a line of a job's output, which the server has looked at."""
    try:
        found = orjson.loads(line)
    except orjson.JSONDecodeError:
        return None
    return found if isinstance(found, dict) and isinstance(found.get("embedding"), str) else None


CHATS = Work(
    "SubmitChat",
    _chat,
    lambda: Reader().read,
    _choices,
    "text",
    "answers chats",
    "answers no chats",
    "answer chats",
    "/v1/chat/completions",
)
EMBEDDINGS = Work(
    "SubmitEmbeddings",
    _embeddings,
    lambda: _vector,
    list,
    "embeddings",
    "makes embeddings",
    "makes no embeddings",
    "make embeddings",
    "/v1/embeddings",
)
WORKS = (CHATS, EMBEDDINGS)

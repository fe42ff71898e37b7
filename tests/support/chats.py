"""Chats as daemons get and answer them: the conversation of an offer, and the lines of an output."""

from __future__ import annotations

import json
from typing import Any

from dcp.v1 import sessions_pb2


def chunk(reason: str | None = None, *, index: int = 0, **delta: Any) -> dict[str, Any]:
    """What a model server's event says."""
    return {"choices": [{"index": index, "delta": delta, "finish_reason": reason}]}


def line(reason: str | None = None, *, index: int = 0, **delta: Any) -> bytes:
    """The same as a line of an output."""
    return json.dumps(chunk(reason, index=index, **delta), ensure_ascii=False).encode() + b"\n"


def texts_of(offer: sessions_pb2.JobOffer) -> list[str]:
    """The texts of a job that is offered, whichever way it came."""
    if offer.chat_request:
        return [message["content"] for message in json.loads(offer.chat_request)["messages"]]
    return [offer.params.prompt] if offer.params.prompt else [each.content for each in offer.params.messages]


def answer_to(offer: sessions_pb2.JobOffer, text: str) -> bytes:
    """An output that answers a job with a text."""
    return line("stop", content=text) if offer.chat_request else text.encode()

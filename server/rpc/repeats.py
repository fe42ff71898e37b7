"""Idempotency keys at the wire: the owner of a key, the digest of its request, the encoding of answers."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from google.protobuf.message import Message

from server.rpc.interceptors import caller
from server.services.repeats import Repeated, Request, keeping

T = TypeVar("T")
M = TypeVar("M", bound=Message)


async def once(request: Any, done: Awaitable[T], kind: type[M], answer: Callable[[T], M]) -> M:
    """Awaits a use case and builds the ``answer``; a repeated request under its key gets the first answer.

    ``answer`` runs inside the transaction, so it must use only the use case's result.
    """
    if not request.idempotency_key:
        return answer(await done)
    who = caller()
    kept = Request(
        f"{who.role} {who.id}",
        request.idempotency_key,
        _digest(request),
        lambda value: answer(value).SerializeToString(),
    )
    try:
        with keeping(kept):
            return answer(await done)
    except Repeated as repeated:
        return kind.FromString(repeated.answer)


def _digest(request: Message) -> bytes:
    """A digest that distinguishes two requests under one key, including those of two methods."""
    named = f"{request.DESCRIPTOR.full_name} ".encode()
    return hashlib.sha256(named + request.SerializeToString(deterministic=True)).digest()

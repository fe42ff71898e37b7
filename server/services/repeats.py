"""Requests that are sent twice under one Idempotency-Key: the effect once, the first answer again.

The edge opens a ``Request`` around a use case; the use case runs its transaction through ``once``. The
key, the effect and the answer are then one transaction: a server that dies in between has done nothing,
and a caller that asks again finds either all of it or none. What is refused does not use its key up.

Submits have keys of their own, older and kept for good with the job: the same key gives the same job, as
it is by then (server.services.jobs).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

from server.domain.errors import DomainError, Reason
from server.store import repeats

T = TypeVar("T")
KEEP_MS = 24 * 3600 * 1000


class Repeated(Exception):  # noqa: N818  (no error: the answer is ready)
    """The request was answered before; ``answer`` is that answer, as it was encoded."""

    def __init__(self, answer: bytes) -> None:
        super().__init__()
        self.answer = answer


class Request:
    """One request under a key: whose it is, what tells its body from another, and how answers are kept."""

    def __init__(self, owner: str, key: str, digest: bytes, encode: Callable[[Any], bytes]) -> None:
        self.owner = owner
        self.key = key
        self.digest = digest
        self.encode = encode
        self.was_kept = False
        """The use case has run its transaction through ``once``."""


_present: ContextVar[Request | None] = ContextVar("request_under_a_key", default=None)


@contextmanager
def keeping(request: Request) -> Iterator[None]:
    """The present call is this request. Raises AssertionError after a use case that forgot ``once``."""
    token = _present.set(request)
    try:
        yield
    finally:
        _present.reset(token)
    assert request.was_kept, "a use case that takes an Idempotency-Key must run its transaction through once"


def once(work: Callable[[], T], now_ms: int) -> Callable[[], T]:
    """``work`` as it is to run in its transaction: under the present request's key, if it has one.

    What it returns is encoded and kept as the answer. It raises Repeated instead of running again, and
    IDEMPOTENCY_CLASH where the key was used for something else.
    """
    request = _present.get()
    if request is None:
        return work
    request.was_kept = True

    def run() -> T:
        while not repeats.claim(request.owner, request.key, request.digest, now_ms):
            if earlier := repeats.find(request.owner, request.key):  # else its time was just over
                raise _repeated(request, *earlier)
        value = work()
        repeats.remember(request.owner, request.key, request.encode(value))
        return value

    return run


def _repeated(request: Request, digest: bytes, answer: bytes) -> Exception:
    if digest == request.digest:
        return Repeated(answer)
    return DomainError(
        Reason.IDEMPOTENCY_CLASH,
        "Idempotency-Key: this key was used for another request in the last 24 hours; use a new key",
        field="Idempotency-Key",
    )

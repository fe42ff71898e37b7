"""Idempotency: a request that is sent again under its Idempotency-Key gets the first answer, without effect.

The edge opens a ``Request`` around a use case; the use case runs its transaction through ``once``. The
key, the effect and the answer are then stored in one transaction: after a crash in between nothing was done,
and a caller that repeats the request finds either all of it or none. A refused request does not use its key.

Submits have their own keys, which are stored with the job for good: the same key returns the same job in its
current state (server.services.jobs).
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


class Repeated(Exception):  # noqa: N818  (not an error: the answer is ready)
    """The request was answered before; ``answer`` is that answer, encoded."""

    def __init__(self, answer: bytes) -> None:
        super().__init__()
        self.answer = answer


class Request:
    """One request under a key: the key's owner, the digest of the request, and how its answer is encoded."""

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
    """Sets the current call's request. Raises AssertionError if the use case did not run ``once``."""
    token = _present.set(request)
    try:
        yield
    finally:
        _present.reset(token)
    assert request.was_kept, "a use case that takes an Idempotency-Key must run its transaction through once"


def once(work: Callable[[], T], now_ms: int) -> Callable[[], T]:
    """Wraps ``work``, which runs in a transaction, so that it runs only once under the current request's key.

    The return value is encoded and stored as the answer. Raises Repeated instead of running again, and
    IDEMPOTENCY_CLASH if the key was used for another request.
    """
    request = _present.get()
    if request is None:
        return work
    request.was_kept = True

    def run() -> T:
        while not repeats.claim(request.owner, request.key, request.digest, now_ms):
            if earlier := repeats.find(request.owner, request.key):  # None: it has just expired
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

"""Owns what is decided about a request without sending it: its parts, and whether and when it is repeated.

It has no I/O, so the synchronous and the asynchronous client share it. Clock and chance are arguments.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Callable
from urllib.parse import quote

USER_AGENT = "dcp-client/0.1.0"
IDEMPOTENCY_HEADER = "Idempotency-Key"

# Refused before anything was done, so every request may be repeated after them.
_REFUSED = frozenset({"RATE_LIMITED", "OVERLOADED"})
_TRANSIENT = frozenset({500, 502, 503, 504})
_FIRST_PAUSE_SECONDS = 0.25
_LONGEST_PAUSE_SECONDS = 20.0


@dataclass(frozen=True)
class Call:
    """A request of the API.

    ``repeat``: `always` or `harmless`: it may be sent again; `keyed`: with the same idempotency key, which is
    drawn if the caller has none; `secret`: never, since its answer could not be had again.
    """

    verb: str
    path: str
    query: Mapping[str, Any] = field(default_factory=dict)
    body: Any = None
    repeat: str = "always"
    key: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    content: Callable[[], Any] | None = None
    """Makes the raw bytes of the body, for each attempt anew; they are sent in the place of ``body``."""

    @property
    def may_repeat(self) -> bool:
        """Whether it may be sent again when nobody knows whether it took effect."""
        return self.repeat != "secret"

    def all_headers(self) -> dict[str, str]:
        """Its headers, with an idempotency key where it needs one. Call it once for all attempts."""
        headers = {"Accept": "application/json", **self.headers}
        if self.repeat == "keyed":
            headers[IDEMPOTENCY_HEADER] = self.key or f"dcp-client-{secrets.token_hex(16)}"
        return headers

    def parameters(self) -> dict[str, Any]:
        """The query without what is not set; a truth value is `true` or `false`."""
        return {name: _text(value) for name, value in self.query.items() if value is not None}


def _text(value: Any) -> Any:
    return str(value).lower() if isinstance(value, bool) else value


def path_of(template: str, **values: object) -> str:
    """The path with its fields filled in. A slash in a value stays, since names of files have them."""
    return template.format(**{name: quote(str(value), safe="/") for name, value in values.items()})


def page_of(page: Any, cursors: Iterable[tuple[str, str]]) -> dict[str, Any] | None:
    """The query of the next page; None after the last one."""
    for parameter, name in cursors:
        if value := getattr(page, name):
            return {parameter: value}
    return None


@dataclass(frozen=True)
class Retries:
    """How often and how long a client tries again."""

    attempts: int = 6
    """The greatest number of attempts, with the first."""
    longest_wait_seconds: float = 60.0
    """A wait that the market asks for and that is longer than this is an error for the caller instead."""

    def pause(
        self, call: Call, attempt: int, failure: Failure | None, chance: float, is_cut: bool = False
    ) -> float | None:
        """How long to wait before the next attempt, in seconds; None: do not try again.

        ``failure`` is an answer; without one the connection failed: before the request was sent or, with
        ``is_cut``, after. ``chance`` is from 0 to 1: clients that failed together do not come back together.
        """
        if attempt >= self.attempts or (is_cut and not call.may_repeat):
            return None
        if failure is not None and not failure.is_transient(call):
            return None
        own = chance * min(_LONGEST_PAUSE_SECONDS, _FIRST_PAUSE_SECONDS * (1 << attempt))
        asked = failure.retry_after if failure is not None else None
        if asked is None:
            return own
        return None if asked > self.longest_wait_seconds else asked + own


@dataclass(frozen=True)
class Failure:
    """An answer that is an error."""

    status: int
    reason: str
    retry_after: float | None

    def is_transient(self, call: Call) -> bool:
        """Whether the same request may succeed later."""
        if self.status == 429 or self.reason in _REFUSED:
            # A budget or a limit of the account is 429 as well; waiting does not help there.
            return self.retry_after is not None or self.reason in _REFUSED
        return self.status in _TRANSIENT and call.may_repeat and self.reason != "ADMIN_NOT_CONFIGURED"


def retry_after(header: str | None) -> float | None:
    """The seconds in a `Retry-After`; None without one. The market sends seconds, never a date."""
    try:
        return max(0.0, float(header)) if header else None
    except ValueError:
        return None

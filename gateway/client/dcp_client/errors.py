"""Owns the exceptions: one base, one class per reason of the API, and what has no reason; no HTTP."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dcp_client.generated.models import ErrorFacts
from dcp_client.reading import MalformedError


class DCPError(Exception):
    """The base of all errors of this package."""


class ConnectionFailedError(DCPError):
    """The market could not be reached, or the connection broke and the request could not be repeated.

    ``is_unknown``: the request may have taken effect, and would take effect once more if it is sent anew.
    """

    def __init__(self, text: str, *, is_unknown: bool = False) -> None:
        super().__init__(text)
        self.is_unknown = is_unknown


class ResponseError(DCPError):
    """The market answered something that is not its API: the address may be wrong."""


class DigestError(DCPError):
    """A downloaded file differs from the one that the market listed. It was deleted."""


class UnsafeNameError(DCPError):
    """A file's name would lie outside the folder to which it is downloaded."""


class WaitTimeoutError(DCPError):
    """A job had not ended in the time for which the caller waited. It goes on."""


class SettingError(DCPError):
    """A setting of the client is wrong; the text names it and the remedy."""


class APIError(DCPError):
    """An error that the market answered.

    ``reason`` is stable, ``message`` is a sentence for people with the field and the remedy. A reason that is
    newer than this client has no class of its own: it is an APIError.
    """

    REASON = ""
    """The reason of which this is the class."""

    def __init__(self, status: int, message: str, reason: str, facts: ErrorFacts) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.reason = reason
        self.facts = facts

    @property
    def field(self) -> str | None:
        """The field of the request that the error is about."""
        return self.facts.field or None

    @property
    def retry_after_seconds(self) -> int | None:
        """When to try again, if the market says so."""
        return self.facts.retry_after_seconds


def from_answer(status: int, answer: Any, classes: Mapping[str, type[APIError]]) -> APIError:
    """The error in an answer, in the form of `/api` or of `/v1`. Raises ResponseError."""
    inner = answer.get("error") if isinstance(answer, dict) else None
    if isinstance(inner, dict):  # at /v1
        text, reason, values = inner.get("message"), inner.get("reason"), {"field": inner.get("param")}
    elif isinstance(answer, dict):
        text, reason, values = inner, answer.get("code"), answer
    else:
        text = None
    if not isinstance(text, str) or not isinstance(reason, str):
        raise ResponseError(f"the market answered {status} without an error of its API")
    try:
        facts = ErrorFacts.from_json(values)
    except MalformedError:
        facts = ErrorFacts()
    return classes.get(reason, APIError)(status, text, reason, facts)


def classes_of(names: Mapping[str, Any]) -> dict[str, type[APIError]]:
    """The classes of errors among the names of a module, by reason."""
    found = (each for each in names.values() if isinstance(each, type) and issubclass(each, APIError))
    return {each.REASON: each for each in found if each.REASON}

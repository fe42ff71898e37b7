"""Errors as OpenAI's API writes them, and what is common to the errors of all dialects."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import orjson

from gateway.errors import ApiError

Values = dict[str, Any]

_WITHIN = re.compile(r"\b(?:params|request)\.(?=\w)")
_TYPES: Mapping[int, str] = {
    401: "authentication_error",
    402: "insufficient_quota",
    403: "permission_error",
    429: "rate_limit_error",
}
_CODES: Mapping[str, str] = {
    "INSUFFICIENT_BALANCE": "insufficient_quota",
    "BUDGET_REACHED": "insufficient_quota",
    "MISSING_CREDENTIAL": "invalid_api_key",
    "INVALID_CREDENTIAL": "invalid_api_key",
    "WRONG_ROLE": "invalid_api_key",
    "MODEL_NOT_SERVED": "model_not_found",
    "MODEL_NOT_FOUND": "model_not_found",
    "RATE_LIMITED": "rate_limit_exceeded",
    "PROMPT_TOO_LONG": "context_length_exceeded",
}
# Repeating these heals nothing, but clients repeat 409 by themselves.
_NOT_AGAIN = (402, 409, 410)
STATUSES: Mapping[str, int] = {"MODEL_NOT_SERVED": 404, "PROVIDER_UNAVAILABLE": 503}
"""Of the reasons that have another one in OpenAI's APIs."""


def invalid(name: str, text: str) -> ApiError:
    """The error of a field; the text says what is wrong and the remedy, without the name."""
    return ApiError("INVALID_FIELD", f"{name} {text}.", field=name)


def told(error: ApiError, request_id: str) -> tuple[str, str | None]:
    """The text of an error, and the field it names; a failure of ours with what to look it up by."""
    text = error.text if error.code != "INTERNAL" else f"{error.text} request_id: {request_id}"
    name = error.facts.get("field")
    return _WITHIN.sub("", text), _WITHIN.sub("", name) if isinstance(name, str) else None


def headers_of(error: ApiError, status: int) -> list[tuple[str, str]]:
    """The headers of an error's response: when to come again, or that it has no sense."""
    headers = [(name, value) for name, value in error.headers if name != "retry-after"]
    if status in (429, 503, 529):
        headers.append(("retry-after", str(error.facts.get("retry_after_seconds", 1))))
    if status in _NOT_AGAIN:
        headers.append(("x-should-retry", "false"))
    return headers


class OpenAIErrors:
    """The errors of OpenAI's APIs."""

    def status_of(self, error: ApiError) -> int:
        """The status that clients of this API expect for an error."""
        return STATUSES.get(error.code, error.status)

    def error_body(self, error: ApiError, request_id: str) -> bytes:
        """The error as this API writes it."""
        return orjson.dumps({"error": self.values(error, request_id)})

    def values(self, error: ApiError, request_id: str) -> Values:
        """The fields of an error; `reason` is our own name of it."""
        status = self.status_of(error)
        text, name = told(error, request_id)
        kind = _TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
        code = _CODES.get(error.code, error.code.lower())
        return {"message": text, "type": kind, "param": name, "code": code, "reason": error.code}

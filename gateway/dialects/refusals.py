"""Which form an error has that a path of `/v1` responds with: that of the API whose clients call it."""

from __future__ import annotations

from typing import NamedTuple

from gateway.dialects.anthropic_messages import AnthropicMessages
from gateway.dialects.openai_errors import OpenAIErrors, headers_of
from gateway.errors import ApiError

ROOT = "/v1/"
_OPENAI, _ANTHROPIC = OpenAIErrors(), AnthropicMessages()


class Refusal(NamedTuple):
    """The response of an error."""

    status: int
    body: bytes
    headers: list[tuple[str, str]]


def refusal(path: str, error: ApiError, request_id: str) -> Refusal:
    """The response of an error at a path."""
    if not path.startswith(ROOT):
        return Refusal(error.status, error.body(request_id), error.headers)
    form = _ANTHROPIC if path.startswith("/v1/messages") else _OPENAI
    status = form.status_of(error)
    return Refusal(status, form.error_body(error, request_id), headers_of(error, status))

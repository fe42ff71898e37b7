# Generated from dcp_client/aio by scripts/generate; edit that instead.
"""Owns chats in the form of OpenAI's API at `/v1`, streamed. They have no schema of ours."""

from __future__ import annotations

from collections.abc import Iterator, Callable, Mapping, Sequence
from typing import Any

import httpx
from dcp_client import errors
from dcp_client.generated.sync_transport import Transport
from dcp_client.calls import Call
from dcp_client.errors import ConnectionFailedError, ResponseError
from dcp_client.events import Parser
from dcp_client.generated.reasons import BY_REASON
from dcp_client.reading import MalformedError, loads


class Chat:
    """Chats with a model."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def stream(
        self,
        model: str,
        messages: Sequence[Mapping[str, Any]],
        *,
        max_tokens: int | None = None,
        temperature: float | None = None,
        on_job: Callable[[str], None] | None = None,
    ) -> Iterator[str]:
        """The pieces of an answer as they come. ``on_job`` is called with the id of its job.

        Until the first one, a request whose connection broke is sent again and joins the same job. After it,
        a cut raises ConnectionFailedError.
        """
        body = {
            "model": model,
            "messages": list(messages),
            "stream": True,
            "max_tokens": max_tokens,
            "temperature": temperature,
        }
        call = Call(
            "POST",
            "/v1/chat/completions",
            body={name: value for name, value in body.items() if value is not None},
            repeat="keyed",
            headers={"Accept": "text/event-stream"},
        )
        parser = Parser()
        try:
            with self._transport.stream(call) as answer:
                if on_job is not None:
                    on_job(answer.headers.get("x-request-id", ""))
                for line in answer.iter_lines():
                    for message in parser.feed(line):
                        if message.data == "[DONE]":
                            return
                        if text := _piece(message.data):
                            yield text
        except httpx.HTTPError as error:
            raise ConnectionFailedError(f"the answer broke off ({error or type(error).__name__})") from error
        raise ConnectionFailedError("the answer broke off before its end")


def _piece(data: str) -> str:
    """The text in a chunk. Raises the error that the market sends in a stream."""
    try:
        chunk: Any = loads(data.encode())
        if "error" in chunk:
            raise errors.from_answer(200, chunk, BY_REASON)
        choices = chunk["choices"]
        text = choices[0]["delta"].get("content") if choices else ""
    except (MalformedError, LookupError, TypeError, AttributeError) as error:
        raise ResponseError("a part of the answer is not in the form of OpenAI's API") from error
    return text if isinstance(text, str) else ""

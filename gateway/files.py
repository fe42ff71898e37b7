"""Owns responses that are files: it relays a stream of gRPC messages as an HTTP response of known length.

The first message describes the file (a `FileHead`); the later ones carry its bytes. A message is read only
after the previous one was sent, so a slow reader costs no memory. It knows no single RPC. A failure before
the first byte becomes a normal error; a later failure breaks the connection, so that a client cannot
mistake a part of a file for the whole file.
"""

from __future__ import annotations

import asyncio
import re
from typing import Any
from urllib.parse import quote

import grpc
from dcp.v1 import artifacts_pb2, options_pb2
from starlette.types import Receive, Scope, Send

from gateway.errors import ApiError
from gateway.limits import STALLED_SECONDS

_MEDIA_TYPE = re.compile(r"[A-Za-z0-9][\w.+-]{0,100}/[A-Za-z0-9][\w.+-]{0,100}", re.ASCII)
_UNSAFE_IN_NAME = re.compile(r"[^A-Za-z0-9._ ()+=@~-]")
# The characters of RFC 8187's attr-char that quote() would escape.
_ATTRIBUTE_CHARACTERS = "!#$&+^`|"


class BrokenOffError(Exception):
    """A file ended before its announced length, or its reader or the server stalled."""


class FileRelay:
    """Sends the file that an RPC responds with."""

    def __init__(self, rule: options_pb2.RawBody, deadline_seconds: float) -> None:
        self._head_field = rule.head_field
        self._data_field = rule.data_field
        self._deadline_seconds = deadline_seconds

    async def __call__(self, call: Any, scope: Scope, receive: Receive, send: Send) -> None:
        """Relays the call's response. Raises the call's exceptions, ApiError, and BrokenOffError."""
        head = await self._head(call)
        status = 206 if head.partial else 200
        await send({"type": "http.response.start", "status": status, "headers": _headers(head)})
        if scope["method"] == "HEAD":
            await send({"type": "http.response.body", "body": b""})
            return
        gone = asyncio.create_task(until_gone(receive))
        try:
            await self._relay(call, head.byte_count, send, gone)
        finally:
            gone.cancel()

    async def _head(self, call: Any) -> artifacts_pb2.FileHead:
        try:
            async with asyncio.timeout(self._deadline_seconds):
                message = await call.read()
        except TimeoutError:
            raise ApiError("TIMEOUT") from None
        if message is grpc.aio.EOF or not message.HasField(self._head_field):
            raise BrokenOffError("the response has no head")
        head: artifacts_pb2.FileHead = getattr(message, self._head_field)
        return head

    async def _relay(self, call: Any, remaining: int, send: Send, gone: asyncio.Task[None]) -> None:
        try:
            while remaining and not gone.done():
                async with asyncio.timeout(STALLED_SECONDS):
                    message = await call.read()
                    data = b"" if message is grpc.aio.EOF else getattr(message, self._data_field)
                    if not data or len(data) > remaining:
                        raise BrokenOffError("the file does not have its announced length")
                    remaining -= len(data)
                    # Waits until the reader has taken the previous data.
                    await send({"type": "http.response.body", "body": data, "more_body": True})
        except TimeoutError:
            raise BrokenOffError(f"no bytes were transferred for {STALLED_SECONDS:.0f} s") from None
        if not remaining:
            await send({"type": "http.response.body", "body": b""})


async def until_gone(receive: Receive) -> None:
    """Waits until the client has disconnected, or the response is complete."""
    while (await receive())["type"] != "http.disconnect":
        pass


def _headers(head: artifacts_pb2.FileHead) -> list[tuple[bytes, bytes]]:
    media_type = head.content_type if _MEDIA_TYPE.fullmatch(head.content_type) else "application/octet-stream"
    headers = {
        "content-type": media_type,
        "content-length": str(head.byte_count),
        "content-disposition": attachment(head.name),
        "accept-ranges": "bytes",
        "etag": head.etag,
        # The file is the caller's own; a browser can resume a download only if it may store the first part.
        "cache-control": "private, no-cache",
        # A job's file is untrusted and must not run as a page on our origin.
        "content-security-policy": "sandbox; default-src 'none'",
    }
    if head.partial:
        last = head.first_byte + head.byte_count - 1
        headers["content-range"] = f"bytes {head.first_byte}-{last}/{head.size_bytes}"
    return [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]


def attachment(name: str) -> str:
    """The Content-Disposition header that makes a browser save the file under the last part of its name."""
    last = name.rpartition("/")[2]
    plain = _UNSAFE_IN_NAME.sub("_", last)
    header = f'attachment; filename="{plain}"'
    if plain != last:
        header += f"; filename*=UTF-8''{quote(last, safe=_ATTRIBUTE_CHARACTERS)}"
    return header

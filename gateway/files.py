"""Owns answers that are files: a stream of messages on one side, a response of known length on the other.

The first message tells of the file (a `FileHead`), those after it carry its bytes; one is read when the
one before it has left, so that a slow reader costs no memory. It knows no single RPC. What fails before
the first byte is an error like any other; what fails later breaks the connection, so that nobody takes
half a file for a whole one.
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

STALLED_SECONDS = 60.0
"""A server that sends nothing, or a reader that takes nothing, for so long is given up."""

_MEDIA_TYPE = re.compile(r"[A-Za-z0-9][\w.+-]{0,100}/[A-Za-z0-9][\w.+-]{0,100}", re.ASCII)
_UNSAFE_IN_NAME = re.compile(r"[^A-Za-z0-9._ ()+=@~-]")
# The characters of RFC 8187's attr-char that quote() would escape.
_ATTRIBUTE_CHARACTERS = "!#$&+^`|"


class BrokenOffError(Exception):
    """A file ended before its announced length, or its reader or the server stands still."""


class FileRelay:
    """Sends the file that one RPC answers with."""

    def __init__(self, rule: options_pb2.RawBody, deadline_seconds: float) -> None:
        self._head_field = rule.head_field
        self._data_field = rule.data_field
        self._deadline_seconds = deadline_seconds

    async def __call__(self, call: Any, scope: Scope, receive: Receive, send: Send) -> None:
        """Relays the call's answer. Raises what the call raises, ApiError, and BrokenOffError."""
        head = await self._head(call)
        status = 206 if head.partial else 200
        await send({"type": "http.response.start", "status": status, "headers": _headers(head)})
        if scope["method"] == "HEAD":
            await send({"type": "http.response.body", "body": b""})
            return
        gone = asyncio.create_task(_until_gone(receive))
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
            raise BrokenOffError("the answer has no head")
        head: artifacts_pb2.FileHead = getattr(message, self._head_field)
        return head

    async def _relay(self, call: Any, left: int, send: Send, gone: asyncio.Task[None]) -> None:
        try:
            while left and not gone.done():
                async with asyncio.timeout(STALLED_SECONDS):
                    message = await call.read()
                    data = b"" if message is grpc.aio.EOF else getattr(message, self._data_field)
                    if not data or len(data) > left:
                        raise BrokenOffError("the file is not as long as it was announced")
                    left -= len(data)
                    # Waits while the reader has not taken what was sent before.
                    await send({"type": "http.response.body", "body": data, "more_body": True})
        except TimeoutError:
            raise BrokenOffError(f"nothing moved for {STALLED_SECONDS:.0f} s") from None
        if not left:
            await send({"type": "http.response.body", "body": b""})


async def _until_gone(receive: Receive) -> None:
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
        # It is the caller's own, and a browser may go on with it only if it may keep the first part.
        "cache-control": "private, no-cache",
        # A stranger's file must not run as a page on our origin, whatever opens it.
        "content-security-policy": "sandbox; default-src 'none'",
    }
    if head.partial:
        last = head.first_byte + head.byte_count - 1
        headers["content-range"] = f"bytes {head.first_byte}-{last}/{head.size_bytes}"
    return [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]


def attachment(name: str) -> str:
    """The header that lets a browser save a file under the last part of its name (RFC 6266)."""
    last = name.rpartition("/")[2]
    plain = _UNSAFE_IN_NAME.sub("_", last)
    header = f'attachment; filename="{plain}"'
    if plain != last:
        header += f"; filename*=UTF-8''{quote(last, safe=_ATTRIBUTE_CHARACTERS)}"
    return header

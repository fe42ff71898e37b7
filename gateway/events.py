"""Owns responses that are streams of events: it relays a stream of gRPC messages as server-sent events.

The name of an event is the name of the field of the message's oneof that is set, and its data is that field;
its id is the field that `event_id_field` names. It knows no single RPC. A failure before the first message
becomes a normal error; a later one is sent as an event `error` and breaks the connection. How a stream ends,
its messages say: a broken one never looks whole. A stream without a message is answered with 204, which tells
a browser to come no more.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable
from typing import Any

import grpc
import orjson
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from starlette.types import Receive, Scope, Send

from common.json_form import message_writer
from gateway import errors
from gateway.edge import CUT, respond
from gateway.errors import ApiError
from gateway.exchanges import IS_STREAM
from gateway.files import BrokenOffError, until_gone
from gateway.limits import EVENT_COMMENT_SECONDS, EVENT_RETRY_MILLISECONDS

log = logging.getLogger(__name__)

MEDIA_TYPE = "text/event-stream"
COMMENT = b":\n\n"
HEADERS = [
    (b"content-type", MEDIA_TYPE.encode()),
    (b"cache-control", b"no-store"),
    # Or nginx and others would wait until they have a buffer full of events.
    (b"x-accel-buffering", b"no"),
]


def event_writer(message: Descriptor, id_field: str) -> Callable[[Any], bytes]:
    """Returns what writes messages of a type as events. A message without an event becomes a comment."""
    oneof = next((o.name for o in message.oneofs if len(o.fields) > 1), "")
    whole = message_writer(message)
    kinds = message.oneofs_by_name[oneof].fields if oneof else ()
    parts = {f.name: message_writer(_message(f)) for f in kinds}

    def write(answer: Any) -> bytes:
        name = answer.WhichOneof(oneof) if oneof else ""
        if name is None:
            return COMMENT
        data = parts[name](getattr(answer, name)) if name else whole(answer)
        return event(name, data, getattr(answer, id_field) if id_field else "")

    return write


def _message(field: FieldDescriptor) -> Descriptor:
    """The type of an event. Raises ValueError for one that is no message."""
    if field.message_type is None:
        raise ValueError(f"{field.full_name}: this gateway sends only messages as events")
    return field.message_type


def event(name: str, data: Any, event_id: str = "") -> bytes:
    """One event. JSON has no line ends, so its data is a single line."""
    lines = [f"id: {event_id}"] if event_id else []
    lines += [f"event: {name}"] if name else []
    return "".join(f"{line}\n" for line in lines).encode() + b"data: " + orjson.dumps(data) + b"\n\n"


class EventRelay:
    """Sends the events that an RPC responds with, each as soon as the reader has taken the one before."""

    def __init__(self, message: Descriptor, id_field: str, deadline_seconds: float) -> None:
        self._write = event_writer(message, id_field)
        self._deadline_seconds = deadline_seconds

    async def __call__(self, call: Any, scope: Scope, receive: Receive, send: Send) -> None:
        """Relays the call's response. Raises the call's exceptions before the first message, and ApiError."""
        first = await self._first(call)
        if first is grpc.aio.EOF:
            await respond(send, 204, b"")
            return
        scope[IS_STREAM] = True
        await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
        if scope["method"] == "HEAD":
            await send({"type": "http.response.body", "body": b""})
            return
        # The readers of a server that restarts must not come back all at once.
        least, most = EVENT_RETRY_MILLISECONDS
        retry = f"retry: {least + secrets.randbelow(most - least)}\n\n"
        await send_part(send, retry.encode() + self._write(first))
        gone = asyncio.create_task(until_gone(receive))
        try:
            await self._relay(call, scope, send, gone)
        finally:
            gone.cancel()

    async def _first(self, call: Any) -> Any:
        try:
            async with asyncio.timeout(self._deadline_seconds):
                return await call.read()
        except TimeoutError:
            raise ApiError("TIMEOUT") from None

    async def _relay(self, call: Any, scope: Scope, send: Send, gone: asyncio.Task[None]) -> None:
        reading = asyncio.create_task(call.read())
        try:
            while not gone.done():
                # The read itself is never given up while the reader is there: that would end the call.
                await asyncio.wait(
                    (reading, gone), timeout=EVENT_COMMENT_SECONDS, return_when="FIRST_COMPLETED"
                )
                if not reading.done():
                    await send_part(send, COMMENT)
                    continue
                message = reading.result()
                if message is grpc.aio.EOF:
                    await send({"type": "http.response.body", "body": b""})
                    return
                await send_part(send, self._write(message))
                reading = asyncio.create_task(call.read())
        except grpc.aio.AioRpcError as error:
            await self._break_off(error, scope, send, gone)
        finally:
            # The read ends with its call: a read that is cancelled leaks its message (grpc/grpc#43360).
            call.cancel()
            await asyncio.gather(reading, return_exceptions=True)

    async def _break_off(
        self, error: grpc.aio.AioRpcError, scope: Scope, send: Send, gone: asyncio.Task[None]
    ) -> None:
        """Says why, and breaks the connection: a program that reads to the end must see that it is none."""
        refusal = errors.from_rpc(error)
        log.debug("a stream of events ended: request_id=%s code=%s", scope["request_id"], refusal.code)
        body = orjson.Fragment(refusal.body(scope["request_id"]))
        await break_off(scope, send, gone, event("error", body))


async def send_part(send: Send, data: bytes) -> None:
    """Sends bytes when the reader has taken most of those before."""
    await send({"type": "http.response.body", "body": data, "more_body": True})


async def break_off(scope: Scope, send: Send, gone: asyncio.Task[None], last: bytes) -> None:
    """Sends a last event and breaks the connection, so that the stream does not look whole."""
    await send_part(send, last)
    if CUT not in scope:
        raise BrokenOffError("the stream of events was broken off")
    scope[CUT]()
    await gone

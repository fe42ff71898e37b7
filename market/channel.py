"""A channel to handlers in the same process: grpc.aio's calling interface without the wire.

A caller cannot tell it from a connection: messages are copied, so that neither side sees what the other
changes; a handler runs in a task of its own, which a deadline or a caller that leaves cancels; a stream's
writer waits for its reader; errors have code, details and trailing metadata. It has what a gateway calls:
methods with one request. It knows no single method.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Generator, Iterable
from typing import Any

import grpc

from market.context import CallContext, End, Pairs, Write

log = logging.getLogger(__name__)

Find = Callable[[str], Awaitable[Any]]
"""Returns the handler of a method by its full name, such as `/dcp.v1.JobService/GetJob`, or None."""

_CLOSED = End(grpc.StatusCode.CANCELLED, "Channel closed!")
_LEFT = End(grpc.StatusCode.CANCELLED, "Locally cancelled by application!")
_STOPPED = End(grpc.StatusCode.CANCELLED, "The server stopped the call.")
_EXPIRED = End(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded")
_UNKNOWN_METHOD = End(grpc.StatusCode.UNIMPLEMENTED, "Method not found!")


class EmbeddedChannel:
    """A channel to the handlers that ``find`` returns. ``close`` ends its calls."""

    def __init__(self, find: Find) -> None:
        self._find = find
        self._calls: set[_Call] = set()
        self._is_closed = False

    def unary_unary(
        self, method: str, request_serializer: Any = None, response_deserializer: Any = None, **_: Any
    ) -> Callable[..., UnaryCall]:
        """A method that responds once."""
        return _Method(self, method, request_serializer, response_deserializer, UnaryCall)

    def unary_stream(
        self, method: str, request_serializer: Any = None, response_deserializer: Any = None, **_: Any
    ) -> Callable[..., StreamCall]:
        """A method that responds with a stream."""
        return _Method(self, method, request_serializer, response_deserializer, StreamCall)

    async def close(self) -> None:
        """Cancels the calls in progress and waits until their handlers have ended."""
        self._is_closed = True
        calls = list(self._calls)
        for call in calls:
            call.leave(_CLOSED)
        await asyncio.gather(*(call.task for call in calls), return_exceptions=True)

    def begun(self, call: _Call) -> None:
        """Remembers a call while its handler runs. Raises UsageError after the close."""
        if self._is_closed:
            raise grpc.aio.UsageError("Channel is closed.")
        self._calls.add(call)

    def over(self, call: _Call) -> None:
        """Forgets a call."""
        self._calls.discard(call)

    async def find(self, method: str) -> Any:
        """The handler of a method, or None."""
        return await self._find(method)

    async def __aenter__(self) -> EmbeddedChannel:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


class _Method:
    """One method of a channel. Calling it begins a call."""

    def __init__(
        self, channel: EmbeddedChannel, name: str, serialize: Any, deserialize: Any, kind: type[Any]
    ) -> None:
        self.channel = channel
        self.name = name
        self.serialize = serialize
        self.deserialize = deserialize
        self._kind = kind
        self._handler: Any = None

    def __call__(self, request: Any, *, timeout: float | None = None, metadata: Any = None) -> Any:
        return self._kind(self, self.serialize(request), timeout, tuple(metadata or ()))

    async def handler(self) -> Any:
        """Its handler, which is looked up once; None if there is none."""
        if self._handler is None:
            self._handler = await self.channel.find(self.name)
        return self._handler


class _Call:
    """A call in progress: the task of its handler, its deadline, and its end."""

    def __init__(self, method: _Method, request: bytes, timeout: float | None, metadata: Pairs) -> None:
        self._method = method
        self._loop = loop = asyncio.get_running_loop()
        method.channel.begun(self)
        deadline = None if timeout is None else loop.time() + timeout
        self._context = CallContext(metadata, deadline, self._writer())
        self._end: End | None = None
        self._news: asyncio.Future[None] | None = None
        self._timer = None if deadline is None else loop.call_at(deadline, self.leave, _EXPIRED)
        self.task = loop.create_task(self._serve(request))
        self.task.add_done_callback(self._forget)

    def cancel(self) -> bool:
        """Ends the call for its caller, and cancels its handler; False if it has already ended."""
        return self.leave(_LEFT)

    def leave(self, end: End) -> bool:
        """Ends the call before its handler does."""
        if self._end is not None:
            return False
        self._finish(end)
        self.task.cancel()
        return True

    async def _serve(self, request: bytes) -> None:
        """Runs the handler to its end, and reports that end to the caller."""
        try:
            handler = await self._method.handler()
            end = _UNKNOWN_METHOD if handler is None else await self._handle(handler, request)
        except grpc.aio.AbortError:
            end = self._context.end
        except asyncio.CancelledError:
            end = _STOPPED
        except Exception as fault:
            log.exception("a handler failed method=%s", self._method.name)
            end = End(grpc.StatusCode.UNKNOWN, f"Unexpected {type(fault)}: {fault}")
        self._finish(end)

    def _forget(self, _: asyncio.Task[None]) -> None:
        self._method.channel.over(self)

    async def _handle(self, handler: Any, request: bytes) -> End:
        raise NotImplementedError

    def _writer(self) -> Write:
        return _refuse_to_write

    def _finish(self, end: End) -> None:
        if self._end is not None:
            return
        self._end = end
        if self._timer is not None:
            self._timer.cancel()
        self._context.ended(end)
        self._wake()

    async def _wait(self) -> None:
        """Waits for a message or the end. A caller that is cancelled meanwhile leaves the call."""
        self._news = self._loop.create_future()
        try:
            await self._news
        except asyncio.CancelledError:
            self.cancel()
            raise
        finally:
            self._news = None

    def _wake(self) -> None:
        if self._news is not None and not self._news.done():
            self._news.set_result(None)

    def _raise_unless_ok(self, end: End) -> None:
        if end is _LEFT:
            raise asyncio.CancelledError
        if end.code is not grpc.StatusCode.OK:
            raise grpc.aio.AioRpcError(
                end.code, _metadata(self._context.initial), _metadata(end.trailing), end.details
            )


class UnaryCall(_Call):
    """A call that is awaited for its response."""

    _response: bytes

    def __await__(self) -> Generator[Any, None, Any]:
        return self._answer().__await__()

    async def trailing_metadata(self) -> grpc.aio.Metadata:
        """The metadata after the response."""
        return _metadata((await self._ended()).trailing)

    async def _answer(self) -> Any:
        self._raise_unless_ok(await self._ended())
        return self._method.deserialize(self._response)

    async def _ended(self) -> End:
        while self._end is None:
            await self._wait()
        return self._end

    async def _handle(self, handler: Any, request: bytes) -> End:
        response = await handler.unary_unary(handler.request_deserializer(request), self._context)
        end = self._context.end
        if end.code is grpc.StatusCode.OK:
            self._response = handler.response_serializer(response)
        return end


class StreamCall(_Call):
    """A call whose response is read message by message. One message waits for its reader, no more."""

    _waiting: bytes | None = None
    _room: asyncio.Future[None] | None = None

    async def read(self) -> Any:
        """The next message; EOF at the end. Raises AioRpcError."""
        while self._waiting is None or self._end is _LEFT:
            if self._end is not None:
                self._raise_unless_ok(self._end)
                return grpc.aio.EOF
            await self._wait()
        message, self._waiting = self._waiting, None
        if self._room is not None and not self._room.done():
            self._room.set_result(None)
        return self._method.deserialize(message)

    async def _handle(self, handler: Any, request: bytes) -> End:
        self._serialize = handler.response_serializer
        running = handler.unary_stream(handler.request_deserializer(request), self._context)
        if hasattr(running, "__aiter__"):
            async for message in running:
                await self._context.write(message)
        else:
            await running
        return self._context.end

    def _writer(self) -> Write:
        return self._write

    async def _write(self, message: Any) -> None:
        data = self._serialize(message)
        while self._waiting is not None:
            self._room = self._loop.create_future()
            await self._room
        self._waiting = data
        self._wake()


async def _refuse_to_write(message: Any) -> None:
    raise grpc.aio.UsageError("The method responds once: return the response.")


def _metadata(pairs: Iterable[tuple[str, Any]]) -> grpc.aio.Metadata:
    return grpc.aio.Metadata(*pairs)

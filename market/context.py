"""The context that a handler gets for a call without a wire: gRPC's interface, on facts of this process.

It knows no single method and no channel; `channel` runs the handlers.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, NamedTuple, NoReturn

import grpc

log = logging.getLogger(__name__)
Pairs = tuple[tuple[str, str | bytes], ...]
Write = Callable[[Any], Awaitable[None]]

PEER = "ipv4:127.0.0.1:0"
"""Who calls: a gateway on this machine, so that its `x-forwarded-for` is believed as over the wire."""


class End(NamedTuple):
    """How a call ended."""

    code: grpc.StatusCode = grpc.StatusCode.OK
    details: str = ""
    trailing: Pairs = ()


class CallContext(grpc.aio.ServicerContext[Any, Any]):
    """What a handler knows of its call, and what it sets for the caller."""

    def __init__(self, metadata: Pairs, deadline: float | None, write: Write) -> None:
        self._metadata = metadata
        self._deadline = deadline
        self._write = write
        self._initial: Pairs = ()
        self._code = grpc.StatusCode.OK
        self._details = ""
        self._trailing: Pairs = ()
        self._callbacks: list[Callable[[Any], None]] = []
        self._is_aborted = False
        self._end: End | None = None

    def ended(self, end: End) -> None:
        """Records the call's end, once, and reports it to those who asked."""
        self._end = end
        for callback in self._callbacks:
            try:
                callback(self)
            except Exception:  # it is the handler's; the caller still hears of the end
                log.exception("a callback for the end of a call failed")

    @property
    def end(self) -> End:
        """The end that the handler has set, with its return or by aborting."""
        return End(self._code, self._details, self._trailing)

    @property
    def initial(self) -> Pairs:
        """The metadata that the handler has sent before its response."""
        return self._initial

    async def read(self) -> NoReturn:
        """Refused: the only request was passed to the handler."""
        raise grpc.aio.UsageError("The request was passed to the handler.")

    async def write(self, message: Any) -> None:
        """Sends a message of a stream; waits until the caller has taken the one before it."""
        if self._end is not None or self._is_aborted:
            raise grpc.aio.UsageError("RPC already finished.")
        await self._write(message)

    async def send_initial_metadata(self, initial_metadata: Any) -> None:
        """Sets the metadata before the response."""
        self._initial = tuple(initial_metadata)

    async def abort(self, code: grpc.StatusCode, details: str = "", trailing_metadata: Any = ()) -> NoReturn:
        """Ends the call with an error. It is raised through the handler."""
        if self._is_aborted:
            raise grpc.aio.UsageError("Abort already called!")
        if code is grpc.StatusCode.OK:
            raise grpc.aio.UsageError("Abort needs an error; OK is none.")
        self._is_aborted = True
        self._code, self._details = code, details
        self._trailing = tuple(trailing_metadata) or self._trailing
        raise grpc.aio.AbortError("Locally aborted.")

    async def abort_with_status(self, status: grpc.Status) -> NoReturn:
        """Ends the call with an error and its details."""
        await self.abort(status.code, status.details, status.trailing_metadata)

    def set_trailing_metadata(self, trailing_metadata: Any) -> None:
        """Sets the metadata after the response."""
        self._trailing = tuple(trailing_metadata)

    def trailing_metadata(self) -> Any:
        """The metadata after the response."""
        return self._trailing

    def invocation_metadata(self) -> Any:
        """The caller's metadata."""
        return self._metadata

    def set_code(self, code: grpc.StatusCode) -> None:
        """Sets the status with which the call ends when the handler returns."""
        self._code = code

    def code(self) -> grpc.StatusCode:
        """The status with which the call ends when the handler returns."""
        return self._code

    def set_details(self, details: str) -> None:
        """Sets the text of the status."""
        self._details = details

    def details(self) -> str:
        """The text of the status."""
        return self._details

    def set_compression(self, compression: grpc.Compression) -> None:
        """Changes nothing: no bytes are sent."""

    def disable_next_message_compression(self) -> None:
        """Changes nothing: no bytes are sent."""

    def peer(self) -> str:
        """The caller in gRPC's form."""
        return PEER

    def peer_identities(self) -> Iterable[bytes] | None:
        """The caller is known without a certificate: it is the gateway in this process."""
        return (b"this process",)

    def peer_identity_key(self) -> str | None:
        """None: the caller has no certificate."""
        return None

    def auth_context(self) -> Mapping[str, Iterable[bytes]]:
        """Empty: the caller has no certificate."""
        return {}

    def time_remaining(self) -> float | None:  # type: ignore[override]
        """Seconds until the caller's deadline; None without one."""
        if self._deadline is None:
            return None
        return max(0.0, self._deadline - asyncio.get_running_loop().time())

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        """Calls this at the end of the call."""
        self._callbacks.append(callback)

    def cancelled(self) -> bool:
        """Whether the caller has gone, or its deadline has passed."""
        return self._end is not None and self._end.code in _GONE

    def done(self) -> bool:
        """Whether the call has ended."""
        return self._end is not None


_GONE = (grpc.StatusCode.CANCELLED, grpc.StatusCode.DEADLINE_EXCEEDED)

"""Owns the connections of HTTP: how many there are, and how long each may take.

A limit that begins when a request is complete protects nothing from requests that never are. So everything is
bounded here from the first byte: heads and bodies that trickle in, readers that take no answer, connections
without a request. `limits` has the figures; this module knows no routes.
"""

from __future__ import annotations

import asyncio
import functools
import http
import re
import secrets
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from common import addresses
from common.addresses import Network
from common.telemetry import OFF, Telemetry
from gateway import limits
from gateway.edge import CUT, Forwarded, dressed, head_too_large
from gateway.errors import ApiError
from gateway.exchanges import IS_STREAM

_FOLD = re.compile(rb"\n[ \t]")
_END_OF_HEAD = re.compile(rb"\n\r?\n")
_MOST_UNSENT_BYTES = 64 << 10
_READ = (h11.IDLE, h11.DONE, h11.MUST_CLOSE, h11.CLOSED)


def http_settings(app: ASGIApp, door: Door) -> uvicorn.Config:
    """How uvicorn serves the application through the door."""
    return uvicorn.Config(
        Forwarded(app, door.trusted) if door.trusted else app,
        http=cast(type[asyncio.Protocol], functools.partial(Connection, door)),
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        # uvicorn's would trust every process on this machine and an environment variable.
        proxy_headers=False,
        timeout_keep_alive=limits.KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=limits.DRAIN_SECONDS,
    )


class Door:
    """All connections of a gateway. Call ``sweep`` about once a second: it ends those that are overdue."""

    def __init__(
        self,
        most: int = limits.MAX_CONNECTIONS,
        most_per_address: int = limits.MAX_ADDRESS_CONNECTIONS,
        trusted: Sequence[Network] = (),
        clock: Callable[[], float] = time.monotonic,
        telemetry: Telemetry = OFF,
    ) -> None:
        self.telemetry = telemetry
        self.trusted = trusted
        self.now = clock
        self._most = most
        self._most_per_address = most_per_address
        self._open: dict[Connection, str] = {}
        self._per_address: Counter[str] = Counter()
        """Open connections by address and by site; the empty name counts those that have none."""
        self.lingering = 0
        """Connections that were refused and are about to be closed."""

    def enter(self, connection: Connection, host: str) -> ApiError | None:
        """Counts a connection, or returns its refusal. The proxies in ``trusted`` carry many callers each."""
        address = addresses.parse(host)
        is_counted = address is not None and not addresses.is_within(address, self.trusted)
        name = addresses.counted(address) if address is not None and is_counted else ""
        if len(self._open) >= self._most:
            text = "The gateway has as many connections as it can serve; try again later."
            return ApiError("OVERLOADED", text)
        if name and self._per_address[name] >= self._most_per_address:
            text = f"This address already has {self._most_per_address} connections; close some of them."
            return ApiError("RATE_LIMITED", text)
        site, most = addresses.site(name), addresses.SITE_FACTOR * self._most_per_address
        if site and self._per_address[site] >= most:
            return ApiError("RATE_LIMITED", f"The network {site} already has {most} connections.")
        self._open[connection] = name
        self._per_address.update((name, site))
        return None

    @property
    def connections(self) -> int:
        """How many connections are open."""
        return len(self._open)

    def leave(self, connection: Connection) -> None:
        """Forgets a connection that has ended."""
        name = self._open.pop(connection, None)
        if name is not None:
            for each in (name, addresses.site(name)):
                self._per_address[each] -= 1
                if not self._per_address[each]:
                    del self._per_address[each]

    def sweep(self) -> None:
        """Ends the connections that are overdue."""
        now = self.now()
        for connection in list(self._open):
            connection.end_if_overdue(now)


@dataclass(slots=True)
class _Transfer:
    """Bytes on their way in one direction."""

    stall_seconds: float
    since: float
    progressed: float
    moved: int = 0

    def advance(self, moved: int, now: float) -> None:
        """Records how many bytes have moved in all."""
        if moved > self.moved:
            self.moved, self.progressed = moved, now

    def is_overdue(self, now: float) -> bool:
        """Whether nothing moved for too long, or too little in all."""
        allowed = self.stall_seconds + self.moved / limits.LEAST_BYTES_PER_SECOND
        return now - self.progressed > self.stall_seconds or now - self.since > allowed


class Connection(H11Protocol):
    """uvicorn's connection, within limits, with our form of errors and without what h11 forgives."""

    def __init__(self, door: Door, **given: Any) -> None:
        super().__init__(**given)
        self.conn = _Strict(h11.SERVER, limits.MAX_HEAD_BYTES)
        self._door = door
        self._head_since: float | None = None
        self._is_silent = True
        self._body: _Transfer | None = None
        self._answer: _Transfer | None = None
        self._is_refused = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Admits the connection or refuses it."""
        self._outlet = _Outlet(transport, self._closes_at_once)
        super().connection_made(cast(asyncio.Transport, self._outlet))
        self._head_since = self._door.now()
        refusal = self._door.enter(self, self.client[0] if self.client else "")
        if refusal is not None and self._door.lingering < limits.MAX_LINGERING:
            self._refuse(refusal)
        elif refusal is not None:
            self._is_refused = True
            self._note_refusal(refusal)
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forgets the connection."""
        self._door.leave(self)
        if self._outlet.stop_lingering() and self._is_refused:
            self._door.lingering -= 1
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Reads on, unless the connection was refused: then only so much that the refusal can be read."""
        if self._outlet.is_closing():
            self._outlet.discard(len(data))
            return
        super().data_received(data)
        self._observe(len(data))

    def on_response_complete(self) -> None:
        """Goes on with the next request."""
        super().on_response_complete()
        self._observe(0)

    def send_400_response(self, msg: str) -> None:
        """Refuses what h11 could not read. uvicorn calls this where it catches h11's exception."""
        error = sys.exc_info()[1]
        is_in_body = self.cycle is not None and not self.cycle.response_complete
        if getattr(error, "error_status_hint", 400) == 431 and not is_in_body:
            self._refuse(head_too_large())
        else:
            # After a colon, h11 quotes what it read.
            text = f"The request is not valid HTTP: {str(error).partition(':')[0]}."
            self._refuse(ApiError("INVALID_FIELD", text, field="body" if is_in_body else "headers"))

    def shutdown(self) -> None:
        """Ends the connection when its request has been answered; a stream without end is cut."""
        if self._is_refused:
            return
        super().shutdown()
        if self.cycle is not None and not self.cycle.response_complete and self.cycle.scope.get(IS_STREAM):
            self._cut()

    def end_if_overdue(self, now: float) -> None:
        """Ends the connection if its client is too slow."""
        if self._answer_is_overdue(now):
            self._outlet.abort()
        elif self._outlet.is_closing():
            return
        elif self._body is not None and self._body.is_overdue(now):
            self._refuse(_too_slow("body"))
        elif self._head_since is not None and now - self._head_since > limits.HEAD_SECONDS:
            if self.conn.trailing_data[0]:
                self._refuse(_too_slow("head"))
            else:
                self._outlet.close()

    def _answer_is_overdue(self, now: float) -> bool:
        waiting = self._outlet.get_write_buffer_size()
        if not waiting:
            self._answer = None
            return False
        taken = self._outlet.written - waiting
        if self._answer is None:
            self._answer = _Transfer(limits.ANSWER_STALL_SECONDS, now, now)
            self._taken_before = taken
        self._answer.advance(taken - self._taken_before, now)
        return self._answer.is_overdue(now)

    def _cut(self) -> None:
        """Ends the connection after what was written, but without the end of the response."""
        self.cycle.disconnected = True
        self.cycle.message_event.set()
        self._outlet.close()

    def _observe(self, byte_count: int) -> None:
        """Notes what the client has to send next, after it sent this many bytes."""
        if self.cycle is not None:
            cast(dict[str, Any], self.cycle.scope).setdefault(CUT, self._cut)
        state = self.conn.their_state
        if state is h11.SEND_BODY:
            now = self._door.now()
            self._body = self._body or _Transfer(limits.BODY_STALL_SECONDS, now, now)
            self._body.advance(self._body.moved + byte_count, now)
            self._head_since = None
            return
        self._body = None
        if state is not h11.IDLE or not self.conn.trailing_data[0]:
            self._head_since = None
        elif self._head_since is None or self._is_silent:
            self._head_since = self._door.now()
        self._is_silent = False

    def _refuse(self, error: ApiError) -> None:
        """Answers with an error and closes the connection. A request that is arriving is not carried out."""
        self._note_refusal(error)
        started = False
        if self.cycle is not None and not self.cycle.response_complete:
            started = self.cycle.response_started
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self._is_refused = True
        self.conn.send_failed()
        if started:
            self._outlet.abort()
            return
        self._door.lingering += 1
        self._outlet.write(_answer(error))
        self._outlet.linger()

    def _note_refusal(self, error: ApiError) -> None:
        self._door.telemetry.count("dcp_http_connections_refused_total", str(error.status))

    def _closes_at_once(self) -> bool:
        """Whether nothing more of a request is to come; otherwise closing could lose the answer."""
        return self.conn.their_state in _READ


class _Outlet:
    """A connection's transport that counts what is written, and closes such that an answer arrives.

    A system that closes a connection with unread bytes resets it, and the client loses the answer. What is
    written in one step of the event loop, such as the head and the body of an answer, is sent at once.
    """

    def __init__(self, transport: asyncio.Transport, closes_at_once: Callable[[], bool]) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport = transport
        self._closes_at_once = closes_at_once
        self._timer: asyncio.TimerHandle | None = None
        self._discarded = 0
        self._unsent: list[bytes] = []
        self._unsent_bytes = 0
        self.written = 0
        """Bytes in all."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Sends bytes, by the end of this step of the event loop."""
        if not data:
            return
        if not self._unsent:
            self._loop.call_soon(self._send)
        self.written += len(data)
        self._unsent.append(data)
        self._unsent_bytes += len(data)
        if self._unsent_bytes > _MOST_UNSENT_BYTES:
            self._send()

    def _send(self) -> None:
        data = b"".join(self._unsent)
        self._unsent.clear()
        self._unsent_bytes = 0
        if data and not self._transport.is_closing():
            self._transport.write(data)

    def get_write_buffer_size(self) -> int:
        """The bytes that the client has not taken."""
        return self._unsent_bytes + self._transport.get_write_buffer_size()

    def abort(self) -> None:
        """Closes the connection without what is unsent."""
        self._unsent.clear()
        self._unsent_bytes = 0
        self._transport.abort()

    def is_closing(self) -> bool:
        """Whether nothing is read or written any more."""
        return self._timer is not None or self._transport.is_closing()

    def close(self) -> None:
        """Closes the connection; where a request is still arriving, a moment later."""
        if self.is_closing():
            return
        if self._closes_at_once():
            self._send()
            self._transport.close()
        else:
            self.linger()

    def linger(self) -> None:
        """Ends the answers now, and the connection when the client has had time to read them."""
        self._send()
        if self._transport.can_write_eof() and not self._transport.is_closing():
            self._transport.write_eof()
        self._timer = self._loop.call_later(limits.LINGER_SECONDS, self._transport.close)

    def stop_lingering(self) -> bool:
        """Stops the timer; returns whether there was one."""
        if self._timer is not None:
            self._timer.cancel()
        return self._timer is not None

    def discard(self, byte_count: int) -> None:
        """Counts bytes that nobody reads any more; too many are left where they are."""
        self._discarded += byte_count
        if self._discarded > limits.MAX_HEAD_BYTES and not self._transport.is_closing():
            self._transport.pause_reading()


class _Strict(h11.Connection):
    """h11 without what it forgives: two lengths for one body, and folded headers.

    Programs differ in how they read such a request, so one of them could take its body for the next request.
    """

    _may_fold = False
    _last = b""

    def receive_data(self, data: bytes) -> None:
        """Takes bytes from the network."""
        if _FOLD.search(data) or (self._last == b"\n" and data[:1] in (b" ", b"\t")):
            self._may_fold = True
        self._last = data[-1:]
        super().receive_data(data)

    def next_event(self) -> Any:
        """The next event. Raises RemoteProtocolError."""
        if self._may_fold and self.their_state is h11.IDLE:
            self._check_folds()
        event = super().next_event()
        if isinstance(event, h11.Request):
            names = {name for name, _ in event.headers}
            if b"transfer-encoding" in names and (b"content-length" in names or event.http_version != b"1.1"):
                raise h11.RemoteProtocolError("Transfer-Encoding contradicts the length or the version")
        return event

    def _check_folds(self) -> None:
        waiting = self.trailing_data[0]
        end = _END_OF_HEAD.search(waiting)
        head = waiting[: end.start()] if end else waiting
        if _FOLD.search(head):
            raise h11.RemoteProtocolError("a header is folded over several lines")
        self._may_fold = end is not None


def _too_slow(part: str) -> ApiError:
    return ApiError("REQUEST_TOO_SLOW", f"The {part} of the request arrived too slowly; send it again.")


def _answer(error: ApiError) -> bytes:
    """A whole response, for a connection that is closed after it."""
    request_id = secrets.token_hex(8)
    body = error.body(request_id)
    own = [(name.encode(), value.encode()) for name, value in error.headers if name != "connection"]
    own += [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"connection", b"close"),
    ]
    lines = [f"HTTP/1.1 {error.status} {http.HTTPStatus(error.status).phrase}".encode()]
    lines += [name + b": " + value for name, value in dressed(own, request_id)]
    return b"\r\n".join([*lines, b"", body])

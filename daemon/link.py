"""The daemon's only knowledge of gRPC: one stream to the server, uploads beside it, and single questions.

It must not know what the messages mean. A stream that ends, however it ends, is
reported as an end; the session decides what follows.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TypeVar, cast

import grpc
from dcp.v1 import artifacts_pb2, gpu_proofs_pb2, inputs_pb2, providers_pb2, sessions_pb2
from dcp.v1.artifacts_pb2_grpc import ArtifactServiceStub
from dcp.v1.gpu_proofs_pb2_grpc import GpuProofServiceStub
from dcp.v1.inputs_pb2_grpc import InputServiceStub
from dcp.v1.providers_pb2_grpc import ProviderServiceStub
from dcp.v1.sessions_pb2_grpc import SessionServiceStub
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass
from google.rpc import error_details_pb2, status_pb2
from grpc import aio

from common.limits import fit
from daemon.config.config import is_loopback
from daemon.machine.clock import Clock
from daemon.protocol.events import Connected, Disconnected, Received, StreamEvent
from daemon.work.artifacts import (
    READ_BYTES,
    Artifact,
    LeaseGoneError,
    UploadBrokenError,
    UploadDamagedError,
    UploadRefusedError,
    open_plain,
)
from daemon.work.gpu_proof import ProofBrokenError, ProofStream
from daemon.work.inputs import InputGoneError, ReadBrokenError

logger = logging.getLogger(__name__)

UNARY_DEADLINE_SECONDS = 15.0
FINISH_SECONDS = 2.0
OUTBOX_MESSAGES = 1024
PIECE_BYTES = 64 * 1024
# A server on an empty or an older database, during a repair, knows no key for a while.
KEY_PATIENCE_SECONDS = 24 * 3600.0
# Of one step of an upload: a server that is gone is noticed sooner, by its pings.
STEP_SECONDS = 300.0

# Measured: keepalive_timeout_ms does nothing, ping_timeout_ms does. The local
# subchannel pool keeps one stream's backoff from delaying the next: the session
# has its own.
_OPTIONS = (
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.http2.ping_timeout_ms", 10_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.bdp_probe", 0),
    ("grpc.initial_reconnect_backoff_ms", 1_000),
    ("grpc.max_reconnect_backoff_ms", 60_000),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.max_receive_message_length", 36 * 1024 * 1024),
)

_ABOUT_FIELDS = (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.ALREADY_EXISTS)

# The reasons of UNAUTHENTICATED.
_KEY_REASONS = ("MISSING_CREDENTIAL", "INVALID_CREDENTIAL", "WRONG_ROLE")

T = TypeVar("T")
_Proof = aio.StreamStreamCall[gpu_proofs_pb2.ProveGpusRequest, gpu_proofs_pb2.ProveGpusResponse]
_Stream = aio.StreamStreamCall[sessions_pb2.DaemonMessage, sessions_pb2.ServerMessage]


@dataclass(frozen=True)
class ServerAddress:
    """Where the server is and how it is trusted."""

    address: str
    """host:port, or several with commas between them."""
    tls_ca: Path | None = None
    """PEM file of the trusted authorities; None: plain text."""

    def each(self) -> list[ServerAddress]:
        """Each address by itself."""
        return [replace(self, address=address) for address in self.address.split(",")]


class LinkBrokenError(Exception):
    """The server could not be reached or ended the stream; coming back may help."""

    def __init__(self, text: str, *, is_refusal: bool = False) -> None:
        """`is_refusal`: the server itself gave the reason."""
        super().__init__(text)
        self.is_refusal = is_refusal


class KeyRefusedError(Exception):
    """The server does not know this provider's key: coming back does not help."""


class RegistrationError(Exception):
    """The server refused the registration, in its own words."""

    def __init__(self, text: str, *, is_about_fields: bool = False) -> None:
        """`is_about_fields`: other answers to the same questions may be accepted."""
        super().__init__(text)
        self.is_about_fields = is_about_fields


@dataclass(frozen=True)
class Probe:
    """What a server answered to a first question."""

    problem: str
    """Why it cannot be used; empty when it can."""
    round_trip_ms: float = 0.0
    """Of a question on a connection that was there already."""
    date: datetime | None = None
    """The server's time of day, to the second; None: unknown."""
    newest_daemon: str = ""
    """The version of the newest daemon; empty: unknown."""


@dataclass(frozen=True)
class Refusal:
    """Why the server ended or refused a stream, in its own words."""

    text: str
    at: float
    """When, by the daemon's monotonic clock."""


class Stream:
    """One stream. Sending never blocks; reading is done by `converse`."""

    def __init__(self, call: _Stream) -> None:
        self._call = call
        self._outbox: asyncio.Queue[sessions_pb2.DaemonMessage | None] = asyncio.Queue(OUTBOX_MESSAGES)

    def send(self, message: sessions_pb2.DaemonMessage) -> None:
        """Puts the message behind those that wait; a stream that takes none any more is cut."""
        self._put(message)

    def finish(self) -> None:
        """Sends what waits, then closes; the server has two seconds to do the same."""
        self._put(None)
        asyncio.get_running_loop().call_later(FINISH_SECONDS, self._call.cancel)

    def _put(self, message: sessions_pb2.DaemonMessage | None) -> None:
        try:
            self._outbox.put_nowait(message)
        except asyncio.QueueFull:
            logger.warning("the server takes no messages; cutting the stream waiting=%d", OUTBOX_MESSAGES)
            self._call.cancel()

    async def converse(self, on_message: Callable[[sessions_pb2.ServerMessage], None]) -> None:
        """Reads and writes until the stream ends.

        Raises KeyRefusedError, and LinkBrokenError for any other end with an error.
        """
        writer = asyncio.create_task(self._write())
        refusal: sessions_pb2.SessionRefusal | None = None
        try:
            # No wait_for around read: cancelling one cancels the whole stream.
            while isinstance(message := await self._call.read(), sessions_pb2.ServerMessage):
                if message.HasField("refusal"):
                    refusal = message.refusal
                else:
                    on_message(message)
        except aio.AioRpcError as error:
            # While a write fails, grpc puts an error of its own in the place of the server's status.
            raise _link_error(error) if refusal is None else _refused(refusal) from None
        except asyncio.CancelledError:
            # grpc reports our own cancelling of the call like that of the task.
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
        finally:
            self._call.cancel()
            writer.cancel()
            await asyncio.gather(writer, return_exceptions=True)

    async def _write(self) -> None:
        # A failed write says no more than that the stream is over; the reader
        # learns why.
        with contextlib.suppress(aio.AioRpcError, asyncio.InvalidStateError):
            while (message := await self._outbox.get()) is not None:
                await self._call.write(message)
            await self._call.done_writing()


class _ProofStream:
    """The stream of one proof: see daemon.work.gpu_proof.ProofStream."""

    def __init__(self, call: _Proof) -> None:
        self._call = call

    async def send(self, request: gpu_proofs_pb2.ProveGpusRequest) -> None:
        try:
            await _step(self._call.write(request))
        except (aio.AioRpcError, asyncio.InvalidStateError, TimeoutError):
            await self.receive()  # it says why
            raise ProofBrokenError("the server does not go on with the proof") from None

    async def receive(self) -> gpu_proofs_pb2.ProveGpusResponse:
        try:
            answer = await _step(self._call.read())
        except aio.AioRpcError as error:
            raise ProofBrokenError(_text(error)) from None
        except (TimeoutError, asyncio.InvalidStateError):
            raise ProofBrokenError("the server does not go on with the proof") from None
        if not isinstance(answer, gpu_proofs_pb2.ProveGpusResponse):
            raise ProofBrokenError("the server ended the proof")
        return answer


class Link:
    """The way to one server with one key."""

    def __init__(self, server: ServerAddress, key: str) -> None:
        self._servers = server.each()
        # Daemons begin at different servers, and each tries the next one when a stream has ended.
        self._turn = secrets.randbelow(len(self._servers))
        self._key = key

    @property
    def _server(self) -> ServerAddress:
        return self._servers[self._turn % len(self._servers)]

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[Stream]:
        """A new stream; connecting happens while it is used."""
        try:
            async with _channel(self._server) as channel:
                metadata = (("authorization", f"Bearer {self._key}"),)
                yield Stream(SessionServiceStub(channel).Connect(metadata=metadata))
        finally:
            self._turn += 1

    @contextlib.asynccontextmanager
    async def prove(self) -> AsyncIterator[ProofStream]:
        """A stream on which the machine proves its GPUs. Raises ProofBrokenError."""
        try:
            opened = _channel(self._server)
        except LinkBrokenError as error:
            raise ProofBrokenError(str(error)) from None
        async with opened as channel:
            call = GpuProofServiceStub(channel).ProveGpus(
                metadata=(("authorization", f"Bearer {self._key}"),)
            )
            try:
                yield _ProofStream(call)
            finally:
                call.cancel()

    async def upload(self, lease: sessions_pb2.Lease, artifact: Artifact) -> None:
        """Sends one file once; one that is there already counts as sent.

        Raises LeaseGoneError, UploadRefusedError, UploadDamagedError and UploadBrokenError.
        """
        try:
            opened = _channel(self._server)
        except LinkBrokenError as error:
            raise UploadBrokenError(str(error)) from None
        async with opened as channel:
            call = ArtifactServiceStub(channel).UploadArtifact(
                metadata=(("authorization", f"Bearer {self._key}"),)
            )
            try:
                await _send_file(call, lease, artifact)
            except aio.AioRpcError as error:
                raise _upload_error(error) from None
            except (TimeoutError, asyncio.InvalidStateError):
                raise UploadBrokenError("the server did not go on with it") from None
            except OSError as error:
                raise UploadRefusedError(f"it cannot be read: {error.strerror or error}") from None
            finally:
                call.cancel()

    async def read_input(
        self, lease: sessions_pb2.Lease, number: int, first_byte: int
    ) -> AsyncGenerator[bytes, None]:
        """The bytes of an input of a run, from a place on. Raises InputGoneError and ReadBrokenError."""
        try:
            opened = _channel(self._server)
        except LinkBrokenError as error:
            raise ReadBrokenError(str(error)) from None
        async with opened as channel:
            call = InputServiceStub(channel).ReadJobInput(
                metadata=(("authorization", f"Bearer {self._key}"),)
            )
            request = inputs_pb2.ReadJobInputRequest(lease=lease, number=number, first_byte=first_byte)
            try:
                await _step(call.write(request))
                await _step(call.done_writing())
                while isinstance(answer := await _step(call.read()), inputs_pb2.ReadJobInputResponse):
                    yield answer.data
            except aio.AioRpcError as error:
                is_gone = error.code() is grpc.StatusCode.NOT_FOUND or _reason(error) == "STALE_LEASE"
                if is_gone or error.code() in _REFUSALS:
                    raise InputGoneError(error.details()) from None
                raise ReadBrokenError(_text(error)) from None
            except (TimeoutError, asyncio.InvalidStateError):
                raise ReadBrokenError("the server did not go on with it") from None
            finally:
                call.cancel()


class Line:
    """The stream that the daemon has at present, and when the next is opened."""

    def __init__(
        self,
        link: Link,
        clock: Clock,
        handle: Callable[[StreamEvent], None],
        *,
        is_key_known: bool = False,
    ) -> None:
        """`handle` is called on the event loop with whatever happens on the stream.

        `is_key_known`: the server has accepted the key before.
        """
        self._link = link
        self._clock = clock
        self._handle = handle
        self._stream: Stream | None = None
        self._connect_at = 0.0
        self._may_connect = asyncio.Event()
        self._is_over = False
        self._is_key_known = is_key_known
        self.key_refused_since: float | None = None
        """Since when, by the monotonic clock, the server does not know the key; None: it does."""
        self._unfit: set[str] = set()
        self.last_refusal: Refusal | None = None
        """The server's last refusal since the start."""

    async def keep_open(self) -> None:
        """Connects again and again, when it is time, until `end`.

        Raises KeyRefusedError for a key that was never accepted, or was not for a day.
        """
        while not self._is_over:
            await self._connect()
            self._may_connect.clear()
            await self._may_connect.wait()

    def tick(self) -> None:
        """Time has passed: it may be time to connect."""
        if self._is_over or self._clock.monotonic() >= self._connect_at:
            self._may_connect.set()

    def send(self, message: sessions_pb2.DaemonMessage) -> None:
        """Sends a message on the present stream; without one it is dropped.

        What breaks a limit of the contract is left out first, or the server would end the session for it.
        """
        if self._stream is not None:
            faults = fit(message)
            for path in faults.keys() - self._unfit:
                logger.warning("left out what the server would refuse field=%s: %s", path, faults[path])
                self._unfit.add(path)
            self._stream.send(message)

    def connect_after(self, seconds: float) -> None:
        """Finishes the present stream and connects again after a delay."""
        self._connect_at = self._clock.monotonic() + seconds
        logger.info("connecting again seconds=%.1f", seconds)
        self._finish()

    def end(self) -> None:
        """Finishes the present stream for good."""
        self._is_over = True
        self._finish()

    def key_was_accepted(self) -> None:
        """The server has opened a session with the key."""
        self._is_key_known, self.key_refused_since = True, None

    async def _connect(self) -> None:
        is_key_refused = was_opened = False
        try:
            async with self._link.open() as stream:
                self._stream, was_opened = stream, True
                self._handle(Connected())
                await stream.converse(lambda message: self._handle(Received(message)))
        except LinkBrokenError as error:
            logger.warning("lost the server error=%s", error)
            if error.is_refusal:
                self._note_refusal(error)
        except KeyRefusedError as error:
            self._note_refusal(error)
            self._bear_refused_key(error)
            is_key_refused = True
        except Exception:
            # A step that nobody expected to fail must not end the daemon, and with it the jobs.
            logger.exception("the connection to the server failed unexpectedly")
        finally:
            self._stream = None
        if not was_opened:
            # To the session it is a stream that ended at once, after which it waits.
            self._handle(Connected())
        self._handle(Disconnected(is_key_refused))

    def _note_refusal(self, error: Exception) -> None:
        self.last_refusal = Refusal(str(error), self._clock.monotonic())

    def _bear_refused_key(self, error: KeyRefusedError) -> None:
        """Returns if it is worth trying again; raises the error otherwise."""
        now = self._clock.monotonic()
        since = self.key_refused_since = now if self.key_refused_since is None else self.key_refused_since
        if not self._is_key_known or now - since >= KEY_PATIENCE_SECONDS:
            raise error
        logger.error(
            "the server does not know the key that it accepted before; trying again for a day error=%s", error
        )

    def _finish(self) -> None:
        if self._stream is not None:
            self._stream.finish()
            self._stream = None


_Upload = aio.StreamStreamCall[artifacts_pb2.UploadArtifactRequest, artifacts_pb2.UploadArtifactResponse]


async def _send_file(call: _Upload, lease: sessions_pb2.Lease, artifact: Artifact) -> None:
    header = artifacts_pb2.ArtifactHeader(
        lease=lease, name=artifact.name, size_bytes=artifact.size_bytes, sha256=artifact.sha256
    )
    await _step(call.write(artifacts_pb2.UploadArtifactRequest(header=header)))
    # The server answers before any bytes are sent when it refuses the file or has it already.
    if await _disposition(call) != artifacts_pb2.UPLOAD_DISPOSITION_SEND:
        return
    with await asyncio.to_thread(open_plain, artifact.path) as file:
        while data := await asyncio.to_thread(file.read, READ_BYTES):
            for start in range(0, len(data), PIECE_BYTES):
                piece = artifacts_pb2.UploadArtifactRequest(data=data[start : start + PIECE_BYTES])
                await _step(call.write(piece))
    await _step(call.done_writing())
    await _disposition(call)


async def _disposition(call: _Upload) -> int:
    answer = await _step(call.read())
    if not isinstance(answer, artifacts_pb2.UploadArtifactResponse):
        raise UploadBrokenError("the server ended the upload without an answer")
    return answer.disposition


async def _step(work: Awaitable[T]) -> T:
    async with asyncio.timeout(STEP_SECONDS):
        return await work


# Whatever else an upload ends with may be better the next time.
_REFUSALS = {
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.ALREADY_EXISTS,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.UNAUTHENTICATED,
    grpc.StatusCode.UNIMPLEMENTED,
}


# What the renter's job or account has no room for.
_RENTERS_LIMITS = {"ARTIFACT_TOO_LARGE", "RENTER_STORAGE_FULL"}


def _upload_error(error: aio.AioRpcError) -> Exception:
    reason = _reason(error)
    if reason == "STALE_LEASE":
        return LeaseGoneError(_text(error))
    if reason == "ARTIFACT_DAMAGED":
        return UploadDamagedError(_text(error))
    if error.code() in _REFUSALS:
        return UploadRefusedError(error.details() or "", too_large=reason in _RENTERS_LIMITS)
    return UploadBrokenError(_text(error))


async def register(
    server: ServerAddress, request: providers_pb2.RegisterProviderRequest
) -> providers_pb2.RegisterProviderResponse:
    """Registers a provider. Raises RegistrationError with a text for a person."""
    try:
        opened = _channel(await _reachable(server))
    except LinkBrokenError as error:
        raise RegistrationError(str(error)) from None
    async with opened as channel:
        try:
            return await ProviderServiceStub(channel).RegisterProvider(
                request, timeout=UNARY_DEADLINE_SECONDS
            )
        except aio.AioRpcError as error:
            raise RegistrationError(_text(error), is_about_fields=error.code() in _ABOUT_FIELDS) from None


async def own_provider(
    server: ServerAddress, key: str, timeout_seconds: float = UNARY_DEADLINE_SECONDS
) -> providers_pb2.GetOwnProviderResponse:
    """The provider as the server sees it. Raises KeyRefusedError or LinkBrokenError."""
    method = providers_pb2.DESCRIPTOR.services_by_name["ProviderService"].methods_by_name["GetOwnProvider"]
    asked = ask(server, key, method, providers_pb2.GetOwnProviderRequest(), timeout_seconds)
    return cast(providers_pb2.GetOwnProviderResponse, await asked)


async def ask(
    server: ServerAddress,
    key: str,
    method: MethodDescriptor,
    request: Message,
    timeout_seconds: float = UNARY_DEADLINE_SECONDS,
) -> Message:
    """The answer of an RPC to the provider with a key. Raises KeyRefusedError or LinkBrokenError."""
    async with _channel(await _reachable(server)) as channel:
        call = channel.unary_unary(
            f"/{method.containing_service.full_name}/{method.name}",
            request_serializer=GetMessageClass(method.input_type).SerializeToString,
            response_deserializer=GetMessageClass(method.output_type).FromString,
        )
        try:
            answer: Message = await call(
                request, metadata=(("authorization", f"Bearer {key}"),), timeout=timeout_seconds
            )
        except aio.AioRpcError as error:
            raise _link_error(error) from None
        return answer


async def probe(server: ServerAddress, timeout_seconds: float = 5.0) -> Probe:
    """Whether a gRPC server answers there, how fast, and what time it is at its place."""
    try:
        opened = _channel(server)
    except LinkBrokenError as error:
        return Probe(str(error))
    async with opened as channel:
        # By its bytes, not by its stub: the daemon is installed without grpc's
        # health package. An empty request asks for the server as a whole.
        check = channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            request_serializer=bytes,
            response_deserializer=bytes,
        )
        try:
            # The first call connects; the second is what a message costs.
            await check(b"", timeout=timeout_seconds)
            asked_at = time.monotonic()
            call = check(b"", timeout=timeout_seconds)
            answer = await call
            round_trip_ms = (time.monotonic() - asked_at) * 1000
            metadata = dict(await call.trailing_metadata() or ())
        except aio.AioRpcError as error:
            answered = error.code() in (grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.UNAUTHENTICATED)
            return Probe("" if answered and not _is_web_server(error) else _text(error))
        problem = "" if answer == b"\x08\x01" else "the server answers that it is not serving"
        newest = str(metadata.get("dcp-newest-daemon", ""))
        return Probe(problem, round_trip_ms, _date(metadata.get("date", "")), newest)


async def _reachable(server: ServerAddress) -> ServerAddress:
    """The first server that answers; the first one if none does, and if there is only one."""
    servers = server.each()
    for one in servers[1:] and servers:
        if not (await probe(one)).problem:
            return one
    return servers[0]


def _date(text: str | bytes) -> datetime | None:
    try:
        return parsedate_to_datetime(text) if isinstance(text, str) else None
    except ValueError:
        return None


def _channel(server: ServerAddress) -> aio.Channel:
    """A channel to the server. Raises LinkBrokenError."""
    options = list(_OPTIONS)
    if is_loopback(server.address):
        # A proxy of the environment has no business on this machine's loopback.
        options.append(("grpc.enable_http_proxy", 0))
    if server.tls_ca is None:
        return aio.insecure_channel(server.address, options=options)
    try:
        authorities = server.tls_ca.read_bytes()
    except OSError as error:
        # Programs that update certificates remove the file for a moment.
        text = f"the certificate authorities cannot be read: {server.tls_ca}: {error.strerror}"
        raise LinkBrokenError(text) from None
    credentials = grpc.ssl_channel_credentials(root_certificates=authorities)
    return aio.secure_channel(server.address, credentials, options=options)


def _refused(refusal: sessions_pb2.SessionRefusal) -> Exception:
    """The error that the server said before it ended the stream."""
    text = f"{refusal.message} ({refusal.reason})"
    return KeyRefusedError(text) if refusal.reason in _KEY_REASONS else LinkBrokenError(text, is_refusal=True)


def _link_error(error: aio.AioRpcError) -> Exception:
    if error.code() is grpc.StatusCode.UNAUTHENTICATED:
        return KeyRefusedError(_text(error))
    return LinkBrokenError(_text(error), is_refusal=bool(_reason(error)))


# What grpc says where something else than gRPC answers. The frame types are letters of "HTTP/1.1 400" and
# of "<!DOCTYPE", read as HTTP/2.
_NOT_GRPC = re.compile(
    "http1.x server|got frame type (79|80)\\b|missing selected ALPN|http2 header with status: (400|404|405)"
)


def _is_web_server(error: aio.AioRpcError) -> bool:
    return _NOT_GRPC.search(error.details() or "") is not None and not _reason(error)


def _text(error: aio.AioRpcError) -> str:
    """The server's words and, where it gave one, the stable reason."""
    if _is_web_server(error):
        return (
            "a web server answers there, not gRPC: this is the port of the web pages or of another program; "
            "DCP_SERVER needs the server's gRPC port, which is 50051 unless its operator chose another"
        )
    text = f"{error.code().name}: {error.details() or 'no details'}"
    reason = _reason(error)
    return f"{text} ({reason})" if reason else text


def _reason(error: aio.AioRpcError) -> str:
    packed = dict(error.trailing_metadata() or ()).get("grpc-status-details-bin", b"")
    info = error_details_pb2.ErrorInfo()
    try:
        status = status_pb2.Status.FromString(packed if isinstance(packed, bytes) else b"")
        unpacked = any(detail.Unpack(info) for detail in status.details)
    except DecodeError:
        return ""
    return info.reason if unpacked else ""

"""SessionService at the wire: a reader and a writer task per stream, and the conversions."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from dcp.v1 import honesty_pb2, jobs_pb2, sessions_pb2_grpc
from dcp.v1 import sessions_pb2 as pb
from google.protobuf.json_format import ParseDict
from google.protobuf.unknown_fields import UnknownFieldSet

from common.limits import Faults, fit
from server.domain import chats, messages
from server.domain.errors import DomainError, Reason
from server.domain.hindrances import SelfTest
from server.domain.inputs import GivenInput, given
from server.domain.jobs import LOST_AFTER_SECONDS, MAX_LOGPROBS, JobType
from server.domain.leases import (
    CHUNK_CREDIT,
    MAX_CHUNK_BYTES,
    OFFER_SECONDS,
    Channel,
    Disposition,
    FinishReport,
    LeaseRef,
    Offer,
    RunOutcome,
)
from server.domain.messages import LeaseAction, Reconnect
from server.domain.placement import CHATS, Model
from server.domain.sessions import violation
from server.rpc import convert
from server.rpc.context import Context
from server.rpc.enums import enum_map, member_map
from server.rpc.interceptors import caller
from server.rpc.lanes import LaneRunner
from server.rpc.limits import RateLimits
from server.rpc.terms import settings_message
from server.rpc.validate import drop_invalid, validate
from server.services.sessions import Session
from server.services.streams import Streams

log = logging.getLogger(__name__)
HELLO_TIMEOUT_SECONDS = 10.0
RECONNECT_AFTER_SECONDS = 0.5
RECONNECT_JITTER_SECONDS = 5.0
# Somewhat less than the sessions that a server opens in a second, see docs/figures.md.
RECONNECTS_PER_SECOND = 400
# Daemons that serve the same models share one list of at most this length; longer ones would fill memory.
SHARED_MODELS = 4

_OUTCOMES = member_map(RunOutcome, pb.RunOutcome)
_ACTIONS = enum_map(LeaseAction, pb.LeaseAction)
_DISPOSITIONS = enum_map(Disposition, pb.ResultDisposition)


class SessionServicer(sessions_pb2_grpc.SessionServiceServicer):
    def __init__(self, streams: Streams, limits: RateLimits) -> None:
        self._streams = streams
        self._limits = limits
        self._ending: set[asyncio.Task[None]] = set()

    async def Connect(self, requests: Any, context: Context) -> None:  # type: ignore[override]
        """Runs a stream to its end. Raises DomainError if the daemon must learn why it ended."""
        provider_id = caller().id
        session = self._streams.new(provider_id, caller().key_id)
        deadline: asyncio.TimerHandle | None = asyncio.get_running_loop().call_later(
            HELLO_TIMEOUT_SECONDS, session.expect_hello
        )
        reader = asyncio.current_task()
        assert reader is not None
        writer = _Writer(session, context, reader)
        lanes = LaneRunner(session)
        try:
            async for message in requests:
                await self._limits.pass_message(provider_id)
                if is_of_unknown_kind(message):
                    session.note_unknown_kind()
                    continue
                read, untrue = read_message(message)
                if untrue:
                    session.note_untrue(untrue)
                await lanes.handle(read)
                del message, read  # or every idle stream would keep its last message in memory
                if deadline is not None:
                    deadline.cancel()
                    deadline = None
            await lanes.settle()
            await writer.settle()
        except asyncio.CancelledError:
            if not session.outbox.is_over:
                raise  # the stream broke, or the server stops
            reader.uncancel()
            if session.refusal is not None:
                raise session.refusal from None
        except DomainError as error:
            log.warning(
                "ended a session provider_id=%d reason=%s: %s", provider_id, error.reason, error.message
            )
            raise
        finally:
            if deadline is not None:
                deadline.cancel()
            lanes.stop()
            writer.stop()
            self._end(session)

    def _end(self, session: Session) -> None:
        self._streams.forget(session)
        # A task of its own: the stream's own task may be cancelled at any moment.
        task = asyncio.create_task(session.end())
        self._ending.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._ending.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("could not record a session's end", exc_info=error)

    def send_away(self) -> None:
        """Asks every daemon to reconnect, spread over the time that a server needs to accept them all."""
        streams = list(self._streams.open)
        jitter = max(RECONNECT_JITTER_SECONDS, len(streams) / RECONNECTS_PER_SECOND)
        for session in streams:
            session.push(Reconnect(RECONNECT_AFTER_SECONDS, jitter))

    async def drain(self) -> None:
        """Waits until the end of every ended stream is recorded."""
        while self._ending:
            await asyncio.wait(self._ending)


class _Writer:
    """Writes a session's outbox to its stream, in a task that exists only while there is something to write.

    This saves a task for each of thousands of idle streams. The end of the outbox ends the reader.
    """

    __slots__ = ("_context", "_reader", "_session", "_task")

    def __init__(self, session: Session, context: Context, reader: asyncio.Task[Any]) -> None:
        self._session, self._context, self._reader = session, context, reader
        self._task: asyncio.Task[None] | None = None
        session.outbox.wake = self._wake

    async def settle(self) -> None:
        """Waits until everything in the outbox was written."""
        if self._task is not None:
            await asyncio.wait([self._task])

    def stop(self) -> None:
        """Ends the writing: the stream is over."""
        self._session.outbox.wake = lambda: None
        if self._task is not None:
            self._task.cancel()

    def _wake(self) -> None:
        if self._session.outbox.is_over:
            self._reader.cancel()  # aborted; a daemon that does not read must not hold the end up
        elif self._task is None:
            self._task = asyncio.create_task(self._write())

    async def _write(self) -> None:
        outbox = self._session.outbox
        try:
            while not outbox.empty():
                message = outbox.get_nowait()
                if message is None:
                    self._reader.cancel()
                    return
                await self._context.write(to_wire(message))
        except Exception as error:
            # gRPC has several exceptions for a stream that is gone. The daemon reconnects and gets it again.
            log.debug("could not write a message error=%r", error)
            self._reader.cancel()
        finally:
            self._task = None


def is_of_unknown_kind(message: pb.DaemonMessage) -> bool:
    """Whether a newer daemon sent it: it has something, and nothing that this server knows."""
    return message.WhichOneof("kind") is None and len(UnknownFieldSet(message)) > 0


def read_message(message: pb.DaemonMessage) -> tuple[messages.DaemonMessage, Faults]:
    """A daemon's message, with what was left out of it because it cannot be true, by the paths of the fields.

    One figure that a driver made up must not end a session with its jobs. Raises as ``from_wire``.
    """
    try:
        return from_wire(message), {}
    except DomainError as error:
        if error.reason is not Reason.INVALID_FIELD:
            raise
        untrue = fit(getattr(message, message.WhichOneof("kind") or ""))
        return from_wire(message), untrue


def from_wire(message: pb.DaemonMessage) -> messages.DaemonMessage:
    """A daemon's message as the domain's type. Raises PROTOCOL_VIOLATION or INVALID_FIELD."""
    kind = message.WhichOneof("kind")
    if kind is None:
        raise violation("the message is empty")
    body = getattr(message, kind)
    if kind == "job_finished" and (dropped := _drop_untrue(body)):
        log.warning(
            "dropped counts that cannot be true job_id=%s fields=%s", body.lease.job_id, ",".join(dropped)
        )
    validate(body)
    return _FROM_WIRE[kind](body)


def _hello(body: pb.Hello) -> messages.Hello:
    return messages.Hello(
        boot_id=body.boot_id,
        daemon_version=body.daemon_version,
        protocol_version=body.protocol_version,
        report=convert.gpu_report(body.gpu_status),
        models=_models(body.models),
        job_types=_kinds(body.job_types),
        slots=body.slots,
        held=_refs(body.held_leases),
        unacknowledged=_refs(body.unacknowledged_results),
        run_ms=tuple(convert.duration_ms(run_time) for run_time in body.unacknowledged_run_times),
        runs_plain_processes=body.runs_plain_processes,
        takes_inputs=body.takes_inputs,
        self_tests=_self_tests(body.self_tests),
        image_patterns=_image_patterns(body),
    )


def _capacity(body: pb.CapacityUpdate) -> messages.Capacity:
    kinds = _kinds(body.job_types.job_types) if body.HasField("job_types") else None
    tests = _self_tests(body.self_tests) if body.HasField("self_tests") else None
    return messages.Capacity(body.slots, _models(body.models), kinds, tests, _image_patterns(body))


def _image_patterns(body: pb.Hello | pb.CapacityUpdate) -> tuple[str, ...] | None:
    return _shared_patterns(tuple(body.images.patterns)) if body.HasField("images") else None


def _kinds(job_types: Iterable[jobs_pb2.JobType.ValueType]) -> frozenset[JobType]:
    known = (convert.job_type(number) for number in job_types)
    return _shared_kinds(frozenset(kind for kind in known if kind is not None))


def _self_tests(report: honesty_pb2.SelfTestReport) -> tuple[SelfTest, ...]:
    tests = (
        SelfTest(
            test.name, test.passed, test.reason, tuple(test.models), _kinds(test.job_types), test.pending
        )
        for test in report.tests
    )
    return _shared_tests(tuple(tests))


def _heartbeat(body: pb.SessionHeartbeat) -> messages.Heartbeat:
    report = convert.gpu_report(body.gpu_status) if body.HasField("gpu_status") else None
    return messages.Heartbeat(body.sequence, report, _refs(body.held_leases))


def _preparing(body: pb.PreparationReport) -> messages.Preparing:
    step = convert.preparation_step(body.step)
    return messages.Preparing(_ref(body.lease), step, body.done_bytes, body.total_bytes)


def _chunk(body: pb.OutputChunk | pb.LogChunk, stream: Channel) -> messages.Chunk | messages.Unreadable:
    return _too_large(body.lease, body.data) or messages.Chunk(_ref(body.lease), stream, body.seq, body.data)


def _too_large(lease: pb.Lease, data: bytes) -> messages.Unreadable | None:
    """What stands for a message with too many bytes, which must not wait for its turn with all of them."""
    if len(data) <= MAX_CHUNK_BYTES:
        return None
    return messages.Unreadable(_ref(lease), f"{len(data)} bytes in a chunk; {MAX_CHUNK_BYTES} are allowed")


def _drop_untrue(body: pb.JobFinished) -> list[str]:
    """Clears what nothing but a comparison depends on, where it cannot be true, and returns the names."""
    dropped = drop_invalid(body.usage)
    if len(body.logprobs) > MAX_LOGPROBS or any(drop_invalid(each) for each in body.logprobs):
        body.ClearField("logprobs")
        dropped.append("logprobs")
    return dropped


def _finished(body: pb.JobFinished) -> messages.Finished | messages.Unreadable:
    if (unreadable := _too_large(body.lease, body.last_output)) is not None:
        return unreadable
    outcome = _OUTCOMES.get(body.outcome)
    if outcome is None:
        detail = f"JobFinished has the outcome {body.outcome}, which this server does not know"
        return messages.Unreadable(_ref(body.lease), detail)
    return messages.Finished(
        FinishReport(
            lease=_ref(body.lease),
            outcome=outcome,
            run_ms=convert.duration_ms(body.run_time),
            last_output_seq=body.last_output_seq,
            failure_reason=convert.failure_reason(body.failure_reason),
            failure_message=body.failure_message,
            content_type=body.content_type,
            usage=convert.plain(body.usage) if body.HasField("usage") else None,
            output_truncated=body.output_truncated,
            image_digest=body.image_digest,
            last_output=body.last_output,
            logprobs=tuple((each.token, each.logprob) for each in body.logprobs),
        )
    )


_FROM_WIRE: dict[str, Callable[[Any], messages.DaemonMessage]] = {
    "hello": _hello,
    "heartbeat": _heartbeat,
    "offer_reply": lambda b: messages.OfferReply(_ref(b.lease), b.accepted, b.refusal, b.started),
    "preparation": _preparing,
    "job_started": lambda b: messages.Started(_ref(b.lease)),
    "output_chunk": lambda b: _chunk(b, Channel.OUTPUT),
    "log_chunk": lambda b: _chunk(b, Channel.LOG),
    "job_finished": _finished,
    "capacity_update": _capacity,
    "drain": lambda b: messages.Drain(),
    "goodbye": lambda b: messages.Goodbye(b.message),
}


def _ref(lease: pb.Lease) -> LeaseRef:
    return LeaseRef(lease.job_id, lease.lease_epoch, lease.lease_secret)


def _refs(leases: Iterable[pb.Lease]) -> tuple[LeaseRef, ...]:
    return tuple(_ref(lease) for lease in leases)


def _models(models: Iterable[pb.ServedModel]) -> tuple[Model, ...]:
    served = tuple(
        Model(m.name, max(0, m.context_tokens), m.warm, _kinds(m.job_types) if m.job_types else CHATS)
        for m in models
    )
    return _shared_models(served) if len(served) <= SHARED_MODELS else served


# Equal values share one object, since thousands of daemons serve the same.


@functools.lru_cache(maxsize=256)
def _shared_models(models: tuple[Model, ...]) -> tuple[Model, ...]:
    return models


@functools.lru_cache(maxsize=256)
def _shared_kinds(kinds: frozenset[JobType]) -> frozenset[JobType]:
    return kinds


@functools.lru_cache(maxsize=256)
def _shared_patterns(patterns: tuple[str, ...]) -> tuple[str, ...]:
    return patterns


def _shared_tests(tests: tuple[SelfTest, ...]) -> tuple[SelfTest, ...]:
    is_short = all(len(test.models) <= SHARED_MODELS for test in tests) and len(tests) <= SHARED_MODELS
    return _same_tests(tests) if is_short else tests


@functools.lru_cache(maxsize=256)
def _same_tests(tests: tuple[SelfTest, ...]) -> tuple[SelfTest, ...]:
    return tests


def to_wire(message: messages.ServerMessage) -> pb.ServerMessage:
    """A server's message as its wire message."""
    match message:
        case messages.Welcome():
            return pb.ServerMessage(welcome=_welcome(message))
        case messages.HeartbeatAck(sequence):
            return pb.ServerMessage(heartbeat_ack=pb.HeartbeatAck(sequence=sequence))
        case messages.JobOffer(offer):
            return pb.ServerMessage(job_offer=_offer(offer))
        case messages.CancelRun(lease, keep_files):
            return pb.ServerMessage(cancel_run=pb.CancelRun(lease=_lease(lease), keep_files=keep_files))
        case messages.LeaseDirective(lease, action, output_seq, log_seq):
            return pb.ServerMessage(
                lease_directive=pb.LeaseDirective(
                    lease=_lease(lease),
                    action=_ACTIONS[action],
                    output_through_seq=output_seq,
                    log_through_seq=log_seq,
                )
            )
        case messages.ResultAck(lease, disposition):
            ack = pb.ResultAck(lease=_lease(lease), disposition=_DISPOSITIONS[disposition])
            return pb.ServerMessage(result_ack=ack)
        case messages.OutputAck(lease, output_seq, log_seq):
            return pb.ServerMessage(
                output_ack=pb.OutputAck(
                    lease=_lease(lease), output_through_seq=output_seq, log_through_seq=log_seq
                )
            )
        case messages.Reconnect(after, jitter):
            return pb.ServerMessage(
                reconnect=pb.Reconnect(after=convert.duration(after), jitter=convert.duration(jitter))
            )
        case messages.Superseded(epoch):
            return pb.ServerMessage(superseded=pb.Superseded(by_session_epoch=epoch))
        case messages.SettingsUpdate(settings):
            return pb.ServerMessage(settings_update=settings_message(settings))


def _welcome(message: messages.Welcome) -> pb.Welcome:
    return pb.Welcome(
        session_epoch=message.session_epoch,
        heartbeat_interval=convert.duration(message.heartbeat_seconds),
        lost_after=convert.duration(LOST_AFTER_SECONDS),
        chunk_credit=CHUNK_CREDIT,
        provider_id=message.provider_id,
        settings=settings_message(message.settings),
        newest_daemon=message.newest_daemon,
        update_available=message.update_available,
        takes_merged_messages=True,
        takes_preparation=True,
    )


def _lease(ref: LeaseRef) -> pb.Lease:
    return pb.Lease(job_id=ref.job_id, lease_epoch=ref.lease_epoch, lease_secret=ref.secret)


def _offer(offer: Offer) -> pb.JobOffer:
    return pb.JobOffer(
        lease=_lease(offer.lease),
        attempt=offer.attempt,
        job_type=convert.job_type_number(offer.job_type),
        run_limit=convert.duration(offer.limit_ms / 1000),
        container_spec=ParseDict(offer.spec.get("container_spec", {}), jobs_pb2.ContainerSpec()),
        params=ParseDict(offer.spec.get("params", {}), jobs_pb2.JobParams()),
        offer_timeout=convert.duration(OFFER_SECONDS),
        lost_after=convert.duration(offer.lost_after_ms / 1000),
        output_limit_bytes=offer.output_limit_bytes,
        chat_request=_carried(offer.spec, "chat"),
        embeddings_request=_carried(offer.spec, "embeddings"),
        traceparent=offer.trace,
        inputs=[_offered(one) for one in given(offer.spec)],
    )


def _offered(one: GivenInput) -> pb.OfferedInput:
    return pb.OfferedInput(
        path=one.path, size_bytes=one.size_bytes, sha256=bytes.fromhex(one.sha256), unpack=one.unpack
    )


def _carried(spec: Mapping[str, Any], name: str) -> bytes:
    return chats.dumped(spec[name]["request"]) if name in spec else b""

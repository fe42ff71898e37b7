"""The daemon's half of the session protocol: events in, effects out.

It must not know gRPC, tasks, files or the time of day: `now` is the monotonic
clock's reading and randomness is an argument, so a test can be its whole world.

    OFFLINE   no stream                    Connected -> GREETING
    GREETING  Hello sent                   Welcome -> OPEN, Disconnected -> OFFLINE
    OPEN      jobs come, heartbeats go     Disconnected, Reconnect, silence -> OFFLINE
    ENDED     superseded or drained        nothing leaves it

A message that the state's row in `_HANDLERS` does not have is a peer's mistake or
a late repetition: it is logged and changes nothing. Every event first ends the runs
whose lease has run out, since the machine may have slept. Runs outlive streams:
they end by themselves, by order of the server, at their time limit, or when the
server has been silent for so long that it is about to give their jobs to others.

A `Persist` effect is answered by a `Persisted` or a `NotPersisted` event, at any
time: whatever depends on it is sent then.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from random import Random
from typing import Any

from dcp.v1 import gpus_pb2, jobs_pb2, sessions_pb2, terms_pb2
from google.protobuf.duration_pb2 import Duration

from daemon.protocol.backoff import Backoff
from daemon.protocol.effects import Effect, EndReason, EndSession, Opened, ReconnectAfter, Send
from daemon.protocol.events import (
    AttemptFinished,
    AttemptPreparing,
    AttemptStarted,
    AttemptWorked,
    AttemptWrote,
    Capacity,
    Connected,
    Disconnected,
    DrainRequested,
    Event,
    GpusFailed,
    GpusSampled,
    GpusTaken,
    NotPersisted,
    Persisted,
    Received,
    Recovered,
    Tick,
    lease_key,
)
from daemon.protocol.heartbeats import Heartbeats
from daemon.protocol.leases import DEFAULT_CHUNK_CREDIT, DEFAULT_LOST_AFTER_SECONDS, HeldLeases, Rest
from daemon.protocol.transcript import Transcript

logger = logging.getLogger(__name__)

PROTOCOL_VERSION = 1
_INFERENCE = (jobs_pb2.JOB_TYPE_LLM_INFERENCE, jobs_pb2.JOB_TYPE_EMBEDDINGS)
RESEND_INTERVALS = 3
DRAIN_SECONDS = 30.0
FAREWELL_SECONDS = 5.0


Objection = Callable[[sessions_pb2.JobOffer, Sequence[sessions_pb2.JobOffer]], str]


class LinkState(Enum):
    """Where the session is."""

    OFFLINE = auto()
    GREETING = auto()
    OPEN = auto()
    ENDED = auto()


@dataclass(frozen=True)
class Introduction:
    """What Hello says about the daemon's process."""

    boot_id: str
    daemon_version: str
    runs_plain_processes: bool = False


class DaemonSession:
    """One daemon's session with the server, over any number of streams."""

    def __init__(
        self,
        introduction: Introduction,
        rng: Random,
        capacity: Capacity,
        objection: Objection = lambda offer, others: "",
        rest: Rest = lambda lease: (),
    ) -> None:
        """`objection` says why an offer cannot be taken beside the unfinished ones; empty when it can.

        `rest` takes what a run wrote and did not report yet; it is asked when a run ends, for whatever cause.
        """
        self.link = LinkState.OFFLINE
        self.provider_id = 0
        self.session_epoch = 0
        self.settings = terms_pb2.ProviderSettings()
        """When and how far the owner lets this machine take jobs, as the server last said."""
        self.newest_daemon = ""
        self.update_available = False
        self._introduction = introduction
        self._rng = rng
        self._capacity = capacity
        self._objection = objection
        self._reported_capacity: Capacity | None = None
        self._has_skipped = False
        self._takes_preparation = False
        """The server wants to know how far runs are before their start."""
        self._gpu_status: gpus_pb2.GpuStatus | None = None
        self._gpu_status_is_new = False
        self._leases = HeldLeases(rest)
        self._backoff = Backoff(rng)
        self._drain_until: float | None = None
        self._heartbeats = Heartbeats(rng)

    @property
    def unfinished(self) -> list[Transcript]:
        """The runs that prepare or run: they take the slots."""
        return self._leases.unfinished

    @property
    def models(self) -> Sequence[sessions_pb2.ServedModel]:
        """The models that the server knows of."""
        return tuple(self._capacity.models)

    @property
    def slots(self) -> int:
        """How many jobs are taken at once now."""
        return self._capacity.slots

    @property
    def is_draining(self) -> bool:
        """Whether no job is taken any more."""
        return self._drain_until is not None

    def has_room(self, lease: sessions_pb2.Lease) -> bool:
        """Whether the run may write on, or must wait until the server has stored more of its output."""
        return self._leases.has_room(lease)

    def handle(self, event: Event, now: float, before: Sequence[Event] = ()) -> list[Effect]:
        """What is to be done after an event; `now` is the monotonic clock's reading, in seconds.

        `before`: events that happened just before it, so that what they save is saved together.
        """
        effects = self._leases.stop_overdue(now)
        for happened in (*before, event):
            effects += self._react(happened, now)
        return self._settled(effects, now)

    def _react(self, event: Event, now: float) -> list[Effect]:
        match event:
            case Connected():
                return self._greet(now)
            case Disconnected(is_key_refused):
                return self._come_back(is_key_refused)
            case Received(message):
                return self._received(message, now)
            case Tick():
                return self._ticked(now)
            case DrainRequested():
                return self._drain(now)
            case Recovered(history, adopted):
                self._leases.recover(history, adopted, now)
            case Persisted(number):
                return self._if_open(self._leases.persisted(number, now))
            case NotPersisted(number, error):
                return self._if_open(self._leases.not_persisted(number, error, now))
            case GpusSampled(status):
                self._gpu_status, self._gpu_status_is_new = status, True
            case GpusFailed(leases):
                return [effect for lease in leases for effect in self._leases.gpu_failed(lease, now)]
            case GpusTaken(leases):
                return [effect for lease in leases for effect in self._leases.gpu_taken(lease, now)]
            case Capacity():
                self._capacity = event
                return self._say_capacity()
            case AttemptPreparing():
                return self._say_preparing(event)
            case AttemptStarted() | AttemptWrote() | AttemptWorked() | AttemptFinished():
                self._leases.attempt(event, now)
        return []

    # --- the stream, time and the owner ---

    def _greet(self, now: float) -> list[Effect]:
        """Says Hello, and nothing else until Welcome."""
        if self.link is not LinkState.OFFLINE:
            return []
        self.link = LinkState.GREETING
        self._heartbeats.greet(now)
        self._gpu_status_is_new = False
        return [Send(sessions_pb2.DaemonMessage(hello=self._hello()))]

    def _come_back(self, is_key_refused: bool) -> list[Effect]:
        """Connects again with full jitter, if there was a stream; much later if the key is not known."""
        if self.link not in (LinkState.GREETING, LinkState.OPEN):
            return []
        return self._disconnect(self._backoff.key_seconds() if is_key_refused else self._backoff.seconds())

    def _received(self, message: sessions_pb2.ServerMessage, now: float) -> list[Effect]:
        kind = message.WhichOneof("kind")
        if kind is None:
            self._skip(now)
            return []
        handler = _HANDLERS[self.link].get(kind)
        if handler is None:
            # On a stream that is closing, messages may still arrive.
            level = logging.WARNING if self.link in (LinkState.GREETING, LinkState.OPEN) else logging.DEBUG
            logger.log(level, "ignored a message out of turn kind=%s state=%s", kind, self.link.name)
            return []
        self._heartbeats.heard(now)
        return handler(self, getattr(message, kind), now)

    def _skip(self, now: float) -> None:
        """A message of a newer server, which says nothing that this daemon must know."""
        self._heartbeats.heard(now)
        if not self._has_skipped:
            self._has_skipped = True
            logger.warning("skipped messages of a kind that this daemon does not know; run dcp-daemon update")

    def _ticked(self, now: float) -> list[Effect]:
        effects: list[Effect] = []
        self._leases.tick()
        if self.link in (LinkState.GREETING, LinkState.OPEN) and self._heartbeats.is_silent(now):
            logger.warning("the server is silent; connecting again %s", self._where())
            effects += self._disconnect(self._backoff.seconds())
        if self.link is LinkState.OPEN:
            effects += self._heartbeat(now)
            self._leases.rewind_stalled(RESEND_INTERVALS * self._heartbeats.interval_seconds, now)
        return effects

    def _drain(self, now: float) -> list[Effect]:
        if self._drain_until is not None or self.link is LinkState.ENDED:
            return []
        self._drain_until = now + DRAIN_SECONDS
        logger.info("draining runs=%d %s", len(self.unfinished), self._where())
        return self._say_drain()

    # --- the server's messages ---

    def _on_welcome(self, welcome: sessions_pb2.Welcome, now: float) -> list[Effect]:
        self.link = LinkState.OPEN
        self._backoff.key_accepted()
        self.provider_id, self.session_epoch = welcome.provider_id, welcome.session_epoch
        self.settings = welcome.settings
        self.newest_daemon, self.update_available = welcome.newest_daemon, welcome.update_available
        self._heartbeats.open(_seconds(welcome.heartbeat_interval), now)
        leases = self._leases
        leases.where = self._where()
        leases.lost_after_seconds = _seconds(welcome.lost_after) or DEFAULT_LOST_AFTER_SECONDS
        leases.credit = welcome.chunk_credit if welcome.chunk_credit > 0 else DEFAULT_CHUNK_CREDIT
        leases.merges = welcome.takes_merged_messages
        self._takes_preparation = welcome.takes_preparation
        leases.report_results_again(now)
        # What changed since Hello could not be said before Welcome.
        return [Opened(self.provider_id, self.session_epoch), *self._say_capacity(), *self._say_drain()]

    def _on_heartbeat_ack(self, ack: sessions_pb2.HeartbeatAck, now: float) -> list[Effect]:
        # The server renewed the leases that the heartbeat listed after it left,
        # so counting from its departure errs on the safe side.
        self._backoff.lasted()
        if (answered := self._heartbeats.answered(ack.sequence)) is not None:
            self._leases.renew(*answered)
        return []

    def _on_job_offer(self, offer: sessions_pb2.JobOffer, now: float) -> list[Effect]:
        if not offer.lease.job_id or offer.lease.lease_epoch < 1:
            logger.warning("ignored an offer without a lease %s", self._where())
            return []
        return self._leases.offer(offer, lambda: self._refusal(offer), now, is_warm=self._is_warm(offer))

    def _on_cancel_run(self, cancel: sessions_pb2.CancelRun, now: float) -> list[Effect]:
        return self._leases.cancel(cancel.lease, now, keep_files=cancel.keep_files)

    def _on_lease_directive(self, directive: sessions_pb2.LeaseDirective, now: float) -> list[Effect]:
        return self._leases.direct(directive, self._heartbeats.greeted_at, now)

    def _on_result_ack(self, ack: sessions_pb2.ResultAck, now: float) -> list[Effect]:
        return self._leases.result_stored(ack)

    def _on_output_ack(self, ack: sessions_pb2.OutputAck, now: float) -> list[Effect]:
        self._leases.output_stored(ack, now)
        return []

    def _on_reconnect(self, reconnect: sessions_pb2.Reconnect, now: float) -> list[Effect]:
        delay = _seconds(reconnect.after) + self._rng.uniform(0.0, _seconds(reconnect.jitter))
        logger.info("the server asked to connect again seconds=%.1f %s", delay, self._where())
        return self._disconnect(delay)

    def _on_superseded(self, superseded: sessions_pb2.Superseded, now: float) -> list[Effect]:
        logger.error(
            "another daemon of this provider took over by_session_epoch=%d %s",
            superseded.by_session_epoch,
            self._where(),
        )
        self.link = LinkState.ENDED
        return [*self._leases.discard_all(), EndSession(EndReason.SUPERSEDED)]

    def _on_settings_update(self, settings: terms_pb2.ProviderSettings, now: float) -> list[Effect]:
        self.settings = settings
        logger.info("the owner changed its settings %s", self._where())
        return []

    # --- rules ---

    def _is_warm(self, offer: sessions_pb2.JobOffer) -> bool:
        """Whether the offer's model is loaded, so that its run starts at once."""
        is_inference = offer.job_type in _INFERENCE
        return is_inference and any(m.warm and m.name == offer.params.model for m in self._capacity.models)

    def _refusal(self, offer: sessions_pb2.JobOffer) -> str:
        """Why the offer cannot be taken, for a person; empty when it can."""
        if self._drain_until is not None:
            return "the daemon is draining"
        if offer.job_type not in self._capacity.job_types:
            return f"this daemon does not run jobs of type {jobs_pb2.JobType.Name(offer.job_type)}"
        is_inference = offer.job_type in _INFERENCE
        if is_inference and offer.params.model not in [model.name for model in self._capacity.models]:
            return f"this daemon does not serve the model {offer.params.model}"
        if _seconds(offer.run_limit) <= 0:
            return "the offer has no run limit"
        if refusal := self._objection(offer, [run.offer for run in self.unfinished]):
            return refusal
        return "no slot is free" if len(self.unfinished) >= self._capacity.slots else ""

    def _heartbeat(self, now: float) -> list[Effect]:
        if not self._heartbeats.due(now):
            return []
        leases = self._leases.unreported
        sequence = self._heartbeats.beat([lease_key(lease) for lease in leases], now)
        self._leases.read_meters(now)
        status = self._gpu_status if self._gpu_status_is_new else None
        self._gpu_status_is_new = False
        heartbeat = sessions_pb2.SessionHeartbeat(sequence=sequence, gpu_status=status, held_leases=leases)
        return [Send(sessions_pb2.DaemonMessage(heartbeat=heartbeat))]

    def _settled(self, effects: list[Effect], now: float) -> list[Effect]:
        """The effects, then what can be saved and sent now, then the end of a drain if it is time."""
        draining = self._drain_until is not None and self.link is not LinkState.ENDED
        if self._drain_until is not None and draining and now >= self._drain_until:
            effects = [*effects, *self._leases.release_all(now)]
        effects = [*effects, *self._leases.unsaved()]
        if self.link is LinkState.OPEN:
            effects += self._leases.sendable(now)
        if self._drain_until is not None and draining:
            effects += self._farewell(now, self._drain_until + FAREWELL_SECONDS)
        return effects

    def _farewell(self, now: float, until: float) -> list[Effect]:
        if self.unfinished or (len(self._leases) and now < until):
            return []
        goodbye = sessions_pb2.DaemonMessage(goodbye=sessions_pb2.Goodbye(message="drained"))
        effects = self._if_open([Send(goodbye)])
        self.link = LinkState.ENDED
        return [*effects, EndSession(EndReason.DRAINED)]

    def _say_drain(self) -> list[Effect]:
        if self._drain_until is None:
            return []
        return self._if_open([Send(sessions_pb2.DaemonMessage(drain=sessions_pb2.Drain()))])

    def _say_preparing(self, event: AttemptPreparing) -> list[Effect]:
        if not (self._takes_preparation and self._leases.is_prepared(event.lease)):
            return []
        report = sessions_pb2.PreparationReport(
            lease=event.lease, step=event.step, done_bytes=event.done_bytes, total_bytes=event.total_bytes
        )
        return self._if_open([Send(sessions_pb2.DaemonMessage(preparation=report))])

    def _say_capacity(self) -> list[Effect]:
        if self.link is not LinkState.OPEN or self._capacity == self._reported_capacity:
            return []
        self._reported_capacity = capacity = self._capacity
        update = sessions_pb2.CapacityUpdate(
            slots=capacity.slots,
            models=capacity.models,
            job_types=sessions_pb2.OfferedJobTypes(job_types=capacity.job_types),
            self_tests=capacity.self_tests,
            images=capacity.images,
        )
        return [Send(sessions_pb2.DaemonMessage(capacity_update=update))]

    # --- steps ---

    def _hello(self) -> sessions_pb2.Hello:
        self._reported_capacity = capacity = self._capacity
        return sessions_pb2.Hello(
            boot_id=self._introduction.boot_id,
            daemon_version=self._introduction.daemon_version,
            protocol_version=PROTOCOL_VERSION,
            gpu_status=self._gpu_status,
            models=capacity.models,
            job_types=capacity.job_types,
            runs_plain_processes=self._introduction.runs_plain_processes,
            takes_inputs=True,
            slots=capacity.slots,
            held_leases=self._leases.held,
            unacknowledged_results=self._leases.with_result,
            unacknowledged_run_times=self._leases.run_times,
            self_tests=capacity.self_tests,
            images=capacity.images,
        )

    def _disconnect(self, delay: float) -> list[Effect]:
        self.link = LinkState.OFFLINE
        return [*self._leases.pause(), ReconnectAfter(delay)]

    def _if_open(self, effects: list[Effect]) -> list[Effect]:
        """The effects, without messages where there is no welcome to say anything."""
        if self.link is LinkState.OPEN:
            return effects
        return [effect for effect in effects if not isinstance(effect, Send)]

    def _where(self) -> str:
        return f"provider_id={self.provider_id} session_epoch={self.session_epoch}"


_Handler = Callable[[DaemonSession, Any, float], list[Effect]]
_GREETING: dict[str, _Handler] = {
    "welcome": DaemonSession._on_welcome,
    "reconnect": DaemonSession._on_reconnect,
    "superseded": DaemonSession._on_superseded,
}
_OPEN: dict[str, _Handler] = {
    "heartbeat_ack": DaemonSession._on_heartbeat_ack,
    "job_offer": DaemonSession._on_job_offer,
    "cancel_run": DaemonSession._on_cancel_run,
    "lease_directive": DaemonSession._on_lease_directive,
    "result_ack": DaemonSession._on_result_ack,
    "output_ack": DaemonSession._on_output_ack,
    "reconnect": DaemonSession._on_reconnect,
    "superseded": DaemonSession._on_superseded,
    "settings_update": DaemonSession._on_settings_update,
}
_HANDLERS: dict[LinkState, dict[str, _Handler]] = {
    LinkState.OFFLINE: {},
    LinkState.GREETING: _GREETING,
    LinkState.OPEN: _OPEN,
    LinkState.ENDED: {},
}


def _seconds(duration: Duration) -> float:
    """Never negative: nothing on this wire is measured backwards."""
    return max(0.0, duration.seconds + duration.nanos / 1e9)

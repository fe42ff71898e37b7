"""The daemon's half of the session protocol: messages, ticks and events in, effects out.

It must not know gRPC, tasks, files or the time of day: `now` is the monotonic
clock's reading and randomness is an argument, so a test can be its whole world.

    OFFLINE   no stream                    connected -> GREETING
    GREETING  Hello sent                   Welcome -> OPEN, lost -> OFFLINE
    OPEN      jobs come, heartbeats go     lost, Reconnect, silence -> OFFLINE
    ENDED     superseded or drained        nothing leaves it

What the state's row in `_HANDLERS` does not have is a peer's mistake or a late
repetition: it is logged and changes nothing. Whatever happens, it is looked first
whether a lease has run out: a machine may have slept. Runs live through streams:
they end by themselves, by the server's word, at their time limit, or when the
server has been silent for so long that it is about to give their jobs to others.

A `Persist` effect is answered by `persisted` or `not_persisted`, in any time:
what depends on it is sent then.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from enum import Enum, auto
from random import Random
from typing import Any, TypeAlias

from dcp.v1 import gpus_pb2, honesty_pb2, jobs_pb2, sessions_pb2, terms_pb2
from google.protobuf.duration_pb2 import Duration

from daemon.protocol.effects import Effect, EndReason, EndSession, Opened, ReconnectAfter, Send
from daemon.protocol.heartbeats import Heartbeats
from daemon.protocol.leases import DEFAULT_CHUNK_CREDIT, DEFAULT_LOST_AFTER_SECONDS, Leases
from daemon.protocol.records import Channel, History
from daemon.protocol.runs import Result, Run, lease_key

logger = logging.getLogger(__name__)

PROTOCOL_VERSION = 1
RESEND_INTERVALS = 3
MAX_BACKOFF_SECONDS = 60.0
DRAIN_SECONDS = 30.0
FAREWELL_SECONDS = 5.0


Objection = Callable[[sessions_pb2.JobOffer, Sequence[sessions_pb2.JobOffer]], str]


class Link(Enum):
    """Where the session is."""

    OFFLINE = auto()
    GREETING = auto()
    OPEN = auto()
    ENDED = auto()


class DaemonSession:
    """One daemon's session with the server, over any number of streams."""

    def __init__(
        self,
        *,
        boot_id: str,
        daemon_version: str,
        rng: Random,
        slots: int,
        models: Sequence[sessions_pb2.ServedModel],
        job_types: Sequence[jobs_pb2.JobType.ValueType],
        runs_plain_processes: bool = False,
        objection: Objection = lambda offer, others: "",
    ) -> None:
        """`objection` says why an offer cannot be taken beside the unfinished ones; empty when it can."""
        self.link = Link.OFFLINE
        self.provider_id = 0
        self.session_epoch = 0
        self.settings = terms_pb2.ProviderSettings()
        """When and how far the owner lets this machine take jobs, as the server last told."""
        self.newest_daemon = ""
        self.update_available = False
        self._boot_id = boot_id
        self._daemon_version = daemon_version
        self._rng = rng
        self._slots = slots
        self._models = list(models)
        self._job_types = list(job_types)
        self._runs_plain_processes = runs_plain_processes
        self._objection = objection
        self._told_capacity: _Capacity | None = None
        self._self_tests: honesty_pb2.SelfTestReport | None = None
        self._gpu_status: gpus_pb2.GpuStatus | None = None
        self._gpu_status_is_new = False
        self._leases = Leases()
        self._failures = 0
        self._drain_until: float | None = None
        self._heartbeats = Heartbeats(rng)

    @property
    def unfinished(self) -> list[Run]:
        """The runs that prepare or run: they take the slots."""
        return self._leases.unfinished

    @property
    def models(self) -> Sequence[sessions_pb2.ServedModel]:
        """The models that the server knows of."""
        return tuple(self._models)

    @property
    def is_draining(self) -> bool:
        """Whether no job is taken any more."""
        return self._drain_until is not None

    def has_room(self, lease: sessions_pb2.Lease) -> bool:
        """Whether the run may write on, or must wait until the server has stored more of its output."""
        return self._leases.has_room(lease)

    # --- the stream ---

    def connected(self, now: float) -> list[Effect]:
        """A stream is open: Hello, and nothing else until Welcome."""
        if self.link is not Link.OFFLINE:
            return []
        effects = self._leases.stop_overdue(now)
        self.link = Link.GREETING
        self._heartbeats.greet(now)
        self._gpu_status_is_new = False
        return self._settled([*effects, Send(sessions_pb2.DaemonMessage(hello=self._hello()))], now)

    def lost(self, now: float) -> list[Effect]:
        """The stream died, or never came to be: come back with full jitter."""
        if self.link not in (Link.GREETING, Link.OPEN):
            return []
        return self._disconnect(self._backoff_seconds())

    def received(self, message: sessions_pb2.ServerMessage, now: float) -> list[Effect]:
        """The server said something."""
        kind = message.WhichOneof("kind")
        handler = _HANDLERS[self.link].get(kind or "")
        if handler is None:
            # On a stream that is closing, messages still arrive without fault.
            level = logging.WARNING if self.link in (Link.GREETING, Link.OPEN) else logging.DEBUG
            logger.log(level, "ignored a message out of turn kind=%s state=%s", kind, self.link.name)
            return []
        self._heartbeats.heard(now)
        effects = self._leases.stop_overdue(now)
        effects += handler(self, getattr(message, str(kind)), now)
        return self._settled(effects, now)

    def tick(self, now: float) -> list[Effect]:
        """Time has passed; call it a few times a second, with or without a stream."""
        effects = self._leases.stop_overdue(now)
        if self.link in (Link.GREETING, Link.OPEN) and self._heartbeats.is_silent(now):
            logger.warning("the server is silent; connecting again %s", self._where())
            effects += self._disconnect(self._backoff_seconds())
        if self.link is Link.OPEN:
            effects += self._heartbeat(now)
            self._leases.rewind_stalled(RESEND_INTERVALS * self._heartbeats.interval_seconds, now)
        return self._settled(effects, now)

    # --- what happens on this machine ---

    def recover(self, history: History, adopted: bool, now: float) -> list[Effect]:
        """The journal tells of an attempt of an earlier process, before the first stream.

        `adopted`: an engine still runs it, and its events will follow. What
        neither ended nor runs any more is given back.
        """
        self._leases.recover(history, adopted, now)
        return self._settled([], now)

    def persisted(self, number: int, now: float) -> list[Effect]:
        """The records of the Persist effect with this number are durable."""
        effects = self._leases.stop_overdue(now)
        return self._settled(effects + self._if_open(self._leases.persisted(number)), now)

    def not_persisted(self, number: int, error: str, now: float) -> list[Effect]:
        """They could not be made durable; `error` is for a person."""
        effects = self._leases.stop_overdue(now)
        return self._settled(effects + self._if_open(self._leases.not_persisted(number, error, now)), now)

    def sampled(self, status: gpus_pb2.GpuStatus) -> list[Effect]:
        """A fresh reading of the GPUs; the next heartbeat carries it."""
        self._gpu_status = status
        self._gpu_status_is_new = True
        return []

    def capacity(
        self,
        slots: int,
        models: Sequence[sessions_pb2.ServedModel],
        job_types: Sequence[jobs_pb2.JobType.ValueType] | None = None,
        self_tests: honesty_pb2.SelfTestReport | None = None,
    ) -> list[Effect]:
        """The daemon can take more or fewer jobs, or serves others; None: as before."""
        if job_types is not None:
            self._job_types = list(job_types)
        self._self_tests = self_tests or self._self_tests
        self._slots, self._models = slots, list(models)
        return self._say_capacity()

    def gpus_failed(self, leases: Sequence[sessions_pb2.Lease], now: float) -> list[Effect]:
        """The GPUs under these runs failed: they are given back, for others to do."""
        effects = self._leases.stop_overdue(now)
        for lease in leases:
            effects += self._leases.gpu_failed(lease, now)
        return self._settled(effects, now)

    def attempt_started(self, lease: sessions_pb2.Lease, now: float) -> list[Effect]:
        """The run itself has begun; the meter runs from here."""
        effects = self._leases.stop_overdue(now)
        self._leases.started(lease, now)
        return self._settled(effects, now)

    def attempt_output(self, lease: sessions_pb2.Lease, data: bytes, now: float) -> list[Effect]:
        """The run wrote output. What is too much of it is dropped, and the output says so at its end."""
        return self._wrote(lease, Channel.OUTPUT, data, now)

    def attempt_log(self, lease: sessions_pb2.Lease, data: bytes, now: float) -> list[Effect]:
        """The run wrote log. What is too much of it is dropped."""
        return self._wrote(lease, Channel.LOG, data, now)

    def attempt_worked(self, lease: sessions_pb2.Lease, now: float) -> list[Effect]:
        """The run's work is over; what follows until it has finished is not metered."""
        effects = self._leases.stop_overdue(now)
        self._leases.worked(lease, now)
        return self._settled(effects, now)

    def attempt_finished(self, lease: sessions_pb2.Lease, result: Result, now: float) -> list[Effect]:
        """The run has ended by itself."""
        effects = self._leases.stop_overdue(now)
        self._leases.ended(lease, result, now)
        return self._settled(effects, now)

    def drain(self, now: float) -> list[Effect]:
        """Finish what runs, for up to 30 s, take no more, then say goodbye."""
        if self._drain_until is not None or self.link is Link.ENDED:
            return []
        self._drain_until = now + DRAIN_SECONDS
        logger.info("draining runs=%d %s", len(self.unfinished), self._where())
        return self._settled(self._say_drain(), now)

    def _wrote(self, lease: sessions_pb2.Lease, channel: Channel, data: bytes, now: float) -> list[Effect]:
        effects = self._leases.stop_overdue(now)
        self._leases.wrote(lease, channel, data)
        return self._settled(effects, now)

    # --- the server's messages ---

    def _on_welcome(self, welcome: sessions_pb2.Welcome, now: float) -> list[Effect]:
        self.link = Link.OPEN
        self._failures = 0
        self.provider_id, self.session_epoch = welcome.provider_id, welcome.session_epoch
        self.settings = welcome.settings
        self.newest_daemon, self.update_available = welcome.newest_daemon, welcome.update_available
        self._heartbeats.open(_seconds(welcome.heartbeat_interval), now)
        leases = self._leases
        leases.where = self._where()
        leases.lost_after_seconds = _seconds(welcome.lost_after) or DEFAULT_LOST_AFTER_SECONDS
        leases.credit = welcome.chunk_credit if welcome.chunk_credit > 0 else DEFAULT_CHUNK_CREDIT
        leases.tell_results_again(now)
        # What changed since Hello could not be said before Welcome.
        return [Opened(self.provider_id, self.session_epoch), *self._say_capacity(), *self._say_drain()]

    def _on_heartbeat_ack(self, ack: sessions_pb2.HeartbeatAck, now: float) -> list[Effect]:
        # The server renewed the leases that the heartbeat listed after it left,
        # so counting from its departure errs on the safe side.
        if (answered := self._heartbeats.answered(ack.sequence)) is not None:
            self._leases.renew(*answered)
        return []

    def _on_job_offer(self, offer: sessions_pb2.JobOffer, now: float) -> list[Effect]:
        if not offer.lease.job_id or offer.lease.lease_epoch < 1:
            logger.warning("ignored an offer without a lease %s", self._where())
            return []
        return self._leases.offer(offer, lambda: self._refusal(offer), now)

    def _on_cancel_run(self, cancel: sessions_pb2.CancelRun, now: float) -> list[Effect]:
        return self._leases.cancel(cancel.lease, now)

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
        self.link = Link.ENDED
        return [*self._leases.discard_all(), EndSession(EndReason.SUPERSEDED)]

    def _on_settings_update(self, settings: terms_pb2.ProviderSettings, now: float) -> list[Effect]:
        self.settings = settings
        logger.info("the owner changed its settings %s", self._where())
        return []

    # --- rules ---

    def _refusal(self, offer: sessions_pb2.JobOffer) -> str:
        """Why the offer cannot be taken, for a person; empty when it can."""
        if self._drain_until is not None:
            return "the daemon is draining"
        if offer.job_type not in self._job_types:
            return f"this daemon does not run jobs of type {jobs_pb2.JobType.Name(offer.job_type)}"
        is_inference = offer.job_type == jobs_pb2.JOB_TYPE_LLM_INFERENCE
        if is_inference and offer.params.model not in [model.name for model in self._models]:
            return f"this daemon does not serve the model {offer.params.model}"
        if _seconds(offer.run_limit) <= 0:
            return "the offer has no run limit"
        if refusal := self._objection(offer, [run.offer for run in self.unfinished]):
            return refusal
        return "no slot is free" if len(self.unfinished) >= self._slots else ""

    def _heartbeat(self, now: float) -> list[Effect]:
        if not self._heartbeats.due(now):
            return []
        leases = self._leases.untold
        sequence = self._heartbeats.beat([lease_key(lease) for lease in leases], now)
        self._leases.read_meters(now)
        status = self._gpu_status if self._gpu_status_is_new else None
        self._gpu_status_is_new = False
        heartbeat = sessions_pb2.SessionHeartbeat(sequence=sequence, gpu_status=status, held_leases=leases)
        return [Send(sessions_pb2.DaemonMessage(heartbeat=heartbeat))]

    def _settled(self, effects: list[Effect], now: float) -> list[Effect]:
        """The effects, then what can be saved and sent now, then the end of a drain if it is time."""
        draining = self._drain_until is not None and self.link is not Link.ENDED
        if self._drain_until is not None and draining and now >= self._drain_until:
            effects = [*effects, *self._leases.release_all(now)]
        effects = [*effects, *self._leases.unsaved()]
        if self.link is Link.OPEN:
            effects += self._leases.sendable(now)
        if self._drain_until is not None and draining:
            effects += self._farewell(now, self._drain_until + FAREWELL_SECONDS)
        return effects

    def _farewell(self, now: float, until: float) -> list[Effect]:
        if self.unfinished or (len(self._leases) and now < until):
            return []
        goodbye = sessions_pb2.DaemonMessage(goodbye=sessions_pb2.Goodbye(message="drained"))
        effects = self._if_open([Send(goodbye)])
        self.link = Link.ENDED
        return [*effects, EndSession(EndReason.DRAINED)]

    def _say_drain(self) -> list[Effect]:
        if self._drain_until is None:
            return []
        return self._if_open([Send(sessions_pb2.DaemonMessage(drain=sessions_pb2.Drain()))])

    @property
    def _capacity(self) -> _Capacity:
        return self._slots, self._models, self._job_types, self._self_tests

    def _say_capacity(self) -> list[Effect]:
        if self.link is not Link.OPEN or self._capacity == self._told_capacity:
            return []
        self._told_capacity = self._capacity
        update = sessions_pb2.CapacityUpdate(
            slots=self._slots,
            models=self._models,
            job_types=sessions_pb2.OfferedJobTypes(job_types=self._job_types),
            self_tests=self._self_tests,
        )
        return [Send(sessions_pb2.DaemonMessage(capacity_update=update))]

    # --- steps ---

    def _hello(self) -> sessions_pb2.Hello:
        self._told_capacity = self._capacity
        return sessions_pb2.Hello(
            boot_id=self._boot_id,
            daemon_version=self._daemon_version,
            protocol_version=PROTOCOL_VERSION,
            gpu_status=self._gpu_status,
            models=self._models,
            job_types=self._job_types,
            runs_plain_processes=self._runs_plain_processes,
            slots=self._slots,
            held_leases=self._leases.held,
            unacknowledged_results=self._leases.with_result,
            self_tests=self._self_tests,
        )

    def _disconnect(self, delay: float) -> list[Effect]:
        self.link = Link.OFFLINE
        return [*self._leases.pause(), ReconnectAfter(delay)]

    def _backoff_seconds(self) -> float:
        ceiling = min(MAX_BACKOFF_SECONDS, 2.0**self._failures)
        self._failures = min(self._failures + 1, 10)
        return self._rng.uniform(0.0, ceiling)

    def _if_open(self, effects: list[Effect]) -> list[Effect]:
        """The effects, without messages where there is no welcome to say anything."""
        if self.link is Link.OPEN:
            return effects
        return [effect for effect in effects if not isinstance(effect, Send)]

    def _where(self) -> str:
        return f"provider_id={self.provider_id} session_epoch={self.session_epoch}"


_Capacity: TypeAlias = tuple[
    int,
    list[sessions_pb2.ServedModel],
    list[jobs_pb2.JobType.ValueType],
    honesty_pb2.SelfTestReport | None,
]
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
_HANDLERS: dict[Link, dict[str, _Handler]] = {
    Link.OFFLINE: {},
    Link.GREETING: _GREETING,
    Link.OPEN: _OPEN,
    Link.ENDED: {},
}


def _seconds(duration: Duration) -> float:
    """Never negative: nothing on this wire is measured backwards."""
    return max(0.0, duration.seconds + duration.nanos / 1e9)

"""The daemon's half of the session protocol: messages, ticks and events in, effects out.

It must not know gRPC, tasks, files or the time of day: `now` is the monotonic
clock's reading and randomness is an argument, so a test can be its whole world.

    OFFLINE   no stream                    connected -> GREETING
    GREETING  Hello sent                   Welcome -> OPEN, lost -> OFFLINE
    OPEN      jobs come, heartbeats go     lost, Reconnect, silence -> OFFLINE
    ENDED     superseded or drained        nothing leaves it

What the state's row in `_HANDLERS` does not have is a peer's mistake or a late
repetition: it is logged and changes nothing. Runs live through streams: they
end by themselves, by the server's word, at their time limit, or when the server
has been silent for so long that it is about to give their jobs to others.
"""

from __future__ import annotations

import logging
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Sequence
from enum import Enum, auto
from random import Random
from typing import Any

from dcp.v1 import gpus_pb2, jobs_pb2, sessions_pb2
from google.protobuf.duration_pb2 import Duration

from daemon.effects import (
    Effect,
    EndReason,
    EndSession,
    Opened,
    ReconnectAfter,
    Send,
    StartAttempt,
    StopAttempt,
)
from daemon.runs import LeaseKey, Result, Run, Step, failed, lease_key

logger = logging.getLogger(__name__)

PROTOCOL_VERSION = 1
DEFAULT_HEARTBEAT_SECONDS = 10.0
DEFAULT_LOST_AFTER_SECONDS = 300.0
DEFAULT_CHUNK_CREDIT = 16
LOST_MARGIN_SECONDS = 30.0
HEARTBEAT_JITTER = 0.1
SILENT_INTERVALS = 6
RESEND_INTERVALS = 3
MAX_BACKOFF_SECONDS = 60.0
MAX_UNTOLD_RESULTS = 64
MAX_REMEMBERED_REPLIES = 256
MAX_REFUSAL_CHARACTERS = 1000
DRAIN_SECONDS = 30.0
FAREWELL_SECONDS = 5.0


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
    ) -> None:
        self.link = Link.OFFLINE
        self.provider_id = 0
        self.session_epoch = 0
        self._boot_id = boot_id
        self._daemon_version = daemon_version
        self._rng = rng
        self._slots = slots
        self._models = list(models)
        self._job_types = list(job_types)
        self._gpu_status: gpus_pb2.GpuStatus | None = None
        self._gpu_status_is_new = False
        self._runs: dict[LeaseKey, Run] = {}
        self._replies: OrderedDict[LeaseKey, sessions_pb2.OfferReply] = OrderedDict()
        self._failures = 0
        self._drain_until: float | None = None
        self._heartbeat_seconds = DEFAULT_HEARTBEAT_SECONDS
        self._lost_after_seconds = DEFAULT_LOST_AFTER_SECONDS
        self._credit = DEFAULT_CHUNK_CREDIT
        self._hello_at = 0.0
        self._heard_at = 0.0
        self._next_heartbeat_at = 0.0
        self._sequence = 0
        self._heartbeats: deque[tuple[int, float]] = deque(maxlen=64)

    @property
    def unfinished(self) -> list[Run]:
        """The runs that prepare or run: they take the slots."""
        return [run for run in self._runs.values() if not run.finished]

    # --- the stream ---

    def connected(self, now: float) -> list[Effect]:
        """A stream is open: Hello, and nothing else until Welcome."""
        if self.link is not Link.OFFLINE:
            return []
        self.link = Link.GREETING
        self._hello_at = self._heard_at = now
        self._heartbeats.clear()
        self._gpu_status_is_new = False
        return [Send(sessions_pb2.DaemonMessage(hello=self._hello()))]

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
        self._heard_at = now
        effects = handler(self, getattr(message, str(kind)), now)
        return self._settled(effects, now)

    def tick(self, now: float) -> list[Effect]:
        """Time has passed; call it a few times a second, with or without a stream."""
        effects = self._stop_overdue(now)
        if self.link in (Link.GREETING, Link.OPEN) and self._is_silent(now):
            logger.warning("the server is silent; connecting again %s", self._where())
            return effects + self._disconnect(self._backoff_seconds())
        if self.link is Link.OPEN:
            effects += self._heartbeat(now)
            self._rewind_stalled(now)
        return self._settled(effects, now)

    # --- what happens on this machine ---

    def sampled(self, status: gpus_pb2.GpuStatus) -> list[Effect]:
        """A fresh reading of the GPUs; the next heartbeat carries it."""
        self._gpu_status = status
        self._gpu_status_is_new = True
        return []

    def capacity(self, slots: int, models: Sequence[sessions_pb2.ServedModel]) -> list[Effect]:
        """The daemon can take more or fewer jobs, or serves other models."""
        if slots == self._slots and list(models) == self._models:
            return []
        self._slots, self._models = slots, list(models)
        if self.link is not Link.OPEN:
            return []
        update = sessions_pb2.CapacityUpdate(slots=slots, models=models)
        return [Send(sessions_pb2.DaemonMessage(capacity_update=update))]

    def attempt_started(self, lease: sessions_pb2.Lease, now: float) -> list[Effect]:
        """The run itself has begun; the meter runs from here."""
        run = self._runs.get(lease_key(lease))
        if run is None or not run.start(now):
            return []
        logger.info("job started %s", self._of(run))
        return self._settled([], now)

    def attempt_output(self, lease: sessions_pb2.Lease, data: bytes, now: float) -> list[Effect]:
        """The run wrote output. Too much of it ends the run."""
        run = self._runs.get(lease_key(lease))
        if run is None or not run.take(Step.WRITE):
            return []
        effects: list[Effect] = []
        if not run.output.add(data):
            effects = self._stop(run, _TOO_LARGE, now)
        return self._settled(effects, now)

    def attempt_log(self, lease: sessions_pb2.Lease, data: bytes, now: float) -> list[Effect]:
        """The run wrote log. What is too much of it is dropped."""
        run = self._runs.get(lease_key(lease))
        if run is None or not run.take(Step.WRITE):
            return []
        run.log.add(data)
        return self._settled([], now)

    def attempt_finished(self, lease: sessions_pb2.Lease, result: Result, now: float) -> list[Effect]:
        """The run has ended by itself."""
        run = self._runs.get(lease_key(lease))
        if run is not None:
            self._finish(run, result, now)
        return self._settled([], now)

    def drain(self, now: float) -> list[Effect]:
        """Finish what runs, for up to 30 s, take no more, then say goodbye."""
        if self._drain_until is not None or self.link is Link.ENDED:
            return []
        self._drain_until = now + DRAIN_SECONDS
        logger.info("draining runs=%d %s", len(self.unfinished), self._where())
        return self._settled(self._say_drain(), now)

    # --- the server's messages ---

    def _on_welcome(self, welcome: sessions_pb2.Welcome, now: float) -> list[Effect]:
        self.link = Link.OPEN
        self._failures = 0
        self.provider_id, self.session_epoch = welcome.provider_id, welcome.session_epoch
        self._heartbeat_seconds = _seconds(welcome.heartbeat_interval) or DEFAULT_HEARTBEAT_SECONDS
        self._lost_after_seconds = _seconds(welcome.lost_after) or DEFAULT_LOST_AFTER_SECONDS
        self._credit = welcome.chunk_credit if welcome.chunk_credit > 0 else DEFAULT_CHUNK_CREDIT
        self._sequence = 0
        self._heartbeats.clear()
        self._schedule_heartbeat(now)
        for run in self._runs.values():
            run.progress_at = now
            if run.finished:
                run.rewind()
        return [Opened(self.provider_id, self.session_epoch), *self._say_drain()]

    def _on_heartbeat_ack(self, ack: sessions_pb2.HeartbeatAck, now: float) -> list[Effect]:
        # The server renewed the leases after the heartbeat left, so counting from
        # its departure errs on the safe side.
        while self._heartbeats and self._heartbeats[0][0] <= ack.sequence:
            sequence, sent_at = self._heartbeats.popleft()
            if sequence == ack.sequence:
                self._renew(self._runs.values(), sent_at)
        return []

    def _on_job_offer(self, offer: sessions_pb2.JobOffer, now: float) -> list[Effect]:
        key = lease_key(offer.lease)
        if not offer.lease.job_id or offer.lease.lease_epoch < 1:
            logger.warning("ignored an offer without a lease %s", self._where())
            return []
        if key in self._replies:
            return [_reply(self._replies[key])]
        effects = self._discard_older(offer.lease)
        refusal = self._refusal(offer)
        reply = sessions_pb2.OfferReply(lease=offer.lease, accepted=not refusal, refusal=refusal)
        self._remember(key, reply)
        effects.append(_reply(reply))
        if refusal:
            logger.info("offer refused job_id=%s refusal=%s", offer.lease.job_id, refusal)
            return effects
        run = self._runs[key] = Run(offer, now)
        logger.info("offer accepted %s", self._of(run))
        return [*effects, StartAttempt(offer)]

    def _on_cancel_run(self, cancel: sessions_pb2.CancelRun, now: float) -> list[Effect]:
        run = self._runs.get(lease_key(cancel.lease))
        if run is None:
            logger.warning("ignored a cancel of a lease not held job_id=%s", cancel.lease.job_id)
            return []
        return self._stop(run, _CANCELLED, now)

    def _on_lease_directive(self, directive: sessions_pb2.LeaseDirective, now: float) -> list[Effect]:
        run = self._runs.get(lease_key(directive.lease))
        if run is None:
            return []
        if directive.action == sessions_pb2.LEASE_ACTION_STOP_AND_DISCARD:
            return self._discard(run)
        if directive.action not in (sessions_pb2.LEASE_ACTION_KEEP, sessions_pb2.LEASE_ACTION_RESEND):
            logger.warning("ignored an unknown directive action=%d %s", directive.action, self._of(run))
            return []
        self._acknowledge(run, directive, now)
        self._renew([run], self._hello_at)
        if directive.action == sessions_pb2.LEASE_ACTION_RESEND:
            run.rewind()
        run.resume()
        return []

    def _on_result_ack(self, ack: sessions_pb2.ResultAck, now: float) -> list[Effect]:
        run = self._runs.get(lease_key(ack.lease))
        if run is None:
            return []
        if not run.finished or ack.disposition == sessions_pb2.RESULT_DISPOSITION_UNSPECIFIED:
            logger.warning("ignored an acknowledgement without a result %s", self._of(run))
            return []
        logger.info("result acknowledged disposition=%d %s", ack.disposition, self._of(run))
        del self._runs[lease_key(ack.lease)]
        return []

    def _on_output_ack(self, ack: sessions_pb2.OutputAck, now: float) -> list[Effect]:
        run = self._runs.get(lease_key(ack.lease))
        if run is not None:
            self._acknowledge(run, ack, now)
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
        effects = [effect for run in list(self._runs.values()) for effect in self._discard(run)]
        self.link = Link.ENDED
        return [*effects, EndSession(EndReason.SUPERSEDED)]

    # --- rules ---

    def _refusal(self, offer: sessions_pb2.JobOffer) -> str:
        """Why the offer cannot be taken, for a person; empty when it can."""
        if self._drain_until is not None:
            return "the daemon is draining"
        if offer.job_type not in self._job_types:
            return f"this daemon does not run jobs of type {jobs_pb2.JobType.Name(offer.job_type)}"
        if offer.params.model not in [model.name for model in self._models]:
            return f"this daemon does not serve the model {offer.params.model}"[:MAX_REFUSAL_CHARACTERS]
        if _seconds(offer.run_limit) <= 0:
            return "the offer has no run limit"
        if len(self.unfinished) >= self._slots:
            return "no slot is free"
        if len(self._runs) - len(self.unfinished) >= MAX_UNTOLD_RESULTS:
            return "too many results wait for their acknowledgement"
        return ""

    def _stop_overdue(self, now: float) -> list[Effect]:
        # A run must be over here before the server gives its job to another
        # machine, or two would work on it. The margin is halved away only when
        # the server's own period is shorter than two margins.
        patience = max(self._lost_after_seconds - LOST_MARGIN_SECONDS, self._lost_after_seconds / 2)
        effects: list[Effect] = []
        for run in self.unfinished:
            if run.reached_limit(now):
                effects += self._stop(run, _OUT_OF_TIME, now)
            elif now - run.renewed_at >= patience:
                logger.warning("stopped a job: the server is silent for too long %s", self._of(run))
                effects += self._stop(run, _UNRENEWED, now)
        return effects

    def _is_silent(self, now: float) -> bool:
        """Whether something said long ago is unanswered; a quiet server that owes nothing is well."""
        if self.link is Link.OPEN and not self._heartbeats:
            return False
        asked_at = self._heartbeats[0][1] if self._heartbeats else self._hello_at
        return now - max(asked_at, self._heard_at) > SILENT_INTERVALS * self._heartbeat_seconds

    def _heartbeat(self, now: float) -> list[Effect]:
        if now < self._next_heartbeat_at:
            return []
        self._schedule_heartbeat(now)
        self._sequence += 1
        self._heartbeats.append((self._sequence, now))
        status = self._gpu_status if self._gpu_status_is_new else None
        self._gpu_status_is_new = False
        # A result that this stream has not carried yet (its chunks wait for
        # credit) is still the daemon's: unlisted, its lease would be lost.
        leases = [run.lease for run in self._runs.values() if not run.told]
        heartbeat = sessions_pb2.SessionHeartbeat(
            sequence=self._sequence, gpu_status=status, held_leases=leases
        )
        return [Send(sessions_pb2.DaemonMessage(heartbeat=heartbeat))]

    def _schedule_heartbeat(self, now: float) -> None:
        jitter = self._rng.uniform(1 - HEARTBEAT_JITTER, 1 + HEARTBEAT_JITTER)
        self._next_heartbeat_at = now + self._heartbeat_seconds * jitter

    def _rewind_stalled(self, now: float) -> None:
        """What stayed unanswered on a living stream was lost on the way: tell it again."""
        for run in self._runs.values():
            if run.waiting and now - run.progress_at >= RESEND_INTERVALS * self._heartbeat_seconds:
                run.progress_at = now
                run.rewind()

    def _settled(self, effects: list[Effect], now: float) -> list[Effect]:
        """The effects, then everything that can be sent now, then the end of a drain if it is time."""
        effects = [*effects, *self._sendable(now)]
        if self._drain_until is None or self.link is Link.ENDED:
            return effects
        if now >= self._drain_until:
            for run in self.unfinished:
                effects += self._stop(run, _DRAINED, now)
            effects += self._sendable(now)
        return effects + self._farewell(now, self._drain_until + FAREWELL_SECONDS)

    def _sendable(self, now: float) -> list[Effect]:
        if self.link is not Link.OPEN:
            return []
        effects: list[Effect] = []
        credit = self._credit - sum(run.in_flight for run in self._runs.values())
        for run in self._runs.values():
            while (message := run.next_message(credit, now)) is not None:
                effects.append(Send(message))
                credit -= message.WhichOneof("kind") in ("output_chunk", "log_chunk")
        return effects

    def _farewell(self, now: float, until: float) -> list[Effect]:
        if self.unfinished or (self._runs and now < until):
            return []
        goodbye = sessions_pb2.DaemonMessage(goodbye=sessions_pb2.Goodbye(message="drained"))
        effects: list[Effect] = [Send(goodbye)] if self.link is Link.OPEN else []
        self.link = Link.ENDED
        return [*effects, EndSession(EndReason.DRAINED)]

    def _say_drain(self) -> list[Effect]:
        if self._drain_until is None or self.link is not Link.OPEN:
            return []
        return [Send(sessions_pb2.DaemonMessage(drain=sessions_pb2.Drain()))]

    # --- steps ---

    def _hello(self) -> sessions_pb2.Hello:
        return sessions_pb2.Hello(
            boot_id=self._boot_id,
            daemon_version=self._daemon_version,
            protocol_version=PROTOCOL_VERSION,
            gpu_status=self._gpu_status,
            models=self._models,
            job_types=self._job_types,
            slots=self._slots,
            held_leases=[run.lease for run in self._runs.values() if not run.finished],
            unacknowledged_results=[run.lease for run in self._runs.values() if run.finished],
        )

    def _disconnect(self, delay: float) -> list[Effect]:
        self.link = Link.OFFLINE
        for run in self._runs.values():
            run.pause()
        return [ReconnectAfter(delay)]

    def _backoff_seconds(self) -> float:
        ceiling = min(MAX_BACKOFF_SECONDS, 2.0**self._failures)
        self._failures = min(self._failures + 1, 10)
        return self._rng.uniform(0.0, ceiling)

    def _remember(self, key: LeaseKey, reply: sessions_pb2.OfferReply) -> None:
        self._replies[key] = reply
        if len(self._replies) > MAX_REMEMBERED_REPLIES:
            self._replies.popitem(last=False)

    def _discard_older(self, lease: sessions_pb2.Lease) -> list[Effect]:
        """A newer lease of the same job proves that the older one is over."""
        older = [
            run
            for run in self._runs.values()
            if run.lease.job_id == lease.job_id and run.lease.lease_epoch < lease.lease_epoch
        ]
        return [effect for run in older for effect in self._discard(run)]

    def _discard(self, run: Run) -> list[Effect]:
        logger.info("lease discarded %s", self._of(run))
        del self._runs[lease_key(run.lease)]
        return [] if run.finished else [StopAttempt(run.lease, discard=True)]

    def _stop(self, run: Run, result: Result, now: float) -> list[Effect]:
        return [StopAttempt(run.lease, discard=False)] if self._finish(run, result, now) else []

    def _finish(self, run: Run, result: Result, now: float) -> bool:
        if not run.finish(result, now):
            return False
        outcome = sessions_pb2.RunOutcome.Name(result.outcome)
        logger.info(
            "job finished outcome=%s run_seconds=%.3f %s", outcome, run.run_seconds(now), self._of(run)
        )
        return True

    def _renew(self, runs: Iterable[Run], at: float) -> None:
        for run in runs:
            run.renewed_at = max(run.renewed_at, at)

    def _acknowledge(
        self, run: Run, ack: sessions_pb2.OutputAck | sessions_pb2.LeaseDirective, now: float
    ) -> None:
        if not run.acknowledge(ack.output_through_seq, ack.log_through_seq, now):
            logger.warning("the server acknowledged chunks that were never made %s", self._of(run))

    def _where(self) -> str:
        return f"provider_id={self.provider_id} session_epoch={self.session_epoch}"

    def _of(self, run: Run) -> str:
        lease = run.lease
        return f"job_id={lease.job_id} attempt={run.attempt} lease_epoch={lease.lease_epoch} {self._where()}"


_CANCELLED = Result(sessions_pb2.RUN_OUTCOME_CANCELLED, jobs_pb2.FAILURE_REASON_CANCELLED)
_OUT_OF_TIME = failed(jobs_pb2.FAILURE_REASON_DURATION_LIMIT, "The job reached its longest time.")
_TOO_LARGE = failed(jobs_pb2.FAILURE_REASON_OUTPUT_TOO_LARGE, "The job wrote more than 2 MiB of output.")
_UNRENEWED = Result(
    sessions_pb2.RUN_OUTCOME_RELEASED,
    jobs_pb2.FAILURE_REASON_PROVIDER_LOST,
    "The provider lost contact with the server.",
)
_DRAINED = Result(
    sessions_pb2.RUN_OUTCOME_RELEASED,
    jobs_pb2.FAILURE_REASON_PROVIDER_DRAINED,
    "The provider's daemon was stopped by its owner.",
)

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
}
_HANDLERS: dict[Link, dict[str, _Handler]] = {
    Link.OFFLINE: {},
    Link.GREETING: _GREETING,
    Link.OPEN: _OPEN,
    Link.ENDED: {},
}


def _reply(reply: sessions_pb2.OfferReply) -> Send:
    return Send(sessions_pb2.DaemonMessage(offer_reply=reply))


def _seconds(duration: Duration) -> float:
    """Never negative: nothing on this wire is measured backwards."""
    return max(0.0, duration.seconds + duration.nanos / 1e9)

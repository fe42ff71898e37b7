"""Owns the leases that this daemon has accepted, their transcripts, and what may be sent about them when.

Pure, like the session that drives it. Everything here keeps one order: an
acceptance, a start, a piece and a result are saved in the journal before they
are sent, and sent again until the server has confirmed them; the pieces of a chat are
saved with its result. It must not know streams, heartbeats or drains.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import count

from dcp.v1 import jobs_pb2, sessions_pb2
from google.protobuf.duration_pb2 import Duration

from daemon.protocol.effects import Effect, EndAttempt, Forget, Persist, Send, StartAttempt, StopAttempt
from daemon.protocol.events import (
    AttemptEvent,
    AttemptFinished,
    AttemptStarted,
    AttemptWorked,
    AttemptWrote,
    LeaseKey,
    Result,
    failed,
    lease_key,
    released,
)
from daemon.protocol.pieces import MAX_CHUNK_BYTES
from daemon.protocol.records import Accepted, Channel, History
from daemon.protocol.transcript import Phase, Transcript

logger = logging.getLogger(__name__)

DEFAULT_LOST_AFTER_SECONDS = 300.0
DEFAULT_CHUNK_CREDIT = 16
LOST_MARGIN_SECONDS = 30.0
MAX_UNACKNOWLEDGED_RESULTS = 64
MAX_REMEMBERED_REPLIES = 256
MAX_REFUSAL_CHARACTERS = 1000


Rest = Callable[[sessions_pb2.Lease], Iterable[tuple[Channel, bytes]]]


class HeldLeases:
    """What this daemon holds, by lease."""

    def __init__(self, rest: Rest) -> None:
        """`rest`: takes what a run wrote and did not report, which goes with its result."""
        self._rest = rest
        self.credit = DEFAULT_CHUNK_CREDIT
        """How many pieces may be under way without an acknowledgement."""
        self.lost_after_seconds = DEFAULT_LOST_AFTER_SECONDS
        """For offers that do not say it."""
        self.where = ""
        """The session, for the log."""
        self.merges = False
        """The server takes merged messages: an acceptance with the start, a result with the last piece."""
        self._transcripts: dict[LeaseKey, Transcript] = {}
        self._replies: OrderedDict[LeaseKey, sessions_pb2.OfferReply | None] = OrderedDict()
        self._numbers = count(1)
        self._saving: dict[int, LeaseKey] = {}
        self._is_journal_well = True

    def __len__(self) -> int:
        return len(self._transcripts)

    @property
    def unfinished(self) -> list[Transcript]:
        """The runs that prepare or run: they take the slots."""
        return [run for run in self._transcripts.values() if not run.finished]

    @property
    def held(self) -> list[sessions_pb2.Lease]:
        """The leases without a result to report."""
        return [run.lease for run in self._transcripts.values() if not run.has_result]

    @property
    def with_result(self) -> list[sessions_pb2.Lease]:
        """The leases whose result waits for its acknowledgement."""
        return [run.lease for run in self._transcripts.values() if run.has_result]

    @property
    def run_times(self) -> list[Duration]:
        """How long the runs of `with_result` took, in the same order."""
        return [run.run_time for run in self._transcripts.values() if run.has_result]

    @property
    def unreported(self) -> list[sessions_pb2.Lease]:
        """The leases whose result the present stream has not carried: unlisted, they would be lost."""
        return [run.lease for run in self._transcripts.values() if not run.is_reported]

    def has_room(self, lease: sessions_pb2.Lease) -> bool:
        """Whether more output can be taken before the server has stored what there is."""
        run = self._transcripts.get(lease_key(lease))
        return run is None or run.finished or run.backlog_bytes < self.credit * MAX_CHUNK_BYTES

    def is_prepared(self, lease: sessions_pb2.Lease) -> bool:
        """Whether the server knows that the run was accepted, and it has not started."""
        run = self._transcripts.get(lease_key(lease))
        return run is not None and run.is_accepted and run.phase is Phase.PREPARING

    # --- offers ---

    def offer(
        self, offer: sessions_pb2.JobOffer, refuse: Callable[[], str], now: float, *, is_warm: bool = False
    ) -> list[Effect]:
        """Takes an offer, or not; a repeated one gets the same answer. `refuse`: why not, or nothing.

        `is_warm`: its model is loaded. The run then begins at once, and its acceptance waits for the start,
        so that both are one write and one message; nothing is reported before it is saved.
        """
        key = lease_key(offer.lease)
        if key in self._replies:
            reply = self._replies[key]
            return [_send_reply(reply)] if reply is not None else []
        if key in self._transcripts:
            return []  # its acceptance is being saved; the answer comes then
        effects = self._discard_older(offer.lease)
        if refusal := refuse() or self._too_much():
            return [*effects, self._refuse(offer.lease, refusal)]
        starts_soon = self.merges and is_warm
        self._transcripts[key] = Transcript.of(offer, now, starts_soon=starts_soon)
        if starts_soon:
            effects.append(StartAttempt(offer))
        return effects

    def recover(self, history: History, adopted: bool, now: float) -> None:
        """An attempt of an earlier process; `adopted`: an engine still runs it."""
        run = Transcript(history, now)
        key = lease_key(run.lease)
        self._transcripts[key] = run
        self._remember(key, sessions_pb2.OfferReply(lease=run.lease, accepted=True))
        if adopted and not run.finished:
            run.adopt(now)
            logger.info("attempt adopted %s", self._of(run))
        elif not run.finished:
            self._finish(run, _RESTARTED, now)
        run.pause()

    def _too_much(self) -> str:
        results = len(self._transcripts) - len(self.unfinished)
        return (
            "too many results wait for their acknowledgement" if results >= MAX_UNACKNOWLEDGED_RESULTS else ""
        )

    def _refuse(self, lease: sessions_pb2.Lease, refusal: str) -> Effect:
        refusal = refusal[:MAX_REFUSAL_CHARACTERS]
        reply = sessions_pb2.OfferReply(lease=lease, accepted=False, refusal=refusal)
        self._remember(lease_key(lease), reply)
        logger.info("offer refused job_id=%s refusal=%s", lease.job_id, refusal)
        return _send_reply(reply)

    def _remember(self, key: LeaseKey, reply: sessions_pb2.OfferReply | None) -> None:
        self._replies[key] = reply
        if len(self._replies) > MAX_REMEMBERED_REPLIES:
            self._replies.popitem(last=False)

    def _discard_older(self, lease: sessions_pb2.Lease) -> list[Effect]:
        """A newer lease of the same job proves that the older one is over."""
        older = [
            run
            for run in self._transcripts.values()
            if run.lease.job_id == lease.job_id and run.lease.lease_epoch < lease.lease_epoch
        ]
        for key in self._replies:
            # A late copy of the older offer gets no answer.
            if key[0] == lease.job_id and key[1] < lease.lease_epoch:
                self._replies[key] = None
        return [effect for run in older for effect in self._discard(run)]

    # --- saving ---

    def unsaved(self) -> list[Effect]:
        """What is to be saved now."""
        effects: list[Effect] = []
        for key, run in self._transcripts.items():
            if records := run.take_unsaved(self.credit):
                number = next(self._numbers)
                self._saving[number] = key
                effects.append(Persist(number, run.lease, records))
        return effects

    def persisted(self, number: int, now: float) -> list[Effect]:
        """The records are durable."""
        run = self._taken_back(number)
        if not self._is_journal_well:
            self._is_journal_well = True
            logger.info("the journal can be written again")
        if run is None or not any(isinstance(record, Accepted) for record in run.saved()):
            return []
        reply = run.reply(now)
        self._remember(lease_key(run.lease), reply)
        logger.info("offer accepted %s", self._of(run))
        return [_send_reply(reply), *([] if run.has_begun or run.finished else [StartAttempt(run.offer)])]

    def not_persisted(self, number: int, error: str, now: float) -> list[Effect]:
        """The records could not be made durable: the run cannot go on."""
        run = self._taken_back(number)
        if self._is_journal_well:
            self._is_journal_well = False
            logger.error("the journal cannot be written; no job is taken meanwhile error=%s", error)
        if run is None:
            return []
        was_at_work = not run.finished
        batch = run.not_saved(_UNSAVEABLE, now)
        if any(isinstance(record, Accepted) for record in batch):
            del self._transcripts[lease_key(run.lease)]
            refusal = f"the provider's disk takes no more: {error}"
            stop: list[Effect] = [StopAttempt(run.lease, discard=True)] if run.has_begun else []
            return [*stop, Forget(run.lease), self._refuse(run.lease, refusal)]
        if was_at_work and run.finished:
            logger.error("stopped a job that cannot be saved %s", self._of(run))
            return [StopAttempt(run.lease, discard=False)]
        return []

    def read_meters(self, now: float) -> None:
        """Notes for the journal how long each run has run."""
        for run in self.unfinished:
            run.read_meter(now)

    def _taken_back(self, number: int) -> Transcript | None:
        key = self._saving.pop(number, None)
        return self._transcripts.get(key) if key is not None else None

    # --- events of attempts ---

    def attempt(self, event: AttemptEvent, now: float) -> None:
        """Something happened to a run; one that is not held any more changes nothing."""
        run = self._transcripts.get(lease_key(event.lease))
        if run is None:
            return
        match event:
            case AttemptStarted():
                if run.start(now):
                    logger.info("job started %s", self._of(run))
            case AttemptWrote(_, channel, data):
                run.write(channel, data)
            case AttemptWorked():
                run.worked(now)
            case AttemptFinished(_, result):
                # It was asked to end, so however it did, that is what ended it.
                ended = replace(_CANCELLED, image_digest=result.image_digest) if run.is_ending else result
                self._finish(run, ended, now)

    def tick(self) -> None:
        """Time has passed: no acceptance waits for its start much longer."""
        for run in self._transcripts.values():
            run.tick()

    def stop_overdue(self, now: float) -> list[Effect]:
        """Ends what has used up its time, and what the server is about to give to others."""
        effects: list[Effect] = []
        for run in self.unfinished:
            if run.reached_limit(now):
                effects += self._stop(run, _OUT_OF_TIME, now)
            elif now - run.renewed_at >= self._patience(run):
                logger.warning("stopped a job: the server is silent for too long %s", self._of(run))
                effects += self._stop(run, _UNRENEWED, now)
        return effects

    def gpu_failed(self, lease: sessions_pb2.Lease, now: float) -> list[Effect]:
        """The GPU under a run failed: it is given back."""
        run = self._transcripts.get(lease_key(lease))
        return self._stop(run, _GPU_FAILED, now) if run is not None else []

    def gpu_taken(self, lease: sessions_pb2.Lease, now: float) -> list[Effect]:
        """The owner's programs use the GPU under a run: it is given back."""
        run = self._transcripts.get(lease_key(lease))
        return self._stop(run, _GPU_TAKEN, now) if run is not None else []

    def release_all(self, now: float) -> list[Effect]:
        """Gives back whatever has not ended."""
        return [effect for run in self.unfinished for effect in self._stop(run, _DRAINED, now)]

    def _patience(self, run: Transcript) -> float:
        # A run must be over here before the server gives its job to another
        # machine, or two would work on it. The margin is halved away only when
        # the server's own period is shorter than two margins.
        lost_after = run.lost_after_seconds or self.lost_after_seconds
        return max(lost_after - LOST_MARGIN_SECONDS, lost_after / 2)

    def _stop(self, run: Transcript, result: Result, now: float) -> list[Effect]:
        return [StopAttempt(run.lease, discard=False)] if self._finish(run, result, now) else []

    def _finish(self, run: Transcript, result: Result, now: float) -> bool:
        for channel, data in self._rest(run.lease):
            run.write(channel, data)
        if not run.finish(result, now):
            return False
        outcome = sessions_pb2.RunOutcome.Name(result.outcome)
        logger.info("job finished outcome=%s run_ms=%d %s", outcome, run.run_ms(now), self._of(run))
        return True

    # --- what the server says ---

    def cancel(self, lease: sessions_pb2.Lease, now: float, *, keep_files: bool = False) -> list[Effect]:
        """Ends a run that the server cancelled; with `keep_files`, after its files are stored."""
        run = self._transcripts.get(lease_key(lease))
        if run is None:
            logger.warning("ignored a cancel of a lease not held job_id=%s", lease.job_id)
            return []
        if keep_files and run.phase is Phase.RUNNING:
            asked, run.is_ending = run.is_ending, True
            return [] if asked else [EndAttempt(run.lease)]
        return self._stop(run, _CANCELLED, now)

    def direct(self, directive: sessions_pb2.LeaseDirective, renewed_at: float, now: float) -> list[Effect]:
        """Follows the server's directive about a lease, which renews it as of `renewed_at`."""
        key = lease_key(directive.lease)
        run = self._transcripts.get(key)
        if directive.action == sessions_pb2.LEASE_ACTION_STOP_AND_DISCARD:
            # A late copy of its offer must not bring it back.
            self._remember(key, None)
            return self._discard(run) if run is not None else []
        if run is None:
            return []
        if directive.action not in (sessions_pb2.LEASE_ACTION_KEEP, sessions_pb2.LEASE_ACTION_RESEND):
            logger.warning("ignored an unknown directive action=%d %s", directive.action, self._of(run))
            return []
        self._acknowledge(run, directive, now)
        run.renewed_at = max(run.renewed_at, renewed_at)
        if directive.action == sessions_pb2.LEASE_ACTION_RESEND:
            run.rewind()
        run.resume()
        return []

    def result_stored(self, ack: sessions_pb2.ResultAck) -> list[Effect]:
        """The server has the result, or does not want it: the lease is done with."""
        run = self._transcripts.get(lease_key(ack.lease))
        if run is None:
            return []
        if not run.has_result or ack.disposition == sessions_pb2.RESULT_DISPOSITION_UNSPECIFIED:
            logger.warning("ignored an acknowledgement without a result %s", self._of(run))
            return []
        logger.info("result acknowledged disposition=%d %s", ack.disposition, self._of(run))
        del self._transcripts[lease_key(ack.lease)]
        return [Forget(run.lease)]

    def output_stored(self, ack: sessions_pb2.OutputAck, now: float) -> None:
        """The server has pieces."""
        run = self._transcripts.get(lease_key(ack.lease))
        if run is not None:
            self._acknowledge(run, ack, now)

    def renew(self, keys: Iterable[LeaseKey], at: float) -> None:
        """The server renewed these leases; it did so after `at`."""
        for key in keys:
            if (run := self._transcripts.get(key)) is not None:
                run.renewed_at = max(run.renewed_at, at)

    def discard_all(self) -> list[Effect]:
        """Drops every lease; none of their results is wanted."""
        return [effect for run in list(self._transcripts.values()) for effect in self._discard(run)]

    def _discard(self, run: Transcript) -> list[Effect]:
        logger.info("lease discarded %s", self._of(run))
        key = lease_key(run.lease)
        del self._transcripts[key]
        self._remember(key, None)
        stop: list[Effect] = [] if run.finished else [StopAttempt(run.lease, discard=True)]
        return [*stop, Forget(run.lease)]

    def _acknowledge(
        self, run: Transcript, ack: sessions_pb2.OutputAck | sessions_pb2.LeaseDirective, now: float
    ) -> None:
        if not run.acknowledge(ack.output_through_seq, ack.log_through_seq, now):
            logger.warning("the server acknowledged pieces that were never saved %s", self._of(run))

    # --- sending ---

    def pause(self) -> list[Effect]:
        """The stream is gone, and with it every offer that it brought and that has no answer yet."""
        unanswered = [run for run in self._transcripts.values() if not run.is_accepted]
        effects = [effect for run in unanswered for effect in self._discard(run)]
        for run in self._transcripts.values():
            run.pause()
        return effects

    def report_results_again(self, now: float) -> None:
        """A new stream: every result is sent from its beginning; runs wait for the server's directive."""
        for run in self._transcripts.values():
            run.progress_at = now
            if run.has_result:
                run.rewind()

    def rewind_stalled(self, patience_seconds: float, now: float) -> None:
        """Sends again what stayed unanswered on a living stream: it was lost on the way."""
        for run in self._transcripts.values():
            if run.waiting and now - run.progress_at >= patience_seconds:
                run.progress_at = now
                run.rewind()

    def sendable(self, now: float) -> list[Effect]:
        """Everything that may be sent now."""
        effects: list[Effect] = []
        credit = self.credit - sum(run.in_flight for run in self._transcripts.values())
        for run in self._transcripts.values():
            while (message := run.next_message(credit, now, merges=self.merges)) is not None:
                effects.append(Send(message))
                is_piece = message.WhichOneof("kind") in ("output_chunk", "log_chunk")
                credit -= is_piece or bool(message.job_finished.last_output)
        return effects

    def _of(self, run: Transcript) -> str:
        lease = run.lease
        return f"job_id={lease.job_id} attempt={run.attempt} lease_epoch={lease.lease_epoch} {self.where}"


_CANCELLED = Result(sessions_pb2.RUN_OUTCOME_CANCELLED, jobs_pb2.FAILURE_REASON_CANCELLED)
_OUT_OF_TIME = failed(jobs_pb2.FAILURE_REASON_DURATION_LIMIT, "The job reached its longest time.")
_UNRENEWED = released(jobs_pb2.FAILURE_REASON_PROVIDER_LOST, "The provider lost contact with the server.")
_RESTARTED = released(jobs_pb2.FAILURE_REASON_PROVIDER_LOST, "The daemon was restarted.")
_UNSAVEABLE = released(
    jobs_pb2.FAILURE_REASON_PROVIDER_LOST, "The provider's disk could not keep the job's results."
)
_GPU_FAILED = released(jobs_pb2.FAILURE_REASON_GPU_FAILED, "The provider's GPU failed.")
_GPU_TAKEN = released(jobs_pb2.FAILURE_REASON_PROVIDER_DRAINED, "The provider's owner uses the GPU.")
_DRAINED = released(
    jobs_pb2.FAILURE_REASON_PROVIDER_DRAINED, "The provider's daemon was stopped by its owner."
)


def _send_reply(reply: sessions_pb2.OfferReply) -> Send:
    return Send(sessions_pb2.DaemonMessage(offer_reply=reply))

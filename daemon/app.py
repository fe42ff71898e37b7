"""The daemon's composition root: joins session, link, attempts, journal, engines and GPUs.

It decides nothing: every event goes to the session, and what the session asks for
is done. Everything real that it uses is an argument, so tests and benchmarks run
it with fakes.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dcp.v1 import gpus_pb2, jobs_pb2, sessions_pb2

from common import tracing
from common.telemetry import OFF, Telemetry
from common.tracing import Traces
from daemon.cli.snapshot import snapshot
from daemon.journal.journal import Journal
from daemon.journal.writer import JournalWriter
from daemon.link import Line, Link, ServerAddress
from daemon.machine.health import WORKS, UnknownGpuError
from daemon.machine.machine import GpuSampler, Machine
from daemon.machine.policy import Rules
from daemon.protocol import effects as fx
from daemon.protocol import events as ev
from daemon.protocol.session import DaemonSession, Introduction, LinkState
from daemon.protocol.transcript import Phase
from daemon.runners import ResumeOffsets, Runner
from daemon.runners.input_files import InputRoom
from daemon.service.version import daemon_version
from daemon.telemetry import measure_gpus, outcome_name
from daemon.work.admission import Admission
from daemon.work.artifacts import ArtifactSink, Uploader
from daemon.work.attempts import Attempts
from daemon.work.gpu_proof import GpuProof, StartProver, provable
from daemon.work.inputs import InputStore
from daemon.work.roster import Roster
from daemon.work.selftest import SelfTests
from daemon.work.verdicts import Verdicts

logger = logging.getLogger(__name__)

REFRESH_SECONDS = 10.0
PROOF_SECONDS = 1.0
SWEEP_SECONDS = 3600.0
# What takes minutes and only frees room waits until the start is over.
FIRST_TIDY_SECONDS = 60.0
FIRST_SAMPLE_SECONDS = 5.0
# The first Hello waits at most this long for the first self-tests; an engine that takes longer is offered
# when it has passed.
JOIN_SECONDS = 2.0
# The daemon reports that it is ready when the first self-tests have ended, or after this time.
READY_SECONDS = 30.0


@dataclass(frozen=True)
class Options:
    """What usually stays as it is."""

    on_ready: Callable[[int], None] = lambda provider_id: None
    """Called with the provider's id after the first Welcome, when the first self-tests have ended."""
    on_sample: Callable[[gpus_pb2.GpuStatus], None] = lambda status: None
    """Called with each reading of the GPUs."""
    runs_plain_processes: bool = False
    """Reported to the server: jobs run as plain processes, without isolation."""
    is_key_known: bool = False
    """The server has accepted the key before: if it does not know it, it is asked again for a day."""
    verdicts: Verdicts | None = None
    """The verdicts of models that outlast the daemon; None: they end with it."""
    start_prover: StartProver | None = None
    """Starts a process that can fill a GPU; None: the GPUs are not proved."""
    artifact_sink: ArtifactSink | None = None
    """Where the files of jobs go; None: to the server."""
    input_folder: Path | None = None
    """Where the inputs of jobs are kept; None: jobs with inputs are given back."""
    input_room: InputRoom = field(default_factory=InputRoom)
    """What of that disk they may take."""
    telemetry: Telemetry = OFF
    """What is measured with."""
    traces: Traces = tracing.OFF
    """What is traced with."""
    tick_seconds: float = 0.1
    """How often, in real time, the clock is read."""
    sample_seconds: float = 5.0
    """How often, in real time, the GPUs are read."""


class Daemon:
    """One provider's daemon."""

    def __init__(
        self,
        server: ServerAddress,
        key: str,
        engines: Sequence[Runner],
        journal: Journal,
        machine: Machine | None = None,
        rules: Rules | None = None,
        options: Options | None = None,
    ) -> None:
        """`engines`: whatever runs jobs; of those that take a job, the one with the most free slots gets it.

        `rules`: when this machine may take a job.
        """
        machine, self._options = machine or Machine(), options or Options()
        self._server = server
        self._clock = machine.clock
        self._health = machine.health
        link = Link(server, key)
        self._line = Line(link, machine.clock, self._heard, is_key_known=self._options.is_key_known)
        self._opened_at: float | None = None
        self._readiness: asyncio.Task[None] | None = None
        self._end: fx.EndReason | None = None
        self._moved = asyncio.Event()
        self._started: list[ev.AttemptStarted] = []
        """Starts of this turn of the event loop: a run that ends at once is saved with its start."""
        self._sampler = GpuSampler(machine.gpus, machine.clock)
        self._roster = Roster(engines)
        self._journal = JournalWriter(journal, self._written)
        sink = self._options.artifact_sink or Uploader(link.upload, machine.rng)
        folder = self._options.input_folder
        self._attempts = Attempts(
            self._roster.engines,
            self._happened,
            self._room,
            machine.clock,
            sink,
            self._roster.is_leaving,
            self._options.traces,
            InputStore(folder, link.read_input, machine.rng, room=self._options.input_room)
            if folder is not None
            else None,
        )
        self._proof = GpuProof(
            link.prove,
            self._options.start_prover,
            self._provable_gpus,
            machine.clock,
            is_idle=lambda: not self._session.unfinished,
            changed=self._report_capacity,
        )
        self._self_tests = SelfTests(
            engines,
            machine.clock,
            machine.rng,
            is_busy=self._attempts.is_busy,
            changed=self._report_capacity,
            is_held=lambda: machine.health.is_all_kept or machine.health.is_unknown or self._proof.keeps_gpus,
            verdicts=self._options.verdicts,
        )
        self._admission = Admission(
            rules or Rules(),
            machine.local_time,
            self._sampler,
            machine.health,
            self._roster,
            self._self_tests,
            self._proof,
        )
        self._session = DaemonSession(
            Introduction(secrets.token_hex(8), daemon_version(), self._options.runs_plain_processes),
            machine.rng,
            ev.Capacity(slots=0, models=[], job_types=[]),
            self._admission.objection,
            self._attempts.take_rest,
        )

    async def run(self) -> fx.EndReason:
        """Works until drained or superseded, and returns which. Raises KeyRefusedError and JournalError."""
        loops: list[asyncio.Task[None]] = []
        try:
            await self._recover()
            first_sample = asyncio.create_task(_Step(self._sample).take())
            loops.append(first_sample)
            # A driver that hangs keeps no session from opening.
            await asyncio.wait([first_sample], timeout=FIRST_SAMPLE_SECONDS)
            await _Step(self.refresh).take()
            await self._self_tests.settle(JOIN_SECONDS)
            running = [asyncio.create_task(loop) for loop in self._loops()]
            loops += running
            done, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
            assert self._end is not None
            return self._end
        finally:
            if self._readiness is not None:
                loops.append(self._readiness)
            for task in loops:
                task.cancel()
            await asyncio.gather(*loops, return_exceptions=True)
            await self._close()

    def drain(self) -> None:
        """Takes no more jobs, finishes those that run for up to 30 s, then lets `run` return."""
        self._handle(ev.DrainRequested())

    def set_gpu_drained(self, which: str, is_drained: bool) -> dict[str, Any]:
        """Keeps one GPU, by index or UUID, from new jobs, or no longer; what runs on it finishes."""
        try:
            uuid = self._health.set_drained(which, is_drained)
        except UnknownGpuError as error:
            return {"error": str(error)}
        except OSError as error:
            return {"error": f"that cannot be stored: {error.strerror}"}
        self._report_capacity()
        return {"gpu": uuid}

    def reconfigure(self, engines: Sequence[Runner], rules: Rules) -> None:
        """Serves with these engines by these rules from now on; what runs, runs on.

        An engine that is not among them is closed when the present runs have ended.
        """
        self._admission.rules = rules
        self._sampler.renew()
        self._self_tests.use(engines)
        self._roster.replace(engines, self._unfinished())
        self._report_capacity()

    def state(self) -> dict[str, Any]:
        """The state of session, jobs and GPUs, for the owner; no secrets."""
        return snapshot(
            self._session,
            self._sampler.fresh,
            self._health.state_of,
            server=self._server.address,
            opened_at=self._opened_at,
            closed=self._admission.obstacle(),
            now=self._now(),
        ) | {"last_refusal": self._last_refusal(), "not_offered": self._admission.not_offered()}

    def _last_refusal(self) -> dict[str, Any] | None:
        refusal, refused_since = self._line.last_refusal, self._line.key_refused_since
        if refusal is None:
            return None
        since = None if refused_since is None else round(self._now() - refused_since, 1)
        ago = round(self._now() - refusal.at, 1)
        return {"text": refusal.text, "seconds_ago": ago, "key_refused_seconds": since}

    async def refresh(self) -> None:
        """Looks up what every engine serves now, and reports it to the server when that changed."""
        await self._roster.refresh()
        self._report_capacity()

    # --- events ---

    def _handle(self, event: ev.Event) -> None:
        started, self._started = self._started, []
        for effect in self._session.handle(event, self._now(), started):
            try:
                self._do(effect)
            except Exception:
                # Those that follow must be carried out: among them may be what is to be saved.
                logger.exception("an effect could not be carried out effect=%s", type(effect).__name__)
        # Whoever waits for room looks again.
        self._moved.set()
        self._moved = asyncio.Event()

    def _happened(self, event: ev.AttemptEvent) -> None:
        if isinstance(event, ev.AttemptStarted):
            self._started.append(event)
            # A model became warm.
            asyncio.get_running_loop().call_soon(self._report_capacity)
            return
        if isinstance(event, ev.AttemptFinished):
            engine = self._attempts.runner_of(event.lease)
            if engine is not None:
                model = self._attempts.model_of(event.lease)
                self._self_tests.job_ended(engine, event.result.outcome, event.result.failure_reason, model)
            self._count_ended(event.result)
        self._handle(event)
        if isinstance(event, ev.AttemptFinished):
            # An engine's self-test was settled by a job.
            self._report_capacity()

    def _heard(self, event: ev.StreamEvent) -> None:
        self._handle(event)
        kind = event.message.WhichOneof("kind") if isinstance(event, ev.Received) else None
        if kind in ("welcome", "settings_update"):
            # The owner's settings on the server may close this machine, or open it again.
            self._admission.settings = self._session.settings
            self._report_capacity()

    def _count_ended(self, result: ev.Result) -> None:
        reason = jobs_pb2.FailureReason.Name(result.failure_reason).removeprefix("FAILURE_REASON_")
        self._options.telemetry.count(
            "dcp_daemon_jobs_ended_total",
            outcome_name(result.outcome),
            "" if reason == "UNSPECIFIED" else reason,
        )

    def _measure(self, status: gpus_pb2.GpuStatus | None) -> None:
        telemetry, session = self._options.telemetry, self._session
        telemetry.set("dcp_daemon_session_open", session.link is LinkState.OPEN)
        telemetry.set("dcp_daemon_slots", session.slots)
        phases = Counter(run.phase for run in session.unfinished)
        telemetry.fill("dcp_daemon_jobs_open", {(phase.name.lower(),): phases[phase] for phase in Phase})
        telemetry.set("dcp_daemon_journal_waiting", self._journal.waiting)
        telemetry.set("dcp_daemon_journal_bytes", self._journal.size_bytes)
        gpus = status.all_gpus if status is not None else ()
        measure_gpus(telemetry, gpus, lambda gpu: self._health.state_of(gpu) == WORKS)

    def _written(self, entry: fx.Persist, error: OSError | None) -> None:
        self._options.telemetry.count(
            "dcp_daemon_journal_writes_total", "failed" if error is not None else "written"
        )
        if error is None:
            self._handle(ev.Persisted(entry.number))
        else:
            self._handle(ev.NotPersisted(entry.number, error.strerror or str(error)))

    def _report_capacity(self) -> None:
        self._handle(self._admission.capacity())

    async def _recover(self) -> None:
        for history in await self._journal.recover():
            is_at_work = history.finished is None and history.started
            offsets = ResumeOffsets(history.written_bytes, history.logged_bytes)
            adopted = is_at_work and await self._attempts.adopt(history.offer, offsets)
            self._handle(ev.Recovered(history, adopted))
        # So that the first Hello lists the results of what did not survive.
        await self._journal.flush()
        await self._roster.sweep()

    async def _sample(self) -> None:
        status = await self._sampler.read()
        if self._options.telemetry.is_on:
            self._measure(self._sampler.fresh)
        if status is None:
            return
        self._options.on_sample(status)
        judged = self._health.observe(
            status, yields=self._admission.rules.yield_to_owner, is_late=self._sampler.is_late
        )
        self._handle(ev.GpusSampled(judged))
        if lost := self._attempts.of_gpus(self._health.must_end):
            self._handle(ev.GpusFailed(lost))
        if taken := self._attempts.that_see(self._health.must_yield):
            self._handle(ev.GpusTaken(taken))
        self._report_capacity()

    # --- the loops ---

    def _loops(self) -> list[Coroutine[Any, Any, None]]:
        return [
            self._line.keep_open(),
            _every(self._options.tick_seconds, self._tick),
            _every(self._options.sample_seconds, self._sample),
            _every(PROOF_SECONDS, self._proof.tick),
            _every(REFRESH_SECONDS, self.refresh),
            _every(SWEEP_SECONDS, self._roster.sweep),
            _every(SWEEP_SECONDS, self._roster.tidy, first_seconds=FIRST_TIDY_SECONDS),
        ]

    async def _tick(self) -> None:
        self._handle(ev.Tick())
        self._self_tests.tick()
        self._roster.close_unused(self._unfinished())
        self._line.tick()

    async def _room(self, lease: sessions_pb2.Lease) -> None:
        """Waits while the server has yet to store what the attempt wrote."""
        while not self._session.has_room(lease):
            await self._moved.wait()

    async def _close(self) -> None:
        await self._self_tests.close()
        await self._attempts.close()
        await self._journal.close()
        await self._roster.close()
        self._sampler.close()

    # --- the effects ---

    def _do(self, effect: fx.Effect) -> None:
        match effect:
            case fx.Send(message):
                self._line.send(message)
            case fx.Opened(provider_id, session_epoch):
                self._opened(provider_id, session_epoch)
            case fx.StartAttempt(offer):
                self._attempts.start(offer)
                if (engine := self._attempts.runner_of(offer.lease)) is not None:
                    self._self_tests.job_began(engine)
            case fx.StopAttempt(lease):
                self._attempts.stop(lease)
            case fx.EndAttempt(lease):
                self._attempts.end(lease)
            case fx.Persist() | fx.Forget():
                self._journal.put(effect)
            case fx.ReconnectAfter(seconds):
                self._line.connect_after(seconds)
            case fx.EndSession(reason):
                self._end = reason
                self._line.end()

    def _opened(self, provider_id: int, session_epoch: int) -> None:
        logger.info("session opened provider_id=%d session_epoch=%d", provider_id, session_epoch)
        self._line.key_was_accepted()
        self._opened_at = self._now()
        self._proof.may_ask = True
        if self._session.update_available:
            newest = self._session.newest_daemon
            logger.warning("a newer daemon is there: run dcp-daemon update; newest=%s", newest)
        if self._readiness is None:
            self._readiness = asyncio.create_task(self._report_ready(provider_id))

    async def _report_ready(self, provider_id: int) -> None:
        await self._self_tests.settle(READY_SECONDS)
        self._options.on_ready(provider_id)

    def _provable_gpus(self) -> dict[str, int]:
        """The free memory of each GPU, in MiB; empty unless all can be filled."""
        status = self._sampler.fresh
        found = provable(status) if status is not None else {}
        return found if found.keys() == set(self._health.healthy_gpus()) else {}

    def _unfinished(self) -> set[ev.LeaseKey]:
        return {ev.lease_key(run.lease) for run in self._session.unfinished}

    def _now(self) -> float:
        return self._clock.monotonic()


class _Step:
    """One step of a loop, which is taken again and again: what it raises is logged, and it is tried again."""

    def __init__(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._work = work
        self._trouble = ""

    async def take(self) -> None:
        """Takes the step. The same trouble of a step that is taken ten times a second is logged once."""
        try:
            await self._work()
        except Exception as error:
            if repr(error) != self._trouble:
                logger.exception("a step failed; it will be tried again step=%s", self._work.__qualname__)
            self._trouble = repr(error)
        else:
            self._trouble = ""


async def _every(
    seconds: float, work: Callable[[], Coroutine[Any, Any, None]], *, first_seconds: float | None = None
) -> None:
    step = _Step(work)
    pause = seconds if first_seconds is None else first_seconds
    while True:
        await asyncio.sleep(pause)
        await step.take()
        pause = seconds

"""The daemon's composition root: joins session, link, attempts, journal, runners and GPUs.

It decides nothing: the session does. Everything real that it uses is an
argument, so tests and benchmarks run it with fakes.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from random import Random, SystemRandom
from typing import Any

from dcp.v1 import gpus_pb2, jobs_pb2, sessions_pb2

from daemon.cli.snapshot import snapshot
from daemon.journal.journal import Journal
from daemon.journal.writer import Recorder
from daemon.link import Link, LinkBrokenError, Server, Stream
from daemon.machine.clock import Clock, SystemClock
from daemon.machine.gpus import Gpus
from daemon.machine.gpus.none import NoGpus
from daemon.machine.health import Health
from daemon.machine.policy import Rules, refusal, rules_of, stricter
from daemon.protocol import effects as fx
from daemon.protocol.runs import LeaseKey, Result, lease_key
from daemon.protocol.session import DaemonSession
from daemon.runners import Runner, Written
from daemon.service.version import daemon_version
from daemon.work.artifacts import ArtifactSink, Uploader
from daemon.work.attempts import Attempts
from daemon.work.selftest import SelfTests

logger = logging.getLogger(__name__)

SAMPLE_SECONDS = 5.0
REFRESH_SECONDS = 10.0
SWEEP_SECONDS = 3600.0
# So long the first Hello waits for the first self-tests. What takes longer is offered when it has passed,
# and so long the daemon does not call itself ready.
JOIN_SECONDS = 2.0
READY_SECONDS = 30.0
# A driver that hangs leaves an old reading behind, and a GPU may grow hot meanwhile.
STALE_SECONDS = 60.0


class Daemon:
    """One provider's daemon."""

    def __init__(
        self,
        *,
        server: str,
        key: str,
        engines: Sequence[Runner],
        journal: Journal,
        gpus: Gpus | None = None,
        health: Health | None = None,
        clock: Clock | None = None,
        rng: Random | None = None,
        tls_ca: Path | None = None,
        on_ready: Callable[[int], None] = lambda provider_id: None,
        on_sample: Callable[[gpus_pb2.GpuStatus], None] = lambda status: None,
        tick_seconds: float = 0.1,
        artifact_sink: ArtifactSink | None = None,
        runs_plain_processes: bool = False,
        sample_seconds: float = SAMPLE_SECONDS,
        rules: Rules | None = None,
        local_time: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """`on_ready` is called with the provider's id after the first Welcome, when the first self-tests have
        ended or take long, `on_sample` with each reading of the GPUs; `server` is host:port.

        `engines`: whatever runs jobs; of those that take a job, the one with the most free slots gets it.
        `health` is what it asks for the GPUs that it may use. `artifact_sink`: where the files go that jobs
        leave; None: to the server. `runs_plain_processes`: the server is told so. `rules`: when this machine
        may take a job; `local_time`: the time of day, with its zone. `tick_seconds` is how often, in real
        time, the clock is looked at, and `sample_seconds` how often the GPUs are.
        """
        self._clock = clock or SystemClock()
        self._engines = list(engines)
        self._gpus = gpus or NoGpus()
        self._on_sample = on_sample
        self._on_ready = on_ready
        self._readiness: asyncio.Task[None] | None = None
        self._rules = rules or Rules()
        self._local_time = local_time
        self._server = server
        self._opened_at: float | None = None
        self._leaving: list[tuple[Runner, set[LeaseKey]]] = []
        self._closing: set[asyncio.Task[None]] = set()
        self._status: gpus_pb2.GpuStatus | None = None
        self._sampled_at = 0.0
        self._tick_seconds = tick_seconds
        self._sample_seconds = sample_seconds
        self._link = Link(Server(server, tls_ca), key)
        sink = artifact_sink or Uploader(self._link.upload, rng or SystemRandom())
        self._attempts = Attempts(self._engines, self, self._clock, sink)
        self._health = health or Health()
        self._self_tests = SelfTests(
            self._engines,
            self._clock,
            rng or SystemRandom(),
            is_busy=self._attempts.is_busy,
            changed=self._tell_capacity,
        )
        self._recorder = Recorder(journal, self._recorded)
        self._moved = asyncio.Event()
        self._session = DaemonSession(
            boot_id=secrets.token_hex(8),
            daemon_version=daemon_version(),
            rng=rng or SystemRandom(),
            slots=0,
            models=(),
            job_types=(),
            runs_plain_processes=runs_plain_processes,
            objection=self._objection,
        )
        self._stream: Stream | None = None
        self._connect_at = 0.0
        self._may_connect = asyncio.Event()
        self._end: fx.EndReason | None = None
        self._sampler = ThreadPoolExecutor(1, thread_name_prefix="gpus")

    async def run(self) -> fx.EndReason:
        """Works until drained or superseded, and says which. Raises KeyRefusedError and JournalError."""
        loops: list[asyncio.Task[None]] = []
        try:
            await self._recover()
            await self._sample()
            await self.refresh()
            await self._self_tests.settle(JOIN_SECONDS)
            loops = [asyncio.create_task(loop()) for loop in self._loops()]
            done, _ = await asyncio.wait(loops, return_when=asyncio.FIRST_COMPLETED)
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
        self._apply(self._session.drain(self._now()))

    def reconfigure(self, engines: Sequence[Runner], rules: Rules) -> None:
        """Serves with these engines by these rules from now on; what runs, runs on.

        An engine that is not among them is closed when the runs that there are now have ended.
        """
        pending = {lease_key(run.lease) for run in self._session.unfinished}
        staying = list(engines)
        gone = [engine for engine in self._active() if engine not in staying]
        self._leaving += [(engine, pending) for engine in gone]
        # In place: the attempts look for engines in this list, and a job that was accepted for one
        # that leaves must still find it; what stays comes first.
        self._engines[:] = [*staying, *(engine for engine, _ in self._leaving)]
        self._rules = rules
        self._self_tests.use(staying)
        self._tell_capacity()
        self._close_unused()

    def state(self) -> dict[str, Any]:
        """How it is, for its owner: session, jobs, GPUs; no secrets."""
        return snapshot(
            self._session,
            self._fresh_status(),
            server=self._server,
            opened_at=self._opened_at,
            closed=self._obstacle(),
            now=self._now(),
        )

    # --- the provider's own rules ---

    def _obstacle(self, offer: sessions_pb2.JobOffer | None = None) -> str:
        """Why the rules refuse this offer, or every offer; empty when they do not."""
        spec = offer.container_spec if offer is not None else jobs_pb2.ContainerSpec()
        return refusal(
            stricter(self._rules, rules_of(self._session.settings)),
            self._fresh_status(),
            self._local_time(),
            vram_required_mib=spec.vram_required_mb,
            gpu_count=spec.gpu_count,
        )

    def _fresh_status(self) -> gpus_pb2.GpuStatus | None:
        return self._status if self._now() - self._sampled_at < STALE_SECONDS else None

    # --- engines that leave ---

    def _active(self) -> list[Runner]:
        leaving = [engine for engine, _ in self._leaving]
        return [engine for engine in self._engines if engine not in leaving]

    def _close_unused(self) -> None:
        at_work = {lease_key(run.lease) for run in self._session.unfinished}
        for leaving in [leaving for leaving in self._leaving if not leaving[1] & at_work]:
            self._leaving.remove(leaving)
            self._engines.remove(leaving[0])
            closing = asyncio.create_task(self._close_engine(leaving[0]))
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)

    async def _close_engine(self, engine: Runner) -> None:
        try:
            await engine.close()
        except Exception:
            logger.exception("an engine could not be closed")

    # --- the attempts' listener ---

    def started(self, lease: sessions_pb2.Lease) -> None:
        """An attempt's run has begun; its model is warm now."""
        self._tell_capacity()
        self._apply(self._session.attempt_started(lease, self._now()))

    def output(self, lease: sessions_pb2.Lease, data: bytes) -> None:
        """An attempt wrote output."""
        self._apply(self._session.attempt_output(lease, data, self._now()))

    def log(self, lease: sessions_pb2.Lease, data: bytes) -> None:
        """An attempt wrote log."""
        self._apply(self._session.attempt_log(lease, data, self._now()))

    def worked(self, lease: sessions_pb2.Lease) -> None:
        """An attempt's work is over; its files are handed over."""
        self._apply(self._session.attempt_worked(lease, self._now()))

    async def room(self, lease: sessions_pb2.Lease) -> None:
        """Waits while the server has yet to store what the attempt wrote."""
        while not self._session.has_room(lease):
            await self._moved.wait()

    def finished(self, lease: sessions_pb2.Lease, result: Result) -> None:
        """An attempt has ended by itself."""
        if (engine := self._attempts.runner_of(lease)) is not None:
            self._self_tests.job_ended(engine, result.outcome, result.failure_reason)
        self._apply(self._session.attempt_finished(lease, result, self._now()))
        self._tell_capacity()

    # --- the journal ---

    async def _recover(self) -> None:
        for history in await self._recorder.recover():
            is_at_work = history.finished is None and history.started
            written = Written(history.written_bytes, history.logged_bytes)
            adopted = is_at_work and await self._attempts.adopt(history.offer, written)
            self._apply(self._session.recover(history, adopted, self._now()))
        # So that the first Hello lists the results of what did not survive.
        await self._recorder.flush()
        await self._sweep()

    def _recorded(self, entry: fx.Persist, error: OSError | None) -> None:
        if error is None:
            self._apply(self._session.persisted(entry.number, self._now()))
        else:
            reason = error.strerror or str(error)
            self._apply(self._session.not_persisted(entry.number, reason, self._now()))

    # --- the loops ---

    def _loops(self) -> list[Callable[[], Coroutine[Any, Any, None]]]:
        return [self._serve, self._tick, self._keep_sampling, self._keep_refreshing, self._keep_sweeping]

    async def _serve(self) -> None:
        while self._end is None:
            await self._connect()
            self._may_connect.clear()
            await self._may_connect.wait()

    async def _connect(self) -> None:
        try:
            async with self._link.open() as stream:
                self._stream = stream
                self._apply(self._session.connected(self._now()))
                await stream.converse(self._received)
        except LinkBrokenError as error:
            logger.warning("lost the server error=%s", error)
        finally:
            self._stream = None
        self._apply(self._session.lost(self._now()))

    def _received(self, message: sessions_pb2.ServerMessage) -> None:
        self._apply(self._session.received(message, self._now()))
        if message.WhichOneof("kind") in ("welcome", "settings_update"):
            # The owner's settings on the server may close this machine, or open it again.
            self._tell_capacity()

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(self._tick_seconds)
            self._apply(self._session.tick(self._now()))
            self._self_tests.tick()
            if self._leaving:
                self._close_unused()
            if self._end is not None or self._now() >= self._connect_at:
                self._may_connect.set()

    async def _keep_sampling(self) -> None:
        while True:
            await asyncio.sleep(self._sample_seconds)
            await self._sample()

    async def _keep_sweeping(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            await self._sweep()

    async def _keep_refreshing(self) -> None:
        while True:
            await asyncio.sleep(REFRESH_SECONDS)
            await self.refresh()

    async def refresh(self) -> None:
        """Looks what every engine serves now, and tells the server when that changed."""
        await asyncio.gather(*(engine.refresh() for engine in self._engines))
        self._tell_capacity()

    async def _sweep(self) -> None:
        for runner in self._engines:
            try:
                await runner.sweep()
            except Exception:
                logger.exception("what ended jobs left could not be removed")

    async def _sample(self) -> None:
        # A driver call may hang, and the heartbeats must go on meanwhile.
        loop = asyncio.get_running_loop()
        try:
            status = await loop.run_in_executor(self._sampler, self._gpus.read)
        except Exception:
            logger.exception("the GPUs could not be read")
            return
        self._status, self._sampled_at = status, self._now()
        self._on_sample(status)
        self._apply(self._session.sampled(self._health.observe(status)))
        if lost := self._attempts.of_gpus(self._health.must_end):
            self._apply(self._session.gpus_failed(lost, self._now()))
        self._tell_capacity()

    async def _close(self) -> None:
        await self._self_tests.close()
        await self._attempts.close()
        await self._recorder.close()
        for engine in self._engines:
            await self._close_engine(engine)
        await asyncio.gather(*self._closing)
        self._sampler.submit(self._gpus.close)
        self._sampler.shutdown(wait=False)

    # --- the effects ---

    def _apply(self, effects: Sequence[fx.Effect]) -> None:
        for effect in effects:
            self._do(effect)
        # Whoever waits for room looks again.
        self._moved.set()
        self._moved = asyncio.Event()

    def _do(self, effect: fx.Effect) -> None:
        match effect:
            case fx.Send(message):
                if self._stream is not None:
                    self._stream.send(message)
            case fx.Opened(provider_id, session_epoch):
                self._opened(provider_id, session_epoch)
            case fx.StartAttempt(offer):
                self._attempts.start(offer)
                if (engine := self._attempts.runner_of(offer.lease)) is not None:
                    self._self_tests.job_began(engine)
            case fx.StopAttempt(lease):
                self._attempts.stop(lease)
            case fx.Persist() | fx.Forget():
                self._recorder.put(effect)
            case fx.ReconnectAfter(seconds):
                self._connect_at = self._now() + seconds
                logger.info("connecting again seconds=%.1f", seconds)
                self._finish_stream()
            case fx.EndSession(reason):
                self._end = reason
                self._finish_stream()

    def _opened(self, provider_id: int, session_epoch: int) -> None:
        logger.info("session opened provider_id=%d session_epoch=%d", provider_id, session_epoch)
        self._opened_at = self._now()
        if self._session.update_available:
            logger.warning(
                "a newer daemon is there: run dcp-daemon update; newest=%s", self._session.newest_daemon
            )
        if self._readiness is None:
            self._readiness = asyncio.create_task(self._tell_ready(provider_id))

    async def _tell_ready(self, provider_id: int) -> None:
        await self._self_tests.settle(READY_SECONDS)
        self._on_ready(provider_id)

    def _finish_stream(self) -> None:
        if self._stream is not None:
            self._stream.finish()
            self._stream = None

    def _objection(self, offer: sessions_pb2.JobOffer, others: Sequence[sessions_pb2.JobOffer]) -> str:
        if obstacle := self._obstacle(offer):
            return obstacle
        able = [runner for runner in self._active() if runner.takes(offer)]
        if not able:
            return f"nothing here runs such a job for the model {offer.params.model}"
        busy = sum(any(runner.takes(other) for runner in able) for other in others)
        return "" if busy < sum(runner.slots for runner in able) else "no slot of what runs such jobs is free"

    def _tell_capacity(self) -> None:
        """Offers what passed its self-test, on healthy GPUs; nothing while the rules keep all jobs out."""
        passed = self._self_tests.passed
        models = [model for engine in passed for model in engine.models()]
        job_types = dict.fromkeys(kind for engine in passed for kind in engine.job_types())
        slots = 0 if self._obstacle() else self._health.slots(sum(engine.slots for engine in passed))
        report = self._self_tests.report()
        self._apply(self._session.capacity(slots, models, list(job_types), report))

    def _now(self) -> float:
        return self._clock.monotonic()

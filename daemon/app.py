"""The daemon's composition root: joins session, link, attempts, journal, engines and GPUs.

It decides nothing: the session does. Everything real that it uses is an
argument, so tests and benchmarks run it with fakes.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from random import Random, SystemRandom
from typing import Any

from dcp.v1 import gpus_pb2, jobs_pb2, sessions_pb2

from daemon import effects as fx
from daemon.attempts import Attempts
from daemon.clock import Clock, SystemClock
from daemon.engines import Engine
from daemon.gpus import Gpus
from daemon.gpus.none import NoGpus
from daemon.journal import Journal
from daemon.link import Link, LinkBrokenError, Server, Stream
from daemon.policy import Rules, refusal
from daemon.recorder import Recorder
from daemon.runs import LeaseKey, Result, lease_key
from daemon.session import DaemonSession
from daemon.snapshot import snapshot
from daemon.version import daemon_version

logger = logging.getLogger(__name__)

SAMPLE_SECONDS = 5.0
# A driver that hangs leaves an old reading behind, and a GPU may grow hot meanwhile.
STALE_SECONDS = 60.0
JOB_TYPES = (jobs_pb2.JOB_TYPE_LLM_INFERENCE,)


class Daemon:
    """One provider's daemon."""

    def __init__(
        self,
        *,
        server: str,
        key: str,
        engines: Sequence[Engine],
        journal: Journal,
        gpus: Gpus | None = None,
        clock: Clock | None = None,
        rng: Random | None = None,
        slots: int = 1,
        tls_ca: Path | None = None,
        on_ready: Callable[[int], None] = lambda provider_id: None,
        tick_seconds: float = 0.1,
        rules: Rules | None = None,
        local_time: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """`on_ready` is called with the provider's id at the first Welcome; `server` is host:port.

        `rules`: when this machine may take a job; `local_time`: the time of day, with its zone.
        `tick_seconds` is how often, in real time, the clock is looked at.
        """
        self._clock = clock or SystemClock()
        self._engines = list(engines)
        self._gpus = gpus or NoGpus()
        self._slots = slots
        self._rules = rules or Rules()
        self._local_time = local_time
        self._server = server
        self._opened_at: float | None = None
        self._leaving: list[tuple[Engine, set[LeaseKey]]] = []
        self._closing: set[asyncio.Task[None]] = set()
        self._status: gpus_pb2.GpuStatus | None = None
        self._sampled_at = 0.0
        self._on_ready: Callable[[int], None] | None = on_ready
        self._tick_seconds = tick_seconds
        self._link = Link(Server(server, tls_ca), key)
        self._attempts = Attempts(self._engines, self, self._clock)
        self._recorder = Recorder(journal, self._recorded)
        self._moved = asyncio.Event()
        self._session = DaemonSession(
            boot_id=secrets.token_hex(8),
            daemon_version=daemon_version(),
            rng=rng or SystemRandom(),
            slots=slots,
            models=self._models(),
            job_types=JOB_TYPES,
            may_take=self._obstacle,
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
            self._tell_capacity()
            loops = [asyncio.create_task(loop()) for loop in (self._serve, self._tick, self._keep_sampling)]
            done, _ = await asyncio.wait(loops, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
            assert self._end is not None
            return self._end
        finally:
            for task in loops:
                task.cancel()
            await asyncio.gather(*loops, return_exceptions=True)
            await self._close()

    def drain(self) -> None:
        """Takes no more jobs, finishes those that run for up to 30 s, then lets `run` return."""
        self._apply(self._session.drain(self._now()))

    def reconfigure(self, engines: Sequence[Engine], rules: Rules) -> None:
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
            self._rules,
            self._fresh_status(),
            self._local_time(),
            vram_required_mib=spec.vram_required_mb,
            gpu_count=spec.gpu_count,
        )

    def _fresh_status(self) -> gpus_pb2.GpuStatus | None:
        return self._status if self._now() - self._sampled_at < STALE_SECONDS else None

    def _tell_capacity(self) -> None:
        # While no job would be taken, the server is not to offer any.
        slots = 0 if self._obstacle() else self._slots
        self._apply(self._session.capacity(slots, self._models()))

    # --- engines that leave ---

    def _active(self) -> list[Engine]:
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

    async def _close_engine(self, engine: Engine) -> None:
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

    async def room(self, lease: sessions_pb2.Lease) -> None:
        """Waits while the server has yet to store what the attempt wrote."""
        while not self._session.has_room(lease):
            await self._moved.wait()

    def finished(self, lease: sessions_pb2.Lease, result: Result) -> None:
        """An attempt has ended by itself."""
        self._apply(self._session.attempt_finished(lease, result, self._now()))
        self._tell_capacity()

    # --- the journal ---

    async def _recover(self) -> None:
        for history in await self._recorder.recover():
            is_at_work = history.finished is None and history.started
            adopted = is_at_work and await self._attempts.adopt(history.offer, history.written_bytes)
            self._apply(self._session.recover(history, adopted, self._now()))
        # So that the first Hello lists the results of what did not survive.
        await self._recorder.flush()

    def _recorded(self, entry: fx.Persist, error: OSError | None) -> None:
        if error is None:
            self._apply(self._session.persisted(entry.number, self._now()))
        else:
            reason = error.strerror or str(error)
            self._apply(self._session.not_persisted(entry.number, reason, self._now()))

    # --- the loops ---

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

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(self._tick_seconds)
            self._apply(self._session.tick(self._now()))
            if self._leaving:
                self._close_unused()
            if self._end is not None or self._now() >= self._connect_at:
                self._may_connect.set()

    async def _keep_sampling(self) -> None:
        while True:
            await asyncio.sleep(SAMPLE_SECONDS)
            await self._sample()
            self._tell_capacity()

    async def _sample(self) -> None:
        # A driver call may hang, and the heartbeats must go on meanwhile.
        loop = asyncio.get_running_loop()
        try:
            status = await loop.run_in_executor(self._sampler, self._gpus.read)
        except Exception:
            logger.exception("the GPUs could not be read")
            return
        self._status, self._sampled_at = status, self._now()
        self._session.sampled(status)

    async def _close(self) -> None:
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
        if self._on_ready is not None:
            self._on_ready(provider_id)
            self._on_ready = None

    def _finish_stream(self) -> None:
        if self._stream is not None:
            self._stream.finish()
            self._stream = None

    def _models(self) -> list[sessions_pb2.ServedModel]:
        return [model for engine in self._active() for model in engine.models()]

    def _now(self) -> float:
        return self._clock.monotonic()

"""Many daemons from one process: ``python -m scripts.benchmarks.fleet_load SERVER KEYS_FILE AT_ONCE``.

Each daemon has its own connection and stream, sends Hello, and sends heartbeats at the interval that the
server chose. When its stream ends it comes back as a real daemon does: after the real daemon's own pauses,
or when the server asked it to. The process prints ``open JSON`` when all daemons are connected for the first
time, and ``count JSON`` at every SIGUSR1, for the time since the previous count. At SIGUSR2 it begins to
count a storm, and prints ``back JSON`` when every daemon has had a new session since then. At SIGTERM it
stops the heartbeats, waits for outstanding acknowledgements, and prints ``end JSON``.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import TypeAlias

import grpc
import orjson
import uvloop
from dcp.v1 import gpus_pb2, jobs_pb2, sessions_pb2
from dcp.v1.sessions_pb2_grpc import SessionServiceStub

from daemon.protocol.backoff import Backoff
from scripts.benchmarks.figures import percentile

MODEL = "bench/idle"
WELCOME_SECONDS = 60.0
LAST_ACKS_SECONDS = 5.0
BEAT_JITTER = 0.1
# With this in its trailing metadata, the end of a stream is an answer of the server, with its reason.
ANSWER = "grpc-status-details-bin"
# The server said no; nobody listened, or the server was killed; the stream broke or lasted too long.
REFUSED, UNREACHABLE, UNANSWERED = "refused", "unreachable", "unanswered"
# The options of the real daemon's link, plus the local pool, which gives each daemon its own connection.
OPTIONS = (
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.http2.ping_timeout_ms", 10_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.bdp_probe", 0),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),
)

Call: TypeAlias = grpc.aio.StreamStreamCall[sessions_pb2.DaemonMessage, sessions_pb2.ServerMessage]


class NoWelcomeError(Exception):
    """A stream ended before its Welcome. ``end`` names the counter of a storm to which that belongs."""

    def __init__(self, end: str, text: str) -> None:
        super().__init__(f"{end}: {text}")
        self.end = end


@dataclass
class Daemon:
    """One daemon of the load."""

    key: str
    backoff: Backoff
    uuid: str = field(default_factory=lambda: f"GPU-{os.urandom(8).hex()}")
    boot_id: str = field(default_factory=lambda: os.urandom(8).hex())
    opened: asyncio.Event = field(default_factory=asyncio.Event)
    beats: dict[int, float] = field(default_factory=dict)
    """When each heartbeat that is not acknowledged was sent."""


@dataclass
class Storm:
    """What happened since the server was killed."""

    away: set[int]
    """The daemons that have had no new session."""
    ends: Counter[str] = field(default_factory=Counter)
    setups: list[float] = field(default_factory=list)
    begun: float = field(default_factory=time.monotonic)
    first: float = 0.0


class Fleet:
    """All daemons of this process, and their counters."""

    def __init__(self, server: str, keys: list[str], at_once: int) -> None:
        self._server = server
        self._rng = Random(0)
        self._daemons = [Daemon(key, Backoff(self._rng)) for key in keys]
        self._connecting = asyncio.Semaphore(at_once)
        self._setups: list[float] = []
        self._round_trips: list[float] = []
        self._sent = self._acked = self._failed = self._ended = self._strays = 0
        self._counted = (0, 0, 0)
        self._stopping = False
        self._storm: Storm | None = None
        self._all_acked = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def open(self) -> None:
        """Connects all daemons and prints the result."""
        begun = time.monotonic()
        self._tasks = [asyncio.create_task(self._run(number)) for number in range(len(self._daemons))]
        await asyncio.gather(*(daemon.opened.wait() for daemon in self._daemons))
        self._print(
            "open", begun=begun, done=time.monotonic(), opened=len(self._setups), failed=self._failed,
            setup_p50=percentile(self._setups, 50), setup_p99=percentile(self._setups, 99),
        )  # fmt: skip

    def count(self) -> None:
        """Prints the counters since the previous count."""
        sent, acked, ended = self._counted
        self._counted = (self._sent, self._acked, self._ended)
        self._print(
            "count", sent=self._sent - sent, acked=self._acked - acked, ended=self._ended - ended,
            ack_p50=percentile(self._round_trips, 50), ack_p99=percentile(self._round_trips, 99),
        )  # fmt: skip
        self._round_trips.clear()

    def brace(self) -> None:
        """Begins to count a storm: every daemon has yet to come back, from a session that has lasted."""
        for daemon in self._daemons:
            daemon.backoff.lasted()
        self._storm = Storm(set(range(len(self._daemons))))
        self._print("braced")

    async def stop(self) -> None:
        """Stops the heartbeats, waits for outstanding acknowledgements, and prints the totals."""
        self._stopping = True
        self._check_all_acked()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LAST_ACKS_SECONDS):
                await self._all_acked.wait()
        self._print("end", sent=self._sent, acked=self._acked, ended=self._ended, strays=self._strays)

    async def _run(self, number: int) -> None:
        """Runs one daemon for ever: a stream, a pause, the next stream."""
        daemon = self._daemons[number]
        while not self._stopping:
            pause: float | None = None
            try:
                pause = await self._stream(number, daemon)
            except NoWelcomeError as error:
                self._fail(daemon, error)
            await asyncio.sleep(daemon.backoff.seconds() if pause is None else pause)

    async def _stream(self, number: int, daemon: Daemon) -> float | None:
        """One stream until it ends; returns the pause that the server asked for, or None."""
        daemon.beats.clear()
        async with grpc.aio.insecure_channel(self._server, options=OPTIONS) as channel:
            # Until the first session each waits for its turn. In a storm nobody waits for others.
            async with contextlib.nullcontext() if daemon.opened.is_set() else self._connecting:
                call, welcome = await self._connect(channel, daemon)
            self._welcomed(number, daemon)
            interval = welcome.heartbeat_interval.ToMilliseconds() / 1000
            beating = asyncio.create_task(self._beat(call, interval, daemon))
            try:
                return await self._converse(call, daemon)
            finally:
                beating.cancel()
                self._ended += not self._stopping
                if self._storm is not None:
                    self._storm.away.add(number)

    async def _connect(self, channel: grpc.aio.Channel, daemon: Daemon) -> tuple[Call, sessions_pb2.Welcome]:
        """Opens the stream and waits for its Welcome. Raises NoWelcomeError."""
        begun, message = time.monotonic(), None
        metadata = (("authorization", f"Bearer {daemon.key}"),)
        call: Call = SessionServiceStub(channel).Connect(metadata=metadata)
        try:
            async with asyncio.timeout(WELCOME_SECONDS):
                await call.write(sessions_pb2.DaemonMessage(hello=_hello(daemon)))
                message = await call.read()
        except TimeoutError:
            call.cancel()
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            pass  # the end of the stream tells more
        if not isinstance(message, sessions_pb2.ServerMessage):
            raise await _end(call)
        if not message.HasField("welcome"):
            raise NoWelcomeError(REFUSED, str(message))
        self._setups.append(time.monotonic() - begun)
        if self._storm is not None:
            self._storm.setups.append(self._setups[-1])
        return call, message.welcome

    def _welcomed(self, number: int, daemon: Daemon) -> None:
        daemon.backoff.key_accepted()
        daemon.opened.set()
        if (storm := self._storm) is not None:
            storm.first = storm.first or time.monotonic()
            storm.away.discard(number)
            if not storm.away:
                self._storm = None
                self._print(
                    "back", begun=storm.begun, first=storm.first, done=time.monotonic(),
                    setups=len(storm.setups), setup_p99=percentile(storm.setups, 99),
                    **{end: storm.ends[end] for end in (REFUSED, UNREACHABLE, UNANSWERED)},
                )  # fmt: skip

    def _fail(self, daemon: Daemon, error: NoWelcomeError) -> None:
        if self._storm is not None:
            self._storm.ends[error.end] += 1
        if not daemon.opened.is_set():
            self._failed += 1
            print(f"a daemon could not connect: {error}"[:300], file=sys.stderr)
            daemon.opened.set()

    async def _converse(self, call: Call, daemon: Daemon) -> float | None:
        try:
            while isinstance(message := await call.read(), sessions_pb2.ServerMessage):
                if message.HasField("reconnect"):
                    order = message.reconnect
                    jitter = order.jitter.ToMilliseconds() / 1000
                    return order.after.ToMilliseconds() / 1000 + self._rng.uniform(0.0, jitter)
                self._received(message, daemon)
        except grpc.aio.AioRpcError:
            return None
        return None

    async def _beat(self, call: Call, interval_seconds: float, daemon: Daemon) -> None:
        await asyncio.sleep(self._rng.uniform(0, interval_seconds))
        sequence = 0
        while not self._stopping:
            sequence += 1
            beat = sessions_pb2.SessionHeartbeat(sequence=sequence, gpu_status=_gpu_status(daemon.uuid))
            daemon.beats[sequence] = time.monotonic()
            self._sent += 1
            try:
                await call.write(sessions_pb2.DaemonMessage(heartbeat=beat))
            except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
                return  # the stream has ended; its reader notices
            await asyncio.sleep(interval_seconds * self._rng.uniform(1 - BEAT_JITTER, 1 + BEAT_JITTER))

    def _received(self, message: sessions_pb2.ServerMessage, daemon: Daemon) -> None:
        is_ack = message.HasField("heartbeat_ack")
        sent = daemon.beats.pop(message.heartbeat_ack.sequence, None) if is_ack else None
        if sent is None:
            self._strays += 1
            return
        daemon.backoff.lasted()
        self._acked += 1
        self._round_trips.append(time.monotonic() - sent)
        self._check_all_acked()

    def _check_all_acked(self) -> None:
        if self._stopping and self._acked == self._sent:
            self._all_acked.set()

    def _print(self, kind: str, **facts: float) -> None:
        print(kind, orjson.dumps(facts).decode(), flush=True)


async def _end(call: Call) -> NoWelcomeError:
    """Why a stream without a Welcome ended."""
    code, details = await call.code(), await call.details()
    names = [name for name, _ in await call.trailing_metadata() or ()]
    if ANSWER in names:
        return NoWelcomeError(REFUSED, f"{code}: {details}")
    return NoWelcomeError(
        UNREACHABLE if code is grpc.StatusCode.UNAVAILABLE else UNANSWERED, f"{code}: {details}"
    )


def _hello(daemon: Daemon) -> sessions_pb2.Hello:
    return sessions_pb2.Hello(
        boot_id=daemon.boot_id,
        daemon_version="bench",
        protocol_version=1,
        gpu_status=_gpu_status(daemon.uuid),
        models=[sessions_pb2.ServedModel(name=MODEL, context_tokens=2048, warm=True)],
        job_types=[jobs_pb2.JOB_TYPE_LLM_INFERENCE],
        slots=1,
    )


def _gpu_status(uuid: str) -> gpus_pb2.GpuStatus:
    """The report of a machine with one GPU, whose UUID is unique."""
    figures = {"gpu_vram_mib": 24564, "free_vram_mib": 20000, "memory_used_mb": 4564}
    sample = {"gpu_util_pct": 42.0, "temp_c": 61.0, "power_w": 220.5}
    name = "NVIDIA RTX 4090"
    gpu = gpus_pb2.GpuDevice(index=0, uuid=uuid, gpu_name=name, **figures, **sample)  # type: ignore[arg-type]
    return gpus_pb2.GpuStatus(
        gpu_name=name, driver_version="550.54", compute_capability="8.9", cuda_version="12.4", gpu_count=1,
        all_gpus=[gpu], daemon_version="bench", python_version="3.11", os_info="Linux",
        **figures, **sample,  # type: ignore[arg-type]
    )  # fmt: skip


async def serve(server: str, keys: list[str], at_once: int) -> None:
    """Runs until SIGTERM."""
    fleet = Fleet(server, keys, at_once)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    loop.add_signal_handler(signal.SIGUSR1, fleet.count)
    loop.add_signal_handler(signal.SIGUSR2, fleet.brace)
    await fleet.open()
    await stop.wait()
    await fleet.stop()
    # Closing thousands of streams in order would take long; to the server this looks like a crash.
    os._exit(0)


def main() -> int:
    """Reads the arguments and serves."""
    server, keys, at_once = sys.argv[1:]
    uvloop.run(serve(server, Path(keys).read_text(encoding="utf-8").split(), int(at_once)))
    return 0


if __name__ == "__main__":
    sys.exit(main())

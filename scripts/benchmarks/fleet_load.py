"""Many daemons from one process: ``python -m scripts.benchmarks.fleet_load SERVER KEYS_FILE AT_ONCE``.

Each daemon has its own connection and stream, sends Hello, and sends heartbeats at the interval that the
server chose. The process prints ``open JSON`` when all daemons are connected, and ``count JSON`` at every
SIGUSR1, for the time since the previous count. At SIGTERM it stops the heartbeats, waits for outstanding
acknowledgements, and prints ``end JSON``.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from pathlib import Path
from random import Random
from typing import TypeAlias

import grpc
import orjson
import uvloop
from dcp.v1 import gpus_pb2, jobs_pb2, sessions_pb2
from dcp.v1.sessions_pb2_grpc import SessionServiceStub

from scripts.benchmarks.figures import percentile

MODEL = "bench/idle"
WELCOME_SECONDS = 60.0
LAST_ACKS_SECONDS = 5.0
BEAT_JITTER = 0.1
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


class Fleet:
    """All daemons of this process, and their counters."""

    def __init__(self, server: str, keys: list[str], at_once: int) -> None:
        self._server = server
        self._keys = keys
        self._rng = Random(0)
        self._connecting = asyncio.Semaphore(at_once)
        self._setups: list[float] = []
        self._round_trips: list[float] = []
        self._sent = self._acked = self._failed = self._ended = self._strays = 0
        self._counted = (0, 0, 0)
        self._stopping = False
        self._all_acked = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def open(self) -> None:
        """Connects all daemons and prints the result."""
        begun = time.monotonic()
        opened = [asyncio.Event() for _ in self._keys]
        self._tasks = [
            asyncio.create_task(self._daemon(key, event))
            for key, event in zip(self._keys, opened, strict=True)
        ]
        await asyncio.gather(*(event.wait() for event in opened))
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

    async def stop(self) -> None:
        """Stops the heartbeats, waits for outstanding acknowledgements, and prints the totals."""
        self._stopping = True
        self._check_all_acked()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LAST_ACKS_SECONDS):
                await self._all_acked.wait()
        self._print("end", sent=self._sent, acked=self._acked, ended=self._ended, strays=self._strays)

    async def _daemon(self, key: str, opened: asyncio.Event) -> None:
        """Runs one daemon, from Hello until its stream ends."""
        uuid = f"GPU-{os.urandom(8).hex()}"
        try:
            async with grpc.aio.insecure_channel(self._server, options=OPTIONS) as channel:
                call, welcome = await self._connect(channel, key, uuid)
                opened.set()
                beats: dict[int, float] = {}
                beating = asyncio.create_task(
                    self._beat(call, welcome.heartbeat_interval.ToMilliseconds() / 1000, beats, uuid)
                )
                try:
                    while isinstance(message := await call.read(), sessions_pb2.ServerMessage):
                        self._received(message, beats)
                finally:
                    beating.cancel()
            self._ended += 1
        except (grpc.aio.AioRpcError, ConnectionError, TimeoutError) as error:
            if opened.is_set():
                self._ended += 1
            else:
                self._failed += 1
                print(f"a daemon could not connect: {error}"[:300], file=sys.stderr)
        finally:
            opened.set()

    async def _connect(
        self, channel: grpc.aio.Channel, key: str, uuid: str
    ) -> tuple[Call, sessions_pb2.Welcome]:
        """Opens the stream and waits for its Welcome.

        Waits for its turn before it opens the stream, because the server ends streams whose Hello is late.
        """
        async with self._connecting, asyncio.timeout(WELCOME_SECONDS):
            begun = time.monotonic()
            metadata = (("authorization", f"Bearer {key}"),)
            call: Call = SessionServiceStub(channel).Connect(metadata=metadata)
            await call.write(sessions_pb2.DaemonMessage(hello=_hello(uuid)))
            message = await call.read()
            seconds = time.monotonic() - begun
            if not isinstance(message, sessions_pb2.ServerMessage) or not message.HasField("welcome"):
                raise ConnectionError(f"the stream ended before its Welcome, after {seconds:.1f} s")
            self._setups.append(seconds)
            return call, message.welcome

    async def _beat(
        self,
        call: Call,
        interval_seconds: float,
        beats: dict[int, float],
        uuid: str,
    ) -> None:
        await asyncio.sleep(self._rng.uniform(0, interval_seconds))
        sequence = 0
        while not self._stopping:
            sequence += 1
            beat = sessions_pb2.SessionHeartbeat(sequence=sequence, gpu_status=_gpu_status(uuid))
            beats[sequence] = time.monotonic()
            self._sent += 1
            await call.write(sessions_pb2.DaemonMessage(heartbeat=beat))
            await asyncio.sleep(interval_seconds * self._rng.uniform(1 - BEAT_JITTER, 1 + BEAT_JITTER))

    def _received(self, message: sessions_pb2.ServerMessage, beats: dict[int, float]) -> None:
        sent = beats.pop(message.heartbeat_ack.sequence, None) if message.HasField("heartbeat_ack") else None
        if sent is None:
            self._strays += 1
            return
        self._acked += 1
        self._round_trips.append(time.monotonic() - sent)
        self._check_all_acked()

    def _check_all_acked(self) -> None:
        if self._stopping and self._acked == self._sent:
            self._all_acked.set()

    def _print(self, kind: str, **facts: float) -> None:
        print(kind, orjson.dumps(facts).decode(), flush=True)


def _hello(uuid: str) -> sessions_pb2.Hello:
    return sessions_pb2.Hello(
        boot_id=os.urandom(8).hex(),
        daemon_version="bench",
        protocol_version=1,
        gpu_status=_gpu_status(uuid),
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

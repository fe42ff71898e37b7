"""What the daemon uses of its machine, and the readings of its GPUs.

The GPUs are read in a thread of its own: a driver call may hang, and the heartbeats must go on
meanwhile. It must not know jobs or sessions.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from random import Random, SystemRandom

from dcp.v1 import gpus_pb2

from daemon.machine.clock import Clock, SystemClock
from daemon.machine.gpus import Gpus
from daemon.machine.gpus.none import NoGpus
from daemon.machine.health import Health

logger = logging.getLogger(__name__)

# A driver that hangs leaves an old reading behind, and a GPU may grow hot meanwhile.
STALE_SECONDS = 60.0


@dataclass(frozen=True)
class Machine:
    """What the daemon uses of its machine."""

    gpus: Gpus = field(default_factory=NoGpus)
    health: Health = field(default_factory=Health)
    """Knows which GPUs may be given work."""
    clock: Clock = field(default_factory=SystemClock)
    local_time: Callable[[], datetime] = lambda: datetime.now(UTC)
    """The time of day, with its zone, that the owner's rules are judged by."""
    rng: Random = field(default_factory=SystemRandom)


class GpuSampler:
    """The readings of this machine's GPUs."""

    def __init__(self, gpus: Gpus, clock: Clock) -> None:
        self._gpus = gpus
        self._clock = clock
        self._newest: gpus_pb2.GpuStatus | None = None
        self._read_at = 0.0
        self._reason = ""
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="gpus")

    @property
    def fresh(self) -> gpus_pb2.GpuStatus | None:
        """The newest reading; None when it is too old, or there is none."""
        return self._newest if self._clock.monotonic() - self._read_at < STALE_SECONDS else None

    @property
    def is_late(self) -> bool:
        """Whether the driver did not answer in time at the last reading."""
        return self._gpus.is_late

    async def read(self) -> gpus_pb2.GpuStatus | None:
        """Reads the GPUs; None when they could not be read."""
        loop = asyncio.get_running_loop()
        try:
            status = await loop.run_in_executor(self._thread, self._gpus.read)
        except Exception:
            logger.exception("the GPUs could not be read")
            return None
        self._newest, self._read_at = status, self._clock.monotonic()
        if self._gpus.reason != self._reason:
            self._reason = self._gpus.reason
            if self._reason:
                logger.warning("no GPU telemetry reason=%r", self._reason)
            else:
                logger.warning("the GPUs are read again")
        return status

    def renew(self) -> None:
        """The next reading keeps nothing of earlier ones of what is installed."""
        self._gpus.renew()

    def close(self) -> None:
        """Gives the GPUs back, without waiting for a driver that hangs."""
        self._gpus.close()
        self._thread.shutdown(wait=False, cancel_futures=True)

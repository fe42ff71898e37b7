"""Runs offers on a container runner as the daemon does, and records the outcome."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from dcp.v1 import jobs_pb2, sessions_pb2

from daemon.runners import Log, Pieces, ResumeOffsets, RunnerError, WorkDone
from daemon.runners.containers.container import ContainerRunner
from daemon.runners.containers.docker import Docker
from daemon.runners.containers.settings import MIB, ContainerSettings
from daemon.work.artifacts import Artifact
from tests.support.private_engine import IMAGE, PROGRAMS, PrivateEngine

both_engines = pytest.mark.parametrize("engine", list(PROGRAMS), indirect=True)
"""Runs a test on Docker and on Podman in the plain run too; the others run on Podman with --all."""

SETTINGS = ContainerSettings(
    images=("busybox", "127.0.0.1:*/*"),
    memory_bytes=64 * MIB,
    cpus=1.0,
    pids=64,
    tmp_bytes=8 * MIB,
    output_bytes=8 * MIB,
    image_bytes=16 * MIB,
    # What else this machine writes meanwhile must not end a download.
    unpacked_bytes=4096 * MIB,
    free_bytes=64 * MIB,
)


def offer(*command: str, seconds: float = 60, job_id: str = "job-1", **spec: Any) -> sessions_pb2.JobOffer:
    """An offer to run a command; ``spec`` has further fields of its container_spec."""
    lease = sessions_pb2.Lease(job_id=job_id, lease_epoch=1, lease_secret=b"s" * 16)
    container_spec = jobs_pb2.ContainerSpec(**{"image": IMAGE, "command": command, **spec})
    job_offer = sessions_pb2.JobOffer(
        lease=lease, attempt=1, job_type=jobs_pb2.JOB_TYPE_CUSTOM_CONTAINER, container_spec=container_spec
    )
    job_offer.run_limit.FromMilliseconds(round(seconds * 1000))
    return job_offer


def shell(script: str, **more: Any) -> sessions_pb2.JobOffer:
    """An offer to run a shell script."""
    return offer("sh", "-c", script, **more)


@dataclasses.dataclass
class Outcome:
    """The outcome of a run."""

    log: bytes = b""
    output: bytes = b""
    files: dict[str, bytes] = dataclasses.field(default_factory=dict)
    artifacts: list[Artifact] = dataclasses.field(default_factory=list)
    error: RunnerError | None = None
    is_over: bool = False
    """The meter was stopped."""

    @property
    def reason(self) -> str:
        """The failure's reason; empty if the run succeeded."""
        if self.error is None:
            return ""
        return jobs_pb2.FailureReason.Name(self.error.reason).removeprefix("FAILURE_REASON_")


async def follow(pieces: Pieces, outcome: Outcome) -> Outcome:
    """Reads a run to its end."""
    try:
        async with aclosing(pieces):
            async for piece in pieces:
                match piece:
                    case Log(data):
                        outcome.log += data
                    case WorkDone(artifacts):
                        outcome.is_over = True
                        outcome.artifacts += artifacts
                        outcome.files |= {file.name: file.path.read_bytes() for file in artifacts}
                    case bytes():
                        outcome.output += piece
                    case _:
                        raise AssertionError(piece)
    except RunnerError as error:
        outcome.error = error
    return outcome


async def until(condition: Callable[[], bool], seconds: float = 20) -> None:
    """Waits for the condition; fails after this many seconds."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.02)


class MortalDocker(Docker):
    """An engine's client whose daemon can die: after that it ends no container any more."""

    is_dead = False

    async def signal(self, name: str, signal: str) -> None:
        """See `Docker.signal`."""
        if not self.is_dead:
            await super().signal(name, signal)


class Bench:
    """A runner on a real engine."""

    def __init__(self, engine: PrivateEngine, folder: Path, owner: str = "tests") -> None:
        self.engine = engine
        self.folder = folder
        self.owner = owner
        self.docker: MortalDocker
        self.runner = self.new_runner()
        self._abandoned: list[tuple[ContainerRunner, Pieces, MortalDocker]] = []

    def new_runner(
        self,
        *,
        gpus: tuple[str, ...] = (),
        healthy_gpus: Callable[[], Sequence[str]] | None = None,
        keeper_grace_seconds: float = 60.0,
        **settings: Any,
    ) -> ContainerRunner:
        """A runner as a starting daemon creates it."""
        self.docker = MortalDocker(str(self.engine.socket))
        return ContainerRunner(
            self.docker,
            self.engine.facts,
            dataclasses.replace(SETTINGS, **settings),
            owner=self.owner,
            folder=self.folder / "artifacts",
            healthy_gpus=healthy_gpus or (lambda: gpus),
            keeper_grace_seconds=keeper_grace_seconds,
        )

    def restrict(self, **settings: Any) -> None:
        """Replaces some of ``SETTINGS``."""
        self.runner = self.new_runner(**settings)

    def abandon(self, pieces: Pieces) -> None:
        """The daemon dies: its runner does nothing more, and a new runner starts."""
        self.docker.is_dead = True
        self._abandoned.append((self.runner, pieces, self.docker))
        self.runner = self.new_runner()

    async def hang_up(self) -> None:
        """Ends the connections of the daemons that died, as the kernel does."""
        for _, _, docker in self._abandoned:
            await docker.close()

    async def close(self) -> None:
        """Closes all runners and their connections to the engine."""
        await self.runner.close()
        for runner, pieces, docker in self._abandoned:
            docker.is_dead = False
            await pieces.aclose()
            await runner.close()

    async def run(self, offered: sessions_pb2.JobOffer) -> Outcome:
        """Prepares and runs an offer to its end."""
        outcome = Outcome()
        try:
            await self.runner.prepare(offered)
        except RunnerError as error:
            outcome.error = error
            return outcome
        return await follow(self.runner.run(offered), outcome)

    async def adopt(self, offered: sessions_pb2.JobOffer, output: int = 0, log: int = 0) -> Outcome | None:
        """Adopts a run and reads the rest, after these many bytes of its output and its log."""
        pieces = await self.runner.adopt(offered, ResumeOffsets(output, log))
        return await follow(pieces, Outcome()) if pieces is not None else None

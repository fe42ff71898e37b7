"""The container runner: each job in a container of its own, with what the provider grants and nothing else.

Beside it runs the keeper (see `daemon.runners.containers.keeper`). Both survive the daemon:
they are found again by their names, which follow from the lease. It must not know
the session.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, aclosing, asynccontextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from dcp.v1 import jobs_pb2, sessions_pb2

from daemon.protocol.events import LeaseKey, lease_key
from daemon.runners import (
    COMMAND_JOB_TYPES,
    Log,
    Piece,
    Pieces,
    Report,
    ResumeOffsets,
    Runner,
    RunnerError,
    WorkDone,
    no_report,
)
from daemon.runners import output_folder as files
from daemon.runners.containers import spec
from daemon.runners.containers.beginning import LogBeginning
from daemon.runners.containers.crowd import Crowd
from daemon.runners.containers.docker import (
    Docker,
    DockerRefusedError,
    DockerUnavailableError,
    EngineFacts,
    Frame,
)
from daemon.runners.containers.failures import disk_limit, no_gpus, reported, start_failed
from daemon.runners.containers.image_store import ImageStore, digest_of
from daemon.runners.containers.job_files import JobFiles
from daemon.runners.containers.minimums import outdated
from daemon.runners.containers.parts import Parts
from daemon.runners.containers.rest import RestOfLog, pieces_of
from daemon.runners.containers.settings import MIB, ContainerSettings
from daemon.runners.containers.state import pids_of, ran_to, seconds_since_start, was_started
from daemon.runners.input_files import Given
from daemon.runners.limit import TimeLimit

logger = logging.getLogger(__name__)

# How long after its time limit the kernel ends a job that its daemon did not end.
KEEPER_GRACE_SECONDS = 120.0
STOP_SECONDS = 10.0
_KILLED = 128 + 9  # SIGKILL
_KILLED_BY_SIZE = 128 + 25  # SIGXFSZ: a file was to grow beyond what files may have


@dataclass
class JobContainers:
    """One lease's containers."""

    names: spec.Names
    facts: spec.Facts
    lease: sessions_pb2.Lease
    limit: TimeLimit
    crowd: Crowd = field(default_factory=Crowd)
    pids: tuple[int, ...] = ()
    """The machine's numbers of their first processes, from which all others descend."""


class ContainerRunner(Runner):
    """Runs images of the renters' that the provider allows."""

    name = "containers"

    def __init__(
        self,
        docker: Docker,
        engine: EngineFacts,
        settings: ContainerSettings,
        *,
        owner: str,
        folder: Path,
        healthy_gpus: Callable[[], Sequence[str]] = tuple,
        toolkit: Callable[[], str | None] = lambda: None,
        keeper_grace_seconds: float = KEEPER_GRACE_SECONDS,
    ) -> None:
        """`owner`: distinguishes its containers from others'; `folder`: for files that jobs left.

        `toolkit`: the version of NVIDIA's container toolkit; it may block for seconds.
        """
        self._docker = docker
        self._engine = engine
        self._settings = settings
        self._owner = owner
        self._images = ImageStore(docker, engine, settings, folder.with_name("images.json"))
        self._files = JobFiles(docker, settings, folder)
        self._parts = Parts(docker, engine, settings, self._files, keeper_grace_seconds)
        self._healthy_gpus = healthy_gpus
        self._toolkit = toolkit
        self._is_tested = False
        self._given: dict[LeaseKey, Sequence[Given]] = {}
        self._reports: dict[LeaseKey, Report] = {}
        self._runs: dict[LeaseKey, JobContainers] = {}
        self._self_test_names = spec.names(sessions_pb2.Lease(job_id="self-test"), owner)

    def job_types(self) -> Sequence[jobs_pb2.JobType.ValueType]:
        """Whatever is an image and a command."""
        return COMMAND_JOB_TYPES

    def images(self) -> Sequence[str]:
        """The patterns of the images that the provider allows."""
        return self._settings.images

    async def self_test(self, model: str = "") -> None:
        """What starts containers is new enough, and a test container starts, ends with 0 and is removed.

        Raises RunnerError.
        """
        await self._check_versions()
        names = self._self_test_names
        async with reported():
            try:
                await self._parts.make_keeper(names, 0)
                code = await self._docker.wait(names.keeper)
            except DockerRefusedError as error:
                raise start_failed(error) from None
            finally:
                await self._parts.remove(names)
        if code != 0:
            text = f"A container that does nothing ended with exit code {code}."
            raise RunnerError(jobs_pb2.FAILURE_REASON_CONTAINER_START_FAILED, text)

    async def _check_versions(self) -> None:
        """Raises RunnerError if strangers' images must not be run by what is installed now."""
        facts = self._engine
        if self._is_tested:
            # An update may have come meanwhile.
            async with reported():
                facts = await self._docker.facts()
        self._is_tested = True
        found = {"runc": facts.runc, "toolkit": await asyncio.to_thread(self._toolkit) or ""}
        if why := await asyncio.to_thread(outdated, found, self._settings.minimums):
            raise RunnerError(jobs_pb2.FAILURE_REASON_CONTAINER_ENGINE_UNAVAILABLE, why)

    def take_inputs(self, lease: sessions_pb2.Lease, given: Sequence[Given]) -> None:
        """See `Runner.take_inputs`."""
        self._given[lease_key(lease)] = given

    def watch_preparation(self, lease: sessions_pb2.Lease, report: Report) -> None:
        """Takes what hears how far the pull of the image is."""
        self._reports[lease_key(lease)] = report

    async def prepare(self, offer: sessions_pb2.JobOffer) -> None:
        """Pulls the image if needed and creates the containers. Raises RunnerError."""
        report = self._reports.pop(lease_key(offer.lease), no_report)
        image = self._images.allowed(offer.container_spec)
        spec.check_env(offer.container_spec.env)
        spec.check_input(offer.container_spec.input_files)
        async with reported():
            found = await self._images.get(image, report)
            facts = spec.Facts(
                image=str(image),
                image_id=str(found["Id"]),
                digest=digest_of(image, found),
                gpus=self._take_gpus(offer.container_spec),
                run_limit_ms=offer.run_limit.ToMilliseconds(),
            )
            run = self._run_of(offer.lease, spec.names(offer.lease, self._owner), facts)
            key = lease_key(offer.lease)
            self._runs[key] = run
            try:
                await self._parts.make(run.names, run.facts, offer, found, self._given.pop(key, None))
            except BaseException:
                await self._remove(run)
                raise
        logger.info("container created job_id=%s image=%s digest=%s", offer.lease.job_id, image, facts.digest)

    async def run(self, offer: sessions_pb2.JobOffer) -> Pieces:
        """Starts the container and passes on what it writes, then what it left. Raises RunnerError."""
        run = self._runs[lease_key(offer.lease)]
        try:
            async with reported():
                async with run.limit.kept():
                    async with (
                        self._started(run) as frames,
                        # Its first process is known only now.
                        run.crowd.watched(next(iter(run.pids), None)),
                        self._beginning(run).noted(),
                    ):
                        yield Log(run.facts.note)
                        async for frame in frames:
                            for piece in pieces_of(frame):
                                yield piece
                    code = await self._docker.wait(run.names.job)
                async with aclosing(self._end(run, code)) as rest:
                    async for piece in rest:
                        yield piece
        finally:
            await self._finish(run)

    async def adopt(self, offer: sessions_pb2.JobOffer, written: ResumeOffsets) -> Pieces | None:
        """Goes on with the container of an earlier daemon; None: there is none, or it was ended early."""
        names = spec.names(offer.lease, self._owner)
        found = await self._docker.inspect(names.job)
        if found is None or not was_started(found["State"]):
            return None
        try:
            facts = spec.Facts.of(found["Config"]["Labels"])
        except (KeyError, ValueError, TypeError):
            return None
        beside = await self._docker.inspect(names.keeper)
        is_kept = beside is not None and beside["State"]["Running"]
        if not is_kept and not ran_to(facts.run_limit_ms, found["State"]):
            return None  # the machine was restarted under it
        run = self._run_of(offer.lease, names, facts)
        run.pids = pids_of(found, beside)
        self._runs[lease_key(offer.lease)] = run
        return self._go_on(run, found["State"], written)

    def gpus(self, lease: sessions_pb2.Lease) -> Collection[str] | None:
        """Those that its container was given."""
        run = self._runs.get(lease_key(lease))
        return run.facts.gpus if run is not None else None

    def visible_gpus(self, lease: sessions_pb2.Lease) -> Collection[str] | None:
        """Those that its container was given; none while its image is pulled."""
        return self.gpus(lease) or ()

    def image_digest(self, lease: sessions_pb2.Lease) -> str:
        """As its registry names it, or, for an image only on this machine, its engine."""
        run = self._runs.get(lease_key(lease))
        return run.facts.digest if run is not None else ""

    def pids(self) -> Collection[int]:
        """The first processes of its containers."""
        return [pid for run in list(self._runs.values()) for pid in run.pids]

    async def kill(self, lease: sessions_pb2.Lease) -> None:
        """Ends a job's container by a signal that cannot be ignored."""
        run = self._runs.get(lease_key(lease))
        if run is not None:
            await self._docker.signal(run.names.job, "SIGKILL")

    async def end(self, lease: sessions_pb2.Lease) -> None:
        """Ends a job's container, by a signal that cannot be ignored if it ignores the first one."""
        run = self._runs.get(lease_key(lease))
        if run is None:
            return
        with contextlib.suppress(TimeoutError):
            await self._docker.signal(run.names.job, "SIGTERM")
            async with asyncio.timeout(STOP_SECONDS):
                await self._docker.wait(run.names.job)
                return
        await self.kill(lease)

    async def sweep(self) -> None:
        """Removes the containers, volumes and files of this daemon that no run of its has."""
        label = f"{spec.OWNER_LABEL}={self._owner}"
        containers = await self._docker.containers_with(label)
        volumes = await self._docker.volumes_with(label)
        left = {str(found["Labels"].get(spec.LEASE_LABEL, "")) for found in containers}
        left |= {name.removeprefix("dcp-").partition("-")[0] for name in volumes}
        left |= await self._files.leases()
        # What began while the engine was asked is known by now.
        known = {run.names.lease for run in self._runs.values()} | {self._self_test_names.lease}
        for lease in sorted(left - known):
            logger.info("removing what an ended job left lease=%s", lease)
            await self._parts.remove(spec.Names(lease, self._owner))

    async def tidy(self) -> None:
        """Removes images that jobs brought and that are too old or too many."""
        await self._images.tidy()

    async def close(self) -> None:
        """Removes what still is there, and leaves the engine."""
        for run in list(self._runs.values()):
            await self._remove(run)
        try:
            await self.sweep()
        except (DockerUnavailableError, DockerRefusedError) as error:
            logger.warning("could not look for what jobs left error=%s", error)
        await self._images.close()
        await self._docker.close()

    def _run_of(self, lease: sessions_pb2.Lease, names: spec.Names, facts: spec.Facts) -> JobContainers:
        signal = partial(self._docker.signal, names.job)
        return JobContainers(names, facts, lease, TimeLimit(facts.run_limit_ms / 1000, signal))

    def _beginning(self, run: JobContainers) -> LogBeginning:
        return LogBeginning(self._docker, run.names.job, self._files.note_of(run.names))

    # --- before the start ---

    def _take_gpus(self, wanted: jobs_pb2.ContainerSpec) -> tuple[str, ...]:
        taken = {gpu for run in self._runs.values() for gpu in run.facts.gpus}
        free = [gpu for gpu in self._healthy_gpus() if gpu and gpu not in taken]
        count = wanted.gpu_count if wanted.HasField("gpu_count") else len(free)
        if count > len(free):
            raise spec.bad_params(f"container_spec.gpu_count: this provider has {len(free)} GPUs free.")
        if count and not self._engine.hands_out_gpus:
            raise no_gpus()
        return tuple(free[:count])

    @asynccontextmanager
    async def _started(self, run: JobContainers) -> AsyncIterator[AsyncGenerator[Frame, None]]:
        """Starts the container; what it writes from its first byte on."""
        async with AsyncExitStack() as stack:
            try:
                # Podman creates the process when it is attached to.
                frames = await stack.enter_async_context(self._docker.attached(run.names.job))
                await self._docker.start(run.names.job)
            except DockerRefusedError as error:
                raise start_failed(error) from None
            # What a job's program leaves behind becomes the keeper's.
            names = (run.names.job, run.names.keeper)
            run.pids = pids_of(*[await self._docker.inspect(name) for name in names])
            yield frames

    # --- while it runs, and after ---

    async def _go_on(self, run: JobContainers, state: dict[str, Any], written: ResumeOffsets) -> Pieces:
        """What an earlier daemon's container wrote after what is known of it."""
        note = run.facts.note
        rest = RestOfLog(
            self._docker,
            run.names.job,
            self._beginning(run),
            ResumeOffsets(written.output_bytes, max(0, written.log_bytes - len(note))),
        )
        try:
            async with reported():
                if unknown := note[written.log_bytes :]:
                    yield Log(unknown)
                is_running = bool(state.get("Running"))
                pid = state.get("Pid") if is_running else None
                async with _kept_on(run.limit, state), run.crowd.watched(pid):
                    keep_reading = rest.poll if self._engine.is_podman else rest.follow
                    reading = keep_reading() if is_running else rest.read()
                    async with aclosing(reading) as pieces:
                        async for piece in pieces:
                            yield piece
                    code = await self._docker.wait(run.names.job)
                async with aclosing(self._end(run, code)) as pieces:
                    async for piece in pieces:
                        yield piece
        finally:
            await self._finish(run)

    async def _end(self, run: JobContainers, code: int) -> AsyncGenerator[Piece, None]:
        """The meter's end, what was left, and why it failed, if it did."""
        yield WorkDone()
        found = await self._docker.inspect(run.names.job)
        state = found["State"] if found is not None else {}
        collected = await self._files.collect(run.names, run.lease.job_id)
        for note in collected.notes:
            yield Log(f"[dcp] {note}\n".encode())
        yield WorkDone(tuple(collected.artifacts))
        if code != 0 or run.limit.is_reached:
            raise await self._failure(run, code, state, collected)
        logger.info("container ended job_id=%s exit_code=0", run.lease.job_id)

    async def _failure(
        self, run: JobContainers, code: int, state: dict[str, Any], collected: files.Collected
    ) -> RunnerError:
        settings = self._settings
        logger.info("container ended job_id=%s exit_code=%d", run.lease.job_id, code)
        memory = f"more memory than the {settings.memory_bytes // MIB} MiB that it may have."
        crowded = f"The job had all {settings.pids} processes and threads that it may have, and wanted more"
        if state.get("OOMKilled") and run.crowd.was_full:  # a crowd needs memory, so it is the cause
            text = f"{crowded}; together they used {memory}"
            return RunnerError(jobs_pb2.FAILURE_REASON_PROCESS_LIMIT, text)
        if state.get("OOMKilled"):
            return RunnerError(jobs_pb2.FAILURE_REASON_OUT_OF_MEMORY, f"The job used {memory}")
        if run.limit.is_reached or ran_to(run.facts.run_limit_ms, state):
            return run.limit.error()
        if self._engine.is_podman and code == _KILLED:
            text = f"The job's program was killed, as the kernel does to one that uses {memory}"
            return RunnerError(jobs_pb2.FAILURE_REASON_OUT_OF_MEMORY, text)
        if code == _KILLED_BY_SIZE or _is_full(collected.used_bytes, settings.output_bytes):
            return disk_limit(f"The job filled /output: it may have {settings.output_bytes // MIB} MiB.")
        if _is_full(await self._files.used_of_tmp(run.names), settings.tmp_bytes):
            return disk_limit(f"The job filled /tmp: it may have {settings.tmp_bytes // MIB} MiB.")
        if run.crowd.was_full:
            return RunnerError(jobs_pb2.FAILURE_REASON_PROCESS_LIMIT, f"{crowded}.")
        return RunnerError(
            jobs_pb2.FAILURE_REASON_CONTAINER_EXIT, f"The job's program ended with exit code {code}."
        )

    # --- the end ---

    async def _finish(self, run: JobContainers) -> None:
        """Ends the container, by its own good will as long as `kill` does not come, and removes all."""
        try:
            await self._docker.signal(run.names.job, "SIGTERM")
            async with asyncio.timeout(STOP_SECONDS):
                await self._docker.wait(run.names.job)
        except (TimeoutError, DockerUnavailableError, DockerRefusedError):
            logger.debug("a container did not end by itself job_id=%s", run.lease.job_id)
        await self._remove(run)

    async def _remove(self, run: JobContainers) -> None:
        await self._parts.remove(run.names)
        self._runs.pop(lease_key(run.lease), None)


def _kept_on(limit: TimeLimit, state: dict[str, Any]) -> AbstractAsyncContextManager[None]:
    """Keeps the limit of a container that an earlier daemon started, where it still runs."""
    if not state.get("Running"):
        return nullcontext()
    return limit.kept(seconds_since_start(state))


def _is_full(used: int, size: int) -> bool:
    return used >= size - 16 * 4096

"""The process runner: a job's command as a plain process, for machines without a container engine.

NOT ISOLATED, but for the environment: it sees what the daemon's user sees,
its files and its network. So it exists only where the owner said so, and every
log begins with that. The command ends with the daemon; what it started and left
behind may not. It must not know the session.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import signal
import sys
from collections.abc import AsyncGenerator, Callable, Collection, Mapping, Sequence
from functools import partial
from pathlib import Path

from dcp.v1 import jobs_pb2, sessions_pb2

from daemon.machine import pipes
from daemon.protocol.events import LeaseKey, lease_key
from daemon.runners import (
    COMMAND_JOB_TYPES,
    Log,
    Piece,
    Pieces,
    Runner,
    RunnerError,
    WorkDone,
    inputs_not_kept,
)
from daemon.runners import output_folder as files
from daemon.runners.containers import spec
from daemon.runners.containers.settings import MIB, ContainerSettings
from daemon.runners.input_files import Given, Limits, RefusedError, pack, unpack
from daemon.runners.limit import TimeLimit

logger = logging.getLogger(__name__)

PATH = "/usr/local/bin:/usr/bin:/bin"
_NOTE = b"[dcp] no container: a plain process of the provider's machine; the image is not used\n"
_LAUNCH = str(Path(__file__).with_name("launch.py"))
_PIECE_BYTES = 64 * 1024
_KILLED_BY_SIZE = -signal.SIGXFSZ
_LOOK_SECONDS = 0.2
QUIET_SECONDS = 1.0
STOP_SECONDS = 10.0
_SELF_TEST = "self-test"


class ProcessRunner(Runner):
    """Runs commands as they are."""

    name = "plain processes"

    def __init__(
        self,
        settings: ContainerSettings,
        folder: Path,
        visible_gpus: Callable[[], Sequence[str] | None] = lambda: None,
    ) -> None:
        """`folder`: for the jobs' files; of `settings`, only sizes can be enforced.

        `visible_gpus`: the UUIDs of the GPUs that a job which starts now is to see; None: all.
        """
        self._settings = settings
        self._visible_gpus = visible_gpus
        self._seen: dict[LeaseKey, Sequence[str] | None] = {}
        self._folder = folder
        self._processes: dict[LeaseKey, asyncio.subprocess.Process] = {}
        self._given: dict[LeaseKey, Sequence[Given]] = {}
        self._prepared: set[str] = set()
        """The folders of jobs whose inputs are there, and that have not started."""
        self._dropping: set[asyncio.Task[None]] = set()

    def job_types(self) -> Sequence[jobs_pb2.JobType.ValueType]:
        """Whatever is a command."""
        return COMMAND_JOB_TYPES

    async def self_test(self, model: str = "") -> None:
        """A test command starts as a job's does, and ends with 0. Raises RunnerError."""
        folder = self._folder / _SELF_TEST
        try:
            await asyncio.to_thread(folder.mkdir, mode=0o700, parents=True, exist_ok=True)
            process = await self._start(jobs_pb2.ContainerSpec(command=["true"]), folder, {})
            code = await _end_of(process)
        except OSError as error:
            text = f"The folder for the jobs' files cannot be used: {error.strerror}."
            raise RunnerError(jobs_pb2.FAILURE_REASON_CONTAINER_START_FAILED, text) from None
        finally:
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
        if code != 0:
            text = f"A command that does nothing ended with exit code {code}."
            raise RunnerError(jobs_pb2.FAILURE_REASON_CONTAINER_START_FAILED, text)

    def take_inputs(self, lease: sessions_pb2.Lease, given: Sequence[Given]) -> None:
        """See `Runner.take_inputs`."""
        self._given[lease_key(lease)] = given

    async def prepare(self, offer: sessions_pb2.JobOffer) -> None:
        """Checks the command, and unpacks what it reads. Raises RunnerError."""
        if not offer.container_spec.command:
            raise spec.bad_params("container_spec.command: this provider runs no images, so name the command")
        spec.check_env(offer.container_spec.env)
        spec.check_input(offer.container_spec.input_files)
        inputs = self._given.pop(lease_key(offer.lease), None)
        if inputs is not None:
            folder = self._folder / spec.names(offer.lease, "").lease
            self._prepared.add(folder.name)
            texts = {name: text.encode() for name, text in offer.container_spec.input_files.items()}
            unpacking = asyncio.create_task(asyncio.to_thread(self._unpack, inputs, texts, folder))
            try:
                await asyncio.shield(unpacking)
            except BaseException:
                dropping = asyncio.create_task(self._drop(unpacking, folder))
                self._dropping.add(dropping)
                dropping.add_done_callback(self._dropping.discard)
                await asyncio.shield(dropping)
                raise

    async def _drop(self, unpacking: asyncio.Task[None], folder: Path) -> None:
        """Removes a folder once its thread has ended: that cannot be cancelled, and would write on."""
        await asyncio.wait([unpacking])
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
        self._prepared.discard(folder.name)

    def _unpack(self, inputs: Sequence[Given], texts: dict[str, bytes], folder: Path) -> None:
        """Writes the inputs of a job into its folder. Raises RunnerError."""
        shutil.rmtree(folder, ignore_errors=True)
        try:
            (folder / "input").mkdir(mode=0o700, parents=True)
            pack(inputs, texts, folder / "input.tar", Limits(self._settings.unpacked_input_bytes))
            unpack(folder / "input.tar", folder / "input")
            (folder / "input.tar").unlink()
        except (RefusedError, OSError) as error:
            shutil.rmtree(folder, ignore_errors=True)
            if isinstance(error, RefusedError):
                raise RunnerError(jobs_pb2.FAILURE_REASON_INPUT_REFUSED, f"inputs: {error}.") from None
            logger.warning("inputs could not be unpacked error=%s", error)
            raise inputs_not_kept(error) from None

    async def run(self, offer: sessions_pb2.JobOffer) -> Pieces:
        """Runs the command and passes on what it writes, then what it left. Raises RunnerError."""
        folder = self._folder / spec.names(offer.lease, "").lease
        work, output, given = folder / "work", folder / "output", folder / "input"
        key = lease_key(offer.lease)
        try:
            has_inputs = given.exists()
            for created in (folder, work, output, given):
                created.mkdir(mode=0o700, parents=True, exist_ok=has_inputs)
            # With inputs, the texts were unpacked with them, so that none is written through a link.
            for name, text in () if has_inputs else offer.container_spec.input_files.items():
                (given / name).write_text(text, encoding="utf-8")
                (given / name).chmod(0o500)
            folders = {"DCP_OUTPUT_DIR": str(output)}
            if offer.container_spec.input_files or has_inputs:
                folders["DCP_INPUT_DIR"] = str(given)
            self._seen[key] = gpus = self._visible_gpus()
            if gpus is not None:
                folders["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)
            process = self._processes[key] = await self._start(offer.container_spec, work, folders)
            limit = TimeLimit(offer.run_limit.ToMilliseconds() / 1000, partial(_signalled, process))
            async with limit.kept():
                yield Log(_NOTE)
                async for piece in _written(process):
                    yield piece
                code = await process.wait()
            yield WorkDone()
            collected = await self._collect(output, folder / "artifacts")
            for note in collected.notes:
                yield Log(f"[dcp] {note}\n".encode())
            yield WorkDone(tuple(collected.artifacts))
            if limit.is_reached:
                raise limit.error()
            if code != 0:
                raise self._failure(code)
        finally:
            await self._end(key)
            self._prepared.discard(folder.name)
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)

    def visible_gpus(self, lease: sessions_pb2.Lease) -> Collection[str] | None:
        """Those that its process was told of."""
        return self._seen.get(lease_key(lease))

    async def kill(self, lease: sessions_pb2.Lease) -> None:
        """Ends a job's processes by a signal that cannot be ignored."""
        process = self._processes.get(lease_key(lease))
        if process is not None:
            _signal(process, signal.SIGKILL)

    async def end(self, lease: sessions_pb2.Lease) -> None:
        """Ends a job's processes, by a signal that cannot be ignored if they ignore the first one."""
        process = self._processes.get(lease_key(lease))
        if process is None:
            return
        _signal(process, signal.SIGTERM)
        try:
            async with asyncio.timeout(STOP_SECONDS):
                await process.wait()
        except TimeoutError:
            _signal(process, signal.SIGKILL)

    async def sweep(self) -> None:
        """Removes the files of jobs that are over."""
        known = {spec.names(_lease(key), "").lease for key in self._processes} | {_SELF_TEST} | self._prepared
        if self._folder.is_dir():
            for path in self._folder.iterdir():
                if path.name not in known:
                    await asyncio.to_thread(shutil.rmtree, path, ignore_errors=True)

    async def close(self) -> None:
        """Ends every job."""
        for key in list(self._processes):
            await self._end(key)

    async def _start(
        self, wanted: jobs_pb2.ContainerSpec, work: Path, folders: Mapping[str, str]
    ) -> asyncio.subprocess.Process:
        # The daemon's own environment has its key: a job gets none of it.
        given = {name: _native(value) for name, value in wanted.env.items()}
        env = {"PATH": PATH, "HOME": str(work), **given, **folders}
        command = [_native(part) for part in wanted.command]
        launch = (sys.executable, "-I", "-S", _LAUNCH, str(os.getpid()), str(self._settings.output_bytes))
        program = str(work / command[0]) if "/" in command[0] else command[0]
        if shutil.which(program, path=env["PATH"]) is None:
            text = "The command could not be started: there is no such program."
            raise RunnerError(jobs_pb2.FAILURE_REASON_CONTAINER_START_FAILED, text)
        try:
            return await asyncio.create_subprocess_exec(
                *launch,
                *command,
                env=env,
                cwd=work,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or "it is not a command"
            text = f"The command could not be started: {why}"
            raise RunnerError(jobs_pb2.FAILURE_REASON_CONTAINER_START_FAILED, text) from None

    async def _collect(self, output: Path, into: Path) -> files.Collected:
        try:
            return await asyncio.to_thread(files.from_folder, output, into, self._settings.output_bytes)
        except files.TooMuchError as error:
            raise RunnerError(jobs_pb2.FAILURE_REASON_DISK_LIMIT, f"Nothing was kept: {error}.") from None
        except OSError:
            text = "The provider could not keep the job's files."
            raise RunnerError(jobs_pb2.FAILURE_REASON_ENGINE_FAILED, text) from None

    def _failure(self, code: int) -> RunnerError:
        if code == _KILLED_BY_SIZE:
            most = self._settings.output_bytes // MIB
            text = f"The job wrote a file of more than {most} MiB."
            return RunnerError(jobs_pb2.FAILURE_REASON_DISK_LIMIT, text)
        text = f"The job's program ended with exit code {code if code > 0 else 128 - code}."
        return RunnerError(jobs_pb2.FAILURE_REASON_CONTAINER_EXIT, text)

    async def _end(self, key: LeaseKey) -> None:
        """Asks the job's processes to end; `kill` does what they do not do by themselves."""
        process = self._processes.get(key)
        if process is None:
            return
        if process.returncode is None:
            _signal(process, signal.SIGTERM)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(10):
                    await process.wait()
        # Those that its first process left behind.
        _signal(process, signal.SIGKILL)
        pipes.close(process)
        self._processes.pop(key, None)
        self._seen.pop(key, None)


def _native(text: str) -> str:
    """The text as this machine's locale has it, so that the program gets it in UTF-8."""
    return os.fsdecode(text.encode())


def _lease(key: LeaseKey) -> sessions_pb2.Lease:
    return sessions_pb2.Lease(job_id=key[0], lease_epoch=key[1], lease_secret=key[2])


async def _end_of(process: asyncio.subprocess.Process) -> int:
    """Waits for a process's end, and kills it when the wait is cancelled."""
    try:
        await process.communicate()
    finally:
        _signal(process, signal.SIGKILL)
    assert process.returncode is not None, "it has ended"
    return process.returncode


async def _signalled(process: asyncio.subprocess.Process, name: str) -> None:
    _signal(process, signal.Signals[name])


def _signal(process: asyncio.subprocess.Process, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)


async def _written(process: asyncio.subprocess.Process) -> AsyncGenerator[Piece, None]:
    """What the process writes, in the order in which it comes, until it has ended."""
    pieces: asyncio.Queue[tuple[bool, bytes]] = asyncio.Queue(maxsize=4)

    async def read(stream: asyncio.StreamReader | None, is_output: bool) -> None:
        assert stream is not None
        while data := await stream.read(_PIECE_BYTES):
            await pieces.put((is_output, data))

    streams = ((process.stdout, True), (process.stderr, False))
    readers = [asyncio.create_task(read(stream, is_output)) for stream, is_output in streams]
    # A process that was left behind may hold the pipes open: they are read until
    # nothing has come for a second after the end of the command itself.
    quiet_seconds = 0.0
    try:
        while quiet_seconds < QUIET_SECONDS and not (
            pieces.empty() and all(reader.done() for reader in readers)
        ):
            try:
                async with asyncio.timeout(_LOOK_SECONDS):
                    is_output, data = await pieces.get()
            except TimeoutError:
                quiet_seconds += 0.0 if process.returncode is None else _LOOK_SECONDS
                continue
            quiet_seconds = 0.0
            yield Log(data)
            if is_output:
                yield data
    finally:
        for task in readers:
            task.cancel()
        await asyncio.gather(*readers, return_exceptions=True)

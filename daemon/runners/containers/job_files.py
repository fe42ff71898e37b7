"""What a container's job wrote: copied out of its volumes to this machine, and counted."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
import tarfile
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from dcp.v1 import jobs_pb2, sessions_pb2

from daemon.runners import RunnerError, inputs_not_kept
from daemon.runners import output_folder as files
from daemon.runners.containers import spec
from daemon.runners.containers.docker import Docker, SpoolError
from daemon.runners.containers.failures import disk_limit
from daemon.runners.containers.settings import MIB, ContainerSettings
from daemon.runners.input_files import Given, Limits, RefusedError, pack

logger = logging.getLogger(__name__)

COLLECT_SECONDS = 300.0
_TAR_ROOM_BYTES = 4 * MIB


class JobFiles:
    """The files of this daemon's container jobs, in one folder for each lease."""

    def __init__(self, docker: Docker, settings: ContainerSettings, folder: Path) -> None:
        self._docker = docker
        self._settings = settings
        self._folder = folder

    def note_of(self, names: spec.Names) -> Path:
        """Where a run notes how its log begins."""
        return self._folder / names.lease / "beginning"

    async def leases(self) -> set[str]:
        """The leases whose folders are on this machine."""
        return await asyncio.to_thread(_folders, self._folder)

    async def remove(self, names: spec.Names) -> None:
        """Removes the folder of a lease."""
        await asyncio.to_thread(shutil.rmtree, self._folder / names.lease, ignore_errors=True)

    @contextlib.asynccontextmanager
    async def packed(
        self, names: spec.Names, offer: sessions_pb2.JobOffer, given: Sequence[Given] | None
    ) -> AsyncIterator[Path | None]:
        """A tar of all files of `/input`, until the block ends; None without inputs. Raises RunnerError."""
        if given is None:
            yield None
            return
        tar = self._folder / names.lease / "input.tar"
        texts = {name: text.encode() for name, text in offer.container_spec.input_files.items()}
        try:
            await asyncio.to_thread(_pack, given, texts, tar, self._settings.unpacked_input_bytes)
            yield tar
        finally:
            tar.unlink(missing_ok=True)

    async def collect(self, names: spec.Names, job_id: str) -> files.Collected:
        """The files in `/output`, copied to this machine."""
        folder, limit = self._folder / names.lease, self._settings.output_bytes
        tar = folder / "output.tar"
        try:
            if not await self._archive(names, spec.OUTPUT, tar, limit):
                raise disk_limit(f"The job's files in /output are more than {limit // MIB} MiB.")
            return await asyncio.to_thread(_from_tar, tar, folder / "files", limit)
        except files.TooMuchError as error:
            raise disk_limit(f"Nothing was kept: {error}.") from None
        except (SpoolError, OSError, tarfile.TarError) as error:
            logger.warning("a job's files could not be kept job_id=%s error=%s", job_id, error)
            text = "The provider could not keep the job's files."
            raise RunnerError(jobs_pb2.FAILURE_REASON_ENGINE_FAILED, text) from None
        finally:
            tar.unlink(missing_ok=True)

    async def used_of_tmp(self, names: spec.Names) -> int:
        """How much of `/tmp` the job filled, in bytes."""
        tar = self._folder / names.lease / "tmp.tar"
        try:
            if not await self._archive(names, spec.TMP, tar, self._settings.tmp_bytes):
                return self._settings.tmp_bytes
            return await asyncio.to_thread(_used, tar)
        except (SpoolError, OSError, tarfile.TarError):
            return 0
        finally:
            tar.unlink(missing_ok=True)

    async def _archive(self, names: spec.Names, path: str, into: Path, limit: int) -> bool:
        into.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Each file's head takes half a KiB, twice for long names.
        room = limit + _TAR_ROOM_BYTES + limit // 4
        async with asyncio.timeout(COLLECT_SECONDS):
            return await self._docker.archive(names.keeper, path, into, room)


def _pack(given: Sequence[Given], texts: dict[str, bytes], tar: Path, most_bytes: int) -> None:
    """Packs the files of `/input`. Raises RunnerError."""
    try:
        tar.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        pack(given, texts, tar, Limits(most_bytes))
    except RefusedError as error:
        raise RunnerError(jobs_pb2.FAILURE_REASON_INPUT_REFUSED, f"inputs: {error}.") from None
    except OSError as error:
        logger.warning("inputs could not be packed error=%s", error)
        raise inputs_not_kept(error) from None


def _folders(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} if folder.is_dir() else set()


def _from_tar(tar: Path, folder: Path, limit: int) -> files.Collected:
    with tar.open("rb") as file:
        return files.from_tar(file, folder, limit)


def _used(tar: Path) -> int:
    with tar.open("rb") as file:
        return files.used_in_tar(file)

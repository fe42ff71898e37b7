"""The engine's images: which of them a job may have, the download of one, and the removal of old ones."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from dcp.v1 import jobs_pb2

from common import images
from daemon.runners import Report, RunnerError, no_report
from daemon.runners.containers import spec
from daemon.runners.containers.brought import BroughtImages
from daemon.runners.containers.docker import (
    Docker,
    DockerRefusedError,
    DockerUnavailableError,
    EngineFacts,
    PullTooLargeError,
)
from daemon.runners.containers.failures import no_room, of_registry, other_architecture, pull_failed
from daemon.runners.containers.settings import MIB, ContainerSettings

logger = logging.getLogger(__name__)

LOOK_SECONDS = 0.1
# Podman 4.3 goes on with a pull that was left, and the image is there in the end.
LATE_SECONDS = 900.0
LATE_LOOK_SECONDS = 2.0
# Of one tidying: each may take half a minute.
MAX_REMOVED = 20
# What a processor runs, by its names and by the names of images.
_RUNS = {
    "x86_64": ("amd64", "386"),
    "amd64": ("amd64", "386"),
    "aarch64": ("arm64",),
    "arm64": ("arm64",),
}


class ImageStore:
    """The images of one engine, as the provider's settings allow them."""

    def __init__(
        self,
        docker: Docker,
        engine: EngineFacts,
        settings: ContainerSettings,
        file: Path,
        now: Callable[[], float] = time.time,
    ) -> None:
        """`file`: where it remembers which images jobs brought."""
        self._docker = docker
        self._engine = engine
        self._settings = settings
        self._brought = BroughtImages(file, now)
        self._pulling = asyncio.Lock()
        self._late: dict[str, asyncio.Task[None]] = {}
        """The images of pulls that were left and that may still come."""

    async def close(self) -> None:
        """Waits for no image any more; what comes later is known to the next daemon."""
        late = list(self._late.values())
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)

    def allowed(self, wanted: jobs_pb2.ContainerSpec) -> images.Image:
        """The image that a job names. Raises RunnerError if it is not one that this provider allows."""
        try:
            image = images.parse(wanted.image)
        except images.ImageNameError:
            raise spec.bad_params(
                "container_spec.image is not the name of an image, such as python:3.12"
            ) from None
        if not images.is_allowed(image, self._settings.images):
            raise RunnerError(
                jobs_pb2.FAILURE_REASON_IMAGE_NOT_ALLOWED,
                f"This provider does not allow the image {image}: choose another image or provider.",
            )
        return image

    async def get(self, image: images.Image, report: Report = no_report) -> dict[str, Any]:
        """The image as the engine knows it, downloaded when it does not yet. Raises RunnerError."""
        async with self._pulling:
            found = await self._docker.inspect_image(image.exact)
            if found is None:
                found = await self._pulled(image, report)
            elif image.exact in self._brought and self._is_too_large(found):
                await self._remove(image.exact)
                raise self._too_large(image)
            if (late := self._late.pop(image.exact, None)) is not None:
                late.cancel()
            self._check_architecture(image, found)
            self._brought.use(image.exact)
        return found

    async def tidy(self) -> None:
        """Removes images that jobs brought: old ones, and those that are together too large.

        At most `MAX_REMOVED`, the rest the next time. A job that needs an image waits for one removal.
        """
        for _ in range(MAX_REMOVED):
            async with self._pulling:
                if not await self._tidy(most=1):
                    return

    def _check_architecture(self, image: images.Image, found: dict[str, Any]) -> None:
        """Raises RunnerError for programs that this machine's processor cannot run."""
        runs, own = _RUNS.get(self._engine.architecture, ()), str(found.get("Architecture") or "")
        if runs and own and own not in runs:
            raise other_architecture(
                f"The image {image} is for {own[:40]}, and this provider's processor is {runs[0]}."
            )

    async def _pulled(self, image: images.Image, report: Report) -> dict[str, Any]:
        name = image.exact
        await self._make_room()
        try:
            self._brought.bring(name)
        except OSError as error:
            logger.warning("an image is not pulled, as it would be forgotten error=%s", error)
            raise no_room("The provider's disk takes no image now.") from None
        try:
            await self._watched(name, report)
            found = await self._docker.inspect_image(name)
            if found is None:
                raise pull_failed(f"The image {image} was pulled and is not there.")
            if self._is_too_large(found):
                raise PullTooLargeError(name)
            return found
        except PullTooLargeError:
            await self._take_back(name)
            raise self._too_large(image) from None
        except DockerRefusedError as error:
            self._brought.forget(name)
            raise of_registry(image, error) from None
        except RunnerError:
            await self._take_back(name)
            raise

    def _is_too_large(self, found: dict[str, Any]) -> bool:
        size, most = int(found.get("Size") or 0), self._settings.unpacked_bytes
        # Podman may not report beforehand how much it downloads.
        return size > (min(most, self._settings.image_bytes) if self._engine.is_podman else most)

    def _too_large(self, image: images.Image) -> RunnerError:
        return pull_failed(
            f"The image {image} is larger than this provider's {self._settings.image_bytes // MIB} MiB "
            f"compressed, or its {self._settings.unpacked_bytes // MIB} MiB unpacked."
        )

    async def _take_back(self, name: str) -> None:
        """Removes an image that must not be, as soon as it is there."""
        if self._engine.is_podman and await self._docker.inspect_image(name) is None:
            if name not in self._late:
                self._late[name] = asyncio.create_task(self._remove_late(name))
        else:
            await self._remove(name)

    async def _remove_late(self, name: str) -> None:
        for _ in range(round(LATE_SECONDS / LATE_LOOK_SECONDS)):
            await asyncio.sleep(LATE_LOOK_SECONDS)
            async with self._pulling:
                with contextlib.suppress(DockerRefusedError, DockerUnavailableError):
                    if await self._docker.inspect_image(name) is not None and await self._remove(name):
                        break
        self._late.pop(name, None)

    async def _watched(self, name: str, report: Report) -> None:
        """Downloads an image, and stops when it takes too much of the disk. Raises PullTooLargeError."""
        before = await self._free()
        pulling = asyncio.create_task(
            self._docker.pull(
                name, self._settings.image_bytes, partial(report, jobs_pb2.PREPARATION_STEP_IMAGE)
            )
        )
        try:
            while not (await asyncio.wait({pulling}, timeout=LOOK_SECONDS))[0]:
                free = await self._free()
                if before is None or free is None:
                    continue
                # While it is unpacked, what was downloaded is there too. What comes late is not this one's.
                most = self._settings.image_bytes + self._settings.unpacked_bytes
                if before - free > most and not self._late:
                    raise PullTooLargeError(name)
                if free < self._settings.free_bytes:
                    raise no_room("The provider's disk has no room for the image.")
            pulling.result()
        finally:
            # Leaving the download ends it.
            pulling.cancel()
            await asyncio.gather(pulling, return_exceptions=True)

    async def _make_room(self) -> None:
        """Raises RunnerError if the disk has no room for any image."""
        free = await self._free()
        if free is not None and free < self._settings.free_bytes:
            await self._tidy(self._settings.free_bytes - free, most=MAX_REMOVED)
            free = await self._free()
        if free is not None and free < self._settings.free_bytes:
            raise no_room("The provider's disk has no room for the image.")

    async def _tidy(self, needed_bytes: int = 0, *, most: int) -> int:
        """Removes images, more of them if room is needed, and at most ``most``; returns how many."""
        sizes, removed = {}, 0
        for name in self._brought.names():
            found = await self._docker.inspect_image(name)
            if found is not None and self._is_too_large(found):
                removed += await self._remove(name)
            elif found is not None:
                sizes[name] = int(found.get("Size") or 0)
            elif name not in self._late:
                self._brought.forget(name)
        kept = min(self._settings.kept_bytes, max(0, sum(sizes.values()) - needed_bytes))
        # One that is still in use stays, and holds up no other.
        for name in self._brought.to_remove(sizes, kept, self._settings.kept_seconds):
            if removed >= most:
                break
            removed += await self._remove(name)
        return removed

    async def _remove(self, name: str) -> bool:
        """Removes an image that a job brought; False: it is in use, and the next tidying tries again."""
        try:
            await self._docker.remove_image(name)
        except (DockerRefusedError, DockerUnavailableError) as error:
            logger.info("an image was not removed image=%s error=%s", name, error)
            return False
        logger.info("removed an image that a job had brought image=%s", name)
        self._brought.forget(name)
        return True

    async def _free(self) -> int | None:
        """What is free on the engine's disk; None: its folder is not on this machine."""
        try:
            return (await asyncio.to_thread(shutil.disk_usage, self._engine.root)).free
        except OSError:
            return None


def digest_of(image: images.Image, found: dict[str, Any]) -> str:
    """Its digest: as the registry names it, or, for an image only on this machine, the engine."""
    digests = [str(digest).partition("@") for digest in found.get("RepoDigests") or ()]
    of_repository = [digest for name, _, digest in digests if image.repository.endswith(name)]
    return image.digest or next(iter(of_repository), str(found["Id"]))

"""The engine's images: which of them a job may have, the download of one, and the removal of old ones."""

from __future__ import annotations

import asyncio
import logging
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dcp.v1 import jobs_pb2

from common import images
from daemon.runners import RunnerError
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

    async def get(self, image: images.Image) -> dict[str, Any]:
        """The image as the engine knows it, downloaded when it does not yet. Raises RunnerError."""
        async with self._pulling:
            found = await self._docker.inspect_image(image.exact)
            if found is None:
                found = await self._pulled(image)
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

    async def _pulled(self, image: images.Image) -> dict[str, Any]:
        name, settings = image.exact, self._settings
        await self._make_room()
        try:
            self._brought.bring(name)
        except OSError as error:
            logger.warning("an image is not pulled, as it would be forgotten error=%s", error)
            raise no_room("The provider's disk takes no image now.") from None
        try:
            await self._watched(name)
            found = await self._docker.inspect_image(name)
            if found is None:
                raise pull_failed(f"The image {image} was pulled and is not there.")
            # Podman may not report beforehand how much it downloads.
            size, most = int(found.get("Size") or 0), settings.unpacked_bytes
            if size > (min(most, settings.image_bytes) if self._engine.is_podman else most):
                raise PullTooLargeError(name)
            return found
        except PullTooLargeError:
            await self._remove(name)
            raise pull_failed(
                f"The image {image} is larger than this provider's {settings.image_bytes // MIB} MiB "
                f"compressed, or its {settings.unpacked_bytes // MIB} MiB unpacked."
            ) from None
        except DockerRefusedError as error:
            self._brought.forget(name)
            raise of_registry(image, error) from None
        except RunnerError:
            await self._remove(name)
            raise

    async def _watched(self, name: str) -> None:
        """Downloads an image, and stops when it takes too much of the disk. Raises PullTooLargeError."""
        before = await self._free()
        pulling = asyncio.create_task(self._docker.pull(name, self._settings.image_bytes))
        try:
            while not (await asyncio.wait({pulling}, timeout=LOOK_SECONDS))[0]:
                free = await self._free()
                if before is None or free is None:
                    continue
                # While it is unpacked, what was downloaded is there too.
                if before - free > self._settings.image_bytes + self._settings.unpacked_bytes:
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
        sizes = {}
        for name in self._brought.names():
            found = await self._docker.inspect_image(name)
            if found is None:
                self._brought.forget(name)
            else:
                sizes[name] = int(found.get("Size") or 0)
        kept = min(self._settings.kept_bytes, max(0, sum(sizes.values()) - needed_bytes))
        removed = 0
        # One that is still in use stays, and holds up no other.
        for name in self._brought.to_remove(sizes, kept, self._settings.kept_seconds):
            removed += await self._remove(name)
            if removed == most:
                break
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

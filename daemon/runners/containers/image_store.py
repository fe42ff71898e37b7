"""The engine's images: which of them a job may have, and the download of one that is not there yet."""

from __future__ import annotations

import logging
from typing import Any

from dcp.v1 import jobs_pb2

from daemon.runners import RunnerError
from daemon.runners.containers import images, spec
from daemon.runners.containers.docker import Docker, DockerRefusedError, EngineFacts, PullTooLargeError
from daemon.runners.containers.failures import of_registry, pull_failed
from daemon.runners.containers.settings import MIB, ContainerSettings

logger = logging.getLogger(__name__)


class ImageStore:
    """The images of one engine, as the provider's settings allow them."""

    def __init__(self, docker: Docker, engine: EngineFacts, settings: ContainerSettings) -> None:
        self._docker = docker
        self._engine = engine
        self._settings = settings

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
        """The image as the engine knows it, downloaded when it does not yet."""
        name = image.exact
        found = await self._docker.inspect_image(name)
        if found is None:
            try:
                found = await self._pulled(name)
            except PullTooLargeError:
                most = self._settings.image_bytes // MIB
                raise pull_failed(f"The image {image} is larger than this provider's {most} MiB.") from None
            except DockerRefusedError as error:
                logger.warning("an image could not be pulled image=%s error=%s", image, error.message)
                raise pull_failed(f"The image {image} could not be pulled: {of_registry(error)}.") from None
        if found is None:
            raise pull_failed(f"The image {image} was pulled and is not there.")
        return found

    async def _pulled(self, name: str) -> dict[str, Any] | None:
        """Downloads an image. Raises PullTooLargeError, DockerRefusedError."""
        most = self._settings.image_bytes
        await self._docker.pull(name, most)
        found = await self._docker.inspect_image(name)
        # Podman may not report beforehand how much it downloads.
        if found is not None and self._engine.is_podman and int(found.get("Size") or 0) > most:
            await self._docker.remove_image(name)
            raise PullTooLargeError(name)
        return found


def digest_of(image: images.Image, found: dict[str, Any]) -> str:
    """Its digest: as the registry names it, or, for an image only on this machine, the engine."""
    digests = [str(digest).partition("@") for digest in found.get("RepoDigests") or ()]
    of_repository = [digest for name, _, digest in digests if image.repository.endswith(name)]
    return image.digest or next(iter(of_repository), str(found["Id"]))

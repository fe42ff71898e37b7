"""Why a container could not do its job, in words for the renter.

The engine's own messages name the provider's folders and network: they go to the log, and what a renter may
know of them is chosen here.
"""

from __future__ import annotations

import logging
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from dcp.v1 import jobs_pb2

from common.images import Image
from daemon.runners import RunnerError
from daemon.runners.containers.docker import DockerRefusedError, DockerUnavailableError

logger = logging.getLogger(__name__)


@asynccontextmanager
async def reported() -> AsyncIterator[None]:
    """The engine's error, as a message for the renter."""
    try:
        yield
    except (DockerUnavailableError, DockerRefusedError) as error:
        logger.warning("the container engine failed error=%s", error)
        raise RunnerError(
            jobs_pb2.FAILURE_REASON_CONTAINER_ENGINE_UNAVAILABLE,
            "The provider's container engine does not answer as it should.",
        ) from None


def pull_failed(message: str) -> RunnerError:
    return RunnerError(jobs_pb2.FAILURE_REASON_IMAGE_PULL_FAILED, message)


def disk_limit(message: str) -> RunnerError:
    return RunnerError(jobs_pb2.FAILURE_REASON_DISK_LIMIT, message)


def of_registry(image: Image, error: DockerRefusedError) -> RunnerError:
    """Of the engine's words only what shows nothing of the provider's network.

    One text for all that a registry can answer, or not answer: the difference would tell a renter
    which hosts and ports answer there.
    """
    logger.warning("an image could not be pulled image=%s error=%s", image, error.message)
    if "no matching manifest" in error.message or "no image found in manifest list" in error.message:
        return other_architecture(f"The image {image} is not there for the processor of this provider.")
    return pull_failed(
        f"The image {image} could not be pulled: its registry has no such image, does not give it to "
        "everybody, or could not be reached."
    )


def other_architecture(message: str) -> RunnerError:
    """Another provider can run it."""
    return RunnerError(jobs_pb2.FAILURE_REASON_OTHER_ARCHITECTURE, message, gives_back=True)


def no_room(message: str) -> RunnerError:
    """This machine has no room for it; another may have."""
    return RunnerError(jobs_pb2.FAILURE_REASON_IMAGE_PULL_FAILED, message, gives_back=True)


def no_gpus() -> RunnerError:
    """NVIDIA's container toolkit is missing, or this Podman hands out none: not the renter's fault."""
    text = "The provider's container engine cannot hand out its GPUs."
    return RunnerError(jobs_pb2.FAILURE_REASON_CONTAINER_ENGINE_UNAVAILABLE, text)


# The command, and what its call says of it; of a path only the command's own is repeated.
_COMMAND = re.compile(
    r'exec: "(?P<command>[^"]{0,200})": (?:[a-z/]{1,20} (?P=command): )?'
    r"(?P<why>[a-zA-Z $]{1,100})(?![a-zA-Z $/])"
)


def start_failed(error: DockerRefusedError) -> RunnerError:
    """Of the engine's words only those about the command: others name the provider's folders."""
    logger.warning("a container could not be started error=%s", error.message)
    if "device driver" in error.message or "CDI device" in error.message:
        return no_gpus()
    about = _COMMAND.search(error.message)
    if about is not None:
        why = f'"{about["command"]}": {about["why"].strip()}'
    elif "no space left" in error.message:
        why = "there is no room for its files, such as those that its image has in VOLUME folders"
    else:
        why = "the engine refused its command or its image"
    return RunnerError(
        jobs_pb2.FAILURE_REASON_CONTAINER_START_FAILED, f"The container could not be started: {why}."
    )

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


def of_registry(error: DockerRefusedError) -> str:
    """What a renter may know of it: the engine's own message may reveal the provider's network."""
    message = error.message.lower()
    if any(word in message for word in ("not found", "unknown", "denied", "does not exist", "unauthorized")):
        return "its registry has no such image, or does not give it to everybody"
    return "its registry could not be reached"


def no_gpus() -> RunnerError:
    """NVIDIA's container toolkit is missing, or the engine is Podman: not the renter's fault."""
    text = "The provider's container engine cannot hand out its GPUs."
    return RunnerError(jobs_pb2.FAILURE_REASON_CONTAINER_ENGINE_UNAVAILABLE, text)


def start_failed(error: DockerRefusedError) -> RunnerError:
    """Of the engine's words only those about the command: others name the provider's folders."""
    logger.warning("a container could not be started error=%s", error.message)
    if "device driver" in error.message:
        return no_gpus()
    about = re.search(r'exec: ("[^"]{0,200}": [a-zA-Z $]{0,100})', error.message)
    why = about[1] if about is not None else "the engine refused its command or its image"
    return RunnerError(
        jobs_pb2.FAILURE_REASON_CONTAINER_START_FAILED, f"The container could not be started: {why}."
    )

"""The settings of jobs in containers, which `daemon.config.config` reads.

It must not know how they are run.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from common.images import MAX_PATTERN_CHARACTERS, MAX_PATTERNS
from daemon.config import engine_settings as config_engine
from daemon.config.engine_settings import Variable
from daemon.config.file import ConfigError
from daemon.runners.containers.minimums import MINIMUMS, numbers
from daemon.runners.containers.settings import ContainerSettings
from daemon.runners.input_files import InputRoom

VARIABLES = (
    Variable(
        "DCP_CONTAINER_IMAGES",
        "",
        "Images that jobs may run, separated by commas, such as pytorch/pytorch,ghcr.io/acme/*. "
        "* matches anything, a name without a tag for all its tags. Unset: no containers.",
    ),
    Variable("DCP_CONTAINER_SOCKET", "/var/run/docker.sock", "Socket of the Docker Engine, or of Podman."),
    Variable(
        "DCP_CONTAINER_NETWORK",
        "none",
        "The container engine's network that jobs use, such as bridge; none: jobs have no network.",
    ),
    Variable("DCP_CONTAINER_USER", "65534:65534", "User and group, by number, that jobs run as; never 0."),
    Variable(
        "DCP_CONTAINER_MEMORY_MB", "half of the machine's", "Memory of a job, including its /tmp and /output."
    ),
    Variable("DCP_CONTAINER_CPUS", "all", "Processors of a job, such as 2.5."),
    Variable("DCP_CONTAINER_PIDS", "512", "Most processes and threads that a job may have at once."),
    Variable("DCP_CONTAINER_TMP_MB", "512", "Size of a job's /tmp, which is in memory."),
    Variable("DCP_CONTAINER_OUTPUT_MB", "1024", "Size of a job's /output, which is in memory."),
    Variable("DCP_CONTAINER_IMAGE_MB", "20480", "Largest image, compressed, that is downloaded."),
    Variable(
        "DCP_CONTAINER_UNPACKED_MB",
        "3 times DCP_CONTAINER_IMAGE_MB",
        "Largest image, unpacked, that is downloaded.",
    ),
    Variable(
        "DCP_CONTAINER_FREE_MB",
        "5120",
        "What stays free on the container engine's disk: the download of an image stops before that.",
    ),
    Variable(
        "DCP_CONTAINER_KEEP_MB",
        "102400",
        "Most that the images which jobs brought take together; those unused for longest are removed.",
    ),
    Variable(
        "DCP_CONTAINER_KEEP_DAYS",
        "14",
        "Days that an image which a job brought is kept after its last use.",
    ),
    Variable(
        "DCP_INPUT_KEEP_MB",
        "32768",
        "Most that the inputs of jobs take together in DCP_STATE_DIR; those unused for longest are removed.",
    ),
    Variable(
        "DCP_INPUT_FREE_MB",
        "2048",
        "What stays free on the disk of DCP_STATE_DIR: a job whose inputs would take of that is given back.",
    ),
    Variable(
        "DCP_INPUT_UNPACKED_MB",
        "20480",
        "Most that the files in a job's /input take, which lie on the container engine's disk.",
    ),
    Variable(
        "DCP_CONTAINER_MIN_RUNC",
        MINIMUMS["runc"].version,
        "Oldest runc that may start the images of jobs; 0: any. Older ones let jobs out of their containers.",
    ),
    Variable(
        "DCP_CONTAINER_MIN_TOOLKIT",
        MINIMUMS["toolkit"].version,
        "Oldest NVIDIA Container Toolkit, if it is installed, with which the images of jobs are run; 0: any.",
    ),
)


def containers(settings: Mapping[str, str]) -> ContainerSettings:
    """What a job's container may have. Raises ConfigError."""
    default = ContainerSettings()
    half = config_engine.half_of_memory()
    image_bytes = config_engine.mebibytes(settings, "DCP_CONTAINER_IMAGE_MB", default.image_bytes)
    return ContainerSettings(
        images=_images(settings.get("DCP_CONTAINER_IMAGES", "")),
        network=_network(settings.get("DCP_CONTAINER_NETWORK", default.network)),
        user=_user(settings.get("DCP_CONTAINER_USER", default.user)),
        memory_bytes=config_engine.mebibytes(settings, "DCP_CONTAINER_MEMORY_MB", half),
        cpus=_cpus(settings.get("DCP_CONTAINER_CPUS")),
        pids=config_engine.count("DCP_CONTAINER_PIDS", settings.get("DCP_CONTAINER_PIDS", str(default.pids))),
        tmp_bytes=config_engine.mebibytes(settings, "DCP_CONTAINER_TMP_MB", default.tmp_bytes),
        output_bytes=config_engine.mebibytes(settings, "DCP_CONTAINER_OUTPUT_MB", default.output_bytes),
        unpacked_input_bytes=config_engine.mebibytes(
            settings, "DCP_INPUT_UNPACKED_MB", default.unpacked_input_bytes
        ),
        image_bytes=image_bytes,
        unpacked_bytes=config_engine.mebibytes(settings, "DCP_CONTAINER_UNPACKED_MB", 3 * image_bytes),
        free_bytes=config_engine.mebibytes(settings, "DCP_CONTAINER_FREE_MB", default.free_bytes),
        kept_bytes=config_engine.mebibytes(settings, "DCP_CONTAINER_KEEP_MB", default.kept_bytes),
        kept_seconds=_days("DCP_CONTAINER_KEEP_DAYS", settings, default.kept_seconds),
        min_runc=_version("DCP_CONTAINER_MIN_RUNC", settings, default.min_runc),
        min_toolkit=_version("DCP_CONTAINER_MIN_TOOLKIT", settings, default.min_toolkit),
    )


def input_room(settings: Mapping[str, str]) -> InputRoom:
    """What of the disk the inputs of jobs may take. Raises ConfigError."""
    default = InputRoom()
    return InputRoom(
        kept_bytes=config_engine.mebibytes(settings, "DCP_INPUT_KEEP_MB", default.kept_bytes),
        free_bytes=config_engine.mebibytes(settings, "DCP_INPUT_FREE_MB", default.free_bytes),
    )


def _images(text: str) -> tuple[str, ...]:
    patterns = tuple(item.strip() for item in text.split(",") if item.strip())
    if len(patterns) > MAX_PATTERNS or any(len(pattern) > MAX_PATTERN_CHARACTERS for pattern in patterns):
        raise ConfigError(
            f"DCP_CONTAINER_IMAGES may have {MAX_PATTERNS} patterns of {MAX_PATTERN_CHARACTERS} characters; "
            "join some with *, such as ghcr.io/acme/*"
        )
    return patterns


def _days(name: str, settings: Mapping[str, str], default: float) -> float:
    text = settings.get(name)
    if text is None:
        return default
    if not text.isascii() or not text.isdecimal() or len(text) > 5:
        raise ConfigError(f"{name} must be a whole number of days from 0 to 99999, not {text!r}")
    return int(text) * 86400.0


def _version(name: str, settings: Mapping[str, str], default: str) -> str:
    text = settings.get(name, default)
    if not numbers(text):
        raise ConfigError(f"{name} must be a version such as {default}, or 0 for any, not {text!r}")
    return text


def _network(text: str) -> str:
    # These three would let a job into the machine's own network or another container's.
    if text == "host" or text.startswith(("container:", "ns:")):
        raise ConfigError(f"DCP_CONTAINER_NETWORK must be none, bridge or a network of its own, not {text!r}")
    return text


def _user(text: str) -> str:
    user, _, group = text.partition(":")
    if not all(part.isascii() and part.isdigit() and int(part) > 0 for part in (user, group)):
        raise ConfigError(f"DCP_CONTAINER_USER must be two numbers above 0, as 65534:65534, not {text!r}")
    return text


def _cpus(text: str | None) -> float:
    most = os.cpu_count() or 1
    if text is None:
        return float(most)
    try:
        cpus = float(text)
    except ValueError:
        cpus = 0.0
    if not 0.01 <= cpus <= most:
        raise ConfigError(f"DCP_CONTAINER_CPUS must be from 0.01 to this machine's {most}, not {text!r}")
    return cpus

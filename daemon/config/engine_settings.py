"""Owns how the settings of model servers in containers are read; `daemon.config.config` has all the others.

It must not know how anything that it configures works.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import psutil

from common import images
from daemon.config.file import ConfigError
from daemon.engines.container_spec import DEFAULT_ARGUMENTS, ServerSettings
from daemon.runners.containers.settings import MIB


class Variable(NamedTuple):
    """One environment variable of this program, as help and docs/reference print it."""

    name: str
    default: str
    meaning: str


# What a model server's process may see of this program's environment: where libraries lie, which GPUs the
# owner gives to it, how many threads it uses. Anything else may be secret.
_SEEN = ("PATH", "HOME", "TMPDIR", "LANG", "LD_LIBRARY_PATH", "PYTHONPATH", "PYTHONHOME")
_SEEN_PREFIXES = (
    "LC_",
    "CUDA_",
    "NVIDIA_",
    "GGML_",
    "OMP_",
    "GOMP_",
    "HIP_",
    "HSA_",
    "ROCR_",
    "VK_",
    "OCL_ICD_",
    "POCL_",
    "PYOPENCL_",
)


def environment(environ: Mapping[str, str]) -> dict[str, str]:
    """What the process of a model server gets of an environment: no key and no other setting of DCP."""
    return {name: text for name, text in environ.items() if name in _SEEN or name.startswith(_SEEN_PREFIXES)}


@dataclass(frozen=True)
class ModelFile:
    """A model to serve: its public name and its file, or the folder of its files."""

    name: str
    path: Path
    embeds: bool = False
    """Whether it makes embeddings, and no chats."""


VARIABLES = (
    Variable(
        "DCP_ENGINE_MODELS",
        "",
        "Models that a server in a container serves: public/name=FILE-OR-FOLDER, separated by commas.",
    ),
    Variable(
        "DCP_ENGINE_IMAGE",
        "",
        "The image of that server, such as vllm/vllm-openai:TAG or NAME@sha256:....",
    ),
    Variable(
        "DCP_ENGINE_ARGS",
        DEFAULT_ARGUMENTS,
        "Its arguments; {model}, {name}, {socket} and {slots} are filled in.",
    ),
    Variable(
        "DCP_ENGINE_MEMORY_MB",
        "half of the machine's",
        "Memory of each such server, including its /tmp and /dev/shm.",
    ),
    Variable("DCP_ENGINE_SHM_MB", "1024", "Size of its /dev/shm, which is in memory."),
    Variable(
        "DCP_ENGINE_MODEL_MB",
        "its files and a fifth",
        "Memory that such a model takes while it is loaded, of the machine or the GPUs, whichever has less.",
    ),
)


def models(settings: Mapping[str, str]) -> tuple[ModelFile, ...]:
    """The models that are served in containers. Raises ConfigError."""
    found = named_paths("DCP_ENGINE_MODELS", settings.get("DCP_ENGINE_MODELS", ""), "FILE-OR-FOLDER")
    if found and "DCP_ENGINE_IMAGE" not in settings:
        raise ConfigError("DCP_ENGINE_MODELS needs an image that serves them: set DCP_ENGINE_IMAGE")
    return found


def server(settings: Mapping[str, str]) -> ServerSettings:
    """The server that they are served by. Raises ConfigError."""
    default = ServerSettings()
    model = settings.get("DCP_ENGINE_MODEL_MB")
    return ServerSettings(
        image=_image(settings.get("DCP_ENGINE_IMAGE")),
        arguments=_arguments(settings.get("DCP_ENGINE_ARGS", DEFAULT_ARGUMENTS)),
        memory_bytes=mebibytes(settings, "DCP_ENGINE_MEMORY_MB", half_of_memory()),
        shm_bytes=mebibytes(settings, "DCP_ENGINE_SHM_MB", default.shm_bytes),
        model_mib=None if model is None else count("DCP_ENGINE_MODEL_MB", model),
    )


def named_paths(variable: str, text: str, what: str) -> tuple[ModelFile, ...]:
    """Models with their paths, as `variable` lists them. Raises ConfigError."""
    found = tuple(_named_path(variable, item.strip(), what) for item in text.split(",") if item.strip())
    if len({model.name for model in found}) != len(found):
        raise ConfigError(f"{variable} names a model twice; give each one file")
    return found


def _named_path(variable: str, item: str, what: str) -> ModelFile:
    name, _, path = item.partition("=")
    if not name or not path:
        raise ConfigError(f"{variable} must be public/name={what}, separated by commas; {item!r} is not")
    return ModelFile(name.strip(), Path(path.strip()).absolute())


def _image(text: str | None) -> str:
    if text is None:
        return ""
    try:
        images.parse(text)
    except images.ImageNameError:
        raise ConfigError(
            f"DCP_ENGINE_IMAGE must be an image, such as vllm/vllm-openai:TAG, not {text!r}"
        ) from None
    return text


def _arguments(text: str) -> tuple[str, ...]:
    try:
        arguments = tuple(shlex.split(text))
    except ValueError:
        raise ConfigError(f"DCP_ENGINE_ARGS has a quotation without an end: {text!r}") from None
    if not any("{socket}" in argument for argument in arguments):
        raise ConfigError(
            "DCP_ENGINE_ARGS must say {socket}, the Unix socket that the server is to listen on: "
            "it has no network"
        )
    return arguments


def half_of_memory() -> int:
    """Half of this machine's, in bytes."""
    return psutil.virtual_memory().total // 2


def mebibytes(settings: Mapping[str, str], name: str, default: int) -> int:
    """A size in bytes, which is set in MiB. Raises ConfigError."""
    return count(name, settings[name]) * MIB if name in settings else default


def count(name: str, text: str) -> int:
    """A whole number of what there is at least 16 of. Raises ConfigError."""
    if not text.isascii() or not text.isdigit() or not 16 <= int(text) <= 10_000_000:
        raise ConfigError(f"{name} must be a whole number from 16 to 10,000,000, not {text!r}")
    return int(text)

"""Owns what the container engine is asked to create for a model server: its container and its keeper's.

Pure. What none of our containers may have is withheld by `daemon.runners.containers.spec`.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from daemon.runners.containers import spec
from daemon.runners.containers.settings import MIB

if TYPE_CHECKING:
    from daemon.runners.containers.docker import EngineFacts

OWNER_LABEL = "dcp.engine"
"""Not the label of jobs' containers, which their runner would sweep away."""
SERVER_LABEL = "dcp.server"
SOCKET_FOLDER = "/run/dcp"
SOCKET = "engine.sock"
_MODEL = "/model"
_TMP = "/tmp"  # noqa: S108 - the container's
_PIDS = 4096

DEFAULT_ARGUMENTS = "--model {model} --served-model-name {name} --uds {socket}"


@dataclass(frozen=True)
class ServerSettings:
    """What image serves, and with what of the machine."""

    image: str = ""
    """The image of the model server, by its full or short name."""
    arguments: tuple[str, ...] = tuple(DEFAULT_ARGUMENTS.split())
    """What its entrypoint is given; `{model}`, `{name}`, `{socket}` and `{slots}` are filled in."""
    memory_bytes: int = 4096 * MIB
    """All of its memory, /tmp and /dev/shm included; it has no swap."""
    shm_bytes: int = 1024 * MIB
    """The size of its /dev/shm."""
    model_mib: int | None = None
    """What each model takes of the shorter memory, the machine's or the GPUs'; None: by its files."""


@dataclass(frozen=True)
class ModelServerSpec:
    """One model, and how it is to be served."""

    name: str
    """Its public name."""
    path: Path
    """Its file, or the folder of its files."""
    settings: ServerSettings
    user: str
    """Who the server runs as: user and group, by number."""
    slots: int
    image_bytes: int
    """The most, compressed, that is downloaded of the image."""

    @property
    def model(self) -> str:
        """Where the server finds the model."""
        return _MODEL if self.path.is_dir() else f"{_MODEL}/{self.path.name}"

    def command(self) -> list[str]:
        """The arguments, with what they leave open filled in."""
        filled = {
            "{model}": self.model,
            "{name}": self.name,
            "{socket}": f"{SOCKET_FOLDER}/{SOCKET}",
            "{slots}": str(self.slots),
        }
        return [_filled(argument, filled) for argument in self.settings.arguments]


@dataclass(frozen=True)
class ServerNames:
    """What the parts of one start are called."""

    token: str
    owner: str

    @classmethod
    def new(cls, owner: str) -> ServerNames:
        """Names that nothing has yet."""
        return cls(secrets.token_hex(8), owner)

    @property
    def server(self) -> str:
        """The container of the model server."""
        return f"dcp-engine-{self.token}"

    @property
    def keeper(self) -> str:
        """The container that it ends with."""
        return f"dcp-engine-{self.token}-keeper"

    def of_image(self, number: int) -> str:
        """The volume of one of the folders that the image declares to be volumes."""
        return f"dcp-engine-{self.token}-image{number}"

    @property
    def labels(self) -> dict[str, str]:
        """What all of them are labelled with."""
        return {OWNER_LABEL: self.owner, SERVER_LABEL: self.token}

    @property
    def server_label(self) -> str:
        """The label by which all parts of this start are found."""
        return f"{SERVER_LABEL}={self.token}"


def token_of_volume(name: str) -> str:
    """The token in the name of a volume."""
    return name.removeprefix("dcp-engine-").partition("-")[0]


def keeper_config(names: ServerNames, image_volumes: int) -> dict[str, Any]:
    """The keeper's container, whose standard input ends when whoever holds it lets go."""
    mounts = spec.kept_mounts(names.of_image, image_volumes)
    return spec.keeper_container(names.labels, mounts) | {"OpenStdin": True, "StdinOnce": True}


def image_folders(order: ModelServerSpec, image: dict[str, Any]) -> list[str]:
    """The folders that the image declares to be volumes, without the server's own. Raises RunnerError."""
    return spec.image_folders(image, (_TMP, _MODEL, order.model, SOCKET_FOLDER))


def volumes_of(order: ModelServerSpec, names: ServerNames, image_volumes: int) -> dict[str, str]:
    """The volumes that the keeper holds for the image's folders, each with how it is mounted."""
    size = _volume_bytes(order) // max(1, image_volumes)
    options = spec.volume_options(order.user, size, is_program_allowed=True)
    return {names.of_image(number): options for number in range(image_volumes)}


def _volume_bytes(order: ModelServerSpec) -> int:
    return order.settings.memory_bytes // 2


def server_config(
    order: ModelServerSpec,
    names: ServerNames,
    folder: Path,
    image: dict[str, Any],
    gpus: Sequence[str],
    engine: EngineFacts,
) -> dict[str, Any]:
    """The model server's container; `folder` is where it makes its socket."""
    settings = order.settings
    of_image, tmpfs = spec.image_mounts(
        names.of_image, image_folders(order, image), _volume_bytes(order), engine
    )
    tmp = f"size={settings.memory_bytes // 2},mode=1777,nosuid,nodev"
    return {
        "Image": str(image["Id"]),
        "Cmd": order.command(),
        "User": order.user,
        "Env": [f"{name}={value}" for name, value in _env(gpus).items()],
        "Hostname": "dcp-engine",
        "Labels": names.labels,
        "Healthcheck": {"Test": ["NONE"]},
        "HostConfig": {
            **spec.withheld(),
            "ReadonlyRootfs": True,
            "NetworkMode": "none",
            "PidMode": f"container:{names.keeper}",
            "Memory": settings.memory_bytes,
            "MemorySwap": settings.memory_bytes,
            "ShmSize": settings.shm_bytes,
            "PidsLimit": _PIDS,
            "OomScoreAdj": 500,
            "Ulimits": spec.ulimits(),
            "Mounts": [
                _bind(order.path, order.model, True),
                _bind(folder, SOCKET_FOLDER, False),
                *of_image,
            ],
            # Kernels that a model server compiles lie there and are loaded from there.
            "Tmpfs": {_TMP: f"{tmp},exec", **tmpfs},
            # Model servers log prompts.
            "LogConfig": {"Type": "none"},
            "DeviceRequests": spec.gpu_requests(gpus, engine),
        },
    }


def _env(gpus: Sequence[str]) -> dict[str, str]:
    return {
        "HOME": _TMP,
        # A user given only by number has no name, and some libraries ask for one.
        "USER": "dcp",
        "LOGNAME": "dcp",
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_HOST_IP": "127.0.0.1",
        "NVIDIA_VISIBLE_DEVICES": ",".join(gpus) or "void",
    }


def _bind(source: Path, target: str, is_read_only: bool) -> dict[str, Any]:
    return {
        "Type": "bind",
        "Source": str(source),
        "Target": target,
        "ReadOnly": is_read_only,
        "BindOptions": {"Propagation": "rprivate"},
    }


def _filled(text: str, filled: dict[str, str]) -> str:
    # Not by str.format: arguments may be JSON, in which braces are literal.
    for placeholder, value in filled.items():
        text = text.replace(placeholder, value)
    return text

"""Owns what the provider grants to a model server in a container, wherever that is configured."""

from __future__ import annotations

from dataclasses import dataclass

from daemon.runners.containers.settings import MIB

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

"""Owns what the provider grants to a job's container. It must not know where that is configured."""

from __future__ import annotations

from dataclasses import dataclass

from daemon.runners.containers.minimums import MINIMUMS

MIB = 1024 * 1024


@dataclass(frozen=True)
class ContainerSettings:
    """What a job's container may have. Nothing of the machine that is not named here."""

    images: tuple[str, ...] = ()
    """Patterns of the images that may run; empty: none."""
    network: str = "none"
    """The engine's network that a job is on; `none`: it has only its own loopback."""
    user: str = "65534:65534"
    """Who it runs as: user and group, by number."""
    memory_bytes: int = 4096 * MIB
    """All of its memory, `/tmp` and `/output` included; it has no swap."""
    cpus: float = 1.0
    """How many processors' time it gets."""
    pids: int = 512
    """How many processes and threads it may have at once."""
    tmp_bytes: int = 512 * MIB
    """The size of `/tmp`, and of all volumes together that its image declares."""
    output_bytes: int = 1024 * MIB
    """The size of `/output`."""
    unpacked_input_bytes: int = 20480 * MIB
    """The most that the files in `/input` take, which lie on the container engine's disk."""
    image_bytes: int = 20480 * MIB
    """The most, compressed, that is downloaded of an image; with Podman also what it takes unpacked."""
    unpacked_bytes: int = 3 * 20480 * MIB
    """The most that an image may take on the disk."""
    free_bytes: int = 5120 * MIB
    """What stays free on the container engine's disk: a download stops before it takes of that."""
    kept_bytes: int = 102400 * MIB
    """The most that the images which jobs brought take together; the oldest are removed first."""
    kept_seconds: float = 14 * 86400.0
    """How long an image that a job brought is kept after its last use."""
    min_runc: str = MINIMUMS["runc"].version
    """The oldest runc that may start strangers' images; empty: any."""
    min_toolkit: str = MINIMUMS["toolkit"].version
    """The oldest NVIDIA Container Toolkit that may be there for strangers' images; empty: any."""

    @property
    def minimums(self) -> dict[str, str]:
        """The oldest versions that may start strangers' images, by the names of MINIMUMS."""
        return {"runc": self.min_runc, "toolkit": self.min_toolkit}

    @property
    def user_id(self) -> int:
        """The user's number."""
        return int(self.user.partition(":")[0])

    @property
    def group_id(self) -> int:
        """The group's number."""
        return int(self.user.partition(":")[2] or self.user_id)

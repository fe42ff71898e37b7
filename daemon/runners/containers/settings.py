"""Owns what the provider grants to a job's container. It must not know where that is configured."""

from __future__ import annotations

from dataclasses import dataclass

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
    """The size of `/tmp`, and of each volume that its image declares."""
    output_bytes: int = 1024 * MIB
    """The size of `/output`."""
    image_bytes: int = 20480 * MIB
    """The most, compressed, that is downloaded of an image; with Podman also what it takes unpacked."""

    @property
    def user_id(self) -> int:
        """The user's number."""
        return int(self.user.partition(":")[0])

    @property
    def group_id(self) -> int:
        """The group's number."""
        return int(self.user.partition(":")[2] or self.user_id)

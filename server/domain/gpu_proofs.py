"""Proofs of GPUs: what a machine must fill its memory with, and what its answers show. Pure.

The exchange and the computation are described in protos/dcp/v1/gpu_proofs.proto. Filling takes minutes and
reading it again less than a second, so an answer in time shows that all of it was kept. The server computes
only a few chunks itself, which it draws after the daemon has committed itself to all of them: a machine that
kept nine tenths of a GPU gets through in one of twelve tries, one with four fifths in one of 200.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from enum import StrEnum
from random import Random

from server.domain.canaries import DAY_MS, is_too_slow
from server.domain.gpu_models import canonical
from server.domain.gpus import GpuReport

CELL_BYTES, DIGEST_BYTES, HASH_BYTES = 32, 16, 32
MIB = 1 << 20
# When a machine may prove the same GPUs again, after a proof that passed and one that did not.
AGAIN_MS = {True: 7 * DAY_MS, False: 6 * 3600 * 1000}
# How long a proof counts.
VALID_MS = 30 * DAY_MS


class ProofOutcome(StrEnum):
    PASSED = "passed"
    WRONG = "wrong"
    LATE = "late"
    SLOW = "slow"


@dataclass(frozen=True, slots=True)
class Scale:
    """How much work a proof is."""

    rounds: int = 256
    """Iterations for a cell: an H100 needs about a minute to fill 80 GiB, a small GPU two."""
    chunk_cells: int = 256
    group_digests: int = 4096
    samples: int = 24
    """Of each GPU. A sample costs the server about 20 ms of CPU."""
    least_share: float = 0.8
    """Of the memory that is reported: the driver and the screen need the rest."""

    @property
    def chunk_bytes(self) -> int:
        """The memory that a chunk takes."""
        return self.chunk_cells * CELL_BYTES


@dataclass(frozen=True, slots=True)
class GpuProof:
    """The newest result of a provider."""

    outcome: ProofOutcome
    uuids: frozenset[str]
    gpu_model: str
    mib: int
    """What was filled, of all GPUs."""
    mib_per_second: float
    """How fast one GPU was filled."""
    decided_ms: int


@dataclass(frozen=True, slots=True)
class Reported:
    """The GPUs of a machine that can be proved, by their UUIDs."""

    mib: dict[str, int]
    model: str


@dataclass(frozen=True, slots=True)
class Obstacle:
    """Why no proof can begin now."""

    message: str
    again_ms: int


def reported(report: GpuReport | None) -> Reported | None:
    """The GPUs of a report; None if there are none, or one of them has no memory of its own or no UUID."""
    gpus = report.all_gpus if report is not None else ()
    mib = {gpu.uuid: gpu.total_mib or 0 for gpu in gpus}
    if not gpus or len(mib) < len(gpus) or not all(mib) or not all(mib.values()):
        return None
    if any(gpu.vram_is_shared for gpu in gpus):
        return None
    return Reported(mib, canonical(gpus[0].gpu_name or ""))


def obstacle(
    machine: Reported | None, offered: dict[str, int], newest: GpuProof | None, scale: Scale, now_ms: int
) -> Obstacle | None:
    """Why a machine with these GPUs does not prove them now; None: it does.

    ``offered``: how much memory of each can be filled, in MiB.
    """
    hour = DAY_MS // 24
    if machine is None:
        return Obstacle("this machine has reported no GPU with a UUID and memory of its own", hour // 6)
    if newest is not None and newest.uuids == machine.mib.keys():
        again_ms = newest.decided_ms + AGAIN_MS[newest.outcome is ProofOutcome.PASSED]
        if now_ms < again_ms:
            return Obstacle(f"its GPUs were proved lately: {newest.outcome}", again_ms - now_ms)
    if offered.keys() != machine.mib.keys():
        return Obstacle("the GPUs are not those that the machine reported last", hour // 60)
    for uuid, total in machine.mib.items():
        needed = int(total * scale.least_share)
        if offered[uuid] < needed:
            text = f"{needed} MiB of GPU {uuid} must be free, and {offered[uuid]} are"
            return Obstacle(text, hour)
    return None


def chunks(offered: Sequence[int], machine: Sequence[int], scale: Scale) -> list[int]:
    """How many chunks each GPU is filled with, by what it offers and what it has, in MiB."""
    return [
        max(1, min(free, total) * MIB // scale.chunk_bytes)
        for free, total in zip(offered, machine, strict=True)
    ]


def groups(count: int, scale: Scale) -> int:
    """The number of groups of so many chunks."""
    return -(-count // scale.group_digests)


def digests_in(group: int, count: int, scale: Scale) -> int:
    """The number of digests in a group."""
    return min(scale.group_digests, count - group * scale.group_digests)


def seconds_to_read(counts: Sequence[int], scale: Scale) -> float:
    """How long a machine may take from the nonce to its last hash: enough over any line, and not to compute
    more than a twentieth anew."""
    gib = sum(counts) * scale.chunk_bytes / (1 << 30)
    return 2.0 + 0.02 * gib


def draw(counts: Sequence[int], scale: Scale, chance: Random) -> list[tuple[int, int]]:
    """The samples: which chunk of which GPU."""
    return [
        (gpu, chunk)
        for gpu, count in enumerate(counts)
        for chunk in sorted(chance.sample(range(count), min(scale.samples, count)))
    ]


def digest(seed: bytes, nonce: bytes, gpu: int, chunk: int, scale: Scale) -> bytes:
    """The digest of a chunk."""
    first = chunk * scale.chunk_cells
    salt = gpu.to_bytes(4, "big")
    hashed = hashlib.sha256(nonce)
    for cell in range(first, first + scale.chunk_cells):
        hashed.update(
            hashlib.pbkdf2_hmac("sha256", seed, salt + cell.to_bytes(8, "big"), scale.rounds, CELL_BYTES)
        )
    return hashed.digest()[:DIGEST_BYTES]


def is_right(digests: bytes, hashes: bytes, place: int, expected: Callable[[], bytes], group: int) -> bool:
    """Whether the digests are those that a hash was given for, and the one at a place is as expected."""
    committed = hashes[group * HASH_BYTES : (group + 1) * HASH_BYTES]
    if hashlib.sha256(digests).digest() != committed:
        return False
    return digests[place * DIGEST_BYTES : (place + 1) * DIGEST_BYTES] == expected()


def by_speed(own: float, others: Sequence[float]) -> ProofOutcome:
    """Whether a GPU was filled about as fast as others of its model."""
    return ProofOutcome.SLOW if is_too_slow(own, others) else ProofOutcome.PASSED


def proves(newest: GpuProof | None, uuids: Collection[str], now_ms: int) -> bool | None:
    """Whether the newest result shows these GPUs; None: it tells nothing about them, or not any more."""
    if newest is None or not newest.uuids.issuperset(uuids) or now_ms >= newest.decided_ms + VALID_MS:
        return None
    return {ProofOutcome.PASSED: True, ProofOutcome.LATE: None}.get(newest.outcome, False)

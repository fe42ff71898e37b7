"""Lets machines prove their GPUs: sets the task, clocks the answer, and computes some of it itself."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from server.clock import Clock, ms
from server.domain import gpu_proofs as rules
from server.domain.errors import DomainError, Reason
from server.domain.gpu_proofs import (
    AGAIN_MS,
    DIGEST_BYTES,
    HASH_BYTES,
    VALID_MS,
    GpuProof,
    Obstacle,
    ProofOutcome,
    Reported,
    Scale,
    obstacle,
    reported,
)
from server.services.fleet import Fleet
from server.store import gpu_proofs, providers
from server.store.database import Database

log = logging.getLogger(__name__)

T = TypeVar("T")

# Machines that fill or read at once, each with at most 8 MiB of hashes; samples that are computed at once.
AT_ONCE, COMPUTED_AT_ONCE = 64, 2
BUSY_MS = 5 * 60_000
FILL_SECONDS, STEP_SECONDS = 900.0, 60.0


@dataclass(frozen=True)
class Task:
    """What a machine must do."""

    seed: bytes
    scale: Scale
    chunks: list[int]


class Machine:
    """The machine at the other end of a stream."""

    def __init__(
        self,
        *,
        fill: Callable[[Task], Awaitable[None]],
        read: Callable[[bytes, int], Awaitable[list[bytes]]],
        show: Callable[[Sequence[tuple[int, int]]], AsyncIterator[bytes]],
    ) -> None:
        """``fill`` returns when the GPUs are filled, ``read`` with the hashes of each of so many for a nonce.

        ``show`` gets the GPU and the group of each sample, and yields their digests.
        """
        self.fill, self.read, self.show = fill, read, show


class GpuProofs:
    """The proofs of all providers."""

    def __init__(self, database: Database, fleet: Fleet, clock: Clock, scale: Scale) -> None:
        self._database = database
        self._fleet = fleet
        self._clock = clock
        self.scale = scale
        self._chance = secrets.SystemRandom()
        self._running: set[int] = set()
        self._computing = asyncio.Semaphore(COMPUTED_AT_ONCE)

    async def prove(
        self, provider_id: int, offered: Mapping[str, int], machine: Machine
    ) -> Obstacle | tuple[ProofOutcome, int]:
        """Carries out a proof; returns why there is none now, or what it showed, and when it may be repeated.

        ``offered``: how much memory of each GPU can be filled, in MiB, in the machine's order.
        """
        if provider_id in self._running or len(self._running) >= AT_ONCE:
            return Obstacle("too many proofs are under way", BUSY_MS)
        self._running.add(provider_id)
        try:
            found, known = await self._database.read(lambda: _known(provider_id))
            refused = obstacle(found, dict(offered), known, self.scale, ms(self._clock))
            if refused is not None:
                return refused
            assert found is not None, "a machine without a report has an obstacle"
            return await self._prove(provider_id, found, offered, machine)
        finally:
            self._running.discard(provider_id)

    async def _prove(
        self, provider_id: int, found: Reported, offered: Mapping[str, int], machine: Machine
    ) -> tuple[ProofOutcome, int]:
        counts = rules.chunks(list(offered.values()), [found.mib[uuid] for uuid in offered], self.scale)
        task = Task(secrets.token_bytes(32), self.scale, counts)
        began_ms = ms(self._clock)
        await _within(FILL_SECONDS, machine.fill(task))
        fill_ms = max(1, ms(self._clock) - began_ms)
        mib = [count * self.scale.chunk_bytes / rules.MIB for count in counts]
        outcome = await self._examine(task, machine)
        proof = GpuProof(
            outcome,
            frozenset(offered),
            found.model,
            int(sum(mib)),
            max(mib) * 1000 / fill_ms,
            ms(self._clock),
        )
        stored = await self._database.run(lambda: _record(provider_id, proof))
        facts = (provider_id, stored.outcome, stored.mib, stored.mib_per_second)
        log.info("proved GPUs provider_id=%d outcome=%s mib=%d mib_per_second=%.1f", *facts)
        if judged := self._fleet.judged.get(provider_id):
            judged.again_ms = min(judged.again_ms, ms(self._clock))
        self._fleet.announce(provider_id)
        return stored.outcome, AGAIN_MS[stored.outcome is ProofOutcome.PASSED]

    async def _examine(self, task: Task, machine: Machine) -> ProofOutcome:
        """What the machine shows of the memory that it filled."""
        nonce = secrets.token_bytes(32)
        began_ms = ms(self._clock)
        hashes = await _within(STEP_SECONDS, machine.read(nonce, len(task.chunks)))
        if ms(self._clock) - began_ms > 1000 * rules.seconds_to_read(task.chunks, self.scale):
            return ProofOutcome.LATE
        for count, each in zip(task.chunks, hashes, strict=True):
            if len(each) != rules.groups(count, self.scale) * HASH_BYTES:
                raise DomainError(
                    Reason.PROTOCOL_VIOLATION, "a GPU must have one hash of 32 bytes for each of its groups"
                )
        return await self._compare(task, nonce, hashes, machine)

    async def _compare(
        self, task: Task, nonce: bytes, hashes: Sequence[bytes], machine: Machine
    ) -> ProofOutcome:
        samples = rules.draw(task.chunks, self.scale, self._chance)
        places = [(gpu, *divmod(chunk, self.scale.group_digests)) for gpu, chunk in samples]
        shown = machine.show([(gpu, group) for gpu, group, _ in places])
        outcome = ProofOutcome.PASSED
        for (gpu, chunk), (_, group, place) in zip(samples, places, strict=True):
            digests = await _within(STEP_SECONDS, anext(shown))
            if len(digests) != rules.digests_in(group, task.chunks[gpu], self.scale) * DIGEST_BYTES:
                raise DomainError(
                    Reason.PROTOCOL_VIOLATION, "a sample needs all digests of its group, 16 bytes each"
                )
            if outcome is ProofOutcome.PASSED:
                sample = gpu, chunk, group, place
                async with self._computing:
                    is_right = await asyncio.to_thread(_is_right, task, nonce, digests, hashes[gpu], sample)
                outcome = ProofOutcome.PASSED if is_right else ProofOutcome.WRONG
        return outcome


def _is_right(
    task: Task, nonce: bytes, digests: bytes, hashes: bytes, sample: tuple[int, int, int, int]
) -> bool:
    gpu, chunk, group, place = sample
    return rules.is_right(
        digests, hashes, place, lambda: rules.digest(task.seed, nonce, gpu, chunk, task.scale), group
    )


def _known(provider_id: int) -> tuple[Reported | None, GpuProof | None]:
    """What a provider reported, and its newest proof. Inside a transaction."""
    row = providers.get(provider_id)
    assert row is not None, "a key belongs to a provider that does not exist"
    return reported(row.report), gpu_proofs.newest(provider_id)


def _record(provider_id: int, proof: GpuProof) -> GpuProof:
    """Stores a proof, after its speed was compared. Inside a transaction."""
    if proof.outcome is ProofOutcome.PASSED:
        others = gpu_proofs.speeds(proof.gpu_model, provider_id, proof.decided_ms - VALID_MS)
        proof = replace(proof, outcome=rules.by_speed(proof.mib_per_second, others))
    gpu_proofs.replace(provider_id, proof)
    return proof


async def _within(seconds: float, step: Awaitable[T]) -> T:
    """Waits for a step of the machine. Raises PROTOCOL_VIOLATION if it takes too long."""
    try:
        async with asyncio.timeout(seconds):
            return await step
    except TimeoutError:
        text = f"the next message must come within {seconds:.0f} s"
        raise DomainError(Reason.PROTOCOL_VIOLATION, text) from None

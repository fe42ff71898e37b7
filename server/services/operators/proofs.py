"""The proof of the ledger for operators, and the duty that keeps it short: checkpoints."""

from __future__ import annotations

import asyncio
import logging
from functools import partial

from server.clock import Clock, ms
from server.domain.proof import Proof
from server.domain.reads import Purpose, reading_for
from server.store import proof
from server.store.database import Database

log = logging.getLogger(__name__)

# A checkpoint covers this many transfers; a proof reads fewer than about twice as many.
CHECKPOINT_TRANSFERS = 50_000


class Proofs:
    """Proves the ledger from its newest checkpoint."""

    def __init__(
        self, database: Database, clock: Clock, checkpoint_transfers: int = CHECKPOINT_TRANSFERS
    ) -> None:
        self._database = database
        self._clock = clock
        self._checkpoint_transfers = checkpoint_transfers
        self._recent: tuple[float, Proof] | None = None
        self._lock = asyncio.Lock()

    async def prove(self) -> Proof:
        """Proves every account within one snapshot."""
        return await self._database.read(proof.prove)

    async def prove_changes(self) -> Proof:
        """Proves what changed since the newest checkpoint within one snapshot."""
        return await self._database.read(proof.prove_changes)

    async def recent(self, max_age_seconds: float) -> Proof:
        """The newest proof of the changes, or another one if it is older: the watchers of money share it."""
        async with self._lock:
            now = self._clock.now()
            if self._recent is None or now - self._recent[0] >= max_age_seconds:
                self._recent = now, await self.prove_changes()
            return self._recent[1]

    @property
    def newest(self) -> Proof | None:
        """The newest proof that the watchers of money made; None before the first."""
        return self._recent[1] if self._recent is not None else None

    async def tick(self) -> None:
        """Makes the checkpoints that are due, but only of a ledger that proves clean."""
        with reading_for(Purpose("checkpoints", may_grow=True)):
            await self._make_checkpoints()

    async def _make_checkpoints(self) -> None:
        if await self._database.read(proof.transfers_since_checkpoint) < self._checkpoint_transfers:
            return
        through = await self._database.run(proof.settled_id)
        found = await self.prove()
        if not found.is_balanced:
            log.error(
                "made no checkpoint: the ledger does not balance discrepancies=%d; "
                "see /api/admin/ledger/proof?all_accounts=true",
                len(found.discrepancies),
            )
            return
        due = partial(proof.next_checkpoint, through, self._checkpoint_transfers)
        while (made := await self._database.read(due)) is not None:
            await self._database.run(partial(proof.add_checkpoint, made, ms(self._clock)))
            log.info("made a checkpoint id=%d transfers=%d", made.id, made.transfers)

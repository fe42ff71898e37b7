"""The proof of the ledger for operators, and the duty that keeps it short: checkpoints."""

from __future__ import annotations

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

    async def prove(self) -> Proof:
        """Proves every account within one snapshot."""
        return await self._database.read(proof.prove)

    async def prove_changes(self) -> Proof:
        """Proves what changed since the newest checkpoint within one snapshot."""
        return await self._database.read(proof.prove_changes)

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

"""``dcp-server prove``: replays the whole ledger, beside a running server or without one.

It reads every transfer, hold and checkpoint in one snapshot, in bounded memory, and changes nothing.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Iterator

from server.domain.money import text
from server.domain.proof import MAX_DISCREPANCIES, Proof
from server.store import proof
from server.store.database import Database

BALANCED, UNBALANCED = 0, 1
_PROGRESS_SECONDS = 2.0


def run(database_url: str) -> int:
    """Writes the proof to stdout. Exit status 0 if the ledger balances, 1 if not. Raises DatabaseUrlError."""
    database = Database(database_url)
    database.start(may_migrate=False)
    try:
        found = asyncio.run(database.read(lambda: proof.replay(_Progress().report)))
    finally:
        database.stop()
    sys.stdout.writelines(f"{line}\n" for line in _lines(found))
    return BALANCED if found.is_balanced else UNBALANCED


class _Progress:
    """Writes a line to the error stream every two seconds."""

    def __init__(self) -> None:
        self._next = time.monotonic() + _PROGRESS_SECONDS

    def report(self, transfers: int) -> None:
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + _PROGRESS_SECONDS
            sys.stderr.write(f"replayed {transfers:,} transfers\n")


def _lines(found: Proof) -> Iterator[str]:
    yield f"transfers         {found.transfers:,}, which sum to {text(found.postings_sum_micros)} halala"
    yield f"open holds        {found.open_holds:,} with {text(found.open_holds_micros)} halala"
    yield f"open withdrawals  {found.open_withdrawals:,} with {text(found.open_withdrawals_micros)} halala"
    yield f"open disputes     {found.open_disputes:,} with {text(found.disputed_micros)} halala"
    yield f"claimable         {text(found.claimable_micros)} halala"
    yield f"maturing          {text(found.maturing_micros)} halala"
    yield f"debts of providers {text(found.debt_micros)} halala"
    yield f"paid for checks   {text(found.canaries_micros)} halala"
    yield f"checkpoints       {found.checkpoint_id:,} verified"
    if found.is_balanced:
        yield "The ledger balances."
        return
    shown = len(found.discrepancies)
    yield f"The ledger does NOT balance: {shown} discrepancies{' or more' * (shown == MAX_DISCREPANCIES)}"
    for sentence in found.discrepancies:
        yield f"  {sentence}"

"""Deletes a renter's account: completely in one transaction, or not at all.

Money records stay. Everything that the renter wrote or received is erased; server.services.cleaning deletes
the bytes of files soon after. Every transaction that adds to an account locks it first
(``present`` in server.services.renters), and so does the deletion, so nothing is added to a deleted account.
"""

from __future__ import annotations

import logging

from server.clock import Clock, ms
from server.domain import ledger as rules
from server.domain.errors import DomainError, Reason
from server.domain.mailboxes import mailbox
from server.domain.money import whole_halala
from server.services.each import each
from server.services.keys import Credentials
from server.services.renters import present
from server.store import ledger, renters, webhooks
from server.store.database import Database
from server.store.privacy import erasure

log = logging.getLogger(__name__)
SWEEP_RENTERS = 10


class Deletion:
    """The use case of deleting an account."""

    def __init__(self, database: Database, clock: Clock, known: Credentials) -> None:
        self._database = database
        self._clock = clock
        self._known = known

    async def delete(self, renter_id: int, email: str, forfeit_halala: int) -> int:
        """Deletes an account whose e-mail address is confirmed; returns the forfeited balance, in halala.

        ``tick`` erases the texts of its newest jobs, those beyond the first ``erasure.BATCH``. Raises
        WRONG_EMAIL, JOBS_OPEN, BALANCE_LEFT, and RENTER_DELETED if the account was deleted before.
        """
        now_ms = ms(self._clock)

        def delete() -> list[bytes]:
            renter = present(renter_id)
            if mailbox(email) != mailbox(renter.email):
                raise DomainError(
                    Reason.WRONG_EMAIL,
                    "email: is not this account's address; send the address it was registered with; "
                    "nothing was changed",
                    field="email",
                )
            _refuse_open_jobs(renter_id)
            _give_up_wallet(renter_id, forfeit_halala, now_ms)
            webhooks.lock(renter_id)
            digests = erasure.erase_account(renter)
            erasure.erase_jobs(renter_id)
            return digests

        for sha256 in await self._database.run(delete):
            self._known.forget(sha256)
        log.info("deleted a renter renter_id=%d forfeited_halala=%d", renter_id, forfeit_halala)
        return forfeit_halala

    async def tick(self) -> None:
        """Erases the next batch of jobs of each deleted account that still has some."""
        renter_ids = await self._database.read(lambda: erasure.to_erase(SWEEP_RENTERS))
        await each("a deleted account", renter_ids, lambda id_: self._database.run(lambda: _erase_more(id_)))


def _erase_more(renter_id: int) -> None:
    renters.get(renter_id, lock=True)  # two servers take turns: the second continues after the first
    erasure.erase_jobs(renter_id)


def _refuse_open_jobs(renter_id: int) -> None:
    """Raises JOBS_OPEN. Every unfinished job has an open hold, so open holds count the unfinished jobs."""
    if open_jobs := ledger.open_holds(renter_id):
        raise DomainError(
            Reason.JOBS_OPEN,
            f"{open_jobs} jobs of this account have not ended; cancel them or wait for their end, "
            "then delete the account; nothing was changed",
            open_jobs=open_jobs,
        )


def _give_up_wallet(renter_id: int, forfeit_halala: int, now_ms: int) -> None:
    """Forfeits the balance. The request must name its exact amount, which proves that it was seen."""
    wallet = ledger.balance(rules.renter(renter_id))
    balance = whole_halala(wallet)
    if balance != forfeit_halala:
        raise DomainError(
            Reason.BALANCE_LEFT,
            f"forfeit_balance_halala: the wallet holds {balance} halala and {forfeit_halala} were given up; "
            f"ask the operator to pay it out, or send {balance} here to give it up; nothing was changed",
            field="forfeit_balance_halala",
            balance_halala=balance,
        )
    if wallet:  # with what is less than a halala
        ledger.apply([rules.forfeit_transfer(renter_id, wallet)], now_ms)

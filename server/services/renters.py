"""Renters: registration, own profile, wallet."""

from __future__ import annotations

from dataclasses import dataclass

from server.clock import Clock, ms
from server.domain import ledger as rules
from server.domain.errors import DomainError, Reason
from server.domain.jobs import Job
from server.domain.ledger import EXTERNAL, Transfer, TransferKind
from server.domain.mailboxes import refuse_unproven
from server.domain.money import whole_halala
from server.domain.providers import AccountState
from server.domain.storage import STORAGE_LIMITS, StorageLimits
from server.services import outbox
from server.services.operators.audit import Operator
from server.services.providers import RECENT_JOBS
from server.services.repeats import once
from server.store import day_sums, jobs, ledger, renters, storage
from server.store.database import Database
from server.store.renters import RenterRow


@dataclass(frozen=True, slots=True)
class RenterProfile:
    """A renter as it sees itself. Money in micros."""

    renter: RenterRow
    balance_micros: int
    held_micros: int
    spent_micros: int
    total_jobs: int
    recent_jobs: list[Job]
    stored_bytes: int
    stored_bytes_limit: int
    """0: no limit."""
    must_prove_email: bool
    """Jobs and top-ups wait for the proof of the e-mail address."""
    can_top_up: bool
    """The renter may add play money itself."""


class Renters:
    """The use cases of renters."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        sandbox_topup: bool,
        storage_limits: StorageLimits = STORAGE_LIMITS,
        *,
        needs_proof: bool = False,
    ) -> None:
        """``needs_proof``: who tops up must have proven its e-mail address."""
        self._needs_proof = needs_proof
        self._database = database
        self._storage_limits = storage_limits
        self._clock = clock
        self._sandbox_topup = sandbox_topup

    async def profile(self, renter_id: int) -> RenterProfile:
        """The renter's own profile."""

        def read() -> RenterProfile:
            row = existing(renter_id)
            return RenterProfile(
                row,
                ledger.balance(rules.renter(renter_id)),
                ledger.balance(rules.held(renter_id)),
                day_sums.spent(renter_id),
                day_sums.submitted(renter_id),
                jobs.newest_of_renter(renter_id, RECENT_JOBS),
                storage.of_renter(renter_id),
                self._storage_limits.renter_bytes,
                self._needs_proof and row.email_verified_ms is None,
                self._sandbox_topup,
            )

        return await self._database.read(read)

    async def credit(self, operator: Operator, renter_id: int, amount_micros: int) -> int:
        """Credits a wallet at an operator's request; returns the new balance.

        Raises RENTER_NOT_FOUND, RENTER_DELETED.
        """
        return await self._add(TransferKind.CREDIT, renter_id, amount_micros, operator)

    async def top_up(self, renter_id: int, amount_micros: int) -> int:
        """Adds play money to the caller's own wallet; returns the new balance.

        Raises SANDBOX_OFF, EMAIL_NOT_VERIFIED, RENTER_DELETED.
        """
        if not self._sandbox_topup:
            raise DomainError(
                Reason.SANDBOX_OFF,
                "renters cannot top up their own wallets here; ask the operator for a credit",
            )
        return await self._add(TransferKind.TOPUP, renter_id, amount_micros)

    async def _add(
        self, kind: TransferKind, renter_id: int, amount_micros: int, operator: Operator | None = None
    ) -> int:
        now_ms = ms(self._clock)

        def add() -> int:
            row = present(renter_id)
            if operator is None:
                refuse_unproven(self._needs_proof, row.email_verified_ms)
            wallet = rules.renter(renter_id)
            ledger.apply([Transfer(kind, EXTERNAL, wallet, amount_micros)], now_ms)
            outbox.wallet_changed(renter_id, now_ms)
            balance = ledger.balance(wallet)  # locked since the transfer, so the old balance follows from it
            if operator is not None:
                was, is_ = whole_halala(balance - amount_micros), whole_halala(balance)
                before, after = {"balance_halala": was}, {"balance_halala": is_}
                operator.note("renter.credit", renter_id, before, after, now_ms)
            return balance

        return await self._database.run(once(add, now_ms))


def existing(renter_id: int, *, lock: bool = False) -> RenterRow:
    """One renter, even if its account is deleted. Raises RENTER_NOT_FOUND."""
    renter = renters.get(renter_id, lock=lock)
    if renter is None:
        raise DomainError(Reason.RENTER_NOT_FOUND, f"renter_id: no renter {renter_id}", field="renter_id")
    return renter


def present(renter_id: int) -> RenterRow:
    """One renter whose account is not deleted; locks it, so that it stays so until the transaction ends.

    Every transaction that adds to an account begins here: it is either complete before a deletion, or refused
    after it. Raises RENTER_NOT_FOUND, RENTER_DELETED.
    """
    renter = existing(renter_id, lock=True)
    if renter.state is AccountState.DELETED:
        raise DomainError(
            Reason.RENTER_DELETED,
            f"renter {renter_id} deleted its account, which can no longer be used or changed",
            status=renter.state.value,
        )
    return renter

"""What operators look at before they decide: money by day, accounts, and the evidence about a withdrawal."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from server.clock import Clock, ms
from server.domain.disputes import DisputeState
from server.domain.ledger import TransferKind
from server.domain.payout_findings import PayoutFacts, PayoutFinding, findings
from server.domain.providers import AccountState
from server.domain.statements import Line, day_of
from server.domain.withdrawals import Withdrawal, WithdrawalState
from server.services.keys import PROVIDER, RENTER
from server.services.pages import Page, read_page
from server.services.providers import ProviderProfile, Providers
from server.services.providers import existing as existing_provider
from server.services.renters import RenterProfile, Renters
from server.services.renters import existing as existing_renter
from server.services.withdrawals import existing_request
from server.store import disputes, keys, statements, withdrawals
from server.store.database import Database
from server.store.keys import KeyRow
from server.store.operators import oversight
from server.store.operators.oversight import Payer, ProviderTransfer

PAYERS_LIMIT = 20
EARLIER_LIMIT = 20
SAME_ACCOUNT_LIMIT = 20


@dataclass(frozen=True, slots=True)
class PayoutEvidence:
    """What is known about a withdrawal request."""

    withdrawal: Withdrawal
    profile: ProviderProfile
    payers: list[Payer]
    earlier: list[Withdrawal]
    same_bank_account: list[int]
    disputes: dict[DisputeState, int]
    findings: list[PayoutFinding]


class Oversight:
    """The use cases of operators that only read."""

    def __init__(self, database: Database, renters: Renters, providers: Providers, clock: Clock) -> None:
        self._database = database
        self._renters = renters
        self._providers = providers
        self._clock = clock

    async def money(self, days: int) -> dict[int, Counter[TransferKind]]:
        """What was moved on each of the last ``days`` (UTC), by day since 1970, newest first; in micros."""
        today = day_of(ms(self._clock))
        found: dict[int, Counter[TransferKind]] = {day: Counter() for day in range(today, today - days, -1)}
        rows = await self._database.read(lambda: oversight.moved_by_day(today - days + 1))
        for day, kind, amount in rows:
            if day in found:  # another server's clock may be slightly ahead of this one's
                found[day][kind] += amount
        return found

    async def renter(self, renter_id: int) -> RenterProfile:
        """A renter's profile. Raises RENTER_NOT_FOUND."""
        return await self._renters.profile(renter_id)

    async def renter_lines(self, renter_id: int, before_id: int | None, limit: int) -> Page[Line]:
        """One page of a renter's statement, newest first. Raises RENTER_NOT_FOUND."""

        def read() -> Page[Line]:
            existing_renter(renter_id)
            return read_page(statements.lines, renter_id, before_id, limit=limit)

        return await self._database.read(read)

    async def provider(self, provider_id: int) -> ProviderProfile:
        """A provider's profile. Raises PROVIDER_NOT_FOUND."""
        return await self._providers.profile(provider_id)

    async def provider_transfers(
        self, provider_id: int, before_id: int | None, limit: int
    ) -> Page[ProviderTransfer]:
        """One page of a provider's transfers, newest first. Raises PROVIDER_NOT_FOUND."""

        def read() -> Page[ProviderTransfer]:
            existing_provider(provider_id)
            return read_page(oversight.transfers_of_provider, provider_id, before_id, limit=limit)

        return await self._database.read(read)

    async def renter_keys(self, renter_id: int, before_id: int | None, limit: int) -> Page[KeyRow]:
        """One page of a renter's keys, newest first. Raises RENTER_NOT_FOUND."""

        def read() -> Page[KeyRow]:
            existing_renter(renter_id)
            return read_page(keys.of_owner, RENTER, renter_id, before_id, limit=limit)

        return await self._database.read(read)

    async def provider_keys(self, provider_id: int, before_id: int | None, limit: int) -> Page[KeyRow]:
        """One page of a provider's keys, newest first. Raises PROVIDER_NOT_FOUND."""

        def read() -> Page[KeyRow]:
            existing_provider(provider_id)
            return read_page(keys.of_owner, PROVIDER, provider_id, before_id, limit=limit)

        return await self._database.read(read)

    async def evidence(self, withdrawal_id: int) -> PayoutEvidence:
        """The evidence about a withdrawal request. Raises WITHDRAWAL_NOT_FOUND."""
        request = await self._database.read(lambda: existing_request(withdrawal_id))
        profile = await self._providers.profile(request.provider_id)

        def read() -> PayoutEvidence:
            payers = oversight.payers(request.provider_id, PAYERS_LIMIT)
            earlier = withdrawals.of_provider(request.provider_id, request.id, EARLIER_LIMIT)
            same = oversight.same_bank_account(request.provider_id, request.iban, SAME_ACCOUNT_LIMIT)
            counts = disputes.counts_of_provider(request.provider_id)
            facts = _facts(request, profile, payers, earlier, same, counts)
            return PayoutEvidence(request, profile, payers, earlier, same, counts, findings(facts))

        return await self._database.read(read)


def _facts(
    request: Withdrawal,
    profile: ProviderProfile,
    payers: list[Payer],
    earlier: list[Withdrawal],
    same: list[int],
    counts: dict[DisputeState, int],
) -> PayoutFacts:
    paid = next((each for each in earlier if each.state is WithdrawalState.PAID), None)
    return PayoutFacts(
        age_ms=request.created_ms - profile.provider.created_ms,
        standing=profile.standing.assessment.standing if profile.standing is not None else None,
        is_suspended=profile.provider.state is AccountState.SUSPENDED,
        paid_micros=[payer.paid_micros for payer in payers],
        has_shared_account=bool(same),
        last_paid_to_same=paid.iban == request.iban if paid is not None else None,
        open_disputes=counts.get(DisputeState.OPEN, 0),
    )

"""Standings of providers, and who paid them, as rows. Every function runs inside its caller's transaction."""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from server.domain.disputes import DisputeState
from server.domain.jobs import FailureReason
from server.domain.ledger import TransferKind
from server.domain.levels import Standing
from server.domain.providers import AccountState
from server.domain.standing import Assessment, Bounds, Missing, Party, StandingReason
from server.store import states
from server.store.leases import ENDED_ATTEMPT
from server.store.models import (
    CustomersRead,
    Job,
    Lease,
    Provider,
    ProviderCustomer,
    ProviderStanding,
    Transfer,
    Withdrawal,
    tuples,
)
from server.store.prepared import locking

# Transfers that one look reads for payouts.
BATCH = 4000
# PostgreSQL's ids are not in the order of commits; see server.domain.payouts.
SETTLED_MS = 60_000
# The customers of one provider that an assessment looks at, those that paid most.
CUSTOMERS_LIMIT = 200
_CUSTOMERS = (
    "SELECT * FROM (SELECT provider_customer.provider_id, paid_micros, mailbox, network "
    "FROM provider_customer JOIN renter ON renter.id = renter_id "
    "WHERE provider_customer.provider_id = {provider_id} AND renter.state <> {deleted} "
    "AND NOT renter.is_market "
    "AND NOT EXISTS (SELECT 1 FROM dispute WHERE dispute.provider_id = {provider_id} "
    "AND dispute.renter_id = renter.id AND dispute.state = {upheld}) "
    "ORDER BY paid_micros DESC, renter_id LIMIT {limit}) AS paid_{provider_id}"
)


@dataclass(frozen=True, slots=True)
class StandingRow:
    """A provider's standing as stored."""

    provider_id: int
    assessment: Assessment
    since_ms: int
    """When the standing last changed."""
    vouched_ms: int | None
    """When an operator vouched for the provider."""


def create(provider_id: int, now_ms: int) -> None:
    """A new provider's place among those to be assessed, at once."""
    ProviderStanding.insert(provider_id=provider_id, since_ms=now_ms).execute()


def of(provider_ids: Sequence[int]) -> dict[int, StandingRow]:
    """The standing of each of these providers, but those that were not assessed yet."""
    query = ProviderStanding.select().where(
        ProviderStanding.provider_id.in_(list(provider_ids)), ProviderStanding.standing.is_null(False)
    )
    return {row.provider_id: _row(row) for row in query}


def due(now_ms: int, limit: int) -> list[int]:
    """Providers to be assessed, the longest due first."""
    query = ProviderStanding.select(ProviderStanding.provider_id).where(ProviderStanding.due_ms <= now_ms)
    return [int(id_) for (id_,) in tuples(query.order_by(ProviderStanding.due_ms).limit(limit))]


def make_due(provider_ids: Sequence[int]) -> None:
    """The next look assesses these providers."""
    ProviderStanding.update(due_ms=0).where(ProviderStanding.provider_id.in_(list(provider_ids))).execute()


def store(provider_id: int, found: Assessment, due_ms: int | None, now_ms: int) -> bool:
    """Stores an assessment and when the next is due, None: when asked. True if the standing changed."""
    before = of([provider_id]).get(provider_id)
    changed = {} if before and before.assessment.standing is found.standing else {"since_ms": now_ms}
    ProviderStanding.update(due_ms=due_ms, **_columns(found), **changed).where(
        ProviderStanding.provider_id == provider_id
    ).execute()
    return bool(changed)


def vouched(provider_ids: Sequence[int]) -> set[int]:
    """Those of these providers that an operator vouches for."""
    query = ProviderStanding.select(ProviderStanding.provider_id).where(
        ProviderStanding.provider_id.in_(list(provider_ids)), ProviderStanding.vouched_ms.is_null(False)
    )
    return {int(id_) for (id_,) in tuples(query)}


def vouch(provider_id: int, vouched_ms: int | None) -> bool:
    """An operator vouches for a provider from now on, or no longer; False if nothing changed."""
    is_changed = ProviderStanding.vouched_ms.is_null(vouched_ms is not None)
    return bool(
        ProviderStanding.update(vouched_ms=vouched_ms, due_ms=0)
        .where(ProviderStanding.provider_id == provider_id, is_changed)
        .execute()
    )


def secret() -> bytes:
    """The key of this market's digests of networks."""
    _begin()
    ((value,),) = tuples(CustomersRead.select(CustomersRead.secret))
    return bytes(value)


def read_customers(now_ms: int) -> list[int]:
    """Adds the next payouts to what each renter paid each provider; the providers that this changes.

    It locks the place up to which payouts were read, so that two servers never add one twice.
    """
    _begin()
    ((through_id,),) = tuples(locking(CustomersRead.select(CustomersRead.through_id)))
    query = (
        Transfer.select(Transfer.id, Transfer.kind, Transfer.job_id, Transfer.amount_micros)
        .where(Transfer.id > through_id, Transfer.created_ms < now_ms - SETTLED_MS)
        .order_by(Transfer.id)
        .limit(BATCH)
    )
    rows = list(tuples(query))
    if not rows:
        return []
    paid = {job_id: amount for _, kind, job_id, amount in rows if kind == TransferKind.PAYOUT.value}
    jobs = Job.select(Job.job_id, Job.provider_id, Job.renter_id).where(Job.job_id.in_(list(paid)))
    sums: dict[tuple[int, int], int] = {}
    for job_id, provider_id, renter_id in tuples(jobs) if paid else ():
        if provider_id is not None:
            sums[provider_id, renter_id] = sums.get((provider_id, renter_id), 0) + paid[job_id]
    for (provider_id, renter_id), amount in sorted(sums.items()):
        ProviderCustomer.insert(provider_id=provider_id, renter_id=renter_id, paid_micros=amount).on_conflict(
            conflict_target=(ProviderCustomer.provider_id, ProviderCustomer.renter_id),
            update={ProviderCustomer.paid_micros: ProviderCustomer.paid_micros + amount},
        ).execute()
    CustomersRead.update(through_id=rows[-1][0]).execute()
    return sorted({provider_id for provider_id, _ in sums})


def owners(provider_ids: Sequence[int]) -> dict[int, Party]:
    """What is known of the owner of each provider, and of those who withdraw to the same bank account."""
    other = Provider.alias()
    mine, theirs = Withdrawal.alias(), Withdrawal.alias()
    linked = (
        Provider.select(Provider.id, other.mailbox, other.network)
        .join(mine, on=(mine.provider_id == Provider.id))
        .join(theirs, on=(theirs.iban == mine.iban))
        .join(other, on=(other.id == theirs.provider_id))
        .where(Provider.id.in_(list(provider_ids)))
        .distinct()
    )
    own = Provider.select(Provider.id, Provider.mailbox, Provider.network)
    found: dict[int, set[str]] = {}
    for rows in (own.where(Provider.id.in_(list(provider_ids))), linked):
        for id_, mailbox, network in tuples(rows):
            found.setdefault(id_, set()).update(_marks(mailbox, network))
    return {id_: Party(frozenset(marks)) for id_, marks in found.items()}


def customers(provider_ids: Sequence[int]) -> dict[int, list[Party]]:
    """The renters that paid each of these providers most, without deleted ones and those that it cheated."""
    found: dict[int, list[Party]] = {id_: [] for id_ in provider_ids}
    arms = (
        _CUSTOMERS.format(
            provider_id=int(id_),
            deleted=states.literal(AccountState.DELETED),
            upheld=states.literal(DisputeState.UPHELD),
            limit=CUSTOMERS_LIMIT,
        )
        for id_ in found
    )
    if found:
        for id_, amount, mailbox, network in Provider._meta.database.execute_sql(" UNION ALL ".join(arms)):
            found[id_].append(Party(frozenset(_marks(mailbox, network)), int(amount)))
    return found


def impossible_reports(provider_ids: Sequence[int], size: int) -> dict[int, int]:
    """How many of the newest attempts of each provider ended by a report that cannot be true."""
    arm = (
        "SELECT * FROM (SELECT provider_id, failure_reason FROM lease "  # noqa: S608  (ids are integers)
        f"WHERE provider_id = {{id}} AND {ENDED_ATTEMPT.sql} "
        f"ORDER BY ended_ms DESC, number DESC LIMIT {int(size)}) AS newest_{{id}}"
    )
    found = dict.fromkeys(provider_ids, 0)
    if found:
        rows = Lease._meta.database.execute_sql(" UNION ALL ".join(arm.format(id=int(id_)) for id_ in found))
        for id_, reason in rows:
            found[id_] += reason == FailureReason.IMPOSSIBLE_REPORT.value
    return found


def _begin() -> None:
    CustomersRead.insert(id=1, through_id=0, secret=secrets.token_bytes(32)).on_conflict_ignore().execute()


def _marks(mailbox: str | None, network: str | None) -> set[str]:
    kinds = (("mail", mailbox), ("network", network))
    return {f"{kind} {mark}" for kind, mark in kinds if mark}


def _columns(found: Assessment) -> dict[str, Any]:
    return {
        "standing": found.standing.value,
        "reasons": " ".join(found.reasons),
        "missing": json.dumps([[lack.reason.value, lack.has, lack.needs] for lack in found.missing]),
        "lifted_to": found.lifted_to.value if found.lifted_to else None,
        "slots": found.bounds.slots,
        "value_micros": found.bounds.value_micros,
        "is_checked": found.bounds.is_checked,
    }


def _row(row: Any) -> StandingRow:
    return StandingRow(
        row.provider_id,
        Assessment(
            Standing(row.standing),
            tuple(StandingReason(name) for name in row.reasons.split()),
            Bounds(row.slots, row.value_micros, row.is_checked),
            tuple(Missing(StandingReason(name), has, needs) for name, has, needs in json.loads(row.missing)),
            Standing(row.lifted_to) if row.lifted_to else None,
        ),
        row.since_ms,
        row.vouched_ms,
    )

"""Standings of providers, and who paid them, as rows. Every function runs inside its caller's transaction."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from server.domain.disputes import DisputeState
from server.domain.ledger import TransferKind
from server.domain.levels import Standing
from server.domain.providers import AccountState
from server.domain.standing import Assessment, Bounds, Missing, Party, StandingReason
from server.store import states
from server.store.models import (
    CustomersRead,
    Job,
    Provider,
    ProviderCustomer,
    ProviderStanding,
    Transfer,
    Withdrawal,
    tuples,
)
from server.store.prepared import OfEach, locking

# Transfers that one look reads for payouts.
BATCH = 4000
# PostgreSQL's ids are not in the order of commits; see server.domain.payouts.
SETTLED_MS = 60_000
# The customers of one provider that an assessment looks at, those that paid most.
CUSTOMERS_LIMIT = 200
# The providers that share bank accounts with those of one batch, of which the marks are read.
LINKED_LIMIT = 10_000
_customers = OfEach(
    "SELECT provider_customer.provider_id, paid_micros, mailbox, network "  # noqa: S608  (the text is ours)
    "FROM provider_customer JOIN renter ON renter.id = renter_id "
    f"WHERE provider_customer.provider_id = {{id}} "
    f"AND renter.state <> {states.literal(AccountState.DELETED)} AND NOT renter.is_market "
    "AND NOT EXISTS (SELECT 1 FROM dispute WHERE dispute.provider_id = {id} "
    f"AND dispute.renter_id = renter.id AND dispute.state = {states.literal(DisputeState.UPHELD)}) "
    f"ORDER BY paid_micros DESC, renter_id LIMIT {CUSTOMERS_LIMIT}"
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


def store(found: Mapping[int, Assessment], due_ms: Mapping[int, int | None], now_ms: int) -> None:
    """Stores assessments and when the next of each provider is due, None: when asked.

    Most providers of a batch are judged alike, so those that get the same row share one statement.
    """
    before = of(list(found))
    alike: dict[tuple[Any, ...], list[int]] = {}
    for id_ in sorted(found):
        columns = {**_columns(found[id_]), "due_ms": due_ms[id_]}
        if id_ not in before or before[id_].assessment.standing is not found[id_].standing:
            columns["since_ms"] = now_ms
        alike.setdefault(tuple(columns.items()), []).append(id_)
    for row, ids in alike.items():
        ProviderStanding.update(**dict(row)).where(ProviderStanding.provider_id.in_(ids)).execute()


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
    own = Provider.select(Provider.id, Provider.mailbox, Provider.network)
    found = {
        id_: _marks(mailbox, network)
        for id_, mailbox, network in tuples(own.where(Provider.id.in_(list(provider_ids))))
    }
    # Two steps, since the withdrawals of one account joined with themselves are as many as their square.
    withdrew = Withdrawal.select(Withdrawal.provider_id, Withdrawal.iban).distinct()
    accounts = list(tuples(withdrew.where(Withdrawal.provider_id.in_(list(found)), Withdrawal.iban != "")))
    linked = (
        Withdrawal.select(Withdrawal.iban, Provider.id, Provider.mailbox, Provider.network)
        .join(Provider, on=(Provider.id == Withdrawal.provider_id))
        .where(Withdrawal.iban.in_(sorted({iban for _, iban in accounts})))
        .distinct()
        .order_by(Withdrawal.iban, Provider.id)
        .limit(LINKED_LIMIT)
    )
    marks: dict[str, set[str]] = {}
    for iban, _, mailbox, network in tuples(linked) if accounts else ():
        marks.setdefault(iban, set()).update(_marks(mailbox, network))
    for id_, iban in accounts:
        found[id_] |= marks.get(iban, set())
    return {id_: Party(frozenset(known)) for id_, known in found.items()}


def customers(provider_ids: Sequence[int]) -> dict[int, list[Party]]:
    """The renters that paid each of these providers most, without deleted ones and those that it cheated."""
    found: dict[int, list[Party]] = {id_: [] for id_ in provider_ids}
    for id_, amount, mailbox, network in _customers.rows(found):
        found[id_].append(Party(frozenset(_marks(mailbox, network)), int(amount)))
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

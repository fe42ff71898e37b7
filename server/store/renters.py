"""Renters, as rows. Every function runs inside its caller's transaction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from server.domain.providers import AccountState
from server.store import states
from server.store.mailboxes import insert_account
from server.store.models import Renter, tuples
from server.store.prepared import PreparedRows, arg, locking


@dataclass(frozen=True, slots=True)
class RenterRow:
    """A renter as stored."""

    id: int
    name: str
    email: str
    organization: str
    phone: str
    state: AccountState
    created_ms: int
    mailbox: str | None
    """The mailbox that is its own; None if another account has it, or if it must prove it first."""
    email_verified_ms: int | None


_get = PreparedRows(Renter, lambda rows: rows.where(Renter.id == arg("id")))
# NO KEY, because a plain UPDATE lock would block inserts of rows that refer to the renter.
_lock = PreparedRows(Renter, lambda rows: locking(rows.where(Renter.id == arg("id")), "FOR NO KEY UPDATE"))


def create(
    *,
    name: str,
    email: str,
    mailbox: str | None,
    organization: str,
    phone: str,
    now_ms: int,
    network: str | None = None,
) -> int:
    """Inserts a renter and returns its id. Raises EMAIL_TAKEN."""
    return insert_account(
        Renter,
        name=name,
        email=email,
        mailbox=mailbox,
        organization=organization,
        phone=phone,
        network=network,
        created_ms=now_ms,
    )


def get(renter_id: int, *, lock: bool = False) -> RenterRow | None:
    """One renter, by id; with ``lock``, no other transaction submits a job of it until this one ends."""
    row = (_lock if lock else _get).one(id=renter_id)
    return _row(row) if row is not None else None


def by_ids(renter_ids: Sequence[int]) -> list[RenterRow]:
    """Renters, by id."""
    query = Renter.select().where(Renter.id.in_(list(renter_ids)))
    return [_row(row) for row in query.order_by(Renter.id)]


def set_state(renter_id: int, before: AccountState, after: AccountState) -> bool:
    """Changes a renter's state; False if it is not in the state ``before``."""
    query = Renter.update(state=states.stored(after))
    return bool(query.where(Renter.id == renter_id, states.is_in(Renter.state, before)).execute())


def count() -> int:
    """The number of all renters but the market's own."""
    return int(Renter.select().where(~Renter.is_market).count())


def of_market() -> list[int]:
    """The ids of the market's own renters, whose jobs are checks."""
    return [int(renter_id) for (renter_id,) in tuples(Renter.select(Renter.id).where(Renter.is_market))]


def give_to_market(renter_id: int) -> None:
    """Makes a renter, which has no key, one of the market's own."""
    Renter.update(is_market=True).where(Renter.id == renter_id).execute()


def _row(row: Any) -> RenterRow:
    return RenterRow(
        row.id,
        row.name,
        row.email,
        row.organization,
        row.phone,
        AccountState(row.state),
        row.created_ms,
        row.mailbox,
        row.email_verified_ms,
    )

"""The ledger's rows. Balances change only here, and only together with a transfer."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from functools import cache
from itertools import groupby
from typing import Any, NamedTuple

import peewee as pw

from server.domain import ledger
from server.domain.errors import DomainError, Reason
from server.domain.jobs import JobType
from server.domain.ledger import AccountKind, HoldState, TransferKind
from server.domain.money import MAX_BALANCE_MICROS, whole_halala
from server.domain.pricing import PARTS
from server.store import counted, states
from server.store.budgets import HAS_BUDGET
from server.store.models import Account, Hold, TokenRemainder, Transfer, tuples
from server.store.prepared import PreparedQuery, arg

NO_LEAST = -(2**62)
# The accounts to which payouts go: those that mature, and all others.
PAYOUT_KINDS = (ledger.maturing(0).kind.value, ledger.provider(0).kind.value)

_find = PreparedQuery(
    lambda: Account.select(Account.id).where(Account.kind == arg("kind"), Account.owner_id == arg("owner_id"))
)
_balance = PreparedQuery(
    lambda: Account.select(Account.balance_micros).where(
        Account.kind == arg("kind"), Account.owner_id == arg("owner_id")
    )
)
# These name the account as the table's key does, and return its id: a look-up before each would be a
# statement more, and an id that was kept from another transaction might belong to no row, or to another.
_subtract = PreparedQuery(
    lambda: (
        Account.update({Account.balance_micros: Account.balance_micros - arg("amount")})
        .where(
            Account.kind == arg("kind"),
            Account.owner_id == arg("owner_id"),
            Account.balance_micros >= arg("least"),
        )
        .returning(Account.id)
    )
)
_add = PreparedQuery(
    lambda: (
        Account.update({Account.balance_micros: Account.balance_micros + arg("amount")})
        .where(
            Account.kind == arg("kind"),
            Account.owner_id == arg("owner_id"),
            Account.balance_micros <= arg("most"),
        )
        .returning(Account.id)
    )
)
_TRANSFER = (
    Transfer.kind,
    Transfer.debit_account_id,
    Transfer.credit_account_id,
    Transfer.amount_micros,
    Transfer.job_id,
    Transfer.withdrawal_id,
    Transfer.created_ms,
    Transfer.job_type,
)


_carry = PreparedQuery(
    lambda: (
        TokenRemainder.insert(renter_id=arg("renter_id"), parts=arg("parts"))
        .on_conflict(
            conflict_target=[TokenRemainder.renter_id],
            update={TokenRemainder.parts: TokenRemainder.parts + pw.EXCLUDED.parts},
        )
        .returning(TokenRemainder.parts)
    )
)


@cache
def _insert_transfers(count: int) -> PreparedQuery:
    """The INSERT of so many transfers; the values of the first have the suffix 0."""
    return PreparedQuery(
        lambda: Transfer.insert_many(
            [{field: arg(f"{field.name}{n}") for field in _TRANSFER} for n in range(count)]
        )
    )


# Whether the renter of a hold has a webhook: almost none has, and a look-up would be a statement more.
_HAS_WEBHOOK = pw.SQL("EXISTS (SELECT 1 FROM webhook WHERE webhook.renter_id = hold.renter_id)")
_insert_hold = PreparedQuery(
    lambda: Hold.insert(
        {
            Hold.job_id: arg("job_id"),
            Hold.renter_id: arg("renter_id"),
            Hold.amount_micros: arg("amount_micros"),
            Hold.state: states.stored(HoldState.OPEN),
            Hold.created_ms: arg("created_ms"),
            Hold.job_type: arg("job_type"),
        }
    ).returning(_HAS_WEBHOOK)
)
_resolve_hold = PreparedQuery(
    lambda: (
        Hold.update(
            {
                Hold.state: arg("state"),
                Hold.charge_micros: arg("charge_micros"),
                Hold.resolved_ms: arg("resolved_ms"),
            }
        )
        .where(Hold.job_id == arg("job_id"), states.is_in(Hold.state, HoldState.OPEN))
        .returning(_HAS_WEBHOOK, HAS_BUDGET)
    )
)
_open_holds = PreparedQuery(
    lambda: Hold.select(pw.fn.COUNT(Hold.job_id)).where(
        Hold.renter_id == arg("renter_id"), states.is_exactly(Hold.state, HoldState.OPEN)
    )
)


_balances_of_owner = PreparedQuery(
    lambda: Account.select(Account.kind, Account.balance_micros).where(
        Account.kind.in_([account.kind.value for account in ledger.accounts_of(0)]),
        Account.owner_id == arg("owner_id"),
    )
)


class Resolved(NamedTuple):
    """Who is concerned by the end of a hold."""

    has_webhook: bool
    """Whether its renter has a webhook."""
    has_budget: bool
    """Whether the key of its job has budgets."""


def balance(account: ledger.Account) -> int:
    """The balance of an account, in micros; 0 if it never had a transfer."""
    return int(_balance.value(kind=account.kind.value, owner_id=account.owner_id) or 0)


def of_provider(provider_id: int) -> ledger.ProviderMoney:
    """The balances of a provider's accounts. ``lock`` them first for a decision that depends on them."""
    found = dict(_balances_of_owner.all(owner_id=provider_id))
    kinds = (account.kind.value for account in ledger.accounts_of(provider_id))
    available, maturing, disputed, reserved, debt = (int(found.get(kind, 0)) for kind in kinds)
    return ledger.ProviderMoney(available, maturing, disputed, reserved, -debt)


def held_by_all() -> int:
    """The sum of all open holds, in micros: what all renters' held accounts have."""
    is_open = states.is_exactly(Hold.state, HoldState.OPEN)
    return int(Hold.select(pw.fn.SUM(Hold.amount_micros)).where(is_open).scalar() or 0)


def totals_of_providers() -> dict[AccountKind, int]:
    """The sums of the balances of all providers' accounts, by kind, in micros."""
    kinds = [account.kind for account in ledger.accounts_of(0)]
    query = (
        Account.select(Account.kind, pw.fn.SUM(Account.balance_micros))
        .where(Account.kind.in_([kind.value for kind in kinds]))
        .group_by(Account.kind)
    )
    found = {AccountKind(kind): int(sum_) for kind, sum_ in tuples(query)}
    return {kind: found.get(kind, 0) for kind in kinds}


def turnover(kind: TransferKind, since_ms: int = 0) -> int:
    """The sum of all transfers of a kind since a time, in micros."""
    query = Transfer.select(pw.fn.SUM(Transfer.amount_micros)).where(
        of_kind(kind), Transfer.created_ms >= since_ms
    )
    return int(query.scalar() or 0)


def payout_accounts(provider_id: int) -> list[int]:
    """The ids of the accounts to which a provider's payouts went: those that mature, and all others."""
    query = Account.select(Account.id).where(Account.kind.in_(PAYOUT_KINDS), Account.owner_id == provider_id)
    return [int(row_id) for (row_id,) in tuples(query)]


def payout_of(job_id: str, provider_id: int, ended_ms: int) -> tuple[int, AccountKind] | None:
    """The id of the transfer of a job's payout, and the kind of account that it went to; None without one.

    A job ends when its payout is made, so the index by time finds it.
    """
    query = (
        Transfer.select(Transfer.id, Account.kind)
        .join(Account, on=(Account.id == Transfer.credit_account_id))
        .where(
            Transfer.credit_account_id.in_(payout_accounts(provider_id)),
            of_kind(TransferKind.PAYOUT),
            Transfer.created_ms == ended_ms,
            Transfer.job_id == job_id,
        )
    )
    for transfer_id, kind in tuples(query):
        return int(transfer_id), AccountKind(kind)
    return None


def earned_by_all(of_providers: Mapping[AccountKind, int]) -> int:
    """The sum of all payouts, in micros, less what disputes took back of them.

    It is what providers have or owe, what they requested, and what was paid out.
    """
    return sum(of_providers.values()) + turnover(TransferKind.WITHDRAWAL_PAID)


def fees_of_all() -> int:
    """The sum of all fees, in micros, less what disputes took back of them.

    It is what the platform has, without what renters gave up and what they paid for storage.
    """
    others = turnover(TransferKind.FORFEIT) + turnover(TransferKind.STORAGE)
    return balance(ledger.PLATFORM) - others


def of_kind(kind: TransferKind) -> Any:
    """The condition for a kind, as SQL text: with a parameter, the index transfer_earned is not used."""
    return Transfer.kind == pw.SQL(f"'{kind.value}'")


def open_holds(renter_id: int) -> int:
    """How many of a renter's holds are open: every unfinished job has one."""
    return int(_open_holds.value(renter_id=renter_id))


def apply(transfers: Iterable[ledger.Transfer], now_ms: int) -> None:
    """Records transfers and moves the balances, in order. Transfers from one account in a row move together.

    Raises INSUFFICIENT_BALANCE if an account would become negative that must not, and
    AMOUNT_TOO_LARGE if a balance would exceed the ledger's maximum.
    """
    transfers = list(transfers)
    lock({account for transfer in transfers for account in (transfer.debit, transfer.credit)})
    rows: list[tuple[Any, ...]] = []
    for debit, grouped in groupby(transfers, lambda transfer: transfer.debit):
        together = list(grouped)
        debit_id = _debit(debit, sum(transfer.amount_micros for transfer in together))
        for transfer in together:
            credit_id = _credit(transfer.credit, transfer.amount_micros)
            kind = transfer.job_type.value if transfer.job_type is not None else None
            about = (transfer.job_id, transfer.withdrawal_id, now_ms, kind)
            rows.append((transfer.kind.value, debit_id, credit_id, transfer.amount_micros, *about))
            counted.note("dcp_transfers_total", transfer.kind.value)
            counted.note("dcp_transferred_micros_total", transfer.kind.value, by=transfer.amount_micros)
    if rows:
        names = [field.name for field in _TRANSFER]
        values = {
            f"{name}{n}": value for n, row in enumerate(rows) for name, value in zip(names, row, strict=True)
        }
        _insert_transfers(len(rows)).run(**values)


def open_hold(job_id: str, renter_id: int, kind: JobType, amount_micros: int, now_ms: int) -> bool:
    """Holds the highest possible cost of a job; returns whether the renter has a webhook.

    Raises INSUFFICIENT_BALANCE with the facts.
    """
    apply([ledger.hold_transfer(renter_id, amount_micros, job_id)], now_ms)
    has_webhook = _insert_hold.value(
        job_id=job_id,
        renter_id=renter_id,
        amount_micros=amount_micros,
        created_ms=now_ms,
        job_type=kind.value,
    )
    return bool(has_webhook)


def resolve_hold(job_id: str, charge_micros: int, now_ms: int) -> Resolved:
    """Posts a hold, or voids it if nothing is charged. Raises HOLD_ALREADY_RESOLVED if it is not open."""
    state = HoldState.POSTED if charge_micros else HoldState.VOIDED
    resolved = _resolve_hold.one(
        state=states.stored(state), charge_micros=charge_micros, resolved_ms=now_ms, job_id=job_id
    )
    if resolved is None:
        raise DomainError(Reason.HOLD_ALREADY_RESOLVED, f"the hold of {job_id} was resolved before")
    return Resolved(*map(bool, resolved))


def account_id(account: ledger.Account) -> int | None:
    """The id of an account's row; None if it never had a transfer."""
    found = _find.value(kind=account.kind.value, owner_id=account.owner_id)
    return int(found) if found is not None else None


def lock(accounts: Collection[ledger.Account]) -> None:
    """Locks accounts in the order of their ids, and creates those that are missing.

    Without an order, a hold and a settlement of one wallet could deadlock. SQLite has one writer, which
    needs no lock, so there an account is created only when its balance could not be moved.
    """
    if not Account._meta.database.for_update:
        return
    which = pw.Tuple(Account.kind, Account.owner_id).in_(
        [pw.Tuple(account.kind.value, account.owner_id) for account in accounts]
    )
    query = Account.select(Account.id).where(which).order_by(Account.id).for_update()
    if len(list(tuples(query))) < len(accounts):
        for account in sorted(accounts):
            _create(account)
        query.clone().execute()


def _create(account: ledger.Account) -> None:
    Account.insert(kind=account.kind.value, owner_id=account.owner_id).on_conflict_ignore().execute()


def _debit(account: ledger.Account, amount: int) -> int:
    least = NO_LEAST if account.kind in ledger.MAY_BE_NEGATIVE else amount
    debited = _moved(_subtract, account, amount=amount, least=least)
    if debited is None:
        raise _insufficient(account, amount)
    return debited


def _credit(account: ledger.Account, amount: int) -> int:
    most = 0 if account.kind in ledger.NEVER_POSITIVE else MAX_BALANCE_MICROS
    credited = _moved(_add, account, amount=amount, most=most - amount)
    if credited is None:
        raise ledger.too_large()
    return credited


def _moved(move: PreparedQuery, account: ledger.Account, **limits: int) -> int | None:
    """Moves a balance and returns the account's id; None if the balance does not allow it."""
    values = {"kind": account.kind.value, "owner_id": account.owner_id, **limits}
    rows = move.all(**values)
    if not rows and account_id(account) is None:
        _create(account)
        rows = move.all(**values)
    return int(rows[0][0]) if rows else None


def _insufficient(account: ledger.Account, required: int) -> DomainError:
    available, required = whole_halala(balance(account)), -whole_halala(-required)
    return DomainError(
        Reason.INSUFFICIENT_BALANCE,
        f"the wallet has {available} halala and the job holds {required}; "
        f"add {required - available} halala, or ask for a shorter duration",
        balance_halala=available,
        required_halala=required,
        shortfall_halala=required - available,
    )


def carry(renter_id: int, parts: int) -> int:
    """Adds parts of a micro to what a renter owes of earlier runs; returns the whole micros due now."""
    if not parts:
        return 0
    owed = int(_carry.value(renter_id=renter_id, parts=parts))
    if owed < PARTS:
        return 0
    due, rest = divmod(owed, PARTS)
    TokenRemainder.update(parts=rest).where(TokenRemainder.renter_id == renter_id).execute()
    return due

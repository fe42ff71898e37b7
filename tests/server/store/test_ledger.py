"""The ledger as rows: conditional debits, holds that resolve once, transfers that never change."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest

from server.domain import ledger as rules
from server.domain.errors import DomainError, Reason
from server.domain.jobs import JobType
from server.domain.ledger import EXTERNAL, Transfer, TransferKind
from server.domain.money import MAX_BALANCE_MICROS, micros
from server.domain.withdrawals import Withdrawal, WithdrawalState
from server.store import ledger, withdrawals
from server.store.database import Database
from server.store.ledger import Resolved
from server.store.models import Account, Hold, Job
from server.store.models import Transfer as TransferRow
from server.store.proof import prove
from tests.server.store.rows import NOW_MS, Rows
from tests.support import databases
from tests.support.databases import execute
from tests.support.plans import recorded

KIND = JobType.BENCHMARK


async def test_fifty_simultaneous_holds_take_at_most_the_wallets_balance(
    database: Database, rows: Rows
) -> None:
    renter_id = await rows.renter(1999)
    job_ids = [await rows.job(renter_id) for _ in range(50)]
    outcomes = await asyncio.gather(
        *(
            database.run(partial(ledger.open_hold, job_id, renter_id, KIND, micros(100), NOW_MS))
            for job_id in job_ids
        ),
        return_exceptions=True,
    )
    refused = [outcome for outcome in outcomes if outcome is not False]
    assert len(refused) == 50 - 19
    for error in refused:
        assert isinstance(error, DomainError)
        assert error.reason is Reason.INSUFFICIENT_BALANCE
        assert error.facts == {"balance_halala": 99, "required_halala": 100, "shortfall_halala": 1}
    proof = await database.read(prove)
    assert (proof.discrepancies, proof.open_holds, proof.open_holds_micros) == ((), 19, micros(1900))
    assert await database.read(lambda: ledger.balance(rules.renter(renter_id))) == micros(99)


async def test_simultaneous_hold_and_settlement_of_one_wallet_both_succeed(
    database: Database, rows: Rows
) -> None:
    """They lock the same two accounts in opposite order; a transaction that PostgreSQL aborts is retried."""
    renter_id = await rows.renter(10_000)
    held = [await rows.held_job(renter_id) for _ in range(10)]
    fresh = [await rows.job(renter_id) for _ in range(10)]

    def settle(job_id: str) -> None:
        ledger.resolve_hold(job_id, 0, NOW_MS)
        bill = rules.make_bill(micros(100), 0, 0)
        ledger.apply(rules.settlement(bill, renter_id, None, job_id, KIND, matures=False), NOW_MS)

    work: list[Callable[[], object]] = [
        *(partial(settle, job_id) for job_id in held),
        *(partial(ledger.open_hold, job_id, renter_id, KIND, micros(100), NOW_MS) for job_id in fresh),
    ]
    await asyncio.gather(*(database.run(transaction) for transaction in work))
    assert await database.read(lambda: ledger.balance(rules.renter(renter_id))) == micros(9000)
    assert await database.read(lambda: ledger.balance(rules.held(renter_id))) == micros(1000)


async def test_account_whose_creation_was_rolled_back_gets_no_money_of_another(
    database: Database, rows: Rows
) -> None:
    """The database reuses the number of the row that was undone."""
    undone, other = await rows.renter(0), await rows.renter(0)

    def credit(renter_id: int, amount: int) -> None:
        ledger.apply([Transfer(TransferKind.TOPUP, EXTERNAL, rules.renter(renter_id), amount)], NOW_MS)

    def fail() -> None:
        credit(undone, 5)
        raise LookupError

    with pytest.raises(LookupError):
        await database.run(fail)
    await database.run(lambda: credit(other, 7))
    await database.run(lambda: credit(undone, 11))
    balances = [await database.read(partial(ledger.balance, rules.renter(id_))) for id_ in (undone, other)]
    assert balances == [11, 7]
    assert (await database.read(prove)).discrepancies == ()


@pytest.mark.parametrize(("first", "second"), [(60, 60), (60, 0), (0, 60), (0, 0)])
async def test_hold_resolves_once(database: Database, rows: Rows, first: int, second: int) -> None:
    job_id = await rows.held_job(await rows.renter(100))
    await database.run(lambda: ledger.resolve_hold(job_id, first, NOW_MS))
    with pytest.raises(DomainError) as caught:
        await database.run(lambda: ledger.resolve_hold(job_id, second, NOW_MS))
    assert caught.value.reason is Reason.HOLD_ALREADY_RESOLVED
    stored = await database.read(lambda: Hold.get_by_id(job_id).charge_micros)
    assert stored == first


async def test_simultaneous_resolutions_of_a_hold_succeed_once(database: Database, rows: Rows) -> None:
    job_id = await rows.held_job(await rows.renter(100))
    outcomes = await asyncio.gather(
        *(database.run(lambda: ledger.resolve_hold(job_id, 50, NOW_MS)) for _ in range(10)),
        return_exceptions=True,
    )
    assert outcomes.count(Resolved(has_webhook=False, has_budget=False)) == 1


async def test_failed_hold_changes_nothing(database: Database, rows: Rows) -> None:
    renter_id = await rows.renter(99)
    with pytest.raises(DomainError):
        await rows.held_job(renter_id, 100)
    proof = await database.read(prove)
    assert (proof.transfers, proof.open_holds, proof.discrepancies) == (1, 0, ())


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE transfer SET amount_micros = amount_micros + 1",
        "UPDATE transfer SET job_id = NULL",
        "DELETE FROM transfer",
    ],
)
async def test_database_itself_refuses_to_change_a_transfer(
    database: Database, rows: Rows, change: str
) -> None:
    await rows.held_job(await rows.renter(100))
    with pytest.raises(Exception, match="transfers are immutable"):
        await database.run(partial(execute, database, change))
    assert (await database.read(prove)).discrepancies == ()


@pytest.mark.parametrize(
    "bad",
    [
        "UPDATE account SET balance_micros = -1 WHERE kind = 'renter'",
        "UPDATE hold SET charge_micros = amount_micros + 1",
        "UPDATE hold SET amount_micros = 0",
        "UPDATE job SET state = 'nowhere'",
        "INSERT INTO transfer (kind, debit_account_id, credit_account_id, amount_micros, created_ms) "
        "VALUES ('credit', 1, 1, 5, 0)",
        "INSERT INTO transfer (kind, debit_account_id, credit_account_id, amount_micros, created_ms) "
        "VALUES ('credit', 1, 2, -5, 0)",
    ],
)
async def test_database_itself_refuses_impossible_amounts(database: Database, rows: Rows, bad: str) -> None:
    await rows.held_job(await rows.renter(100))
    with pytest.raises(Exception, match=r"(?i)constraint"):
        await database.run(partial(execute, database, bad))


async def test_balance_never_exceeds_its_limit(database: Database, rows: Rows) -> None:
    renter_id = await rows.renter(1)
    too_much = Transfer(TransferKind.CREDIT, EXTERNAL, rules.renter(renter_id), MAX_BALANCE_MICROS)
    with pytest.raises(DomainError) as caught:
        await database.run(lambda: ledger.apply([too_much], NOW_MS))
    assert caught.value.reason is Reason.AMOUNT_TOO_LARGE
    assert await database.read(lambda: ledger.balance(rules.renter(renter_id))) == micros(1)
    assert (await database.read(prove)).discrepancies == ()


@pytest.mark.parametrize(
    ("tamper", "discrepancy"),
    [
        (
            lambda: Account.update(balance_micros=7).where(Account.kind == "renter").execute(),
            "stored as 0.000007 halala",
        ),
        (lambda: Hold.update(amount_micros=99).execute(), "100 halala of it remain"),
        (lambda: Hold.update(state="voided", charge_micros=0).execute(), "remain"),
        (
            lambda: TransferRow.insert(
                kind="fee", debit_account_id=2, credit_account_id=1, amount_micros=5, created_ms=0
            ).execute(),
            "replays to",
        ),
        (lambda: Job.update(state="completed").execute(), "though its job is"),
    ],
)
async def test_proof_finds_tampered_rows(
    database: Database, rows: Rows, tamper: object, discrepancy: str
) -> None:
    await rows.held_job(await rows.renter(1000))
    assert (await database.read(prove)).discrepancies == ()
    assert callable(tamper)
    await database.run(tamper)
    assert discrepancy in " | ".join((await database.read(prove)).discrepancies)


async def test_outdated_reading_of_a_withdrawal_cannot_move_it(database: Database, rows: Rows) -> None:
    """Two operators read the same row; the second write changes nothing."""
    provider_id = await rows.provider()

    def move(read: Withdrawal, state: WithdrawalState) -> bool:
        return withdrawals.move(read, state, NOW_MS, reference=None, reason=None)

    number = await database.run(lambda: withdrawals.insert(provider_id, 1000, "SA1234", NOW_MS))
    read = await database.read(lambda: withdrawals.get(number))
    assert read is not None
    assert await database.run(lambda: move(read, WithdrawalState.REJECTED))
    assert not await database.run(lambda: move(read, WithdrawalState.PROCESSING))
    now = await database.read(lambda: withdrawals.get(number))
    assert now is not None
    assert now.state is WithdrawalState.REJECTED


async def test_settlement_takes_five_statements(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One for what leaves the hold, one for each account that gets a part, and one for all transfers."""
    async with databases.opened(sqlite_url) as database:
        rows = Rows(database)
        provider_id, renter_id = await rows.provider(), await rows.renter(100)
        job_id = await rows.held_job(renter_id)
        bill = rules.make_bill(micros(100), micros(50), 30_000)
        parts = list(rules.settlement(bill, renter_id, provider_id, job_id, KIND, matures=True))
        await database.run(lambda: ledger.apply([replace(part, amount_micros=1) for part in parts], NOW_MS))
        with recorded(database, monkeypatch) as seen:
            await database.run(lambda: ledger.apply([replace(p, amount_micros=2) for p in parts], NOW_MS))
        assert len(parts) == 3
        own = [sql for sql, _ in seen if sql not in ("BEGIN IMMEDIATE", "COMMIT")]
        assert [sql.split()[0] for sql in own] == ["UPDATE"] * 4 + ["INSERT"]
        assert await database.read(lambda: ledger.balance(rules.held(renter_id))) == micros(100) - 3 - 6

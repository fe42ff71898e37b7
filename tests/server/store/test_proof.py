"""The proof of the ledger from a checkpoint, the full replay, and what each finds."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest

from server.domain import ledger as rules
from server.domain.errors import DomainError
from server.domain.jobs import JobType
from server.domain.money import micros
from server.domain.proof import Extent, Proof
from server.services.operators.proofs import Proofs
from server.store import ledger, proof, renters
from server.store.database import Database
from tests.server.store.rows import NOW_MS, Rows
from tests.support.databases import execute
from tests.support.manual_clock import ManualClock
from tests.support.plans import recorded, walks

CHECKPOINT = 10
TABLES = ("transfer", "checkpoint", "checkpoint_sum", "checkpoint_hold")


@pytest.fixture
def proofs(database: Database, clock: ManualClock) -> Proofs:
    return Proofs(database, clock, CHECKPOINT)


async def trade(database: Database, rows: Rows, jobs: int) -> None:
    """A renter with jobs: each is held, and every second one is charged and completed."""
    renter_id, provider_id = await rows.renter(jobs * 100), await rows.provider()
    for number in range(jobs):
        job_id = await rows.held_job(renter_id)
        if number % 2:
            await database.run(partial(settle, database, job_id, renter_id, provider_id))


def settle(database: Database, job_id: str, renter_id: int, provider_id: int) -> None:
    ledger.resolve_hold(job_id, micros(40), NOW_MS)
    bill = rules.make_bill(micros(100), micros(40), 60_000)
    parties = (renter_id, provider_id, job_id, JobType.BENCHMARK)
    ledger.apply(rules.settlement(bill, *parties, matures=False), NOW_MS)
    execute(database, f"UPDATE job SET state = 'completed' WHERE job_id = '{job_id}'")


async def both(database: Database) -> tuple[Proof, Proof]:
    return await database.read(proof.prove), await database.read(proof.replay)


async def tamper(database: Database, change: str) -> None:
    """Changes rows past the guards, as somebody with the database's own tools can."""

    def work() -> None:
        if database.is_sqlite:
            for table in TABLES:
                for event in ("update", "delete"):
                    execute(database, f"DROP TRIGGER {table}_no_{event}")
        else:
            execute(database, "SET LOCAL session_replication_role = replica")
        execute(database, change)

    await database.run(work)


async def test_proof_starts_from_the_newest_checkpoint(
    database: Database, rows: Rows, proofs: Proofs
) -> None:
    await trade(database, rows, 10)  # 31 transfers: one credit, ten holds, five times four
    before = (await both(database))[0]
    assert (before.checkpoint_id, before.transfers, before.transfers_read) == (0, 31 - 5, 31 - 5)
    await proofs.tick()
    await trade(database, rows, 2)
    short, full = await both(database)
    assert [short.is_balanced, full.is_balanced] == [True, True]
    assert (short.checkpoint_id, full.checkpoint_id) == (2, 2)
    assert (short.transfers_read, full.transfers_read) == (full.transfers - 2 * CHECKPOINT, full.transfers)
    assert (short.transfers, short.open_holds, short.open_holds_micros, short.postings_sum_micros) == (
        full.transfers,
        full.open_holds,
        full.open_holds_micros,
        0,
    )


AFTER = f"id = (SELECT MIN(id) FROM transfer WHERE kind = 'hold' AND id > {2 * CHECKPOINT})"
TAMPERINGS = {
    "amount changed": f"UPDATE transfer SET amount_micros = amount_micros + 1 WHERE {AFTER}",
    "posting deleted": f"DELETE FROM transfer WHERE {AFTER}",
    "balance changed": "UPDATE account SET balance_micros = balance_micros + 1 WHERE kind = 'platform'",
    "two balances exchanged": "UPDATE account SET balance_micros = CASE kind WHEN 'platform' "
    "THEN balance_micros + 1 ELSE balance_micros - 1 END WHERE kind IN ('platform', 'provider')",
    "sum of a checkpoint changed": "UPDATE checkpoint_sum SET sum_micros = sum_micros + 1 "
    "WHERE checkpoint_id = 2",
    "old sum of a checkpoint changed": "UPDATE checkpoint_sum SET sum_micros = sum_micros + 1 WHERE "
    "checkpoint_id = 1 AND account_id NOT IN (SELECT account_id FROM checkpoint_sum WHERE checkpoint_id = 2)",
    "hold of a checkpoint changed": "UPDATE checkpoint_hold SET amount_micros = 99 WHERE checkpoint_id = 2",
    "count of a checkpoint changed": "UPDATE checkpoint SET transfers = transfers + 1 WHERE id = 2",
    "end of a checkpoint changed": "UPDATE checkpoint SET transfer_id = transfer_id + 1 WHERE id = 2",
    "digest of the checkpoint before changed": "UPDATE checkpoint SET sha256 = rows_sha256 WHERE id = 1",
}


@pytest.mark.parametrize("tampering", TAMPERINGS)
async def test_tampering_is_found_by_proof_and_by_replay(
    database: Database, rows: Rows, proofs: Proofs, tampering: str
) -> None:
    await trade(database, rows, 10)
    await proofs.tick()
    await trade(database, rows, 3)
    assert [found.discrepancies for found in await both(database)] == [(), ()]
    await tamper(database, TAMPERINGS[tampering])
    assert [bool(found.discrepancies) for found in await both(database)] == [True, True]


# What the proof of changes does not find while the account does not move: it reads none of it.
WALLET = "(SELECT id FROM account WHERE kind = 'renter' AND owner_id = 1)"
UNREAD = {
    "balance changed": f"UPDATE account SET balance_micros = balance_micros + 1 WHERE id = {WALLET}",
    "sum changed": f"UPDATE checkpoint_sum SET sum_micros = sum_micros + 1 WHERE account_id = {WALLET} AND "
    f"checkpoint_id = (SELECT MAX(checkpoint_id) FROM checkpoint_sum WHERE account_id = {WALLET})",
}


@pytest.mark.parametrize("tampering", UNREAD)
async def test_tampering_with_an_account_that_does_not_move_is_found_by_the_proof_of_all(
    database: Database, rows: Rows, proofs: Proofs, tampering: str
) -> None:
    await trade(database, rows, 10)
    await trade(database, rows, 10)  # fills the checkpoint that has the last transfers of the first renter
    await proofs.tick()
    await tamper(database, UNREAD[tampering])
    short, full = await both(database)
    changes = await proofs.prove_changes()
    assert [bool(found.discrepancies) for found in (changes, short, full)] == [False, True, True]
    assert [found.extent for found in (changes, short, full)] == list(Extent)
    topup = rules.Transfer(rules.TransferKind.TOPUP, rules.EXTERNAL, rules.renter(1), 10)
    await database.run(partial(ledger.apply, [topup], NOW_MS))
    assert (await proofs.prove_changes()).discrepancies != ()


LAST = "id = (SELECT MAX(id) FROM transfer)"
TOUCHED = {
    "amount changed": f"UPDATE transfer SET amount_micros = amount_micros + 1 WHERE {LAST}",
    "posting deleted": f"DELETE FROM transfer WHERE {LAST}",
    "balance changed": TAMPERINGS["balance changed"],
    "balance of open holds changed": "UPDATE account SET balance_micros = balance_micros - 100 "
    "WHERE kind = 'renter_held' AND owner_id = 1",
    "old hold closed": "UPDATE hold SET state = 'voided' WHERE job_id = "
    "(SELECT MIN(job_id) FROM hold WHERE state = 'open' AND renter_id = 1)",
    "hold of the checkpoint changed": "UPDATE checkpoint_hold SET amount_micros = 99 "
    "WHERE checkpoint_id = (SELECT MAX(id) FROM checkpoint)",
}


@pytest.mark.parametrize("tampering", TOUCHED)
async def test_tampering_with_what_moved_or_is_open_is_found_by_the_proof_of_changes(
    database: Database, rows: Rows, proofs: Proofs, tampering: str
) -> None:
    await trade(database, rows, 10)
    await trade(database, rows, 10)
    await proofs.tick()
    await trade(database, rows, 3)
    before, all_ = await proofs.prove_changes(), await proofs.prove()
    assert replace(before, extent=Extent.ACCOUNTS) == all_
    await tamper(database, TOUCHED[tampering])
    assert (await proofs.prove_changes()).discrepancies != ()


HISTORY = {
    "two amounts exchanged": "UPDATE transfer SET amount_micros = CASE kind WHEN 'payout' "
    "THEN amount_micros - 1 ELSE amount_micros + 1 END WHERE kind IN ('payout', 'fee') "
    "AND job_id = (SELECT MIN(job_id) FROM transfer WHERE kind = 'fee')",
    "time changed": "UPDATE transfer SET created_ms = created_ms + 1 WHERE id = 3",
    "credit deleted": "DELETE FROM transfer WHERE id = 1",
}


@pytest.mark.parametrize("tampering", HISTORY)
async def test_replay_finds_a_change_of_what_a_checkpoint_covers(
    database: Database, rows: Rows, proofs: Proofs, tampering: str
) -> None:
    """The proof does not: it does not read these rows, however many there are."""
    await trade(database, rows, 10)
    await proofs.tick()
    await tamper(database, HISTORY[tampering])
    short, full = await both(database)
    assert short.discrepancies == ()
    assert "checkpoint 1 does not agree with the transfers" in " | ".join(full.discrepancies)


CHARGES = {
    "charge changed": "UPDATE hold SET charge_micros = charge_micros - 1 WHERE {charged}",
    "hold of another": "UPDATE hold SET renter_id = {other} WHERE {charged}",
    "hold voided": "UPDATE hold SET state = 'voided' WHERE {charged}",
    "fee called a refund": "UPDATE transfer SET kind = 'refund' WHERE kind = 'fee' AND {charged}",
    "credit called a fee": "UPDATE transfer SET kind = 'fee' WHERE id = 1",
}


@pytest.mark.parametrize("tampering", CHARGES)
async def test_replay_finds_charges_that_are_not_what_was_paid(
    database: Database, rows: Rows, tampering: str
) -> None:
    await trade(database, rows, 4)
    charged = "job_id = (SELECT MIN(job_id) FROM transfer WHERE kind = 'fee')"
    await tamper(database, CHARGES[tampering].format(charged=charged, other=await rows.renter()))
    assert "halala for jobs, and the charges of its holds are" in " | ".join(
        (await database.read(proof.replay)).discrepancies
    )


async def test_checkpoint_is_made_only_of_a_ledger_that_balances(
    database: Database, rows: Rows, proofs: Proofs
) -> None:
    await trade(database, rows, 10)
    await database.run(
        partial(execute, database, "UPDATE account SET balance_micros = 1 WHERE kind = 'platform'")
    )
    await proofs.tick()
    assert (await proofs.prove()).checkpoint_id == 0


@pytest.mark.parametrize("table", TABLES[1:])
@pytest.mark.parametrize("change", ["DELETE FROM {}", "UPDATE {0} SET {1} = {1}"])
async def test_database_itself_refuses_to_change_a_checkpoint(
    database: Database, rows: Rows, proofs: Proofs, table: str, change: str
) -> None:
    await trade(database, rows, 10)
    await proofs.tick()
    column = "sha256" if table == "checkpoint" else "checkpoint_id"
    with pytest.raises(Exception, match="checkpoints are immutable"):
        await database.run(partial(execute, database, change.format(table, column)))


async def test_two_servers_that_make_the_same_checkpoint_store_it_once(
    database: Database, rows: Rows
) -> None:
    await trade(database, rows, 10)
    through = await database.run(proof.settled_id)
    made = await database.read(lambda: proof.next_checkpoint(through, CHECKPOINT))
    assert made is not None
    for _ in range(2):
        await database.run(partial(proof.add_checkpoint, made, NOW_MS))
    assert [found.discrepancies for found in await both(database)] == [(), ()]


async def test_proof_reads_no_more_of_a_longer_history(
    database: Database, rows: Rows, proofs: Proofs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many statements, and on SQLite none that walks through a table which grows with the jobs."""
    lengths: list[list[int]] = []
    for _ in range(2):
        await trade(database, rows, 20)
        await proofs.tick()
        lengths.append([])
        for prove in (proofs.prove, proofs.prove_changes):
            with recorded(database, monkeypatch) as statements:
                found = await prove()
            lengths[-1].append(len(statements))
            assert found.transfers_read < CHECKPOINT
            assert await walks(database, statements) == {}
    assert lengths[0] == lengths[1]


async def fund(database: Database, renter_id: int) -> None:
    await database.run(lambda: ledger.apply([rules.funding(renter_id, 100)], NOW_MS))


async def test_what_the_market_pays_for_checks_is_proved(
    database: Database, rows: Rows, proofs: Proofs
) -> None:
    own = await rows.renter(0)
    await database.run(lambda: renters.give_to_market(own))
    await fund(database, own)
    await trade(database, rows, 10)
    await proofs.tick()
    await fund(database, own)
    for found in await both(database):
        assert (found.discrepancies, found.canaries_micros, found.postings_sum_micros) == ((), 200, 0)


async def test_money_for_checks_that_another_renter_got_is_found(
    database: Database, rows: Rows, proofs: Proofs
) -> None:
    await fund(database, await rows.renter(0))
    for found in await both(database):
        assert "is no wallet of a renter of the market" in " | ".join(found.discrepancies)


async def test_market_never_gets_more_back_than_it_paid_for_checks(database: Database, rows: Rows) -> None:
    renter_id = await rows.renter(100)
    back = rules.Transfer(rules.TransferKind.REFUND, rules.renter(renter_id), rules.CANARY_BUDGET, 1)
    with pytest.raises(DomainError):
        await database.run(lambda: ledger.apply([back], NOW_MS))

"""Migrations: a database of an earlier release is upgraded with its rows."""

from __future__ import annotations

import json
import re
import time
from functools import partial
from pathlib import Path
from typing import Any

import peewee as pw
import pytest
from playhouse.migrations import Runner

import server.store
from server.domain.jobs import Bill, FailureReason, Job, JobState
from server.domain.leases import MAX_OUTPUT_BYTES, Lease, LeaseState
from server.domain.money import micros
from server.store import jobs, leases, queue
from server.store.database import CONTRACT, Database
from server.store.models import MODELS, Account, Hold, JobTally, Provider, Renter, Transfer, WebhookDelivery
from server.store.proof import prove
from tests.support import databases
from tests.support.databases import Postgres, connection, execute, fetch_one

MIGRATIONS = Path(server.store.__path__[0]) / "migrations"
LAST_OF_ONE_SERVER = 33
TAKES_AWAY = ("DROP TABLE", "DROP COLUMN", "DROP DEFAULT", "RENAME", "SET NOT NULL", " TYPE ")
ROWS_OF_0001 = [
    "INSERT INTO provider (name, email, email_key, gpu_model, gpu_vram_mib, os, phone, state, session_epoch,"
    " connected, draining, models_reported, job_types, last_heartbeat_ms, gpu_status, created_ms) VALUES"
    " ('P', 'p', 'p', '', 0, '', '', 'active', 1, FALSE, FALSE, FALSE, '', 12345, '{}', 1)",
    "INSERT INTO renter (name, email, email_key, organization, phone, state, created_ms)"
    " VALUES ('R', 'r', 'r', '', '', 'active', 1)",
    *(
        "INSERT INTO job (job_id, renter_id, job_type, state, duration_ms, limit_ms, priority, hold_halala,"
        " rate_halala_per_minute, spec, lease_epoch, attempt, created_ms, output_bytes, content_type,"
        f" request_digest) VALUES ('{state}', 1, 'benchmark', '{state}', 60000, 60000, 2, 100, 100, '{{}}',"
        f" 1, 1, 1, 0, '', '')"
        for state in ("queued", "running", "failed")
    ),
    *(
        "INSERT INTO lease (job_id, lease_epoch, provider_id, session_epoch, secret_sha256, state, attempt,"
        " offered_ms, outcome, detail, output_through_seq, log_through_seq) VALUES"
        f" ('{job_id}', {epoch}, 1, 1, EMPTY, '{state}', 1, 1, {outcome}, '{detail}', 0, 0)"
        for job_id, epoch, state, outcome, detail in (
            ("running", 1, "running", "NULL", ""),
            ("failed", 1, "ended", "'failed'", "BAD_PARAMS"),
            ("failed", 2, "ended", "'failed'", "ended by the server"),
            ("failed", 3, "ended", "'lost'", "its provider went silent"),
        )
    ),
]

LEDGER_OF_0002 = [
    "INSERT INTO renter (name, email, email_key, organization, phone, state, created_ms)"
    " VALUES ('R', 'r', 'r', '', '', 'active', 1)",
    "INSERT INTO job (job_id, renter_id, job_type, state, duration_ms, limit_ms, priority, hold_halala,"
    " rate_halala_per_minute, spec, lease_epoch, attempt, created_ms, output_bytes, content_type,"
    " request_digest) VALUES ('job', 1, 'benchmark', 'queued', 60000, 60000, 2, 20, 100, '{}',"
    " 1, 1, 1, 0, '', '')",
    "INSERT INTO account (id, kind, owner_id, balance_halala)"
    " VALUES (1, 'external', 0, -70), (3, 'renter', 1, 50), (8, 'renter_held', 1, 20)",
    "INSERT INTO transfer (id, kind, debit_account_id, credit_account_id, amount_halala, job_id, created_ms)"
    " VALUES (4, 'credit', 1, 3, 70, NULL, 9), (6, 'hold', 3, 8, 20, 'job', 9)",
    "INSERT INTO hold (job_id, renter_id, amount_halala, state, created_ms) VALUES ('job', 1, 20, 'open', 9)",
]


LEDGER_OF_0027 = [
    "INSERT INTO renter (id, name, email, mailbox, organization, phone, state, created_ms)"
    " VALUES (1, 'R', 'r', 'r', '', '', 'active', 1)",
    "INSERT INTO provider (id, name, email, mailbox, gpu_model, gpu_vram_mib, os, phone, state,"
    " session_epoch, connected, draining, models_reported, job_types, last_heartbeat_ms, gpu_status,"
    " created_ms) VALUES (1, 'P', 'p', 'p', '', 0, '', '', 'active', 1, FALSE, FALSE, FALSE, '', 12345,"
    " '{}', 1)",
    "INSERT INTO job (job_id, renter_id, job_type, state, duration_ms, limit_ms, priority, hold_halala,"
    " rate_halala_per_minute, spec, lease_epoch, attempt, created_ms, ended_ms, billed_ms, charge_halala,"
    " output_bytes, content_type, request_digest, provider_id) VALUES ('job', 1, 'benchmark', 'completed',"
    " 12000, 12000, 2, 20, 100, '{}', 1, 1, 1, 9, 6000, 10, 1, '', '', 1)",
    "INSERT INTO hold (job_id, renter_id, amount_halala, state, charge_halala, created_ms, resolved_ms)"
    " VALUES ('job', 1, 20, 'posted', 10, 9, 9)",
    "INSERT INTO withdrawal (id, provider_id, amount_halala, state, iban, iban_last4, created_ms)"
    " VALUES (1, 1, 5, 'pending', 'SA', 'SA', 9)",
    "INSERT INTO account (id, kind, owner_id, balance_halala) VALUES"
    " (1, 'external', 0, -60), (2, 'renter', 1, 50), (3, 'renter_held', 1, 0),"
    " (4, 'provider', 1, 3), (5, 'platform', 0, 2), (6, 'withdrawal', 1, 5)",
    "INSERT INTO transfer (id, kind, debit_account_id, credit_account_id, amount_halala, job_id,"
    " withdrawal_id, created_ms) VALUES (1, 'credit', 1, 2, 60, NULL, NULL, 9),"
    " (2, 'hold', 2, 3, 20, 'job', NULL, 9), (3, 'payout', 3, 4, 8, 'job', NULL, 9),"
    " (4, 'fee', 3, 5, 2, 'job', NULL, 9), (5, 'refund', 3, 2, 10, 'job', NULL, 9),"
    " (6, 'withdraw', 4, 6, 5, NULL, 1, 9)",
]


def create_first_schema(url: str) -> None:
    """Creates a database as the first release left it."""
    database = Database(url)
    raw = database.peewee
    empty = "CAST('' AS BLOB)" if url.startswith("sqlite") else "''"
    Runner(raw, str(MIGRATIONS)).up("0001_initial")
    with raw.atomic():
        for statement in ROWS_OF_0001:
            execute(database, statement.replace("EMPTY", empty))
    raw.close()


async def test_rows_of_the_first_release_are_kept(new_database_url: str) -> None:
    create_first_schema(new_database_url)
    before_ms = int(time.time() * 1000)
    async with databases.opened(new_database_url) as database:

        def read() -> tuple[dict[str, Job | None], list[Lease], int | None]:
            found = {job_id: jobs.get(job_id) for job_id in ("queued", "running", "failed")}
            history = [*leases.of_job("running", 9), *leases.of_job("failed", 9)]
            return found, history, Provider.get_by_id(1).renewed_ms

        found, history, renewed_ms = await database.read(read)
        assert await database.read(lambda: (jobs.unstarted(before_ms, 9), queue.has_queued())) == ([], True)
    for state, job in found.items():
        assert job is not None
        assert job.state is JobState(state)
        assert (job.lost_after_ms, job.start_within_ms, job.output_truncated) == (300_000, 600_000, False)
        assert job.start_by_ms >= before_ms + 600_000  # it had no deadline before: it gets the full time now
    assert [lease.failure_reason for lease in history] == [
        None,
        FailureReason.BAD_PARAMS,
        FailureReason.DURATION_LIMIT,
        None,
    ]
    assert (history[0].state, history[0].output_limit_bytes) == (LeaseState.RUNNING, MAX_OUTPUT_BYTES)
    assert renewed_ms == 12345


async def test_ledger_of_an_earlier_release_is_kept(new_database_url: str) -> None:
    """SQLite rebuilds its tables: ids, balances, guards and references must be the same afterwards."""
    database = Database(new_database_url)
    raw = database.peewee
    for name in ("0001_initial", "0002_sessions_complete"):
        Runner(raw, str(MIGRATIONS)).up(name)
    with raw.atomic():
        for statement in LEDGER_OF_0002:
            execute(database, statement)
    raw.close()
    async with databases.opened(new_database_url) as database:
        proof = await database.read(prove)
        assert (proof.transfers, proof.discrepancies) == (2, ())
        rows = await database.read(lambda: list(Transfer.select().order_by(Transfer.id).tuples()))
        assert rows == [
            (4, "credit", 1, 3, 70_000_000, None, None, 9, None),
            (6, "hold", 3, 8, 20_000_000, "job", None, 9, None),
        ]
        for change in ("UPDATE transfer SET amount_micros = 1", "DELETE FROM transfer"):
            with pytest.raises(Exception, match="transfers are immutable"):
                await database.run(partial(execute, database, change))
        for bad in (
            "INSERT INTO transfer (kind, debit_account_id, credit_account_id, amount_micros, created_ms) "
            "VALUES ('credit', 1, 999, 5, 0)",
            "DELETE FROM account WHERE id = 3",
            "UPDATE account SET kind = 'purse' WHERE id = 3",
        ):
            with pytest.raises(Exception, match=r"(?i)constraint"):
                await database.run(partial(execute, database, bad))


async def test_accounts_may_owe_only_as_debt_and_keep_what_they_had(new_database_url: str) -> None:
    """SQLite's check is changed in place: rows stay, and the new check is obeyed."""
    database = Database(new_database_url)
    raw = database.peewee
    for path in sorted(MIGRATIONS.glob("00*.py"))[:18]:
        Runner(raw, str(MIGRATIONS)).up(path.stem)
    with raw.atomic():
        execute(
            database,
            "INSERT INTO account (id, kind, owner_id, balance_halala)"
            " VALUES (101, 'external', 0, -70), (103, 'provider', 1, 50), (108, 'withdrawal', 1, 20)",
        )
    raw.close()
    async with databases.opened(new_database_url) as database:
        query = Account.select(Account.id, Account.kind, Account.balance_micros).order_by(Account.id)
        assert await database.read(lambda: list(query.tuples())) == [
            (101, "external", -70_000_000),
            (103, "provider", 50_000_000),
            (108, "withdrawal", 20_000_000),
        ]
        insert = "INSERT INTO account (kind, owner_id, balance_micros) VALUES ('{}', 9, {})"
        for kind, amount in (("provider_maturing", 1), ("provider_disputed", 1), ("provider_debt", -1)):
            await database.run(partial(execute, database, insert.format(kind, amount)))
        for kind, amount in (
            ("provider", -1),
            ("provider_maturing", -1),
            ("platform", -1),
            ("provider_debt", 1),
            ("purse", 1),
        ):
            with pytest.raises(Exception, match=r"(?i)constraint"):
                await database.run(partial(execute, database, insert.format(kind, amount).replace("9", "10")))
        if database.is_sqlite:
            assert await database.read(lambda: fetch_one(database, "PRAGMA integrity_check")) == ("ok",)


async def test_amounts_become_micros_and_keep_their_value(new_database_url: str) -> None:
    """The shares of a charge were rounded before, so a bill keeps the payout that was really made."""
    database = Database(new_database_url)
    raw = database.peewee
    names = [path.stem for path in sorted(MIGRATIONS.glob("00*.py"))]
    before = names.index("0028_micros")
    for name in names[:before]:
        Runner(raw, str(MIGRATIONS)).up(name)
    bill = {
        "hold_halala": 20,
        "charge_halala": 10,
        "refund_halala": 10,
        "payout_halala": 8,
        "fee_halala": 2,
        "billed_ms": 6_000,
    }
    facts = json.dumps({"job_id": "job", "bill": bill, "rate_halala_per_minute": 100})
    low = json.dumps({"balance_halala": 5, "balance_low_halala": 9})
    with raw.atomic():
        for statement in LEDGER_OF_0027:
            execute(database, statement)
        for event, text in (("job.completed", facts), ("balance.low", low)):
            execute(
                database,
                "INSERT INTO webhook_delivery (renter_id, event_id, event, body, status, created_ms,"
                f" attempts, next_ms, facts) VALUES (1, '{event}', '{event}', '', 'waiting', 9, 0, 9,"
                f" '{text}')",
            )
    raw.close()
    async with databases.opened(new_database_url) as database:
        found = await database.read(prove)
        assert (found.transfers, found.discrepancies, found.postings_sum_micros) == (6, (), 0)
        assert (found.claimable_micros, found.open_withdrawals_micros) == (micros(3), micros(5))
        job = await database.read(lambda: jobs.get("job"))
        assert job is not None
        amounts = (micros(20), micros(10), micros(10), micros(8), micros(2))
        assert job.bill == Bill(*amounts, billed_ms=6_000)
        rows = await database.read(lambda: [json.loads(row.facts) for row in WebhookDelivery.select()])
        assert [Bill(**row["bill"]) for row in rows if "bill" in row] == [job.bill]
        assert json.loads(low) in rows
        with pytest.raises(Exception, match="transfers are immutable"):
            await database.run(partial(execute, database, "UPDATE transfer SET amount_micros = 1"))
        with pytest.raises(Exception, match=r"(?i)constraint"):
            await database.run(partial(execute, database, "UPDATE account SET balance_micros = -1"))


async def test_states_of_renters_are_kept_and_guarded(new_database_url: str) -> None:
    """A new column replaces the old: values, guard and references must be the same afterwards."""
    database = Database(new_database_url)
    raw = database.peewee
    for path in sorted(MIGRATIONS.glob("000[1-6]*.py")):
        Runner(raw, str(MIGRATIONS)).up(path.stem)
    renter = "INSERT INTO renter (name, email, email_key, organization, phone, state, created_ms) VALUES"
    with raw.atomic():
        for state in ("active", "suspended"):
            execute(database, f"{renter} ('{state}', '{state}', '{state}', '', '', '{state}', 1)")
        execute(
            database,
            "INSERT INTO hold (job_id, renter_id, amount_halala, state, created_ms)"
            " VALUES ('job', 2, 20, 'open', 9)",
        )
    raw.close()
    async with databases.opened(new_database_url) as database:
        rows = await database.read(
            lambda: [(row.name, row.state, row.erase_from_ms) for row in Renter.select()]
        )
        assert sorted(rows) == [("active", "active", None), ("suspended", "suspended", None)]
        await database.run(partial(execute, database, "UPDATE renter SET state = 'deleted' WHERE id = 1"))
        for bad in ("UPDATE renter SET state = 'gone'", "DELETE FROM renter WHERE id = 2"):
            with pytest.raises(Exception, match=r"(?i)constraint"):
                await database.run(partial(execute, database, bad))


async def test_mailbox_belongs_to_its_oldest_account(new_database_url: str) -> None:
    """Addresses of an older release that are one mailbox break no migration, and no account is lost."""
    database = Database(new_database_url)
    raw = database.peewee
    for path in sorted(MIGRATIONS.glob("00*.py"))[:21]:
        Runner(raw, str(MIGRATIONS)).up(path.stem)
    addresses = (
        "omar+1@example.com",
        "s.ara@googlemail.com",
        "sara@gmail.com",
        "omar@example.com",
        "o@x.com",
    )
    provider = (
        "INSERT INTO provider (name, email, email_key, gpu_model, gpu_vram_mib, os, phone, state,"
        " session_epoch, connected, draining, models_reported, job_types, gpu_status, created_ms) VALUES"
        " ('P', '{0}', '{0}', '', 0, '', '', 'active', 1, FALSE, FALSE, FALSE, '', '{{}}', 1)"
    )
    renter = (
        "INSERT INTO renter (name, email, email_key, organization, phone, created_ms)"
        " VALUES ('R', '{0}', '{0}', '', '', 1)"
    )
    with raw.atomic():
        for email in addresses:
            execute(database, provider.format(email))
            execute(database, renter.format(email))
        execute(database, renter.format("deleted 6"))
    raw.close()
    async with databases.opened(new_database_url) as database:
        for model in (Provider, Renter):
            query = model.select(model.mailbox).order_by(model.id).limit(5).tuples()
            boxes: list[tuple[str | None]] = await database.read(partial(list, query))
            assert [box for (box,) in boxes] == ["omar@example.com", "sara@gmail.com", None, None, "o@x.com"]
            again = f"UPDATE {model._meta.table_name} SET mailbox = 'o@x.com' WHERE id = 4"
            with pytest.raises(Exception, match=r"(?i)constraint"):
                await database.run(partial(execute, database, again))
        assert (await database.read(lambda: Renter.get_by_id(6))).mailbox is None
        if database.is_sqlite:
            assert await database.read(lambda: fetch_one(database, "PRAGMA integrity_check")) == ("ok",)


async def test_holds_and_payouts_get_the_types_of_their_jobs_and_past_days_are_counted(
    new_database_url: str,
) -> None:
    database = Database(new_database_url)
    raw = database.peewee
    Runner(raw, str(MIGRATIONS)).up("0001_initial")
    with raw.atomic():
        for statement in LEDGER_OF_0002:
            execute(database, statement)
        execute(database, "UPDATE job SET state = 'completed', ended_ms = 86400000 * 3 WHERE job_id = 'job'")
        execute(
            database, "INSERT INTO account (id, kind, owner_id, balance_halala) VALUES (9, 'provider', 1, 0)"
        )
        execute(
            database,
            "INSERT INTO transfer (id, kind, debit_account_id, credit_account_id, amount_halala, job_id,"
            " created_ms) VALUES (7, 'payout', 8, 9, 15, 'job', 9)",
        )
    raw.close()
    async with databases.opened(new_database_url) as database:

        def read() -> tuple[list[Any], list[Any], list[Any]]:
            return (
                list(Transfer.select(Transfer.id, Transfer.job_type).order_by(Transfer.id).tuples()),
                list(Hold.select(Hold.job_type).tuples()),
                list(JobTally.select().tuples()),
            )

        assert await database.read(read) == (
            [(4, None), (6, None), (7, "benchmark")],
            [("benchmark",)],
            [(3, "completed", 1)],
        )
        with pytest.raises(Exception, match="transfers are immutable"):
            await database.run(partial(execute, database, "UPDATE transfer SET amount_micros = 1"))


def schema(database: Any) -> tuple[set[Any], set[Any]]:
    """The columns and indexes of a database, from its own catalogue."""
    # SQLite's integers have one size, and its booleans are integers; only PostgreSQL distinguishes them.
    is_sqlite = isinstance(database, pw.SqliteDatabase)
    whole = ("bigint", "smallint", "integer", "boolean", "bool")

    def kind_of(declared: str) -> str:
        return "integer" if is_sqlite and declared.lower() in whole else declared.lower()

    columns, indexes = set(), set()
    for table in set(database.get_tables()) - {"schema_migration", "sqlite_sequence"}:
        for column in database.get_columns(table):
            # SQLite's catalogue calls an integer primary key nullable; it never is.
            is_null = column.null and not column.primary_key
            columns.add((table, column.name, kind_of(column.data_type), is_null, column.primary_key))
        key = database.get_primary_keys(table)
        listed = {(table, *index.columns, index.unique) for index in database.get_indexes(table)}
        # SQLite does not list the primary key's index for every table.
        indexes |= listed - {(table, *key, True)}
    return columns, indexes


async def test_models_describe_what_the_migrations_create(new_database_url: str) -> None:
    database = Database(new_database_url)
    with database.peewee.bind_ctx(MODELS, bind_refs=False, bind_backrefs=False):
        database.peewee.create_tables(MODELS)
        declared, declared_indexes = schema(database.peewee)
        database.peewee.drop_tables(MODELS)
    database.peewee.close()
    async with databases.opened(new_database_url) as migrated:
        created, created_indexes = await migrated.read(lambda: schema(migrated.peewee))
    assert created == declared
    assert declared_indexes <= created_indexes


def test_every_migration_has_the_next_number() -> None:
    names = sorted(path.name for path in MIGRATIONS.glob("[0-9]*.py"))
    assert [int(name[:4]) for name in names] == list(range(1, len(names) + 1))


async def test_postgres_refuses_to_truncate_the_transfers(postgres: Postgres) -> None:
    async with databases.opened(postgres.new_database()) as database:
        for tables in ("transfer", "account, transfer"):
            with pytest.raises(Exception, match="transfers are immutable"):
                await database.run(partial(execute, database, f"TRUNCATE {tables}"))
        assert (await database.read(prove)).discrepancies == ()


@pytest.mark.parametrize(
    ("query", "index"),
    [
        (
            "SELECT job_id FROM job WHERE state = 'queued' AND start_by_ms <= 5 ORDER BY start_by_ms",
            "job_start_by",
        ),
        ("SELECT job_id FROM lease WHERE state = 'accepted' AND accepted_ms < 5", "lease_accepted"),
        (
            "SELECT outcome FROM lease WHERE provider_id = 1 AND state = 'ended' AND attempt > 0 "
            "ORDER BY ended_ms DESC, number DESC LIMIT 50",
            "lease_record",
        ),
        (
            "SELECT number FROM lease WHERE provider_id = 1 AND state = 'ended' AND attempt > 0 "
            "AND (ended_ms, number) < (5, 7) ORDER BY ended_ms DESC, number DESC LIMIT 50",
            "lease_record",
        ),
        ("SELECT rates FROM provider_terms WHERE changed_ms > 5", "provider_terms_changed"),
        (
            "SELECT job_id FROM job WHERE renter_id = 1 ORDER BY created_ms DESC, job_id DESC",
            "job_of_renter",
        ),
        (
            "SELECT id FROM api_key WHERE role = 'renter' AND owner_id = 1 ORDER BY id DESC",
            "api_key_of_owner",
        ),
        ("SELECT renter_id FROM webhook WHERE due_ms <= 5 ORDER BY due_ms LIMIT 9", "webhook_due"),
        (
            "SELECT id FROM webhook_delivery WHERE renter_id = 1 AND status = 'waiting' AND next_ms <= 5 "
            "ORDER BY next_ms",
            "webhook_delivery_waiting",
        ),
        (
            "SELECT id FROM webhook_delivery WHERE renter_id = 1 ORDER BY id DESC",
            "webhook_delivery_of_renter",
        ),
        ("SELECT id FROM incident WHERE began_ms IS NOT NULL ORDER BY id DESC", "incident_begun"),
        ("SELECT id FROM incident WHERE ended_ms < 5", "incident_ended"),
        ("SELECT id FROM provider WHERE NOT connected AND last_heartbeat_ms > 5", "provider_away"),
        ("SELECT id FROM withdrawal WHERE provider_id = 1 ORDER BY id DESC", "withdrawal_of_provider"),
        (
            "SELECT id, amount_micros, created_ms FROM transfer WHERE credit_account_id = 1 AND id > 5 "
            "ORDER BY id LIMIT 9",
            "transfer_credit_amount (credit_account_id=? AND id>?)",
        ),
        (
            "SELECT id FROM transfer WHERE credit_account_id IN (1, 2) AND kind = 'payout' "
            "AND created_ms = 5 AND job_id = 'job'",
            "transfer_amount_of_kind (kind=? AND created_ms=?)",
        ),
        (
            "SELECT job_id, kind, SUM(amount_micros) FROM transfer WHERE job_id IN ('a', 'b') AND kind IN "
            "('disputed', 'dispute_returned', 'dispute_refund', 'fee_refund') GROUP BY job_id, kind",
            "transfer_of_dispute",
        ),
        ("SELECT id FROM dispute WHERE renter_id = 1 ORDER BY id DESC", "dispute_of_renter"),
        ("SELECT id FROM dispute WHERE provider_id = 1 ORDER BY id DESC", "dispute_of_provider"),
        ("SELECT id FROM dispute WHERE state = 'open' ORDER BY id DESC", "dispute_in_state"),
        (
            "SELECT maturing_micros FROM dispute WHERE provider_id = 1 AND payout_id BETWEEN 5 AND 9",
            "dispute_payout",
        ),
        (
            "SELECT id FROM audit_entry WHERE object = 'job' AND object_id = '1' ORDER BY id DESC",
            "audit_entry_object",
        ),
        ("SELECT id FROM audit_entry WHERE object = 'job' ORDER BY id DESC", "audit_entry_kind"),
        ("SELECT job_id FROM job ORDER BY created_ms DESC, job_id DESC", "job_by_time"),
        (
            "SELECT job_id FROM job WHERE state = 'running' AND state IN "
            "('queued', 'pending', 'assigned', 'running') ORDER BY created_ms DESC, job_id DESC",
            "job_open",
        ),
        (
            "SELECT job_id FROM job WHERE state = 'failed' AND state IN ('completed', 'failed', 'cancelled') "
            "ORDER BY created_ms DESC, job_id DESC",
            "job_final (state=?)",
        ),
        (
            "SELECT SUM(amount_micros) FROM transfer WHERE kind = 'fee' AND created_ms >= 5",
            "COVERING INDEX transfer_amount_of_kind",
        ),
        (
            "SELECT SUM(amount_micros) FROM transfer WHERE kind = 'payout' AND created_ms >= 5 "
            "AND credit_account_id = 1",
            "COVERING INDEX transfer_earned (credit_account_id=? AND created_ms>?)",
        ),
        (
            "SELECT * FROM job WHERE provider_id = 1 AND created_ms <= 5 "
            "AND (created_ms < 5 OR job_id < 'job') ORDER BY created_ms DESC, job_id DESC",
            "job_of_provider (provider_id=? AND created_ms<?)",
        ),
        (
            "SELECT * FROM job WHERE provider_id = 1 AND state = 'failed' "
            "ORDER BY created_ms DESC, job_id DESC",
            "job_of_provider_in_state (provider_id=? AND state=?)",
        ),
        ("SELECT owner FROM repeat WHERE created_ms < 5", "repeat_created"),
        (
            "SELECT job_id FROM job WHERE ended_ms < 5 AND texts_removed_ms IS NULL ORDER BY ended_ms",
            "job_with_texts",
        ),
        (
            "SELECT SUM(artifact_bytes) FROM job WHERE renter_id = 1 AND artifact_bytes > 0",
            "COVERING INDEX job_files_of_renter",
        ),
        (
            "SELECT SUM(artifact_bytes) FROM job WHERE provider_id = 1 AND artifact_bytes > 0",
            "COVERING INDEX job_files_of_provider",
        ),
        ("SELECT id FROM renter WHERE erase_from_ms IS NOT NULL ORDER BY id", "renter_to_erase"),
        (
            "SELECT job_id FROM job WHERE state = 'queued' ORDER BY priority DESC, created_ms, job_id",
            "job_queue",
        ),
        (
            "UPDATE batch_line SET request = NULL WHERE job_id IN "
            "(SELECT job_id FROM job WHERE renter_id = 1)",
            "batch_line_job",
        ),
        (
            "SELECT renter_id, COUNT(id) FROM batch WHERE ended_ms IS NOT NULL GROUP BY renter_id "
            "HAVING COUNT(id) > 5",
            "COVERING INDEX batch_kept",
        ),
        (
            "SELECT id FROM batch WHERE state = 'failed' AND EXISTS (SELECT number FROM batch_line "
            "WHERE batch_line.batch_id = batch.id)",
            "batch_failed",
        ),
    ],
)
async def test_frequent_query_uses_its_index(sqlite_url: str, query: str, index: str) -> None:
    async with databases.opened(sqlite_url) as database:

        def plan() -> str:
            rows = connection(database).execute(f"EXPLAIN QUERY PLAN {query}").fetchall()
            return " | ".join(row[-1] for row in rows)

        shown = await database.read(plan)
    assert index in shown
    assert "TEMP B-TREE" not in shown


@pytest.mark.parametrize(
    "path",
    [path for path in sorted(MIGRATIONS.glob("[0-9]*.py")) if int(path.stem[:4]) > LAST_OF_ONE_SERVER],
    ids=lambda path: path.stem,
)
def test_migration_only_adds_unless_its_name_says_that_it_takes_away(path: Path) -> None:
    """A release's servers go on while the next one's migrations run, which must not break them."""
    text = path.read_text(encoding="utf-8").upper()
    takes_away = [word for word in TAKES_AWAY if word in text]
    columns = re.findall(r"ADD COLUMN[^;\"]*", text)
    takes_away += [column for column in columns if "NOT NULL" in column and "DEFAULT" not in column]
    assert takes_away == [] or path.stem.endswith(CONTRACT)

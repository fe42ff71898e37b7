"""Databases of a market that has grown: made by fast inserts of the oldest schema, then migrated.

Each job has its lease, hold and transfers, and the sums of the ledger are those of the transfers, so its proof is
clean. A database is kept in .cache/bench, where git does not look, until it is older than MAX_AGE_SECONDS: its
times are relative to its creation, and the server would begin to remove the texts of its oldest jobs.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import shutil
import sqlite3
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import peewee
from playhouse.migrations import Runner

from scripts.benchmarks.processes import ROOT, BenchError, say
from server.clock import SystemClock
from server.domain import pricing
from server.domain.jobs import FailureReason, JobType
from server.domain.leases import LeaseOutcome
from server.services.operators.proofs import Proofs
from server.store.database import Database
from server.store.models import Checkpoint

CACHE = ROOT / ".cache" / "bench"
MIGRATIONS = ROOT / "server" / "store" / "migrations"
# The oldest schema from which a market of this size is migrated.
SCHEMA = "0015_webhooks"
# Counted up with each change of what is inserted.
VERSION = 1
MAX_AGE_SECONDS = 14 * 24 * 3600.0
MODEL = "bench/noop"
PROMPT = "Say nothing."
FILE_NAME, FILE_BYTES, FILE_KEY = "out.txt", b"done\n", "0" * 32
DAY_MS = 24 * 3600 * 1000
RATE_HALALA, HOLD_HALALA, BILLED_MS = 100, 100, 8_000
CHARGE_HALALA = pricing.charge_halala(RATE_HALALA, BILLED_MS, HOLD_HALALA)
PAYOUT_HALALA, FEE_HALALA = pricing.shares(CHARGE_HALALA)
TEXT_DAYS = 14
EXTERNAL, PLATFORM, FIRST_RENTER_ACCOUNT = 1, 2, 3


@dataclass(frozen=True, slots=True)
class Shape:
    """How many rows: about ten jobs for each renter and a hundred for each provider.

    In a large market, renter 1 and provider 1 each have a tenth of all jobs. Renter 2 and provider 2 are usual.
    """

    jobs: int
    has_large: bool

    @property
    def renters(self) -> int:
        """The number of renters."""
        return max(10, self.jobs // 10)

    @property
    def providers(self) -> int:
        """The number of providers."""
        return max(5, self.jobs // 100)

    @property
    def key(self) -> str:
        """The name of its files."""
        return f"growth-{self.jobs}-{'large' if self.has_large else 'usual'}-v{VERSION}"


def api_key(role: str, number: int) -> str:
    """The key of an account; the keys of all others are random bytes that nobody knows."""
    return f"dcp-{role}-of-the-bench-{number}"


def base(shape: Shape, *, fresh: bool) -> Path:
    """The database at the oldest schema, made if it is missing, too old or to be made again."""
    path = CACHE / f"{shape.key}-{SCHEMA}.sqlite3"
    if fresh or not path.exists() or time.time() - path.stat().st_mtime > MAX_AGE_SECONDS:
        CACHE.mkdir(parents=True, exist_ok=True)
        for old in CACHE.glob(f"growth-{shape.jobs}-*"):
            old.unlink()
        begun, unfinished = time.monotonic(), path.with_suffix(".unfinished")
        unfinished.unlink(missing_ok=True)
        say(f"creating a database of {shape.jobs:,} jobs, which is kept in {CACHE.relative_to(ROOT)}")
        create(unfinished, shape)
        unfinished.rename(path)
        say(f"created {path.stat().st_size / 1e9:.2f} GB in {time.monotonic() - begun:.0f} s")
    return path


def current(shape: Shape, migrated: Path | None) -> Path:
    """The database at this program's schema, with a checkpoint; from a migrated copy if it is missing."""
    path = CACHE / f"{shape.key}.sqlite3"
    if not path.exists():
        if migrated is None:
            raise BenchError(f"{path} is missing; run scripts/bench growth --fresh")
        say("proving its ledger, and making a checkpoint of it")
        settle(migrated)
        unfinished = path.with_suffix(".unfinished")
        copy(migrated, unfinished)
        unfinished.rename(path)
    return path


def copy(source: Path, target: Path) -> None:
    """Copies a database that nobody has open, for its owner only."""
    target.touch(0o600)
    shutil.copyfile(source, target)


def settle(path: Path) -> None:
    """Migrates a database if necessary and makes one checkpoint of all its transfers. Raises BenchError."""
    database = Database(f"sqlite:///{path}")
    database.start()
    try:
        with closing(sqlite3.connect(path)) as rows:
            (transfers,) = rows.execute("SELECT COUNT(*) FROM transfer").fetchone()
        asyncio.run(Proofs(database, SystemClock(), checkpoint_transfers=transfers).tick())
        found = asyncio.run(database.read(_checkpoint_count))
    finally:
        database.stop()
    if not found:
        raise BenchError(f"the ledger of {path} does not balance, so its figures would be void")
    with closing(sqlite3.connect(path)) as rows:
        rows.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def _checkpoint_count() -> int:
    return int(Checkpoint.select().count())


def schema_objects(path: Path) -> dict[str, str]:
    """The tables, indexes and triggers of a database, by name."""
    with closing(sqlite3.connect(path)) as rows:
        found = rows.execute("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL").fetchall()
    return {name: " ".join(sql.split()) for name, sql in found}


def applied(path: Path) -> list[str]:
    """The migrations of a database, in their order."""
    with closing(sqlite3.connect(path)) as rows:
        return [name for (name,) in rows.execute("SELECT name FROM schema_migration ORDER BY name")]


def empty(path: Path, schema: str) -> None:
    """Creates a database without rows at a schema."""
    path.touch(0o600)
    database = peewee.SqliteDatabase(str(path), pragmas={"foreign_keys": 0})
    database.connect()
    Runner(database, str(MIGRATIONS)).up(schema)
    database.close()


def create(path: Path, shape: Shape) -> None:
    """Creates a database of this shape at the oldest schema. Nothing is durable before it is complete."""
    empty(path, SCHEMA)
    with closing(sqlite3.connect(path, isolation_level=None)) as rows:
        for pragma in (
            "journal_mode = OFF",
            "synchronous = OFF",
            "cache_size = -500000",
            "temp_store = MEMORY",
        ):
            rows.execute(f"PRAGMA {pragma}")
        indexes = rows.execute(
            "SELECT name, sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL"
        ).fetchall()
        for name, _ in indexes:
            rows.execute(f'DROP INDEX "{name}"')
        rows.execute("BEGIN")
        values = _values(shape)
        for statement in _STATEMENTS.split(";"):
            if statement.strip():
                rows.execute(statement, values)
        _add_keys(rows)
        for _, sql in indexes:
            rows.execute(sql)
        rows.execute("COMMIT")


def _values(shape: Shape) -> dict[str, object]:
    now_ms = int(time.time() * 1000)
    renters, providers = shape.renters, shape.providers
    return {
        "jobs": shape.jobs,
        "renters": renters,
        "providers": providers,
        "has_large": shape.has_large,
        "year_ago": now_ms - 365 * DAY_MS,
        "spacing": 365 * DAY_MS // shape.jobs,
        "texts_since": now_ms - TEXT_DAYS * DAY_MS,
        "external": EXTERNAL,
        "platform": PLATFORM,
        # The account of renter 1 follows the first two; then come those of held money, then the providers'.
        "held": FIRST_RENTER_ACCOUNT - 1 + renters,
        "earned": FIRST_RENTER_ACCOUNT - 1 + 2 * renters,
        "reserved": FIRST_RENTER_ACCOUNT - 1 + 2 * renters + providers,
        "wallet": FIRST_RENTER_ACCOUNT - 1,
        "hold": HOLD_HALALA,
        "charge": CHARGE_HALALA,
        "payout": PAYOUT_HALALA,
        "fee": FEE_HALALA,
        "rate": RATE_HALALA,
        "billed": BILLED_MS,
        "job_type": JobType.LLM_INFERENCE.value,
        "model": MODEL,
        "spec": json.dumps({"params": {"model": MODEL, "prompt": PROMPT, "max_tokens": 1}}),
        "failure": FailureReason.ENGINE_FAILED.value,
        "succeeded": LeaseOutcome.SUCCEEDED.value,
        "failed": LeaseOutcome.FAILED.value,
        "file_name": FILE_NAME,
        "file_bytes": len(FILE_BYTES),
        "file_sha256": hashlib.sha256(FILE_BYTES).digest(),
        "file_key": FILE_KEY,
    }


def _add_keys(rows: sqlite3.Connection) -> None:
    """Gives the accounts that are measured keys that this module knows."""
    for role in ("renter", "provider"):
        for number in (1, 2):
            digest = hashlib.sha256(api_key(role, number).encode()).digest()
            rows.execute(
                "UPDATE api_key SET sha256 = ? WHERE role = ? AND owner_id = ?", (digest, role, number)
            )


# One job in 25 failed: its hold was returned. Renter 1 and provider 1 of a large market have one job in ten, and
# renter 2 the newest job, which still has its texts.
_STATEMENTS = """
CREATE TEMP TABLE number AS
    WITH RECURSIVE n (j) AS (SELECT 1 UNION ALL SELECT j + 1 FROM n WHERE j < :jobs) SELECT j FROM n;
CREATE TEMP TABLE plan AS SELECT j,
    printf('job-%024x', (j * 5000000000003) & 281474976710655) AS job_id,
    CASE WHEN j = :jobs THEN 2 WHEN :has_large AND j % 10 = 0 THEN 1 ELSE 2 + j % (:renters - 1) END AS renter_id,
    CASE WHEN :has_large AND j % 10 = 1 THEN 1 ELSE 2 + (j / 7) % (:providers - 1) END AS provider_id,
    :year_ago + j * :spacing AS at, j % 25 <> 3 AS is_good FROM number;
INSERT INTO provider (id, name, email, email_key, gpu_model, gpu_vram_mib, os, phone, state, session_epoch,
        connected, draining, models_reported, job_types, gpu_status, created_ms)
    SELECT j, 'Provider ' || j, 'p' || j || '@example.com', 'p' || j || '@example.com', 'RTX 4090', 24564,
        'Linux', '', 'active', 1, FALSE, FALSE, TRUE, :job_type, '{}', :year_ago FROM number WHERE j <= :providers;
INSERT INTO provider_model (provider_id, name, context_tokens, warm)
    SELECT j, :model, 2048, TRUE FROM number WHERE j <= :providers;
INSERT INTO renter (id, name, email, email_key, organization, phone, created_ms)
    SELECT j, 'Renter ' || j, 'r' || j || '@example.com', 'r' || j || '@example.com', '', '', :year_ago
    FROM number WHERE j <= :renters;
INSERT INTO api_key (role, owner_id, sha256, last4, created_ms)
    SELECT 'renter', j, randomblob(32), 'last', :year_ago FROM number WHERE j <= :renters;
INSERT INTO api_key (role, owner_id, sha256, last4, created_ms)
    SELECT 'provider', j, randomblob(32), 'last', :year_ago FROM number WHERE j <= :providers;
INSERT INTO job (job_id, renter_id, job_type, state, provider_id, model, duration_ms, limit_ms, priority,
        hold_halala, rate_halala_per_minute, spec, lease_epoch, attempt, created_ms, started_ms, ended_ms,
        output_bytes, content_type, billed_ms, charge_halala, failure_reason, failure_message, request_digest,
        start_by_ms, texts_removed_ms)
    SELECT job_id, renter_id, :job_type, CASE WHEN is_good THEN 'completed' ELSE 'failed' END, provider_id,
        :model, 60000, 60000, 2, :hold, :rate, CASE WHEN at > :texts_since THEN :spec ELSE '{}' END, 1, 1, at,
        at + 1000, at + 1000 + :billed, CASE WHEN is_good THEN 4 ELSE 0 END, 'text/plain',
        CASE WHEN is_good THEN :billed ELSE 0 END, CASE WHEN is_good THEN :charge ELSE 0 END,
        CASE WHEN is_good THEN NULL ELSE :failure END, CASE WHEN is_good THEN NULL ELSE 'it failed' END, '',
        at + 600000, CASE WHEN at > :texts_since THEN NULL ELSE at + 2592000000 END FROM plan;
INSERT INTO lease (job_id, lease_epoch, provider_id, session_epoch, secret_sha256, state, attempt, offered_ms,
        accepted_ms, started_ms, ended_ms, outcome, failure_reason, detail, run_ms, output_through_seq,
        log_through_seq, number)
    SELECT job_id, 1, provider_id, 1, randomblob(32), 'ended', 1, at, at + 500, at + 1000, at + 1000 + :billed,
        CASE WHEN is_good THEN :succeeded ELSE :failed END, CASE WHEN is_good THEN NULL ELSE :failure END, '',
        :billed, is_good, 0, random() & 9007199254740991 FROM plan;
INSERT INTO chunk (job_id, lease_epoch, stream, seq, data)
    SELECT job_id, 1, 'output', 1, CAST('done' AS BLOB) FROM plan WHERE is_good AND at > :texts_since;
INSERT INTO hold (job_id, renter_id, amount_halala, state, charge_halala, created_ms, resolved_ms)
    SELECT job_id, renter_id, :hold, CASE WHEN is_good THEN 'posted' ELSE 'voided' END,
        CASE WHEN is_good THEN :charge ELSE 0 END, at, at + 1000 + :billed FROM plan;
INSERT INTO account (id, kind, owner_id, balance_halala)
    VALUES (:external, 'external', 0, 0), (:platform, 'platform', 0, 0);
INSERT INTO account (id, kind, owner_id, balance_halala)
    SELECT :wallet + j, 'renter', j, 0 FROM number WHERE j <= :renters;
INSERT INTO account (id, kind, owner_id, balance_halala)
    SELECT :held + j, 'renter_held', j, 0 FROM number WHERE j <= :renters;
INSERT INTO account (id, kind, owner_id, balance_halala)
    SELECT :earned + j, 'provider', j, 0 FROM number WHERE j <= :providers;
INSERT INTO account (id, kind, owner_id, balance_halala)
    SELECT :reserved + j, 'withdrawal', j, 0 FROM number WHERE j <= :providers;
INSERT INTO transfer (kind, debit_account_id, credit_account_id, amount_halala, created_ms)
    SELECT 'credit', :external, :wallet + j, :hold * :jobs, :year_ago FROM number WHERE j <= :renters;
CREATE TEMP TABLE step (number INTEGER PRIMARY KEY);
INSERT INTO step VALUES (1), (2), (3), (4);
INSERT INTO transfer (kind, debit_account_id, credit_account_id, amount_halala, job_id, created_ms)
    SELECT CASE number WHEN 1 THEN 'hold' WHEN 2 THEN 'refund' WHEN 3 THEN 'payout' ELSE 'fee' END,
        CASE number WHEN 1 THEN :wallet ELSE :held END + renter_id,
        CASE number WHEN 1 THEN :held + renter_id WHEN 2 THEN :wallet + renter_id
            WHEN 3 THEN :earned + provider_id ELSE :platform END,
        CASE number WHEN 1 THEN :hold WHEN 2 THEN :hold - is_good * :charge WHEN 3 THEN :payout ELSE :fee END,
        job_id, CASE number WHEN 1 THEN at ELSE at + 1000 + :billed END
    FROM plan CROSS JOIN step WHERE is_good OR number <= 2;
INSERT INTO withdrawal (id, provider_id, amount_halala, state, iban_last4, created_ms, updated_ms)
    SELECT j, j, :payout, 'paid', '7519', at, at + 1000 FROM plan
    WHERE j <= :providers AND j IN (SELECT provider_id FROM plan WHERE is_good);
INSERT INTO transfer (kind, debit_account_id, credit_account_id, amount_halala, withdrawal_id, created_ms)
    SELECT CASE number WHEN 1 THEN 'withdraw' ELSE 'withdrawal_paid' END,
        CASE number WHEN 1 THEN :earned ELSE :reserved END + provider_id,
        CASE number WHEN 1 THEN :reserved + provider_id ELSE :external END, amount_halala, id,
        CASE number WHEN 1 THEN created_ms ELSE updated_ms END
    FROM withdrawal CROSS JOIN step WHERE number <= 2;
CREATE TEMP TABLE sums AS SELECT account_id, SUM(amount) AS amount FROM (
    SELECT credit_account_id AS account_id, SUM(amount_halala) AS amount FROM transfer GROUP BY 1
    UNION ALL SELECT debit_account_id, -SUM(amount_halala) FROM transfer GROUP BY 1) GROUP BY 1;
CREATE UNIQUE INDEX temp.sum_of_account ON sums (account_id);
UPDATE account SET balance_halala = COALESCE((SELECT amount FROM sums WHERE account_id = account.id), 0);
UPDATE renter SET request_bytes = COALESCE((SELECT SUM(LENGTH(spec)) FROM job
    WHERE renter_id = renter.id AND texts_removed_ms IS NULL), 0) WHERE id <= 2;
INSERT INTO webhook (renter_id, url, secret, balance_is_low, claimed_until_ms, created_ms)
    SELECT j, 'https://example.com/hook', 'whsec_bench', FALSE, 0, :year_ago FROM number
    WHERE j <= :renters AND j % 100 IN (1, 2);
INSERT INTO webhook_delivery (renter_id, event_id, event, body, status, created_ms, attempts, next_ms, last_ms,
        status_code)
    SELECT renter_id, 'evt-' || renter_id || '-' || number, 'job.completed', '{}', 'delivered', :year_ago, 1,
        :year_ago, :year_ago, 200 FROM webhook CROSS JOIN step;
INSERT INTO audit_entry (at_ms, actor, action, object, object_id, before, after, request_id)
    SELECT :year_ago, 'admin', 'credit', 'renter', CAST(j AS TEXT), '{}', '{}', '' FROM number
    WHERE j <= :renters;
INSERT INTO artifact (job_id, lease_epoch, name, size_bytes, sha256, blob_key, state, created_ms, published_ms)
    SELECT job_id, 1, :file_name, :file_bytes, :file_sha256,
        CASE WHEN j = (SELECT MAX(j) FROM plan WHERE renter_id = 2 AND is_good) THEN :file_key
            ELSE lower(hex(randomblob(16))) END, 'published', at, at FROM plan
    WHERE is_good AND (j % 100 = 7 OR j = (SELECT MAX(j) FROM plan WHERE renter_id = 2 AND is_good));
UPDATE job SET artifact_count = 1, artifact_bytes = :file_bytes WHERE job_id IN (SELECT job_id FROM artifact)
"""

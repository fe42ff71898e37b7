"""Databases of a market that has grown: made by fast inserts of the oldest schema, then migrated.

Each job has its lease, hold and transfers, and the sums of the ledger are those of the transfers, so its
proof is clean. A database is kept in .cache/bench, where git does not look, until it is older than
MAX_AGE_SECONDS: its times are relative to its creation, and the server would begin to remove the texts of
its oldest jobs.
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
from server.domain.money import whole_halala
from server.services.operators.proofs import Proofs
from server.services.statements import Statements
from server.store.database import Database
from server.store.models import Checkpoint

CACHE = ROOT / ".cache" / "bench"
STATEMENTS = Path(__file__).with_suffix(".sql")
MIGRATIONS = ROOT / "server" / "store" / "migrations"
# The oldest schema from which a market of this size is migrated.
SCHEMA = "0015_webhooks"
# Counted up with each change of what is inserted.
VERSION = 3
MAX_AGE_SECONDS = 14 * 24 * 3600.0
MODEL = "bench/noop"
PROMPT = "Say nothing."
FILE_NAME, FILE_BYTES, FILE_KEY = "out.txt", b"done\n", "0" * 32
DAY_MS = 24 * 3600 * 1000
RATE_HALALA, HOLD_HALALA, BILLED_MS = 100, 100, 8_000
CHARGE_HALALA = min(HOLD_HALALA, whole_halala(pricing.per_minute(RATE_HALALA).cost_micros(BILLED_MS)))
PAYOUT_HALALA, FEE_HALALA = pricing.shares(CHARGE_HALALA)
TEXT_DAYS = 14
EXTERNAL, PLATFORM, FIRST_RENTER_ACCOUNT = 1, 2, 3


@dataclass(frozen=True, slots=True)
class Shape:
    """How many rows: about ten jobs for each renter and a hundred for each provider.

    In a large market, renter 1 and provider 1 each have a tenth of all jobs. Number 2 of both is usual.
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
        say("proving its ledger, making a checkpoint of it, and adding up its past days")
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
    """Migrates a database if necessary, makes one checkpoint of all its transfers, and adds up its past days.

    Raises BenchError.
    """
    database = Database(f"sqlite:///{path}")
    database.start()
    try:
        with closing(sqlite3.connect(path)) as rows:
            (transfers,) = rows.execute("SELECT COUNT(*) FROM transfer").fetchone()
        asyncio.run(Proofs(database, SystemClock(), checkpoint_transfers=transfers).tick())
        asyncio.run(Statements(database, SystemClock()).tick())
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
        for statement in STATEMENTS.read_text(encoding="utf-8").split(";"):
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

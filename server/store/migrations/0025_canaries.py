"""Checks of providers' work: their results, the market's own renters, and the account that pays them."""

from typing import Any

import peewee

TABLES = """
ALTER TABLE renter ADD COLUMN is_market BOOLEAN NOT NULL DEFAULT FALSE;
CREATE TABLE canary (
    id {pk},
    provider_id BIGINT NOT NULL REFERENCES provider (id),
    job_id TEXT NOT NULL UNIQUE REFERENCES job (job_id),
    kind TEXT NOT NULL CHECK (kind IN ('answer', 'computation')),
    subject TEXT NOT NULL,
    question TEXT NOT NULL,
    verdict TEXT NOT NULL CHECK (verdict IN ('pending', 'waiting', 'passed', 'failed', 'undecided')),
    fault TEXT,
    figure_permille BIGINT,
    millitokens_per_second BIGINT,
    created_ms BIGINT NOT NULL,
    decided_ms BIGINT,
    CHECK ((verdict IN ('pending', 'waiting')) = (decided_ms IS NULL)),
    CHECK ((verdict = 'failed') = (fault IS NOT NULL))
);
CREATE INDEX canary_of_provider ON canary (provider_id, id);
CREATE INDEX canary_pending ON canary (id) WHERE verdict = 'pending';
CREATE INDEX canary_waiting ON canary (created_ms) WHERE verdict = 'waiting';
CREATE INDEX canary_question ON canary (question, id);
CREATE INDEX canary_subject ON canary (subject, created_ms);
CREATE INDEX renter_market ON renter (id) WHERE is_market
"""
KINDS_BEFORE = "'provider_debt')"
KINDS = "'provider_debt', 'canary_budget')"
SIGN_BEFORE = "WHEN 'provider_debt' THEN balance_halala <= 0 ELSE"
SIGN = "WHEN 'provider_debt' THEN balance_halala <= 0 WHEN 'canary_budget' THEN balance_halala <= 0 ELSE"
POSTGRES_ACCOUNT = (
    "ALTER TABLE account DROP CONSTRAINT account_kind_check",
    "ALTER TABLE account DROP CONSTRAINT account_check",
    "ALTER TABLE account ADD CONSTRAINT account_kind_check CHECK ("
    "kind IN ('external', 'renter', 'renter_held', 'provider', 'platform', 'withdrawal', "
    f"'provider_maturing', 'provider_disputed', {KINDS})",
    "ALTER TABLE account ADD CONSTRAINT account_check CHECK ("
    f"CASE kind WHEN 'external' THEN TRUE {SIGN} balance_halala >= 0 END)",
)


def _change_sqlite_checks(db: Any) -> None:
    """Replaces the checks of the table of accounts in its stored text, as 0020 does and explains."""
    (before,) = db.execute_sql("SELECT sql FROM sqlite_schema WHERE name = 'account'").fetchone()
    after = before.replace(KINDS_BEFORE, KINDS).replace(SIGN_BEFORE, SIGN)
    if KINDS not in after or SIGN not in after:
        raise ValueError("the table account is not as the migrations before this one leave it")
    (version,) = db.execute_sql("PRAGMA schema_version").fetchone()
    db.execute_sql("PRAGMA writable_schema = ON")
    db.execute_sql("UPDATE sqlite_schema SET sql = ? WHERE type = 'table' AND name = 'account'", (after,))
    db.execute_sql(f"PRAGMA schema_version = {version + 1}")
    db.execute_sql("PRAGMA writable_schema = OFF")


def up(migrator: Any, db: peewee.Database) -> None:
    """Adds the account kind, the mark of the market's own renters, and the table."""
    sqlite = isinstance(db, peewee.SqliteDatabase)
    if sqlite:
        _change_sqlite_checks(db)
    else:
        for statement in POSTGRES_ACCOUNT:
            db.execute_sql(statement)
    tables = TABLES.format(
        pk="INTEGER PRIMARY KEY AUTOINCREMENT" if sqlite else "BIGSERIAL PRIMARY KEY",
    )
    for statement in (part.strip() for part in tables.split(";")):
        db.execute_sql(statement)

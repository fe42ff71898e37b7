"""Payouts mature in an account of their own, and charges can be disputed."""

from typing import Any

import peewee

TABLES = """
CREATE TABLE matured_payouts (
    provider_id BIGINT NOT NULL PRIMARY KEY REFERENCES provider (id),
    through_id BIGINT NOT NULL,
    due_ms BIGINT NOT NULL
);
CREATE TABLE dispute (
    id {pk},
    job_id TEXT NOT NULL UNIQUE REFERENCES job (job_id),
    renter_id BIGINT NOT NULL REFERENCES renter (id),
    provider_id BIGINT NOT NULL REFERENCES provider (id),
    state TEXT NOT NULL CHECK (state IN ('open', 'upheld', 'rejected')),
    reason TEXT NOT NULL,
    charge_halala BIGINT NOT NULL,
    payout_halala BIGINT NOT NULL CHECK (payout_halala BETWEEN 1 AND charge_halala),
    payout_id BIGINT NOT NULL,
    held_halala BIGINT NOT NULL CHECK (held_halala BETWEEN 0 AND payout_halala),
    maturing_halala BIGINT NOT NULL CHECK (maturing_halala BETWEEN 0 AND held_halala),
    created_ms BIGINT NOT NULL,
    refund_halala BIGINT CHECK (refund_halala BETWEEN 1 AND charge_halala),
    note TEXT,
    decided_ms BIGINT,
    CHECK ((state = 'open') = (decided_ms IS NULL)),
    CHECK ((state = 'upheld') = (refund_halala IS NOT NULL))
);
CREATE INDEX dispute_of_renter ON dispute (renter_id, id);
CREATE INDEX dispute_of_provider ON dispute (provider_id, id);
CREATE INDEX dispute_payout ON dispute (provider_id, payout_id, maturing_halala);
CREATE INDEX dispute_in_state ON dispute (state, id);
CREATE INDEX transfer_of_dispute ON transfer (job_id, kind, amount_halala)
    WHERE kind IN ('disputed', 'dispute_returned', 'dispute_refund', 'fee_refund')
"""
KINDS_BEFORE = "'withdrawal')"
KINDS = "'withdrawal', 'provider_maturing', 'provider_disputed', 'provider_debt')"
SIGN_BEFORE = "balance_halala >= 0 OR kind = 'external'"
SIGN = (
    "CASE kind WHEN 'external' THEN TRUE WHEN 'provider_debt' THEN balance_halala <= 0 "
    "ELSE balance_halala >= 0 END"
)
POSTGRES_ACCOUNT = (
    "ALTER TABLE account DROP CONSTRAINT account_kind_check",
    "ALTER TABLE account DROP CONSTRAINT account_check",
    "ALTER TABLE account ADD CONSTRAINT account_kind_check CHECK ("
    f"kind IN ('external', 'renter', 'renter_held', 'provider', 'platform', {KINDS})",
    f"ALTER TABLE account ADD CONSTRAINT account_check CHECK ({SIGN})",
)


def _change_sqlite_checks(db: Any) -> None:
    """Replaces the checks of the table of accounts in its stored text.

    It is SQLite's own way to change a CHECK without a copy of the table and of all transfers, which refer to
    it: only checks change, and each row that was valid is valid.
    """
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
    """Adds the account kinds, the cursors and the disputes. Money in providers' accounts stays claimable."""
    sqlite = isinstance(db, peewee.SqliteDatabase)
    if sqlite:
        _change_sqlite_checks(db)
    else:
        for statement in POSTGRES_ACCOUNT:
            db.execute_sql(statement)
    tables = TABLES.format(pk="INTEGER PRIMARY KEY AUTOINCREMENT" if sqlite else "BIGSERIAL PRIMARY KEY")
    for statement in (part.strip() for part in tables.split(";")):
        db.execute_sql(statement)

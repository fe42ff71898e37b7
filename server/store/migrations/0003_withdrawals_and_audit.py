"""Withdrawals move money, and operators' actions are written down."""

from typing import Any

import peewee

TABLES = """
ALTER TABLE transfer ADD COLUMN withdrawal_id BIGINT;
ALTER TABLE withdrawal ADD COLUMN iban TEXT NOT NULL DEFAULT '';
ALTER TABLE withdrawal ADD COLUMN updated_ms BIGINT;
ALTER TABLE withdrawal ADD COLUMN reference TEXT;
ALTER TABLE withdrawal ADD COLUMN reason TEXT;
CREATE UNIQUE INDEX withdrawal_open ON withdrawal (provider_id) WHERE state IN ('pending', 'processing');
CREATE INDEX withdrawal_of_provider ON withdrawal (provider_id, id);
CREATE INDEX job_of_renter ON job (renter_id, created_ms, job_id);
DROP INDEX job_renter;
CREATE INDEX provider_kept_back ON provider (id) WHERE connected AND state <> 'active';
CREATE TABLE audit_entry (
    id {pk},
    at_ms BIGINT NOT NULL,
    actor TEXT NOT NULL,
    action TEXT NOT NULL,
    object TEXT NOT NULL,
    object_id TEXT NOT NULL,
    before TEXT NOT NULL,
    after TEXT NOT NULL,
    request_id TEXT NOT NULL
);
CREATE INDEX audit_entry_object ON audit_entry (object, object_id, id);
CREATE INDEX audit_entry_kind ON audit_entry (object, id)
"""
# SQLite cannot change a CHECK: the table is made anew, and with it the one that refers to it. Every row
# keeps its id, and foreign keys follow a renamed table.
SQLITE_ACCOUNT = """
CREATE TABLE account_new (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    kind TEXT NOT NULL CHECK (
        kind IN ('external', 'renter', 'renter_held', 'provider', 'platform', 'withdrawal')
    ),
    owner_id BIGINT NOT NULL,
    balance_halala BIGINT NOT NULL,
    UNIQUE (kind, owner_id),
    CHECK (balance_halala >= 0 OR kind = 'external')
);
CREATE TABLE transfer_new (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    kind TEXT NOT NULL,
    debit_account_id BIGINT NOT NULL REFERENCES account_new (id),
    credit_account_id BIGINT NOT NULL REFERENCES account_new (id),
    amount_halala BIGINT NOT NULL CHECK (amount_halala > 0),
    job_id TEXT,
    created_ms BIGINT NOT NULL,
    CHECK (debit_account_id <> credit_account_id)
);
INSERT INTO account_new SELECT id, kind, owner_id, balance_halala FROM account;
INSERT INTO transfer_new
    SELECT id, kind, debit_account_id, credit_account_id, amount_halala, job_id, created_ms FROM transfer;
DROP TABLE transfer;
DROP TABLE account;
ALTER TABLE account_new RENAME TO account;
ALTER TABLE transfer_new RENAME TO transfer;
CREATE INDEX transfer_debit ON transfer (debit_account_id);
CREATE INDEX transfer_credit ON transfer (credit_account_id)
"""
POSTGRES_ACCOUNT = """
ALTER TABLE account DROP CONSTRAINT account_kind_check;
ALTER TABLE account ADD CONSTRAINT account_kind_check CHECK (
    kind IN ('external', 'renter', 'renter_held', 'provider', 'platform', 'withdrawal')
)
"""
SQLITE_GUARDS = [
    f"CREATE TRIGGER {table}_no_{verb.lower()} BEFORE {verb} ON {table} "
    f"BEGIN SELECT RAISE(ABORT, '{said} immutable'); END"
    for table, said in (("transfer", "transfers are"), ("audit_entry", "the audit log is"))
    for verb in ("UPDATE", "DELETE")
]
POSTGRES_GUARDS = [
    "CREATE FUNCTION audit_entry_is_immutable() RETURNS trigger LANGUAGE plpgsql AS "
    "$$ BEGIN RAISE integrity_constraint_violation USING MESSAGE = 'the audit log is immutable'; END $$",
    "CREATE TRIGGER audit_entry_no_change BEFORE UPDATE OR DELETE ON audit_entry "
    "FOR EACH ROW EXECUTE FUNCTION audit_entry_is_immutable()",
    "CREATE TRIGGER audit_entry_no_truncate BEFORE TRUNCATE ON audit_entry "
    "FOR EACH STATEMENT EXECUTE FUNCTION audit_entry_is_immutable()",
]


def up(migrator: Any, db: peewee.Database) -> None:
    """Adds the account kind, the columns and the log. No earlier program could store a request."""
    sqlite = isinstance(db, peewee.SqliteDatabase)
    tables = TABLES.format(pk="INTEGER PRIMARY KEY AUTOINCREMENT" if sqlite else "BIGSERIAL PRIMARY KEY")
    accounts = SQLITE_ACCOUNT if sqlite else POSTGRES_ACCOUNT
    for statement in [s.strip() for s in (accounts + ";" + tables).split(";")]:
        db.execute_sql(statement)
    for guard in SQLITE_GUARDS if sqlite else POSTGRES_GUARDS:
        db.execute_sql(guard)

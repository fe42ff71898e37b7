"""The first schema: accounts, ledger, jobs, leases, output, withdrawals."""

from typing import Any

import peewee

TABLES = """
CREATE TABLE provider (
    id {pk},
    name TEXT NOT NULL,
    email TEXT NOT NULL,
    email_key TEXT NOT NULL UNIQUE,
    gpu_model TEXT NOT NULL,
    gpu_vram_mib BIGINT NOT NULL,
    os TEXT NOT NULL,
    phone TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('active', 'paused', 'pending_approval', 'suspended')),
    session_epoch BIGINT NOT NULL,
    connected BOOLEAN NOT NULL,
    draining BOOLEAN NOT NULL,
    models_reported BOOLEAN NOT NULL,
    job_types TEXT NOT NULL,
    last_heartbeat_ms BIGINT,
    gpu_status TEXT NOT NULL,
    created_ms BIGINT NOT NULL
);
CREATE INDEX provider_last_heartbeat ON provider (last_heartbeat_ms);

CREATE TABLE provider_model (
    provider_id BIGINT NOT NULL REFERENCES provider (id),
    name TEXT NOT NULL,
    context_tokens INTEGER NOT NULL,
    warm BOOLEAN NOT NULL,
    PRIMARY KEY (provider_id, name)
);
CREATE INDEX provider_model_name ON provider_model (name);

CREATE TABLE renter (
    id {pk},
    name TEXT NOT NULL,
    email TEXT NOT NULL,
    email_key TEXT NOT NULL UNIQUE,
    organization TEXT NOT NULL,
    phone TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('active', 'suspended')),
    created_ms BIGINT NOT NULL
);

CREATE TABLE api_key (
    id {pk},
    role TEXT NOT NULL CHECK (role IN ('provider', 'renter')),
    owner_id BIGINT NOT NULL,
    sha256 {blob} NOT NULL UNIQUE,
    last4 TEXT NOT NULL,
    created_ms BIGINT NOT NULL,
    revoked_ms BIGINT
);

CREATE TABLE account (
    id {pk},
    kind TEXT NOT NULL CHECK (kind IN ('external', 'renter', 'renter_held', 'provider', 'platform')),
    owner_id BIGINT NOT NULL,
    balance_halala BIGINT NOT NULL,
    UNIQUE (kind, owner_id),
    CHECK (balance_halala >= 0 OR kind = 'external')
);

CREATE TABLE transfer (
    id {pk},
    kind TEXT NOT NULL,
    debit_account_id BIGINT NOT NULL REFERENCES account (id),
    credit_account_id BIGINT NOT NULL REFERENCES account (id),
    amount_halala BIGINT NOT NULL CHECK (amount_halala > 0),
    job_id TEXT,
    created_ms BIGINT NOT NULL,
    CHECK (debit_account_id <> credit_account_id)
);
CREATE INDEX transfer_debit ON transfer (debit_account_id);
CREATE INDEX transfer_credit ON transfer (credit_account_id);

CREATE TABLE hold (
    job_id TEXT NOT NULL PRIMARY KEY,
    renter_id BIGINT NOT NULL REFERENCES renter (id),
    amount_halala BIGINT NOT NULL CHECK (amount_halala > 0),
    state TEXT NOT NULL CHECK (state IN ('open', 'posted', 'voided')),
    charge_halala BIGINT CHECK (charge_halala BETWEEN 0 AND amount_halala),
    created_ms BIGINT NOT NULL,
    resolved_ms BIGINT
);
CREATE INDEX hold_open ON hold (renter_id) WHERE state = 'open';

CREATE TABLE job (
    job_id TEXT NOT NULL PRIMARY KEY,
    renter_id BIGINT NOT NULL REFERENCES renter (id),
    job_type TEXT NOT NULL,
    state TEXT NOT NULL CHECK (
        state IN ('queued', 'pending', 'assigned', 'running', 'completed', 'failed', 'cancelled')
    ),
    named_provider_id BIGINT REFERENCES provider (id),
    provider_id BIGINT REFERENCES provider (id),
    model TEXT,
    gpu_model TEXT,
    min_vram_mib BIGINT,
    duration_ms BIGINT NOT NULL,
    limit_ms BIGINT NOT NULL,
    priority INTEGER NOT NULL,
    hold_halala BIGINT NOT NULL,
    rate_halala_per_minute BIGINT NOT NULL,
    spec TEXT NOT NULL,
    lease_epoch INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    created_ms BIGINT NOT NULL,
    started_ms BIGINT,
    ended_ms BIGINT,
    cancel_requested_ms BIGINT,
    output_bytes BIGINT NOT NULL,
    content_type TEXT NOT NULL,
    billed_ms BIGINT,
    charge_halala BIGINT,
    failure_reason TEXT,
    failure_message TEXT,
    usage TEXT,
    idempotency_key TEXT,
    request_digest TEXT NOT NULL,
    UNIQUE (renter_id, idempotency_key)
);
CREATE INDEX job_renter ON job (renter_id, created_ms);
CREATE INDEX job_provider ON job (provider_id, created_ms);
CREATE INDEX job_queue ON job (priority DESC, created_ms, job_id) WHERE state = 'queued';
CREATE INDEX job_running ON job (started_ms) WHERE state = 'running';

CREATE TABLE lease (
    job_id TEXT NOT NULL REFERENCES job (job_id),
    lease_epoch INTEGER NOT NULL,
    provider_id BIGINT NOT NULL REFERENCES provider (id),
    session_epoch BIGINT NOT NULL,
    secret_sha256 {blob} NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('offered', 'accepted', 'running', 'ended')),
    attempt INTEGER NOT NULL,
    offered_ms BIGINT NOT NULL,
    accepted_ms BIGINT,
    started_ms BIGINT,
    ended_ms BIGINT,
    outcome TEXT,
    detail TEXT NOT NULL,
    run_ms BIGINT,
    output_through_seq BIGINT NOT NULL,
    log_through_seq BIGINT NOT NULL,
    PRIMARY KEY (job_id, lease_epoch)
);
CREATE UNIQUE INDEX lease_live ON lease (job_id) WHERE state <> 'ended';
CREATE INDEX lease_of_provider ON lease (provider_id) WHERE state <> 'ended';
CREATE INDEX lease_offered ON lease (offered_ms) WHERE state = 'offered';

CREATE TABLE chunk (
    job_id TEXT NOT NULL,
    lease_epoch INTEGER NOT NULL,
    stream TEXT NOT NULL CHECK (stream IN ('output', 'log')),
    seq BIGINT NOT NULL,
    data {blob} NOT NULL,
    PRIMARY KEY (job_id, lease_epoch, stream, seq),
    FOREIGN KEY (job_id, lease_epoch) REFERENCES lease (job_id, lease_epoch)
);

CREATE TABLE withdrawal (
    id {pk},
    provider_id BIGINT NOT NULL REFERENCES provider (id),
    amount_halala BIGINT NOT NULL CHECK (amount_halala > 0),
    state TEXT NOT NULL CHECK (state IN ('pending', 'processing', 'paid', 'rejected')),
    iban_last4 TEXT NOT NULL,
    created_ms BIGINT NOT NULL
);
CREATE INDEX withdrawal_state ON withdrawal (state, id)
"""

# Transfers are written once: the database itself refuses to change or delete one.
SQLITE_GUARDS = [
    "CREATE TRIGGER transfer_no_update BEFORE UPDATE ON transfer "
    "BEGIN SELECT RAISE(ABORT, 'transfers are immutable'); END",
    "CREATE TRIGGER transfer_no_delete BEFORE DELETE ON transfer "
    "BEGIN SELECT RAISE(ABORT, 'transfers are immutable'); END",
]
POSTGRES_GUARDS = [
    "CREATE FUNCTION transfer_is_immutable() RETURNS trigger LANGUAGE plpgsql AS "
    "$$ BEGIN RAISE integrity_constraint_violation USING MESSAGE = 'transfers are immutable'; END $$",
    "CREATE TRIGGER transfer_no_change BEFORE UPDATE OR DELETE ON transfer "
    "FOR EACH ROW EXECUTE FUNCTION transfer_is_immutable()",
]


def up(migrator: Any, db: peewee.Database) -> None:
    """Makes every table, index and guard."""
    sqlite = isinstance(db, peewee.SqliteDatabase)
    types = (
        {"pk": "INTEGER PRIMARY KEY AUTOINCREMENT", "blob": "BLOB"}
        if sqlite
        else {"pk": "BIGSERIAL PRIMARY KEY", "blob": "BYTEA"}
    )
    statements = [s.strip() for s in TABLES.format(**types).split(";")]
    for statement in statements + (SQLITE_GUARDS if sqlite else POSTGRES_GUARDS):
        db.execute_sql(statement)

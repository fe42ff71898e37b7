"""The standing of providers, who paid them, and which standing a job asks for.

server.store.queue has the same expressions as the index job_wanted.
"""

from typing import Any

import peewee

TABLES = """
CREATE TABLE provider_standing (
    provider_id BIGINT PRIMARY KEY REFERENCES provider (id),
    standing TEXT,
    reasons TEXT NOT NULL,
    missing TEXT NOT NULL,
    lifted_to TEXT,
    slots BIGINT,
    value_halala BIGINT,
    since_ms BIGINT NOT NULL,
    due_ms BIGINT,
    vouched_ms BIGINT
);
CREATE INDEX provider_standing_due ON provider_standing (due_ms);
CREATE TABLE provider_customer (
    provider_id BIGINT NOT NULL REFERENCES provider (id),
    renter_id BIGINT NOT NULL REFERENCES renter (id),
    paid_halala BIGINT NOT NULL,
    PRIMARY KEY (provider_id, renter_id)
);
CREATE INDEX provider_customer_paid ON provider_customer (provider_id, paid_halala DESC, renter_id);
CREATE TABLE customers_read (
    id BIGINT PRIMARY KEY,
    through_id BIGINT NOT NULL,
    secret {blob} NOT NULL
);
ALTER TABLE provider ADD COLUMN network TEXT;
ALTER TABLE renter ADD COLUMN network TEXT;
ALTER TABLE job ADD COLUMN unasked TEXT;
CREATE INDEX withdrawal_iban ON withdrawal (iban);
DROP INDEX job_wanted
"""
INDEX = """
CREATE INDEX job_wanted ON job (
    (COALESCE('provider ' || CAST(named_provider_id AS TEXT), 'model ' || model, 'type ' || job_type)),
    ({digest}(job_type || '\x1f' || COALESCE(CAST(min_vram_mib AS TEXT), '') || '\x1f'
        || CASE WHEN named_provider_id IS NULL THEN CAST(rate_halala_per_minute AS TEXT) ELSE '' END
        || '\x1f' || COALESCE(gpu_model, '') || '\x1f' || COALESCE(model, '')
        || '\x1f' || COALESCE(image, '') || '\x1f' || COALESCE(architecture, '')
        || '\x1f' || COALESCE(unasked, ''))),
    priority DESC, created_ms, job_id
) WHERE state = 'queued'
"""


def up(migrator: Any, db: peewee.Database) -> None:
    """Adds the tables; every provider is due for its first assessment."""
    sqlite = isinstance(db, peewee.SqliteDatabase)
    for statement in TABLES.format(blob="BLOB" if sqlite else "BYTEA").split(";"):
        db.execute_sql(statement.strip())
    db.execute_sql(INDEX.format(digest="" if sqlite else "md5"))
    db.execute_sql(
        "INSERT INTO provider_standing (provider_id, reasons, missing, since_ms, due_ms) "
        "SELECT id, '', '[]', created_ms, 0 FROM provider"
    )

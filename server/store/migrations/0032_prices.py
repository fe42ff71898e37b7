"""Prices as rows: the platform's by job type, GPU model and model; a provider's own stand with its terms.

server.store.queue has the same expressions as the index job_wanted.
"""

from typing import Any

import peewee

TABLES = """
CREATE TABLE price (
    kind TEXT NOT NULL CHECK (kind IN ('job_type', 'gpu_model', 'model', 'storage')),
    subject TEXT NOT NULL,
    price TEXT,
    since_ms BIGINT NOT NULL,
    PRIMARY KEY (kind, subject)
);
INSERT INTO price (kind, subject, price, since_ms)
    SELECT 'job_type', job_type, 'hour:' || CAST(halala_per_minute * 60000000 AS TEXT), 0 FROM job_rate;
CREATE INDEX price_of ON price (subject);
DROP TABLE job_rate;
ALTER TABLE provider_terms ADD COLUMN prices TEXT NOT NULL DEFAULT '{}';
ALTER TABLE job ADD COLUMN price TEXT;
ALTER TABLE renter ADD COLUMN storage_day BIGINT NOT NULL DEFAULT 0;
CREATE INDEX renter_unpaid ON renter (storage_day, id) WHERE request_bytes > 0;
CREATE TABLE token_remainder (
    renter_id BIGINT PRIMARY KEY REFERENCES renter (id),
    parts BIGINT NOT NULL
);
DROP INDEX job_wanted
"""
INDEX = """
CREATE INDEX job_wanted ON job (
    (COALESCE('provider ' || CAST(named_provider_id AS TEXT), 'model ' || model, 'type ' || job_type)),
    ({digest}(job_type || '\x1f' || COALESCE(CAST(min_vram_mib AS TEXT), '') || '\x1f'
        || CASE WHEN named_provider_id IS NULL
            THEN COALESCE(price, CAST(rate_halala_per_minute AS TEXT)) ELSE '' END
        || '\x1f' || COALESCE(gpu_model, '') || '\x1f' || COALESCE(model, '')
        || '\x1f' || COALESCE(image, '') || '\x1f' || COALESCE(architecture, '')
        || '\x1f' || COALESCE(unasked, ''))),
    priority DESC, created_ms, job_id
) WHERE state = 'queued'
"""


def up(migrator: Any, db: peewee.Database) -> None:
    """Adds the tables and columns, and moves the rates."""
    sqlite = isinstance(db, peewee.SqliteDatabase)
    for statement in TABLES.split(";"):
        db.execute_sql(statement.strip())
    db.execute_sql(INDEX.format(digest="" if sqlite else "md5"))

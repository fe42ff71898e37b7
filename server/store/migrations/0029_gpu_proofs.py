"""The newest proof of each provider's GPUs."""

from typing import Any

import peewee

TABLE = """
CREATE TABLE gpu_proof (
    provider_id BIGINT PRIMARY KEY REFERENCES provider (id),
    outcome TEXT NOT NULL CHECK (outcome IN ('passed', 'wrong', 'late', 'slow')),
    uuids TEXT NOT NULL,
    gpu_model TEXT NOT NULL,
    mib BIGINT NOT NULL,
    kib_per_second BIGINT NOT NULL,
    decided_ms BIGINT NOT NULL
)
"""


def up(migrator: Any, db: peewee.Database) -> None:
    """Adds the table."""
    db.execute_sql(TABLE)
    db.execute_sql("CREATE INDEX gpu_proof_of_model ON gpu_proof (gpu_model, decided_ms)")

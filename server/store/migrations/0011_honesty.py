"""Providers get what they claimed, a verdict with its reasons, the UUIDs of their GPUs, and self-tests."""

from typing import Any

import peewee

TABLES = """
ALTER TABLE provider ADD COLUMN claimed_gpu TEXT NOT NULL DEFAULT '';
ALTER TABLE provider ADD COLUMN verdict TEXT NOT NULL DEFAULT 'unverified';
ALTER TABLE provider ADD COLUMN verdict_reasons TEXT NOT NULL DEFAULT 'NO_GPU_MEASURED';
ALTER TABLE provider ADD COLUMN verdict_ms BIGINT;
ALTER TABLE provider ADD COLUMN gpus_changed_ms BIGINT;
ALTER TABLE provider ADD COLUMN self_tests TEXT NOT NULL DEFAULT '[]';
UPDATE provider SET claimed_gpu = gpu_model WHERE gpu_status = '{}';
CREATE TABLE provider_gpu (
    provider_id BIGINT NOT NULL REFERENCES provider (id),
    uuid TEXT NOT NULL,
    PRIMARY KEY (provider_id, uuid)
);
CREATE INDEX provider_gpu_uuid ON provider_gpu (uuid)
"""


def up(migrator: Any, db: peewee.Database) -> None:
    """Adds the columns and the table. Reports replaced what older providers claimed: they claim nothing."""
    for statement in TABLES.split(";"):
        db.execute_sql(statement.strip())

"""The servers of the market, and what each session's row needs so that other servers can place jobs on it."""

from typing import Any

import peewee

TABLES = """
CREATE TABLE server (
    id {pk},
    name TEXT NOT NULL,
    version TEXT NOT NULL,
    started_ms BIGINT NOT NULL,
    heartbeat_ms BIGINT NOT NULL
);
CREATE TABLE blob_folder (
    id BIGINT PRIMARY KEY,
    mark TEXT NOT NULL
);
ALTER TABLE provider ADD COLUMN server_id BIGINT;
ALTER TABLE provider ADD COLUMN boot_id TEXT NOT NULL DEFAULT '';
ALTER TABLE provider ADD COLUMN slots BIGINT NOT NULL DEFAULT 0;
ALTER TABLE provider ADD COLUMN runs_plain_processes BOOLEAN NOT NULL DEFAULT FALSE;
ALTER TABLE provider ADD COLUMN capacity_no BIGINT NOT NULL DEFAULT 0;
CREATE INDEX provider_server ON provider (server_id) WHERE server_id IS NOT NULL
"""


def up(migrator: Any, db: peewee.Database) -> None:
    """Adds the table, the columns and the index of sessions by server."""
    sqlite = isinstance(db, peewee.SqliteDatabase)
    tables = TABLES.format(pk="INTEGER PRIMARY KEY AUTOINCREMENT" if sqlite else "BIGSERIAL PRIMARY KEY")
    for statement in tables.split(";"):
        db.execute_sql(statement.strip())

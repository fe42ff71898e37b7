"""Incidents, and a webhook for operators, whose owner is 0 and not a renter."""

from typing import Any

import peewee

TABLES = """
CREATE TABLE incident (
    id {pk},
    condition TEXT NOT NULL,
    bad_since_ms BIGINT NOT NULL,
    read_ms BIGINT NOT NULL,
    facts TEXT NOT NULL,
    began_ms BIGINT,
    fine_since_ms BIGINT,
    ended_ms BIGINT,
    reported_ms BIGINT,
    CHECK (ended_ms IS NULL OR began_ms IS NOT NULL)
);
CREATE UNIQUE INDEX incident_open ON incident (condition) WHERE ended_ms IS NULL;
CREATE INDEX incident_begun ON incident (id) WHERE began_ms IS NOT NULL;
CREATE INDEX incident_ended ON incident (ended_ms) WHERE ended_ms IS NOT NULL;
CREATE INDEX provider_away ON provider (last_heartbeat_ms) WHERE NOT connected
"""
OF_RENTERS = " REFERENCES renter (id)"
POSTGRES = (
    "ALTER TABLE webhook DROP CONSTRAINT IF EXISTS webhook_renter_id_fkey",
    "ALTER TABLE webhook_delivery DROP CONSTRAINT IF EXISTS webhook_delivery_renter_id_fkey",
)


def _allow_other_owners_in_sqlite(db: Any) -> None:
    """Removes the references from the stored text of the tables, as 0020 changes checks and explains."""
    (version,) = db.execute_sql("PRAGMA schema_version").fetchone()
    db.execute_sql("PRAGMA writable_schema = ON")
    for table in ("webhook", "webhook_delivery"):
        (before,) = db.execute_sql("SELECT sql FROM sqlite_schema WHERE name = ?", (table,)).fetchone()
        if before.count(OF_RENTERS) != 1:
            raise ValueError(f"the table {table} is not as the migrations before this one leave it")
        db.execute_sql(
            "UPDATE sqlite_schema SET sql = ? WHERE name = ?",
            (before.replace(OF_RENTERS, ""), table),
        )
    db.execute_sql(f"PRAGMA schema_version = {version + 1}")
    db.execute_sql("PRAGMA writable_schema = OFF")


def up(migrator: Any, db: peewee.Database) -> None:
    """Lets a webhook belong to no renter, and adds the table and the index of daemons that are away."""
    sqlite = isinstance(db, peewee.SqliteDatabase)
    if sqlite:
        _allow_other_owners_in_sqlite(db)
    else:
        for statement in POSTGRES:
            db.execute_sql(statement)
    tables = TABLES.format(pk="INTEGER PRIMARY KEY AUTOINCREMENT" if sqlite else "BIGSERIAL PRIMARY KEY")
    for statement in tables.split(";"):
        db.execute_sql(statement.strip())

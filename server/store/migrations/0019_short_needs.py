"""PostgreSQL's index of the queue has the digest of a need: a row of an index has at most 2,704 bytes.

server.store.queue has the same expressions.
"""

from typing import Any

import peewee

INDEX = """
CREATE INDEX job_wanted ON job (
    (COALESCE('provider ' || CAST(named_provider_id AS TEXT), 'model ' || model, 'type ' || job_type)),
    (md5(job_type || '\x1f' || COALESCE(CAST(min_vram_mib AS TEXT), '') || '\x1f'
        || CASE WHEN named_provider_id IS NULL THEN CAST(rate_halala_per_minute AS TEXT) ELSE '' END
        || '\x1f' || COALESCE(gpu_model, '') || '\x1f' || COALESCE(model, '')
        || '\x1f' || COALESCE(image, '') || '\x1f' || COALESCE(architecture, ''))),
    priority DESC, created_ms, job_id
) WHERE state = 'queued'
"""


def up(migrator: Any, db: peewee.Database) -> None:
    """Replaces the index. SQLite has no such limit, and no such function."""
    if not isinstance(db, peewee.SqliteDatabase):
        db.execute_sql("DROP INDEX job_wanted")
        db.execute_sql(INDEX)

"""The queue is indexed by what its jobs want, so that a provider looks only at jobs that it may run.

server.store.queue has the same expressions: the kind of provider that a job waits for, and its exact need.
"""

from typing import Any

import peewee

INDEX = """
CREATE INDEX job_wanted ON job (
    (COALESCE('provider ' || CAST(named_provider_id AS TEXT), 'model ' || model, 'type ' || job_type)),
    (job_type || '\x1f' || COALESCE(CAST(min_vram_mib AS TEXT), '') || '\x1f'
        || CASE WHEN named_provider_id IS NULL THEN CAST(rate_halala_per_minute AS TEXT) ELSE '' END
        || '\x1f' || COALESCE(gpu_model, '') || '\x1f' || COALESCE(model, '')
        || '\x1f' || COALESCE(image, '') || '\x1f' || COALESCE(architecture, '')),
    priority DESC, created_ms, job_id
) WHERE state = 'queued'
"""


def up(migrator: Any, db: peewee.Database) -> None:
    """Adds the index; it holds only queued jobs."""
    db.execute_sql(INDEX)

"""Buckets of GPU metrics as rows: one for a provider, a bucket and the server that heard it.

A row belongs to one writer, so two servers that a daemon moved between never meet in one, and a batch that
is written again after an answer was lost counts once. Readers join what the writers have.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import peewee as pw

from server.domain.metrics import Bucket, Closed, from_plain, to_plain
from server.store.models import GpuMetrics, tuples
from server.store.prepared import PreparedQuery, arg

_KEY = (GpuMetrics.provider_id, GpuMetrics.width_seconds, GpuMetrics.start_ms, GpuMetrics.writer)
_forget_before = PreparedQuery(
    lambda: GpuMetrics.delete().where(
        pw.Tuple(*_KEY).in_(
            GpuMetrics.select(*_KEY)
            .where(GpuMetrics.width_seconds == arg("width_seconds"), GpuMetrics.start_ms < arg("before_ms"))
            .order_by(GpuMetrics.start_ms)
            .limit(arg("limit"))
        )
    )
)


def write(writer: int, closed: Sequence[Closed]) -> None:
    """Stores buckets; one that this writer stored before is replaced."""
    rows = [
        {
            "provider_id": one.provider_id,
            "width_seconds": one.width_seconds,
            "start_ms": one.start_ms,
            "writer": writer,
            "gpus": json.dumps(to_plain(one.bucket), ensure_ascii=False, separators=(",", ":")),
        }
        for one in closed
    ]
    if not rows:
        return
    GpuMetrics.insert_many(rows).on_conflict(conflict_target=_KEY, preserve=[GpuMetrics.gpus]).execute()


def since(provider_id: int, width_seconds: int, since_ms: int) -> list[tuple[int, int, Bucket]]:
    """A provider's buckets of a width that begin at a time or later: writer, start in ms, bucket."""
    query = GpuMetrics.select(GpuMetrics.writer, GpuMetrics.start_ms, GpuMetrics.gpus).where(
        GpuMetrics.provider_id == provider_id,
        GpuMetrics.width_seconds == width_seconds,
        GpuMetrics.start_ms >= since_ms,
    )
    return [
        (int(writer), int(start_ms), from_plain(json.loads(gpus))) for writer, start_ms, gpus in tuples(query)
    ]


def forget_before(width_seconds: int, before_ms: int, limit: int) -> int:
    """Deletes the oldest rows of a width that begin before a time, so many at most; returns how many."""
    return _forget_before.run(width_seconds=width_seconds, before_ms=before_ms, limit=limit)

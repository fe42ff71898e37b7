"""Sessions and heartbeats of providers, as columns of the provider. Runs inside its caller's transaction.

Only the newest session of a provider may write: every write names its session epoch.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import peewee as pw

from server.domain.jobs import JobType
from server.store.models import Provider
from server.store.prepared import PreparedQuery, arg


@dataclass(frozen=True, slots=True)
class Beat:
    """Heartbeats to write down: the last of all, the last on a stream (which alone renews leases), and
    what the machine said last; None where there was none."""

    provider_id: int
    at_ms: int
    gpu_status: dict[str, Any] | None
    renewed_ms: int | None = None


_beat = PreparedQuery(
    lambda: Provider.update(
        {
            Provider.last_heartbeat_ms: arg("at_ms"),
            Provider.renewed_ms: pw.fn.COALESCE(arg("renewed_ms"), Provider.renewed_ms),
        }
    ).where(
        Provider.id == arg("id"),
        Provider.last_heartbeat_ms.is_null() | (Provider.last_heartbeat_ms <= arg("at_ms")),
    )
)


def begin(provider_id: int, job_types: Iterable[JobType], now_ms: int) -> int:
    """Counts a new session and returns its epoch; the older one's writes match no row from here on.

    It renews the leases that it keeps in the same transaction: nobody may judge them lost in between.
    """
    Provider.update(
        session_epoch=Provider.session_epoch + 1,
        connected=True,
        draining=False,
        renewed_ms=now_ms,
        job_types=" ".join(sorted(job_types)),
    ).where(Provider.id == provider_id).execute()
    return int(Provider.select(Provider.session_epoch).where(Provider.id == provider_id).scalar())


def end(provider_id: int, session_epoch: int) -> None:
    """The session ended; nothing happens when a newer one exists."""
    Provider.update(connected=False, draining=False).where(
        Provider.id == provider_id, Provider.session_epoch == session_epoch
    ).execute()


def set_draining(provider_id: int, session_epoch: int) -> None:
    """The daemon of this session takes no more jobs."""
    Provider.update(draining=True).where(
        Provider.id == provider_id, Provider.session_epoch == session_epoch
    ).execute()


def end_all() -> None:
    """At server start no daemon is connected."""
    Provider.update(connected=False, draining=False).where(Provider.connected | Provider.draining).execute()


def write_beats(beats: Iterable[Beat]) -> None:
    """Writes heartbeats down; an older one than the stored changes nothing."""
    for beat in sorted(beats, key=lambda beat: beat.provider_id):  # one order: no two batches deadlock
        newest = _beat.run(id=beat.provider_id, at_ms=beat.at_ms, renewed_ms=beat.renewed_ms)
        if newest and beat.gpu_status:
            _write_gpu_status(beat.provider_id, beat.gpu_status)


def _write_gpu_status(provider_id: int, status: dict[str, Any]) -> None:
    values = {"gpu_status": json.dumps(status)}
    reported = {"gpu_model": status.get("gpu_name"), "gpu_vram_mib": status.get("gpu_vram_mib")}
    values.update({name: value for name, value in reported.items() if value})
    Provider.update(**values).where(Provider.id == provider_id).execute()

"""Sessions and heartbeats, as columns of the provider. Runs inside its caller's transaction.

Only the newest session of a provider may write: its writes compare the session epoch.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import peewee as pw

from server.domain.gpus import GpuReport, to_plain
from server.domain.jobs import JobType
from server.store.models import Provider
from server.store.prepared import PreparedQuery, arg


@dataclass(frozen=True, slots=True)
class Beat:
    """The newest heartbeat of a provider, by stream or POST, and its newest report, if it sent one.

    ``renewed_ms`` is the newest heartbeat on a stream, if there was one: only these renew leases.
    """

    provider_id: int
    at_ms: int
    report: GpuReport | None
    renewed_ms: int | None = None


_TIMES: dict[Any, Any] = {
    Provider.last_heartbeat_ms: arg("at_ms"),
    Provider.renewed_ms: pw.fn.COALESCE(arg("renewed_ms"), Provider.renewed_ms),
}
_IS_NEWEST = (Provider.id == arg("id")) & (
    Provider.last_heartbeat_ms.is_null() | (Provider.last_heartbeat_ms <= arg("at_ms"))
)
_beat = PreparedQuery(lambda: Provider.update(_TIMES).where(_IS_NEWEST))
_beat_with_report = PreparedQuery(
    lambda: Provider.update(
        {
            **_TIMES,
            Provider.gpu_status: arg("gpu_status"),
            Provider.gpu_model: pw.fn.COALESCE(arg("gpu_model"), Provider.gpu_model),
            Provider.architecture: pw.fn.COALESCE(arg("architecture"), Provider.architecture),
            # The memory on record may be that of the GPU that was there before.
            Provider.gpu_vram_mib: pw.Case(
                None,
                [(Provider.gpu_model != arg("unless_gpu_model"), 0)],
                pw.fn.COALESCE(arg("gpu_vram_mib"), Provider.gpu_vram_mib),
            ),
        }
    ).where(_IS_NEWEST)
)
_begin = PreparedQuery(
    lambda: (
        Provider.update(
            {
                Provider.session_epoch: Provider.session_epoch + 1,
                Provider.connected: True,
                Provider.draining: False,
                Provider.renewed_ms: arg("now_ms"),
                Provider.job_types: arg("job_types"),
            }
        )
        .where(Provider.id == arg("id"))
        .returning(Provider.session_epoch)
    )
)


def begin(provider_id: int, job_types: Iterable[JobType], now_ms: int) -> int:
    """Begins a new session and returns its epoch; writes of older sessions match no row from now on.

    The same write renews the leases that the session keeps, so that they are not declared lost in between.
    """
    ((epoch,),) = _begin.all(id=provider_id, job_types=" ".join(sorted(job_types)), now_ms=now_ms)
    return int(epoch)


def end(provider_id: int, session_epoch: int) -> None:
    """Ends a session; does nothing if a newer one exists."""
    Provider.update(connected=False, draining=False).where(
        Provider.id == provider_id, Provider.session_epoch == session_epoch
    ).execute()


def set_draining(provider_id: int, session_epoch: int) -> None:
    """Marks the session as draining: its daemon takes no more jobs."""
    Provider.update(draining=True).where(
        Provider.id == provider_id, Provider.session_epoch == session_epoch
    ).execute()


def end_all() -> None:
    """Ends all sessions: when the server starts, no daemon is connected."""
    Provider.update(connected=False, draining=False).where(Provider.connected | Provider.draining).execute()


def write_beats(beats: Iterable[Beat]) -> None:
    """Writes heartbeats; one that is older than the stored one changes nothing."""
    for beat in sorted(
        beats, key=lambda beat: beat.provider_id
    ):  # sorted, so that two batches cannot deadlock
        values = {"id": beat.provider_id, "at_ms": beat.at_ms, "renewed_ms": beat.renewed_ms}
        if beat.report:
            _beat_with_report.run(**values, **_columns(beat.report))
        else:
            _beat.run(**values)


def _columns(report: GpuReport) -> dict[str, Any]:
    gpu_model, total_mib = report.gpu_model or None, report.total_mib
    return {
        "gpu_status": json.dumps(to_plain(report)),
        "gpu_model": gpu_model,
        "gpu_vram_mib": total_mib or None,
        "unless_gpu_model": gpu_model if total_mib is None else None,
        "architecture": report.architecture or None,
    }

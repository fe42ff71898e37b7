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
from server.store.models import Provider, tuples
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


@dataclass(frozen=True, slots=True)
class Opened:
    """What a Hello says of a new session."""

    server_id: int
    """The server that has its stream."""
    boot_id: str
    slots: int
    job_types: frozenset[JobType]
    runs_plain_processes: bool = False


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """What of a session at another server changes often."""

    provider_id: int
    session_epoch: int
    capacity_no: int
    """Changes with everything else that is known of the session."""
    draining: bool
    last_heartbeat_ms: int
    renewed_ms: int


_ENDED = {Provider.connected: False, Provider.draining: False, Provider.server_id: None}
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
                Provider.server_id: arg("server_id"),
                Provider.boot_id: arg("boot_id"),
                Provider.slots: arg("slots"),
                Provider.runs_plain_processes: arg("runs_plain_processes"),
                Provider.capacity_no: Provider.capacity_no + 1,
            }
        )
        .where(Provider.id == arg("id"))
        .returning(Provider.session_epoch)
    )
)


def begin(provider_id: int, opened: Opened, now_ms: int) -> int:
    """Begins a new session and returns its epoch; writes of older sessions match no row from now on.

    The same write renews the leases that the session keeps, so that they are not declared lost in between.
    """
    ((epoch,),) = _begin.all(
        id=provider_id,
        job_types=" ".join(sorted(opened.job_types)),
        server_id=opened.server_id,
        boot_id=opened.boot_id,
        slots=opened.slots,
        runs_plain_processes=opened.runs_plain_processes,
        now_ms=now_ms,
    )
    return int(epoch)


def end(provider_id: int, session_epoch: int) -> None:
    """Ends a session; does nothing if a newer one exists."""
    Provider.update(_ENDED).where(
        Provider.id == provider_id, Provider.session_epoch == session_epoch
    ).execute()


def end_each(ended: Iterable[tuple[int, int]]) -> None:
    """Ends many sessions, by provider and epoch."""
    for provider_id, session_epoch in sorted(ended):
        end(provider_id, session_epoch)


def set_draining(provider_id: int, session_epoch: int) -> None:
    """Marks the session as draining: its daemon takes no more jobs."""
    Provider.update(draining=True).where(
        Provider.id == provider_id, Provider.session_epoch == session_epoch
    ).execute()


def note_capacity(provider_id: int, session_epoch: int, slots: int) -> None:
    """Sets a session's slots, and tells other servers that its capacity changed."""
    Provider.update(slots=slots, capacity_no=Provider.capacity_no + 1).where(
        Provider.id == provider_id, Provider.session_epoch == session_epoch
    ).execute()


def end_all() -> None:
    """Ends all sessions."""
    Provider.update(_ENDED).where(
        Provider.connected | Provider.draining | Provider.server_id.is_null(False)
    ).execute()


def end_all_of(server_id: int) -> None:
    """Ends the sessions of one server."""
    Provider.update(_ENDED).where(Provider.server_id == server_id).execute()


def open_at(server_id: int) -> dict[int, int]:
    """The epochs of the sessions that a server has, by provider."""
    query = Provider.select(Provider.id, Provider.session_epoch).where(Provider.server_id == server_id)
    return {int(provider_id): int(epoch) for provider_id, epoch in tuples(query)}


def elsewhere(server_id: int) -> list[Elsewhere]:
    """The sessions at other servers."""
    query = Provider.select(
        Provider.id,
        Provider.session_epoch,
        Provider.capacity_no,
        Provider.draining,
        Provider.last_heartbeat_ms,
        Provider.renewed_ms,
    ).where(Provider.server_id.is_null(False), Provider.server_id != server_id)
    return [
        Elsewhere(int(provider_id), int(epoch), int(number), bool(draining), last_ms or 0, renewed_ms or 0)
        for provider_id, epoch, number, draining, last_ms, renewed_ms in tuples(query)
    ]


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

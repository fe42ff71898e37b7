"""What a running daemon reports to its owner about itself, as plain data: session, jobs, GPUs.

It must not hold a key, a prompt, an output or a lease's secret: everything here
is printed in terminals.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from dcp.v1 import gpus_pb2, jobs_pb2

from daemon.protocol.session import DaemonSession, LinkState
from daemon.protocol.transcript import Transcript
from daemon.service.version import daemon_version

_STATES = {
    LinkState.OFFLINE: "offline",
    LinkState.GREETING: "connecting",
    LinkState.OPEN: "open",
    LinkState.ENDED: "ended",
}
_GPU_FIGURES = ("free_vram_mib", "gpu_vram_mib", "memory_used_mb", "gpu_util_pct", "temp_c", "power_w")


def snapshot(
    session: DaemonSession,
    status: gpus_pb2.GpuStatus | None,
    state_of: Callable[[gpus_pb2.GpuDevice], str],
    *,
    server: str,
    opened_at: float | None,
    closed: str,
    now: float,
) -> dict[str, Any]:
    """The daemon as it is at `now`, a reading of its monotonic clock; `closed`: why it takes no jobs.

    `state_of`: how a GPU is.
    """
    is_open = session.link is LinkState.OPEN and opened_at is not None
    return {
        "pid": os.getpid(),
        "version": daemon_version(),
        "session": {
            "state": _STATES[session.link],
            "server": server,
            "provider_id": session.provider_id,
            "session_epoch": session.session_epoch,
            "connected_seconds": round(now - opened_at, 1) if is_open and opened_at is not None else None,
            "draining": session.is_draining,
        },
        "update": {"available": session.update_available, "newest": session.newest_daemon},
        "takes_no_jobs": closed,
        "models": [
            {
                "name": model.name,
                "warm": model.warm,
                "embeds": jobs_pb2.JOB_TYPE_EMBEDDINGS in model.job_types,
            }
            for model in session.models
        ],
        "jobs": [_job(run, now) for run in session.unfinished],
        "gpus": [_gpu(gpu, state_of(gpu)) for gpu in status.all_gpus] if status is not None else [],
        "empty_mig_gpus": list(status.empty_mig_gpus) if status is not None else [],
    }


def _job(run: Transcript, now: float) -> dict[str, Any]:
    job_type = jobs_pb2.JobType.Name(run.offer.job_type)
    return {
        "job_id": run.lease.job_id,
        "job_type": job_type.removeprefix("JOB_TYPE_").lower(),
        "model": run.offer.params.model,
        "attempt": run.attempt,
        "phase": run.phase.name.lower(),
        "run_seconds": round(run.run_ms(now) / 1000, 1),
        "limit_seconds": round(run.limit_ms / 1000, 1),
    }


def _gpu(gpu: gpus_pb2.GpuDevice, state: str) -> dict[str, Any]:
    report: dict[str, Any] = {"index": gpu.index, "uuid": gpu.uuid, "name": gpu.gpu_name, "state": state}
    report["vram_is_shared"] = gpu.vram_is_shared
    return report | {
        name: getattr(gpu, name) if gpu.HasField(name) else None  # type: ignore[arg-type]
        for name in _GPU_FIGURES
    }

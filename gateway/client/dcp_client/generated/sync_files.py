# Generated from dcp_client/aio by scripts/generate; edit that instead.
"""Owns the download of a job's files, which goes on where it broke off; paths are in `downloads`."""

from __future__ import annotations

import time
import random
from pathlib import Path

import httpx
from dcp_client.generated.sync_transport import Transport
from dcp_client.calls import Call, path_of
from dcp_client.downloads import PartFile, Progress, is_here, target
from dcp_client.errors import ConnectionFailedError
from dcp_client.generated.models import Artifact

_MOST_FAILURES = 8


def download(
    transport: Transport,
    job_id: str,
    artifact: Artifact,
    folder: Path,
    on_progress: Progress | None = None,
) -> Path:
    """Downloads a file, unless it is there; returns its path. Raises DigestError, UnsafeNameError."""
    path = target(folder, artifact.name)
    if is_here(path, artifact):
        return path
    part = PartFile(path, artifact)
    try:
        failures = 0
        while part.size < artifact.size_bytes:
            before = part.size
            try:
                _continue(transport, job_id, artifact, part, on_progress)
            except httpx.HTTPError as error:
                failures = 0 if part.size > before else failures + 1
                if failures >= _MOST_FAILURES:
                    raise ConnectionFailedError(
                        f"the download of {artifact.name} breaks off again and again"
                    ) from error
                time.sleep(random.random() * 0.25 * 2**failures)  # noqa: S311
        return part.finish()
    finally:
        part.close()


def _continue(
    transport: Transport,
    job_id: str,
    artifact: Artifact,
    part: PartFile,
    on_progress: Progress | None,
) -> None:
    headers = {"Accept": "*/*", "Accept-Encoding": "identity"}
    if part.size:
        headers |= {"Range": f"bytes={part.size}-", "If-Range": f'"{artifact.sha256}"'}
    path = path_of("/api/jobs/{job_id}/artifacts/{name}", job_id=job_id, name=artifact.name)
    with transport.stream(Call("GET", path, headers=headers)) as answer:
        if answer.status_code != 206:
            part.restart()
        for data in answer.iter_raw():
            part.write(data)
            if on_progress is not None:
                on_progress(artifact.name, part.size, artifact.size_bytes)
    if part.size < artifact.size_bytes:
        raise httpx.RemoteProtocolError("the answer ended early")

# Generated from dcp_client/aio by scripts/generate; edit that instead.
"""Owns the upload of inputs, which goes on where it broke off; what is uploaded is in `packing`."""

from __future__ import annotations

import time
import random
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from dcp_client.generated.sync_transport import Transport
from dcp_client.calls import Call, path_of
from dcp_client.downloads import Progress
from dcp_client.errors import APIError, ConnectionFailedError
from dcp_client.generated.bodies import JobInput
from dcp_client.generated.models import CreateInputResponse, InputRecord
from dcp_client.packing import Piece, pieces_of

_MOST_FAILURES = 8
_CHUNK_BYTES = 256 * 1024
# After the last byte the market reads everything again.
_TIMEOUT_SECONDS = 300.0
# What has arrived is not what this program thinks, or was dropped: it asks again.
_ASK_AGAIN = frozenset({"INPUT_OFFSET_WRONG", "INPUT_NOT_WAITING", "INPUT_NOT_FOUND"})


def upload(
    transport: Transport, source: Path, path: str | None, on_progress: Progress | None
) -> list[JobInput]:
    """Uploads a file or a folder, except what the account has; returns the inputs for a submit."""
    inputs: list[JobInput] = []
    with tempfile.TemporaryDirectory() as scratch:
        for piece in pieces_of(source, Path(scratch), path):
            found = _upload(transport, piece, on_progress)
            inputs.append({"input_id": found.input_id, "path": piece.path, "unpack": piece.unpack})
    return inputs


def _upload(transport: Transport, piece: Piece, on_progress: Progress | None) -> InputRecord:
    failures, before = 0, -1
    while True:
        found = _announce(transport, piece)
        if on_progress is not None:
            on_progress(piece.name, found.received_bytes, piece.size_bytes)
        if found.status == "ready":
            return found
        failures = 0 if found.received_bytes > before else failures + 1
        before = found.received_bytes
        if failures >= _MOST_FAILURES:
            raise ConnectionFailedError(f"the upload of {piece.name} breaks off again and again")
        if failures:
            time.sleep(random.random() * 0.25 * 2**failures)  # noqa: S311
        try:
            _send(transport, piece, found, on_progress)
        except ConnectionFailedError:
            pass
        except APIError as error:
            if error.reason not in _ASK_AGAIN:
                raise


def _announce(transport: Transport, piece: Piece) -> InputRecord:
    body = {"name": piece.name, "size_bytes": piece.size_bytes, "sha256": piece.sha256}
    call = Call("POST", "/api/inputs", body=body, repeat="harmless")
    return (transport.model(call, CreateInputResponse)).input or InputRecord()


def _send(transport: Transport, piece: Piece, found: InputRecord, on_progress: Progress | None) -> None:
    first, size = found.received_bytes, piece.size_bytes
    headers = {
        "Content-Type": "application/octet-stream",
        "Content-Length": str(size - first),
        "Content-Range": f"bytes {first}-{size - 1}/{size}",
    }
    call = Call(
        "PUT",
        path_of("/api/inputs/{input_id}", input_id=found.input_id),
        # Not as it is: where it goes on is asked first.
        repeat="secret",
        headers=headers,
        content=partial(_content, piece, first, on_progress),
    )
    with transport.stream(call, _TIMEOUT_SECONDS):
        pass


def _content(piece: Piece, first: int, on_progress: Progress | None) -> Iterator[bytes]:
    with piece.file.open("rb") as file:
        file.seek(first)
        while data := file.read(_CHUNK_BYTES):
            yield data
            first += len(data)
            if on_progress is not None:
                on_progress(piece.name, first, piece.size_bytes)

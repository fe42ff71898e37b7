"""Owns what is known of a batch without sending it: the form of an upload, and the lines of its answers."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable

from dcp_client.errors import ResponseError
from dcp_client.generated.models import Batch
from dcp_client.reading import MalformedError, loads

ENDPOINTS = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings")
ENDED = frozenset({"completed", "failed", "expired", "cancelled"})
"""The states in which a batch stays."""
BUDGET = "max_cost_halala"
"""The entry of a batch's metadata with the most that it may cost."""

BatchProgress = Callable[[Batch], None]
"""Called with a batch as it is now."""

_CHUNK_BYTES = 256 * 1024


@dataclass(frozen=True)
class BatchResult:
    """What became of a line of a batch: an answer, or a reason why there is none."""

    custom_id: str
    body: Mapping[str, Any] | None
    """The answer in the form of the batch's endpoint; None without one."""
    error_code: str = ""
    error_message: str = ""
    raw: Mapping[str, Any] = field(default_factory=dict)
    """The whole line, with fields that this client does not know."""


def result_of(line: str) -> BatchResult:
    """The result in a line of an output file or of an error file. Raises ResponseError."""
    try:
        values = loads(line.encode())
        response, error = values.get("response") or {}, values.get("error") or {}
        return BatchResult(
            custom_id=str(values["custom_id"]),
            body=response.get("body"),
            error_code=str(error.get("code") or ""),
            error_message=str(error.get("message") or ""),
            raw=values,
        )
    except (MalformedError, LookupError, AttributeError, TypeError) as error:
        raise ResponseError("a line of the batch's file is not in the form of OpenAI's API") from error


class UploadForm:
    """A file as a form, whose bytes are made while they are sent."""

    def __init__(self, source: Path) -> None:
        self.source = source
        self.file_bytes = source.stat().st_size
        boundary = secrets.token_hex(16)
        name = "".join(x if x.isascii() and (x.isalnum() or x in "._-") else "_" for x in source.name)
        self._head = (
            f'--{boundary}\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
            f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n'
            "Content-Type: application/jsonl\r\n\r\n"
        ).encode()
        self._tail = f"\r\n--{boundary}--\r\n".encode()
        self.headers = {
            "Content-Type": f"multipart/form-data; boundary={boundary}",
            "Content-Length": str(len(self._head) + self.file_bytes + len(self._tail)),
        }

    def pieces(self) -> Iterator[tuple[bytes, int]]:
        """The bytes of the form, and how many bytes of the file are among those so far."""
        yield self._head, 0
        with self.source.open("rb") as file:
            done = 0
            # No more than was announced, should the file grow meanwhile.
            while data := file.read(min(_CHUNK_BYTES, self.file_bytes - done)):
                done += len(data)
                yield data, done
        if done < self.file_bytes:
            raise OSError(f"{os.fspath(self.source)} became shorter while it was sent")
        yield self._tail, done

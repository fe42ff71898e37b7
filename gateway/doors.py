"""The paths of `/v1` that are no RPCs: forms of requests, before the same jobs, and the files of batches."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import NamedTuple

from gateway.batch_calls import BatchCalls
from gateway.batch_checks import Checks
from gateway.batches import CreateBatch, FileContent, UploadFile
from gateway.channel import Channel
from gateway.dialects.table import DIALECTS
from gateway.inference import CountTokens, Inference, Jobs, Repeats
from gateway.routes import Saw, Served


class Doors(NamedTuple):
    """What is no route of an RPC."""

    served: Mapping[str, Served]
    """What serves a path, by the path; a POST, unless the path has another method before it."""
    heard: Mapping[str, Saw]
    """What hears of the answers of RPCs, by their names."""
    duty: Callable[[], Awaitable[None]]
    """What goes on while the gateway serves."""


def doors(channel: Channel, deadline_seconds: float) -> Doors:
    """The paths of `/v1` over a channel."""
    jobs, repeats = Jobs(channel, deadline_seconds), Repeats()
    batches = BatchCalls(channel, deadline_seconds)
    checks = Checks(batches, jobs)
    served: dict[str, Served] = {
        path: Inference(door.dialect, door.work, jobs, repeats) for path, door in DIALECTS.items()
    }
    served |= {
        "/v1/messages/count_tokens": CountTokens(jobs),
        "/v1/files": UploadFile(batches),
        "/v1/batches": CreateBatch(batches, checks, repeats),
        "GET /v1/files/{file_id}/content": FileContent(batches),
    }
    heard = {f"dcp.v1.BatchService.{name}": checks.saw for name in ("GetBatch", "ListBatches")}
    return Doors(served, heard, checks.watch)

"""The paths of `/v1` that are no RPCs: one for each form of request, all before the same jobs."""

from __future__ import annotations

from collections.abc import Mapping

from gateway.channel import Channel
from gateway.dialects.table import DIALECTS
from gateway.inference import CountTokens, Inference, Jobs, Repeats
from gateway.routes import Served


def doors(channel: Channel, deadline_seconds: float) -> Mapping[str, Served]:
    """What serves a POST, by its path."""
    jobs, repeats = Jobs(channel, deadline_seconds), Repeats()
    served: dict[str, Served] = {
        path: Inference(door.dialect, jobs, repeats) for path, door in DIALECTS.items()
    }
    return served | {"/v1/messages/count_tokens": CountTokens(jobs)}

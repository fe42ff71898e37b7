"""The paths of `/v1` that are no RPCs: one for each form of request, all before the same jobs."""

from __future__ import annotations

from collections.abc import Mapping

from gateway.channel import Channel
from gateway.dialects import Dialect
from gateway.dialects.anthropic_messages import AnthropicMessages
from gateway.dialects.openai_chat import OpenAIChat
from gateway.inference import CountTokens, Inference, Jobs, Repeats
from gateway.routes import Served


def doors(channel: Channel, deadline_seconds: float) -> Mapping[str, Served]:
    """What serves a POST, by its path."""
    jobs, repeats = Jobs(channel, deadline_seconds), Repeats()
    dialects: dict[str, Dialect] = {
        "/v1/chat/completions": OpenAIChat(),
        "/v1/messages": AnthropicMessages(),
    }
    served: dict[str, Served] = {
        path: Inference(dialect, jobs, repeats) for path, dialect in dialects.items()
    }
    return served | {"/v1/messages/count_tokens": CountTokens(jobs)}

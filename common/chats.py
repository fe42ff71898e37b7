"""Conversations in the form of OpenAI's chat API: what of a request passes to a model server, and its media.

The server checks a conversation when it is submitted, and the daemon looks again at what would make its model
server fetch something: an address in a request could lead into the network of the machine. It knows no job.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

Values = dict[str, Any]

PASSED = frozenset(
    {
        *("messages", "tools", "tool_choice", "parallel_tool_calls", "functions", "function_call"),
        *("response_format", "stop", "n", "seed", "logprobs", "top_logprobs", "logit_bias"),
        *("temperature", "top_p", "top_k", "min_p", "typical_p", "top_a"),
        *("presence_penalty", "frequency_penalty", "repetition_penalty", "repeat_penalty"),
        *("reasoning_effort", "reasoning_format", "chat_template_kwargs", "enable_thinking"),
        *("grammar", "json_schema", "guided_json", "guided_regex", "guided_choice", "guided_grammar"),
        *("prediction", "verbosity", "modalities", "continue_final_message", "add_generation_prompt"),
    }
)
"""The fields of a request that model servers get. Others say who asks, or would have a server do what is not
billed: more tokens than `max_tokens`, a template or an adapter of the client's."""
MEDIA = ("image_url", "input_audio", "video_url", "audio_url", "file")
"""The types of the parts of a message that are not text."""
_DATA_URL = re.compile(r"data:[a-z]+/[a-z0-9.+-]+;base64,[A-Za-z0-9+/=_-]*", re.IGNORECASE)


def parts_of(message: Values) -> Iterator[tuple[int, Values]]:
    """The parts of a message's content that are objects, with their places."""
    content = message.get("content")
    if isinstance(content, list):
        yield from ((place, part) for place, part in enumerate(content) if isinstance(part, dict))


def medium_of(part: Values) -> object:
    """Where a part that is not text has its picture, sound or film: a data URL, or base64 of a sound."""
    inner = part.get(str(part.get("type")))
    if not isinstance(inner, dict):
        return inner
    return inner.get("url", inner.get("data", inner.get("file_data")))


def is_carried(part: Values) -> bool:
    """Whether a part brings its medium along, so that nobody has to fetch it."""
    medium = medium_of(part)
    if not isinstance(medium, str):
        return False
    return part.get("type") == "input_audio" or _DATA_URL.fullmatch(medium) is not None


def fetched(request: Values) -> str:
    """The first part of a request that a model server would have to fetch, as a path; empty if none."""
    messages = request.get("messages")
    for place, message in enumerate(messages if isinstance(messages, list) else []):
        for at, part in parts_of(message) if isinstance(message, dict) else ():
            if part.get("type") in MEDIA and not is_carried(part):
                return f"messages[{place}].content[{at}]"
    return ""

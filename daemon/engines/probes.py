"""Owns what a model is asked that does not chat: whether it completes texts, or makes embeddings.

Each is one small request of OpenAI's API. It must not know engines or tests.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from common import documents
from daemon.foreign import http
from daemon.runners import Ability

PROBE_SECONDS = 120.0
"""The model may have to be loaded for it."""
MAX_ANSWER_BYTES = 4 * 1024 * 1024
"""An embedding has thousands of numbers."""
PROBE_TOKENS = 4


async def ability_without_chat(client: http.Client, model: str) -> Ability | None:
    """What a model can do that refused to chat; None: neither."""
    for ability, path, body, is_answer in (
        (
            Ability.COMPLETION,
            "/completions",
            {"prompt": "Once upon a time", "max_tokens": PROBE_TOKENS, "temperature": 0},
            _has_text,
        ),
        (Ability.EMBEDDING, "/embeddings", {"input": "Hello"}, _has_numbers),
    ):
        if await _answers(client, path, {"model": model, **body}, is_answer):
            return ability
    return None


async def _answers(
    client: http.Client, path: str, body: dict[str, Any], is_answer: Callable[[Any], bool]
) -> bool:
    try:
        async with (
            asyncio.timeout(PROBE_SECONDS),
            client.stream("POST", path, json=body, timeout=PROBE_SECONDS) as response,
        ):
            if response.status_code != http.OK:
                return False
            text = await http.body(response, MAX_ANSWER_BYTES)
        return is_answer(documents.parse(text, MAX_ANSWER_BYTES))
    except (*http.FAILURES, TimeoutError, ValueError, KeyError, IndexError, TypeError):
        return False


def _has_text(answer: Any) -> bool:
    text = answer["choices"][0]["text"]
    return isinstance(text, str) and bool(text)


def _has_numbers(answer: Any) -> bool:
    numbers = answer["data"][0]["embedding"]
    # A server may answer in base64.
    return isinstance(numbers, list | str) and bool(numbers)

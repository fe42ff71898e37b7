"""Owns what a model is asked that does not chat: whether it completes texts.

It is one small request of OpenAI's API. It must not know engines or tests.
"""

from __future__ import annotations

import asyncio

from common import documents
from daemon.foreign import http

PROBE_SECONDS = 120.0
"""The model may have to be loaded for it."""
PROBE_TOKENS = 4


async def completes(client: http.Client, model: str) -> bool:
    """Whether a model that refused to chat completes texts."""
    body = {"model": model, "prompt": "Once upon a time", "max_tokens": PROBE_TOKENS, "temperature": 0}
    try:
        async with (
            asyncio.timeout(PROBE_SECONDS),
            client.stream("POST", "/completions", json=body, timeout=PROBE_SECONDS) as response,
        ):
            if response.status_code != http.OK:
                return False
            answer = documents.parse(await http.body(response, documents.MAX_BYTES))
        text = answer["choices"][0]["text"]
        return isinstance(text, str) and bool(text)
    except (*http.FAILURES, TimeoutError, ValueError, KeyError, IndexError, TypeError):
        return False

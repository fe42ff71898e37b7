"""The real daemon with an engine that claims a model and does not run it: it writes some words, or nothing.

Run as a program with the model's name and what it does, ``words`` or ``nothing``, as arguments, and with the
settings of ``dcp-daemon``.
"""

from __future__ import annotations

import random
import sys
from collections.abc import AsyncGenerator, Sequence

from dcp.v1 import jobs_pb2, sessions_pb2

from daemon.engines import Engine
from tests.support import scripted_daemon

WORDS = (
    "of",
    "course",
    "this",
    "can",
    "be",
    "said",
    "about",
    "many",
    "things",
    "and",
    "it",
    "depends",
    "on",
    "you",
)


class LyingEngine(Engine):
    """Answers every job at once, without a model."""

    def __init__(self, model: str, writes_words: bool) -> None:
        self._model = model
        self._writes_words = writes_words

    def models(self) -> Sequence[sessions_pb2.ServedModel]:
        """The model that it claims."""
        return [sessions_pb2.ServedModel(name=self._model, context_tokens=2048, warm=True)]

    async def prepare(self, offer: sessions_pb2.JobOffer) -> None:
        """Is always ready."""

    async def generate(self, offer: sessions_pb2.JobOffer) -> AsyncGenerator[str | jobs_pb2.Usage, None]:
        """Yields words in a random order, or nothing."""
        if self._writes_words:
            yield " ".join(random.choices(WORDS, k=60))
        yield jobs_pb2.Usage(prompt_tokens=20, completion_tokens=60 if self._writes_words else 0)

    async def self_test(self, model: str = "") -> None:
        """Claims to have passed."""

    async def close(self) -> None:
        """Does nothing."""


if __name__ == "__main__":
    scripted_daemon.main(LyingEngine(sys.argv[1], sys.argv[2] == "words"))

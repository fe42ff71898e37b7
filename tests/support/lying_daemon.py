"""The real daemon with an engine that claims a model and does not run it.

Run as a program with the model's name and what it does as arguments, and with the settings of ``dcp-daemon``.
It writes ``words`` in a random order, the ``same`` text always, or ``nothing``; with ``tokens`` it writes
words and counts a hundred times as many tokens. ``copies`` writes the text of an honest one, and does not
know how likely its tokens were. ``honest`` is what the others claim to be: it writes the same text for the
same prompt, with the same probabilities.
"""

from __future__ import annotations

import random
import sys
from collections.abc import AsyncGenerator, Sequence

from dcp.v1 import jobs_pb2, sessions_pb2

from daemon.engines import Engine
from daemon.runners import Chunk, Logprobs, Piece
from tests.support import scripted_daemon
from tests.support.chats import chunk

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

    def __init__(self, model: str, does: str) -> None:
        self._model = model
        self._does = does

    def models(self) -> Sequence[sessions_pb2.ServedModel]:
        """The model that it claims."""
        return [sessions_pb2.ServedModel(name=self._model, context_tokens=2048, warm=True)]

    async def prepare(self, offer: sessions_pb2.JobOffer) -> None:
        """Is always ready."""

    async def generate(self, offer: sessions_pb2.JobOffer) -> AsyncGenerator[Piece, None]:
        """Yields words, or nothing."""
        if self._does != "nothing":
            words = self._words(offer)
            text = " ".join(words)
            yield Chunk(chunk("stop", content=text)) if offer.chat_request else text
        if self._does in ("honest", "copies"):
            yield self._logprobs(words, offer)
        tokens = {"nothing": 0, "tokens": 6000}.get(self._does, 60)
        yield jobs_pb2.Usage(prompt_tokens=20, completion_tokens=tokens)

    def _words(self, offer: sessions_pb2.JobOffer) -> Sequence[str]:
        if self._does == "same":
            return WORDS * 4
        knows = self._does in ("honest", "copies")
        seed = _seed(offer) if knows else None
        return random.Random(seed).choices(WORDS, k=60)

    def _logprobs(self, words: Sequence[str], offer: sessions_pb2.JobOffer) -> Logprobs:
        seed = _seed(offer) if self._does == "honest" else None
        draw = random.Random(seed)
        return Logprobs(
            tuple(sessions_pb2.TokenLogprob(token=word, logprob=-draw.expovariate(1.5)) for word in words)
        )

    async def self_test(self, model: str = "") -> None:
        """Claims to have passed."""

    async def close(self) -> None:
        """Does nothing."""


def _seed(offer: sessions_pb2.JobOffer) -> bytes:
    return offer.params.SerializeToString(deterministic=True) + offer.chat_request


if __name__ == "__main__":
    scripted_daemon.main(LyingEngine(sys.argv[1], sys.argv[2]))

"""Which request a job is to a model server: a conversation, or texts to embed."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable

from dcp.v1 import sessions_pb2

from daemon.engines import EMBEDDINGS, chat, embed
from daemon.engines.answers import Patience, answer
from daemon.foreign import http
from daemon.runners import Piece


def check(offer: sessions_pb2.JobOffer) -> None:
    """Raises EngineError for parameters that make no request."""
    if offer.job_type == EMBEDDINGS:
        embed.request_body(offer)
    else:
        chat.request_body(offer)


def pieces(
    client: http.Client,
    offer: sessions_pb2.JobOffer,
    *,
    served_name: str,
    context_tokens: int,
    monotonic: Callable[[], float],
    patience: Patience,
    root: str = "/v1",
) -> AsyncGenerator[Piece, None]:
    """What the server answers to a job, then the usage. Raises EngineError.

    `served_name` is the model's name at the server; `context_tokens` 0: not known. `root`: the path of its
    API.
    """
    if offer.job_type == EMBEDDINGS:
        return embed.vectors(
            client,
            offer,
            served_name=served_name,
            context_tokens=context_tokens,
            patience=patience,
            path=f"{root}/embeddings",
        )
    return answer(
        client,
        offer,
        served_name=served_name,
        context_tokens=context_tokens,
        monotonic=monotonic,
        patience=patience,
        path=f"{root}/chat/completions",
    )

"""Embeddings as daemons and model servers write them."""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Sequence
from typing import Any

from dcp.v1 import jobs_pb2, sessions_pb2

from common import embeddings

MODEL = "test/embedder"
VECTOR = [0.5, -0.25, 1.0]


def lines(*vectors: Sequence[float]) -> bytes:
    """The output of a job with these vectors."""
    return b"".join(
        json.dumps(embeddings.line(index, embeddings.packed(list(vector)))).encode() + b"\n"
        for index, vector in enumerate(vectors)
    )


def packed(vector: Sequence[float]) -> str:
    """A vector as base64, by another way than the programs go."""
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()


def served(name: str = MODEL, context_tokens: int = 512) -> sessions_pb2.ServedModel:
    """A model that makes embeddings."""
    return sessions_pb2.ServedModel(
        name=name, context_tokens=context_tokens, job_types=[jobs_pb2.JOB_TYPE_EMBEDDINGS]
    )


def inputs_of(offer: sessions_pb2.JobOffer) -> list[Any]:
    """What a job is to embed."""
    found: list[Any] = json.loads(offer.embeddings_request)["input"]
    return found

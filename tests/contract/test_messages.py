"""`/v1/messages` by Anthropic's own client: a real gateway and server, a daemon's messages."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import anthropic
import httpx2
import pytest
from dcp.v1 import jobs_pb2

from tests.contract.test_chat_completions import ARABIC, HELLO, Scene, scene
from tests.support.chats import line
from tests.support.manual_clock import ManualClock
from tests.support.running_server import HANG_SECONDS, MODEL

WEATHER: Any = {
    "name": "weather",
    "description": "Tells the weather of a city.",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}


@pytest.fixture
async def there(sqlite_url: str, clock: ManualClock) -> AsyncIterator[Scene]:
    async with scene(sqlite_url, clock) as opened:
        yield opened


def client(there: Scene, retries: int = 0) -> anthropic.AsyncAnthropic:
    base = str(there.http.base_url)
    return anthropic.AsyncAnthropic(
        base_url=base,
        api_key=there.renter.key,
        max_retries=retries,
        timeout=HANG_SECONDS,
        http_client=there.connections,
    )


async def test_whole_message_is_a_billed_job(there: Scene) -> None:
    asking = asyncio.create_task(
        client(there).messages.create(
            model=MODEL, max_tokens=50, system="Be brief.", messages=HELLO, metadata={"user_id": "session-1"}
        )
    )
    offer = await there.answers("Hi ", ARABIC)
    message = await asking
    assert [(block.type, block.text) for block in message.content if block.type == "text"] == [
        ("text", f"Hi {ARABIC}")
    ]
    assert (message.stop_reason, message.usage.input_tokens, message.usage.output_tokens) == (
        "end_turn",
        5,
        3,
    )
    asked = json.loads(offer.chat_request)
    assert asked == {"messages": [{"role": "system", "content": "Be brief."}, *HELLO]}
    assert offer.params.max_tokens == 50
    assert message._request_id == offer.lease.job_id
    job = await there.market.job(jobs_pb2.Job(job_id=offer.lease.job_id))
    assert job.billing.actual_cost_halala > 0


async def test_tool_call_and_its_result_go_through(there: Scene) -> None:
    async def turn(messages: Any) -> anthropic.types.Message:
        async with client(there).messages.stream(
            model=MODEL, max_tokens=99, messages=messages, tools=[WEATHER]
        ) as stream:
            return await stream.get_final_message()

    asking = asyncio.create_task(turn(HELLO))
    offer = await there.daemon.expect("job_offer")
    await there.daemon.start(offer.lease)
    function = {"name": "weather", "arguments": '{"ci'}
    lines = [
        line(content="Let me look."),
        line(tool_calls=[{"index": 0, "id": "call_1", "type": "function", "function": function}]),
        line(tool_calls=[{"index": 0, "function": {"arguments": 'ty": "جدة"}'}}]),
        line("tool_calls"),
    ]
    for seq, each in enumerate(lines, 1):
        await there.daemon.output(offer.lease, seq, each)
    await there.finishes(offer, len(lines))
    message = await asking
    assert message.stop_reason == "tool_use"
    used = message.content[1]
    assert used.type == "tool_use"
    assert (used.name, used.input, used.id) == ("weather", {"city": "جدة"}, "call_1")
    result: Any = {"type": "tool_result", "tool_use_id": "call_1", "content": "38 °C"}
    again: Any = [
        *HELLO,
        {"role": "assistant", "content": message.content},
        {"role": "user", "content": [result]},
    ]
    asking = asyncio.create_task(turn(again))
    offer = await there.answers("It is hot.")
    assert (await asking).content[0].type == "text"
    asked = json.loads(offer.chat_request)
    roles = [each["role"] for each in asked["messages"]]
    assert roles == ["user", "assistant", "tool"]
    assert asked["messages"][1]["tool_calls"][0]["function"]["name"] == "weather"
    assert asked["messages"][2] == {"role": "tool", "tool_call_id": "call_1", "content": "38 °C"}
    assert asked["tools"][0]["function"]["name"] == "weather"


async def test_errors_are_those_that_anthropics_client_knows(there: Scene) -> None:
    with pytest.raises(anthropic.NotFoundError) as unknown:
        await client(there).messages.create(model=MODEL + "x", max_tokens=5, messages=HELLO)
    assert f"did you mean {MODEL}?" in unknown.value.message
    poor = await there.market.renter(0)
    with pytest.raises(anthropic.APIStatusError) as broke:
        await (
            client(there, retries=3)
            .with_options(api_key=poor.key)
            .messages.create(model=MODEL, max_tokens=5, messages=HELLO)
        )
    assert broke.value.status_code == 402
    assert isinstance(broke.value.body, dict)
    assert broke.value.body["error"]["type"] == "billing_error"
    with pytest.raises(anthropic.AuthenticationError):
        await (
            client(there)
            .with_options(api_key="dcp-renter-" + "x" * 43)
            .messages.create(model=MODEL, max_tokens=5, messages=HELLO)
        )
    with pytest.raises(anthropic.BadRequestError, match="max_tokens"):
        await client(there).messages.create(model=MODEL, max_tokens=0, messages=HELLO)
    wrong = await there.http.get("/v1/messages", headers={"x-api-key": there.renter.key})
    assert (wrong.status_code, wrong.json()["type"]) == (405, "error")


async def test_message_that_breaks_never_looks_whole(there: Scene) -> None:
    stream = await _begun(there)
    with pytest.raises((anthropic.APIError, httpx2.RemoteProtocolError)):
        async for _ in stream:
            pass


async def _begun(there: Scene) -> Any:
    asking = asyncio.create_task(
        client(there).messages.create(model=MODEL, max_tokens=9, messages=HELLO, stream=True)
    )
    offer = await there.daemon.expect("job_offer")
    await there.daemon.start(offer.lease)
    await there.daemon.output(offer.lease, 1, line(content="half an"))
    stream = await asking
    await there.fails(offer, jobs_pb2.FAILURE_REASON_ENGINE_FAILED, 1)
    return stream


async def test_tokens_are_counted_without_a_job_and_better_after_one(there: Scene) -> None:
    count = client(there).messages.count_tokens
    first = (await count(model=MODEL, messages=HELLO)).input_tokens
    assert first >= 1
    asking = asyncio.create_task(client(there).messages.create(model=MODEL, max_tokens=9, messages=HELLO))
    await there.answers("Hi", prompt=17)
    await asking
    assert (await count(model=MODEL, messages=HELLO)).input_tokens == 17


async def test_models_are_listed_and_described(there: Scene) -> None:
    listed = await client(there).models.list()
    assert [(each.id, each.type, each.display_name) for each in listed.data] == [(MODEL, "model", MODEL)]
    assert (await client(there).models.retrieve(MODEL)).id == MODEL
    described = await there.client().models.retrieve(MODEL)
    assert (described.id, described.object) == (MODEL, "model")


async def test_beta_flag_and_a_look_at_the_root_are_answered(there: Scene) -> None:
    look = await there.http.head("/")
    assert look.status_code == 200
    body = {"model": MODEL, "max_tokens": 9, "messages": HELLO}
    asking = asyncio.create_task(
        there.http.post("/v1/messages?beta=true", json=body, headers={"x-api-key": there.renter.key})
    )
    await there.answers("Hi")
    assert (await asking).json()["content"] == [{"type": "text", "text": "Hi"}]


async def test_tool_runner_of_anthropics_client_gets_its_answer(there: Scene) -> None:
    """It would keep its conversation at the server, and has to send it whole here."""

    @anthropic.beta_async_tool
    async def weather(city: str) -> str:
        """Tells the weather of a city."""
        return f"{city}: 38 °C"

    runner = client(there).beta.messages.tool_runner(
        model=MODEL, max_tokens=99, tools=[weather], messages=HELLO
    )
    asking = asyncio.ensure_future(runner.until_done())
    offer = await there.daemon.expect("job_offer")
    await there.daemon.start(offer.lease)
    function = {"name": "weather", "arguments": '{"city": "Jeddah"}'}
    call = {"index": 0, "id": "call_1", "type": "function", "function": function}
    await there.daemon.output(offer.lease, 1, line("tool_calls", tool_calls=[call]))
    await there.finishes(offer, 1)
    offer = await there.answers("It is hot.")
    final = await asking
    assert final.content[0].type == "text"
    assert final.content[0].text == "It is hot."
    messages = json.loads(offer.chat_request)["messages"]
    assert [each["role"] for each in messages] == ["user", "assistant", "tool"]
    assert messages[2]["content"] == "Jeddah: 38 °C"

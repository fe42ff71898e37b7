"""`/v1/responses` and `/v1/completions` by OpenAI's client: real gateway and server, a daemon's messages."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import openai
import pydantic
import pytest
from dcp.v1 import jobs_pb2

from tests.contract.test_chat_completions import ARABIC, HELLO, Scene, scene
from tests.support.chats import line
from tests.support.manual_clock import ManualClock
from tests.support.running_server import MODEL

WEATHER: Any = {
    "type": "function",
    "name": "weather",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    "strict": False,
}


class City(pydantic.BaseModel):
    city: str


@pytest.fixture
async def there(sqlite_url: str, clock: ManualClock) -> AsyncIterator[Scene]:
    async with scene(sqlite_url, clock) as opened:
        yield opened


async def test_whole_response_is_a_billed_job(there: Scene) -> None:
    asking = asyncio.create_task(
        there.client().responses.create(
            model=MODEL, instructions="Be brief.", input="Hello", max_output_tokens=50, store=True
        )
    )
    offer = await there.answers("Hi ", ARABIC)
    response = await asking
    assert (response.output_text, response.status) == (f"Hi {ARABIC}", "completed")
    assert response.model_dump()["store"] is False
    assert response.usage is not None
    assert (response.usage.input_tokens, response.usage.output_tokens) == (5, 3)
    assert json.loads(offer.chat_request) == {
        "messages": [{"role": "system", "content": "Be brief."}, *HELLO]
    }
    assert (offer.params.max_tokens, response.id) == (50, f"resp_{offer.lease.job_id}")
    job = await there.market.job(jobs_pb2.Job(job_id=offer.lease.job_id))
    assert job.billing.actual_cost_halala > 0


async def test_stream_with_a_tool_call_goes_through(there: Scene) -> None:
    async def turn(given: Any) -> Any:
        async with there.client().responses.stream(model=MODEL, input=given, tools=[WEATHER]) as stream:
            numbers = [event.sequence_number async for event in stream]
            assert numbers == list(range(len(numbers)))
            return await stream.get_final_response()

    asking = asyncio.create_task(turn("What is the weather?"))
    offer = await there.daemon.expect("job_offer")
    await there.daemon.start(offer.lease)
    function = {"name": "weather", "arguments": '{"city": "جدة"}'}
    lines = [
        line(content="Let me look."),
        line(tool_calls=[{"index": 0, "id": "call_1", "type": "function", "function": function}]),
        line("tool_calls"),
    ]
    for seq, each in enumerate(lines, 1):
        await there.daemon.output(offer.lease, seq, each)
    await there.finishes(offer, len(lines))
    response = await asking
    call = response.output[1]
    assert (call.type, call.name, json.loads(call.arguments)) == ("function_call", "weather", {"city": "جدة"})
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "38 °C"}
    asking = asyncio.create_task(
        turn([*HELLO, *(each.model_dump(exclude_none=True) for each in response.output), result])
    )
    offer = await there.answers("It is hot.")
    assert (await asking).output_text == "It is hot."
    messages = json.loads(offer.chat_request)["messages"]
    assert [each["role"] for each in messages] == ["user", "assistant", "tool"]
    assert messages[2]["content"] == "38 °C"


async def test_answer_with_a_schema_is_parsed(there: Scene) -> None:
    asking = asyncio.create_task(
        there.client().responses.parse(model=MODEL, input="Where?", text_format=City)
    )
    offer = await there.answers('{"city": "Jeddah"}')
    assert (await asking).output_parsed == City(city="Jeddah")
    form = json.loads(offer.chat_request)["response_format"]
    assert form["json_schema"]["schema"]["properties"].keys() == {"city"}


async def test_what_needs_a_kept_response_is_refused(there: Scene) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        await there.client().responses.create(model=MODEL, input="Hello", previous_response_id="resp_1")
    assert refused.value.param == "previous_response_id"


async def test_response_that_breaks_is_a_failed_one(there: Scene) -> None:
    asking = asyncio.create_task(there.client().responses.create(model=MODEL, input="Hello", stream=True))
    offer = await there.daemon.expect("job_offer")
    await there.daemon.start(offer.lease)
    await there.daemon.output(offer.lease, 1, line(content="half an"))
    stream = await asking
    await there.fails(offer, jobs_pb2.FAILURE_REASON_ENGINE_FAILED, 1)
    with pytest.raises(openai.APIError):
        async for _ in stream:
            pass


async def test_older_completions_answer_a_prompt(there: Scene) -> None:
    asking = asyncio.create_task(
        there.client().completions.create(model=MODEL, prompt="Say hello.", max_tokens=9, stop=["\n"])
    )
    offer = await there.answers("Hello!")
    completion = await asking
    assert (completion.choices[0].text, completion.choices[0].finish_reason) == ("Hello!", "stop")
    assert json.loads(offer.chat_request) == {
        "messages": [{"role": "user", "content": "Say hello."}],
        "stop": ["\n"],
    }

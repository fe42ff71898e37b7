"""Drives anthropic: messages, whole and streamed, with tools by hand and by its own runner."""

from __future__ import annotations

from anthropic import Anthropic, beta_tool
from parts import CITY_SCHEMA, KEY, MODEL, QUESTION, ROOT, run

client = Anthropic(base_url=ROOT, api_key=KEY)
ASKED = [{"role": "user", "content": QUESTION}]
OFFERED = [{"name": "get_weather", "description": "The weather of a city", "input_schema": CITY_SCHEMA}]
cities = []


@beta_tool
def get_weather(city: str) -> str:
    """The weather of a city.

    Args:
        city: its name
    """
    cities.append(city)
    return "sunny"


def text_of(message):
    return "".join(block.text for block in message.content if block.type == "text")


def models():
    assert MODEL in [model.id for model in client.models.list()]
    return [client.models.retrieve(MODEL).id]


def count():
    return client.messages.count_tokens(model=MODEL, messages=ASKED, system="Be brief.").input_tokens


def create():
    message = client.messages.create(
        model=MODEL, max_tokens=64, messages=ASKED, system="Be brief.", stop_sequences=["###"]
    )
    return text_of(message)


def stream():
    with client.messages.stream(model=MODEL, max_tokens=64, messages=ASKED) as events:
        text = "".join(events.text_stream)
        assert events.get_final_message().usage.output_tokens > 0
    return text


def tools():
    first = client.messages.create(model=MODEL, max_tokens=256, messages=ASKED, tools=OFFERED)
    assert first.stop_reason == "tool_use", first
    call = next(block for block in first.content if block.type == "tool_use")
    result = {"type": "tool_result", "tool_use_id": call.id, "content": "sunny"}
    told = [
        *ASKED,
        {"role": "assistant", "content": first.content},
        {"role": "user", "content": [result]},
    ]
    with client.messages.stream(model=MODEL, max_tokens=256, messages=told, tools=OFFERED) as events:
        return text_of(events.get_final_message())


def runner():
    running = client.beta.messages.tool_runner(
        model=MODEL, max_tokens=256, messages=ASKED, tools=[get_weather]
    )
    text = text_of(running.until_done())
    assert cities, "the tool was not called"
    return text


run(
    {
        "models": models,
        "count": count,
        "create": create,
        "stream": stream,
        "tools": tools,
        "runner": runner,
    }
)

"""Drives pydantic-ai: an agent with a tool, whole and streamed, one with a typed output, and responses."""

from __future__ import annotations

import asyncio

from parts import HAS_TOOLS, KEY, MODEL, QUESTION, V1, run
from pydantic import BaseModel
from pydantic_ai import Agent
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider

cities = []


class City(BaseModel):
    """A city."""

    city: str


def get_weather(city: str) -> str:
    """The weather of a city."""
    cities.append(city)
    return "sunny"


def model(kind=OpenAIChatModel):
    return kind(MODEL, provider=OpenAIProvider(base_url=V1, api_key=KEY))


async def turn(kind, streamed=False):
    cities.clear()
    offered = [get_weather] if HAS_TOOLS else []
    agent = Agent(model(kind), instructions="Answer in one sentence.", tools=offered)
    if streamed:
        async with agent.run_stream(QUESTION) as result:
            text = await result.get_output()
    else:
        text = (await agent.run(QUESTION)).output
    assert cities or not HAS_TOOLS, "the tool was not called"
    return text


def output():
    found = Agent(model(), output_type=City).run_sync(QUESTION).output
    assert isinstance(found, City), found
    return found


run(
    {
        "chat": lambda: asyncio.run(turn(OpenAIChatModel)),
        "chat_stream": lambda: asyncio.run(turn(OpenAIChatModel, streamed=True)),
        "output": output,
        "responses": lambda: asyncio.run(turn(OpenAIResponsesModel)),
    }
)

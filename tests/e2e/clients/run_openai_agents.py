"""Drives openai-agents: an agent with a tool, over chats and over responses, whole and streamed."""

from __future__ import annotations

import asyncio

from agents import (
    Agent,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    Runner,
    function_tool,
    set_tracing_disabled,
)
from openai import AsyncOpenAI
from parts import HAS_TOOLS, KEY, MODEL, QUESTION, V1, run

set_tracing_disabled(True)  # or it sends what happened to OpenAI
cities = []


@function_tool
def get_weather(city: str) -> str:
    """The weather of a city."""
    cities.append(city)
    return "sunny"


async def turn(kind, streamed):
    cities.clear()
    async with AsyncOpenAI(base_url=V1, api_key=KEY) as client:
        agent = Agent(
            name="Weather",
            instructions="Answer in one sentence.",
            tools=[get_weather] if HAS_TOOLS else [],
            model=kind(model=MODEL, openai_client=client),
        )
        if streamed:
            result = Runner.run_streamed(agent, QUESTION)
            async for _ in result.stream_events():
                pass
        else:
            result = await Runner.run(agent, QUESTION)
    assert cities or not HAS_TOOLS, "the tool was not called"
    return result.final_output


run(
    {
        "chat": lambda: asyncio.run(turn(OpenAIChatCompletionsModel, False)),
        "chat_stream": lambda: asyncio.run(turn(OpenAIChatCompletionsModel, True)),
        "responses": lambda: asyncio.run(turn(OpenAIResponsesModel, False)),
        "responses_stream": lambda: asyncio.run(turn(OpenAIResponsesModel, True)),
    }
)

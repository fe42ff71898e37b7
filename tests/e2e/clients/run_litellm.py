"""Drives litellm's library, as a client of OpenAI's API and of Anthropic's."""

from __future__ import annotations

from functools import partial

import litellm
from parts import CITY_SCHEMA, KEY, MODEL, QUESTION, ROOT, V1, run

litellm.telemetry = False
litellm.suppress_debug_info = True
ASKED = [{"role": "user", "content": QUESTION}]
FUNCTION = {"name": "get_weather", "description": "The weather of a city", "parameters": CITY_SCHEMA}
OFFERED = [{"type": "function", "function": FUNCTION}]
OPENAI = {"model": f"openai/{MODEL}", "api_base": V1, "api_key": KEY}
ANTHROPIC = {"model": f"anthropic/{MODEL}", "api_base": ROOT, "api_key": KEY}


def whole(connection):
    return litellm.completion(**connection, messages=ASKED, max_tokens=64).choices[0].message.content


def stream(connection):
    chunks = litellm.completion(**connection, messages=ASKED, max_tokens=64, stream=True)
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)


def tools(connection):
    ask = partial(litellm.completion, **connection, tools=OFFERED, max_tokens=256)
    first = ask(messages=ASKED).choices[0].message
    result = {"role": "tool", "tool_call_id": first.tool_calls[0].id, "content": "sunny"}
    return ask(messages=[*ASKED, first, result]).choices[0].message.content


def responses():
    output = litellm.responses(**OPENAI, input=QUESTION).output
    return "".join(part.text for item in output if item.type == "message" for part in item.content)


def embeddings():
    return litellm.embedding(**OPENAI, input=["a cat", "a kitten"]).data


run(
    {
        "embeddings": embeddings,
        "openai": partial(whole, OPENAI),
        "openai_stream": partial(stream, OPENAI),
        "openai_tools": partial(tools, OPENAI),
        "anthropic": partial(whole, ANTHROPIC),
        "anthropic_stream": partial(stream, ANTHROPIC),
        "anthropic_tools": partial(tools, ANTHROPIC),
        "responses": responses,
    }
)

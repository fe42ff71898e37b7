"""Drives openai: chats, responses and completions, whole and streamed, with tools and with schemas."""

from __future__ import annotations

from openai import OpenAI
from parts import CITY_SCHEMA, KEY, MODEL, QUESTION, V1, run
from pydantic import BaseModel

client = OpenAI(base_url=V1, api_key=KEY)
ASKED = [{"role": "user", "content": QUESTION}]
FUNCTION = {
    "name": "get_weather",
    "description": "The weather of a city",
    "parameters": CITY_SCHEMA,
    "strict": True,
}


class City(BaseModel):
    """A city."""

    city: str


def models():
    assert MODEL in [model.id for model in client.models.list()]
    return [client.models.retrieve(MODEL).id]


def chat():
    answer = client.chat.completions.create(model=MODEL, messages=ASKED, max_tokens=64)
    return answer.choices[0].message.content


def stream():
    options = {"include_usage": True}
    chunks = list(
        client.chat.completions.create(
            model=MODEL, messages=ASKED, max_completion_tokens=64, stream=True, stream_options=options
        )
    )
    assert chunks[-1].usage.total_tokens > 0
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)


def tools():
    offered = [{"type": "function", "function": FUNCTION}]
    first = client.chat.completions.create(model=MODEL, messages=ASKED, tools=offered).choices[0]
    assert first.finish_reason == "tool_calls", first
    result = {"role": "tool", "tool_call_id": first.message.tool_calls[0].id, "content": "sunny"}
    with client.chat.completions.stream(
        model=MODEL, messages=[*ASKED, first.message, result], tools=offered
    ) as events:
        for _ in events:
            pass
        return events.get_final_completion().choices[0].message.content


def parse():
    answer = client.chat.completions.parse(model=MODEL, messages=ASKED, response_format=City)
    assert isinstance(answer.choices[0].message.parsed, City), answer
    return answer.choices[0].message.parsed


def responses():
    return client.responses.create(model=MODEL, input=QUESTION, max_output_tokens=64).output_text


def responses_stream():
    with client.responses.stream(model=MODEL, input=QUESTION) as events:
        for _ in events:
            pass
        return events.get_final_response().output_text


def responses_tools():
    offered = [{"type": "function", **FUNCTION}]
    first = client.responses.create(model=MODEL, input=ASKED, tools=offered, store=False)
    call = next(item for item in first.output if item.type == "function_call")
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "sunny"}
    told = [*ASKED, *first.output, result]
    return client.responses.create(model=MODEL, input=told, tools=offered, store=False).output_text


def responses_parse():
    answer = client.responses.parse(model=MODEL, input=QUESTION, text_format=City)
    assert isinstance(answer.output_parsed, City), answer
    return answer.output_parsed


def completions():
    return client.completions.create(model=MODEL, prompt=QUESTION, max_tokens=64).choices[0].text


def completions_stream():
    chunks = client.completions.create(model=MODEL, prompt=QUESTION, max_tokens=64, stream=True)
    return "".join(chunk.choices[0].text for chunk in chunks if chunk.choices)


def embeddings():
    found = client.embeddings.create(model=MODEL, input=["a cat", "a kitten"])
    numbers = client.embeddings.create(
        model=MODEL, input=[[1, 2], [3]], encoding_format="float", dimensions=8
    )
    assert [len(each.embedding) for each in numbers.data] == [8, 8]
    assert found.usage.total_tokens > 0
    return [each.embedding for each in found.data]


run(
    {
        "embeddings": embeddings,
        "models": models,
        "chat": chat,
        "stream": stream,
        "tools": tools,
        "parse": parse,
        "responses": responses,
        "responses_stream": responses_stream,
        "responses_tools": responses_tools,
        "responses_parse": responses_parse,
        "completions": completions,
        "completions_stream": completions_stream,
    }
)

"""Drives langchain-openai: chats, tools, structured output by its three methods, responses."""

from __future__ import annotations

from functools import partial

from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from parts import KEY, MODEL, QUESTION, V1, run
from pydantic import BaseModel

connect = partial(ChatOpenAI, model=MODEL, base_url=V1, api_key=KEY, max_tokens=128)
llm = connect()


class City(BaseModel):
    """A city."""

    city: str


@tool
def get_weather(city: str) -> str:
    """The weather of a city"""
    return "sunny"


def invoke():
    return llm.invoke(QUESTION).text


def stream():
    return "".join(chunk.text for chunk in llm.stream(QUESTION))


def structured(method):
    found = llm.with_structured_output(City, method=method).invoke(f"{QUESTION} Answer in JSON.")
    assert isinstance(found, City), found
    return found


def tools():
    bound = llm.bind_tools([get_weather])
    first = bound.invoke(QUESTION)
    [call] = first.tool_calls
    result = ToolMessage(get_weather.invoke(call["args"]), tool_call_id=call["id"])
    return bound.invoke([HumanMessage(QUESTION), first, result]).text


def responses():
    return connect(use_responses_api=True).invoke(QUESTION).text


def embeddings():
    embedder = OpenAIEmbeddings(model=MODEL, base_url=V1, api_key=KEY, check_embedding_ctx_length=False)
    assert embedder.embed_query("a cat") == embedder.embed_documents(["a dog", "a cat"])[1]
    return embedder.embed_documents(["a cat"] * 1500)


run(
    {
        "embeddings": embeddings,
        "invoke": invoke,
        "stream": stream,
        "tools": tools,
        "structured_schema": partial(structured, "json_schema"),
        "structured_tool": partial(structured, "function_calling"),
        "structured_json": partial(structured, "json_mode"),
        "responses": responses,
    }
)

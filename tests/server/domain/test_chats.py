"""Conversations: what may pass to a model server, how many tokens they can have, what an answer says."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.chats import PASSED
from server.domain import chats, tokens
from server.domain.errors import DomainError
from tests.support.chats import line

HELLO = [{"role": "user", "content": "Hello"}]
PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


def read(**asked: Any) -> chats.Chat:
    return chats.read(json.dumps({"messages": HELLO, **asked}).encode())


def spec(**asked: Any) -> dict[str, Any]:
    return {"params": {"max_tokens": 10}, "chat": read(**asked).spec}


def test_what_model_servers_read_passes_as_it_is_and_the_rest_is_left_out() -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": {"b": 1, "a": [1.0, 2]}}}
    asked = {"tools": [tool], "seed": 7, "top_k": 40, "guided_json": {"type": "object"}}
    ignored = {
        "n_predict": 10**6,
        "user": "me",
        "metadata": {},
        "stream": True,
        "model": "m",
        "max_tokens": 9,
    }
    found = read(**asked, **ignored).request
    assert found == {"messages": HELLO, **asked}
    # In their order, which a template may write into the prompt.
    assert list(found["tools"][0]["function"]["parameters"]) == ["b", "a"]


@pytest.mark.parametrize(
    ("given_", "passed"),
    [
        ({"role": "developer", "content": "x"}, {"role": "system", "content": "x"}),
        (
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "input_text", "text": "b"}]},
            {"role": "user", "content": "ab"},
        ),
        ({"role": "assistant", "content": None, "name": None}, {"role": "assistant", "content": ""}),
        ({"role": "assistant", "tool_calls": []}, {"role": "assistant", "content": ""}),
        ({"role": "user", "content": [PICTURE]}, {"role": "user", "content": [PICTURE]}),
    ],
)
def test_messages_get_the_form_that_every_model_server_reads(given_: Any, passed: Any) -> None:
    assert read(messages=[given_]).request["messages"] == [passed]


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        ({"messages": None}, "messages"),
        ({"messages": ["x"]}, "messages[0]"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content[0].text"),
        ({"messages": [{"role": "user", "content": [{"type": "dance"}]}]}, "messages[0].content[0].type"),
        (
            {"messages": [{"role": "assistant", "tool_calls": [{"id": "1"}]}]},
            "messages[0].tool_calls[0]",
        ),
        (
            {
                "messages": [
                    {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": {}}}]}
                ]
            },
            "messages[0].tool_calls[0].function.arguments",
        ),
        ({"tools": {}}, "tools"),
        ({"tools": [{"type": "function", "function": {"name": "f", "parameters": []}}]}, "tools[0].function"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        ({"stop": 5}, "stop"),
        ({"stop": ["x"] * 17}, "stop"),
        ({"temperature": "hot"}, "temperature"),
        ({"top_p": 1.5}, "top_p"),
        ({"n": 0}, "n"),
        ({"n": True}, "n"),
        ({"top_logprobs": 21}, "top_logprobs"),
    ],
)
def test_what_would_break_a_model_server_is_refused_by_its_path(asked: dict[str, Any], field: str) -> None:
    with pytest.raises(DomainError) as refused:
        read(**asked)
    assert str(refused.value.facts["field"]).startswith(f"request.{field}")


@pytest.mark.parametrize(
    "url",
    [
        *("http://127.0.0.1/a.png", "https://example.org/a.png", "file:///etc/passwd", "//host/a.png", ""),
        *("data:text/html,<p>", "data:image/png;base64,abc http://127.0.0.1", "DATA:image/png,x", None, 5),
    ],
)
@pytest.mark.parametrize("kind", ["image_url", "video_url", "audio_url"])
def test_nothing_that_a_model_server_would_fetch_passes(kind: str, url: object) -> None:
    for part in ({"type": kind, kind: {"url": url}}, {"type": kind, kind: url}):
        with pytest.raises(DomainError, match="data URL"):
            read(messages=[{"role": "user", "content": [part]}])
    with pytest.raises(DomainError, match="data URL"):
        read(messages=[{"role": "user", "content": [{"type": "file", "file": {"file_id": "file-1"}}]}])


@pytest.mark.parametrize("text", [b"", b"null", b"[]", b"{", b'{"messages": NaN}', b"[" * 100_000, b"\xff"])
def test_what_is_no_json_object_is_refused(text: bytes) -> None:
    with pytest.raises(DomainError) as refused:
        chats.read(text)
    assert str(refused.value.facts["field"]).startswith("request")


def test_half_of_a_character_is_refused() -> None:
    with pytest.raises(DomainError, match="surrogate"):
        chats.read(b'{"messages": [{"role": "user", "content": "\\ud83d"}]}')


@given(asked=st.dictionaries(st.sampled_from(sorted(PASSED)), JSON, max_size=6), text=JSON)
def test_any_request_is_read_or_refused_with_a_field(asked: dict[str, Any], text: Any) -> None:
    asked.setdefault("messages", [{"role": "user", "content": text}])
    found, field = None, ""
    try:
        found = chats.read(json.dumps(asked).encode())
    except DomainError as refused:
        field = str(refused.facts["field"])
    if found is None:
        assert field.startswith("request")
        return
    assert found.request.keys() <= PASSED
    again = chats.read(chats.dumped(found.request))
    assert again == found


def test_tokens_are_bounded_by_what_a_model_reads() -> None:
    plain = tokens.paid(spec())
    assert plain.completion == 10
    assert tokens.paid(spec(n=3)).completion == 30
    longer = tokens.paid(spec(messages=[{"role": "user", "content": "Hello" + "é" * 50}]))
    assert longer.prompt == plain.prompt + 100
    tool = {"type": "function", "function": {"name": "f"}}
    assert tokens.paid(spec(tools=[tool])).prompt > plain.prompt + len(json.dumps(tool)) // 2
    with_picture = tokens.paid(spec(messages=[{"role": "user", "content": [PICTURE]}]))
    big = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 100_000}}
    assert tokens.paid(spec(messages=[{"role": "user", "content": [big]}])) == with_picture
    assert with_picture.prompt >= tokens.PAID_MEDIUM_TOKENS


def test_beginning_is_the_same_for_all_turns_of_a_conversation() -> None:
    first = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "A"}]
    later = [*first, {"role": "assistant", "content": "B"}, {"role": "user", "content": "C"}]
    assert read(messages=first).beginning == read(messages=later).beginning
    assert read(messages=first).beginning != read(messages=first[:1] + HELLO).beginning


def test_text_is_what_the_first_choice_says() -> None:
    output = b"".join(
        [
            line(role="assistant"),
            line(content="Hel"),
            b"not json\n[]\n\n",
            line(index=1, content="other"),
            line(reasoning_content="hm"),
            line("stop", content="lo 🌍"),
            b"\n[output truncated: 5 bytes not kept]\n",
        ]
    )
    assert chats.said(output) == "Hello 🌍"


def test_written_bytes_are_those_of_texts_thoughts_and_calls() -> None:
    call = {"index": 0, "id": "call_1", "function": {"name": "ab", "arguments": '{"c"}'}}
    output = b"".join([line(content="é"), line(reasoning_content="hm"), line(tool_calls=[call])])
    assert chats.written_bytes(output) == 2 + 2 + 2 + 5
    assert chats.written_bytes(line(role="assistant") + line("stop") + line(other="x" * 99)) == 0


@given(st.binary() | st.lists(JSON, max_size=4).map(lambda found: "\n".join(map(json.dumps, found)).encode()))
def test_whatever_a_daemon_writes_says_something_or_nothing(data: bytes) -> None:
    assert isinstance(chats.said(data), str)
    assert chats.written_bytes(data) >= 0


@given(
    st.lists(
        st.fixed_dictionaries(
            {
                "choices": st.lists(
                    st.fixed_dictionaries(
                        {
                            "index": JSON,
                            "delta": st.dictionaries(
                                st.sampled_from(["content", "tool_calls", "function_call", "reasoning"]), JSON
                            )
                            | JSON,
                        }
                    ),
                    max_size=3,
                )
            }
        ),
        max_size=4,
    )
)
def test_chunks_of_any_types_are_read(found: list[Any]) -> None:
    data = "\n".join(map(json.dumps, found)).encode()
    assert isinstance(chats.said(data), str)
    assert chats.written_bytes(data) >= 0

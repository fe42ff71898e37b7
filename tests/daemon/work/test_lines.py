"""Chunks as lines: nothing is lost or changes its order, and texts that go on are joined."""

from __future__ import annotations

import copy
import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from daemon.work.lines import MAX_JOINED, Lines
from tests.support.chats import chunk

DELTAS = st.one_of(
    st.fixed_dictionaries({"content": st.text(max_size=5)}),
    st.fixed_dictionaries({"reasoning_content": st.text(max_size=5)}),
    st.fixed_dictionaries({"role": st.just("assistant"), "content": st.text(max_size=5)}),
    st.fixed_dictionaries({"content": st.none(), "tool_calls": st.just([{"index": 0}])}),
)
CHUNKS = st.builds(
    lambda index, reason, delta: chunk(reason, index=index, **delta),
    st.integers(0, 1),
    st.sampled_from([None, None, None, "stop"]),
    DELTAS,
)


def texts(chunks: list[Any]) -> dict[tuple[int, str], str]:
    found: dict[tuple[int, str], str] = {}
    for each in chunks:
        for choice in each["choices"]:
            for name, value in choice["delta"].items():
                key = choice["index"], name
                found[key] = found.get(key, "") + (value if isinstance(value, str) else json.dumps(value))
    return {key: value for key, value in found.items() if key[1] != "role"}


def written(lines: Lines, chunks: list[Any], flushes: list[bool]) -> list[Any]:
    data = b""
    for each, flush in zip(chunks, flushes, strict=False):
        data += lines.add(copy.deepcopy(each))
        data += lines.rest() if flush else b""
    data += lines.rest()
    assert not lines.is_waiting
    assert data == b"" or data.endswith(b"\n")
    return [json.loads(each) for each in data.split(b"\n")[:-1]]


@given(st.lists(CHUNKS, max_size=20), st.lists(st.booleans(), min_size=20, max_size=20))
def test_nothing_is_lost_and_no_order_changes(chunks: list[Any], flushes: list[bool]) -> None:
    found = written(Lines(), chunks, flushes)
    assert texts(found) == texts(chunks)
    ends = [choice["finish_reason"] for each in chunks for choice in each["choices"]]
    assert [c["finish_reason"] for each in found for c in each["choices"] if c["finish_reason"]] == [
        reason for reason in ends if reason
    ]


def test_a_text_that_goes_on_is_one_line_until_it_has_to_leave() -> None:
    lines = Lines()
    assert lines.add(chunk(content="a")) + lines.add(chunk(content="b")) == b""
    assert json.loads(lines.rest()) == chunk(content="ab")
    assert lines.rest() == b""
    lines.add(chunk(content="c"))
    assert json.loads(lines.add(chunk(index=1, content="d"))) == chunk(content="c")


def test_a_line_has_a_greatest_length() -> None:
    lines = Lines()
    assert lines.add(chunk(content="x" * MAX_JOINED)) == b""
    assert lines.add(chunk(content="y")) != b""


def test_half_of_a_character_ends_no_job() -> None:
    lines = Lines()
    lines.add(chunk(content="\ud83d"))
    assert json.loads(lines.rest())["choices"][0]["delta"]["content"] == "?"

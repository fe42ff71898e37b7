"""A model server that the provider already runs answers through the whole market with text and images."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts.market import UNLIMITED
from tests.support.clustered_market import StartMarket
from tests.support.openai_server import PNG, Script, openai_server
from tests.support.patient_renter import Renter

pytestmark = pytest.mark.e2e


@pytest.fixture
def script() -> Script:
    return Script(models=[{"id": "llama"}, {"id": "sdxl"}])


@pytest.fixture
def model_server(script: Script) -> Iterator[str]:
    """The base address of a scripted model server."""
    with openai_server(script) as url:
        yield url


def test_attached_server_answers_with_text_and_with_an_image(
    start_market: StartMarket, tmp_path: Path, script: Script, model_server: str
) -> None:
    with start_market(tmp_path, "operator-token-of-all-of-the-tests", UNLIMITED) as market:
        _, provider = market.register_provider("Node", "p@example.com")
        market.add_daemon(
            provider,
            settings={
                "DCP_ATTACHED_URL": model_server,
                "DCP_ALIASES": "public/llama=llama, public/sdxl=sdxl",
                "DCP_ATTACHED_IMAGE_MODELS": "public/sdxl",
            },
        )
        renter = Renter(market, "r@example.com", 10_000)
        [listed] = market.get("/api/renters/available-providers")["providers"]
        assert {"public/llama", "public/sdxl"} <= set(listed["models"])

        text = renter.submit("public/llama", "a cat")
        assert renter.until_final(text)["status"] == "completed"
        assert renter.output(text) == "Hello world"
        picture = renter.submit("public/sdxl", "a cat", job_type="image_generation")
        assert renter.until_final(picture)["status"] == "completed"
        raw = renter.ask("GET", f"/api/jobs/{picture}/output")
        assert (raw.status_code, raw.headers["content-type"], raw.content) == (200, "image/png", PNG)
        # The first request was the self-test's.
        assert [asked["model"] for asked in script.requests] == ["llama", "sdxl", "llama", "sdxl"]
        assert market.prove_ledger()["balanced"]

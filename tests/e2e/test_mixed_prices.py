"""A server that is killed while jobs by the minute and by tokens are settled: each is charged once."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from tests.support.patient_renter import FINAL, eventually
from tests.support.scene import ADMIN_TOKEN, Scene, played
from tests.support.scripted_daemon import MODEL, script

pytestmark = pytest.mark.e2e
# In millionths of a halala for a token of the prompt and of the answer; parts of one are carried.
PROMPT, ANSWER = 0.3, 7.7
PRICE = {
    "model": MODEL,
    "sar_per_million_input_tokens": "0.003",
    "sar_per_million_output_tokens": "0.077",
}


def set_price(scene: Scene, **fields: Any) -> None:
    headers = {"x-admin-token": ADMIN_TOKEN}
    answer = scene.market.http.post("/api/admin/prices", json={"model": MODEL} | fields, headers=headers)
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize(
    ("jobs", "kills"), [(60, 3), pytest.param(1_000, 40, marks=pytest.mark.slow, id="a thousand")]
)
def test_killed_server_charges_jobs_of_both_kinds_exactly_once(tmp_path: Path, jobs: int, kills: int) -> None:
    draw = random.Random(jobs)
    with played(tmp_path) as scene:
        for _ in range(3):
            provider_id = scene.add_daemon()
            vouched = {"vouched": True, "reason": "known"}
            path = f"/api/admin/providers/{provider_id}/vouch"
            scene.market.post(path, vouched, **{"x-admin-token": ADMIN_TOKEN})
        # A job keeps the price at which it was submitted: the price comes and goes between them.
        prices: dict[int, dict[str, Any]] = {0: PRICE, jobs // 3: {"remove": True}, 2 * jobs // 3: PRICE}
        done: dict[str, dict[str, Any]] = {}
        numbers = count()

        def play(_: int) -> None:
            number = next(numbers)
            key = f"key-{number}"
            words = draw.randint(1, 6)
            job_id = scene.play(script("word", words, 0.005), key=key, params={"max_tokens": words})
            done[job_id] = scene.renter.until_final(job_id)

        with ThreadPoolExecutor(8) as threads:
            for at, price in sorted(prices.items()):
                set_price(scene, **price)
                following = [other for other in prices if other > at]
                running = [threads.submit(play, n) for n in range(at, min(following, default=jobs))]
                for _ in range(kills // len(prices)):
                    before = len(done)
                    share = max(1, len(running) // (kills // len(prices) + 1))
                    eventually("more jobs", lambda n=before + share: len(done) >= n or len(done) == jobs)  # type: ignore[misc]
                    scene.server.kill()
                    scene.server.restart()
                for future in running:
                    future.result()
        assert {job["status"] for job in done.values()} <= FINAL
        completed = [job for job in done.values() if job["status"] == "completed"]
        by_tokens = [job for job in completed if "sar_per_hour" not in job["price"]]
        assert len(completed) == len(done) == jobs
        assert 0 < len(by_tokens) < jobs
        owed = sum(
            PROMPT * job["usage"]["prompt_tokens"] + ANSWER * job["usage"]["completion_tokens"]
            for job in by_tokens
        )
        charged = sum(job["billing"]["actual_cost_micro_halala"] for job in by_tokens)
        assert charged == int(round(owed, 6))
        proof = scene.market.prove_ledger()
        assert proof["balanced"] is True
        assert proof["open_holds"] == 0
        spent = sum(job["billing"]["actual_cost_micro_halala"] for job in done.values())
        me = scene.renter.ask("GET", "/api/renters/me").json()["renter"]
        assert me["balance_micro_halala"] == scene.renter.credited_halala * 10**6 - spent

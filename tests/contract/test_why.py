"""Why a job waits, over HTTP, and the refund if no provider starts it in time."""

from __future__ import annotations

import time
from typing import Any

from scripts.market import Market
from tests.contract.conftest import ADMIN_TOKEN

Account = tuple[int, str]


def queued_job(market: Market, base: str, renter: Account, **changes: Any) -> str:
    """A job for a model that no provider serves."""
    body = {
        "job_type": "llm-inference",
        "duration_minutes": 3,
        "params": {"model": "served/by-nobody", "prompt": "hi"},
        "wait_for_supply": True,
        **changes,
    }
    answer = market.http.post(f"{base}/jobs/submit", json=body, headers={"x-renter-key": renter[1]})
    assert answer.status_code == 201, answer.text
    job = answer.json()["job"]
    assert job["status"] == "queued"
    return str(job["job_id"])


def test_queued_job_explains_why_it_waits(
    market: Market, base: str, renter: Account, provider: Account
) -> None:
    job_id = queued_job(market, base, renter)
    key = {"x-renter-key": renter[1]}
    explained = market.http.get(f"{base}/jobs/{job_id}/why", headers=key).json()
    assert (explained["job_id"], explained["status"], explained["code"]) == (job_id, "queued", "NO_PROVIDER")
    assert explained["message"]
    assert explained["queue_position"] >= 1
    assert explained["attempts"] == []
    (considered,) = [entry for entry in explained["providers"] if entry["provider_id"] == provider[0]]
    assert considered["code"] == "MODEL_NOT_SERVED"
    assert "served/by-nobody" in considered["message"]
    job = market.http.get(f"{base}/jobs/{job_id}", headers=key).json()["job"]
    assert job["queue_position"] == explained["queue_position"]
    assert job["lost_after_seconds"] == 300
    assert job["start_by"] > job["created_at"]


def test_explanation_is_only_for_the_jobs_own_parties(market: Market, base: str, renter: Account) -> None:
    job_id = queued_job(market, base, renter)
    _, stranger = market.register_renter("Other", f"{job_id}@example.com")
    answers = {
        name: market.http.get(f"{base}/jobs/{job_id}/why", headers=headers).status_code
        for name, headers in (
            ("operator", {"x-admin-token": ADMIN_TOKEN}),
            ("stranger", {"x-renter-key": stranger}),
            ("nobody", {}),
        )
    }
    assert answers == {"operator": 200, "stranger": 403, "nobody": 401}
    missing = market.http.get(f"{base}/jobs/job-none/why", headers={"x-renter-key": renter[1]})
    assert (missing.status_code, missing.json()["code"]) == (404, "JOB_NOT_FOUND")


def test_refusal_of_a_bad_period_names_its_field(market: Market, base: str, renter: Account) -> None:
    for field, value in (
        ("start_within_seconds", 9),
        ("start_within_seconds", 604_801),
        ("lost_after_seconds", 59),
        ("lost_after_seconds", 21_601),
    ):
        body = {
            "job_type": "llm-inference",
            "duration_minutes": 3,
            "params": {"model": "m", "prompt": "hi"},
            field: value,
        }
        answer = market.http.post(f"{base}/jobs/submit", json=body, headers={"x-renter-key": renter[1]})
        assert (answer.status_code, answer.json()["code"]) == (400, "INVALID_FIELD")
        assert field in answer.json()["error"]


def test_job_that_no_provider_starts_in_time_is_refunded(market: Market, renter: Account) -> None:
    job_id = queued_job(market, "/api", renter, start_within_seconds=10)
    key = {"x-renter-key": renter[1]}
    deadline = time.monotonic() + 60
    output = market.http.get(f"/api/jobs/{job_id}/output", headers=key)
    while output.status_code == 202 and time.monotonic() < deadline:
        time.sleep(0.5)
        output = market.http.get(f"/api/jobs/{job_id}/output", headers=key)
    assert (output.status_code, output.json()["code"]) == (410, "JOB_FAILED")
    assert output.json()["reason"] == "START_DEADLINE"
    assert (output.json()["charged_halala"], output.json()["refunded_halala"]) == (0, 450)
    assert market.http.get("/api/renters/me", headers=key).json()["renter"]["balance_halala"] == 5000

"""The seed's examples, run against real programs over both bases."""

from __future__ import annotations

import time
from typing import Any

import httpx
import pytest

from scripts.market import Market
from tests.contract.conftest import ADMIN_TOKEN, unique_email
from tests.support.amounts import exact

MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"
Account = tuple[int, str]


def seed_job(provider_id: int | None, **params: Any) -> dict[str, Any]:
    """The seed's example of a submit, with the model that runs here."""
    body: dict[str, Any] = {
        "job_type": "llm-inference",
        "duration_minutes": 3,
        "container_spec": {"image_type": "vllm-serve"},
        "params": {"model": MODEL, "prompt": "Summarize DCP in three bullets", "max_tokens": 24, **params},
    }
    return body if provider_id is None else {**body, "provider_id": provider_id}


def submit(market: Market, base: str, key: str, body: object, **headers: str) -> httpx.Response:
    return market.http.post(f"{base}/jobs/submit", json=body, headers={"x-renter-key": key, **headers})


def wait_for_output(market: Market, base: str, key: str, job_id: str) -> httpx.Response:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        response = market.http.get(f"{base}/jobs/{job_id}/output", headers={"x-renter-key": key})
        if response.status_code != 202:
            return response
        assert response.json()["status"] in {"queued", "pending", "assigned", "running"}
        assert response.json()["message"]
        time.sleep(0.05)
    raise AssertionError(f"job {job_id} did not end")


def test_provider_registers(market: Market, base: str) -> None:
    email = unique_email("provider")
    body = {
        "name": "Riyadh RTX Node",
        "email": email,
        "gpu_model": "RTX 4090",
        "os": "linux",
        "phone": "+966500000000",
    }
    response = market.http.post(f"{base}/providers/register", json=body)
    assert response.status_code == 201
    answer = response.json()
    assert answer["success"] is True
    assert isinstance(answer["provider_id"], int)
    assert answer["api_key"].startswith("dcp-provider-")
    again = market.http.post(f"{base}/providers/register", json={**body, "email": email.upper()})
    assert (again.status_code, again.json()["code"]) == (409, "EMAIL_TAKEN")


@pytest.mark.parametrize("place", ["query", "header", "bearer"])
def test_provider_reads_its_own_profile(market: Market, base: str, place: str) -> None:
    provider_id, key = market.register_provider("Node", unique_email("provider"))
    credentials: dict[str, Any] = {
        "query": {"params": {"key": key}},
        "header": {"headers": {"x-provider-key": key}},
        "bearer": {"headers": {"authorization": f"Bearer {key}"}},
    }[place]
    response = market.http.get(f"{base}/providers/me", **credentials)
    assert response.status_code == 200
    answer = response.json()
    assert answer["provider"]["id"] == provider_id
    assert answer["provider"]["status"] == "offline"
    assert answer["provider"]["total_jobs"] == 0
    of_time = ("total_halala", "today_halala", "this_week_halala")
    now = ("claimable_halala", "maturing_halala", "held_halala", "disputed_halala", "debt_halala")
    none = dict.fromkeys((*of_time, *now), 0)
    assert answer["provider"]["earnings"] == exact({**none, "maturing_hours": 168})
    assert answer["recent_jobs"] == []


def test_heartbeat_by_post_makes_a_provider_live(market: Market, base: str) -> None:
    provider_id, key = market.register_provider("Node", unique_email("provider"))
    body = {
        "api_key": key,
        "gpu_status": {"gpu_name": "NVIDIA RTX 4090", "gpu_util_pct": 42, "of_a_newer_daemon": 1},
    }
    response = market.http.post(f"{base}/providers/heartbeat", json=body)
    assert response.status_code == 200
    assert response.json() == {"success": True, "status": "online", "update_available": False}
    listed = market.http.get(f"{base}/renters/available-providers", params={"page_size": 200}).json()
    (entry,) = [p for p in listed["providers"] if p["id"] == provider_id]
    assert entry["is_live"] is True
    assert (entry["gpu_model"], entry["gpu_name"]) == ("RTX 4090", "NVIDIA RTX 4090")
    assert listed["total"] >= 1
    me = market.http.get(f"{base}/providers/me", headers={"x-provider-key": key}).json()["provider"]
    assert me["gpu_status"]["gpu_util_pct"] == 42
    assert "of_a_newer_daemon" not in me["gpu_status"]


def test_heartbeat_refuses_a_gpu_status_that_is_not_an_object(market: Market, base: str) -> None:
    _, key = market.register_provider("Node", unique_email("provider"))
    response = market.http.post(f"{base}/providers/heartbeat", json={"api_key": key, "gpu_status": "busy"})
    assert response.status_code == 400
    assert response.json()["field"] == "gpu_status"


def test_renter_registers_and_sees_its_wallet(market: Market, base: str) -> None:
    body = {"name": "Acme AI", "email": unique_email("renter"), "organization": "Acme"}
    response = market.http.post(f"{base}/renters/register", json=body)
    assert response.status_code == 201
    answer = response.json()
    assert answer["success"] is True
    assert answer["api_key"].startswith("dcp-renter-")
    assert market.credit(answer["renter_id"], 5000) == 5000
    me = market.http.get(f"{base}/renters/me", params={"key": answer["api_key"]})
    assert me.status_code == 200
    assert me.json()["renter"]["id"] == answer["renter_id"]
    assert me.json()["renter"]["balance_halala"] == 5000
    assert me.json()["renter"]["held_halala"] == 0
    assert me.json()["recent_jobs"] == []


@pytest.mark.model
@pytest.mark.parametrize("named", [True, False], ids=["named", "placed"])
def test_job_is_answered_by_the_model_and_billed(
    market: Market, base: str, named: bool, provider: Account, renter: Account
) -> None:
    provider_id, provider_key = provider
    _, key = renter
    response = submit(market, base, key, seed_job(provider_id if named else None))
    assert response.status_code == 201
    job = response.json()["job"]
    assert response.json()["success"] is True
    assert job["job_id"].startswith("job-")
    assert job["status"] in {"pending", "queued"}
    assert job["cost_halala"] == 450
    output = wait_for_output(market, base, key, job["job_id"])
    assert output.status_code == 200
    answer = output.json()
    assert answer["type"] == "text"
    assert answer["response"].strip()
    bill = answer["billing"]
    assert bill["hold_halala"] == 450
    assert 0 < bill["actual_cost_halala"] <= 450
    assert bill["actual_cost_halala"] + bill["refund_halala"] == 450
    assert bill["provider_halala"] + bill["platform_halala"] == bill["actual_cost_halala"]
    assert answer["usage"]["completion_tokens"] > 0
    for headers in (
        {"x-renter-key": key},
        {"x-provider-key": provider_key},
        {"x-admin-token": ADMIN_TOKEN},
    ):
        seen = market.http.get(f"{base}/jobs/{job['job_id']}", headers=headers)
        assert seen.status_code == 200
        assert seen.json()["job"]["status"] == "completed"
        assert seen.json()["job"]["provider_id"] == provider_id
    wallet = market.http.get(f"{base}/renters/me", headers={"x-renter-key": key}).json()["renter"]
    assert wallet["balance_halala"] == 5000 - bill["actual_cost_halala"]
    assert wallet["held_halala"] == 0
    assert market.prove_ledger()["discrepancies"] == []


@pytest.mark.model
def test_same_prompt_at_temperature_zero_gives_the_same_answer(
    market: Market, provider: Account, renter: Account
) -> None:
    answers = []
    for _ in range(2):
        job = submit(market, "/api", renter[1], seed_job(provider[0], temperature=0)).json()["job"]
        answers.append(wait_for_output(market, "/api", renter[1], job["job_id"]).json()["response"])
    assert answers[0] == answers[1]


def test_job_of_a_provider_that_only_posts_waits(market: Market, base: str, renter: Account) -> None:
    provider_id, key = market.register_provider("Node", unique_email("provider"))
    market.post(f"{base}/providers/heartbeat", {"api_key": key, "gpu_status": {}})
    job = submit(market, base, renter[1], seed_job(provider_id)).json()["job"]
    assert job["status"] == "queued"
    output = market.http.get(f"{base}/jobs/{job['job_id']}/output", headers={"x-renter-key": renter[1]})
    assert (output.status_code, output.json()["status"]) == (202, "queued")
    cancelled = market.http.post(f"{base}/jobs/{job['job_id']}/cancel", headers={"x-renter-key": renter[1]})
    assert (cancelled.status_code, cancelled.json()["job"]["status"]) == (200, "cancelled")
    gone = market.http.get(f"{base}/jobs/{job['job_id']}/output", headers={"x-renter-key": renter[1]})
    assert gone.status_code == 410
    assert gone.json()["code"] == "JOB_CANCELLED"
    assert gone.json()["refunded_halala"] == 450
    assert gone.json()["charged_halala"] == 0


def test_job_without_money_is_refused_with_the_shortfall(market: Market, base: str) -> None:
    renter_id, key = market.register_renter("Poor", unique_email("renter"))
    market.credit(renter_id, 100)
    response = submit(market, base, key, seed_job(None))
    assert response.status_code == 402
    answer = response.json()
    assert answer["code"] == "INSUFFICIENT_BALANCE"
    assert answer["balance_halala"] == 100
    assert answer["required_halala"] == 450
    assert answer["shortfall_halala"] == 350


def test_offline_and_unknown_providers_are_refused(market: Market, base: str, renter: Account) -> None:
    provider_id, _ = market.register_provider("Silent", unique_email("provider"))
    offline = submit(market, base, renter[1], seed_job(provider_id))
    assert (offline.status_code, offline.json()["status"]) == (409, "offline")
    assert "provider_id" in offline.json()["advice"]
    unknown = submit(market, base, renter[1], seed_job(10**12))
    assert (unknown.status_code, unknown.json()["code"]) == (404, "PROVIDER_NOT_FOUND")


def test_idempotency_key_gives_the_first_job_again(market: Market, base: str, renter: Account) -> None:
    header = {"Idempotency-Key": f"once-{base}"}
    body = {**seed_job(None, model="nobody/serves-this"), "wait_for_supply": True}
    first = submit(market, base, renter[1], body, **header)
    again = submit(market, base, renter[1], body, **header)
    assert first.status_code == again.status_code == 201
    assert first.json()["job"]["job_id"] == again.json()["job"]["job_id"]
    other = submit(market, base, renter[1], {**body, "duration_minutes": 4}, **header)
    assert (other.status_code, other.json()["code"]) == (409, "IDEMPOTENCY_CLASH")
    wallet = market.http.get(f"{base}/renters/me", headers={"x-renter-key": renter[1]}).json()["renter"]
    assert wallet["held_halala"] == 450


def test_job_of_another_account_is_refused(market: Market, base: str, renter: Account) -> None:
    body = {**seed_job(None, model="nobody/serves-this"), "wait_for_supply": True}
    job = submit(market, base, renter[1], body).json()["job"]
    _, stranger = market.register_renter("Stranger", unique_email("renter"))
    for path in (f"{base}/jobs/{job['job_id']}", f"{base}/jobs/{job['job_id']}/output"):
        response = market.http.get(path, headers={"x-renter-key": stranger})
        assert (response.status_code, response.json()["code"]) == (403, "NOT_OWNER")
    missing = market.http.get(f"{base}/jobs/job-none", headers={"x-renter-key": stranger})
    assert (missing.status_code, missing.json()["code"]) == (404, "JOB_NOT_FOUND")


def test_dashboard_and_withdrawals_for_the_operator(market: Market, base: str) -> None:
    headers = {"x-admin-token": ADMIN_TOKEN}
    stats = market.http.get(f"{base}/admin/dashboard", headers=headers)
    assert stats.status_code == 200
    assert stats.json()["stats"]["total_providers"] >= stats.json()["stats"]["online_now"] >= 0
    withdrawals = market.http.get(f"{base}/admin/withdrawals", headers=headers)
    assert withdrawals.status_code == 200
    answer = withdrawals.json()
    assert answer["pending"] == []
    assert answer["all"] == []
    assert answer["summary"]["pending_count"] == 0
    assert answer["pagination"] == {"page": 1, "page_size": 50, "total": 0}
    for path in ("dashboard", "withdrawals"):
        wrong = market.http.get(f"{base}/admin/{path}", headers={"x-admin-token": "wrong-token"})
        assert (wrong.status_code, wrong.json()["code"]) == (401, "INVALID_CREDENTIAL")


def test_both_bases_give_the_same_answer(market: Market, renter: Account) -> None:
    def get(base: str, path: str) -> tuple[int, Any]:
        answer = market.http.get(f"{base}/{path}", headers={"x-renter-key": renter[1]})
        return answer.status_code, answer.json()

    for path in ("renters/available-providers", "renters/me", "jobs/job-none", "nowhere"):
        direct, proxied = get("/api", path), get("/api/dc1", path)
        if direct != proxied:  # a provider of another test may have gone offline between the two
            direct, proxied = get("/api", path), get("/api/dc1", path)
        assert direct == proxied

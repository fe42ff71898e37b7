"""Bad input through the whole stack: the documented status and code, the name of the field, and no change."""

from __future__ import annotations

from typing import Any

import pytest

from scripts.market import Market
from tests.contract.conftest import ADMIN_TOKEN
from tests.contract.test_seed import Account, seed_job, submit, wait_for_output

RENTER = {"name": "Acme AI", "email": "new-renter@example.com"}


def snapshot(market: Market) -> dict[str, Any]:
    """The state that bad input must not change."""
    stats = market.get("/api/admin/dashboard", **{"x-admin-token": ADMIN_TOKEN})
    del stats["stats"]["online_now"]
    return {**stats, "proof": market.prove_ledger()}


@pytest.mark.parametrize(
    ("body", "code", "field"),
    [
        (b"{", "MALFORMED_JSON", None),
        (b"[]", "MALFORMED_JSON", None),
        (b'"text"', "MALFORMED_JSON", None),
        (b"\xff\xfe", "MALFORMED_JSON", None),
        (b"[" * 100_000, "MALFORMED_JSON", None),
        ({**RENTER, "name": 7}, "INVALID_FIELD", "name"),
        ({**RENTER, "name": ["Acme"]}, "INVALID_FIELD", "name"),
        ({**RENTER, "nmae": "Acme"}, "UNKNOWN_FIELD", "nmae"),
        ({"name": "Acme"}, "INVALID_FIELD", "email"),
        ({"email": "new-renter@example.com"}, "INVALID_FIELD", "name"),
        ({**RENTER, "name": ""}, "INVALID_FIELD", "name"),
        ({**RENTER, "name": "  "}, "INVALID_FIELD", "name"),
        ({**RENTER, "name": "x" * 10_000}, "INVALID_FIELD", "name"),
        ({**RENTER, "name": "a\u0000b"}, "INVALID_FIELD", "name"),
        ({**RENTER, "email": "not-an-address"}, "INVALID_FIELD", "email"),
        ({**RENTER, "email": "a@b@c"}, "INVALID_FIELD", "email"),
        ({**RENTER, "email": "\u202e@example.com"}, "INVALID_FIELD", "email"),
        ({**RENTER, "phone": "12"}, "INVALID_FIELD", "phone"),
        ({**RENTER, "phone": "call me"}, "INVALID_FIELD", "phone"),
    ],
)
def test_bad_registration(market: Market, body: object, code: str, field: str | None) -> None:
    before = snapshot(market)
    content = {"content": body} if isinstance(body, bytes) else {"json": body}
    response = market.http.post("/api/renters/register", **content)
    assert response.status_code == 400
    assert response.json()["code"] == code
    assert response.json().get("field") == field
    assert field is None or field in response.json()["error"]
    assert snapshot(market) == before


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"duration_minutes": 0}, "duration_minutes"),
        ({"duration_minutes": -1}, "duration_minutes"),
        ({"duration_minutes": 0.01}, "duration_minutes"),
        ({"duration_minutes": 1e9}, "duration_minutes"),
        ({"duration_minutes": "3"}, "duration_minutes"),
        ({"duration_minutes": True}, "duration_minutes"),
        ({"job_type": "mining"}, "job_type"),
        ({"job_type": 1}, "job_type"),
        ({"provider_id": "42"}, "provider_id"),
        ({"provider_id": 0}, "provider_id"),
        ({"provider_id": 2**63}, "provider_id"),
        ({"provider_id": 1.5}, "provider_id"),
        ({"priority": 11}, "priority"),
        ({"max_cost_halala": 0}, "max_cost_halala"),
        ({"params": "prompt"}, "params"),
        ({"params": {"prompt": "hi"}}, "params.model"),
        ({"params": {"model": "m"}}, "params.prompt"),
        ({"params": {"model": "m", "prompt": "hi", "temperature": 99}}, "params.temperature"),
        ({"params": {"model": "m", "messages": [{"role": "user"}]}}, "params.messages[0].content"),
        (
            {"params": {"model": "m", "messages": [{"role": "robot", "content": "x"}]}},
            "params.messages[0].role",
        ),
        ({"params": {"model": "m", "prompt": "hi", "top_k": 1}}, "params.top_k"),
        ({"container_spec": {"env": {"A": 1}}}, "container_spec.env"),
        ({"gpu_requirements": {"min_vram_gb": -1}}, "gpu_requirements.min_vram_gb"),
    ],
)
def test_bad_submit(market: Market, renter: Account, change: dict[str, Any], field: str) -> None:
    before = snapshot(market)
    response = submit(market, "/api", renter[1], {**seed_job(None), **change})
    assert response.status_code == 400
    assert response.json()["code"] in {"INVALID_FIELD", "UNKNOWN_FIELD"}
    assert response.json()["field"].startswith(field)
    assert snapshot(market) == before


def test_nan_duration_is_refused(market: Market, renter: Account) -> None:
    body = b'{"job_type": "llm-inference", "duration_minutes": NaN}'
    headers = {"x-renter-key": renter[1]}
    response = market.http.post("/api/jobs/submit", content=body, headers=headers)
    assert (response.status_code, response.json()["code"]) == (400, "MALFORMED_JSON")


def test_model_and_job_type_that_the_named_provider_does_not_serve(
    market: Market, renter: Account, provider: Account
) -> None:
    before = snapshot(market)
    model = submit(market, "/api", renter[1], seed_job(provider[0], model="nobody/serves-this"))
    assert (model.status_code, model.json()["code"]) == (400, "MODEL_NOT_SERVED")
    assert "SmolLM2" in model.json()["error"]
    training = {**seed_job(provider[0]), "job_type": "training", "container_spec": {"image": "busybox"}}
    kind = submit(market, "/api", renter[1], training)
    assert (kind.status_code, kind.json()["code"]) == (400, "JOB_TYPE_NOT_SERVED")
    assert snapshot(market) == before


@pytest.mark.model
def test_prompt_longer_than_the_context_fails_without_charge(
    market: Market, renter: Account, provider: Account
) -> None:
    job = submit(market, "/api", renter[1], seed_job(provider[0], prompt="word " * 20_000)).json()["job"]
    gone = wait_for_output(market, "/api", renter[1], job["job_id"])
    assert gone.status_code == 410
    assert gone.json()["code"] == "JOB_FAILED"
    assert gone.json()["reason"] == "PROMPT_TOO_LONG"
    assert "params.prompt" in gone.json()["error"]
    assert gone.json()["charged_halala"] == 0
    assert gone.json()["refunded_halala"] == 450


def test_body_over_the_limit_of_its_route_is_refused(market: Market, renter: Account) -> None:
    """One mebibyte, except for a submit: its prompt may have a million characters of twelve bytes."""
    headers = {"x-renter-key": renter[1]}
    for path, mebibytes in (("/api/renters/topup", 2), ("/api/jobs/submit", 14)):
        response = market.http.post(path, content=b" " * (mebibytes << 20), headers=headers)
        assert (response.status_code, response.json()["code"]) == (413, "BODY_TOO_LARGE")
    long = submit(market, "/api", renter[1], seed_job(None, prompt="x" * (2 << 20)))
    assert (long.status_code, long.json()["field"]) == (400, "params.prompt")


def test_credentials_of_the_wrong_kind(market: Market, renter: Account, provider: Account) -> None:
    cases: list[tuple[str, dict[str, str], int, str]] = [
        ("/api/renters/me", {}, 401, "MISSING_CREDENTIAL"),
        ("/api/renters/me", {"x-renter-key": "dcp-renter-unknown"}, 401, "INVALID_CREDENTIAL"),
        ("/api/renters/me", {"x-provider-key": provider[1]}, 401, "WRONG_ROLE"),
        ("/api/renters/me", {"x-admin-token": ADMIN_TOKEN}, 401, "WRONG_ROLE"),
        ("/api/renters/me", {"authorization": "Basic abc"}, 401, "INVALID_CREDENTIAL"),
        ("/api/renters/me", {"x-renter-key": "x" * 5000}, 401, "INVALID_CREDENTIAL"),
        ("/api/admin/dashboard", {"x-renter-key": renter[1]}, 401, "WRONG_ROLE"),
        (
            "/api/renters/me",
            {"x-renter-key": renter[1], "x-provider-key": provider[1]},
            400,
            "CONFLICTING_CREDENTIALS",
        ),
        ("/api/renters/me?key=other", {"x-renter-key": renter[1]}, 400, "CONFLICTING_CREDENTIALS"),
    ]
    for path, headers, status, code in cases:
        response = market.http.get(path, headers=headers)
        assert (response.status_code, response.json()["code"]) == (status, code), (path, list(headers))


def test_unknown_paths_and_methods_get_errors_in_the_usual_format(market: Market) -> None:
    nowhere = market.http.get("/api/nowhere")
    assert (nowhere.status_code, nowhere.json()["code"]) == (404, "ROUTE_NOT_FOUND")
    method = market.http.delete("/api/renters/me")
    assert (method.status_code, method.json()["code"]) == (405, "METHOD_NOT_ALLOWED")
    assert "GET" in method.headers["allow"]


def test_admin_routes_answer_503_without_an_admin_token(tmp_path_factory: pytest.TempPathFactory) -> None:
    with Market(tmp_path_factory.mktemp("no-admin"), admin_token="") as market:
        for path in ("dashboard", "withdrawals"):
            response = market.http.get(f"/api/admin/{path}", headers={"x-admin-token": "anything"})
            assert (response.status_code, response.json()["code"]) == (503, "ADMIN_NOT_CONFIGURED")
            assert int(response.headers["retry-after"]) > 0


def test_wrong_filter_in_the_query_is_named(market: Market) -> None:
    for query, field in (("page=0", "page"), ("page=two", "page"), ("colour=red", "colour")):
        response = market.http.get(f"/api/renters/available-providers?{query}")
        assert (response.status_code, response.json()["field"]) == (400, field)


def test_model_that_no_provider_serves(market: Market, renter: Account, provider: Account) -> None:
    """Told at once with a name that is served; a renter that wants to wait says so."""
    before = snapshot(market)
    body = seed_job(None, model="HuggingFaceTB/SmolLM2")
    refused = submit(market, "/api", renter[1], body)
    assert (refused.status_code, refused.json()["code"]) == (400, "MODEL_NOT_SERVED")
    assert refused.json()["field"] == "params.model"
    assert "HuggingFaceTB/SmolLM2-135M-Instruct" in refused.json()["error"]
    assert snapshot(market) == before
    waiting = submit(market, "/api", renter[1], {**body, "wait_for_supply": True})
    assert (waiting.status_code, waiting.json()["job"]["status"]) == (201, "queued")

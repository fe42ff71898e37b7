"""The logs of real programs: a request is found in all of them by its id, and nothing private is in any."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from scripts.market import Market, Program
from tests.support.patient_renter import Renter, eventually
from tests.support.scene import ADMIN_TOKEN, SCRIPTED
from tests.support.scripted_daemon import MODEL, answer_to, script

pytestmark = pytest.mark.e2e
JSON = {"DCP_LOG_FORMAT": "json", "DCP_LOG_LEVEL": "debug"}
Entry = dict[str, Any]


@pytest.fixture(params=[False, True], ids=["three programs", "one program"])
def market(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Market]:
    with Market(
        tmp_path, admin_token=ADMIN_TOKEN, settings=JSON, gateway_settings=JSON, embedded=request.param
    ) as market:
        yield market


def entries(program: Program) -> list[Entry]:
    """All lines of a program's log, each of which is an object."""
    found = [json.loads(line) for line in program.log.read_text(encoding="utf-8").splitlines()]
    for entry in found:
        assert {"time", "level", "logger", "message"} <= entry.keys()
    return found


def answered(program: Program, request_id: str) -> list[Entry]:
    return [
        entry
        for entry in entries(program)
        if entry.get("request_id") == request_id and entry["logger"] == "gateway.access"
    ]


def test_request_is_found_by_its_id(market: Market) -> None:
    server, gateway = market.programs[0], market.programs[-1]
    renter = Renter(market, "r1@private.example", 10_000)
    response = renter.ask_once("GET", "/api/jobs/no-such-job", **{"x-request-id": "trace-1.a_b"})
    assert response.headers["x-request-id"] == "trace-1.a_b"
    made = renter.ask_once("GET", "/api/renters/me", **{"x-request-id": "not a valid id"}).headers[
        "x-request-id"
    ]
    assert made != "not a valid id"

    (line,) = eventually("the line of the request", lambda: answered(gateway, "trace-1.a_b"))
    shown = ("method", "route", "status", "account", "level")
    assert [line[name] for name in shown] == ["GET", "/api/jobs/{job_id}", 404, f"renter:{renter.id}", "info"]
    assert line["bytes"] == len(response.content)
    assert line["ms"] > 0
    (line,) = eventually("the line of the other", lambda: answered(gateway, made))
    assert (line["status"], line["account"]) == (200, f"renter:{renter.id}")
    at_server = [entry for entry in entries(server) if entry.get("request_id") == "trace-1.a_b"]
    refused = [entry for entry in at_server if entry["message"].startswith("refused a call")]
    assert [entry["reason"] for entry in refused] == ["JOB_NOT_FOUND"]


def test_logs_have_nothing_private(market: Market) -> None:
    provider_id, provider_key = market.register_provider("Node of Secretname", "p1@private.example")
    daemon = market.add_daemon(provider_key, command=SCRIPTED, settings=JSON)
    renter = Renter(market, "r1@private.example", 10_000)
    prompt = script("riverbed", 3, 0.05)
    job_id = renter.submit(MODEL, prompt, provider_id=provider_id)
    renter.until_final(job_id)
    assert renter.output(job_id) == answer_to(prompt)
    market.http.get("/api/renters/me", params={"key": "wrong-key-of-somebody"})
    market.http.get("/api/jobs/r1@private.example")
    market.http.get("/nowhere/r1@private.example")
    chat = {"model": MODEL, "messages": [{"role": "user", "content": prompt}]}
    answer = renter.ask("POST", "/v1/chat/completions", chat)
    assert answer.status_code == 200

    shown = answer.headers["x-request-id"]
    gateway = market.programs[0] if market.embedded else market.programs[1]
    (line,) = [
        entry
        for entry in entries(gateway)
        if entry.get("job_id") == shown and entry["logger"] == "gateway.access"
    ]
    assert (line["route"], line["account"]) == ("/v1/chat/completions", f"renter:{renter.id}")
    assert line["request_id"] != shown
    (finished,) = [entry for entry in entries(daemon) if entry.get("job_id") == job_id and "run_ms" in entry]
    assert finished["message"].startswith("job finished outcome=")
    private = ("private.example", "Secretname", "riverbed", "wrong-key", provider_key, ADMIN_TOKEN)
    for program in market.programs:
        text = program.log.read_text(encoding="utf-8")
        assert [word for word in private if word in text] == [], program.name

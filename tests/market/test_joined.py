"""Requests through the real gateway and the real server, with gRPC between the two and without it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path

import httpx
import pytest

from server.store.models import Provider
from tests.support.fake_engine import DEFAULT_MODEL, ScriptedEngine
from tests.support.whole_stack import ADMIN, Stack, running_daemon, running_stack

Running = Callable[..., AbstractAsyncContextManager[Stack]]
LIST = "/api/renters/available-providers"


@pytest.fixture(params=[False, True], ids=["by wire", "embedded"])
def running(request: pytest.FixtureRequest, tmp_path: Path) -> Running:
    return partial(running_stack, tmp_path, None, request.param)


async def test_job_runs_from_its_request_to_its_answer(running: Running) -> None:
    async with running() as stack:
        _, key = await stack.register("provider", "p@example.com")
        renter_id, renter_key = await stack.register("renter", "r@example.com")
        await stack.post(f"/api/admin/renters/{renter_id}/credit", {"amount_halala": 5000}, **ADMIN)
        async with running_daemon(stack, key, ScriptedEngine(["an ", "answer"])):
            job = {
                "job_type": "llm-inference",
                "duration_minutes": 3,
                "params": {"model": DEFAULT_MODEL, "prompt": "نعم"},
            }
            submitted = await stack.post("/api/jobs/submit", job, **{"x-renter-key": renter_key})
            job_id = submitted["job"]["job_id"]
            await stack.until_job(job_id, "completed")
        answer = await stack.get(f"/api/jobs/{job_id}/output", {"x-renter-key": renter_key})
        assert answer["response"] == "an answer"


async def test_address_over_its_limit_learns_how_long_to_wait_and_others_pass(running: Running) -> None:
    async with running(DCP_LIMIT_ADDRESS="4") as stack:
        clients = [client_at(stack, address) for address in ("203.0.113.9", "198.51.100.7")]
        for _ in range(4):
            assert (await clients[0].get(LIST)).status_code == 200
        refused, passed = [await client.get(LIST) for client in clients]
        assert (refused.status_code, refused.json()["code"]) == (429, "RATE_LIMITED")
        assert (refused.json()["limit"], refused.json()["retry_after_seconds"]) == ("address", 15)
        assert refused.headers["ratelimit"] == '"address";r=0;t=15'
        assert refused.headers["ratelimit-policy"] == '"address";q=4;w=60'
        assert refused.headers["retry-after"] == "15"
        assert passed.status_code == 200
        stack.clock.advance(15)
        assert (await clients[0].get(LIST)).status_code == 200
        for client in clients:
            await client.aclose()


async def test_registrations_are_limited_by_the_callers_address(running: Running) -> None:
    async with running(DCP_LIMIT_REGISTRATIONS="2") as stack:
        answers = [
            await stack.http.post(
                "/api/renters/register", json={"name": "R", "email": f"r{number}@example.com"}
            )
            for number in range(3)
        ]
        assert [answer.status_code for answer in answers] == [201, 201, 429]
        assert answers[-1].headers["ratelimit-policy"] == '"registration";q=2;w=60'


def client_at(stack: Stack, address: str) -> httpx.AsyncClient:
    """A client whose connections come from this address."""
    transport = httpx.ASGITransport(stack.app, client=(address, 40_000))
    return httpx.AsyncClient(transport=transport, base_url="http://gateway")


@pytest.mark.parametrize(
    ("path", "headers", "status", "code"),
    [
        ("/api/renters/me", {}, 401, "MISSING_CREDENTIAL"),
        ("/api/renters/me", {"x-renter-key": "dcp-renter-none"}, 401, "INVALID_CREDENTIAL"),
        ("/api/admin/dashboard", {"x-admin-token": "not-it"}, 401, "INVALID_CREDENTIAL"),
        (f"{LIST}?page_size=100000", {}, 400, "INVALID_FIELD"),
        ("/api/jobs/job-none", ADMIN, 404, "JOB_NOT_FOUND"),
    ],
)
async def test_door_refuses_the_same_callers_and_requests(
    running: Running, path: str, headers: dict[str, str], status: int, code: str
) -> None:
    async with running() as stack:
        refused = await stack.http.get(path, headers=headers)
    assert (refused.status_code, refused.json()["code"]) == (status, code)


async def test_fault_of_the_server_is_500_without_a_leak(
    running: Running, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(prove=False) as stack:
        _, key = await stack.register("provider", "p@example.com")
        await stack.server._database.run(lambda: Provider.update(gpu_status="{secret-in-the-row").execute())
        with caplog.at_level(logging.ERROR):
            answer = await stack.http.get(
                "/api/providers/me", headers={"x-provider-key": key, "x-request-id": "request-7"}
            )
    assert (answer.status_code, answer.json()["code"]) == (500, "INTERNAL")
    assert answer.json()["request_id"] == "request-7"
    for leak in ("secret-in-the-row", "JSON", "Traceback", ".py", "sqlite"):
        assert leak not in answer.text
    assert "request-7" in caplog.text
    assert key not in caplog.text


async def test_readiness_is_the_servers(running: Running) -> None:
    async with running() as stack:
        assert (await stack.http.get("/readyz")).status_code == 200
        await stack.server._health.enter_graceful_shutdown()
        stopping = await stack.http.get("/readyz")
        assert (stopping.status_code, stopping.json()["code"]) == (503, "STORE_UNAVAILABLE")

"""Errors have one format: the reason determines it, else the gRPC code, and nothing internal leaks."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import grpc
import httpx
import pytest
from dcp.v1 import errors_pb2
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from gateway import edge
from gateway.app import build_app
from gateway.errors import BY_CODE, CODES, STATUS_BY_REASON, ApiError
from tests.support.gateway_server import DETAILS_KEY, FakeServer, Refusal

REASONS = [v.name.removeprefix("ERROR_REASON_") for v in errors_pb2.ErrorReason.DESCRIPTOR.values if v.number]


@pytest.mark.parametrize("reason", REASONS)
async def test_every_reason_gets_its_status_and_is_passed_on(
    gateway: httpx.AsyncClient, server: FakeServer, reason: str
) -> None:
    rule_of = (
        errors_pb2.ErrorReason.DESCRIPTOR.values_by_name[f"ERROR_REASON_{reason}"].GetOptions().Extensions
    )
    code = next(c for c in grpc.StatusCode if c.value[0] == rule_of[errors_pb2.reason].code)
    server.refuse("GetJob", Refusal(code, "A text for people.", reason))
    answer = await gateway.get("/api/jobs/job-1")
    assert 400 <= answer.status_code == rule_of[errors_pb2.reason].http_status < 600
    assert answer.json()["code"] == reason
    assert (answer.json()["error"] == "A text for people.") == (reason != "INTERNAL")
    assert ("retry-after" in answer.headers) == (answer.status_code in (429, 503))
    assert ("www-authenticate" in answer.headers) == (answer.status_code == 401)


@pytest.mark.parametrize("code", [code for code in grpc.StatusCode if code is not grpc.StatusCode.OK])
async def test_without_a_reason_the_code_determines_the_error_and_its_text(
    gateway: httpx.AsyncClient, server: FakeServer, code: grpc.StatusCode
) -> None:
    server.refuse("GetJob", Refusal(code, "secret 10.0.0.7 at line 3"))
    answer = await gateway.get("/api/jobs/job-1")
    assert (answer.status_code, answer.json()["code"]) == BY_CODE.get(code, (500, "INTERNAL"))
    assert "secret" not in answer.text
    assert answer.json()["code"] in CODES


@pytest.mark.parametrize(
    ("method", "path", "body", "told"),
    [
        ("POST", "/api/renters/topup", {"amount_halala": 5}, (504, "OUTCOME_UNKNOWN")),
        ("POST", "/api/jobs/quote", {"job_type": "llm-inference"}, (503, "UNAVAILABLE")),
        ("GET", "/api/renters/me", None, (503, "UNAVAILABLE")),
    ],
)
async def test_connection_that_broke_after_a_call_was_sent_does_not_say_that_nothing_was_done(
    method: str, path: str, body: object, told: tuple[int, str]
) -> None:
    async def break_off(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"\0\0\0\4\0\0\0\0\0")  # HTTP/2's empty SETTINGS
        await asyncio.sleep(0.3)  # the call is on its way
        writer.transport.abort()

    async with await asyncio.start_server(break_off, "127.0.0.1", 0) as listener:
        port = listener.sockets[0].getsockname()[1]
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            transport = httpx.ASGITransport(build_app(channel))
            async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
                headers = {"x-renter-key": "dcp-renter-of-a-test"}
                answer = await client.request(method, path, json=body, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == told
    assert ("Idempotency-Key" in answer.json()["error"]) == (told[0] == 504)


async def test_repeat_at_another_server_that_fails_does_not_deny_what_the_first_may_have_done(
    gateway: httpx.AsyncClient, server: FakeServer
) -> None:
    lost = Refusal(grpc.StatusCode.UNAVAILABLE, "Stream removed")
    lost.metadata = ()
    said = Refusal(grpc.StatusCode.UNAVAILABLE, "nothing was changed, try again", "STORE_UNAVAILABLE")
    ends = iter([lost, said])

    def fail(_: object) -> object:
        raise next(ends)

    server.answers["TopUpOwnWallet"] = fail
    headers = {"x-renter-key": "dcp-renter-of-a-test", "idempotency-key": "a key"}
    answer = await gateway.post("/api/renters/topup", json={"amount_halala": 5}, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (504, "OUTCOME_UNKNOWN")


async def test_reached_limit_is_in_the_standard_headers(
    gateway: httpx.AsyncClient, server: FakeServer
) -> None:
    facts: dict[str, Any] = {"retry_after_seconds": 7, "limit": "address", "limit_per_minute": 120}
    server.refuse(
        "GetJob", Refusal(grpc.StatusCode.RESOURCE_EXHAUSTED, "Too often.", "RATE_LIMITED", **facts)
    )
    answer = await gateway.get("/api/jobs/job-1")
    assert answer.status_code == 429
    assert answer.json() == {"error": "Too often.", "code": "RATE_LIMITED", **facts}
    assert answer.headers["retry-after"] == "7"
    assert answer.headers["ratelimit-policy"] == '"address";q=120;w=60'
    assert answer.headers["ratelimit"] == '"address";r=0;t=7'


async def test_error_without_a_rate_limit_has_no_rate_limit_headers(
    gateway: httpx.AsyncClient, server: FakeServer
) -> None:
    refusal = Refusal(grpc.StatusCode.RESOURCE_EXHAUSTED, "Full.", "RATE_LIMITED", retry_after_seconds=10)
    server.refuse("GetJob", refusal)
    answer = await gateway.get("/api/jobs/job-1")
    assert (answer.headers["retry-after"], "ratelimit" in answer.headers) == ("10", False)


async def test_facts_are_written_next_to_the_error(gateway: httpx.AsyncClient, server: FakeServer) -> None:
    facts: dict[str, Any] = {"balance_halala": 0, "required_halala": 450, "shortfall_halala": 450}
    refusal = Refusal(
        grpc.StatusCode.FAILED_PRECONDITION, "The wallet is short.", "INSUFFICIENT_BALANCE", **facts
    )
    server.refuse("SubmitJob", refusal)
    answer = await gateway.post("/api/jobs/submit", json={})
    assert answer.status_code == 402
    assert answer.json() == {"error": "The wallet is short.", "code": "INSUFFICIENT_BALANCE", **facts}


async def test_retry_after_is_the_servers_or_one_second(
    gateway: httpx.AsyncClient, server: FakeServer
) -> None:
    server.refuse(
        "GetJob", Refusal(grpc.StatusCode.RESOURCE_EXHAUSTED, "Slow.", "RATE_LIMITED", retry_after_seconds=7)
    )
    assert (await gateway.get("/api/jobs/job-1")).headers["retry-after"] == "7"
    server.refuse("GetJob", Refusal(grpc.StatusCode.UNAVAILABLE))
    assert (await gateway.get("/api/jobs/job-1")).headers["retry-after"] == "1"


def damaged() -> Refusal:
    refusal = Refusal(grpc.StatusCode.NOT_FOUND, "secret")
    refusal.metadata = ((DETAILS_KEY, b"\xff\xff\xff"),)
    return refusal


@pytest.mark.parametrize(
    "refusal",
    [
        Refusal(grpc.StatusCode.NOT_FOUND, "secret", "JOB_NOT_FOUND", domain="example.com"),
        Refusal(grpc.StatusCode.NOT_FOUND, "secret", "NO_SUCH_REASON"),
        damaged(),
    ],
)
async def test_details_from_elsewhere_are_not_trusted(
    gateway: httpx.AsyncClient, server: FakeServer, refusal: Refusal
) -> None:
    server.refuse("GetJob", refusal)
    answer = await gateway.get("/api/jobs/job-1")
    assert (answer.status_code, answer.json()["code"]) == (404, "NOT_FOUND")
    assert "secret" not in answer.text


async def test_a_fault_of_the_server_leaks_nothing_and_names_its_request(
    gateway: httpx.AsyncClient, server: FakeServer
) -> None:
    def fail(_: object) -> object:
        raise RuntimeError("secret in /srv/server.py")

    server.answers["GetJob"] = fail
    answer = await gateway.get("/api/jobs/job-1")
    assert (answer.status_code, answer.json()["code"]) == (500, "INTERNAL")
    assert answer.json()["request_id"] == answer.headers["x-request-id"]
    assert "secret" not in answer.text


async def test_a_server_that_cannot_be_reached_is_unavailable() -> None:
    async with grpc.aio.insecure_channel("127.0.0.1:1") as channel:
        transport = httpx.ASGITransport(build_app(channel))
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
            answer = await client.get("/api/jobs/job-1")
    assert (answer.status_code, answer.json()["code"]) == (503, "UNAVAILABLE")
    assert "127.0.0.1" not in answer.text
    assert answer.headers["retry-after"] == "1"


@pytest.mark.parametrize(
    "path",
    ["/nothing", "/api", "/api/nothing", "/api/jobs/a/b/c", "/api/jobs/submit/", "/docs/", "/static/x"],
)
async def test_an_unknown_path_gets_an_error_in_the_usual_format(
    gateway: httpx.AsyncClient, path: str
) -> None:
    answer = await gateway.get(path)
    assert (answer.status_code, answer.json()["code"]) == (404, "ROUTE_NOT_FOUND")


@pytest.mark.parametrize(
    ("verb", "path", "allow"),
    [
        ("GET", "/api/jobs/submit", "POST"),
        ("PATCH", "/api/jobs/job-1", "GET"),
        ("OPTIONS", "/api/dc1/jobs/job-1", "GET"),
        ("POST", "/healthz", "GET, HEAD"),
    ],
)
async def test_error_for_a_wrong_method_lists_the_right_ones(
    gateway: httpx.AsyncClient, verb: str, path: str, allow: str
) -> None:
    answer = await gateway.request(verb, path)
    assert (answer.status_code, answer.json()["code"]) == (405, "METHOD_NOT_ALLOWED")
    assert ", ".join(sorted(answer.headers["allow"].split(", "))) == allow


async def run(app: Any) -> list[Message]:
    """The messages that the edge around the app sends for a request without a body."""
    sent: list[Message] = []

    async def receive() -> Message:
        raise AssertionError

    async def send(message: Message) -> None:
        sent.append(message)

    scope: Scope = {"type": "http", "method": "POST", "path": "/api/x", "headers": []}
    await edge.Edge(app)(scope, receive, send)
    return sent


async def test_an_unexpected_exception_is_a_plain_500_and_is_logged_without_its_text(
    caplog: pytest.LogCaptureFixture,
) -> None:
    quoted = "-".join(["dcp", "renter", "secret"])

    async def broken(*_: object) -> None:
        raise RuntimeError(quoted)

    sent = await run(broken)
    assert sent[0]["status"] == 500
    assert b'"code":"INTERNAL"' in sent[1]["body"]
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert "RuntimeError" in record.getMessage()
    assert "in broken" in record.getMessage()
    assert quoted not in record.getMessage() + sent[1]["body"].decode()


async def test_an_exception_after_the_response_began_breaks_the_connection() -> None:
    async def broken(_: Scope, __: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise ApiError("RATE_LIMITED")

    with pytest.raises(ApiError):
        await run(broken)


async def test_a_scope_that_is_not_http_passes_the_edge_unchanged() -> None:
    seen: list[Scope] = []

    async def app(scope: Scope, _: object, __: object) -> None:
        seen.append(scope)

    await edge.Edge(app)({"type": "lifespan"}, None, None)  # type: ignore[arg-type]
    assert seen == [{"type": "lifespan"}]


@pytest.mark.parametrize("path", ["/healthz", "/openapi.json", "/api/jobs/job-1", "/nothing"])
async def test_every_response_has_the_common_headers(gateway: httpx.AsyncClient, path: str) -> None:
    answer = await gateway.get(path)
    assert answer.headers["x-request-id"]
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cache-control"] == ("no-cache" if path == "/openapi.json" else "no-store")


async def test_other_endpoints_of_the_app_have_the_same_errors(server: FakeServer) -> None:
    async def refuse(_: Request) -> Response:
        raise ApiError("RATE_LIMITED", retry_after_seconds=3)

    async def stream(_: Request) -> Response:
        return StreamingResponse(iter(["a", "b"]))

    async with server.open_channel() as channel:
        app = build_app(channel)
        app.add_route("/refuse", refuse)
        app.add_route("/stream", stream)
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
            refused, streamed = await client.get("/refuse"), await client.get("/stream")
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "3")
    assert (streamed.text, streamed.headers["cache-control"]) == ("ab", "no-store")


def test_every_reason_has_a_status_over_http() -> None:
    assert [reason for reason in REASONS if not 400 <= STATUS_BY_REASON[reason] < 600] == []

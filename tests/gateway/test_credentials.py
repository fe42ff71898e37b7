"""The places of a request that can carry a key, and requests with two keys or an invalid one."""

from __future__ import annotations

import logging
from typing import Any

import httpx
import pytest
from dcp.v1 import log_ins_pb2

from gateway import browsers, credentials
from gateway.app import build_app
from tests.support.gateway_server import FakeServer

KEY = "dcp-renter-abc"


@pytest.mark.parametrize(
    "sent",
    [
        {"headers": {"x-provider-key": KEY}},
        {"headers": {"x-renter-key": KEY}},
        {"headers": {"X-Admin-Token": KEY}},
        {"headers": {"Authorization": f"Bearer {KEY}"}},
        {"headers": {"Authorization": f"bearer  {KEY} "}},
        {"params": {"key": KEY}},
        {"json": {"api_key": KEY}},
        {"headers": {"x-renter-key": KEY, "Authorization": f"Bearer {KEY}"}, "params": {"key": KEY}},
        {"headers": {"x-renter-key": KEY, "x-admin-token": ""}, "params": {"key": ""}},
    ],
)
async def test_a_key_is_found_in_every_place_and_forwarded_as_bearer(
    gateway: httpx.AsyncClient, server: FakeServer, sent: dict[str, Any]
) -> None:
    answer = await gateway.post("/api/renters/topup", **sent)
    assert answer.status_code == 200
    assert server.calls[0].metadata["authorization"] == f"Bearer {KEY}"


@pytest.mark.parametrize(
    "sent",
    [
        {"headers": {"x-renter-key": KEY, "x-admin-token": "other"}},
        {"headers": {"x-renter-key": KEY}, "params": {"key": "other"}},
        {"headers": {"Authorization": f"Bearer {KEY}"}, "json": {"api_key": "other"}},
        {"params": [("key", KEY), ("key", "other")]},
    ],
)
async def test_two_different_keys_are_refused(
    gateway: httpx.AsyncClient, server: FakeServer, sent: dict[str, Any]
) -> None:
    answer = await gateway.post("/api/renters/topup", **sent)
    assert (answer.status_code, answer.json()["code"]) == (400, "CONFLICTING_CREDENTIALS")
    assert server.calls == []


@pytest.mark.parametrize(
    "sent",
    [
        {"headers": {"Authorization": "Basic abc"}},
        {"headers": {"Authorization": KEY}},
        {"headers": {"Authorization": "Bearer"}},
        {"headers": {b"x-renter-key": b"\xd9\x85"}},
        {"params": {"key": "a b"}},
        {"params": {"key": "a\nauthorization: x"}},
        {"json": {"api_key": "مفتاح"}},
        {"json": {"api_key": "a\u0000"}},
        {"json": {"api_key": "k" * 513}},
    ],
)
async def test_a_text_that_cannot_be_a_key_is_unauthorized(
    gateway: httpx.AsyncClient, server: FakeServer, sent: dict[str, Any]
) -> None:
    answer = await gateway.post("/api/renters/topup", **sent)
    assert (answer.status_code, answer.json()["code"]) == (401, "INVALID_CREDENTIAL")
    assert answer.headers["www-authenticate"] == "Bearer"
    assert server.calls == []


@pytest.mark.parametrize("value", [7, True, ["a"], {"a": "b"}, 1.5])
async def test_a_key_that_is_not_a_string_is_an_invalid_field(gateway: httpx.AsyncClient, value: Any) -> None:
    answer = await gateway.post("/api/renters/topup", json={"api_key": value})
    assert (answer.status_code, answer.json()["code"], answer.json()["field"]) == (
        400,
        "INVALID_FIELD",
        "api_key",
    )


async def test_without_a_key_the_server_decides(gateway: httpx.AsyncClient, server: FakeServer) -> None:
    await gateway.get("/api/renters/me")
    assert "authorization" not in server.calls[0].metadata


async def test_public_routes_remove_keys_and_forward_none(
    gateway: httpx.AsyncClient, server: FakeServer
) -> None:
    registered = await gateway.post("/api/renters/register", json={"name": "a", "api_key": KEY})
    listed = await gateway.get(f"/api/renters/available-providers?key={KEY}")
    assert (registered.status_code, listed.status_code) == (201, 200)
    assert all("authorization" not in call.metadata for call in server.calls)


async def test_keys_do_not_appear_in_logs_and_responses(
    gateway: httpx.AsyncClient, server: FakeServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)

    def fail(_: object) -> object:
        raise RuntimeError("the server broke")

    server.answers["TopUpOwnWallet"] = fail
    answers = [
        await gateway.post("/api/renters/topup", headers={"x-renter-key": KEY}),
        await gateway.post("/api/renters/topup", json={"api_key": KEY, "nonsense": KEY}),
        await gateway.post(f"/api/renters/topup?key={KEY}%20{KEY}"),
    ]
    assert [answer.status_code for answer in answers] == [500, 400, 401]
    gateways_own = "".join(record.getMessage() for record in caplog.records if "gateway" in record.name)
    assert "call failed" in gateways_own
    assert KEY not in gateways_own + "".join(answer.text for answer in answers)


# --- the cookies of browsers ---

LOG_IN = "dcp-session-abc"
OURS = {"sec-fetch-site": "same-origin", "content-type": "application/json", "host": "gateway"}


@pytest.mark.parametrize(
    ("scheme", "cookie", "is_found"),
    [
        ("http", f"dcp-session={LOG_IN}", True),
        ("https", f"__Host-dcp-session={LOG_IN}", True),
        ("https", f"dcp-session={LOG_IN}", False),  # a neighbour without TLS could have planted it
        ("http", f"lang=ar; dcp-session={LOG_IN}; other=1", True),
        ("http", f"dcp-session={LOG_IN}; dcp-session=dcp-session-other", False),
        ("http", f"dcp-session={KEY}", False),
        ("http", f"dcp-session={LOG_IN}%0d%0a", False),
    ],
)
def test_log_in_is_read_from_the_cookie_of_the_scheme(scheme: str, cookie: str, is_found: bool) -> None:
    headers = [(name.encode(), value.encode()) for name, value in (OURS | {"cookie": cookie}).items()]
    scope = {"scheme": scheme, "method": "POST", "headers": headers}
    assert credentials.of_request(scope, {}, {}) == (LOG_IN if is_found else None)


@pytest.mark.parametrize(
    "headers",
    [
        OURS | {"host": "behind-a-proxy", "origin": "https://public.example"},
        {"content-type": "application/json", "host": "gateway:80", "origin": "http://gateway:80"},
        {"content-type": "application/json; charset=utf-8", "sec-fetch-site": "same-origin"},
        {"content-type": "application/octet-stream", "sec-fetch-site": "same-origin"},
        {"content-type": "multipart/form-data; boundary=x", "dcp-page": "1", "sec-fetch-site": "same-origin"},
    ],
)
def test_own_pages_are_recognized_behind_proxies_and_without_tls(headers: dict[str, str]) -> None:
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    browsers.check_own_page({"scheme": "http", "method": "POST", "headers": raw})


async def test_log_in_is_forwarded_like_a_key(gateway: httpx.AsyncClient, server: FakeServer) -> None:
    headers = OURS | {"cookie": f"dcp-session={LOG_IN}"}
    assert (await gateway.post("/api/renters/topup", json={}, headers=headers)).status_code == 200
    assert server.calls[0].metadata["authorization"] == f"Bearer {LOG_IN}"


async def test_with_tls_cookies_are_secure_and_of_this_host_alone(server: FakeServer) -> None:
    server.answers["LogIn"] = lambda _: log_ins_pb2.LogInResponse(session=LOG_IN)
    async with server.open_channel() as channel:
        transport = httpx.ASGITransport(build_app(channel))
        async with httpx.AsyncClient(transport=transport, base_url="https://gateway") as client:
            answer = await client.post("/api/log-in", json={"api_key": KEY}, headers=OURS)
    cookie = answer.headers["set-cookie"]
    assert cookie.startswith(f"__Host-dcp-session={LOG_IN}; Path=/; HttpOnly; SameSite=Strict; ")
    assert cookie.endswith("; Secure")
    assert LOG_IN not in answer.text

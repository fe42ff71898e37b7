"""The /api routes: built only from descriptors, and the same under both bases."""

from __future__ import annotations

import asyncio
import re
import struct
from typing import Any

import grpc
import httpx
import pytest
from dcp.v1 import admin_pb2, jobs_pb2, options_pb2, providers_pb2, renters_pb2
from google.api import annotations_pb2
from google.protobuf import descriptor_pb2, descriptor_pool

from gateway.app import build_app
from gateway.openapi import document
from gateway.routes import BASES, api_routes, bindings, discover
from tests.support import gateway_server
from tests.support.gateway_server import FakeServer

PNG = b"\x89PNG" + struct.pack(">I", 7)

SEED_REQUESTS: list[tuple[str, str, str, dict[str, Any] | None]] = [
    ("RegisterProvider", "POST", "/providers/register", {"name": "a", "email": "a@example.com"}),
    ("GetOwnProvider", "GET", "/providers/me?key=dcp-provider-1", None),
    ("Heartbeat", "POST", "/providers/heartbeat", {"api_key": "dcp-provider-1", "gpu_status": {}}),
    ("RegisterRenter", "POST", "/renters/register", {"name": "a", "email": "a@example.com"}),
    ("GetOwnRenter", "GET", "/renters/me?key=dcp-renter-1", None),
    ("ListAvailableProviders", "GET", "/renters/available-providers?min_vram_gb=8.5&page=2", None),
    ("SubmitJob", "POST", "/jobs/submit", {"job_type": "llm-inference", "duration_minutes": 3}),
    ("GetJob", "GET", "/jobs/job-1", None),
    ("GetJobOutput", "GET", "/jobs/job-1/output", None),
    ("GetDashboard", "GET", "/admin/dashboard", None),
    ("ListWithdrawals", "GET", "/admin/withdrawals?page=1", None),
]


@pytest.mark.parametrize(("rpc", "verb", "path", "body"), SEED_REQUESTS)
async def test_both_bases_call_the_same_rpc_and_give_the_same_response(
    gateway: httpx.AsyncClient,
    server: FakeServer,
    rpc: str,
    verb: str,
    path: str,
    body: dict[str, Any] | None,
) -> None:
    answers = [
        await gateway.request(verb, base + path, json=body, headers={"x-request-id": "same"})
        for base in BASES
    ]
    first, second = server.calls
    assert first.rpc == second.rpc == rpc
    assert first.request == second.request
    assert answers[0].status_code == answers[1].status_code < 300
    assert answers[0].content == answers[1].content
    assert dict(answers[0].headers) == dict(answers[1].headers)


async def test_every_annotated_rpc_has_a_route_and_one_under_api_has_two() -> None:
    paths = {binding.pattern for binding in bindings(discover())}
    async with grpc.aio.insecure_channel("127.0.0.1:1") as channel:
        routes = set(api_routes(channel, discover()).patterns)
    assert routes == paths | {path.replace("/api/", "/api/dc1/", 1) for path in paths}


async def test_path_query_and_body_fields_reach_the_server(
    gateway: httpx.AsyncClient, server: FakeServer
) -> None:
    await gateway.post("/api/admin/renters/7/credit", json={"amount_halala": 5000})
    await gateway.get("/api/renters/available-providers?gpu_model=RTX%204090&min_vram_gb=24&page_size=5")
    credit, available = (call.request for call in server.calls)
    assert (credit.renter_id, credit.amount_halala) == (7, 5000)
    assert available == renters_pb2.ListAvailableProvidersRequest(
        gpu_model="RTX 4090", min_vram_gb=24, page_size=5
    )


@pytest.mark.parametrize(
    ("url", "field"),
    [
        ("/api/renters/available-providers?page=two", "page"),
        ("/api/renters/available-providers?page=", "page"),
        ("/api/renters/available-providers?page=1&page=2", "page"),
        ("/api/renters/available-providers?min_vram_gb=nan", "min_vram_gb"),
        ("/api/renters/available-providers?min_vram_gb=1e999", "min_vram_gb"),
        ("/api/renters/available-providers?page=99999999999", "page"),
        ("/api/renters/available-providers?pages=2", "pages"),
        ("/api/renters/available-providers?model=%ff", "query"),
        ("/api/renters/available-providers?" + "model=a&" * 101, "query"),
        ("/api/jobs/job-1?job_id=job-2", "job_id"),
    ],
)
async def test_refusal_of_a_bad_query_names_the_field(
    gateway: httpx.AsyncClient, server: FakeServer, url: str, field: str
) -> None:
    answer = await gateway.get(url)
    assert (answer.status_code, answer.json()["field"]) == (400, field)
    assert server.calls == []


@pytest.mark.parametrize("renter_id", ["seven", "1.0", "9223372036854775808", "%00"])
async def test_refusal_of_a_bad_path_field_names_it(gateway: httpx.AsyncClient, renter_id: str) -> None:
    answer = await gateway.post(f"/api/admin/renters/{renter_id}/credit", json={"amount_halala": 1})
    assert (answer.status_code, answer.json()["field"]) == (400, "renter_id")


async def test_a_header_field_comes_only_from_its_header(
    gateway: httpx.AsyncClient, server: FakeServer
) -> None:
    await gateway.post("/api/jobs/submit", json={}, headers={"Idempotency-Key": "once"})
    assert server.calls[0].request.idempotency_key == "once"
    in_body = await gateway.post("/api/jobs/submit", json={"idempotency_key": "once"})
    in_query = await gateway.post("/api/jobs/submit?idempotency_key=once", json={})
    twice = await gateway.post(
        "/api/jobs/submit", json={}, headers=[("Idempotency-Key", "a"), ("Idempotency-Key", "b")]
    )
    not_text = await gateway.post("/api/jobs/submit", json={}, headers={b"Idempotency-Key": b"\xff"})
    assert [a.json()["code"] for a in (in_body, in_query)] == ["UNKNOWN_FIELD"] * 2
    assert [a.json()["field"] for a in (twice, not_text)] == ["idempotency-key"] * 2
    assert len(server.calls) == 1


POSTS = sorted({b.path: b.rule.repeat for b in bindings(discover()) if b.verb == "POST"}.items())


@pytest.mark.parametrize("value", ["", "   "])
@pytest.mark.parametrize("path", [path for path, _ in POSTS])
async def test_a_blank_idempotency_key_is_refused_on_every_post(
    gateway: httpx.AsyncClient, server: FakeServer, path: str, value: str
) -> None:
    headers = {"Idempotency-Key": value, "origin": "http://gateway"}
    answer = await gateway.post(re.sub(r"\{.*?\}", "7", path), json={}, headers=headers)
    told = answer.json()
    if path.startswith("/v1/"):  # in the form of the API that its clients know
        assert (answer.status_code, told["error"]["param"]) == (400, "idempotency-key")
        assert "blank" in told["error"]["message"]
    else:
        assert (answer.status_code, told["field"]) == (400, "idempotency-key")
        assert "blank" in told["error"]
    assert server.calls == []


@pytest.mark.parametrize(("path", "repeat"), POSTS)
async def test_an_idempotency_key_that_would_protect_nothing_is_refused(
    gateway: httpx.AsyncClient, server: FakeServer, path: str, repeat: int
) -> None:
    """Whoever sends it relies on the first answer, and an answer with a secret is not stored."""
    headers = {"Idempotency-Key": "once", "origin": "http://gateway"}
    answer = await gateway.post(re.sub(r"\{.*?\}", "7", path), json={}, headers=headers)
    assert (answer.status_code == 400) == (repeat == options_pb2.REPEAT_SECRET)
    assert len(server.calls) == (repeat != options_pb2.REPEAT_SECRET)
    if repeat == options_pb2.REPEAT_SECRET:
        assert answer.json()["field"] == "idempotency-key"
        assert "leave the header out" in answer.json()["error"]


async def test_keys_are_among_the_routes_that_refuse_an_idempotency_key() -> None:
    secret = [path for path, repeat in POSTS if repeat == options_pb2.REPEAT_SECRET]
    assert {"/api/renters/keys", "/api/renters/register", "/api/providers/keys/rotate"} <= set(secret)


async def test_success_status_comes_from_the_options(gateway: httpx.AsyncClient) -> None:
    assert (await gateway.post("/api/jobs/submit", json={})).status_code == 201
    assert (await gateway.get("/api/jobs/job-1")).status_code == 200


@pytest.mark.parametrize(
    ("availability", "status"),
    [("NOT_YET", 202), ("READY", 200), ("EMPTY", 204), ("UNSPECIFIED", 200)],
)
async def test_a_status_field_determines_the_status(
    gateway: httpx.AsyncClient, server: FakeServer, availability: str, status: int
) -> None:
    value = jobs_pb2.OutputAvailability.Value(f"OUTPUT_AVAILABILITY_{availability}")
    server.answers["GetJobOutput"] = lambda _: jobs_pb2.GetJobOutputResponse(availability=value)
    answer = await gateway.get("/api/jobs/job-1/output")
    assert answer.status_code == status
    assert bool(answer.content) == (status != 204)
    assert answer.headers.get("retry-after") == ("1" if status == 202 else None)


@pytest.mark.parametrize(
    ("content_type", "accept", "is_raw"),
    [
        ("image/png", "*/*", True),
        ("image/png", "image/png", True),
        ("image/png", "Application/JSON", False),
        ("image/svg+xml", "*/*", False),
        ("text/html", "*/*", False),
        ("image/png\r\nset-cookie: a=b", "*/*", False),
        ("", "*/*", False),
    ],
)
async def test_only_images_are_sent_as_raw_bytes_unless_json_is_accepted(
    gateway: httpx.AsyncClient, server: FakeServer, content_type: str, accept: str, is_raw: bool
) -> None:
    server.answers["GetJobOutput"] = lambda _: jobs_pb2.GetJobOutputResponse(
        availability=jobs_pb2.OUTPUT_AVAILABILITY_READY, data=PNG, content_type=content_type
    )
    answer = await gateway.get("/api/jobs/job-1/output", headers={"accept": accept})
    assert (answer.content == PNG) == is_raw
    assert answer.headers["content-type"] == (content_type if is_raw else "application/json")
    assert answer.headers.get("content-disposition") == ("inline" if is_raw else None)
    assert answer.headers["x-content-type-options"] == "nosniff"


async def test_defaults_are_written_and_integers_are_numbers(
    gateway: httpx.AsyncClient, server: FakeServer
) -> None:
    provider = providers_pb2.Provider(id=2**53 + 1, status=providers_pb2.PROVIDER_STATUS_ONLINE)
    server.answers["GetOwnProvider"] = lambda _: providers_pb2.GetOwnProviderResponse(provider=provider)
    answer = (await gateway.get("/api/providers/me")).json()
    assert answer["recent_jobs"] == []
    assert answer["provider"]["id"] == 2**53 + 1
    assert (answer["provider"]["total_jobs"], answer["provider"]["connected"]) == (0, False)
    assert "gpu_status" not in answer["provider"]


async def test_maps_are_written_in_a_fixed_order(gateway: httpx.AsyncClient, server: FakeServer) -> None:
    states = {name: index for index, name in enumerate("zyxwvutsrq")}
    server.answers["GetDashboard"] = lambda _: admin_pb2.GetDashboardResponse(jobs_by_state=states)
    answer = (await gateway.get("/api/admin/dashboard")).json()
    assert list(answer["jobs_by_state"]) == sorted(states)


async def test_a_post_without_body_is_an_empty_request(
    gateway: httpx.AsyncClient, server: FakeServer
) -> None:
    assert (await gateway.post("/api/renters/topup")).status_code == 200
    assert server.calls[0].request == renters_pb2.TopUpOwnWalletRequest()


async def test_a_post_that_takes_no_fields_takes_the_key_and_refuses_the_rest(
    gateway: httpx.AsyncClient, server: FakeServer
) -> None:
    good = await gateway.post("/api/jobs/job-1/cancel", json={"api_key": "dcp-renter-1"})
    bad = await gateway.post("/api/jobs/job-1/cancel", json={"job_id": "job-2"})
    assert (good.status_code, bad.json()["code"]) == (200, "UNKNOWN_FIELD")
    (call,) = server.calls
    assert call.metadata["authorization"] == "Bearer dcp-renter-1"


async def test_the_body_of_a_get_is_ignored(gateway: httpx.AsyncClient) -> None:
    assert (await gateway.request("GET", "/api/jobs/job-1", content=b"{not json")).status_code == 200


async def test_calls_carry_request_id_and_address(gateway: httpx.AsyncClient, server: FakeServer) -> None:
    answer = await gateway.get("/api/jobs/job-1", headers={"x-request-id": "abc-1"})
    assert answer.headers["x-request-id"] == server.calls[0].metadata["x-request-id"] == "abc-1"
    assert server.calls[0].metadata["x-forwarded-for"] == "127.0.0.1"


@pytest.mark.parametrize("given", ["", "a b", "x" * 65, "a\u00e9"])
async def test_a_strange_request_id_is_replaced(gateway: httpx.AsyncClient, given: str) -> None:
    answer = await gateway.get("/api/jobs/job-1", headers={b"x-request-id": given.encode()})
    assert answer.headers["x-request-id"] not in ("", given)


async def test_every_call_has_a_deadline(gateway: httpx.AsyncClient, server: FakeServer) -> None:
    await gateway.get("/api/jobs/job-1")
    # gRPC rounds the deadline up a little, so the server can see more than five seconds.
    assert 0 < server.calls[0].seconds_left < 6


async def test_an_answer_after_the_deadline_is_a_timeout(server: FakeServer) -> None:
    server.answers["GetJob"] = lambda _: asyncio.Event().wait()
    async with server.open_channel() as channel:
        transport = httpx.ASGITransport(build_app(channel, deadline_seconds=0.05))
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
            answer = await client.get("/api/jobs/job-1")
    assert (answer.status_code, answer.json()["code"]) == (504, "TIMEOUT")


async def test_head_is_answered_like_get(gateway: httpx.AsyncClient, server: FakeServer) -> None:
    assert (await gateway.head("/api/jobs/job-1")).status_code == 200
    assert server.calls[0].rpc == "GetJob"


def shop_file(**http: Any) -> Any:
    """A proto that no code knows: package shop with one RPC and the options of the marketplace."""
    name = f"shop{len(http)}{abs(hash(str(sorted(http.items()))))}"
    file = descriptor_pb2.FileDescriptorProto(name=f"{name}.proto", package=name, syntax="proto3")
    file.dependency.extend(["dcp/v1/options.proto", "google/api/annotations.proto"])
    nested = file.message_type.add(name="Size")
    nested.field.add(name="width", number=1, type=5, label=1)
    request = file.message_type.add(name="BuyRequest")
    request.field.add(name="item_id", number=1, type=9, label=1)
    request.field.add(name="colours", number=2, type=9, label=3)
    request.field.add(name="size", number=3, type=11, label=1, type_name=f".{name}.Size")
    file.message_type.add(name="BuyResponse").field.add(name="price_halala", number=1, type=3, label=1)
    method = file.service.add(name="ShopService").method.add(
        name="Buy", input_type=f".{name}.BuyRequest", output_type=f".{name}.BuyResponse"
    )
    rule = method.options.Extensions[options_pb2.method]
    rule.roles.append(options_pb2.ROLE_RENTER)
    rule.success_code = 201
    for key, value in http.items():
        setattr(method.options.Extensions[annotations_pb2.http], key, value)
    pool = descriptor_pool.Default()
    pool.AddSerializedFile(file.SerializeToString())
    return pool.FindFileByName(file.name)


async def test_a_new_rpc_gets_its_route_and_its_entry_without_code() -> None:
    file = shop_file(get="/api/shop/{item_id}")
    async with (
        gateway_server.running([file]) as server,
        server.open_channel() as channel,
        httpx.AsyncClient(
            transport=httpx.ASGITransport(build_app(channel, files=[file])), base_url="http://gateway"
        ) as client,
    ):
        answer = await client.get("/api/dc1/shop/chair?colours=red&colours=blue&size.width=3")
        request = server.calls[0].request
    assert (answer.status_code, answer.json()) == (201, {"price_halala": 0})
    assert (request.item_id, list(request.colours), request.size.width) == ("chair", ["red", "blue"], 3)
    operation = document([file])["paths"]["/api/shop/{item_id}"]["get"]
    assert [p["name"] for p in operation["parameters"]] == ["item_id", "colours", "size.width"]


@pytest.mark.parametrize(
    "http",
    [
        {"get": "/shop/{item_id}"},
        {"get": "/v2/shop/{item_id}"},
        {"get": "/v1"},
        {"get": "/api/shop/{item_id=chairs/*}"},
        {"post": "/api/shop/buy", "body": "size"},
    ],
)
def test_a_binding_that_cannot_be_served_is_refused_at_start(http: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="Buy: this gateway cannot serve"):
        list(bindings([shop_file(**http)]))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *((text, True) for text in ("true", "True", "TRUE", "t", "T", "1")),
        *((text, False) for text in ("false", "False", "FALSE", "f", "F", "0")),
    ],
)
async def test_a_boolean_of_a_query_is_read_as_grpc_gateway_reads_it(
    gateway: httpx.AsyncClient, server: FakeServer, text: str, value: bool
) -> None:
    """Python's `params={"verified": True}` is sent as `True`."""
    assert (await gateway.get(f"/api/jobs/job-1/output?partial={text}")).is_success
    assert server.calls[0].request.partial is value


@pytest.mark.parametrize("text", ["", "yes", "on", "2", " true", "\u0661"])
async def test_another_text_is_not_a_boolean(gateway: httpx.AsyncClient, text: str) -> None:
    answer = await gateway.get("/api/jobs/job-1/output", params={"partial": text})
    assert (answer.status_code, answer.json()["field"]) == (400, "partial")

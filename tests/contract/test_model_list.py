"""The list of models over HTTP, as routers and OpenAI's clients read it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest

from tests.contract.test_watch import gateway_to
from tests.support import running_server
from tests.support.manual_clock import ManualClock
from tests.support.running_server import MODEL


@pytest.fixture
async def client(sqlite_url: str, clock: ManualClock) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a gateway to an empty market."""
    async with running_server.running(sqlite_url, clock) as market, gateway_to(market) as client:
        yield client


OPENAI = {"authorization": "Bearer sk-any-key-of-a-client"}


async def test_list_of_models_is_one_of_openai_and_needs_no_key(
    database_url: str, clock: ManualClock
) -> None:
    async with running_server.running(database_url, clock) as market, gateway_to(market) as client:
        await market.daemon(await market.provider())
        answers = [await client.get("/v1/models", headers=headers) for headers in ({}, OPENAI)]
        assert [answer.status_code for answer in answers] == [200, 200]
        assert answers[0].json() == answers[1].json()
        listed = answers[0].json()
        (model,) = listed["data"]
        assert (listed["object"], model["object"], model["id"]) == ("list", "model", MODEL)
        assert isinstance(model["created"], int)
        assert isinstance(model["owned_by"], str)
        assert not {"pricing", "quantization", "datacenters"} & model.keys()
        priced = (await client.get("/v1/pricing")).json()
        assert priced["data"] == [{"id": MODEL, "usd_per_minute": "0.4"}]
        assert (priced["currency"], priced["sar_per_usd"]) == ("USD", "3.75")


async def test_other_paths_of_v1_are_not_found(client: httpx.AsyncClient) -> None:
    for path in ("/v1/model", "/v1", "/v1/", "/api/v1/models", "/api/dc1/models"):
        answer = await client.get(path)
        told = answer.json()
        code = told["error"]["reason"] if path.startswith("/v1/") else told["code"]
        assert (answer.status_code, code) == (404, "ROUTE_NOT_FOUND"), path


async def test_fields_that_only_other_apis_know_are_ignored(client: httpx.AsyncClient) -> None:
    answer = await client.get("/v1/models?limit=5")
    assert answer.status_code == 200
    refused = await client.post("/v1/models", json={})
    assert (refused.status_code, refused.headers["allow"]) == (405, "GET")

"""What is recorded of exchanges: their template, never what callers wrote into them."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator

import httpx
import pytest

from common.telemetry import OFF, Exporter
from gateway.app import build_app
from gateway.exchanges import Exchanges
from gateway.telemetry import METRICS
from tests.support.gateway_server import FakeServer


@pytest.fixture
def exporter() -> Exporter:
    return Exporter(METRICS, "gateway", "1")


@pytest.fixture
async def recorded(server: FakeServer, exporter: Exporter) -> AsyncIterator[httpx.AsyncClient]:
    async with server.open_channel() as channel:
        app = build_app(channel, deadline_seconds=5, exchanges=Exchanges(exporter, has_log=True))
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
            yield client


def requests(exporter: Exporter) -> set[tuple[str, str, str]]:
    return {
        (sample.labels["method"], sample.labels["route"], sample.labels["status"])
        for family in exporter.registry.collect()
        for sample in family.samples
        if sample.name == "dcp_http_requests_total"
    }


async def test_paths_become_templates_and_methods_are_known_ones(
    recorded: httpx.AsyncClient, exporter: Exporter
) -> None:
    for method, path in (
        ("GET", "/api/dc1/jobs/job-of-somebody"),
        ("GET", "/api/jobs/another"),
        ("GET", "/nowhere/else"),
        ("BREW", "/api/jobs/another"),
        ("GET", "/healthz"),
        ("GET", "/static/1/none.css"),
    ):
        await recorded.request(method, path)
    found = {(method, route) for method, route, _ in requests(exporter)}
    assert found == {
        ("GET", "/api/jobs/{job_id}"),
        ("GET", "none"),
        ("other", "/api/jobs/{job_id}"),
        ("GET", "/healthz"),
        ("GET", "/static/{version}/{name}"),
    }


async def test_open_requests_are_counted_down_again(recorded: httpx.AsyncClient, exporter: Exporter) -> None:
    await recorded.get("/healthz")
    await recorded.get("/nowhere")
    assert exporter.registry.get_sample_value("dcp_http_requests_open") == 0
    assert exporter.registry.get_sample_value("dcp_http_streams_open") == 0


async def test_line_has_no_value_of_the_request(
    recorded: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    await recorded.get("/api/jobs/job-of-somebody?key=secret&page=7", headers={"x-request-id": "r-1"})
    lines = [record.getMessage() for record in caplog.records if record.name == "gateway.access"]
    assert len(lines) == 1
    assert lines[0].startswith("answered method=GET route=/api/jobs/{job_id} status=")
    assert not {"secret", "somebody", "page"} & {
        word for word in ("secret", "somebody", "page") if word in lines[0]
    }


async def test_probes_are_lines_only_at_debug(
    recorded: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger="gateway.access")
    await recorded.get("/healthz")
    assert [record.levelname for record in caplog.records if record.name == "gateway.access"] == ["DEBUG"]


async def test_without_a_wish_there_is_no_line(server: FakeServer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with server.open_channel() as channel:
        for exchanges in (None, Exchanges(OFF)):
            transport = httpx.ASGITransport(build_app(channel, deadline_seconds=5, exchanges=exchanges))
            async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
                await client.get("/healthz")
    assert [record for record in caplog.records if record.name == "gateway.access"] == []

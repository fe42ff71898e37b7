"""A call belongs to the trace that its gateway names; what others name decides nothing."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from common import tracing
from common.tracing import OFF, Exporter, TraceSettings
from market.context import CallContext
from server.rpc.addresses import Addresses
from server.rpc.traced import Traced
from tests.support.otlp_collector import Collector, otlp_collector

GIVEN = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
METHOD = "/dcp.v1.JobService/GetJob"


@pytest.fixture
def collector() -> Iterator[Collector]:
    with otlp_collector() as collector:
        yield collector


async def refuse(message: Any) -> None:
    raise AssertionError(message)


def context(*metadata: tuple[str, str]) -> CallContext:
    return CallContext(metadata, None, refuse)


def handler(inner: Any) -> Any:
    return grpc.unary_unary_rpc_method_handler(inner)


async def header_of(request: Any, context: Any) -> str:
    return tracing.present_header()


@pytest.mark.parametrize(("is_gateway", "recorded"), [(True, 1), (False, 0)])
async def test_only_a_gateway_decides_that_a_trace_is_recorded(
    collector: Collector, is_gateway: bool, recorded: int
) -> None:
    traces = Exporter(TraceSettings(f"{collector.url}/v1/traces", 0.0), "server", "1")
    traced = Traced(traces, lambda _: is_gateway).of(METHOD, handler(header_of))
    below = await traced.unary_unary(None, context(("traceparent", GIVEN)))
    assert below.startswith(GIVEN[:36])
    assert below.endswith(f"-0{recorded}")
    traces.close()
    assert len(collector.spans) == recorded


@pytest.mark.parametrize(
    ("code", "is_error"), [(grpc.StatusCode.NOT_FOUND, False), (grpc.StatusCode.INTERNAL, True)]
)
async def test_span_says_how_the_call_ended(
    collector: Collector, code: grpc.StatusCode, is_error: bool
) -> None:
    async def fail(request: Any, context: Any) -> None:
        tracing.note("error.type", "SOME_REASON")
        await context.abort(code, "with a private text")

    traces = Exporter(TraceSettings(f"{collector.url}/v1/traces"), "server", "1")
    traced = Traced(traces, lambda _: True).of(METHOD, handler(fail))
    with pytest.raises(grpc.aio.AbortError):
        await traced.unary_unary(None, context())
    traces.close()
    (span,) = collector.spans
    assert (span.name, span.kind, span.is_error) == ("dcp.v1.JobService/GetJob", "SERVER", is_error)
    assert span.attributes["rpc.response.status_code"] == code.name
    assert span.attributes["error.type"] == "SOME_REASON"
    assert b"private" not in collector.bodies[0]


def test_a_session_belongs_to_no_trace_and_nothing_is_wrapped_when_off(collector: Collector) -> None:
    traces = Exporter(TraceSettings(f"{collector.url}/v1/traces"), "server", "1")
    session: Any = grpc.stream_stream_rpc_method_handler(header_of)
    assert Traced(traces, lambda _: True).of("/dcp.v1.SessionService/Connect", session) is session
    traces.close()
    plain = handler(header_of)
    assert Traced(OFF, lambda _: True).of(METHOD, plain) is plain


@pytest.mark.parametrize(
    ("peer", "is_gateway"),
    [
        ("ipv4:127.0.0.1:4711", True),
        ("ipv6:%5B::1%5D:4711", True),
        ("unix:/run/x", True),
        ("ipv4:10.0.0.7:4711", True),
        ("ipv4:203.0.113.5:4711", False),
        ("nonsense", False),
    ],
)
def test_gateways_are_where_forwarded_addresses_are_believed(peer: str, is_gateway: bool) -> None:
    assert Addresses([ipaddress.ip_network("10.0.0.0/8")]).is_gateway(peer) is is_gateway

"""A collector of traces: real OTLP over HTTP on 127.0.0.1, which keeps what it was sent."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span as Sent
from opentelemetry.proto.trace.v1.trace_pb2 import Status


@dataclass(frozen=True)
class Span:
    """A span as it arrived."""

    service: str
    name: str
    trace_id: str
    span_id: str
    parent_id: str
    kind: str
    start_ns: int
    end_ns: int
    attributes: dict[str, Any]
    events: list[str]
    is_error: bool
    instance: str
    """The process that sent it."""


@dataclass
class Collector:
    """What was sent to it."""

    url: str
    bodies: list[bytes] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    frozen: threading.Event = field(default_factory=threading.Event)
    """While it is set, requests are read and not answered."""
    status: int = 200

    @property
    def spans(self) -> list[Span]:
        """All spans, in the order of their arrival."""
        return [span for body in list(self.bodies) for span in _spans(body)]

    def of_trace(self, trace_id: str) -> list[Span]:
        """The spans of one trace."""
        return [span for span in self.spans if span.trace_id == trace_id]

    def whole(self, trace_id: str, names: set[str]) -> list[Span] | None:
        """The spans of a trace once all of these names are there; before, None."""
        found = self.of_trace(trace_id)
        return found if names <= {span.name for span in found} else None


def _spans(body: bytes) -> Iterator[Span]:
    for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
        program = _values(resource.resource.attributes)
        for scope in resource.scope_spans:
            for sent in scope.spans:
                yield Span(
                    str(program["service.name"]),
                    sent.name,
                    sent.trace_id.hex(),
                    sent.span_id.hex(),
                    sent.parent_span_id.hex(),
                    Sent.SpanKind.Name(sent.kind).removeprefix("SPAN_KIND_"),
                    sent.start_time_unix_nano,
                    sent.end_time_unix_nano,
                    _values(sent.attributes),
                    [event.name for event in sent.events],
                    sent.status.code == Status.STATUS_CODE_ERROR,
                    str(program["service.instance.id"]),
                )


def _values(attributes: Sequence[Any]) -> dict[str, Any]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in attributes}


@contextmanager
def otlp_collector() -> Iterator[Collector]:
    """A collector that serves during the block."""
    stopped = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if collector.frozen.is_set():
                stopped.wait()
                return
            assert self.path == "/v1/traces"
            if collector.status == 200:
                collector.headers.append({name.lower(): value for name, value in self.headers.items()})
                collector.bodies.append(body)
            answer = ExportTraceServiceResponse().SerializeToString()
            self.send_response(collector.status)
            self.send_header("content-type", "application/x-protobuf")
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: Any) -> None:
            """Says nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    collector = Collector(f"http://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield collector
    finally:
        stopped.set()
        server.shutdown()
        server.server_close()
        thread.join()

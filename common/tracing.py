"""Traces of requests and jobs: spans in OpenTelemetry's form, sent to a collector by OTLP over HTTP.

Nothing is traced, and OpenTelemetry is not loaded, unless a collector was set. A trace goes from program to
program in W3C's `traceparent`. Whether it is recorded is decided where it enters the marketplace, by lot and
up to a rate, never by what a stranger sends. Attributes are chosen by this side: never a key, an e-mail
address, a prompt, an output, or the path and query of a request. It knows no program and no route.
"""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import random
import re
import secrets
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from common import logs

log = logging.getLogger(__name__)

TRACEPARENT = "traceparent"
"""The name of the header, and of gRPC's metadata."""
SERVER, CONSUMER, INTERNAL = "SERVER", "CONSUMER", "INTERNAL"
Value = str | int | float | bool

MOST_BEGUN_PER_SECOND = 100
"""Traces that one program begins to record in a second, however many requests come."""
QUEUE_SPANS = 2048
"""Spans that wait for the collector; older ones are dropped for newer ones."""
SEND_SECONDS = 5.0
"""How long one batch may take, with its repetitions."""
PAUSE_SECONDS = 2.0
"""How long spans are gathered."""
CLOSE_SECONDS = 2.0
"""How long the end of a program waits for its last spans to be sent."""

TRACES_MEANING = (
    "Where traces are sent by OTLP over HTTP, such as http://127.0.0.1:4318; OTEL_EXPORTER_OTLP_HEADERS has "
    "what a collector wants to hear besides. Unset: nothing is traced."
)
"""What DCP_TRACES means."""
SAMPLED_MEANING = (
    "Which part of the requests is traced, from 0 to 1; at most "
    f"{MOST_BEGUN_PER_SECOND} a second. What another program of the marketplace traces is traced here too."
)
"""What DCP_TRACES_SAMPLED means."""
SAMPLED = "1"
"""The default of DCP_TRACES_SAMPLED."""
PATH = "/v1/traces"

_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-[\x21-\x7e]{0,200})?")
_RATIO = re.compile(r"[01]|[01]?\.[0-9]{1,9}|1\.0{1,9}")


class Link(NamedTuple):
    """A span's place in a trace, as other spans refer to it. Ids are in hexadecimal."""

    trace_id: str
    span_id: str
    is_sampled: bool

    @property
    def header(self) -> str:
        """As W3C's traceparent."""
        return f"00-{self.trace_id}-{self.span_id}-{'01' if self.is_sampled else '00'}"

    def derived(self, *names: str | int) -> Link:
        """The place of a span below this one, the same for the same names in every program."""
        told = "\0".join((self.trace_id, self.span_id, *map(str, names)))
        return self._replace(span_id=hashlib.sha256(told.encode()).hexdigest()[:16])


def parse(text: str) -> Link | None:
    """The place that a traceparent names; None for anything that is not valid."""
    found = _TRACEPARENT.fullmatch(text)
    if found is None:
        return None
    version, trace_id, span_id, flags, more = found.groups()
    if version == "ff" or (version == "00" and more) or not int(trace_id, 16) or not int(span_id, 16):
        return None
    return Link(trace_id, span_id, bool(int(flags, 16) & 1))


def parse_one(values: Iterable[str]) -> Link | None:
    """As ``parse``, of all values of a header: of several, none is believed."""
    found = list(values)
    return parse(found[0]) if len(found) == 1 else None


class Span:
    """Something that takes time. Its name and attributes count as they are at its end."""

    __slots__ = ("_start", "attributes", "events", "is_error", "kind", "link", "name", "parent", "start_ns")

    def __init__(self, name: str, kind: str, link: Link, parent: Link | None) -> None:
        self.name = name
        self.kind = kind
        self.link = link
        self.parent = parent
        self.attributes: dict[str, Value] = {}
        self.events: list[tuple[str, int]] = []
        self.is_error = False
        self.start_ns = time.time_ns()
        self._start = time.perf_counter_ns()

    def add(self, event: str) -> None:
        """Something happened now."""
        if self.link.is_sampled:
            self.events.append((event, self.now_ns()))

    def now_ns(self) -> int:
        """The time now, which no correction of the clock moves before the start."""
        return self.start_ns + time.perf_counter_ns() - self._start


class Past(NamedTuple):
    """A span that is known only at its end, from what was stored of it."""

    name: str
    link: Link
    parent: Link
    start_ms: int
    end_ms: int
    attributes: Mapping[str, Value] = {}
    events: Sequence[tuple[str, int]] = ()
    """Names and times, in milliseconds."""
    is_error: bool = False


_present: ContextVar[Span | None] = ContextVar("span", default=None)


def present() -> Span | None:
    """The span that the present task works for."""
    return _present.get()


def present_header() -> str:
    """The traceparent for a call to another program; empty if nothing is traced here."""
    span = _present.get()
    return span.link.header if span is not None else ""


def present_recorded() -> str:
    """The traceparent of the present span, for what goes on after it; empty unless it is recorded."""
    span = _present.get()
    return span.link.header if span is not None and span.link.is_sampled else ""


def present_trace_id() -> str:
    """The id of the trace that is recorded now; empty if none is."""
    span = _present.get()
    return span.link.trace_id if span is not None and span.link.is_sampled else ""


def note(name: str, value: Value) -> None:
    """Sets an attribute of the present span, if there is one."""
    span = _present.get()
    if span is not None:
        span.attributes[name] = value


class Traces:
    """Takes spans. This one has none and drops all."""

    is_on = False

    @contextmanager
    def span(
        self, name: str, kind: str, parent: Link | None, *, is_trusted: bool = True
    ) -> Iterator[Span | None]:
        """A span for the block, which is the present one within it; None if nothing is traced.

        ``is_trusted``: the parent comes from a program of the marketplace, which decided whether the trace
        is recorded. Without one, and below any other, it is decided here.
        """
        yield None

    @contextmanager
    def below(self, name: str) -> Iterator[Span | None]:
        """A span for the block, below the present one; None if there is none."""
        above = _present.get()
        if above is None:
            yield None
            return
        with self.span(name, INTERNAL, above.link) as span:
            try:
                yield span
            except BaseException:
                if span is not None:
                    span.is_error = True
                raise

    def record(self, past: Past) -> None:
        """Takes a span that is over."""

    def close(self) -> None:
        """Sends what waits, as far as it is taken soon, and nothing more."""


OFF = Traces()


class Exporter(Traces):
    """Sends spans from a thread of its own. What the collector does not take in time is dropped."""

    is_on = True

    def __init__(self, settings: TraceSettings, program: str, version: str) -> None:
        from opentelemetry import trace
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import Event, ReadableSpan
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.util.instrumentation import InstrumentationScope

        self._ratio = settings.sampled
        self._second, self._begun = 0, 0
        self._trace, self._event, self._readable = trace, Event, ReadableSpan
        # Not Resource.create: it would look at the process and its environment.
        self._resource = Resource(
            {
                "service.name": f"dcp-{program}",
                "service.version": version,
                "service.instance.id": secrets.token_hex(8),
            }
        )
        self._scope = InstrumentationScope("dcp", version)
        self._statuses = {
            False: trace.Status(trace.StatusCode.UNSET),
            True: trace.Status(trace.StatusCode.ERROR),
        }
        self._processor = BatchSpanProcessor(
            _sender(settings.endpoint),
            max_queue_size=QUEUE_SPANS,
            schedule_delay_millis=PAUSE_SECONDS * 1000,
            max_export_batch_size=QUEUE_SPANS // 4,
        )

    @contextmanager
    def span(
        self, name: str, kind: str, parent: Link | None, *, is_trusted: bool = True
    ) -> Iterator[Span | None]:
        """A span for the block, which is the present one within it."""
        is_sampled = parent.is_sampled if parent is not None and is_trusted else self._draw()
        trace_id = parent.trace_id if parent is not None else secrets.token_hex(16)
        span = Span(name, kind, Link(trace_id, secrets.token_hex(8), is_sampled), parent)
        token = _present.set(span)
        logs.begin_trace(trace_id if is_sampled else "")
        try:
            yield span
        finally:
            _present.reset(token)
            if is_sampled:
                self._export(
                    span.name,
                    span.kind,
                    (span.link, span.parent),
                    (span.start_ns, span.now_ns()),
                    span.attributes,
                    span.events,
                    is_error=span.is_error,
                )

    def record(self, past: Past) -> None:
        """Takes a span that is over."""
        self._export(
            past.name,
            INTERNAL,
            (past.link, past.parent),
            (past.start_ms * 1_000_000, past.end_ms * 1_000_000),
            past.attributes,
            [(name, at_ms * 1_000_000) for name, at_ms in past.events],
            is_error=past.is_error,
        )

    def close(self) -> None:
        """Sends what waits, as far as it is taken soon, and nothing more."""
        closing = threading.Thread(target=self._processor.shutdown, daemon=True)
        closing.start()
        closing.join(CLOSE_SECONDS)

    def _draw(self) -> bool:
        """Whether a trace that begins here is recorded."""
        if random.random() >= self._ratio:  # noqa: S311 - nothing secret depends on it
            return False
        second = int(time.monotonic())
        if second != self._second:
            self._second, self._begun = second, 0
        self._begun += 1
        return self._begun <= MOST_BEGUN_PER_SECOND

    def _export(
        self,
        name: str,
        kind: str,
        links: tuple[Link, Link | None],
        times_ns: tuple[int, int],
        attributes: Mapping[str, Value],
        events: Iterable[tuple[str, int]],
        *,
        is_error: bool,
    ) -> None:
        link, parent = links
        self._processor.on_end(
            self._readable(
                name,
                context=self._context(link, is_remote=False),
                parent=self._context(parent, is_remote=True) if parent is not None else None,
                resource=self._resource,
                attributes=attributes,
                events=[self._event(event, timestamp=at_ns) for event, at_ns in events],
                kind=self._trace.SpanKind[kind],
                status=self._statuses[is_error],
                start_time=times_ns[0],
                end_time=max(times_ns),
                instrumentation_scope=self._scope,
            )
        )

    def _context(self, link: Link, *, is_remote: bool) -> Any:
        return self._trace.SpanContext(
            int(link.trace_id, 16), int(link.span_id, 16), is_remote, self._trace.TraceFlags(1)
        )


def _sender(endpoint: str) -> Any:
    """What sends batches. It says once that the collector is away, and once that it is back."""
    import requests
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

    # Their lines come with each batch, each repetition and each dropped span.
    logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
    logging.getLogger("urllib3").setLevel(logging.CRITICAL)
    session = requests.Session()
    session.trust_env = False  # neither a proxy nor a password of the environment

    class Sender(SpanExporter):
        def __init__(self) -> None:
            self._inner = OTLPSpanExporter(endpoint, timeout=SEND_SECONDS, session=session)
            self._is_away = False

        def export(self, spans: Any) -> SpanExportResult:
            result = self._inner.export(spans)
            is_away = result is not SpanExportResult.SUCCESS
            if is_away != self._is_away:
                self._is_away = is_away
                if is_away:
                    log.warning("the collector of traces takes none, which are dropped url=%s", endpoint)
                else:
                    log.info("the collector of traces takes them again url=%s", endpoint)
            return result

        def shutdown(self) -> None:
            self._inner.shutdown()  # type: ignore[no-untyped-call]

        def force_flush(self, timeout_millis: int = 30000) -> bool:
            return self._inner.force_flush(timeout_millis)

    return Sender()


@dataclass(frozen=True, slots=True)
class TraceSettings:
    """Where traces go, and how many."""

    endpoint: str
    """The whole URL."""
    sampled: float = 1.0
    """Which part of the traces that begin here is recorded."""


def parse_settings(given: Mapping[str, str]) -> TraceSettings | None:
    """The settings DCP_TRACES and DCP_TRACES_SAMPLED; None: nothing is traced.

    Raises ValueError, whose text names the setting and the remedy.
    """
    sampled = given.get("DCP_TRACES_SAMPLED") or SAMPLED
    if not _RATIO.fullmatch(sampled) or float(sampled) > 1:
        raise ValueError(f"DCP_TRACES_SAMPLED: {sampled!r} is not a number from 0 to 1, such as 0.01")
    url = given.get("DCP_TRACES")
    if not url:
        return None
    # The URL may have a password, so no error quotes it.
    wrong = ValueError(
        "DCP_TRACES: is not http://HOST:PORT or https://HOST:PORT, such as http://127.0.0.1:4318"
    )
    try:
        parts = urlsplit(url)
        is_one = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        raise wrong from None
    if (
        not is_one
        or parts.query
        or parts.fragment
        or not url.isascii()
        or not url.isprintable()
        or " " in url
    ):
        raise wrong
    if "@" in parts.netloc:
        raise ValueError(
            "DCP_TRACES: has a password; put the collector's token into OTEL_EXPORTER_OTLP_HEADERS"
        )
    if not _is_installed():
        raise ValueError("DCP_TRACES: needs OpenTelemetry; install it with [traces]")
    return TraceSettings(url.rstrip("/").removesuffix(PATH) + PATH, float(sampled))


def opened(settings: TraceSettings | None, program: str, version: str) -> Traces:
    """What a program traces with; without settings it drops all."""
    if settings is None:
        return OFF
    log.info("sends traces url=%s sampled=%g", settings.endpoint, settings.sampled)
    return Exporter(settings, program, version)


def _is_installed() -> bool:
    names = ("opentelemetry.sdk.trace", "opentelemetry.exporter.otlp.proto.http")
    with suppress(ModuleNotFoundError):
        return all(importlib.util.find_spec(name) is not None for name in names)
    return False

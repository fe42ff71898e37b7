"""Spans, their places in traces, and what a collector that is away costs."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Iterator

import pytest

from common import tracing
from common.tracing import (
    INTERNAL,
    MOST_BEGUN_PER_SECOND,
    OFF,
    QUEUE_SPANS,
    SERVER,
    Exporter,
    Link,
    Past,
    Traces,
    TraceSettings,
    opened,
    parse,
    parse_one,
    parse_settings,
)
from tests.support.otlp_collector import Collector, otlp_collector

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
GIVEN = f"00-{TRACE}-{SPAN}-01"


@pytest.fixture
def collector() -> Iterator[Collector]:
    with otlp_collector() as collector:
        yield collector


def traces_to(collector: Collector, sampled: float = 1.0) -> Traces:
    return Exporter(TraceSettings(f"{collector.url}/v1/traces", sampled), "test", "1.0")


def test_traceparent_is_read_as_w3c_says() -> None:
    assert parse(GIVEN) == Link(TRACE, SPAN, True)
    assert parse(f"00-{TRACE}-{SPAN}-00") == Link(TRACE, SPAN, False)
    assert parse(f"00-{TRACE}-{SPAN}-03") == Link(TRACE, SPAN, True)
    assert parse(f"cc-{TRACE}-{SPAN}-01-what-the-future-brings") == Link(TRACE, SPAN, True)
    assert parse(GIVEN) is not None
    assert Link(TRACE, SPAN, True).header == GIVEN


@pytest.mark.parametrize(
    "text",
    [
        "",
        "garbage",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-01-more",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE[:-1]}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-01\n",
        f" 00-{TRACE}-{SPAN}-01",
        f"cc-{TRACE}-{SPAN}-01-{'x' * 10_000}",
        f"00-{TRACE}-{SPAN}-\N{ARABIC-INDIC DIGIT ONE}1",
    ],
)
def test_invalid_traceparent_is_none(text: str) -> None:
    assert parse(text) is None


def test_of_several_traceparents_none_is_believed() -> None:
    assert parse_one([GIVEN]) is not None
    assert parse_one([]) is None
    assert parse_one([GIVEN, GIVEN]) is None


def test_derived_places_are_the_same_everywhere_and_differ_by_name() -> None:
    link = Link(TRACE, SPAN, True)
    assert link.derived("job-1") == Link(*link.derived("job-1"))
    assert len({link, link.derived("job-1"), link.derived("job-2"), link.derived("job-1").derived(1)}) == 4
    assert link.derived("job-1").trace_id == TRACE


def test_spans_arrive_with_their_parents_and_what_was_noted(collector: Collector) -> None:
    traces = traces_to(collector)
    with traces.span("first", SERVER, parse(GIVEN)) as span:
        assert span is not None
        assert tracing.present_header() == span.link.header
        tracing.note("code", 7)
        span.add("happened")
        with pytest.raises(ValueError, match="wrong"), traces.below("second"):
            raise ValueError("wrong")
    assert tracing.present() is None
    job = span.link.derived("job-1")
    traces.record(Past("job", job, span.link, 1_000, 3_000, {"state": "failed"}, [("settled", 2_000)], True))
    traces.close()
    second, first, past = collector.spans
    assert (first.name, first.trace_id, first.parent_id, first.kind) == ("first", TRACE, SPAN, "SERVER")
    assert (first.service, first.attributes, first.events) == ("dcp-test", {"code": 7}, ["happened"])
    assert (second.name, second.parent_id, second.kind) == ("second", first.span_id, "INTERNAL")
    assert (first.is_error, second.is_error) == (False, True)
    assert first.start_ns <= second.start_ns <= second.end_ns <= first.end_ns
    assert (past.span_id, past.parent_id, past.is_error) == (job.span_id, first.span_id, True)
    assert (past.start_ns, past.end_ns) == (10**9, 3 * 10**9)


def test_whether_a_trace_is_recorded_is_decided_where_it_enters(collector: Collector) -> None:
    none, every = traces_to(collector, 0.0), traces_to(collector)
    with none.span("stranger", SERVER, parse(GIVEN), is_trusted=False) as span:
        assert span is not None
        assert span.link.header.endswith("-00")
        assert (tracing.present_recorded(), tracing.present_trace_id()) == ("", "")
        # What is below a trace that is not recorded begins none.
        with every.span("below", INTERNAL, parse(tracing.present_header())):
            pass
    with every.span("unwanted", SERVER, parse(f"00-{TRACE}-{SPAN}-00"), is_trusted=False):
        pass
    with none.span("ours", SERVER, parse(GIVEN)):
        pass
    none.close()
    every.close()
    assert {span.name for span in collector.spans} == {"unwanted", "ours"}


def test_strangers_cannot_force_more_traces_than_the_rate(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    traces = traces_to(collector)
    monkeypatch.setattr("common.tracing.time.monotonic", lambda: 5.5)
    for _ in range(3 * MOST_BEGUN_PER_SECOND):
        with traces.span("stranger", SERVER, parse(GIVEN), is_trusted=False):
            pass
    traces.close()
    assert len(collector.spans) == MOST_BEGUN_PER_SECOND


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.INFO]


@pytest.mark.parametrize("fault", ["gone", "frozen", "refusing"])
def test_collector_that_takes_nothing_costs_a_bounded_queue_and_one_line(
    collector: Collector, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    monkeypatch.setattr(tracing, "SEND_SECONDS", 0.2)
    monkeypatch.setattr(tracing, "PAUSE_SECONDS", 0.05)
    if fault == "frozen":
        collector.frozen.set()
    elif fault == "refusing":
        collector.status = 400
    url = "http://127.0.0.1:9/v1/traces" if fault == "gone" else f"{collector.url}/v1/traces"
    traces = Exporter(TraceSettings(url), "test", "1.0")
    caplog.set_level(logging.DEBUG)
    above = Link(TRACE, SPAN, True)
    for _ in range(5 * QUEUE_SPANS):
        with traces.span("lost", INTERNAL, above):
            pass
    assert len(traces._processor._batch_processor._queue) <= QUEUE_SPANS
    traces.close()
    assert [line for line in lines(caplog) if "collector" in line] == [
        f"the collector of traces takes none, which are dropped url={url}"
    ]
    assert len(lines(caplog)) == 1


def test_collector_that_is_back_is_sent_spans_again(
    collector: Collector, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    collector.status = 400
    traces = traces_to(collector)
    with traces.span("lost", INTERNAL, None):
        pass
    assert traces._processor.force_flush()  # type: ignore[attr-defined]
    collector.status = 200
    with traces.span("found", INTERNAL, None):
        pass
    traces.close()
    assert [span.name for span in collector.spans] == ["found"]
    assert [line.partition(" url=")[0] for line in lines(caplog)] == [
        "the collector of traces takes none, which are dropped",
        "the collector of traces takes them again",
    ]


def test_headers_for_the_collector_come_from_opentelemetrys_variable(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20of-the-collector")
    traces = traces_to(collector)
    with traces.span("one", INTERNAL, None):
        pass
    traces.close()
    assert collector.headers[0]["authorization"] == "Bearer of-the-collector"


def test_without_a_collector_nothing_is_traced() -> None:
    assert opened(None, "test", "1.0") is OFF
    assert not OFF.is_on
    with OFF.span("nothing", SERVER, parse(GIVEN)) as span, OFF.below("nothing"):
        assert span is None
        assert (tracing.present_header(), tracing.present_trace_id()) == ("", "")
        tracing.note("nothing", 1)


@pytest.mark.parametrize("program", ["gateway.__main__", "server.app", "daemon.__main__", "market.__main__"])
def test_without_a_collector_nothing_of_it_is_loaded(program: str) -> None:
    code = (
        f"import sys, {program}\nfrom common.tracing import opened\nopened(None, 'test', '1')\n"
        "heavy = ('opentelemetry.sdk', 'opentelemetry.exporter', 'requests')\n"
        "print([name for name in sys.modules if name.startswith(heavy)])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize(
    ("text", "endpoint"),
    [
        ("http://127.0.0.1:4318", "http://127.0.0.1:4318/v1/traces"),
        ("http://127.0.0.1:4318/", "http://127.0.0.1:4318/v1/traces"),
        ("https://otlp.example/tenant", "https://otlp.example/tenant/v1/traces"),
        ("http://[::1]:4318/v1/traces", "http://[::1]:4318/v1/traces"),
    ],
)
def test_settings_are_read(text: str, endpoint: str) -> None:
    assert parse_settings({"DCP_TRACES": text}) == TraceSettings(endpoint, 1.0)
    assert parse_settings({"DCP_TRACES": text, "DCP_TRACES_SAMPLED": "0.01"}) == TraceSettings(endpoint, 0.01)
    assert parse_settings({}) is None


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("DCP_TRACES", "127.0.0.1:4318"),
        ("DCP_TRACES", "grpc://127.0.0.1:4317"),
        ("DCP_TRACES", "http://"),
        ("DCP_TRACES", "http://127.0.0.1:99999"),
        ("DCP_TRACES", "http://127.0.0.1:4318?token=hushhush"),
        ("DCP_TRACES", "http://user:hushhush@127.0.0.1:4318"),
        ("DCP_TRACES_SAMPLED", "2"),
        ("DCP_TRACES_SAMPLED", "1.5"),
        ("DCP_TRACES_SAMPLED", "-0.1"),
        ("DCP_TRACES_SAMPLED", "nan"),
        ("DCP_TRACES_SAMPLED", "1%"),
    ],
)
def test_wrong_setting_is_an_error_that_names_it(name: str, text: str) -> None:
    with pytest.raises(ValueError, match=rf"^{name}: ") as raised:
        parse_settings({name: text})
    assert "hushhush" not in str(raised.value)

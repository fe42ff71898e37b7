"""One request is one trace through all programs, and nothing private is in it."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from scripts.cluster import Cluster, Nats
from scripts.market import UNLIMITED, Market, Program
from tests.support.databases import Postgres
from tests.support.openai_server import DONE, END, Script, openai_server, word
from tests.support.otlp_collector import Collector, Span, otlp_collector
from tests.support.patient_renter import Renter, eventually
from tests.support.scene import ADMIN_TOKEN, SCRIPTED
from tests.support.scripted_daemon import MODEL, answer_to, script

pytestmark = pytest.mark.e2e

PROMPT = "an-untold-prompt"
ANSWER = "an-untold-answer"
NAMES = {
    "POST /v1/chat/completions",
    "dcp.v1.ChatService/SubmitChat",
    "dcp.v1.JobService/WatchJob",
    "job",
    "attempt",
    "work",
    "load",
    "run",
}


@pytest.fixture
def collector() -> Iterator[Collector]:
    with otlp_collector() as collector:
        yield collector


@pytest.fixture
def model_server() -> Iterator[tuple[Script, str]]:
    behaviour = Script(models=[{"id": "llama"}], answers=(word(ANSWER), 0.2, word("!"), END, DONE))
    with openai_server(behaviour) as url:
        yield behaviour, url


def settings(collector: Collector, **more: str) -> dict[str, str]:
    return {"DCP_TRACES": collector.url, "DCP_LOG_FORMAT": "json", **more}


def chat(renter: Renter, model: str, prompt: str, **headers: str) -> str:
    """Asks for a chat; returns the id of its trace, empty if it was not recorded."""
    body = {"model": model, "messages": [{"role": "user", "content": prompt}]}
    answer = renter.ask("POST", "/v1/chat/completions", body, **headers)
    assert answer.status_code == 200, answer.text
    return str(answer.headers.get("x-trace-id", ""))


def whole_trace(collector: Collector, trace_id: str, names: set[str] = NAMES) -> dict[str, Span]:
    """The spans of a trace by their names, as soon as all are there."""
    found = eventually(
        f"the spans {names}",
        lambda: collector.whole(trace_id, names),
        seconds=40,
    )
    assert len(found) == len(names)
    return {span.name: span for span in found}


def check_shape(spans: dict[str, Span]) -> None:
    """Each span has the right parent, and lasts as long as it can."""
    asked, submit = spans["POST /v1/chat/completions"], spans["dcp.v1.ChatService/SubmitChat"]
    above = {
        "dcp.v1.ChatService/SubmitChat": asked,
        "dcp.v1.JobService/WatchJob": asked,
        "job": submit,
        "attempt": spans["job"],
        "work": spans["attempt"],
        "load": spans["work"],
        "run": spans["work"],
    }
    assert {name: spans[name].parent_id for name in above} == {
        name: span.span_id for name, span in above.items()
    }
    assert all(span.end_ns >= span.start_ns for span in spans.values())
    assert spans["run"].end_ns - spans["run"].start_ns >= 0.2e9
    for name in ("attempt", "job", "dcp.v1.JobService/WatchJob", "POST /v1/chat/completions"):
        # Rows have milliseconds.
        assert spans[name].end_ns - spans[name].start_ns >= 0.19e9
    assert spans["attempt"].events == ["accepted", "started", "first output"]
    assert spans["job"].events == ["settled"]
    assert not any(span.is_error for span in spans.values())


@pytest.mark.parametrize("embedded", [False, True], ids=["three programs", "one program"])
def test_chat_is_one_trace_without_anything_private(
    tmp_path: Path, collector: Collector, model_server: tuple[Script, str], embedded: bool
) -> None:
    behaviour, url = model_server
    on = settings(collector)
    with Market(tmp_path, ADMIN_TOKEN, {**UNLIMITED, **on}, gateway_settings=on, embedded=embedded) as market:
        _, provider_key = market.register_provider("Node of Secretname", "p1@private.example")
        market.add_daemon(provider_key, settings={"DCP_ATTACHED_URL": url, **on})
        renter = Renter(market, "r1@private.example", 10_000)
        given = secrets.token_hex(16)
        trace_id = chat(renter, "llama", PROMPT, traceparent=f"00-{given}-00f067aa0ba902b7-00")
        assert trace_id == given
        spans = whole_trace(collector, trace_id)
        check_shape(spans)
        asked = spans["POST /v1/chat/completions"]
        assert asked.parent_id == "00f067aa0ba902b7"
        assert asked.attributes["http.route"] == "/v1/chat/completions"
        assert asked.attributes["http.response.status_code"] == 200
        assert spans["job"].attributes["dcp.state"] == "completed"
        services = {span.name: span.service for span in spans.values()}
        server = "dcp-market" if embedded else "dcp-server"
        assert services["dcp.v1.ChatService/SubmitChat"] == services["job"] == services["attempt"] == server
        assert services["POST /v1/chat/completions"] == ("dcp-market" if embedded else "dcp-gateway")
        assert services["work"] == services["load"] == services["run"] == "dcp-daemon"
        # The model server's own spans would be below the run.
        requests = (*behaviour.headers, *behaviour.chat_headers)
        named = [headers["traceparent"] for headers in requests if "traceparent" in headers]
        assert named == [f"00-{trace_id}-{spans['run'].span_id}-01"]
        for program in market.programs[:-1]:
            assert f'"trace_id": "{trace_id}"' in program.log.read_text()

        market.http.get("/api/renters/me", params={"key": "wrong-key-of-somebody"})
        market.http.get("/api/jobs/r1@private.example")
        market.http.get("/nowhere/r1@private.example")
        eventually("the refusals", lambda: {"GET none"} <= {span.name for span in collector.spans})
        refused = next(span for span in collector.spans if span.name == "GET /api/renters/me")
        assert refused.attributes["error.type"] == "INVALID_CREDENTIAL"
        renter_key = renter._headers["x-renter-key"]
        private = (PROMPT, ANSWER, "private.example", "Secretname", provider_key, renter_key, "wrong-key")
        everything = b"".join(collector.bodies)
        assert [text for text in private if text.encode() in everything] == []
        assert not any("healthz" in span.name or "readyz" in span.name for span in collector.spans)


def test_stranger_decides_neither_what_is_traced_nor_an_error(tmp_path: Path, collector: Collector) -> None:
    on = settings(collector, DCP_TRACES_SAMPLED="0")
    with Market(tmp_path, ADMIN_TOKEN, {**UNLIMITED, **on}, gateway_settings=on) as market:
        for value in (
            f"00-{secrets.token_hex(16)}-00f067aa0ba902b7-01",
            "garbage",
            f"ff-{'a' * 32}-{'b' * 16}-01",
            "0" * 4000,
            "\xff\xfe",
        ):
            answer = market.http.get("/api/jobs/none", headers={b"traceparent": value.encode("latin-1")})
            assert answer.status_code == 401
            assert "x-trace-id" not in answer.headers
    # The programs have ended, and sent what they had.
    assert collector.spans == []


def test_without_the_setting_nothing_is_sent(tmp_path: Path, collector: Collector) -> None:
    with Market(tmp_path, ADMIN_TOKEN, UNLIMITED) as market:
        _, provider_key = market.register_provider("Node", "p@example.com")
        market.add_daemon(
            provider_key, command=SCRIPTED, settings={"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url}
        )
        renter = Renter(market, "r@example.com", 10_000)
        given = f"00-{secrets.token_hex(16)}-00f067aa0ba902b7-01"
        assert chat(renter, MODEL, script("brook", 3, 0.01), traceparent=given) == ""
    assert collector.bodies == []


@pytest.mark.parametrize("fault", ["away", "frozen"])
def test_collector_that_takes_nothing_stops_no_job(tmp_path: Path, collector: Collector, fault: str) -> None:
    collector.frozen.set()
    on = settings(collector)
    if fault == "away":
        on["DCP_TRACES"] = "http://127.0.0.1:9"
    with Market(tmp_path, ADMIN_TOKEN, {**UNLIMITED, **on}, gateway_settings=on) as market:
        _, provider_key = market.register_provider("Node", "p@example.com")
        market.add_daemon(provider_key, command=SCRIPTED, settings=on)
        renter = Renter(market, "r@example.com", 10_000)
        for _ in range(20):
            assert chat(renter, MODEL, script("brook", 3, 0.01))

        def warned(program: Program) -> int:
            return len(re.findall("the collector of traces takes none", program.log.read_text()))

        eventually("one line each", lambda: all(map(warned, market.programs)), seconds=60)
        assert chat(renter, MODEL, script("brook", 3, 0.01))
        assert [warned(program) for program in market.programs] == [1] * len(market.programs)
        assert market.stop() == [0] * len(market.programs)


def test_trace_goes_on_after_a_restart_of_its_server(tmp_path: Path, collector: Collector) -> None:
    on = settings(collector)
    with Market(tmp_path, ADMIN_TOKEN, {**UNLIMITED, **on}, gateway_settings=on, embedded=False) as market:
        provider_id, provider_key = market.register_provider("Node", "p@example.com")
        market.add_daemon(provider_key, command=SCRIPTED, settings=on)
        renter = Renter(market, "r@example.com", 10_000)
        prompt = script("river", 60, 0.1)
        job_id = renter.submit(MODEL, prompt, provider_id=provider_id)
        renter.until_it_writes(job_id)
        market.programs[0].kill()
        market.programs[0].restart()
        assert renter.until_final(job_id)["status"] == "completed"
        assert renter.output(job_id) == answer_to(prompt)
        job = eventually(
            "the job's span",
            lambda: next((span for span in collector.spans if span.name == "job"), None),
            seconds=30,
        )
        names = {"POST /api/jobs/submit", "job", "attempt", "work", "load", "run"}
        spans = eventually(
            "the trace",
            lambda: collector.whole(job.trace_id, names),
            seconds=30,
        )
        by_name = {span.name: span for span in spans}
        assert job.attributes["dcp.job_id"] == job_id
        assert by_name["attempt"].parent_id == job.span_id
        assert by_name["work"].parent_id == by_name["attempt"].span_id


def test_trace_goes_through_several_servers(tmp_path: Path, postgres: Postgres, collector: Collector) -> None:
    on = settings(collector)
    with ExitStack() as stack:
        nats = Nats(tmp_path)
        stack.callback(nats.stop)
        cluster = stack.enter_context(
            Cluster(tmp_path, postgres.new_database(), bus=nats.url, apart=True, settings=on)
        )
        first, _ = cluster.markets
        _, provider_key = first.register_provider("Node", "p@example.com")
        cluster.add_daemon(provider_key, server=1, command=SCRIPTED, settings=on)
        renter = Renter(first, "r@example.com", 10_000)
        # The gateways trace nothing, so the trace begins at the server that is called.
        answer = renter.ask(
            "POST",
            "/v1/chat/completions",
            {"model": MODEL, "messages": [{"role": "user", "content": script("brook", 3, 0.01)}]},
        )
        assert answer.status_code == 200
        names = {"dcp.v1.ChatService/SubmitChat", "job", "attempt", "work", "load", "run"}
        job = eventually(
            "the job's span",
            lambda: next((span for span in collector.spans if span.name == "job"), None),
            seconds=30,
        )
        spans = whole_trace(collector, job.trace_id, names)
        assert spans["job"].parent_id == spans["dcp.v1.ChatService/SubmitChat"].span_id
        assert spans["attempt"].parent_id == job.span_id
        assert spans["work"].parent_id == spans["attempt"].span_id
        assert spans["attempt"].instance != spans["dcp.v1.ChatService/SubmitChat"].instance

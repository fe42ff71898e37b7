"""What Prometheus reads of real programs: the right numbers in the right form, and nothing private."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from scripts import monitoring
from scripts.market import Market, Program
from tests.support.patient_renter import Renter, eventually
from tests.support.scene import ADMIN_TOKEN, SCRIPTED
from tests.support.scripted_daemon import MODEL, script

pytestmark = pytest.mark.e2e
ANYWHERE = {"DCP_METRICS_LISTEN": "127.0.0.1:0"}
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


class Scraped:
    """A program and what it exposes."""

    def __init__(self, program: Program) -> None:
        self._program = program

    def url(self) -> str:
        found = re.findall(r"serves metrics url=(\S+)", self._program.log.read_text())
        assert found, self._program.last_words()
        return str(found[-1])

    def text(self) -> str:
        answer = httpx.get(self.url())
        assert answer.status_code == 200
        return answer.text

    def samples(self) -> Samples:
        families = text_string_to_metric_families(self.text())
        return {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in families
            for sample in family.samples
        }

    def sum_of(self, name: str, **labels: str) -> float:
        """The sum of a metric over the series that have these labels."""
        return sum(
            value
            for (found, of), value in self.samples().items()
            if found == name and labels.items() <= dict(of).items()
        )

    def until(self, least: float, name: str, **labels: str) -> None:
        eventually(f"{name}{labels} >= {least}", lambda: self.sum_of(name, **labels) >= least, seconds=30)


@pytest.fixture(params=[False, True], ids=["three programs", "one program"])
def market(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Market]:
    with ExitStack() as stack:
        market = Market(
            tmp_path,
            admin_token=ADMIN_TOKEN,
            settings=ANYWHERE,
            gateway_settings=ANYWHERE,
            embedded=request.param,
        )
        yield stack.enter_context(market)


def test_programs_expose_what_they_do_and_nothing_private(market: Market) -> None:
    provider_id, provider_key = market.register_provider("Node of Secretname", "p1@private.example")
    daemon = Scraped(market.add_daemon(provider_key, command=SCRIPTED, settings=ANYWHERE))
    renter = Renter(market, "r1@private.example", 10_000)
    job_id = renter.submit(MODEL, script("river", 40, 0.05), provider_id=provider_id)
    renter.until_it_writes(job_id)
    server, gateway = Scraped(market.programs[0]), Scraped(market.programs[0 if market.embedded else 1])
    server.until(1, "dcp_sessions_open")
    server.until(1, "dcp_database_up")
    server.until(1, "dcp_ledger_balanced")
    daemon.until(1, "dcp_daemon_session_open")
    renter.until_final(job_id)
    market.http.get("/no/such/place/r1@private.example")
    market.http.get(f"/api/jobs/{job_id}", params={"key": "wrong-key"})

    completed = {"job_type": "llm-inference", "outcome": "completed", "reason": ""}
    assert server.sum_of("dcp_jobs_ended_total", **completed) == 1
    assert server.sum_of("dcp_jobs_ended_total") == 1
    assert server.sum_of("dcp_leases_ended_total", outcome="succeeded") == 1
    charged = renter.job(job_id)["billing"]["actual_cost_halala"] * 10**6
    moved = [server.sum_of("dcp_transferred_micros_total", kind=kind) for kind in ("payout", "fee", "credit")]
    assert (sum(moved[:2]), moved[2]) == (charged, renter.credited_halala * 10**6)
    assert server.sum_of("dcp_rpcs_total", method="JobService/SubmitJob", code="OK") == 1
    assert server.sum_of("dcp_rpcs_total", code="UNAUTHENTICATED") == 1
    assert server.sum_of("dcp_rpc_duration_seconds_count", method="JobService/SubmitJob") == 1
    assert server.sum_of("dcp_rpc_streams_open", method="SessionService/Connect") == 1
    assert server.sum_of("dcp_duty_duration_seconds_count", duty="write heartbeats") >= 1
    assert server.sum_of("dcp_duty_failures_total") == 0
    assert server.sum_of("dcp_database_transaction_seconds_count", kind="write") >= 5
    submits = {"method": "POST", "route": "/api/jobs/submit", "status": "201"}
    assert gateway.sum_of("dcp_http_requests_total", **submits) == 1
    assert gateway.sum_of("dcp_http_requests_total", route="/api/jobs/{job_id}", status="401") == 1
    assert gateway.sum_of("dcp_http_requests_total", route="none", status="404") == 1
    assert gateway.sum_of("dcp_http_request_duration_seconds_count", route="/api/jobs/submit") == 1
    assert gateway.sum_of("dcp_http_connections_open") >= 1
    assert daemon.sum_of("dcp_daemon_jobs_ended_total", outcome="succeeded") == 1
    assert daemon.sum_of("dcp_daemon_journal_writes_total", outcome="written") >= 2

    private = (
        "private.example",
        "Secretname",
        job_id,
        provider_key,
        "wrong-key",
        "river-1",
        ADMIN_TOKEN,
        MODEL,
    )
    known = {metric.name for metric in monitoring.METRICS}
    for text in {program.url(): program.text() for program in (server, gateway, daemon)}.values():
        assert [word for word in private if word in text] == []
        assert "process_resident_memory_bytes" in text
        exposed = set(re.findall(r"^# HELP (\S+)", text, re.MULTILINE))
        assert {name for name in exposed if not name.startswith("process_")} <= known


def test_exposition_is_clean(market: Market) -> None:
    """By promtool, if it is there."""
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed (Debian: prometheus); only prometheus_client parsed it")
    market.add_daemon(
        market.register_provider("Node", "p1@example.com")[1], command=SCRIPTED, settings=ANYWHERE
    )
    for program in market.programs:
        text = Scraped(program).text()
        done = subprocess.run(
            [promtool, "check", "metrics"], input=text.encode(), capture_output=True, check=False
        )
        assert (done.returncode, done.stdout + done.stderr) == (0, b"")


def test_port_that_is_taken_is_one_line_and_status_2(tmp_path: Path) -> None:
    with Market(tmp_path, admin_token=ADMIN_TOKEN, settings=ANYWHERE) as market:
        taken = Scraped(market.programs[0]).url().removeprefix("http://").removesuffix("/metrics")
        for name, settings in (
            ("dcp-server", {"DCP_DATABASE_URL": f"sqlite:///{tmp_path / 'other.sqlite3'}"}),
            ("dcp-gateway", {"DCP_HTTP_LISTEN": "127.0.0.1:0"}),
            ("dcp-market", {"DCP_HTTP_LISTEN": "127.0.0.1:0"}),
        ):
            done = subprocess.run(
                [str(Path(sys.executable).parent / name)],
                env={"DCP_METRICS_LISTEN": taken, "DCP_GRPC_LISTEN": "127.0.0.1:0", **settings},
                capture_output=True,
                text=True,
                encoding="utf-8",
                cwd=tmp_path,
                timeout=60,
                check=False,
            )
            assert done.returncode == 2
            line = done.stderr.splitlines()[-1]
            assert line.startswith(f"{name}: DCP_METRICS_LISTEN: cannot listen on {taken}")

"""Incidents with real servers: whichever watches and whichever sends, the pager gets each once."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psycopg
import pytest
import standardwebhooks

from scripts.cluster import Cluster, Nats
from scripts.market import Market
from tests.support import scripted_daemon
from tests.support.databases import Postgres
from tests.support.patient_renter import Renter, eventually
from tests.support.scene import ADMIN_TOKEN, SCRIPTED
from tests.support.scripted_daemon import script

pytestmark = pytest.mark.e2e

IBAN = "SA0380000000608010167519"
HOUR_MS = 3_600_000
SETTINGS = {
    "DCP_WEBHOOKS_ALLOW_PRIVATE": "true",
    "DCP_PAYOUT_MATURES_HOURS": "0",
    "DCP_NEW_PAYOUT_MATURES_HOURS": "0",
}


class Pager:
    """An operator's receiver of events, which checks their signatures. It can be down."""

    def __init__(self) -> None:
        self.secret = ""
        self.is_up = False
        self.attempts: list[tuple[str, bytes]] = []
        """The id and the body of each request, also of those that were refused."""
        self.accepted: list[tuple[str, dict[str, Any]]] = []
        self.url = ""

    def receive(self, headers: dict[str, str], body: bytes) -> int:
        """Judges a request; returns the status of the answer."""
        event = standardwebhooks.Webhook(self.secret).verify(body.decode(), headers)
        self.attempts.append((headers["webhook-id"], body))
        if not self.is_up:
            return 503
        self.accepted.append((headers["webhook-id"], event))
        return 204

    def reported(self) -> list[tuple[str, str]]:
        """The kinds and conditions that were accepted, each event once."""
        events = dict(self.accepted)
        return [(event["type"], event["data"]["condition"]) for event in events.values()]


@contextmanager
def paging() -> Iterator[Pager]:
    pager = Pager()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            headers = {name.lower(): value for name, value in self.headers.items()}
            self.send_response(pager.receive(headers, body))
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *args: object) -> None:
            """Says nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    pager.url = f"http://127.0.0.1:{server.server_port}/events"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield pager
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class Site:
    """Two servers on one PostgreSQL, and a provider that has earned something."""

    def __init__(self, cluster: Cluster, database_url: str) -> None:
        self.cluster = cluster
        self._url = database_url
        self.operator(
            0, "POST", "/api/admin/rates", {"job_type": "llm-inference", "halala_per_minute": 60_000}
        )
        renter = Renter(cluster.markets[0], "renter@example.com", 1_000_000)
        _, self._key = cluster.markets[0].register_provider("Node", "node@example.com")
        cluster.add_daemon(self._key, command=SCRIPTED)
        renter.until_final(renter.submit(scripted_daemon.MODEL, script("brook", 30, 0.1)))

    def operator(self, number: int, method: str, path: str, body: object = None) -> Any:
        """An operator's request at a server."""
        headers = {"x-admin-token": self.cluster.admin_token}
        answer = self.cluster.markets[number].http.request(method, path, json=body, headers=headers)
        assert answer.status_code < 300, answer.text
        return answer.json()

    def request_payout(self) -> int:
        """A withdrawal request, which waits as if it were made four days ago."""
        headers = {"x-provider-key": self._key}
        body = {"amount_halala": 1000, "iban": IBAN}
        answer = self.cluster.markets[1].http.post("/api/providers/withdrawals", json=body, headers=headers)
        assert answer.status_code < 300, answer.text
        number = int(answer.json()["withdrawal"]["id"])
        self.sql(f"UPDATE withdrawal SET created_ms = created_ms - {96 * HOUR_MS} WHERE id = {number}")
        return number

    def sql(self, statement: str) -> int:
        """Runs a statement; returns how many rows it changed."""
        with psycopg.connect(self._url, autocommit=True) as connection:
            return connection.execute(statement.encode()).rowcount


@pytest.mark.parametrize("dies", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_incident_is_reported_once_although_a_server_is_killed_while_its_event_waits(
    tmp_path: Path, postgres: Postgres, dies: int
) -> None:
    """One of the two servers watches; the one that is left goes on with what the other has begun."""
    url, nats, left = postgres.new_database(), Nats(tmp_path), 1 - dies
    try:
        cluster = Cluster(tmp_path, url, bus=nats.url, apart=True, settings=SETTINGS)
        with paging() as pager, cluster:
            site = Site(cluster, url)
            pager.secret = site.operator(dies, "POST", "/api/admin/webhook", {"url": pager.url})["secret"]
            number = site.request_payout()
            eventually("an attempt", lambda: pager.attempts)
            cluster.server_programs[dies].kill()
            pager.is_up = True
            eventually("the event", lambda: pager.accepted)
            assert pager.reported() == [("incident.began", "payouts_wait")]
            body = {"reason": "no such account"}
            site.operator(left, "POST", f"/api/admin/withdrawals/{number}/reject", body)
            gone = f"UPDATE incident SET fine_since_ms = fine_since_ms - {HOUR_MS} WHERE fine_since_ms > 0"
            eventually("that it is gone", lambda: site.sql(gone))
            cluster.server_programs[dies].restart()
            eventually("the end", lambda: len(pager.reported()) == 2)
            assert pager.reported()[1] == ("incident.ended", "payouts_wait")
            assert len(set(pager.attempts)) == 2  # one id and one body for each event, whoever sent it
            deliveries = site.operator(left, "GET", "/api/admin/webhook/deliveries")["deliveries"]
            assert [each["status"] for each in deliveries] == ["delivered"] * 2
            (incident,) = site.operator(left, "GET", "/api/admin/incidents")["incidents"]
            assert incident["ended_at"]
    finally:
        nats.stop()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 64 MiB of its own, which can really be filled."""
    folder = tmp_path / "disk"
    folder.mkdir(mode=0o700)
    command = ["mount", "-t", "tmpfs", "-o", "size=64m,mode=0700", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(command, check=False).returncode:
        pytest.skip("needs root, to mount a disk")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_disk_of_the_database_that_runs_full_pages(small_disk: Path) -> None:
    """The event is written while there is still some room; afterwards, there may be none for it."""
    settings = {"DCP_WEBHOOKS_ALLOW_PRIVATE": "true"}
    market = Market(small_disk, admin_token=ADMIN_TOKEN, embedded=False, settings=settings)
    try:
        market.start()
        with paging() as pager:
            pager.is_up = True
            headers = {"x-admin-token": ADMIN_TOKEN}
            pager.secret = market.post("/api/admin/webhook", {"url": pager.url}, **headers)["secret"]
            left = shutil.disk_usage(small_disk).free
            (small_disk / "filler").write_bytes(b"0" * (left - 1024 * 1024))
            eventually("the page", lambda: pager.accepted)
            assert pager.reported() == [("incident.began", "disk_full")]
            (_, event), *_ = pager.accepted
            places = {disk["place"]: disk for disk in event["data"]["disks"]}
            assert set(places) == {"files", "database"}
            assert event["data"]["severity"] == "page"
            assert 0 < int(places["database"]["free_bytes"]) <= 1024 * 1024
    finally:
        market.stop()

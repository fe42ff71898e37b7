"""A backup that is an hour old is restored under daemons with running jobs, by the documented commands only.

Nobody waits for an hour: until the end of the servers that made the backup, their clock is an hour behind.
For servers on PostgreSQL that is the database's clock, by which they go.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest

from scripts.cluster import Cluster, Nats
from scripts.market import UNLIMITED, Program
from tests.support import databases
from tests.support.databases import Postgres
from tests.support.patient_renter import Renter, assert_books_of, eventually, request
from tests.support.proxied_cluster import wrong_clocks
from tests.support.scene import SCRIPTED
from tests.support.scripted_daemon import MODEL, answer_to, script

pytestmark = pytest.mark.e2e

HOUR = 3600
DAEMONS = 3
LONG = 300
PAUSE_SECONDS = 0.05
# In which the market must serve again.
SERVES_SECONDS = 60.0
# A clock that the servers find before PostgreSQL's own, until the path is reset.
BEHIND = f"""
    CREATE FUNCTION public.clock_timestamp() RETURNS timestamptz LANGUAGE sql VOLATILE
        AS $$ SELECT pg_catalog.clock_timestamp() - interval '{HOUR} seconds' $$;
    ALTER DATABASE {{name}} SET search_path = public, pg_catalog
"""


class OldMarket:
    """A market whose clock is an hour behind until ``restored``."""

    def __init__(self, folder: Path, stack: ExitStack, kind: str, postgres: Postgres | None) -> None:
        self._folder = folder
        self._postgres_url = ""
        if kind == "sqlite" or postgres is None:
            url, servers, bus = databases.empty_sqlite(folder), 1, ""
        else:
            self._postgres_url = url = postgres.new_database()
            nats = Nats(folder)
            stack.callback(nats.stop)
            servers, bus = 2, nats.url
            run_server("migrate", env={"DCP_DATABASE_URL": url})
            self._in_postgres(BEHIND)
        self.cluster = Cluster(
            folder,
            url,
            servers=servers,
            gateways=servers,
            bus=bus,
            settings={**UNLIMITED, "DCP_SANDBOX_TOPUP": "true"},
            prefixes={} if self._postgres_url else wrong_clocks({0: -HOUR}),
        )
        stack.callback(self._end)
        self.cluster.start()
        self.renter = Renter(self.cluster.markets[0], "renter@example.com", 100_000)
        self.keys: dict[int, str] = {}
        for number in range(DAEMONS):
            provider_id, key = self.cluster.markets[0].register_provider("Node", f"p{number}@example.com")
            self.keys[provider_id] = key
            self.cluster.add_daemon(key, command=SCRIPTED)

    def _end(self) -> None:
        for market in self.cluster.markets:
            market.http.close()
        for program in (*self.cluster.daemons, *self.cluster.gateway_programs, *self.servers):
            program.kill()

    def _in_postgres(self, statements: str) -> None:
        with psycopg.connect(self._postgres_url, autocommit=True) as connection:
            name = connection.info.dbname
            for statement in statements.format(name=name).split(";\n"):
                connection.execute(statement.encode())

    @property
    def servers(self) -> list[Program]:
        return self.cluster.server_programs

    def back_up(self) -> Path:
        """A backup by the command, beside the running servers."""
        copy = self._folder / "backup"
        assert "verified" in run_server("backup", str(copy), env=self.servers[0].env)
        return copy

    def restored(self, copy: Path) -> None:
        """Kills the servers, restores a backup an hour later, and starts them."""
        for program in self.servers:
            program.kill()
        if self._postgres_url:
            eventually("the end of every connection", lambda: self._connections() == 0)
            self._in_postgres("ALTER DATABASE {name} RESET search_path")
        else:
            prefix = len(wrong_clocks({0: -HOUR})["server-0"])
            self.servers[0].command = self.servers[0].command[prefix:]
        printed = run_server("restore", "--replace", str(copy), env=self.servers[0].env)
        assert printed.endswith("The ledger balances.\n")
        for program in self.servers:
            program.restart()

    def _connections(self) -> int:
        with psycopg.connect(self._postgres_url) as connection:
            row = connection.execute(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
                "AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
            ).fetchone()
        assert row is not None
        return int(row[0])

    def unfinished(self) -> list[Path]:
        """What daemons remember of attempts that have not come to rest."""
        return list(self._folder.glob("daemon-*/state/journal/*.attempt"))

    def discards(self) -> list[dict[str, Any]]:
        token = {"x-admin-token": self.cluster.admin_token}
        found: list[dict[str, Any]] = self.cluster.markets[0].get("/api/admin/discards", **token)["discards"]
        return found

    def sessions(self) -> int:
        """How many sessions the daemons have had."""
        logs = (daemon.log.read_text(encoding="utf-8") for daemon in self.cluster.daemons)
        return sum(log.count("session opened") for log in logs)

    def play(self, name: str, words: int, provider_id: int) -> str:
        """A job for a provider, as soon as it is accepted."""
        body = request(MODEL, script(name, words, PAUSE_SECONDS), duration_minutes=2, provider_id=provider_id)

        def submitted() -> str:
            answer = self.renter.ask("POST", "/api/jobs/submit", body)
            return str(answer.json()["job"]["job_id"]) if answer.status_code == 201 else ""

        return eventually(f"an accepted job for {provider_id}", submitted, SERVES_SECONDS)


def run_server(*arguments: str, env: dict[str, str]) -> str:
    """Runs a command of the server, with PostgreSQL's programs; returns what it printed."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("DCP_")}
    done = subprocess.run(
        [str(Path(sys.executable).parent / "dcp-server"), *arguments],
        env={**inherited, **env, "PATH": f"{databases.postgres_programs()}{os.pathsep}{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def age_of(job: dict[str, Any]) -> float:
    """The seconds since a job was submitted."""
    return time.time() - datetime.fromisoformat(job["created_at"]).timestamp()


@pytest.fixture(params=databases.KINDS)
def market(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[OldMarket]:
    postgres = request.getfixturevalue("postgres") if request.param == "postgresql" else None
    with ExitStack() as stack:
        yield OldMarket(tmp_path, stack, request.param, postgres)


def test_market_serves_within_a_minute_on_a_backup_that_is_an_hour_old(
    market: OldMarket, record_property: Callable[[str, object], None]
) -> None:
    renter, providers = market.renter, list(market.keys)
    running = {market.play(f"old{number}", LONG, number): number for number in providers}
    for job_id in running:
        renter.until_it_writes(job_id)
    waiting = {market.play(f"waits{number}", 3, number): number for number in providers}
    copy = market.back_up()

    # What happened in the hour is lost: jobs that ended, run and wait, and money.
    for job_id in running:
        renter.ask("POST", f"/api/jobs/{job_id}/cancel", {})
    for job_id in waiting:
        renter.until_final(job_id)
    lost = [market.play(f"lost{number}", LONG, number) for number in providers]
    lost += [market.play(f"queued{number}", 3, number) for number in providers]
    for job_id in lost[:DAEMONS]:
        renter.until_it_writes(job_id)
    assert renter.ask("POST", "/api/renters/topup", {"amount_halala": 777}).is_success
    had = market.sessions()

    market.restored(copy)
    start = time.monotonic()
    fresh = {market.play(f"new{number}", 3, number): number for number in providers}
    for job_id, number in fresh.items():
        assert renter.until_final(job_id)["status"] == "completed"
        assert renter.output(job_id) == answer_to(script(f"new{number}", 3, PAUSE_SECONDS))
    took = time.monotonic() - start
    record_property("seconds until every provider ran a new job", round(took))
    assert took < SERVES_SECONDS

    jobs = {job_id: renter.until_final(job_id) for job_id in (*running, *waiting, *fresh)}
    for job_id, number in running.items():
        assert age_of(jobs[job_id]) > HOUR
        assert (jobs[job_id]["status"], jobs[job_id]["attempt"]) == ("completed", 2)
        assert renter.output(job_id) == answer_to(script(f"old{number}", LONG, PAUSE_SECONDS))
    # Nobody waits an hour for a job that was to start within minutes.
    assert {(jobs[job_id]["status"], jobs[job_id]["failure_reason"]) for job_id in waiting} == {
        ("failed", "START_DEADLINE")
    }
    for job_id in lost:
        assert renter.ask_once("GET", f"/api/jobs/{job_id}").status_code == 404
    eventually("empty journals", lambda: not market.unfinished())
    found = [(each["provider_id"], each["job_id"]) for each in market.discards()]
    assert sorted(found) == sorted(zip(providers, lost[:DAEMONS], strict=True))
    assert market.sessions() - had <= 2 * DAEMONS, "sessions did not loop"
    assert all(program.is_running for program in (*market.servers, *market.cluster.daemons))
    assert_books_of(market.cluster.markets[0], {renter: list(jobs)}, list(market.keys.values()))

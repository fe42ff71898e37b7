"""Several servers on one PostgreSQL with NATS: each knows what the others do, and nothing is lost.

The gateway of each number calls the server of that number alone, so that a test says which server it asks.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from scripts.cluster import Cluster, Nats
from scripts.market import UNLIMITED, NotReadyError, Program
from tests.support import scripted_daemon
from tests.support.databases import Postgres
from tests.support.patient_renter import FINAL, Renter, eventually
from tests.support.scene import SCRIPTED
from tests.support.scripted_daemon import answer_to, script
from tests.support.statement_log import StatementLog

pytestmark = pytest.mark.e2e

LONG = script("river", 600, 0.1)
SHORT = script("brook", 3, 0.01)


class Site:
    """Two servers, a gateway before each, and a renter who asks both; for one test after another."""

    def __init__(
        self,
        folder: Path,
        postgres: Postgres,
        stack: ExitStack,
        prefixes: Mapping[str, tuple[str, ...]] | None = None,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self.nats = Nats(folder)
        stack.callback(self.nats.stop)
        url = postgres.new_database()
        self.statements = StatementLog(url)
        self.cluster = stack.enter_context(
            Cluster(
                folder, url, bus=self.nats.url, apart=True, prefixes=prefixes or {}, settings=settings or {}
            )
        )
        self._tests = 0
        self.begin()

    def begin(self) -> None:
        """Begins a test: a new renter, and no provider yet."""
        self._tests += 1
        first, second = self.cluster.markets
        self._providers: set[int] = set()
        self._before = len(self.cluster.daemons)
        self.renters = [Renter(first, f"renter-{self._tests}@example.com", 1_000_000)]
        other = Renter.__new__(Renter)
        other.__dict__.update(self.renters[0].__dict__, _market=second)
        self.renters.append(other)

    def end(self) -> None:
        """Ends what the test left: its jobs and daemons. Starts what it ended."""
        if self.nats.process.poll() is not None:
            self.nats.start()
        for server in self.cluster.server_programs:
            server.resume()
            if not server.is_running:
                server.restart()
        renter = self.renters[0]
        for job in renter.ask("GET", "/api/jobs").json()["jobs"]:
            if job["status"] not in FINAL:
                renter.ask("POST", f"/api/jobs/{job['job_id']}/cancel", {})
        for daemon in self.cluster.daemons[self._before :]:
            daemon.stop()

    def add_daemon(self, server: int, *, key: str = "", name: str = "") -> tuple[int, str, Program]:
        """A daemon at a server: its provider, its key, its program."""
        provider_id = 0
        if not key:
            number = len(self.cluster.daemons) + 1
            provider_id, key = self.cluster.markets[0].register_provider("Node", f"p{number}@example.com")
            self._providers.add(provider_id)
        daemon = self.cluster.add_daemon(key, server=server, command=SCRIPTED, name=name)
        return provider_id, key, daemon

    def operator(self, number: int, method: str, path: str, body: object = None) -> Any:
        """An operator's request at a server."""
        market = self.cluster.markets[number]
        headers = {"x-admin-token": self.cluster.admin_token}
        answer = market.http.request(method, path, json=body, headers=headers)
        assert answer.status_code < 300, answer.text
        return answer.json()

    def available(self, number: int) -> dict[int, bool]:
        """The test's live providers as a server shows them, with whether they take jobs."""
        rows = self.cluster.markets[number].get("/api/renters/available-providers")["providers"]
        return {row["id"]: row["accepting_jobs"] for row in rows if row["id"] in self._providers}


@pytest.fixture(scope="module")
def shared_site(tmp_path_factory: pytest.TempPathFactory, postgres: Postgres) -> Iterator[Site]:
    with ExitStack() as stack:
        yield Site(tmp_path_factory.mktemp("site"), postgres, stack, settings=UNLIMITED)


@pytest.fixture
def own_site(tmp_path: Path, postgres: Postgres) -> Iterator[Site]:
    """For a test that counts statements, among them those of the limits."""
    with ExitStack() as stack:
        yield Site(tmp_path, postgres, stack)


@pytest.fixture
def site(shared_site: Site) -> Iterator[Site]:
    shared_site.begin()
    yield shared_site
    shared_site.end()


def why(renter: Renter, job_id: str) -> dict[str, Any]:
    answer: dict[str, Any] = renter.ask("GET", f"/api/jobs/{job_id}/why").json()
    return answer


def test_job_from_either_server_starts_at_the_provider_that_either_has(site: Site) -> None:
    provider_id, *_ = site.add_daemon(0)
    for renter in site.renters:
        job_id = renter.submit(scripted_daemon.MODEL, SHORT)
        job = renter.until_final(job_id)
        assert (job["status"], job["provider_id"]) == ("completed", provider_id)
        assert {each.output(job_id) for each in site.renters} == {answer_to(SHORT)}


def test_job_across_servers_costs_one_commit_and_one_message_more(own_site: Site) -> None:
    site = own_site
    site.add_daemon(0)
    for renter in site.renters:
        renter.until_final(renter.submit(scripted_daemon.MODEL, SHORT))  # the first one prepares
    same, across = (costs(site, renter) for renter in site.renters)
    assert same == Costs(to_lease=[18], messages_beside_those_of_the_job=2, delivered=2)
    # Submit and lease are two transactions, and a hint passes the job on.
    assert across == Costs(to_lease=[12, 8], messages_beside_those_of_the_job=3, delivered=3)


class Costs(NamedTuple):
    """What a job costs the database until it is leased, in statements of each transaction, and NATS."""

    to_lease: list[int]
    messages_beside_those_of_the_job: int
    """Each change of the job is one message more, which NATS delivers only where somebody watches it."""
    delivered: int


def costs(site: Site, renter: Renter) -> Costs:
    """Counts one job, from its submit until nothing more is said about it."""
    site.statements.clear()
    before = quiet(site.nats)
    job_id = renter.submit(scripted_daemon.MODEL, SHORT)
    renter.until_final(job_id)
    after = quiet(site.nats)
    transactions = site.statements.transactions(job_id)
    to_lease = [len(each) for each in transactions if any(INSERTS.match(text) for text in each)]
    changes = sum(any(text.startswith('UPDATE "job"') for text in each) for each in transactions)
    return Costs(to_lease, after[0] - before[0] - changes, after[1] - before[1])


INSERTS = re.compile('INSERT INTO "(job|lease)"')


def quiet(nats: Nats) -> tuple[int, int]:
    """NATS's messages in and out, once they do not change."""
    seen: list[tuple[int, int]] = []

    def look() -> bool:
        counters = nats.counters()
        seen.append((counters["in_msgs"], counters["out_msgs"]))
        return len(seen) > QUIET_LOOKS and len(set(seen[-QUIET_LOOKS:])) == 1

    eventually("that NATS is quiet", look)
    return seen[-1]


QUIET_LOOKS = 12


def test_cancel_at_the_other_server_ends_the_run_at_once(site: Site) -> None:
    _, _, daemon = site.add_daemon(0)
    job_id = site.renters[1].submit(scripted_daemon.MODEL, LONG)
    site.renters[0].until_it_writes(job_id)
    site.renters[1].ask("POST", f"/api/jobs/{job_id}/cancel", {})
    job = eventually("the end", lambda: ended(site.renters[1], job_id), seconds=10)
    assert job["status"] == "cancelled"
    assert "outcome=" in daemon.log.read_text()


def ended(renter: Renter, job_id: str) -> dict[str, Any] | None:
    job = renter.job(job_id)
    return job if job["status"] in FINAL else None


def test_both_servers_explain_a_job_alike(site: Site) -> None:
    provider_id, *_ = site.add_daemon(0)
    for _ in range(2):
        site.renters[0].submit(scripted_daemon.MODEL, LONG)
    waiting = site.renters[1].submit(scripted_daemon.MODEL, LONG, provider_id=provider_id)

    def alike() -> dict[str, Any] | None:
        told = [why(renter, waiting) for renter in site.renters]
        codes = {each["code"] for each in told}
        return told[1] if codes == {"PROVIDER_BUSY"} else None

    told = eventually("the same reason", alike, seconds=10)
    assert [each["provider_id"] for each in told["providers"]] == [provider_id]
    job = [renter.job(waiting) for renter in site.renters]
    assert job[0]["queue_position"] == job[1]["queue_position"] == 2


def test_start_and_end_of_a_server_touch_only_its_own_sessions(site: Site) -> None:
    here, *_ = site.add_daemon(0)
    there, *_ = site.add_daemon(1)
    eventually(
        "both", lambda: site.available(0) == {here: True, there: True} == site.available(1), seconds=10
    )
    site.cluster.server_programs[1].stop()
    assert site.available(0)[here]
    site.cluster.server_programs[1].restart()
    assert site.available(0)[here]
    eventually("both again", lambda: site.available(0) == {here: True, there: True}, seconds=30)


def test_sessions_of_a_killed_server_end_after_its_silence(site: Site) -> None:
    here, *_ = site.add_daemon(0)
    there, *_ = site.add_daemon(1)
    eventually("both", lambda: site.available(0) == {here: True, there: True}, seconds=10)
    site.cluster.server_programs[1].kill()
    eventually("one", lambda: site.available(0).get(there) in (None, False), seconds=30)
    assert site.available(0)[here]


def test_suspension_at_the_other_server_ends_the_session_at_once(site: Site) -> None:
    provider_id, _, daemon = site.add_daemon(0)
    eventually("the provider", lambda: provider_id in site.available(1), seconds=10)
    site.operator(1, "POST", f"/api/admin/providers/{provider_id}/suspend", {"reason": "a test"})
    eventually("the refusal", lambda: "PROVIDER_SUSPENDED" in daemon.log.read_text(), seconds=5)


def test_newer_session_at_another_server_supersedes_the_older(site: Site) -> None:
    provider_id, key, older = site.add_daemon(0)
    site.add_daemon(1, key=key, name="second")
    eventually("the end of the older", lambda: older.process.poll() is not None, seconds=10)
    job_id = site.renters[0].submit(scripted_daemon.MODEL, SHORT, provider_id=provider_id)
    assert site.renters[0].until_final(job_id)["status"] == "completed"


def test_revoked_key_is_refused_at_every_server_at_once(site: Site) -> None:
    body = {"name": "script", "scopes": ["read"]}
    made = site.renters[0].ask("POST", "/api/renters/keys", body).json()
    headers = {"x-renter-key": made["api_key"]}

    def statuses() -> list[int]:
        return [
            market.http.get("/api/renters/me", headers=headers).status_code for market in site.cluster.markets
        ]

    assert statuses() == [200, 200]
    site.renters[0].ask("POST", f"/api/renters/keys/{made['key']['id']}/revoke", {})
    eventually("the refusal", lambda: statuses() == [401, 401], seconds=2)


def test_watcher_at_the_other_server_sees_the_output_as_it_comes(site: Site) -> None:
    site.add_daemon(0)
    job_id = site.renters[1].submit(scripted_daemon.MODEL, script("brook", 20, 0.05))
    headers = dict(site.renters[1]._headers)
    seen, began = [], time.monotonic()
    with site.cluster.markets[1].http.stream("GET", f"/api/jobs/{job_id}/events", headers=headers) as answer:
        for line in answer.iter_lines():
            if line.startswith("event: output"):
                seen.append(time.monotonic() - began)
            if line.startswith("event: end"):
                break
    assert len(seen) >= 3, "the text comes in pieces, not at a look each 15 s"


def test_everything_goes_on_without_the_bus_and_with_it_again(site: Site) -> None:
    site.add_daemon(0)
    site.nats.stop()
    job_id = site.renters[1].submit(scripted_daemon.MODEL, SHORT)
    assert site.renters[1].until_final(job_id)["status"] == "completed"
    running = site.renters[1].submit(scripted_daemon.MODEL, LONG)
    site.renters[1].until_it_writes(running)
    site.renters[1].ask("POST", f"/api/jobs/{running}/cancel", {})
    eventually("the end", lambda: ended(site.renters[1], running), seconds=15)
    site.nats.start()
    job_id = site.renters[1].submit(scripted_daemon.MODEL, SHORT)
    assert site.renters[1].until_final(job_id)["status"] == "completed"


def test_server_that_was_frozen_gets_its_daemons_back_and_loses_no_job(site: Site) -> None:
    here, *_ = site.add_daemon(0)
    there, *_ = site.add_daemon(1)
    eventually("both", lambda: site.available(0) == {here: True, there: True}, seconds=10)
    job_id = site.renters[0].submit(scripted_daemon.MODEL, script("lake", 250, 0.1), provider_id=there)
    site.renters[0].until_it_writes(job_id)
    site.cluster.server_programs[1].pause()
    eventually("its silence", lambda: not site.available(0).get(there), seconds=30)
    site.cluster.server_programs[1].resume()
    eventually("both again", lambda: site.available(0) == {here: True, there: True}, seconds=30)
    job = site.renters[0].until_final(job_id)
    assert (job["status"], job["attempt"]) == ("completed", 1)


def test_servers_that_start_at_once_on_an_empty_database_both_serve(
    tmp_path: Path, postgres: Postgres
) -> None:
    with Cluster(tmp_path, postgres.new_database(), servers=3, gateways=1) as cluster:
        assert len(set(cluster.addresses.split(","))) == 3


@pytest.mark.parametrize("skew", [-300, 300])
def test_server_with_a_wrong_clock_goes_by_that_of_the_database(
    tmp_path: Path, postgres: Postgres, skew: int
) -> None:
    """Its own clock is wrong by minutes: it loses no job, shows every provider, and says so."""
    prefix = (sys.executable, "-m", "tests.support.wrong_clock", str(skew))
    with ExitStack() as stack:
        site = Site(tmp_path, postgres, stack, prefixes={"server-1": prefix})
        here, *_ = site.add_daemon(0)
        there, *_ = site.add_daemon(1)
        both = {here: True, there: True}
        eventually("both", lambda: site.available(0) == both == site.available(1), seconds=15)
        for provider_id in (here, there):
            job_id = site.renters[1].submit(
                scripted_daemon.MODEL, script("lake", 30, 0.1), provider_id=provider_id, lost_after_seconds=60
            )
            job = site.renters[1].until_final(job_id)
            assert (job["status"], job["attempt"]) == ("completed", 1)
        log = (tmp_path / "server-1" / "dcp-server.log").read_text()
        assert "this machine's clock is" in log


def test_gateway_goes_on_with_the_servers_that_are_left(tmp_path: Path, postgres: Postgres) -> None:
    with Cluster(tmp_path, postgres.new_database(), gateways=1) as cluster:
        (market,) = cluster.markets
        renter = Renter(market, "renter@example.com", 1000)
        cluster.server_programs[0].kill()
        statuses = [renter.ask_once("GET", "/api/renters/me").status_code for _ in range(20)]
        assert set(statuses) == {200}
        cluster.server_programs[0].restart()
        cluster.server_programs[1].kill()
        eventually("the other", lambda: renter.ask_once("GET", "/api/renters/me").status_code == 200)
        cluster.server_programs[1].restart()


def test_daemon_goes_to_another_server_when_its_own_is_gone(tmp_path: Path, postgres: Postgres) -> None:
    with Cluster(tmp_path, postgres.new_database(), gateways=1) as cluster:
        (market,) = cluster.markets
        renter = Renter(market, "renter@example.com", 100_000)
        _, key = market.register_provider("Node", "node@example.com")
        cluster.add_daemon(key, command=SCRIPTED)
        job_id = renter.submit(scripted_daemon.MODEL, script("lake", 130, 0.1))
        renter.until_it_writes(job_id)
        for program in cluster.server_programs:  # one of them has the session
            program.kill()
            time.sleep(3)
            program.restart()
        job = renter.until_final(job_id)
        assert (job["status"], job["attempt"]) == ("completed", 1)
        assert renter.output(job_id) == answer_to(script("lake", 130, 0.1))


def test_server_with_another_folder_of_files_than_the_others_does_not_start(
    tmp_path: Path, postgres: Postgres
) -> None:
    with Cluster(tmp_path, postgres.new_database(), servers=1, gateways=1) as cluster:
        env = {**cluster.server_programs[0].env, "DCP_GRPC_LISTEN": "127.0.0.1:0"}
        other = tmp_path / "other"
        other.mkdir()
        with pytest.raises(NotReadyError, match="DCP_BLOB_STORE"):
            Program("dcp-server", env={**env, "DCP_BLOB_STORE": f"file:{other}"}, folder=other)
        same = Program("dcp-server", env=env, folder=other)
        assert same.stop() == 0

"""One fault at a time in a market of two servers: what callers are told, and that it goes on without harm.

The gateway of each number calls the server of that number alone.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import httpx
import nats
import psycopg
import pytest

from server.bus import Topic
from tests.support import scripted_daemon
from tests.support.patient_renter import Renter, eventually, request
from tests.support.proxied_cluster import ProxiedCluster, built
from tests.support.scripted_daemon import answer_to, script
from tests.support.tcp_proxy import BlackHole, Cut, Pass, Reset

pytestmark = pytest.mark.e2e

SHORT = script("brook", 3, 0.01)
LONG = script("river", 150, 0.1)
MONEY = 1_000_000


class Two:
    """Two servers with a daemon each can reach, and a renter at both."""

    def __init__(self, site: ProxiedCluster, number: int) -> None:
        self.site, self.cluster = site, site.cluster
        self.renters = [Renter(site.cluster.markets[0], f"renter-{number}@example.com", MONEY)]
        other = Renter.__new__(Renter)
        other.__dict__.update(self.renters[0].__dict__, _market=site.cluster.markets[1])
        self.renters.append(other)

    def credit(self, number: int, amount: int, **headers: str) -> httpx.Response:
        """A credit of this renter by the operator at a server, asked once."""
        return self.cluster.markets[number].http.post(
            f"/api/admin/renters/{self.renters[0].id}/credit",
            json={"amount_halala": amount},
            headers={"x-admin-token": self.cluster.admin_token, **headers},
        )

    def balance(self) -> int:
        return self.renters[1].wallet()[0]

    def runs_jobs(self) -> None:
        """Asserts that every provider runs a job that names it, from either server."""
        for provider_id in self.site.providers:
            for renter in self.renters:
                job = renter.until_final(self.submitted(renter, SHORT, provider_id=provider_id))
                assert (job["status"], job["provider_id"]) == ("completed", provider_id)

    def submitted(self, renter: Renter, prompt: str, **changes: Any) -> str:
        """A job, as soon as it is accepted: a provider may be away for a while."""

        def submit() -> str:
            body = request(scripted_daemon.MODEL, prompt, **changes)
            answer = renter.ask("POST", "/api/jobs/submit", body)
            return str(answer.json()["job"]["job_id"]) if answer.status_code == 201 else ""

        return eventually("an accepted job", submit, seconds=60)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProxiedCluster]:
    with built(tmp_path_factory.mktemp("site"), servers=2, daemons=2, apart=True) as site:
        yield site


@pytest.fixture
def two(site: ProxiedCluster, request: pytest.FixtureRequest) -> Iterator[Two]:
    """The market, which each test leaves as it was."""
    two = Two(site, time.monotonic_ns())
    yield two
    for way in site.ways.values():
        way.switch(Pass())
    two.runs_jobs()
    assert site.cluster.markets[0].prove_ledger()["balanced"]


def test_lost_answer_to_a_commit_is_told_as_unknown_and_a_repeat_acts_once(two: Two) -> None:
    way = two.site.ways["server-0 postgres"]
    for key in ({}, {"idempotency-key": "a key"}):
        before = two.balance()
        way.switch(Cut(b"COMMIT\0"))
        answer = two.credit(0, 500, **key)
        way.switch(Pass())
        assert (answer.status_code, answer.json()["code"]) == (504, "OUTCOME_UNKNOWN")
        assert "Idempotency-Key" in answer.json()["error"]
        assert two.balance() == before + 500
        if key:
            repeats = [until_credited(two, number, 500, **key) for number in (0, 1)]
            assert [each["balance_halala"] for each in repeats] == [before + 500] * 2
            assert two.balance() == before + 500


def until_credited(two: Two, number: int, amount: int, **headers: str) -> Any:
    """Repeats a credit at a server until it is a success; returns the answer."""

    def credited() -> Any:
        answer = two.credit(number, amount, **headers)
        return answer.json() if answer.status_code == 200 else None

    return eventually(f"a credit at server {number}", credited, seconds=60)


def test_server_that_is_cut_off_in_a_transaction_holds_up_no_other(two: Two) -> None:
    before = two.balance()
    two.site.ways["server-0 postgres"].switch(Cut(b"UPDATE 1\0", is_silent=True))
    answer = two.credit(0, 500)
    assert answer.status_code == 504
    until_credited(two, 1, 7)
    assert two.balance() == before + 7


def test_read_only_database_is_an_outage_that_ends_by_itself(two: Two) -> None:
    """As after a switch to a standby, which the servers were connected to before."""
    before = two.balance()
    setting = "ALTER SYSTEM SET default_transaction_read_only = {}"
    in_postgres(two, setting.format("on"))
    try:
        # A connection reads its settings anew after its next signal, which takes a moment.
        answers: list[Any] = []

        def three_refused() -> bool:
            answers.append(two.credit(0, 500))
            return refused(answers[-3:]) == 3

        eventually("three refusals", three_refused)
        before += 500 * (len(answers) - refused(answers))
        assert {answer.status_code for answer in answers} <= {200, 503}, [answer.text for answer in answers]
        assert two.balance() == before
        eventually("unready", lambda: two.cluster.markets[0].http.get("/readyz").status_code == 503)
    finally:
        in_postgres(two, "SET default_transaction_read_only = off; " + setting.format("off"))
    eventually("ready", lambda: two.cluster.markets[0].http.get("/readyz").status_code == 200)
    until_credited(two, 0, 9)
    assert two.balance() == before + 9


def refused(answers: list[Any]) -> int:
    """How many of these answers say that the database cannot be used and that nothing was changed."""
    return sum("nothing was changed" in answer.text for answer in answers if answer.status_code == 503)


def in_postgres(two: Two, *statements: str) -> None:
    """Runs statements in PostgreSQL, and lets it read its settings."""
    with psycopg.connect(two.site.postgres.url(), autocommit=True) as connection:
        for statement in "; ".join(statements).split("; "):
            connection.execute(statement.encode())
        connection.execute("SELECT pg_reload_conf()")


def live(two: Two, number: int) -> set[int]:
    """The providers that take jobs, as a server shows them."""
    told = two.renters[number].ask("GET", "/api/renters/available-providers").json()["providers"]
    return {row["id"] for row in told if row["accepting_jobs"]}


def everyone(two: Two, number: int) -> None:
    """Waits until a server shows every provider as taking jobs."""
    eventually(f"all providers at server {number}", lambda: live(two, number) == {*two.site.providers})


@pytest.mark.slow  # a daemon waits for a minute for an answer to its heartbeats
def test_daemons_leave_a_server_that_lost_its_database(two: Two) -> None:
    everyone(two, 1)
    two.site.ways["server-0 postgres"].switch(Reset())
    answer = two.credit(0, 500)
    assert (answer.status_code, answer.json()["code"]) == (503, "STORE_UNAVAILABLE")
    eventually("the silence of server 0", lambda: server_count(two) == 1, seconds=60)
    everyone(two, 1)
    for provider_id in two.site.providers:
        job = two.renters[1].until_final(two.submitted(two.renters[1], SHORT, provider_id=provider_id))
        assert job["status"] == "completed"


def server_count(two: Two) -> int:
    with psycopg.connect(two.site.postgres.url()) as connection:
        row = connection.execute("SELECT count(*) FROM server").fetchone()
        return int(row[0]) if row else 0


def test_daemons_go_to_the_other_server_when_theirs_cannot_be_reached(two: Two) -> None:
    job_ids = [
        two.submitted(two.renters[0], LONG, provider_id=provider_id) for provider_id in two.site.providers
    ]
    for job_id in job_ids:
        two.renters[0].until_it_writes(job_id)
    for name, way in two.site.ways.items():
        if name.startswith("daemon") and name.endswith("server-0"):
            way.switch(BlackHole())
    for job_id in job_ids:
        job = two.renters[1].until_final(job_id)
        assert (job["status"], job["attempt"]) == ("completed", 1)
        assert two.renters[0].output(job_id) == answer_to(LONG)


def test_without_the_bus_every_hint_only_comes_late(two: Two) -> None:
    everyone(two, 0)
    everyone(two, 1)
    two.site.nats.stop()
    try:
        made = two.renters[0].ask("POST", "/api/renters/keys", {"name": "script", "scopes": ["read"]}).json()
        headers = {"x-renter-key": made["api_key"]}
        markets = two.cluster.markets
        assert [m.http.get("/api/renters/me", headers=headers).status_code for m in markets] == [200, 200]
        two.renters[0].ask("POST", f"/api/renters/keys/{made['key']['id']}/revoke", {})
        two.runs_jobs()
        for provider_id in two.site.providers:
            for number in (0, 1):
                job_id = two.submitted(two.renters[number], LONG, provider_id=provider_id)
                two.renters[number].until_it_writes(job_id)
                two.renters[number].ask("POST", f"/api/jobs/{job_id}/cancel", {})
                assert two.renters[number].until_final(job_id)["status"] == "cancelled"
        provider_id = max(two.site.providers)
        for verb, body, shown in (("suspend", {"reason": "a test"}, False), ("unsuspend", {}, True)):
            operate(two, 0, f"/api/admin/providers/{provider_id}/{verb}", body)
            for number in (0, 1):
                until_shown(two, number, provider_id, shown)

        def is_refused() -> bool:
            return {m.http.get("/api/renters/me", headers=headers).status_code for m in markets} == {401}

        eventually("the end of the key", is_refused, seconds=20)
    finally:
        two.site.nats.start()


def until_shown(two: Two, number: int, provider_id: int, shown: bool) -> None:
    """Waits until a server shows a provider as taking jobs, or not."""
    eventually(f"{shown=} at server {number}", lambda: (provider_id in live(two, number)) == shown)


def operate(two: Two, number: int, path: str, body: dict[str, str]) -> None:
    headers = {"x-admin-token": two.cluster.admin_token}
    answer = two.cluster.markets[number].http.post(path, json=body, headers=headers)
    assert answer.status_code < 300, answer.text


def test_hostile_hints_change_nothing_and_stop_nothing(two: Two) -> None:
    everyone(two, 0)
    running = two.submitted(two.renters[0], LONG, provider_id=min(two.site.providers))
    two.renters[0].until_it_writes(running)
    logs = [program.log for program in two.cluster.server_programs]
    sizes = [log.stat().st_size for log in logs]
    asyncio.run(send_hostile(two.site.nats.url, running, [*two.site.providers]))
    two.submitted(two.renters[1], SHORT, provider_id=max(two.site.providers))
    job = two.renters[1].until_final(running)
    assert (job["status"], job["attempt"]) == ("completed", 1)
    for program, log, size in zip(two.cluster.server_programs, logs, sizes, strict=True):
        assert program.process.poll() is None
        written = log.read_text()[size:]
        for fault in ("Traceback", "the bus has a fault", "could not follow"):
            assert fault not in written, written


async def send_hostile(url: str, job_id: str, provider_ids: list[int]) -> None:
    connection = await nats.connect(url)
    ids = [0, -1, *provider_ids, 10**18, 2**63 - 1]
    texts = [
        b"",
        b"\0",
        b"\xff\xfe" * 100,
        b"\n" * 1000,
        b"x" * 1_000_000,
        b"\n".join(b"%d" % number for number in range(100_000)),
        b"not hexadecimal, yet of 64 characters, as a digest of a key is!!!",
        b"g" * 64,
        *(f"{number}".encode() for number in ids),
        *(f"{number} {job_id} {epoch}".encode() for number in ids for epoch in (0, 1, 2, 10**18)),
        *(f"{number} job-\0 1".encode() for number in ids),
        *(f"{number} {'job' * 9999} 1".encode() for number in ids),
        *(
            f"{number} {epoch} {slots}".encode()
            for number in ids
            for epoch in range(9)
            for slots in (0, 10**17)
        ),
        "١ ٢ ٣".encode(),
    ]
    subjects = ["dcp.missed", "dcp.job", f"dcp.job.{job_id}", "dcp.job.a.b.c", "dcp.unknown"]
    for _ in range(3):
        for subject in (*subjects, *(f"dcp.{topic}" for topic in Topic)):
            for text in texts:
                await connection.publish(subject, text)
    await connection.flush()
    await connection.close()


def test_server_that_starts_without_its_database_says_so_and_ends(two: Two) -> None:
    """Whoever starts it starts it again: the other servers serve meanwhile."""
    server, way = two.cluster.server_programs[0], two.site.ways["server-0 postgres"]
    server.stop()
    way.switch(Reset())
    server.launch()
    assert server.process.wait(30) == 1, "no setting is wrong: systemd starts it again"
    words = server.last_words().strip().splitlines()
    assert words[-1].startswith("dcp-server: DCP_DATABASE_URL: the database cannot be opened"), words[-1]
    assert sum("Traceback" in line for line in words[-3:]) == 0
    way.switch(Pass())
    server.kill()
    server.restart()
    until_credited(two, 0, 9)


def test_second_daemon_with_a_key_leaves_no_zombie_behind(two: Two) -> None:
    """The hint is lost, too; the older one ends all the same, and the provider runs jobs after a restart."""
    provider_id, older = next(iter(two.site.providers)), two.cluster.daemons[0]
    two.site.nats.stop()
    try:
        newer = two.cluster.add_daemon(
            two.site.providers[provider_id], command=older.command, name=f"twin-{time.monotonic_ns()}"
        )
        eventually("the end of the older", lambda: older.process.poll() is not None, seconds=60)
    finally:
        two.site.nats.start()
    newer.stop()
    two.cluster.daemons.remove(newer)
    older.kill()
    older.restart()

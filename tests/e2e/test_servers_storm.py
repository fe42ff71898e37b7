"""A storm of faults over a market of several servers, in which nobody may be told an untruth.

Servers, gateways, daemons, NATS and PostgreSQL are killed, ended and frozen, and the connections between any
two of them cut, while renters submit, cancel, watch and pay in through all gateways, and while the servers'
clocks are wrong by minutes. What each request was answered is compared with what it did. A failure shows the
seed; ``--storm-seed`` repeats the same faults in the same order.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import httpx
import pytest

from scripts.market import Market
from tests.e2e.test_watch import Watcher
from tests.support import namespaces, scripted_daemon
from tests.support.lengths import lengths
from tests.support.parted_cluster import parted
from tests.support.patient_renter import FINAL, Renter, assert_books_of, eventually, request
from tests.support.proxied_cluster import Site, built
from tests.support.scripted_daemon import answer_to, script
from tests.support.strikes import Length, Storm, Target, of_cable, of_link, of_site, of_way

pytestmark = pytest.mark.e2e
log = logging.getLogger(__name__)

# The answers after which a caller cannot know what happened. Every other error says that nothing was done.
UNKNOWN = frozenset({"TIMEOUT", "OUTCOME_UNKNOWN"})
FIRST_CREDIT = 10_000_000
PATIENCE_SECONDS = 30.0


# ---------------------------------------------------------------------------------------------- renters


@dataclass(frozen=True)
class Told:
    """What a request was answered."""

    status: int
    """0: the connection broke."""
    code: str
    text: str
    at_gateway: int

    @property
    def is_success(self) -> bool:
        return 200 <= self.status < 300

    @property
    def is_unknown(self) -> bool:
        """Whether it says nothing of what was done."""
        return self.status == 0 or self.code in UNKNOWN


@dataclass
class Deed:
    """A request that must take effect once at most, and what was answered to it and its repeats."""

    kind: str
    mark: int
    """By which its effect is found: the seconds of a job, the amount of money. No other deed has it."""
    key: str
    path: str
    body: dict[str, Any]
    headers: dict[str, str]
    prompt: str = ""
    told: list[Told] = field(default_factory=list)
    answers: list[dict[str, Any]] = field(default_factory=list)

    @property
    def job_id(self) -> str:
        return str(self.answers[0]["job"]["job_id"]) if self.kind == "job" and self.answers else ""


class Customer:
    """A renter who uses every gateway, and notes what it was told."""

    def __init__(self, number: int, markets: list[Market], admin_token: str, rng: Random) -> None:
        self.number, self.rng = number, rng
        self._markets = markets
        self._admin = {"x-admin-token": admin_token}
        self.renter = Renter(markets[0], f"renter-{number}@example.com", FIRST_CREDIT)
        self.deeds: list[Deed] = []
        self.cancels: dict[str, list[Told]] = {}
        self.finals: dict[str, str] = {}
        """The states in which jobs were seen after their end."""
        self.faults: list[str] = []
        self.watched = self.whole = 0
        self.is_over = threading.Event()
        self._view = self

    @property
    def market(self) -> Market:
        """Any of the gateways, for a watcher."""
        return self.rng.choice(self._markets)

    def run(self) -> None:
        """Acts until told that it is over."""
        while not self.is_over.is_set():
            act = self.rng.choices(
                (self.submit, self.credit, self.top_up, self.cancel, self.look, self.watch),
                (0.4, 0.1, 0.1, 0.1, 0.25, 0.05),
            )[0]
            act()
            self.is_over.wait(self.rng.uniform(0.0, 0.4))

    def submit(self) -> None:
        number = len(self.deeds) + 1
        seconds = 120 + number
        prompt = script(f"r{self.number}w{number}", self.rng.randint(1, 60), 0.03)
        body = request(scripted_daemon.MODEL, prompt, duration_minutes=seconds / 60)
        self._do(Deed("job", seconds, self._key(), "/api/jobs/submit", body, self.renter._headers, prompt))

    def credit(self) -> None:
        amount = 1000 + len(self.deeds)
        path, body = f"/api/admin/renters/{self.renter.id}/credit", {"amount_halala": amount}
        self._do(Deed("credit", amount, self._key(), path, body, self._admin))

    def top_up(self) -> None:
        amount = 1000 + len(self.deeds)
        body = {"amount_halala": amount}
        self._do(Deed("credit", amount, self._key(), "/api/renters/topup", body, self.renter._headers))

    def cancel(self) -> None:
        job_id = self._some_job()
        if job_id and self.rng.random() < 0.5:
            told, _ = self._ask("POST", f"/api/jobs/{job_id}/cancel", {}, self.renter._headers)
            self.cancels.setdefault(job_id, []).append(told)

    def look(self) -> None:
        """Reads a job, which must never leave an end that was shown."""
        if not (job_id := self._some_job()):
            return
        told, answer = self._ask("GET", f"/api/jobs/{job_id}", None, self.renter._headers)
        if told.status == 404:
            self.faults.append(f"{job_id} was answered 404")
        elif told.is_success:
            status = answer["job"]["status"]
            if self.finals.get(job_id, status) != status:
                self.faults.append(f"{job_id} was {self.finals[job_id]} and then {status}")
            if status in FINAL:
                self.finals[job_id] = status

    def watch(self) -> None:
        """Reads a job's events for a while, through all cuts of the stream."""
        jobs = [deed for deed in self.deeds if deed.job_id]
        if not jobs:
            return
        deed = self.rng.choice(jobs[-3:])
        watcher = Watcher(self, deed.job_id)  # type: ignore[arg-type]
        self.watched += 1
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline and not self.is_over.is_set():
            if watcher._read(lambda seen: "end" in seen.kinds or self.is_over.is_set()):
                break
            self.is_over.wait(0.2)
        if "end" in watcher.kinds:
            self.whole += 1
            job = watcher.events[-1]["data"]["job"]
            self.finals.setdefault(deed.job_id, job["status"])
            if job["status"] == "completed" and watcher.output != answer_to(deed.prompt):
                self.faults.append(f"a watcher of {deed.job_id} read {watcher.output!r}")

    def again(self, deed: Deed) -> None:
        """Repeats a request under its key until it is answered."""
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            told, answer = self._ask(
                "POST", deed.path, deed.body, {**deed.headers, "idempotency-key": deed.key}
            )
            self._note(deed, told, answer)
            if told.is_success or (400 <= told.status < 500 and told.status != 429):
                return
            time.sleep(self.rng.uniform(0.05, 0.5))
        self.faults.append(f"no answer to {deed.kind} for 120 s: {deed.told[-3:]}")

    def _do(self, deed: Deed) -> None:
        self.deeds.append(deed)
        if deed.key:
            self.again(deed)
        else:
            self._note(deed, *self._ask("POST", deed.path, deed.body, deed.headers))

    def _note(self, deed: Deed, told: Told, answer: dict[str, Any]) -> None:
        deed.told.append(told)
        if told.is_success:
            deed.answers.append(answer)

    def _key(self) -> str:
        return f"key-{len(self.deeds)}-{self.number}" if self.rng.random() < 0.5 else ""

    def _some_job(self) -> str:
        jobs = [deed.job_id for deed in self.deeds if deed.job_id]
        return self.rng.choice(jobs[-8:]) if jobs else ""

    def _ask(
        self, method: str, path: str, body: object, headers: dict[str, str]
    ) -> tuple[Told, dict[str, Any]]:
        number = self.rng.randrange(len(self._markets))
        try:
            response = self._markets[number].http.request(method, path, json=body, headers=headers)
        except httpx.TransportError as error:
            return Told(0, "", type(error).__name__, number), {}
        answer = response.json()
        code, text = str(answer.get("code", "")), str(answer.get("error", ""))
        if response.status_code >= 500 and response.status_code not in (503, 504):
            self.faults.append(f"{method} {path}: {response.text}")
        return Told(response.status_code, code, text, number), answer


@lengths(
    "length",
    short=Length(10.0, servers=2, daemons=2, renters=6, freeze_seconds=5.0, faults_at_once=3),
    full=Length(600.0, servers=3, daemons=4, renters=8, freeze_seconds=40.0, faults_at_once=4),
)
def test_storm_over_servers_loses_nothing_and_tells_no_untruth(
    tmp_path: Path, seed: int, length: Length, record_property: Any
) -> None:
    rng = Random(seed)
    skews = wrong_by(rng, length)
    with built(tmp_path, servers=length.servers, daemons=length.daemons, skews=skews) as site:
        ways = [of_way(name, proxy) for name, proxy in site.ways.items()]
        weather(site, of_site(site), ways, rng, seed, length, record_property)


@pytest.mark.slow
@pytest.mark.parametrize(
    "length",
    [
        pytest.param(
            Length(30.0, servers=2, daemons=2, renters=4, freeze_seconds=12.0, faults_at_once=3), id="short"
        ),
        pytest.param(
            Length(600.0, servers=2, daemons=3, renters=6, freeze_seconds=40.0, faults_at_once=4), id="full"
        ),
    ],
)
def test_storm_over_servers_that_lose_packets_loses_nothing_and_tells_no_untruth(
    tmp_path: Path, seed: int, length: Length, record_property: Any
) -> None:
    """Each program has a network namespace: connections outlive a partition, or end on one side alone."""
    if why := namespaces.missing():
        pytest.skip(why)
    rng = Random(seed)
    skews = wrong_by(rng, length)
    with parted(tmp_path, servers=length.servers, daemons=length.daemons, skews=skews) as site:
        programs = [of_cable(target, site.network.host(target.name)) for target in of_site(site)]
        ways = [of_link(name, site.network, *ends) for name, ends in site.ways.items()]
        weather(site, programs, ways, rng, seed, length, record_property)


def wrong_by(rng: Random, length: Length) -> dict[int, float]:
    """By how many seconds the clock of each server but the first is wrong."""
    return {n: rng.choice((-1, 1)) * rng.uniform(20, 300) for n in range(1, length.servers)}


def weather(
    site: Site,
    programs: list[Target],
    ways: list[Target],
    rng: Random,
    seed: int,
    length: Length,
    record_property: Any,
) -> None:
    """A storm over a site with renters, and what must hold after it."""
    markets, token = site.cluster.markets, site.cluster.admin_token
    customers = [Customer(n, markets, token, Random(f"{seed} {n}")) for n in range(length.renters)]
    storm = Storm(site, programs, ways, rng, length)
    with ThreadPoolExecutor(length.renters) as threads:
        running = [threads.submit(customer.run) for customer in customers]
        try:
            storm.rage()
        finally:
            for customer in customers:
                customer.is_over.set()
            storm.calm()
        for each in running:
            each.result()
    deeds = [deed for customer in customers for deed in customer.deeds]
    for name, count in sorted(storm.faults.items()):
        record_property(name, count)
    told = Counter(
        (deed.kind, bool(deed.key), each.status, each.code) for deed in deeds for each in deed.told
    )
    for what, count in sorted(told.items(), key=str):
        log.info("told %s: %d", what, count)
    record_property("requests that change something", len(deeds))
    assert_nobody_was_told_an_untruth(site, customers)
    for number, provider_id in enumerate(site.providers):
        assert_runs_a_job(customers[0], provider_id, markets[number % len(markets)])
    jobs = {customer.renter: [job["job_id"] for job in all_jobs(customer.renter)] for customer in customers}
    record_property("jobs", sum(map(len, jobs.values())))
    record_property("watched", sum(customer.watched for customer in customers))
    assert_books_of(markets[0], jobs, list(site.providers.values()))


def assert_nobody_was_told_an_untruth(site: Site, customers: list[Customer]) -> None:
    """Compares what each renter was told with what is stored, after the end of all jobs."""
    faults: list[str] = []
    for customer in customers:
        customer.is_over.clear()
        for deed in customer.deeds:
            if deed.key and len(deed.told) % 2:
                customer.again(deed)
        renter = customer.renter
        jobs = {job["job_id"]: renter.until_final(job["job_id"]) for job in all_jobs(renter)}
        lines = [line for line in all_lines(renter) if line["kind"] in ("credit", "topup")]
        done = {
            "job": Counter(round(job["duration_minutes"] * 60) for job in jobs.values()),
            "credit": Counter(line["amount_halala"] for line in lines),
        }
        renter.credited_halala = sum(line["amount_halala"] for line in lines)
        for deed in customer.deeds:
            faults += untruths(deed, done[deed.kind].pop(deed.mark, 0))
            if deed.job_id:
                faults += faults_of(customer, deed, jobs[deed.job_id])
        done["credit"].pop(FIRST_CREDIT)
        faults += [f"renter {customer.number} never asked for {each}" for each in done.values() if each]
        faults += customer.faults
    assert faults == []


def untruths(deed: Deed, effects: int) -> list[str]:
    """What was told of a deed and is not true."""
    ids = {str(answer["job"]["job_id"] if deed.kind == "job" else answer) for answer in deed.answers}
    found = [f"{len(ids)} different answers under one key: {ids}"] if len(ids) > 1 else []
    if any(told.is_success for told in deed.told):
        least, most = 1, 1
    elif any(told.is_unknown for told in deed.told):
        least, most = 0, 1
    else:
        least, most = 0, 0
    if not least <= effects <= most:
        found.append(
            f"{deed.kind} {deed.mark} key={deed.key!r} took effect {effects} times, and told {deed.told}"
        )
    return found


def faults_of(customer: Customer, deed: Deed, job: dict[str, Any]) -> list[str]:
    """What is wrong with a job that has ended."""
    renter, job_id, status = customer.renter, deed.job_id, job["status"]
    attempts = renter.attempts(job_id)
    succeeded = [attempt for attempt in attempts if attempt.get("outcome") == "succeeded"]
    cancels = customer.cancels.get(job_id, [])
    found = []
    if customer.finals.get(job_id, status) != status:
        found.append(f"was told to be {customer.finals[job_id]}")
    if any(told.is_success for told in cancels) and status not in ("cancelled", "completed"):
        found.append("its cancel was accepted")
    if status == "completed":
        if renter.output(job_id) != answer_to(deed.prompt):
            found.append(f"its output is {renter.output(job_id)!r}")
        if succeeded != attempts[-1:]:
            found.append(f"its attempts are {attempts}")
    elif succeeded:
        found.append(f"its attempts are {attempts}")
    elif status == "cancelled":
        if not any(told.is_success or told.is_unknown for told in cancels):
            found.append(f"its cancel was not accepted: {cancels}")
    elif job["failure_reason"] not in ("PROVIDER_LOST", "PROVIDER_DRAINED"):
        found.append(f"failed: {job}")
    epochs = [attempt["lease_epoch"] for attempt in attempts]
    if epochs != list(range(1, len(epochs) + 1)):
        found.append(f"its epochs are {epochs}")
    return [f"{job_id} ({status}): {each}" for each in found]


def assert_runs_a_job(customer: Customer, provider_id: int, market: Market) -> None:
    """A provider whose daemon is connected runs a job that names it: its session is no zombie."""
    renter = customer.renter
    body = request(scripted_daemon.MODEL, script(f"p{provider_id}", 3, 0.01), provider_id=provider_id)

    def submitted() -> str:
        answer = market.http.post("/api/jobs/submit", json=body, headers=renter._headers)
        return str(answer.json()["job"]["job_id"]) if answer.status_code == 201 else ""

    job_id = eventually(f"provider {provider_id} is offered", submitted, seconds=60)
    job = eventually("its end", lambda: job if (job := renter.job(job_id))["status"] in FINAL else None, 60)
    assert (job["status"], job["provider_id"]) == ("completed", provider_id)


def all_jobs(renter: Renter) -> list[dict[str, Any]]:
    """Every job of a renter."""
    found, before = [], ""
    while True:
        page = renter.ask("GET", f"/api/jobs?page_size=200{before}").json()
        found += page["jobs"]
        if (last := page.get("next_before_job_id")) is None:
            return found
        before = f"&before_job_id={last}"


def all_lines(renter: Renter) -> list[dict[str, Any]]:
    """Every line of a renter's statement."""
    found, before = [], ""
    while True:
        page = renter.ask("GET", f"/api/renters/ledger?page_size=200{before}").json()
        found += page["lines"]
        if (last := page.get("next_before_id")) is None:
            return found
        before = f"&before_id={last}"

"""The invariants that are checked after every step, and those that are checked at the end.

The checks have their own SQL: a fault in the queries of the store must not hide itself.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple, Protocol

from scripts.simulation.machines import Attempt, Machine
from scripts.simulation.violations import ViolationError
from server.domain.proof import Proof
from tests.support.journals import is_empty, on_disk

FINAL = ("completed", "failed", "cancelled")
LEASED = {"offered": "pending", "accepted": "assigned", "running": "running"}
MAX_ATTEMPTS = 5


class Job(NamedTuple):
    """A job and its hold."""

    job_id: str
    renter_id: int
    state: str
    lease_epoch: int
    attempt: int
    limit_ms: int
    billed_ms: int | None
    charge: int | None
    reason: str | None
    truncated: int
    hold_state: str | None
    hold_amount: int
    hold_charge: int | None


class Lease(NamedTuple):
    """A lease."""

    job_id: str
    lease_epoch: int
    provider_id: int
    session_epoch: int
    state: str
    outcome: str | None
    is_ended_by_server: int
    """Whether the server ended it without its daemon's result: it was lost, or its run took too long."""
    is_breached: int
    """Whether the server ended it because a message broke the rules, or because its output never came."""
    accepted_ms: int | None
    started_ms: int | None
    output_through_seq: int


class Snapshot:
    """The rows that the checks examine."""

    def __init__(self, raw: sqlite3.Connection) -> None:
        self.jobs = [Job(*row) for row in raw.execute(_JOBS)]
        self.leases = [Lease(*row) for row in raw.execute(_LEASES)]
        self.accounts: dict[int, tuple[str, int, int]] = {
            number: (kind, owner, balance) for number, kind, owner, balance in raw.execute(_ACCOUNTS)
        }
        self.transfers: list[tuple[str, int, int, int, str | None]] = list(raw.execute(_TRANSFERS))

    def key(self) -> str:
        """All rows as text, for the digest."""
        return repr((self.jobs, self.leases, self.accounts, len(self.transfers)))


class Market(Protocol):
    """What the checks compare the rows with: what actually ran, and what the server received about it."""

    now_ms: int
    output_limit: int
    machines: list[Machine]
    attempts: dict[tuple[str, int], Attempt]
    final: dict[str, Job]
    """The jobs that have ended, as they were at their end."""
    reported: set[tuple[str, int]]
    """The attempts whose run time, as the daemon reported it, the server has stored."""
    renewed_ms: dict[int, int]
    """When the server last received a heartbeat or a Hello of each provider."""

    def was_accepted(self, attempt: Attempt) -> bool:
        """Whether the server has recorded that the daemon accepted this lease."""
        ...

    def output(self, job_id: str) -> bytes:
        """The job's output, as its renter reads it."""
        ...

    def prove(self) -> Proof:
        """The operator's proof of the ledger."""
        ...


_JOBS = (
    "SELECT j.job_id, j.renter_id, j.state, j.lease_epoch, j.attempt, j.limit_ms, j.billed_ms,"
    " j.charge_micros, j.failure_reason, j.output_truncated, h.state, h.amount_micros, h.charge_micros"
    " FROM job j LEFT JOIN hold h ON h.job_id = j.job_id ORDER BY j.rowid"
)
_LEASES = (
    "SELECT job_id, lease_epoch, provider_id, session_epoch, state, outcome,"
    " outcome = 'lost' OR detail LIKE '%ended by the server',"
    " outcome IN ('lost', 'refused') AND (detail LIKE 'its daemon broke the protocol%'"
    " OR detail LIKE 'its daemon cannot send%'), accepted_ms, started_ms,"
    " output_through_seq FROM lease ORDER BY rowid"
)
_ACCOUNTS = "SELECT id, kind, owner_id, balance_micros FROM account ORDER BY id"
_TRANSFERS = (
    "SELECT kind, debit_account_id, credit_account_id, amount_micros, job_id FROM transfer ORDER BY id"
)


def check_rows(snapshot: Snapshot, market: Market) -> None:
    """Checks the invariants of the database. Raises ViolationError."""
    _check_ledger(snapshot)
    open_leases = [lease for lease in snapshot.leases if lease.state != "ended"]
    _check_leases(snapshot, open_leases)
    for job in snapshot.jobs:
        _check_hold(job)
        if job.attempt > MAX_ATTEMPTS:
            raise ViolationError("at most five attempts", str(job))
        if job.state in FINAL:
            _check_final(job, snapshot, market)


def check_runs(market: Market) -> None:
    """No two daemons run one job, unless one could not yet know that it lost it. Raises ViolationError."""
    running: dict[str, list[str]] = {}
    for machine in market.machines:
        if machine.is_awake and not (machine.is_late or machine.is_rivalled or machine.is_misknown):
            for attempt in machine.attempts.values():
                if attempt.is_running and not attempt.is_adopted and market.was_accepted(attempt):
                    lease = attempt.lease
                    running.setdefault(lease.job_id, []).append(f"{machine.number}/{lease.lease_epoch}")
    for job_id, runs in running.items():
        if len(runs) > 1:
            raise ViolationError("no job runs twice at once", f"{job_id} runs as {runs}")


def check_end(snapshot: Snapshot, market: Market) -> None:
    """Checks what must hold when all messages have arrived and all jobs ended. Raises ViolationError."""
    for job in snapshot.jobs:
        if job.state not in FINAL:
            raise ViolationError("every job ends", str(job))
        if job.state == "completed":
            _check_output(job, market)
    for machine in market.machines:
        if machine.session is None:
            continue
        if not is_empty(machine.disk):
            kept = [history.offer.lease.job_id for history in on_disk(machine.disk)]
            raise ViolationError("journals forget what is acknowledged", f"{machine.number}: {kept}")
        if machine.session.unfinished or machine.attempts:
            raise ViolationError("no daemon runs what the server does not know", f"machine {machine.number}")
    proof = market.prove()
    if proof.discrepancies or proof.postings_sum_micros or proof.open_holds:
        raise ViolationError("the ledger proves itself", repr(proof))


def _check_ledger(snapshot: Snapshot) -> None:
    sums: Counter[int] = Counter()
    by_job: Counter[tuple[str | None, str]] = Counter()
    for kind, debit, credit, amount, job_id in snapshot.transfers:
        sums[debit] -= amount
        sums[credit] += amount
        by_job[job_id, kind] += amount
    held: Counter[int] = Counter()
    for job in snapshot.jobs:
        if job.hold_state == "open":
            held[job.renter_id] += job.hold_amount
        _check_moved(job, by_job)
    total = 0
    for number, (kind, owner, balance) in snapshot.accounts.items():
        total += balance
        if balance != sums[number]:
            raise ViolationError("balances are the sums of their postings", f"{kind} {owner}: {balance}")
        if balance < 0 and kind != "external":
            raise ViolationError("no balance is negative", f"{kind} {owner}: {balance}")
        if kind == "renter_held" and balance != held[owner]:
            raise ViolationError("held equals the open holds", f"renter {owner}: {balance}, {held[owner]}")
    if total:
        raise ViolationError("postings sum to zero", str(total))


def _check_moved(job: Job, by_job: Counter[tuple[str | None, str]]) -> None:
    """Nothing leaves an open hold, and a resolved hold is paid out in full, once."""
    charge, refund = (job.hold_charge or 0), job.hold_amount - (job.hold_charge or 0)
    if job.hold_state == "open":
        charge = refund = 0
    paid = by_job[job.job_id, "payout"] + by_job[job.job_id, "fee"]
    moved = (by_job[job.job_id, "hold"], paid, by_job[job.job_id, "refund"])
    if moved != (job.hold_amount, charge, refund):
        raise ViolationError("a hold resolves once", f"{job} moved {moved}")


def _check_leases(snapshot: Snapshot, open_leases: Iterable[Lease]) -> None:
    jobs = {job.job_id: job for job in snapshot.jobs}
    live: dict[str, Lease] = {}
    for lease in snapshot.leases:
        if lease.is_breached:
            raise ViolationError("no daemon breaks the protocol", str(lease))
    for lease in open_leases:
        if lease.job_id in live:
            raise ViolationError("no two live leases of one job", f"{live[lease.job_id]} and {lease}")
        live[lease.job_id] = lease
        job = jobs[lease.job_id]
        if job.state != LEASED[lease.state] or job.lease_epoch != lease.lease_epoch:
            raise ViolationError("a live lease is its job's", f"{lease} of {job}")
    for job in snapshot.jobs:
        if (job.state in LEASED.values()) != (job.job_id in live):
            raise ViolationError("a leased job has a live lease", str(job))


def _check_hold(job: Job) -> None:
    if job.hold_state is None:
        raise ViolationError("every job has a hold", str(job))
    if (job.hold_state == "open") != (job.state not in FINAL):
        raise ViolationError("a final job has exactly one resolved hold", str(job))
    if job.hold_charge is not None and not 0 <= job.hold_charge <= job.hold_amount:
        raise ViolationError("charge <= hold", str(job))


def _check_final(job: Job, snapshot: Snapshot, market: Market) -> None:
    known = market.final.setdefault(job.job_id, job)
    if known != job:
        raise ViolationError("final states never change", f"{known} became {job}")
    if known is not job:
        return
    billed = job.billed_ms or 0
    if job.charge != job.hold_charge or bool(job.charge) != bool(billed):
        raise ViolationError("the bill is what was posted", str(job))
    if billed > job.limit_ms:
        raise ViolationError("billed <= limit", str(job))
    if billed and billed > (ran := _known_run_ms(job, snapshot, market)):
        raise ViolationError("billed <= the real run", f"{job} ran {ran} ms")


def _known_run_ms(job: Job, snapshot: Snapshot, market: Market) -> int:
    """How long the job actually ran, or, if its result did not arrive, how long the server may assume it did.

    By the contract, the server may assume the time from the recorded start to the last heartbeat: it cannot
    know a result that takes longer to arrive than the server waits.
    """
    key = job.job_id, job.lease_epoch
    if key not in market.attempts:
        return 0
    lease = next(lease for lease in snapshot.leases if (lease.job_id, lease.lease_epoch) == key)
    if not lease.is_ended_by_server or key in market.reported:
        return market.attempts[key].run_ms(market.now_ms)
    return market.renewed_ms[lease.provider_id] - (lease.started_ms or market.now_ms)


def _check_output(job: Job, market: Market) -> None:
    attempt = market.attempts[job.job_id, job.lease_epoch]
    kept, expected = market.output(job.job_id), _expected(attempt, market.output_limit)
    if kept != expected or bool(job.truncated) != (len(attempt.plan.text) > market.output_limit):
        raise ViolationError(
            "output is what the run wrote", f"{job} has {len(kept)} bytes instead of {len(expected)}"
        )


def _expected(attempt: Attempt, limit: int) -> bytes:
    text = attempt.plan.text
    if len(text) <= limit:
        return text
    return text[:limit] + b"\n[output truncated: %d bytes not kept]\n" % (len(text) - limit)

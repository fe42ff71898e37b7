"""The two protocol halves, joined by a wire that repeats messages, delays them and cuts.

No gRPC, no sockets and no real time: a seeded script decides what happens next, the server's half
records in a real SQLite file through the real services, and the daemon's half is the one that runs
on providers' machines. A stream is a pair of queues; a cut loses what is in them.
"""

from __future__ import annotations

import asyncio
from collections import deque
from pathlib import Path
from random import Random

import pytest
from dcp.v1 import jobs_pb2, sessions_pb2

from daemon import effects as fx
from daemon.runs import succeeded
from daemon.session import DaemonSession
from server.app import Services, build_services
from server.domain import ledger as rules
from server.domain.errors import DomainError
from server.domain.jobs import FINAL, JobRequest, JobState, JobType
from server.rpc.sessions import from_wire, to_wire
from server.services.keys import ADMIN, Caller
from server.services.sessions import Session
from server.store import ledger
from server.store.database import Database
from tests.support.manual_clock import ManualClock

MODEL = "test/model"
JOBS = 4
STEPS = 400
OPERATOR = Caller(ADMIN)


class Run:
    """An attempt at the daemon, as an engine would run it: some pieces, one by one, then the end."""

    def __init__(self, lease: sessions_pb2.Lease, rng: Random) -> None:
        self.lease = lease
        self.pieces = [f"{lease.job_id}:{n};".encode() * rng.randint(1, 50) for n in range(rng.randint(0, 8))]
        self.written = b"".join(self.pieces)
        self.started = False


class Wire:
    """A daemon and a server, and the queues between them."""

    def __init__(self, services: Services, provider_id: int, clock: ManualClock, rng: Random) -> None:
        self.services, self.provider_id, self.clock, self.rng = services, provider_id, clock, rng
        self.half = DaemonSession(
            boot_id="boot",
            daemon_version="1",
            rng=rng,
            slots=2,
            models=[sessions_pb2.ServedModel(name=MODEL)],
            job_types=[jobs_pb2.JOB_TYPE_LLM_INFERENCE],
        )
        self.session: Session | None = None
        self.up: deque[sessions_pb2.DaemonMessage] = deque()
        self.reconnect_at = 0.0
        self.runs: dict[str, Run] = {}
        self.completed: dict[str, bytes] = {}
        self.faults = {"cut": 0, "repeated": 0, "refused": 0}

    def apply(self, effects: list[fx.Effect]) -> None:
        for effect in effects:
            match effect:
                case fx.Send(message):
                    self.up.append(message)
                case fx.StartAttempt(offer):
                    assert _key(offer.lease) not in self.runs, "one lease was started twice"
                    self.runs[_key(offer.lease)] = Run(offer.lease, self.rng)
                case fx.StopAttempt(lease):
                    self.runs.pop(_key(lease), None)
                case fx.Persist(number):
                    self.apply(self.half.persisted(number, self.clock.monotonic()))
                case fx.ReconnectAfter(seconds):
                    self.reconnect_at = self.clock.monotonic() + seconds

    async def connect(self) -> None:
        if self.session is None and self.clock.monotonic() >= self.reconnect_at:
            self.session = self.services.sessions.new(self.provider_id)
            self.apply(self.half.connected(self.clock.monotonic()))

    async def cut(self) -> None:
        """The transport dies: what is under way is lost, and each side learns it."""
        if self.session is None:
            return
        session, self.session = self.session, None
        self.up.clear()
        await session.end()
        self.apply(self.half.lost(self.clock.monotonic()))

    async def deliver_up(self, *, repeat: bool = False) -> None:
        if self.session is None or not self.up:
            return
        message = self.up[0] if repeat else self.up.popleft()
        try:
            await self.session.handle(from_wire(message))
        except DomainError:
            # A repeated Hello, say: the server ends the stream, and the daemon comes back.
            self.faults["refused"] += 1
            await self.cut()

    async def deliver_down(self) -> None:
        if self.session is None or self.session.outbox.empty():
            return
        message = self.session.outbox.get_nowait()
        if message is None:
            await self.cut()
        else:
            self.apply(self.half.received(to_wire(message), self.clock.monotonic()))

    def engine_step(self) -> None:
        """One running attempt makes a little progress."""
        if not self.runs:
            return
        run = self.runs[self.rng.choice(sorted(self.runs))]
        now = self.clock.monotonic()
        if not run.started:
            run.started = True
            self.apply(self.half.attempt_started(run.lease, now))
        elif run.pieces:
            self.apply(self.half.attempt_output(run.lease, run.pieces.pop(0), now))
        else:
            self.runs.pop(_key(run.lease))
            self.completed.setdefault(_key(run.lease), run.written)
            self.apply(self.half.attempt_finished(run.lease, succeeded(jobs_pb2.Usage()), now))

    async def step(self, *, faults: bool) -> None:
        """One thing happens."""
        self.clock.advance(self.rng.choice([0.0, 0.01, 0.3, 2.0]))
        self.apply(self.half.tick(self.clock.monotonic()))
        await self.connect()
        what = self.rng.random()
        if faults and what < 0.02:
            self.faults["cut"] += 1
            await self.cut()
        elif faults and what < 0.06:
            self.faults["repeated"] += 1
            await self.deliver_up(repeat=True)
        elif what < 0.45:
            await self.deliver_up()
        elif what < 0.75:
            await self.deliver_down()
        elif what < 0.97:
            self.engine_step()
        else:
            await self.services.sweep.tick()


def _key(lease: sessions_pb2.Lease) -> str:
    return f"{lease.job_id}/{lease.lease_epoch}"


@pytest.mark.parametrize("seed", range(30))
async def test_every_job_ends_once_whole_and_paid_whatever_the_wire_does(tmp_path: Path, seed: int) -> None:
    rng, clock = Random(seed), ManualClock()
    database = Database(f"sqlite:///{tmp_path / 'dcp.sqlite3'}")
    database.start()
    try:
        services = build_services(database, clock, None, sandbox_topup=True)
        provider = await services.providers.register(
            name="p", email="p@example.com", email_key="p@example.com", gpu_model="", os="", phone=""
        )
        renter = await services.renters.register(
            name="r", email="r@example.com", email_key="r@example.com", organization="", phone=""
        )
        await services.renters.top_up(renter.id, 450 * JOBS)
        wire = Wire(services, provider.id, clock, rng)
        request = JobRequest(JobType.LLM_INFERENCE, 180_000, model=MODEL, spec={"params": {"model": MODEL}})
        job_ids = [(await services.jobs.submit(renter.id, request)).job_id for _ in range(JOBS)]
        for _ in range(STEPS):
            await wire.step(faults=True)
        for _ in range(20):
            for _ in range(STEPS):
                await wire.step(faults=False)
            jobs = [await services.jobs.get(OPERATOR, job_id) for job_id in job_ids]
            if all(job.state in FINAL for job in jobs):
                break
        assert [job.state for job in jobs] == [JobState.COMPLETED] * JOBS
        for job in jobs:
            output = await services.jobs.output(OPERATOR, job.job_id)
            assert output.data == wire.completed[f"{job.job_id}/{job.lease_epoch}"]
            assert job.bill is not None
            assert job.bill.charge_halala <= job.bill.hold_halala == 450
        proof = await services.admin.prove_ledger()
        assert proof.discrepancies == ()
        assert (proof.postings_sum_halala, proof.open_holds) == (0, 0)
        held = await database.read(lambda: ledger.balance(rules.held(renter.id)))
        assert held == 0
        assert wire.faults["repeated"] > 0, "the script injected nothing, so it proved nothing"
    finally:
        await asyncio.to_thread(database.stop)

"""Everything that ends a job, at once on the same jobs, on a real PostgreSQL: each job ends once.

The eight threads of the database run whole transactions in parallel; PostgreSQL decides how they
interleave. The seed decides only what is started.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from random import Random
from typing import Any

import pytest
from dcp.v1 import jobs_pb2

from server.clock import ms
from server.domain.errors import DomainError, Reason
from server.domain.jobs import FINAL, FailureReason, JobEvent, JobState
from server.domain.leases import Disposition, FinishReport, LeaseOutcome, LeaseRef, RunOutcome
from server.domain.messages import LeaseAction, LeaseDirective, ResultAck
from server.services.endings import give_up, record_finish, settle
from server.services.keys import ADMIN, Caller
from server.store import jobs, leases
from server.store.models import Hold, Transfer
from tests.support import running_server
from tests.support.databases import Postgres
from tests.support.manual_clock import ManualClock
from tests.support.running_server import Daemon, Market, Party

OPERATOR = Caller(ADMIN)
JOBS = 40
ROUNDS = 4
SECONDS = 20


async def jobs_in_every_state(market: Market, renter: Party, provider: Party, daemon: Daemon) -> list[str]:
    """Equally many jobs that are queued, offered, accepted and running."""
    submitted = []
    for number in range(JOBS):
        if number % 4 == 0:
            unserved = jobs_pb2.JobParams(model="served by nobody", prompt="x")
            submitted.append(
                await market.submit(
                    renter, params=unserved, start_within_seconds=SECONDS, wait_for_supply=True
                )
            )
            continue
        submitted.append(await market.submit(renter, provider))
        lease = (await daemon.expect("job_offer")).lease
        if number % 4 == 2:
            await daemon.accept(lease)
        elif number % 4 == 3:
            await daemon.start(lease)
    await daemon.heartbeat()
    return [job.job_id for job in submitted]


class Race:
    """The events that may end a job, each as its own transaction."""

    def __init__(self, market: Market, provider: Party, job_id: str, secret: bytes) -> None:
        self.market, self.provider, self.job_id, self.secret = market, provider, job_id, secret
        self.now_ms = round(market.clock.now() * 1000)
        self.disposition: Disposition | None = None

    async def cancel(self) -> None:
        try:
            await self.market.server.services.jobs.cancel(OPERATOR, self.job_id)
        except DomainError as error:
            assert error.reason is Reason.JOB_ALREADY_FINAL  # noqa: PT017

    async def finish(self) -> None:
        ref = LeaseRef(self.job_id, 1, self.secret)
        report = FinishReport(ref, RunOutcome.SUCCEEDED, SECONDS * 1000, 0)
        database = self.market.server._database
        answer = await database.run(lambda: record_finish(report, self.provider.id, self.now_ms))
        assert isinstance(answer, ResultAck)
        self.disposition = answer.disposition

    async def lose(self) -> None:
        def lose() -> None:
            if lease := leases.get(self.job_id, 1):
                give_up(lease, self.now_ms, "lost", renewed_ms=self.now_ms)

        await self.market.server._database.run(lose)

    async def start_deadline(self) -> None:
        await self.market.tick()

    def moves(self) -> list[Callable[[], Awaitable[None]]]:
        return [self.cancel, self.finish, self.lose, self.start_deadline]


@pytest.mark.parametrize("seed", range(ROUNDS))
async def test_job_ends_once_when_several_events_end_it_at_once(
    postgres: Postgres, clock: ManualClock, seed: int
) -> None:
    rng = Random(seed)
    async with running_server.running(postgres.empty_database(), clock) as market:
        provider, renter = await market.provider(), await market.renter(450 * JOBS)
        await market.vouch(provider)
        daemon = await market.daemon(provider, slots=JOBS)
        secrets: dict[str, bytes] = {}
        job_ids = await jobs_in_every_state(market, renter, provider, daemon)
        (session,) = market.server.services.fleet.all()
        held = session.send.__self__._protocol._held  # type: ignore[attr-defined]
        secrets = {job_id: lease.ref.secret for (job_id, _), lease in held.items()}
        session.slots = 0  # no new offers: the race is about ends
        clock.advance(SECONDS)
        races = [Race(market, provider, job_id, secrets.get(job_id, b"")) for job_id in job_ids]
        rng.shuffle(races)
        for race in races:
            moves = race.moves()
            rng.shuffle(moves)
            await asyncio.gather(*(move() for move in moves))

        def read() -> list[tuple[JobState, str, int]]:
            found = []
            for race in races:
                job_id = race.job_id
                job, lease = jobs.get(job_id), leases.get(job_id, 1)
                assert job is not None
                succeeded = lease is not None and lease.outcome is LeaseOutcome.SUCCEEDED
                assert succeeded == (race.disposition is Disposition.ACCEPTED), (
                    "the daemon received the other answer"
                )
                kinds = [row.kind for row in Transfer.select().where(Transfer.job_id == job_id)]
                assert len(kinds) == len(set(kinds)), f"{job_id} moved money twice: {kinds}"
                hold = Hold.get_by_id(job_id)
                assert job.bill is not None
                assert hold.charge_micros == job.bill.charge_micros
                found.append((job.state, hold.state, hold.charge_micros))
            return found

        ended = await market.server._database.read(read)
        # Each job was cancelled, so each has ended; a requeue that lost a cancel would show here.
        assert {state for state, _, _ in ended} <= FINAL
        assert {hold for _, hold, _ in ended} <= {"posted", "voided"}
        assert all((hold == "posted") == (charge > 0) for _, hold, charge in ended)
        assert len({state for state, _, _ in ended}) > 1, "only one kind of end ever won: nothing raced"
        proof = await market.server.services.proofs.prove()
        assert (proof.discrepancies, proof.open_holds, proof.postings_sum_micros) == ((), 0, 0)
        balance, held_halala = await market.wallet(renter)
        assert held_halala == 0
        assert balance == 450 * JOBS - sum(charge for _, _, charge in ended)


async def test_two_callers_that_read_the_same_job_settle_it_once(any_market: Market) -> None:
    """Two callers that read the same running job cannot both end it, even if no lock separates them."""
    market = any_market
    provider, renter = await market.provider(), await market.renter()
    daemon = await market.daemon(provider)
    running, _ = await market.running_job(renter, provider, daemon)
    market.clock.advance(SECONDS)

    def settle_twice() -> tuple[bool, bool]:
        job = jobs.get(running.job_id)
        assert job is not None
        done = ms(market.clock)
        first = settle(job, JobEvent.COMPLETE, done, billed_ms=1000)
        return first, settle(job, JobEvent.FAIL, done, failure_reason=FailureReason.ENGINE_FAILED)

    assert await market.server._database.run(settle_twice) == (True, False)
    assert (await market.job(running)).status == jobs_pb2.JOB_STATE_COMPLETED
    await market.assert_money_adds_up()


@pytest.mark.parametrize(("outcome", "text"), [(RunOutcome.SUCCEEDED, b"Hello"), (RunOutcome.RELEASED, b"")])
async def test_result_that_meets_a_change_of_its_lease_moves_no_money_and_is_asked_for_again(
    postgres: Postgres, clock: ManualClock, outcome: RunOutcome, text: bytes
) -> None:
    async with running_server.running(postgres.empty_database(), clock) as market:
        provider, renter = await market.provider(), await market.renter(450)
        daemon = await market.daemon(provider)
        job, lease = await market.running_job(renter, provider, daemon)
        clock.advance(SECONDS)
        ref = LeaseRef(lease.job_id, lease.lease_epoch, lease.lease_secret)
        report = FinishReport(ref, outcome, SECONDS * 1000, len(text[:1]), last_output=text)
        database, has_moved = market.server._database, threading.Event()
        execute: Any = database.peewee.execute_sql

        def move() -> None:
            """A newer session takes the lease, and commits when the result waits for its row."""
            held = leases.get(ref.job_id, ref.lease_epoch)
            assert held is not None
            leases.move_to_session(held, held.session_epoch + 1)
            has_moved.set()
            waiting = "SELECT 1 FROM pg_locks WHERE NOT granted"
            while execute(waiting).fetchone() is None:
                time.sleep(0.01)

        def finish() -> object:
            has_moved.wait()
            return record_finish(report, provider.id, ms(clock))

        _, answer = await asyncio.gather(database.run(move), database.run(finish))
        assert isinstance(answer, LeaseDirective)
        assert (answer.action, answer.output_through_seq) == (LeaseAction.RESEND, 0)
        assert (await market.job(job)).status == jobs_pb2.JOB_STATE_RUNNING
        assert await market.wallet(renter) == (0, 450)
        again = await database.run(lambda: record_finish(report, provider.id, ms(clock)))
        assert isinstance(again, ResultAck)
        assert again.disposition is Disposition.ACCEPTED
        if outcome is RunOutcome.SUCCEEDED:
            assert (await market.output(job, renter)).response == "Hello"
        else:
            assert (await market.job(job)).status != jobs_pb2.JOB_STATE_RUNNING
        await market.assert_money_adds_up()

"""Rows for the store's tests, created by the store's own functions."""

from __future__ import annotations

import itertools

from server.domain import ledger as rules
from server.domain.jobs import Job, JobRequest, JobType
from server.domain.leases import Lease, LeaseRef, LeaseState
from server.domain.ledger import EXTERNAL, Transfer, TransferKind
from server.domain.money import micros
from server.domain.placement import Candidate, Model
from server.domain.pricing import per_minute
from server.store import jobs, leases, ledger, providers, renters, sessions
from server.store.database import Database
from server.store.sessions import Opened

SECRET = b"s" * 16
NOW_MS = 1_800_000_000_000
SESSION_EPOCH = 1
OPENED = Opened(1, "boot-1", 4, frozenset(JobType))
CANDIDATE = Candidate(1, 10, frozenset(JobType), (Model("m"),), "NVIDIA RTX 4090", 24576)


class Rows:
    """Each function is one write transaction."""

    def __init__(self, database: Database, first: int = 1) -> None:
        """``first``: the number in the first name, where a database has rows of another."""
        self._database = database
        self._numbers = itertools.count(first)

    async def provider(self) -> int:
        """A provider with its first session."""
        email = f"p{next(self._numbers)}@example.com"

        def create() -> int:
            provider_id = providers.create(
                name="P", email=email, mailbox=email, gpu_model="", os="", phone="", now_ms=NOW_MS
            )
            sessions.begin(provider_id, OPENED, NOW_MS)
            return provider_id

        return await self._database.run(create)

    async def renter(self, halala: int = 0) -> int:
        """A renter with money."""
        email = f"r{next(self._numbers)}@example.com"

        def create() -> int:
            renter_id = renters.create(
                name="R", email=email, mailbox=email, organization="", phone="", now_ms=NOW_MS
            )
            if halala:
                wallet = rules.renter(renter_id)
                ledger.apply([Transfer(TransferKind.CREDIT, EXTERNAL, wallet, micros(halala))], NOW_MS)
            return renter_id

        return await self._database.run(create)

    async def job(
        self,
        renter_id: int,
        *,
        priority: int = 2,
        now_ms: int = NOW_MS,
        request: JobRequest | None = None,
        rate: int = 100,
    ) -> str:
        """A queued job without a hold."""
        job_id = f"job-{next(self._numbers):04}"
        wanted = request or JobRequest(JobType.BENCHMARK, 60_000, priority=priority)
        await self._database.run(
            lambda: jobs.insert(
                job_id,
                renter_id,
                wanted,
                price=per_minute(rate),
                hold_micros=micros(100),
                limit_ms=60_000,
                now_ms=now_ms,
            )
        )
        return job_id

    async def held_job(self, renter_id: int, halala: int = 100) -> str:
        """A queued job with its hold."""
        job_id = await self.job(renter_id)
        await self._database.run(
            lambda: ledger.open_hold(job_id, renter_id, JobType.BENCHMARK, micros(halala), NOW_MS)
        )
        return job_id

    async def get(self, job_id: str) -> Job:
        """The job as stored."""
        job = await self._database.read(lambda: jobs.get(job_id))
        assert job is not None
        return job

    async def lease(self, ref: LeaseRef) -> Lease:
        """The lease as stored."""
        lease = await self._database.read(lambda: leases.get(ref.job_id, ref.lease_epoch))
        assert lease is not None
        return lease

    async def leased(
        self, provider_id: int, job_id: str, state: LeaseState, secret: bytes = SECRET
    ) -> LeaseRef:
        """Leases the job to the provider's session 1 and moves the lease to this state."""

        def create() -> LeaseRef:
            job = jobs.get(job_id)
            assert job is not None
            offer = leases.offer(job, provider_id, SESSION_EPOCH, secret, NOW_MS, 1024)
            assert offer is not None
            if state is not LeaseState.OFFERED:
                assert leases.accept(offer.lease, provider_id, SESSION_EPOCH, NOW_MS)
            if state is LeaseState.RUNNING:
                assert leases.start(offer.lease, provider_id, SESSION_EPOCH, NOW_MS)
            return offer.lease

        return await self._database.run(create)

"""Charges by tokens over very many jobs: their sum is the exact sum, on both databases."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from fractions import Fraction
from math import floor

import pytest

from server.domain.holds import reserve
from server.domain.jobs import JobEvent, JobRequest, JobType
from server.domain.pricing import PARTS, TokenPrice, per_minute
from server.services.endings import settle
from server.store import jobs, ledger, proof
from server.store.database import Database
from server.store.models import Job, TokenRemainder
from tests.server.store.rows import NOW_MS, Rows

AT_ONCE = 500
# Every so many jobs one is paid by the minute, so that both units meet in one wallet.
BY_TIME = 10


@dataclass
class Calls:
    """Many jobs of one renter and one provider, at many prices, and what they should cost together."""

    renter_id: int
    provider_id: int
    draw: random.Random
    made: int = 0
    exact: Fraction = Fraction(0)
    charged: int = 0
    shares: list[int] = field(default_factory=lambda: [0, 0])
    by_time: int = 0

    def make(self, count: int) -> None:
        """Inserts, holds and settles jobs. Inside a transaction."""
        for _ in range(count):
            self.made += 1
            self._one(f"job-{self.made:08}")

    def _one(self, job_id: str) -> None:
        is_by_time = self.made % BY_TIME == 0
        # No token of a prompt is shorter than a byte: with long ones, the test would mostly store texts.
        prompt, completion = self.draw.randint(0, 200), self.draw.randint(1, 19_800)
        # From 1 to 10,000,000 micros for a thousand tokens, each size as likely as another.
        amounts = [1000 * round(10 ** self.draw.uniform(0, 7)) for _ in range(3)]
        price = per_minute(self.draw.randint(1, 300)) if is_by_time else TokenPrice(*amounts)
        cached = self.draw.randint(0, prompt)
        params = {"model": "m", "prompt": "x" * prompt, "max_tokens": completion}
        request = JobRequest(JobType.LLM_INFERENCE, 60_000, model="m", spec={"params": params})
        reserved = reserve(price, request)
        held = {"hold_micros": reserved.hold_micros, "limit_ms": reserved.limit_ms}
        jobs.insert(job_id, self.renter_id, request, price=price, **held, now_ms=NOW_MS)
        ledger.open_hold(job_id, self.renter_id, JobType.LLM_INFERENCE, reserved.hold_micros, NOW_MS)
        values = {"provider_id": self.provider_id, "output_bytes": 4 * completion, "started_ms": NOW_MS}
        Job.update(state="running", **values).where(Job.job_id == job_id).execute()
        job = jobs.get(job_id)
        assert job is not None
        usage = {"prompt_tokens": prompt, "completion_tokens": completion, "cached_tokens": cached}
        assert settle(job, JobEvent.COMPLETE, NOW_MS, billed_ms=1_234, usage=usage, matures=False)
        ended = jobs.get(job_id)
        assert ended is not None
        assert ended.bill is not None
        if isinstance(price, TokenPrice):
            parts = (prompt - cached) * amounts[0] + cached * amounts[1] + completion * amounts[2]
            self.exact += Fraction(parts, PARTS)
            self.charged += ended.bill.charge_micros
        else:
            self.by_time += ended.bill.charge_micros
        self.shares[0] += ended.bill.payout_micros
        self.shares[1] += ended.bill.fee_micros


@pytest.mark.parametrize(
    "count", [2_000, *(pytest.param(count, marks=pytest.mark.slow) for count in (100_000, 1_000_000))]
)
async def test_sum_of_charges_is_the_exact_sum_of_what_the_tokens_cost(
    database: Database, count: int
) -> None:
    """Each call has up to 20,000 tokens, and a price of its own."""
    rows = Rows(database)
    calls = Calls(await rows.renter(10**12), await rows.provider(), random.Random(count))
    for _ in range(count // AT_ONCE):
        await database.run(lambda: calls.make(AT_ONCE))
        assert calls.charged == floor(calls.exact)
    (left,) = await database.read(lambda: [int(row.parts) for row in TokenRemainder.select()])
    assert Fraction(left, PARTS) == calls.exact - calls.charged
    assert sum(calls.shares) == calls.charged + calls.by_time
    whole = await database.read(proof.replay)
    assert whole.is_balanced
    assert whole.open_holds == 0

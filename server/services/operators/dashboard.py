"""The operators' dashboard and the proof of the ledger."""

from __future__ import annotations

from dataclasses import dataclass

from server.clock import Clock, ms
from server.domain.jobs import OPEN, JobState
from server.domain.leases import LIVE_SECONDS
from server.domain.ledger import AccountKind, TransferKind
from server.domain.statements import DAY_MS, day_of
from server.store import ledger, providers, renters
from server.store.database import Database
from server.store.operators import discards, operations, tally

GPU_LIMIT = 100
SIGNUP_LIMIT = 10


@dataclass(frozen=True, slots=True)
class Figures:
    """Counts and sums of the whole marketplace. Money in micros."""

    total_providers: int
    online_now: int
    total_renters: int
    jobs_by_state: dict[JobState, int]
    gpus: list[tuple[str, int, int]]
    """GPU model, providers, live providers."""
    signups: list[tuple[str, int, str, int]]
    """Role, id, name, when (ms)."""
    payout_micros: int
    fee_micros: int
    fee_today_micros: int
    held_micros: int
    of_providers: dict[AccountKind, int]
    """The balances of all providers' accounts, by kind."""
    discards_today: int

    @property
    def active_jobs(self) -> int:
        """Jobs that have not ended."""
        return sum(self.jobs_by_state[state] for state in OPEN)


class Dashboard:
    """The use cases of the dashboard."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def figures(self) -> Figures:
        """Counts and sums, all as of the same moment."""
        now_ms = ms(self._clock)
        since_ms = now_ms - int(LIVE_SECONDS * 1000)

        def read() -> Figures:
            total, online = providers.count(since_ms)
            of_providers = ledger.totals_of_providers()
            return Figures(
                total,
                online,
                renters.count(),
                tally.jobs_by_state(),
                operations.gpus(since_ms, GPU_LIMIT),
                operations.signups(SIGNUP_LIMIT),
                ledger.earned_by_all(of_providers),
                ledger.fees_of_all(),
                ledger.turnover(TransferKind.FEE, since_ms=now_ms - now_ms % DAY_MS),
                ledger.held_by_all(),
                of_providers,
                discards.count_since(now_ms - now_ms % DAY_MS),
            )

        return await self._database.read(read)

    async def tick(self) -> None:
        """Counts the jobs that ended before yesterday, once: no transaction of these days is still open."""
        yesterday = day_of(ms(self._clock)) - 1
        if await self._database.read(tally.first_uncounted) != yesterday:
            await self._database.run(lambda: tally.count_before(yesterday))

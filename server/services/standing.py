"""Assesses the standing of providers, in batches: after their attempts, and once an hour.

Who paid whom is read from the ledger by a cursor, so that no settlement writes a row more. A standing that
changed is stored, and applied to the provider's session on this server at once.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from server.clock import Clock, ms
from server.domain.errors import DomainError, Reason
from server.domain.honesty import Verdict
from server.domain.jobs import FailureReason
from server.domain.levels import Standing
from server.domain.payouts import PayoutTerms
from server.domain.providers import AccountState
from server.domain.reliability import track_record
from server.domain.standing import Facts, assess, independent
from server.services.fleet import Fleet
from server.services.operators.audit import Operator
from server.services.providers import existing
from server.store import canaries, providers, reliability, standing
from server.store.database import Database
from server.store.standing import StandingRow

log = logging.getLogger(__name__)

# Providers that one transaction assesses, and batches that one tick does.
BATCH, BATCHES = 100, 10
AGAIN_MS = 3_600_000
# The newest checks of a provider that an assessment looks at.
CHECKS = 100
# The least time between two assessments of one provider after its attempts.
LEAST_MS = 30_000
# A provider without a session for this long is assessed when it comes back.
AWAY_MS = 24 * 3_600_000


class Standings:
    """The duty that assesses providers, and operators' decisions about them."""

    def __init__(
        self, database: Database, fleet: Fleet, clock: Clock, terms: PayoutTerms, *, checks_are_on: bool
    ) -> None:
        self._database = database
        self._fleet = fleet
        self._clock = clock
        self._terms = terms
        self._checks_are_on = checks_are_on
        self._assessed_ms: dict[int, int] = {}

    def period(self, provider_id: int) -> int | None:
        """How long a provider's payouts mature; None while it is suspect or banned. Inside a transaction."""
        found = standing.of([provider_id]).get(provider_id)
        granted = found.assessment.standing if found is not None else Standing.NEW
        if not granted.reaches(Standing.NEW):
            return None
        return self._terms.period_ms(is_proven=granted.reaches(Standing.PROVEN))

    async def tick(self) -> None:
        """Reads who paid whom, and assesses the providers that are due."""
        now_ms = ms(self._clock)
        await self._database.run(lambda: standing.make_due(standing.read_customers(now_ms)))
        for _ in range(BATCHES):
            due = await self._database.read(lambda: standing.due(now_ms, BATCH))
            noted = self._take_noted(now_ms, BATCH - len(due))
            if not due and not noted:
                break
            await self._assess(list(dict.fromkeys([*due, *noted])), now_ms)

    def _take_noted(self, now_ms: int, limit: int) -> list[int]:
        noted = self._fleet.to_assess
        ready = [id_ for id_ in noted if now_ms - self._assessed_ms.get(id_, 0) >= LEAST_MS][:limit]
        noted.difference_update(ready)
        return ready

    async def _assess(self, provider_ids: Sequence[int], now_ms: int) -> None:
        facts, before = await self._database.read(
            lambda: (_facts(provider_ids, now_ms), standing.of(provider_ids))
        )
        found = {id_: assess(known, checks_are_on=self._checks_are_on) for id_, known in facts.items()}
        due_ms = {id_: now_ms + AGAIN_MS if self._fleet.is_heard(id_) else None for id_ in found}
        await self._database.run(lambda: standing.store(found, due_ms, now_ms))
        for id_, assessment in found.items():
            self._assessed_ms[id_] = now_ms
            self._fleet.grant(id_, assessment.standing, assessment.bounds)
            if id_ not in before or assessment.standing is not before[id_].assessment.standing:
                reasons = ",".join(assessment.reasons)
                log.info("provider %s provider_id=%d reasons=%s", assessment.standing, id_, reasons)
        if len(self._assessed_ms) > 10 * len(self._fleet.all()) + 10_000:
            self._assessed_ms.clear()

    async def vouch(self, operator: Operator, provider_id: int, vouched: bool, reason: str) -> StandingRow:
        """Begins or ends that an operator vouches for a provider. Raises PROVIDER_NOT_FOUND, WRONG_STATE."""
        now_ms = ms(self._clock)

        def decide() -> None:
            existing(provider_id)
            if not standing.vouch(provider_id, now_ms if vouched else None):
                state = "is vouched for already" if vouched else "is not vouched for"
                raise DomainError(
                    Reason.WRONG_STATE,
                    f"provider {provider_id} {state}; nothing was changed",
                    status="unchanged",
                )
            action = "provider.vouch" if vouched else "provider.unvouch"
            operator.note(
                action, provider_id, {"vouched": not vouched}, {"vouched": vouched, "reason": reason}, now_ms
            )

        await self._database.run(decide)
        await self._assess([provider_id], now_ms)
        return (await self._database.read(lambda: standing.of([provider_id])))[provider_id]


def _facts(provider_ids: Sequence[int], now_ms: int) -> dict[int, Facts]:
    """What is known of each provider. Inside a transaction."""
    attempts = reliability.newest(provider_ids)
    owners, customers = standing.owners(provider_ids), standing.customers(provider_ids)
    checks, passed = canaries.newest(provider_ids, CHECKS), canaries.passed(provider_ids)
    vouched = standing.vouched(provider_ids)
    found = {}
    for row in providers.by_ids(provider_ids):
        count, paid_micros = independent(owners[row.id], customers[row.id])
        found[row.id] = Facts(
            age_ms=max(0, now_ms - row.created_ms),
            customers=count,
            paid_micros=paid_micros,
            checks=checks[row.id],
            checks_passed=passed[row.id],
            record=track_record(attempts[row.id]),
            impossible_reports=sum(
                reason is FailureReason.IMPOSSIBLE_REPORT for _, reason in attempts[row.id]
            ),
            gpu_contradicts=row.verdict is Verdict.SUSPECT,
            is_vouched=row.id in vouched,
            is_suspended=row.state is AccountState.SUSPENDED,
        )
    return found

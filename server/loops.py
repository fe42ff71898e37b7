"""The server's periodic duties, as one table, and the loops that run them.

A duty that fails does not stop the others: the failure is logged and counted under the duty's name. The
duties of one loop run one after the other, in the order of the table, since some depend on the one before.
This module does not know what a duty does.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from server.domain.errors import DomainError
from server.wiring import Services

log = logging.getLogger(__name__)

PERIOD_SECONDS = 1.0
CLEANING_SECONDS = 30.0
CHECKPOINT_SECONDS = 30.0
MATURING_SECONDS = 30.0
CANARY_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Duty:
    """One row of a loop's table: ``tick`` does the work that is due."""

    name: str
    tick: Callable[[], Awaitable[None]]


@dataclass(slots=True)
class Loop:
    """Duties that run once in each period."""

    period_seconds: float
    duties: tuple[Duty, ...]
    failures: Counter[str] = field(default_factory=Counter)
    """How often each duty has failed since the start, by name."""

    async def run(self) -> None:
        """Ticks until cancelled."""
        while True:
            await asyncio.sleep(self.period_seconds)
            await self.tick()

    async def tick(self) -> list[Exception]:
        """Runs each duty once, and returns the errors of those that failed. The next tick retries them."""
        errors: list[Exception] = []
        for duty in self.duties:
            try:
                await duty.tick()
            except Exception as error:
                self.failures[duty.name] += 1
                self._log(duty, error)
                errors.append(error)
        return errors

    def _log(self, duty: Duty, error: Exception) -> None:
        facts = (duty.name, self.failures[duty.name])
        if isinstance(error, DomainError):
            log.error("postponed a duty duty=%s failures=%d reason=%s", *facts, error.reason)
        else:
            log.error("a duty failed duty=%s failures=%d", *facts, exc_info=error)


def server_loops(services: Services) -> tuple[Loop, ...]:
    """Every duty of a server. Duties that the market must not wait for have their own loops."""
    return (
        Loop(
            PERIOD_SECONDS,
            (
                Duty("write heartbeats", services.heartbeats.write_all),  # before silence is measured
                Duty("read provider states", services.providers.read_states),
                Duty("read terms", services.terms.read_changes),
                Duty("end overdue leases and jobs", services.sweep.tick),
                Duty("offer waiting jobs", services.dispatch.fill_all),
                Duty("check credentials", services.streams.check_credentials),
                Duty("check credentials of watchers", services.watches.check_credentials),
                Duty("write uses of keys", services.keys.write_uses),
                Duty("erase deleted accounts", services.deletion.tick),
                Duty("store metrics", services.metrics.tick),
                Duty("store discards", services.discards.tick),
            ),
        ),
        Loop(PERIOD_SECONDS, (Duty("judge reports", services.heartbeats.honesty.tick),)),
        Loop(PERIOD_SECONDS, (Duty("send webhooks", services.deliveries.tick),)),
        Loop(PERIOD_SECONDS, (Duty("send letters", services.mailer.tick),)),
        Loop(
            CLEANING_SECONDS,
            (
                Duty("clean artifacts", services.cleaning.tick),
                Duty("remove old texts of jobs", services.retention.tick),
                Duty("remove old discards", services.discards.clean),
                Duty("remove old letters", services.mailer.clean),
            ),
        ),
        Loop(CANARY_SECONDS, (Duty("check providers", services.canaries.tick),)),
        Loop(PERIOD_SECONDS, (Duty("assess providers", services.standings.tick),)),
        Loop(MATURING_SECONDS, (Duty("mature payouts", services.payouts.tick),)),
        Loop(MATURING_SECONDS, (Duty("charge for storage", services.storage_charges.tick),)),
        Loop(
            CHECKPOINT_SECONDS,
            (
                Duty("make checkpoints", services.proofs.tick),
                Duty("count jobs of past days", services.dashboard.tick),
                Duty("add up past days", services.statements.tick),
            ),
        ),
    )

"""The server's periodic duties, as one table, and the loops that run them.

A duty that fails does not stop the others: the failure is logged and counted under the duty's name. The
duties of one loop run one after the other, in the order of the table, since some depend on the one before.
This module does not know what a duty does.
"""

from __future__ import annotations

import asyncio
import contextlib
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
INCIDENT_SECONDS = 15.0
BATCH_SECONDS = 0.25


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
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    """Set by whoever has work for the loop now: then it does not wait for the end of the period."""

    async def run(self) -> None:
        """Ticks until cancelled."""
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.wake.wait(), self.period_seconds)
            self.wake.clear()
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
    """Every duty of a server. Duties that the market must not wait for have their own loops.

    A duty of the whole market is done by the oldest server alone. It does no harm if two do it for a moment:
    each change is guarded by what it read, or by a row that it locks.
    """

    def of_all(
        name: str, tick: Callable[[], Awaitable[None]], otherwise: Callable[[], Awaitable[None]] | None = None
    ) -> Duty:
        async def tick_if_first() -> None:
            if services.servers.is_first:
                await tick()
            elif otherwise is not None:
                await otherwise()

        return Duty(name, tick_if_first)

    return (
        Loop(
            PERIOD_SECONDS,
            (
                Duty("write heartbeats", services.heartbeats.write_all),  # before silence is measured
                Duty("look at other servers", services.neighbours.tick),  # before silence is measured
                Duty("read provider states", services.accounts.read_states),
                Duty("read terms", services.terms.read_changes),
                Duty("end overdue leases and jobs", services.sweep.tick),
                Duty("offer waiting jobs", services.dispatch.fill_all),
                Duty("check credentials", services.streams.check_credentials),
                Duty("check credentials of watchers", services.watches.check_credentials),
                Duty("write uses of keys", services.keys.write_uses),
                of_all("erase deleted accounts", services.deletion.tick),
                Duty("store metrics", services.metrics.tick),
                Duty("store discards", services.discards.tick),
            ),
        ),
        # Apart, since a server that is held up must not be taken for gone.
        Loop(PERIOD_SECONDS, (Duty("report this server", services.servers.tick),)),
        Loop(PERIOD_SECONDS, (Duty("judge reports", services.heartbeats.honesty.tick),)),
        Loop(
            PERIOD_SECONDS,
            (Duty("send webhooks", services.deliveries.tick),),
            wake=services.deliveries.wake,
        ),
        Loop(
            PERIOD_SECONDS,
            (of_all("fetch inputs", services.input_fetches.tick, services.input_fetches.stop),),
        ),
        Loop(PERIOD_SECONDS, (Duty("send letters", services.mailer.tick),)),
        Loop(
            CLEANING_SECONDS,
            (
                of_all("clean artifacts", services.cleaning.tick),
                of_all("clean inputs", services.inputs.clean),
                of_all("remove old batches", services.batch_runs.clean),
                of_all("remove old texts of jobs", services.retention.tick),
                of_all("remove old discards", services.discards.clean),
                of_all("remove old letters", services.mailer.clean),
                of_all("remove old incidents", services.incidents.clean),
                of_all("remove old log-ins", services.log_ins.clean),
                of_all("remove old credentials of operators", services.operator_access.clean),
            ),
        ),
        Loop(CANARY_SECONDS, (of_all("check providers", services.canaries.tick),)),
        Loop(PERIOD_SECONDS, (Duty("assess providers", services.standings.tick),)),
        Loop(MATURING_SECONDS, (of_all("mature payouts", services.payouts.tick),)),
        Loop(INCIDENT_SECONDS, (of_all("watch for incidents", services.incidents.tick),)),
        Loop(MATURING_SECONDS, (of_all("charge for storage", services.storage_charges.tick),)),
        Loop(
            CHECKPOINT_SECONDS,
            (
                of_all("make checkpoints", services.proofs.tick),
                of_all("count jobs of past days", services.dashboard.tick),
                of_all("add up past days", services.statements.tick),
            ),
        ),
        # Apart, since a long one holds up no lease.
        Loop(BATCH_SECONDS, (of_all("run batches", services.batch_runs.tick),)),
    )

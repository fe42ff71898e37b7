"""The simulated market: jobs come, are placed, run, charged and disputed by the rules of the real one."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random

from scripts.liars.machines import MODELS, SLOW, Kind, Machine, machines
from server.domain import pricing
from server.domain.canaries import Known, chance
from server.domain.levels import NEWCOMERS_PERCENT, Standing, tier
from server.domain.payouts import HOUR_MS, Payout, PayoutTerms, matured
from server.domain.placement import Model, rank, value_left_halala
from server.domain.standing import DAY_MS, Party, assess

RATE = 15
HOURS = 24
# The share of jobs whose renter names a provider, chosen as the market would.
NAMED = 0.15
# How likely a renter notices within a week that it was cheated, and disputes the charge.
NOTICES = {Kind.SMALLER_MODEL: 0.03, Kind.SLOW: 0.02, Kind.INFLATED_TIME: 0.02}
NOTICES_OTHERS = 0.3
NOTICED_MS = 2 * DAY_MS
# How often a machine's standing is assessed anew while nothing but its work changes it.
ASSESS_MS = 6 * HOUR_MS
RENTERS = 400


@dataclass
class Result:
    """What happened to the money and to the liars; money in halala."""

    jobs: int = 0
    waited: int = 0
    """Jobs that found nobody."""
    turnover: int = 0
    """What honest and cheated jobs were charged."""
    cheated_charges: int = 0
    refunded: int = 0
    checks: int = 0
    check_cost: int = 0
    machines: list[Machine] = field(default_factory=list)
    unasked_new: int = 0
    """Unasked jobs that new providers got while a proven one was there."""
    unasked: int = 0


class Market:
    """One run, from a seed."""

    def __init__(self, providers: int, liars: float, jobs: int, days: int, seed: int, percent: int) -> None:
        self._draw = Random(seed)
        self._days, self._jobs, self._percent = days, jobs, percent
        self._coming = machines(providers, liars, days, self._draw)[::-1]
        self.result = Result(machines=self._coming[::-1])
        self._serving: list[list[Machine]] = [[] for _ in range(MODELS)]
        self._present: list[Machine] = []
        self._ends: list[tuple[int, int, Machine, int]] = []
        self._refunds: list[tuple[int, int, Machine, int]] = []
        self._number = 0
        self._terms = PayoutTerms()
        self._renters = [Party(frozenset({f"mail r{n}", f"network r{n}"})) for n in range(RENTERS)]

    def run(self) -> Result:
        """Runs all jobs, then lets the last payouts mature."""
        next_hour = 0
        for now_ms in self._arrivals():
            while next_hour <= now_ms:
                self._hour(next_hour)
                next_hour += HOUR_MS
            self._end_until(now_ms)
            self._job(now_ms)
        end = self._days * DAY_MS
        for now_ms in range(next_hour, end + 8 * DAY_MS, HOUR_MS):
            self._end_until(now_ms)
            for machine in self._present:
                self._assess(machine, now_ms)
                self._mature(machine, now_ms)
            self._refund(now_ms)
        return self.result

    def _arrivals(self) -> Iterator[int]:
        """The times of the jobs: a Poisson process with more by day than by night."""
        mean, at = self._days * DAY_MS / self._jobs, 0.0
        while True:
            by_hour = 1 + 0.7 * math.sin(2 * math.pi * at / DAY_MS)
            at += self._draw.expovariate(1) * mean / by_hour
            if at >= self._days * DAY_MS:
                return
            yield round(at)

    def _hour(self, now_ms: int) -> None:
        while self._coming and self._coming[-1].joined_ms <= now_ms:
            machine = self._coming.pop()
            self._present.append(machine)
            for model in machine.models:
                self._serving[model].append(machine)
        for machine in self._present:
            self._buy_from_itself(machine, now_ms)
            self._check(machine, now_ms)
            self._assess(machine, now_ms)
            self._mature(machine, now_ms)
        self._refund(now_ms)

    def _check(self, machine: Machine, now_ms: int) -> None:
        for _ in range(4):
            known = Known(
                machine.checks_made,
                bool(machine.checks),
                machine.is_doubted,
                round(machine.jobs * DAY_MS / max(DAY_MS, now_ms - machine.joined_ms)),
            )
            if self._draw.random() >= chance(known, self._percent, HOUR_MS):
                return
            machine.check(now_ms, self._draw)
            self.result.checks += 1
            self.result.check_cost += pricing.cost_halala(RATE, 20_000)
            self._assess(machine, now_ms, at_once=True)

    def _assess(self, machine: Machine, now_ms: int, *, at_once: bool = False) -> None:
        is_due = at_once or now_ms - machine.assessed_ms >= (ASSESS_MS if machine.is_changed else DAY_MS)
        if not is_due:
            return
        machine.assessed_ms, machine.is_changed = now_ms, False
        machine.assessment = assess(machine.facts(now_ms), checks_are_on=self._percent > 0)
        if machine.standing.reaches(Standing.PROVEN) and machine.proven_ms is None:
            machine.proven_ms = now_ms
        if machine.standing is Standing.SUSPECT:
            machine.was_marked = True
            if machine.is_liar and machine.caught_ms is None and machine.began_ms is not None:
                machine.caught_ms = now_ms

    def _buy_from_itself(self, machine: Machine, now_ms: int) -> None:
        """A provider with renters of its own pays itself; the platform's share is what that costs."""
        if machine.own_renters and now_ms - machine.joined_ms < 10 * DAY_MS and self._draw.random() < 0.3:
            self._settle(
                machine, self._draw.choice(machine.own_renters), 60_000, 60_000, now_ms, cheated=False
            )
            machine.note(True)

    def _job(self, now_ms: int) -> None:
        self.result.jobs += 1
        model = self._draw.randrange(MODELS)
        usual_ms = round(min(3_600_000, self._draw.lognormvariate(11.5, 1.0)))
        hold = pricing.cost_halala(RATE, 10 * usual_ms)
        is_named = self._draw.random() < NAMED
        newcomers = self._draw.randrange(100) < NEWCOMERS_PERCENT
        machine = self._place(model, hold, named=is_named, newcomers=newcomers)
        if machine is None:
            self.result.waited += 1
            return
        self._run(machine, usual_ms, hold, now_ms, is_named=is_named)

    def _place(self, model: int, hold: int, *, named: bool, newcomers: bool) -> Machine | None:
        there = [
            machine
            for machine in self._serving[model]
            if machine.standing is not Standing.BANNED and (machine.checks_passed or self._percent <= 0)
        ]
        if not there:
            return None
        if not named:
            best = max((tier(machine.standing) for machine in there), key=lambda one: one.level)
            least = min(best, Standing.NEW, key=lambda one: one.level) if newcomers else best
            proven = best is Standing.PROVEN
            there = [machine for machine in there if machine.standing.reaches(least)]
        free = [machine for machine in there if self._is_free(machine, hold, named=named)]
        if not free:
            return None
        first = [machine for machine in free if machine.standing is Standing.NEW] if newcomers else []
        candidates = first or free
        # The best of a few: not all that serve a model hold it in memory.
        few = self._draw.sample(candidates, min(4, len(candidates)))
        chosen = min(few, key=lambda machine: rank(_Ranked(machine), None))
        if not named:
            self.result.unasked += 1
            self.result.unasked_new += proven and chosen.standing is Standing.NEW
        return chosen

    def _is_free(self, machine: Machine, hold: int, *, named: bool) -> bool:
        slots = 4 if machine.bounds.slots is None else machine.bounds.slots
        if machine.used_slots >= slots:
            return False
        left = value_left_halala(machine.bounds.value_halala, machine.open_halala)
        return named or left is None or hold <= left

    def _run(self, machine: Machine, usual_ms: int, hold: int, now_ms: int, *, is_named: bool) -> None:
        """Runs a job at once, and keeps its slot until its end."""
        cheated = machine.cheats_now(now_ms, self._draw)
        machine.jobs += 1
        machine.cheated_jobs += cheated
        run_ms = round(
            usual_ms * machine.speed * (machine.stretch if cheated and machine.kind in SLOW else 1)
        )
        limit_ms = 10 * usual_ms
        run_ms = min(run_ms, limit_ms)
        if (cheated and machine.kind is Kind.SILENT) or self._draw.random() < machine.failures:
            machine.note(False)
        elif cheated and machine.kind is Kind.INFLATED_TOKENS:
            machine.note(False, impossible=True)  # cut to what was relayed: see server.domain.reports
            self._settle(machine, self._draw.choice(self._renters), run_ms, run_ms, now_ms, cheated=False)
        else:
            machine.note(True)
            honest_ms = round(usual_ms * machine.speed) if machine.kind in SLOW else 0
            renter = self._draw.choice(self._renters)
            self._settle(machine, renter, run_ms, honest_ms, now_ms, cheated=cheated)
        machine.used_slots += 1
        value = 0 if is_named else hold
        machine.open_halala += value
        self._number += 1
        heapq.heappush(self._ends, (now_ms + run_ms, self._number, machine, value))

    def _settle(
        self, machine: Machine, renter: Party, run_ms: int, honest_ms: int, now_ms: int, *, cheated: bool
    ) -> None:
        """Charges a job; of a cheated one, all beyond ``honest_ms`` is stolen."""
        charge = pricing.cost_halala(RATE, run_ms)
        payout, _ = pricing.shares(charge)
        stolen = payout - pricing.shares(pricing.cost_halala(RATE, honest_ms))[0] if cheated else 0
        self._number += 1
        machine.maturing.append((Payout(self._number, payout, now_ms), stolen))
        machine.customers[renter] = machine.customers.get(renter, 0) + payout
        if renter not in machine.own_renters:
            self.result.turnover += charge
        if cheated:
            self.result.cheated_charges += round(charge * stolen / payout) if payout else 0
            if machine.caught_ms is None:
                machine.paid_until_caught += stolen
            if self._draw.random() < NOTICES.get(machine.kind, NOTICES_OTHERS):
                noticed_ms = now_ms + round(self._draw.uniform(0, NOTICED_MS))
                heapq.heappush(self._refunds, (noticed_ms, self._number, machine, payout))

    def _refund(self, now_ms: int) -> None:
        """Disputed charges that an operator found true, from what still matures."""
        while self._refunds and self._refunds[0][0] <= now_ms:
            _, number, machine, payout = heapq.heappop(self._refunds)
            for index, (waiting, _) in enumerate(machine.maturing):
                if waiting.id == number:
                    del machine.maturing[index]
                    self.result.refunded += payout
                    break

    def _mature(self, machine: Machine, now_ms: int) -> None:
        standing = machine.standing
        proven = standing.reaches(Standing.PROVEN)
        period = self._terms.period_ms(is_proven=proven) if standing.reaches(Standing.NEW) else None
        found = matured((payout for payout, _ in machine.maturing), machine.through_id, period, now_ms)
        while machine.maturing and machine.maturing[0][0].id <= found.through_id:
            payout, stolen = machine.maturing.popleft()
            machine.withdrawn += payout.amount_halala
            machine.stolen += stolen
        machine.through_id = found.through_id

    def _end_until(self, now_ms: int) -> None:
        while self._ends and self._ends[0][0] <= now_ms:
            _, _, machine, value = heapq.heappop(self._ends)
            machine.used_slots -= 1
            machine.open_halala -= value


@dataclass(frozen=True, slots=True)
class _Ranked:
    machine: Machine

    provider_id = property(lambda self: self.machine.id)
    free_slots = property(lambda self: -self.machine.used_slots)
    record = property(lambda self: self.machine.record)
    standing = property(lambda self: self.machine.standing)
    models: tuple[Model, ...] = ()


def was_caught_in_time(machine: Machine) -> bool | None:
    """Whether a liar that cheated was found out within 20 checks or 2 % of income; None: undecided."""
    income = machine.withdrawn + sum(payout.amount_halala for payout, _ in machine.maturing)
    in_time = machine.checks_until_caught <= 20 or machine.paid_until_caught <= 0.02 * income
    if machine.caught_ms is None:
        return None if in_time else False
    return in_time

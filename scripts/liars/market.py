"""The simulated market: jobs come, are placed, run, charged and disputed by the rules of the real one."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from random import Random

from scripts.liars.checks import Checks
from scripts.liars.machines import MODELS, SLOW, Kind, Machine, Work, machines
from server.domain import ledger, pricing
from server.domain.jobs import JobType
from server.domain.levels import NEWCOMERS_PERCENT, Standing, tier
from server.domain.payouts import HOUR_MS, Payout, PayoutTerms, matured
from server.domain.placement import rank, value_left_micros
from server.domain.standing import DAY_MS, Party, assess

PRICE = pricing.per_minute(pricing.RATE_HALALA_PER_MINUTE[JobType.LLM_INFERENCE])
# The usual time of a job: the middle, and the deviation of its logarithm. Its limit is a multiple of it.
USUAL_MS, TIMES_DIFFER, LONGEST_MS, LIMIT = 20_000, 1.0, 600_000, 4
# The share of jobs whose renter names a provider, chosen as the market would.
NAMED = 0.15
# How likely a renter notices within two days that it was cheated, and disputes the charge with success.
NOTICES = {Kind.SMALLER_MODEL: 0.03, Kind.SLOW: 0.02, Kind.SLOWER: 0.02, Kind.INFLATED_TIME: 0.02}
NOTICES_OTHERS = 0.3
NOTICED_MS = 2 * DAY_MS
# How often a standing is assessed anew while nothing but its jobs changes it.
ASSESS_MS = 12 * HOUR_MS
RENTERS = 200
# When providers that pay themselves stop doing so, how often they do in an hour, and for how long a job.
OWN_MS, OWN_CHANCE, OWN_JOB_MS = 10 * DAY_MS, 0.3, 20_000
# Those that a choice looks at: not all that serve a model have it in memory.
LOOKED_AT = 4


@dataclass
class Result:
    """What happened to the money and to the liars; money in micros."""

    machines: list[Machine]
    jobs: int = 0
    waited: int = 0
    """Jobs that nobody took."""
    turnover: int = 0
    """What strangers were charged."""
    cheated_charges: int = 0
    refunded: int = 0
    checks: int = 0
    unasked: int = 0
    unasked_new: int = 0
    """Unasked jobs that new providers got while a proven one was there."""


class Market:
    """One run, from a seed."""

    def __init__(
        self,
        providers: int,
        liars: float,
        jobs: int,
        days: int,
        seed: int,
        percent: int,
    ) -> None:
        self._draw = Random(seed)
        self._days, self._jobs, self._percent = days, jobs, percent
        coming = machines(providers, liars, days, self._draw)
        self.result = Result(coming)
        self._coming = coming[::-1]
        self._serving: list[list[Machine]] = [[] for _ in range(MODELS)]
        self._present: list[Machine] = []
        self._checks = Checks(self._serving, percent, self._draw, self._assess)
        self._ends: list[tuple[int, int, Machine, int]] = []
        self._refunds: list[tuple[int, int, Machine, Payout, int]] = []
        self._number = 0
        self._terms = PayoutTerms()
        self._renters = [Party(frozenset({f"mail r{n}", f"network r{n}"})) for n in range(RENTERS)]

    def run(self) -> Result:
        """Runs all jobs, then lets the last payouts mature, and be disputed."""
        next_hour = 0
        for now_ms in self._arrivals():
            while next_hour <= now_ms:
                self._hour(next_hour)
                next_hour += HOUR_MS
            self._end_until(now_ms)
            self._job(now_ms)
        for now_ms in range(next_hour, (self._days + 8) * DAY_MS, HOUR_MS):
            self._end_until(now_ms)
            self._refund(now_ms)
            for machine in self._present:
                self._mature(machine, now_ms)
        self.result.checks = self._checks.made
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
            for model in machine.serves:
                self._serving[model].append(machine)
        self._refund(now_ms)
        for machine in self._present:
            if machine.is_there(now_ms):
                self._buy_from_itself(machine, now_ms)
                self._checks.hour(machine, now_ms)
            waits_ms = ASSESS_MS if machine.is_changed else DAY_MS
            if now_ms - machine.assessed_ms >= waits_ms:
                self._assess(machine, now_ms)
            self._mature(machine, now_ms)
            if now_ms % DAY_MS == 0:
                machine.jobs_of_day = 0

    def _assess(self, machine: Machine, now_ms: int) -> None:
        machine.assessed_ms, machine.is_changed = now_ms, False
        machine.assessment = assess(machine.facts(now_ms), checks_are_on=self._percent > 0)
        if machine.granted.reaches(Standing.PROVEN) and machine.proven_ms is None:
            machine.proven_ms = now_ms
        if machine.granted is Standing.SUSPECT:
            machine.was_marked = True
            if machine.is_liar and machine.caught_ms is None and machine.began_ms is not None:
                machine.caught_ms = now_ms

    def _buy_from_itself(self, machine: Machine, now_ms: int) -> None:
        """A provider with renters of its own pays itself; the platform's share is what that costs."""
        is_early = now_ms - machine.joined_ms < OWN_MS
        if machine.own_renters and is_early and self._draw.random() < OWN_CHANCE:
            renter = self._draw.choice(machine.own_renters)
            hold = PRICE.cost_micros(OWN_JOB_MS)
            self._settle(machine, renter, hold, OWN_JOB_MS, OWN_JOB_MS, now_ms)
            machine.note(True)

    def _job(self, now_ms: int) -> None:
        self.result.jobs += 1
        usual_ms = round(min(LONGEST_MS, USUAL_MS * math.exp(self._draw.normalvariate(0, TIMES_DIFFER))))
        limit_ms = LIMIT * usual_ms
        hold = PRICE.cost_micros(limit_ms)
        is_named = self._draw.random() < NAMED
        newcomers = self._draw.randrange(100) < NEWCOMERS_PERCENT
        serving = self._serving[self._draw.randrange(MODELS)]
        there = [machine for machine in serving if machine.is_there(now_ms)]
        machine = self._place(there, hold, is_named=is_named, newcomers=newcomers)
        if machine is None:
            self.result.waited += 1
            return
        value = 0 if is_named else hold
        run_ms = self._run(machine, usual_ms, hold, limit_ms, now_ms)
        machine.used_slots += 1
        machine.open_micros += value
        self._number += 1
        heapq.heappush(self._ends, (now_ms + run_ms, self._number, machine, value))

    def _place(self, there: list[Machine], hold: int, *, is_named: bool, newcomers: bool) -> Machine | None:
        """Who runs a job: of those of the best standing that is there, busy or not, one of the best."""
        best = max((tier(machine.standing) for machine in there), key=lambda one: one.level, default=None)
        if best is None or best is Standing.BANNED:
            return None
        least = min(best, Standing.NEW, key=lambda one: one.level) if is_named or newcomers else best
        free = [
            machine
            for machine in there
            if machine.standing.reaches(least)
            and machine.free_slots > 0
            and (is_named or _has_value(machine, hold))
        ]
        if newcomers and not is_named:
            free = [machine for machine in free if machine.standing is Standing.NEW] or free
        if not free:
            return None
        few = self._draw.sample(free, min(LOOKED_AT, len(free)))
        chosen = min(few, key=lambda machine: rank(machine, None))
        if not is_named:
            self.result.unasked += 1
            self.result.unasked_new += best is Standing.PROVEN and chosen.standing is Standing.NEW
        return chosen

    def _run(self, machine: Machine, usual_ms: int, hold: int, limit_ms: int, now_ms: int) -> int:
        """Runs a job at once, settles it, and returns how long it keeps its slot."""
        work = machine.work(now_ms, self._draw)
        cheated = work is Work.CHEATED
        machine.jobs += 1
        machine.jobs_of_day += 1
        machine.cheated_jobs += cheated
        is_slow = cheated and machine.kind in SLOW
        honest_ms = min(limit_ms, round(usual_ms * machine.speed))
        ran_ms = round(honest_ms * (machine.stretch if is_slow else 1))
        # What a daemon says counts only up to the server's own time, so that a liar has to take it.
        run_ms = pricing.billed_ms(ran_ms, ran_ms, limit_ms)
        is_silent = cheated and machine.kind is Kind.SILENT
        if work not in (Work.DONE, Work.CHEATED) or is_silent:
            machine.note(False)  # without output nothing is charged
            return run_ms
        inflates = cheated and machine.kind is Kind.INFLATED_TOKENS
        machine.note(True, impossible=inflates)  # and tokens are no part of the bill
        earned_ms = honest_ms if is_slow or inflates or not cheated else 0
        self._settle(machine, self._draw.choice(self._renters), hold, run_ms, earned_ms, now_ms)
        return run_ms

    def _settle(
        self, machine: Machine, renter: Party, hold: int, run_ms: int, earned_ms: int, now_ms: int
    ) -> None:
        """Charges a job, of which all beyond ``earned_ms`` is stolen."""
        bill = ledger.make_bill(hold, PRICE.cost_micros(run_ms), run_ms)
        stolen = (
            bill.payout_micros - ledger.make_bill(hold, PRICE.cost_micros(earned_ms), earned_ms).payout_micros
        )
        self._number += 1
        payout = Payout(self._number, bill.payout_micros, now_ms)
        machine.maturing.append((payout, stolen))
        machine.income += payout.amount_micros
        machine.customers[renter] = machine.customers.get(renter, 0) + payout.amount_micros
        if renter not in machine.own_renters:
            self.result.turnover += bill.charge_micros
        if not stolen:
            return
        self.result.cheated_charges += bill.charge_micros * stolen // bill.payout_micros
        if machine.caught_ms is None:
            machine.earned_until_caught += stolen
        if self._draw.random() < NOTICES.get(machine.kind, NOTICES_OTHERS):
            noticed_ms = now_ms + round(self._draw.uniform(0, NOTICED_MS))
            heapq.heappush(self._refunds, (noticed_ms, self._number, machine, payout, stolen))

    def _refund(self, now_ms: int) -> None:
        """Disputed charges that an operator found true: from what still matures, the rest becomes a debt."""
        while self._refunds and self._refunds[0][0] <= now_ms:
            _, _, machine, payout, stolen = heapq.heappop(self._refunds)
            self.result.refunded += stolen
            for index, (waiting, _) in enumerate(machine.maturing):
                if waiting.id == payout.id:
                    machine.maturing[index] = (
                        replace(waiting, amount_micros=waiting.amount_micros - stolen),
                        0,
                    )
                    break
            else:
                machine.debt += stolen

    def _mature(self, machine: Machine, now_ms: int) -> None:
        """What is old enough, the provider withdraws at once; what it owes is taken first."""
        standing = machine.granted
        if not machine.maturing or not standing.reaches(Standing.NEW):
            return
        period_ms = self._terms.period_ms(is_proven=standing.reaches(Standing.PROVEN))
        payouts = (payout for payout, _ in machine.maturing)
        found = matured(payouts, machine.through_id, period_ms, now_ms)
        while machine.maturing and machine.maturing[0][0].id <= found.through_id:
            payout, stolen = machine.maturing.popleft()
            machine.stolen += stolen
            repaid = min(machine.debt, payout.amount_micros - stolen)
            machine.debt -= repaid
            machine.stolen -= repaid
        machine.through_id = found.through_id

    def _end_until(self, now_ms: int) -> None:
        while self._ends and self._ends[0][0] <= now_ms:
            _, _, machine, value = heapq.heappop(self._ends)
            machine.used_slots -= 1
            machine.open_micros -= value


def _has_value(machine: Machine, hold: int) -> bool:
    left = value_left_micros(machine.bounds.value_micros, machine.open_micros)
    return left is None or hold <= left


def was_caught_in_time(machine: Machine) -> bool | None:
    """Whether a liar that cheated was found within 20 checked jobs or 2 % of its income; None: undecided."""
    in_time = machine.checks_until_caught <= 20 or machine.earned_until_caught <= 0.02 * machine.income
    return None if machine.caught_ms is None and in_time else in_time

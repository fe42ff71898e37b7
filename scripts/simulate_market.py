"""Runs a market with liars, and tells what they stole and when each was caught.

The rules of standing, checks, comparison, placement, prices and payouts are the real ones; machines, renters
and texts are played: see scripts/liars. The same seed gives the same market.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
from collections.abc import Sequence
from typing import Any

from scripts.liars.machines import HIDDEN, Kind, Machine
from scripts.liars.market import Market, Result, was_caught_in_time
from server.domain.money import whole_halala
from server.domain.standing import DAY_MS

EXAMPLES = """\
examples:
  python -m scripts.simulate_market                              with a random seed, which is printed
  python -m scripts.simulate_market --providers 500 --liars 0.2 --seed 7
  python -m scripts.simulate_market --seed 7 --checks 0          the same market without checks
  python -m scripts.simulate_market --seed 7 --json              one object for programs

Caught is who became suspect after it began to cheat. The exit status is 1 if a goal is missed: 99 % of the
liars that cheated caught within 20 checked jobs or 2 % of their income, less than 1 % of the honest marked,
less than 0.5 % of the turnover lost. Those that slow down a little are counted apart: no rule finds them.
"""


def summary(result: Result, seed: int) -> dict[str, Any]:
    """The figures of a run; money in halala."""
    liars = [machine for machine in result.machines if machine.is_liar and machine.began_ms is not None]
    open_liars = [machine for machine in liars if machine.kind not in HIDDEN]
    honest = [machine for machine in result.machines if not machine.is_liar]
    decided = [in_time for in_time in map(was_caught_in_time, open_liars) if in_time is not None]
    hidden = sum(machine.lost for machine in liars if machine.kind in HIDDEN)
    lost = sum(machine.lost for machine in open_liars)
    risen = [machine.proven_ms - machine.joined_ms for machine in honest if machine.proven_ms is not None]
    turnover = max(1, result.turnover)
    return {
        "seed": seed,
        "jobs": result.jobs,
        "jobs_without_a_provider": result.waited,
        "turnover_halala": whole_halala(result.turnover),
        "checks": result.checks,
        "checks_share": result.checks / max(1, result.jobs),
        "liars_that_cheated": len(open_liars),
        "liars_caught_in_time": sum(decided) / max(1, len(decided)),
        "liars_late": len(decided) - sum(decided),
        "liars_undecided": len(open_liars) - len(decided),
        "honest": len(honest),
        "honest_marked": sum(machine.was_marked for machine in honest) / max(1, len(honest)),
        "cheated_charges_share": result.cheated_charges / turnover,
        "refunded_halala": whole_halala(result.refunded),
        "lost_to_liars_halala": whole_halala(lost),
        "lost_to_liars_share": lost / turnover,
        "lost_to_hidden_share": hidden / turnover,
        "days_until_proven": statistics.median(risen) / DAY_MS if risen else None,
        "unasked_to_newcomers": result.unasked_new / max(1, result.unasked),
        "kinds": {kind.value: _of_kind(result, kind) for kind in Kind},
    }


def _of_kind(result: Result, kind: Kind) -> dict[str, Any]:
    machines = [machine for machine in result.machines if machine.kind is kind]
    caught = [machine for machine in machines if machine.caught_ms is not None]
    return {
        "providers": len(machines),
        "cheated": sum(machine.began_ms is not None for machine in machines),
        "caught": len(caught),
        "late": sum(was_caught_in_time(machine) is False for machine in machines),
        "checks": _spread([machine.checks_until_caught for machine in caught]),
        "income_share": _spread([_income_share(machine) for machine in caught]),
        "jobs": sum(machine.jobs for machine in machines),
        "cheated_jobs": sum(machine.cheated_jobs for machine in machines),
        "lost_halala": whole_halala(sum(machine.lost for machine in machines)),
        "marked": sum(machine.was_marked for machine in machines),
    }


def _income_share(machine: Machine) -> float:
    """What it earned by cheating until it was caught, as a share of all its income."""
    return machine.earned_until_caught / max(1, machine.income)


def _spread(figures: Sequence[float]) -> dict[str, float] | None:
    """The middle, nine of ten, and the most."""
    if not figures:
        return None
    in_order = sorted(figures)
    return {
        "median": statistics.median(in_order),
        "p90": in_order[9 * len(in_order) // 10],
        "most": in_order[-1],
    }


def is_good(figures: dict[str, Any]) -> bool:
    """Whether every goal is met."""
    return bool(
        figures["liars_caught_in_time"] >= 0.99
        and figures["honest_marked"] < 0.01
        and figures["lost_to_liars_share"] < 0.005
    )


def table(figures: dict[str, Any]) -> list[str]:
    """The figures as lines for people."""
    risen = figures["days_until_proven"]
    return [
        f"seed {figures['seed']}: {figures['jobs']:,} jobs, {figures['checks']:,} checks, "
        f"turnover {figures['turnover_halala'] / 100:,.0f} SAR",
        "caught: checks and share of income until then are the middle, nine of ten and the most",
        f"{'kind':28} {'there':>5} {'cheated':>7} {'caught':>6} {'late':>4} {'checks':>12} {'income %':>16} "
        f"{'jobs':>7} {'cheated':>7} {'lost SAR':>8}",
        *(_line(name, kind) for name, kind in figures["kinds"].items()),
        f"liars caught in time      {figures['liars_caught_in_time']:.1%} of the "
        f"{figures['liars_that_cheated'] - figures['liars_undecided']} that had the time to cheat",
        f"honest ones marked        {figures['honest_marked']:.2%} of {figures['honest']}",
        f"charged for cheated work  {figures['cheated_charges_share']:.2%} of the turnover",
        f"lost to liars             {figures['lost_to_liars_share']:.3%} of the turnover",
        f"and to a little slowness  {figures['lost_to_hidden_share']:.3%} of the turnover",
        f"checks                    {figures['checks_share']:.1%} of the jobs",
        f"unasked jobs of newcomers {figures['unasked_to_newcomers']:.1%} while a proven provider was there",
        f"jobs that nobody took     {figures['jobs_without_a_provider']:,}",
        f"proven after              {'never' if risen is None else f'{risen:.1f} days'}",
    ]


def _line(name: str, kind: dict[str, Any]) -> str:
    checks = ", ".join(f"{figure:.0f}" for figure in (kind["checks"] or {}).values())
    income = ", ".join(f"{100 * figure:.1f}" for figure in (kind["income_share"] or {}).values())
    return (
        f"{name:28} {kind['providers']:5} {kind['cheated']:7} {kind['caught']:6} {kind['late']:4} "
        f"{checks:>12} {income:>16} {kind['jobs']:7,} {kind['cheated_jobs']:7,} "
        f"{kind['lost_halala'] / 100:8,.0f}"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """The command. Returns 1 if a goal is missed."""
    parser = argparse.ArgumentParser(
        "python -m scripts.simulate_market",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--providers", type=int, default=500, metavar="N", help="default: 500")
    parser.add_argument("--liars", type=float, default=0.2, metavar="SHARE", help="default: 0.2")
    parser.add_argument("--jobs", type=int, default=100_000, metavar="N", help="default: 100,000")
    parser.add_argument("--days", type=int, default=30, metavar="N", help="default: 30")
    parser.add_argument("--checks", type=int, default=1, metavar="PERCENT", help="default: 1; 0: none")
    parser.add_argument("--seed", type=int, metavar="S", help="default: a random one, which is printed")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args(arguments)
    seed = random.SystemRandom().randrange(2**32) if options.seed is None else options.seed
    sizes = (options.providers, options.liars, options.jobs, options.days)
    figures = summary(Market(*sizes, seed, options.checks).run(), seed)
    print(json.dumps(figures) if options.json else "\n".join(table(figures)))
    return 0 if is_good(figures) else 1


if __name__ == "__main__":
    sys.exit(main())

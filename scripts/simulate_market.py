"""Runs a market with liars, and tells what they stole and when each was caught.

The rules of standing, checks, placement, prices and payouts are the real ones; machines, renters and the
comparison of answers are played: see scripts/liars. The same seed gives the same market.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
from collections.abc import Sequence
from typing import Any

from scripts.liars.machines import Kind
from scripts.liars.market import Market, Result, was_caught_in_time
from server.domain.standing import DAY_MS

EXAMPLES = """\
examples:
  python -m scripts.simulate_market                              with a random seed, which is printed
  python -m scripts.simulate_market --providers 500 --liars 0.2 --seed 7
  python -m scripts.simulate_market --seed 7 --checks 0          the same market without checks
  python -m scripts.simulate_market --seed 7 --json              one object for programs

The exit status is 1 if a goal is missed: 99 % of the liars that cheated caught within 20 checks or 2 % of
their income, less than 1 % of the honest marked, less than 0.5 % of the turnover lost to liars.
"""


def summary(result: Result, seed: int) -> dict[str, Any]:
    """The figures of a run; money in halala."""
    liars = [machine for machine in result.machines if machine.is_liar and machine.began_ms is not None]
    honest = [machine for machine in result.machines if not machine.is_liar]
    decided = [in_time for in_time in map(was_caught_in_time, liars) if in_time is not None]
    stolen = sum(machine.stolen for machine in liars)
    risen = [machine.proven_ms - machine.joined_ms for machine in honest if machine.proven_ms is not None]
    kinds = {}
    for kind in Kind:
        of_kind = [machine for machine in result.machines if machine.kind is kind]
        caught = [machine for machine in of_kind if machine.caught_ms is not None]
        checks = [machine.checks_until_caught for machine in caught]
        kinds[kind.value] = {
            "providers": len(of_kind),
            "cheated": sum(machine.began_ms is not None for machine in of_kind),
            "caught": len(caught),
            "checks_median": statistics.median(checks) if checks else None,
            "checks_most": max(checks, default=None),
            "jobs": sum(machine.jobs for machine in of_kind),
            "cheated_jobs": sum(machine.cheated_jobs for machine in of_kind),
            "stolen_halala": sum(machine.stolen for machine in of_kind),
            "marked": sum(machine.was_marked for machine in of_kind),
        }
    return {
        "seed": seed,
        "jobs": result.jobs,
        "jobs_without_a_provider": result.waited,
        "turnover_halala": result.turnover,
        "checks": result.checks,
        "checks_share": result.checks / max(1, result.jobs),
        "liars_that_cheated": len(liars),
        "liars_caught_in_time": sum(decided) / max(1, len(decided)),
        "liars_undecided": len(liars) - len(decided),
        "honest": len(honest),
        "honest_marked": sum(machine.was_marked for machine in honest) / max(1, len(honest)),
        "cheated_charges_share": result.cheated_charges / max(1, result.turnover),
        "refunded_halala": result.refunded,
        "lost_to_liars_halala": stolen,
        "lost_to_liars_share": stolen / max(1, result.turnover),
        "days_until_proven": statistics.median(risen) / DAY_MS if risen else None,
        "unasked_to_newcomers": result.unasked_new / max(1, result.unasked),
        "kinds": kinds,
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
    lines = [
        f"seed {figures['seed']}: {figures['jobs']:,} jobs, {figures['checks']:,} checks, "
        f"turnover {figures['turnover_halala'] / 100:,.0f} SAR",
        f"{'kind':30} {'there':>6} {'cheated':>8} {'caught':>7} {'checks':>11} {'jobs':>8} {'cheated':>8} "
        f"{'stolen SAR':>11}",
    ]
    for name, kind in figures["kinds"].items():
        checks = (
            "" if kind["checks_median"] is None else f"{kind['checks_median']:.0f}, {kind['checks_most']}"
        )
        lines.append(
            f"{name:30} {kind['providers']:6} {kind['cheated']:8} {kind['caught']:7} {checks:>11} "
            f"{kind['jobs']:8,} {kind['cheated_jobs']:8,} {kind['stolen_halala'] / 100:11,.0f}"
        )
    risen = figures["days_until_proven"]
    return [
        *lines,
        f"liars caught in time      {figures['liars_caught_in_time']:.1%} of the "
        f"{figures['liars_that_cheated'] - figures['liars_undecided']} that had the time to cheat",
        f"honest ones marked        {figures['honest_marked']:.2%} of {figures['honest']}",
        f"charged for cheated work  {figures['cheated_charges_share']:.2%} of the turnover",
        f"lost to liars             {figures['lost_to_liars_share']:.3%} of the turnover",
        f"checks                    {figures['checks_share']:.1%} of the jobs",
        f"unasked jobs of newcomers {figures['unasked_to_newcomers']:.1%} while a proven provider was there",
        f"proven after              {'never' if risen is None else f'{risen:.1f} days'}",
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        "python -m scripts.simulate_market",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--providers", type=int, default=500, metavar="N", help="default: 500")
    parser.add_argument("--liars", type=float, default=0.2, metavar="SHARE", help="default: 0.2")
    parser.add_argument("--jobs", type=int, default=400_000, metavar="N", help="default: 400,000")
    parser.add_argument("--days", type=int, default=30, metavar="N", help="default: 30")
    parser.add_argument("--checks", type=int, default=1, metavar="PERCENT", help="default: 1; 0: none")
    parser.add_argument("--seed", type=int, metavar="S", help="default: a random one, which is printed")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args(arguments)
    seed = random.SystemRandom().randrange(2**32) if options.seed is None else options.seed
    market = Market(options.providers, options.liars, options.jobs, options.days, seed, options.checks)
    figures = summary(market.run(), seed)
    print(json.dumps(figures) if options.json else "\n".join(table(figures)))
    return 0 if is_good(figures) else 1


if __name__ == "__main__":
    sys.exit(main())

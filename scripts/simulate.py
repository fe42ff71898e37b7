"""Runs the whole market through random schedules of faults, and checks its invariants after every step.

The server's rules, services and store, both halves of the session protocol and the daemon's journal are the
real code. The database is in memory, streams are queues, engines follow a plan, and a seeded scheduler with
a virtual clock chooses the next action: see scripts/simulation.
"""

from __future__ import annotations

import argparse
import hashlib
import logging
import multiprocessing
import os
import random
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

from scripts.simulation.schedule import Outcome, replay, run
from scripts.simulation.shrink import SHRINK_SECONDS, shrink

EXAMPLES = """\
examples:
  python -m scripts.simulate --schedules 500             with a random seed, which is printed
  python -m scripts.simulate --schedules 10000 --seed 1  with the same schedules each time
  python -m scripts.simulate --seed 1 --replay 4711      prints the whole trace of a schedule

The digest covers all states of all schedules. It depends only on the seed and the number of schedules, not
on the number of workers. The exit status is 1 if an invariant was violated.
"""
PROGRESS_SECONDS = 5.0
SHOWN_VIOLATIONS = 5


@dataclass
class Summary:
    """The results of all schedules of a seed."""

    seed: int
    schedules: int = 0
    steps: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    violations: list[Outcome] = field(default_factory=list)
    digest: str = ""

    def lines(self) -> list[str]:
        """The lines to print."""
        faults = [f"  {count:9,} {kind}" for kind, count in sorted(self.faults.items())]
        return [
            f"seed        {self.seed}",
            f"schedules   {self.schedules:,}",
            f"steps       {self.steps:,}",
            f"faults      {self.faults.total():,}",
            *faults,
            f"violations  {len(self.violations)}",
            f"digest      {self.digest}",
        ]


def simulate(seed: int, schedules: int, workers: int = 1) -> Summary:
    """Runs the schedules 0 to `schedules` - 1 of a seed."""
    summary, digest = Summary(seed), hashlib.blake2b(digest_size=16)
    shown_at = time.monotonic()
    for outcome in _outcomes(seed, schedules, workers):
        summary.schedules += 1
        summary.steps += outcome.steps
        summary.faults += outcome.faults
        digest.update(outcome.digest.encode())
        if outcome.invariant:
            summary.violations.append(outcome)
        if time.monotonic() - shown_at >= PROGRESS_SECONDS:
            shown_at = time.monotonic()
            _say(f"{summary.schedules} of {schedules}, {len(summary.violations)} violations")
    summary.digest = digest.hexdigest()
    return summary


def trace(seed: int, index: int, actions: Sequence[tuple[str | int, ...]] | None = None) -> list[str]:
    """Returns the trace of a schedule, line by line. With `actions`, only these actions run."""
    lines: list[str] = []
    with _logged_to(lines):
        if actions is None:
            outcome = run(seed, index, lines.append)
        else:
            outcome = replay(seed, index, actions, lines.append, with_end=True)
    end = f"VIOLATED: {outcome.detail}" if outcome.invariant else "no invariant was violated"
    return [*lines, end]


def _outcomes(seed: int, schedules: int, workers: int) -> Iterable[Outcome]:
    run_schedule = partial(run, seed)
    if workers == 1:
        yield from map(run_schedule, range(schedules))
        return
    with multiprocessing.get_context("spawn").Pool(workers, _be_silent) as pool:
        yield from pool.imap(run_schedule, range(schedules), chunksize=8)


def _be_silent() -> None:
    # The programs log a warning for every fault, and the simulator injects faults all the time.
    logging.disable(logging.CRITICAL)


@contextmanager
def _logged_to(lines: list[str]) -> Iterator[None]:
    """Adds the programs' log messages to the trace, between the actions that caused them."""
    handler = logging.Handler(logging.INFO)
    # The accounts that all schedules share are created by the first schedule only, so their SQL is left out.
    handler.addFilter(lambda record: not record.name.startswith("peewee"))
    handler.emit = lambda record: lines.append(f"{'':14}{record.name}: {record.getMessage()}")  # type: ignore[method-assign]
    root, level, disabled = logging.getLogger(), logging.getLogger().level, logging.root.manager.disable
    logging.disable(logging.NOTSET)
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    try:
        yield
    finally:
        root.removeHandler(handler)
        root.setLevel(level)
        logging.disable(disabled)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _show(seed: int, found: Outcome) -> None:
    print(f"\nVIOLATION in schedule {found.index} of seed {seed}: {found.detail}")
    print(f"the whole trace: python -m scripts.simulate --seed {seed} --replay {found.index}")
    _say(f"searching for the shortest trace, for up to {SHRINK_SECONDS:.0f} s")
    actions = shrink(seed, found)
    print(f"the shortest trace found, {len(actions)} of {len(found.actions)} actions:")
    print("\n".join(trace(seed, found.index, actions)))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m scripts.simulate",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--schedules", type=int, default=1000, metavar="N", help="number of schedules; default 1000"
    )
    parser.add_argument("--seed", type=int, metavar="S", help="seed of the schedules; default: random")
    parser.add_argument(
        "--workers",
        type=int,
        default=os.cpu_count() or 1,
        metavar="W",
        help="number of processes; default: one per core",
    )
    parser.add_argument("--replay", type=int, metavar="INDEX", help="print the trace of this schedule only")
    options = parser.parse_args()
    if options.schedules < 1 or options.workers < 1:
        parser.error("--schedules and --workers must be at least 1")
    if options.replay is not None and options.seed is None:
        parser.error("--replay needs the --seed of the schedule")
    return options


def main() -> int:
    """The command. Returns 1 if an invariant was violated."""
    options = _options()
    _be_silent()
    if options.replay is not None:
        print("\n".join(trace(options.seed, options.replay)))
        return 0
    seed = random.randrange(2**32) if options.seed is None else options.seed
    began = time.monotonic()
    summary = simulate(seed, options.schedules, options.workers)
    print("\n".join(summary.lines()))
    print(f"seconds     {time.monotonic() - began:.0f}")
    for found in summary.violations[:SHOWN_VIOLATIONS]:
        _show(seed, found)
    return 1 if summary.violations else 0


if __name__ == "__main__":
    sys.exit(main())

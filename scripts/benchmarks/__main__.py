"""The command of ``scripts/bench``: runs the parts, prints their tables, and writes the files.

Figures depend on the machine and its other load, so a missed goal does not fail the command. The exit status
is 1 only if something could not be measured.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import importlib
import json
import os
import platform
import signal
import sys
import textwrap
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from scripts.benchmarks import page, peers
from scripts.benchmarks.figures import Figure, table
from scripts.benchmarks.processes import BenchError, PartTimeout, deadline, say
from scripts.benchmarks.sizes import FULL, QUICK, Sizes

PAGE = Path(__file__).resolve().parents[2] / "docs" / "figures.md"


@dataclass(frozen=True, slots=True)
class Part:
    """A part of the bench: a module of this package whose ``run`` measures and returns figures."""

    about: str
    estimate_seconds: int
    """How long it takes at full size on two quiet cores."""
    deadline_seconds: int
    """When it is ended."""


PARTS = {
    "gateway": Part(
        "requests/s and CPU of a read and a write route through gateway and server, through\n"
        "dcp-market (both in one program), and through Envoy before the same server, in turns;\n"
        "wrk (scripts/setup --bench) sends the load",
        70,
        240,
    ),
    "dispatch": Part(
        "a no-op job from JSON submit to the daemon's start and to the result, in turns with\n"
        "Celery on Redis and huey on SQLite; statements, syncs and messages of one job",
        75,
        300,
    ),
    "inference": Part(
        "first token, tokens/s and pauses of streamed chats through gateway, server and daemon, in\n"
        "turns with the same model server asked directly: a small real model, and an engine that\n"
        "writes a token every 10 ms; short chats/s and CPU beside LiteLLM's proxy",
        75,
        300,
    ),
    "fleet": Part("10,000 daemon connections: set-up rate, server memory, CPU of heartbeats", 100, 400),
    "storm": Part(
        "10,000 daemons come back after SIGKILL and SIGTERM of the server: seconds, refusals", 110, 400
    ),
    "growth": Part(
        "a database of 1,000,000 jobs beside one of 1,000: every GET route, one renter's heavy\n"
        "pages beside another's reads, the migrations, once killed; the first run creates the\n"
        "database (--fresh: again), which takes about 250 s more",
        190,
        1200,
    ),
    "queue": Part("jobs/s beside 50,000 queued jobs that nobody can run, and beside none", 45, 200),
    "cluster": Part(
        "several servers on one PostgreSQL with NATS: submit to started where the daemon is and across,\n"
        "cancels, revoked keys and suspensions across; jobs/s of 1, 2 and 3 servers on the same cores,\n"
        "CPU and messages of a job, with NATS and without; a look at 10,000 sessions of other servers",
        90,
        300,
    ),
    "startup": Part("each program from start to ready: seconds, CPU seconds, imported modules", 30, 120),
    "pages": Part(
        "first load of each page in Chromium: bytes, seconds until usable; the playground's first\n"
        "token beside the API's",
        75,
        300,
    ),
}
WITH_PEERS = ("gateway", "dispatch")
QUICK_DEADLINE_SECONDS = 90
ABOUT = """\
"goal" is what a figure is to reach now, "beyond" what the project aims at later. All traffic stays on
127.0.0.1, all data in a temporary folder, except the database of growth in .cache/bench. Each part has a
deadline; it, and Ctrl-C, end all started processes. The peers are in .venv/peers, in the versions of
constraints.txt, and are installed when they are first needed.

examples:
  scripts/bench                              all parts
  scripts/bench gateway dispatch --quick     two of them, small
  scripts/bench fleet --set fleet_daemons=1000 --json fleet.json
  scripts/bench --record                     all, and replace the figures in docs/figures.md"""


def main(arguments: list[str] | None = None) -> int:
    """Runs the chosen parts, prints their tables and writes the files. Returns the exit status."""
    options = parse(arguments)
    signal.signal(signal.SIGTERM, _interrupt)
    measured: dict[str, list[Figure]] = {}
    failed = False
    for name in options.parts or PARTS:
        say(f"{name}: begins")
        begun = time.monotonic()
        try:
            measured[name] = _measure(name, options)
            say(f"{name}: took {time.monotonic() - begun:.0f} s")
        except (BenchError, PartTimeout) as error:
            say(f"{name}: {error}")
            failed = True
        except Exception:
            # A fault of the program under test must not cost the figures of the other parts.
            say(f"{name}: failed\n{traceback.format_exc()}")
            failed = True
        except KeyboardInterrupt:
            say("interrupted; all started processes were ended")
            return 130
    for name, figures in measured.items():
        print(f"\n{table(name, figures)}")
    if figures := page.reached(measured):
        is_full = dataclasses.replace(options.sizes, fresh=False) == FULL
        print(f"\n{table('goals' if is_full else 'goals, NOT AT THEIR SIZES', figures)}")
    print(f"\nmeasured on {_machine()}; other load on the machine during this run changes the figures")
    if options.json is not None:
        _write(options.json, measured)
    if options.record:
        _record(measured)
    return 1 if failed else 0


def _measure(name: str, options: argparse.Namespace) -> list[Figure]:
    """Runs one part until its deadline; what it started has ended when this returns or raises."""
    if name in WITH_PEERS and options.sizes.peers:
        with contextlib.suppress(BenchError):  # the part itself says why it goes on without them
            peers.install()
    seconds = QUICK_DEADLINE_SECONDS if options.quick else PARTS[name].deadline_seconds
    with deadline(seconds):
        # Not before: what a part needs is not loaded for another one.
        module = importlib.import_module(f"scripts.benchmarks.{name}")
        figures: list[Figure] = module.run(options.sizes)
        return figures


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scripts/bench",
        description="Starts real processes and measures them.",
        epilog=_epilog(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("parts", nargs="*", metavar="part", help="what to measure (default: all)")
    add("--quick", action="store_true", help="small sizes, at most 40 s for each part; not for comparisons")
    add("--json", type=_file, metavar="FILE", help="also write the figures to FILE, as JSON")
    add("--record", action="store_true", help="also write the figures to docs/figures.md")
    add("--fresh", action="store_true", help="create the database of growth again")
    add("--set", action="append", default=[], metavar="SIZE=NUMBER", help="change a size; repeatable")
    return parser


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The options, with the chosen ``sizes``. Wrong ones end the program with one line that says why."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if unknown := [name for name in options.parts if name not in PARTS]:
        parser.error(f"{unknown[0]!r} is not a part; the parts are {', '.join(PARTS)}")
    if options.record and (options.quick or options.set):
        parser.error("--record needs the full sizes: leave out --quick and --set")
    options.sizes = dataclasses.replace(QUICK if options.quick else FULL, fresh=options.fresh)
    for text in options.set:
        try:
            options.sizes = options.sizes.changed(text)
        except ValueError as error:
            parser.error(f"--set: {error}")
    return options


def _epilog() -> str:
    lines = ["parts, and how long each takes at full size on two quiet cores:"]
    for name, part in PARTS.items():
        first, *others = part.about.splitlines()
        lines += [f"  {name:<9}{part.estimate_seconds:>4} s  {first}", *(f"{'':18}{line}" for line in others)]
    total = sum(part.estimate_seconds for part in PARTS.values())
    lines.append(f"  {'all':<9}{total:>4} s")
    sizes = ", ".join(f"{field.name}={field.default}" for field in dataclasses.fields(Sizes)[:-1])
    lines += ["", *textwrap.wrap(f"sizes for --set: {sizes}", 100, subsequent_indent="  "), "", ABOUT]
    return "\n".join(lines)


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
    text = page.with_goals(PAGE.read_text(encoding="utf-8"), measured)
    text = page.updated(text, measured, time.strftime("%Y-%m-%d"), _machine())
    PAGE.write_text(text, encoding="utf-8")
    say(f"wrote {PAGE}")


if __name__ == "__main__":
    sys.exit(main())

"""The load processes of a fleet, seen from the bench: starts them, and reads what they print."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Sequence
from typing import Any

import orjson

from scripts.benchmarks.figures import Figure, at_least
from scripts.benchmarks.market import Market
from scripts.benchmarks.processes import BIN, BenchError, Program, Programs, cpu_seconds_of, say
from scripts.benchmarks.sizes import Sizes

SPARE_FILES = 500
Facts = dict[str, Any]


class Loads:
    """All load processes, with the daemons shared out among them."""

    def __init__(self, programs: Programs, market: Market, keys: Sequence[str], sizes: Sizes) -> None:
        count = sizes.load_processes
        say(f"connecting {len(keys):,} daemons from {count} load process(es), {sizes.at_once} at once")
        self._market, self._keys = market, keys
        self._seen: dict[str, int] = {}
        self.programs = []
        for number in range(count):
            file = market.folder / f"keys-{number}"
            file.touch(0o600)
            file.write_text("\n".join(keys[number::count]), encoding="utf-8")
            module = (BIN / "python", "-m", "scripts.benchmarks.fleet_load")
            command = (*module, market.server_address, file, str(max(1, sizes.at_once // count)))
            self.programs.append(programs.start(f"fleet-load-{number}", command, {}))

    def opened(self, cpu_before: float) -> list[Figure]:
        """Waits until all daemons are connected. ``cpu_before``: the server's before. Raises BenchError."""
        market, wanted = self._market, len(self._keys)
        reports = self.reports("open", 120 + wanted / 50)
        opened, failed = (int(sum(r[name] for r in reports)) for name in ("opened", "failed"))
        if failed or opened != wanted:
            raise BenchError(
                f"{failed} of {wanted} daemons could not connect:\n{self.programs[0].last_words()}"
            )
        seconds = max(r["done"] for r in reports) - min(r["begun"] for r in reports)
        server_cpu_seconds = market.server.cpu_seconds - cpu_before
        return [
            Figure("sessions set up", opened / seconds, "1/s", at_least(500), at_least(1000)),
            Figure("Hello to Welcome, p99", max(r["setup_p99"] for r in reports) * 1000, "ms"),
            Figure("server's CPU per set-up", server_cpu_seconds / opened * 1e6, "us"),
            Figure("load's CPU per set-up", cpu_seconds_of(self.programs) / opened * 1e6, "us"),
        ]

    def send(self, number: signal.Signals) -> None:
        """Sends a signal to every load process."""
        for program in self.programs:
            program.send(number)

    def reports(self, kind: str, timeout_seconds: float = 60.0) -> list[Facts]:
        """The next line of this kind from each load process. Raises BenchError if one prints none."""
        number = self._seen[kind] = self._seen.get(kind, 0) + 1
        end = time.monotonic() + timeout_seconds
        return [_report(load, kind, number, end - time.monotonic()) for load in self.programs]


def _report(load: Program, kind: str, number: int, timeout_seconds: float) -> Facts:
    """The facts in the ``number``-th line of a kind that the load process has printed."""
    pattern = rf"(?s:(?:.*?^{kind} ){{{number}}})(\{{[^\n]*\}})$"
    facts = orjson.loads(load.wait_for(pattern, timeout_seconds))
    return {name: math.nan if value is None else value for name, value in facts.items()}

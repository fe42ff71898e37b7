"""Faults of a market of several servers, and a storm of them, by a seed."""

from __future__ import annotations

import logging
import signal
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

import httpx

from scripts.cluster import Nats
from scripts.market import Market, Program
from scripts.postgres import PostgresProgram
from tests.support.namespaces import Host, Network
from tests.support.patient_renter import eventually
from tests.support.proxied_cluster import Site
from tests.support.tcp_proxy import BlackHole, Delay, Mode, Pass, Reset, Slice, TcpProxy

log = logging.getLogger(__name__)

# How a server may end by itself: an orchestrator starts it again.
_ENDS = ("the database cannot be",)


@dataclass(frozen=True)
class Length:
    """The duration of a storm and the size of the market."""

    seconds: float
    servers: int
    daemons: int
    renters: int
    freeze_seconds: float
    faults_at_once: int


@dataclass(frozen=True)
class Strike:
    """A fault: what begins it and what ends it."""

    name: str
    begin: Callable[[], object]
    end: Callable[[], object]


@dataclass
class Target:
    """What can be struck, in one of several ways, each with how likely it is."""

    name: str
    strikes: list[tuple[float, Strike]]


def of_program(name: str, program: Program) -> Target:
    """A program is killed, ended by SIGTERM, or frozen."""
    kind = program.name.removeprefix("dcp-")

    def relaunch() -> None:
        program.kill()  # what SIGTERM has not ended
        program.launch()

    return Target(
        name,
        [
            (0.45, Strike(f"kill {kind}", program.kill, relaunch)),
            (
                0.15,
                Strike(f"terminate {kind}", lambda: program.process.send_signal(signal.SIGTERM), relaunch),
            ),
            (0.40, Strike(f"freeze {kind}", program.pause, program.resume)),
        ],
    )


def of_nats(nats: Nats) -> Target:
    """NATS is killed or frozen."""
    return Target(
        "nats",
        [
            (0.6, Strike("kill nats", nats.stop, nats.start)),
            (
                0.4,
                Strike(
                    "freeze nats",
                    lambda: nats.process.send_signal(signal.SIGSTOP),
                    lambda: nats.process.send_signal(signal.SIGCONT),
                ),
            ),
        ],
    )


def of_postgres(postgres: PostgresProgram) -> Target:
    """PostgreSQL is killed, restarted in both ways, or frozen."""
    return Target(
        "postgres",
        [
            (0.4, Strike("kill postgres", postgres.kill, postgres.start)),
            (0.2, Strike("restart postgres", postgres.stop, postgres.start)),
            (0.2, Strike("crash postgres", lambda: postgres.stop(is_fast=False), postgres.start)),
            (0.2, Strike("freeze postgres", postgres.pause, postgres.resume)),
        ],
    )


def of_way(name: str, proxy: TcpProxy) -> Target:
    """A way between two programs loses what is sent, breaks, or is slow."""
    kind = _kind(name)

    def strike(what: str, mode: Mode) -> Strike:
        return Strike(f"{what} {kind}", lambda: proxy.switch(mode), lambda: proxy.switch(Pass()))

    return Target(
        name,
        [
            (0.3, strike("black hole", BlackHole())),
            (0.2, strike("lost answers", BlackHole(answers_only=True))),
            (0.3, strike("resets", Reset())),
            (0.1, strike("delay", Delay(0.2))),
            (0.1, strike("slices", Slice(32))),
        ],
    )


def of_link(name: str, network: Network, caller: Host, called: Host) -> Target:
    """Packets between two programs are dropped, in both directions or in one."""
    kind = _kind(name)

    def cut(what: str, *directions: tuple[Host, Host]) -> Strike:
        def begin() -> None:
            for direction in directions:
                network.cut(*direction)

        def end() -> None:
            for direction in directions:
                network.mend(*direction)

        return Strike(f"{what} {kind}", begin, end)

    there, back = (caller, called), (called, caller)
    return Target(
        name,
        [
            (0.4, cut("partition", there, back)),
            (0.3, cut("lost requests", there)),
            (0.3, cut("lost answers", back)),
        ],
    )


def of_cable(target: Target, host: Host) -> Target:
    """A target whose host is cut off from all others as well."""
    cut_off = Strike(f"cut off {_kind(target.name)}", host.cut_off, host.join)
    return Target(target.name, [*target.strikes, (0.4, cut_off)])


def _kind(name: str) -> str:
    return name.translate(str.maketrans("", "", "-0123456789"))


def of_site(site: Site) -> list[Target]:
    """All programs of a site, PostgreSQL twice as likely as any other."""
    postgres = of_postgres(site.postgres)
    programs = (of_program(name, program) for name, program in site.programs.items())
    return [*programs, of_nats(site.nats), postgres, postgres]


class Storm:
    """Strikes what is well, and ends each fault after a while."""

    def __init__(
        self, site: Site, programs: Sequence[Target], ways: Sequence[Target], rng: Random, length: Length
    ) -> None:
        self._site, self._rng, self._length = site, rng, length
        self._programs, self._ways = programs, ways
        self._active: dict[str, tuple[float, Strike]] = {}
        self.faults: Counter[str] = Counter()

    def rage(self) -> None:
        """Strikes for as long as a storm takes."""
        until = time.monotonic() + self._length.seconds
        while time.monotonic() < until:
            self._end_due(time.monotonic())
            self._tend()
            if len(self._active) < self._length.faults_at_once:
                self._strike()
            time.sleep(self._rng.uniform(0.1, 0.6))

    def calm(self) -> None:
        """Ends every fault, and waits until all programs serve."""
        self._end_due(float("inf"))

        def is_well() -> bool:
            self._tend()
            return all(_is_ready(market) for market in self._site.cluster.markets)

        eventually("ready gateways", is_well)

    def _strike(self) -> None:
        rng = self._rng
        # A way has many faults that nobody notices, so it is struck less often than its number says.
        target = rng.choice(self._programs if rng.random() < 0.6 else self._ways)
        (strike,) = rng.choices([s for _, s in target.strikes], [weight for weight, _ in target.strikes])
        longest = self._length.freeze_seconds
        seconds = min(longest, 0.5 + rng.expovariate(4 / longest)) / (4 if target.name == "postgres" else 1)
        if target.name in self._active:
            return
        log.info("%s %s for %.1f s", strike.name, target.name, seconds)
        strike.begin()
        self._active[target.name] = (time.monotonic() + seconds, strike)
        self.faults[strike.name] += 1

    def _end_due(self, now: float) -> None:
        for name, (at, strike) in list(self._active.items()):
            if at <= now:
                strike.end()
                del self._active[name]

    def _tend(self) -> None:
        """Starts programs that ended by themselves, as an orchestrator does; asserts that they may."""
        for name, program in self._site.programs.items():
            if name in self._active or (status := program.process.poll()) is None:
                continue
            words = program.last_words()
            assert program.name == "dcp-server", (name, status, words)
            assert any(end in words for end in _ENDS), (name, status, words)
            self.faults["start without a database"] += 1
            program.kill()
            program.launch()


def _is_ready(market: Market) -> bool:
    try:
        return market.http.get("/readyz").status_code == 200
    except httpx.TransportError:
        return False

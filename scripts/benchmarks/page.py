"""The page docs/figures.md: the table of goals, and one section for each part of the bench.

``--record`` replaces the lines and sections of what was measured. This module only edits text; it must not
know the programs or a clock.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from scripts.benchmarks.figures import COLUMNS, Figure, row

GOALS = "Goals"
NOT_MEASURED = ("not measured yet", *[""] * len(COLUMNS))
Measured = Mapping[str, Sequence[Figure]]


@dataclass(frozen=True, slots=True)
class Goal:
    """A line of the table of goals: what it is, what it was before, and the figure that shows it."""

    what: str
    before: str
    part: str
    figure: str
    floor: str = ""
    """What is known to keep the figure from being better on this machine."""


_GRPC = "both ends of gRPC in Python are three quarters of a request"
_STEPS = "a job is durable in each of its steps, and its client asks again and again for the result"
_BILLED = "each chat is held, leased, durable and billed, on three programs; the proxy only passes it on"
_PAUSES = "the daemons' own pauses, up to 1, 2, 4 s, for each try while no server listens"
_PARSER = "the strict HTTP parser is Python, and one process has one core; Envoy and the server have both"
_STREAMS = "reading and writing the messages of gRPC streams in Python is half of a heartbeat"
_GUARDS = "a quarter of them begin and end transactions; each other one guards or moves what a job needs"
_ACCOUNTS = "operators' search by a part of a name reads every account, here 100,000; nothing reads all jobs"
_OWN = "usage reads the account's charged jobs of the days that are asked for"
_LEDGER = "the hold is committed before the engine is asked, and three programs in Python have their turns"
_SAME_CORES = "the model computes on the two cores that the market's programs need"
_BATCHES = "acks wait for their batch's commit, which other programs delay (17.6 ms beside none)"
_COMES_BACK = f"{_PAUSES}; of SIGTERM also the pauses that the ending server gives them, spread by its rate"
_COMMITS = "the hold, the lease and the bill are each durable before the next party acts on it"
_TURNS = "a session, a hold and a lease stand before the start; a Celery task is one entry of a list"
_BESIDE = "two cores: what a heavy page computes, others wait for now and then"
_CHROMIUM = "Chromium reads, lays out and draws on the same two cores as the market"
_LOAD = "the load needs the same cores for its half of each set-up"
GOAL_LINES = (
    Goal("10,000 daemons are back after SIGKILL", "never", "storm", "SIGKILL: all daemons back after",
         _PAUSES),
    Goal("10,000 daemons are back after SIGTERM", "> 60 s", "storm", "SIGTERM: all daemons back after",
         _COMES_BACK),
    Goal("of them refused after SIGKILL", "15,181", "storm", "SIGKILL: streams that the server refused"),
    Goal("of them refused after SIGTERM", "", "storm", "SIGTERM: streams that the server refused"),
    Goal("sessions set up in a second", "130 to 200", "fleet", "sessions set up", _LOAD),
    Goal("memory at 10,000 daemons", "571 MB", "fleet", "server resident, all connected",
         "gRPC alone takes 38 kB a connection"),
    Goal("CPU at 1,000 heartbeats/s", "60 %", "fleet", "server's CPU while they beat",
         _STREAMS),
    Goal("heartbeat to its ack, p99", "670 ms", "fleet", "heartbeat to its ack, p99",
         _BATCHES),
    Goal("read route, embedded : Envoy and the server", "0.98", "gateway", "read, rate, embedded : envoy",
         _PARSER),
    Goal("write route, embedded : Envoy and the server", "0.84", "gateway", "write, rate, embedded : envoy",
         _PARSER),
    Goal("CPU of the read route, embedded : Envoy", "1.21", "gateway",
         "read, CPU per request with the server, embedded : envoy",
         _PARSER),
    Goal("CPU of the write route, embedded : Envoy", "1.37", "gateway",
         "write, CPU per request with the server, embedded : envoy",
         _PARSER),
    Goal("CPU of the read route, gateway of its own : Envoy", "1.21", "gateway",
         "read, CPU per request with the server, gateway : envoy", _GRPC),
    Goal("CPU of the write route, gateway of its own : Envoy", "1.37", "gateway",
         "write, CPU per request with the server, gateway : envoy", _GRPC),
    Goal("jobs/s : Celery with a Redis that syncs always", "0.2", "dispatch",
         "jobs/s, embedded : celery, redis syncs always", _STEPS),
    Goal("statements of a job", "64", "dispatch", "one job: statements",
         _GUARDS),
    Goal("commits of a job", "4.4", "dispatch", "one job: write transactions", _COMMITS),
    Goal("syncs of the server for a job", "4.6", "dispatch", "one job: syncs of the server", _COMMITS),
    Goal("syncs of the daemon for a job", "4.5", "dispatch", "one job: syncs of the daemon"),
    Goal("messages on the stream for a job", "7", "dispatch", "one job: messages on the stream"),
    Goal("submit to started at rest, p50 : the same Celery", "2 to 2.5", "dispatch",
         "submit to started at rest, p50, embedded : celery, redis syncs always", _TURNS),
    Goal("first token of a chat, small model: later than directly", "1,042 ms", "inference",
         "a small model, one stream: first token, p50, market - direct",
         _LEDGER),
    Goal("first token of a chat, scripted engine: later than directly", "", "inference",
         "a token each 10 ms, one stream: first token, p50, market - direct",
         _LEDGER),
    Goal("tokens/s of a stream, small model : directly", "0.79", "inference",
         "a small model, one stream: tokens/s of a stream, market : direct",
         _SAME_CORES),
    Goal("tokens/s of 8 streams, scripted engine : directly", "", "inference",
         "a token each 10 ms, 8 streams: tokens/s of a stream, market : direct"),
    Goal("short chats a CPU second : LiteLLM's proxy", "", "inference",
         "short chats a CPU second, market : litellm", _BILLED),
    Goal("every route at 1,000,000 jobs : at 1,000", "up to 290", "growth",
         "the worst of all routes, usual account", _ACCOUNTS),
    Goal("the same for an account with 100,000 jobs of its own", "up to 290", "growth",
         "the worst of all routes, largest account", _OWN),
    Goal("another renter's p99 beside 8 heavy pages at once : alone", "504", "growth",
         "another renter's p99 beside 8 heavy pages at once : alone", _BESIDE),
    Goal("jobs/s beside 50,000 that nobody can run : beside none", "0.22", "queue",
         "jobs/s, full queue : empty queue"),
    Goal("submit to started at the daemon's server, p50", "", "cluster",
         "same server: submit to started, at rest, p50"),
    Goal("submit to started at another server, p50", "", "cluster",
         "across: submit to started, at rest, p50"),
    Goal("at another server : at the daemon's, p50", "", "cluster",
         "submit to started, at rest, p50, across : same server"),
    Goal("a cancel at another server, the longest of 20", "", "cluster",
         "across: cancel to the daemon's message, the longest"),
    Goal("a key that was revoked at another server, the longest of 20", "", "cluster",
         "across: revoked key to its first refusal, the longest"),
    Goal("a suspension at another server, the longest of 20", "", "cluster",
         "across: suspension to the end of the session, the longest"),
    Goal("first load of the largest page, compressed", "197 kB", "pages",
         "first load of the largest page, transferred"),
    Goal("first load of the slowest page, until usable", "0.59 s", "pages",
         "first load of the slowest page, until usable, p50", _CHROMIUM),
    Goal("first token of a chat on the playground: later than by the API", "", "pages",
         "the page's first token: later than the API's, p50",
         _CHROMIUM),
    Goal("migrations of 1,000,000 jobs", "", "growth", "migrations from 0015: until ready"),
    Goal("left of a migration that was killed", "", "growth",
         "interrupted: tables, indexes and triggers of an incomplete one"),
)  # fmt: skip


def updated(page: str, measured: Measured, date: str, machine: str) -> str:
    """The page with new sections for the measured parts; the rest is unchanged."""
    for part, figures in measured.items():
        text = f"{date}, on {machine}.\n\n{_table(('figure', *COLUMNS), map(row, figures), numbers=(1,))}\n"
        page = _replaced(page, part, text)
    return page.rstrip("\n") + "\n"


def reached(measured: Measured) -> list[Figure]:
    """The measured figures of the goals, under their names there."""
    figures = {(part, figure.name): figure for part, of_part in measured.items() for figure in of_part}
    return [
        replace(figures[goal.part, goal.figure], name=goal.what)
        for goal in GOAL_LINES
        if (goal.part, goal.figure) in figures
    ]


def with_goals(page: str, measured: Measured) -> str:
    """The page with new lines for the measured goals; of the others only the floor is written anew."""
    found = _section(page, GOALS)
    before = {cells[0]: cells[2:] for cells in map(_cells, found[0].splitlines()) if len(cells) > 3}
    now = {figure.name: figure for figure in reached(measured)}
    lines = []
    for goal in GOAL_LINES:
        values = before.get(goal.what, NOT_MEASURED)
        if (figure := now.get(goal.what)) is not None:
            values = (*row(figure)[1:], "")
        values = (*values[:-1], goal.floor if "no" in values[:-1] else "")
        lines.append((goal.what, goal.before, *values))
    head = ("what", "before", "now", *COLUMNS[1:], "floor")
    return _replaced(page, GOALS, _table(head, lines, numbers=(2,)) + "\n").rstrip("\n") + "\n"


def _section(page: str, name: str) -> re.Match[str]:
    found = re.search(rf"^## {re.escape(name)}\n.*?(?=^## |\Z)", page, re.MULTILINE | re.DOTALL)
    if found is None:
        raise ValueError(f"docs/figures.md has no section '## {name}'; add the heading")
    return found


def _replaced(page: str, name: str, text: str) -> str:
    found = _section(page, name)
    return f"{page[: found.start()]}## {name}\n\n{text}\n{page[found.end() :]}"


def _cells(line: str) -> tuple[str, ...]:
    return tuple(cell.strip() for cell in line[1:].rstrip("|").split("|")) if line.startswith("| ") else ()


def _table(head: Sequence[str], lines: Iterable[Sequence[str]], numbers: Sequence[int]) -> str:
    rule = ["---:" if column in numbers else "---" for column in range(len(head))]
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, rule, *lines))

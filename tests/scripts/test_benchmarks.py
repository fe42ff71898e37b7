"""The bench: its tables and sizes, its databases, what it leaves, and one part in its smallest form."""

from __future__ import annotations

import asyncio
import json
import math
import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psutil
import pytest

from scripts.benchmarks import growth, growth_data, page
from scripts.benchmarks.__main__ import PARTS, parse
from scripts.benchmarks.figures import Figure, at_least, at_most, table
from scripts.benchmarks.growth_data import Shape
from scripts.benchmarks.processes import ROOT, PartTimeout, deadline, workplace
from scripts.benchmarks.sizes import FULL, QUICK
from server.store import proof
from server.store.database import Database

GOALS = "# Figures\n\n## Goals\n\n| what |\n"


def test_table_has_a_row_for_each_figure_with_its_goals() -> None:
    figures = [Figure("rate", 1_000, "req/s", at_least(900), at_least(2_000)), Figure("p50", 2.5, "ms")]
    head, line, rate, p50 = table("gateway", figures).splitlines()
    assert head.split() == ["gateway", "value", "unit", "goal", "met", "beyond", "met"]
    assert set(line) == {"-"}
    assert rate.split() == ["rate", "1,000", "req/s", ">=", "900", "yes", ">=", "2,000", "no"]
    assert p50.split() == ["p50", "2.50", "ms"]


def test_figure_that_was_not_measured_meets_no_goal() -> None:
    figure = Figure("rate", math.nan, "", at_most(1))
    assert table("", [figure]).splitlines()[2].split() == ["rate", "-", "<=", "1"]


def test_goals_that_were_not_measured_keep_their_lines() -> None:
    goal = next(goal for goal in page.GOAL_LINES if goal.floor)
    missed = Figure(goal.figure, 31.0, "s", at_most(30), at_most(10))
    written = page.with_goals(GOALS, {goal.part: [missed]})
    line = f"| {goal.what} | {goal.before} | 31 | s | <= 30 | no | <= 10 | no | {goal.floor} |"
    assert line in written.splitlines()
    assert written.count(page.NOT_MEASURED[0]) == len(page.GOAL_LINES) - 1
    assert page.with_goals(written, {}) == written
    assert line in page.with_goals(written.replace(goal.floor, "an older floor"), {}).splitlines()
    reached = Figure(goal.figure, 9.0, "s", at_most(30), at_most(10))
    line = f"| {goal.what} | {goal.before} | 9 | s | <= 30 | yes | <= 10 | yes |  |"
    assert line in page.with_goals(written, {goal.part: [reached]}).splitlines()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("no_size=1", "'no_size' is not a size; the sizes are gateway_seconds,"),
        ("fresh=1", "'fresh' is not a size"),
        ("storm_daemons=0", "storm_daemons must be a number from 1 to 2,000,000"),
        ("storm_daemons=x", "storm_daemons must be a number"),
        ("queue_jobs=2000001", "queue_jobs must be a number from 0 to 2,000,000"),
    ],
)
def test_wrong_size_is_refused(text: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(["--set", text])
    assert message in capsys.readouterr().err


def test_only_full_sizes_are_recorded(capsys: pytest.CaptureFixture[str]) -> None:
    for options in (["--quick"], ["--set", "peers=0"]):
        with pytest.raises(SystemExit):
            parse(["queue", "--record", *options])
        assert "--record needs the full sizes" in capsys.readouterr().err


def test_all_parts_together_take_at_most_a_quarter_of_an_hour() -> None:
    assert sum(part.estimate_seconds for part in PARTS.values()) <= 15 * 60
    assert all(part.estimate_seconds < part.deadline_seconds for part in PARTS.values())


def test_quick_sizes_are_not_above_the_full_ones() -> None:
    assert QUICK != FULL
    assert all(getattr(QUICK, name) <= getattr(FULL, name) for name in FULL.__slots__)


def test_part_that_reaches_its_deadline_ends_what_it_started() -> None:
    started: list[psutil.Process] = []
    with pytest.raises(PartTimeout):
        part_without_end(started)
    assert len(started) == 2
    _, alive = psutil.wait_procs(started, timeout=10)
    assert alive == []


def test_second_interruption_does_not_leave_processes() -> None:
    started: list[psutil.Process] = []
    with pytest.raises(KeyboardInterrupt):
        part_interrupted_twice(started)
    assert len(started) == 2
    assert psutil.wait_procs(started, timeout=10)[1] == []


def part_interrupted_twice(started: list[psutil.Process]) -> None:
    """Starts two programs, is interrupted, and again while the one that ends slowly is ended."""
    slow = "trap 'sleep 1; exit' TERM; echo ready; while :; do sleep 0.1; done"
    with workplace() as programs:
        for number in range(2):
            program = programs.start(f"slow-{number}", ["sh", "-c", slow], {})
            program.wait_for("(ready)")
            started.append(psutil.Process(program.process.pid))
        again = threading.Timer(0.5, lambda: os.kill(os.getpid(), signal.SIGINT))
        again.start()
        raise KeyboardInterrupt


def part_without_end(started: list[psutil.Process]) -> None:
    """Starts a program with a child, and waits for longer than it may."""
    with deadline(0.3), workplace() as programs:
        program = programs.start("parent", ["sh", "-c", "sleep 600 & echo ready; wait"], {})
        program.wait_for("(ready)")
        parent = psutil.Process(program.process.pid)
        started += [parent, *parent.children()]
        program.wait(60)


@pytest.mark.parametrize("has_large", [True, False])
def test_database_of_growth_has_a_ledger_that_proves(tmp_path: Path, has_large: bool) -> None:
    path = tmp_path / "growth.sqlite3"
    growth_data.create(path, Shape(1_000, has_large))
    growth_data.settle(path)
    database = Database(f"sqlite:///{path}")
    database.start()
    try:
        found = asyncio.run(database.read(proof.replay))
    finally:
        database.stop()
    assert (found.discrepancies, found.checkpoint_id) == ((), 1)
    with closing(sqlite3.connect(path)) as rows:
        jobs = dict(rows.execute("SELECT renter_id, COUNT(*) FROM job GROUP BY 1"))
    assert sum(jobs.values()) == 1_000
    assert jobs.get(1, 0) == (99 if has_large else 0)
    assert {count for renter, count in jobs.items() if renter > 1} <= set(range(8, 13))


def test_growth_knows_a_value_for_each_field_in_the_paths_that_it_asks() -> None:
    asked = {name for ask in growth.asks() for name in ask.binding.path_fields}
    assert asked <= set(growth.PATH_VALUES), "growth.py: say what the new path names"


def test_unbalanced_database_of_growth_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "growth.sqlite3"
    growth_data.create(path, Shape(1_000, has_large=True))
    with closing(sqlite3.connect(path)) as rows, rows:
        rows.execute("UPDATE account SET balance_halala = balance_halala + 1 WHERE id = 3")
    with pytest.raises(Exception, match="does not balance"):
        growth_data.settle(path)


def test_growth_asks_every_get_route() -> None:
    found = list(growth.asks())
    paths = {ask.binding.path for ask in found}
    assert {"/api/renters/me", "/api/jobs/{job_id}", "/api/admin/dashboard"} <= paths
    assert all(ask.binding.verb == "GET" for ask in found)
    assert "GET /api/jobs?status=running" in {ask.name for ask in found}


@pytest.mark.e2e
@pytest.mark.parametrize(
    ("part", "quick", "sizes", "figure", "left"),
    [
        (
            "queue",
            ["--quick"],
            {"queue_jobs": 60, "queue_measured_jobs": 3},
            "jobs/s, 16 in flight, beside 60 queued jobs",
            [],
        ),
        (
            "cluster",
            [],  # it starts some twenty programs, which may take longer than a quick part on a busy machine
            {
                "cluster_servers": 2,
                "cluster_daemons": 1,
                "cluster_jobs": 3,
                "cluster_rounds": 1,
                "cluster_hints": 1,
                "cluster_elsewhere": 10,
            },
            "2 servers without NATS: jobs/s, 16 in flight",
            [f"dcp-pg-lock-{os.getuid()}"],  # every PostgreSQL of this user waits for it
        ),
    ],
)
def test_part_measures_real_programs_and_leaves_none(
    part: str, quick: list[str], sizes: dict[str, int], figure: str, left: list[str], open_folder: Path
) -> None:
    file = open_folder / "figures.json"
    options = [text for name, value in sizes.items() for text in ("--set", f"{name}={value}")]
    command = [sys.executable, "-m", "scripts.benchmarks", part, *quick, "--json", str(file), *options]
    environment = {**os.environ, "TMPDIR": str(open_folder)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=320)
    assert done.returncode == 0, done.stderr
    figures = {found["name"]: found for found in json.loads(file.read_text())["figures"][part]}
    assert figures[figure]["value"] > 0
    assert {goal.figure for goal in page.GOAL_LINES if goal.part == part} <= figures.keys()
    assert [process for process in psutil.process_iter() if has_environment(process, str(open_folder))] == []
    assert sorted(path.name for path in open_folder.iterdir()) == sorted([file.name, *left])


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that other users can reach: as root, PostgreSQL runs under a user of its own."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


def has_environment(process: psutil.Process, text: str) -> bool:
    """Whether a variable of the process has this value."""
    try:
        return text in process.environ().values()
    except psutil.Error:
        return False

"""Containers outlive the daemon: they are adopted, end at their deadline, or are removed."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from pathlib import Path

import pytest
from dcp.v1 import sessions_pb2

from daemon.runners import Log
from tests.daemon.runners.bench import Bench, Outcome, both_engines, shell, until
from tests.support.private_engine import PrivateEngine

pytestmark = pytest.mark.engine

# Ten numbered lines on both streams, half a second apart.
TEN_LINES = "i=0; while [ $i -lt 10 ]; do echo line $i; i=$((i+1)); sleep 0.2; done; echo done > /output/done"


async def outcome_before_death(bench: Bench, offered: sessions_pb2.JobOffer, marker: bytes) -> Outcome:
    """What a daemon had read of a run when it died. Its containers go on without it."""
    await bench.runner.prepare(offered)
    outcome = Outcome()
    pieces = bench.runner.run(offered)
    async for piece in pieces:
        if isinstance(piece, Log):
            outcome.log += piece.data
        elif isinstance(piece, bytes):
            outcome.output += piece
        if marker in outcome.output:
            break
    bench.abandon(pieces)
    return outcome


@both_engines
async def test_restarted_daemon_reads_on_where_its_predecessor_stopped(bench: Bench) -> None:
    offered = shell(TEN_LINES)
    before = await outcome_before_death(bench, offered, b"line 3\n")
    rest = await bench.adopt(offered, len(before.output), len(before.log))
    assert rest is not None
    assert rest.reason == ""
    assert before.output + rest.output == b"".join(b"line %d\n" % i for i in range(10))
    assert (before.log + rest.log).partition(b"\n")[2] == before.output + rest.output
    assert rest.files == {"done": b"done\n"}


async def test_run_that_ended_meanwhile_is_reported_with_its_files(bench: Bench) -> None:
    offered = shell("echo one; sleep 0.5; echo two; echo x > /output/x; exit 5")
    before = await outcome_before_death(bench, offered, b"one\n")
    await until(lambda: "Exited (5)" in bench.engine.docker("ps", "--all", "--format", "{{.Status}}"))
    rest = await bench.adopt(offered, len(before.output), len(before.log))
    assert rest is not None
    assert (rest.reason, rest.output, rest.files) == ("CONTAINER_EXIT", b"two\n", {"x": b"x\n"})


async def test_adopted_run_has_the_rest_of_its_time_limit(bench: Bench) -> None:
    stays = "trap '' TERM; echo epoch 1 > /output/checkpoint; echo up; while true; do sleep 1; done"
    offered = shell(stays, seconds=5)
    before = await outcome_before_death(bench, offered, b"up\n")
    async with asyncio.timeout(15):
        rest = await bench.adopt(offered, len(before.output), len(before.log))
    assert rest is not None
    assert (rest.reason, rest.files) == ("DURATION_LIMIT", {"checkpoint": b"epoch 1\n"})


@both_engines
async def test_run_ends_at_its_deadline_without_a_daemon(bench: Bench) -> None:
    bench.restrict(keeper_grace_seconds=1.0)
    offered = shell("trap '' TERM INT HUP; echo up; while true; do sleep 1; done", seconds=1)
    before = await outcome_before_death(bench, offered, b"up\n")
    await until(lambda: bench.engine.docker("ps", "--quiet") == "", seconds=30)
    rest = await bench.adopt(offered, len(before.output), len(before.log))
    assert rest is not None
    assert rest.reason == "DURATION_LIMIT"


async def test_sweep_removes_unknown_containers(bench: Bench) -> None:
    await outcome_before_death(bench, shell("echo up; sleep 600"), b"up\n")
    assert len(bench.engine.left()) == 4
    (bench.folder / "artifacts" / "forgotten").mkdir(parents=True)
    await bench.runner.sweep()
    assert bench.engine.left() == []
    assert list((bench.folder / "artifacts").iterdir()) == []


@both_engines
async def test_sweep_keeps_running_containers_and_those_of_another_daemon(
    engine: PrivateEngine, tmp_path: Path
) -> None:
    own, other = Bench(engine, tmp_path / "1", owner="one"), Bench(engine, tmp_path / "2", owner="two")
    running = asyncio.create_task(own.run(shell("echo up; sleep 1; echo still", job_id="job-a")))
    await until(lambda: "-job" in engine.docker("ps", "--format", "{{.Names}}"))
    await own.runner.sweep()
    await other.runner.sweep()
    outcome = await running
    assert outcome.output == b"up\nstill\n"
    await own.runner.close()
    await other.runner.close()


async def test_run_without_its_keeper_is_not_adopted(bench: Bench) -> None:
    offered = shell("echo up; sleep 600")
    await outcome_before_death(bench, offered, b"up\n")
    keeper = next(name for name in bench.engine.left() if name.endswith("-keeper"))
    bench.engine.docker("kill", keeper)
    await until(lambda: bench.engine.docker("ps", "--quiet") == "")
    assert await bench.adopt(offered) is None, "as after a restart of the machine"
    await bench.runner.sweep()


async def test_another_lease_of_the_job_is_not_adopted(bench: Bench) -> None:
    offered = shell("echo up; sleep 600")
    await outcome_before_death(bench, offered, b"up\n")
    newer = sessions_pb2.JobOffer()
    newer.CopyFrom(offered)
    newer.lease.lease_epoch = 2
    assert await bench.adopt(newer) is None
    await bench.runner.sweep()


async def test_closed_run_leaves_nothing(bench: Bench) -> None:
    offered = shell("echo up; sleep 600")
    await bench.runner.prepare(offered)
    async with aclosing(bench.runner.run(offered)) as pieces:
        async for piece in pieces:
            if piece == b"up\n":
                break
    assert bench.engine.left() == []

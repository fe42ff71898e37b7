"""Celery and huey as contenders of the market: the workers are processes, and a client of theirs measures."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scripts.benchmarks import peers
from scripts.benchmarks.engine import read_starts
from scripts.benchmarks.processes import ROOT, BenchError, Program, Programs, environment
from scripts.benchmarks.runs import Ran, Run

MODULE = "scripts.benchmarks.peer_jobs"
CLIENT = f"from {MODULE} import main; main()"
CLIENT_SECONDS = 120.0
# How often huey's workers look for a job, in seconds; its default of 0.1 would be the measured time.
HUEY_LOOKS = "0.001"


@dataclass
class PeerQueue:
    """A queue with its workers."""

    name: str
    programs: Sequence[Program]
    settings: dict[str, str]

    def measure(self, count: int, *, busy: bool) -> Run:
        """See `Contender.measure`."""
        before = {program.name: program.cpu_seconds for program in self.programs}
        facts = self._client("busy" if busy else "rest", count)
        used = {program.name: program.cpu_seconds - before[program.name] for program in self.programs}
        ran = [Ran(number, sent) for number, sent in facts["sent"].items()]
        starts = read_starts(Path(self.settings["PEER_STARTS"]))
        return Run.of(ran, starts, facts["seconds"], {**used, "the client": facts["cpu_seconds"]})

    def _client(self, how: str, count: int) -> dict[str, Any]:
        command = [str(peers.ENVIRONMENT / "bin" / "python"), "-c", CLIENT, how, str(count)]
        try:
            done = subprocess.run(
                command, cwd=ROOT, env=environment(self.settings), capture_output=True, check=True,
                timeout=CLIENT_SECONDS,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise BenchError(f"{self.name}: {count} jobs took longer than {CLIENT_SECONDS:.0f} s") from None
        except subprocess.CalledProcessError as error:
            words = (error.stderr or error.stdout).decode(errors="replace")[-500:]
            raise BenchError(f"{self.name}: {words}\n{self.programs[-1].last_words()}") from None
        facts: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return facts


def celery(programs: Programs, name: str, redis_name: str, *, syncs: bool) -> PeerQueue:
    """Celery with as many worker processes as there are cores, its other settings as they come."""
    bin_folder = peers.install() / "bin"
    redis, url = peers.start_redis(programs, redis_name, syncs=syncs)
    settings = {"PEER_QUEUE": url, "PEER_STARTS": str(programs.folder / f"{redis_name}.starts")}
    application = ("-A", f"{MODULE}:queue", "worker", "--loglevel", "error")
    command = (bin_folder / "celery", *application, "--concurrency", str(os.cpu_count()))
    worker = programs.start(f"{redis_name}-celery", command, settings)
    return PeerQueue(name, (redis, worker), settings)


def huey(programs: Programs, name: str) -> PeerQueue:
    """Huey on a SQLite file that is synced at each commit."""
    bin_folder = peers.install() / "bin"
    settings = {
        "PEER_QUEUE": str(programs.folder / "huey.sqlite3"),
        "PEER_STARTS": str(programs.folder / "huey.starts"),
    }
    consumer = (bin_folder / "python", "-m", "huey.bin.huey_consumer", f"{MODULE}.queue", "--quiet")
    looks = ("--delay", HUEY_LOOKS, "--max-delay", HUEY_LOOKS)
    command = (*consumer, "--workers", str(os.cpu_count()), *looks)
    return PeerQueue(name, (programs.start("huey", command, settings),), settings)

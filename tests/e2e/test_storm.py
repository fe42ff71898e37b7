"""A storm of faults over a working market: whichever program is killed, frozen or disconnected, every job

ends and is paid once. A failure shows the seed; ``--storm-seed`` repeats the same faults in the same order.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from enum import Enum, auto
from pathlib import Path
from random import Random

import pytest

from scripts.market import Program
from tests.support.lengths import lengths
from tests.support.scene import Scene, played
from tests.support.scripted_daemon import answer_to, script
from tests.support.tcp_proxy import BlackHole, Delay, Mode, Pass, Reset, Slice, TcpProxy

SUBMITTERS = 4

pytestmark = pytest.mark.e2e
log = logging.getLogger(__name__)


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    with played(tmp_path) as scene:
        yield scene


@dataclass(frozen=True)
class Length:
    """The duration of a storm, and the number of jobs submitted in it."""

    seconds: float
    jobs: int


@dataclass(frozen=True)
class Order:
    """A job that the renter will submit."""

    key: str
    prompt: str
    at_seconds: float
    is_repeated: bool
    is_cancelled: bool


def orders(rng: Random, length: Length) -> list[Order]:
    """A series of short jobs over the duration of the storm."""
    times = sorted(rng.uniform(0.0, length.seconds) for _ in range(length.jobs))
    return [
        Order(
            f"key-{number}",
            script(f"word{number}", rng.randint(1, 40), 0.03),
            at_seconds,
            rng.random() < 0.3,
            rng.random() < 0.1,
        )
        for number, at_seconds in enumerate(times)
    ]


class State(Enum):
    """The state of a program in the storm."""

    UP = auto()
    FROZEN = auto()
    DEAD = auto()


@dataclass
class Storm:
    """Injects random faults into programs and proxies, one after the other."""

    scene: Scene
    rng: Random
    faults: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        scene = self.scene
        programs = [scene.server, scene.gateway, *scene.daemons.values()]
        self._states = dict.fromkeys(programs, State.UP)
        self._proxies = [scene.gateway_proxy, *scene.proxies.values()]

    def rage(self, seconds: float) -> None:
        """Injects faults for a number of seconds."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self._strike()
            time.sleep(self.rng.uniform(0.05, 0.6))
            self._assert_only_the_storm_ends_programs()

    def calm(self) -> None:
        """Ends all faults and starts all programs again, with working networks."""
        for proxy in self._proxies:
            proxy.switch(Pass())
        for program in self._states:
            program.kill()
        for program in self._states:
            program.restart()

    def _strike(self) -> None:
        down = [program for program, state in self._states.items() if state is not State.UP]
        # A market without any working program cannot show a fault.
        if down and self.rng.random() < 0.65:
            self._hit(self.rng.choice(down))
        elif self.rng.random() < 0.5:
            self._disturb(self.rng.choice(self._proxies))
        else:
            self._hit(self.rng.choice(list(self._states)))

    def _hit(self, program: Program) -> None:
        state = self._states[program]
        if state is State.DEAD:
            program.launch()
            self._become(program, State.UP)
        elif state is State.FROZEN and self.rng.random() < 0.7:
            program.resume()
            self._become(program, State.UP)
        elif state is State.UP and self.rng.random() < 0.4:
            program.pause()
            self._become(program, State.FROZEN)
        else:
            program.kill()
            self._become(program, State.DEAD)

    def _become(self, program: Program, state: State) -> None:
        self._states[program] = state
        self.faults[f"{program.name} {state.name.lower()}"] += 1

    def _disturb(self, proxy: TcpProxy) -> None:
        modes: list[Mode] = [
            *(Pass(),) * 4,
            Delay(self.rng.uniform(0.01, 0.5)),
            BlackHole(answers_only=self.rng.random() < 0.5),
            Reset(),
            Slice(self.rng.randint(1, 64)),
        ]
        mode = self.rng.choice(modes)
        proxy.switch(mode)
        self.faults[type(mode).__name__] += 1

    def _assert_only_the_storm_ends_programs(self) -> None:
        for program, state in self._states.items():
            assert state is State.DEAD or program.process.poll() is None, program.last_words()


def place(scene: Scene, order: Order, began_at: float) -> str:
    """Submits the job at its time and repeats the request until it succeeds; returns the job's id."""
    time.sleep(max(0.0, began_at + order.at_seconds - time.monotonic()))
    job_id = scene.play(order.prompt, key=order.key)
    if order.is_repeated:
        assert scene.play(order.prompt, key=order.key) == job_id
    if order.is_cancelled:
        assert scene.renter.ask("POST", f"/api/jobs/{job_id}/cancel").status_code in {200, 409}
    return job_id


@lengths("length", short=Length(seconds=10.0, jobs=20), full=Length(seconds=30.0, jobs=50))
def test_storm_loses_nothing_and_duplicates_nothing(scene: Scene, seed: int, length: Length) -> None:
    for _ in range(2):
        scene.add_daemon()
    wanted = orders(Random(seed), length)
    storm = Storm(scene, Random(seed))
    with ThreadPoolExecutor(SUBMITTERS) as renters:
        began_at = time.monotonic()
        placed = [renters.submit(place, scene, order, began_at) for order in wanted]
        try:
            storm.rage(length.seconds)
        finally:
            storm.calm()
        job_ids = [future.result() for future in placed]
    for order, job_id in zip(wanted, job_ids, strict=True):
        assert_ended_as_it_should(scene, order, job_id)
    assert len(set(job_ids)) == length.jobs
    scene.assert_books()
    jobs = [scene.renter.job(job_id) for job_id in job_ids]
    log.info("faults %s", dict(storm.faults))
    log.info("jobs by state and attempt %s", Counter((job["status"], job["attempt"]) for job in jobs))
    assert any(job["status"] == "completed" for job in jobs)


def assert_ended_as_it_should(scene: Scene, order: Order, job_id: str) -> None:
    """Asserts that the job ended once, with its whole output, and is billed for no more than its run."""
    job = scene.renter.until_final(job_id)
    assert scene.play(order.prompt, key=order.key) == job_id
    attempts = scene.renter.attempts(job_id)
    assert [attempt["lease_epoch"] for attempt in attempts] == list(range(1, len(attempts) + 1))
    succeeded = [attempt for attempt in attempts if attempt.get("outcome") == "succeeded"]
    match job["status"]:
        case "completed":
            assert scene.renter.output(job_id) == scene.renter.output(job_id) == answer_to(order.prompt)
            assert succeeded == attempts[-1:]
            assert_billed_within_its_run(scene, job_id, job["billing"]["billed_seconds"], len(attempts))
        case "cancelled":
            assert order.is_cancelled
            assert succeeded == []
        case _:
            assert job["failure_reason"] == "PROVIDER_LOST"
            assert succeeded == []


def assert_billed_within_its_run(scene: Scene, job_id: str, billed_seconds: float, epoch: int) -> None:
    run = rf"run_ms=(\d+) job_id={job_id} attempt=\d+ lease_epoch={epoch} "
    reports = scene.lines(f"job finished outcome=RUN_OUTCOME_SUCCEEDED {run}")
    assert reports, "a success that no daemon reported"
    assert round(billed_seconds * 1000) <= int(reports[0][1])

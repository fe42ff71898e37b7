"""Owns the daemon's proof that its engines work: when each is tested, and what its newest test says.

At the start every engine is tested, and once an hour again; a failed one sooner, after 1 minute, then 2,
4 and so on up to an hour. A job that succeeds is as good as a test; one that an engine could not do
has it tested at once. It must not know the protocol, or what an engine does in a test.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from random import Random

from dcp.v1 import honesty_pb2, jobs_pb2, sessions_pb2

from daemon.machine.clock import Clock
from daemon.runners import Runner, RunnerError

logger = logging.getLogger(__name__)

PERIOD_SECONDS = 3600.0
PERIOD_JITTER = 0.1
FIRST_RETRY_SECONDS = 60.0
MAX_REASON_CHARACTERS = 500
CLOSE_SECONDS = 2.0

_NEVER_TESTED = "Its first test has not ended yet."
_BROKE_DOWN = "It broke down in its test."
_TOO_SLOW = "Its test took too long."


class SelfTestRecord:
    """What is known of one engine: pure, time and randomness are arguments."""

    def __init__(self) -> None:
        self.passed = False
        self.is_new = True
        """Neither a test nor a job has ended yet."""
        self.reason = _NEVER_TESTED
        """Why it did not pass, for a person."""
        self._due_at = float("-inf")
        self._failures = 0

    def is_due(self, now: float) -> bool:
        """Whether it is time for a test."""
        return now >= self._due_at

    def succeed(self, now: float, rng: Random) -> None:
        """It did what was asked, in a test or in a job."""
        self.passed, self.is_new, self.reason, self._failures = True, False, "", 0
        self._due_at = now + PERIOD_SECONDS * rng.uniform(1 - PERIOD_JITTER, 1 + PERIOD_JITTER)

    def fail(self, reason: str, now: float, rng: Random) -> None:
        """It did not."""
        self.passed, self.is_new, self.reason = False, False, reason[:MAX_REASON_CHARACTERS]
        delay = min(PERIOD_SECONDS, FIRST_RETRY_SECONDS * 2.0 ** min(self._failures, 10))
        self._failures += 1
        self._due_at = now + delay * rng.uniform(1 - PERIOD_JITTER, 1)

    def doubt(self) -> None:
        """Something speaks against it: it is to be tested as soon as it can be."""
        self._due_at = float("-inf")


class SelfTests:
    """The tests of all engines."""

    def __init__(
        self,
        engines: Sequence[Runner],
        clock: Clock,
        rng: Random,
        *,
        is_busy: Callable[[Runner], bool],
        changed: Callable[[], None],
        is_held: Callable[[], bool] = lambda: False,
    ) -> None:
        """`is_busy`: the engine has a job, so that no test may disturb it; `changed`: a verdict is new.

        `is_held`: the owner keeps every GPU, so that no test may begin.
        """
        self._is_held = is_held
        self._clock = clock
        self._rng = rng
        self._is_busy = is_busy
        self._changed = changed
        self._trials = {engine: SelfTestRecord() for engine in engines}
        self._running: dict[Runner, asyncio.Task[None]] = {}

    def use(self, engines: Sequence[Runner]) -> None:
        """From now on these are the engines; what is known of those that stay, stays known."""
        for engine in self._trials.keys() - set(engines):
            if (task := self._running.get(engine)) is not None:
                task.cancel()
        self._trials = {engine: self._trials.get(engine) or SelfTestRecord() for engine in engines}

    @property
    def passed(self) -> list[Runner]:
        """The engines that may take jobs."""
        return [engine for engine, trial in self._trials.items() if trial.passed]

    def report(self) -> honesty_pb2.SelfTestReport:
        """Every engine's newest test, as reported to the server."""
        tests = [
            honesty_pb2.SelfTest(
                name=engine.name,
                passed=trial.passed,
                reason=trial.reason,
                models=[model.name for model in engine.models()],
                job_types=engine.job_types(),
                pending=trial.is_new,
            )
            for engine, trial in self._trials.items()
        ]
        return honesty_pb2.SelfTestReport(tests=tests)

    async def settle(self, seconds: float) -> None:
        """Starts the first tests and waits for them, but not for ever: a large model takes minutes."""
        self.tick()
        if self._running:
            await asyncio.wait(self._running.values(), timeout=seconds)

    def tick(self) -> None:
        """Begins what is due, of the engines that have nothing else to do.

        The first test waits for no run that an earlier daemon began: until it passes, nothing new comes.
        """
        if self._is_held():
            return
        now = self._clock.monotonic()
        for engine, trial in self._trials.items():
            is_due = engine not in self._running and trial.is_due(now)
            if is_due and (trial.is_new or not self._is_busy(engine)):
                task = asyncio.create_task(self._test(engine, trial))
                self._running[engine] = task
                task.add_done_callback(lambda _, engine=engine: self._running.pop(engine, None))  # type: ignore[misc]

    def job_began(self, engine: Runner) -> None:
        """A job comes first: a test that runs in its way is given up, and its result will count instead."""
        if (task := self._running.get(engine)) is not None:
            task.cancel()

    def job_ended(
        self,
        engine: Runner,
        outcome: sessions_pb2.RunOutcome.ValueType,
        reason: jobs_pb2.FailureReason.ValueType,
    ) -> None:
        """A job's end says as much as a test, where it was the engine that decided it."""
        trial = self._trials.get(engine)
        if trial is None:
            return  # its engine left meanwhile
        if outcome == sessions_pb2.RUN_OUTCOME_SUCCEEDED:
            self._note(trial, "", engine.name)
        elif reason == jobs_pb2.FAILURE_REASON_ENGINE_FAILED:
            trial.doubt()

    async def close(self) -> None:
        """Gives up what runs."""
        tasks = list(self._running.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=CLOSE_SECONDS)

    async def _test(self, engine: Runner, trial: SelfTestRecord) -> None:
        try:
            async with asyncio.timeout(engine.self_test_seconds):
                await engine.self_test()
            problem = ""
        except RunnerError as error:
            problem = error.message or _BROKE_DOWN
        except TimeoutError:
            problem = _TOO_SLOW
        except Exception:
            logger.exception("an engine's self-test failed unexpectedly engine=%s", engine.name)
            problem = _BROKE_DOWN
        self._note(trial, problem, engine.name)

    def _note(self, trial: SelfTestRecord, problem: str, name: str) -> None:
        before = trial.passed, trial.reason
        if problem:
            trial.fail(problem, self._clock.monotonic(), self._rng)
        else:
            trial.succeed(self._clock.monotonic(), self._rng)
        if (trial.passed, trial.reason) != before:
            if problem:
                logger.warning("a self-test failed engine=%s reason=%s", name, trial.reason)
            else:
                logger.info("a self-test passed engine=%s", name)
            self._changed()

"""Owns the daemon's proof that its engines work: what is tested when, and what the newest tests say.

An engine with models has a verdict for each of them, one without has one for itself. At the start everything
is tested that did not pass within the last day, an engine's models one after the other; once an hour again,
but only a model that is loaded or that a job has used since: a test must not drive out what the owner of a
model server has loaded. What failed is tested sooner, after 1 minute, then 2, 4 and so on up to an hour. A
job that succeeds is as good as a test; one that an engine could not do has its model tested at once. A model
that works and does what no job asks for has neither passed nor failed: it is not offered. It must not know
the protocol, or what an engine does in a test.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from random import Random

from dcp.v1 import honesty_pb2, jobs_pb2, sessions_pb2

from daemon.machine.clock import Clock
from daemon.runners import NOT_SOLD, Ability, Runner, RunnerError
from daemon.work.verdicts import Verdicts

logger = logging.getLogger(__name__)

PERIOD_SECONDS = 3600.0
PERIOD_JITTER = 0.1
FIRST_RETRY_SECONDS = 60.0
MAX_REASON_CHARACTERS = 500
# After this time in which jobs left no room for it, a test runs beside them: it is one small request.
MAX_WAIT_SECONDS = 600.0
CLOSE_SECONDS = 2.0
# Of one engine, with those of the models that it does not list any more.
MAX_RECORDS = 1000

_NEVER_TESTED = "Its first test has not ended yet."
_BROKE_DOWN = "It broke down in its test."
_TOO_SLOW = "Its test took too long."


class SelfTestRecord:
    """What is known of one model, or of one runner: pure, time and randomness are arguments."""

    def __init__(self, fingerprint: str = "") -> None:
        self.fingerprint = fingerprint
        """What identified the model when this was learned; empty: nothing does."""
        self.ability: Ability | None = None
        """What the model can do, if that is known."""
        self.is_held = False
        """Its test would load it, which must not be now."""
        self.passed = False
        self.is_new = True
        """Neither a test nor a job has ended yet."""
        self.reason = _NEVER_TESTED
        """Why it did not pass, for a person."""
        self.is_used = False
        """A job has used it since its last test."""
        self._due_at = float("-inf")
        self._failures = 0
        self._waits_since: float | None = None

    @property
    def is_sold(self) -> bool:
        """Whether jobs ask for what it does; also while that is not known."""
        return self.passed or (self.ability not in NOT_SOLD and not self.is_held)

    @property
    def is_settled(self) -> bool:
        """Whether it is known to work, for whatever it is."""
        return self.passed or self.ability in NOT_SOLD

    def wait(self, now: float) -> None:
        """A test that must decide something is due and has not run."""
        if self._waits_since is None and not self.is_settled:
            self._waits_since = now

    def has_waited(self, now: float) -> bool:
        """Whether the test has waited too long for a moment without jobs."""
        return self._waits_since is not None and now - self._waits_since >= MAX_WAIT_SECONDS

    def hold(self, reason: str) -> None:
        """No test may load it now."""
        self.is_held, self.is_new, self.reason, self._waits_since = True, False, reason, None

    def is_due(self, now: float) -> bool:
        """Whether it is time for a test."""
        return now >= self._due_at

    def succeed(self, now: float, rng: Random, ability: Ability | None = None) -> None:
        """It did what was asked, in a test or in a job."""
        self.ability = ability or self.ability
        self.reason = NOT_SOLD.get(self.ability, "") if self.ability is not None else ""
        self.passed, self.is_new, self._failures = not self.reason, False, 0
        self.put_off(now, rng)

    def put_off(self, now: float, rng: Random) -> None:
        """The verdict stands for another hour."""
        self.is_held, self._waits_since = False, None
        self._due_at = now + PERIOD_SECONDS * rng.uniform(1 - PERIOD_JITTER, 1 + PERIOD_JITTER)

    def fail(self, reason: str, now: float, rng: Random) -> None:
        """It did not."""
        self.passed, self.is_new, self.reason = False, False, reason[:MAX_REASON_CHARACTERS]
        self.ability, self.is_held, self._waits_since = None, False, None
        delay = min(PERIOD_SECONDS, FIRST_RETRY_SECONDS * 2.0 ** min(self._failures, 10))
        self._failures += 1
        self._due_at = now + delay * rng.uniform(1 - PERIOD_JITTER, 1)

    def doubt(self) -> None:
        """Something speaks against it: it is to be tested as soon as it can be."""
        self.is_used, self._due_at = True, float("-inf")


# By the names of an engine's models; the empty name stands for a runner that has none.
_Records = dict[str, SelfTestRecord]


class _ProblemError(Exception):
    """A test failed; the text says why, for a person."""


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
        verdicts: Verdicts | None = None,
    ) -> None:
        """`is_busy`: the engine has a job, so that no test may disturb it; `changed`: a verdict is new.

        `is_held`: the owner keeps every GPU, so that no test may begin. `verdicts`: those of earlier
        daemons.
        """
        self._verdicts = verdicts or Verdicts()
        self._is_held = is_held
        self._clock = clock
        self._rng = rng
        self._is_busy = is_busy
        self._changed = changed
        self._records: dict[Runner, _Records] = {engine: {} for engine in engines}
        self._running: dict[Runner, asyncio.Task[None]] = {}
        self._insisting: set[Runner] = set()
        """The engines with a test that has waited too long: no job interrupts it."""

    def use(self, engines: Sequence[Runner]) -> None:
        """From now on these are the engines; what is known of those that stay, stays known."""
        for engine in self._records.keys() - set(engines):
            if (task := self._running.get(engine)) is not None:
                task.cancel()
        self._records = {engine: self._records.get(engine, {}) for engine in engines}

    @property
    def passed(self) -> list[Runner]:
        """The engines that may take jobs: one of their models passed, or they themselves."""
        return [engine for engine in self._records if self._any_passed(engine)]

    def passed_models(self, engine: Runner) -> list[sessions_pb2.ServedModel]:
        """The models of an engine that may be offered."""
        records = self._now(engine)
        return [model for model in engine.models() if records[model.name].passed]

    def not_passed(self) -> list[dict[str, str]]:
        """What is not offered and why, for the owner."""
        return [
            {
                "engine": engine.name,
                "model": name,
                "reason": record.reason,
                **({"ability": record.ability.value} if record.ability is not None else {}),
            }
            for engine in self._records
            for name, record in self._now(engine).items()
            if not record.passed
        ]

    def report(self) -> honesty_pb2.SelfTestReport:
        """The newest tests, as reported to the server; models of an engine that are alike share an entry."""
        return honesty_pb2.SelfTestReport(
            tests=[test for engine in self._records for test in self._report_of(engine)]
        )

    async def settle(self, seconds: float) -> None:
        """Starts the first tests and waits for them, but not for ever: a large model takes minutes."""
        self.tick()
        if self._running:
            await asyncio.wait(self._running.values(), timeout=seconds)

    def tick(self) -> None:
        """Begins what is due, of the engines that have nothing else to do.

        The first test waits for no run that an earlier daemon began: until it passes, nothing new comes. A
        test that waited too long for a busy engine runs beside its jobs, one at a time.
        """
        self._verdicts.tick()
        if self._is_held():
            return
        now = self._clock.monotonic()
        for engine in self._records:
            if engine in self._running:
                continue
            due, records = self._due(engine, now), self._now(engine)
            insists = self._is_busy(engine) and not all(record.is_new for record in records.values())
            for name in due:
                records[name].wait(now)
            if insists:
                due = [name for name in due if records[name].has_waited(now)]
            due = [name for name in due if self._may_test(engine, name, now)]
            if due:
                self._begin(engine, due[:1] if insists else due, insists=insists)

    def _begin(self, engine: Runner, names: Sequence[str], *, insists: bool) -> None:
        def ended(_: object) -> None:
            self._running.pop(engine, None)
            self._insisting.discard(engine)

        task = asyncio.create_task(self._test_all(engine, names))
        self._running[engine] = task
        if insists:
            self._insisting.add(engine)
        task.add_done_callback(ended)

    def job_began(self, engine: Runner) -> None:
        """A job comes first: a test that runs in its way is given up, and its result will count instead."""
        if (task := self._running.get(engine)) is not None and engine not in self._insisting:
            task.cancel()

    def job_ended(
        self,
        engine: Runner,
        outcome: sessions_pb2.RunOutcome.ValueType,
        reason: jobs_pb2.FailureReason.ValueType,
        model: str = "",
    ) -> None:
        """A job's end says as much as a test of its model, where it was the engine that decided it."""
        if engine not in self._records:
            return  # it left meanwhile
        records = self._now(engine)
        # A job that names no model is one of a runner that has none, or of the only model.
        record = records.get(model)
        if record is None and ("" in records or (not model and len(records) == 1)):
            record = next(iter(records.values()))
        if record is None:
            return
        if outcome == sessions_pb2.RUN_OUTCOME_SUCCEEDED:
            self._note(record, "", engine.name, model)
            record.is_used = True
        elif reason == jobs_pb2.FAILURE_REASON_ENGINE_FAILED:
            record.doubt()
            self._verdicts.note(record.fingerprint, None)

    async def close(self) -> None:
        """Gives up what runs."""
        tasks = list(self._running.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=CLOSE_SECONDS)
        await self._verdicts.close()

    def _now(self, engine: Runner) -> _Records:
        """The records of what the engine has now; those of a model that is away for a moment are kept."""
        records = self._records[engine]
        names = [model.name for model in engine.models()] or [""]
        if "" not in names:
            records.pop("", None)  # of the time when it listed no model
        for name in names:
            fingerprint = engine.fingerprint(name)
            if name not in records or records[name].fingerprint != fingerprint:
                records[name] = self._begun(engine, name, fingerprint)
        if len(records) > MAX_RECORDS:
            for name in [name for name in records if name not in names]:
                del records[name]
        return {name: records[name] for name in names}

    def _begun(self, engine: Runner, name: str, fingerprint: str) -> SelfTestRecord:
        """The record of a model that is new, or whose content is, with the verdict of an earlier daemon."""
        record = SelfTestRecord(fingerprint)
        if (ability := self._verdicts.find(fingerprint)) is not None:
            record.succeed(self._clock.monotonic(), self._rng, ability)
            engine.learn(name, ability)
        return record

    def _any_passed(self, engine: Runner) -> bool:
        return any(record.passed for record in self._now(engine).values())

    def _due(self, engine: Runner, now: float) -> list[str]:
        """What is to be tested, with what a job has used first."""
        due = [(name, record) for name, record in self._now(engine).items() if record.is_due(now)]
        return [name for name, record in sorted(due, key=lambda item: not item[1].is_used)]

    def _may_test(self, engine: Runner, name: str, now: float) -> bool:
        """Whether a test would drive nothing out; if it would, the last verdict stands, or it waits."""
        record = self._records[engine][name]
        if not name or engine.has_loaded(name):
            return True
        if record.is_settled and not record.is_used:
            record.put_off(now, self._rng)
            return False
        if (why_not := engine.why_not_load(name)) and record.reason != why_not:
            record.hold(why_not)
            self._changed()
        return not why_not

    def _report_of(self, engine: Runner) -> Iterator[honesty_pb2.SelfTest]:
        models = {model.name: model for model in engine.models()}
        alike: dict[tuple[bool, str, bool], list[str]] = {}
        sold = {name: record for name, record in self._now(engine).items() if record.is_sold}
        for name, record in sold.items():
            alike.setdefault((record.passed, record.reason, record.is_new), []).append(name)
        for (passed, reason, is_new), names in alike.items():
            served = [models[name] for name in names if name in models]
            yield honesty_pb2.SelfTest(
                name=engine.name,
                passed=passed,
                reason=reason,
                models=[model.name for model in served],
                job_types=job_types_of(served) or engine.job_types(),
                pending=is_new,
            )

    async def _test_all(self, engine: Runner, names: Sequence[str]) -> None:
        """One after the other: a model server may hold only one of its models in memory."""
        for name in names:
            # What the test before has loaded, or somebody else meanwhile, may stand in the way of this one.
            if not self._may_test(engine, name, self._clock.monotonic()):
                continue
            record = self._records[engine][name]
            problem, ability = "", None
            try:
                ability = await self._ability(engine, name)
            except _ProblemError as error:
                problem = str(error)
            record.is_used = False
            if ability is not None:
                engine.learn(name, ability)
            self._note(record, problem, engine.name, name, ability)

    async def _ability(self, engine: Runner, name: str) -> Ability | None:
        try:
            async with asyncio.timeout(engine.self_test_seconds):
                return await engine.self_test(name)
        except RunnerError as error:
            raise _ProblemError(error.message or _BROKE_DOWN) from None
        except TimeoutError:
            raise _ProblemError(_TOO_SLOW) from None
        except Exception:
            logger.exception("an engine's self-test failed unexpectedly engine=%s", engine.name)
            raise _ProblemError(_BROKE_DOWN) from None

    def _note(
        self, record: SelfTestRecord, problem: str, engine: str, model: str, ability: Ability | None = None
    ) -> None:
        before = record.passed, record.reason
        if problem:
            record.fail(problem, self._clock.monotonic(), self._rng)
        else:
            record.succeed(self._clock.monotonic(), self._rng, ability)
        if problem or record.ability is not None:
            self._verdicts.note(record.fingerprint, record.ability)
        if (record.passed, record.reason) != before:
            if record.is_settled and not record.passed:
                logger.info(
                    "a model is not offered engine=%s model=%s reason=%s", engine, model, record.reason
                )
            elif problem:
                logger.warning(
                    "a self-test failed engine=%s model=%s reason=%s", engine, model, record.reason
                )
            else:
                logger.info("a self-test passed engine=%s model=%s", engine, model)
            self._changed()


def job_types_of(models: Iterable[sessions_pb2.ServedModel]) -> list[jobs_pb2.JobType.ValueType]:
    """The types of job that any of the models serves; a model that names none serves inference."""
    return list(
        dict.fromkeys(
            kind for model in models for kind in (model.job_types or (jobs_pb2.JOB_TYPE_LLM_INFERENCE,))
        )
    )

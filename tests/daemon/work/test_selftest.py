"""Self-tests: when engines are tested, and the effect of the results."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from random import Random

import pytest
from dcp.v1 import jobs_pb2, sessions_pb2
from hypothesis import given
from hypothesis import strategies as st

from daemon.engines import Engine, EngineError
from daemon.work.selftest import MAX_WAIT_SECONDS, PERIOD_SECONDS, SelfTestRecord, SelfTests
from tests.support.fake_engine import ScriptedEngine
from tests.support.manual_clock import ManualClock

FAILED = EngineError(jobs_pb2.FAILURE_REASON_ENGINE_FAILED, "It answered nothing.")
SUCCEEDED = (sessions_pb2.RUN_OUTCOME_SUCCEEDED, jobs_pb2.FAILURE_REASON_UNSPECIFIED)


class Bench:
    """Self-tests of scripted engines, with a count of the reported changes."""

    def __init__(self, *engines: Engine) -> None:
        self.clock = ManualClock()
        self.busy: set[Engine] = set()
        self.news = 0
        self.tests = SelfTests(
            engines, self.clock, Random(1), is_busy=lambda engine: engine in self.busy, changed=self._changed
        )

    def _changed(self) -> None:
        self.news += 1

    async def settled(self) -> list[bool]:
        """Runs the tests that are due; returns which engines passed."""
        await self.tests.settle(5)
        await asyncio.sleep(0)
        return [test.passed for test in self.tests.report().tests]


def test_failed_self_test_is_repeated_after_a_minute_then_later_and_later_up_to_an_hour() -> None:
    record, rng, now = SelfTestRecord(), Random(1), 0.0
    delays = []
    for _ in range(9):
        record.fail("broken", now, rng)
        began = now
        while not record.is_due(now):
            now += 1
        delays.append(now - began)
    for delay, most in zip(delays, [60, 120, 240, 480, 960, 1920, 3600, 3600, 3600], strict=True):
        assert most * 0.89 <= delay <= most + 1
    record.succeed(now, rng)
    record.fail("broken", now, rng)
    assert record.is_due(now + 61)


@given(st.lists(st.sampled_from(["succeed", "fail", "doubt"]), max_size=40), st.integers(0, 2**32))
def test_self_test_is_always_due_again_within_an_hour_plus_jitter(events: list[str], seed: int) -> None:
    record, rng = SelfTestRecord(), Random(seed)
    for now, event in enumerate(events):
        if event == "doubt":
            record.doubt()
        elif event == "succeed":
            record.succeed(now, rng)
        else:
            record.fail("x" * 1000, now, rng)
        assert record.is_due(now + PERIOD_SECONDS * 1.1 + 1)
        assert record.passed == (record.reason == "")
        assert len(record.reason) <= 500


async def test_engine_is_not_offered_before_its_first_test_has_ended() -> None:
    quick, slow = ScriptedEngine(), ScriptedEngine(model="slow")
    slow.test_gate = asyncio.Event()
    bench = Bench(quick, slow)
    assert bench.tests.passed == []
    assert {test.reason for test in bench.tests.report().tests} == {"Its first test has not ended yet."}
    bench.tests.tick()
    await asyncio.sleep(0.01)
    assert bench.tests.passed == [quick]
    slow.test_gate.set()
    assert await bench.settled() == [True, True]
    assert bench.news == 2


async def test_engine_is_tested_again_within_the_hour_and_not_while_it_works() -> None:
    engine = ScriptedEngine()
    bench = Bench(engine)
    await bench.settled()
    bench.clock.advance(3200)
    await bench.settled()
    assert engine.tests == 1
    bench.busy.add(engine)
    bench.clock.advance(800)
    await bench.settled()
    assert engine.tests == 1
    bench.busy.clear()
    await bench.settled()
    assert (engine.tests, bench.news) == (2, 1)


async def test_first_test_does_not_wait_for_a_run_of_an_earlier_daemon() -> None:
    engine = ScriptedEngine()
    bench = Bench(engine)
    bench.busy.add(engine)
    assert await bench.settled() == [True]


async def test_job_interrupts_a_test_and_replaces_it() -> None:
    engine = ScriptedEngine()
    bench = Bench(engine)
    await bench.settled()
    engine.test_gate = asyncio.Event()
    bench.clock.advance(4000)
    bench.tests.tick()
    await asyncio.sleep(0.01)
    bench.tests.job_began(engine)
    bench.busy.add(engine)
    engine.test_error = FAILED  # as the load of the job might make it end
    engine.test_gate.set()
    assert await bench.settled() == [True]
    bench.busy.clear()
    bench.tests.job_ended(engine, *SUCCEEDED)
    assert await bench.settled() == [True]
    assert (engine.tests, bench.news) == (2, 1)


@pytest.mark.parametrize(
    ("reason", "tests"),
    [
        (jobs_pb2.FAILURE_REASON_ENGINE_FAILED, 2),
        (jobs_pb2.FAILURE_REASON_BAD_PARAMS, 1),
        (jobs_pb2.FAILURE_REASON_PROMPT_TOO_LONG, 1),
    ],
)
async def test_only_a_failure_of_the_engine_triggers_a_test(
    reason: jobs_pb2.FailureReason.ValueType, tests: int
) -> None:
    engine = ScriptedEngine()
    bench = Bench(engine)
    await bench.settled()
    bench.tests.job_ended(engine, sessions_pb2.RUN_OUTCOME_FAILED, reason)
    await bench.settled()
    assert engine.tests == tests


async def test_self_test_that_hangs_fails_after_its_time_limit() -> None:
    engine = ScriptedEngine()
    engine.test_gate, engine.self_test_seconds = asyncio.Event(), 0.01
    bench = Bench(engine)
    assert await bench.settled() == [False]
    assert bench.tests.report().tests[0].reason == "Its test took too long."


@pytest.mark.parametrize("error", [FAILED, RuntimeError("/home/secret"), TimeoutError()])
async def test_failed_self_test_has_a_reason_without_details_of_the_machine(error: Exception) -> None:
    engine = ScriptedEngine()
    engine.test_error = error
    bench = Bench(engine)
    assert await bench.settled() == [False]
    reason = bench.tests.report().tests[0].reason
    assert reason
    assert "secret" not in reason


class Plain(Engine):
    """An engine with the default self-test."""

    def __init__(self, pieces: Sequence[str | jobs_pb2.Usage]) -> None:
        self.pieces = pieces
        self.offers: list[sessions_pb2.JobOffer] = []

    def models(self) -> Sequence[sessions_pb2.ServedModel]:
        return [sessions_pb2.ServedModel(name="one"), sessions_pb2.ServedModel(name="two")]

    async def prepare(self, offer: sessions_pb2.JobOffer) -> None:
        self.offers.append(offer)

    async def generate(self, offer: sessions_pb2.JobOffer) -> AsyncGenerator[str | jobs_pb2.Usage, None]:
        for piece in self.pieces:
            yield piece

    async def close(self) -> None:
        pass


async def test_by_default_every_model_answers_a_few_tokens() -> None:
    engine = Plain(["Hello", jobs_pb2.Usage(completion_tokens=1)])
    assert await Bench(engine).settled() == [True]
    assert [offer.params.model for offer in engine.offers] == ["one", "two"]
    assert {offer.params.max_tokens for offer in engine.offers} == {4}


async def test_by_default_a_model_without_an_answer_fails() -> None:
    bench = Bench(Plain(["Hello"]))
    assert await bench.settled() == [False, False]
    assert bench.tests.report().tests[0].reason == "The model one answered nothing."


class Shelf(ScriptedEngine):
    """A server of several models that holds one of them in memory."""

    def __init__(self, *names: str) -> None:
        super().__init__()
        self.names = list(names)
        self.tested: list[str] = []
        self.broken: set[str] = set()
        self.at_once = self.most_at_once = 0
        self.loaded = ""
        self.gate = asyncio.Event()

    def models(self) -> Sequence[sessions_pb2.ServedModel]:
        return [sessions_pb2.ServedModel(name=name, warm=name == self.loaded) for name in self.names]

    async def self_test(self, model: str = "") -> None:
        self.tested.append(model)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            await asyncio.sleep(60 if model == "slow" else 0)
            if model == "gated":
                await self.gate.wait()
        finally:
            self.at_once -= 1
        if model in self.broken:
            raise FAILED


def offered(bench: Bench, engine: Engine) -> list[str]:
    return [model.name for model in bench.tests.passed_models(engine)]


async def test_each_model_has_a_verdict_of_its_own() -> None:
    engine = Shelf("good", "broken", "better")
    engine.broken = {"broken"}
    bench = Bench(engine)
    await bench.settled()
    assert offered(bench, engine) == ["good", "better"]
    assert [(test.passed, list(test.models)) for test in bench.tests.report().tests] == [
        (True, ["good", "better"]),
        (False, ["broken"]),
    ]
    assert bench.tests.not_passed() == [
        {"engine": "engine", "model": "broken", "reason": "It answered nothing."}
    ]


async def test_models_of_an_engine_are_tested_one_at_a_time_each_within_its_own_limit() -> None:
    engine = Shelf("slow", "good", "slow as well")
    engine.self_test_seconds = 0.05
    bench = Bench(engine)
    await bench.settled()
    assert engine.most_at_once == 1
    assert offered(bench, engine) == ["good", "slow as well"]
    assert bench.tests.not_passed()[0]["reason"] == "Its test took too long."


async def test_hourly_test_loads_no_model_that_nobody_used() -> None:
    engine = Shelf("loaded", "used", "resting")
    engine.loaded = "loaded"
    bench = Bench(engine)
    await bench.settled()
    bench.tests.job_ended(engine, *SUCCEEDED, model="used")
    engine.tested.clear()
    bench.clock.advance(PERIOD_SECONDS * 1.2)
    await bench.settled()
    assert engine.tested == ["used", "loaded"]
    assert offered(bench, engine) == ["loaded", "used", "resting"]


async def test_failed_job_has_only_its_model_tested_again() -> None:
    engine = Shelf("one", "two")
    bench = Bench(engine)
    await bench.settled()
    engine.tested.clear()
    engine.broken = {"one", "two"}
    failed = sessions_pb2.RUN_OUTCOME_FAILED
    bench.tests.job_ended(engine, failed, jobs_pb2.FAILURE_REASON_ENGINE_FAILED, model="two")
    await bench.settled()
    assert engine.tested == ["two"]
    assert offered(bench, engine) == ["one"]


async def test_new_model_is_not_tested_while_a_job_runs_on_its_server() -> None:
    engine = Shelf("one")
    bench = Bench(engine)
    await bench.settled()
    engine.names.append("two")
    bench.busy.add(engine)
    await bench.settled()
    assert engine.tested == ["one"]
    bench.busy.clear()
    await bench.settled()
    assert engine.tested == ["one", "two"]


async def test_model_that_is_away_for_a_moment_keeps_its_verdict() -> None:
    engine = Shelf("one", "two")
    bench = Bench(engine)
    await bench.settled()
    engine.names = ["one"]
    await bench.settled()
    engine.names = ["one", "two"]
    assert await bench.settled() == [True]
    assert engine.tested == ["one", "two"]


async def test_new_model_is_tested_beside_jobs_that_never_end() -> None:
    engine = Shelf("one")
    bench = Bench(engine)
    await bench.settled()
    engine.names += ["two", "three"]
    bench.busy.add(engine)
    await bench.settled()
    bench.clock.advance(MAX_WAIT_SECONDS - 1)
    await bench.settled()
    assert engine.tested == ["one"]
    bench.clock.advance(1)
    await bench.settled()
    assert engine.tested == ["one", "two"], "one small request at a time"
    await bench.settled()
    assert engine.tested == ["one", "two", "three"]
    assert offered(bench, engine) == ["one", "two", "three"]


async def test_job_does_not_interrupt_a_test_that_has_waited_too_long() -> None:
    engine = Shelf("one")
    bench = Bench(engine)
    await bench.settled()
    engine.names.append("gated")
    for _ in range(3):  # each job comes while the test runs
        bench.tests.tick()
        await asyncio.sleep(0.01)
        bench.tests.job_began(engine)
        await asyncio.sleep(0.01)
        bench.clock.advance(MAX_WAIT_SECONDS / 3)
    bench.busy.add(engine)
    bench.tests.tick()
    await asyncio.sleep(0.01)
    assert engine.at_once == 1
    bench.tests.job_began(engine)
    engine.gate.set()
    await bench.settled()
    assert offered(bench, engine) == ["one", "gated"]


async def test_hourly_test_of_a_model_that_works_never_runs_beside_jobs() -> None:
    engine = Shelf("one")
    engine.loaded = "one"
    bench = Bench(engine)
    await bench.settled()
    bench.busy.add(engine)
    for _ in range(20):
        bench.clock.advance(PERIOD_SECONDS / 2)
        await bench.settled()
    assert engine.tested == ["one"]


async def test_job_of_a_model_that_left_says_nothing_about_another() -> None:
    engine = Shelf("one")
    engine.broken = {"one"}
    bench = Bench(engine)
    await bench.settled()
    bench.tests.job_ended(engine, *SUCCEEDED, model="gone")
    assert offered(bench, engine) == []

"""Attempts on runners: which one gets a job, and what becomes of what it yields."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from dcp.v1 import jobs_pb2, sessions_pb2

from daemon.machine.clock import SystemClock
from daemon.protocol import events as ev
from daemon.protocol.events import Result
from daemon.protocol.records import Channel
from daemon.runners import Log, Runner, RunnerError, WorkDone
from daemon.work.artifacts import Artifact, ArtifactSink
from daemon.work.attempts import Attempts
from tests.daemon.fake_server import offer
from tests.support.fake_engine import ScriptedEngine
from tests.support.fake_runner import MemorySink, ScriptedRunner

CUSTOM = jobs_pb2.JOB_TYPE_CUSTOM_CONTAINER


class Heard:
    """The events of one attempt."""

    def __init__(self) -> None:
        self.output_data = self.log_data = b""
        self.events: list[str] = []
        self.result: asyncio.Future[Result] = asyncio.get_running_loop().create_future()

    def __call__(self, event: ev.AttemptEvent) -> None:
        match event:
            case ev.AttemptStarted():
                self.events.append("started")
            case ev.AttemptWrote(_, Channel.OUTPUT, data):
                self.output_data += data
            case ev.AttemptWrote(_, _, data):
                self.log_data += data
            case ev.AttemptWorked():
                self.events.append("worked")
            case ev.AttemptFinished(_, result):
                self.result.set_result(result)


async def has_room(lease: sessions_pb2.Lease) -> None:
    """There is always room."""


async def run(
    *runners: Runner, sink: ArtifactSink | None = None, job_type: int = CUSTOM
) -> tuple[Heard, Result]:
    heard = Heard()
    attempts = Attempts(runners, heard, has_room, SystemClock(), sink)
    attempts.start(offer(job_type=job_type))
    async with asyncio.timeout(10):
        return heard, await heard.result


@pytest.fixture
def left(tmp_path: Path) -> WorkDone:
    (tmp_path / "0000").write_bytes(b"content")
    return WorkDone((Artifact("a/b.txt", tmp_path / "0000", 7, bytes(32)),))


async def test_job_goes_to_the_runner_of_its_type() -> None:
    engine, runner = ScriptedEngine(["text"]), ScriptedRunner(b"bytes")
    heard, _ = await run(engine, runner)
    assert heard.output_data == b"bytes"
    heard, _ = await run(engine, runner, job_type=jobs_pb2.JOB_TYPE_LLM_INFERENCE)
    assert heard.output_data == b"text"


async def test_log_and_output_travel_apart_and_the_meter_stops_before_the_hand_over(left: WorkDone) -> None:
    sink = MemorySink()
    heard, result = await run(
        ScriptedRunner(Log(b"one\n"), b"out", Log(b"two\n"), WorkDone(), left), sink=sink
    )
    assert (heard.output_data, heard.log_data) == (b"out", b"one\ntwo\n")
    assert heard.events == ["started", "worked", "worked"]
    assert sink.files == {"job-1": {"a/b.txt": b"content"}}
    assert result.outcome == sessions_pb2.RUN_OUTCOME_SUCCEEDED


async def test_files_that_nobody_takes_are_named_in_the_log(left: WorkDone) -> None:
    heard, result = await run(ScriptedRunner(left))
    assert heard.log_data == b"[dcp] not kept: a/b.txt (7 bytes)\n"
    assert result.outcome == sessions_pb2.RUN_OUTCOME_SUCCEEDED


async def test_files_of_a_job_that_failed_are_handed_over_before_it_is_told(left: WorkDone) -> None:
    error = RunnerError(jobs_pb2.FAILURE_REASON_CONTAINER_EXIT, "exit code 3")
    sink = MemorySink()
    _, result = await run(ScriptedRunner(left, error), sink=sink)
    assert sink.files == {"job-1": {"a/b.txt": b"content"}}
    assert result.failure_reason == jobs_pb2.FAILURE_REASON_CONTAINER_EXIT


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (RunnerError(jobs_pb2.FAILURE_REASON_DISK_LIMIT, "too much"), jobs_pb2.FAILURE_REASON_DISK_LIMIT),
        (RuntimeError("a fault of ours"), jobs_pb2.FAILURE_REASON_ENGINE_FAILED),
    ],
)
async def test_job_fails_when_its_files_cannot_be_handed_over(
    left: WorkDone, error: Exception, reason: int
) -> None:
    _, result = await run(ScriptedRunner(left), sink=MemorySink(error))
    assert (result.outcome, result.failure_reason) == (sessions_pb2.RUN_OUTCOME_FAILED, reason)


async def test_job_that_no_runner_takes_fails() -> None:
    _, result = await run(ScriptedEngine(["text"]))
    assert result.failure_reason == jobs_pb2.FAILURE_REASON_MODEL_NOT_SERVED

"""Attempts: which runner gets a job, and what happens to its output, log and files."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
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


class RecordedEvents:
    """The events of one attempt."""

    def __init__(self) -> None:
        self.output_data = self.log_data = b""
        self.events: list[str] = []
        self.rest: Callable[[sessions_pb2.Lease], list[tuple[Channel, bytes]]] = lambda lease: []
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
            case ev.AttemptFinished(lease, result):
                for channel, data in self.rest(lease):
                    self(ev.AttemptWrote(lease, channel, data))
                self.result.set_result(result)


async def has_room(lease: sessions_pb2.Lease) -> None:
    """There is always room."""


async def run(
    *runners: Runner, sink: ArtifactSink | None = None, job_type: int = CUSTOM
) -> tuple[RecordedEvents, Result]:
    recorded = RecordedEvents()
    attempts = Attempts(runners, recorded, has_room, SystemClock(), sink)
    recorded.rest = attempts.take_rest
    attempts.start(offer(job_type=job_type))
    async with asyncio.timeout(10):
        return recorded, await recorded.result


async def test_job_that_can_be_done_elsewhere_is_given_back() -> None:
    busy = RunnerError(jobs_pb2.FAILURE_REASON_ENGINE_BUSY, "busy", gives_back=True)
    _, result = await run(ScriptedEngine([busy]), job_type=jobs_pb2.JOB_TYPE_LLM_INFERENCE)
    assert (result.outcome, result.failure_reason, result.failure_message) == (
        sessions_pb2.RUN_OUTCOME_RELEASED,
        jobs_pb2.FAILURE_REASON_ENGINE_BUSY,
        "busy",
    )


@pytest.fixture
def work_with_file(tmp_path: Path) -> WorkDone:
    (tmp_path / "0000").write_bytes(b"content")
    return WorkDone((Artifact("a/b.txt", tmp_path / "0000", 7, bytes(32)),))


async def test_job_goes_to_the_runner_of_its_type() -> None:
    engine, runner = ScriptedEngine(["text"]), ScriptedRunner(b"bytes")
    recorded, _ = await run(engine, runner)
    assert recorded.output_data == b"bytes"
    recorded, _ = await run(engine, runner, job_type=jobs_pb2.JOB_TYPE_LLM_INFERENCE)
    assert recorded.output_data == b"text"


async def test_log_and_output_are_separate_and_the_meter_stops_before_files_are_handed_over(
    work_with_file: WorkDone,
) -> None:
    sink = MemorySink()
    recorded, result = await run(
        ScriptedRunner(Log(b"one\n"), b"out", Log(b"two\n"), WorkDone(), work_with_file), sink=sink
    )
    assert (recorded.output_data, recorded.log_data) == (b"out", b"one\ntwo\n")
    assert recorded.events == ["started", "worked", "worked"]
    assert sink.files == {"job-1": {"a/b.txt": b"content"}}
    assert result.outcome == sessions_pb2.RUN_OUTCOME_SUCCEEDED


async def test_files_without_a_sink_are_named_in_the_log(work_with_file: WorkDone) -> None:
    recorded, result = await run(ScriptedRunner(work_with_file))
    assert recorded.log_data == b"[dcp] not kept: a/b.txt (7 bytes)\n"
    assert result.outcome == sessions_pb2.RUN_OUTCOME_SUCCEEDED


async def test_files_of_a_failed_job_are_handed_over_before_the_failure_is_reported(
    work_with_file: WorkDone,
) -> None:
    error = RunnerError(jobs_pb2.FAILURE_REASON_CONTAINER_EXIT, "exit code 3")
    sink = MemorySink()
    _, result = await run(ScriptedRunner(work_with_file, error), sink=sink)
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
    work_with_file: WorkDone, error: Exception, reason: int
) -> None:
    _, result = await run(ScriptedRunner(work_with_file), sink=MemorySink(error))
    assert (result.outcome, result.failure_reason) == (sessions_pb2.RUN_OUTCOME_FAILED, reason)


async def test_job_without_a_runner_fails() -> None:
    _, result = await run(ScriptedEngine(["text"]))
    assert result.failure_reason == jobs_pb2.FAILURE_REASON_MODEL_NOT_SERVED

"""The whole daemon against a real gRPC server, with a scripted engine."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

import pytest
from dcp.v1 import gpus_pb2, jobs_pb2, sessions_pb2, terms_pb2

from daemon.app import Daemon, Options
from daemon.engines import EngineError
from daemon.journal.journal import Journal
from daemon.link import KeyRefusedError, ServerAddress
from daemon.machine.gpus import Gpus
from daemon.machine.gpus.none import NoGpus
from daemon.machine.machine import Machine
from daemon.machine.policy import Rules, parse_schedule
from daemon.protocol.effects import EndReason
from daemon.runners import Picture, Piece, ResumeOffsets
from tests.daemon.fake_server import (
    GOOD_KEY,
    Connection,
    FakeServer,
    eventually,
    fake_server,
    lease,
    offer,
    seconds,
)
from tests.support.fake_engine import Piece as Step
from tests.support.fake_engine import ScriptedEngine
from tests.support.fake_runner import ScriptedRunner
from tests.support.journals import is_empty
from tests.support.manual_clock import ManualClock
from tests.support.memory_disk import MemoryDisk


class Stack:
    """A running daemon, its engine, its clock and the server that it talks to."""

    def __init__(
        self,
        server: FakeServer,
        engine: ScriptedEngine,
        disk: MemoryDisk | None = None,
        gpus: Gpus | None = None,
        others: Sequence[ScriptedEngine] = (),
        rules: Rules | None = None,
        sample_seconds: float = 0.01,
    ) -> None:
        self.server = server
        self.disk = disk or MemoryDisk()
        self.engine = engine
        self.clock = ManualClock()
        self.ready: list[int] = []
        self.daemon = Daemon(
            ServerAddress(server.address),
            GOOD_KEY,
            [engine, *others],
            Journal(self.disk),
            Machine(
                gpus=gpus or NoGpus(),
                clock=self.clock,
                local_time=lambda: datetime.fromtimestamp(self.clock.now(), UTC),
                rng=Random(1),
            ),
            rules,
            Options(on_ready=self.ready.append, tick_seconds=0.01, sample_seconds=sample_seconds),
        )
        self.running = asyncio.create_task(self.daemon.run())

    async def take_job(self, connection: Connection, **fields: Any) -> None:
        """Offers job-1 and waits until it is accepted and started."""
        await connection.send(job_offer=offer(**fields))
        assert (await connection.expect("offer_reply")).accepted
        assert (await connection.expect("job_started")).lease == lease()

    async def let_reconnect(self) -> Connection:
        """Moves the clock past every backoff until the daemon reconnects."""
        waiting = asyncio.create_task(self.server.connection())
        while not waiting.done():
            self.clock.advance(1.0)
            await asyncio.sleep(0.02)
        return await waiting

    async def ended(self) -> EndReason:
        """Waits until the daemon ends; returns its reason."""
        async with asyncio.timeout(10):
            return await self.running


@asynccontextmanager
async def stack(
    engine: ScriptedEngine,
    disk: MemoryDisk | None = None,
    gpus: Gpus | None = None,
    others: Sequence[ScriptedEngine] = (),
    rules: Rules | None = None,
    sample_seconds: float = 0.01,
) -> AsyncIterator[Stack]:
    async with fake_server() as server:
        running = Stack(server, engine, disk, gpus, others, rules, sample_seconds)
        try:
            yield running
        finally:
            running.running.cancel()
            await asyncio.gather(running.running, return_exceptions=True)


async def test_job_runs_from_offer_to_acknowledged_result() -> None:
    gate = asyncio.Event()
    async with stack(ScriptedEngine(["Hello", gate, ", world"])) as s:
        connection = await s.server.connection()
        hello = await connection.welcome()
        assert hello.slots == 1
        assert [model.name for model in hello.models] == ["test/model"]
        assert list(hello.job_types) == [jobs_pb2.JOB_TYPE_LLM_INFERENCE]
        assert hello.gpu_status.python_version
        await s.take_job(connection)
        first = await connection.expect("output_chunk")
        assert (first.seq, first.data) == (1, b"Hello")
        s.clock.advance(7.5)
        gate.set()
        second = await connection.expect("output_chunk")
        assert (second.seq, second.data) == (2, b", world")
        finished = await connection.expect("job_finished")
        assert finished.outcome == sessions_pb2.RUN_OUTCOME_SUCCEEDED
        assert finished.run_time == seconds(7.5)
        assert finished.last_output_seq == 2
        assert finished.usage.prompt_tokens == 3
        assert s.ready == [42]


async def test_remains_of_an_earlier_daemon_are_removed_before_the_first_session() -> None:
    runner = ScriptedRunner()
    async with fake_server() as server:
        daemon = Daemon(ServerAddress(server.address), GOOD_KEY, [runner], Journal(MemoryDisk()))
        running = asyncio.create_task(daemon.run())
        hello = await (await server.connection()).welcome()
        assert list(hello.job_types) == list(runner.job_types())
        assert (runner.swept, runner.tidied) == (1, 0)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_output_does_not_wait_for_a_stalled_engine() -> None:
    go_on = asyncio.Event()
    async with stack(ScriptedEngine(["one", go_on, "two", asyncio.Event()])) as s:
        connection = await s.server.connection()
        await connection.welcome()
        await s.take_job(connection)
        assert (await connection.expect("output_chunk")).data == b"one"
        go_on.set()
        assert (await connection.expect("output_chunk")).data == b"two"


async def test_unacknowledged_output_is_sent_again_after_a_cut_stream() -> None:
    gate = asyncio.Event()
    async with stack(ScriptedEngine(["one", gate, "two"])) as s:
        connection = await s.server.connection()
        await connection.welcome()
        await s.take_job(connection)
        assert (await connection.expect("output_chunk")).data == b"one"
        connection.cut.set()
        again = await s.let_reconnect()
        hello = await again.welcome()
        assert list(hello.held_leases) == [lease()]
        await again.send(
            lease_directive=sessions_pb2.LeaseDirective(
                lease=lease(), action=sessions_pb2.LEASE_ACTION_KEEP, output_through_seq=0
            )
        )
        assert (await again.expect("job_started")).lease == lease()
        assert (await again.expect("output_chunk")).data == b"one"
        gate.set()
        assert (await again.expect("output_chunk")).seq == 2
        assert (await again.expect("job_finished")).last_output_seq == 2
        assert s.engine.jobs == ["job-1"]
        again.cut.set()
        third = await s.let_reconnect()
        assert list((await third.welcome()).unacknowledged_results) == [lease()]


async def test_cancel_stops_the_engine_and_reports_the_time() -> None:
    async with stack(ScriptedEngine(["one", asyncio.Event()])) as s:
        connection = await s.server.connection()
        await connection.welcome()
        await s.take_job(connection)
        await connection.expect("output_chunk")
        s.clock.advance(12.0)
        await connection.send(cancel_run=sessions_pb2.CancelRun(lease=lease()))
        finished = await connection.expect("job_finished")
        assert finished.outcome == sessions_pb2.RUN_OUTCOME_CANCELLED
        assert finished.run_time == seconds(12)
        await eventually(lambda: s.engine.cancelled == ["job-1"])


async def test_daemon_stops_a_run_at_its_limit() -> None:
    async with stack(ScriptedEngine(["one", asyncio.Event()])) as s:
        connection = await s.server.connection()
        await connection.welcome()
        await s.take_job(connection, limit=30.0)
        await connection.expect("output_chunk")
        await connection.send(output_ack=sessions_pb2.OutputAck(lease=lease(), output_through_seq=1))
        await asyncio.sleep(0.05)
        s.clock.advance(33.0)
        finished = await connection.expect("job_finished")
        assert finished.failure_reason == jobs_pb2.FAILURE_REASON_DURATION_LIMIT
        assert finished.run_time == seconds(30)
        await eventually(lambda: s.engine.cancelled == ["job-1"])


class StubbornEngine(ScriptedEngine):
    """An engine that stops only when it is killed."""

    def __init__(self) -> None:
        super().__init__()
        self.killed = asyncio.Event()

    async def generate(self, offer: sessions_pb2.JobOffer) -> AsyncGenerator[Piece, None]:
        yield "one"
        while not self.killed.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await self.killed.wait()

    async def kill(self, lease: sessions_pb2.Lease) -> None:
        self.killed.set()


async def test_engine_that_does_not_stop_is_killed_before_the_next_job_starts() -> None:
    engine = StubbornEngine()
    async with stack(engine) as s:
        connection = await s.server.connection()
        await connection.welcome()
        await s.take_job(connection)
        await connection.expect("output_chunk")
        await connection.send(cancel_run=sessions_pb2.CancelRun(lease=lease()))
        finished = await connection.expect("job_finished")
        assert finished.outcome == sessions_pb2.RUN_OUTCOME_CANCELLED
        assert not engine.killed.is_set()
        await connection.send(job_offer=offer("job-2"))
        assert (await connection.expect("offer_reply")).accepted
        assert (await connection.expect("job_started")).lease == lease("job-2")
        assert engine.killed.is_set()


async def test_cancel_reaches_a_job_that_is_being_prepared() -> None:
    async with stack(ScriptedEngine(prepare_gate=asyncio.Event())) as s:
        connection = await s.server.connection()
        await connection.welcome()
        await connection.send(job_offer=offer())
        assert (await connection.expect("offer_reply")).accepted
        await eventually(lambda: s.engine.jobs == ["job-1"])
        await connection.send(cancel_run=sessions_pb2.CancelRun(lease=lease()))
        finished = await connection.expect("job_finished")
        assert finished.outcome == sessions_pb2.RUN_OUTCOME_CANCELLED
        assert finished.run_time == seconds(0)
        s.engine.prepare_gate = None
        await connection.send(job_offer=offer("job-2"))
        assert (await connection.expect("offer_reply")).accepted
        await connection.expect("job_started")


async def test_engine_waits_while_the_server_acknowledges_nothing() -> None:
    pieces = ["x" * 65536] * 20
    async with stack(ScriptedEngine(pieces)) as s:
        connection = await s.server.connection()
        await connection.welcome(credit=4)
        await s.take_job(connection)
        stored = 0
        while stored < 20:
            assert s.engine.pieces_played <= stored + 5
            stored = (await connection.expect("output_chunk")).seq
            ack = sessions_pb2.OutputAck(lease=lease(), output_through_seq=stored)
            await connection.send(output_ack=ack)
        assert (await connection.expect("job_finished")).last_output_seq == 20


async def test_full_disk_ends_running_jobs_and_refuses_offers_until_it_has_space() -> None:
    gate = asyncio.Event()
    async with stack(ScriptedEngine(["one", gate, "two"])) as s:
        connection = await s.server.connection()
        await connection.welcome()
        await s.take_job(connection)
        await connection.expect("output_chunk")
        s.disk.is_full = True
        gate.set()
        finished = await connection.expect("job_finished")
        assert finished.outcome == sessions_pb2.RUN_OUTCOME_RELEASED
        assert finished.last_output_seq == 1
        await connection.send(
            result_ack=sessions_pb2.ResultAck(
                lease=lease(), disposition=sessions_pb2.RESULT_DISPOSITION_ACCEPTED
            )
        )
        await connection.send(job_offer=offer("job-2"))
        refusal = await connection.expect("offer_reply")
        assert not refusal.accepted
        assert "No space left" in refusal.refusal
        s.disk.is_full = False
        await connection.send(job_offer=offer("job-3"))
        assert (await connection.expect("offer_reply")).accepted
        assert (await connection.expect("job_started")).lease == lease("job-3")


async def test_restarted_daemon_reports_the_result_of_its_predecessor() -> None:
    disk = MemoryDisk()
    async with stack(ScriptedEngine(), disk) as s:
        connection = await s.server.connection()
        await connection.welcome()
        await s.take_job(connection)
        await connection.expect("output_chunk")
        await connection.expect_anyway("job_finished")
    disk.crash(Random(1))
    async with stack(ScriptedEngine(), disk) as s:
        connection = await s.server.connection()
        assert list((await connection.welcome()).unacknowledged_results) == [lease()]
        await connection.expect("job_started")
        chunks, finished = await connection.transcript()
        assert b"".join(data for _, data in chunks) == b"Hello, world"
        assert finished.outcome == sessions_pb2.RUN_OUTCOME_SUCCEEDED
        await connection.send(
            result_ack=sessions_pb2.ResultAck(
                lease=lease(), disposition=sessions_pb2.RESULT_DISPOSITION_ALREADY
            )
        )
        await eventually(lambda: is_empty(disk))


class SurvivingEngine(ScriptedEngine):
    """An engine whose runs outlive the daemon, as containers do, and can be read on."""

    async def adopt(
        self, offer: sessions_pb2.JobOffer, written: ResumeOffsets
    ) -> AsyncGenerator[Piece, None]:
        self.script = ["".join(str(piece) for piece in self.script)[written.output_bytes :]]
        return self.generate(offer)


async def test_restarted_daemon_adopts_running_jobs() -> None:
    disk = MemoryDisk()
    async with stack(ScriptedEngine(["Hello", asyncio.Event()]), disk) as s:
        connection = await s.server.connection()
        await connection.welcome()
        await s.take_job(connection)
        assert (await connection.expect("output_chunk")).data == b"Hello"
    disk.crash(Random(1))
    async with stack(SurvivingEngine(["Hello", ", world"]), disk) as s:
        connection = await s.server.connection()
        # Its end may be stored before Hello or after it: then the server says what it has.
        for held in (await connection.welcome()).held_leases:
            resend = sessions_pb2.LeaseDirective(lease=held, action=sessions_pb2.LEASE_ACTION_RESEND)
            await connection.send(lease_directive=resend)
        await connection.expect("job_started")
        chunks, finished = await connection.transcript()
        assert chunks == [(1, b"Hello"), (2, b", world")]
        assert finished.outcome == sessions_pb2.RUN_OUTCOME_SUCCEEDED


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (
            EngineError(jobs_pb2.FAILURE_REASON_PROMPT_TOO_LONG, "shorten"),
            jobs_pb2.FAILURE_REASON_PROMPT_TOO_LONG,
        ),
        (RuntimeError("secret path"), jobs_pb2.FAILURE_REASON_ENGINE_FAILED),
    ],
)
async def test_failing_engine_ends_only_its_job(
    error: Exception, reason: jobs_pb2.FailureReason.ValueType
) -> None:
    async with stack(ScriptedEngine(["one", error])) as s:
        connection = await s.server.connection()
        await connection.welcome()
        await s.take_job(connection)
        await connection.expect("output_chunk")
        finished = await connection.expect("job_finished")
        assert finished.failure_reason == reason
        assert "secret" not in finished.failure_message
        await connection.send(
            result_ack=sessions_pb2.ResultAck(
                lease=lease(), disposition=sessions_pb2.RESULT_DISPOSITION_ACCEPTED
            )
        )
        s.engine.script = ["fine"]
        await connection.send(job_offer=offer("job-2"))
        assert (await connection.expect("offer_reply")).accepted


async def test_failure_while_preparing_never_starts_the_meter() -> None:
    error = EngineError(jobs_pb2.FAILURE_REASON_BAD_PARAMS, "no prompt")
    async with stack(ScriptedEngine(prepare_error=error)) as s:
        connection = await s.server.connection()
        await connection.welcome()
        await connection.send(job_offer=offer())
        assert (await connection.expect("offer_reply")).accepted
        finished = await connection.expect("job_finished")
        assert finished.run_time == seconds(0)
        assert finished.failure_message == "no prompt"


async def test_bad_key_ends_the_daemon() -> None:
    async with fake_server() as server:
        daemon = Daemon(ServerAddress(server.address), "dcp-provider-bad", [], Journal(MemoryDisk()))
        with pytest.raises(KeyRefusedError, match=r"no such key \(INVALID_CREDENTIAL\)"):
            async with asyncio.timeout(10):
                await daemon.run()


async def test_superseded_daemon_ends_and_stops_its_job() -> None:
    async with stack(ScriptedEngine(["one", asyncio.Event()])) as s:
        connection = await s.server.connection()
        await connection.welcome()
        await s.take_job(connection)
        await connection.send(superseded=sessions_pb2.Superseded(by_session_epoch=2))
        assert await s.ended() is EndReason.SUPERSEDED
        assert s.engine.cancelled == ["job-1"]
        assert s.engine.closed


async def test_drain_finishes_the_job_and_says_goodbye() -> None:
    gate = asyncio.Event()
    async with stack(ScriptedEngine(["one", gate])) as s:
        connection = await s.server.connection()
        await connection.welcome()
        await s.take_job(connection)
        await connection.expect("output_chunk")
        s.daemon.drain()
        await connection.expect("drain")
        await connection.send(job_offer=offer("job-2"))
        assert (await connection.expect("offer_reply")).refusal == "the daemon is draining"
        gate.set()
        await connection.expect("job_finished")
        await connection.send(
            result_ack=sessions_pb2.ResultAck(
                lease=lease(), disposition=sessions_pb2.RESULT_DISPOSITION_ACCEPTED
            )
        )
        await connection.expect("goodbye")
        assert await s.ended() is EndReason.DRAINED


async def test_drain_releases_a_job_that_takes_too_long() -> None:
    async with stack(ScriptedEngine(["one", asyncio.Event()])) as s:
        connection = await s.server.connection()
        await connection.welcome()
        await s.take_job(connection)
        await connection.expect("output_chunk")
        s.daemon.drain()
        await connection.expect("drain")
        await connection.send(output_ack=sessions_pb2.OutputAck(lease=lease(), output_through_seq=1))
        await asyncio.sleep(0.05)
        s.clock.advance(31.0)
        finished = await connection.expect("job_finished")
        assert finished.outcome == sessions_pb2.RUN_OUTCOME_RELEASED
        s.clock.advance(6.0)
        await connection.expect("goodbye")
        assert await s.ended() is EndReason.DRAINED


async def test_reconnect_request_is_followed_after_its_time() -> None:
    async with stack(ScriptedEngine()) as s:
        connection = await s.server.connection()
        await connection.welcome()
        await connection.send(reconnect=sessions_pb2.Reconnect(after=seconds(60), jitter=seconds(5)))
        began = s.clock.monotonic()
        await s.let_reconnect()
        assert 60 <= s.clock.monotonic() - began <= 70


async def test_failing_gpu_reading_does_not_end_the_daemon() -> None:
    class Broken(NoGpus):
        def read(self) -> object:  # type: ignore[override]
            raise RuntimeError("driver")

    async with fake_server() as server:
        daemon = Daemon(
            ServerAddress(server.address),
            GOOD_KEY,
            [],
            Journal(MemoryDisk()),
            Machine(gpus=Broken()),  # type: ignore[arg-type]
        )
        running = asyncio.create_task(daemon.run())
        connection = await server.connection()
        assert not (await connection.welcome()).HasField("gpu_status")
        daemon.drain()
        assert await running is EndReason.DRAINED


IMAGE = jobs_pb2.JOB_TYPE_IMAGE_GENERATION


async def test_picture_arrives_complete_with_its_media_type() -> None:
    picture = Picture("image/png", b"\x89PNG" + bytes(100_000))
    async with stack(ScriptedEngine([picture], job_types=[IMAGE])) as s:
        connection = await s.server.connection()
        assert list((await connection.welcome()).job_types) == [IMAGE]
        await s.take_job(connection, job_type=IMAGE)
        chunks, finished = await connection.transcript()
        assert b"".join(data for _, data in chunks) == picture.data
        assert finished.content_type == "image/png"


async def test_picture_over_the_output_limit_fails_the_job_instead_of_being_truncated() -> None:
    picture = Picture("image/png", bytes(1001))
    async with stack(ScriptedEngine([picture], job_types=[IMAGE])) as s:
        connection = await s.server.connection()
        await connection.welcome()
        await s.take_job(connection, job_type=IMAGE, output_limit_bytes=1000)
        chunks, finished = await connection.transcript()
        assert chunks == []
        assert finished.failure_reason == jobs_pb2.FAILURE_REASON_OUTPUT_TOO_LARGE


async def test_engine_runs_as_many_jobs_at_once_as_it_has_slots() -> None:
    gate = asyncio.Event()
    small = ScriptedEngine([gate, "small"], model="small")
    async with stack(ScriptedEngine([gate, "big"], slots=2), others=[small]) as s:
        connection = await s.server.connection()
        assert (await connection.welcome()).slots == 3
        for number in (1, 2):
            await connection.send(job_offer=offer(f"job-{number}"))
            assert (await connection.expect("offer_reply")).accepted
            await connection.expect("job_started")
        await connection.send(job_offer=offer("job-3"))
        reply = await connection.expect("offer_reply")
        assert (reply.accepted, reply.refusal) == (False, "no slot of what runs such jobs is free")
        params = jobs_pb2.JobParams(model="small", prompt="hi")
        await connection.send(job_offer=offer("job-4", params=params))
        assert (await connection.expect("offer_reply")).accepted
        await connection.expect("job_started")
        gate.set()


async def test_job_type_that_the_model_does_not_serve_is_refused() -> None:
    drawing = ScriptedEngine(model="draws", job_types=[IMAGE])
    async with stack(ScriptedEngine(), others=[drawing]) as s:
        connection = await s.server.connection()
        await connection.welcome()
        await connection.send(job_offer=offer(job_type=IMAGE))
        reply = await connection.expect("offer_reply")
        assert reply.refusal == "nothing here runs such a job for the model test/model"


async def test_model_that_appears_later_is_reported_to_the_server() -> None:
    class Late(ScriptedEngine):
        looked = 0

        async def refresh(self) -> None:
            self.looked += 1

        def models(self) -> Sequence[sessions_pb2.ServedModel]:
            return super().models() if self.looked > 1 else []

    late = Late()
    async with stack(late) as s:
        connection = await s.server.connection()
        assert list((await connection.welcome()).models) == []
        await s.daemon.refresh()
        # It is offered when it has passed a self-test of its own.
        while not (models := (await connection.expect_anyway("capacity_update")).models):
            pass
        assert [model.name for model in models] == ["test/model"]


# The provider's own rules, and changes of settings.


class HotGpu(NoGpus):
    """One GPU whose temperature the test sets."""

    temp_c = 90.0
    renewals = 0

    def renew(self) -> None:
        """Counts."""
        self.renewals += 1

    def read(self) -> gpus_pb2.GpuStatus:
        """The GPU with the temperature of the test."""
        gpu = gpus_pb2.GpuDevice(index=0, gpu_name="Test GPU", temp_c=self.temp_c)
        return gpus_pb2.GpuStatus(gpu_count=1, all_gpus=[gpu])


async def test_offer_against_a_rule_is_refused_with_the_reason() -> None:
    async with stack(ScriptedEngine(), rules=Rules(max_temp_c=80), gpus=HotGpu()) as s:
        connection = await s.server.connection()
        hello = await connection.welcome()
        assert hello.slots == 0  # so a correct server sends no offer
        assert s.daemon.state()["takes_no_jobs"] == "GPU 0 has 90 °C; this provider's cap is 80"
        await connection.send(job_offer=offer())
        reply = await connection.expect("offer_reply")
        assert (reply.accepted, reply.refusal) == (False, "GPU 0 has 90 °C; this provider's cap is 80")


async def test_schedule_follows_the_daemons_own_clock() -> None:
    opens = datetime.fromtimestamp(1_800_000_000.0, UTC).hour
    schedule = parse_schedule(f"{opens:02d}:00-{opens + 1:02d}:00", UTC)
    async with stack(ScriptedEngine(), rules=Rules(schedules=(schedule,))) as s:
        connection = await s.server.connection()
        assert (await connection.welcome()).slots == 1
        await s.take_job(connection)
        await connection.expect("output_chunk")
        s.clock.advance(3600.0)
        await connection.send(job_offer=offer("job-2"))
        reply = await connection.expect_anyway("offer_reply")
        assert reply.refusal == "it is outside the hours in which this provider takes jobs"


async def test_changed_rules_take_effect_and_are_reported() -> None:
    engine, gpus = ScriptedEngine(), HotGpu()
    async with stack(engine, gpus=gpus) as s:
        connection = await s.server.connection()
        assert (await connection.welcome()).slots == 1
        await eventually(lambda: s.ready == [42])
        s.daemon.reconfigure([engine], Rules(max_temp_c=80))
        assert gpus.renewals == 1, "other software may be installed"
        assert (await connection.expect_anyway("capacity_update")).slots == 0
        s.daemon.reconfigure([engine], Rules(max_temp_c=95))
        assert (await connection.expect_anyway("capacity_update")).slots == 1


async def test_settings_from_the_server_take_effect_at_once_and_are_reported() -> None:
    """Not only with the next reading of the GPUs: no such reading happens in this test."""
    now = datetime.fromtimestamp(1_800_000_000.0, UTC)
    past = terms_pb2.WeeklyHours(
        start=f"{(now - timedelta(hours=2)):%H:%M}", end=f"{(now - timedelta(hours=1)):%H:%M}"
    )
    async with stack(ScriptedEngine(), sample_seconds=3600) as s:
        connection = await s.server.connection()
        assert (await connection.welcome()).slots == 1
        await eventually(lambda: s.ready == [42])
        await connection.send(settings_update=terms_pb2.ProviderSettings(hours=[past], timezone="UTC"))
        await connection.send(job_offer=offer())
        assert (await connection.expect("capacity_update")).slots == 0
        reply = await connection.expect("offer_reply")
        assert (reply.accepted, reply.refusal) == (
            False,
            "it is outside the hours in which this provider takes jobs",
        )
        await connection.send(settings_update=terms_pb2.ProviderSettings())
        await connection.send(job_offer=offer("job-2"))
        assert (await connection.expect("capacity_update")).slots == 1
        assert (await connection.expect("offer_reply")).accepted


async def test_models_can_change_while_a_job_runs() -> None:
    gate = asyncio.Event()
    old_engine, new_engine = ScriptedEngine(["Hello", gate, ", world"]), ScriptedEngine(model="test/other")
    async with stack(old_engine) as s:
        connection = await s.server.connection()
        await connection.welcome()
        await s.take_job(connection)
        s.daemon.reconfigure([new_engine], Rules())
        # At first no model is offered: the new engine has yet to pass its self-test.
        while [model.name for model in (await connection.expect_anyway("capacity_update")).models] != [
            "test/other"
        ]:
            pass
        await connection.send(job_offer=offer("job-2"))
        reply = await connection.expect_anyway("offer_reply")
        assert "does not serve the model test/model" in reply.refusal
        assert not old_engine.closed
        gate.set()
        finished = await connection.expect_anyway("job_finished")
        assert finished.outcome == sessions_pb2.RUN_OUTCOME_SUCCEEDED
        await eventually(lambda: old_engine.closed)
        assert not new_engine.closed


async def test_engine_that_leaves_gets_no_job_that_its_successor_takes() -> None:
    gate = asyncio.Event()
    script: list[Step] = ["Hello", gate, ", world"]
    old_engine, new_engine = ScriptedEngine(script, slots=8), ScriptedEngine(script, slots=3)
    async with stack(old_engine) as s:
        connection = await s.server.connection()
        await connection.welcome()
        await s.take_job(connection)
        s.daemon.reconfigure([new_engine], Rules())
        while (await connection.expect_anyway("capacity_update")).slots != 3:
            pass  # the new engine has yet to pass its self-test
        for job_id in ("job-2", "job-3"):
            await connection.send(job_offer=offer(job_id))
            await eventually(lambda job_id=job_id: job_id in old_engine.jobs + new_engine.jobs)  # type: ignore[misc]
        assert (old_engine.jobs, new_engine.jobs) == (["job-1"], ["job-2", "job-3"])
        assert not old_engine.closed
        gate.set()
        for _ in range(3):
            finished = await connection.expect_anyway("job_finished")
            assert finished.outcome == sessions_pb2.RUN_OUTCOME_SUCCEEDED
        await eventually(lambda: old_engine.closed)
        assert old_engine.cancelled == []


async def test_job_that_was_accepted_before_its_model_was_removed_still_runs() -> None:
    prepare = asyncio.Event()
    old_engine = ScriptedEngine(prepare_gate=prepare)
    async with stack(old_engine) as s:
        connection = await s.server.connection()
        await connection.welcome()
        await connection.send(job_offer=offer())
        assert (await connection.expect("offer_reply")).accepted
        s.daemon.reconfigure([ScriptedEngine(model="test/other")], Rules())
        prepare.set()
        finished = await connection.expect_anyway("job_finished")
        assert finished.outcome == sessions_pb2.RUN_OUTCOME_SUCCEEDED


async def test_state_shows_session_jobs_and_gpus_without_secrets() -> None:
    async with stack(ScriptedEngine(["Hello", asyncio.Event()]), gpus=HotGpu()) as s:
        connection = await s.server.connection()
        await connection.welcome(newest_daemon="999.0")
        await s.take_job(connection)
        s.clock.advance(7.5)
        state = s.daemon.state()
    assert state["session"] == {
        "state": "open",
        "server": s.server.address,
        "provider_id": 42,
        "session_epoch": 1,
        "connected_seconds": 7.5,
        "draining": False,
    }
    assert state["update"] == {"available": True, "newest": "999.0"}
    (job,) = state["jobs"]
    assert (job["job_id"], job["job_type"], job["model"]) == ("job-1", "llm_inference", "test/model")
    assert (job["phase"], job["run_seconds"], job["attempt"]) == ("running", 7.5, 1)
    assert state["gpus"][0]["temp_c"] == 90
    assert state["gpus"][0]["power_w"] is None
    for secret in (GOOD_KEY, "Say hello", "ssss", "Hello"):
        assert secret not in str(state)


async def test_newer_daemon_version_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async with stack(ScriptedEngine()) as s:
        await (await s.server.connection()).welcome(newest_daemon="999.0")
        await eventually(lambda: s.ready == [42])
    assert "a newer daemon is there: run dcp-daemon update; newest=999.0" in caplog.text

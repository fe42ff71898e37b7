"""What must not end a daemon and its jobs: a step that fails, a server that refuses, a file that is away."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from random import Random

import pytest
from dcp.v1 import gpus_pb2, sessions_pb2
from dcp.v1.sessions_pb2_grpc import SessionServiceServicer, add_SessionServiceServicer_to_server
from google.rpc import code_pb2
from grpc import aio

from daemon.app import Daemon, Options
from daemon.journal.journal import Journal
from daemon.link import KEY_PATIENCE_SECONDS, KeyRefusedError, Link, LinkBrokenError, ServerAddress
from daemon.machine.machine import Machine
from tests.daemon.fake_server import GOOD_KEY, eventually, offer, refuse
from tests.daemon.test_app import stack
from tests.daemon.test_capacity import ScriptedGpus, update
from tests.support.fake_engine import ScriptedEngine
from tests.support.manual_clock import ManualClock
from tests.support.memory_disk import MemoryDisk


class Faulty(ScriptedEngine):
    """An engine that fails where nobody expects it, while the test says so."""

    is_bad = False

    async def refresh(self) -> None:
        if self.is_bad:
            raise RuntimeError("refresh")

    def models(self) -> Sequence[sessions_pb2.ServedModel]:
        if self.is_bad:
            raise RuntimeError("models")
        return super().models()


async def test_step_that_fails_is_logged_once_and_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    gate = asyncio.Event()
    engine = Faulty(["Hello", gate, ", world"])
    async with stack(engine) as s:
        connection = await s.server.connection()
        await connection.welcome()
        await s.take_job(connection)
        engine.is_bad = True
        await eventually(lambda: "step=Daemon._tick" in caplog.text and "step=Daemon._sample" in caplog.text)
        s.clock.advance(11)
        await connection.expect_anyway("heartbeat")
        engine.is_bad = False
        gate.set()
        _, finished = await connection.transcript()
        assert finished.outcome == sessions_pb2.RUN_OUTCOME_SUCCEEDED
        assert not s.running.done()
    assert caplog.text.count("step=Daemon._tick") <= 2


async def test_engine_that_cannot_look_up_its_models_keeps_no_other_from_it() -> None:
    faulty, good = Faulty(model="test/faulty"), ScriptedEngine()
    async with stack(good, others=[faulty]) as s:
        await (await s.server.connection()).welcome()
        refreshed: list[bool] = []

        async def refresh() -> None:
            refreshed.append(True)

        good.refresh = refresh  # type: ignore[method-assign]
        faulty.is_bad = True
        await s.daemon._roster.refresh()
        assert refreshed


async def test_lie_of_the_driver_is_left_out_of_what_is_sent() -> None:
    gpus = ScriptedGpus()
    lie = gpus_pb2.GpuDevice(uuid="a", gpu_util_pct=4294967295, power_w=120)
    gpus.status = gpus_pb2.GpuStatus(gpu_count=1, gpu_util_pct=101, all_gpus=[lie])
    async with stack(ScriptedEngine(), gpus=gpus) as s:
        hello = await (await s.server.connection()).welcome()
    (seen,) = hello.gpu_status.all_gpus
    assert not seen.HasField("gpu_util_pct")
    assert not hello.gpu_status.HasField("gpu_util_pct")
    assert (seen.power_w, hello.gpu_status.gpu_count) == (120, 1)


async def test_models_beyond_the_servers_limit_are_left_out_and_reported_to_the_owner() -> None:
    class Many(ScriptedEngine):
        def models(self) -> Sequence[sessions_pb2.ServedModel]:
            return [sessions_pb2.ServedModel(name=f"many/{number}") for number in range(200)]

    async with stack(ScriptedEngine(), others=[Many(slots=256)]) as s:
        connection = await s.server.connection()
        hello = await connection.welcome()
        if len(hello.models) < 200:
            hello = await update(connection, lambda update: len(update.models) >= 200)  # type: ignore[assignment]
        assert len(hello.models) == 200
        assert hello.models[0].name == "test/model"
        await eventually(lambda: len(s.daemon.state()["not_offered"]) == 1)
        (entry,) = s.daemon.state()["not_offered"]
        assert entry["model"] == "many/199"


async def test_last_refusal_of_the_server_is_reported_to_the_owner() -> None:
    async with stack(ScriptedEngine()) as s:
        connection = await s.server.connection()
        await connection.welcome()
        assert s.daemon.state()["last_refusal"] is None
        connection.reason = "PROTOCOL_VIOLATION"
        connection.cut.set()
        await (await s.let_reconnect()).welcome()
        refusal = s.daemon.state()["last_refusal"]
    assert refusal["text"] == "INVALID_ARGUMENT: the test says why (PROTOCOL_VIOLATION)"
    assert refusal["seconds_ago"] >= 0


async def test_lost_connection_is_no_refusal() -> None:
    async with stack(ScriptedEngine()) as s:
        connection = await s.server.connection()
        await connection.welcome()
        connection.cut.set()
        await (await s.let_reconnect()).welcome()
        assert s.daemon.state()["last_refusal"] is None


async def test_key_that_was_accepted_is_tried_again_while_the_server_does_not_know_it() -> None:
    """A server can be on an empty or an older database for a while."""
    async with stack(ScriptedEngine()) as s:
        connection = await s.server.connection()
        await connection.welcome()
        s.server.knows_key = False
        connection.cut.set()
        waiting = asyncio.create_task(s.let_reconnect())
        await eventually(lambda: s.daemon.state()["last_refusal"] is not None)
        assert s.daemon.state()["last_refusal"]["key_refused_seconds"] is not None
        s.server.knows_key = True
        await (await waiting).welcome()
        await eventually(lambda: s.daemon.state()["last_refusal"]["key_refused_seconds"] is None)


async def test_key_that_is_not_known_for_a_day_ends_the_daemon() -> None:
    async with stack(ScriptedEngine()) as s:
        connection = await s.server.connection()
        await connection.welcome()
        s.server.knows_key = False
        connection.cut.set()
        while s.daemon.state()["last_refusal"] is None:
            s.clock.advance(1.0)
            await asyncio.sleep(0.02)
        s.clock.advance(KEY_PATIENCE_SECONDS)
        with pytest.raises(KeyRefusedError):
            await s.ended()


async def test_authorities_that_are_away_for_a_moment_are_read_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clock = ManualClock()
    daemon = Daemon(
        ServerAddress("127.0.0.1:1", tmp_path / "ca.pem"),
        GOOD_KEY,
        [ScriptedEngine()],
        Journal(MemoryDisk()),
        Machine(clock=clock, rng=Random(1)),
        options=Options(tick_seconds=0.01, sample_seconds=0.01),
    )
    running = asyncio.create_task(daemon.run())
    await eventually(lambda: "authorities cannot be read" in caplog.text)
    # It waits as after a lost connection, or it would try ten times a second.
    for _ in range(20):
        await asyncio.sleep(0)
    assert caplog.text.count("authorities cannot be read") == 1
    while caplog.text.count("authorities cannot be read") < 3:
        clock.advance(1.0)
        await asyncio.sleep(0.01)
    assert not running.done()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


class Refusing(SessionServiceServicer):
    """Ends every stream after some messages, with the reason as a message before."""

    async def Connect(self, requests, context):  # type: ignore[no-untyped-def, override]  # noqa: N802
        count = 0
        async for _ in requests:
            count += 1
            if count == 20:
                refusal = sessions_pb2.SessionRefusal(reason="PROTOCOL_VIOLATION", message="the true reason")
                await context.write(sessions_pb2.ServerMessage(refusal=refusal))
                await refuse(context, code_pb2.INVALID_ARGUMENT, "the true reason", "PROTOCOL_VIOLATION")


async def test_daemon_that_writes_while_its_stream_ends_learns_the_servers_reason() -> None:
    """grpc puts `Internal error from Core` in the place of the status when a write fails first."""
    server = aio.server()
    add_SessionServiceServicer_to_server(Refusing(), server)
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    chunk = sessions_pb2.OutputChunk(data=b"x" * 30_000)
    try:
        for _ in range(20):
            async with Link(ServerAddress(address), GOOD_KEY).open() as stream:
                for _ in range(1000):
                    stream.send(sessions_pb2.DaemonMessage(output_chunk=chunk))
                with pytest.raises(LinkBrokenError, match="the true reason") as caught:
                    await stream.converse(lambda message: None)
            assert caught.value.is_refusal
    finally:
        await server.stop(None)


async def test_failed_effect_keeps_no_other_from_being_carried_out(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(ScriptedEngine):
        """An engine that takes job-1 when it is asked, and cannot begin it."""

        asked = 0

        def takes(self, offer: sessions_pb2.JobOffer) -> bool:
            self.asked += offer.lease.job_id == "job-1"
            if offer.lease.job_id == "job-1" and self.asked == 2:
                raise RuntimeError("takes")
            return super().takes(offer)

    async with stack(Broken(slots=2)) as s:
        connection = await s.server.connection()
        await connection.welcome()
        await connection.send(job_offer=offer("job-1"))
        assert (await connection.expect("offer_reply")).accepted
        await eventually(lambda: "effect=StartAttempt" in caplog.text)
        await connection.send(job_offer=offer("job-2"))
        assert (await connection.expect("offer_reply")).accepted
        _, finished = await connection.transcript()
        assert finished.lease.job_id == "job-2"
        assert finished.outcome == sessions_pb2.RUN_OUTCOME_SUCCEEDED

"""The daemon's offered capacity: only engines that passed their self-test, only healthy GPUs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection

from dcp.v1 import gpus_pb2, jobs_pb2, sessions_pb2

from daemon.engines import EngineError
from daemon.machine.gpus.none import NoGpus
from daemon.machine.policy import Rules
from tests.daemon.fake_server import Connection, eventually, lease, offer
from tests.daemon.test_app import stack
from tests.support.fake_engine import DEFAULT_MODEL, ScriptedEngine

INFERENCE = jobs_pb2.JOB_TYPE_LLM_INFERENCE
BROKEN = EngineError(jobs_pb2.FAILURE_REASON_ENGINE_FAILED, "The model answered nothing.")
DRIVER_LOST = gpus_pb2.GpuStatus(driver_lost=True)


def two_gpus(**first_gpu: int) -> gpus_pb2.GpuStatus:
    """Two GPUs; the first has these figures."""
    first = gpus_pb2.GpuDevice(index=0, uuid="a", **first_gpu)  # type: ignore[arg-type]
    return gpus_pb2.GpuStatus(all_gpus=[first, gpus_pb2.GpuDevice(index=1, uuid="b")], gpu_count=2)


class ScriptedGpus(NoGpus):
    """GPUs whose status the test sets."""

    def __init__(self) -> None:
        super().__init__()
        self.status = two_gpus()

    def read(self) -> gpus_pb2.GpuStatus:
        """The current status."""
        return self.status


class BoundEngine(ScriptedEngine):
    """An engine that knows the GPU of each of its runs."""

    def gpus(self, lease: sessions_pb2.Lease) -> Collection[str]:
        """Jobs with an even number run on the second GPU."""
        return ["b" if lease.job_id in ("job-2", "job-4") else "a"]


async def update(
    connection: Connection, is_wanted: Callable[[sessions_pb2.CapacityUpdate], bool]
) -> sessions_pb2.CapacityUpdate:
    """The first capacity update that meets the condition."""
    while True:
        found: sessions_pb2.CapacityUpdate = await connection.expect_anyway("capacity_update")
        if is_wanted(found):
            return found


async def test_engine_that_passed_its_test_is_offered_in_the_first_hello() -> None:
    async with stack(ScriptedEngine()) as s:
        hello = await (await s.server.connection()).welcome()
        (test,) = hello.self_tests.tests
        assert (test.passed, test.reason, list(test.models)) == (True, "", [DEFAULT_MODEL])
        assert list(test.job_types) == [INFERENCE]
        assert s.engine.tests == 1


async def test_daemon_connects_during_a_slow_first_test_and_is_ready_after_it() -> None:
    engine = ScriptedEngine()
    engine.test_gate = asyncio.Event()
    async with stack(engine) as s:
        connection = await s.server.connection()
        hello = await connection.welcome()
        (test,) = hello.self_tests.tests
        assert (test.passed, test.pending, list(hello.models)) == (False, True, [])
        engine.test_gate.set()
        passed = await update(connection, lambda update: update.self_tests.tests[0].passed)
        assert not passed.self_tests.tests[0].pending
        await eventually(lambda: s.ready == [42])


async def test_failed_engine_is_not_offered_and_tested_again_until_it_passes() -> None:
    engine = ScriptedEngine()
    engine.test_error = BROKEN
    async with stack(engine) as s:
        connection = await s.server.connection()
        hello = await connection.welcome()
        (test,) = hello.self_tests.tests
        assert (test.passed, test.reason) == (False, "The model answered nothing.")
        assert (list(hello.models), list(hello.job_types)) == ([], [])
        await connection.send(job_offer=offer())
        assert not (await connection.expect("offer_reply")).accepted
        engine.test_error = None
        s.clock.advance(60)
        passed = await update(connection, lambda update: update.self_tests.tests[0].passed)
        assert ([model.name for model in passed.models], list(passed.job_types.job_types)) == (
            [DEFAULT_MODEL],
            [INFERENCE],
        )
        await connection.send(job_offer=offer("job-2"))
        assert (await connection.expect("offer_reply")).accepted


async def test_failed_hourly_test_withdraws_the_engine() -> None:
    async with stack(ScriptedEngine()) as s:
        connection = await s.server.connection()
        await connection.welcome()
        await eventually(lambda: s.ready == [42])
        s.engine.test_error = RuntimeError("secret path")
        s.clock.advance(2 * 3600)
        failed = await update(connection, lambda update: not update.self_tests.tests[0].passed)
        assert failed.HasField("job_types")
        assert (list(failed.models), list(failed.job_types.job_types)) == ([], [])
        assert "secret" not in failed.self_tests.tests[0].reason


async def test_engine_that_fails_in_a_job_is_tested_at_once() -> None:
    async with stack(ScriptedEngine([RuntimeError("driver")])) as s:
        connection = await s.server.connection()
        await connection.welcome()
        s.engine.test_error = BROKEN
        await connection.send(job_offer=offer())
        # The update may come before JobStarted, which waits for the journal.
        missing, messages = {"offer_reply", "job_started", "failed test"}, []
        while missing:
            message = await connection.next()
            messages.append(message)
            kind = str(message.WhichOneof("kind"))
            is_failure = kind == "capacity_update" and not message.capacity_update.self_tests.tests[0].passed
            missing.discard("failed test" if is_failure else kind)
        assert all(message.offer_reply.accepted for message in messages if message.HasField("offer_reply"))
        assert s.engine.tests == 2


async def test_successful_job_counts_as_a_passed_test() -> None:
    async with stack(ScriptedEngine()) as s:
        connection = await s.server.connection()
        await connection.welcome()
        s.clock.advance(3000)
        # So long a silence of the server ends the session.
        connection = await s.let_reconnect()
        await connection.welcome()
        await s.take_job(connection)
        await connection.expect_anyway("job_finished")
        s.clock.advance(3000)
        await asyncio.sleep(0.1)
        assert s.engine.tests == 1
        s.clock.advance(3600)
        await eventually(lambda: s.engine.tests == 2)


async def test_failed_gpu_releases_its_run_and_the_other_runs_continue() -> None:
    gpus, gate = ScriptedGpus(), asyncio.Event()
    async with stack(BoundEngine([gate, "done"], slots=4), gpus=gpus) as s:
        connection = await s.server.connection()
        assert (await connection.welcome()).slots == 4
        for job_id in ("job-1", "job-2"):
            await connection.send(job_offer=offer(job_id))
            await connection.expect_anyway("job_started")
        gpus.status = two_gpus(xid_count=1, last_xid=79)
        assert (await update(connection, lambda update: update.slots != 4)).slots == 2
        finished = await connection.expect("job_finished")
        assert finished.lease == lease("job-1")
        assert finished.outcome == sessions_pb2.RUN_OUTCOME_RELEASED
        assert finished.failure_reason == jobs_pb2.FAILURE_REASON_GPU_FAILED
        assert s.engine.cancelled == ["job-1"]
        gate.set()
        other = (await connection.transcript())[1]
        assert (other.lease, other.outcome) == (lease("job-2"), sessions_pb2.RUN_OUTCOME_SUCCEEDED)
        s.clock.advance(20)
        beat = await connection.expect_anyway("heartbeat")
        assert [gpu.state for gpu in beat.gpu_status.all_gpus] == [
            gpus_pb2.GPU_STATE_FAILED,
            gpus_pb2.GPU_STATE_HEALTHY,
        ]


async def test_run_that_may_use_any_gpu_is_released_when_the_last_gpu_fails() -> None:
    gpus = ScriptedGpus()
    async with stack(ScriptedEngine([asyncio.Event()]), gpus=gpus) as s:
        connection = await s.server.connection()
        await connection.welcome()
        await s.take_job(connection)
        gpus.status = two_gpus(row_remap_failed=1)
        await asyncio.sleep(0.1)
        assert s.engine.cancelled == []
        gpus.status = gpus_pb2.GpuStatus(gpu_count=0)
        finished = await connection.expect("job_finished")
        assert finished.failure_reason == jobs_pb2.FAILURE_REASON_GPU_FAILED
        await connection.send(job_offer=offer("job-2"))
        assert not (await connection.expect("offer_reply")).accepted


async def test_drained_gpu_gets_no_new_job_and_finishes_what_runs_on_it() -> None:
    gpus, gate = ScriptedGpus(), asyncio.Event()
    async with stack(BoundEngine([gate, "done"], slots=4), gpus=gpus) as s:
        connection = await s.server.connection()
        assert (await connection.welcome()).slots == 4
        await s.take_job(connection)
        assert s.daemon.set_gpu_drained("0", True) == {"gpu": "a"}
        assert (await update(connection, lambda update: update.slots != 4)).slots == 2
        states: list[int] = []
        while states != [gpus_pb2.GPU_STATE_DRAINED, gpus_pb2.GPU_STATE_HEALTHY]:
            s.clock.advance(20)  # a heartbeat carries the GPUs only after a new sample
            beat = await connection.expect_anyway("heartbeat")
            states = [gpu.state for gpu in beat.gpu_status.all_gpus]
        assert [gpu["state"] for gpu in s.daemon.state()["gpus"]] == ["drained by hand", "works"]
        assert s.engine.cancelled == []
        gate.set()
        assert (await connection.transcript())[1].outcome == sessions_pb2.RUN_OUTCOME_SUCCEEDED
        assert s.daemon.set_gpu_drained("b", True) == {"gpu": "b"}
        assert (await update(connection, lambda update: update.slots != 2)).slots == 0
        assert s.daemon.state()["takes_no_jobs"] == "this provider's owner keeps its GPUs for now"
        assert s.daemon.set_gpu_drained("7", True) == {
            "error": "there is no GPU 7; the machine's are: 0 (a), 1 (b)"
        }
        s.daemon.set_gpu_drained("a", False)
        assert (await update(connection, lambda update: update.slots != 0)).slots == 2


YIELDS = Rules(yield_to_owner=True)


async def test_jobs_yield_to_programs_of_the_owner_and_come_back_after_them() -> None:
    gpus, gate = ScriptedGpus(), asyncio.Event()
    async with stack(BoundEngine([gate, "done"], slots=4), gpus=gpus, rules=YIELDS) as s:
        connection = await s.server.connection()
        assert (await connection.welcome()).slots == 4
        for job_id in ("job-1", "job-2"):
            await connection.send(job_offer=offer(job_id))
            await connection.expect_anyway("job_started")
        gpus.status = two_gpus(foreign_processes=1)
        assert (await update(connection, lambda update: update.slots != 4)).slots == 2
        finished = await connection.expect("job_finished")
        assert finished.lease == lease("job-1")
        assert finished.outcome == sessions_pb2.RUN_OUTCOME_RELEASED
        assert finished.failure_reason == jobs_pb2.FAILURE_REASON_PROVIDER_DRAINED
        assert finished.failure_message == "The provider's owner uses the GPU."
        assert s.engine.cancelled == ["job-1"]
        assert s.daemon.state()["gpus"][0]["state"] == "in use by its owner's programs"
        gate.set()
        assert (await connection.transcript())[1].lease == lease("job-2")
        gpus.status = two_gpus(foreign_processes=0)
        assert (await update(connection, lambda update: update.slots != 2)).slots == 4


async def test_job_that_sees_every_gpu_yields_when_one_is_in_use() -> None:
    gpus = ScriptedGpus()
    async with stack(ScriptedEngine([asyncio.Event()]), gpus=gpus, rules=YIELDS) as s:
        connection = await s.server.connection()
        await connection.welcome()
        await s.take_job(connection)
        gpus.status = two_gpus(foreign_processes=3)
        finished = await connection.expect("job_finished")
        assert finished.failure_reason == jobs_pb2.FAILURE_REASON_PROVIDER_DRAINED


async def test_without_the_setting_jobs_do_not_yield() -> None:
    gpus = ScriptedGpus()
    gpus.status = two_gpus(foreign_processes=3)
    async with stack(ScriptedEngine(["done"], slots=4), gpus=gpus) as s:
        connection = await s.server.connection()
        assert (await connection.welcome()).slots == 4
        await connection.send(job_offer=offer())
        await connection.expect_anyway("job_started")
        assert (await connection.transcript())[1].outcome == sessions_pb2.RUN_OUTCOME_SUCCEEDED


async def test_no_engine_is_tested_while_the_owner_keeps_every_gpu() -> None:
    engine, gpus = ScriptedEngine(), ScriptedGpus()
    async with stack(engine, gpus=gpus) as s:
        connection = await s.server.connection()
        await connection.welcome()
        for uuid in ("a", "b"):
            s.daemon.set_gpu_drained(uuid, True)
        await update(connection, lambda update: update.slots == 0)
        tests = engine.tests
        s.clock.advance(4000)
        await connection.expect_anyway("heartbeat")
        assert engine.tests == tests
        s.daemon.set_gpu_drained("a", False)
        await eventually(lambda: engine.tests == tests + 1)


async def test_lost_driver_ends_no_run_and_stops_new_jobs_until_it_returns() -> None:
    gpus, gate = ScriptedGpus(), asyncio.Event()
    async with stack(ScriptedEngine([gate, "done"]), gpus=gpus) as s:
        connection = await s.server.connection()
        await connection.welcome()
        await s.take_job(connection)
        gpus.status = DRIVER_LOST
        assert (await update(connection, lambda update: update.slots == 0)).models
        gate.set()
        assert (await connection.transcript())[1].outcome == sessions_pb2.RUN_OUTCOME_SUCCEEDED
        await connection.send(job_offer=offer("job-2"))
        assert not (await connection.expect("offer_reply")).accepted
        gpus.status = two_gpus()
        assert (await update(connection, lambda update: update.slots != 0)).slots == 1
        await connection.send(job_offer=offer("job-3"))
        assert (await connection.expect("offer_reply")).accepted


async def test_driver_that_hangs_from_the_first_reading_gets_no_work_and_the_owner_learns_why() -> None:
    gpus = ScriptedGpus()
    gpus.status, gpus.is_late = DRIVER_LOST, True
    async with stack(ScriptedEngine(slots=4), gpus=gpus) as s:
        connection = await s.server.connection()
        hello = await connection.welcome()
        assert (hello.slots, list(hello.models), hello.gpu_status.driver_lost) == (0, [], True)
        assert s.daemon.state()["takes_no_jobs"] == "this machine's NVIDIA driver does not answer"
        await connection.send(job_offer=offer())
        assert not (await connection.expect_anyway("offer_reply")).accepted
        gpus.status, gpus.is_late = two_gpus(), False
        assert (await update(connection, lambda update: update.slots > 0)).slots == 4
        assert s.daemon.state()["takes_no_jobs"] == ""


async def test_failed_gpu_stays_failed_over_a_reading_that_is_late() -> None:
    gpus = ScriptedGpus()
    async with stack(BoundEngine(slots=4), gpus=gpus) as s:
        connection = await s.server.connection()
        await connection.welcome()
        gpus.status = two_gpus(xid_count=1, last_xid=79)
        await update(connection, lambda update: update.slots == 2)
        gpus.is_late, gpus.status = True, DRIVER_LOST
        await update(connection, lambda update: update.slots == 0)
        gpus.is_late, gpus.status = False, two_gpus(xid_count=1, last_xid=79)
        await update(connection, lambda update: update.slots == 2)
        await asyncio.sleep(0.3)  # many more samples than make a GPU good again
        assert s.daemon._health.healthy_gpus() == ["b"]

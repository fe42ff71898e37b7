"""Which runners a daemon uses on a machine (containers, plain processes or neither), and what it reports."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from dcp.v1 import jobs_pb2, sessions_pb2

from daemon.runners.choose import problem
from daemon.runners.containers.docker import EngineFacts
from tests.daemon.fake_server import GOOD_KEY, fake_server, lease
from tests.daemon.fake_server import offer as offered
from tests.daemon.runners.bench import both_engines
from tests.daemon.test_main import command, run
from tests.support.private_engine import IMAGE, PrivateEngine

CUSTOM = jobs_pb2.JOB_TYPE_CUSTOM_CONTAINER
INFERENCE = jobs_pb2.JOB_TYPE_LLM_INFERENCE
NO_SOCKET = "/nowhere/docker.sock"


async def hello_of(tmp_path: Path, *arguments: str, **environ: str) -> sessions_pb2.Hello:
    """The program's Hello. The model of these tests does not exist, so inference is not offered."""
    async with fake_server() as server:
        known = {"DCP_SERVER": server.address, "DCP_PROVIDER_KEY": GOOD_KEY}
        async with command("run", *arguments, state=tmp_path, **known, **environ):
            return await (await server.connection()).welcome()


async def test_without_allowed_images_no_container_is_offered(tmp_path: Path) -> None:
    hello = await hello_of(tmp_path, DCP_MODELS="a/b=/m.gguf")
    assert (list(hello.job_types), hello.runs_plain_processes) == ([], False)


async def test_without_an_engine_the_daemon_runs_and_offers_no_container(tmp_path: Path) -> None:
    settings = {"DCP_CONTAINER_IMAGES": "*", "DCP_CONTAINER_SOCKET": NO_SOCKET}
    hello = await hello_of(tmp_path, DCP_MODELS="a/b=/m.gguf", **settings)
    assert list(hello.job_types) == []


async def test_plain_processes_are_run_if_allowed_and_reported_to_the_server(tmp_path: Path) -> None:
    async with fake_server() as server:
        environ = {"DCP_SERVER": server.address, "DCP_PROVIDER_KEY": GOOD_KEY, "DCP_MODELS": "a/b=/m.gguf"}
        async with command("run", "--allow-process-runner", state=tmp_path, **environ):
            connection = await server.connection()
            hello = await connection.welcome()
            assert hello.runs_plain_processes
            assert CUSTOM in hello.job_types
            spec = jobs_pb2.ContainerSpec(image="x", command=["echo", "hello"])
            await connection.send(job_offer=offered(job_type=CUSTOM, container_spec=spec))
            assert (await connection.expect("offer_reply")).accepted
            assert (await connection.expect("job_started")).lease == lease()
            kinds, data = set(), b""
            while (message := await connection.next()).WhichOneof("kind") != "job_finished":
                kinds.add(message.WhichOneof("kind"))
                data += message.output_chunk.data
            assert message.job_finished.outcome == sessions_pb2.RUN_OUTCOME_SUCCEEDED, message
            assert kinds >= {"output_chunk", "log_chunk"}
            assert data == b"hello\n"


async def test_allowed_images_take_precedence_over_plain_processes(tmp_path: Path) -> None:
    settings = {"DCP_CONTAINER_IMAGES": "busybox", "DCP_CONTAINER_SOCKET": NO_SOCKET}
    hello = await hello_of(tmp_path, "--allow-process-runner", DCP_MODELS="a/b=/m.gguf", **settings)
    assert (list(hello.job_types), hello.runs_plain_processes) == ([], False)


@pytest.mark.engine
async def test_engine_is_found_and_its_job_types_are_offered(tmp_path: Path, engine: PrivateEngine) -> None:
    async with fake_server() as server:
        environ = {"DCP_SERVER": server.address, "DCP_PROVIDER_KEY": GOOD_KEY, "DCP_MODELS": "a/b=/m.gguf"}
        settings = {"DCP_CONTAINER_IMAGES": "busybox", "DCP_CONTAINER_SOCKET": str(engine.socket)}
        async with command("run", state=tmp_path, **environ, **settings):
            connection = await server.connection()
            hello = await connection.welcome()
            kinds = set(hello.job_types)
            while not {CUSTOM, jobs_pb2.JOB_TYPE_TRAINING} < kinds:  # a busy machine proves them later
                update = await connection.expect_anyway("capacity_update")
                kinds = set(update.job_types.job_types)
    assert not hello.runs_plain_processes


@pytest.mark.engine
async def test_engine_that_comes_after_the_start_is_found(tmp_path: Path, engine: PrivateEngine) -> None:
    socket = tmp_path / "engine.sock"
    async with fake_server() as server:
        environ = {"DCP_SERVER": server.address, "DCP_PROVIDER_KEY": GOOD_KEY, "DCP_MODELS": "a/b=/m.gguf"}
        settings = {"DCP_CONTAINER_IMAGES": "busybox", "DCP_CONTAINER_SOCKET": str(socket)}
        async with command("run", state=tmp_path, **environ, **settings):
            connection = await server.connection()
            assert list((await connection.welcome()).job_types) == []
            socket.symlink_to(engine.socket)
            while CUSTOM not in (await connection.expect_anyway("capacity_update")).job_types.job_types:
                pass


@pytest.mark.engine
async def test_engine_that_disappears_fails_only_the_job(tmp_path: Path, engine: PrivateEngine) -> None:
    socket = tmp_path / "engine.sock"
    socket.symlink_to(engine.socket)
    async with fake_server() as server:
        environ = {"DCP_SERVER": server.address, "DCP_PROVIDER_KEY": GOOD_KEY, "DCP_MODELS": "a/b=/m.gguf"}
        settings = {"DCP_CONTAINER_IMAGES": "busybox", "DCP_CONTAINER_SOCKET": str(socket)}
        async with command("run", state=tmp_path, **environ, **settings) as running:
            connection = await server.connection()
            await connection.welcome()
            spec = jobs_pb2.ContainerSpec(image=IMAGE, command=["true"])
            for epoch, reason in ((1, "CONTAINER_ENGINE_UNAVAILABLE"), (2, "UNSPECIFIED")):
                socket.unlink(missing_ok=True)
                if epoch == 2:
                    socket.symlink_to(engine.socket)
                await connection.send(job_offer=offered(epoch=epoch, job_type=CUSTOM, container_spec=spec))
                while (message := await connection.next()).WhichOneof("kind") != "job_finished":
                    pass
                reported = jobs_pb2.FailureReason.Name(message.job_finished.failure_reason)
                assert reported == f"FAILURE_REASON_{reason}"
                await connection.send(
                    result_ack=sessions_pb2.ResultAck(
                        lease=lease(epoch=epoch), disposition=sessions_pb2.RESULT_DISPOSITION_ACCEPTED
                    )
                )
            running.process.send_signal(signal.SIGTERM)
            assert (await running.end())[0] == 0


@both_engines
@pytest.mark.engine
async def test_doctor_describes_the_engine(tmp_path: Path, engine: PrivateEngine) -> None:
    settings = {"DCP_CONTAINER_SOCKET": str(engine.socket), "DCP_CONTAINER_NETWORK": "bridge"}
    _, out, _ = await run("doctor", state=tmp_path, DCP_CONTAINER_IMAGES="busybox,*", **settings)
    name = f"Podman {engine.facts.version}" if engine.facts.is_podman else engine.facts.version
    assert f"ok   container engine {name}: images busybox, *" in out
    assert ("hands out no GPUs" in out) is engine.facts.is_podman
    assert "warn containers: every image is allowed" in out
    assert "warn containers: jobs are on the network bridge" in out


@pytest.mark.engine
async def test_doctor_reports_what_a_model_server_in_a_container_lacks(
    tmp_path: Path, engine: PrivateEngine
) -> None:
    hidden = tmp_path / "hidden.gguf"
    hidden.write_bytes(b"")
    hidden.chmod(0o600)
    settings = {
        "DCP_CONTAINER_SOCKET": str(engine.socket),
        "DCP_ENGINE_MODELS": f"a/gone=/no/such/folder,a/hidden={hidden}",
    }
    status, out, _ = await run("doctor", state=tmp_path, DCP_ENGINE_IMAGE=IMAGE, **settings)
    assert status == 1
    assert "fail model a/gone: /no/such/folder does not exist; correct DCP_ENGINE_MODELS" in out
    assert "warn model a/hidden: the server in the container is another user" in out
    assert f"ok   engine container: {IMAGE} is there" in out
    _, out, _ = await run("doctor", state=tmp_path, DCP_ENGINE_IMAGE="acme/other:1", **settings)
    assert "warn engine container: acme/other:1 is not on this machine" in out
    settings["DCP_CONTAINER_SOCKET"] = NO_SOCKET
    _, out, _ = await run("doctor", state=tmp_path, DCP_ENGINE_IMAGE=IMAGE, **settings)
    assert f"fail engine container: {NO_SOCKET}" in out


async def test_doctor_reports_a_missing_engine(tmp_path: Path) -> None:
    settings = {"DCP_CONTAINER_IMAGES": "busybox", "DCP_CONTAINER_SOCKET": NO_SOCKET}
    status, out, _ = await run("doctor", state=tmp_path, **settings)
    assert status == 1
    assert f"fail container engine {NO_SOCKET}" in out
    assert "correct DCP_CONTAINER_SOCKET" in out


@pytest.mark.parametrize(
    ("changes", "expected"),
    [({"architecture": "riscv64"}, "riscv64"), ({"name": "Podman Engine"}, ""), ({}, "")],
)
def test_unsuitable_engine_is_reported_with_the_reason(changes: dict[str, str], expected: str) -> None:
    sound = EngineFacts("Engine", "20.10.24", "x86_64", ("local",), ("name=seccomp,profile=default",))
    reason = problem(sound._replace(**changes))  # type: ignore[arg-type]
    assert expected in reason
    assert bool(reason) is bool(expected)


@pytest.mark.engine
async def test_machine_with_old_software_runs_no_job_and_says_why(
    tmp_path: Path, docker_engine: PrivateEngine
) -> None:
    settings = {
        "DCP_CONTAINER_IMAGES": "busybox",
        "DCP_CONTAINER_SOCKET": str(docker_engine.socket),
        "DCP_CONTAINER_MIN_RUNC": "99.1",
    }
    why = f"runc is {docker_engine.facts.runc}, and at least 99.1 is needed"
    status, out, _ = await run("doctor", state=tmp_path, **settings)
    assert status == 1
    assert f"fail container engine: jobs are not run, as {why}" in out
    assert "set DCP_CONTAINER_MIN_RUNC" in out
    async with fake_server() as server:
        environ = {"DCP_SERVER": server.address, "DCP_PROVIDER_KEY": GOOD_KEY, "DCP_MODELS": "a/b=/m.gguf"}
        async with command("run", state=tmp_path, **environ, **settings):
            connection = await server.connection()
            hello = await connection.welcome()
            assert list(hello.images.patterns) == ["busybox"]
            tests = hello.self_tests.tests
            while all(test.name != "containers" or test.pending for test in tests):
                tests = (await connection.expect_anyway("capacity_update")).self_tests.tests
            (tested,) = (test for test in tests if test.name == "containers")
            assert not tested.passed
            assert why in tested.reason


async def test_doctor_and_help_say_plainly_that_processes_are_not_isolated(tmp_path: Path) -> None:
    _, out, _ = await run("run", "--help", state=tmp_path)
    assert "NOT ISOLATED" in out
    assert "jobs can read this machine's files and use its network" in " ".join(out.split())
    _, out, _ = await run("doctor", "--allow-process-runner", state=tmp_path)
    assert "warn the process runner is allowed. NOT ISOLATED" in out
    assert "can read this machine's files and use its network" in out
    _, out, _ = await run("doctor", state=tmp_path)
    assert "ok   containers: none is run" in out

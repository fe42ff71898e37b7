"""dcp-daemon doctor, status and reload: as real processes, and their output by direct calls."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import signal
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from dcp.v1 import jobs_pb2, providers_pb2, sessions_pb2
from rich.console import Console

from daemon.cli import control, doctor, status
from daemon.cli.control import socket_path
from daemon.cli.findings import Level
from daemon.config.config import from_env
from daemon.service.notify import Manager
from daemon.service.version import daemon_version
from tests.daemon.cli.test_registration import Terminal
from tests.daemon.fake_server import GOOD_KEY, fake_server, offer
from tests.daemon.test_main import Command, command, needs_model, run
from tests.support.openai_server import COUNTS, DONE, END, Script, Step, openai_server, word

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)


# --- doctor ---


@pytest.mark.parametrize(
    ("skew_seconds", "level", "text"),
    [
        (0, Level.OK, "agrees"),
        (-5, Level.OK, "agrees"),
        (90, Level.WARN, "90 s ahead of the server's"),
        (-90, Level.WARN, "90 s behind the server's"),
    ],
)
def test_doctor_compares_the_clock_with_the_servers(skew_seconds: int, level: Level, text: str) -> None:
    finding = doctor.clock(NOW, NOW + timedelta(seconds=skew_seconds))
    assert finding.level is level
    assert text in finding.text
    assert (level is Level.OK) or "timedatectl" in finding.text


def test_doctor_warns_if_the_server_sends_no_time() -> None:
    assert doctor.clock(None, NOW).level is Level.WARN


async def test_doctor_reports_the_same_as_json(tmp_path: Path) -> None:
    code, out, _ = await run(
        "doctor", "--json", state=tmp_path, DCP_SERVER="127.0.0.1:1", DCP_MODELS="a/b=/no.gguf"
    )
    found = json.loads(out)
    assert code == 1
    assert {finding["level"] for finding in found} <= {"ok", "warn", "fail"}
    texts = [finding["text"] for finding in found if finding["level"] == "fail"]
    assert any(text.startswith("server 127.0.0.1:1: UNAVAILABLE") for text in texts)
    assert any("free at" in finding["text"] for finding in found)


async def test_doctor_reports_a_key_that_the_server_does_not_know(tmp_path: Path) -> None:
    async with fake_server() as server:
        code, out, _ = await run(
            "doctor", state=tmp_path, DCP_SERVER=server.address, DCP_PROVIDER_KEY="dcp-provider-bad"
        )
    assert code == 1
    assert "fail key: the server refused it" in out
    assert "dcp-provider-bad" not in out


async def test_doctor_refuses_a_broken_settings_file(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text("servre = 1")
    (tmp_path / "c.toml").chmod(0o644)
    code, _, err = await run("--config", str(tmp_path / "c.toml"), "doctor", state=tmp_path)
    assert code == 2
    assert "servre is not a setting; did you mean server?" in err


# --- status ---


def test_status_shows_the_earnings_from_the_server() -> None:
    own = providers_pb2.Provider(id=42, name="Node")
    own.earnings.MergeFrom(providers_pb2.Earnings(today_halala=282, total_halala=999, claimable_halala=300))
    view = status.provider_view(providers_pb2.GetOwnProviderResponse(provider=own))
    assert (view["today_halala"], view["total_halala"], view["claimable_halala"]) == (282, 999, 300)


@pytest.mark.parametrize(("seconds", "text"), [(7.9, "7 s"), (185, "3 min 05 s"), (3725, "1 h 02 min")])
def test_durations_are_shown_in_readable_units(seconds: float, text: str) -> None:
    assert status.span(seconds) == text


def test_text_from_renters_cannot_control_the_terminal() -> None:
    daemon = {
        "version": "1",
        "pid": 1,
        "session": {
            "state": "open",
            "server": "s:1",
            "session_epoch": 1,
            "connected_seconds": 1.0,
            "draining": False,
        },
        "update": {"available": False, "newest": ""},
        "empty_mig_gpus": [],
        "takes_no_jobs": "",
        "models": [],
        "gpus": [],
        "jobs": [
            {
                "job_id": "job-1",
                "job_type": "llm_inference",
                "model": "\x1b[2J[red]evil",
                "attempt": 1,
                "phase": "running",
                "run_seconds": 1.0,
                "limit_seconds": 2.0,
            }
        ],
    }
    view = {"daemon": daemon, "problem": "", "server": {"address": "s:1", "problem": "away"}}
    out = io.StringIO()
    Console(file=out, width=150).print(status.render(view))
    assert "\x1b" not in out.getvalue()
    assert "?[2J[red]evil" in out.getvalue()


def test_status_shows_the_servers_refusal_and_what_is_not_offered() -> None:
    refusal = {"text": "no such key (INVALID_CREDENTIAL)", "seconds_ago": 7.2, "key_refused_seconds": 185.0}
    not_offered = [
        {"engine": "attached", "model": f"m{at}", "reason": "It answers no chat."} for at in range(12)
    ]
    found = dict(status.troubles({"last_refusal": refusal, "not_offered": not_offered}))
    assert found["refused"] == "7 s ago the server ended the session: no such key (INVALID_CREDENTIAL)"
    assert found["key"].startswith(
        "the server has not known the key for 3 min 05 s; it is tried again for a day"
    )
    assert found["not offered"] == "and 2 more"
    assert list(status.troubles({"last_refusal": None, "not_offered": []})) == []


async def test_doctor_reports_what_the_running_daemon_says_of_the_server(tmp_path: Path) -> None:
    refusal = {"text": "slots: too many (INVALID_FIELD)", "seconds_ago": 7.2, "key_refused_seconds": None}
    entry = {"engine": "attached", "model": "nomic-embed-text", "reason": "It answers no chat."}
    state = {"version": daemon_version(), "pid": 1, "last_refusal": refusal, "not_offered": [entry]}
    async with control.serve(tmp_path, {"status": lambda _: state}):
        config = replace(from_env({}), state_dir=tmp_path)
        found = await asyncio.to_thread(lambda: list(doctor._running(config)))
    texts = [finding.text for finding in found if finding.level is Level.WARN]
    assert texts == [
        "daemon: refused: 7 s ago the server ended the session: slots: too many (INVALID_FIELD)",
        "daemon: not offered: nomic-embed-text: It answers no chat.",
    ]


async def test_status_without_a_daemon_shows_what_the_server_knows(tmp_path: Path) -> None:
    async with fake_server() as server:
        environ = {"DCP_SERVER": server.address, "DCP_PROVIDER_KEY": GOOD_KEY}
        code, out, _ = await run("status", state=tmp_path, **environ)
        assert code == 1
        text = " ".join(out.split())
        assert "the daemon is not running" in text
        assert "sees Node (provider 42) as online" in text
        assert "in all 150.41 SAR with 19 jobs; to withdraw 1.41 SAR" in text
        code, out, _ = await run("status", "--json", state=tmp_path, **environ)
    view = json.loads(out)
    assert (code, view["daemon"], view["server"]["claimable_halala"]) == (1, None, 141)


async def test_daemon_is_healthy_while_it_has_a_session(tmp_path: Path) -> None:
    code, out, _ = await run("health", state=tmp_path)
    assert (code, out.startswith("unhealthy: no daemon runs on ")) == (1, True)
    (tmp_path / "dcp").mkdir(mode=0o700, exist_ok=True)
    for state, expected in (("connecting", 1), ("open", 0)):
        answers: control.Answers = {"status": partial(dict, session={"state": state})}
        async with control.serve(tmp_path / "dcp", answers):
            code, out, _ = await run("health", state=tmp_path)
        assert (code, "the session with the server is connecting" in out) == (expected, bool(expected))


async def test_status_without_daemon_and_server_shows_no_traceback(tmp_path: Path) -> None:
    code, out, err = await run("status", "--once", state=tmp_path, DCP_SERVER="127.0.0.1:1")
    assert code == 1
    assert "this machine is not registered" in " ".join(out.split())
    assert "Traceback" not in err


async def status_as_json(state: Path, **environ: str) -> dict[str, Any]:
    code, out, err = await run("status", "--json", state=state, **environ)
    assert code == 0, err
    view: dict[str, Any] = json.loads(out)["daemon"]
    return view


@needs_model
async def test_status_shows_the_running_daemon(tmp_path: Path) -> None:
    async with fake_server() as server:
        environ = {"DCP_SERVER": server.address, "DCP_PROVIDER_KEY": GOOD_KEY}
        async with command("run", state=tmp_path, **environ) as running:
            await (await server.connection()).welcome(newest_daemon="999.0")
            await running.line()
            view = await status_as_json(tmp_path, **environ)
            assert view["session"]["state"] == "open"
            assert view["session"]["session_epoch"] == 1
            assert view["pid"] == running.process.pid
            code, out, _ = await run("status", "--once", state=tmp_path, **environ)
            assert code == 0
            assert f"with {server.address}, epoch 1" in " ".join(out.split())
            assert "999.0: dcp-daemon update" in out
            assert GOOD_KEY not in out
            running.process.send_signal(signal.SIGTERM)
            assert (await running.end())[0] == 0
        assert not socket_path(tmp_path / "dcp").exists()


async def test_status_in_a_terminal_is_refreshed_until_it_is_stopped(tmp_path: Path) -> None:
    async with Terminal("status", state=tmp_path, DCP_SERVER="127.0.0.1:1", TERM="xterm") as terminal:
        for _ in range(3):
            await terminal.sees("the daemon is not running")
        terminal.process.send_signal(signal.SIGINT)
        assert await terminal.end() == 1


# --- the service manager ---


@needs_model
async def test_service_manager_is_notified_of_every_step(tmp_path: Path) -> None:
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    listening.bind(str(tmp_path / "n"))
    notifications: list[str] = []

    def listen() -> None:
        while text := listening.recv(1000).decode():
            notifications.append(text)

    async def wait_for(text: str) -> None:
        """Waits for this text after the texts that were received before."""
        async with asyncio.timeout(30):
            while not any(text in line for line in notifications):
                await asyncio.sleep(0.01)
        del notifications[: next(number for number, line in enumerate(notifications) if text in line) + 1]

    # If the manager did not read, WATCHDOG=1 messages would fill its socket.
    listener = threading.Thread(target=listen)
    listener.start()

    async with fake_server() as server:
        environ = {"DCP_SERVER": server.address, "DCP_PROVIDER_KEY": GOOD_KEY}
        environ |= {"NOTIFY_SOCKET": str(tmp_path / "n"), "WATCHDOG_USEC": "300000"}
        async with command("run", state=tmp_path, **environ) as running:
            await wait_for(f"READY=1\nSTATUS=connecting to {server.address}")
            await (await server.connection()).welcome()
            await wait_for(f"STATUS=session with {server.address} as provider 42")
            for _ in range(2):
                await wait_for("WATCHDOG=1")
            running.process.send_signal(signal.SIGTERM)
            await wait_for("STOPPING=1")
            assert (await running.end())[0] == 0
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ending:
        ending.sendto(b"", str(tmp_path / "n"))
    listener.join()
    listening.close()


async def test_daemon_runs_on_if_the_manager_reads_nothing(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as deaf:
        deaf.bind(str(tmp_path / "n"))
        manager = Manager({"NOTIFY_SOCKET": str(tmp_path / "n")})
        for _ in range(200):
            with contextlib.suppress(BlockingIOError):
                deaf.sendto(b"full", socket.MSG_DONTWAIT, str(tmp_path / "n"))
        async with asyncio.timeout(10):
            await asyncio.to_thread(manager.notify, "WATCHDOG=1")


# --- reload ---


async def says(running: Command, text: str) -> None:
    """Waits for this text in its log."""
    assert running.process.stderr is not None
    async with asyncio.timeout(30):
        while text not in (line := (await running.process.stderr.readline()).decode()):
            assert line, f"it ended without {text!r}"


@needs_model
async def test_hangup_reloads_the_settings_and_a_bad_file_changes_nothing(tmp_path: Path) -> None:
    model = from_env({}).models[0].path
    file = tmp_path / "c.toml"

    def write(text: str) -> None:
        file.write_text(text)
        file.chmod(0o644)

    async with fake_server() as server:
        base = f'server = "{server.address}"\n'
        write(f'{base}[models]\n"a/one" = "{model}"\n')
        environ = {"DCP_CONFIG": str(file), "DCP_PROVIDER_KEY": GOOD_KEY}
        async with command("run", state=tmp_path, **environ) as running:
            connection = await server.connection()
            offered = await connection.welcome()
            while [served.name for served in offered.models] != ["a/one"]:  # once it has passed its test
                offered = await connection.expect_anyway("capacity_update")
            await running.line()

            write("servre = 1")
            running.process.send_signal(signal.SIGHUP)
            await says(running, "the settings were not reloaded, the old ones stay")
            write(f'{base}[models]\n"a/two" = "/nowhere.gguf"\n')
            running.process.send_signal(signal.SIGHUP)
            await says(running, "a/two: /nowhere.gguf is not a file")

            write(f'{base}max_temp_c = 80\nstate_dir = "/elsewhere"\n[models]\n"a/two" = "{model}"\n')
            running.process.send_signal(signal.SIGHUP)
            await says(running, "settings reloaded models=1")
            while [served.name for served in offered.models] != ["a/two"]:
                offered = await connection.expect_anyway("capacity_update")
            view = await status_as_json(tmp_path, **environ)
            assert [served["name"] for served in view["models"]] == ["a/two"]
            running.process.send_signal(signal.SIGTERM)
            assert (await running.end())[0] == 0


async def test_hangup_attaches_another_server_and_the_job_on_the_old_one_ends_undisturbed(
    tmp_path: Path,
) -> None:
    file = tmp_path / "c.toml"
    old = Script(models=[{"id": "a/model"}])
    new = Script(models=[{"id": "a/model"}, {"id": "an/other"}])
    may_end = threading.Event()

    def answer_that_waits() -> Iterator[Step]:
        yield word("slow")
        while not may_end.is_set():
            yield 0.05
        yield from (word(" end"), END, COUNTS, DONE)

    with openai_server(old) as old_url, openai_server(new) as new_url:
        async with fake_server() as server:

            def attach(url: str) -> None:
                file.write_text(f'server = "{server.address}"\nattached_url = "{url}"\n[models]\n')
                file.chmod(0o644)

            attach(old_url)
            environ = {"DCP_CONFIG": str(file), "DCP_PROVIDER_KEY": GOOD_KEY}
            async with command("run", state=tmp_path, **environ) as running:
                connection = await server.connection()
                offered = await connection.welcome()
                while [served.name for served in offered.models] != ["a/model"]:
                    offered = await connection.expect_anyway("capacity_update")
                old.answers = answer_that_waits()
                params = jobs_pb2.JobParams(model="a/model", prompt="hi")
                await connection.send(job_offer=offer(params=params))
                await connection.expect_anyway("output_chunk")

                attach(new_url)
                running.process.send_signal(signal.SIGHUP)
                while len(offered.models) != 2:
                    offered = await connection.expect_anyway("capacity_update")
                await connection.send(job_offer=offer("job-2", params=params))
                ends = [await connection.expect_anyway("job_finished")]
                may_end.set()
                ends.append(await connection.expect_anyway("job_finished"))
                assert [end.lease.job_id for end in ends] == ["job-2", "job-1"]
                assert {end.outcome for end in ends} == {sessions_pb2.RUN_OUTCOME_SUCCEEDED}
                assert old.stopped == []
                assert [asked["messages"][-1]["content"] for asked in new.requests][-1] == "hi"
                running.process.send_signal(signal.SIGTERM)
                await running.end()


@needs_model
async def test_hangup_of_the_terminal_drains(tmp_path: Path) -> None:
    async with fake_server() as server:
        environ = {"DCP_SERVER": server.address, "DCP_PROVIDER_KEY": GOOD_KEY}
        async with Terminal("run", state=tmp_path, **environ) as terminal:
            connection = await server.connection()
            await connection.welcome()
            await terminal.sees("ready session")
            terminal.close()
            terminal.process.send_signal(signal.SIGHUP)
            await connection.expect_anyway("drain")
            await connection.expect_anyway("goodbye")
            await terminal.end()


async def test_name_that_the_terminal_cannot_show_ends_no_command(tmp_path: Path) -> None:
    name = "\u0645\u0632\u0648\u062f"
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    async with fake_server() as server:
        server.provider_name = name
        environ = {"DCP_SERVER": server.address, "DCP_PROVIDER_KEY": GOOD_KEY, **ascii_only}
        _, out, err = await run("doctor", state=tmp_path, **environ)
        assert "the server knows it as provider 42, \\u0645\\u0632" in out, err
        _, out, err = await run("status", "--once", state=tmp_path, **environ)
        assert "\\u0645\\u0632" in out, err

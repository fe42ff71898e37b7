"""The daemon as a systemd service: its unit, its notifications, its lines in systemd's journal."""

from __future__ import annotations

import asyncio
import io
import logging
import os
import re
import shutil
import socket
import subprocess
from pathlib import Path

import pytest

from daemon.cli import logs
from daemon.protocol.leases import LOST_MARGIN_SECONDS
from daemon.protocol.session import DRAIN_SECONDS, FAREWELL_SECONDS
from daemon.service import unit
from daemon.service.notify import Manager

needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed: apt install systemd"
)


def analyze(*arguments: str | Path) -> tuple[int, str]:
    done = subprocess.run(["systemd-analyze", *arguments], capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def unit_file(folder: Path, text: str) -> Path:
    path = folder / "dcp-daemon.service"
    path.write_text(text)
    return path


def installation_root(folder: Path) -> Path:
    """The root of an installation with an empty program."""
    program = folder / "root" / "current" / "bin" / "dcp-daemon"
    program.parent.mkdir(parents=True)
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    return folder / "root"


@needs_systemd
@pytest.mark.parametrize("docker", [False, True])
def test_unit_passes_systemds_own_check(tmp_path: Path, docker: bool) -> None:
    text = unit.render(root=installation_root(tmp_path), docker=docker)
    assert analyze("verify", unit_file(tmp_path, text)) == (0, "")


@needs_systemd
def test_check_of_the_unit_can_fail(tmp_path: Path) -> None:
    text = unit.render(root=installation_root(tmp_path)).replace("TimeoutStopSec=60", "TimeoutStopSec=soon")
    assert "Failed to parse time value" in analyze("verify", unit_file(tmp_path, text))[1]


@needs_systemd
def test_unit_has_a_low_exposure_score(tmp_path: Path) -> None:
    path = unit_file(tmp_path, unit.render(root=installation_root(tmp_path)))
    result = analyze("security", "--offline=true", "--threshold=25", path)
    if "Unknown" in result[1] or "unrecognized" in result[1]:
        pytest.skip("this systemd judges no unit offline")
    assert result[0] == 0, result[1][-300:]


def setting(name: str) -> str:
    (value,) = re.findall(rf"^{name}=(.*)$", unit.render(), re.MULTILINE)
    return str(value)


def test_drain_ends_before_systemd_kills() -> None:
    assert int(setting("TimeoutStopSec")) > DRAIN_SECONDS + FAREWELL_SECONDS + 10
    assert setting("KillSignal") == "SIGTERM"
    assert LOST_MARGIN_SECONDS > 0


def test_reload_sends_the_signal_that_the_daemon_handles() -> None:
    assert setting("ExecReload") == '/bin/sh -c "kill -HUP $MAINPID"'


def test_daemon_with_a_bad_setting_or_a_key_in_use_elsewhere_is_not_restarted() -> None:
    assert setting("RestartPreventExitStatus").split() == ["2", "3"]


def test_docker_group_is_optional() -> None:
    assert "\nSupplementaryGroups=" not in unit.render()
    assert "\nSupplementaryGroups=docker\n" in unit.render(docker=True)


@pytest.mark.skipif(unit.is_installed(), reason="this machine has the service")
def test_without_the_service_the_daemon_is_started_by_hand() -> None:
    assert unit.start_command() == "dcp-daemon run"


@pytest.mark.parametrize("user", ["a b", "x\nExecStart=/bin/sh", "", "-x", "ROOT"])
def test_user_name_cannot_add_lines_to_the_unit(user: str) -> None:
    with pytest.raises(unit.UnitError, match="is not the name of a system user"):
        unit.render(user=user)


@pytest.mark.parametrize("root", ["relative", "/a b", "/a\nb", "/%n"])
def test_folder_name_cannot_add_lines_to_the_unit(root: str) -> None:
    with pytest.raises(unit.UnitError, match="absolute"):
        unit.render(root=Path(root))


# --- notifications ---


@pytest.fixture
def listening(tmp_path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    listener.bind(str(tmp_path / "n"))
    listener.settimeout(10)
    return listener


async def test_manager_is_notified_that_the_daemon_is_ready_and_alive(
    tmp_path: Path, listening: socket.socket
) -> None:
    manager = Manager({"NOTIFY_SOCKET": str(tmp_path / "n"), "WATCHDOG_USEC": "30000"})
    manager.notify("READY=1", "STATUS=well")
    assert listening.recv(100) == b"READY=1\nSTATUS=well"
    alive = asyncio.create_task(manager.keep_alive())
    for _ in range(3):
        assert await asyncio.to_thread(listening.recv, 100) == b"WATCHDOG=1"
    alive.cancel()
    listening.close()


def test_missing_manager_is_not_an_error(tmp_path: Path) -> None:
    Manager({"NOTIFY_SOCKET": str(tmp_path / "gone")}).notify("READY=1")
    Manager({}).notify("READY=1")


def test_watchdog_of_another_process_is_ignored() -> None:
    assert Manager({"WATCHDOG_USEC": "5000000", "WATCHDOG_PID": "1"}).watchdog_seconds == 0
    assert Manager({"WATCHDOG_USEC": "5000000", "WATCHDOG_PID": str(os.getpid())}).watchdog_seconds == 5


# --- the journal ---


def record(level: int, message: str) -> logging.LogRecord:
    return logging.LogRecord("daemon.app", level, "x.py", 1, message, (), None)


@pytest.mark.parametrize(
    ("level", "prefix"),
    [(logging.DEBUG, "<7>"), (logging.INFO, "<6>"), (logging.WARNING, "<4>"), (logging.ERROR, "<3>")],
)
def test_every_line_in_the_journal_has_its_severity(level: int, prefix: str) -> None:
    formatter = logs.JournalFormatter(logging.Formatter("%(name)s %(message)s"))
    assert formatter.format(record(level, "one\ntwo")) == f"{prefix}daemon.app one\n{prefix}two"


def test_reason_of_the_programs_end_is_an_error_in_the_journal(tmp_path: Path) -> None:
    with (tmp_path / "stream").open("w+") as stream:
        status = os.fstat(stream.fileno())
        logs.report_fault("one\ntwo", {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"}, stream)
        logs.report_fault("three", {}, stream)
        stream.seek(0)
        assert stream.read() == "<3>one\n<3>two\nthree\n"


def test_only_the_stream_from_systemd_gets_severity_prefixes(tmp_path: Path) -> None:
    with (tmp_path / "stream").open("w") as stream, (tmp_path / "other").open("w") as other:
        status = os.fstat(stream.fileno())
        environ = {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"}
        assert logs.leads_to_journal(environ, stream)
        assert not logs.leads_to_journal(environ, other)
        assert not logs.leads_to_journal({}, stream)
    assert not logs.leads_to_journal(environ, io.StringIO())

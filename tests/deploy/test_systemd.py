"""The units of server and gateway: systemd's own checks, their limits, and what they start."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from gateway.limits import DRAIN_SECONDS, MAX_CONNECTIONS
from tests.support.deployments import DEPLOY

UNITS = ("dcp-server", "dcp-gateway")
needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed: apt install systemd"
)


def text_of(unit: str) -> str:
    return (DEPLOY / f"systemd/{unit}.service").read_text(encoding="utf-8")


def settings(unit: str, name: str) -> list[str]:
    return re.findall(rf"^{name}=(.*)$", text_of(unit), re.MULTILINE)


def analyze(*arguments: str | Path) -> tuple[int, str]:
    done = subprocess.run(["systemd-analyze", *arguments], capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def installed(folder: Path, unit: str, text: str) -> Path:
    """The unit with an empty program in place of the installed one."""
    program = folder / "bin" / unit
    program.parent.mkdir(exist_ok=True)
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    path = folder / f"{unit}.service"
    path.write_text(text.replace("/opt/dcp/current", str(folder)))
    return path


@needs_systemd
@pytest.mark.parametrize("unit", UNITS)
def test_unit_passes_systemds_own_check(unit: str, tmp_path: Path) -> None:
    assert analyze("verify", installed(tmp_path, unit, text_of(unit))) == (0, "")


@needs_systemd
def test_check_of_a_unit_can_fail(tmp_path: Path) -> None:
    broken = text_of("dcp-server").replace("TimeoutStopSec=30", "TimeoutStopSec=soon")
    assert "Failed to parse time value" in analyze("verify", installed(tmp_path, "dcp-server", broken))[1]


@needs_systemd
@pytest.mark.parametrize("unit", UNITS)
def test_unit_has_a_low_exposure_score(unit: str, tmp_path: Path) -> None:
    result = analyze("security", "--offline=true", "--threshold=15", installed(tmp_path, unit, text_of(unit)))
    if "Unknown" in result[1] or "unrecognized" in result[1]:
        pytest.skip("this systemd judges no unit offline")
    assert result[0] == 0, result[1][-300:]


@pytest.mark.parametrize("unit", UNITS)
def test_wrong_setting_is_not_restarted_and_a_drain_is_not_killed(unit: str) -> None:
    assert settings(unit, "RestartPreventExitStatus") == ["2"]
    assert settings(unit, "KillSignal") == ["SIGTERM"]
    assert int(settings(unit, "TimeoutStopSec")[0]) >= DRAIN_SECONDS + 15


@pytest.mark.parametrize("unit", UNITS)
def test_start_ends_when_the_program_serves(unit: str) -> None:
    (command,) = settings(unit, "ExecStartPost")
    waits = int(command.rpartition(" ")[2])
    assert command.lstrip("-") == f"/opt/dcp/current/bin/{unit} health --wait {waits}"
    assert waits < int(settings(unit, "TimeoutStartSec")[0])


def test_gateway_may_open_as_many_files_as_it_has_connections() -> None:
    assert int(settings("dcp-gateway", "LimitNOFILE")[0]) > MAX_CONNECTIONS


@pytest.mark.parametrize("unit", UNITS)
def test_unit_is_hardened_like_the_daemons(unit: str) -> None:
    """Each line of the daemon's unit that takes a right away is here too, as it is or stricter."""
    daemons = (DEPLOY.parent / "daemon/service/dcp-daemon.service").read_text(encoding="utf-8")
    names = r"^(?:NoNew|Protect|Private|Restrict|Lock|Remove|Keyring|System|Capability|Ambient|UMask)\w*=.*$"
    missing = set(re.findall(names, daemons, re.MULTILINE)) - set(text_of(unit).splitlines())
    # Here they are stricter: a server needs no home folders and sees no other processes.
    assert missing == {"ProtectHome=read-only", "ProtectProc=default"}

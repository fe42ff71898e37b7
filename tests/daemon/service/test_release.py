"""Signed releases, and the script that installs the service."""

from __future__ import annotations

import base64
import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from daemon.service import release
from tests.architecture.tools import ROOT
from tests.support import standin_daemon


def publish(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "scripts.release", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_release_is_signed_with_the_private_key_and_verified_with_the_public_key(tmp_path: Path) -> None:
    key = tmp_path / "release.key"
    created = publish(key, "--new-key")
    assert created.returncode == 0, created.stderr
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    name, _, public = created.stdout.strip().partition("=")
    assert name == "DCP_UPDATE_PUBLIC_KEY"
    wheel_name, content = standin_daemon.wheel("2.0")
    (tmp_path / wheel_name).write_bytes(content)
    done = publish(key, "--wheel", tmp_path / wheel_name, "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(tmp_path / "out" / wheel_name), str(tmp_path / "out" / "release.json")]
    manifest = (tmp_path / "out" / "release.json").read_bytes()
    found = release.read(manifest, base64.b64decode(public))
    assert (found.version, found.wheel) == ("2.0", wheel_name)
    release.check_wheel(found, content)
    assert key.read_text().strip() not in manifest.decode()


def test_signature_covers_every_field_in_a_fixed_format() -> None:
    signed = release.Release("2.0", "a.whl", "0" * 64).signed_bytes()
    assert signed == (
        b'dcp-daemon release 1\n{"sha256":"' + b"0" * 64 + b'","version":"2.0","wheel":"a.whl"}'
    )


def test_new_key_never_replaces_another_and_is_never_inside_the_repository(tmp_path: Path) -> None:
    key = tmp_path / "release.key"
    key.write_text("old")
    assert publish(key, "--new-key").returncode == 2
    assert key.read_text() == "old"
    inside = publish(ROOT / "release.key", "--new-key")
    assert inside.returncode == 2
    assert "choose a path outside it" in inside.stderr
    assert not (ROOT / "release.key").exists()


@pytest.mark.parametrize(
    ("content", "mode", "message"),
    [("x", 0o600, "is not a private key"), ("A" * 43 + "=", 0o644, "can be read by other users")],
)
def test_key_that_cannot_be_used_is_refused(tmp_path: Path, content: str, mode: int, message: str) -> None:
    key = tmp_path / "release.key"
    key.write_text(content)
    key.chmod(mode)
    name, wheel = standin_daemon.wheel("2.0")
    (tmp_path / name).write_bytes(wheel)
    done = publish(key, "--wheel", tmp_path / name, "--out", tmp_path / "out")
    assert done.returncode == 2
    assert message in done.stderr
    assert not (tmp_path / "out").exists()


def test_wheel_that_no_daemon_would_accept_is_not_signed(tmp_path: Path) -> None:
    with pytest.raises(release.ReleaseError):
        release.write("../2.0", "a.whl", b"", bytes(32))
    with pytest.raises(release.ReleaseError):
        release.write("2.0", "a/b.whl", b"", bytes(32))


# --- the installer ---


def install(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [ROOT / "scripts" / "install-daemon", *arguments], capture_output=True, text=True, check=False
    )


def test_dry_run_shows_every_step_without_doing_it() -> None:
    before = {path: path.exists() for path in map(Path, ("/opt/dcp-daemon", "/etc/dcp-daemon"))}
    done = install("--dry-run", "--user", "gpu", "--docker")
    assert done.returncode == 0, done.stderr
    for step in (
        "-m venv /opt/dcp-daemon/versions/",
        "+ install -d -m 0700 -o gpu -g gpu /var/lib/dcp-daemon",
        "+ chown -R gpu:gpu /var/lib/dcp-daemon",
        "+ mv -fT /opt/dcp-daemon/current.new /opt/dcp-daemon/current",
        "unit --user gpu --docker > /etc/systemd/system/dcp-daemon.service",
        "+ systemctl enable dcp-daemon.service",
    ):
        assert step in done.stdout
    assert {path: path.exists() for path in before} == before


def test_removal_keeps_the_key_and_the_settings() -> None:
    done = install("--uninstall", "--dry-run")
    assert done.returncode == 0
    removed = [line for line in done.stdout.splitlines() if " rm " in line]
    assert removed == [
        "+ rm -f /etc/systemd/system/dcp-daemon.service /usr/local/bin/dcp-daemon",
        "+ rm -rf /opt/dcp-daemon",
    ]
    assert "kept: /etc/dcp-daemon and /var/lib/dcp-daemon" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--nonsense",), "unknown option --nonsense"),
        (("--user", "x; reboot"), "is not a valid name of a system user"),
        (("--wheel", "/nowhere.whl"), "is not a file"),
        (("--wheel", str(ROOT / "LICENSE")), "is not a wheel of dcp-marketplace"),
    ],
)
def test_installer_refuses_unknown_arguments(arguments: tuple[str, ...], message: str) -> None:
    done = install("--dry-run", *arguments)
    assert done.returncode == 2
    assert message in done.stderr


def test_installer_explains_its_usage() -> None:
    done = install("--help")
    assert done.returncode == 0
    assert "--dry-run" in done.stdout
    assert "set -euo" not in done.stdout


def test_scripts_are_executable() -> None:
    for name in ("install-daemon", "release", "try-install"):
        assert os.access(ROOT / "scripts" / name, os.X_OK)


def test_manifest_matches_the_documentation() -> None:
    fields = json.loads(release.write("2.0", "a.whl", b"wheel", bytes(32)))
    assert set(fields) == {"version", "wheel", "sha256", "signature"}

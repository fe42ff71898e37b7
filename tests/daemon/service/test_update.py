"""dcp-daemon update: what is installed, what is refused, and what runs after a failure."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from daemon.cli import control
from daemon.config.config import Config, ConfigError, from_env
from daemon.service import release, update
from daemon.service.installation import Installation, InstallationError
from daemon.service.supervisor import OwnProcess, Systemd
from daemon.service.update import UpdateError, Wish
from tests.architecture.tools import ROOT
from tests.daemon.fake_server import eventually
from tests.support import standin_daemon

PRIVATE = bytes(range(32))
PUBLIC = Ed25519PrivateKey.from_private_bytes(PRIVATE).public_key().public_bytes_raw()
SOON = 15.0


class Machine:
    """A provider's machine: an installation with version 1.0, a state folder, and releases."""

    def __init__(self, folder: Path) -> None:
        self.state = folder / "state"
        self.state.mkdir()
        self.releases = folder / "releases"
        self.releases.mkdir()
        self.installation = Installation(folder / "root")
        self.root = self.installation.root
        standin_daemon.place(self.root, "1.0")
        self.installation.switch("1.0")
        self.manifest = self.releases / "release.json"
        self.config = Config(state_dir=self.state, update_url=str(self.manifest), update_public_key=PUBLIC)
        self.own = OwnProcess(self.state, self.installation.current / "bin" / "dcp-daemon", [])

    def release(self, version: str, behaviour: str = "ready") -> None:
        """Publishes a signed release."""
        name, content = standin_daemon.wheel(version, behaviour)
        (self.releases / name).write_bytes(content)
        self.manifest.write_bytes(release.write(version, name, content, PRIVATE))

    def release_placed(self, version: str, behaviour: str = "ready") -> None:
        """Publishes a release that is already installed, so that only its trial is left."""
        self.release(version, behaviour)
        standin_daemon.place(self.root, version, behaviour)

    def start_old(self) -> None:
        """Starts a daemon of version 1.0."""
        self.own.try_version(self.installation.current / "bin" / "dcp-daemon")
        self.wait_for("1.0")

    def wait_for(self, version: str) -> int:
        """Waits until this version answers; returns its process id."""
        assert update.wait_ready(self.state, version, SOON, lambda: False) == ""
        return int(control.ask(self.state, "status")["pid"])

    def update(self, **wish: Any) -> str:
        wished = Wish(**{"ready_seconds": SOON, **wish})
        return update.run(self.config, wished, self.installation, self.own)

    def edit(self, **fields: object) -> None:
        """Changes the manifest after it was signed."""
        self.manifest.write_text(json.dumps(json.loads(self.manifest.read_text()) | fields))

    @property
    def starts(self) -> list[str]:
        """The versions that were started, in order."""
        file = self.state / "starts.txt"
        return file.read_text().split() if file.exists() else []

    def stop(self) -> None:
        """Ends all processes, also a trial that its updater left behind and that does not answer."""
        self.own.stop()
        for process in psutil.process_iter(["cmdline"]):
            if any(part.startswith(str(self.root)) for part in process.info["cmdline"] or ()):
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    machine = Machine(tmp_path)
    monkeypatch.setenv("DCP_STATE_DIR", str(machine.state))
    yield machine
    machine.stop()


# --- with real pip and virtual environments ---


def test_update_installs_a_signed_release_and_runs_the_new_daemon(machine: Machine) -> None:
    machine.start_old()
    machine.release("2.0")
    assert machine.update() == "updated from 1.0 to 2.0, which runs now"
    assert machine.installation.current_version == "2.0"
    machine.wait_for("2.0")
    assert machine.starts == ["1.0", "2.0"]
    assert (machine.root / "versions" / "2.0" / "pyvenv.cfg").exists()
    assert machine.installation.has("1.0")  # the version to go back to
    assert machine.update() == "2.0 is installed already"


def test_wheel_that_contains_another_version_is_removed(machine: Machine) -> None:
    machine.release("2.0")
    standin_daemon.place(machine.root, "2.0", reported="6.6.6")
    with pytest.raises(UpdateError, match=r"says that it is 6\.6\.6; it was removed"):
        machine.update()
    assert machine.installation.current_version == "1.0"
    assert not machine.installation.folder("2.0").exists()


def command(machine: Machine) -> subprocess.Popen[bytes]:
    """The updater as a separate process."""
    environ = {
        "PATH": os.environ["PATH"],
        "HOME": str(machine.state),
        "DCP_STATE_DIR": str(machine.state),
        "DCP_UPDATE_URL": str(machine.manifest),
        "DCP_UPDATE_PUBLIC_KEY": base64.b64encode(PUBLIC).decode(),
    }
    arguments = ("-m", "daemon", "update", "--root", str(machine.root), "--ready-seconds", "30")
    return subprocess.Popen([sys.executable, *arguments], cwd=ROOT, env=environ, start_new_session=True)


async def test_updater_that_dies_at_any_step_leaves_a_working_version(machine: Machine) -> None:
    """Kills the updater and its children, as a power cut would, but not the daemon, which would restart."""
    machine.start_old()
    machine.release("2.0", "waits")
    folder = machine.installation.folder("2.0")
    steps: dict[str, Callable[[], bool]] = {
        "locked": lambda: (machine.root / "update.lock").exists(),
        "building": lambda: (folder / "pyvenv.cfg").exists(),
        "installing": lambda: any(folder.glob("lib/*/site-packages/pip")) or machine.installation.has("2.0"),
        "installed": lambda: machine.installation.has("2.0"),
        "trying": lambda: machine.starts[-1:] == ["2.0"],
    }
    for step, reached in steps.items():
        updater = command(machine)
        await eventually(reached, 120)
        os.killpg(updater.pid, signal.SIGKILL)
        await asyncio.to_thread(updater.wait)
        assert machine.installation.current_version == "1.0", step
        assert works(machine.installation.current), step
    (machine.state / "go").touch()
    updater = command(machine)
    assert await asyncio.to_thread(updater.wait, 120) == 0
    assert machine.installation.current_version == "2.0"
    assert works(machine.installation.current)
    machine.wait_for("2.0")


def works(version: Path) -> bool:
    done = subprocess.run([version / "bin" / "dcp-daemon", "--version"], capture_output=True, check=False)
    return done.returncode == 0


# --- the trial ---


@pytest.mark.parametrize(
    ("behaviour", "why"),
    [
        ("offline", r"2\.0 has a session that is connecting after 2 s"),
        ("silent", "it does not answer after 2 s"),
        ("exits", "it ended by itself"),
    ],
)
def test_version_that_does_not_become_ready_is_removed_and_the_old_version_runs(
    machine: Machine, behaviour: str, why: str
) -> None:
    machine.start_old()
    machine.release_placed("2.0", behaviour)
    with pytest.raises(UpdateError, match=rf"2\.0 did not get ready: {why}; 1\.0 runs again"):
        machine.update(ready_seconds=2)
    assert machine.installation.current_version == "1.0"
    machine.wait_for("1.0")
    assert machine.starts == ["1.0", "2.0", "1.0"]
    assert not machine.installation.folder("2.0").exists()


def test_trial_that_does_not_end_when_asked_is_killed(machine: Machine) -> None:
    program = machine.installation.current / "bin" / "dcp-daemon"
    machine.own = OwnProcess(machine.state, program, [], stop_seconds=0.5)
    machine.start_old()
    machine.release_placed("2.0", "stubborn")
    with pytest.raises(UpdateError, match=r"1\.0 runs again"):
        machine.update(ready_seconds=1)
    machine.wait_for("1.0")


def test_update_without_a_running_daemon_starts_none(machine: Machine) -> None:
    machine.release_placed("2.0")
    assert "no daemon ran before, so none runs now" in machine.update()
    assert machine.installation.current_version == "2.0"
    with pytest.raises(control.NotRunningError):
        control.ask(machine.state, "status")
    machine.release_placed("3.0", "offline")
    with pytest.raises(UpdateError, match=r"2\.0 is current still"):
        machine.update(ready_seconds=1)
    with pytest.raises(control.NotRunningError):
        control.ask(machine.state, "status")


def test_only_the_current_and_the_previous_version_are_kept(machine: Machine) -> None:
    for version in ("2.0", "3.0"):
        machine.release_placed(version)
        machine.update()
    assert sorted(path.name for path in (machine.root / "versions").iterdir()) == ["2.0", "3.0"]


# --- what is refused: nothing is installed or started ---


def wrong_key(machine: Machine) -> None:
    machine.config = replace(machine.config, update_public_key=b"\1" * 32)


def no_key(machine: Machine) -> None:
    machine.config = replace(machine.config, update_public_key=None)


def no_url(machine: Machine) -> None:
    machine.config = replace(machine.config, update_url=None)


def tampered_wheel(machine: Machine) -> None:
    (path,) = machine.releases.glob("*.whl")
    content = bytearray(path.read_bytes())
    content[200] ^= 1
    path.write_bytes(content)


def tampered_signature(machine: Machine) -> None:
    signature = bytearray(base64.b64decode(json.loads(machine.manifest.read_text())["signature"]))
    signature[0] ^= 1
    machine.edit(signature=base64.b64encode(signature).decode())


def another_wheel_under_the_old_signature(machine: Machine) -> None:
    name, content = standin_daemon.wheel("2.0", "silent")
    (machine.releases / name).write_bytes(content)
    machine.edit(sha256=hashlib.sha256(content).hexdigest())


REFUSALS: dict[str, tuple[Callable[[Machine], Any], str]] = {
    "wrong key": (wrong_key, "not signed with this machine's key"),
    "no key": (no_key, "DCP_UPDATE_PUBLIC_KEY is not set"),
    "no url": (no_url, "set DCP_UPDATE_URL, or give --from"),
    "tampered wheel": (tampered_wheel, "is not the file that was signed"),
    "tampered signature": (tampered_signature, "not signed with this machine's key"),
    "another wheel": (another_wheel_under_the_old_signature, "not signed with this machine's key"),
    "another version": (lambda machine: machine.edit(version="3.0"), "not signed with this machine's key"),
    "a path": (lambda machine: machine.edit(wheel="../../x.whl"), "what was found is not a release"),
    "a link": (lambda machine: machine.edit(wheel="https://x/y.whl"), "what was found is not a release"),
    "no JSON": (lambda machine: machine.manifest.write_text("{"), "what was found is not a release"),
    "brackets": (
        lambda machine: machine.manifest.write_text("[" * 60_000),
        "what was found is not a release",
    ),
    "no object": (lambda machine: machine.manifest.write_text("[]"), "what was found is not a release"),
    "a number": (lambda machine: machine.edit(sha256=5), "what was found is not a release"),
    "endless": (lambda machine: machine.manifest.write_text(" " * 100_000), "larger than 65536 bytes"),
    "nothing": (lambda machine: machine.manifest.unlink(), "cannot be read: No such file"),
    "no wheel": (lambda machine: next(machine.releases.glob("*.whl")).unlink(), "cannot be read"),
}


@pytest.mark.parametrize("fault", REFUSALS)
def test_release_that_cannot_be_verified_changes_nothing(machine: Machine, fault: str) -> None:
    machine.release("2.0")
    spoil, message = REFUSALS[fault]
    spoil(machine)
    with pytest.raises(UpdateError, match=message):
        machine.update()
    assert machine.installation.current_version == "1.0"
    assert [path.name for path in (machine.root / "versions").iterdir()] == ["1.0"]
    assert machine.starts == []


def test_older_release_is_installed_only_on_demand(machine: Machine) -> None:
    machine.release_placed("0.9")
    with pytest.raises(UpdateError, match=r"0\.9 is older than 1\.0: --allow-downgrade"):
        machine.update()
    assert machine.starts == []
    assert "updated from 1.0 to 0.9" in machine.update(allow_downgrade=True)


def test_second_simultaneous_update_is_refused(machine: Machine) -> None:
    machine.release_placed("2.0")
    with machine.installation.locked(), pytest.raises(UpdateError, match="another update is at work"):
        machine.update()


def test_check_for_updates_changes_nothing(machine: Machine) -> None:
    machine.release("999.0")
    assert "999.0 is newer" in update.check(machine.config, Wish())
    machine.release("0.0.1")
    assert "which is not newer" in update.check(machine.config, Wish())
    assert not machine.installation.folder("999.0").exists()


@pytest.mark.parametrize("url", ["http://example.com/r.json", "ftp://127.0.0.1/r.json", "file:///etc/passwd"])
def test_addresses_that_are_not_https_are_refused(machine: Machine, url: str) -> None:
    with pytest.raises(UpdateError, match="is not https"):
        machine.update(source=url)
    if not url.startswith("file"):
        with pytest.raises(ConfigError, match="must be an https URL"):
            from_env({"DCP_UPDATE_URL": url.replace("127.0.0.1", "example.com")})


# --- the folder ---


def test_unfinished_version_never_becomes_current(machine: Machine) -> None:
    standin_daemon.place(machine.root, "2.0")
    (machine.installation.folder("2.0") / ".complete").unlink()
    with pytest.raises(InstallationError, match="not installed as a whole"):
        machine.installation.switch("2.0")
    assert machine.installation.current_version == "1.0"


def test_link_left_by_a_power_cut_does_not_prevent_an_update(machine: Machine) -> None:
    standin_daemon.place(machine.root, "2.0")
    (machine.root / "current.new").symlink_to("nowhere")
    machine.installation.switch("2.0")
    assert machine.installation.current_version == "2.0"


def test_daemon_that_was_installed_in_another_way_is_not_updated() -> None:
    with pytest.raises(InstallationError, match="was not created by scripts/install-daemon"):
        Installation.of_this_process()


# --- under systemd ---


@pytest.fixture
def service(machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Systemd]:
    """This machine's unit, with a fake systemctl that starts and ends processes."""
    folder = tmp_path / "unit"
    folder.mkdir()
    (folder / "command").write_text(f"{machine.installation.current}/bin/dcp-daemon run")
    monkeypatch.setenv("DCP_FAKE_UNIT", str(folder))
    systemctl = tmp_path / "systemctl"
    fake = ROOT / "tests" / "support" / "fake_systemctl.py"
    systemctl.write_text(f'#!/bin/sh\nexec {sys.executable} {fake} "$@"\n')
    systemctl.chmod(0o755)
    yield Systemd([], runtime=folder, systemctl=str(systemctl))
    subprocess.run([systemctl, "stop"], check=True)


def test_service_tries_the_new_version_and_keeps_its_process(
    machine: Machine, service: Systemd, tmp_path: Path
) -> None:
    service.go_back()
    machine.wait_for("1.0")
    machine.release_placed("2.0")
    wish = Wish(ready_seconds=SOON)
    message = update.run(machine.config, wish, machine.installation, service)
    assert message == "updated from 1.0 to 2.0, which runs now"
    machine.wait_for("2.0")
    # The trial's process keeps running: one interruption instead of two.
    assert machine.starts == ["1.0", "2.0"]
    assert not (tmp_path / "unit" / "dcp-daemon.service.d" / "trial.conf").exists()
    assert (tmp_path / "unit" / "log").read_text().split("\n")[-2] == "daemon-reload"


def test_service_goes_back_to_the_old_version(machine: Machine, service: Systemd, tmp_path: Path) -> None:
    service.go_back()
    machine.wait_for("1.0")
    machine.release_placed("2.0", "offline")
    with pytest.raises(UpdateError, match=r"1\.0 runs again"):
        update.run(machine.config, Wish(ready_seconds=2), machine.installation, service)
    machine.wait_for("1.0")
    assert machine.installation.current_version == "1.0"
    assert not (tmp_path / "unit" / "dcp-daemon.service.d" / "trial.conf").exists()


def test_trial_of_a_service_does_not_survive_a_restart_of_the_machine() -> None:
    """The trial's files are below /run, and the unit's own command starts the current version."""
    assert Systemd([]).drop_in == Path("/run/systemd/system/dcp-daemon.service.d/trial.conf")

"""`dcp-daemon update`: the newest signed release in place of this one, or this one still.

The order is the safety: fetch, check the signature, install beside, try, and only
what had a session with the server becomes current. A power cut at any moment
leaves `current` at a version that worked. It must not know how the daemon is
started (supervisor) or what is signed how (release).
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from daemon.cli import control
from daemon.config.config import Config
from daemon.service import fetch, release
from daemon.service.installation import Installation, InstallationError
from daemon.service.release import Release
from daemon.service.supervisor import OwnProcess, Supervisor, SupervisorError, Systemd
from daemon.service.version import daemon_version, is_older

READY_SECONDS = 90.0
POLL_SECONDS = 0.25
EXTRAS = "[daemon,llamacpp,gpu-proof]"


class UpdateError(Exception):
    """Nothing was updated; the text says why, and what runs now."""


@dataclass(frozen=True)
class Wish:
    """What was asked for on the command line."""

    source: str | None = None
    """The release.json, instead of the settings'."""
    allow_downgrade: bool = False
    """An older release is taken, too."""
    ready_seconds: float = READY_SECONDS
    """How long the new version may take until it has a session."""


def check(config: Config, wish: Wish) -> str:
    """Says which release there is and whether it is newer; changes nothing. Raises UpdateError."""
    found, _ = _find(config, wish)
    own = daemon_version()
    if is_older(own, found.version):
        return f"{found.version} is newer than {own}: run dcp-daemon update"
    return f"{own} is installed; the release is {found.version}, which is not newer"


def run(config: Config, wish: Wish, installation: Installation, supervisor: Supervisor) -> str:
    """Updates, or changes nothing; returns a message for the person. Raises UpdateError."""
    try:
        found, source = _find(config, wish)
        with installation.locked():
            return _update(config, wish, installation, supervisor, found, source)
    except (InstallationError, SupervisorError) as error:
        raise UpdateError(str(error)) from None


def supervisor_of(config: Config, installation: Installation, config_flags: list[str]) -> Supervisor:
    """Who starts the daemon on this machine."""
    if Systemd.manages_this_machine():
        return Systemd(config_flags)
    program = installation.current / "bin" / "dcp-daemon"
    return OwnProcess(config.state_dir, program, config_flags)


def _find(config: Config, wish: Wish) -> tuple[Release, str]:
    source = wish.source or config.update_url
    if source is None:
        raise UpdateError("there is nowhere to update from: set DCP_UPDATE_URL, or give --from")
    if config.update_public_key is None:
        raise UpdateError(
            "DCP_UPDATE_PUBLIC_KEY is not set, so a release could not be reported from a forgery: "
            "set it to the key that the marketplace's operator publishes"
        )
    try:
        manifest = fetch.fetch(source, release.MAX_MANIFEST_BYTES)
        return release.read(manifest, config.update_public_key), source
    except (fetch.FetchError, release.ReleaseError) as error:
        raise UpdateError(str(error)) from None


def _update(
    config: Config,
    wish: Wish,
    installation: Installation,
    supervisor: Supervisor,
    found: Release,
    source: str,
) -> str:
    old = installation.current_version
    if found.version == old:
        return f"{old} is installed already"
    if is_older(found.version, old) and not wish.allow_downgrade:
        raise UpdateError(f"{found.version} is older than {old}: --allow-downgrade takes it all the same")
    _install(installation, found, source)
    was_running = supervisor.is_running()
    _try(config, wish, installation, supervisor, found.version, was_running)
    if not was_running:
        supervisor.stop()
    installation.remove_others(old)
    state = "runs now" if was_running else "is current; no daemon ran before, so none runs now"
    return f"updated from {old} to {found.version}, which {state}"


def _install(installation: Installation, found: Release, source: str) -> None:
    # An update that was cut off before its trial leaves a whole version behind.
    if not installation.has(found.version):
        try:
            wheel = fetch.fetch(fetch.beside(source, found.wheel), release.MAX_WHEEL_BYTES)
            release.check_wheel(found, wheel)
        except (fetch.FetchError, release.ReleaseError) as error:
            raise UpdateError(str(error)) from None
        installation.install(found.version, found.wheel, wheel, EXTRAS)
    reported = _version_of(installation.program(found.version))
    if reported != found.version:
        installation.remove(found.version)
        raise UpdateError(
            f"the wheel of {found.version} says that it is {reported or 'nothing'}; it was removed"
        )


def _version_of(program: Path) -> str:
    try:
        done = subprocess.run(
            [program, "--version"],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            encoding="utf-8",
            errors="replace",
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip()


def _try(
    config: Config,
    wish: Wish,
    installation: Installation,
    supervisor: Supervisor,
    version: str,
    was_running: bool,
) -> None:
    """The version has a session and is current, or the old one is as it was. Raises UpdateError."""
    try:
        supervisor.try_version(installation.program(version))
        problem = wait_ready(config.state_dir, version, wish.ready_seconds, supervisor.has_ended)
        if not problem:
            installation.switch(version)
            supervisor.settle()
            return
    except SupervisorError as error:
        problem = str(error)
    except BaseException:
        _go_back(supervisor, was_running)
        raise
    old = installation.current_version
    _go_back(supervisor, was_running)
    installation.remove(version)
    now = f"{old} runs again" if was_running else f"{old} is current still"
    raise UpdateError(f"{version} did not get ready: {problem}; {now}")


def _go_back(supervisor: Supervisor, was_running: bool) -> None:
    if was_running:
        supervisor.go_back()
    else:
        supervisor.stop()


def wait_ready(state_dir: Path, version: str, seconds: float, has_ended: Callable[[], bool]) -> str:
    """Empty once a daemon of this version has a session; otherwise what was seen of it last."""
    deadline = time.monotonic() + seconds
    seen = "it does not answer"
    while time.monotonic() < deadline:
        if has_ended():
            return "it ended by itself"
        try:
            state = control.ask(state_dir, "status")
        except control.NotRunningError:
            seen = "it does not answer"
        else:
            if state.get("version") == version and state["session"]["state"] == "open":
                return ""
            seen = f"{state.get('version')} has a session that is {state['session']['state']}"
        time.sleep(POLL_SECONDS)
    return f"{seen} after {seconds:g} s"

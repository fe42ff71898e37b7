"""Tests scripts/install-daemon on a fresh Debian that runs systemd, and removes everything afterwards.

It needs root, debootstrap and systemd-nspawn (packages debootstrap and systemd-container), and takes a few
minutes. Server and gateway run on this machine, on 127.0.0.1; the machine in the folder shares its network.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import re
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import httpx

from daemon.config.config import BUNDLED_MODEL, from_env
from scripts import release
from scripts.bare_machine import BareMachine, MachineError
from scripts.market import Market, NotReadyError

ROOT = Path(__file__).resolve().parent.parent
UNIT = "dcp-daemon.service"
CLONE, MODEL, RELEASES = "/srv/dcp", "/srv/model.gguf", "/srv/releases"
CONFIG, IDENTITY = "/etc/dcp-daemon/config.toml", "/var/lib/dcp-daemon/identity.json"
INSTALLED = ("/opt/dcp-daemon", f"/etc/systemd/system/{UNIT}", "/usr/local/bin/dcp-daemon")
MOST_EXPOSED = 2.5
TRIAL_SECONDS = 20
WAIT_SECONDS = 60.0
JOB_SECONDS = 180.0
# The environment variables that configure access to package indexes; they are passed on to the machine.
PASSED_ON = ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "http_proxy", "https_proxy", "no_proxy")

_SERVE = "async def _serve(config: Config, arguments: argparse.Namespace) -> int:\n"
_SERVER = "        ServerAddress(config.server, config.tls_ca),\n"
# Later releases by version, each with a change of daemon/__main__.py: the old and the new text.
LATER = {
    "0.900.1": (_SERVE, _SERVE),
    "0.900.2": (_SERVE, f"{_SERVE}    raise RuntimeError('this release is broken')\n"),
    "0.900.3": (_SERVER, '        ServerAddress("127.0.0.1:1", config.tls_ca),\n'),
}
# A script that tries what the service may and may not do, and prints a line for each attempt that succeeds.
PROBE = """\
touch /var/lib/dcp-daemon/probe && rm /var/lib/dcp-daemon/probe && echo could:write-its-folder
for folder in /etc /opt/dcp-daemon /usr /home; do touch $folder/probe && echo could:write-$folder; done
cat /proc/1/cmdline > /dev/null && echo could:see-other-processes
cat /proc/1/environ > /dev/null && echo could:read-their-environment
unshare --user true && echo could:make-namespaces
true < /srv/device && echo could:open-a-device
head -c 1 /dev/urandom > /dev/null && echo could:read-random-bytes
exit 0
"""


class ExpectationError(Exception):
    """The daemon or its installation does not behave as documented."""


FAULTS = (
    ExpectationError,
    MachineError,
    NotReadyError,
    OSError,
    httpx.HTTPError,
    subprocess.CalledProcessError,
)


class InstallationTest:
    """The steps of the test, in order. Each returns a summary; it raises ExpectationError or MachineError."""

    def __init__(self, machine: BareMachine, market: Market, folder: Path) -> None:
        self.machine = machine
        self.market = market
        self.folder = folder
        self._renter_key = ""

    def run(self) -> None:
        """Runs all steps and prints the summary of each."""
        for step in (
            self.install,
            self.start_unregistered,
            self.register,
            self.start,
            self.run_doctor_and_status,
            self.do_a_job,
            self.check_isolation,
            self.reload,
            self.refuse_wrong_settings,
            self.stop_with_a_job,
            self.kill,
            self.repair,
            self.update,
            self.update_to_broken_releases,
            self.restart_the_machine,
            self.uninstall,
            self.install_again,
        ):
            began = time.monotonic()
            summary = step()
            print(f"ok {time.monotonic() - began:6.1f} s  {summary}", flush=True)

    # --- installation ---

    def install(self) -> str:
        expect(self.machine.run("python3", "-V", check=False).returncode != 0, "the machine is bare")
        self._install()
        expect(self._state() == ("inactive", "enabled"), "the service is enabled but not started")
        return "installed from the clone on a machine without Python; the service is enabled"

    def start_unregistered(self) -> str:
        done = self.machine.run("systemctl", "start", UNIT, check=False)
        expect(done.returncode != 0, "the daemon does not start on a machine that is not registered")
        expect(
            self._show("ExecMainStatus", "NRestarts") == ["2", "0"], "it ended with 2 and was not restarted"
        )
        expect("run dcp-daemon register" in self._log("--priority=err"), "the journal names the remedy")
        return "started before registration: exit status 2, no restart, and the journal names the remedy"

    def register(self) -> str:
        shutil.copyfile(from_env({}).models[0].path, self.machine.path(MODEL))
        flags = ("--server", self.market.grpc_address, "--model", f"{BUNDLED_MODEL}={MODEL}")
        self._daemon("register", "--name", "Bare", "--email", "bare@example.com", *flags)
        identity = self.machine.path(IDENTITY).stat()
        expect(
            identity.st_mode & 0o777 == 0o600 and identity.st_uid != 0,
            "only the service's user can read the key",
        )
        return "registered; only the service's user can read the key"

    def start(self) -> str:
        self.machine.run("systemctl", "start", UNIT)
        expect(self._state()[0] == "active", "the service is active once systemctl returns")
        self._wait_connected()
        expect("session with" in self._show("StatusText")[0], "systemd shows the daemon's own status")
        expect("ready session" in self._log(), "the journal has the daemon's log")
        analysis = self.machine.run("systemd-analyze", "security", "--no-pager", UNIT).stdout
        (exposure,) = re.findall(r"Overall exposure level for \S+: ([\d.]+)", analysis)
        expect(float(exposure) <= MOST_EXPOSED, f"an exposure of {exposure} is at most {MOST_EXPOSED}")
        return f"active, connected, its log is in the journal; systemd-analyze security: {exposure}"

    def run_doctor_and_status(self) -> str:
        for user in ("root", "dcp"):
            done = self.machine.run("runuser", "-u", user, "--", "dcp-daemon", "doctor", check=False)
            expect(done.returncode == 0 and "service: active, enabled" in done.stdout, done.stdout)
        view = self._status()
        expect(view["daemon"]["session"]["state"] == "open" and view["server"]["connected"], str(view))
        refused = self._daemon("run", check=False)
        expect(refused.returncode == 2 and "belongs to another user" in refused.stderr, refused.stderr)
        return "doctor (as root and as the service's user) and status agree; run as root is refused"

    # --- work ---

    def do_a_job(self) -> str:
        answer = self._answer(self._submit("What is a GPU?"))
        usage = answer["usage"]
        tokens, speed = usage["completion_tokens"], usage["tokens_per_second"]
        return f"a job was answered: {tokens} tokens, {speed:.1f} a second"

    def check_isolation(self) -> str:
        """Adds a command to the unit that runs before the daemon and tries what must not succeed."""
        probe, drop_in = "/usr/local/bin/probe", f"/etc/systemd/system/{UNIT}.d/probe.conf"
        self.machine.path(probe).write_text(PROBE, encoding="utf-8")
        # The device of network tunnels, which any user can open unless the unit denies devices.
        self.machine.run("mknod", "-m", "666", "/srv/device", "c", "10", "200")
        self.machine.run("runuser", "-u", "dcp", "--", "sh", "-c", "true < /srv/device")
        self.machine.path(drop_in).parent.mkdir()
        self.machine.path(drop_in).write_text(f"[Service]\nExecStartPre=/bin/sh {probe}\n", encoding="utf-8")
        self.machine.run("systemctl", "daemon-reload")
        self.machine.run("systemctl", "restart", UNIT)
        could = set(re.findall(r"could:(\S+)", self._log()))
        # It sees the names of processes, because jobs yield to those of the owner that use a GPU.
        expected = {"write-its-folder", "read-random-bytes", "see-other-processes"}
        expect(could == expected, f"the service could {sorted(could)}")
        shutil.rmtree(self.machine.path(drop_in).parent)
        self.machine.run("systemctl", "daemon-reload")
        self._wait_connected()
        return "the service writes only to its own folder, and reads no device and no other's environment"

    def reload(self) -> str:
        pid = self._show("MainPID")
        with self.machine.path(CONFIG).open("a", encoding="utf-8") as file:
            file.write(f'"trial/second" = "{MODEL}"\n')
        self.machine.run("systemctl", "reload", UNIT)
        wait("the new model is offered", lambda: "trial/second" in self._provider()["models"])
        expect(self._show("MainPID") == pid, "the process is the same")
        return "reload offers a new model without a restart"

    def refuse_wrong_settings(self) -> str:
        path, pid = self.machine.path(CONFIG), self._show("MainPID")
        good = path.read_text(encoding="utf-8")
        path.write_text(f"servre = 1\n{good}", encoding="utf-8")
        self.machine.run("systemctl", "reload", UNIT)
        wait("the journal has the error", lambda: "were not reloaded" in self._log("--priority=err"))
        expect(self._show("MainPID", "ActiveState") == [*pid, "active"], "the daemon keeps running")
        path.write_text(good, encoding="utf-8")
        return "a reload with an invalid file changes nothing and logs an error in the journal"

    def stop_with_a_job(self) -> str:
        job = self._submit("Tell a long story about a ship, a storm and an island.")
        wait("the job runs", lambda: self._output(job)["status"] == "running")
        began = time.monotonic()
        self.machine.run("systemctl", "stop", UNIT)
        seconds = time.monotonic() - began
        expect(self._show("ExecMainStatus", "Result") == ["0", "success"], "it ended with 0")
        self._answer(job)
        done = self._daemon("status", "--json", check=False)
        expect(done.returncode == 1 and not json.loads(done.stdout)["server"]["connected"], done.stdout)
        expect(
            "service: inactive" in self._daemon("doctor", check=False).stdout,
            "doctor reports that it is stopped",
        )
        return f"stop waited {seconds:.1f} s until the running job completed; exit status 0"

    def kill(self) -> str:
        self.machine.run("systemctl", "start", UNIT)
        self._wait_connected()
        self.machine.run("systemctl", "kill", "--kill-whom=main", "--signal=KILL", UNIT)
        wait("systemd restarts it", lambda: self._show("NRestarts", "ActiveState") == ["1", "active"])
        self._wait_connected()
        self._answer(self._submit("What is a GPU?"))
        return "after a kill, systemd restarted it, and it completes jobs"

    def repair(self) -> str:
        (package,) = self.machine.path("/opt/dcp-daemon/current/").glob("lib/python*/site-packages/daemon")
        (package / "app.py").unlink()
        for lost in (*INSTALLED[1:], "/opt/dcp-daemon/current"):
            self.machine.path(lost).unlink()
        self._install()
        self._wait_connected()
        return "a new installation repaired the broken one: the daemon runs"

    # --- updates ---

    def update(self) -> str:
        key = self.folder / "release.key"
        public = release.new_key(key)
        for version, change in LATER.items():
            publish(version, change, key, self.machine.path(f"{RELEASES}/{version}"))
        path = self.machine.path(CONFIG)
        good, _, _ = LATER
        wrong = base64.b64encode(bytes(32)).decode()
        text = path.read_text(encoding="utf-8")
        path.write_text(f'update_public_key = "{wrong}"\n{text}', encoding="utf-8")
        forged = self._update(good)
        expect(forged.returncode == 2 and "not signed" in forged.stderr, forged.stderr)
        path.write_text(f'update_public_key = "{public}"\n{text}', encoding="utf-8")
        done = self._update(good)
        expect(done.returncode == 0, done.stderr)
        expect(self._status()["daemon"]["version"] == good, "the new version runs")
        expect(self._show("DropInPaths") == [""], "no trial is left")
        return f"updated: {done.stdout.strip()}; a release signed with another key was refused"

    def update_to_broken_releases(self) -> str:
        good, *broken = LATER
        for version in broken:
            done = self._update(version)
            expect(done.returncode == 2 and f"{good} runs again" in done.stderr, done.stderr)
            self._wait_connected()
            expect(self._status()["daemon"]["version"] == good, "the old version runs again")
            expect(
                not self.machine.path(f"/opt/dcp-daemon/versions/{version}").exists(), f"{version} is gone"
            )
        return "releases that crash or get no session were rolled back"

    def restart_the_machine(self) -> str:
        self.machine.reboot()
        self._wait_connected()
        return "after a restart of the machine the daemon connects by itself"

    def uninstall(self) -> str:
        began = time.monotonic()
        self.machine.run("systemctl", "stop", UNIT)
        seconds = time.monotonic() - began
        self.machine.run("systemctl", "start", UNIT)
        self._wait_connected()
        self._install("--uninstall")
        for path in INSTALLED:
            expect(not self.machine.path(path).exists(), f"{path} is gone")
        for path in (CONFIG, IDENTITY):
            expect(self.machine.path(path).exists(), f"{path} is kept")
        expect(self._show("LoadState") == ["not-found"], "systemd knows no such unit")
        return f"a daemon without jobs stopped in {seconds:.1f} s; uninstalled; settings and key are kept"

    def install_again(self) -> str:
        docker = self.machine.run(f"{CLONE}/scripts/install-daemon", "--docker", check=False)
        expect(docker.returncode == 2 and "no group docker" in docker.stderr, docker.stderr)
        (wheel,) = self.machine.path(f"{RELEASES}/{min(LATER)}").glob("*.whl")
        self._install("--user", "gpu", "--wheel", f"{RELEASES}/{min(LATER)}/{wheel.name}")
        self._wait_connected()
        gpu = int(self.machine.run("id", "-u", "gpu").stdout)
        expect(self.machine.path(IDENTITY).stat().st_uid == gpu, "the other user has the key")
        return "installed again for another user from a wheel: the same provider runs"

    # --- the machine ---

    def _install(self, *flags: str) -> None:
        clone = self.machine.path(CLONE)
        if not clone.exists():
            copy_clone(clone)
        self.machine.run(f"{CLONE}/scripts/install-daemon", *flags)

    def _daemon(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return self.machine.run("dcp-daemon", *arguments, check=check)

    def _update(self, version: str) -> subprocess.CompletedProcess[str]:
        source = f"{RELEASES}/{version}/release.json"
        return self._daemon("update", "--from", source, "--ready-seconds", str(TRIAL_SECONDS), check=False)

    def _status(self) -> dict[str, Any]:
        view: dict[str, Any] = json.loads(self._daemon("status", "--json").stdout)
        return view

    def _show(self, *names: str) -> list[str]:
        """The values of properties of the unit."""
        return [self.machine.run("systemctl", "show", "--value", "-p", n, UNIT).stdout.strip() for n in names]

    def _state(self) -> tuple[str, str]:
        ask = ("is-active", "is-enabled")
        active, enabled = (self.machine.run("systemctl", a, UNIT, check=False).stdout.strip() for a in ask)
        return active, enabled

    def _log(self, *flags: str) -> str:
        return self.machine.run("journalctl", "--no-pager", "--unit", UNIT, *flags).stdout

    # --- the market ---

    def _provider(self) -> dict[str, Any]:
        (provider,) = self.market.get("/api/renters/available-providers")["providers"] or [{}]
        found: dict[str, Any] = provider
        return found

    def _wait_connected(self) -> None:
        wait("the provider is live", lambda: self._provider().get("accepting_jobs") and self._is_connected())

    def _is_connected(self) -> bool:
        done = self._daemon("status", "--json", check=False)
        return done.returncode == 0 and bool(json.loads(done.stdout)["server"].get("connected"))

    def _submit(self, prompt: str) -> str:
        if not self._renter_key:
            renter, self._renter_key = self.market.register_renter("Acme", "renter@example.com")
            self.market.credit(renter, 100_000)
        params = {"model": BUNDLED_MODEL, "prompt": prompt, "max_tokens": 200}
        body = {"job_type": "llm-inference", "duration_minutes": 3, "params": params}
        job = self.market.post("/api/jobs/submit", body, **{"x-renter-key": self._renter_key})
        return str(job["job"]["job_id"])

    def _output(self, job: str) -> dict[str, Any]:
        return self.market.get(f"/api/jobs/{job}/output", **{"x-renter-key": self._renter_key})

    def _answer(self, job: str) -> dict[str, Any]:
        wait("the job ends", lambda: self._output(job)["availability"] != "not_yet", JOB_SECONDS)
        answer = self._output(job)
        expect(answer["status"] == "completed" and answer["response"], str(answer))
        return answer


def expect(holds: object, what: str) -> None:
    """Raises ExpectationError with the expectation ``what`` if ``holds`` is false."""
    if not holds:
        raise ExpectationError(f"expected: {what}")


def wait(what: str, holds: Callable[[], object], seconds: float = WAIT_SECONDS) -> None:
    """Waits until ``holds`` returns true. Raises ExpectationError after ``seconds``."""
    deadline = time.monotonic() + seconds
    while not holds():
        expect(time.monotonic() < deadline, f"{what}, within {seconds:.0f} s")
        time.sleep(0.2)


def copy_clone(to: Path) -> None:
    """Copies the tracked and the new files of this checkout."""
    files = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    ).stdout
    for name in files.decode().split("\0"):
        if name and (ROOT / name).is_file():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, to / name)


def publish(version: str, change: tuple[str, str], key: Path, to: Path) -> None:
    """Creates a signed release of this checkout under another version, with a change of the daemon."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "source")
        copy_clone(source)
        project, program = source / "pyproject.toml", source / "daemon" / "__main__.py"
        project.write_text(
            re.sub(
                r'(?m)^version = ".*"', f'version = "{version}"', project.read_text(encoding="utf-8"), count=1
            ),
            encoding="utf-8",
        )
        expect(
            change[0] in program.read_text(encoding="utf-8"),
            f"{program.name} has the line that {version} changes",
        )
        program.write_text(program.read_text(encoding="utf-8").replace(*change), encoding="utf-8")
        wheels = ("wheel", "--quiet", "--no-deps", "--wheel-dir", folder, str(source))
        subprocess.run([sys.executable, "-m", "pip", *wheels], check=True)
        (wheel,) = Path(folder).glob("*.whl")
        release.publish(wheel, key, to)


def main() -> int:
    """Runs the test. The exit status is 1 if a step failed and 2 if the test cannot begin."""
    options = _options()
    if problem := _problem():
        print(f"try-install: {problem}", file=sys.stderr)
        return 2
    folder = Path(tempfile.mkdtemp(prefix="dcp-try-install-"))
    machine = BareMachine(folder / f"{folder.name}-machine", _environ(options.authorities), keep=options.keep)
    machine.folder.mkdir()
    try:
        with Market(folder, admin_token=secrets.token_urlsafe(24)) as market, machine:
            machine.make(options.suite, options.base)
            if options.authorities:
                shutil.copyfile(options.authorities, machine.path("/srv/authorities.crt"))
            machine.boot()
            print(f"a bare {options.suite} runs systemd in {machine.folder}", flush=True)
            InstallationTest(machine, market, folder).run()
    except FAULTS as error:
        print(f"try-install: {error}", file=sys.stderr)
        return 1
    finally:
        if not options.keep:
            shutil.rmtree(folder, ignore_errors=True)
    return 0


def _problem() -> str:
    """The reason why the test cannot begin, or an empty text."""
    if os.geteuid() != 0:
        return "run it as root"
    missing = {"debootstrap": "debootstrap", "systemd-nspawn": "systemd-container"}
    packages = [package for program, package in missing.items() if shutil.which(program) is None]
    return f"first run apt-get install {' '.join(packages)}" if packages else ""


def _environ(authorities: Path | None) -> Mapping[str, str]:
    passed = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    return passed | ({"PIP_CERT": "/srv/authorities.crt"} if authorities else {})


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/try-install", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--suite", default="bookworm", help="release of Debian (default: %(default)s)")
    parser.add_argument("--base", type=Path, help="copy this folder instead of running debootstrap")
    parser.add_argument(
        "--authorities", type=Path, help="PEM file of certificate authorities that pip trusts on the machine"
    )
    parser.add_argument("--keep", action="store_true", help="keep the folder of the stopped machine")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())

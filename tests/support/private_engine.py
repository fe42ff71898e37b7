"""Runs a real Docker Engine or Podman for the tests. Its socket, images and containers end with them.

It needs root and the Debian packages docker.io, podman and busybox-static, which
``scripts/setup --engine`` installs. Its image is built from busybox without a registry.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import io
import os
import shutil
import signal
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import httpx

from daemon.runners.containers.docker import Docker, EngineFacts

IMAGE = "docker.io/library/busybox:test"
START_SECONDS = 20.0
PR_SET_PDEATHSIG = 1
# --gpus calls NVIDIA's hook; a stub that does nothing replaces it.
HOOK = "nvidia-container-runtime-hook"


PROGRAMS = {
    "docker": ("dockerd", "containerd", "runc", "docker", "busybox"),
    "podman": ("podman", "conmon", "runc", "docker", "busybox"),
}


# Without systemd and without network setup.
PODMAN_SETTINGS = """
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "runc"
[containers]
netns = "none"
"""


def missing(kind: str = "docker") -> str:
    """Why an engine of this kind cannot be started here; empty if it can."""
    if os.geteuid() != 0:
        return "a private container engine needs root"
    programs = PROGRAMS[kind]
    needed = [name for name in programs if shutil.which(name) is None]
    return f"{', '.join(needed)} missing: run scripts/setup --engine" if needed else ""


@dataclass
class PrivateEngine:
    """A running engine."""

    socket: Path
    facts: EngineFacts
    process: subprocess.Popen[bytes]

    def docker(self, *arguments: str) -> str:
        """The output of the engine's own command, to check independently of our code."""
        command = ["docker", "-H", f"unix://{self.socket}", *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    def log_bytes(self) -> int:
        """The disk space that the logs of all containers use, in bytes."""
        logs = ("containers/*/local-logs/*", "overlay-containers/*/userdata/ctr.log*")
        found = [path for pattern in logs for path in self.socket.parent.glob(f"data/{pattern}")]
        return sum(path.stat().st_size for path in found if path.exists())

    def left(self) -> list[str]:
        """All containers and volumes, as the engine tells them: its command would take ten times as long."""
        transport = httpx.HTTPTransport(verify=False, uds=str(self.socket))
        with httpx.Client(
            transport=transport, base_url="http://engine", timeout=60, trust_env=False
        ) as client:
            containers = client.get("/containers/json", params={"all": True}).raise_for_status().json()
            volumes = client.get("/volumes").raise_for_status().json()["Volumes"] or []
        names = [name.removeprefix("/") for container in containers for name in container["Names"]]
        return sorted(names + [volume["Name"] for volume in volumes])

    def prove_empty(self) -> None:
        """Fails the test if it left something, and removes it, so that the next test starts clean."""
        if left := self.left():
            self.clear()
        assert left == [], f"left: {', '.join(left)}"

    def clear(self) -> None:
        """Removes all containers and volumes."""
        for kind in ("container", "volume"):
            shown = "{{.Names}}" if kind == "container" else "{{.Name}}"
            listed = ["--all"] if kind == "container" else []
            # One at a time: Podman does not remove a keeper before its job.
            for name in sorted(self.docker(kind, "ls", *listed, "--format", shown).split()):
                self.docker(kind, "rm", "--force", name)


@contextlib.contextmanager
def running_engine(kind: str = "docker", *, has_gpus: bool = True) -> Iterator[PrivateEngine]:
    """Starts an engine with the image, and stops it with all its containers at the end.

    ``kind``: `docker`, or `podman`, which also serves the Docker Engine API.

    ``has_gpus``: whether it finds the stub of NVIDIA's hook and so offers GPUs that do not exist.
    """
    # Not in pytest's folder: the path of a socket can have at most 107 characters.
    with tempfile.TemporaryDirectory(prefix="dcp-engine-") as name:
        folder = Path(name)
        process = _start_docker(folder, has_gpus) if kind == "docker" else _start_podman(folder)
        try:
            socket = folder / "engine.sock"
            facts = _until_it_answers(socket, process, folder / "log")
            engine = PrivateEngine(socket, facts, process)
            add_image(engine, IMAGE)
            yield engine
            engine.clear()
        finally:
            _stop(process)
            # A container on this machine's network leaves a mount.
            subprocess.run(["umount", "--quiet", folder / "exec/netns/default"], check=False)


def add_image(
    engine: PrivateEngine, name: str, *changes: str, files: Mapping[str, bytes] = MappingProxyType({})
) -> None:
    """Builds an image from busybox; ``changes``: Dockerfile instructions; ``files``: by their paths."""
    options = [part for change in changes for part in ("--change", change)]
    command = ["docker", "-H", f"unix://{engine.socket}", "import", *options, "-", name]
    subprocess.run(command, check=True, capture_output=True, input=root_filesystem(files))


def root_filesystem(files: Mapping[str, bytes] = MappingProxyType({})) -> bytes:
    """A tar of a root file system with only busybox; any user may write in its folder ``/open``.

    ``files``: further ones, which everybody may run.
    """
    busybox = Path(str(shutil.which("busybox")))
    names = subprocess.run([busybox, "--list"], check=True, capture_output=True, text=True).stdout.split()
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for folder, mode in (("bin", 0o755), ("etc", 0o755), ("tmp", 0o1777), ("open", 0o1777)):
            tar.addfile(_entry(folder, type=tarfile.DIRTYPE, mode=mode))
        program = busybox.read_bytes()
        tar.addfile(_entry("bin/busybox", size=len(program), mode=0o755), io.BytesIO(program))
        for applet in names:
            if applet != "busybox":
                tar.addfile(_entry(f"bin/{applet}", type=tarfile.SYMTYPE, linkname="busybox"))
        for folder in sorted({path.rpartition("/")[0] for path in files} - {""}):
            tar.addfile(_entry(folder, type=tarfile.DIRTYPE, mode=0o755))
        for path, content in files.items():
            tar.addfile(_entry(path, size=len(content), mode=0o755), io.BytesIO(content))
    return buffer.getvalue()


def _entry(name: str, **fields: Any) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    for field, value in fields.items():
        setattr(entry, field, value)
    return entry


def _start_docker(folder: Path, has_gpus: bool) -> subprocess.Popen[bytes]:
    (folder / "config.json").write_text("{}")
    hooks = folder / "hooks"
    hooks.mkdir()
    if has_gpus:
        hook = hooks / HOOK
        hook.write_text("#!/bin/sh\nexit 0\n")
        hook.chmod(0o755)
    command = ["dockerd", "--config-file", str(folder / "config.json")]
    command += [f"--{name}=false" for name in ("iptables", "ip6tables", "ip-masq", "ip-forward")]
    command += ["--bridge=none", "--storage-driver=overlay2", "--pidfile", str(folder / "pid")]
    command += ["--data-root", str(folder / "data"), "--exec-root", str(folder / "exec")]
    command += ["--host", f"unix://{folder / 'engine.sock'}"]
    return _spawn(command, folder, {"PATH": f"{hooks}:{os.environ['PATH']}:/usr/sbin:/sbin"})


def _start_podman(folder: Path) -> subprocess.Popen[bytes]:
    (folder / "containers.conf").write_text(PODMAN_SETTINGS)
    # Podman's mounts and its files in /run are in a separate mount namespace, and vanish with it.
    script = 'mount -t tmpfs tmpfs /run && exec "$0" "$@"'
    command = ["unshare", "--mount", "--propagation=private", "sh", "-c", script]
    command += ["podman", "--storage-driver=overlay", "--root", str(folder / "data")]
    command += ["--runroot", str(folder / "exec"), "--tmpdir", str(folder / "tmp")]
    command += ["system", "service", "--time=0", f"unix://{folder / 'engine.sock'}"]
    (folder / "registries.conf").write_text('[[registry]]\nlocation = "127.0.0.1"\ninsecure = true\n')
    environment = {
        "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin",
        "CONTAINERS_CONF": str(folder / "containers.conf"),
        "CONTAINERS_REGISTRIES_CONF": str(folder / "registries.conf"),
    }
    return _spawn(command, folder, environment)


def _spawn(command: Sequence[str], folder: Path, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    with (folder / "log").open("wb") as log:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**environment, "HOME": str(folder)},
            cwd=folder,  # Podman's monitors leave a file there after an out-of-memory kill
            preexec_fn=_end_with_the_tests,
        )


def _end_with_the_tests() -> None:
    """Ends the engine if the tests' process is killed."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _until_it_answers(socket: Path, process: subprocess.Popen[bytes], log: Path) -> EngineFacts:
    async def ask() -> EngineFacts:
        docker = Docker(str(socket))
        try:
            return await docker.facts()
        finally:
            await docker.close()

    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(Exception):
            if socket.exists():
                return asyncio.run(ask())
        time.sleep(0.05)
    process.kill()
    raise RuntimeError(f"dockerd did not start:\n{log.read_text(errors='replace')[-3000:]}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()

"""Builds an image with an OpenAI server on a Unix socket from this machine's Python and xllamacpp.

It replaces vLLM's image, which needs a GPU, with the same interface and a real model. It needs no registry.
"""

from __future__ import annotations

import importlib.util
import io
import re
import subprocess
import sys
import sysconfig
import tarfile
from pathlib import Path

from tests.support.private_engine import PrivateEngine

IMAGE = "docker.io/acme/model-server:test"
ARGUMENTS = "{model} {socket} {name} {slots}"
_LIBRARY = re.compile(r"(/\S+) \(0x")
_PREFIX = Path("/opt/python")
_WITHOUT = ("site-packages", "test", "__pycache__", "idlelib", "ensurepip", "config-")

# It exits with 3 if it can write next to its model or into its image, so that the tests fail then.
_SERVE = """
import sys, threading, xllamacpp
model, socket, name, slots = sys.argv[1:]
for path in (model + ".lock", "/etc/owned"):
    try:
        open(path, "w")
    except OSError:
        continue
    sys.exit(3)
print("loading", model, flush=True)
params = xllamacpp.CommonParams()
params.model.path = model
params.hostnames = [socket]
params.n_parallel = int(slots)
params.n_ctx = 2048 * int(slots)
params.kv_unified = params.ctx_shift = params.ui = False
params.cpuparams.n_threads = 1
params.verbosity = 1
server = xllamacpp.Server(params)
threading.Event().wait()
"""


def add_model_image(engine: PrivateEngine, name: str = IMAGE, *changes: str) -> str:
    """Builds the image; returns its name. ``changes``: further Dockerfile instructions."""
    entry = '["/opt/python/bin/python", "-S", "/serve.py"]'
    command = ["docker", "-H", f"unix://{engine.socket}", "import"]
    command += ["--change", f"ENTRYPOINT {entry}"]
    # One flag at a time: Podman reads everything that follows as a single value.
    for setting in ("PYTHONHOME=/opt/python", "PYTHONPATH=/opt/packages", "PYTHONDONTWRITEBYTECODE=1"):
        command += ["--change", f"ENV {setting}"]
    for change in changes:
        command += ["--change", change]
    with subprocess.Popen([*command, "-", name], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as process:
        assert process.stdin is not None
        with tarfile.open(fileobj=process.stdin, mode="w|") as tar:
            _fill(tar)
    assert process.returncode == 0
    return name


def _fill(tar: tarfile.TarFile) -> None:
    program = Path(sys.executable).resolve()
    standard = Path(sysconfig.get_path("stdlib"))
    package = Path(str(importlib.util.find_spec("xllamacpp").origin)).parent  # type: ignore[union-attr]
    for folder in ("etc", "tmp", "run", "model"):
        entry = tarfile.TarInfo(folder)
        entry.type, entry.mode = tarfile.DIRTYPE, 0o755
        tar.addfile(entry)
    _add(tar, program, _PREFIX / "bin" / "python")
    _add(tar, standard, _PREFIX / "lib" / standard.name)
    _add(tar, package, Path("/opt/packages/xllamacpp"))
    natives = [program, *package.glob("*.so*"), *(standard / "lib-dynload").glob("*.so")]
    for library in sorted(_libraries(natives)):
        _add(tar, library.resolve(), library)
    script = _SERVE.encode()
    entry = tarfile.TarInfo("serve.py")
    entry.size, entry.mode = len(script), 0o444
    tar.addfile(entry, io.BytesIO(script))


def _add(tar: tarfile.TarFile, source: Path, target: Path) -> None:
    def kept(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
        entry.mode |= 0o444 | (0o111 if entry.isdir() else 0)
        entry.uid = entry.gid = 0
        return None if any(part.startswith(_WITHOUT) for part in Path(entry.name).parts) else entry

    tar.add(source, str(target).lstrip("/"), filter=kept)


def _libraries(natives: list[Path]) -> set[Path]:
    """The loader, and the libraries that it loads for these files."""
    done = subprocess.run(["ldd", *map(str, natives)], check=False, capture_output=True, text=True)
    return {Path(found) for found in _LIBRARY.findall(done.stdout) if Path(found).exists()}

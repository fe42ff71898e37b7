"""Stand-ins for released daemons: tiny wheels whose `dcp-daemon` only answers on the local socket.

The update itself is real: pip, virtual environments, signatures and processes. The behaviour of a stand-in
is fixed in its wheel.
"""

from __future__ import annotations

import base64
import hashlib
import io
import sys
import zipfile
from pathlib import Path

_SOURCE = """
import json, os, signal, socket, sys, time

VERSION, BEHAVIOUR = {version!r}, {behaviour!r}


def main():
    if "--version" in sys.argv:
        print(VERSION)
        return 0
    assert sys.argv[-1] == "run", sys.argv
    signal.signal(signal.SIGTERM, signal.SIG_IGN if BEHAVIOUR == "stubborn" else lambda *_: os._exit(0))
    os.chdir(os.environ["DCP_STATE_DIR"])
    with open("starts.txt", "a") as file:
        file.write(VERSION + "\\n")
    if BEHAVIOUR == "exits":
        return 1
    if BEHAVIOUR in ("silent", "stubborn"):
        time.sleep(3600)
    listening = socket.socket(socket.AF_UNIX)
    if os.path.exists("control.sock"):
        os.unlink("control.sock")
    listening.bind("control.sock")
    listening.listen()
    while True:
        caller, _ = listening.accept()
        caller.recv(1000)
        is_open = BEHAVIOUR == "ready" or (BEHAVIOUR == "waits" and os.path.exists("go"))
        session = {{"state": "open" if is_open else "connecting"}}
        answer = {{"version": VERSION, "pid": os.getpid(), "session": session}}
        caller.sendall(json.dumps(answer).encode() + b"\\n")
        caller.close()
"""


def source(version: str, behaviour: str = "ready") -> str:
    """The source of the stand-in's module.

    `behaviour`: `ready`; `offline`: never gets a session; `waits`: for a file `go`; `silent`: does not
    answer; `stubborn`: does not answer and ignores SIGTERM; `exits`: ends at once.
    """
    return _SOURCE.format(version=version, behaviour=behaviour)


def wheel(version: str, behaviour: str = "ready") -> tuple[str, bytes]:
    """The file name and the content of a wheel."""
    info = f"dcp_marketplace-{version}.dist-info"
    files = {
        "dcp_standin.py": source(version, behaviour),
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: dcp-marketplace\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": "[console_scripts]\ndcp-daemon = dcp_standin:main\n",
    }
    record = "".join(f"{name},sha256={_digest(text)},{len(text.encode())}\n" for name, text in files.items())
    files[f"{info}/RECORD"] = f"{record}{info}/RECORD,,\n"
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return f"dcp_marketplace-{version}-py3-none-any.whl", out.getvalue()


def place(root: Path, version: str, behaviour: str = "ready", reported: str = "") -> None:
    """Installs a stand-in without pip; `reported`: the version that it reports."""
    program = root / "versions" / version / "bin" / "dcp-daemon"
    program.parent.mkdir(parents=True)
    program.write_text(f"#!{sys.executable}\n{source(reported or version, behaviour)}\nsys.exit(main())\n")
    program.chmod(0o755)
    (root / "versions" / version / ".complete").touch()


def _digest(text: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).decode().rstrip("=")

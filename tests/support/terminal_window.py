"""A terminal of its own for a command: what it shows, what is typed, and what a person sees at the end."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
import time
from pathlib import Path

_CONTROL = re.compile(r"\x1b\[([0-9;?]*)([A-Za-z])|\x1b\][^\x07]*\x07|\x1b.|[^\x1b]", re.DOTALL)


def screen(raw: str) -> str:
    """What a long terminal shows after these bytes: lines that were drawn over are gone."""
    lines, row, column = [""], 0, 0
    for match in _CONTROL.finditer(raw):
        token, number, action = match[0], match[1], match[2]
        if action == "A":
            row = max(0, row - int(number or 1))
        elif action == "K":
            lines[row] = "" if number == "2" else lines[row][:column]
        elif token == "\n":
            row += 1
            if row == len(lines):
                lines.append("")
        elif token == "\r":
            column = 0
        elif not token.startswith("\x1b"):
            line = lines[row].ljust(column)
            lines[row] = line[:column] + token + line[column + 1 :]
            column += 1
    return "\n".join(line.rstrip() for line in lines)


class Window:
    """A terminal in which a command runs: what it shows, and what is typed."""

    def __init__(self, command: list[str], environ: dict[str, str], folder: Path, columns: int) -> None:
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
        environ = {**environ, "TERM": "xterm-256color"}
        environ.pop("COLUMNS", None)
        self._process = subprocess.Popen(
            command,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=environ,
            cwd=folder,
            preexec_fn=_own_terminal,
        )
        os.close(slave)
        self.raw = ""

    @property
    def shown(self) -> str:
        """What was shown so far, without what steers the terminal."""
        return _STEERING.sub("", self.raw).replace("\r\n", "\n")

    @property
    def widest(self) -> int:
        """The columns of the longest line that was drawn; one longer than the terminal would have broken."""
        return max(len(line) for line in re.split("[\r\n]", self.shown))

    def until(self, text: str, seconds: float = 60) -> None:
        """Waits until a text is shown after what earlier calls waited for."""
        deadline = time.monotonic() + seconds
        while text not in self.shown:
            assert time.monotonic() < deadline, self.shown
            if not self._read():
                break
        assert text in self.shown, self.shown

    def type(self, text: str) -> None:
        """Types a text."""
        os.write(self._master, text.encode())

    def end(self, seconds: float = 60) -> int:
        """Waits until the command has ended; returns its exit code."""
        deadline = time.monotonic() + seconds
        while self._read():
            assert time.monotonic() < deadline, self.shown
        os.close(self._master)
        return self._process.wait(seconds)

    def _read(self) -> bool:
        """Reads what is there; False after the end."""
        ready, _, _ = select.select([self._master], [], [], 0.2)
        if not ready:
            return True
        try:
            data = os.read(self._master, 1 << 16)
        except OSError:  # the command has closed its side
            return False
        self.raw += data.decode(errors="replace")
        return bool(data)


def _own_terminal() -> None:
    os.setsid()
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


_STEERING = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b[=>]|\x1b\][^\x07]*\x07")

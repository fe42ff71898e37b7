"""The daemon's local door: a Unix socket on which its owner asks how it is, or to drain.

One JSON line in, one JSON line out, for whoever may open the state folder: the
daemon's own user and root. It must not know what the answers say. Nothing that
is asked here waits for anything.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import socket
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from common import documents

logger = logging.getLogger(__name__)

MAX_REQUEST_BYTES = 1024
MAX_ANSWER_BYTES = 1 << 20
MAX_CALLERS = 16
PATIENCE_SECONDS = 5.0
_NAME = "control.sock"

Answers = Mapping[str, Callable[[Mapping[str, Any]], dict[str, Any]]]
"""By the name of what is asked; each takes the whole request."""


class NotRunningError(Exception):
    """No daemon answers on this state folder."""


def socket_path(state_dir: Path) -> Path:
    """Where the socket of a state folder is."""
    return state_dir / _NAME


@asynccontextmanager
async def serve(state_dir: Path, answers: Answers) -> AsyncIterator[None]:
    """Answers on the state folder's socket meanwhile. The folder must be locked by this process."""
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with _short(state_dir) as name:
        # What lies there is of a process that is gone: the journal's lock says so.
        socket_path(state_dir).unlink(missing_ok=True)
        listening.bind(name)
    socket_path(state_dir).chmod(0o600)
    door = _Door(answers)
    server = await asyncio.start_unix_server(door.answer, sock=listening, limit=MAX_REQUEST_BYTES)
    try:
        yield
    finally:
        server.close()
        socket_path(state_dir).unlink(missing_ok=True)


class _Door:
    def __init__(self, answers: Answers) -> None:
        self._answers = answers
        self._callers = 0

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._callers += 1
        try:
            if self._callers <= MAX_CALLERS:
                async with asyncio.timeout(PATIENCE_SECONDS):
                    writer.write(self._answer_to(await reader.readline()))
                    await writer.drain()
        except (OSError, ValueError, TimeoutError) as error:
            logger.debug("a caller of the local socket left error=%s", type(error).__name__)
        finally:
            self._callers -= 1
            writer.close()

    def _answer_to(self, line: bytes) -> bytes:
        try:
            request = documents.parse_object(line)
            answer = self._answers[request["do"]]
        except (ValueError, KeyError, TypeError):
            reply = {"error": f"ask for one of {', '.join(self._answers)}"}
        else:
            reply = answer(request)
        return json.dumps(reply).encode() + b"\n"


def ask(
    state_dir: Path, what: str, patience_seconds: float = PATIENCE_SECONDS, **arguments: str
) -> dict[str, Any]:
    """The running daemon's answer. Raises NotRunningError when no daemon runs, and PermissionError."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking:
        asking.settimeout(patience_seconds)
        try:
            with _short(state_dir) as name:
                asking.connect(name)
            asking.sendall(json.dumps({"do": what, **arguments}).encode() + b"\n")
            answer = documents.parse(_line(asking), MAX_ANSWER_BYTES)
        except PermissionError:
            raise
        except (OSError, ValueError):
            raise NotRunningError(f"no daemon runs on {state_dir}") from None
    if not isinstance(answer, dict):
        raise NotRunningError(f"what answers on {state_dir} is not a daemon")
    return answer


def _line(asking: socket.socket) -> bytes:
    data = b""
    while not data.endswith(b"\n") and len(data) < MAX_ANSWER_BYTES:
        piece = asking.recv(65536)
        if not piece:
            break
        data += piece
    return data


@contextmanager
def _short(state_dir: Path) -> Iterator[str]:
    """A short name of the socket: the kernel takes 107 bytes of one, and the folder's may be longer."""
    descriptor = os.open(state_dir, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{descriptor}/{_NAME}"
    finally:
        with contextlib.suppress(OSError):
            os.close(descriptor)

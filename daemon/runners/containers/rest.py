"""Reads what of a container's log is not known yet, where an earlier daemon read a part of it.

Podman 4.3 leaves out lines of a log that it follows: where the reader has some to catch up on, and where the
container ends meanwhile. So its log is read again and again from its beginning. It must not know runs.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing

from daemon.runners import Log, Piece, ResumeOffsets
from daemon.runners.containers.beginning import MARKER, LogBeginning
from daemon.runners.containers.docker import STDOUT, Docker, Frame

POLL_SECONDS = 1.0
# A reading takes at most a tenth of the time, however long the log is.
_READ_SHARE = 9


def pieces_of(frame: Frame) -> Iterator[Piece]:
    """Standard output is the job's output, and its log with standard error."""
    yield Log(frame.data)
    if frame.stream == STDOUT:
        yield frame.data


class RestOfLog:
    """What of one container's log is not known yet."""

    def __init__(self, docker: Docker, container: str, beginning: LogBeginning, known: ResumeOffsets) -> None:
        """`known`: how much of what the container wrote is known."""
        self._docker = docker
        self._container = container
        self._beginning = beginning
        self._known = {"log": known.log_bytes, "output": known.output_bytes}

    async def read(self, *, follows: bool, holds_back: bool = False) -> AsyncGenerator[Piece, None]:
        """The rest, and, if it ``follows``, what is written until the container ends.

        A marker stands for what the engine has dropped. ``holds_back``: the last piece, of which only a part
        may have been written yet, is left to the next reading.
        """
        if await self._beginning.is_lost():
            # More is gone than was known, or nobody could say what to leave out.
            self._known.update(log=0, output=0)
            yield Log(MARKER)
            yield MARKER
        left, held = dict(self._known), None
        async with aclosing(self._docker.logged(self._container, follows=follows)) as frames:
            async for frame in frames:
                if holds_back:
                    held, frame = frame, held
                if frame is not None:
                    for piece in self._unknown(frame, left):
                        yield piece

    async def poll(self) -> AsyncGenerator[Piece, None]:
        """The same as one that follows, by readings that do not."""
        while await self._is_running():
            started = time.monotonic()
            async with aclosing(self.read(follows=False, holds_back=True)) as pieces:
                async for piece in pieces:
                    yield piece
            await asyncio.sleep(max(POLL_SECONDS, _READ_SHARE * (time.monotonic() - started)))
        # It may be called ended before its last output is stored.
        await self._docker.wait(self._container)
        async with aclosing(self.read(follows=False)) as pieces:
            async for piece in pieces:
                yield piece

    async def _is_running(self) -> bool:
        found = await self._docker.inspect(self._container)
        return found is not None and bool(found["State"]["Running"])

    def _unknown(self, frame: Frame, left: dict[str, int]) -> Iterator[Piece]:
        """The pieces of a frame without what is known; `left`: how much of that is still to come."""
        for piece in pieces_of(frame):
            name = "log" if isinstance(piece, Log) else "output"
            data = frame.data[left[name] :]
            left[name] = max(0, left[name] - len(frame.data))
            if data:
                self._known[name] += len(data)
                yield Log(data) if name == "log" else data

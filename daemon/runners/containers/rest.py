"""Reads what of a container's log is not known yet, where an earlier daemon read a part of it.

No engine's followed log can be trusted to its end. Docker may leave out the last lines where the reader has
some to catch up on, so the log is read once more when the container has ended. Podman 4.3 leaves out lines in
the middle too, so its log, of which it keeps one file, is read again and again. It must not know runs.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing

from daemon.runners import Log, Piece, ResumeOffsets
from daemon.runners.containers.beginning import MARKER, LogBeginning
from daemon.runners.containers.docker import STDOUT, Docker, Frame

_TAIL_BYTES = 4096
POLL_SECONDS = 1.0
MAX_POLL_SECONDS = 10.0
# A long log is read less often: readings take a tenth of the time.
_PAUSE_SHARE = 9


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
        self._tail = b""

    async def read(self) -> AsyncGenerator[Piece, None]:
        """The rest, of a container that has ended."""
        # Podman says `stopped` before conmon has stored all, and `exited` after that.
        await self._docker.wait(self._container)
        async with aclosing(self._read()) as pieces:
            async for piece in pieces:
                yield piece

    async def follow(self) -> AsyncGenerator[Piece, None]:
        """The rest, and what is written until the container ends."""
        async with aclosing(self._read(follows=True)) as pieces:
            async for piece in pieces:
                yield piece
        await self._docker.wait(self._container)
        is_lost, left, tail = await self._beginning.is_lost(), dict(self._known), b""
        async with aclosing(self._docker.logged(self._container, follows=False)) as frames:
            async for frame in frames:
                tail = _tail_of(tail, frame)
                if not is_lost:
                    for piece in self._unknown(frame, left):
                        yield piece
        # Of a log that has lost its beginning meanwhile, only the end says whether all of it was read.
        if is_lost and not (self._tail and tail.endswith(self._tail)):
            yield Log(MARKER)
            yield MARKER

    async def poll(self) -> AsyncGenerator[Piece, None]:
        """The same as `follow`, by readings that do not."""
        ended = asyncio.create_task(self._docker.wait(self._container))
        try:
            while not ended.done():
                started = time.monotonic()
                async with aclosing(self._read(holds_back=True)) as pieces:
                    async for piece in pieces:
                        yield piece
                pause = _PAUSE_SHARE * (time.monotonic() - started)
                await asyncio.wait({ended}, timeout=min(max(POLL_SECONDS, pause), MAX_POLL_SECONDS))
            ended.result()
        finally:
            ended.cancel()
            await asyncio.gather(ended, return_exceptions=True)
        async with aclosing(self.read()) as pieces:
            async for piece in pieces:
                yield piece

    async def _read(self, *, follows: bool = False, holds_back: bool = False) -> AsyncGenerator[Piece, None]:
        """The rest; a marker stands for what the engine has dropped.

        ``holds_back``: the last piece, of which only a part may have been written yet, is left to the next
        reading.
        """
        if await self._beginning.is_lost():
            # More is gone than was known, or nobody could say what to leave out.
            self._known.update(log=0, output=0)
            yield Log(MARKER)
            yield MARKER
        left, held = dict(self._known), None
        async with aclosing(self._docker.logged(self._container, follows=follows)) as frames:
            async for frame in frames:
                self._tail = _tail_of(self._tail, frame)
                if holds_back:
                    held, frame = frame, held
                if frame is not None:
                    for piece in self._unknown(frame, left):
                        yield piece

    def _unknown(self, frame: Frame, left: dict[str, int]) -> Iterator[Piece]:
        """The pieces of a frame without what is known; `left`: how much of that is still to come."""
        for piece in pieces_of(frame):
            name = "log" if isinstance(piece, Log) else "output"
            data = frame.data[left[name] :]
            left[name] = max(0, left[name] - len(frame.data))
            if data:
                self._known[name] += len(data)
                yield Log(data) if name == "log" else data


def _tail_of(before: bytes, frame: Frame) -> bytes:
    return (before + frame.data)[-_TAIL_BYTES:]

"""Reads what of a container's log is not known yet, where an earlier daemon read a part of it.

Podman 4.3 ends a log that it follows soon after its container has ended, wherever the reader is. So the log
of a container that ended meanwhile is read once more from its beginning. It must not know runs.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing

from daemon.runners import Log, Piece, ResumeOffsets
from daemon.runners.containers.beginning import MARKER, LogBeginning
from daemon.runners.containers.docker import STDOUT, Docker, Frame

_TAIL_BYTES = 4096


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

    async def read(self, *, follows: bool) -> AsyncGenerator[Piece, None]:
        """The rest, and, if it ``follows``, what is written until the engine ends it.

        A marker stands for what the engine has dropped.
        """
        if await self._beginning.is_lost():
            # More is gone than was known, or nobody could say what to leave out.
            self._known.update(log=0, output=0)
            for piece in _marker():
                yield piece
        left = dict(self._known)
        async with aclosing(self._docker.logged(self._container, follows=follows)) as frames:
            async for frame in frames:
                self._tail = _tail_of(self._tail, frame)
                for piece in self._unknown(frame, left):
                    yield piece

    async def read_end(self) -> AsyncGenerator[Piece, None]:
        """What was left out of a log that was followed to the container's end, or a marker for it."""
        is_lost, left, tail = await self._beginning.is_lost(), dict(self._known), b""
        async with aclosing(self._docker.logged(self._container, follows=False)) as frames:
            async for frame in frames:
                tail = _tail_of(tail, frame)
                if not is_lost:
                    for piece in self._unknown(frame, left):
                        yield piece
        # Of a log that has lost its beginning meanwhile, only the end says whether all of it was read.
        if (is_lost or left["log"]) and not (self._tail and tail.endswith(self._tail)):
            for piece in _marker():
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


def _marker() -> tuple[Piece, Piece]:
    return Log(MARKER), MARKER


def _tail_of(before: bytes, frame: Frame) -> bytes:
    return (before + frame.data)[-_TAIL_BYTES:]

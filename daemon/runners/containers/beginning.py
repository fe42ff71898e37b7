"""Notices that the engine dropped the beginning of a container's log while no daemon read it.

The engine keeps only the newest of a log. What identifies its first line is noted while the job runs; if the
log later begins with another line, what was written in between is gone. The time alone does not identify it:
Podman tells whole seconds, and a program can write more than the log holds in one.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

from daemon.runners.containers.docker import Docker, DockerRefusedError, DockerUnavailableError

logger = logging.getLogger(__name__)

MARKER = b"\n[dcp] a part is missing here: the daemon was away, and the engine keeps only the newest output\n"
LOOK_SECONDS = 20.0


class LogBeginning:
    """The first line of one container's log."""

    def __init__(self, docker: Docker, container: str, file: Path) -> None:
        """`file`: where it is noted."""
        self._docker = docker
        self._container = container
        self._file = file
        self._seen: str | None = None

    @contextlib.asynccontextmanager
    async def noted(self) -> AsyncIterator[None]:
        """Notes the first line meanwhile, as soon as there is one."""
        noting = asyncio.create_task(self._note())
        try:
            yield
        finally:
            noting.cancel()
            await asyncio.gather(noting, return_exceptions=True)

    async def is_lost(self) -> bool:
        """Whether the log begins with another line than was noted, or than when this was asked last.

        What is not known counts as not lost.
        """
        before = self._noted() if self._seen is None else self._seen
        try:
            async with asyncio.timeout(LOOK_SECONDS):
                self._seen = await self._first_line(follows=False)
        except (ValueError, TimeoutError, DockerUnavailableError, DockerRefusedError) as error:
            logger.info(
                "it is not known what a log begins with container=%s error=%r", self._container, error
            )
            return False
        # What an earlier release noted, or one that died meanwhile, is only the start of that.
        return not self._seen.startswith(before)

    def _noted(self) -> str:
        try:
            return self._file.read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            logger.info("a log's beginning is not noted container=%s error=%r", self._container, error)
            return ""

    async def _note(self) -> None:
        try:
            first = await self._first_line(follows=True)
            self._file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._file.write_text(first, encoding="utf-8")
        except (OSError, DockerUnavailableError, DockerRefusedError) as error:
            logger.info("the beginning of a log was not noted container=%s error=%s", self._container, error)

    async def _first_line(self, *, follows: bool) -> str:
        """The time and a digest of the first line that the engine has; if it ``follows``, waits for one."""
        logged = self._docker.logged(self._container, with_times=True, follows=follows)
        async with aclosing(logged) as frames:
            async for frame in frames:
                time = frame.data.partition(b" ")[0].decode("ascii", errors="replace")
                return f"{time} {hashlib.sha256(frame.data).hexdigest()}"
        return ""

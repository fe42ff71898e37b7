"""Owns the life of one model server process: start, health, end.

It must not know jobs. The process lives no longer than the daemon (see
`llamacpp_child`), and in a process session of its own, so Ctrl-C at the daemon's
terminal does not take it away from the job that still runs.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import sys
from collections import deque
from collections.abc import Collection, Mapping
from typing import Any

from daemon.engines.served import Server, StartError, client_of, until_healthy
from daemon.foreign.http import Client
from daemon.machine import pipes

logger = logging.getLogger(__name__)

START_SECONDS = 120.0
STOP_SECONDS = 1.5


class ModelServer(Server):
    """A model server in a process of its own."""

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        client: Client,
        drain: asyncio.Task[None],
        visible_gpus: Collection[str] | None,
    ) -> None:
        self.client = client
        self._visible_gpus = visible_gpus
        self._process = process
        self._drain = drain

    @property
    def visible_gpus(self) -> Collection[str] | None:
        """Those that its settings name."""
        return self._visible_gpus

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """The process has not ended."""
        return self._process.returncode is None

    async def close(self) -> None:
        """Ends it: asks it to, then sends a signal that cannot be ignored."""
        await self._close(STOP_SECONDS)

    async def kill(self) -> None:
        """Kills it."""
        await self._close(0.0)

    async def _close(self, patience_seconds: float) -> None:
        await _end(self._process, patience_seconds)
        await self.client.aclose()
        self._drain.cancel()
        await asyncio.gather(self._drain, return_exceptions=True)


async def start_model_server(
    settings: dict[str, Any], environment: Mapping[str, str] | None = None
) -> ModelServer:
    """Starts a process with these settings and waits for its health. Raises StartError.

    `environment`: all that its environment holds, by default nothing.
    """
    # -P: the folder that the daemon was started in must not shadow its modules.
    command = (sys.executable, "-P", "-m", "daemon.engines.llamacpp_child")
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        *command, stdin=pipe, stdout=pipe, stderr=pipe, start_new_session=True, env=dict(environment or {})
    )
    last_lines: deque[str] = deque(maxlen=5)
    drain = asyncio.create_task(_drain(process.stderr, last_lines))
    try:
        async with asyncio.timeout(START_SECONDS):
            address = await _address(process, settings)
            client = client_of(address, headers={"Authorization": f"Bearer {settings['api_key']}"})
            server = ModelServer(process, client, drain, settings.get("visible_gpus"))
            await until_healthy(server)
    except (TimeoutError, StartError, OSError) as error:
        await _end(process)
        await asyncio.gather(drain, return_exceptions=True)
        raise StartError(f"{str(error) or 'it took too long'}: {' | '.join(last_lines)}") from None
    except asyncio.CancelledError:
        await _end(process)
        drain.cancel()
        raise
    logger.info("model server started pid=%d", process.pid)
    return server


async def _address(process: asyncio.subprocess.Process, settings: dict[str, Any]) -> str:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(json.dumps(settings).encode() + b"\n")
    await process.stdin.drain()
    line = await process.stdout.readline()
    if not line:
        raise StartError("the model server ended while it started")
    return line.decode().strip()


async def _drain(stream: asyncio.StreamReader | None, last_lines: deque[str]) -> None:
    """Keeps the pipe empty. The lines go nowhere else: they could hold a prompt."""
    assert stream is not None
    with contextlib.suppress(ValueError):
        async for line in stream:
            last_lines.append(line.decode(errors="replace").strip()[:300])


async def _end(process: asyncio.subprocess.Process, patience_seconds: float = STOP_SECONDS) -> None:
    try:
        if patience_seconds:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
        async with asyncio.timeout(patience_seconds):
            await process.wait()
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
    pipes.close(process)

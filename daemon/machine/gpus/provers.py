"""The processes in which the daemon fills its GPUs for a proof, one for each GPU: a driver can hang or crash.

It must not know the server.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import Mapping

from common import documents
from daemon.machine import pipes

# -P: the folder that the daemon was started in must not shadow its modules.
_COMMAND = (sys.executable, "-P", "-m", "daemon.machine.gpus.prover_child")
START_SECONDS, READ_SECONDS, FILL_SECONDS = 60.0, 60.0, 900.0
MAX_HEAD_BYTES, MAX_DATA_BYTES = 4096, 1 << 20


class ProverError(Exception):
    """The GPU cannot be filled or read; the text says why."""


class Prover:
    """One GPU in a process of its own. Every method raises ProverError."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.name = ""
        """The GPU as its driver calls it."""

    @classmethod
    async def start(cls, uuid: str, environment: Mapping[str, str]) -> Prover:
        """Starts the process. `environment`: all that it gets, except which GPU it sees."""
        pipe = asyncio.subprocess.PIPE
        try:
            process = await asyncio.create_subprocess_exec(
                *_COMMAND,
                stdin=pipe,
                stdout=pipe,
                start_new_session=True,
                env={**environment, "CUDA_VISIBLE_DEVICES": uuid},
                limit=MAX_HEAD_BYTES,
            )
        except OSError as error:
            raise ProverError(f"no process can be started: {error.strerror}") from None
        prover = cls(process)
        try:
            request = {"step": "start", "uuid": uuid, "is_chosen": "PYOPENCL_CTX" in environment}
            head, _ = await prover._ask(request, START_SECONDS)
        except BaseException:
            await prover.close()
            raise
        prover.name = str(head.get("name", ""))
        return prover

    async def fill(self, seed: bytes, gpu: int, chunks: int, chunk_cells: int, rounds: int) -> None:
        """Writes so many chunks to the GPU, the `gpu`th of the machine."""
        numbers = {"gpu": gpu, "chunks": chunks, "chunk_cells": chunk_cells, "rounds": rounds}
        await self._ask({"step": "fill", "seed": seed.hex(), **numbers}, FILL_SECONDS)

    async def groups(self, nonce: bytes, group_digests: int) -> bytes:
        """The hashes of the groups of digests."""
        request = {"step": "groups", "nonce": nonce.hex(), "group_digests": group_digests}
        return (await self._ask(request, READ_SECONDS))[1]

    async def group(self, number: int) -> bytes:
        """The digests of one group."""
        return (await self._ask({"step": "group", "number": number}, READ_SECONDS))[1]

    async def close(self) -> None:
        """Ends the process, which gives the memory back."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()
        pipes.close(self._process)

    async def _ask(self, request: Mapping[str, object], seconds: float) -> tuple[dict[str, object], bytes]:
        given, answers = self._process.stdin, self._process.stdout
        assert given is not None
        assert answers is not None
        try:
            async with asyncio.timeout(seconds):
                given.write(json.dumps(request).encode() + b"\n")
                await given.drain()
                head = documents.parse_object(await answers.readline(), MAX_HEAD_BYTES)
                size = head["bytes"]
                if not isinstance(size, int) or not 0 <= size <= MAX_DATA_BYTES:
                    raise ProverError("its process answers nonsense")
                data = await answers.readexactly(size)
        except TimeoutError:
            raise ProverError("its driver does not answer in time") from None
        except (OSError, ValueError, KeyError, asyncio.IncompleteReadError) as error:
            raise ProverError(f"its process ended: {error or type(error).__name__}") from None
        if "error" in head:
            raise ProverError(str(head["error"]))
        return head, data

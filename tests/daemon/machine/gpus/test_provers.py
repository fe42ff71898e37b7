"""The process that fills a GPU, with real OpenCL on a processor: it computes what the protocol describes."""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from daemon.machine.gpus import provers
from daemon.machine.gpus.provers import Prover, ProverError
from server.domain import gpu_proofs
from server.domain.gpu_proofs import Scale
from tests.support.opencl import needs_opencl

SEED, NONCE = bytes(range(32)), bytes(range(100, 132))
SMALL = Scale(rounds=3, chunk_cells=16, group_digests=50)


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """An environment in which OpenCL takes the processor for a GPU."""
    kept = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
    return kept | {"HOME": str(tmp_path), "PYOPENCL_CTX": "0", "POCL_CACHE_DIR": str(tmp_path)}


@pytest.fixture
async def prover(environment: dict[str, str]) -> AsyncIterator[Prover]:
    needs_opencl()
    started = await Prover.start("GPU-a", environment)
    yield started
    await started.close()


async def test_gpu_gives_the_digests_that_the_server_computes(prover: Prover) -> None:
    chunks = 130
    await prover.fill(SEED, 5, chunks, SMALL.chunk_cells, SMALL.rounds)
    hashes = await prover.groups(NONCE, SMALL.group_digests)
    assert len(hashes) == 32 * gpu_proofs.groups(chunks, SMALL) == 32 * 3
    for group in range(3):
        digests = await prover.group(group)
        assert len(digests) == 16 * gpu_proofs.digests_in(group, chunks, SMALL)
        assert hashes[32 * group : 32 * group + 32] == hashlib.sha256(digests).digest()
        for place in range(len(digests) // 16):
            chunk = group * SMALL.group_digests + place
            expected = gpu_proofs.digest(SEED, NONCE, 5, chunk, SMALL)
            assert digests[16 * place : 16 * place + 16] == expected, chunk
    assert prover.name


async def test_memory_in_several_buffers_is_numbered_through(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from daemon.machine.gpus import prover_child

    needs_opencl()
    for name, text in environment.items():
        monkeypatch.setenv(name, text)
    monkeypatch.setattr(prover_child, "MOST_BUFFER_BYTES", 10 * SMALL.chunk_bytes)
    monkeypatch.setattr(prover_child, "CELLS_AT_ONCE", 60)
    one = await asyncio.to_thread(prover_child.Prover, "GPU-a", is_chosen=True)
    await asyncio.to_thread(one.fill, SEED, 0, 25, SMALL.chunk_cells, SMALL.rounds)
    one.groups(NONCE, SMALL.group_digests)
    expected = [gpu_proofs.digest(SEED, NONCE, 0, chunk, SMALL) for chunk in range(25)]
    assert one.group(0) == b"".join(expected)


async def test_machine_without_opencl_says_so(environment: dict[str, str]) -> None:
    del environment["PYOPENCL_CTX"]  # the processor is no NVIDIA GPU
    with pytest.raises(ProverError, match="OpenCL"):
        await Prover.start("GPU-a", environment)


async def test_driver_that_refuses_the_memory_is_an_error_and_no_crash(prover: Prover) -> None:
    with pytest.raises(ProverError):
        await prover.fill(SEED, 0, 1 << 40, 1 << 12, 1)


async def test_process_that_dies_or_hangs_is_an_error(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    needs_opencl()
    dying = await Prover.start("GPU-a", environment)
    os.kill(dying._process.pid, signal.SIGKILL)
    with pytest.raises(ProverError, match="ended"):
        await dying.groups(NONCE, 1)
    await dying.close()
    hanging = await Prover.start("GPU-a", environment)
    os.kill(hanging._process.pid, signal.SIGSTOP)
    monkeypatch.setattr(provers, "READ_SECONDS", 0.2)
    with pytest.raises(ProverError, match="in time"):
        await hanging.groups(NONCE, 1)
    await hanging.close()

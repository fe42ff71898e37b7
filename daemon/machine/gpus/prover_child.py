"""The process that fills one GPU and hashes what it holds: a request a line in, an answer out.

A request is a JSON object with a `step`; an answer is a line of JSON and, after it, as many bytes as the line
says. An answer with an `error` is the last. It works with OpenCL, which the GPU's driver brings; what is
computed is described in protos/dcp/v1/gpu_proofs.proto. It must not know who asks.
"""

from __future__ import annotations

import hashlib
import json
import sys
from importlib.resources import files
from typing import Any

from common import documents
from daemon.machine.gpus.nvml_child import own_output

CELL_BYTES, DIGEST_BYTES = 32, 16
# A driver gives a quarter of the memory at once, or less.
MOST_BUFFER_BYTES = 1 << 30
# Cells that one call of the kernel fills: longer calls stop the screen of a GPU that has one.
CELLS_AT_ONCE = 1 << 20


class NoGpuError(Exception):
    """The GPU cannot be used by OpenCL; the text says why."""


class Prover:
    """One GPU, and what was written to it."""

    def __init__(self, uuid: str, *, is_chosen: bool = False) -> None:
        """`uuid`: of the GPU. `is_chosen`: PYOPENCL_CTX names the device instead. Raises NoGpuError."""
        try:
            import pyopencl
        except ImportError as error:
            raise NoGpuError(f"pyopencl is not installed: {error}") from None
        self._cl: Any = pyopencl
        device = _chosen(pyopencl) if is_chosen else _device(pyopencl, uuid)
        self._context = self._cl.Context([device])
        self._queue = self._cl.CommandQueue(self._context, device)
        source = files("daemon.machine.gpus").joinpath("prover.cl").read_text(encoding="utf-8")
        program = self._cl.Program(self._context, source).build()
        self._prepare, self._fill, self._digest = (
            self._cl.Kernel(program, name) for name in ("prepare", "fill", "digest")
        )
        self._most_bytes = min(MOST_BUFFER_BYTES, device.max_mem_alloc_size)
        self._memory_bytes = device.global_mem_size
        self._buffers: list[tuple[Any, int]] = []
        """Each buffer, and how many chunks it holds."""
        self._digests: list[Any] = []
        self._chunk_cells = self._group_bytes = 0
        self._read = b""
        """All digests."""
        self.name = str(device.name).strip()

    def fill(self, seed: bytes, gpu: int, chunks: int, chunk_cells: int, rounds: int) -> None:
        """Writes so many chunks. Raises NoGpuError if they do not fit."""
        import numpy

        chunk_bytes = chunk_cells * CELL_BYTES
        if chunk_bytes > self._most_bytes or chunks * chunk_bytes > self._memory_bytes:
            raise NoGpuError(f"{chunks} chunks of {chunk_bytes} bytes do not fit into its memory")

        flags, self._chunk_cells = self._cl.mem_flags, chunk_cells
        words = numpy.frombuffer(seed, ">u4").astype("u4")
        password = self._cl.Buffer(self._context, flags.READ_ONLY | flags.COPY_HOST_PTR, hostbuf=words)
        key = self._cl.Buffer(self._context, flags.READ_WRITE, 64)
        self._prepare(self._queue, (1,), None, password, key)
        first = 0
        while chunks:
            count = min(chunks, self._most_bytes // chunk_bytes)
            buffer = self._cl.Buffer(self._context, flags.READ_WRITE, count * chunk_bytes)
            self._buffers.append((buffer, count))
            self._digests.append(self._cl.Buffer(self._context, flags.READ_WRITE, count * DIGEST_BYTES))
            cells = count * chunk_cells
            for offset in range(0, cells, CELLS_AT_ONCE):
                size = (min(CELLS_AT_ONCE, cells - offset),)
                numbers = numpy.uint64(first), numpy.uint64(offset), numpy.uint32(gpu), numpy.uint32(rounds)
                self._fill(self._queue, size, None, buffer, *numbers, key)
                self._queue.finish()
            chunks, first = chunks - count, first + cells

    def groups(self, nonce: bytes, group_digests: int) -> bytes:
        """The hashes of all groups of digests."""
        import numpy

        flags = self._cl.mem_flags
        words = numpy.frombuffer(nonce, ">u4").astype("u4")
        given = self._cl.Buffer(self._context, flags.READ_ONLY | flags.COPY_HOST_PTR, hostbuf=words)
        read = [numpy.empty(count * DIGEST_BYTES // 4, "u4") for _, count in self._buffers]
        for (buffer, count), digests, place in zip(self._buffers, self._digests, read, strict=True):
            self._digest(self._queue, (count,), None, buffer, numpy.uint32(self._chunk_cells), given, digests)
            self._cl.enqueue_copy(self._queue, place, digests, is_blocking=False)
        self._queue.finish()
        self._read = numpy.concatenate(read).astype(">u4").tobytes()
        self._group_bytes = group_digests * DIGEST_BYTES
        whole = memoryview(self._read)
        starts = range(0, len(whole), self._group_bytes)
        return b"".join(hashlib.sha256(whole[at : at + self._group_bytes]).digest() for at in starts)

    def group(self, number: int) -> bytes:
        """The digests of one group."""
        return bytes(self._read[number * self._group_bytes : (number + 1) * self._group_bytes])


def _chosen(cl: Any) -> Any:
    """The device that PYOPENCL_CTX names, which pyopencl itself reads."""
    return cl.create_some_context(interactive=False).devices[0]


def _device(cl: Any, uuid: str) -> Any:
    """The GPU. Raises NoGpuError."""
    try:
        platforms = cl.get_platforms()
    except cl.Error as error:
        raise NoGpuError(f"OpenCL has no device: {error}") from None
    found = [
        device
        for platform in platforms
        if "NVIDIA" in platform.vendor
        for device in platform.get_devices(cl.device_type.GPU)
    ]
    if len(found) > 1:  # a driver that shows more than CUDA_VISIBLE_DEVICES names
        place = _place(uuid)
        found = [each for each in found if (each.pci_domain_id_nv, each.pci_bus_id_nv) == place]
    if len(found) != 1:
        raise NoGpuError("the driver's OpenCL does not show this GPU")
    return found[0]


def _place(uuid: str) -> tuple[int, int]:
    """The PCI domain and bus of a GPU. Raises NoGpuError."""
    import pynvml

    try:
        pynvml.nvmlInit()
        place = pynvml.nvmlDeviceGetPciInfo(pynvml.nvmlDeviceGetHandleByUUID(uuid))
    except pynvml.NVMLError as error:
        raise NoGpuError(f"the driver does not know this GPU: {error}") from None
    return place.domain, place.bus


def main() -> None:
    """Answers until the input ends."""
    answers = own_output()
    prover: Prover | None = None
    for line in sys.stdin.buffer:
        request, data = documents.parse_object(line), b""
        head: dict[str, object] = {}
        try:
            if prover is None:
                prover = Prover(request["uuid"], is_chosen=request["is_chosen"])
                head["name"] = prover.name
            elif request["step"] == "fill":
                numbers = (request[name] for name in ("gpu", "chunks", "chunk_cells", "rounds"))
                prover.fill(bytes.fromhex(request["seed"]), *numbers)
            elif request["step"] == "groups":
                data = prover.groups(bytes.fromhex(request["nonce"]), request["group_digests"])
            else:
                data = prover.group(request["number"])
        except Exception as error:  # whatever a driver raises: its daemon goes on without a proof
            head["error"] = " ".join(str(error).split())[:500] or type(error).__name__
        answers.write(json.dumps(head | {"bytes": len(data)}).encode() + b"\n" + data)
        answers.flush()
        if "error" in head:
            return


if __name__ == "__main__":
    main()

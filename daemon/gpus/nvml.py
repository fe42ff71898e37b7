"""The gpus port through NVIDIA's management library: the only importer of pynvml.

It must not know what the figures are for. NVML fails in three ways, and each
has its own answer: a figure that a GPU cannot tell is left out, a GPU that is
lost drops out of the report, and a driver that is gone empties the report
until it is back. Nothing raises out of `read`: telemetry never ends a daemon.
"""

import logging
from collections.abc import Callable
from typing import Any, TypeVar

import pynvml
from dcp.v1 import gpus_pb2

from daemon.gpus.machine import machine_status

logger = logging.getLogger(__name__)

_MAX_GPUS = 64
_DRIVER_GONE = (
    pynvml.NVML_ERROR_UNINITIALIZED,
    pynvml.NVML_ERROR_DRIVER_NOT_LOADED,
    pynvml.NVML_ERROR_LIBRARY_NOT_FOUND,
    pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH,
)
_GPU_GONE = (pynvml.NVML_ERROR_GPU_IS_LOST, pynvml.NVML_ERROR_RESET_REQUIRED)
_REMEDIES = {
    pynvml.NVML_ERROR_LIBRARY_NOT_FOUND: "libnvidia-ml.so.1 is not installed: install the NVIDIA driver",
    pynvml.NVML_ERROR_DRIVER_NOT_LOADED: "the NVIDIA driver is not loaded: run nvidia-smi, or restart",
    pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH: "library and driver differ in version: restart the machine",
}

# A handle is an opaque pointer of pynvml, which has no types.
_Handle = Any
_T = TypeVar("_T")


class NvmlUnavailableError(Exception):
    """NVML does not answer on this machine; the text says why and what helps."""


class NvmlGpus:
    """The NVIDIA GPUs of this machine. Raises NvmlUnavailableError when made without a driver."""

    name = "nvml"
    reason = ""

    def __init__(self) -> None:
        self._initialized = False
        self._lost: set[int] = set()
        self._driver_gone = False
        try:
            self._initialize()
        except pynvml.NVMLError as error:
            raise NvmlUnavailableError(_REMEDIES.get(error.value, f"NVML failed: {error}")) from None

    def read(self) -> gpus_pb2.GpuStatus:
        """Facts and a fresh sample of every GPU that answers; never raises."""
        status = machine_status()
        try:
            self._initialize()
            self._fill(status)
            self._driver_gone = False
        except pynvml.NVMLError as error:
            self._note_driver_gone(error)
            return machine_status()
        return status

    def close(self) -> None:
        """Ends NVML; a driver that is gone already is no error."""
        if self._initialized:
            self._initialized = False
            try:
                pynvml.nvmlShutdown()
            except pynvml.NVMLError as error:
                logger.debug("NVML did not shut down cleanly error=%s", error)

    def _initialize(self) -> None:
        if not self._initialized:
            pynvml.nvmlInit()
            self._initialized = True

    def _note_driver_gone(self, error: pynvml.NVMLError) -> None:
        if not self._driver_gone:
            logger.warning(
                "the NVIDIA driver stopped answering; telemetry goes on without it error=%s", error
            )
        self._driver_gone = True
        self.close()

    def _fill(self, status: gpus_pb2.GpuStatus) -> None:
        _set(status, "driver_version", _figure(pynvml.nvmlSystemGetDriverVersion))
        _set(status, "cuda_version", _cuda_version(_figure(pynvml.nvmlSystemGetCudaDriverVersion)))
        for index in range(min(pynvml.nvmlDeviceGetCount(), _MAX_GPUS)):
            self._add_device(status, index)
        status.gpu_count = len(status.all_gpus)
        if status.all_gpus:
            _copy_first(status)

    def _add_device(self, status: gpus_pb2.GpuStatus, index: int) -> None:
        try:
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
            device = _device(index, handle)
            capability = _figure(pynvml.nvmlDeviceGetCudaComputeCapability, handle)
        except pynvml.NVMLError as error:
            if error.value in _DRIVER_GONE:
                raise
            self._note_lost(index, error)
            return
        self._lost.discard(index)
        if not status.all_gpus and capability is not None:
            status.compute_capability = "{}.{}".format(*capability)
        status.all_gpus.append(device)

    def _note_lost(self, index: int, error: pynvml.NVMLError) -> None:
        if index not in self._lost:
            self._lost.add(index)
            logger.warning(
                "a GPU stopped answering and is left out of the report gpu=%d error=%s", index, error
            )


def _device(index: int, handle: _Handle) -> gpus_pb2.GpuDevice:
    device = gpus_pb2.GpuDevice(index=index, uuid=_figure(pynvml.nvmlDeviceGetUUID, handle) or "")
    _set(device, "gpu_name", _figure(pynvml.nvmlDeviceGetName, handle))
    memory = _figure(pynvml.nvmlDeviceGetMemoryInfo, handle)
    if memory is not None:
        device.gpu_vram_mib = memory.total >> 20
        device.free_vram_mib = memory.free >> 20
        device.memory_used_mb = memory.used >> 20
    utilization = _figure(pynvml.nvmlDeviceGetUtilizationRates, handle)
    if utilization is not None:
        device.gpu_util_pct = utilization.gpu
    _set(device, "temp_c", _figure(pynvml.nvmlDeviceGetTemperature, handle, pynvml.NVML_TEMPERATURE_GPU))
    power_milliwatts = _figure(pynvml.nvmlDeviceGetPowerUsage, handle)
    if power_milliwatts is not None:
        device.power_w = power_milliwatts / 1000
    return device


def _figure(read: Callable[..., _T], *arguments: object) -> _T | None:
    """One reading, or None where this GPU or driver cannot tell it."""
    try:
        return read(*arguments)
    except pynvml.NVMLError as error:
        if error.value in _DRIVER_GONE or error.value in _GPU_GONE:
            raise
        return None
    except UnicodeDecodeError:
        return None


def _cuda_version(number: int | None) -> str | None:
    return None if number is None else f"{number // 1000}.{number % 1000 // 10}"


def _set(message: gpus_pb2.GpuStatus | gpus_pb2.GpuDevice, name: str, value: object) -> None:
    if value is not None:
        setattr(message, name, value)


_SHARED = (
    "gpu_name",
    "gpu_vram_mib",
    "free_vram_mib",
    "memory_used_mb",
    "gpu_util_pct",
    "temp_c",
    "power_w",
)


def _copy_first(status: gpus_pb2.GpuStatus) -> None:
    """The figures at the top level are those of the first GPU."""
    first = status.all_gpus[0]
    for name in _SHARED:
        if first.HasField(name):  # type: ignore[arg-type]
            setattr(status, name, getattr(first, name))

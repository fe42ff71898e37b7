"""The gpus port through NVIDIA's management library: the only importer of pynvml.

It must not know what the figures are for. NVML fails in four ways, and each
has its own answer: a figure that a GPU does not report, or that cannot be true, is left out;
a GPU that is lost drops out of the report; a driver that is gone, or not there yet, empties the
report until it is back, and says so. Nothing raises out of `read`. That NVML hangs or crashes the
process is the matter of `daemon.machine.gpus.watched`, which keeps it in a process of its own.
"""

import ctypes
import logging
from collections import Counter
from collections.abc import Callable
from typing import Any, TypeVar

import pynvml
from dcp.v1 import gpus_pb2

from common.limits import fit
from daemon.machine.gpus.none import machine_memory, machine_status
from daemon.machine.gpus.processes import OwnPids, is_foreign, no_others
from daemon.machine.gpus.toolkit import Toolkit
from daemon.machine.gpus.xids import FATAL_XIDS

logger = logging.getLogger(__name__)

_MAX_GPUS = 64
# MIG devices come after every possible GPU, at most seven of each.
_FIRST_MIG_INDEX, _MIG_INDICES = 64, 8
_NOT_OF_PARTS: tuple[Any, ...] = (
    *("gpu_name", "gpu_vram_mib", "free_vram_mib", "memory_used_mb", "gpu_util_pct", "power_w"),
    "vram_is_shared",
)
# So many events are taken at a reading; the driver keeps the others for the next.
_MAX_EVENTS = 256
_DRIVER_GONE = (
    pynvml.NVML_ERROR_UNINITIALIZED,
    pynvml.NVML_ERROR_DRIVER_NOT_LOADED,
    pynvml.NVML_ERROR_LIBRARY_NOT_FOUND,
    pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH,
)
# A library that was loaded stays as it is, and pynvml looks for it only once.
_STALE = (pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH)
_GPU_GONE = (pynvml.NVML_ERROR_GPU_IS_LOST, pynvml.NVML_ERROR_RESET_REQUIRED)
_REMEDIES = {
    pynvml.NVML_ERROR_LIBRARY_NOT_FOUND: "libnvidia-ml.so.1 is not installed: install the NVIDIA driver",
    pynvml.NVML_ERROR_DRIVER_NOT_LOADED: "the NVIDIA driver is not loaded: run nvidia-smi, or restart",
    pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH: "library and driver differ in version: restart the machine",
}

# What lowers the clocks, by bit. A GPU that is idle is not throttled.
_THROTTLES = {
    pynvml.nvmlClocksEventReasonApplicationsClocksSetting: gpus_pb2.THROTTLE_REASON_APPLICATION_CLOCKS,
    pynvml.nvmlClocksEventReasonSwPowerCap: gpus_pb2.THROTTLE_REASON_POWER_CAP,
    pynvml.nvmlClocksEventReasonHwSlowdown: gpus_pb2.THROTTLE_REASON_HW_SLOWDOWN,
    pynvml.nvmlClocksEventReasonSyncBoost: gpus_pb2.THROTTLE_REASON_SYNC_BOOST,
    pynvml.nvmlClocksEventReasonSwThermalSlowdown: gpus_pb2.THROTTLE_REASON_SW_THERMAL,
    pynvml.nvmlClocksEventReasonHwThermalSlowdown: gpus_pb2.THROTTLE_REASON_HW_THERMAL,
    pynvml.nvmlClocksEventReasonHwPowerBrakeSlowdown: gpus_pb2.THROTTLE_REASON_HW_POWER_BRAKE,
    pynvml.nvmlClocksEventReasonDisplayClockSetting: gpus_pb2.THROTTLE_REASON_DISPLAY_CLOCKS,
}

# A handle is an opaque pointer of pynvml, which has no types.
_Handle = Any
_T = TypeVar("_T")


class NvmlGpus:
    """The NVIDIA GPUs of this machine; a driver that is not there yet is looked for at each reading."""

    def __init__(self, own_pids: OwnPids = no_others) -> None:
        """`own_pids`: the daemon's processes that do not descend from it, as those of containers."""
        self._own_pids = own_pids
        self._toolkit = Toolkit()
        self._xids = _Xids()
        self._initialized = False
        self._lost: set[int] = set()
        self._empty: set[int] = set()
        self._untrue: set[str] = set()
        self._has_answered = self._driver_gone = False
        self.reason = ""
        """Why the driver does not answer now; empty if it does."""
        self.is_stale = False
        """Only a new process can find the driver: the library is missing, or older than the driver."""

    def read(self) -> gpus_pb2.GpuStatus:
        """Facts and a fresh sample of every GPU that answers; never raises."""
        status = machine_status()
        try:
            self._initialize()
            self._fill(status)
        except Exception as error:
            return self._without_driver(error)
        self._has_answered, self._driver_gone, self.reason = True, False, ""
        self._leave_out_untrue(status)
        return status

    def renew(self) -> None:
        """The container toolkit may be another one now."""
        self._toolkit.forget()

    def close(self) -> None:
        """Ends NVML; a driver that is gone already is not an error."""
        if self._initialized:
            self._initialized = False
            self._xids.forget()
            try:
                pynvml.nvmlShutdown()
            except pynvml.NVMLError as error:
                logger.debug("NVML did not shut down cleanly error=%s", error)

    def _initialize(self) -> None:
        if not self._initialized:
            pynvml.nvmlInit()
            self._initialized = True

    def _without_driver(self, error: Exception) -> gpus_pb2.GpuStatus:
        """The machine without GPUs, or, if the driver answered before, with GPUs of unknown state."""
        code = error.value if isinstance(error, pynvml.NVMLError) else None
        self.reason = _REMEDIES.get(code, f"NVML failed: {error}")
        self.is_stale = code in _STALE
        if self._has_answered and not self._driver_gone:
            logger.warning(
                "the NVIDIA driver stopped answering; telemetry goes on without it error=%s", error
            )
        self._driver_gone = True
        self.close()
        status = machine_status()
        if self._has_answered:
            status.driver_lost = True
        else:
            status.gpu_count = 0
        return status

    def _leave_out_untrue(self, status: gpus_pb2.GpuStatus) -> None:
        # Once in millions of readings a counter is all ones. No rule may judge by it.
        faults = fit(status)
        for path in faults.keys() - self._untrue:
            self._untrue.add(path)
            logger.warning("left out a figure that cannot be true field=%s: %s", path, faults[path])

    def _fill(self, status: gpus_pb2.GpuStatus) -> None:
        _set(status, "driver_version", _figure(pynvml.nvmlSystemGetDriverVersion))
        _set(status, "cuda_version", _cuda_version(_figure(pynvml.nvmlSystemGetCudaDriverVersion)))
        _set(status, "container_toolkit_version", self._toolkit.version())
        self._xids.collect()
        answering: set[str] = set()
        for index in range(min(pynvml.nvmlDeviceGetCount(), _MAX_GPUS)):
            answering.update(self._add_gpu(status, index))
        del status.all_gpus[_MAX_GPUS:]
        self._xids.keep(answering)
        status.gpu_count = len(status.all_gpus)
        if status.all_gpus:
            _copy_first(status)

    def _add_gpu(self, status: gpus_pb2.GpuStatus, index: int) -> list[str]:
        """Adds a GPU, or the devices into which MIG divides it; the UUID of the GPU, if it answers."""
        try:
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
            gpu = _device(index, handle)
            _add_faults(gpu, handle)
            self._xids.add_to(gpu, handle)
            parts = _mig_devices(gpu, handle)
            for device, at in [(gpu, handle)] if parts is None else parts:
                _add_processes(device, at, self._own_pids)
        except pynvml.NVMLError as error:
            if error.value in _DRIVER_GONE:
                raise
            self._note_lost(index, error)
            return []
        self._lost.discard(index)
        status.all_gpus.extend([gpu] if parts is None else [device for device, _ in parts])
        self._note_empty(status, index, is_empty=parts == [])
        return [gpu.uuid]

    def _note_empty(self, status: gpus_pb2.GpuStatus, index: int, *, is_empty: bool) -> None:
        if not is_empty:
            self._empty.discard(index)
            return
        status.empty_mig_gpus.append(index)
        if index not in self._empty:
            self._empty.add(index)
            logger.warning("a GPU is not offered: MIG divides it into no devices gpu=%d", index)

    def _note_lost(self, index: int, error: pynvml.NVMLError) -> None:
        if index not in self._lost:
            self._lost.add(index)
            logger.warning(
                "a GPU stopped answering and is left out of the report gpu=%d error=%s", index, error
            )


class _Xids:
    """The Xid errors that are a GPU's own fault, counted by UUID since the daemon watches."""

    def __init__(self) -> None:
        self._set: Any = None
        self._watched: dict[int | None, str] = {}
        self._counts: Counter[str] = Counter()
        self._last: dict[str, int] = {}

    def forget(self) -> None:
        """The driver is gone, and with it what it had to watch; the counts stay."""
        self._set = None
        self._watched.clear()

    def keep(self, uuids: set[str]) -> None:
        """One that does not answer is watched anew when it is back: a reset may have ended it."""
        self._watched = {address: uuid for address, uuid in self._watched.items() if uuid in uuids}

    def collect(self) -> None:
        """Counts what has happened since the last time, without waiting."""
        if self._set is None:
            return
        for _ in range(_MAX_EVENTS):
            try:
                event = pynvml.nvmlEventSetWait_v2(self._set, 0)
            except pynvml.NVMLError as error:
                if error.value in _DRIVER_GONE:
                    raise
                return  # nothing has happened, or a GPU is lost: the readings will show
            uuid = self._watched.get(_address(event.device))
            if uuid is not None and event.eventData in FATAL_XIDS:
                self._counts[uuid] += 1
                self._last[uuid] = int(event.eventData)
                logger.error("a GPU reported a critical error xid=%d gpu=%s", event.eventData, uuid)

    def add_to(self, device: gpus_pb2.GpuDevice, handle: _Handle) -> None:
        """Watches the GPU from now on, where that is possible, and reports what was counted."""
        if device.uuid and self._watch(device.uuid, handle):
            device.xid_count = self._counts[device.uuid]
            _set(device, "last_xid", self._last.get(device.uuid))

    def _watch(self, uuid: str, handle: _Handle) -> bool:
        address = _address(handle)
        if self._watched.get(address) == uuid:
            return True
        kinds = _figure(pynvml.nvmlDeviceGetSupportedEventTypes, handle)
        if not kinds or not kinds & pynvml.nvmlEventTypeXidCriticalError:
            return False
        if self._set is None:
            self._set = _figure(pynvml.nvmlEventSetCreate)
        if self._set is None:
            return False
        try:
            pynvml.nvmlDeviceRegisterEvents(handle, pynvml.nvmlEventTypeXidCriticalError, self._set)
        except pynvml.NVMLError as error:
            if error.value in _DRIVER_GONE or error.value in _GPU_GONE:
                raise
            return False
        self._watched[address] = uuid
        return True


def _address(handle: _Handle) -> int | None:
    """The identity of a handle: pynvml creates a new object for each call."""
    return ctypes.cast(handle, ctypes.c_void_p).value


def _device(index: int, handle: _Handle) -> gpus_pb2.GpuDevice:
    device = gpus_pb2.GpuDevice(index=index, uuid=_figure(pynvml.nvmlDeviceGetUUID, handle) or "")
    _set(device, "gpu_name", _figure(pynvml.nvmlDeviceGetName, handle))
    _add_memory(device, handle)
    utilization = _figure(pynvml.nvmlDeviceGetUtilizationRates, handle)
    if utilization is not None:
        _set(device, "gpu_util_pct", utilization.gpu)
    # Where there is no sensor some drivers answer 0, which would satisfy every cap.
    celsius = _figure(pynvml.nvmlDeviceGetTemperature, handle, pynvml.NVML_TEMPERATURE_GPU)
    _set(device, "temp_c", celsius or None)
    if power_milliwatts := _figure(pynvml.nvmlDeviceGetPowerUsage, handle):
        _set(device, "power_w", power_milliwatts / 1000)
    capability = _figure(pynvml.nvmlDeviceGetCudaComputeCapability, handle)
    if capability is not None and any(capability):
        device.compute_capability = "{}.{}".format(*capability)
    return device


def _mig_devices(gpu: gpus_pb2.GpuDevice, handle: _Handle) -> list[tuple[gpus_pb2.GpuDevice, _Handle]] | None:
    """The devices into which MIG divides a GPU, each with its handle; None of a GPU that is whole.

    What the driver knows only of the whole GPU (temperature, faults) holds for each device; power does not.
    """
    mode = _figure(pynvml.nvmlDeviceGetMigMode, handle)
    if mode is None or not mode[0]:
        return None
    found = []
    for number in range(_figure(pynvml.nvmlDeviceGetMaxMigDeviceCount, handle) or 0):
        part = _figure(pynvml.nvmlDeviceGetMigDeviceHandleByIndex, handle, number)
        if part is not None:
            device = gpus_pb2.GpuDevice()
            device.CopyFrom(gpu)
            for name in _NOT_OF_PARTS:
                device.ClearField(name)
            device.MergeFrom(_device(_FIRST_MIG_INDEX + _MIG_INDICES * gpu.index + number, part))
            found.append((device, part))
    return found


def _add_memory(device: gpus_pb2.GpuDevice, handle: _Handle) -> None:
    memory = _figure(_memory, handle)
    if memory is None:
        return
    total, free, used = memory
    if not total:  # it has none of its own (GB10, Jetson) and uses the machine's
        total, free = machine_memory()
        used = total - free
        device.vram_is_shared = True
    device.gpu_vram_mib, device.free_vram_mib, device.memory_used_mb = total >> 20, free >> 20, used >> 20


def _memory(handle: _Handle) -> tuple[int, int, int]:
    """Total, free and used memory of its own, in bytes; zeros where the driver says that it has none."""
    try:
        memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
    except pynvml.NVMLError as error:
        if error.value != pynvml.NVML_ERROR_NOT_SUPPORTED:
            raise
        return 0, 0, 0
    return memory.total, memory.free, memory.used


def _add_faults(device: gpus_pb2.GpuDevice, handle: _Handle) -> None:
    throttles = _figure(pynvml.nvmlDeviceGetCurrentClocksEventReasons, handle)
    if throttles is None:  # drivers before 535 know it by its older name
        throttles = _figure(pynvml.nvmlDeviceGetCurrentClocksThrottleReasons, handle)
    if throttles is not None:
        device.throttle_reasons.extend(reason for bit, reason in _THROTTLES.items() if throttles & bit)
        device.throttled = bool(device.throttle_reasons)
    _set(device, "persistence_mode", _truth(_figure(pynvml.nvmlDeviceGetPersistenceMode, handle)))
    ecc = _figure(pynvml.nvmlDeviceGetEccMode, handle)
    if ecc is not None:
        device.ecc_enabled = bool(ecc[0])
    if device.ecc_enabled:
        uncorrected = pynvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED
        for name, counter in (
            ("ecc_volatile_uncorrected", pynvml.NVML_VOLATILE_ECC),
            ("ecc_aggregate_uncorrected", pynvml.NVML_AGGREGATE_ECC),
        ):
            _set(device, name, _figure(pynvml.nvmlDeviceGetTotalEccErrors, handle, uncorrected, counter))
    rows = _figure(pynvml.nvmlDeviceGetRemappedRows, handle)
    if rows is not None:
        _, _, pending, failed = rows
        device.row_remap_pending, device.row_remap_failed = bool(pending), bool(failed)
    pages = _figure(pynvml.nvmlDeviceGetRetiredPagesPendingStatus, handle)
    _set(device, "retired_pages_pending", _truth(pages))


def _add_processes(device: gpus_pb2.GpuDevice, handle: _Handle, own_pids: OwnPids) -> None:
    processes = _figure(pynvml.nvmlDeviceGetComputeRunningProcesses_v3, handle)
    if processes is None:
        return
    own = own_pids()
    foreign = []
    for process in processes:
        verdict = is_foreign(process.pid, own)
        if verdict is None:
            return  # its GPU is unknown: no figure is better than a wrong one
        if verdict:
            foreign.append(process.usedGpuMemory)
    device.foreign_processes = len(foreign)
    if None not in foreign:
        _set(device, "foreign_memory_mib", sum(foreign) >> 20)


def _truth(number: int | None) -> bool | None:
    return None if number is None else bool(number)


def _figure(read: Callable[..., _T], *arguments: object) -> _T | None:
    """One reading, or None if this GPU or driver does not report it."""
    try:
        return read(*arguments)
    except pynvml.NVMLError as error:
        if error.value in _DRIVER_GONE or error.value in _GPU_GONE:
            raise
        return None
    except UnicodeDecodeError:
        return None


def _cuda_version(number: int | None) -> str | None:
    return f"{number // 1000}.{number % 1000 // 10}" if number else None


def _set(message: gpus_pb2.GpuStatus | gpus_pb2.GpuDevice, name: str, value: object) -> None:
    """Sets a field that was read; one that its type cannot hold, such as a counter of all ones, stays out."""
    if value is not None and value != "":
        try:
            setattr(message, name, value)
        except (ValueError, TypeError) as error:
            logger.debug("a figure does not fit its field name=%s error=%s", name, error)


_SHARED = (
    "gpu_name",
    "gpu_vram_mib",
    "free_vram_mib",
    "memory_used_mb",
    "gpu_util_pct",
    "temp_c",
    "power_w",
    "compute_capability",
    "vram_is_shared",
)


def _copy_first(status: gpus_pb2.GpuStatus) -> None:
    """The figures at the top level are those of the first GPU."""
    first = status.all_gpus[0]
    for name in _SHARED:
        if first.HasField(name):  # type: ignore[arg-type]
            setattr(status, name, getattr(first, name))

"""Owns which GPUs may be given work: samples in, the state of each and what follows from it out.

Pure; it knows neither NVML nor engines. A GPU fails when it stops answering, reports an error that is its
own (an Xid of `daemon.machine.gpus.xids`, which the source counts), or when its memory breaks beyond repair.

    HEALTHY  a fault -> FAILED;  the driver stops answering -> UNKNOWN
    UNKNOWN  the driver is back -> as it was before
    FAILED   lost: `GOOD_SAMPLES` good samples in a row -> HEALTHY
             any other fault: the same, but only once it was reset: the GPU or the driver was
             away meanwhile, or its count of errors began anew

Whoever wants to run on GPUs asks `healthy_gpus`, which leaves out those that the owner keeps
(`daemon.machine.kept`). A restart of the daemon begins with a clean sheet.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from typing import Literal, TypeAlias

from dcp.v1 import gpus_pb2

from daemon.machine.kept import KeptGpus

# The state of a GPU that may be given work, as its owner reads it.
WORKS = "works"

logger = logging.getLogger(__name__)

GOOD_SAMPLES = 6

_Fault: TypeAlias = gpus_pb2.GpuFault.ValueType
_Counter: TypeAlias = Literal["xid_count", "ecc_volatile_uncorrected"]
_COUNTERS: dict[_Counter, _Fault] = {
    "xid_count": gpus_pb2.GPU_FAULT_XID,
    "ecc_volatile_uncorrected": gpus_pb2.GPU_FAULT_ECC,
}


class UnknownGpuError(Exception):
    """No GPU is called so; the text names those that there are."""


class Health:
    """The GPUs that this daemon has seen since its start."""

    def __init__(self, kept: KeptGpus | None = None) -> None:
        """`kept`: the GPUs that the owner keeps from jobs."""
        self._kept = kept or KeptGpus()
        self._gpus: dict[str, _Gpu] = {}
        self._driver_lost = False
        self._was_read = False

    def observe(
        self, status: gpus_pb2.GpuStatus, *, yields: bool = False, is_late: bool = False
    ) -> gpus_pb2.GpuStatus:
        """Takes a sample; returns it with the state of every GPU ever seen, also of those missing.

        `yields`: whether the owner keeps a GPU that programs other than the daemon's use. `is_late`: the
        driver is lost only because it did not answer in time, which resets nothing.
        """
        self._was_read = True
        if status.driver_lost != self._driver_lost:
            self._driver_lost = status.driver_lost
            logger.warning("the GPUs are unknown" if self._driver_lost else "the GPUs are known again")
        answering = {_key(device): device for device in status.all_gpus}
        for key, device in answering.items():
            self._gpus.setdefault(key, _Gpu(device)).sample(device)
        for key, gpu in self._gpus.items():
            if self._driver_lost:
                gpu.was_reset |= not is_late
            elif key not in answering:
                gpu.miss()
        self._kept.observe(answering, yields=yields)
        return self._judged(status)

    def healthy_gpus(self) -> list[str]:
        """The UUIDs of the GPUs that may be given work now, in the order of their indices."""
        if self._driver_lost:
            return []
        kept = self._kept.all
        gpus = sorted(self._gpus.items(), key=lambda item: item[1].device.index)
        return [gpu.device.uuid for key, gpu in gpus if not gpu.fault and key not in kept]

    def visible_gpus(self, setting: str | None = None) -> list[str] | None:
        """The GPUs that a program which takes any GPU is to see, by UUID; None: all of the machine's.

        `setting`: the CUDA_VISIBLE_DEVICES by which the owner gives it only some of them.
        """
        gpus = self.healthy_gpus()
        every = [(gpu.device.index, gpu.device.uuid) for gpu in self._gpus.values()]
        if setting is not None and (named := named_gpus(setting, every)) is not None:
            return [uuid for uuid in named if uuid in gpus]
        return None if len(gpus) == len(self._gpus) or not all(gpus) else gpus

    def kept_gpus(self) -> set[str]:
        """The UUIDs of the GPUs that work and that the owner keeps."""
        kept = self._kept.all
        return {gpu.device.uuid for key, gpu in self._gpus.items() if key in kept and not gpu.fault}

    @property
    def is_unknown(self) -> bool:
        """Whether it is not known which GPUs there are and how they are: no reading yet, or no driver now."""
        return not self._was_read or self._driver_lost

    @property
    def is_driver_lost(self) -> bool:
        """Whether the driver does not answer, as far as is known."""
        return self._driver_lost

    @property
    def is_all_kept(self) -> bool:
        """Whether the owner keeps every GPU of the machine."""
        return bool(self._gpus) and self._kept.all >= self._gpus.keys()

    def set_drained(self, which: str, is_drained: bool) -> str:
        """Keeps a GPU, by index or UUID, from new jobs, or no longer; returns its UUID.

        Raises UnknownGpuError, and OSError if that cannot be stored.
        """
        names = {key: (str(gpu.device.index), key) for key, gpu in self._gpus.items()}
        key = next((key for key, both in names.items() if which in both), None)
        if key is None:
            there = ", ".join(f"{index} ({key})" for index, key in names.values()) or "none"
            raise UnknownGpuError(f"there is no GPU {which}; the machine's are: {there}")
        self._kept.set_drained(key, is_drained)
        return key

    def state_of(self, device: gpus_pb2.GpuDevice) -> str:
        """How a GPU is, for its owner: `works`, why it takes no work, or `` for one never seen."""
        key = _key(device)
        gpu = self._gpus.get(key)
        if gpu is None:
            return ""
        if gpu.fault:
            return f"failed ({gpus_pb2.GpuFault.Name(gpu.fault).removeprefix('GPU_FAULT_')})"
        return "unknown" if self._driver_lost else self._kept.why(key) or WORKS

    def must_yield(self, visible: Collection[str] | None) -> bool:
        """Whether a run that sees these GPUs (None: all) is to be given back for the owner's programs."""
        taken = {gpu.device.uuid for key, gpu in self._gpus.items() if key in self._kept.taken}
        return bool(taken) if visible is None else not taken.isdisjoint(visible)

    def slots(self, whole: int) -> int:
        """How many of `whole` slots are left: the share of the healthy GPUs, rounded up; all without any."""
        if not self._was_read:
            return 0
        if not self._gpus:
            return 0 if self._driver_lost else whole
        return -(-whole * len(self.healthy_gpus()) // len(self._gpus))

    def must_end(self, uuids: Collection[str] | None) -> bool:
        """Whether a run on these GPUs has lost one of them; None: it may be on any of the machine's.

        A driver that does not answer ends no run: no failure is known.
        """
        failed = {gpu.device.uuid for gpu in self._gpus.values() if gpu.fault}
        if uuids is None:
            return bool(failed) and len(failed) == len(self._gpus)
        return not failed.isdisjoint(uuids)

    def _judged(self, status: gpus_pb2.GpuStatus) -> gpus_pb2.GpuStatus:
        judged = gpus_pb2.GpuStatus()
        judged.CopyFrom(status)
        answering = {_key(device): device for device in judged.all_gpus}
        for key, gpu in self._gpus.items():
            device = answering.get(key)
            if device is None:
                # Who it is stays true while it does not answer; its figures do not.
                last = gpu.device
                device = judged.all_gpus.add(index=last.index, uuid=last.uuid)
                if last.HasField("gpu_name"):
                    device.gpu_name = last.gpu_name
            device.state, fault = self._state(key, gpu)
            if fault:
                device.state_reason = fault
        return judged

    def _state(self, key: str, gpu: _Gpu) -> tuple[gpus_pb2.GpuState.ValueType, _Fault]:
        if gpu.fault:
            return gpus_pb2.GPU_STATE_FAILED, gpu.fault
        if self._driver_lost:
            return gpus_pb2.GPU_STATE_UNKNOWN, gpus_pb2.GPU_FAULT_DRIVER_LOST
        is_kept = key in self._kept.all
        state = gpus_pb2.GPU_STATE_DRAINED if is_kept else gpus_pb2.GPU_STATE_HEALTHY
        return state, gpus_pb2.GPU_FAULT_UNSPECIFIED


class _Gpu:
    """One GPU: its newest sample, and what is wrong with it."""

    def __init__(self, device: gpus_pb2.GpuDevice) -> None:
        self.device = device
        self.fault: _Fault = gpus_pb2.GPU_FAULT_UNSPECIFIED
        self.was_reset = False
        """It, or the driver, was away since it failed."""
        self._good_samples = 0
        # The daemon counts Xids from its start; errors of memory may be older than it.
        self._counts: dict[_Counter, int] = {"xid_count": device.xid_count}
        """The last value of each counter of errors: a sample may lack it."""

    def sample(self, device: gpus_pb2.GpuDevice) -> None:
        """It answers."""
        self.device = device
        risen, fallen = self._count(device)
        if fallen:
            self.was_reset = True
        if fault := _fault(risen, device):
            self._fail(fault)
        elif self.fault and (self.was_reset or self.fault == gpus_pb2.GPU_FAULT_LOST):
            self._good_samples += 1
            if self._good_samples >= GOOD_SAMPLES:
                self.fault = gpus_pb2.GPU_FAULT_UNSPECIFIED
                logger.warning("a GPU is healthy again gpu=%s", device.uuid)

    def _count(self, device: gpus_pb2.GpuDevice) -> tuple[set[_Counter], bool]:
        """The counters that rose since their last value, and whether that of ECC errors began anew."""
        now = {name: getattr(device, name) for name in _COUNTERS if device.HasField(name)}
        risen = {name for name, count in now.items() if count > self._counts.get(name, count)}
        ecc = "ecc_volatile_uncorrected"
        has_begun_anew = ecc in now and now[ecc] < self._counts.get(ecc, 0)
        self._counts |= now
        return risen, has_begun_anew

    def miss(self) -> None:
        """It does not answer, and the driver does."""
        if self.fault and self.fault != gpus_pb2.GPU_FAULT_LOST:
            # What it failed of before says more; but who goes away may have been reset.
            self.was_reset, self._good_samples = True, 0
        else:
            self._fail(gpus_pb2.GPU_FAULT_LOST)

    def _fail(self, fault: _Fault) -> None:
        if fault != self.fault:
            name = gpus_pb2.GpuFault.Name(fault)
            logger.error("a GPU failed and takes no more work gpu=%s fault=%s", self.device.uuid, name)
        self.fault, self._good_samples = fault, 0
        self.was_reset = False


def _fault(risen: Collection[str], now: gpus_pb2.GpuDevice) -> _Fault:
    for name, fault in _COUNTERS.items():
        if name in risen:
            return fault
    return gpus_pb2.GPU_FAULT_ROW_REMAP if now.row_remap_failed else gpus_pb2.GPU_FAULT_UNSPECIFIED


def named_gpus(setting: str, gpus: Sequence[tuple[int, str]]) -> list[str] | None:
    """The GPUs that a CUDA_VISIBLE_DEVICES names, by UUID, in its order; None if that is not known.

    `gpus`: the index and the UUID of each GPU of the machine. An index counts as the driver's own
    (CUDA_DEVICE_ORDER=PCI_BUS_ID). As in CUDA, an entry that names no GPU hides those behind it.
    """
    entries = [entry.strip() for entry in setting.split(",")]
    if entries[0] in ("", "-1"):
        return []
    found: list[str] = []
    for entry in entries:
        match = [
            uuid
            for index, uuid in gpus
            if uuid and (str(index) == entry if entry.isdigit() else entry and uuid.startswith(entry))
        ]
        if len(match) != 1:
            break
        found += match
    return found or None


def _key(device: gpus_pb2.GpuDevice) -> str:
    # If the driver reports no UUID, only the GPU's index identifies it.
    return device.uuid or f"index {device.index}"

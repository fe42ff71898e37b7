"""GPUs: what a provider's machine reports of them. What is known of models is in server.domain.gpu_models.

A report is checked and converted where it arrives (server.rpc.convert); everything else reads these types.
A figure that the machine cannot measure is None, never 0. Pure: knows neither the wire nor the store.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import StrEnum
from operator import attrgetter
from typing import Any

from server.domain.gpu_models import canonical, has_own_memory, shared_memory_mib


class GpuState(StrEnum):
    """Whether a GPU may be given work."""

    HEALTHY = "healthy"
    FAILED = "failed"
    UNKNOWN = "unknown"
    """The driver does not answer."""
    DRAINED = "drained"
    """It works, and the machine's owner keeps it."""


NOT_HEALTHY = frozenset({GpuState.FAILED, GpuState.UNKNOWN})


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuFigures:
    """The figures that a report has for each GPU, and again at its top level for the first GPU."""

    gpu_name: str | None = None
    gpu_vram_mib: int | None = None
    """Its total memory."""
    free_vram_mib: int | None = None
    memory_used_mb: int | None = None
    """In MiB; the name is the API page's."""
    gpu_util_pct: float | None = None
    temp_c: float | None = None
    power_w: float | None = None
    compute_capability: str | None = None
    vram_is_shared: bool | None = None
    """It uses the machine's memory, and the figures of memory are those of the machine."""

    @property
    def total_mib(self) -> int | None:
        """Its total memory; None if it is not known. What a GPU with memory of its own shares is not its."""
        name = self.gpu_name or ""
        if self.vram_is_shared and has_own_memory(name):
            return None
        return self.gpu_vram_mib or shared_memory_mib(name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu(GpuFigures):
    """One GPU of a machine. No rule reads the numbers of its fault and throttle reasons: owners see them."""

    index: int = 0
    uuid: str = ""
    state: GpuState | int | None = None
    """An integer is the number of a state that a newer daemon reported and this release does not know."""
    state_reason: int | None = None
    throttled: bool | None = None
    throttle_reasons: tuple[int, ...] = ()
    ecc_enabled: bool | None = None
    ecc_volatile_uncorrected: int | None = None
    ecc_aggregate_uncorrected: int | None = None
    row_remap_pending: bool | None = None
    row_remap_failed: bool | None = None
    retired_pages_pending: bool | None = None
    xid_count: int | None = None
    last_xid: int | None = None
    foreign_processes: int | None = None
    foreign_memory_mib: int | None = None
    persistence_mode: bool | None = None

    @property
    def is_healthy(self) -> bool:
        """Whether it works; a GPU without a state does."""
        return self.state not in NOT_HEALTHY

    @property
    def takes_work(self) -> bool:
        """Whether it may be given work: it works, and its owner does not keep it."""
        return self.is_healthy and self.state is not GpuState.DRAINED


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuReport(GpuFigures):
    """A machine's newest report: its software and its GPUs. False when nothing was reported."""

    driver_version: str | None = None
    cuda_version: str | None = None
    gpu_count: int | None = None
    all_gpus: tuple[Gpu, ...] = ()
    daemon_version: str | None = None
    python_version: str | None = None
    os_info: str | None = None
    architecture: str | None = None
    """The processor, as images name it."""
    container_toolkit_version: str | None = None
    driver_lost: bool | None = None
    """The driver answered before and does not now."""
    empty_mig_gpus: tuple[int, ...] = ()
    """The indices of GPUs in MIG mode without a device."""

    def __bool__(self) -> bool:
        return self != _NOTHING_REPORTED

    @property
    def gpus(self) -> tuple[Gpu, ...]:
        """Every GPU; of a report without the list, the GPU that its top level describes."""
        if self.all_gpus:
            return self.all_gpus
        return (Gpu(**{name: getattr(self, name) for name in _FIGURES}),)

    @property
    def gpu_model(self) -> str:
        """The canonical name of the first GPU; empty if none was reported."""
        return canonical(self.gpu_name or "")

    @property
    def hottest_c(self) -> float | None:
        """The temperature of the hottest GPU, in degrees Celsius; None when none was reported."""
        temperatures = (gpu.temp_c for gpu in (self, *self.all_gpus))
        return max((temp_c for temp_c in temperatures if temp_c is not None), default=None)


_NOTHING_REPORTED = GpuReport()
# What changes from one sample to the next.
FIGURES = frozenset(
    {"free_vram_mib", "memory_used_mb", "gpu_util_pct", "temp_c", "power_w", "foreign_memory_mib"}
)
# The names of the fields, with the value of each that was not reported.
_FIGURES = {field.name: field.default for field in fields(GpuFigures)}
_OF_GPU = {field.name: field.default for field in fields(Gpu)}
_OF_REPORT = {field.name: field.default for field in fields(GpuReport)}
# The plain form has the names and numbers of the wire's messages, as the rows of all releases do.
_STATE_NUMBERS = {GpuState.HEALTHY: 1, GpuState.FAILED: 2, GpuState.UNKNOWN: 3, GpuState.DRAINED: 4}
_STATES = {number: state for state, number in _STATE_NUMBERS.items()}


_facts_of_gpu = attrgetter(*(name for name in _OF_GPU if name not in FIGURES))
_facts_of_report = attrgetter(*(name for name in _OF_REPORT if name not in FIGURES | {"all_gpus"}))


def without_figures(report: GpuReport) -> tuple[Any, ...]:
    """Everything that a report says beside the figures of the moment; equal and hashable."""
    return _facts_of_report(report), tuple(_facts_of_gpu(gpu) for gpu in report.all_gpus)


def to_plain(report: GpuReport) -> dict[str, Any]:
    """A report as plain data, as it is stored; what was not reported is left out."""
    plain = _set_fields(report, _OF_REPORT)
    if report.all_gpus:
        plain["all_gpus"] = [_plain_gpu(gpu) for gpu in report.all_gpus]
    return plain


def _plain_gpu(gpu: Gpu) -> dict[str, Any]:
    plain = _set_fields(gpu, _OF_GPU)
    if isinstance(gpu.state, GpuState):
        plain["state"] = _STATE_NUMBERS[gpu.state]
    return plain


def _set_fields(data: GpuFigures, defaults: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, default in defaults.items() if (value := getattr(data, name)) != default}


def from_plain(plain: dict[str, Any]) -> GpuReport:
    """A report from plain data; the fields of another release are dropped."""
    known = {name: value for name, value in plain.items() if name in _OF_REPORT}
    if "all_gpus" in known:
        known["all_gpus"] = tuple(_gpu(gpu) for gpu in known["all_gpus"])
    if "empty_mig_gpus" in known:
        known["empty_mig_gpus"] = tuple(known["empty_mig_gpus"])
    return GpuReport(**known)


def _gpu(plain: dict[str, Any]) -> Gpu:
    known = {name: value for name, value in plain.items() if name in _OF_GPU}
    if "state" in known:
        known["state"] = _STATES.get(known["state"], known["state"])
    if "throttle_reasons" in known:
        known["throttle_reasons"] = tuple(known["throttle_reasons"])
    return Gpu(**known)

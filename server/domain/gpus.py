"""GPUs: what a provider's machine reports of them, and what is known of each GPU model.

A report is checked and converted where it arrives (server.rpc.convert); everything else reads these types.
A figure that the machine cannot measure is None, never 0. Pure: knows neither the wire nor the store.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Any, NamedTuple


class GpuState(StrEnum):
    """Whether a GPU may be given work."""

    HEALTHY = "healthy"
    FAILED = "failed"
    UNKNOWN = "unknown"
    """The driver does not answer."""


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
        """Whether it may be given work; a GPU without a state may."""
        return self.state not in NOT_HEALTHY


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
    container_toolkit_version: str | None = None
    driver_lost: bool | None = None
    """The driver answered before and does not now."""

    def __bool__(self) -> bool:
        return self != _NOTHING_REPORTED

    @property
    def gpus(self) -> tuple[Gpu, ...]:
        """Every GPU; of a report without the list, the GPU that its top level describes."""
        if self.all_gpus:
            return self.all_gpus
        return (Gpu(**{name: getattr(self, name) for name in _FIGURES}),)

    @property
    def hottest_c(self) -> float | None:
        """The temperature of the hottest GPU, in degrees Celsius; None when none was reported."""
        temperatures = (gpu.temp_c for gpu in (self, *self.all_gpus))
        return max((temp_c for temp_c in temperatures if temp_c is not None), default=None)


_NOTHING_REPORTED = GpuReport()
# The names of the fields, with the value of each that was not reported.
_FIGURES = {field.name: field.default for field in fields(GpuFigures)}
_OF_GPU = {field.name: field.default for field in fields(Gpu)}
_OF_REPORT = {field.name: field.default for field in fields(GpuReport)}
# The plain form has the names and numbers of the wire's messages, as the rows of all releases do.
_STATE_NUMBERS = {GpuState.HEALTHY: 1, GpuState.FAILED: 2, GpuState.UNKNOWN: 3}
_STATES = {number: state for state, number in _STATE_NUMBERS.items()}


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
    return GpuReport(**known)


def _gpu(plain: dict[str, Any]) -> Gpu:
    known = {name: value for name, value in plain.items() if name in _OF_GPU}
    if "state" in known:
        known["state"] = _STATES.get(known["state"], known["state"])
    if "throttle_reasons" in known:
        known["throttle_reasons"] = tuple(known["throttle_reasons"])
    return Gpu(**known)


class KnownGpu(NamedTuple):
    """A GPU model: the words of its name, its memory in GiB by variant, its compute capability."""

    words: frozenset[str]
    sizes_gib: tuple[int, ...]
    capability: str


def _model(name: str, sizes: tuple[int, ...], capability: str) -> KnownGpu:
    return KnownGpu(_words(name), sizes, capability)


def _words(name: str) -> frozenset[str]:
    """The words of a product name that distinguish it, such as `4090`, `A100`, `Ti`."""
    joined = re.sub(r"\b(rtx|gtx|tesla|quadro)(?=\d)", r"\1 ", name.casefold())
    return frozenset(re.findall(r"[a-z0-9]+", joined)) - {
        "nvidia",
        "geforce",
        "rtx",
        "gtx",
        "tesla",
        "quadro",
    }


# Memory by NVIDIA's data sheets, compute capability by its list of CUDA GPUs.
KNOWN_GPUS = (
    _model("B200", (180, 192), "10.0"),
    _model("H200", (141,), "9.0"),
    _model("H100", (64, 80, 94, 96), "9.0"),
    _model("GH200", (96, 141, 144), "9.0"),
    _model("A100", (40, 80), "8.0"),
    _model("A30", (24,), "8.0"),
    _model("A40", (48,), "8.6"),
    _model("A10", (24,), "8.6"),
    _model("A10G", (24,), "8.6"),
    _model("A16", (16,), "8.6"),
    _model("L4", (24,), "8.9"),
    _model("L40", (48,), "8.9"),
    _model("L40S", (48,), "8.9"),
    _model("T4", (16,), "7.5"),
    _model("V100", (16, 32), "7.0"),
    _model("P100", (12, 16), "6.0"),
    _model("P40", (24,), "6.1"),
    _model("RTX A4000", (16,), "8.6"),
    _model("RTX A5000", (24,), "8.6"),
    _model("RTX A6000", (48,), "8.6"),
    _model("RTX 6000 Ada Generation", (48,), "8.9"),
    _model("RTX 5000 Ada Generation", (32,), "8.9"),
    _model("RTX 4000 Ada Generation", (20,), "8.9"),
    _model("RTX 5090", (32,), "12.0"),
    _model("RTX 5080", (16,), "12.0"),
    _model("RTX 5070 Ti", (16,), "12.0"),
    _model("RTX 5070", (12,), "12.0"),
    _model("RTX 4090", (24,), "8.9"),
    _model("RTX 4090 Laptop", (16,), "8.9"),
    _model("RTX 4080", (16,), "8.9"),
    _model("RTX 4080 SUPER", (16,), "8.9"),
    _model("RTX 4080 Laptop", (12,), "8.9"),
    _model("RTX 4070", (12,), "8.9"),
    _model("RTX 4070 SUPER", (12,), "8.9"),
    _model("RTX 4070 Ti", (12,), "8.9"),
    _model("RTX 4070 Ti SUPER", (16,), "8.9"),
    _model("RTX 4070 Laptop", (8,), "8.9"),
    _model("RTX 4060", (8,), "8.9"),
    _model("RTX 4060 Ti", (8, 16), "8.9"),
    _model("RTX 3090", (24,), "8.6"),
    _model("RTX 3090 Ti", (24,), "8.6"),
    _model("RTX 3080", (10, 12), "8.6"),
    _model("RTX 3080 Ti", (12,), "8.6"),
    _model("RTX 3080 Laptop", (8, 16), "8.6"),
    _model("RTX 3080 Ti Laptop", (16,), "8.6"),
    _model("RTX 3070", (8,), "8.6"),
    _model("RTX 3070 Ti", (8,), "8.6"),
    _model("RTX 3060", (8, 12), "8.6"),
    _model("RTX 3060 Ti", (8,), "8.6"),
    _model("RTX 3060 Laptop", (6,), "8.6"),
    _model("RTX 2080 Ti", (11,), "7.5"),
    _model("RTX 2080", (8,), "7.5"),
    _model("GTX 1080 Ti", (11,), "6.1"),
)


def known_gpu(name: str) -> KnownGpu | None:
    """The model with the most words among those whose words are all in a product name.

    None for a part of a GPU, which has other figures: a MIG instance, or a vGPU such as `GRID T4-8Q`.
    """
    words = _words(name)
    if not words.isdisjoint(("mig", "grid")) or re.search(r"-\d+[abcq]$", name.casefold()):
        return None
    return max(
        (known for known in KNOWN_GPUS if known.words <= words),
        key=lambda known: len(known.words),
        default=None,
    )

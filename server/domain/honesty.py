"""Honesty: how far a machine's word about its GPUs is believed. Pure; the facts are data, time an argument.

A machine measures itself, so nothing here proves anything: it finds what contradicts itself, the
claim at registration, or what is known of such GPUs.

* suspect: a contradiction. Such a provider gets jobs last; an operator decides about more.
* unverified: too little to compare, or the set of GPUs changed less than a day ago.
* verified: neither. The first set of GPUs that a provider reports needs no waiting.

A GPU that failed tells nothing any more but who it is: it counts for the set alone.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple

STABLE_MS = 24 * 3600 * 1000
# The least tokens per second at which any GPU, with any model that fits into it, answers.
SLOWEST_TOKENS_PER_SECOND = 1.0
# What a driver reports of a GPU's nominal memory: ECC takes up to a sixteenth, and some is reserved.
LEAST_OF_NOMINAL, MOST_OF_NOMINAL = 0.91, 1.02
# Used and free may miss the total by what the driver reserves.
SUM_TOLERANCE = 0.1
MAX_UUIDS = 64
# What is none is not kept: the store takes no text with a zero byte.
_UUID = re.compile(r"[!-~]{1,100}")
# By the state's number in the report: GPU_STATE_FAILED, GPU_STATE_UNKNOWN.
NOT_HEALTHY = frozenset({2, 3})


class Verdict(StrEnum):
    VERIFIED = "verified"
    UNVERIFIED = "unverified"
    SUSPECT = "suspect"


class VerdictReason(StrEnum):
    NO_GPU_MEASURED = "NO_GPU_MEASURED"
    FIGURES_MISSING = "FIGURES_MISSING"
    MODEL_NOT_KNOWN = "MODEL_NOT_KNOWN"
    GPUS_CHANGED = "GPUS_CHANGED"
    TOO_SLOW = "TOO_SLOW"
    CLAIM_MISMATCH = "CLAIM_MISMATCH"
    MEMORY_MISMATCH = "MEMORY_MISMATCH"
    CAPABILITY_MISMATCH = "CAPABILITY_MISMATCH"
    FIGURES_IMPLAUSIBLE = "FIGURES_IMPLAUSIBLE"
    UUID_SHARED = "UUID_SHARED"


CONTRADICTIONS = frozenset(
    {
        VerdictReason.CLAIM_MISMATCH,
        VerdictReason.MEMORY_MISMATCH,
        VerdictReason.CAPABILITY_MISMATCH,
        VerdictReason.FIGURES_IMPLAUSIBLE,
        VerdictReason.UUID_SHARED,
    }
)
SENTENCES = {
    VerdictReason.NO_GPU_MEASURED: "No NVIDIA GPU was measured on the machine.",
    VerdictReason.FIGURES_MISSING: "The report lacks the name, the total memory or the UUID of a GPU.",
    VerdictReason.MODEL_NOT_KNOWN: "The marketplace has no figures of this GPU model to compare with.",
    VerdictReason.GPUS_CHANGED: "The GPUs of the machine changed less than 24 hours ago.",
    VerdictReason.TOO_SLOW: "Its jobs ran far slower than any GPU runs them.",
    VerdictReason.CLAIM_MISMATCH: "It registered with another GPU model than its daemon reports.",
    VerdictReason.MEMORY_MISMATCH: "No GPU of this model has so much or so little memory.",
    VerdictReason.CAPABILITY_MISMATCH: "GPUs of this model have another compute capability.",
    VerdictReason.FIGURES_IMPLAUSIBLE: "Used and free memory do not add up to the total.",
    VerdictReason.UUID_SHARED: "Two GPUs of the machine, or a live provider beside it, have the same UUID.",
}


class KnownGpu(NamedTuple):
    """A GPU model: the words of its name, its memory in GiB by variant, its compute capability."""

    words: frozenset[str]
    sizes_gib: tuple[int, ...]
    capability: str


def _gpu(name: str, sizes: tuple[int, ...], capability: str) -> KnownGpu:
    return KnownGpu(_words(name), sizes, capability)


def _words(name: str) -> frozenset[str]:
    """The words of a product name that tell it from others; `4090`, `A100`, `Ti`."""
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
    _gpu("B200", (180, 192), "10.0"),
    _gpu("H200", (141,), "9.0"),
    _gpu("H100", (64, 80, 94, 96), "9.0"),
    _gpu("GH200", (96, 141, 144), "9.0"),
    _gpu("A100", (40, 80), "8.0"),
    _gpu("A30", (24,), "8.0"),
    _gpu("A40", (48,), "8.6"),
    _gpu("A10", (24,), "8.6"),
    _gpu("A10G", (24,), "8.6"),
    _gpu("A16", (16,), "8.6"),
    _gpu("L4", (24,), "8.9"),
    _gpu("L40", (48,), "8.9"),
    _gpu("L40S", (48,), "8.9"),
    _gpu("T4", (16,), "7.5"),
    _gpu("V100", (16, 32), "7.0"),
    _gpu("P100", (12, 16), "6.0"),
    _gpu("P40", (24,), "6.1"),
    _gpu("RTX A4000", (16,), "8.6"),
    _gpu("RTX A5000", (24,), "8.6"),
    _gpu("RTX A6000", (48,), "8.6"),
    _gpu("RTX 6000 Ada Generation", (48,), "8.9"),
    _gpu("RTX 5000 Ada Generation", (32,), "8.9"),
    _gpu("RTX 4000 Ada Generation", (20,), "8.9"),
    _gpu("RTX 5090", (32,), "12.0"),
    _gpu("RTX 5080", (16,), "12.0"),
    _gpu("RTX 5070 Ti", (16,), "12.0"),
    _gpu("RTX 5070", (12,), "12.0"),
    _gpu("RTX 4090", (24,), "8.9"),
    _gpu("RTX 4090 Laptop", (16,), "8.9"),
    _gpu("RTX 4080", (16,), "8.9"),
    _gpu("RTX 4080 SUPER", (16,), "8.9"),
    _gpu("RTX 4080 Laptop", (12,), "8.9"),
    _gpu("RTX 4070", (12,), "8.9"),
    _gpu("RTX 4070 SUPER", (12,), "8.9"),
    _gpu("RTX 4070 Ti", (12,), "8.9"),
    _gpu("RTX 4070 Ti SUPER", (16,), "8.9"),
    _gpu("RTX 4070 Laptop", (8,), "8.9"),
    _gpu("RTX 4060", (8,), "8.9"),
    _gpu("RTX 4060 Ti", (8, 16), "8.9"),
    _gpu("RTX 3090", (24,), "8.6"),
    _gpu("RTX 3090 Ti", (24,), "8.6"),
    _gpu("RTX 3080", (10, 12), "8.6"),
    _gpu("RTX 3080 Ti", (12,), "8.6"),
    _gpu("RTX 3080 Laptop", (8, 16), "8.6"),
    _gpu("RTX 3080 Ti Laptop", (16,), "8.6"),
    _gpu("RTX 3070", (8,), "8.6"),
    _gpu("RTX 3070 Ti", (8,), "8.6"),
    _gpu("RTX 3060", (8, 12), "8.6"),
    _gpu("RTX 3060 Ti", (8,), "8.6"),
    _gpu("RTX 3060 Laptop", (6,), "8.6"),
    _gpu("RTX 2080 Ti", (11,), "7.5"),
    _gpu("RTX 2080", (8,), "7.5"),
    _gpu("GTX 1080 Ti", (11,), "6.1"),
)


def known_gpu(name: str) -> KnownGpu | None:
    """The model that a product name means: the one with the most words of those whose words it all has.

    A part of a GPU has figures of its own and is none: a MIG instance, or a vGPU such as `GRID T4-8Q`.
    """
    words = _words(name)
    if not words.isdisjoint(("mig", "grid")) or re.search(r"-\d+[abcq]$", name.casefold()):
        return None
    return max(
        (known for known in KNOWN_GPUS if known.words <= words),
        key=lambda known: len(known.words),
        default=None,
    )


class GpuFacts(NamedTuple):
    """What is judged of one GPU that answers. Its varying figures count only by whether they add up."""

    name: str
    total_mib: int
    capability: str
    adds_up: bool


@dataclass(frozen=True, slots=True)
class Facts:
    """What is judged of a report: equal for every report of one honest machine."""

    uuids: tuple[str, ...]
    gpus: tuple[GpuFacts, ...]
    has_all_uuids: bool


def facts(gpu_status: Mapping[str, Any]) -> Facts | None:
    """The facts of a report; None for one that says nothing about GPUs now, as while a driver is gone."""
    if gpu_status.get("driver_lost"):
        return None
    devices = gpu_status.get("all_gpus", ())
    if not devices:
        # A report by POST may have the figures of the first GPU alone.
        devices = (gpu_status,) if gpu_status.get("gpu_name") else ()
    if not devices and "gpu_count" not in gpu_status:
        return None
    uuids = tuple(sorted(one["uuid"] for one in devices if _UUID.fullmatch(one.get("uuid", ""))))
    answering = [one for one in devices if one.get("state") not in NOT_HEALTHY]
    first = str(gpu_status.get("compute_capability", ""))
    return Facts(
        uuids[:MAX_UUIDS],
        tuple(_gpu_facts(one, first if len(devices) == 1 else "") for one in answering),
        len(uuids) == len(devices),
    )


def _gpu_facts(device: Mapping[str, Any], capability: str) -> GpuFacts:
    total = int(device.get("gpu_vram_mib", 0))
    used, free = device.get("memory_used_mb"), device.get("free_vram_mib")
    slack = total * SUM_TOLERANCE
    adds_up = (used is None or used <= total) and (free is None or free <= total)
    if used is not None and free is not None:
        adds_up = adds_up and abs(used + free - total) <= slack
    return GpuFacts(
        str(device.get("gpu_name", "")), total, str(device.get("compute_capability", capability)), adds_up
    )


@dataclass(frozen=True, slots=True)
class History:
    """What else is known of the provider."""

    claimed_gpu: str = ""
    """The GPU model of its registration; empty: it claimed none."""
    changed_ms: int | None = None
    """When its set of GPUs became another; None: it never did."""
    shares_uuid: bool = False
    """A live provider beside it reports one of its UUIDs."""
    tokens_per_second: float | None = None
    """The median of its newest jobs, by the server's clock; None: too few."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """The verdict, why, and when time alone may change it."""

    verdict: Verdict
    reasons: tuple[VerdictReason, ...]
    until_ms: int | None = None


def judge(told: Facts, history: History, now_ms: int) -> Judgement:
    """The verdict on a provider."""
    reasons = set(_of_machine(told, history))
    for gpu in told.gpus:
        reasons.update(_of_gpu(gpu))
    until_ms = None
    if history.changed_ms is not None and now_ms < history.changed_ms + STABLE_MS:
        reasons.add(VerdictReason.GPUS_CHANGED)
        until_ms = history.changed_ms + STABLE_MS
    ordered = tuple(reason for reason in VerdictReason if reason in reasons)
    return Judgement(_verdict(ordered), ordered, until_ms)


def _verdict(reasons: Collection[VerdictReason]) -> Verdict:
    if not CONTRADICTIONS.isdisjoint(reasons):
        return Verdict.SUSPECT
    return Verdict.UNVERIFIED if reasons else Verdict.VERIFIED


def _of_machine(told: Facts, history: History) -> list[VerdictReason]:
    reasons = []
    if not told.gpus:
        reasons.append(VerdictReason.NO_GPU_MEASURED)
    meant, found = known_gpu(history.claimed_gpu), [known_gpu(gpu.name) for gpu in told.gpus]
    if meant is not None and meant not in found and all(found) and found:
        reasons.append(VerdictReason.CLAIM_MISMATCH)
    if not told.has_all_uuids:
        reasons.append(VerdictReason.FIGURES_MISSING)
    if history.shares_uuid or len(set(told.uuids)) < len(told.uuids):
        reasons.append(VerdictReason.UUID_SHARED)
    slow = history.tokens_per_second is not None and history.tokens_per_second < SLOWEST_TOKENS_PER_SECOND
    if slow and told.gpus:
        reasons.append(VerdictReason.TOO_SLOW)
    return reasons


def _of_gpu(gpu: GpuFacts) -> list[VerdictReason]:
    if not gpu.name or not gpu.total_mib:
        return [VerdictReason.FIGURES_MISSING]
    reasons = [] if gpu.adds_up else [VerdictReason.FIGURES_IMPLAUSIBLE]
    known = known_gpu(gpu.name)
    if known is None:
        return [*reasons, VerdictReason.MODEL_NOT_KNOWN]
    if not any(
        size * 1024 * LEAST_OF_NOMINAL <= gpu.total_mib <= size * 1024 * MOST_OF_NOMINAL
        for size in known.sizes_gib
    ):
        reasons.append(VerdictReason.MEMORY_MISMATCH)
    if gpu.capability and gpu.capability != known.capability:
        reasons.append(VerdictReason.CAPABILITY_MISMATCH)
    return reasons

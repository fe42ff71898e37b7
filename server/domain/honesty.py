"""Honesty: how far a machine's report about its GPUs is believed. Pure; the time is an argument.

A machine measures itself: most rules find what contradicts the rest of the report, the claim at registration,
or the known figures of the GPU model. What a machine proved (server.domain.gpu_proofs) comes as a fact.

* suspect: a contradiction. Such a provider gets jobs last; an operator decides about anything more.
* unverified: too little to compare, or the set of GPUs changed less than a day ago.
* claimed: no contradiction, but no check of its work passed, or the memory of its GPUs is not proved.
* verified: none of these. The first set of GPUs that a provider reports is believed at once.

Only the UUID of a failed GPU is used: the GPU still belongs to the set, but its figures are not judged.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from server.domain.gpu_models import canonical, find, is_known, satisfies
from server.domain.gpus import Gpu, GpuReport

STABLE_MS = 24 * 3600 * 1000
# The least tokens per second at which any GPU, with any model that fits into it, answers.
SLOWEST_TOKENS_PER_SECOND = 1.0
# Used and free memory may differ from the total by what the driver reserves.
SUM_TOLERANCE = 0.1
MAX_UUIDS = 64
# Any other text is dropped: the store rejects text with a zero byte.
_UUID = re.compile(r"[!-~]{1,100}")


class Verdict(StrEnum):
    VERIFIED = "verified"
    UNVERIFIED = "unverified"
    SUSPECT = "suspect"
    CLAIMED = "claimed"


class VerdictReason(StrEnum):
    NO_GPU_MEASURED = "NO_GPU_MEASURED"
    FIGURES_MISSING = "FIGURES_MISSING"
    MODEL_NOT_KNOWN = "MODEL_NOT_KNOWN"
    GPUS_CHANGED = "GPUS_CHANGED"
    TOO_SLOW = "TOO_SLOW"
    NOT_CHECKED = "NOT_CHECKED"
    NOT_PROVED = "NOT_PROVED"
    CLAIM_MISMATCH = "CLAIM_MISMATCH"
    MEMORY_MISMATCH = "MEMORY_MISMATCH"
    CAPABILITY_MISMATCH = "CAPABILITY_MISMATCH"
    FIGURES_IMPLAUSIBLE = "FIGURES_IMPLAUSIBLE"
    UUID_SHARED = "UUID_SHARED"
    PROOF_FAILED = "PROOF_FAILED"


CONTRADICTIONS = frozenset(
    {
        VerdictReason.CLAIM_MISMATCH,
        VerdictReason.MEMORY_MISMATCH,
        VerdictReason.CAPABILITY_MISMATCH,
        VerdictReason.FIGURES_IMPLAUSIBLE,
        VerdictReason.UUID_SHARED,
        VerdictReason.PROOF_FAILED,
    }
)
# Nothing speaks against the figures, but they are the machine's own word.
UNPROVED = frozenset({VerdictReason.NOT_CHECKED, VerdictReason.NOT_PROVED})
SENTENCES = {
    VerdictReason.NO_GPU_MEASURED: "No NVIDIA GPU was measured on the machine.",
    VerdictReason.FIGURES_MISSING: "The report lacks the name, the total memory or the UUID of a GPU.",
    VerdictReason.MODEL_NOT_KNOWN: "The marketplace has no figures of this GPU model to compare with.",
    VerdictReason.GPUS_CHANGED: "The GPUs of the machine changed less than 24 hours ago.",
    VerdictReason.NOT_CHECKED: "No check of its work has passed yet.",
    VerdictReason.NOT_PROVED: "It has not proved the memory of its GPUs within 30 days.",
    VerdictReason.PROOF_FAILED: "A GPU did not hold what was written to it, or was too slow for its model.",
    VerdictReason.TOO_SLOW: "Its jobs ran far slower than any GPU runs them.",
    VerdictReason.CLAIM_MISMATCH: "It registered with another GPU model than its daemon reports.",
    VerdictReason.MEMORY_MISMATCH: "No GPU of this model has so much or so little memory.",
    VerdictReason.CAPABILITY_MISMATCH: "GPUs of this model have another compute capability.",
    VerdictReason.FIGURES_IMPLAUSIBLE: "Used and free memory do not add up to the total.",
    VerdictReason.UUID_SHARED: "Two GPUs of the machine, or a live provider beside it, have the same UUID.",
}


class GpuFacts(NamedTuple):
    """What is judged of a healthy GPU. Of its varying figures only whether they add up."""

    name: str
    total_mib: int | None
    capability: str
    adds_up: bool


@dataclass(frozen=True, slots=True)
class Facts:
    """What is judged of a report: equal for every report of one honest machine."""

    uuids: tuple[str, ...]
    gpus: tuple[GpuFacts, ...]
    has_all_uuids: bool


def facts(report: GpuReport) -> Facts | None:
    """The facts of a report; None if it does not describe the GPUs now, as while the driver is lost."""
    if report.driver_lost:
        return None
    # A report by POST may have only the figures of the first GPU.
    gpus = report.gpus if report.all_gpus or report.gpu_name else ()
    if not gpus and report.gpu_count is None:
        return None
    uuids = tuple(sorted(gpu.uuid for gpu in gpus if _UUID.fullmatch(gpu.uuid)))
    first = report.compute_capability or ""
    return Facts(
        uuids[:MAX_UUIDS],
        tuple(_gpu_facts(gpu, first if len(gpus) == 1 else "") for gpu in gpus if gpu.is_healthy),
        len(uuids) == len(gpus),
    )


def _gpu_facts(gpu: Gpu, capability: str) -> GpuFacts:
    if gpu.compute_capability is not None:
        capability = gpu.compute_capability
    return GpuFacts(gpu.gpu_name or "", gpu.total_mib, capability, _adds_up(gpu))


def _adds_up(gpu: Gpu) -> bool:
    total, used, free = gpu.total_mib, gpu.memory_used_mb, gpu.free_vram_mib
    if total is None:
        return True
    if used is not None and free is not None and abs(used + free - total) > total * SUM_TOLERANCE:
        return False
    return (used is None or used <= total) and (free is None or free <= total)


@dataclass(frozen=True, slots=True)
class History:
    """What else is known of the provider."""

    claimed_gpu: str = ""
    """The GPU model of its registration; empty if it claimed none."""
    changed_ms: int | None = None
    """When its set of GPUs last changed; None if it never did."""
    shares_uuid: bool = False
    """Another live provider reports one of its UUIDs."""
    is_unchecked: bool = False
    """The market checks the work of providers, and no check of this one's has passed yet."""
    proof: bool | None = True
    """Whether it proved the memory and the speed of its GPUs; False: it failed; None: it has not lately."""
    tokens_per_second: float | None = None
    """The median of its newest jobs, by the server's clock; None if they are too few."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """The verdict, its reasons, and when it may change without a new report."""

    verdict: Verdict
    reasons: tuple[VerdictReason, ...]
    until_ms: int | None = None


def judge(reported: Facts, history: History, now_ms: int) -> Judgement:
    """The verdict on a provider."""
    reasons = set(_of_machine(reported, history))
    for gpu in reported.gpus:
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
    if reasons and UNPROVED.issuperset(reasons):
        return Verdict.CLAIMED
    return Verdict.UNVERIFIED if reasons else Verdict.VERIFIED


def _of_machine(reported: Facts, history: History) -> list[VerdictReason]:
    reasons = []
    if not reported.gpus:
        reasons.append(VerdictReason.NO_GPU_MEASURED)
    if _is_other_than(history.claimed_gpu, reported.gpus):
        reasons.append(VerdictReason.CLAIM_MISMATCH)
    if history.is_unchecked and reported.gpus:
        reasons.append(VerdictReason.NOT_CHECKED)
    if reported.gpus and history.proof is not True:
        failed = history.proof is False
        reasons.append(VerdictReason.PROOF_FAILED if failed else VerdictReason.NOT_PROVED)
    if not reported.has_all_uuids:
        reasons.append(VerdictReason.FIGURES_MISSING)
    if history.shares_uuid or len(set(reported.uuids)) < len(reported.uuids):
        reasons.append(VerdictReason.UUID_SHARED)
    slow = history.tokens_per_second is not None and history.tokens_per_second < SLOWEST_TOKENS_PER_SECOND
    if slow and reported.gpus:
        reasons.append(VerdictReason.TOO_SLOW)
    return reasons


def _is_other_than(claimed: str, gpus: Collection[GpuFacts]) -> bool:
    """Whether all GPUs are known models, and none is the claimed one."""
    if not gpus or find(claimed) is None or not all(find(gpu.name) for gpu in gpus):
        return False
    # A size that the catalogue does not list is judged as memory, not as a claim; neither is one
    # that a GPU cannot be compared with, because its memory is not known.
    claim = claimed if is_known(claimed) else canonical(claimed)
    return not any(
        satisfies(gpu.name, gpu.total_mib, claim if gpu.total_mib else canonical(claimed)) for gpu in gpus
    )


def _of_gpu(gpu: GpuFacts) -> list[VerdictReason]:
    known = find(gpu.name)
    if not gpu.name or not (gpu.total_mib or (known and known.is_unified)):
        return [VerdictReason.FIGURES_MISSING]
    reasons = [] if gpu.adds_up else [VerdictReason.FIGURES_IMPLAUSIBLE]
    if known is None or not known.sizes_gib:
        return [*reasons, VerdictReason.MODEL_NOT_KNOWN]
    if not known.has_memory(gpu.total_mib):
        reasons.append(VerdictReason.MEMORY_MISMATCH)
    if gpu.capability and known.capability and gpu.capability != known.capability:
        reasons.append(VerdictReason.CAPABILITY_MISMATCH)
    return reasons

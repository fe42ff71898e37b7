"""Verdicts: how far a machine's report about its GPUs is believed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.domain.gpus import GpuReport, from_plain
from server.domain.honesty import (
    CONTRADICTIONS,
    SENTENCES,
    STABLE_MS,
    History,
    Verdict,
    VerdictReason,
    facts,
    judge,
)

NOW_MS = 10 * STABLE_MS
CLEAN = History()


def gpu(uuid: str = "GPU-a", **changes: Any) -> dict[str, Any]:
    device = {
        "index": 0,
        "uuid": uuid,
        "gpu_name": "NVIDIA GeForce RTX 4090",
        "gpu_vram_mib": 24564,
        "free_vram_mib": 20000,
        "memory_used_mb": 4564,
        "compute_capability": "8.9",
        "state": 1,
    }
    return {name: value for name, value in (device | changes).items() if value is not None}


def report(*gpus: dict[str, Any], **top: Any) -> GpuReport:
    return from_plain({"gpu_count": len(gpus), "all_gpus": list(gpus), "python_version": "3.11"} | top)


def judge_report(status: GpuReport, history: History = CLEAN) -> tuple[Verdict, set[VerdictReason]]:
    reported = facts(status)
    assert reported is not None
    judgement = judge(reported, history, NOW_MS)
    return judgement.verdict, set(judgement.reasons)


@pytest.mark.parametrize(
    ("name", "total_mib", "capability"),
    [
        ("NVIDIA GeForce RTX 4090", 24564, "8.9"),
        ("NVIDIA A100-SXM4-80GB", 81920, "8.0"),
        ("NVIDIA A100-PCIE-40GB", 40536, "8.0"),
        ("NVIDIA H100 80GB HBM3", 81559, "9.0"),
        ("NVIDIA H100 NVL", 95830, "9.0"),
        ("NVIDIA H200", 143771, "9.0"),
        ("NVIDIA B200", 183359, "10.0"),
        ("NVIDIA L4", 23034, "8.9"),
        ("NVIDIA L40S", 46068, "8.9"),
        ("Tesla T4", 15109, "7.5"),
        ("Tesla V100-SXM2-16GB", 16160, "7.0"),
        ("NVIDIA A10G", 23028, "8.6"),
        ("NVIDIA RTX A6000", 49140, "8.6"),
        ("NVIDIA RTX 6000 Ada Generation", 46068, "8.9"),
        ("NVIDIA GeForce RTX 5090", 32607, "12.0"),
        ("NVIDIA GeForce RTX 4070 Ti SUPER", 16376, "8.9"),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", 16376, "8.9"),
        ("NVIDIA GeForce RTX 3090", 24268, "8.6"),
    ],
)
def test_report_of_a_real_gpu_is_verified(name: str, total_mib: int, capability: str) -> None:
    figures: dict[str, Any] = {"gpu_name": name, "gpu_vram_mib": total_mib, "compute_capability": capability}
    device = gpu(**figures, free_vram_mib=total_mib - 500, memory_used_mb=500)
    assert judge_report(report(device), History(claimed_gpu=name)) == (Verdict.VERIFIED, set())


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (GpuReport(gpu_count=0), VerdictReason.NO_GPU_MEASURED),
        (report(gpu(gpu_name=None)), VerdictReason.FIGURES_MISSING),
        (
            report(gpu(gpu_vram_mib=None, free_vram_mib=None, memory_used_mb=None)),
            VerdictReason.FIGURES_MISSING,
        ),
        (report(gpu(uuid="")), VerdictReason.FIGURES_MISSING),
        (report(gpu(uuid="a\0b")), VerdictReason.FIGURES_MISSING),
        (report(gpu(gpu_name="NVIDIA Something 1")), VerdictReason.MODEL_NOT_KNOWN),
        (report(gpu(gpu_name="NVIDIA A100-SXM4-40GB MIG 1g.5gb")), VerdictReason.MODEL_NOT_KNOWN),
        (report(gpu(gpu_name="GRID T4-8Q")), VerdictReason.MODEL_NOT_KNOWN),
        (report(gpu(gpu_name="NVIDIA A40-48Q")), VerdictReason.MODEL_NOT_KNOWN),
    ],
)
def test_report_that_cannot_be_compared_is_unverified(status: GpuReport, reason: VerdictReason) -> None:
    assert judge_report(status) == (Verdict.UNVERIFIED, {reason})


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (
            report(gpu(gpu_vram_mib=8192, free_vram_mib=8000, memory_used_mb=192)),
            VerdictReason.MEMORY_MISMATCH,
        ),
        (
            report(gpu(gpu_vram_mib=81920, free_vram_mib=81000, memory_used_mb=920)),
            VerdictReason.MEMORY_MISMATCH,
        ),
        (report(gpu(compute_capability="8.6")), VerdictReason.CAPABILITY_MISMATCH),
        (report(gpu(compute_capability=None), compute_capability="8.6"), VerdictReason.CAPABILITY_MISMATCH),
        (report(gpu(free_vram_mib=24564)), VerdictReason.FIGURES_IMPLAUSIBLE),
        (report(gpu(memory_used_mb=30000, free_vram_mib=None)), VerdictReason.FIGURES_IMPLAUSIBLE),
        (report(gpu(), gpu()), VerdictReason.UUID_SHARED),
        (report(gpu(), gpu("GPU-b", compute_capability="8.6")), VerdictReason.CAPABILITY_MISMATCH),
    ],
)
def test_contradictory_or_impossible_report_is_suspect(status: GpuReport, reason: VerdictReason) -> None:
    assert judge_report(status) == (Verdict.SUSPECT, {reason})


@pytest.mark.parametrize(
    ("claimed", "verdict"),
    [
        ("RTX 4090", Verdict.VERIFIED),
        ("4090", Verdict.VERIFIED),
        ("rtx4090", Verdict.VERIFIED),
        ("", Verdict.VERIFIED),
        ("four good cards", Verdict.VERIFIED),
        ("2x RTX 4090 24GB", Verdict.VERIFIED),
        ("RTX 3090", Verdict.SUSPECT),
        ("NVIDIA H100", Verdict.SUSPECT),
        ("RTX 4090 Laptop", Verdict.SUSPECT),
    ],
)
def test_claimed_gpu_is_compared_if_both_models_are_known(claimed: str, verdict: Verdict) -> None:
    assert judge_report(report(gpu()), History(claimed_gpu=claimed))[0] is verdict


@pytest.mark.parametrize(
    ("name", "total_mib", "claimed", "reasons"),
    [
        ("NVIDIA A100-SXM4-40GB", 40960, "A100 80GB", {VerdictReason.CLAIM_MISMATCH}),
        ("NVIDIA A100-SXM4-80GB", 81920, "A100 80GB", set()),
        (
            "NVIDIA A100-SXM4-80GB MIG 1g.10gb",
            9728,
            "A100",
            {VerdictReason.CLAIM_MISMATCH, VerdictReason.MODEL_NOT_KNOWN},
        ),
        ("NVIDIA GB10", None, "DGX Spark", set()),
        ("NVIDIA GB10", 122500, "GB10", set()),
        ("NVIDIA GB10", 200000, "GB10", {VerdictReason.MEMORY_MISMATCH}),
        ("NVIDIA GeForce RTX 4090", None, "RTX 4090", {VerdictReason.FIGURES_MISSING}),
        ("NVIDIA A100-SXM4-80GB", None, "A100 80GB", {VerdictReason.FIGURES_MISSING}),
        ("NVIDIA GeForce RTX 4090", 0, "RTX 4090", {VerdictReason.FIGURES_MISSING}),
    ],
)
def test_claim_and_memory_are_judged_by_the_model(
    name: str, total_mib: int | None, claimed: str, reasons: set[VerdictReason]
) -> None:
    figures: dict[str, Any] = {
        "gpu_vram_mib": total_mib,
        "free_vram_mib": None,
        "memory_used_mb": 9,
        "compute_capability": None,
    }
    judgement = judge_report(report(gpu(gpu_name=name, **figures)), History(claimed_gpu=claimed))
    assert judgement[1] == reasons


@pytest.mark.parametrize(
    ("name", "verdict"),
    [
        ("NVIDIA GB10", Verdict.VERIFIED),
        ("Orin (nvgpu)", Verdict.VERIFIED),
        ("NVIDIA GeForce RTX 4090", Verdict.UNVERIFIED),  # its own memory was not reported
    ],
)
def test_memory_of_the_machine_counts_where_the_model_shares_it(name: str, verdict: Verdict) -> None:
    shared = {"gpu_vram_mib": 62_000, "free_vram_mib": 60_000, "memory_used_mb": 2_000}
    figures: dict[str, Any] = {**shared, "vram_is_shared": True, "compute_capability": None}
    assert judge_report(report(gpu(gpu_name=name, **figures)))[0] is verdict


def test_claim_may_name_one_of_several_gpus() -> None:
    other = gpu("GPU-b", gpu_name="NVIDIA GeForce RTX 3090", gpu_vram_mib=24576, compute_capability="8.6")
    assert judge_report(report(other, gpu()), History(claimed_gpu="RTX 4090"))[0] is Verdict.VERIFIED


def test_changed_gpus_are_unverified_for_a_day() -> None:
    changed = History(changed_ms=NOW_MS - STABLE_MS + 1)
    reported = facts(report(gpu()))
    assert reported is not None
    judgement = judge(reported, changed, NOW_MS)
    assert (judgement.verdict, judgement.reasons) == (Verdict.UNVERIFIED, (VerdictReason.GPUS_CHANGED,))
    assert judgement.until_ms == NOW_MS + 1
    assert judge(reported, changed, NOW_MS + 1).verdict is Verdict.VERIFIED


@pytest.mark.parametrize(
    ("history", "expected"),
    [
        (History(shares_uuid=True), (Verdict.SUSPECT, {VerdictReason.UUID_SHARED})),
        (History(tokens_per_second=0.2), (Verdict.UNVERIFIED, {VerdictReason.TOO_SLOW})),
        (History(tokens_per_second=3.0), (Verdict.VERIFIED, set())),
    ],
)
def test_measurements_of_the_server_decide_the_verdict(history: History, expected: object) -> None:
    assert judge_report(report(gpu()), history) == expected


def test_failed_gpu_without_figures_stays_the_same_gpu() -> None:
    lost = {"index": 1, "uuid": "GPU-b", "gpu_name": "NVIDIA GeForce RTX 4090", "state": 2, "state_reason": 1}
    reported, before = facts(report(gpu(), lost)), facts(report(gpu(), gpu("GPU-b")))
    assert reported is not None
    assert before is not None
    assert reported.uuids == before.uuids
    assert judge(reported, CLEAN, NOW_MS).verdict is Verdict.VERIFIED


@pytest.mark.parametrize(
    "status", [GpuReport(), GpuReport(python_version="3"), report(gpu(), driver_lost=True)]
)
def test_report_without_gpus_is_not_judged(status: GpuReport) -> None:
    assert facts(status) is None


@given(st.integers(0, 24564), st.integers(-100, 100), st.integers(0, 100))
def test_facts_do_not_change_with_use_temperature_or_load(used: int, temp: int, load: int) -> None:
    sample = gpu(memory_used_mb=used, free_vram_mib=24564 - used, temp_c=temp, gpu_util_pct=load)
    assert facts(report(sample)) == facts(report(gpu()))


REPORTS = st.fixed_dictionaries(
    {},
    optional={
        "gpu_name": st.sampled_from(["NVIDIA L4", "NVIDIA A100", ""]) | st.text(max_size=10),
        "gpu_count": st.integers(0, 3),
        "compute_capability": st.sampled_from(["8.9", "8.0", ""]),
        "driver_lost": st.booleans(),
        "all_gpus": st.lists(
            st.fixed_dictionaries(
                {},
                optional={
                    "uuid": st.sampled_from(["a", "b"]) | st.text(max_size=5),
                    "gpu_name": st.sampled_from(["NVIDIA L4", "NVIDIA A100"]) | st.text(max_size=10),
                    "gpu_vram_mib": st.sampled_from([0, 23034, 81920]),
                    "free_vram_mib": st.integers(0, 10**8),
                    "memory_used_mb": st.integers(0, 10**8),
                    "compute_capability": st.sampled_from(["8.9", "8.0"]),
                    "state": st.integers(0, 5),
                },
            ),
            max_size=4,
        ),
    },
)


@given(REPORTS, st.text(max_size=20), st.booleans(), st.none() | st.integers(0, 2 * NOW_MS))
def test_verdict_and_reasons_always_agree(
    status: dict[str, Any], claimed: str, shares: bool, changed_ms: int | None
) -> None:
    reported = facts(from_plain(status))
    if reported is None:
        return
    judgement = judge(reported, History(claimed, changed_ms, shares), NOW_MS)
    suspect = not CONTRADICTIONS.isdisjoint(judgement.reasons)
    assert (judgement.verdict is Verdict.SUSPECT) == suspect
    assert (judgement.verdict is Verdict.VERIFIED) == (judgement.reasons == ())
    assert judge(reported, replace(CLEAN, shares_uuid=True), NOW_MS).verdict is Verdict.SUSPECT


def test_every_reason_has_a_sentence() -> None:
    assert SENTENCES.keys() == set(VerdictReason)

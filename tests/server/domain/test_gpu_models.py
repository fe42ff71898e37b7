"""GPU models: every name that drivers and people write becomes one canonical name, and no other model's."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.domain.gpu_models import (
    asked,
    canonical,
    find,
    is_known,
    keys,
    nearest_models,
    rows,
    satisfies,
    shared_memory_mib,
    squeezed,
)

ROWS = rows()
NAMES = [model.name for model, _ in ROWS]
# What drivers report (NVML, of Tegra too, and ROCm), each with the canonical name.
DRIVER_NAMES = """
NVIDIA GeForce RTX 5090 | RTX 5090
NVIDIA GeForce RTX 5090 D | RTX 5090 D
NVIDIA GeForce RTX 5090 Laptop GPU | RTX 5090 Laptop
NVIDIA GeForce RTX 5080 | RTX 5080
NVIDIA GeForce RTX 5070 Ti | RTX 5070 Ti
NVIDIA GeForce RTX 5060 Ti | RTX 5060 Ti
NVIDIA GeForce RTX 4090 | RTX 4090
GeForce RTX 4090 | RTX 4090
NVIDIA RTX 4090 | RTX 4090
NVIDIA GeForce RTX 4090 D | RTX 4090 D
NVIDIA GeForce RTX 4090 Laptop GPU | RTX 4090 Laptop
NVIDIA GeForce RTX 4080 SUPER | RTX 4080 SUPER
NVIDIA GeForce RTX 4070 Ti SUPER | RTX 4070 Ti SUPER
NVIDIA GeForce RTX 4070 Ti | RTX 4070 Ti
NVIDIA GeForce RTX 4070 | RTX 4070
NVIDIA GeForce RTX 4060 Ti | RTX 4060 Ti
NVIDIA GeForce RTX 4050 Laptop GPU | RTX 4050 Laptop
NVIDIA GeForce RTX 3090 Ti | RTX 3090 Ti
NVIDIA GeForce RTX 3080 | RTX 3080
NVIDIA GeForce RTX 3080 Laptop GPU | RTX 3080 Laptop
NVIDIA GeForce RTX 3060 | RTX 3060
NVIDIA GeForce RTX 3050 6GB Laptop GPU | RTX 3050 Laptop
GeForce RTX 2080 Ti | RTX 2080 Ti
GeForce RTX 2080 with Max-Q Design | RTX 2080 Max-Q
NVIDIA GeForce RTX 2070 Super with Max-Q Design | RTX 2070 SUPER Max-Q
GeForce GTX 1080 Ti | GTX 1080 Ti
NVIDIA GeForce GTX 1060 6GB | GTX 1060
NVIDIA TITAN RTX | TITAN RTX
NVIDIA TITAN Xp | TITAN Xp
NVIDIA B200 | B200
NVIDIA B300 SXM6 AC | B300
NVIDIA GB200 | GB200
NVIDIA GB10 | GB10
NVIDIA GH200 480GB | GH200
NVIDIA GH200 144G HBM3e | GH200
NVIDIA H200 | H200
NVIDIA H200 NVL | H200
NVIDIA H100 80GB HBM3 | H100
NVIDIA H100 PCIe | H100
NVIDIA H100 NVL | H100
NVIDIA H100 80GB HBM2e | H100
NVIDIA H800 | H800
NVIDIA H20 | H20
NVIDIA A100-SXM4-80GB | A100
NVIDIA A100-SXM4-40GB | A100
NVIDIA A100 80GB PCIe | A100
NVIDIA A100-PCIE-40GB | A100
A100-SXM4-40GB | A100
NVIDIA A100-SXM-64GB | A100
NVIDIA A100X | A100X
NVIDIA A800-SXM4-80GB | A800
NVIDIA A30 | A30
NVIDIA A40 | A40
NVIDIA A10 | A10
NVIDIA A10G | A10G
NVIDIA A16 | A16
NVIDIA A2 | A2
NVIDIA L40S | L40S
NVIDIA L40 | L40
NVIDIA L4 | L4
Tesla T4 | T4
Tesla V100-SXM2-16GB | V100
Tesla V100-SXM2-32GB | V100
Tesla V100-PCIE-16GB | V100
Tesla V100-DGXS-32GB | V100
Tesla V100S-PCIE-32GB | V100S
Tesla P100-PCIE-16GB | P100
Tesla P40 | P40
Tesla P4 | P4
Tesla M40 24GB | M40
Tesla K80 | K80
NVIDIA RTX PRO 6000 Blackwell Workstation Edition | RTX PRO 6000 Blackwell
NVIDIA RTX PRO 6000 Blackwell Server Edition | RTX PRO 6000 Blackwell
NVIDIA RTX PRO 6000 Blackwell Max-Q Workstation Edition | RTX PRO 6000 Blackwell Max-Q
NVIDIA RTX PRO 5000 Blackwell Generation Laptop GPU | RTX PRO 5000 Blackwell Laptop
NVIDIA RTX 6000 Ada Generation | RTX 6000 Ada
NVIDIA RTX 5000 Ada Generation | RTX 5000 Ada
NVIDIA RTX 4000 SFF Ada Generation | RTX 4000 SFF Ada
NVIDIA RTX 2000 Ada Generation | RTX 2000 Ada
NVIDIA RTX A6000 | RTX A6000
NVIDIA RTX A5000 Laptop GPU | RTX A5000 Laptop
NVIDIA RTX A2000 12GB | RTX A2000
Quadro RTX 8000 | Quadro RTX 8000
Quadro RTX 6000 | Quadro RTX 6000
Quadro RTX 5000 with Max-Q Design | Quadro RTX 5000 Max-Q
Quadro P5000 | Quadro P5000
NVIDIA T1000 8GB | T1000
Orin (nvgpu) | Jetson Orin
NVIDIA Thor | Jetson Thor
NVIDIA A100-SXM4-80GB MIG 1g.10gb | A100 MIG 1g.10gb
NVIDIA A100-SXM4-40GB MIG 3g.20gb | A100 MIG 3g.20gb
NVIDIA H100 80GB HBM3 MIG 1g.10gb+me | H100 MIG 1g.10gb+me
NVIDIA A30 MIG 1c.2g.12gb | A30 MIG 1c.2g.12gb
GRID T4-8Q | GRID T4-8Q
NVIDIA A40-48Q | NVIDIA A40-48Q
AMD Instinct MI300X | MI300X
AMD Instinct MI300X OAM | MI300X
AMD Instinct MI250X / MI250 | MI250
AMD Radeon PRO W7900 | Radeon PRO W7900
AMD Radeon RX 7900 XTX | Radeon RX 7900 XTX
"""
TABLE = [tuple(part.strip() for part in line.split("|")) for line in DRIVER_NAMES.strip().splitlines()]


@pytest.mark.parametrize(("name", "expected"), TABLE)
def test_what_a_driver_reports_has_its_canonical_name(name: str, expected: str) -> None:
    assert canonical(name) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("rtx4090", "RTX 4090"),
        ("4090", "RTX 4090"),
        ("RTX-4090", "RTX 4090"),
        ("2x RTX 4090 24GB", "RTX 4090"),
        ("RTX 4090 x2", "RTX 4090"),
        ("4090 mobile", "RTX 4090 Laptop"),
        ("RTX4070Ti", "RTX 4070 Ti"),
        ("a100-80gb", "A100"),
        ("NVIDIA A100 Tensor Core GPU", "A100"),
        ("h100-sxm", "H100"),
        ("h100_nvl", "H100"),
        ("A6000", "RTX A6000"),
        ("6000 Ada", "RTX 6000 Ada"),
        ("RTX PRO 6000", "RTX PRO 6000 Blackwell"),
        ("RTX 6000", "RTX 6000"),  # three models have this name: none is meant for certain
        ("DGX Spark", "GB10"),
        ("Jetson AGX Orin 64GB", "Jetson Orin"),
        ("four good cards", "four good cards"),
        ("  my   own  GPU ", "my own GPU"),
        ("", ""),
    ],
)
def test_what_people_write_has_its_canonical_name(name: str, expected: str) -> None:
    assert canonical(name) == expected


def test_every_name_of_the_catalogue_has_its_canonical_name() -> None:
    for model, others in ROWS:
        for name in (model.name, *others, *keys(model, others)):
            assert canonical(name) == model.name
            assert find(name) == model
    assert len(ROWS) > 100


def test_no_two_models_share_a_name() -> None:
    counted = Counter(key for model, others in ROWS for key in keys(model, others))
    assert [key for key, count in counted.items() if count > 1] == []
    assert all(model.sizes_gib and model.sizes_gib == tuple(sorted(model.sizes_gib)) for model, _ in ROWS)


SPELLINGS = st.tuples(
    st.sampled_from(["", "NVIDIA ", "GeForce ", "2x "]),
    st.sampled_from(NAMES),
    st.sampled_from(["", " 80GB", " MIG 1g.5gb", " Laptop GPU", " SUPER", "-8Q"]),
).map("".join)


@given(SPELLINGS | st.text(max_size=30))
def test_canonical_of_canonical_is_itself(name: str) -> None:
    once = canonical(name)
    assert canonical(once) == once
    assert str(asked(str(asked(name)))) == str(asked(name))
    assert (
        satisfies(once, 0, name) or asked(name).memory_gib is not None or (find(name) and not is_known(name))
    )


@given(st.sampled_from(NAMES), st.sampled_from(NAMES), st.sampled_from([0, 4096, 16384, 40960, 81920]))
def test_a_model_satisfies_no_other_model(has: str, wanted: str, vram_mib: int) -> None:
    assert satisfies(has, vram_mib, wanted) is (has == wanted)


@pytest.mark.parametrize(
    ("has", "vram_mib", "wanted", "expected"),
    [
        ("NVIDIA A100-SXM4-80GB", 81920, "A10", False),
        ("NVIDIA L40S", 46068, "L4", False),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", 16376, "RTX 4090", False),
        ("NVIDIA GeForce RTX 4070 Ti", 12282, "RTX 4070", False),
        ("NVIDIA A100-SXM4-80GB MIG 1g.10gb", 9728, "A100", False),
        ("NVIDIA A100-SXM4-80GB MIG 1g.10gb", 9728, "a100 mig 1g.10gb", True),
        ("NVIDIA A100-SXM4-80GB", 81920, "A100 80GB", True),
        ("NVIDIA A100-SXM4-80GB", 81920, "a100", True),
        ("NVIDIA A100-PCIE-40GB", 40960, "A100 80GB", False),
        ("Tesla V100-SXM2-16GB", 16384, "V100 32 GB", False),
        ("NVIDIA GeForce RTX 3080", 12288, "RTX 3080 12GB", True),
        ("NVIDIA GeForce RTX 4060 Ti", 8188, "4060 Ti 16GB", False),
        ("NVIDIA GeForce RTX 4090", 24564, "RTX 4090 24GB", True),
        ("NVIDIA GeForce RTX 4090", 24564, "RTX 4090 48GB", False),
        ("NVIDIA GeForce RTX 4090", 49140, "RTX 4090 48GB", False),
        ("NVIDIA GH200 480GB", 97871, "GH200 96GB", True),
        ("Orin (nvgpu)", 62841, "Jetson Orin 64GB", True),
        ("Acme  Card 9", 0, "acme card9", True),
        ("Acme Card 9", 0, "acme card", False),
        ("", 0, "RTX 4090", False),
    ],
)
def test_a_wanted_model_is_met_by_name_and_memory(
    has: str, vram_mib: int, wanted: str, expected: bool
) -> None:
    assert satisfies(has, vram_mib, wanted) is expected


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ("RTX 4091", ["RTX 4090", "RTX 4090 D", "RTX 5090"]),
        ("RTX 6000", ["RTX A6000", "RTX PRO 6000 Blackwell", "RTX 6000 Ada"]),
        ("A100 79GB", ["A100 40GB", "A100 64GB", "A100 80GB"]),
        ("RTX 4090 48GB", ["RTX 4090"]),
        ("zzz", []),
    ],
)
def test_an_unknown_name_has_nearest_known_ones(wanted: str, expected: list[str]) -> None:
    assert not is_known(wanted)
    assert nearest_models(wanted) == expected


def test_memory_of_a_model_that_shares_the_machines_is_known_where_it_has_one_size() -> None:
    assert shared_memory_mib("NVIDIA GB10") == 128 * 1024
    assert shared_memory_mib("Orin (nvgpu)") is None
    assert shared_memory_mib("NVIDIA GeForce RTX 4090") is None


def test_names_are_compared_without_case_and_spaces_as_the_store_does() -> None:
    assert squeezed("  ACME  \tcard É") == "acmecardÉ"

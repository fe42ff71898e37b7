"""GPU models: the catalogue, the one name of each model, and whether a GPU is what somebody asked for.

Drivers, clouds and people write one model in many ways: `NVIDIA A100-SXM4-80GB`, `a100 80gb`, `Tesla A100`.
All become one canonical name, here `A100`. A name that is not in the catalogue stays as it is and
matches only itself, whatever its case and spaces. A part of a GPU (MIG) and a laptop's version are models of
their own. Pure.

To add a model, add one line to the table.
"""

from __future__ import annotations

import difflib
import re
import string
from functools import lru_cache
from typing import NamedTuple

# The share of its nominal memory that a GPU reports: ECC takes up to a sixteenth, and some is reserved.
LEAST_OF_NOMINAL, MOST_OF_NOMINAL = 0.91, 1.02
NEAREST = 3

# Canonical name | memory in GiB by variant ("up to": the machine's) | compute capability | more names.
# Memory is by the makers' data sheets, compute capability by NVIDIA's list of CUDA GPUs. Names match whatever
# their case, spaces, punctuation, memory and the words in _NOISE; a leading RTX or GTX may be left out.
_TABLE = """
B300 | 288 | 10.3
B200 | 180 192 | 10.0
B100 | 180 192 | 10.0
GB300 | 288 | 10.3
GB200 | 186 192 | 10.0
GB10 | up to 128 | 12.1 | DGX Spark
GH200 | 96 141 144 | 9.0 | GH200 480GB, GH200 Grace Hopper Superchip
H200 | 141 | 9.0
H100 | 64 80 94 96 | 9.0
H800 | 80 94 | 9.0
H20 | 96 141 | 9.0
A100 | 40 64 80 | 8.0
A100X | 80 | 8.0
A800 | 40 80 | 8.0
A30 | 24 | 8.0
A40 | 48 | 8.6
A10 | 24 | 8.6
A10G | 24 | 8.6
A16 | 16 | 8.6
A2 | 16 | 8.6
L40S | 48 | 8.9
L40 | 48 | 8.9
L20 | 48 | 8.9
L4 | 24 | 8.9
L2 | 24 | 8.9
T4 | 16 | 7.5
T4G | 16 | 7.5
V100 | 16 32 | 7.0
V100S | 32 | 7.0
P100 | 12 16 | 6.0
P40 | 24 | 6.1
P4 | 8 | 6.1
M60 | 8 | 5.2
M40 | 12 24 | 5.2
K80 | 12 | 3.7
RTX PRO 6000 Blackwell | 96 | 12.0 | RTX PRO 6000, RTX 6000 PRO, PRO 6000
RTX PRO 6000 Blackwell Max-Q | 96 | 12.0 | RTX PRO 6000 Max-Q
RTX PRO 5000 Blackwell | 48 72 | 12.0 | RTX PRO 5000
RTX PRO 5000 Blackwell Laptop | 24 | 12.0 | RTX PRO 5000 Laptop
RTX PRO 4500 Blackwell | 32 | 12.0 | RTX PRO 4500
RTX PRO 4000 Blackwell | 24 | 12.0 | RTX PRO 4000
RTX PRO 2000 Blackwell | 16 | 12.0 | RTX PRO 2000
RTX 6000 Ada | 48 | 8.9
RTX 5880 Ada | 48 | 8.9
RTX 5000 Ada | 32 | 8.9
RTX 5000 Ada Laptop | 16 | 8.9
RTX 4500 Ada | 24 | 8.9
RTX 4000 Ada | 20 | 8.9
RTX 4000 Ada Laptop | 12 | 8.9
RTX 4000 SFF Ada | 20 | 8.9
RTX 2000 Ada | 16 | 8.9
RTX A6000 | 48 | 8.6 | Quadro RTX A6000
RTX A5500 | 24 | 8.6
RTX A5500 Laptop | 16 | 8.6
RTX A5000 | 24 | 8.6 | Quadro RTX A5000
RTX A5000 Laptop | 16 | 8.6
RTX A4500 | 20 | 8.6
RTX A4500 Laptop | 16 | 8.6
RTX A4000 | 16 | 8.6 | Quadro RTX A4000
RTX A4000 Laptop | 8 | 8.6
RTX A2000 | 6 12 | 8.6
Quadro RTX 8000 | 48 | 7.5
Quadro RTX 6000 | 24 | 7.5
Quadro RTX 6000 Max-Q | 24 | 7.5
Quadro RTX 5000 | 16 | 7.5
Quadro RTX 5000 Max-Q | 16 | 7.5
Quadro RTX 4000 | 8 | 7.5
Quadro GV100 | 32 | 7.0 | GV100
Quadro GP100 | 16 | 6.0 | GP100
Quadro P6000 | 24 | 6.1 | P6000
Quadro P5000 | 16 | 6.1 | P5000
Quadro P4000 | 8 | 6.1 | P4000
T1000 | 4 8 | 7.5
RTX 5090 | 32 | 12.0
RTX 5090 D | 24 32 | 12.0
RTX 5090 Laptop | 24 | 12.0
RTX 5080 | 16 | 12.0
RTX 5080 Laptop | 16 | 12.0
RTX 5070 Ti | 16 | 12.0
RTX 5070 Ti Laptop | 12 | 12.0
RTX 5070 | 12 | 12.0
RTX 5070 Laptop | 8 | 12.0
RTX 5060 Ti | 8 16 | 12.0
RTX 5060 | 8 | 12.0
RTX 5060 Laptop | 8 | 12.0
RTX 5050 | 8 | 12.0
RTX 5050 Laptop | 8 | 12.0
RTX 4090 | 24 | 8.9
RTX 4090 D | 24 | 8.9
RTX 4090 Laptop | 16 | 8.9
RTX 4080 SUPER | 16 | 8.9
RTX 4080 | 16 | 8.9
RTX 4080 Laptop | 12 | 8.9
RTX 4070 Ti SUPER | 16 | 8.9
RTX 4070 Ti | 12 | 8.9
RTX 4070 SUPER | 12 | 8.9
RTX 4070 | 12 | 8.9
RTX 4070 Laptop | 8 | 8.9
RTX 4060 Ti | 8 16 | 8.9
RTX 4060 | 8 | 8.9
RTX 4060 Laptop | 8 | 8.9
RTX 4050 Laptop | 6 | 8.9
RTX 3090 Ti | 24 | 8.6
RTX 3090 | 24 | 8.6
RTX 3080 Ti | 12 | 8.6
RTX 3080 Ti Laptop | 16 | 8.6
RTX 3080 | 10 12 | 8.6
RTX 3080 Laptop | 8 16 | 8.6
RTX 3070 Ti | 8 | 8.6
RTX 3070 Ti Laptop | 8 | 8.6
RTX 3070 | 8 | 8.6
RTX 3070 Laptop | 8 | 8.6
RTX 3060 Ti | 8 | 8.6
RTX 3060 | 8 12 | 8.6
RTX 3060 Laptop | 6 | 8.6
RTX 3050 Ti Laptop | 4 | 8.6
RTX 3050 | 6 8 | 8.6
RTX 3050 Laptop | 4 6 | 8.6
RTX 2080 Ti | 11 | 7.5
RTX 2080 SUPER | 8 | 7.5
RTX 2080 SUPER Max-Q | 8 | 7.5
RTX 2080 | 8 | 7.5
RTX 2080 Max-Q | 8 | 7.5
RTX 2070 SUPER | 8 | 7.5
RTX 2070 SUPER Max-Q | 8 | 7.5
RTX 2070 | 8 | 7.5
RTX 2070 Max-Q | 8 | 7.5
RTX 2060 SUPER | 8 | 7.5
RTX 2060 | 6 12 | 7.5
RTX 2060 Max-Q | 6 | 7.5
GTX 1660 Ti | 6 | 7.5
GTX 1660 SUPER | 6 | 7.5
GTX 1660 | 6 | 7.5
GTX 1650 | 4 | 7.5
GTX 1080 Ti | 11 | 6.1
GTX 1080 | 8 | 6.1
GTX 1070 Ti | 8 | 6.1
GTX 1070 | 8 | 6.1
GTX 1060 | 3 6 | 6.1
TITAN RTX | 24 | 7.5
TITAN V | 12 32 | 7.0
TITAN Xp | 12 | 6.1
Jetson Thor | up to 128 | | Thor, Jetson AGX Thor, Jetson T5000
Jetson Orin | up to 4 8 16 32 64 | 8.7 | Orin (nvgpu), Orin, Jetson AGX Orin, Jetson Orin NX, Jetson Orin Nano
Jetson Xavier | up to 8 16 32 64 | 7.2 | Xavier (nvgpu), Xavier, Jetson AGX Xavier, Jetson Xavier NX
MI355X | 288 |
MI350X | 288 |
MI325X | 256 |
MI300X | 192 |
MI300A | up to 128 |
MI250X | 64 128 |
MI250 | 64 128 | | MI250X / MI250
MI210 | 64 |
MI100 | 32 |
Radeon PRO W7900 | 48 |
Radeon PRO W7800 | 32 48 |
Radeon RX 9070 XT | 16 |
Radeon RX 7900 XTX | 24 |
Radeon RX 7900 XT | 20 |
"""
# Words that makers, drivers and shops add to a name and that do not distinguish models.
_NOISE = frozenset(
    re.findall(
        r"\w+",
        "nvidia corporation amd ati geforce tesla radeon instinct graphics gpu card generation gen tensor "
        "core pcie sxm sxm2 sxm3 sxm4 sxm5 sxm6 nvl oam dgxs fhhl hbm2 hbm2e hbm3 hbm3e gddr6 gddr6x gddr7 "
        "founders workstation server edition with design vram memory ac r tm",
    )
)
_SAME = {"mobile": "laptop", "notebook": "laptop"}
_COUNT = re.compile(r"^\d{1,2}\s*[x×]\s*|\s+[x×]\s*\d{1,2}$")
_MEMORY = re.compile(r"\b(\d{1,4})\s*g(?:i?b)?\b")
_MIG = re.compile(r"(.+?)[\s-]+mig[\s-]+((?:\d+c\.)?\d+g\.\d+gb(?:[+-][a-z.]+)*)", re.IGNORECASE)
_ASCII_LOWER = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)


class GpuModel(NamedTuple):
    """A GPU model. A MIG instance has no sizes; a compute capability that is not known is empty."""

    name: str
    sizes_gib: tuple[int, ...]
    """Its memory, by variant."""
    capability: str
    is_unified: bool = False
    """It shares the machine's memory, so it may report less than its size, or nothing."""

    def has_memory(self, total_mib: int | None) -> bool:
        """Whether a GPU of this model may report so much memory; None: it reports none."""
        if self.is_unified:
            return total_mib is None or total_mib <= bounds_mib(max(self.sizes_gib))[1]
        return any(_fits(size, total_mib) for size in self.sizes_gib)


class Asked(NamedTuple):
    """A wanted model: its canonical name, and its memory if the name says one of several sizes."""

    name: str
    memory_gib: int | None = None

    def __str__(self) -> str:
        return self.name if self.memory_gib is None else f"{self.name} {self.memory_gib}GB"


def bounds_mib(memory_gib: int) -> tuple[int, int]:
    """The least and the most memory that a GPU with this nominal memory reports, in MiB."""
    return round(memory_gib * 1024 * LEAST_OF_NOMINAL), round(memory_gib * 1024 * MOST_OF_NOMINAL)


def shared_memory_mib(gpu_model: str) -> int | None:
    """The memory of a model that shares the machine's memory, where its driver reports none; else None."""
    model = find(gpu_model)
    return model.sizes_gib[0] * 1024 if model and model.is_unified and len(model.sizes_gib) == 1 else None


def has_own_memory(gpu_model: str) -> bool:
    """Whether the catalogue knows that the model does not share the machine's memory."""
    model = find(gpu_model)
    return model is not None and not model.is_unified


def squeezed(name: str) -> str:
    """The form by which names are compared. The store's SQL computes the same."""
    return "".join(name.split()).translate(_ASCII_LOWER)


def find(name: str) -> GpuModel | None:
    """The catalogue's model of this name; None if it is not known, as of a virtual GPU (`GRID T4-8Q`)."""
    return _read(name)[0]


def canonical(name: str) -> str:
    """The one name of a model; of an unknown model the name as it is, with single spaces."""
    model, _ = _read(name)
    return model.name if model is not None else " ".join(name.split())


def asked(name: str) -> Asked:
    """What a wanted name means. A known model in a size that it does not have is an unknown name."""
    model, memory = _read(name)
    if model is None or (memory and memory not in model.sizes_gib):
        return Asked(" ".join(name.split()))
    return Asked(model.name, memory if len(model.sizes_gib) > 1 else None)


def is_known(wanted: str) -> bool:
    """Whether the catalogue has the model, in the size that the name says."""
    return find(asked(wanted).name) is not None and asked(wanted).name == canonical(wanted)


@lru_cache(maxsize=4096)
def answers(gpu_model: str, vram_mib: int | None) -> frozenset[str]:
    """Every wanted name, squeezed, that a GPU of this model with this memory (None: unknown) satisfies."""
    name, model = canonical(gpu_model), find(gpu_model)
    sizes = [size for size in model.sizes_gib if _fits(size, vram_mib)] if model is not None else []
    return frozenset(map(squeezed, (name, *(str(Asked(name, size)) for size in sizes))))


def satisfies(gpu_model: str, vram_mib: int | None, wanted: str) -> bool:
    """Whether a GPU is what somebody asked for."""
    return squeezed(str(asked(wanted))) in answers(gpu_model, vram_mib)


def nearest_models(wanted: str) -> list[str]:
    """The canonical names most like a name, best first; none if nothing is like it."""
    found = difflib.get_close_matches(_key(wanted)[0], _BY_KEY, 3 * NEAREST, 0.6)
    names = [_BY_KEY[key].name for key in found]
    if (model := find(wanted)) is not None:  # the model exists, but not in this size
        names = [str(Asked(model.name, size)) for size in model.sizes_gib[1:] and model.sizes_gib] or [
            model.name
        ]
    return list(dict.fromkeys(names))[:NEAREST]


def _fits(memory_gib: int, total_mib: int | None) -> bool:
    least, most = bounds_mib(memory_gib)
    return total_mib is not None and least <= total_mib <= most


@lru_cache(maxsize=4096)
def _read(name: str) -> tuple[GpuModel | None, int | None]:
    """The model that a name means, and the memory that the name says."""
    if found := _MIG.fullmatch(name.strip()):
        whole = find(found[1])
        return whole and GpuModel(f"{whole.name} MIG {found[2].lower()}", (), whole.capability), None
    key, memory = _key(name)
    return _BY_KEY.get(key), memory


def _key(name: str) -> tuple[str, int | None]:
    """The letters and digits that distinguish a name, and the memory that it says."""
    text = _COUNT.sub("", re.sub(r"[-_/,]", " ", name.casefold()).strip())
    if (whole := _joined(text)) in _WITH_MEMORY:
        return whole, None
    sizes = {int(size) for size in _MEMORY.findall(text)}
    if len(sizes) > 1:
        return whole, None
    return _joined(_MEMORY.sub(" ", text)), min(sizes, default=None)


def _joined(text: str) -> str:
    words = (_SAME.get(word, word) for word in re.findall(r"[^\W_]+", text))
    return "".join(word for word in words if word not in _NOISE)


def rows() -> list[tuple[GpuModel, list[str]]]:
    """The models of the catalogue, each with the other names that its line lists."""
    found = []
    for line in _TABLE.strip().splitlines():
        name, sizes, capability, *more = (cell.strip() for cell in line.split("|"))
        is_unified = sizes.startswith("up to ")
        sizes_gib = tuple(int(size) for size in sizes.removeprefix("up to ").split())
        others = [other.strip() for other in ",".join(more).split(",") if other.strip()]
        found.append((GpuModel(name, sizes_gib, capability, is_unified), others))
    return found


def keys(model: GpuModel, others: list[str]) -> set[str]:
    """The keys by which a model is found."""
    found = {_key(name)[0] for name in (model.name, *others)}
    return found | {re.sub("^[rg]tx(?=.)", "", key) for key in found}


# Names of the table in which the memory is not the GPU's: of a GH200 480GB it is the processor's.
_WITH_MEMORY: set[str] = set()
_WITH_MEMORY |= {_joined(name.casefold()) for _, others in rows() for name in others if _key(name)[1]}
_BY_KEY = {key: model for model, others in rows() for key in keys(model, others)}

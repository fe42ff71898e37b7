"""Owns the oldest software that may start strangers' images: one table, and the check.

Pure but for one look at what the machine's package says of itself. It must not know jobs.
"""

from __future__ import annotations

import gzip
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Minimum:
    """The first version of a program that has no known way out of its containers."""

    name: str
    version: str
    advisory: str
    setting: str
    package: str = ""
    """Distributions mend older versions; the change log of this package then names the advisory."""


MINIMUMS = {
    "runc": Minimum("runc", "1.1.12", "CVE-2024-21626", "DCP_CONTAINER_MIN_RUNC", "runc"),
    "toolkit": Minimum(
        "the NVIDIA Container Toolkit", "1.17.8", "CVE-2025-23266", "DCP_CONTAINER_MIN_TOOLKIT"
    ),
}
_DOCUMENTS = Path("/usr/share/doc")
_MOST_BYTES = 4 * 1024 * 1024
_NUMBERS = re.compile(r"v?([0-9]{1,9}(?:\.[0-9]{1,9}){0,3})")


def outdated(found: Mapping[str, str], least: Mapping[str, str], documents: Path = _DOCUMENTS) -> str:
    """Why strangers' images must not be run here, for the owner; empty: nothing is too old.

    `found`, `least`: versions by the names of MINIMUMS. What is not there, or has no minimum, is good.
    """
    for key, minimum in MINIMUMS.items():
        version, wanted = found.get(key, ""), least.get(key, "")
        if not version or not wanted or numbers(version) >= numbers(wanted):
            continue
        # The package's own repair counts only for what the table asks, not for a minimum of the owner's.
        if wanted == minimum.version and _is_mended(minimum, documents):
            continue
        reason = f" ({minimum.advisory} lets a job out of its container)" if wanted == minimum.version else ""
        remedy = f"install a newer one, or set {minimum.setting}"
        return f"{minimum.name} is {version}, and at least {wanted} is needed{reason}: {remedy}"
    return ""


def numbers(version: str) -> tuple[int, ...]:
    """The leading numbers of a version, by which two are compared; empty for what is not a version."""
    found = _NUMBERS.match(version)
    return tuple(map(int, found[1].split("."))) if found else ()


def _is_mended(minimum: Minimum, documents: Path) -> bool:
    """Whether the distribution's package says that it has the repair."""
    if not minimum.package:
        return False
    try:
        with gzip.open(documents / minimum.package / "changelog.Debian.gz") as changes:
            return minimum.advisory.encode() in changes.read(_MOST_BYTES)
    except (OSError, EOFError):
        return False

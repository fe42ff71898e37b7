"""Proofs of two lengths, and the files that take long.

The short form of a proof is always run, the full one with ``scripts/test --all``.
"""

from __future__ import annotations

from typing import Any

import pytest

# The longest first: two workers that begin with them end together. Below tests/.
LONG_FILES = (
    "architecture/test_tools.py",
    "daemon/runners/containers/test_container.py",
    "daemon/engines/test_container.py",
    "e2e/test_pages.py",
    "e2e/test_containers.py",
    "e2e/test_gpu_faults.py",
    "e2e/test_fuzz.py",
    "e2e/test_container_engine.py",
    "e2e/test_kills.py",
    "protocol/test_simulation.py",
    "e2e/test_storm.py",
    "daemon/runners/containers/test_adoption.py",
    "gateway/test_transcode.py",
)


def lengths(name: str, *, short: Any, full: Any) -> pytest.MarkDecorator:
    """Gives a test the argument ``name``: the value ``short``, and ``full`` in a test that is marked slow."""
    return pytest.mark.parametrize(
        name, [pytest.param(short, id="short"), pytest.param(full, id="full", marks=pytest.mark.slow)]
    )

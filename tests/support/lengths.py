"""Tests of two lengths, and the test files that take the longest.

The short form of a test always runs, the full form with ``scripts/test --all``.
"""

from __future__ import annotations

from typing import Any

import pytest

# Paths below tests/, the longest first: workers that begin with them end at about the same time.
LONG_FILES = (
    "architecture/test_tools.py",
    "daemon/runners/containers/test_container.py",
    "daemon/engines/test_container.py",
    "e2e/test_clients.py",
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
    """Runs a test with ``name`` set to ``short``, and again, marked slow, with ``name`` set to ``full``."""
    return pytest.mark.parametrize(
        name, [pytest.param(short, id="short"), pytest.param(full, id="full", marks=pytest.mark.slow)]
    )

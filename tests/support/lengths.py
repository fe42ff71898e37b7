"""Tests of two lengths, and the test files that take the longest.

The short form of a test always runs, the full form with ``scripts/test --all``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

# Paths below tests/, the longest first: workers that begin with them end at about the same time.
LONG_FILES = (
    "architecture/test_tools.py",
    "e2e/test_account_pages.py",
    "e2e/test_clients.py",
    "e2e/test_servers.py",
    "e2e/test_pages.py",
    "daemon/runners/containers/test_container.py",
    "e2e/test_kills.py",
    "client/test_run.py",
    "e2e/test_generated_clients.py",
    "e2e/test_restore.py",
    "e2e/test_incidents.py",
    "e2e/test_containers.py",
    "e2e/test_examples.py",
    "e2e/test_operating_pages.py",
    "e2e/test_embeddings.py",
    "e2e/test_fuzz.py",
    "e2e/test_canaries.py",
    "daemon/engines/test_container.py",
    "e2e/test_artifacts.py",
    "e2e/test_servers_faults.py",
    "e2e/test_batches.py",
    "e2e/test_chat.py",
    "e2e/test_charts.py",
    "e2e/test_chat_storms.py",
    "e2e/test_servers_storm.py",
    "e2e/test_gpu_proofs.py",
    "e2e/test_gpu_faults.py",
    "e2e/test_container_engine.py",
    "protocol/test_authorization.py",
    "protocol/test_simulation.py",
    "e2e/test_storm.py",
    "daemon/runners/containers/test_adoption.py",
    "gateway/test_transcode.py",
    "daemon/test_main.py",
    "daemon/cli/test_commands.py",
)


def in_order(files: Iterable[str]) -> dict[str, float]:
    """The places of test files: long ones first, then the others, with those of e2e spread among them.

    The tests of e2e wait for programs while others compute, so that each fills the pauses of the other.
    """
    later = [file for file in files if file not in LONG_FILES]
    waiting = [file for file in later if file.startswith("e2e/")]
    computing = [file for file in later if not file.startswith("e2e/")]
    places: dict[str, float] = {file: number - len(LONG_FILES) for number, file in enumerate(LONG_FILES)}
    return places | {
        file: place / len(group) for group in (waiting, computing) for place, file in enumerate(group)
    }


def lengths(name: str, *, short: Any, full: Any) -> pytest.MarkDecorator:
    """Runs a test with ``name`` set to ``short``, and again, marked slow, with ``name`` set to ``full``."""
    return pytest.mark.parametrize(
        name, [pytest.param(short, id="short"), pytest.param(full, id="full", marks=pytest.mark.slow)]
    )

"""Comparison of two versions of the daemon."""

from __future__ import annotations

import pytest

from daemon.service.version import daemon_version, is_older


@pytest.mark.parametrize(
    ("version", "other", "older"),
    [
        ("1.3.9", "1.4.0", True),
        ("1.4", "1.4.0", False),
        ("1.10.0", "1.9.0", False),
        ("1.4.0rc1", "1.4.0", True),
        ("1.4.0", "1.4.0rc1", False),
        ("1.4.0.dev1", "1.4.0rc1", True),
        ("0.0.0+source", "0.0.1", True),
        ("", "1.4.0", False),
        ("1.4.0", "", False),
        ("1.4.0", "new", False),
        ("9" * 5000, "1.4.0", False),
    ],
)
def test_versions_are_ordered_as_pep_440_says(version: str, other: str, older: bool) -> None:
    assert is_older(version, other) is older


def test_own_version_can_be_compared() -> None:
    assert is_older("0.0.0.dev0", daemon_version())

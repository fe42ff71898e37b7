"""Proofs of two lengths: the short form is always run, the full one with ``scripts/test --all``."""

from __future__ import annotations

from typing import Any

import pytest


def lengths(name: str, *, short: Any, full: Any) -> pytest.MarkDecorator:
    """Gives a test the argument ``name``: the value ``short``, and ``full`` in a test that is marked slow."""
    return pytest.mark.parametrize(
        name, [pytest.param(short, id="short"), pytest.param(full, id="full", marks=pytest.mark.slow)]
    )

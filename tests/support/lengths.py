"""Tests of two lengths: the short form always runs, the full form with ``scripts/test --all``."""

from __future__ import annotations

from typing import Any

import pytest


def lengths(name: str, *, short: Any, full: Any) -> pytest.MarkDecorator:
    """Runs a test with ``name`` set to ``short``, and again, marked slow, with ``name`` set to ``full``."""
    return pytest.mark.parametrize(
        name, [pytest.param(short, id="short"), pytest.param(full, id="full", marks=pytest.mark.slow)]
    )

"""Owns the version of this server. Daemons are released with it."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

try:
    CURRENT = version("dcp-marketplace")
except PackageNotFoundError:  # run from a checkout that was never installed
    CURRENT = "0"

"""Owns the daemon's version, and which of two is older. It knows nothing else."""

from importlib import metadata

from packaging.version import Version


def daemon_version() -> str:
    """The version of the installed distribution; `0.0.0+source` in a bare checkout."""
    try:
        return metadata.version("dcp-marketplace")
    except metadata.PackageNotFoundError:
        return "0.0.0+source"


def is_older(version: str, other: str) -> bool:
    """Whether a version comes before another, as PEP 440 orders them; False if either is not a version."""
    try:
        return Version(version) < Version(other)
    except ValueError:
        return False

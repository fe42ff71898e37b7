"""Owns the daemon's version string. It knows nothing else."""

from importlib import metadata


def daemon_version() -> str:
    """The version of the installed distribution; `0.0.0+source` in a bare checkout."""
    try:
        return metadata.version("dcp-marketplace")
    except metadata.PackageNotFoundError:
        return "0.0.0+source"

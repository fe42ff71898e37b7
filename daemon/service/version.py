"""Owns the daemon's version string, and which of two is older. It knows nothing else."""

import re
from importlib import metadata


def daemon_version() -> str:
    """The version of the installed distribution; `0.0.0+source` in a bare checkout."""
    try:
        return metadata.version("dcp-marketplace")
    except metadata.PackageNotFoundError:
        return "0.0.0+source"


def is_older(one: str, other: str) -> bool:
    """Whether a version is before another, by their leading numbers; what is no version is not."""
    return bool(_numbers(one)) and _numbers(one) < _numbers(other)


def _numbers(text: str) -> tuple[int, ...]:
    match = re.match(r"\d{1,9}(\.\d{1,9}){0,3}", text)
    parts = [int(part) for part in match[0].split(".")] if match else []
    while len(parts) > 1 and not parts[-1]:
        parts.pop()
    return tuple(parts)

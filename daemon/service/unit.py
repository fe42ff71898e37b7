"""Writes the systemd unit from its template. It must not install or start anything."""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path

NAME = "dcp-daemon.service"
ROOT = Path("/opt/dcp-daemon")
CONFIG = Path("/etc/dcp-daemon/config.toml")
_FOLDERS = ("/etc/systemd/system", "/lib/systemd/system")
_WORD = re.compile(r"[a-z_][a-z0-9_-]{0,31}")
_PATH = re.compile(r"/[A-Za-z0-9_./-]*")


class UnitError(Exception):
    """The arguments cannot be written into a unit."""


def render(*, user: str = "dcp", root: Path = ROOT, config: Path = CONFIG, docker: bool = False) -> str:
    """The unit's text. Raises UnitError.

    `docker`: the daemon may reach the Docker Engine, and whoever can do that can become root.
    """
    if not _WORD.fullmatch(user):
        raise UnitError(f"--user: {user!r} is not the name of a system user")
    for path in (root, config):
        if not _PATH.fullmatch(str(path)):
            raise UnitError(
                f"{path} must be absolute, with only letters, digits, and ._-, to be written into a unit"
            )
    values = {"@ROOT@": str(root), "@CONFIG@": str(config), "@USER@": user, "@GROUPS@": _groups(docker)}
    text = resources.files("daemon.service").joinpath("dcp-daemon.service").read_text(encoding="utf-8")
    for name, value in values.items():
        text = text.replace(name, value)
    return text


def is_installed() -> bool:
    """Whether this machine has the unit."""
    return any(Path(folder, NAME).exists() for folder in _FOLDERS)


def start_command() -> str:
    """How a person starts the daemon here."""
    return "systemctl start dcp-daemon" if is_installed() else "dcp-daemon run"


def _groups(docker: bool) -> str:
    if docker:
        return "SupplementaryGroups=docker"
    return "# `dcp-daemon unit --docker` adds the group docker here. Whoever is in it can become root."

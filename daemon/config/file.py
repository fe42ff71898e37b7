"""Reads the daemon's TOML file into the texts that the environment would have.

A key is a variable's name without its prefix, in small letters: `server` is
DCP_SERVER. The tables [models] and [aliases] are its own. It must not know what
any setting means; it knows which are allowed in a file that others can read.
"""

from __future__ import annotations

import os
import stat
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from common.nearest import did_you_mean
from daemon.config.encoding import EncodingError, decoded

MAX_BYTES = 1 << 20
# The key is a secret and has a file of its own; where this file is, it cannot say itself.
NOT_IN_THE_FILE = {
    "DCP_PROVIDER_KEY": "the key belongs into the identity file, where dcp-daemon register stores it",
    "DCP_CONFIG": "it names this file",
}
TABLES = ("models", "aliases")
_NOTHING: Mapping[str, str] = MappingProxyType({})


class ConfigError(Exception):
    """The configuration cannot be used; the text is for the person who wrote it."""


@dataclass(frozen=True)
class ConfigFile:
    """What a file says, unchecked."""

    path: Path
    settings: Mapping[str, str] = field(default_factory=lambda: _NOTHING)
    """By the variables' names."""
    models: Mapping[str, str] | None = None
    """Files by public names; None: the file has no such table."""
    aliases: Mapping[str, str] = field(default_factory=lambda: _NOTHING)
    """The engines' names by public names."""


def key_of(variable: str) -> str:
    """How a variable is called in the file."""
    return variable.removeprefix("DCP_").lower()


def read_file(path: Path, variables: Collection[str]) -> ConfigFile | None:
    """The file's settings; None: there is no such file. Raises ConfigError."""
    try:
        with path.open("rb") as file:
            _check_owner(path, os.fstat(file.fileno()))
            text = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from None
    if len(text) > MAX_BYTES:
        raise ConfigError(f"{path} is larger than {MAX_BYTES >> 10} KiB: it is not a file of settings")
    return parse(path, text, variables)


def parse(path: Path, text: bytes, variables: Collection[str]) -> ConfigFile:
    """The settings of a file with this content. Raises ConfigError."""
    try:
        document = tomllib.loads(decoded(text))
    except EncodingError as error:
        raise ConfigError(f"{path} {error}") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not TOML: {error}") from None
    known = {key_of(name): name for name in variables}
    settings, tables = {}, {}
    for key, value in document.items():
        if isinstance(value, dict) and key in TABLES:
            tables[key] = _table(path, key, value)
        else:
            name = _variable(path, key, known)
            settings[name] = _text(path, key, value)
    return ConfigFile(path, settings, tables.get("models"), tables.get("aliases", _NOTHING))


def _check_owner(path: Path, status: os.stat_result) -> None:
    # Whoever writes this file decides which releases this machine runs.
    if stat.S_IMODE(status.st_mode) & 0o022:
        raise ConfigError(f"{path} can be written by other users: run chmod go-w {path}")
    if status.st_uid not in (0, os.geteuid()):
        raise ConfigError(f"{path} belongs to another user: run chown root {path}")


def _variable(path: Path, key: str, known: Mapping[str, str]) -> str:
    name = known.get(key)
    if name is None:
        given, others = key.lower().removeprefix("dcp_"), "see dcp-daemon --help for those there are"
        meant = did_you_mean(given, [*known, *TABLES], others)
        raise ConfigError(f"{path}: {key} is not a setting; {meant}")
    if name in NOT_IN_THE_FILE:
        raise ConfigError(f"{path}: {key} is not allowed here; {NOT_IN_THE_FILE[name]}")
    return name


def _text(path: Path, key: str, value: Any) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case str() | int() | float():
            return str(value)
        case [*items] if all(isinstance(item, str) and "," not in item for item in items):
            return ",".join(items)
    raise ConfigError(
        f"{path}: {key} must be a text, a number, true, false, or a list of texts without commas"
    )


def _table(path: Path, name: str, table: Mapping[str, Any]) -> dict[str, str]:
    for key, value in table.items():
        if not key.strip() or not isinstance(value, str) or not value.strip():
            raise ConfigError(f'{path}: a line of [{name}] must be "public/name" = "text"; {key!r} is not')
    return {key.strip(): value.strip() for key, value in table.items()}

"""Writes a configuration as a TOML file. It must not know where from the settings came."""

from __future__ import annotations

import json
import os
import shutil
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from daemon.config.config import VARIABLES, Config
from daemon.config.encoding import decoded
from daemon.config.file import NOT_IN_THE_FILE, ConfigError, key_of
from daemon.machine import durable

_HEAD = "# Settings of dcp-daemon: `dcp-daemon --help` lists them all. The environment wins over this file.\n"


# Others can read the file.
SECRETS = ("DCP_ATTACHED_API_KEY",)
# These are written from the configuration: as tables, or with whole paths.
_OF_CONFIG = ("DCP_MODELS", "DCP_ALIASES", "DCP_ENGINE_MODELS", "DCP_UPDATE_URL")


def render(config: Config, path: Path, environ: Mapping[str, str]) -> str:
    """A file that says what `config` does by `environ`, and what `path` says already beyond it."""
    document = _document(path)
    document |= _from_environment(environ)
    if environ.get("DCP_ENGINE_MODELS"):
        document["engine_models"] = [f"{model.name}={model.path}" for model in config.engine_models]
    if environ.get("DCP_UPDATE_URL"):
        document["update_url"] = config.update_url
    document |= {"server": config.server, "state_dir": str(config.state_dir)}
    document |= {"tls_ca": str(config.tls_ca)} if config.tls_ca else {}
    document |= {"insecure": True} if config.insecure else {}
    tables = {
        name: document.pop(name) for name in ("models", "aliases") if isinstance(document.get(name), dict)
    }
    is_switched_off = document.pop("models", None) == "" or environ.get("DCP_MODELS") == ""
    tables["models"] = {model.name: str(model.path) for model in config.models}
    if not config.models and is_switched_off:
        document["models"] = ""  # not the bundled one either
    if environ.get("DCP_ALIASES"):
        document.pop("aliases", None)
        tables["aliases"] = dict(config.aliases)
    lines = [_HEAD, *(f"{key} = {_value(value)}" for key, value in document.items())]
    for name in ("models", "aliases"):
        if tables.get(name):
            lines += [
                f"\n[{name}]",
                *(f"{_value(key)} = {_value(text)}" for key, text in tables[name].items()),
            ]
    return "\n".join(lines) + "\n"


def _from_environment(environ: Mapping[str, str]) -> dict[str, Any]:
    """What the environment sets and the file may say."""
    known = {variable.name for variable in VARIABLES} - {*NOT_IN_THE_FILE, *SECRETS, *_OF_CONFIG}
    return {key_of(name): environ[name] for name in sorted(known) if environ.get(name)}


def same(one: str, other: str) -> bool:
    """Whether two files say the same, whatever their comments."""
    try:
        return tomllib.loads(one) == tomllib.loads(other)
    except tomllib.TOMLDecodeError:
        return False


def check_writable(path: Path) -> None:
    """Makes the folder of a file of settings. Raises ConfigError if it could not be written there."""
    try:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{path.parent} cannot be created: {error.strerror}; set --config") from None
    if not os.access(path.parent, os.W_OK):
        raise ConfigError(f"{path.parent} cannot be written: set --config, or become its owner")


def write(path: Path, text: str, *, mode: int) -> None:
    """Replaces the file whole or not at all; what was there before is kept beside it."""
    if path.exists():
        shutil.copyfile(path, path.with_name(f"{path.name}.old"))
    durable.replace(path, text, mode=mode)


def _document(path: Path) -> dict[str, Any]:
    known = {key_of(variable.name) for variable in VARIABLES if variable.name not in NOT_IN_THE_FILE}
    try:
        document = tomllib.loads(decoded(path.read_bytes()))
    except (OSError, ValueError):
        return {}
    return {key: value for key, value in document.items() if key in known or isinstance(value, dict)}


def _value(value: Any) -> str:
    # Texts, numbers, switches and lists of texts are written alike in JSON and TOML, but for one
    # character that JSON leaves as it is.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")

"""Owns what `dcp login` keeps: the address, and a key for each role, in the system's keyring or a 0600 file.

A keyring that is missing, locked or broken is no reason to fail: the file is used then. It knows no request.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Optional

from dcp_client.reading import MalformedError, loads

ROLES = ("renter", "provider", "admin")
_SERVICE = "dcp"


def role_of(key: str) -> str:
    """The role of a key, which its beginning says; an operator's token has none."""
    return next((role for role in ROLES if key.startswith(f"dcp-{role}-")), "admin")


class Keeping:
    """The folder with the address and the keys: `dcp` in `XDG_CONFIG_HOME`."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        base = environ.get("XDG_CONFIG_HOME") or str(Path(environ.get("HOME") or Path.home()) / ".config")
        self.folder = Path(base) / "dcp"
        self._config = self.folder / "client.json"
        self._keys = self.folder / "keys.json"

    @property
    def url(self) -> str:
        """The address of the last login; empty without one."""
        return str(_read(self._config).get("url", ""))

    def roles(self) -> Mapping[str, str]:
        """The roles that are logged in at this address, and where each key is: `keyring` or `file`."""
        kept = _read(self._config).get("keys", {}).get(self.url, {})
        return {role: kept[role] for role in ROLES if role in kept}

    def key(self, role: str) -> str:
        """The key of a role; empty without one."""
        place = self.roles().get(role)
        if place == "keyring":
            return _from_keyring(_entry(self.url, role)) or ""
        return str(_read(self._keys).get(_entry(self.url, role), "")) if place else ""

    def keep(self, url: str, key: str) -> str:
        """Keeps a key and the address; returns where: `keyring` or `file`."""
        role = role_of(key)
        entry = _entry(url, role)
        place = "keyring" if _to_keyring(entry, key) else "file"
        keys = {name: value for name, value in _read(self._keys).items() if name != entry}
        write_private(self._keys, {**keys, entry: key} if place == "file" else keys)
        config = _read(self._config)
        config.setdefault("keys", {}).setdefault(url, {})[role] = place
        write_private(self._config, {**config, "url": url})
        return place

    def forget(self, role: Optional[str] = None) -> list[str]:
        """Removes the key of a role, or all of this address; returns the roles."""
        url, gone = self.url, [each for each in self.roles() if role in (None, each)]
        keys, config = _read(self._keys), _read(self._config)
        for each in gone:
            if config["keys"][url].pop(each) == "keyring":
                _to_keyring(_entry(url, each), None)
            keys.pop(_entry(url, each), None)
        if gone:
            write_private(self._keys, keys)
            write_private(self._config, config)
        return gone


def write_private(path: Path, values: Mapping[str, Any]) -> None:
    """Replaces a file that only its owner can read, at once and as a whole."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    fresh = path.with_suffix(".new")
    fresh.unlink(missing_ok=True)
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(json.dumps(values, indent=2) + "\n")
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)


def _entry(url: str, role: str) -> str:
    return f"{role} {url}"


def _read(path: Path) -> dict[str, Any]:
    try:
        found = loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except MalformedError as error:
        raise OSError(f"{path} is damaged: remove it and run dcp login") from error
    if not isinstance(found, dict):
        raise OSError(f"{path} is damaged: remove it and run dcp login")
    return found


def _keyring() -> Any:
    """The system's keyring; None if there is none that works."""
    try:
        import keyring

        return keyring if keyring.get_keyring().priority > 0 else None
    except Exception:  # its backends raise whatever the system raises
        return None


def _to_keyring(entry: str, key: Optional[str]) -> bool:
    """Stores a key, or removes it; False if the keyring does not work."""
    keyring = _keyring()
    if keyring is None:
        return False
    try:
        if key is None:
            keyring.delete_password(_SERVICE, entry)
        else:
            keyring.set_password(_SERVICE, entry, key)
            return bool(keyring.get_password(_SERVICE, entry) == key)
    except Exception:  # locked, refused, or gone
        return False
    return True


def _from_keyring(entry: str) -> Optional[str]:
    keyring = _keyring()
    if keyring is None:
        return None
    try:
        found = keyring.get_password(_SERVICE, entry)
    except Exception:
        return None
    return found if isinstance(found, str) else None

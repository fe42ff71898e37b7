"""Keyrings of a system, for the library `keyring`: one that works, one that is locked, one that forgets."""

from __future__ import annotations

import json
import os
from pathlib import Path

from keyring.backend import KeyringBackend
from keyring.errors import KeyringLocked


class FileKeyring(KeyringBackend):
    """Works: its secrets are in the file TEST_KEYRING."""

    priority = 1

    def _read(self) -> dict[str, str]:
        file = Path(os.environ["TEST_KEYRING"])
        found: dict[str, str] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
        return found

    def _write(self, secrets: dict[str, str]) -> None:
        Path(os.environ["TEST_KEYRING"]).write_text(json.dumps(secrets), encoding="utf-8")

    def get_password(self, service: str, username: str) -> str | None:
        """A secret."""
        return self._read().get(f"{service} {username}")

    def set_password(self, service: str, username: str, password: str) -> None:
        """Keeps a secret."""
        self._write(self._read() | {f"{service} {username}": password})

    def delete_password(self, service: str, username: str) -> None:
        """Removes a secret."""
        secrets = self._read()
        del secrets[f"{service} {username}"]
        self._write(secrets)


class LockedKeyring(FileKeyring):
    """Is locked, and nobody is there to unlock it."""

    def _read(self) -> dict[str, str]:
        raise KeyringLocked("locked")


class BrokenKeyring(FileKeyring):
    """Keeps nothing, and says nothing."""

    def _write(self, secrets: dict[str, str]) -> None:
        pass

"""Owns the identity file: who this provider is and the key that proves it.

The key is a password. The file is readable by its owner only, appears whole or
not at all, and is not read when others could have read it too.
"""

import contextlib
import hashlib
import json
import os
import stat
from dataclasses import asdict, dataclass, field
from pathlib import Path

from common import documents
from daemon.config.characters import described, fault_at
from daemon.config.encoding import EncodingError, decoded
from daemon.machine import durable

_FILE_NAME = "identity.json"
_ACCEPTED_NAME = "accepted-key"


class IdentityError(Exception):
    """There is no usable identity; the text names the remedy."""


@dataclass(frozen=True)
class Identity:
    """A registered provider."""

    provider_id: int
    api_key: str = field(repr=False)
    server: str


def identity_path(state_dir: Path) -> Path:
    """Where the identity file of a state folder is."""
    return state_dir / _FILE_NAME


def load(state_dir: Path) -> Identity:
    """The stored identity. Raises IdentityError when it is missing, open to others or damaged."""
    path = identity_path(state_dir)
    try:
        with path.open("rb") as file:
            _check_private(path, os.fstat(file.fileno()))
            identity = _parse(decoded(file.read()))
    except FileNotFoundError:
        raise IdentityError(
            f"this machine is not registered ({path} does not exist): run dcp-daemon register, "
            "or set DCP_PROVIDER_KEY"
        ) from None
    except OSError as error:
        raise IdentityError(f"{path} cannot be read: {error.strerror}") from None
    except EncodingError as error:
        raise IdentityError(f"{path} {error}") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise IdentityError(f"{path} is damaged: run dcp-daemon register --force") from None
    if (at := fault_at(identity.api_key, is_word=True)) is not None:
        raise IdentityError(f"{path}: the key has {described(identity.api_key, at)}; remove it")
    return identity


def _check_private(path: Path, status: os.stat_result) -> None:
    if stat.S_IMODE(status.st_mode) & 0o077:
        raise IdentityError(f"{path} can be read by other users: run chmod 600 {path}, and ask for a new key")


def _parse(text: str) -> Identity:
    document = documents.parse_object(text)
    key = document["api_key"].strip()
    if not key:
        raise ValueError("no key")
    return Identity(int(document["provider_id"]), key, document["server"])


def note_accepted(state_dir: Path, server: str, key: str) -> None:
    """Stores that the server has accepted the key; a folder that cannot be written changes nothing."""
    text = _accepted(server, key)
    with contextlib.suppress(OSError):
        if not was_accepted(state_dir, server, key):
            durable.replace(state_dir / _ACCEPTED_NAME, text, mode=0o600)


def was_accepted(state_dir: Path, server: str, key: str) -> bool:
    """Whether a daemon of this machine has had a session with this server and this key."""
    try:
        return (state_dir / _ACCEPTED_NAME).read_text(encoding="utf-8") == _accepted(server, key)
    except (OSError, ValueError):
        return False


def _accepted(server: str, key: str) -> str:
    return hashlib.sha256(f"{server}\0{key}".encode()).hexdigest()


def save(state_dir: Path, identity: Identity) -> Path:
    """Stores the identity for its owner only, whole or not at all; returns the file."""
    state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    state_dir.chmod(0o700)
    path = identity_path(state_dir)
    # Root registers a machine for the service's user, whose folder this is.
    owner = state_dir.stat() if os.geteuid() == 0 else None
    durable.replace(path, json.dumps(asdict(identity), indent=2), mode=0o600, owner=owner)
    return path

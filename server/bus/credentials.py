"""NATS's file of credentials: a user's token, and the seed of the key by which it signs what a server asks.

The file is read at each connection, so that a new one is used without a restart. NATS's own package for its
keys is published as source only, which the images do not build.
"""

from __future__ import annotations

import base64
import binascii
import re
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

_BLOCK = r"-+BEGIN {}-+\s+(\S+)\s+-+END {}-+"
# Two bytes say whose seed it is, 32 are the seed, two its checksum.
_PREFIX, _SEED_BYTES, _CHECKED = b"\x95\x00", 32, 34


class CredentialsError(Exception):
    """The file is not one of NATS. No text of it is shown."""


def token(path: Path) -> bytes:
    """The user's token, which NATS checks. Raises CredentialsError, OSError."""
    return _block(path, "NATS USER JWT").encode()


def signature(path: Path, nonce: str) -> bytes:
    """What proves to NATS that the user has its key, in base64. Raises CredentialsError, OSError."""
    try:
        text = _block(path, "USER NKEY SEED")
        data = base64.b32decode(text + "=" * (-len(text) % 8))
    except ValueError:
        raise CredentialsError("the seed is damaged") from None
    checksum = binascii.crc_hqx(data[:_CHECKED], 0).to_bytes(2, "little")
    if data[:2] != _PREFIX or data[_CHECKED:] != checksum:
        raise CredentialsError("the seed is damaged or not a user's")
    key = Ed25519PrivateKey.from_private_bytes(data[2 : 2 + _SEED_BYTES])
    return base64.b64encode(key.sign(nonce.encode()))


def _block(path: Path, title: str) -> str:
    found = re.search(_BLOCK.format(title, title), path.read_text(encoding="ascii", errors="replace"))
    if found is None:
        raise CredentialsError(f"there is no {title}")
    return found[1]

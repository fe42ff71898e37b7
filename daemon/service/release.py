"""What a release says about itself, and whether to believe it: version, wheel, SHA-256, Ed25519 signature.

Pure. The signature covers every field that is used, under a name of its own, so
that nothing else signed with the key can pass for a release. It must not fetch
or install anything.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
from dataclasses import dataclass

from common import documents

MAX_MANIFEST_BYTES = 64 * 1024
MAX_WHEEL_BYTES = 256 * 1024 * 1024
_PURPOSE = b"dcp-daemon release 1\n"
_VERSION = re.compile(r"\d{1,9}(\.\d{1,9}){0,3}([A-Za-z0-9.+-]{0,40})")
_WHEEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,200}\.whl")
_SHA256 = re.compile(r"[0-9a-f]{64}")


class ReleaseError(Exception):
    """The release is not to be installed; the text says why, for a person."""


@dataclass(frozen=True)
class Release:
    """A released wheel."""

    version: str
    wheel: str
    """The wheel's file name; it lies beside the manifest."""
    sha256: str
    """Of the wheel, in small hexadecimal digits."""

    def signed_bytes(self) -> bytes:
        """What a signature covers: the purpose, then the fields as canonical JSON."""
        fields = {"sha256": self.sha256, "version": self.version, "wheel": self.wheel}
        return _PURPOSE + json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()


def read(manifest: bytes, public_key: bytes) -> Release:
    """The release that a manifest describes, if its signature is good. Raises ReleaseError."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    release, signature = _parse(manifest)
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, release.signed_bytes())
    except InvalidSignature:
        raise ReleaseError(
            "the release is not signed with this machine's key (DCP_UPDATE_PUBLIC_KEY): "
            "somebody may have changed it; nothing was installed"
        ) from None
    return release


def check_wheel(release: Release, wheel: bytes) -> None:
    """Raises ReleaseError when the wheel is not the one that was signed."""
    if hashlib.sha256(wheel).hexdigest() != release.sha256:
        raise ReleaseError(f"{release.wheel} is not the file that was signed; nothing was installed")


def write(version: str, wheel_name: str, wheel: bytes, private_key: bytes) -> bytes:
    """The manifest of a wheel, signed. Raises ReleaseError for names that no daemon would take."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    release = Release(version, wheel_name, hashlib.sha256(wheel).hexdigest())
    signature = Ed25519PrivateKey.from_private_bytes(private_key).sign(release.signed_bytes())
    fields = {
        "version": release.version,
        "wheel": release.wheel,
        "sha256": release.sha256,
        "signature": base64.b64encode(signature).decode(),
    }
    manifest = json.dumps(fields, indent=2).encode() + b"\n"
    _parse(manifest)
    return manifest


def _parse(manifest: bytes) -> tuple[Release, bytes]:
    try:
        fields = documents.parse_object(manifest, MAX_MANIFEST_BYTES)
        release = Release(fields["version"], fields["wheel"], fields["sha256"])
        signature = base64.b64decode(fields["signature"], validate=True)
        is_whole = all(
            pattern.fullmatch(text)
            for pattern, text in (
                (_VERSION, release.version),
                (_WHEEL, release.wheel),
                (_SHA256, release.sha256),
            )
        )
    except (ValueError, KeyError, TypeError, binascii.Error):
        is_whole = False
    if not is_whole:
        raise ReleaseError(
            "what was found is not a release: version, wheel, sha256 and signature are expected"
        )
    return release, signature

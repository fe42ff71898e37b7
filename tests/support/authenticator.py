"""A passkey in software: creates an ES256 credential and answers challenges, as a browser sends both."""

from __future__ import annotations

import hashlib
import json
import secrets
from base64 import b64decode, b64encode, urlsafe_b64encode
from dataclasses import dataclass, field
from typing import Any

import cbor2
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256

PRESENT, VERIFIED, CREATED = 0x01, 0x04, 0x40


@dataclass
class Authenticator:
    """One passkey on a device; ``origin`` is the page that a browser says it is for."""

    origin: str
    domain: str
    flags: int = PRESENT | VERIFIED
    counts: bool = True
    credential: bytes = field(default_factory=lambda: secrets.token_bytes(32))
    user: bytes = b""
    count: int = 0
    _key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))

    def create(self, asked: dict[str, Any], name: str = "Laptop") -> dict[str, str]:
        """The fields of a request with a new passkey, for a challenge of the market."""
        self.user = b64decode(asked["user"])
        numbers = self._key.public_key().public_numbers()
        public_key = cbor2.dumps(
            {1: 2, 3: -7, -1: 1, -2: numbers.x.to_bytes(32, "big"), -3: numbers.y.to_bytes(32, "big")}
        )
        data = self._data(self.flags | CREATED)
        data += bytes(16) + len(self.credential).to_bytes(2, "big") + self.credential + public_key
        attestation = cbor2.dumps({"fmt": "none", "attStmt": {}, "authData": data})
        return {
            "name": name,
            "credential": _text(self.credential),
            "client_data": _text(self._client_data("webauthn.create", asked)),
            "attestation": _text(attestation),
        }

    def answer(self, asked: dict[str, Any]) -> dict[str, str]:
        """The fields of a request that logs in, for a challenge of the market."""
        self.count += self.counts
        client_data, data = self._client_data("webauthn.get", asked), self._data(self.flags)
        signature = self._key.sign(data + hashlib.sha256(client_data).digest(), ec.ECDSA(SHA256()))
        return {
            "credential": _text(self.credential),
            "client_data": _text(client_data),
            "authenticator_data": _text(data),
            "signature": _text(signature),
            "user": _text(self.user),
        }

    def _data(self, flags: int) -> bytes:
        return hashlib.sha256(self.domain.encode()).digest() + bytes([flags]) + self.count.to_bytes(4, "big")

    def _client_data(self, kind: str, asked: dict[str, Any]) -> bytes:
        challenge = urlsafe_b64encode(b64decode(asked["challenge"])).rstrip(b"=").decode()
        return json.dumps({"type": kind, "challenge": challenge, "origin": self.origin}).encode()


def _text(data: bytes) -> str:
    return b64encode(data).decode()

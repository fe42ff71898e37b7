"""The bus as operators set it up, on a real NATS: its file, TLS, passwords and files of credentials.

What the servers say is heard by those who know the secret, and by nobody else.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import logging
import re
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from server.bus import BusAddress, Topic
from server.bus.credentials import CredentialsError, signature
from server.bus.nats import NatsBus
from tests.support.deployments import DEPLOY
from tests.support.patient_renter import eventually

NATS = Path(sys.executable).parent / "nats-server"
TOPIC = Topic.PROVIDER
WAIT_SECONDS = 20.0
# Time for several tries.
REFUSED_SECONDS = 3.0


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The secrets that ``prepare`` writes, with the configuration of NATS beside them as in its container."""
    command: list[str | Path] = [
        DEPLOY / "compose/prepare",
        "market.example",
        "ops@market.example",
        "--folder",
        tmp_path,
    ]
    subprocess.run(command, check=True, capture_output=True)
    shutil.copy(DEPLOY / "compose/nats.conf", tmp_path / "nats.conf")
    shutil.copy(tmp_path / "compose/secrets/bus-authorization", tmp_path / "authorization.conf")
    return tmp_path


@contextmanager
def running(config: Path, *options: str) -> Iterator[int]:
    """NATS with a configuration, on a free port of the loopback."""
    with socket.socket() as probe, socket.socket() as second:
        for each in (probe, second):
            each.bind(("127.0.0.1", 0))
        port, monitor = (each.getsockname()[1] for each in (probe, second))
    command: list[str | Path] = [NATS, "--config", config, "-a", "127.0.0.1", "-p", str(port)]
    command += ["-m", str(monitor), *options]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, encoding="utf-8") as process:
        try:
            eventually("NATS", lambda: is_open(port) or process.poll() is not None, WAIT_SECONDS)
            if process.poll() is not None and process.stderr is not None:
                raise AssertionError(process.stderr.read())
            yield port
        finally:
            process.kill()


def is_open(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 0.2).close()
    except OSError:
        return False
    return True


async def speaks_to(speaker: BusAddress, listener: BusAddress) -> bool:
    """Whether what one server says is heard by another."""
    heard: list[str] = []
    buses = [NatsBus(speaker), NatsBus(listener)]
    buses[1].listen(TOPIC, heard.extend)
    for bus in buses:
        await bus.start()
    try:
        deadline = time.monotonic() + (WAIT_SECONDS if speaker == listener else REFUSED_SECONDS)
        while "7" not in heard and time.monotonic() < deadline:
            buses[0].publish(TOPIC, ["7"])
            await asyncio.sleep(0.05)
        return "7" in heard
    finally:
        for bus in buses:
            await bus.stop()


def heard(*pairs: tuple[BusAddress, BusAddress]) -> set[bool]:
    """Whether what the first of a pair says is heard by the second, for all pairs at once."""

    async def hear() -> list[bool]:
        return await asyncio.gather(*(speaks_to(*pair) for pair in pairs))

    return set(asyncio.run(hear()))


def test_servers_of_compose_hear_one_another_and_a_wrong_password_hears_nothing(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    url = (folder / "compose/secrets/bus-url").read_text(encoding="utf-8").strip()
    with running(folder / "nats.conf") as port:
        right = url.replace("nats:4222", f"127.0.0.1:{port}")
        password = right.split(":")[2].split("@")[0]
        own = BusAddress((right,))
        assert heard((own, own)) == {True}
        with caplog.at_level(logging.WARNING):
            wrong = [right.replace(password, "guessed"), f"nats://127.0.0.1:{port}"]
            strangers = [BusAddress((each,)) for each in wrong]
            assert heard(*((own, each) for each in strangers)) == {False}
            assert heard(*((each, own) for each in strangers)) == {False}
        assert "the bus has a fault error=nats: 'Authorization Violation'" in caplog.text
        assert password not in caplog.text
        assert "guessed" not in caplog.text


def test_bus_with_tls_is_trusted_by_its_authority_only(folder: Path) -> None:
    files = folder / "compose/secrets"
    url = (files / "bus-url").read_text(encoding="utf-8").strip()
    options = ("--tls", f"--tlscert={files / 'server.pem'}", f"--tlskey={files / 'server.key'}")
    with running(folder / "nats.conf", *options) as port:
        address = url.replace("nats://", "tls://").replace("nats:4222", f"127.0.0.1:{port}")
        own = BusAddress((address,), files / "authority.pem")
        assert heard((own, own)) == {True}
        assert heard((own, BusAddress((address,)))) == {False}


def test_file_of_credentials_opens_the_bus_to_its_own_account_only(tmp_path: Path) -> None:
    operator, account, other, unknown = (Key(kind) for kind in "OAAA")
    accounts = [f"{each.name}: {operator.claims(each, 'account')}" for each in (account, other)]
    config = tmp_path / "nats.conf"
    config.write_text(
        f"operator: {operator.claims(operator, 'operator')}\n"
        f"resolver: MEMORY\nresolver_preload: {{\n{chr(10).join(accounts)}\n}}\n",
        encoding="utf-8",
    )
    with running(config) as port:
        url = (f"nats://127.0.0.1:{port}",)
        own = BusAddress(url, credentials=credentials(tmp_path / "own.creds", account))
        assert heard((own, own)) == {True}
        strangers = (
            BusAddress(url, credentials=credentials(tmp_path / "other.creds", other)),
            BusAddress(url, credentials=credentials(tmp_path / "unknown.creds", unknown)),
            BusAddress(url),
        )
        assert heard(*((own, each) for each in strangers)) == {False}


# Whose key it is says its first byte; the third of a seed's first two says that it is one.
_KINDS = {"O": 14 << 3, "A": 0, "U": 20 << 3}
_SEED = 18 << 3
# NATS allows nothing of what is not named.
_UNLIMITED = {"subs": -1, "data": -1, "payload": -1}


class Key:
    """A new pair of keys in NATS's form."""

    def __init__(self, kind: str) -> None:
        byte = _KINDS[kind]
        self._key = Ed25519PrivateKey.generate()
        self.name = checked(bytes([byte]) + self._key.public_key().public_bytes_raw())
        self.seed = checked(bytes([_SEED | byte >> 5, (byte & 31) << 3]) + self._key.private_bytes_raw())

    def claims(self, subject: Key, kind: str) -> str:
        """A token by which this key vouches for another."""
        body = {
            "jti": secrets.token_hex(16),
            "iat": int(time.time()),
            "iss": self.name,
            "name": kind,
            "sub": subject.name,
            "nats": {
                "type": kind,
                "version": 2,
                **_UNLIMITED,
                "limits": {"conn": -1, "leaf": -1, **_UNLIMITED},
            },
        }
        parts = [{"typ": "JWT", "alg": "ed25519-nkey"}, body]
        signed = b".".join(encoded(json.dumps(part).encode()) for part in parts)
        return b".".join((signed, encoded(self._key.sign(signed)))).decode()


def checked(data: bytes) -> str:
    """Bytes as NATS writes keys."""
    return base64.b32encode(data + binascii.crc_hqx(data, 0).to_bytes(2, "little")).decode().rstrip("=")


def encoded(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def credentials(path: Path, account: Key) -> Path:
    """The file of a new user of an account, as NATS's own tools write it."""
    user = Key("U")
    parts = {"NATS USER JWT": account.claims(user, "user"), "USER NKEY SEED": user.seed}
    blocks = (f"-----BEGIN {title}-----\n{text}\n------END {title}------\n" for title, text in parts.items())
    path.write_text("\n".join(blocks), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: "",
        lambda text: text.replace("BEGIN USER NKEY", "BEGIN"),
        lambda text: text.replace("\nSU", "\nSA"),
        lambda text: re.sub("\nSU.{4}", "\nSU2222", text),
        lambda text: re.sub("\nSU.*", "\nSU", text),
        lambda text: re.sub("\nSU.*", "\nSU\xff!", text),
    ],
    ids=["empty", "no seed", "an account's seed", "another seed", "short", "no base32"],
)
def test_file_that_is_not_one_of_nats_is_refused_without_its_text(
    tmp_path: Path, spoil: Callable[[str], str]
) -> None:
    path = credentials(tmp_path / "creds", Key("A"))
    path.write_text(spoil(path.read_text(encoding="utf-8")), encoding="utf-8")
    with pytest.raises(CredentialsError) as refused:
        signature(path, "nonce")
    assert "SU" not in str(refused.value)

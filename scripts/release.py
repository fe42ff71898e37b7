"""Creates a release: for daemons the wheel and its signed release.json, for renters the wheel of the client.

The private key is a file outside the repository: 32 bytes in Base64, which ``--new-key`` creates. Publish
the first two at DCP_UPDATE_URL, then set DCP_NEWEST_DAEMON on the server.
"""

from __future__ import annotations

import argparse
import base64
import binascii
import subprocess
import sys
import tempfile
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from daemon.service import release

ROOT = Path(__file__).resolve().parent.parent
CLIENT = ROOT / "gateway" / "client"


class KeyFileError(Exception):
    """The file does not contain a private key."""


def main() -> int:
    """Creates a key or a release. The exit status is 2 for an error that the user must correct."""
    options = _options()
    try:
        if options.new_key:
            print(f"DCP_UPDATE_PUBLIC_KEY={new_key(options.key)}")
        else:
            print(*publish(options.wheel or build(options.out), options.key, options.out), sep="\n")
            if not options.wheel:
                print(build(options.out, CLIENT))
    except (KeyFileError, OSError, release.ReleaseError, subprocess.CalledProcessError) as error:
        print(f"release: {error}", file=sys.stderr)
        return 2
    return 0


def new_key(path: Path) -> str:
    """Writes a new private key to a file that must not exist yet; returns the public key for daemons."""
    if path.resolve().is_relative_to(ROOT):
        raise KeyFileError(f"{path} is inside the repository: choose a path outside it")
    key = Ed25519PrivateKey.generate()
    path.touch(mode=0o600, exist_ok=False)
    path.write_text(base64.b64encode(key.private_bytes_raw()).decode() + "\n", encoding="utf-8")
    return public_key(key.private_bytes_raw())


def public_key(private_key: bytes) -> str:
    """The public key of a private key, in the form of the daemon's setting DCP_UPDATE_PUBLIC_KEY."""
    key = Ed25519PrivateKey.from_private_bytes(private_key)
    return base64.b64encode(key.public_key().public_bytes_raw()).decode()


def read_key(path: Path) -> bytes:
    """Reads the private key from a file. Raises KeyFileError."""
    if path.stat().st_mode & 0o077:
        raise KeyFileError(f"{path} can be read by other users: run chmod 600 {path}")
    try:
        key = base64.b64decode(path.read_text(encoding="utf-8").strip(), validate=True)
    except (binascii.Error, UnicodeDecodeError):
        key = b""
    if len(key) != 32:
        raise KeyFileError(f"{path} is not a private key: create one with --new-key")
    return key


def build(out: Path, source: Path = ROOT) -> Path:
    """Builds the wheel of this checkout, or of its client."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable,
            "-m",
            "pip",
            "wheel",
            "--quiet",
            "--no-deps",
            "--wheel-dir",
            folder,
            str(source),
        ]
        subprocess.run(command, check=True)
        (wheel,) = Path(folder).glob("*.whl")
        out.mkdir(parents=True, exist_ok=True)
        (out / wheel.name).write_bytes(wheel.read_bytes())
        return out / wheel.name


def publish(wheel: Path, key: Path, out: Path) -> tuple[Path, Path]:
    """Writes release.json and a copy of the wheel to ``out``; returns both paths."""
    content = wheel.read_bytes()
    # dcp_marketplace-VERSION-py3-none-any.whl
    version = wheel.name.split("-")[1]
    private_key = read_key(key)
    manifest = release.write(version, wheel.name, content, private_key)
    out.mkdir(parents=True, exist_ok=True)
    if (out / wheel.name) != wheel:
        (out / wheel.name).write_bytes(content)
    (out / "release.json").write_bytes(manifest)
    # Verify the release the way a daemon does, before it is published.
    found = release.read(manifest, base64.b64decode(public_key(private_key)))
    release.check_wheel(found, (out / wheel.name).read_bytes())
    return out / wheel.name, out / "release.json"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/release", description=__doc__)
    parser.add_argument("key", type=Path, help="the file of the private key, outside the repository")
    parser.add_argument("--new-key", action="store_true", help="create that file and print the public key")
    parser.add_argument("--out", type=Path, default=ROOT / "dist", help="folder for wheel and release.json")
    parser.add_argument("--wheel", type=Path, help="sign this wheel instead of building one")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())

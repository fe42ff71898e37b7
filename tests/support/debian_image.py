"""Builds the image of a small Debian with Python, from the packages that are installed on this machine.

It replaces the base of deploy/images/Dockerfile where no registry can be reached.
"""

from __future__ import annotations

import io
import re
import subprocess
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from tests.support.private_engine import PrivateEngine

IMAGE = "docker.io/library/python:test"
# What the official images of Python have, libgomp1 for the llamacpp engine, and what the server's image adds.
PACKAGES = (
    "base-passwd",
    "ca-certificates",
    "coreutils",
    "dash",
    "libgomp1",
    "libstdc++6",
    "passwd",
    "postgresql-client",
    "python3-venv",
    "tzdata",
)
_FIELDS = "${Package}\t${binary:Package}\t${db:Status-Status}\t${Provides}\t${Pre-Depends}, ${Depends}\n"
_NAME = re.compile(r"[a-z0-9][a-z0-9+.-]+")
_WITHOUT = (
    "/usr/share/doc/",
    "/usr/share/man/",
    "/usr/share/locale/",
    "/usr/share/lintian/",
    "/usr/share/info/",
)
_FOLDERS = ("bin", "lib", "lib64", "sbin")
_USERS = {
    "etc/passwd": "/usr/share/base-passwd/passwd.master",
    "etc/group": "/usr/share/base-passwd/group.master",
    "etc/ssl/certs/ca-certificates.crt": "/etc/ssl/certs/ca-certificates.crt",
}


def missing(packages: Sequence[str] = PACKAGES) -> str:
    """Why an image of these packages cannot be built here; empty if it can."""
    try:
        installed = _installed()
    except FileNotFoundError:
        return "this machine is not a Debian"
    lacking = [name for name in packages if name not in installed]
    return f"{', '.join(lacking)} missing: apt-get install them" if lacking else ""


def add_debian_image(
    engine: PrivateEngine,
    name: str = IMAGE,
    packages: Sequence[str] = PACKAGES,
    *,
    changes: Sequence[str] = (),
    files: Mapping[str, bytes] = MappingProxyType({}),
) -> str:
    """Builds an image of packages; returns its name. ``changes``, ``files``: as for ``add_image``."""
    options = [part for change in changes for part in ("--change", change)]
    command = ["docker", "-H", f"unix://{engine.socket}", "import", *options, "-", name]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as process:
        assert process.stdin is not None
        with tarfile.open(fileobj=process.stdin, mode="w|") as tar:
            _fill(tar, packages, files)
        process.stdin.close()
        assert process.wait() == 0
    return name


def _fill(tar: tarfile.TarFile, packages: Sequence[str], files: Mapping[str, bytes]) -> None:
    for folder in _FOLDERS:
        link = tarfile.TarInfo(folder)
        link.type, link.linkname = tarfile.SYMTYPE, f"usr/{folder}"
        tar.addfile(link)
    for folder, mode in (
        ("tmp", 0o1777),
        ("proc", 0o755),
        ("dev", 0o755),
        ("sys", 0o755),
    ):
        entry = tarfile.TarInfo(folder)
        entry.type, entry.mode = tarfile.DIRTYPE, mode
        tar.addfile(entry)
    users = {name: Path(source).read_bytes() for name, source in _USERS.items()}
    for name, content in {**users, **files}.items():
        entry = tarfile.TarInfo(name)
        entry.size, entry.mode = len(content), 0o644
        tar.addfile(entry, io.BytesIO(content))
    have = set(tar.getnames())
    for name, path in _files(packages).items():
        if name not in have:
            tar.add(path, name, recursive=False)


def _files(packages: Sequence[str]) -> Mapping[str, Path]:
    """The files of the packages and of what they need, by their paths in the image."""
    listed = subprocess.run(
        ["dpkg-query", "--listfiles", *sorted(_closure(packages))], check=True, capture_output=True, text=True
    ).stdout
    found: dict[str, Path] = {}
    for line in listed.splitlines():
        path = Path(line)
        if not line.startswith("/") or line.startswith(_WITHOUT) or line == "/.":
            continue
        if not (path.is_symlink() or path.is_file() or path.is_dir()):
            continue
        # Debian has /bin in /usr/bin, and so on, while its packages still name both.
        inside = line.lstrip("/")
        if inside in _FOLDERS:
            continue
        if inside.split("/")[0] in _FOLDERS:
            inside = f"usr/{inside}"
        found.setdefault(inside, path)
    return found


def _closure(packages: Sequence[str]) -> set[str]:
    installed = _installed()
    wanted, found = list(packages), set()
    while wanted:
        name = wanted.pop()
        binary, needs = installed[name]
        if binary not in found:
            found.add(binary)
            wanted += needs
    return found


def _installed() -> dict[str, tuple[str, list[str]]]:
    """The installed packages by the names that they have and provide: the full name, and what they need."""
    shown = subprocess.run(
        ["dpkg-query", "--show", f"--showformat={_FIELDS}"], check=True, capture_output=True, text=True
    ).stdout
    rows = [line.split("\t") for line in shown.splitlines() if line.count("\t") == 4]
    rows = [row for row in rows if row[2] == "installed"]
    names = {row[0]: row for row in rows}
    for row in rows:
        for provided in _NAME.findall(re.sub(r"\([^)]*\)", "", row[3])):
            names.setdefault(provided, row)
    return {name: (row[1], list(_needs(row[4], names.keys()))) for name, row in names.items()}


def _needs(text: str, installed: object) -> Iterator[str]:
    for alternatives in re.sub(r"\([^)]*\)|:\w+", "", text).split(","):
        names = [name for name in _NAME.findall(alternatives) if name in installed]  # type: ignore[operator]
        yield from names[:1]

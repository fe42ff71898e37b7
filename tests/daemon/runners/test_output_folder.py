"""A job's output as a tar or as a folder: which files are kept, and which never are."""

from __future__ import annotations

import hashlib
import io
import os
import socket
import tarfile
from pathlib import Path
from typing import Any

import pytest

from daemon.runners.output_folder import (
    MAX_FILES,
    Collected,
    TooMuchError,
    from_folder,
    from_tar,
    name_problem,
    used_in_tar,
)


def tar_of(*entries: tuple[str, Any]) -> io.BytesIO:
    """A tar; bytes become a file, and a dict becomes an entry with these fields."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in entries:
            entry = tarfile.TarInfo(name)
            if isinstance(content, bytes):
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
                continue
            for field, value in content.items():
                setattr(entry, field, value)
            tar.addfile(entry)
    buffer.seek(0)
    return buffer


def names(collected: Collected) -> dict[str, bytes]:
    return {file.name: file.path.read_bytes() for file in collected.artifacts}


def test_files_of_a_tar_are_copied_with_their_digests(tmp_path: Path) -> None:
    folder = {"type": tarfile.DIRTYPE}
    tar = tar_of(("output/", folder), ("output/a.txt", b"one"), ("output/d/", folder), ("output/d/b", b"two"))
    collected = from_tar(tar, tmp_path / "into", 100)
    assert names(collected) == {"a.txt": b"one", "d/b": b"two"}
    assert collected.notes == []
    first = collected.artifacts[0]
    assert (first.size_bytes, first.sha256) == (3, hashlib.sha256(b"one").digest())
    assert first.path.parent == tmp_path / "into"
    assert first.path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    "name",
    [
        *("../../x", "a/../../x", "/etc/passwd", "a//b", "./x/.", "a\nb", "a\x7fb", "a\\..\\b", "x" * 256),
        *("/".join("d" * 17), "/".join(["x" * 200] * 6), "bad\udcff"),
    ],
)
def test_unsafe_name_is_not_kept(tmp_path: Path, name: str) -> None:
    assert name_problem(name)
    collected = from_tar(tar_of(("output/" + name, b"evil"), ("output/good", b"ok")), tmp_path / "into", 100)
    assert names(collected) == {"good": b"ok"}
    assert "not taken from /output" in collected.notes[0]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["into"]


@pytest.mark.parametrize(
    "fields",
    [
        {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"},
        {"type": tarfile.SYMTYPE, "linkname": "../.."},
        {"type": tarfile.LNKTYPE, "linkname": "output/good"},
        {"type": tarfile.LNKTYPE, "linkname": "/etc/passwd"},
        {"type": tarfile.CHRTYPE, "devmajor": 1, "devminor": 8},
        {"type": tarfile.BLKTYPE, "devmajor": 8, "devminor": 0},
        {"type": tarfile.FIFOTYPE},
    ],
)
def test_links_and_devices_are_not_kept(tmp_path: Path, fields: dict[str, Any]) -> None:
    tar = tar_of(("output/good", b"ok"), ("output/odd", fields))
    collected = from_tar(tar, tmp_path / "into", 100)
    assert names(collected) == {"good": b"ok"}
    assert "'odd'" in collected.notes[0]


def test_files_over_the_limit_are_not_kept_at_all(tmp_path: Path) -> None:
    with pytest.raises(TooMuchError, match="more than 10 bytes"):
        from_tar(tar_of(("output/a", b"123456"), ("output/b", b"123456")), tmp_path / "into", 10)
    many = [(f"output/{number}", b"") for number in range(MAX_FILES + 1)]
    with pytest.raises(TooMuchError, match=f"more than {MAX_FILES} files"):
        from_tar(tar_of(*many), tmp_path / "into", 10)


def test_number_of_notes_is_limited(tmp_path: Path) -> None:
    odd = [(f"output/{number}", {"type": tarfile.FIFOTYPE}) for number in range(500)]
    assert len(from_tar(tar_of(*odd), tmp_path / "into", 10).notes) == 20


def test_truncated_tar_is_an_error(tmp_path: Path) -> None:
    cut = tar_of(("output/a", b"x" * 5000)).getvalue()[:2000]
    with pytest.raises(tarfile.TarError):
        from_tar(io.BytesIO(cut), tmp_path / "into", 100_000)


def test_space_is_counted_in_whole_pages() -> None:
    assert used_in_tar(tar_of(("tmp/a", b"x"), ("tmp/b", b"x" * 5000))) == 3 * 4096


def test_folder_is_read_without_following_links(tmp_path: Path) -> None:
    output = tmp_path / "output"
    (output / "d").mkdir(parents=True)
    (output / "d" / "good").write_bytes(b"ok")
    secret = tmp_path / "secret"
    secret.write_text("secret")
    (output / "link").symlink_to(secret)
    (output / "folder").symlink_to("/etc")
    os.link(secret, output / "twin")
    os.mkfifo(output / "pipe")
    with socket.socket(socket.AF_UNIX) as door:
        door.bind(str(output / "door"))
        collected = from_folder(output, tmp_path / "into", 100)
    assert names(collected) == {"d/good": b"ok"}
    assert len(collected.notes) == 5


def test_output_folder_that_is_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "output").symlink_to("/etc")
    with pytest.raises(OSError, match="output"):
        from_folder(tmp_path / "output", tmp_path / "into", 100)

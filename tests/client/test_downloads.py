"""Names that a job chose stay in the folder, and a file has its name only when its content is right."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from dcp_client import DigestError, UnsafeNameError, objects
from dcp_client.downloads import PartFile, is_here, target

CONTENT = b"weights" * 1000


def artifact(content: bytes = CONTENT) -> objects.Artifact:
    return objects.Artifact(name="w.bin", size_bytes=len(content), sha256=hashlib.sha256(content).hexdigest())


@pytest.mark.parametrize("name", ["w.bin", "model/w.bin", "أوزان.bin", "a b", "..w", "a..b/c"])
def test_relative_name_lies_in_the_folder(tmp_path: Path, name: str) -> None:
    assert target(tmp_path, name) == tmp_path / name


@pytest.mark.parametrize(
    "name",
    [
        *("", "/etc/passwd", "../x", "a/../../x", "a/./b", "a//b", "a\\..\\b", "~/x", "C:x", "a/"),
        *("nul", "COM1.txt", "a\nb", "a\u202eb", "\x00"),
    ],
)
def test_name_that_leads_elsewhere_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UnsafeNameError):
        target(tmp_path, name)


def test_link_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    folder, outside = tmp_path / "out", tmp_path / "outside"
    folder.mkdir()
    outside.mkdir()
    (folder / "link").symlink_to(outside)
    with pytest.raises(UnsafeNameError):
        target(folder, "link/x")


def test_part_is_continued_and_named_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "model" / "w.bin"
    part = PartFile(path, artifact())
    part.write(CONTENT[:100])
    part.close()
    again = PartFile(path, artifact())
    assert again.size == 100
    again.write(CONTENT[100:])
    assert not path.exists()
    assert again.finish() == path
    assert path.read_bytes() == CONTENT
    assert list(path.parent.iterdir()) == [path]
    assert is_here(path, artifact())
    assert not is_here(path, artifact(b"other"))


@pytest.mark.parametrize("wrong", [CONTENT[:-1] + b"x", CONTENT + b"x"], ids=["changed", "longer"])
def test_file_with_another_digest_is_deleted(tmp_path: Path, wrong: bytes) -> None:
    def receive() -> None:
        part = PartFile(tmp_path / "w.bin", artifact())
        part.write(wrong)
        part.finish()

    with pytest.raises(DigestError):
        receive()
    assert list(tmp_path.iterdir()) == []


def test_part_of_another_version_is_not_continued(tmp_path: Path) -> None:
    old = PartFile(tmp_path / "w.bin", artifact(b"old"))
    old.write(b"ol")
    old.close()
    new = PartFile(tmp_path / "w.bin", artifact())
    new.close()
    assert new.size == 0

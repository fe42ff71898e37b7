"""Files are replaced completely or not at all."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from daemon.machine import durable


def test_file_is_written_with_its_text_and_mode(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    durable.replace(path, "new", mode=0o640, owner=tmp_path.stat())
    assert (path.read_text(), stat.S_IMODE(path.stat().st_mode)) == ("new", 0o640)
    assert path.stat().st_uid == os.geteuid()


def test_failed_write_leaves_only_the_old_text(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(UnicodeEncodeError):
        durable.replace(path, "\ud800", mode=0o600)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]

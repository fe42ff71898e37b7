"""The identity file."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from daemon.config.identity import (
    Identity,
    IdentityError,
    identity_path,
    load,
    note_accepted,
    save,
    was_accepted,
)

IDENTITY = Identity(42, "dcp-provider-secret", "127.0.0.1:50051")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_saved_identity_is_loaded_and_private(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "state"
    path = save(folder, IDENTITY)
    assert load(folder) == IDENTITY
    assert mode(path) == 0o600
    assert mode(folder) == 0o700


def test_saving_again_replaces_the_file_and_leaves_no_other(tmp_path: Path) -> None:
    save(tmp_path, IDENTITY)
    save(tmp_path, Identity(43, "other", "x:1"))
    assert load(tmp_path).provider_id == 43
    assert [path.name for path in tmp_path.iterdir()] == ["identity.json"]


@pytest.mark.parametrize("open_mode", [0o640, 0o604, 0o660])
def test_file_open_to_others_is_refused_with_the_remedy(tmp_path: Path, open_mode: int) -> None:
    save(tmp_path, IDENTITY).chmod(open_mode)
    with pytest.raises(IdentityError, match="chmod 600"):
        load(tmp_path)


def test_missing_file_names_the_register_command(tmp_path: Path) -> None:
    with pytest.raises(IdentityError, match="dcp-daemon register"):
        load(tmp_path / "none")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[" * 100_000,
        "[]",
        "{}",
        '{"provider_id": 1, "api_key": "", "server": "x"}',
        '{"provider_id": "x"}',
    ],
)
def test_damaged_file_is_refused(tmp_path: Path, text: str) -> None:
    save(tmp_path, IDENTITY)
    identity_path(tmp_path).write_text(text)
    with pytest.raises(IdentityError, match="damaged"):
        load(tmp_path)


def test_mark_before_the_text_and_other_line_ends_change_nothing(tmp_path: Path) -> None:
    path = save(tmp_path, IDENTITY)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert load(tmp_path) == IDENTITY


def test_file_in_another_encoding_is_refused_by_its_name(tmp_path: Path) -> None:
    path = save(tmp_path, IDENTITY)
    path.write_bytes(path.read_text(encoding="utf-8").encode("utf-16"))
    with pytest.raises(IdentityError, match="saved as UTF-16: save it as UTF-8"):
        load(tmp_path)


def test_key_is_not_in_the_repr() -> None:
    assert "secret" not in repr(IDENTITY)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make folders of other users")
def test_root_saves_the_file_for_the_owner_of_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "dcp"
    folder.mkdir()
    os.chown(folder, 65534, 65534)
    status = save(folder, Identity(42, "dcp-provider-x", "127.0.0.1:1")).stat()
    assert (status.st_uid, stat.S_IMODE(status.st_mode)) == (65534, 0o600)


def test_invisible_character_of_the_key_is_named_and_white_space_around_it_ignored(tmp_path: Path) -> None:
    save(tmp_path, Identity(42, "dcp-provider-secret\r\n", "127.0.0.1:50051"))
    assert load(tmp_path) == IDENTITY
    save(tmp_path, Identity(42, "dcp-provider\u200b-secret", "127.0.0.1:50051"))
    with pytest.raises(IdentityError, match=r"U\+200B \(ZERO WIDTH SPACE\) at position 13") as caught:
        load(tmp_path)
    assert "secret" not in str(caught.value)


def test_key_counts_as_accepted_only_with_its_server(tmp_path: Path) -> None:
    assert not was_accepted(tmp_path, "s:1", "key")
    note_accepted(tmp_path, "s:1", "key")
    assert was_accepted(tmp_path, "s:1", "key")
    assert not was_accepted(tmp_path, "s:2", "key")
    assert not was_accepted(tmp_path, "s:1", "other")
    (file,) = tmp_path.iterdir()
    assert "key" not in file.read_text()
    assert mode(file) == 0o600
    note_accepted(tmp_path / "nowhere", "s:1", "key")

"""A job's inputs become files of `/input`, and nothing of a hostile tar gets further than its own folder."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from daemon.runners.input_files import Given, Limits, RefusedError, pack, unpack

LIMITS = Limits(1 << 20, entries=50)


def tar_at(path: Path, *entries: tuple[str, bytes | None, dict[str, object]], mode: str = "w") -> Path:
    """A tar of entries: a name, its content, and what else its head says."""
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        for name, content, more in entries:
            entry = tarfile.TarInfo(name)
            entry.size = len(content or b"")
            for field, value in more.items():
                setattr(entry, field, value)
            tar.addfile(entry, io.BytesIO(content or b""))
    return path


def unpacked(tmp_path: Path, *given: Given, limits: Limits = LIMITS) -> dict[str, bytes]:
    """The files of `/input` by their names."""
    pack(given, {}, tmp_path / "ours.tar", limits)
    folder = tmp_path / "input"
    folder.mkdir()
    unpack(tmp_path / "ours.tar", folder)
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refusal(tmp_path: Path, packed: Path, limits: Limits = LIMITS) -> str:
    with pytest.raises(RefusedError) as refused:
        pack([Given(packed, "", unpack=True)], {}, tmp_path / "ours.tar", limits)
    return str(refused.value)


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_a_tar_is_unpacked_where_its_path_says(tmp_path: Path, mode: str) -> None:
    packed = tar_at(
        tmp_path / "theirs",
        ("./", None, {"type": tarfile.DIRTYPE}),
        ("./data/a.txt", b"a", {}),
        ("data/run.sh", b"b", {"mode": 0o755}),
        ("data/link", None, {"type": tarfile.SYMTYPE, "linkname": "../data/a.txt"}),
        mode=mode,
    )
    plain = tmp_path / "plain"
    plain.write_bytes(b"c")
    found = unpacked(tmp_path, Given(packed, "set", unpack=True), Given(plain, "c.bin", unpack=False))
    assert found == {"set/data/a.txt": b"a", "set/data/run.sh": b"b", "set/data/link": b"a", "c.bin": b"c"}
    assert (tmp_path / "input/set/data/run.sh").stat().st_mode & 0o777 == 0o500
    assert (tmp_path / "input/set/data/a.txt").stat().st_mode & 0o777 == 0o400


@pytest.mark.parametrize(
    ("name", "more", "text"),
    [
        ("../evil", {}, "leads out"),
        ("a/../../evil", {}, "leads out"),
        ("/etc/passwd", {}, "leads out"),
        ("a\nb", {}, "characters"),
        ("/".join("abcdefghijklmnopqrst"), {}, "too deep"),
        ("link", {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"}, "leads out"),
        ("a/link", {"type": tarfile.SYMTYPE, "linkname": "../../x"}, "leads out"),
        ("a/link", {"type": tarfile.SYMTYPE, "linkname": "../b/../c"}, "behind a name"),
        ("hard", {"type": tarfile.LNKTYPE, "linkname": "/etc/passwd"}, "hard link"),
        ("device", {"type": tarfile.CHRTYPE, "devmajor": 1, "devminor": 3}, "device"),
        ("block", {"type": tarfile.BLKTYPE}, "device"),
        ("pipe", {"type": tarfile.FIFOTYPE}, "device"),
    ],
)
def test_names_links_and_devices_that_lead_out_are_refused(
    tmp_path: Path, name: str, more: dict[str, object], text: str
) -> None:
    assert text in refusal(tmp_path, tar_at(tmp_path / "theirs", (name, b"", more)))


def test_a_link_is_no_way_for_a_later_file(tmp_path: Path) -> None:
    packed = tar_at(
        tmp_path / "theirs",
        ("real/a", b"a", {}),
        ("link", None, {"type": tarfile.SYMTYPE, "linkname": "real"}),
        ("link/b", b"b", {}),
    )
    assert "is no folder" in refusal(tmp_path, packed)


def test_a_chain_of_links_does_not_lead_out(tmp_path: Path) -> None:
    packed = tar_at(
        tmp_path / "theirs",
        ("a/b/file", b"a", {}),
        ("a/b/up", None, {"type": tarfile.SYMTYPE, "linkname": "../.."}),
        ("out", None, {"type": tarfile.SYMTYPE, "linkname": "a/b/up/../x"}),
    )
    assert "behind a name" in refusal(tmp_path, packed)


def test_two_files_at_one_place_are_refused(tmp_path: Path) -> None:
    assert "this place" in refusal(tmp_path, tar_at(tmp_path / "t", ("a", b"1", {}), ("a", b"2", {})))
    assert "no folder" in refusal(tmp_path, tar_at(tmp_path / "t", ("a", b"1", {}), ("a/b", b"2", {})))


def test_what_unpacks_to_too_much_is_refused_before_it_takes_the_room(tmp_path: Path) -> None:
    bomb = tar_at(tmp_path / "bomb.gz", ("zeros", bytes(50 << 20), {}), mode="w:gz")
    assert bomb.stat().st_size < 100_000
    assert "more than the 1048576 bytes" in refusal(tmp_path, bomb)
    assert (tmp_path / "ours.tar").stat().st_size < 1 << 20
    many = tar_at(tmp_path / "many", *((f"f{number}", b"", {}) for number in range(60)))
    assert "more than 50 files" in refusal(tmp_path, many)


def damage(content: bytes) -> bytes:
    return content[:1024] + bytes(512 - len(content) % 512) + b"x" * 300


@pytest.mark.parametrize(
    "change", [lambda content: content[:700], lambda content: b"no tar at all", damage, lambda content: b""]
)
def test_a_cut_or_damaged_tar_is_refused_in_words(tmp_path: Path, change: Callable[[bytes], bytes]) -> None:
    packed = tar_at(tmp_path / "theirs", ("a", b"a" * 5000, {}))
    packed.write_bytes(change(packed.read_bytes()))
    assert "cannot be unpacked" in refusal(tmp_path, packed)


def test_a_gzip_that_is_cut_is_refused_in_words(tmp_path: Path) -> None:
    packed = tar_at(tmp_path / "theirs", ("a", bytes(range(256)) * 100, {}), mode="w:gz")
    packed.write_bytes(packed.read_bytes()[:100])
    assert "cannot be unpacked" in refusal(tmp_path, packed)


def test_long_attributes_and_holes_are_refused(tmp_path: Path) -> None:
    long = tar_at(tmp_path / "long", ("a", b"", {"pax_headers": {"comment": "x" * 100_000}}))
    assert "names and attributes" in refusal(tmp_path, long)
    holes = tar_at(
        tmp_path / "holes",
        ("a", b"", {"pax_headers": {"GNU.sparse.major": "1", "GNU.sparse.minor": "0"}}),
    )
    assert "holes" in refusal(tmp_path, holes)


@pytest.mark.parametrize("size", [-16384, 0, 512, 1 << 30])
def test_sizes_from_a_global_header_are_refused(tmp_path: Path, size: int) -> None:
    packed = tmp_path / "theirs"
    with tarfile.open(packed, "w", format=tarfile.PAX_FORMAT, pax_headers={"size": f"{size}"}) as tar:
        for name in "ab":
            entry = tarfile.TarInfo(name)
            entry.size = 16384
            tar.addfile(entry, io.BytesIO(bytes(16384)))
    assert "size" in refusal(tmp_path, packed)
    assert (tmp_path / "ours.tar").stat().st_size < 1 << 20


@pytest.mark.parametrize("size", ["-1", "-16384", "-99999999999999999999"])
def test_size_below_zero_is_refused(tmp_path: Path, size: str) -> None:
    packed = tar_at(tmp_path / "theirs", ("a", b"a" * 5000, {"pax_headers": {"size": size}}), ("b", b"b", {}))
    assert "cannot be unpacked" in refusal(tmp_path, packed)


def test_size_of_an_own_header_is_taken(tmp_path: Path) -> None:
    """It is how files of 8 GiB and more are packed."""
    packed = tar_at(
        tmp_path / "theirs", ("a", b"a" * 5000, {"pax_headers": {"size": "5000"}}), ("b", b"b", {})
    )
    assert unpacked(tmp_path, Given(packed, "", unpack=True)) == {"a": b"a" * 5000, "b": b"b"}

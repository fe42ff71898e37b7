"""What CI would say: layers, lint, format, types, generated code."""

from __future__ import annotations

from pathlib import Path

from tests.architecture.tools import ROOT, assert_passes, run


def test_import_contracts_hold() -> None:
    assert_passes("lint-imports", "--no-cache")


def test_ruff_finds_nothing() -> None:
    assert_passes("ruff", "check", ".")


def test_files_are_formatted() -> None:
    assert_passes("ruff", "format", "--check", ".")


def test_types_hold() -> None:
    assert_passes("mypy")


def test_generated_code_is_what_the_protos_say() -> None:
    assert_passes("python", "-m", "scripts.generate", "--check")


def test_check_of_generated_code_can_fail(tmp_path: Path) -> None:
    """On a copy: a proto that was changed without generating is found."""
    import shutil

    for name in ("protos", "generated", "scripts"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    proto = tmp_path / "protos/dcp/v1/ledger.proto"
    proto.write_text(proto.read_text().replace("int64 transfers = 2", "int64 transfer_count = 2"))
    done = run("python", "-m", "scripts.generate", "--check", cwd=tmp_path)
    assert done.returncode == 1
    assert "ledger_pb2.py" in done.stderr


def test_check_of_the_reference_can_fail(tmp_path: Path) -> None:
    """On a copy: a page that was edited by hand, and one that is missing, are found."""
    import shutil

    for name in ("protos", "generated", "scripts", "docs"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    page = tmp_path / "docs/reference/settings.md"
    page.write_text(page.read_text().replace("127.0.0.1:50051", "127.0.0.1:50052", 1))
    (tmp_path / "docs/reference/errors.md").unlink()
    done = run("python", "-m", "scripts.generate", "--check", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "stale: docs/reference/settings.md; run scripts/generate",
        "stale: docs/reference/errors.md; run scripts/generate",
    ]

"""The tools of CI: layers, lint, format, types, generated code."""

from __future__ import annotations

from pathlib import Path

from tests.architecture.tools import ROOT, assert_passes, run


def test_import_contracts_hold() -> None:
    assert_passes("lint-imports", "--no-cache")


def test_ruff_finds_nothing() -> None:
    assert_passes("ruff", "check", ".")


def test_files_are_formatted() -> None:
    assert_passes("ruff", "format", "--check", ".")


def test_types_are_correct() -> None:
    assert_passes("mypy")


def test_generated_code_is_up_to_date() -> None:
    assert_passes("python", "-m", "scripts.generate", "--check")


def test_outdated_generated_code_is_found(tmp_path: Path) -> None:
    """Changes a proto in a copy, without generating the code again."""
    import shutil

    for name in ("protos", "generated", "scripts"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    proto = tmp_path / "protos/dcp/v1/ledger.proto"
    proto.write_text(proto.read_text().replace("int64 transfers = 2", "int64 transfer_count = 2"))
    done = run("python", "-m", "scripts.generate", "--check", cwd=tmp_path)
    assert done.returncode == 1
    assert "ledger_pb2.py" in done.stderr


def test_edited_missing_or_superfluous_file_is_found(tmp_path: Path) -> None:
    """Edits a page and a part of the client in a copy by hand, deletes another page, and adds a module."""
    import shutil

    for name in ("protos", "generated", "scripts", "docs", "deploy", "gateway/client"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    page = tmp_path / "docs/reference/settings.md"
    page.write_text(page.read_text().replace("127.0.0.1:50051", "127.0.0.1:50052", 1))
    (tmp_path / "docs/reference/errors.md").unlink()
    model = tmp_path / "gateway/client/dcp_client/generated/models.py"
    model.write_text(model.read_text().replace("job_id", "id"))
    (model.parent / "left_over.py").touch()
    done = run("python", "-m", "scripts.generate", "--check", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "stale: gateway/client/dcp_client/generated/left_over.py; run scripts/generate",
        "stale: docs/reference/settings.md; run scripts/generate",
        "stale: docs/reference/errors.md; run scripts/generate",
        "stale: gateway/client/dcp_client/generated/models.py; run scripts/generate",
    ]

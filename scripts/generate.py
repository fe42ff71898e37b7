"""Writes generated/ and docs/reference, or with --check proves that they are up to date.

Beside the Python code and its types it writes ``descriptors.binpb``, the descriptor set with
source information: generated Python carries no comments, and the OpenAPI document prints them.
"""

from __future__ import annotations

import argparse
import filecmp
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROTOS = ROOT / "protos"
GENERATED = ROOT / "generated" / "dcp"


def googleapis_include() -> Path:
    """The folder with google/api/annotations.proto, from googleapis-common-protos."""
    import google.api  # a namespace package: it has a path, but no file

    return Path(next(iter(google.api.__path__))).parent.parent


def generate_into(target: Path) -> None:
    """Runs protoc with its plugins; ``target`` becomes what generated/dcp shall be."""
    names = sorted(str(path.relative_to(PROTOS)) for path in PROTOS.rglob("*.proto"))
    with tempfile.TemporaryDirectory() as scratch:
        bin_folder = Path(sys.executable).parent
        subprocess.run(
            [
                sys.executable, "-m", "grpc_tools.protoc",
                f"--proto_path={PROTOS}", f"--proto_path={googleapis_include()}",
                f"--plugin=protoc-gen-mypy={bin_folder / 'protoc-gen-mypy'}",
                f"--plugin=protoc-gen-mypy_grpc={bin_folder / 'protoc-gen-mypy_grpc'}",
                f"--python_out={scratch}", f"--grpc_python_out={scratch}",
                f"--mypy_out=quiet:{scratch}", f"--mypy_grpc_out=quiet:{scratch}",
                *names,
            ],
            check=True,
        )  # fmt: skip
        made = Path(scratch) / "dcp"
        subprocess.run(
            [
                sys.executable, "-m", "grpc_tools.protoc",
                f"--proto_path={PROTOS}", f"--proto_path={googleapis_include()}",
                "--include_source_info", f"--descriptor_set_out={made / 'v1' / 'descriptors.binpb'}",
                *names,
            ],
            check=True,
        )  # fmt: skip
        for folder in (made, made / "v1"):
            (folder / "__init__.py").write_text(
                '"""Generated from protos/ by scripts/generate; edit the protos instead."""\n'
            )
            (folder / "py.typed").touch()
        (made / "settings.py").write_text(settings_module())
        shutil.copytree(made, target, dirs_exist_ok=True)


def settings_module() -> str:
    """A module with the names of all settings, of which each program knows what its own mean."""
    names = (PROTOS / "settings.txt").read_text().split()
    lines = "".join(f'        "{name}",\n' for name in names)
    return (
        '"""Generated from protos/settings.txt by scripts/generate; edit that instead."""\n\n'
        f"SETTINGS = frozenset(\n    {{\n{lines}    }}\n)\n"
    )


def differences(expected: Path, actual: Path) -> list[str]:
    """The files that differ, are missing or are too many, as paths below the folders."""
    skip = {"__pycache__"}
    one = {p.relative_to(expected) for p in expected.rglob("*") if p.is_file() and not skip & set(p.parts)}
    two = {p.relative_to(actual) for p in actual.rglob("*") if p.is_file() and not skip & set(p.parts)}
    changed = [p for p in one & two if not filecmp.cmp(expected / p, actual / p, shallow=False)]
    return sorted(str(p) for p in [*changed, *(one ^ two)])


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/generate", description=__doc__)
    parser.add_argument(
        "--check", action="store_true", help="change nothing; exit 1 when a generated file is stale"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        fresh = Path(scratch) / "dcp"
        generate_into(fresh)
        stale = differences(fresh, GENERATED) if GENERATED.exists() else ["(everything)"]
        stale = [f"generated/dcp/{name}" for name in stale]
        if stale and not options.check:
            shutil.rmtree(GENERATED, ignore_errors=True)
            shutil.copytree(fresh, GENERATED)
    # The reference is read from the generated code, so that has to be right first.
    if not (stale and options.check):
        stale += reference_pages(write=not options.check)
    if options.check:
        for name in stale:
            print(f"stale: {name}; run scripts/generate", file=sys.stderr)
        return 1 if stale else 0
    print(f"generated: {len(stale)} files changed")
    return 0


def reference_pages(*, write: bool) -> list[str]:
    """The pages of docs/reference that are not up to date; afterwards they are, if they are to be written."""
    from scripts import reference  # it imports the generated code

    stale = []
    for path, text in reference.pages().items():
        file = ROOT / path
        if not file.exists() or file.read_text() != text:
            stale.append(str(path))
            if write:
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(text)
    return stale


if __name__ == "__main__":
    sys.exit(main())

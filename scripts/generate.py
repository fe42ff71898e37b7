"""Writes generated/ and what is drawn from it: docs/reference, deploy/monitoring and the client's code.

With --check it only compares.

In addition to the Python code and its types it writes ``descriptors.binpb``, the descriptor set with
source information: generated Python has no comments, and the OpenAPI document needs them.
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
    """The folder of googleapis-common-protos that contains google/api/annotations.proto."""
    import google.api  # a namespace package: it has a path, but no file

    return Path(next(iter(google.api.__path__))).parent.parent


def generate_into(target: Path) -> None:
    """Runs protoc with its plugins and writes the content of generated/dcp to ``target``."""
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
        output = Path(scratch) / "dcp"
        subprocess.run(
            [
                sys.executable, "-m", "grpc_tools.protoc",
                f"--proto_path={PROTOS}", f"--proto_path={googleapis_include()}",
                "--include_source_info", f"--descriptor_set_out={output / 'v1' / 'descriptors.binpb'}",
                *names,
            ],
            check=True,
        )  # fmt: skip
        for folder in (output, output / "v1"):
            (folder / "__init__.py").write_text(
                '"""Generated from protos/ by scripts/generate; edit the protos instead."""\n',
                encoding="utf-8",
            )
            (folder / "py.typed").touch()
        (output / "settings.py").write_text(settings_module(), encoding="utf-8")
        shutil.copytree(output, target, dirs_exist_ok=True)


def settings_module() -> str:
    """The source of a module with the names of all settings. Each program knows the meaning of its own."""
    names = (PROTOS / "settings.txt").read_text(encoding="utf-8").split()
    lines = "".join(f'        "{name}",\n' for name in names)
    return (
        '"""Generated from protos/settings.txt by scripts/generate; edit that instead."""\n\n'
        f"SETTINGS = frozenset(\n    {{\n{lines}    }}\n)\n"
    )


def differences(expected: Path, actual: Path) -> list[str]:
    """The relative paths of the files that differ, are missing or are superfluous."""
    skip = {"__pycache__"}
    one = {p.relative_to(expected) for p in expected.rglob("*") if p.is_file() and not skip & set(p.parts)}
    two = {p.relative_to(actual) for p in actual.rglob("*") if p.is_file() and not skip & set(p.parts)}
    changed = [p for p in one & two if not filecmp.cmp(expected / p, actual / p, shallow=False)]
    return sorted(str(p) for p in [*changed, *(one ^ two)])


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/generate", description=__doc__)
    parser.add_argument(
        "--check", action="store_true", help="change nothing; exit with 1 if a generated file is stale"
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
    # The reference and the client are built from the generated code, which must be up to date first.
    if not (stale and options.check):
        stale += derived_files(write=not options.check)
    if options.check:
        for name in stale:
            print(f"stale: {name}; run scripts/generate", file=sys.stderr)
        return 1 if stale else 0
    print(f"generated: {len(stale)} files changed")
    return 0


def derived_files(*, write: bool) -> list[str]:
    """The pages and files that are stale. With ``write``, they are updated."""
    from scripts import client_code, monitoring, reference  # they import the generated code

    texts = {**reference.pages(), **monitoring.files(), **client_code.files(ROOT)}
    folder = ROOT / client_code.FOLDER
    known = {ROOT / path for path in texts}
    stale = []
    for file in sorted(folder.glob("*.py")):
        if file not in known:
            stale.append(str(file.relative_to(ROOT)))
            if write:
                file.unlink()
    for path, text in texts.items():
        file = ROOT / path
        if not file.exists() or file.read_text(encoding="utf-8") != text:
            stale.append(str(path))
            if write:
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(text, encoding="utf-8")
    return stale


if __name__ == "__main__":
    sys.exit(main())

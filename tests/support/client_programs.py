"""The clients of other vendors that tests/e2e/test_clients.py runs, their versions and their installation.

Each is installed from PyPI or npm into a folder of its own in .cache/clients by the first test that needs it.
A folder that is already there, with a file beside it that names the same packages, is used as it is.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[2] / ".cache" / "clients"
INSTALL_SECONDS = 900

# The packages by the name of their environment. Those of npm have an @ between name and version.
PACKAGES: dict[str, tuple[str, ...]] = {
    "python": (
        "openai==3.57.0",
        "anthropic==2.14.0",
        "langchain-openai==1.7.4",
        "llm==0.36",
        "openai-agents==0.24.0",
        "pydantic-ai-slim[openai]==2.68.0",
    ),
    "litellm": ("litellm==1.108.14",),
    "lm-eval": ("lm-eval[api]==0.4.13",),
    "aider": ("aider-chat==0.86.2",),
    # The newest of these two for Node 20.
    "ai-sdk": ("ai@6.0.326", "@ai-sdk/openai-compatible@2.0.92", "zod@4.6.7"),
    "promptfoo": ("promptfoo@0.121.20",),
    "codex": ("@openai/codex@0.171.0",),
    "claude-code": ("@anthropic-ai/claude-code@2.1.197",),
    # It wants Node 22 for its installer, while the program needs none.
    "claude-code-new": ("@anthropic-ai/claude-code@2.1.332",),
}


class NotInstallableError(Exception):
    """A client cannot be installed here. The text says why."""


def install(name: str) -> Path:
    """The folder of an environment, which is installed first if necessary. Raises NotInstallableError."""
    folder, packages = FOLDER / name, PACKAGES[name]
    stamp = FOLDER / f"{name}.installed"
    wanted = "\n".join(packages)
    if stamp.is_file() and stamp.read_text(encoding="utf-8") == wanted and folder.exists():
        return folder
    is_python = any("==" in package for package in packages)
    npm = shutil.which("npm")
    if not is_python and npm is None:
        raise NotInstallableError("npm is not installed")
    stamp.unlink(missing_ok=True)
    if folder.is_symlink():
        folder.unlink()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    if is_python:
        _run(sys.executable, "-m", "venv", str(folder))
        pip = (str(folder / "bin" / "pip"), "--disable-pip-version-check", "install", "--quiet")
        _run(*pip, *packages)
    else:
        _run(str(npm), "install", "--prefix", str(folder), "--no-audit", "--no-fund", "--silent", *packages)
    stamp.write_text(wanted, encoding="utf-8")
    return folder


def _run(*command: str) -> None:
    try:
        subprocess.run(command, check=True, capture_output=True, timeout=INSTALL_SECONDS)
    except subprocess.TimeoutExpired:
        raise NotInstallableError(f"the installation took longer than {INSTALL_SECONDS} s") from None
    except subprocess.CalledProcessError as error:
        lines = (error.stderr or error.stdout).decode(errors="replace").strip().splitlines()
        raise NotInstallableError(f"it cannot be installed: {lines[-1] if lines else error}") from None

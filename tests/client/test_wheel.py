"""The wheel as renters install it: alone, without the programs, with no more than it says that it needs."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest
from dcp_client import Client

from scripts.release import CLIENT, ROOT, build
from tests.client.conftest import Stage, Terminal
from tests.client.test_market import SHORT
from tests.support.scripted_daemon import MODEL, answer_to

pytestmark = [pytest.mark.e2e, pytest.mark.slow]


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel of the client and that of the programs."""
    folder = tmp_path_factory.mktemp("wheels")
    build(folder, CLIENT)
    build(folder, ROOT)
    return folder


def names(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


def test_client_is_in_its_own_wheel_and_in_no_other(wheels: Path) -> None:
    (client,) = wheels.glob("dcp_client-*.whl")
    (programs,) = wheels.glob("dcp_marketplace-*.whl")
    own = {name.partition("/")[0].partition("-")[0] for name in names(client)}
    assert own == {"dcp_client"}
    assert {
        "dcp_client/py.typed",
        "dcp_client/locales/ar.json",
        "dcp_client/generated/sync_client.py",
    } <= set(names(client))
    assert [name for name in names(programs) if "client" in name and "dcp_client" in name] == []


@pytest.mark.parametrize("extra", ["", "cli"])
def test_wheel_works_in_an_environment_of_its_own(
    stage: Stage, key: str, wheels: Path, tmp_path: Path, extra: str
) -> None:
    """What it needs comes from this environment's versions, and is put there without the programs."""
    (wheel,) = wheels.glob("dcp_client-*.whl")
    place = tmp_path / "environment"
    venv.create(place, with_pip=False, symlinks=True)
    python = place / "bin" / "python"
    target = next((place / "lib").glob("python*")) / "site-packages"
    wanted = f"{wheel}[{extra}]" if extra else str(wheel)
    pip = [sys.executable, "-m", "pip", "--quiet", "--python", str(python), "install"]
    done = subprocess.run(
        [*pip, "--constraint", str(ROOT / "constraints.txt"), wanted],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        pytest.skip(f"pip cannot install what the wheel needs: {done.stderr.strip().splitlines()[-1]}")
    assert not (target / "google").exists()
    environ = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "DCP_API_URL": stage.market.url,
        "DCP_API_KEY": key,
    }
    dcp = [str(place / "bin" / "dcp")]
    if not extra:
        code = (
            "from dcp_client import Client\n"
            f"print(''.join(Client().chat.stream({MODEL!r}, [{{'role': 'user', 'content': {SHORT!r}}}])))"
        )
        told = subprocess.run(
            [str(python), "-c", code], env=environ, capture_output=True, text=True, check=False
        )
        bare = subprocess.run([*dcp, "market"], env=environ, capture_output=True, text=True, check=False)
        assert (bare.returncode, "pip install" in bare.stderr) == (2, True)
    else:
        told = subprocess.run(
            [*dcp, "ask", "--model", MODEL, SHORT],
            env=environ,
            capture_output=True,
            text=True,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    assert told.stdout.strip() == answer_to(SHORT).strip(), told.stderr


def test_version_is_that_of_the_wheel(wheels: Path, terminal: Terminal) -> None:
    from dcp_client.calls import USER_AGENT

    (wheel,) = wheels.glob("dcp_client-*.whl")
    assert f"dcp-client/{wheel.name.split('-')[1]}" == USER_AGENT
    assert terminal.output("--version").split() == ["dcp-client", wheel.name.split("-")[1]]
    assert Client.__module__ == "dcp_client.generated.sync_client"

"""The wheel as renters install it: alone, without the programs, with no more than it says that it needs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from dcp_client import Client
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from scripts.release import CLIENT, ROOT, build
from tests.client.conftest import Stage, Terminal
from tests.client.test_market import SHORT, leaves
from tests.support.interpreters import OLDEST, installed, interpreters
from tests.support.scripted_daemon import MODEL, answer_to

pytestmark = [pytest.mark.e2e, pytest.mark.slow]


ENDS = tuple(dict.fromkeys((interpreters()[0], interpreters()[-1])))
"""The oldest and the newest Python of this machine."""


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
    wanted = f"{wheel}[{extra}]" if extra else str(wheel)
    constraints = ("--constraint", str(ROOT / "constraints.txt"))
    programs = installed(Path(sys.executable), tmp_path / "environment", *constraints, wanted)
    assert list((tmp_path / "environment").rglob("site-packages/dcp_client"))
    assert list((tmp_path / "environment").rglob("site-packages/google")) == []
    environ = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "DCP_API_URL": stage.market.url,
        "DCP_API_KEY": key,
    }
    python, dcp = programs / "python", [str(programs / "dcp")]
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


def lowest(wheel_of: Path) -> list[str]:
    """The lowest versions of what the wheel says that it needs."""
    project = tomllib.loads((wheel_of / "pyproject.toml").read_text())["project"]
    found = [*map(Requirement, (*project["dependencies"], *project["optional-dependencies"]["cli"]))]
    for each in found:
        each.specifier = SpecifierSet(str(each.specifier).replace(">=", "=="))
    return [*map(str, found)]


@pytest.mark.parametrize("versions", ["lowest", "newest"])
@pytest.mark.parametrize("python", ENDS, ids=lambda python: python.name)
def test_whole_session_runs_on_the_oldest_and_the_newest_python_and_libraries(
    stage: Stage, terminal: Terminal, key: str, wheels: Path, tmp_path: Path, python: Path, versions: str
) -> None:
    (wheel,) = wheels.glob("dcp_client-*.whl")
    pinned = lowest(CLIENT) if versions == "lowest" else []
    programs = installed(python, tmp_path / "environment", f"{wheel}[cli]", *pinned)
    user = Terminal(terminal.folder, terminal.environ, str(programs / "dcp"))
    user.output("login", "--url", stage.market.url, "--key-file", "-", stdin=key)
    assert re.search(r" AMOUNT +Amount in SAR, such as 50\.  \[required\]\n", user.output("topup", "--help"))
    assert "dcp market" in user.output("--help")
    assert "Riyadh Talker" in user.output("market")
    assert MODEL in user.output("models")
    assert "50.00 SAR" in user.output("wallet")
    assert "SAR per hour" in user.output("quote", "--model", MODEL, "--prompt", SHORT)
    said = answer_to(SHORT).strip()
    assert said in user.output("chat", "--model", MODEL, stdin=f"{SHORT}\n")
    assert user.output("ask", "--model", MODEL, SHORT).strip() == said
    (user.folder / "questions.txt").write_text(f"{SHORT}\n{SHORT} \n")
    user.output("batch", "--model", MODEL, "questions.txt", "--output", "answers.jsonl")
    assert len((user.folder / "answers.jsonl").read_text().splitlines()) == 2
    (user.folder / "data").mkdir()
    (user.folder / "data" / "a.txt").write_text("few")
    user.output("inputs", "upload", "data")
    with Client(stage.market.url, key) as client:
        job = client.wait(client.submit(leaves(notes=1)).job_id)
    user.output("get", job.job_id, "--output", "out")
    assert (user.folder / "out" / "notes").stat().st_size == 1024
    for words in (
        ("jobs",),
        ("logs", job.job_id),
        ("why", job.job_id),
        ("usage", "--by", "day"),
        ("keys", "list"),
    ):
        user.output(*words)
    assert user.run("market", "--what").returncode == 2
    code = (
        "import asyncio, sys\nfrom dcp_client import AsyncClient\n"
        "async def main():\n"
        f"    async with AsyncClient({stage.market.url!r}, {key!r}) as client:\n"
        f"        asked = [{{'role': 'user', 'content': {SHORT!r}}}]\n"
        f"        print(''.join([each async for each in client.chat.stream({MODEL!r}, asked)]))\n"
        "asyncio.run(main())"
    )
    ran = subprocess.run([str(programs / "python"), "-c", code], capture_output=True, text=True, check=False)
    assert said in ran.stdout, ran.stderr


def test_oldest_python_that_the_wheel_takes_is_that_of_its_metadata() -> None:
    project = tomllib.loads((CLIENT / "pyproject.toml").read_text())["project"]
    assert project["requires-python"] == ">=" + ".".join(map(str, OLDEST))


def test_version_is_that_of_the_wheel(wheels: Path, terminal: Terminal) -> None:
    from dcp_client.calls import USER_AGENT

    (wheel,) = wheels.glob("dcp_client-*.whl")
    assert f"dcp-client/{wheel.name.split('-')[1]}" == USER_AGENT
    assert terminal.output("--version").split() == ["dcp-client", wheel.name.split("-")[1]]
    assert Client.__module__ == "dcp_client.generated.sync_client"

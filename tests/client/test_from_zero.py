"""A renter with nothing but pip: the wheel, log-in, chat, and a training on 100 MB that is interrupted."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from dcp_client import Client

from scripts.market import UNLIMITED, Market
from scripts.release import CLIENT, ROOT, build
from tests.client.conftest import ADMIN_TOKEN, Terminal
from tests.client.test_run import LONG_TRAINING
from tests.support.clustered_market import StartMarket
from tests.support.interpreters import installed, interpreters
from tests.support.private_engine import IMAGE, PrivateEngine
from tests.support.scene import SCRIPTED
from tests.support.scripted_daemon import MODEL, answer_to, script

pytestmark = [pytest.mark.e2e, pytest.mark.engine, pytest.mark.slow]

MEGABYTES = 100
EPOCHS = 6
SHORT = script("wadi", 4, 0.02)


@pytest.fixture
def place(
    start_market: StartMarket, tmp_path: Path, docker_engine: PrivateEngine
) -> Iterator[tuple[Market, str]]:
    """A market in which one provider answers and one runs containers, and the key of a renter."""
    (tmp_path / "market").mkdir()
    with start_market(tmp_path / "market", admin_token=ADMIN_TOKEN, settings=UNLIMITED) as market:
        _, runner = market.register_provider("Container node", "containers@example.com")
        market.add_daemon(
            runner,
            tmp_path / "runner",
            settings={
                "DCP_CONTAINER_SOCKET": str(docker_engine.socket),
                "DCP_CONTAINER_IMAGES": "busybox",
                "DCP_CONTAINER_MEMORY_MB": "64",
                "DCP_CONTAINER_CPUS": "1",
                "DCP_MODELS": "",
            },
        )
        _, talker = market.register_provider("Talker", "talker@example.com")
        market.add_daemon(talker, tmp_path / "talker", command=SCRIPTED)
        renter_id, key = market.register_renter("Acme AI", "acme@example.com")
        market.credit(renter_id, 5000)
        yield market, key
    docker_engine.prove_empty()


@pytest.fixture
def stranger(place: tuple[Market, str], tmp_path: Path) -> Terminal:
    """A home with an environment into which pip has installed the wheel, of the oldest Python here."""
    build(tmp_path, CLIENT)
    (wheel,) = tmp_path.glob("dcp_client-*.whl")
    home = tmp_path / "home"
    home.mkdir()
    programs = installed(interpreters()[0], tmp_path / "environment", f"{wheel}[cli]")
    environ = {
        "PATH": "/usr/bin:/bin",
        "HOME": str(home),
        "LANG": "C.UTF-8",
        "PYTHON_KEYRING_BACKEND": "keyring.backends.fail.Keyring",
    }
    return Terminal(home, environ, str(programs / "dcp"))


def test_from_pip_install_to_a_training_that_was_killed_at_half(
    stranger: Terminal, place: tuple[Market, str]
) -> None:
    market, key = place
    folder = stranger.folder
    where = subprocess.run(
        [
            str(Path(stranger.program).with_name("python")),
            "-c",
            "import dcp_client; print(dcp_client.__file__)",
        ],
        env=stranger.environ,
        capture_output=True,
        text=True,
        check=True,
    )
    assert not where.stdout.startswith(str(ROOT))
    stranger.output("login", "--url", market.url, "--key-file", "-", stdin=key)
    told = stranger.output("chat", "--model", MODEL, stdin=f"{SHORT}\n")
    assert answer_to(SHORT).strip() in told
    (folder / "data" / "sets").mkdir(parents=True)
    (folder / "data" / "big.bin").write_bytes(os.urandom(MEGABYTES * 1_000_000))
    for number in range(20):
        (folder / "data" / "sets" / f"{number}.txt").write_text(f"set {number}\n")
    (folder / "train.sh").write_text(LONG_TRAINING)
    begin = ("run", "--image", IMAGE, "--minutes", "5", "--input", "data/")
    window = stranger.open(*begin, "--output", "whole/", "train.sh")
    assert window.end(seconds=300) == 0, window.shown
    job_id = stranger.output(*begin, "--detach", "train.sh").strip()
    with Client(market.url, key) as client:
        for event in client.stream(job_id):
            if "epoch 3" in client.logs(job_id):
                break
            assert event.job is None, client.logs(job_id)
        stranger.output("cancel", "--keep-files", job_id)
        assert client.wait(job_id).status == "cancelled"
    resumed = stranger.output(*begin, "--resume", job_id, "--output", "out/", "train.sh")
    goes_on = re.search(r"goes on after epoch (\d)\nepoch (\d)\n", resumed)
    assert goes_on is not None, resumed
    done, following = map(int, goes_on.groups())
    assert 3 <= done < EPOCHS, "it ran from its checkpoint, and had not ended before it was killed"
    assert following == done + 1
    result = (folder / "out" / "checkpoint").read_text()
    assert result == (folder / "whole" / "checkpoint").read_text()
    assert result.startswith(f"{EPOCHS} ")

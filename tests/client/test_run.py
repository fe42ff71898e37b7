"""`dcp run` with a real daemon and real containers: script, log, cost, files, and what Ctrl-C does."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from dcp_client import Client

from scripts.market import UNLIMITED, Market
from tests.client.conftest import ADMIN_TOKEN, Terminal
from tests.support.clustered_market import StartMarket
from tests.support.private_engine import IMAGE, PrivateEngine

pytestmark = [pytest.mark.e2e, pytest.mark.engine]

# A training in miniature: it reads its script's argument and a file, and leaves a checkpoint.
TRAIN = """
for epoch in $(seq "$1"); do echo "epoch $epoch $(cat /input/notes.txt)"; sleep 1; done
mkdir /output/model && echo "weights after $1" > /output/model/checkpoint.txt
"""
# Each epoch reads all the data; the state after the last one follows from all of them.
LONG_TRAINING = """
set -e
epoch=0 state=none
if [ -f /input/resume/checkpoint ]; then
  read epoch state < /input/resume/checkpoint
  echo "goes on after epoch $epoch"
fi
while [ $epoch -lt 6 ]; do
  epoch=$((epoch + 1))
  state=$( (echo $state; cat /input/data/big.bin /input/data/sets/*.txt) | sha256sum | cut -d " " -f 1)
  echo "$epoch $state" > /output/next && mv /output/next /output/checkpoint
  echo "epoch $epoch"
  sleep 1
done
"""
SLOW = "echo begun; sleep 60"


@pytest.fixture(scope="module")
def yard(
    start_market: StartMarket, tmp_path_factory: pytest.TempPathFactory, docker_engine: PrivateEngine
) -> Iterator[Market]:
    folder = tmp_path_factory.mktemp("containers")
    with start_market(folder, admin_token=ADMIN_TOKEN, settings=UNLIMITED) as market:
        _, provider_key = market.register_provider("Container node", "p@example.com")
        market.add_daemon(
            provider_key,
            settings={
                "DCP_CONTAINER_SOCKET": str(docker_engine.socket),
                "DCP_CONTAINER_IMAGES": "busybox",
                "DCP_CONTAINER_MEMORY_MB": "64",
                "DCP_CONTAINER_CPUS": "1",
            },
        )
        yield market
    docker_engine.prove_empty()


@pytest.fixture
def user(yard: Market, tmp_path: Path, request: pytest.FixtureRequest) -> Terminal:
    renter_id, key = yard.register_renter("Acme AI", f"{abs(hash(request.node.name))}@example.com")
    yard.credit(renter_id, 5000)
    (tmp_path / "train.sh").write_text(TRAIN)
    (tmp_path / "notes.txt").write_text("with care")
    environ = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "LANG": "C.UTF-8",
        "DCP_API_URL": yard.url,
        "DCP_API_KEY": key,
    }
    return Terminal(tmp_path, environ)


TRAINING = (
    "run",
    "--image",
    IMAGE,
    "--minutes",
    "1",
    "--file",
    "notes.txt",
    "--output",
    "out",
    "train.sh",
    "2",
)


def test_script_runs_with_its_files_and_brings_back_what_it_left(user: Terminal) -> None:
    done = user.run(*TRAINING)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line for line in lines if line.startswith("epoch")] == ["epoch 1 with care", "epoch 2 with care"]
    assert "at most 1.00 SAR" in done.stderr
    assert "completed after" in done.stderr
    assert (user.folder / "out/model/checkpoint.txt").read_text() == "weights after 2\n"


def test_program_gets_job_and_files_as_json(user: Terminal) -> None:
    answer = json.loads(user.output(*TRAINING[:1], "--json", *TRAINING[1:]))
    assert answer["job"]["status"] == "completed"
    assert answer["files"] == ["out/model/checkpoint.txt"]


def test_terminal_shows_log_and_the_cost_so_far(user: Terminal) -> None:
    window = user.open(*TRAINING)
    window.until("of at most 1.00 SAR")
    assert window.end() == 0
    assert "epoch 2 with care" in window.shown
    assert "charged" in window.shown


def test_terminal_of_20_columns_shows_log_and_state_and_breaks_no_line(user: Terminal) -> None:
    window = user.open(*TRAINING, columns=20)
    window.until("epoch 2 with care")
    assert window.end() == 0
    assert "running" in window.shown
    assert window.widest <= 20


def test_failed_job_has_its_exit_code_and_reason(user: Terminal) -> None:
    done = user.run("run", "--image", IMAGE, "--minutes", "1", "--", "sh", "-c", "echo no; exit 3")
    assert done.returncode == 1
    assert "no\n" in done.stdout
    assert "exit" in done.stderr


@pytest.mark.parametrize(("answer", "status"), [("c\n", "cancelled"), ("d\n", "running")])
def test_interrupt_detaches_or_cancels(yard: Market, user: Terminal, answer: str, status: str) -> None:
    window = user.open("run", "--image", IMAGE, "--minutes", "2", "--", "sh", "-c", SLOW)
    window.until("begun")
    window.type("\x03")
    window.until("[d]etach, [c]ancel")
    window.type(answer)
    assert window.end() == (0 if status == "running" else 1)
    with Client(yard.url, user.environ["DCP_API_KEY"]) as client:
        (job,) = client.jobs()
        assert job.status == status
        if status == "running":
            client.cancel(job.job_id)
            client.wait(job.job_id)


def test_detached_job_is_an_id_for_scripts(user: Terminal) -> None:
    job_id = user.output("run", "--detach", "--image", IMAGE, "--minutes", "1", "--", "echo", "hi").strip()
    assert user.run("logs", "-f", job_id).returncode == 0
    assert "hi\n" in user.output("get", job_id)


def test_how_far_the_inputs_are_is_shown_before_the_start(user: Terminal) -> None:
    (user.folder / "big.bin").write_bytes(os.urandom(30 << 20))
    done = user.run("run", "--image", IMAGE, "--minutes", "2", "--input", "big.bin", "--", "ls", "/input")
    assert (done.returncode, "big.bin" in done.stdout) == (0, True), done.stderr
    assert re.search(r"inputs: .* of 30\.0 MiB", done.stderr), done.stderr


def test_training_on_100_mb_that_is_cancelled_at_half_goes_on_to_the_same_result(
    user: Terminal, yard: Market
) -> None:
    folder = user.folder
    (folder / "data" / "sets").mkdir(parents=True)
    (folder / "data" / "big.bin").write_bytes(os.urandom(100 * 1000 * 1000))
    for number in range(20):
        (folder / "data" / "sets" / f"{number}.txt").write_text(f"set {number}\n")
    (folder / "long.sh").write_text(LONG_TRAINING)
    begin = ("run", "--image", IMAGE, "--minutes", "5", "--input", "data")
    whole = user.run(*begin, "--output", "whole", "long.sh")
    assert whole.returncode == 0, whole.stderr
    with Client(yard.url, user.environ["DCP_API_KEY"]) as client:
        sent = {each.input_id for each in client.inputs()}
        assert len(sent) == 2, "one large file, and a tar of the small ones"
        begun = user.run(*begin, "--detach", "long.sh")
        job_id = begun.stdout.strip()
        for event in client.stream(job_id):
            if "epoch 3" in client.logs(job_id):
                break
            assert event.job is None, client.logs(job_id)
        assert user.run("cancel", "--keep-files", job_id).returncode == 0
        ended = client.wait(job_id)
        assert (ended.status, ended.artifact_count) == ("cancelled", 1)
        assert ended.billing is not None
        resumed = user.run(*begin, "--resume", job_id, "--output", "out", "long.sh")
        assert resumed.returncode == 0, resumed.stderr
        assert {each.input_id for each in client.inputs()} == sent, "nothing was sent twice"
    assert "goes on after epoch" in resumed.stdout
    assert "epoch 1\n" not in resumed.stdout
    result = (folder / "out" / "checkpoint").read_text()
    assert result == (folder / "whole" / "checkpoint").read_text()
    assert result.startswith("6 ")

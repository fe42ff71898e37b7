"""Jobs as plain processes: their results, and how misbehaving jobs end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import tarfile
import threading
from contextlib import aclosing
from pathlib import Path

import pytest
from dcp.v1 import jobs_pb2

from daemon.runners import Log, RunnerError
from daemon.runners.containers.settings import MIB, ContainerSettings
from daemon.runners.input_files import Given, unpack
from daemon.runners.process import ProcessRunner
from tests.architecture.tools import ROOT
from tests.daemon.runners.bench import Outcome, follow, offer, shell, until


@pytest.fixture
def runner(tmp_path: Path) -> ProcessRunner:
    return ProcessRunner(ContainerSettings(output_bytes=MIB), tmp_path / "artifacts")


async def outcome_of(runner: ProcessRunner, script: str, **env: str) -> Outcome:
    offered = shell(script, env=env)
    await runner.prepare(offered)
    return await follow(runner.run(offered), Outcome())


async def test_output_log_and_files_are_returned_and_nothing_stays(
    runner: ProcessRunner, tmp_path: Path
) -> None:
    script = "echo out; sleep 0.2; echo err >&2; cd $DCP_OUTPUT_DIR; echo $WORD > a; ln -s /etc/passwd l"
    outcome = await outcome_of(runner, script, WORD="x")
    assert (outcome.reason, outcome.output, outcome.files) == ("", b"out\n", {"a": b"x\n"})
    assert outcome.log.startswith(b"[dcp] no container: a plain process")
    assert outcome.log.partition(b"\n")[2].startswith(b"out\nerr\n")
    assert b"not taken from /output: 'l'" in outcome.log
    assert list((tmp_path / "artifacts").iterdir()) == []


async def test_job_can_read_its_input_files(runner: ProcessRunner) -> None:
    offered = shell("cat $DCP_INPUT_DIR/a", input_files={"a": "given"})
    assert (await follow(runner.run(offered), Outcome())).output == b"given"
    with pytest.raises(RunnerError, match="input_files"):
        await runner.prepare(shell("true", input_files={"../a": "x"}))


async def test_inputs_are_unpacked_beside_the_jobs_own_texts(runner: ProcessRunner, tmp_path: Path) -> None:
    packed = tmp_path / "theirs.tar"
    with tarfile.open(packed, "w") as tar:
        tar.add(__file__, "data/code.py")
    offered = shell("cd $DCP_INPUT_DIR; find . -type f | sort", input_files={"text": "own"})
    runner.take_inputs(offered.lease, [Given(packed, "", unpack=True)])
    await runner.prepare(offered)
    await runner.sweep()
    outcome = await follow(runner.run(offered), Outcome())
    assert outcome.output == b"./data/code.py\n./text\n"
    assert list((tmp_path / "artifacts").iterdir()) == []


async def test_refused_inputs_leave_nothing(runner: ProcessRunner, tmp_path: Path) -> None:
    packed = tmp_path / "theirs.tar"
    packed.write_bytes(b"no tar")
    offered = shell("true")
    runner.take_inputs(offered.lease, [Given(packed, "", unpack=True)])
    with pytest.raises(RunnerError, match="cannot be unpacked"):
        await runner.prepare(offered)
    assert list((tmp_path / "artifacts").iterdir()) == []


async def test_no_text_of_a_job_is_written_through_a_link_of_its_inputs(
    runner: ProcessRunner, tmp_path: Path
) -> None:
    packed = tmp_path / "theirs.tar"
    with tarfile.open(packed, "w") as tar:
        link = tarfile.TarInfo("text")
        link.type, link.linkname = tarfile.SYMTYPE, "elsewhere"
        tar.addfile(link)
    offered = shell("true", input_files={"text": "own"})
    runner.take_inputs(offered.lease, [Given(packed, "", unpack=True)])
    with pytest.raises(RunnerError, match="another file has this place"):
        await runner.prepare(offered)
    assert list((tmp_path / "artifacts").iterdir()) == []


async def test_an_input_that_cannot_be_read_is_not_called_a_full_disk(
    runner: ProcessRunner, tmp_path: Path
) -> None:
    offered = shell("true")
    runner.take_inputs(offered.lease, [Given(tmp_path / "missing", "a", unpack=False)])
    with pytest.raises(RunnerError, match="could not keep the job's inputs: No such file") as refused:
        await runner.prepare(offered)
    assert refused.value.gives_back


async def test_a_job_that_is_cancelled_while_its_inputs_are_unpacked_leaves_nothing(
    runner: ProcessRunner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, gate = threading.Event(), threading.Event()

    def held_up(packed: Path, folder: Path) -> None:
        begun.set()
        gate.wait(60)
        unpack(packed, folder)

    monkeypatch.setattr("daemon.runners.process.unpack", held_up)
    file = tmp_path / "file"
    file.write_bytes(b"x")
    offered = shell("true")
    runner.take_inputs(offered.lease, [Given(file, "a", unpack=False)])
    preparing = asyncio.create_task(runner.prepare(offered))
    assert await asyncio.to_thread(begun.wait, 60)
    preparing.cancel()
    await asyncio.sleep(0)
    gate.set()
    with pytest.raises(asyncio.CancelledError):
        await preparing
    assert list((tmp_path / "artifacts").iterdir()) == []


async def test_a_run_that_is_asked_to_end_hands_over_what_it_has_written(runner: ProcessRunner) -> None:
    script = "trap 'echo saved > $DCP_OUTPUT_DIR/a; exit 0' TERM; echo begun; while true; do sleep 0.1; done"
    offered = shell(script)
    await runner.prepare(offered)
    outcome = Outcome()
    running = asyncio.create_task(follow(runner.run(offered), outcome))
    await until(lambda: outcome.output == b"begun\n")
    await runner.end(offered.lease)
    await running
    assert outcome.files == {"a": b"saved\n"}


ARABIC = "\u0645\u0631\u062d\u0628\u0627"
# Runs in a process of its own: the locale of a process is fixed at its start.
IN_ASCII = f"""
import asyncio, locale, sys
from pathlib import Path
from daemon.runners.containers.settings import MIB, ContainerSettings
from daemon.runners.process import ProcessRunner
from tests.architecture.tools import ROOT
from tests.daemon.runners.bench import Outcome, follow, shell

async def main():
    assert locale.getencoding() != "UTF-8", locale.getencoding()
    runner = ProcessRunner(ContainerSettings(output_bytes=MIB), Path(sys.argv[1]))
    script = 'cat $DCP_INPUT_DIR/a; printf "%s" "$WORD" {ARABIC}; echo x > "$DCP_OUTPUT_DIR/{ARABIC}"'
    offered = shell(script, env={{"WORD": "{ARABIC}"}}, input_files={{"a": "{ARABIC}"}})
    outcome = await follow(runner.run(offered), Outcome())
    assert outcome.error is None, outcome.error
    assert outcome.output.decode() == 3 * "{ARABIC}", outcome.output
    assert list(outcome.files) == ["{ARABIC}"], outcome.files

asyncio.run(main())
"""


def test_job_gets_its_texts_in_utf_8_whatever_the_locale(tmp_path: Path) -> None:
    environ = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PATH": os.environ["PATH"]}
    program = tmp_path / "program.py"
    program.write_text(IN_ASCII, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, program, str(tmp_path / "artifacts")],
        env=environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr.decode()


async def test_job_does_not_see_the_daemons_environment(
    runner: ProcessRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DCP_PROVIDER_KEY", "dcp-provider-secret")
    assert b"secret" not in (await outcome_of(runner, "env")).output


@pytest.mark.parametrize(("gpus", "sees"), [(None, "all"), (["GPU-b", "GPU-c"], "GPU-b,GPU-c"), ([], "")])
async def test_job_sees_only_the_gpus_that_it_is_given(
    tmp_path: Path, gpus: list[str] | None, sees: str
) -> None:
    runner = ProcessRunner(ContainerSettings(output_bytes=MIB), tmp_path / "artifacts", lambda: gpus)
    outcome = await outcome_of(runner, "echo ${CUDA_VISIBLE_DEVICES-all}")
    assert outcome.output.decode() == f"{sees}\n"


async def test_self_test_starts_a_command_and_leaves_nothing(runner: ProcessRunner, tmp_path: Path) -> None:
    await runner.self_test()
    assert list((tmp_path / "artifacts").iterdir()) == []


async def test_self_test_reports_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "artifacts").write_text("no folder")
    with pytest.raises(RunnerError, match="cannot be used: Not a directory"):
        await ProcessRunner(ContainerSettings(), tmp_path / "artifacts").self_test()


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("exit 3", "CONTAINER_EXIT"),
        ("kill -9 $$", "CONTAINER_EXIT"),
        ("dd if=/dev/zero of=$DCP_OUTPUT_DIR/x bs=64k count=64", "DISK_LIMIT"),
        ("cd $DCP_OUTPUT_DIR; for i in 1 2 3; do head -c 700000 /dev/zero > $i; done", "DISK_LIMIT"),
    ],
)
async def test_failure_has_its_reason(runner: ProcessRunner, script: str, reason: str) -> None:
    script = script.replace("dd ", "exec dd ")
    assert (await outcome_of(runner, script)).reason == reason


async def test_missing_command_cannot_be_started(runner: ProcessRunner) -> None:
    outcome = await follow(runner.run(offer("/no/such/program")), Outcome())
    assert outcome.reason == "CONTAINER_START_FAILED"


async def test_process_that_ignores_a_term_signal_is_killed(runner: ProcessRunner) -> None:
    offered = shell("trap '' TERM; echo up; while true; do sleep 1; done")
    running = asyncio.create_task(follow(runner.run(offered), outcome := Outcome()))
    async with asyncio.timeout(10):
        while b"up" not in outcome.output:
            await asyncio.sleep(0.02)
    running.cancel()
    await asyncio.sleep(0.2)
    assert not running.done()
    await runner.kill(offered.lease)
    await asyncio.gather(running, return_exceptions=True)


@pytest.mark.parametrize("on_term", ["echo saved > $DCP_OUTPUT_DIR/checkpoint; exit 0", ""])
async def test_files_of_a_process_that_reaches_its_limit_are_kept(
    runner: ProcessRunner, on_term: str
) -> None:
    script = f"trap '{on_term}' TERM; echo 1 > $DCP_OUTPUT_DIR/epoch; while true; do sleep 0.1; done"
    outcome = await follow(runner.run(shell(script, seconds=2)), Outcome())
    expected = {"epoch": b"1\n"} | ({"checkpoint": b"saved\n"} if on_term else {})
    assert (outcome.reason, outcome.files) == ("DURATION_LIMIT", expected)
    assert outcome.is_over


async def test_process_left_behind_does_not_delay_the_end_of_the_job(runner: ProcessRunner) -> None:
    async with asyncio.timeout(20):
        assert (await outcome_of(runner, "sleep 600 & echo done")).output == b"done\n"


async def test_process_that_escapes_holds_no_pipe_of_the_daemon_open(runner: ProcessRunner) -> None:
    await outcome_of(runner, "true")
    before = open_pipes()
    outcome = await outcome_of(runner, "setsid sleep 600 & echo $!")
    escaped = int(outcome.output)
    try:
        os.kill(escaped, 0)  # it is there
        assert open_pipes() == before
    finally:
        os.kill(escaped, signal.SIGKILL)


def open_pipes() -> set[str]:
    """The pipes that this process has."""
    found = set()
    for each in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found.add(str(each.readlink()))
    return {target for target in found if target.startswith("pipe:")}


async def test_large_output_is_read_to_its_end(runner: ProcessRunner) -> None:
    offered = offer(sys.executable, "-c", "print('x' * 30_000_000)")
    read = 0
    async with aclosing(runner.run(offered)) as pieces:
        async for piece in pieces:
            read += len(piece.data) if isinstance(piece, Log) else 0
    assert read > 30_000_000


def test_job_types_are_the_same_as_for_containers(runner: ProcessRunner) -> None:
    assert jobs_pb2.JOB_TYPE_CUSTOM_CONTAINER in runner.job_types()
    assert jobs_pb2.JOB_TYPE_LLM_INFERENCE not in runner.job_types()

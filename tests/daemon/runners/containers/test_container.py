"""Jobs in real containers on a real engine: their results, and how misbehaving jobs end."""

from __future__ import annotations

import asyncio
import hashlib
import json
import tarfile
from contextlib import aclosing
from pathlib import Path

import psutil
import pytest
from dcp.v1 import gpus_pb2

from daemon.machine.gpus.processes import is_foreign
from daemon.machine.health import Health
from daemon.runners import Log
from daemon.runners.containers.settings import MIB
from daemon.runners.input_files import Given
from tests.daemon.runners.bench import Bench, Outcome, both_engines, follow, offer, shell, until
from tests.support.lengths import lengths
from tests.support.private_engine import IMAGE, PrivateEngine, add_image

pytestmark = pytest.mark.engine
docker_alone = pytest.mark.parametrize("engine", ["docker"], indirect=True)
podman_alone = pytest.mark.parametrize("engine", ["podman"], indirect=True)


@both_engines
async def test_output_log_and_files_are_returned(bench: Bench) -> None:
    script = "echo out; sleep 0.1; echo err >&2; sleep 0.1; echo $WORD"
    script += "; mkdir /output/a; echo file > /output/a/b.txt"
    outcome = await bench.run(shell(script, env={"WORD": "wörd"}))
    assert outcome.reason == ""
    assert outcome.output == "out\nwörd\n".encode()
    first, _, rest = outcome.log.partition(b"\n")
    assert first.startswith(b"[dcp] image docker.io/library/busybox:test sha256:")
    assert rest == "out\nerr\nwörd\n".encode()
    assert outcome.files == {"a/b.txt": b"file\n"}
    assert outcome.is_over


@both_engines
async def test_input_files_can_be_read_but_not_changed(bench: Bench) -> None:
    files = {"run.sh": "echo ran; cat $DCP_INPUT_DIR/data.txt", "data.txt": "daten: ü\n", "empty": ""}
    script = "sh /input/run.sh; ls /input; /input/run.sh | head -c 3; echo"
    script += "; touch /input/x; echo >> /input/empty"
    outcome = await bench.run(shell(script, input_files=files))
    assert (outcome.reason, outcome.output.decode()) == (
        "CONTAINER_EXIT",
        "ran\ndaten: ü\ndata.txt\nempty\nrun.sh\nran\n",
    )
    assert b"touch: /input/x: Read-only file system" in outcome.log
    assert b"can't create /input/empty" in outcome.log
    assert (await bench.run(shell("ls /input; exit 0"))).output == b""


@both_engines
async def test_inputs_lie_read_only_at_input_beside_the_jobs_own_texts(bench: Bench, tmp_path: Path) -> None:
    packed, plain = tmp_path / "theirs.tar", tmp_path / "plain"
    plain.write_bytes(bytes(3 << 20))
    with tarfile.open(packed, "w:gz") as tar:
        tar.add(__file__, "data/code.py")
    script = "cd $DCP_INPUT_DIR; find . -type f | sort; sha256sum big/plain; cat text; touch /input/data/x"
    offered = shell(script, input_files={"text": "own\n"})
    bench.runner.take_inputs(
        offered.lease, [Given(packed, "", unpack=True), Given(plain, "big/plain", unpack=False)]
    )
    outcome = await bench.run(offered)
    digest = hashlib.sha256(bytes(3 << 20)).hexdigest()
    listed = "./big/plain\n./data/code.py\n./text\n"
    assert outcome.output.decode() == f"{listed}{digest}  big/plain\nown\n", outcome
    assert b"Read-only file system" in outcome.log


async def test_a_refused_input_starts_nothing(bench: Bench, tmp_path: Path) -> None:
    packed = tmp_path / "theirs.tar"
    with tarfile.open(packed, "w") as tar:
        tar.addfile(tarfile.TarInfo("../../etc/passwd"))
    offered = shell("true")
    bench.runner.take_inputs(offered.lease, [Given(packed, "", unpack=True)])
    outcome = await bench.run(offered)
    assert outcome.reason == "INPUT_REFUSED"
    assert "leads out of the folder" in str(outcome.error)
    assert bench.engine.docker("ps", "-aq").strip() == ""


@pytest.mark.parametrize("name", ["../x", "a/b", ".hidden", "", "-rf", "ä", "x" * 101])
async def test_input_file_name_that_leads_out_of_its_folder_is_refused(bench: Bench, name: str) -> None:
    outcome = await bench.run(offer("true", input_files={name: "x"}))
    assert outcome.reason == "BAD_PARAMS"
    assert "input_files" in str(outcome.error)


async def test_exit_code_is_reported_with_the_log_and_the_files(bench: Bench) -> None:
    outcome = await bench.run(shell("echo no >&2; echo half > /output/half; exit 3"))
    assert outcome.reason == "CONTAINER_EXIT"
    assert "exit code 3" in str(outcome.error)
    assert outcome.log.endswith(b"no\n")
    assert outcome.files == {"half": b"half\n"}


@both_engines
async def test_job_has_no_rights_and_no_data_beyond_its_own(bench: Bench) -> None:
    running = asyncio.create_task(bench.run(shell("sleep 60")))
    name = await container_name(bench)
    (found,) = json.loads(bench.engine.docker("inspect", name))
    host = found["HostConfig"]
    assert host["ReadonlyRootfs"] is True
    assert host["NetworkMode"] == "none"
    assert host["Privileged"] is False
    assert (host["Memory"], host["MemorySwap"], host["PidsLimit"]) == (64 * MIB, 64 * MIB, 64)
    assert host["NanoCpus"] == 10**9
    assert {mount["Type"] for mount in found["Mounts"]} == {"volume"}
    assert found["Config"]["User"] == "65534:65534"
    status = bench.engine.docker("exec", name, "cat", "/proc/self/status")
    facts = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert (int(facts["CapEff"], 16), int(facts["CapBnd"], 16)) == (0, 0)
    assert (facts["NoNewPrivs"], facts["Seccomp"]) == ("1", "2")
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


@pytest.mark.parametrize(
    "image", ["127.0.0.1:1/nobody/nothing:1", f"127.0.0.1:1/nobody/nothing@sha256:{'0' * 64}"]
)
async def test_missing_image_fails_the_pull(bench: Bench, image: str) -> None:
    outcome = await bench.run(offer("true", image=image))
    assert outcome.reason == "IMAGE_PULL_FAILED"
    assert str(outcome.error) == (
        f"The image {image} could not be pulled: its registry has no such image, does not give it to "
        "everybody, or could not be reached."
    ), "the text of a closed port is that of a missing image"


async def test_image_that_is_not_allowed_is_not_pulled(bench: Bench) -> None:
    outcome = await bench.run(offer("true", image="ghcr.io/acme/miner:latest"))
    assert outcome.reason == "IMAGE_NOT_ALLOWED"


async def test_missing_command_cannot_be_started(bench: Bench) -> None:
    outcome = await bench.run(offer("/no/such/program"))
    assert outcome.reason == "CONTAINER_START_FAILED"
    assert str(outcome.error).startswith('The container could not be started: "/no/such/program": ')
    assert str(bench.engine.socket.parent) not in str(outcome.error)


@both_engines
async def test_fork_bomb_gets_at_most_its_limit_of_processes(bench: Bench) -> None:
    script = "i=0; while [ $i -lt 500 ]; do (sleep 5 &) || break; i=$((i+1)); done; sleep 2; exit 9"
    outcome = await bench.run(shell(script))
    assert outcome.reason == "PROCESS_LIMIT"
    assert "all 64 processes" in str(outcome.error)
    assert b"can't fork" in outcome.log


async def test_crowd_that_runs_out_of_memory_is_told_as_a_crowd(bench: Bench) -> None:
    crowd = "i=0; while [ $i -lt 100 ]; do (sleep 9 &) || break; i=$((i+1)); done; sleep 2"
    outcome = await bench.run(shell(f"({crowd}); sleep 1; x=xxxxxxxxxxxxxxxx; while true; do x=$x$x; done"))
    assert outcome.reason == "PROCESS_LIMIT"
    assert "all 64 processes" in str(outcome.error)
    assert "64 MiB" in str(outcome.error)


async def test_real_fork_bomb_ends_with_its_job_and_the_next_one_runs(bench: Bench) -> None:
    bomb = shell("b() { b | b & }; b; sleep 1; echo bombed; exit 7", seconds=20)
    async with asyncio.timeout(90):
        outcome = await bench.run(bomb)
    assert outcome.reason == "PROCESS_LIMIT"
    assert (await bench.run(shell("echo next"))).output == b"next\n"


@both_engines
async def test_memory_beyond_the_limit_ends_the_job(bench: Bench) -> None:
    outcome = await bench.run(shell("x=xxxxxxxxxxxxxxxx; while true; do x=$x$x; done"))
    assert outcome.reason == "OUT_OF_MEMORY"
    assert "64 MiB" in str(outcome.error)


@both_engines
@pytest.mark.parametrize("folder", ["/output", "/tmp"])
async def test_full_disk_ends_the_job(bench: Bench, folder: str) -> None:
    outcome = await bench.run(
        shell(f"dd if=/dev/zero of={folder}/a bs=1M count=6 && dd if=/dev/zero of={folder}/b bs=64k")
    )
    assert outcome.reason == "DISK_LIMIT"
    assert folder in str(outcome.error)


async def test_file_larger_than_all_of_output_ends_the_job(bench: Bench) -> None:
    outcome = await bench.run(shell("truncate -s 1T /output/huge || exit 1; echo made"))
    assert outcome.reason in {"DISK_LIMIT", "CONTAINER_EXIT"}
    assert b"made" not in outcome.log


async def test_sparse_files_do_not_fill_the_providers_disk(bench: Bench) -> None:
    outcome = await bench.run(shell("for i in 1 2 3 4 5 6; do truncate -s 7M /output/$i; done"))
    assert outcome.reason == "DISK_LIMIT"
    assert outcome.files == {}


async def test_too_many_files_end_the_job(bench: Bench) -> None:
    bench.restrict(output_bytes=64 * MIB)
    outcome = await bench.run(shell("i=0; while [ $i -lt 1001 ]; do : > /output/$i; i=$((i+1)); done"))
    assert outcome.reason == "DISK_LIMIT"


@both_engines
async def test_job_has_no_network(bench: Bench) -> None:
    outcome = await bench.run(shell("ls /sys/class/net; wget -T 2 http://1.1.1.1/ || exit 4"))
    assert outcome.reason == "CONTAINER_EXIT"
    assert b"lo\n" in outcome.output
    assert b"eth" not in outcome.output


@both_engines
async def test_job_can_write_only_to_its_own_folders(bench: Bench) -> None:
    paths = "/x /open/x /etc/x /output/../x /bin/busybox /proc/sys/kernel/x /sys/x /output/x"
    outcome = await bench.run(shell(f"for path in {paths}; do (echo x > $path) && echo $path; done; exit 0"))
    assert (outcome.reason, outcome.output) == ("", b"/output/x\n")


async def test_names_and_links_that_lead_out_of_output_are_not_kept(bench: Bench) -> None:
    script = "cd /output; ln -s /etc/passwd link; ln -s / root; mkfifo pipe; echo ok > good; echo x > 'a\\b'"
    script += "; printf x > \"$(printf 'bad\\377')\"; printf x > \"$(printf 'new\\nline')\"; ln good twin"
    outcome = await bench.run(shell(script))
    assert outcome.reason == ""
    assert sorted(outcome.files) in (["good"], ["twin"])
    for name in (b"link", b"root", b"pipe", b"bad", b"new", b"a\\\\b"):
        assert b"not taken from /output: '" + name in outcome.log


async def test_bytes_that_are_not_text_arrive_unchanged(bench: Bench) -> None:
    outcome = await bench.run(shell(r"printf 'a\377\376b\n'"))
    assert outcome.output == b"a\xff\xfeb\n"


@lengths("size", short=150_000_000, full=1_000_000_000)
async def test_excessive_log_is_truncated_and_fills_no_disk(bench: Bench, size: int) -> None:
    line = "x" * 8000
    offered = shell(f"yes {line} | head -c {size}; echo; echo the end")
    await bench.runner.prepare(offered)
    read, last, largest = 0, b"", 0
    async with aclosing(bench.runner.run(offered)) as pieces:
        async for piece in pieces:
            if isinstance(piece, Log):
                read, last, largest = read + len(piece.data), piece.data, max(largest, len(piece.data))
                if read % 25_000_000 < len(piece.data):
                    assert bench.engine.log_bytes() < 40 * MIB
    assert read > size
    assert last.endswith(b"the end\n")
    assert largest <= 64 * 1024


async def test_job_that_ignores_a_term_signal_is_killed(bench: Bench) -> None:
    offered = shell("trap '' TERM; echo up; while true; do sleep 1; done")
    await bench.runner.prepare(offered)
    running = asyncio.create_task(follow(bench.runner.run(offered), outcome := Outcome()))
    await until(lambda: b"up\n" in outcome.log)
    running.cancel()
    await asyncio.sleep(0.3)
    assert not running.done()
    await bench.runner.kill(offered.lease)
    await asyncio.gather(running, return_exceptions=True)
    assert bench.engine.left() == []


async def test_job_near_its_time_limit_is_asked_to_end_and_its_files_are_kept(bench: Bench) -> None:
    saves = "trap 'echo saved > /output/checkpoint; exit 0' TERM; echo up; sleep 600 & wait"
    outcome = await bench.run(shell(saves, seconds=6))
    assert (outcome.reason, outcome.files) == ("DURATION_LIMIT", {"checkpoint": b"saved\n"})
    assert (outcome.output, outcome.is_over) == (b"up\n", True)


async def test_job_that_ignores_its_time_limit_is_killed_and_its_files_are_kept(bench: Bench) -> None:
    stays = "trap '' TERM; echo epoch 1 > /output/checkpoint; while true; do sleep 1; done"
    outcome = await bench.run(shell(stays, seconds=4))
    assert (outcome.reason, outcome.files) == ("DURATION_LIMIT", {"checkpoint": b"epoch 1\n"})
    assert outcome.is_over


@both_engines
async def test_processes_that_a_job_leaves_behind_end_with_it(bench: Bench) -> None:
    outcome = await bench.run(
        shell("(trap '' HUP TERM; setsid sleep 1234567 > /dev/null 2>&1 &) ; sleep 0.2")
    )
    assert outcome.reason == ""
    assert not sleeps("1234567")


@both_engines
async def test_volumes_of_an_image_are_in_memory_and_limited(bench: Bench) -> None:
    add_image(bench.engine, "docker.io/library/busybox:volumes", "VOLUME /data")
    outcome = await bench.run(
        shell(
            "echo x > /data/x && dd if=/dev/zero of=/data/big bs=1M; df /data | tail -1",
            image="busybox:volumes",
        )
    )
    assert b"tmpfs" in outcome.output
    assert b"No space left" in outcome.log


async def test_image_by_its_digest_is_pulled_once_and_recorded(bench: Bench) -> None:
    (image,) = json.loads(bench.engine.docker("inspect", IMAGE))
    digests = [name.partition("@")[2] for name in image["RepoDigests"]] or [image["Id"]]
    outcome = await bench.run(offer("true"))
    assert any(digest.encode() in outcome.log for digest in digests)


@both_engines
@pytest.mark.parametrize(
    ("env", "message"),
    [
        ({"1X": "x"}, "1X"),
        ({"A=B": "x"}, "A=B"),
        ({"NVIDIA_VISIBLE_DEVICES": "all"}, "NVIDIA_VISIBLE_DEVICES"),
    ],
)
async def test_variables_that_a_job_may_not_set_are_refused(
    bench: Bench, env: dict[str, str], message: str
) -> None:
    outcome = await bench.run(offer("true", env=env))
    assert outcome.reason == "BAD_PARAMS"
    assert message in str(outcome.error)


@docker_alone
async def test_gpus_are_given_by_their_uuids(bench: Bench) -> None:
    bench.restrict(gpus=("GPU-aaaa", "GPU-bbbb"))
    outcome = await bench.run(shell("echo $NVIDIA_VISIBLE_DEVICES", gpu_count=1))
    assert (outcome.reason, outcome.output) == ("", b"GPU-aaaa\n")
    outcome = await bench.run(shell("echo $NVIDIA_VISIBLE_DEVICES"))
    assert outcome.output == b"GPU-aaaa,GPU-bbbb\n"
    outcome = await bench.run(offer("true", gpu_count=3))
    assert outcome.reason == "BAD_PARAMS"
    assert "gpu_count" in str(outcome.error)


@podman_alone
async def test_podman_offers_no_gpus_and_runs_jobs_without_gpus(bench: Bench) -> None:
    bench.restrict(gpus=("GPU-aaaa",))
    outcome = await bench.run(offer("true"))
    assert outcome.reason == "CONTAINER_ENGINE_UNAVAILABLE"
    assert "GPUs" in str(outcome.error)
    outcome = await bench.run(shell("echo $NVIDIA_VISIBLE_DEVICES", gpu_count=0))
    assert (outcome.reason, outcome.output) == ("", b"void\n")


@docker_alone
async def test_failed_gpu_gets_no_job_while_the_others_continue(
    engine: PrivateEngine, tmp_path: Path
) -> None:
    health = Health()
    health.observe(three_gpus())
    bench = Bench(engine, tmp_path)
    bench.runner = bench.new_runner(healthy_gpus=health.healthy_gpus)
    show_gpus = "echo $NVIDIA_VISIBLE_DEVICES"
    running = asyncio.create_task(bench.run(shell(f"{show_gpus}; sleep 2", gpu_count=1)))
    await container_name(bench)
    health.observe(three_gpus(xid_count=1))
    outcome = await bench.run(shell(show_gpus, job_id="job-2"))
    assert (outcome.reason, outcome.output) == ("", b"GPU-c\n")
    assert (await running).output == b"GPU-a\n"
    await bench.close()


def three_gpus(xid_count: int = 0) -> gpus_pb2.GpuStatus:
    devices = [gpus_pb2.GpuDevice(index=i, uuid=f"GPU-{name}") for i, name in enumerate("abc")]
    devices[1].xid_count = xid_count
    return gpus_pb2.GpuStatus(gpu_count=3, all_gpus=devices)


@both_engines
async def test_processes_of_a_container_count_as_the_daemons_own(bench: Bench) -> None:
    leaves = "(sleep 71 &); sleep 72"  # the first becomes the keeper's child
    running = asyncio.create_task(bench.run(shell(leaves)))

    def found() -> list[int]:
        return [
            process.pid for process in psutil.process_iter(["cmdline"]) if is_of_test(process.info["cmdline"])
        ]

    await until(lambda: len(found()) == 2 and len(bench.runner.pids()) == 2)
    assert {is_foreign(pid, ()) for pid in found()} == {True}
    assert {is_foreign(pid, bench.runner.pids()) for pid in found()} == {False}
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert list(bench.runner.pids()) == []


def is_of_test(command: list[str] | None) -> bool:
    return command in (["sleep", "71"], ["sleep", "72"])


async def test_engine_without_gpu_support_is_the_providers_fault(
    engine_without_gpus: PrivateEngine, tmp_path: Path
) -> None:
    bench = Bench(engine_without_gpus, tmp_path)
    bench.restrict(gpus=("GPU-aaaa",))
    outcome = await bench.run(offer("true"))
    assert outcome.reason == "CONTAINER_ENGINE_UNAVAILABLE"
    assert "GPUs" in str(outcome.error)
    assert engine_without_gpus.left() == []
    await bench.close()


@both_engines
async def test_image_cannot_claim_gpus_that_the_job_did_not_get(bench: Bench) -> None:
    add_image(bench.engine, "docker.io/library/busybox:gpu", "ENV NVIDIA_VISIBLE_DEVICES=all")
    outcome = await bench.run(shell("echo $NVIDIA_VISIBLE_DEVICES", image="busybox:gpu"))
    assert outcome.output == b"void\n"


@both_engines
async def test_job_cannot_reach_the_keeper(bench: Bench) -> None:
    outcome = await bench.run(shell("kill -9 1; cat /proc/1/environ; echo still here"))
    assert b"still here" in outcome.output
    assert b"not permitted" in outcome.log


async def container_name(bench: Bench) -> str:
    found: list[str] = []

    def look() -> bool:
        found[:] = bench.engine.docker("ps", "--format", "{{.Names}}").split()
        return any(name.endswith("-job") for name in found)

    await until(look)
    return next(name for name in found if name.endswith("-job"))


def sleeps(seconds: str) -> bool:
    """Whether a process on this machine runs `sleep` with this argument."""
    lines = [process.info["cmdline"] or [] for process in psutil.process_iter(["cmdline"])]
    return any(line[-2:] == ["sleep", seconds] for line in lines)

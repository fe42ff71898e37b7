"""What doctor and the start of the daemon say of the GPUs: nothing unknown is called 0."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from dcp.v1 import gpus_pb2

from daemon.cli.findings import Level
from daemon.cli.gpu_checks import gpu_findings, judged
from daemon.machine.gpus.watched import WatchedGpus
from daemon.machine.policy import Rules
from tests.daemon.fake_server import GOOD_KEY, fake_server
from tests.daemon.test_main import command, run
from tests.support.nvml_stub.stub import A100, GB10, RTX_4090, Machine, build


def status(**figures: Any) -> gpus_pb2.GpuStatus:
    gpu = gpus_pb2.GpuDevice(index=0, uuid="GPU-a", **figures)
    return gpus_pb2.GpuStatus(gpu_count=1, all_gpus=[gpu], driver_version="550.54.15")


WHOLE = {"gpu_name": "NVIDIA L4", "gpu_vram_mib": 23034, "free_vram_mib": 20000, "temp_c": 40.0}
HALF = "mig 0 MIG-1111 NVIDIA_A100-SXM4-80GB_MIG_3g.40gb 40448 40000 448"
UNKNOWN_COUNT = gpus_pb2.GpuStatus(gpu_count=0)


@pytest.mark.parametrize(
    ("reading", "text"),
    [
        (status(**WHOLE), "1 GPU: NVIDIA L4 23034 MiB; driver 550.54.15"),
        (
            status(gpu_name="NVIDIA GB10", gpu_vram_mib=122500, vram_is_shared=True),
            "1 GPU: NVIDIA GB10 122500 MiB (shared with the machine); driver 550.54.15",
        ),
        (
            status(gpu_name="NVIDIA L4"),
            "1 GPU: NVIDIA L4 (its memory is unknown); driver 550.54.15",
        ),
        (status(), "1 GPU: GPU 0 without a name (its memory is unknown); driver 550.54.15"),
        (UNKNOWN_COUNT, "0 GPU: none; the driver's version is unknown"),
    ],
)
def test_gpus_are_described_by_what_is_known(reading: gpus_pb2.GpuStatus, text: str) -> None:
    assert [(one.level, one.text) for one in judged(reading, Rules())] == [(Level.OK, text)]


@pytest.mark.parametrize(
    ("reading", "rules", "why"),
    [
        (status(**WHOLE), Rules(max_temp_c=39), "GPU 0 has 40 °C; this provider's cap is 39"),
        (status(gpu_name="L4"), Rules(max_temp_c=80), "the temperature of GPU 0 cannot be read"),
        (status(gpu_name="L4"), Rules(vram_reserve_mib=1), "the free memory of GPU 0 cannot be read"),
        (status(**WHOLE), Rules(vram_reserve_mib=20001), "20001 MiB of GPU memory must be free"),
    ],
)
def test_rule_that_keeps_every_job_out_is_a_warning(
    reading: gpus_pb2.GpuStatus, rules: Rules, why: str
) -> None:
    _, warning = judged(reading, rules)
    assert warning.level is Level.WARN
    assert warning.text.startswith(f"no job is taken now: {why}")


def test_driver_that_stopped_answering_is_a_failure() -> None:
    (failure,) = judged(gpus_pb2.GpuStatus(driver_lost=True), Rules())
    assert failure.level is Level.FAIL
    assert "driver stopped answering" in failure.text


def test_driver_that_hangs_from_the_first_reading_is_a_failure_and_no_missing_gpu(
    library: Path, tmp_path: Path
) -> None:
    machine = Machine(library, tmp_path / "script")
    machine.script.write_text(f"{A100}\nhang-for-ever nvmlInitWithFlags")
    gpus = WatchedGpus(environment=machine.environment(), first_seconds=1.0)
    (failure,) = gpu_findings(Rules(), gpus)
    assert failure.level is Level.FAIL
    assert "the NVIDIA driver does not answer: run nvidia-smi" in failure.text


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("nvml"))


def gpus_of(library: Path, folder: Path, text: str) -> dict[str, str]:
    """The environment of a process that sees these GPUs."""
    machine = Machine(library, folder / "script")
    machine.script.write_text(text, encoding="utf-8")
    return {name: machine.environment()[name] for name in ("LD_LIBRARY_PATH", "NVIDIA_STUB_SCRIPT")}


async def test_doctor_tells_shared_memory_and_gpus_that_are_not_offered(
    library: Path, tmp_path: Path
) -> None:
    gpus = gpus_of(library, tmp_path, f"{GB10}\n{A100}\nfigure mig 1 1\n")
    _, out, _ = await run("doctor", state=tmp_path, DCP_SERVER="127.0.0.1:1", **gpus)
    assert "MiB (shared with the machine); driver 550.54.15" in out
    assert "warn GPU 1 is in MIG mode and has no MIG device, so it is not offered" in out
    assert " 0 MiB" not in out


async def test_start_logs_what_doctor_finds_and_goes_on(library: Path, tmp_path: Path) -> None:
    gpus = gpus_of(library, tmp_path, f"{A100}\nfigure mig 0 1\n")
    async with fake_server() as server:
        environ = {"DCP_SERVER": server.address, "DCP_PROVIDER_KEY": GOOD_KEY}
        environ |= {"DCP_MODELS": "a/b=/no.gguf", "DCP_CONTAINER_SOCKET": "/no.sock"} | gpus
        async with command(
            "run", state=tmp_path, DCP_CONTAINER_IMAGES="*", DCP_MAX_TEMP_C="80", **environ
        ) as running:
            await (await server.connection()).welcome()
            assert running.process.stderr is not None
            wanted = {
                "ERROR daemon check: model a/b: /no.gguf is not a file; correct DCP_MODELS",
                "WARNING daemon check: GPU 0 is in MIG mode and has no MIG device",
                "ERROR daemon check: container engine /no.sock",
            }
            async with asyncio.timeout(30):
                while wanted:
                    line = (await running.process.stderr.readline()).decode()
                    assert line, wanted
                    assert "check: key" not in line
                    wanted = {text for text in wanted if text not in line}
            assert running.process.returncode is None


async def test_one_gpu_is_drained_and_resumed_by_command_and_stays_drained_over_a_restart(
    library: Path, tmp_path: Path
) -> None:
    async with fake_server() as server:
        environ = {"DCP_SERVER": server.address, "DCP_PROVIDER_KEY": GOOD_KEY, "DCP_MODELS": ""}
        # A command that is allowed needs neither a model nor a container engine.
        arguments = ("run", "--allow-process-runner")
        environ |= gpus_of(library, tmp_path, f"{A100}\n{RTX_4090}\nfigure mig 0 1\n{HALF}\n")
        code, _, err = await run("drain", "--gpu", "1", state=tmp_path, **environ)
        assert (code, "no daemon runs on" in err) == (2, True)
        async with command(*arguments, state=tmp_path, **environ):
            await (await server.connection()).welcome()
            code, _, err = await run("drain", "--gpu", "0", state=tmp_path, **environ)
            assert code == 1
            assert "there is no GPU 0; the machine's are: 64 (MIG-1111), 1 (GPU-aaaa)" in err
            code, out, _ = await run("drain", "--gpu", "1", state=tmp_path, **environ)
            assert (code, out.startswith("GPU-aaaa takes no new jobs, also after a restart")) == (0, True)
        async with command(*arguments, state=tmp_path, **environ):
            await (await server.connection()).welcome()
            assert await states(tmp_path, environ) == {"MIG-1111": "works", "GPU-aaaa": "drained by hand"}
            assert (await run("resume", "--gpu", "GPU-aaaa", state=tmp_path, **environ))[0] == 0
            assert await states(tmp_path, environ) == {"MIG-1111": "works", "GPU-aaaa": "works"}


async def states(folder: Path, environ: dict[str, str]) -> dict[str, str]:
    _, out, _ = await run("status", "--json", state=folder, **environ)
    return {gpu["uuid"]: gpu["state"] for gpu in json.loads(out)["daemon"]["gpus"]}

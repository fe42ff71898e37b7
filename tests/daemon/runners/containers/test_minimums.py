"""The oldest software that may start strangers' images, and what a container is asked for with GPUs."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import pytest

from daemon.runners.containers import spec
from daemon.runners.containers.docker import DockerRefusedError, EngineFacts
from daemon.runners.containers.failures import start_failed
from daemon.runners.containers.minimums import MINIMUMS, numbers, outdated

LEAST = {key: minimum.version for key, minimum in MINIMUMS.items()}
DOCKER = EngineFacts("Engine", "28.0.1", "x86_64", ("local",), ())
PODMAN = EngineFacts("Podman Engine", "5.4.2", "amd64", ("journald",), ())


@pytest.mark.parametrize(
    ("found", "named"),
    [
        ({"runc": "1.1.11"}, "CVE-2024-21626"),
        ({"runc": "1.1.5+ds1"}, "DCP_CONTAINER_MIN_RUNC"),
        ({"runc": "1.0.0-rc95"}, "at least 1.1.12 is needed"),
        ({"runc": "1.1.12", "toolkit": "1.17.7"}, "CVE-2025-23266"),
        ({"toolkit": "1.9"}, "DCP_CONTAINER_MIN_TOOLKIT"),
        ({"runc": "1.1.12", "toolkit": "1.17.8"}, ""),
        ({"runc": "1.2.0", "toolkit": "1.18.0-rc.1"}, ""),
        ({"runc": "", "toolkit": ""}, ""),
        ({}, ""),
    ],
)
def test_old_software_is_refused_with_the_reason(tmp_path: Path, found: dict[str, str], named: str) -> None:
    why = outdated(found, LEAST, tmp_path)
    assert named in why
    assert bool(why) is bool(named)
    assert outdated(found, {"runc": "0", "toolkit": "0"}, tmp_path) == ""


def test_package_that_has_the_repair_is_accepted_for_the_tables_minimum(tmp_path: Path) -> None:
    (tmp_path / "runc").mkdir()
    log = tmp_path / "runc" / "changelog.Debian.gz"
    log.write_bytes(gzip.compress(b"runc (1.1.5+ds1-1+deb12u1)\n  * CVE-2024-21626\n"))
    assert outdated({"runc": "1.1.5+ds1"}, LEAST, tmp_path) == ""
    assert "at least 1.3 " in outdated({"runc": "1.1.5+ds1"}, {"runc": "1.3"}, tmp_path)
    for damaged in (b"", b"no gzip", gzip.compress(b"CVE-2024-21626")[:-12], gzip.compress(b"CVE-2000-1")):
        log.write_bytes(damaged)
        assert outdated({"runc": "1.1.5+ds1"}, LEAST, tmp_path) != ""


def test_versions_are_compared_as_numbers() -> None:
    assert numbers("v1.10.2-ce") == (1, 10, 2) > numbers("1.9")
    assert numbers("newest") == ()


def test_podman_hands_out_gpus_as_cdi_devices_from_the_version_on_that_can() -> None:
    asked = spec.gpu_requests(["GPU-a", "GPU-b"], PODMAN)
    devices = ["nvidia.com/gpu=GPU-a", "nvidia.com/gpu=GPU-b"]
    assert asked == [{"Driver": "cdi", "DeviceIDs": devices, "Capabilities": [["gpu"]]}]
    assert PODMAN.hands_out_gpus
    assert not PODMAN._replace(version="5.3.9").hands_out_gpus
    assert not PODMAN._replace(version="?").hands_out_gpus
    assert spec.gpu_requests([], PODMAN) == []
    (by_driver,) = spec.gpu_requests(["GPU-a"], DOCKER)
    assert (by_driver["Driver"], by_driver["DeviceIDs"]) == ("", ["GPU-a"])
    assert DOCKER.hands_out_gpus


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            'exec: "/app/run.sh": stat /app/run.sh: no such file or directory: unknown',
            '"/app/run.sh": no such',
        ),
        (
            'exec: "run": executable file not found in $PATH: unknown',
            '"run": executable file not found in $PATH.',
        ),
        ('exec: "/a": permission denied', '"/a": permission denied.'),
        ('exec: "/a": stat /var/lib/docker/x: no such file', "refused its command"),
        ("error mounting /var/lib/docker/volumes/x", "refused its command"),
        ("setting up CDI devices: unresolvable CDI devices nvidia.com/gpu=GPU-a", "cannot hand out its GPUs"),
    ],
)
def test_failed_start_tells_the_command_and_nothing_of_the_machine(words: str, told: str) -> None:
    error: Any = start_failed(DockerRefusedError(500, words))
    assert told in error.message
    assert "/var/lib" not in error.message

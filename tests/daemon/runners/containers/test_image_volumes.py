"""The folders that an image declares to be volumes: their files, their room, and who may write."""

from __future__ import annotations

import pytest

from daemon.runners.containers.settings import MIB
from tests.daemon.runners.bench import Bench, offer, shell
from tests.support.private_engine import add_image

pytestmark = pytest.mark.engine
IMAGE = "docker.io/library/busybox:volumes"
PROGRAM = b"#!/bin/sh\ncat /app/data\nls -a /other\ndf /app /other | grep -c tmpfs\nmount | grep ' /app '\n"
PROGRAM += b"echo new > /app/new && echo new > /other/new && cat /app/new\n"
PROGRAM += b"dd if=/dev/zero of=/app/big bs=1M; ls -l /app/big\n"


async def test_files_of_an_image_in_its_volumes_are_there_and_the_volumes_are_limited(bench: Bench) -> None:
    files = {"app/run.sh": PROGRAM, "app/data": b"of the image\n"}
    changes = ("VOLUME /app", "VOLUME /other", "VOLUME /tmp", 'ENTRYPOINT ["/app/run.sh"]')
    add_image(bench.engine, IMAGE, *changes, files=files)
    for _ in range(2):  # the second run finds nothing of the first
        outcome = await bench.run(offer(image=IMAGE))
        assert outcome.reason == "", outcome.log
        lines = outcome.output.decode().splitlines()
        assert lines[0] == "of the image"
        assert lines[1:4] == [".", "..", "2"], "both are in memory, and empty but for the image's files"
        assert {"nosuid", "nodev"} <= set(lines[4].partition("(")[2].split(","))
        assert lines[5] == "new"
        assert b"No space left" in outcome.log
        # Both together have the size of /tmp.
        assert 3 * MIB <= int(lines[6].split()[4]) <= 4 * MIB


async def test_volume_that_is_too_small_for_its_files_fails_the_start(bench: Bench) -> None:
    add_image(bench.engine, IMAGE, "VOLUME /app", files={"app/data": bytes(9 * MIB)})
    outcome = await bench.run(shell("ls -l /app", image=IMAGE))
    assert outcome.reason == "CONTAINER_START_FAILED"
    assert "no room for its files" in str(outcome.error)


async def test_image_with_too_many_volumes_is_refused(bench: Bench) -> None:
    add_image(bench.engine, IMAGE, *(f"VOLUME /v{number}" for number in range(17)))
    outcome = await bench.run(shell("true", image=IMAGE))
    assert (outcome.reason, "16 volumes" in str(outcome.error)) == ("BAD_PARAMS", True)


@pytest.mark.parametrize("command", ["/app/no-such.sh", "no-such", "/app"])
async def test_failed_start_says_which_path_it_is_about(bench: Bench, command: str) -> None:
    add_image(bench.engine, IMAGE, files={"app/data": b"x"})
    outcome = await bench.run(offer(command, image=IMAGE))
    assert outcome.reason == "CONTAINER_START_FAILED"
    why = str(outcome.error).removeprefix("The container could not be started: ")
    assert why in {
        f'"{command}": no such file or directory.',
        f'"{command}": executable file not found in $PATH.',
        f'"{command}": permission denied.',
        f'"{command}": is a directory.',
    }


async def test_image_has_no_say_in_what_the_linker_loads_or_in_folders_of_the_kernel(bench: Bench) -> None:
    changes = ("ENV LD_PRELOAD=/evil.so", "ENV LD_AUDIT=/evil.so", "ENV LD_LIBRARY_PATH=/lib")
    add_image(bench.engine, IMAGE, *changes, "WORKDIR /proc/self/fd")
    script = 'pwd; echo "[$LD_PRELOAD][$LD_AUDIT][$LD_LIBRARY_PATH]"'
    outcome = await bench.run(shell(script, image=IMAGE))
    assert (outcome.reason, outcome.output) == ("", b"/\n[][][/lib]\n")
    add_image(bench.engine, IMAGE, "WORKDIR /open")
    assert (await bench.run(shell("pwd", image=IMAGE))).output == b"/open\n"

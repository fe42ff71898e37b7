"""What a job writes while no daemon reads it: what the engine has dropped of it is marked."""

from __future__ import annotations

import json

import pytest

from daemon.runners.containers.beginning import MARKER
from tests.daemon.runners.bench import Bench, shell, until
from tests.daemon.runners.containers.test_adoption import outcome_before_death

pytestmark = [pytest.mark.engine, pytest.mark.slow]


async def test_output_that_the_engine_dropped_while_no_daemon_was_there_is_marked(bench: Bench) -> None:
    waits = "while [ ! -e /output/go ]; do sleep 0.1; done"
    much = f"yes {'x' * 8000} | head -c 30000000; echo"
    offered = shell(f"echo first; {waits}; {much}; echo the end")
    before = await outcome_before_death(bench, offered, b"first\n")
    name = next(name for name in bench.engine.left() if name.endswith("-job"))
    await until(lambda: any((bench.folder / "artifacts").glob("*/beginning")))
    await bench.hang_up()
    bench.engine.docker("exec", name, "touch", "/output/go")
    await until(
        lambda: json.loads(bench.engine.docker("inspect", name))[0]["State"]["Status"] == "exited", 60
    )
    rest = await bench.adopt(offered, len(before.output), len(before.log))
    assert rest is not None
    assert rest.reason == ""
    assert rest.output.startswith(MARKER)
    assert rest.output.endswith(b"the end\n")
    assert rest.output.count(MARKER) == rest.log.count(MARKER) == 1
    assert len(rest.output) < 30_000_000, "or else nothing was dropped"


async def test_adopted_run_that_ends_while_its_output_is_caught_up_on_loses_nothing(bench: Bench) -> None:
    """Podman 4.3 leaves out lines of a log that it follows."""
    waits = "while [ ! -e /output/go ]; do sleep 0.1; done"
    numbers = "awk 'BEGIN { for (i = 100000; i < 116000; i++) printf \"%d%0293d\\n\", i, 0 }'"
    offered = shell(f"echo first; {waits}; {numbers}; sleep 2; echo the end; exit 3")
    before = await outcome_before_death(bench, offered, b"first\n")
    name = next(name for name in bench.engine.left() if name.endswith("-job"))
    await bench.hang_up()
    bench.engine.docker("exec", name, "touch", "/output/go")
    await until(lambda: bench.engine.log_bytes() > 3_000_000, 60)
    rest = await bench.adopt(offered, len(before.output), len(before.log))
    assert rest is not None
    assert rest.reason == "CONTAINER_EXIT"
    wanted = b"".join(b"%d%0293d\n" % (number, 0) for number in range(100_000, 116_000)) + b"the end\n"
    assert (rest.output == wanted, rest.log == wanted) == (True, True), len(rest.output)

"""A server that forgot: it goes on from an older copy of its database, or, for a moment, from an empty one.

The programs and the databases are real. Nothing is repaired by hand but the database itself.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from server.store import copies
from tests.support.patient_renter import eventually
from tests.support.scene import ADMIN_TOKEN, SCRIPTED, Scene, played
from tests.support.scripted_daemon import MODEL, answer_to, script

pytestmark = pytest.mark.e2e
PAUSE_SECONDS = 0.05


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    with played(tmp_path) as scene:
        yield scene


def database(scene: Scene) -> Path:
    return scene.market.folder / "dcp.sqlite3"


def command(scene: Scene, *arguments: str) -> str:
    """Runs a command of the server with its settings; returns what it printed."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("DCP_")}
    done = subprocess.run(
        [str(Path(sys.executable).parent / "dcp-server"), *arguments],
        env={**inherited, **scene.server.env},
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def back_up(scene: Scene) -> Path:
    """Copies the database while the server uses it, without the time that the command needs to start."""
    copy = scene.market.folder / "copy.sqlite3"
    assert copies.take(database(scene), copy).rows["job"] > 0
    return copy


def restore(scene: Scene, copy: Path) -> None:
    """Restores a copy, and starts the server, which must have ended, on it."""
    assert command(scene, "restore", "--replace", str(copy)).endswith("The ledger balances.\n")
    scene.server.restart()
    scene.market.wait_ready()


def use(scene: Scene, aside: Path | None) -> None:
    """Restarts the server on a database that was set aside, or on nothing; sets its present one aside."""
    scene.server.stop()
    for suffix in ("-wal", "-shm"):
        assert not Path(f"{database(scene)}{suffix}").exists(), "the server closed its database"
    database(scene).rename(database(scene).with_name("aside.sqlite3" if aside is None else "gone.sqlite3"))
    if aside is not None:
        aside.rename(database(scene))
    scene.server.restart()
    scene.market.wait_ready()


def discards(scene: Scene) -> list[dict[str, Any]]:
    answer = scene.market.get("/api/admin/discards", **{"x-admin-token": ADMIN_TOKEN})
    found: list[dict[str, Any]] = answer["discards"]
    return found


def sessions(scene: Scene) -> int:
    return len(scene.lines("session opened"))


@pytest.mark.parametrize("is_over", [False, True], ids=["the run goes on", "another run began"])
def test_daemon_goes_on_with_a_server_that_was_restored(scene: Scene, is_over: bool) -> None:
    provider_id = scene.add_daemon()
    prompt = script("river", 40 if is_over else 160, PAUSE_SECONDS)
    job_id = scene.play(prompt, duration_minutes=2)
    before = scene.renter.until_it_writes(job_id)["output_bytes"]
    copy = back_up(scene)
    if is_over:
        scene.renter.until_final(job_id)
        forgotten = scene.renter.submit("test/script", script("stream", 160, PAUSE_SECONDS))
        scene.renter.until_it_writes(forgotten)
    else:
        forgotten = job_id
        scene.renter.until(job_id, lambda job: job["output_bytes"] > before + 200)
    had = sessions(scene)
    scene.server.stop()
    restore(scene, copy)

    (found,) = eventually("a record for the operator", lambda: discards(scene))
    expected = {"kind": "lease" if is_over else "run", "provider_id": provider_id, "job_id": forgotten}
    assert expected.items() <= found.items()
    # The job of the backup runs again from its beginning, and so does the next one, without anybody's help.
    scene.assert_whole(job_id, answer_to(prompt), attempt=2)
    next_prompt = script("next", 3, PAUSE_SECONDS)
    scene.assert_whole(scene.play(next_prompt), answer_to(next_prompt), attempt=1)
    assert sessions(scene) - had <= 2, "sessions did not loop"
    assert len(discards(scene)) == 1
    assert not list((scene.state_dir(1) / "journal").glob("*.attempt"))
    scene.assert_books()


def test_daemon_waits_while_the_server_is_on_an_empty_database(scene: Scene) -> None:
    scene.add_daemon()
    had = sessions(scene)
    use(scene, None)
    assert "WARNING server.store.database new database: " in scene.server.log.read_text().split("ready ")[-1]
    scene.until_logged("trying again for a day")
    (pause,) = eventually(
        "a pause", lambda: scene.lines(r"trying again for a day(?s:.*?)connecting again seconds=(\S+)")
    )
    assert 15 <= float(pause[1]) <= 30
    (found,) = eventually("a record for the operator", lambda: discards(scene))
    assert (found["kind"], found["times"]) == ("key", 1)
    assert re.fullmatch(r"\S{4}", found["key_last4"])
    use(scene, scene.market.folder / "aside.sqlite3")
    eventually("the next session", lambda: sessions(scene) == had + 1)
    prompt = script("back", 3, PAUSE_SECONDS)
    scene.assert_whole(scene.play(prompt), answer_to(prompt), attempt=1)
    assert len(scene.lines("trying again for a day")) <= 2
    scene.assert_books()


def _grows_by(before: dict[str, Any], output_bytes: int) -> Callable[[dict[str, Any]], bool]:
    return lambda job: job["output_bytes"] > before["output_bytes"] + output_bytes


def test_market_serves_again_after_a_kill_and_a_restore(
    scene: Scene, record_property: Callable[[str, object], None]
) -> None:
    """Two machines work at the time of the backup; a third one registers after it."""
    known = [scene.add_daemon(), scene.add_daemon()]
    # Long enough that they run until the kill, whatever else this machine does.
    prompts = [script(name, 500, PAUSE_SECONDS) for name in ("river", "stream")]
    jobs = [
        scene.play(prompt, duration_minutes=2, provider_id=provider_id)
        for prompt, provider_id in zip(prompts, known, strict=True)
    ]
    for job_id in jobs:
        scene.renter.until_it_writes(job_id)
    copy = scene.market.folder / "copy.sqlite3"
    assert "verified" in command(scene, "backup", str(copy))

    newcomer = scene.add_daemon()
    forgotten = [
        scene.renter.submit(MODEL, script(name, 500, PAUSE_SECONDS), provider_id=provider_id)
        for name, provider_id in (("lake", newcomer), ("sea", newcomer))
    ]
    scene.renter.until_it_writes(forgotten[0])
    for job_id in jobs:
        scene.renter.until(job_id, _grows_by(scene.renter.job(job_id), 100))
    had = sessions(scene)
    start = time.monotonic()
    scene.server.kill()
    restore(scene, copy)

    next_prompt = script("next", 3, PAUSE_SECONDS)
    next_job = scene.play(next_prompt)
    for job_id, prompt in zip(jobs, prompts, strict=True):
        scene.assert_whole(job_id, answer_to(prompt), attempt=2)
    scene.assert_whole(next_job, answer_to(next_prompt), attempt=1)
    record_property("seconds from the kill to the end of every job", round(time.monotonic() - start))
    assert sessions(scene) - had <= 2 * len(known), "sessions did not loop"
    expected = {("run", provider_id, job_id) for provider_id, job_id in zip(known, jobs, strict=True)}
    eventually("the records", lambda: len(discards(scene)) == len(expected) + 1)
    by_kind = {(each["kind"], each.get("provider_id"), each.get("job_id")) for each in discards(scene)}
    assert {each for each in by_kind if each[0] != "key"} == expected

    # The newcomer's daemon rests between its tries. Its owner registers again, and its machine works again.
    daemon = scene.daemons.pop(newcomer)
    assert daemon.is_running
    assert len(scene.lines("trying again for a day")) <= 3
    daemon.kill()
    provider_id, key = scene.market.register_provider("Node", "p3@example.com")
    scene.market.add_daemon(key, scene.state_dir(3), command=SCRIPTED)
    scene.keys[-1] = key
    again = script("again", 3, PAUSE_SECONDS)
    scene.assert_whole(scene.play(again, provider_id=provider_id), answer_to(again), attempt=1)
    scene.assert_books()

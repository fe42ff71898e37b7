"""A server that forgot: it goes on from an older copy of its database, or, for a moment, from an empty one.

The programs and the databases are real. Nothing is repaired by hand but the database itself.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.patient_renter import eventually
from tests.support.scene import ADMIN_TOKEN, Scene, played
from tests.support.scripted_daemon import answer_to, script

pytestmark = pytest.mark.e2e
PAUSE_SECONDS = 0.05


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    with played(tmp_path) as scene:
        yield scene


def database(scene: Scene) -> Path:
    return scene.market.folder / "dcp.sqlite3"


def back_up(scene: Scene) -> Path:
    """Copies the database while the server uses it."""
    copy = scene.market.folder / "copy.sqlite3"
    with sqlite3.connect(database(scene)) as live, sqlite3.connect(copy) as into:
        live.backup(into)
    live.close()
    into.close()
    return copy


def use(scene: Scene, copy: Path | None) -> None:
    """Restarts the server on a copy, or on nothing; its present database is kept aside."""
    scene.server.stop()
    aside = database(scene).with_name("aside.sqlite3" if copy is None else "gone.sqlite3")
    for suffix in ("-wal", "-shm"):
        assert not Path(f"{database(scene)}{suffix}").exists(), "the server closed its database"
    database(scene).rename(aside)
    if copy is not None:
        copy.rename(database(scene))
        database(scene).chmod(0o600)
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
    use(scene, copy)

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

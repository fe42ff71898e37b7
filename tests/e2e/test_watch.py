"""A job is watched while programs are killed: its reader continues without a gap, and a cut is no end.

The processes are real, and the reader is an HTTP client that knows nothing but `Last-Event-ID`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest

from scripts.market import Program
from tests.support.patient_renter import eventually
from tests.support.scene import Scene, played
from tests.support.scripted_daemon import answer_to, script

pytestmark = pytest.mark.e2e

PROMPT = script("río", 40, 0.1)
READ_SECONDS = 30.0


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    with played(tmp_path) as scene:
        yield scene


class Watcher:
    """A reader that opens the stream again with the last id until it has the end."""

    def __init__(self, scene: Scene, job_id: str) -> None:
        self._scene = scene
        self._path = f"/api/jobs/{job_id}/events"
        self.events: list[dict[str, Any]] = []
        self.cuts = 0
        """How often the stream was cut after it had been opened."""

    @property
    def kinds(self) -> list[str]:
        """The names of the events so far."""
        return [event["event"] for event in self.events]

    @property
    def output(self) -> str:
        """What a reader has of the output: after `attempt`, it begins again."""
        begin = max((at for at, kind in enumerate(self.kinds) if kind == "attempt"), default=0)
        return "".join(e["data"]["text"] for e in self.events[begin:] if e["event"] == "output")

    def watch(self, until: Callable[[Watcher], bool] = lambda self: "end" in self.kinds) -> None:
        """Reads until a condition holds, through all cuts of the stream."""
        eventually(f"more than {self.kinds}", lambda: self._read(until))

    def _read(self, until: Callable[[Watcher], bool]) -> bool:
        after = {"last-event-id": self.events[-1]["id"]} if self.events else {}
        headers = self._scene.renter._headers | after
        was_opened = False
        try:
            http = self._scene.market.http
            with http.stream("GET", self._path, headers=headers, timeout=READ_SECONDS) as answer:
                was_opened = answer.status_code == 200
                for event in blocks(answer.iter_lines()) if was_opened else ():
                    if event["event"] != "error":
                        self.events.append(event)
                    if until(self):
                        return True
        except httpx.TransportError:
            self.cuts += was_opened
            return False
        assert not was_opened, "a stream without `end` ended as if it were whole"
        assert answer.status_code in (429, 503, 504), answer.status_code
        return False


def blocks(lines: Iterator[str]) -> Iterator[dict[str, Any]]:
    """The events in a stream of lines, with their data as JSON."""
    found: dict[str, Any] = {}
    for line in lines:
        name, _, value = line.partition(": ")
        if name in ("id", "event", "data"):
            found[name] = orjson.loads(value) if name == "data" else value
        elif not line and "data" in found:
            yield found
            found = {}


@pytest.mark.parametrize("killed", ["server", "gateway"])
def test_reader_continues_after_a_kill_without_gap_or_repeat(scene: Scene, killed: str) -> None:
    program: Program = getattr(scene, killed)
    scene.add_daemon()
    job_id = scene.play(PROMPT)
    watcher = Watcher(scene, job_id)
    for words in (3, 8):
        watcher.watch(lambda self, words=words: self.output.count(" ") >= words)  # type: ignore[misc]
        program.kill()
        program.restart()
    watcher.watch()
    assert watcher.output == answer_to(PROMPT)
    assert len({event["id"] for event in watcher.events}) == len(watcher.events)
    assert [kind for kind in watcher.kinds if kind != "output"] == ["state"] * 4 + ["end"]
    assert watcher.events[-1]["data"]["job"] == scene.renter.job(job_id)
    scene.assert_books()


def test_killed_daemons_attempt_begins_anew_and_its_output_is_void(scene: Scene) -> None:
    daemon = scene.daemons[scene.add_daemon()]
    job_id = scene.play(PROMPT)
    watcher = Watcher(scene, job_id)
    watcher.watch(lambda self: self.output.count(" ") >= 3)
    daemon.kill()
    daemon.restart()
    watcher.watch()
    assert watcher.kinds.count("attempt") == 1
    assert watcher.output == answer_to(PROMPT)
    job = scene.renter.job(job_id)
    assert (job["status"], job["attempt"]) == ("completed", 2)
    assert watcher.events[-1]["data"]["job"] == job
    scene.assert_books()

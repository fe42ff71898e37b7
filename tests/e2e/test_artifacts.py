"""Files of jobs through real programs: unchanged, in little memory, and whichever program is killed."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from scripts.market import Program
from tests.support.file_daemon import content, order
from tests.support.patient_renter import eventually
from tests.support.scene import Scene, played
from tests.support.tcp_proxy import Pass, Slice, TcpProxy

FILE_DAEMON = (sys.executable, "-m", "tests.support.file_daemon")
MIB = 1 << 20

pytestmark = pytest.mark.e2e


@dataclass
class Place:
    """A scene with a daemon whose jobs leave files."""

    scene: Scene
    daemon: Program
    proxy: TcpProxy

    def get(self, path: str, **headers: str) -> Any:
        """The response to a request of the renter."""
        return self.scene.renter.ask("GET", path, **headers)

    def play(self, prompt: str) -> str:
        """Submits a job that leaves the requested files: only containers have a folder for them."""
        return self.scene.play(prompt, job_type="custom_container", container_spec={"image": "busybox"})

    def names(self, job_id: str) -> dict[str, str]:
        """The job's files with their digests."""
        listed = self.get(f"/api/jobs/{job_id}/artifacts").json()["artifacts"]
        return {artifact["name"]: artifact["sha256"] for artifact in listed}

    def download(self, job_id: str, name: str) -> str:
        """Downloads a file in pieces; returns its digest."""
        digest = hashlib.sha256()
        market, headers = self.scene.market, self.scene.renter._headers
        path = f"/api/jobs/{job_id}/artifacts/{name}"
        with market.http.stream("GET", path, headers=headers) as answer:
            assert answer.status_code == 200
            for piece in answer.iter_raw():
                digest.update(piece)
        return digest.hexdigest()

    def until_half_sent(self) -> None:
        """Waits until a part of a file has arrived, but not all of it."""
        unfinished = self.scene.market.folder / "artifacts" / "tmp"
        eventually(
            "half a file", lambda: any(path.stat().st_size for path in unfinished.glob("*")), seconds=60
        )


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with played(tmp_path) as scene, ExitStack() as stack:
        proxy = stack.enter_context(TcpProxy(scene.server.address))
        _, key = scene.market.register_provider("Node", "files@example.com")
        daemon = scene.market.add_daemon(key, server=proxy.address, command=FILE_DAEMON)
        yield Place(scene, daemon, proxy)


def digest_of(name: str, kib: int) -> str:
    digest = hashlib.sha256()
    for piece in content(name, kib):
        digest.update(piece)
    return digest.hexdigest()


def most_memory(program: Program) -> int:
    """The peak resident memory of a process, in bytes."""
    status = Path(f"/proc/{program.process.pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def test_200_mib_are_downloaded_unchanged_in_little_memory(place: Place) -> None:
    programs = (place.scene.server, place.scene.gateway, place.daemon)
    small = place.play(order(a=1))
    assert place.scene.renter.until_final(small)["status"] == "completed"
    assert place.download(small, "a") == digest_of("a", 1)
    before = [most_memory(program) for program in programs]
    job_id = place.play(order(model__weights=200 * 1024, notes=3))
    job = place.scene.renter.until_final(job_id)
    assert (job["status"], job["artifact_count"]) == ("completed", 2)
    assert job["artifact_bytes"] == 200 * MIB + 3 * 1024
    want = {"model/weights": digest_of("model/weights", 200 * 1024), "notes": digest_of("notes", 3)}
    assert place.names(job_id) == want
    assert {name: place.download(job_id, name) for name in want} == want
    part = place.get(f"/api/jobs/{job_id}/artifacts/notes", range="bytes=1000-1099")
    whole = b"".join(content("notes", 3))
    assert (part.status_code, part.content) == (206, whole[1000:1100])
    grown = [most_memory(program) - was for program, was in zip(programs, before, strict=True)]
    assert max(grown) < 100 * MIB, grown


def test_file_is_sent_again_to_a_server_that_was_killed_while_receiving_it(place: Place) -> None:
    place.proxy.switch(Slice(most_bytes=16 * 1024, pause_seconds=0.001))
    job_id = place.play(order(weights=8 * 1024))
    place.until_half_sent()
    place.scene.server.kill()
    place.proxy.switch(Pass())
    place.scene.server.restart()
    job = place.scene.renter.until_final(job_id)
    assert (job["status"], job["attempt"], job["artifact_count"]) == ("completed", 1, 1)
    assert place.download(job_id, "weights") == digest_of("weights", 8 * 1024)


def test_daemon_that_is_killed_while_it_sends_leaves_the_files_of_its_next_attempt(place: Place) -> None:
    place.proxy.switch(Slice(most_bytes=16 * 1024, pause_seconds=0.001))
    job_id = place.play(order(first=1, weights=8 * 1024))
    place.until_half_sent()
    place.daemon.kill()
    place.proxy.switch(Pass())
    place.daemon.restart()
    job = place.scene.renter.until_final(job_id)
    assert (job["status"], job["attempt"], job["artifact_count"]) == ("completed", 2, 2)
    assert place.names(job_id) == {"first": digest_of("first", 1), "weights": digest_of("weights", 8 * 1024)}
    assert place.download(job_id, "weights") == digest_of("weights", 8 * 1024)

"""Inputs on their way to this machine: what broke off goes on, what is damaged is never used."""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections.abc import AsyncGenerator
from pathlib import Path
from random import Random
from typing import Any

import pytest
from dcp.v1 import jobs_pb2, sessions_pb2

from daemon.runners import RunnerError
from daemon.runners.input_files import InputRoom
from daemon.work.inputs import InputGoneError, InputStore, ReadBrokenError

DATA = bytes(range(256)) * 1000
OTHER = b"other" * 1000


class Server:
    """Sends the inputs of an offer in pieces, and breaks off where a test says so."""

    def __init__(self, *contents: bytes) -> None:
        self.contents = list(contents)
        self.asked: list[tuple[int, int]] = []
        self.breaks_at: list[int] = []
        """After how many bytes the next downloads break off."""
        self.is_gone = False

    async def read(
        self, lease: sessions_pb2.Lease, number: int, first_byte: int
    ) -> AsyncGenerator[bytes, None]:
        self.asked.append((number, first_byte))
        if self.is_gone:
            raise InputGoneError("it was deleted")
        end = self.breaks_at.pop(0) if self.breaks_at else None
        for place in range(first_byte, len(self.contents[number]), 1000):
            if end is not None and place >= end:
                raise ReadBrokenError("cut")
            yield self.contents[number][place : place + 1000]
            await asyncio.sleep(0)


def offer(*contents: bytes) -> sessions_pb2.JobOffer:
    return sessions_pb2.JobOffer(
        lease=sessions_pb2.Lease(job_id="job-1", lease_epoch=1),
        inputs=[
            sessions_pb2.OfferedInput(
                path=f"{number}", size_bytes=len(data), sha256=hashlib.sha256(data).digest()
            )
            for number, data in enumerate(contents)
        ],
    )


def store(server: Server, folder: Path, kept_bytes: int = 1 << 30) -> InputStore:
    async def sleep(_: float) -> None:
        pass

    return InputStore(folder / "inputs", server.read, Random(7), sleep, InputRoom(kept_bytes))


async def held(inputs: InputStore, offered: sessions_pb2.JobOffer) -> list[bytes]:
    async with inputs.held(offered) as given:
        return [one.file.read_bytes() for one in given]


async def test_a_download_that_breaks_off_goes_on_and_is_kept(tmp_path: Path) -> None:
    server = Server(DATA, OTHER)
    server.breaks_at = [5000, 5000, 90_000]
    inputs = store(server, tmp_path)
    assert await held(inputs, offer(DATA, OTHER)) == [DATA, OTHER]
    assert server.asked == [(0, 0), (0, 5000), (0, 5000), (0, 90_000), (1, 0)]
    assert await held(inputs, offer(DATA)) == [DATA]
    assert await held(store(server, tmp_path), offer(DATA)) == [DATA]
    assert len(server.asked) == 5


async def test_two_jobs_share_a_download(tmp_path: Path) -> None:
    server = Server(DATA)
    inputs = store(server, tmp_path)
    found = await asyncio.gather(*(held(inputs, offer(DATA)) for _ in range(3)))
    assert (found, server.asked) == ([[DATA]] * 3, [(0, 0)])


async def test_a_job_that_is_cancelled_leaves_its_download_to_one_job_at_a_time(tmp_path: Path) -> None:
    server = Server(DATA)
    inputs = store(server, tmp_path)
    first, second = (asyncio.create_task(held(inputs, offer(DATA))) for _ in range(2))
    while not server.asked:
        await asyncio.sleep(0)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    # The second has been woken and has not run yet, so that nobody holds the download at this moment.
    third = asyncio.create_task(held(inputs, offer(DATA)))
    assert [await second, await third] == [[DATA], [DATA]]
    assert len(server.asked) == 2
    assert [path.name for path in (tmp_path / "inputs").iterdir()] == [hashlib.sha256(DATA).hexdigest()]


async def test_a_job_that_is_cancelled_while_it_checks_a_download_leaves_it_to_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its thread goes on: the next one must find what that has left, and not the file in between."""
    server = Server(DATA)
    inputs = store(server, tmp_path)
    checking, goes_on = threading.Event(), threading.Event()
    check = hashlib.file_digest

    def slow(*args: Any, **kwargs: Any) -> Any:
        checking.set()
        assert goes_on.wait(10)
        return check(*args, **kwargs)

    monkeypatch.setattr(hashlib, "file_digest", slow)
    first, second = (asyncio.create_task(held(inputs, offer(DATA))) for _ in range(2))
    await asyncio.to_thread(checking.wait, 10)
    first.cancel()
    await asyncio.sleep(0.2)  # in which the second would go on if it did not wait for the thread
    goes_on.set()
    with pytest.raises(asyncio.CancelledError):
        await first
    assert (await second, server.asked) == ([DATA], [(0, 0)])


async def test_only_a_full_disk_is_called_no_room(tmp_path: Path) -> None:
    (tmp_path / "inputs").write_text("a file where the folder should be")
    with pytest.raises(RunnerError) as refused:
        await held(store(Server(DATA), tmp_path), offer(DATA))
    assert (refused.value.gives_back, "no room" in refused.value.message) == (True, False)
    assert str(tmp_path) not in refused.value.message
    (tmp_path / "inputs").unlink()
    full = InputStore(
        tmp_path / "inputs", Server(DATA).read, Random(7), room=InputRoom(1 << 30, free_bytes=1 << 60)
    )
    with pytest.raises(RunnerError, match="no room for the job's inputs") as refused:
        await held(full, offer(DATA))
    assert refused.value.gives_back


async def test_what_fails_with_inputs_at_hand_keeps_its_own_words(tmp_path: Path) -> None:
    with pytest.raises(PermissionError):
        async with store(Server(DATA), tmp_path).held(offer(DATA)):
            raise PermissionError("of the job's runner")


async def test_other_bytes_than_announced_are_never_given_to_a_job(tmp_path: Path) -> None:
    server = Server(OTHER)
    with pytest.raises(RunnerError) as refused:
        await held(store(server, tmp_path), offer(DATA))
    assert (refused.value.gives_back, len(server.asked)) == (True, 2)
    assert list((tmp_path / "inputs").iterdir()) == []


async def test_an_input_that_is_gone_fails_the_job_and_a_silent_server_gives_it_back(tmp_path: Path) -> None:
    server = Server(DATA)
    server.is_gone = True
    with pytest.raises(RunnerError) as refused:
        await held(store(server, tmp_path), offer(DATA))
    assert refused.value.reason == jobs_pb2.FAILURE_REASON_INPUT_REFUSED
    server.is_gone, server.breaks_at = False, [0] * 100
    with pytest.raises(RunnerError) as refused:
        await held(store(server, tmp_path), offer(DATA))
    assert refused.value.gives_back
    assert len(server.asked) == 13


async def test_what_was_unused_longest_goes_first_and_what_is_used_stays(tmp_path: Path) -> None:
    contents = [bytes([number]) * 1000 for number in range(4)]
    server = Server(*contents)
    inputs = store(server, tmp_path, kept_bytes=2500)
    async with inputs.held(offer(contents[0])):
        for number in range(1, 4):
            server.contents[0] = contents[number]
            await held(inputs, offer(contents[number]))
    left = {path.name for path in (tmp_path / "inputs").iterdir()}
    assert left == {hashlib.sha256(contents[number]).hexdigest() for number in (0, 3)}


async def test_an_input_that_another_job_takes_up_while_room_is_made_is_there_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its removal was decided before that job said that it needs it, and happens after it looked."""
    first, second = (bytes([number]) * 1000 for number in range(2))
    server = Server(first)
    inputs = store(server, tmp_path, kept_bytes=1500)
    await held(inputs, offer(first))
    removing, has_looked = threading.Event(), threading.Event()
    unlink = Path.unlink

    def late(path: Path, *args: Any, **kwargs: Any) -> None:
        if not removing.is_set():
            removing.set()
            assert has_looked.wait(10)
        unlink(path, *args, **kwargs)

    monkeypatch.setattr(Path, "unlink", late)
    server.contents[0] = second
    makes_room = asyncio.create_task(held(inputs, offer(second)))
    assert await asyncio.to_thread(removing.wait, 10)
    server.contents[0] = first
    async with inputs.held(offer(first)) as given:
        has_looked.set()
        server.contents[0] = second
        assert await makes_room == [second]
        assert given[0].file.read_bytes() == first


async def test_download_reports_how_much_of_all_inputs_is_here(tmp_path: Path) -> None:
    server = Server(DATA, OTHER)
    heard: list[tuple[int, int, int]] = []
    inputs = store(server, tmp_path)
    total = len(DATA) + len(OTHER)

    def hear(step: int, done: int, of: int) -> None:
        heard.append((step, done, of))

    async with inputs.held(offer(DATA, OTHER), hear):
        pass
    assert {(step, of) for step, _, of in heard} == {(jobs_pb2.PREPARATION_STEP_INPUTS, total)}
    done = [each for _, each, _ in heard]
    assert done == sorted(done)
    assert (done[0], done[-1]) == (0, total)
    heard.clear()
    async with inputs.held(offer(DATA, OTHER), hear):
        pass
    assert [each for _, each, _ in heard] == [0, len(DATA)], "what is here is counted and not fetched again"

"""When output leaves an attempt: the first piece at once, later ones gathered, the last with the result."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from dcp.v1 import jobs_pb2, sessions_pb2

from daemon.machine.clock import SystemClock
from daemon.protocol import events as ev
from daemon.protocol.records import Channel
from daemon.work import attempts as work
from daemon.work.attempts import Attempts
from tests.daemon.fake_server import lease, offer
from tests.support.fake_engine import Piece, ScriptedEngine

HANG_SECONDS = 10.0


class Scene:
    """One attempt of a script, its events, and what goes with its result."""

    def __init__(self, script: list[Piece], **fields: Any) -> None:
        self.wrote: list[bytes] = []
        self.rest: list[bytes] = []
        self.ended = asyncio.Event()
        self.moved = asyncio.Event()
        engine = ScriptedEngine(script)
        self.attempts = Attempts([engine], self._emit, self._has_room, SystemClock())
        self.attempts.start(offer(job_type=jobs_pb2.JOB_TYPE_LLM_INFERENCE, **fields))

    def _emit(self, event: ev.AttemptEvent) -> None:
        match event:
            case ev.AttemptWrote(_, _, data):
                self.wrote.append(data)
            case ev.AttemptFinished(held, _):
                self.take_rest(held)
                self.ended.set()
        self.moved.set()

    def take_rest(self, held: sessions_pb2.Lease) -> None:
        self.rest = [data for channel, data in self.attempts.take_rest(held) if channel is Channel.OUTPUT]

    async def _has_room(self, held: sessions_pb2.Lease) -> None:
        """There always is."""

    async def until_written(self, count: int) -> None:
        async with asyncio.timeout(HANG_SECONDS):
            while len(self.wrote) < count:
                self.moved.clear()
                await self.moved.wait()

    async def end(self) -> None:
        async with asyncio.timeout(HANG_SECONDS):
            await self.ended.wait()


@pytest.fixture
async def never() -> AsyncIterator[asyncio.Event]:
    """An event that wakes whoever still waits for it when the test ends."""
    event = asyncio.Event()
    yield event
    event.set()


async def test_answer_that_is_there_at_once_goes_with_the_result() -> None:
    scene = Scene(["Hello", ", ", "world"])
    await scene.end()
    assert (scene.wrote, scene.rest) == ([], [b"Hello, world"])


async def test_first_piece_leaves_at_once_and_the_next_ones_are_gathered(
    monkeypatch: pytest.MonkeyPatch, never: asyncio.Event
) -> None:
    monkeypatch.setattr(work, "FLUSH_SECONDS", 3600.0)
    go_on, last = asyncio.Event(), asyncio.Event()
    scene = Scene(["Hel", go_on, "l", "o", last])
    await scene.until_written(1)
    assert scene.wrote == [b"Hel"]
    go_on.set()
    await asyncio.sleep(0.02)
    assert scene.wrote == [b"Hel"], "a follower waits for a quarter of a second, a message costs a commit"
    last.set()
    await scene.end()
    assert scene.rest == [b"lo"]


async def test_gathered_pieces_leave_after_a_while(
    monkeypatch: pytest.MonkeyPatch, never: asyncio.Event
) -> None:
    monkeypatch.setattr(work, "FLUSH_SECONDS", 0.02)
    go_on = asyncio.Event()
    scene = Scene(["Hel", go_on, "l", "o", never])
    await scene.until_written(1)
    go_on.set()
    await scene.until_written(2)
    assert scene.wrote == [b"Hel", b"lo"]
    await scene.attempts.close()


async def test_chat_is_gathered_for_a_shorter_while(
    monkeypatch: pytest.MonkeyPatch, never: asyncio.Event
) -> None:
    monkeypatch.setattr(work, "FLUSH_SECONDS", 3600.0)
    monkeypatch.setattr(work, "CHAT_FLUSH_SECONDS", 0.02)
    go_on = asyncio.Event()
    scene = Scene(["Hel", go_on, "l", "o", never], chat_request=b'{"messages":[]}')
    await scene.until_written(1)
    go_on.set()
    await scene.until_written(2)
    assert scene.wrote == [b"Hel", b"lo"]
    await scene.attempts.close()


async def test_full_chunk_does_not_wait(monkeypatch: pytest.MonkeyPatch, never: asyncio.Event) -> None:
    monkeypatch.setattr(work, "FLUSH_SECONDS", 3600.0)
    go_on, large = asyncio.Event(), "x" * work.FLUSH_BYTES
    scene = Scene(["Hel", go_on, large, never])
    await scene.until_written(1)
    go_on.set()
    await scene.until_written(2)
    assert scene.wrote == [b"Hel", large.encode()]
    await scene.attempts.close()


async def test_rest_of_a_stopped_attempt_is_taken_once(
    monkeypatch: pytest.MonkeyPatch, never: asyncio.Event
) -> None:
    monkeypatch.setattr(work, "FLUSH_SECONDS", 0.05)
    go_on = asyncio.Event()
    scene = Scene(["Hel", go_on, "lo", never])
    await scene.until_written(1)
    go_on.set()
    await asyncio.sleep(0.01)
    scene.take_rest(lease())
    assert scene.rest == [b"lo"]
    await asyncio.sleep(0.1)
    assert scene.wrote == [b"Hel"]
    scene.attempts.stop(lease())
    await scene.attempts.close()


async def test_attempt_that_is_not_at_work_has_no_rest() -> None:
    scene = Scene(["Hello"])
    await scene.end()
    await scene.attempts.close()
    assert scene.attempts.take_rest(lease()) == []

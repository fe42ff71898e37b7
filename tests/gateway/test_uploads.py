"""Long bodies, uploads among them: pieces of a bounded size, in one room that all senders share."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from gateway.errors import ApiError
from gateway.room import Room
from gateway.uploads import PIECE_BYTES, pieces

MIB = 1 << 20


class Sender:
    """An upload that never ends."""

    def __init__(self) -> None:
        self.sent_bytes = 0

    async def receive(self) -> Any:
        self.sent_bytes += MIB
        return {"type": "http.request", "body": bytes(MIB), "more_body": True}


async def test_uploads_wait_for_the_store_in_bounded_memory() -> None:
    room, sender = Room(PIECE_BYTES + 10), Sender()
    first = pieces(sender.receive, "192.0.2.1", room)
    assert len(await anext(first)) == PIECE_BYTES
    await asyncio.sleep(0)
    assert sender.sent_bytes == PIECE_BYTES
    with pytest.raises(ApiError) as refused:
        await anext(pieces(sender.receive, "192.0.2.1", room))
    assert (refused.value.code, refused.value.status) == ("OVERLOADED", 429)
    await first.aclose()
    assert len(await anext(pieces(sender.receive, "192.0.2.1", room))) == PIECE_BYTES


async def test_piece_that_is_stored_makes_room_for_the_next() -> None:
    found = pieces(Sender().receive, "192.0.2.1", Room(PIECE_BYTES))
    assert [len(await anext(found)) for _ in range(3)] == [PIECE_BYTES] * 3


async def test_one_sender_takes_only_its_share_of_the_room() -> None:
    room, sender = Room(share_bytes=PIECE_BYTES), Sender()
    first = pieces(sender.receive, "192.0.2.1", room)
    await anext(first)
    with pytest.raises(ApiError) as refused:
        await anext(pieces(sender.receive, "192.0.2.1", room))
    assert (refused.value.code, refused.value.status) == ("OVERLOADED", 429)
    assert len(await anext(pieces(sender.receive, "192.0.2.2", room))) == PIECE_BYTES
    await first.aclose()
    assert len(await anext(pieces(sender.receive, "192.0.2.1", room))) == PIECE_BYTES


async def test_request_and_upload_share_the_room_and_each_keeps_its_bytes_until_it_is_done() -> None:
    room, sender = Room(PIECE_BYTES + MIB), Sender()
    with room.of("192.0.2.1") as held:
        for _ in range(2):
            await held.receive(sender.receive)
        with pytest.raises(ApiError) as refused:
            await anext(pieces(sender.receive, "192.0.2.2", room))
        assert (refused.value.code, refused.value.status) == ("OVERLOADED", 429)
    assert len(await anext(pieces(sender.receive, "192.0.2.2", room))) == PIECE_BYTES

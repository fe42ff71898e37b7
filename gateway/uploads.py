"""Owns requests whose body is raw bytes, which may be many: where they begin, and their pieces.

A piece is read only after the previous one was stored, so a fast sender costs no memory. It knows no RPC.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Iterable

from starlette.types import Receive

from gateway.edge import ClientGoneError
from gateway.errors import ApiError
from gateway.room import ROOM, Room

PIECE_BYTES = 4 << 20
_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(?:\d{1,18}|\*)")


def first_place(headers: Iterable[tuple[bytes, bytes]]) -> int:
    """Where the body begins, as its `Content-Range` says; 0 without one. Raises ApiError."""
    given = [value.decode("latin-1").strip() for name, value in headers if name == b"content-range"]
    if not given:
        return 0
    found = _RANGE.fullmatch(given[0])
    if found is None or len(given) > 1 or int(found[2]) < int(found[1]):
        text = "Content-Range: send it once, as `bytes FIRST-LAST/SIZE`; curl does with -C FIRST."
        raise ApiError("INVALID_FIELD", text, field="Content-Range")
    return int(found[1])


def refuse_packed(headers: Iterable[tuple[bytes, bytes]]) -> None:
    """Raises ApiError for a compressed body: the bytes that arrive are those that are kept."""
    if any(name == b"content-encoding" and value.strip().lower() != b"identity" for name, value in headers):
        text = "Content-Encoding: send the bytes as they are; a file that is compressed may stay so."
        raise ApiError("UNSUPPORTED_MEDIA_TYPE", text, field="Content-Encoding")


async def pieces(receive: Receive, sender: str, room: Room = ROOM) -> AsyncGenerator[bytes, None]:
    """The body of a request from an address in pieces; an empty body is one empty piece.

    Raises ApiError when there is no room.

    If the sender goes, what has arrived is the last piece, and then ClientGoneError is raised.
    """
    piece, is_any, is_end, is_gone = bytearray(), False, False, False
    with room.of(sender) as held:
        while not is_end:
            message = await held.receive(receive)
            is_gone = message["type"] == "http.disconnect"
            is_end = is_gone or not message.get("more_body", False)
            piece += message.get("body", b"")
            if len(piece) >= PIECE_BYTES or (is_end and (piece or not is_any)):
                whole, is_any = bytes(piece), True
                piece.clear()
                for first in range(0, len(whole) or 1, PIECE_BYTES):
                    yield whole[first : first + PIECE_BYTES]
                held.free()
        if is_gone:
            raise ClientGoneError

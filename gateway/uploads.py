"""Owns requests whose body is raw bytes, which may be many: where they begin, and their pieces.

A piece is read only after the previous one was stored, so a fast sender costs no memory. It knows no RPC.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import AsyncGenerator, Iterable

from starlette.types import Receive, Scope

from common import addresses
from gateway.edge import ClientGoneError
from gateway.errors import ApiError

PIECE_BYTES = 4 << 20
MOST_BYTES = 256 << 20
"""Most bytes of unfinished pieces in memory, of all uploads together."""
SHARE_BYTES = MOST_BYTES // 8
"""Most of them from one address."""
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


class Pieces:
    """The pieces of all bodies that arrive; bounded together, and those of each sender."""

    def __init__(self, most_bytes: int = MOST_BYTES, share_bytes: int = SHARE_BYTES) -> None:
        self._most_bytes = most_bytes
        self._share_bytes = share_bytes
        self._held = 0
        self._held_of: Counter[str] = Counter()

    async def of(self, receive: Receive, sender: str) -> AsyncGenerator[bytes, None]:
        """The body of a request from an address in pieces; an empty body is one empty piece.

        Raises ApiError when there is no room.

        If the sender goes, what has arrived is the last piece, and then ClientGoneError is raised.
        """
        piece, held, is_any, is_end, is_gone = bytearray(), 0, False, False, False
        try:
            while not is_end:
                message = await receive()
                is_gone = message["type"] == "http.disconnect"
                is_end = is_gone or not message.get("more_body", False)
                data = message.get("body", b"")
                if (
                    self._held + len(data) > self._most_bytes
                    or self._held_of[sender] + len(data) > self._share_bytes
                ):
                    raise ApiError(
                        "OVERLOADED", "Too many uploads arrive at once; go on in a moment.", http_status=429
                    )
                self._hold(sender, len(data))
                held += len(data)
                piece += data
                if len(piece) >= PIECE_BYTES or (is_end and (piece or not is_any)):
                    whole, is_any = bytes(piece), True
                    piece.clear()
                    for first in range(0, len(whole) or 1, PIECE_BYTES):
                        yield whole[first : first + PIECE_BYTES]
                    self._hold(sender, -held)
                    held = 0
            if is_gone:
                raise ClientGoneError
        finally:
            self._hold(sender, -held)

    def _hold(self, sender: str, more: int) -> None:
        self._held += more
        self._held_of[sender] += more
        if not self._held_of[sender]:
            del self._held_of[sender]


def sender_of(scope: Scope) -> str:
    """The counted address from which a request comes, as the trusted proxies say."""
    client = scope.get("client")
    address = addresses.parse(client[0]) if client else None
    return addresses.counted(address) if address else ""

"""Owns the memory for long bodies: one room for all that arrive here, with a share for each sender.

Whoever comes when it is full comes again later. It reads no body.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from starlette.types import Message, Receive, Scope

from common import addresses
from gateway.errors import ApiError

MOST_BYTES = 512 << 20
"""Of all long bodies together: requests until they are submitted, uploads until their piece is stored."""
SHARE_BYTES = MOST_BYTES // 4
"""Most of them from one address."""


class Room:
    """The bytes that are in memory now, by sender."""

    def __init__(self, most_bytes: int = MOST_BYTES, share_bytes: int = SHARE_BYTES) -> None:
        self._most_bytes = most_bytes
        self._share_bytes = share_bytes
        self._taken = 0
        self._taken_of: Counter[str] = Counter()

    @contextmanager
    def of(self, sender: str) -> Iterator[Held]:
        """What one body takes, until the block ends."""
        held = Held(self, sender)
        try:
            yield held
        finally:
            held.free()

    def take(self, sender: str, size: int) -> None:
        """Takes room. Raises ApiError when it is full."""
        if self._taken + size > self._most_bytes or self._taken_of[sender] + size > self._share_bytes:
            raise ApiError(
                "OVERLOADED", "Too many long requests arrive at once; go on in a moment.", http_status=429
            )
        self.give(sender, -size)

    def give(self, sender: str, size: int) -> None:
        """Gives room back."""
        self._taken -= size
        self._taken_of[sender] -= size
        if not self._taken_of[sender]:
            del self._taken_of[sender]


class Held:
    """What one body has taken of a room."""

    def __init__(self, room: Room, sender: str) -> None:
        self._room = room
        self._sender = sender
        self._size = 0

    async def receive(self, receive: Receive) -> Message:
        """The next part of the body, for which room is taken. Raises ApiError when it is full."""
        message = await receive()
        size = len(message.get("body", b""))
        self._room.take(self._sender, size)
        self._size += size
        return message

    def free(self) -> None:
        """Gives back what was taken so far."""
        self._room.give(self._sender, self._size)
        self._size = 0


ROOM = Room()
"""That of this process."""


def sender_of(scope: Scope) -> str:
    """The counted address from which a request comes, as the trusted proxies say."""
    client = scope.get("client")
    address = addresses.parse(client[0]) if client else None
    return addresses.counted(address) if address else ""

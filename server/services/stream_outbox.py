"""The messages that wait for one daemon's stream: bounded, and each written once."""

from __future__ import annotations

from collections.abc import Callable

from server.domain.messages import ServerMessage

OUTBOX_SIZE = 1000


class Outbox:
    """The bounded queue of messages to one stream. It calls ``wake`` when there is something to write."""

    __slots__ = ("_is_closed", "_messages", "is_over", "wake")

    def __init__(self) -> None:
        self._messages: list[ServerMessage] = []
        self._is_closed = False
        self.is_over = False
        """The end was read, or the stream was aborted: no message follows."""
        self.wake: Callable[[], None] = _wake_no_writer

    def put(self, message: ServerMessage) -> bool:
        """Adds a message; False if the queue is full. After ``close`` the message is dropped."""
        if len(self._messages) >= OUTBOX_SIZE:
            return False
        if not self._is_closed:
            self._messages.append(message)
            self.wake()
        return True

    def close(self) -> None:
        """Ends the stream after the messages in the queue."""
        self._is_closed = True
        self.wake()

    def abort(self) -> None:
        """Ends the stream now, once: the messages in the queue are dropped."""
        if self.is_over:
            return
        self._messages.clear()
        self._is_closed = self.is_over = True
        self.wake()

    def empty(self) -> bool:
        """Whether there is nothing to write, not even the end of the stream."""
        return not self._messages and not self._is_closed

    def get_nowait(self) -> ServerMessage | None:
        """The next message; None at the end. Raises IndexError if the queue is empty."""
        if self._is_closed and not self._messages:
            self.is_over = True
            return None
        return self._messages.pop(0)


def _wake_no_writer() -> None:
    """Does nothing: the stream has no writer yet."""

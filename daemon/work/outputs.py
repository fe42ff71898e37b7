"""Owns how often output travels: tokens are gathered so that each does not cost a message.

The first piece leaves at once, later ones every 50 ms or 16 KiB. It must not
know where the chunks go; the clock's reading is an argument.
"""

FLUSH_SECONDS = 0.05
FLUSH_BYTES = 16 * 1024


class Batcher:
    """Gathers pieces of text, as UTF-8, and of bytes into chunks."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._flushed_at: float | None = None

    @property
    def pending(self) -> bool:
        """Whether something waits to be flushed."""
        return bool(self._buffer)

    def add(self, piece: str | bytes, now: float) -> bytes:
        """Takes a piece; returns the chunk that is due now, or nothing."""
        # A lone surrogate cannot travel as UTF-8, and one must not end a job.
        self._buffer += piece.encode(errors="replace") if isinstance(piece, str) else piece
        is_due = self._flushed_at is None or now - self._flushed_at >= FLUSH_SECONDS
        return self.flush(now) if is_due or len(self._buffer) >= FLUSH_BYTES else b""

    def flush(self, now: float) -> bytes:
        """Everything that waits, as one chunk."""
        chunk = bytes(self._buffer)
        self._buffer.clear()
        self._flushed_at = now
        return chunk

"""Batching of output."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from daemon.work.attempts import FLUSH_BYTES, FLUSH_SECONDS, Batcher


def test_first_piece_is_sent_at_once_and_the_next_pieces_together() -> None:
    batcher = Batcher()
    assert batcher.due_seconds(0.0) is None
    batcher.add("a")
    assert batcher.due_seconds(0.0) == 0.0
    assert batcher.flush(0.0) == b"a"
    batcher.add("b")
    batcher.add("c")
    assert batcher.due_seconds(0.02) == FLUSH_SECONDS - 0.02
    assert batcher.due_seconds(FLUSH_SECONDS) == 0.0
    batcher.add("d")
    assert batcher.flush(FLUSH_SECONDS) == b"bcd"
    assert batcher.due_seconds(FLUSH_SECONDS) is None


def test_large_output_is_sent_without_waiting() -> None:
    batcher = Batcher()
    batcher.add("a")
    batcher.flush(0.0)
    batcher.add("b" * (FLUSH_BYTES - 1))
    assert not batcher.is_full
    batcher.add("b")
    assert batcher.is_full
    assert len(batcher.flush(0.0)) == FLUSH_BYTES


def test_incomplete_character_does_not_fail_a_job() -> None:
    batcher = Batcher()
    batcher.add("a\ud800b")
    assert batcher.flush(0.0) == b"a?b"


@given(st.lists(st.tuples(st.text(max_size=5), st.floats(0, 1))))
def test_nothing_is_lost_or_reordered(pieces: list[tuple[str, float]]) -> None:
    batcher, now, out = Batcher(), 0.0, b""
    for text, wait in pieces:
        now += wait
        batcher.add(text)
        if batcher.due_seconds(now) == 0.0:
            out += batcher.flush(now)
    assert out + batcher.flush(now) == "".join(text for text, _ in pieces).encode(errors="replace")

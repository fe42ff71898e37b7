"""Batching of output."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from daemon.work.attempts import FLUSH_BYTES, FLUSH_SECONDS, Batcher


def test_first_piece_is_sent_at_once_and_the_next_pieces_together() -> None:
    batcher = Batcher()
    assert batcher.add("a", 0.0) == b"a"
    assert batcher.add("b", 0.01) == b""
    assert batcher.add("c", 0.02) == b""
    assert batcher.pending
    assert batcher.add("d", FLUSH_SECONDS) == b"bcd"
    assert not batcher.pending


def test_large_output_is_sent_without_waiting() -> None:
    batcher = Batcher()
    batcher.add("a", 0.0)
    assert len(batcher.add("b" * FLUSH_BYTES, 0.0)) == FLUSH_BYTES


def test_incomplete_character_does_not_fail_a_job() -> None:
    assert Batcher().add("a\ud800b", 0.0) == b"a?b"


@given(st.lists(st.tuples(st.text(max_size=5), st.floats(0, 1))))
def test_nothing_is_lost_or_reordered(pieces: list[tuple[str, float]]) -> None:
    batcher, now, out = Batcher(), 0.0, b""
    for text, wait in pieces:
        now += wait
        out += batcher.add(text, now)
    assert out + batcher.flush(now) == "".join(text for text, _ in pieces).encode(errors="replace")

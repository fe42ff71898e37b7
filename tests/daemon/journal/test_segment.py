"""The form of the segments: prefixes are valid, damage costs what it covers, and nothing is forged."""

from __future__ import annotations

import pytest
from dcp.v1 import sessions_pb2
from hypothesis import assume, given
from hypothesis import strategies as st

from daemon.journal import segment
from daemon.journal.segment import HEADER_BYTES, Attempt, Damage, Entry, UnknownVersionError, attempt_id
from daemon.protocol.records import Channel, Chunk, Finished, Reading, Record, Started, Stored, accepted
from tests.daemon.fake_server import lease, offer

ATTEMPTS = [attempt_id(lease(f"job-{number}")) for number in range(3)]

records: st.SearchStrategy[Record] = st.one_of(
    st.builds(lambda number: accepted(offer(f"job-{number}")), st.integers(0, 2)),
    st.just(Started()),
    st.builds(Reading, st.integers(0, 2**64 - 1)),
    st.builds(Chunk, st.sampled_from(Channel), st.integers(0, 2**64 - 1), st.binary(max_size=60)),
    st.builds(Stored, st.sampled_from(Channel), st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1)),
    st.builds(lambda seq: Finished(sessions_pb2.JobFinished(last_output_seq=seq)), st.integers(0, 9)),
)
entries = st.builds(
    Entry,
    st.sampled_from(ATTEMPTS),
    st.integers(0, 2**32 - 1),
    st.lists(records, max_size=4),
)


def written(given_entries: list[Entry]) -> tuple[bytes, list[int]]:
    """A segment with these entries, and where each of them ends."""
    data, marker = segment.header()
    ends = []
    for entry in given_entries:
        data += segment.frame(marker, entry)
        ends.append(len(data))
    return data, ends


def begin(number: int, size: int) -> Entry:
    """The first entry of an attempt, with an output of a size."""
    first: list[Record] = [accepted(offer(f"job-{number}")), Chunk(Channel.OUTPUT, 1, bytes(size))]
    return Entry(ATTEMPTS[number], 0, first)


@given(st.lists(entries, max_size=6))
def test_what_was_written_is_read(given_entries: list[Entry]) -> None:
    data, _ = written(given_entries)
    content = segment.read(data)
    assert (content.entries, content.end, content.damage) == (given_entries, len(data), [])
    assert data.startswith(b"DCPJ\x01" + bytes(3) + content.marker)


@given(st.lists(entries, max_size=6), st.data())
def test_every_prefix_is_a_valid_journal(given_entries: list[Entry], draw: st.DataObject) -> None:
    data, ends = written(given_entries)
    cut = draw.draw(st.integers(0, len(data)))
    content = segment.read(data[:cut])
    whole = [entry for entry, end in zip(given_entries, ends, strict=True) if end <= cut]
    assert content.entries == whole
    assert content.damage == []
    assert content.end == (0 if cut < HEADER_BYTES else max([HEADER_BYTES, *ends[: len(whole)]]))


@given(st.lists(entries, min_size=1, max_size=6), st.data())
def test_flipped_bit_costs_its_own_entry_and_is_reported(
    given_entries: list[Entry], draw: st.DataObject
) -> None:
    data, ends = written(given_entries)
    at = draw.draw(st.integers(HEADER_BYTES, len(data) - 1))
    damaged = bytearray(data)
    damaged[at] ^= 1 << draw.draw(st.integers(0, 7))
    content = segment.read(bytes(damaged))
    hit = next(index for index, end in enumerate(ends) if at < end)
    assert content.entries == given_entries[:hit] + given_entries[hit + 1 :]
    begins = [HEADER_BYTES, *ends]
    if hit < len(given_entries) - 1:
        assert content.damage == [Damage(begins[hit], begins[hit + 1] - begins[hit])]
        assert content.end == len(data)
    else:
        assert content.damage == []
        assert content.end == begins[hit], "what follows cannot be told from a torn write"


@given(st.lists(entries, min_size=1, max_size=4), st.integers(0, HEADER_BYTES - 1), st.integers(0, 7))
def test_header_that_is_damaged_costs_no_entry(given_entries: list[Entry], at: int, bit: int) -> None:
    assume(at != 4 and not 5 <= at < 8)  # the version, and what is not used
    damaged = bytearray(written(given_entries)[0])
    damaged[at] ^= 1 << bit
    content = segment.read(bytes(damaged))
    assert content.entries == given_entries
    assert content.damage == [Damage(0, HEADER_BYTES)]


@given(st.binary(max_size=400))
def test_any_bytes_can_be_read(data: bytes) -> None:
    try:
        assert segment.read(data).entries == []
    except UnknownVersionError:
        assert data.startswith(b"DCPJ")


def test_other_version_is_refused() -> None:
    data = bytearray(written([begin(0, 1)])[0])
    data[4] = 2
    with pytest.raises(UnknownVersionError, match="its format is 2"):
        segment.read(bytes(data))


def test_output_that_looks_like_a_frame_is_never_taken_for_one() -> None:
    """A torn or damaged piece of output may hold what its job took for an entry of another job."""
    _, other_marker = segment.header()
    forged = segment.frame(other_marker, Entry(ATTEMPTS[1], 1, ()))
    data, _ = written(
        [begin(1, 1), Entry(ATTEMPTS[0], 0, [Chunk(Channel.OUTPUT, 1, forged * 20)]), begin(2, 1)]
    )
    torn = bytearray(data)
    torn[torn.index(forged) - 1] ^= 1
    content = segment.read(bytes(torn))
    assert [entry.attempt for entry in content.entries] == [ATTEMPTS[1], ATTEMPTS[2]]
    assert all(entry.records for entry in content.entries), "nothing was forgotten"


def test_entry_behind_a_gap_is_left_out_and_those_of_others_are_not() -> None:
    attempts: dict[bytes, Attempt] = {}
    assert segment.apply(begin(0, 1), attempts)
    assert segment.apply(begin(1, 1), attempts)
    assert not segment.apply(Entry(ATTEMPTS[0], 2, [Started()]), attempts)
    assert segment.apply(Entry(ATTEMPTS[1], 1, [Started()]), attempts)
    assert not segment.apply(Entry(ATTEMPTS[2], 1, [Started()]), attempts)
    assert [attempts[attempt].history.started for attempt in ATTEMPTS[:2]] == [False, True]
    assert segment.apply(Entry(ATTEMPTS[0], 1, [Started()]), attempts)
    assert attempts[ATTEMPTS[0]].history.started

"""The journal: durable records survive a crash, and a torn record affects only itself."""

from __future__ import annotations

import contextlib
import copy
import errno
import os
import stat
from pathlib import Path
from random import Random
from typing import get_args

import pytest
from dcp.v1 import jobs_pb2, sessions_pb2
from hypothesis import given
from hypothesis import strategies as st

from daemon.journal import segment
from daemon.journal.disk import FileDisk, JournalError
from daemon.journal.encoding import decode, encode
from daemon.journal.journal import MUST_BE_DURABLE, Journal
from daemon.protocol.effects import Forget, Persist
from daemon.protocol.records import (
    Channel,
    Chunk,
    Finished,
    History,
    Reading,
    Record,
    Started,
    Stored,
    accepted,
    replay,
)
from scripts.simulation.machines import Disk, ProcessDied
from tests.daemon.fake_server import lease, offer
from tests.support.journals import is_empty
from tests.support.memory_disk import MemoryDisk

FINISHED = Finished(sessions_pb2.JobFinished(lease=lease(), last_output_seq=2))
STORY: list[Record] = [
    accepted(offer()),
    Started(),
    Chunk(Channel.OUTPUT, 1, b"one"),
    Chunk(Channel.LOG, 1, b"log"),
    Reading(1500),
    Stored(Channel.OUTPUT, 1, 3),
    Chunk(Channel.OUTPUT, 2, b"two"),
    FINISHED,
]


def persist(*records: Record, job_id: str = "job-1") -> Persist:
    return Persist(1, lease(job_id), records)


def recovered(disk: MemoryDisk) -> list[History]:
    """The histories that a daemon finds when it starts on this disk."""
    return Journal(disk).recover()


def chunks(history: History) -> list[tuple[int, bytes]]:
    return history.channels[Channel.OUTPUT].kept()


def test_history_of_an_attempt_is_recovered() -> None:
    disk = MemoryDisk()
    assert Journal(disk).write([persist(record) for record in STORY]) == [None] * len(STORY)
    disk.crash(Random(1))
    (history,) = recovered(disk)
    assert history.offer.lease == lease()
    assert (history.started, history.run_ms) == (True, 1500)
    assert chunks(history) == [(2, b"two")]
    assert history.channels[Channel.LOG].kept() == [(1, b"log")]
    assert history.channels[Channel.OUTPUT].total_bytes == 6
    assert history.finished == FINISHED.message


def test_prompt_and_environment_are_not_written() -> None:
    disk = MemoryDisk()
    spec = jobs_pb2.ContainerSpec(env={"TOKEN": "xyzzy"})
    work = offer(params=jobs_pb2.JobParams(model="test/model", prompt="plugh"))
    work.container_spec.CopyFrom(spec)
    Journal(disk).write([persist(accepted(work))])
    written = disk.read(disk.names()[0])
    assert b"xyzzy" not in written
    assert b"plugh" not in written


def test_several_chunks_share_one_sync() -> None:
    disk = MemoryDisk()
    journal = Journal(disk)
    journal.write([persist(accepted(offer()), Started())])
    before = disk.syncs
    journal.write([persist(Chunk(Channel.OUTPUT, seq, b"x")) for seq in range(1, 21)])
    assert disk.syncs - before == 1


def jobs(disk: MemoryDisk) -> list[str]:
    """The jobs that a daemon finds when it starts on this disk."""
    return [history.offer.lease.job_id for history in recovered(disk)]


def test_forgotten_attempt_is_not_recovered() -> None:
    disk = MemoryDisk()
    journal = Journal(disk)
    journal.write([persist(*STORY), persist(accepted(offer("job-2")), job_id="job-2")])
    assert journal.write([Forget(lease())]) == [None]
    assert jobs(copy.deepcopy(disk)) == ["job-2"], "after a kill"
    assert journal.write([persist(Started(), job_id="job-2")]) == [None]
    disk.crash(Random(1))
    assert jobs(disk) == ["job-2"], "after a loss of power: it was durable with the next record"


def test_attempt_whose_forgetting_a_loss_of_power_undid_is_whole() -> None:
    for seed in range(20):
        disk = MemoryDisk()
        journal = Journal(disk)
        journal.write([persist(*STORY)])
        journal.write([Forget(lease())])
        disk.crash(Random(seed))
        assert [history.finished for history in recovered(disk)] in ([], [FINISHED.message])


def test_only_what_is_reported_is_synced() -> None:
    reported = {type(record) for record in STORY} - {Reading, Stored}
    assert {kind for kind, must in MUST_BE_DURABLE.items() if must} == reported
    assert set(MUST_BE_DURABLE) == set(get_args(Record))
    disk = MemoryDisk()
    journal = Journal(disk)
    journal.write([persist(STORY[0], Started())])
    before = disk.syncs
    assert journal.write([persist(Reading(900)), persist(Stored(Channel.LOG, 0, 0))]) == [None, None]
    assert disk.syncs == before
    assert journal.write([persist(Chunk(Channel.OUTPUT, 1, b"one"))]) == [None]
    disk.crash(Random(1))
    assert [(history.run_ms, chunks(history)) for history in recovered(disk)] == [(900, [(1, b"one")])]


def test_all_attempts_that_wait_share_one_sync() -> None:
    disk = MemoryDisk()
    journal = Journal(disk)
    names = [f"job-{number}" for number in range(16)]
    journal.write([persist(accepted(offer()))])
    before = disk.syncs
    assert journal.write([persist(accepted(offer(name)), job_id=name) for name in names[2:]]) == [None] * 14
    assert journal.write([persist(Started(), job_id=name) for name in names[2:]]) == [None] * 14
    assert disk.syncs - before == 2


@pytest.mark.parametrize("cut", range(1, 40))
def test_torn_record_is_the_only_one_lost(cut: int, caplog: pytest.LogCaptureFixture) -> None:
    disk = MemoryDisk()
    Journal(disk).write([persist(*STORY[:-1])])
    (name,) = disk.names()
    whole = len(disk.read(name))
    writer = Journal(disk)
    writer.recover()
    (name,) = disk.names()
    whole = len(disk.read(name))
    writer.write([persist(FINISHED)])
    disk.truncate(name, len(disk.read(name)) - cut)
    torn = len(disk.read(name)) - whole
    restarted = Journal(disk)
    (history,) = restarted.recover()
    assert history.finished is None
    assert chunks(history) == [(2, b"two")]
    assert f"cut a torn record off the journal file={name} offset={whole} bytes={torn}" in caplog.messages
    assert restarted.write([persist(Chunk(Channel.OUTPUT, 3, b"three"))]) == [None]
    assert chunks(recovered(disk)[0]) == [(2, b"two"), (3, b"three")]


@given(st.integers(0, len(encode(STORY)) - 1), st.integers(0, 7))
def test_record_with_a_flipped_bit_is_never_recovered(at: int, bit: int) -> None:
    data = bytearray(encode(STORY))
    data[at] ^= 1 << bit
    records, size = decode(bytes(data))
    assert size <= at
    assert records == STORY[: len(records)]


def test_file_that_grew_without_its_content_is_truncated() -> None:
    data = encode(STORY) + bytes(100)
    assert decode(data) == (STORY, len(encode(STORY)))


def test_full_disk_is_reported_and_leaves_no_torn_record() -> None:
    disk = MemoryDisk()
    journal = Journal(disk)
    journal.write([persist(accepted(offer()), Started())])
    disk.is_full = True
    (error,) = journal.write([persist(Chunk(Channel.OUTPUT, 1, b"lost" * 100))])
    assert error is not None
    disk.is_full = False
    assert journal.write([persist(Chunk(Channel.OUTPUT, 1, b"kept"))]) == [None]
    assert [segment.read(disk.read(name)).damage for name in disk.names()] == [[]]
    assert chunks(recovered(disk)[0]) == [(1, b"kept")]


def test_full_disk_takes_no_new_attempt() -> None:
    disk = MemoryDisk()
    disk.is_full = True
    (error,) = Journal(disk).write([persist(accepted(offer()))])
    assert error is not None
    assert "No space" in str(error)
    disk.is_full = False
    assert recovered(disk) == []


def test_nearly_full_disk_takes_no_new_attempt_and_continues_the_old() -> None:
    disk = MemoryDisk()
    journal = Journal(disk)
    journal.write([persist(accepted(offer()))])
    disk.free = 16 * 1024 * 1024 - 1
    refused, went_on = journal.write([persist(accepted(offer("job-2")), job_id="job-2"), persist(Started())])
    assert refused is not None
    assert went_on is None
    assert len(recovered(disk)) == 1


class UnmeasuredDisk(MemoryDisk):
    """A disk that cannot say how much room it has."""

    def free_bytes(self) -> int:
        raise OSError(errno.EIO, "Input/output error")


def test_disk_that_cannot_say_its_room_takes_no_new_attempt_and_continues_the_old() -> None:
    disk = UnmeasuredDisk()
    disk.append("a" * 40 + ".attempt", encode(STORY[:1]))
    journal = Journal(disk)
    journal.recover()
    refused, went_on = journal.write([persist(accepted(offer("job-2")), job_id="job-2"), persist(Started())])
    assert refused is not None
    assert went_on is None
    assert [history.started for history in recovered(copy.deepcopy(disk))] == [True]
    assert journal.write([persist(accepted(offer("job-3")), job_id="job-3"), Forget(lease())])[1] is None
    assert is_empty(disk)


def test_record_that_does_not_fit_fails_alone() -> None:
    disk = MemoryDisk()
    journal = Journal(disk)
    journal.write([persist(accepted(offer())), persist(accepted(offer("job-2")), job_id="job-2")])
    disk.room = 4_000
    big = persist(Chunk(Channel.OUTPUT, 1, b"x" * 4_000))
    errors = journal.write([big, persist(Started(), job_id="job-2"), persist(FINISHED), Forget(lease())])
    assert [error is None for error in errors] == [False, True, False, True]
    (history,) = recovered(disk)
    assert (history.offer.lease.job_id, history.started) == ("job-2", True)


def test_failure_of_an_attempt_does_not_affect_another() -> None:
    disk = MemoryDisk()
    journal = Journal(disk)
    journal.write([persist(accepted(offer()))])
    errors = journal.write([persist(Started()), persist(Started(), job_id="never-accepted")])
    assert errors[0] is None
    assert errors[1] is not None


def test_failed_sync_is_reported_and_undone() -> None:
    disk = MemoryDisk()
    journal = Journal(disk)
    journal.write([persist(accepted(offer()))])
    disk.fails_to_sync = True
    assert journal.write([persist(Started())]) != [None]
    disk.fails_to_sync = False
    assert not recovered(disk)[0].started


@pytest.mark.parametrize("is_restarted", [False, True])
@pytest.mark.parametrize("seed", range(20))
def test_sync_that_succeeds_after_one_that_failed_is_not_trusted(seed: int, is_restarted: bool) -> None:
    disk = MemoryDisk()
    journal = Journal(disk)
    journal.write([persist(accepted(offer()), Started())])
    journal.write(
        [persist(Reading(900))]
    )  # not synced yet: the failed sync loses it, and the kernel hides that
    disk.fails_to_sync = True
    (error,) = journal.write([persist(Reading(950), Chunk(Channel.OUTPUT, 1, b"lost"))])
    assert error is not None
    disk.fails_to_sync = False
    if is_restarted:
        journal = Journal(disk)
        journal.recover()
    assert journal.write([persist(Chunk(Channel.OUTPUT, 1, b"kept"))]) == [None]
    disk.crash(Random(seed))
    assert chunks(recovered(disk)[0]) == [(1, b"kept")]


def test_failed_write_that_cannot_be_cut_off_is_not_found_again() -> None:
    disk = MemoryDisk()
    journal = Journal(disk)
    journal.write([persist(accepted(offer()), Started())])
    disk.is_full = disk.fails_to_cut = True
    errors = journal.write([persist(Reading(900)), persist(Chunk(Channel.OUTPUT, 1, b"lost" * 100))])
    assert None not in errors
    disk.is_full = disk.fails_to_cut = False
    assert journal.write([persist(Chunk(Channel.OUTPUT, 1, b"kept"))]) == [None]
    (history,) = recovered(disk)
    assert (history.run_ms, chunks(history)) == (0, [(1, b"kept")])


def test_nothing_is_written_behind_what_could_not_be_cut_off() -> None:
    disk = MemoryDisk()
    journal = Journal(disk)
    journal.write([persist(accepted(offer())), persist(accepted(offer("job-2")), job_id="job-2")])
    disk.room, disk.fails_to_cut = 100, True
    lost = persist(Chunk(Channel.OUTPUT, 1, b"lost" * 100))
    assert None not in journal.write([lost, persist(Started(), job_id="job-2")])
    disk.room, disk.fails_to_cut = None, False
    assert journal.write([persist(Started())]) == [None]
    assert [history.started for history in recovered(disk)] == [True, False]


@pytest.mark.parametrize("seed", range(8))
def test_what_lies_before_a_new_segment_is_durable(seed: int) -> None:
    disk = MemoryDisk()
    journal = Journal(disk, segment_bytes=1_000)
    journal.write([persist(accepted(offer()), Started(), Chunk(Channel.OUTPUT, 1, b"x" * 3_000))])
    journal.write([persist(Reading(900))])
    assert len(disk.names()) == 2, "no sync was due, and the segment is full"
    assert journal.write([persist(Chunk(Channel.OUTPUT, 2, b"two"))]) == [None]
    disk.crash(Random(seed))
    assert chunks(recovered(disk)[0])[1:] == [(2, b"two")]


@pytest.mark.parametrize("seed", range(8))
def test_sync_that_failed_before_a_new_segment_is_not_trusted_later(seed: int) -> None:
    disk = MemoryDisk()
    journal = Journal(disk, segment_bytes=1_000)
    journal.write([persist(accepted(offer()), Started(), Chunk(Channel.OUTPUT, 1, b"x" * 3_000))])
    disk.fails_to_sync = True
    assert journal.write([persist(Reading(900))]) == [None], "no sync was due"
    disk.fails_to_sync = False
    assert journal.write([persist(Chunk(Channel.OUTPUT, 2, b"two"))]) == [None]
    disk.crash(Random(seed))
    assert chunks(recovered(disk)[0])[1:] == [(2, b"two")]


@pytest.mark.parametrize("seed", range(8))
def test_segment_that_a_killed_process_did_not_make_durable_is_not_trusted(seed: int) -> None:
    disk = Disk()
    disk.dies_in = 1  # between the new segment and the sync of the folder
    with contextlib.suppress(ProcessDied):
        Journal(disk).write([persist(accepted(offer()))])
    assert disk.names() == ["00000001.segment"]
    journal = Journal(disk)
    assert journal.recover() == []
    assert journal.write([persist(*STORY)]) == [None]
    disk.crash(Random(seed))
    assert [history.finished for history in recovered(disk)] == [FINISHED.message]


def test_unsynced_records_of_an_earlier_process_are_synced_at_recovery() -> None:
    disk = MemoryDisk()
    disk.append("killed-before-its-sync.attempt", encode(STORY))
    assert recovered(disk)[0].finished == FINISHED.message
    disk.crash(Random(1))
    assert recovered(disk)[0].finished == FINISHED.message


def test_attempt_that_cannot_be_synced_at_recovery_takes_no_more_records() -> None:
    disk = MemoryDisk()
    Journal(disk).write([persist(accepted(offer()))])
    disk.fails_to_sync = True
    restarted = Journal(disk)
    assert len(restarted.recover()) == 1
    disk.fails_to_sync = False
    (error,) = restarted.write([persist(Started())])
    assert error is not None


def test_acknowledged_chunks_are_forgotten_and_the_file_stays_small(tmp_path: Path) -> None:
    disk = FileDisk(tmp_path)
    journal = Journal(disk)
    journal.write([persist(accepted(offer()), Started())])
    for seq in range(1, 101):
        records = (
            Chunk(Channel.OUTPUT, seq, b"x" * 20_000),
            Stored(Channel.OUTPUT, seq - 1, 20_000 * (seq - 1)),
        )
        assert journal.write([persist(*records)]) == [None]
    (name,) = disk.names()
    assert len(disk.read(name)) < 2 * 256 * 1024
    (history,) = Journal(disk).recover()
    assert chunks(history) == [(100, b"x" * 20_000)]
    assert history.channels[Channel.OUTPUT].total_bytes == 100 * 20_000
    assert history.started


LONG = b"x" * 200_000
MORE: list[Record] = [Stored(Channel.OUTPUT, 1, len(LONG)), Chunk(Channel.OUTPUT, 2, b"y" * 100_000)]


def long_output(disk: MemoryDisk) -> Journal:
    """A journal that is made smaller when `MORE` is written."""
    journal = Journal(disk)
    journal.write([persist(accepted(offer()), Chunk(Channel.OUTPUT, 1, LONG))])
    return journal


@pytest.mark.parametrize("seed", range(8))
def test_compaction_that_the_folder_lacks_loses_nothing(seed: int) -> None:
    disk = MemoryDisk()
    journal = long_output(disk)
    disk.fails_to_sync_folder = True
    assert journal.write([persist(*MORE)]) == [None]
    disk.fails_to_sync_folder = False
    assert journal.write([persist(Chunk(Channel.OUTPUT, 3, b"three"))]) == [None]
    disk.crash(Random(seed))
    (history,) = recovered(disk)
    assert chunks(history)[-1] == (3, b"three")
    assert history.channels[Channel.OUTPUT].total_bytes == 300_005


def test_journal_that_cannot_be_read_back_is_not_replaced(caplog: pytest.LogCaptureFixture) -> None:
    disk = MemoryDisk()
    journal = long_output(disk)
    (name,) = disk.names()
    data = disk.read(name)
    disk.replace(name, data[:1_000] + b"?" + data[1_001:])
    assert journal.write([persist(*MORE)]) == [None]
    assert "could not be made smaller error=[Errno 5] the journal cannot be read back" in caplog.text
    assert disk.names() == [name]
    assert len(disk.read(name)) > len(data)


class StickyDisk(MemoryDisk):
    """A disk that removes nothing."""

    def delete(self, name: str) -> None:
        raise OSError(errno.EIO, "Input/output error")


def test_newer_records_count_if_a_failed_compaction_could_not_be_removed() -> None:
    disk = StickyDisk()
    journal = long_output(disk)
    disk.fails_to_sync_folder = True
    assert journal.write([persist(*MORE)]) == [None]
    assert len(disk.names()) == 2
    disk.fails_to_sync_folder = False
    newer = [persist(Chunk(Channel.OUTPUT, 3, b"three")), persist(Chunk(Channel.OUTPUT, 4, b"four"))]
    assert journal.write(newer) == [None, None]
    assert chunks(recovered(disk)[0])[1:] == [(3, b"three"), (4, b"four")]


@pytest.mark.parametrize("steps", range(12))
@pytest.mark.parametrize("seed", range(4))
def test_no_end_of_the_process_in_a_compaction_loses_anything(steps: int, seed: int) -> None:
    disk = Disk()
    journal = Journal(disk, segment_bytes=2_000)
    names = [f"job-{number}" for number in range(4)]
    for name in names:
        records: list[Record] = [
            accepted(offer(name)),
            Started(),
            Chunk(Channel.OUTPUT, 1, name.encode() * 100),
        ]
        assert journal.write([persist(*records, job_id=name)]) == [None]
    disk.dies_in = steps
    with contextlib.suppress(ProcessDied):
        for _ in range(4):
            journal.write([persist(Reading(1), Stored(Channel.LOG, 0, 0), job_id=name) for name in names])
        journal.write([persist(Started(), job_id=name) for name in names])
    disk.dies_in = None
    if seed:
        disk.crash(Random(seed))
    assert {history.offer.lease.job_id: chunks(history) for history in recovered(disk)} == {
        name: [(1, name.encode() * 100)] for name in names
    }


def test_journal_is_bounded_by_what_it_must_keep() -> None:
    disk = MemoryDisk()
    journal = Journal(disk, segment_bytes=10_000)
    kept = persist(accepted(offer("kept")), Chunk(Channel.OUTPUT, 1, b"k" * 30_000), job_id="kept")
    journal.write([kept])
    for number in range(300):
        name = f"job-{number}"
        story = persist(accepted(offer(name)), Started(), Chunk(Channel.OUTPUT, 1, b"x" * 500), job_id=name)
        assert journal.write([story, Forget(lease(name))]) == [None, None]
        sizes = [len(disk.read(file)) for file in disk.names()]
        assert sum(sizes) < 10_000 + 2 * 31_000
        assert max(sizes) < 32_000, "the longest entry"
        assert sum(size > 10_000 + 1_000 for size in sizes) <= 1
    assert jobs(disk) == ["kept"]


def test_empty_journal_has_no_byte_of_a_job() -> None:
    disk = MemoryDisk()
    journal = Journal(disk, segment_bytes=2_000)
    for number in range(20):
        name = f"job-{number}"
        journal.write([persist(accepted(offer(name)), Chunk(Channel.OUTPUT, 1, b"x" * 300), job_id=name)])
    assert len(disk.names()) > 1
    journal.write([Forget(lease(f"job-{number}")) for number in range(20)])
    assert is_empty(disk)


@given(st.lists(st.sampled_from(STORY[1:]), max_size=12))
def test_compacted_records_give_the_same_history(records: list[Record]) -> None:
    history = replay([STORY[0], *records])
    assert history is not None
    once = history.records()
    shorter = replay(once)
    assert shorter is not None
    assert shorter.records() == once


def test_files_can_be_read_only_by_their_owner(tmp_path: Path) -> None:
    disk = FileDisk(tmp_path / "journal")
    Journal(disk).write([persist(*STORY)])
    assert stat.S_IMODE((tmp_path / "journal").stat().st_mode) == 0o700
    for path in (tmp_path / "journal").iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_two_daemons_cannot_share_a_folder(tmp_path: Path) -> None:
    first = FileDisk(tmp_path)
    with pytest.raises(JournalError, match="another daemon uses"):
        FileDisk(tmp_path)
    first.close()
    FileDisk(tmp_path).close()


def test_folder_that_cannot_be_created_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(JournalError, match="cannot be used"):
        FileDisk(tmp_path / "file" / "journal")


def test_unknown_files_are_removed(tmp_path: Path) -> None:
    disk = FileDisk(tmp_path)
    Journal(disk).write([persist(*STORY)])
    (tmp_path / "left-over.attempt.new").write_bytes(b"half")
    (tmp_path / "empty.attempt").write_bytes(b"")
    (tmp_path / "x1.segment").write_bytes(b"no number")
    assert len(Journal(disk).recover()) == 1
    assert disk.names() == ["00000002.segment"]


def test_sync_asks_the_kernel_to_write_the_file_and_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a real file, only the call of fsync can be tested; the rest would need a power failure."""
    asked = []

    def fsync(descriptor: int) -> None:
        asked.append(os.fstat(descriptor).st_ino)

    monkeypatch.setattr(os, "fsync", fsync)
    FileDisk(tmp_path / "state" / "journal").close()
    made_in = [tmp_path.stat().st_ino, (tmp_path / "state").stat().st_ino]
    assert sorted(asked) == sorted(made_in), "a loss of power must not take the new folder away"
    (tmp_path / "journal").mkdir()
    asked.clear()
    disk = FileDisk(tmp_path / "journal")
    disk.append("a", b"x")
    assert asked == []
    disk.sync("a")
    disk.sync_folder()
    assert asked == [(tmp_path / "journal" / "a").stat().st_ino, (tmp_path / "journal").stat().st_ino]
    disk.replace("b", b"y")
    assert (tmp_path / "journal" / "b").stat().st_ino in asked[2:]
    disk.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make folders of other users")
def test_root_refuses_a_folder_of_the_services_user(tmp_path: Path) -> None:
    state = tmp_path / "dcp"
    state.mkdir()
    os.chown(state, 65534, 65534)
    with pytest.raises(JournalError, match="run systemctl start dcp-daemon"):
        FileDisk(state / "journal")
    assert not list(state.iterdir())

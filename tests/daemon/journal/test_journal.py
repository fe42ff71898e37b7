"""The journal: durable records survive a crash, and a torn record affects only itself."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from random import Random

import pytest
from dcp.v1 import jobs_pb2, sessions_pb2
from hypothesis import given
from hypothesis import strategies as st

from daemon.journal.disk import FileDisk, JournalError
from daemon.journal.encoding import decode, encode
from daemon.journal.journal import Journal
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
from tests.daemon.fake_server import lease, offer
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


def test_forgotten_attempt_is_not_recovered() -> None:
    disk = MemoryDisk()
    journal = Journal(disk)
    journal.write([persist(*STORY), persist(accepted(offer("job-2")), job_id="job-2")])
    assert journal.write([Forget(lease())]) == [None]
    disk.crash(Random(1))
    assert [history.offer.lease.job_id for history in recovered(disk)] == ["job-2"]


@pytest.mark.parametrize("cut", range(1, 40))
def test_torn_record_is_the_only_one_lost(cut: int) -> None:
    whole = encode(STORY[:-1])
    torn = whole + encode([FINISHED])[:-cut]
    disk = MemoryDisk()
    journal = Journal(disk)
    journal.write([persist(STORY[0])])
    (name,) = disk.names()
    disk.replace(name, torn)
    restarted = Journal(disk)
    (history,) = restarted.recover()
    assert history.finished is None
    assert chunks(history) == [(2, b"two")]
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


def compacted_without_a_sync_of_the_folder(disk: MemoryDisk) -> Journal:
    """A journal that has just made its file smaller, when the folder could not be synced."""
    journal = Journal(disk)
    journal.write([persist(accepted(offer()), Chunk(Channel.OUTPUT, 1, b"x" * 300_000))])
    (name,) = disk.names()
    disk.fails_to_sync_folder = True
    assert journal.write([persist(Stored(Channel.OUTPUT, 1, 300_000))]) == [None]
    assert len(disk.read(name)) < 10_000
    disk.fails_to_sync_folder = False
    return journal


def test_failed_write_after_a_compaction_that_the_folder_lacks_is_cut_off() -> None:
    disk = MemoryDisk()
    journal = compacted_without_a_sync_of_the_folder(disk)
    disk.is_full = True
    (error,) = journal.write([persist(Chunk(Channel.OUTPUT, 2, b"y" * 100))])
    assert error is not None
    disk.is_full = False
    assert journal.write([persist(Chunk(Channel.OUTPUT, 2, b"two"))]) == [None]
    assert chunks(recovered(disk)[0]) == [(2, b"two")]


@pytest.mark.parametrize("seed", range(8))
def test_record_after_a_compaction_that_the_folder_lacks_survives_a_crash(seed: int) -> None:
    disk = MemoryDisk()
    journal = compacted_without_a_sync_of_the_folder(disk)
    assert journal.write([persist(Chunk(Channel.OUTPUT, 2, b"two"))]) == [None]
    disk.crash(Random(seed))
    assert (2, b"two") in chunks(recovered(disk)[0])


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
    assert len(Journal(disk).recover()) == 1
    assert len(disk.names()) == 1


def test_sync_asks_the_kernel_to_write_the_file_and_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a real file, only the call of fsync can be tested; the rest would need a power failure."""
    asked = []

    def fsync(descriptor: int) -> None:
        asked.append(os.fstat(descriptor).st_ino)

    monkeypatch.setattr(os, "fsync", fsync)
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

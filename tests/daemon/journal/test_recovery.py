"""What a daemon finds when it starts: damage, the files of an earlier version, what a killed writer left."""

from __future__ import annotations

import contextlib
import multiprocessing
import random
import signal
import stat
from multiprocessing.context import ForkServerContext
from pathlib import Path
from random import Random

import pytest
from dcp.v1 import sessions_pb2

from daemon.journal import segment
from daemon.journal.disk import JournalError
from daemon.journal.encoding import encode
from daemon.journal.journal import Journal
from daemon.protocol.effects import Forget, Persist
from daemon.protocol.records import Channel, Chunk, Finished, History, Record, Started, accepted
from tests.daemon.fake_server import lease, offer
from tests.daemon.journal import killed_writer
from tests.support.journals import in_folder, is_empty, on_disk
from tests.support.memory_disk import MemoryDisk

KILLS = 200


def story(name: str) -> list[Record]:
    finished = Finished(sessions_pb2.JobFinished(lease=lease(name), last_output_seq=1))
    return [accepted(offer(name)), Started(), Chunk(Channel.OUTPUT, 1, name.encode()), finished]


def persist(*records: Record, job_id: str = "job-1") -> Persist:
    return Persist(1, lease(job_id), records)


def by_job(histories: list[History]) -> dict[str, History]:
    return {history.offer.lease.job_id: history for history in histories}


def outputs(histories: list[History]) -> dict[str, list[tuple[int, bytes]]]:
    return {name: history.channels[Channel.OUTPUT].kept() for name, history in by_job(histories).items()}


# --- damage ---


def damaged_in(name: str) -> MemoryDisk:
    """A disk with the stories of three jobs, record by record in turn; a byte of one output has changed."""
    disk = MemoryDisk()
    journal = Journal(disk)
    for records in zip(*(story(f"job-{number}") for number in range(3)), strict=True):
        journal.write([persist(record, job_id=f"job-{at}") for at, record in enumerate(records)])
    (file,) = disk.names()
    data = bytearray(disk.read(file))
    data[data.index(b"C" + bytes([1, 1]) + bytes(7) + name.encode()) + 12] ^= 1
    disk.replace(file, bytes(data))
    return disk


@pytest.mark.parametrize("name", ["job-0", "job-1", "job-2"])
def test_damage_is_reported_and_costs_only_what_follows_in_its_own_attempt(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    disk = damaged_in(name)
    (file,) = disk.names()
    (damage,) = segment.read(disk.read(file)).damage
    found = by_job(Journal(disk).recover())
    assert f"the journal is damaged file={file} offset={damage.offset} bytes={damage.size}" in caplog.messages
    assert "left out a record behind a gap" in caplog.text
    for job_id, history in found.items():
        assert history.started
        assert (history.finished is None) == (job_id == name)
        assert outputs([history]) == {job_id: [] if job_id == name else [(1, job_id.encode())]}
    assert len(found) == 3


def test_damaged_journal_takes_records_and_is_reported_once(caplog: pytest.LogCaptureFixture) -> None:
    disk = damaged_in("job-1")
    journal = Journal(disk)
    journal.recover()
    assert journal.write([persist(Chunk(Channel.OUTPUT, 1, b"again"), job_id="job-1")]) == [None]
    caplog.clear()
    assert outputs(Journal(disk).recover())["job-1"] == [(1, b"again")]
    assert caplog.messages == []


def test_journal_of_another_version_is_refused_and_kept() -> None:
    disk = MemoryDisk()
    Journal(disk).write([persist(*story("job-1"))])
    (file,) = disk.names()
    data = bytearray(disk.read(file))
    data[4] = 2
    disk.replace(file, bytes(data))
    with pytest.raises(
        JournalError, match=r"another version of dcp-daemon \(its format is 2.*end it with SIGTERM"
    ):
        Journal(disk).recover()
    assert disk.read(file) == bytes(data)


def test_recovered_attempts_lie_in_new_segments_and_nothing_else_is_left() -> None:
    disk = MemoryDisk()
    journal = Journal(disk, segment_bytes=100)
    for number in range(5):
        journal.write([persist(*story(f"job-{number}"), job_id=f"job-{number}")])
    journal.write([Forget(lease(f"job-{number}")) for number in range(4)])
    assert list(outputs(Journal(disk).recover())) == ["job-4"]
    assert len(disk.names()) == 1
    assert outputs(on_disk(disk)) == {"job-4": [(1, b"job-4")]}


def test_full_disk_at_the_start_leaves_what_is_there_durable() -> None:
    disk = MemoryDisk()
    earlier = Journal(disk)
    earlier.write([persist(*story("job-1"))])
    (name,) = disk.names()
    whole = disk.read(name)
    earlier.write([persist(Started())])
    disk.truncate(name, len(disk.read(name)) - 3)
    disk.is_full = True
    journal = Journal(disk)
    assert len(journal.recover()) == 1
    assert disk.read(name) == whole
    disk.is_full = False
    assert journal.write([persist(Chunk(Channel.OUTPUT, 2, b"two"))]) == [None]
    disk.crash(Random(1))
    assert outputs(Journal(disk).recover()) == {"job-1": [(1, b"job-1"), (2, b"two")]}


# --- the files of an earlier version ---


def old_disk() -> MemoryDisk:
    """A disk with a file for each attempt, as earlier daemons wrote it; one has a torn end."""
    disk = MemoryDisk()
    disk.append("a" * 40 + ".attempt", encode(story("job-1")))
    disk.append("b" * 40 + ".attempt", encode(story("job-2")[:-1]) + encode(story("job-2")[-1:])[:-3])
    disk.append("c" * 40 + ".attempt", b"torn")
    return disk


@pytest.mark.parametrize("seed", range(8))
def test_files_of_an_earlier_version_are_taken_over(seed: int) -> None:
    disk = old_disk()
    journal = Journal(disk)
    found = by_job(journal.recover())
    disk.crash(Random(seed))
    assert [found[name].finished is not None for name in ("job-1", "job-2")] == [True, False]
    assert not [name for name in disk.names() if name.endswith(".attempt")]
    assert outputs(on_disk(disk)) == {name: [(1, name.encode())] for name in ("job-1", "job-2")}
    assert journal.write([persist(*story("job-2")[-1:], job_id="job-2")]) == [None]
    assert by_job(Journal(disk).recover())["job-2"].finished is not None


@pytest.mark.parametrize("how", ["full", "no sync", "killed"])
def test_files_of_an_earlier_version_that_cannot_be_taken_over_stay(how: str) -> None:
    disk = old_disk()
    disk.is_full, disk.fails_to_sync = how == "full", how == "no sync"
    journal = Journal(disk)
    assert len(journal.recover()) == 2
    disk.is_full = disk.fails_to_sync = False
    if how == "killed":
        disk = old_disk()
    assert by_job(Journal(disk).recover())["job-1"].finished is not None
    assert len(disk.names()) == 1


def test_forgotten_attempt_of_an_earlier_version_leaves_no_file_though_the_disk_was_full() -> None:
    disk = old_disk()
    disk.is_full = True
    journal = Journal(disk)
    journal.recover()
    disk.is_full = False
    assert journal.write([Forget(lease("job-1"))]) == [None]
    assert list(outputs(on_disk(disk))) == ["job-2"]
    assert journal.write([Forget(lease("job-2"))]) == [None]
    assert is_empty(disk)
    assert Journal(disk).recover() == []


def test_newer_entries_count_if_an_old_file_comes_back() -> None:
    disk = old_disk()
    (old, *_) = disk.names()
    content = disk.read(old)
    journal = Journal(disk)
    journal.recover()
    journal.write([persist(Chunk(Channel.OUTPUT, 2, b"two"))])
    disk.append(old, content)
    assert outputs(Journal(disk).recover())["job-1"] == [(1, b"job-1"), (2, b"two")]
    assert old not in disk.names()


# --- a killed process ---


def write_until_killed(context: ForkServerContext, folder: Path, rng: Random) -> list[tuple[str, int]]:
    """Kills a writer at some moment; returns what was acknowledged to it."""
    told, tells = context.Pipe(duplex=False)
    process = context.Process(target=killed_writer.write, args=(folder, rng.randrange(2**32), tells))
    process.start()
    tells.close()
    lines = []
    try:
        lines = [told.recv() for _ in range(rng.randint(0, 40))]
        # Its next acknowledgement is awaited no longer than this: the kill comes at any point of a write.
        told.poll(rng.random() * 0.003)
    finally:
        process.kill()
        process.join()
    with contextlib.suppress(EOFError):
        while True:
            lines.append(told.recv())
    assert process.exitcode == -signal.SIGKILL
    return lines


def test_what_was_acknowledged_to_a_killed_writer_is_there(tmp_path: Path) -> None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.daemon.journal.killed_writer"])
    seed = random.randrange(2**32)
    rng = Random(seed)
    through: dict[str, int] = {}
    forgotten: set[str] = set()
    was_smaller = 0
    for kill in range(KILLS):
        before = sorted(path.name for path in tmp_path.iterdir())
        lines = write_until_killed(context, tmp_path, rng)
        was_smaller += sorted(path.name for path in tmp_path.iterdir()) != before
        through |= {name: seq for name, seq in lines if seq >= 0}
        forgotten |= {name for name, seq in lines if seq < 0}
        found = outputs(in_folder(tmp_path))
        lost = {
            name: seq for name, seq in through.items() if len(found.get(name, [])) < seq or name not in found
        }
        assert set(lost) <= forgotten, f"seed={seed} kill={kill} {lost}"
        for name, chunks in found.items():
            assert chunks == [(seq, f"{name}/{seq}".encode()) for seq in range(1, len(chunks) + 1)]
    assert len(through) > KILLS / 10
    assert was_smaller > KILLS / 2, "segments came and went"
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o600}

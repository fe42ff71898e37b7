"""The journal's writer: works off the event loop, in order, with one sync for several entries."""

from __future__ import annotations

import asyncio
import threading

import pytest

from daemon.journal import writer
from daemon.journal.journal import Journal
from daemon.journal.writer import JournalWriter
from daemon.protocol.effects import Persist
from daemon.protocol.records import Channel, Chunk, Record, accepted
from tests.daemon.fake_server import eventually, lease, offer
from tests.support.memory_disk import MemoryDisk


class SlowDisk(MemoryDisk):
    """A disk whose syncs wait until the test allows them."""

    def __init__(self) -> None:
        super().__init__()
        self.may_sync = threading.Event()

    def sync(self, name: str) -> None:
        assert self.may_sync.wait(10)
        super().sync(name)


class BrokenJournal(Journal):
    """A journal with a bug."""

    def write(self, entries: object) -> list[OSError | None]:
        raise RuntimeError("a fault")


async def test_entries_that_arrive_during_a_sync_share_the_next_sync() -> None:
    disk, done = SlowDisk(), list[int]()
    recorder = JournalWriter(Journal(disk), lambda entry, error: done.append(entry.number))
    records: list[Record] = [accepted(offer()), *(Chunk(Channel.OUTPUT, n, b"x") for n in range(1, 21))]
    for number, record in enumerate(records):
        recorder.put(Persist(number, lease(), (record,)))
    await eventually(lambda: disk.names() != [])
    recorder.put(Persist(21, lease(), (Chunk(Channel.OUTPUT, 21, b"x"),)))
    recorder.put(Persist(22, lease(), (Chunk(Channel.OUTPUT, 22, b"x"),)))
    assert done == []
    disk.may_sync.set()
    await eventually(lambda: done == list(range(23)))
    # Two batches, and one sync of the folder for the new file.
    assert disk.syncs == 3
    await recorder.close()


async def test_disk_that_hangs_holds_the_end_up_only_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "FLUSH_SECONDS", 0.01)
    disk, done = SlowDisk(), list[int]()
    recorder = JournalWriter(Journal(disk), lambda entry, error: done.append(entry.number))
    recorder.put(Persist(1, lease(), (accepted(offer()),)))
    try:
        async with asyncio.timeout(8):
            await recorder.close()
        assert done == []
    finally:
        disk.may_sync.set()
    await eventually(lambda: done == [1])


async def test_bug_in_the_journal_is_reported_as_a_failure() -> None:
    errors: list[OSError | None] = []
    recorder = JournalWriter(BrokenJournal(MemoryDisk()), lambda entry, error: errors.append(error))
    recorder.put(Persist(1, lease(), (accepted(offer()),)))
    await recorder.close()
    assert str(errors[0]) == "RuntimeError"


async def test_bug_behind_the_journal_stops_no_later_record() -> None:
    disk, done = MemoryDisk(), list[int]()

    def learn(entry: Persist, error: OSError | None) -> None:
        if entry.number == 1:
            raise RuntimeError("a fault")
        done.append(entry.number)

    recorder = JournalWriter(Journal(disk), learn)
    for number in (1, 2):
        recorder.put(Persist(number, lease(f"job-{number}"), (accepted(offer(f"job-{number}")),)))
    await eventually(lambda: done == [2])
    recorder.put(Persist(3, lease("job-3"), (accepted(offer("job-3")),)))
    await eventually(lambda: done == [2, 3])
    await recorder.close()

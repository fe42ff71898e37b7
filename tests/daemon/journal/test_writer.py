"""The recorder: off the event loop, in order, several entries to one sync."""

from __future__ import annotations

import threading

from daemon.journal.journal import Journal
from daemon.journal.writer import JournalWriter
from daemon.protocol.effects import Persist
from daemon.protocol.records import Channel, Chunk, Record, accepted
from tests.daemon.fake_server import eventually, lease, offer
from tests.support.memory_disk import MemoryDisk


class SlowDisk(MemoryDisk):
    """Syncs when it is let."""

    def __init__(self) -> None:
        super().__init__()
        self.may_sync = threading.Event()

    def sync(self, name: str) -> None:
        assert self.may_sync.wait(10)
        super().sync(name)


class BrokenJournal(Journal):
    """Has a fault of ours."""

    def write(self, entries: object) -> list[OSError | None]:
        raise RuntimeError("a fault")


async def test_what_comes_while_the_disk_syncs_shares_the_next_sync() -> None:
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
    # Two batches, and the folder once for the new file.
    assert disk.syncs == 3
    await recorder.close()


async def test_fault_in_the_journal_is_told_as_a_failure() -> None:
    errors: list[OSError | None] = []
    recorder = JournalWriter(BrokenJournal(MemoryDisk()), lambda entry, error: errors.append(error))
    recorder.put(Persist(1, lease(), (accepted(offer()),)))
    await recorder.close()
    assert str(errors[0]) == "RuntimeError"

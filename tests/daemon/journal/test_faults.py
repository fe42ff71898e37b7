"""The journal through random faults of its disk and its process: what it acknowledged is there, in order."""

from __future__ import annotations

from random import Random

import pytest

from daemon.journal.journal import Journal
from daemon.protocol.effects import Forget, Persist
from daemon.protocol.records import Channel, Chunk, History, Reading, Record, Started, Stored, accepted
from scripts.simulation.machines import Disk, ProcessDied
from tests.daemon.fake_server import lease, offer

WALKS = 200
STEPS = 40
ATTEMPTS = 5


class Walk:
    """One journal on a disk with faults, and what its writer was told."""

    def __init__(self, seed: int) -> None:
        self.rng = Random(seed)
        self.disk = Disk()
        self.through: dict[str, int] = {}
        """How many pieces of each attempt that is not forgotten were acknowledged as durable."""
        self.broken: set[str] = set()
        """Attempts of which a piece could not be saved: a session writes no more of them."""
        self.forgotten: set[str] = set()
        self.names = 0
        self.start()

    def start(self) -> None:
        """A process starts and finds what it must."""
        self.journal = Journal(self.disk, segment_bytes=300)
        found = self.journal.recover()
        self.check(found)
        held = {history.offer.lease.job_id: _pieces(history) for history in found}
        for name in list(self.through):
            # The session continues with what is there; the rest was told to nobody.
            self.through[name] = held[name]
        self.broken.clear()

    def check(self, found: list[History]) -> None:
        held = {history.offer.lease.job_id: history for history in found}
        for name, through in self.through.items():
            assert name in held, f"{name} is lost"
            assert _pieces(held[name]) >= through, f"{name} has {_pieces(held[name])} of {through} pieces"
        for name, history in held.items():
            output = history.channels[Channel.OUTPUT]
            for seq, data in output.kept():
                assert data == _data(name, seq)

    def step(self) -> None:
        rng, disk = self.rng, self.disk
        what = rng.random()
        if what < (0.4 if disk.is_full else 0.03):
            disk.is_full = not disk.is_full
        elif what < (0.6 if disk.fails_to_sync else 0.12):
            disk.fails_to_sync = not disk.fails_to_sync
        elif what < (0.4 if disk.fails_to_sync_folder else 0.16):
            disk.fails_to_sync_folder = not disk.fails_to_sync_folder
        elif what < (0.4 if disk.fails_to_cut else 0.18):
            disk.fails_to_cut = not disk.fails_to_cut
        elif what < 0.26:
            self.end(loses_power=rng.random() < 0.5)
        else:
            if rng.random() < 0.1:
                disk.dies_in = rng.randint(0, 6)
            self.write()

    def end(self, *, loses_power: bool) -> None:
        disk = self.disk
        disk.dies_in = None
        disk.is_full = disk.fails_to_sync = disk.fails_to_sync_folder = disk.fails_to_cut = False
        if loses_power:
            disk.crash(self.rng)
        elif self.rng.random() < 0.5:
            disk.dies_in = self.rng.randint(0, 8)
        for _ in range(2):
            try:
                self.start()
            except ProcessDied:
                continue
            break
        disk.dies_in = None

    def write(self) -> None:
        rng = self.rng
        batch: list[Persist | Forget] = []
        told: list[tuple[str, int] | None] = []
        is_reported = rng.random() < 0.5
        for name in rng.sample(sorted(self.through), rng.randint(0, len(self.through))):
            if rng.random() < 0.15:
                batch.append(Forget(lease(name)))
                told.append(None)
                del self.through[name]
                self.forgotten.add(name)
                continue
            if name in self.broken:
                continue
            records: list[Record] = [Reading(rng.randint(0, 9))]
            through = self.through[name]
            if is_reported:
                through += 1
                records.append(Chunk(Channel.OUTPUT, through, _data(name, through)))
            if through and rng.random() < 0.3:
                records.append(Stored(Channel.OUTPUT, self.through[name], 0))
            batch.append(Persist(1, lease(name), tuple(records)))
            told.append((name, through))
        if is_reported and len(self.through) < ATTEMPTS:
            self.names += 1
            name = f"job-{self.names}"
            batch.append(Persist(1, lease(name), (accepted(offer(name)), Started())))
            told.append((name, 0))
        try:
            errors = self.journal.write(batch)
        except ProcessDied:
            self.end(loses_power=rng.random() < 0.5)
            return
        for line, error in zip(told, errors, strict=True):
            if line is None:
                continue
            name, through = line
            if error is None:
                self.through[name] = through
            elif name in self.through:
                self.broken.add(name)


def _pieces(history: History) -> int:
    return history.channels[Channel.OUTPUT].last


def _data(name: str, seq: int) -> bytes:
    return f"{name}/{seq}".encode() * (1 + seq % 7)


@pytest.mark.parametrize("seed", range(WALKS))
def test_no_fault_loses_what_was_acknowledged(seed: int) -> None:
    walk = Walk(seed)
    for _ in range(STEPS):
        walk.step()
    walk.end(loses_power=True)

"""A process that writes into a journal until it is killed, and says what was acknowledged to it."""

from __future__ import annotations

from itertools import count
from multiprocessing.connection import Connection
from pathlib import Path
from random import Random

from daemon.journal.disk import FileDisk
from daemon.journal.journal import Journal
from daemon.protocol.effects import Forget, Persist
from daemon.protocol.records import Channel, Chunk, Started, accepted
from tests.daemon.fake_server import lease, offer

ATTEMPTS = 4


def write(folder: Path, seed: int, told: Connection) -> None:
    """Recovers the journal, then writes pieces of several attempts; sends each job and how far it is durable.

    A piece of 0 is the acceptance, -1 means that the attempt is to be forgotten.
    """
    rng, numbers = Random(seed), count(1)
    journal = Journal(FileDisk(folder), segment_bytes=2_000)
    through = {
        history.offer.lease.job_id: history.channels[Channel.OUTPUT].last for history in journal.recover()
    }
    while True:
        done: list[tuple[str, int]] = []
        entries: list[Persist | Forget] = []
        for name in rng.sample(sorted(through), rng.randint(0, len(through))):
            if through[name] > 8 and rng.random() < 0.3:
                del through[name]
                told.send((name, -1))
                entries.append(Forget(lease(name)))
                continue
            through[name] += 1
            done.append((name, through[name]))
            piece = Chunk(Channel.OUTPUT, through[name], f"{name}/{through[name]}".encode())
            entries.append(Persist(1, lease(name), (piece,)))
        if len(through) < ATTEMPTS:
            name = f"job-{seed}-{next(numbers)}"
            through[name] = 0
            done.append((name, 0))
            entries.append(Persist(1, lease(name), (accepted(offer(name)), Started())))
        errors = journal.write(entries)
        assert not any(errors)
        for line in done:
            told.send(line)

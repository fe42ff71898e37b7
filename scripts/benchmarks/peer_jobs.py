"""A job that does nothing on Celery and on huey, and a client that measures it.

It runs in the environment of the peers, so it imports nothing of ours. Workers and client import it by the
same name; the client then calls ``main`` with ``rest|busy JOBS``. PEER_QUEUE is the URL of Redis or the path
of huey's SQLite file; the start of each job is written to the file PEER_STARTS, in seconds by the clock that
all processes of a Linux machine share. The client prints a line of JSON: the time at which it sent each job
by the job's id, and the seconds and its own CPU seconds from the first to the last.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections import deque
from typing import Any

QUEUE = os.environ["PEER_QUEUE"]
IN_FLIGHT = 16
REST_SECONDS = 0.02
POLL_SECONDS = 0.001
JOB_SECONDS = 30.0
_starts = os.open(os.environ["PEER_STARTS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)


def begin(number: str) -> str:
    """The job: notes its start and answers."""
    os.write(_starts, f"{number} {time.monotonic():.7f}\n".encode())
    return "done"


if QUEUE.startswith("redis:"):
    from celery import Celery

    queue: Any = Celery(broker=QUEUE, backend=QUEUE)
    job: Any = queue.task(name="begin")(begin)

    def send(number: str) -> Any:
        """Submits a job."""
        return job.delay(number)

    def answer(sent: Any) -> Any:
        """Waits for its result."""
        return sent.get(timeout=JOB_SECONDS)

else:
    from huey import SqliteHuey

    queue = SqliteHuey(filename=QUEUE, fsync=True)
    job = queue.task(name="begin")(begin)

    def send(number: str) -> Any:
        """Submits a job."""
        return job(number)

    def answer(sent: Any) -> Any:
        """Waits for its result, asking more often than huey does by itself."""
        end = time.monotonic() + JOB_SECONDS
        while (found := sent.get()) is None:
            if time.monotonic() > end:
                raise TimeoutError(f"a job had no result after {JOB_SECONDS:.0f} s")
            time.sleep(POLL_SECONDS)
        return found


def rest(numbers: list[str]) -> dict[str, float]:
    """Runs jobs one after the other, with a pause between them."""
    sent = {}
    for number in numbers:
        sent[number] = time.monotonic()
        check(answer(send(number)))
        time.sleep(REST_SECONDS)
    return sent


def busy(numbers: list[str]) -> dict[str, float]:
    """Keeps jobs in flight until all have run, and waits for the oldest."""
    sent: dict[str, float] = {}
    waiting: deque[Any] = deque()
    for number in numbers:
        if len(waiting) == IN_FLIGHT:
            check(answer(waiting.popleft()))
        sent[number] = time.monotonic()
        waiting.append(send(number))
    while waiting:
        check(answer(waiting.popleft()))
    return sent


def check(result: Any) -> None:
    """Raises ValueError unless the job did its work."""
    if result != "done":
        raise ValueError(f"a job answered {result!r}")


def main() -> None:
    """Reads the arguments, measures and prints."""
    how, count = sys.argv[1:]
    numbers = [f"{os.getpid()}-{how}-{number}" for number in range(int(count))]
    check(answer(send(f"{os.getpid()}-first")))  # connects, and waits until there is a worker
    begun, cpu_seconds = time.monotonic(), time.process_time()
    sent = (rest if how == "rest" else busy)(numbers)
    seconds, used = time.monotonic() - begun, time.process_time() - cpu_seconds
    print(json.dumps({"sent": sent, "seconds": seconds, "cpu_seconds": used}))

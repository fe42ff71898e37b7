"""Measures batches: the server's memory while 50,000 lines are uploaded, and what chats wait beside a batch.

``python -m scripts.measure_batches`` starts real programs in a temporary folder and prints the figures.
OpenAI's own client uploads the file and creates the batch. Chats are asked one after the other, first alone
and then beside the batch, of daemons whose engine only waits.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import openai
import psutil

from scripts.market import UNLIMITED, Market, Program
from tests.support import scripted_daemon
from tests.support.scripted_daemon import script

URL: Any = "/v1/chat/completions"
DAEMONS = 5
SCRIPTED = (sys.executable, "-m", "tests.support.scripted_daemon")


class Peak:
    """The greatest memory of a program while it is watched, in bytes."""

    def __init__(self, program: Program) -> None:
        self.bytes = 0
        self._process = psutil.Process(program.process.pid)
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Peak:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._is_over.wait(0.1):
            self.bytes = max(self.bytes, self._process.memory_info().rss)


def written(path: Path, count: int, line_bytes: int, seconds: float) -> None:
    """Writes a batch's file of so many lines, each of so many bytes."""
    with path.open("wb") as file:
        for number in range(count):
            body = {
                "model": scripted_daemon.MODEL,
                "messages": [
                    {"role": "system", "content": ""},
                    {"role": "user", "content": script(f"word{number}", 1, seconds)},
                ],
                "max_tokens": 8,
            }
            line = {"custom_id": f"line-{number}", "method": "POST", "url": URL, "body": body}
            missing = max(0, line_bytes - len(json.dumps(line)) - 1)
            body["messages"][0]["content"] = "x" * missing  # type: ignore[index]
            file.write(json.dumps(line).encode() + b"\n")


@contextmanager
def market(daemons: int) -> Iterator[tuple[Market, Program, Program, openai.OpenAI]]:
    """A market of two programs with scripted daemons, and a client with money."""
    with tempfile.TemporaryDirectory() as folder:
        market = Market(Path(folder), admin_token="t" * 40, settings=UNLIMITED, embedded=False)
        try:
            server = market.start_server()
            gateway = market.start_gateway(server.address)
            market.wait_ready()
            for number in range(daemons):
                _, key = market.register_provider("Node", f"p{number}@example.com")
                market.add_daemon(key, Path(folder) / f"daemon-{number}", command=SCRIPTED)
            renter_id, key = market.register_renter("Renter", "renter@example.com")
            market.credit(renter_id, 100_000_000)
            yield market, server, gateway, openai.OpenAI(base_url=f"{market.url}/v1", api_key=key)
        finally:
            market.stop()


def created(client: openai.OpenAI, path: Path) -> str:
    """Uploads a file and creates its batch; returns it once its lines were checked."""
    start = time.monotonic()
    file = client.files.create(file=path, purpose="batch")
    uploaded = time.monotonic()
    batch = client.batches.create(input_file_id=file.id, endpoint=URL, completion_window="24h")
    while batch.status == "validating":
        time.sleep(0.2)
        batch = client.batches.retrieve(batch.id)
    total = batch.request_counts.total if batch.request_counts else 0
    print(
        f"upload {uploaded - start:.1f} s, check {time.monotonic() - uploaded:.1f} s, "
        f"{batch.status}, {total} lines"
    )
    return batch.id


def waits(client: openai.OpenAI, count: int, seconds: float) -> list[float]:
    """How long each of so many chats took, in seconds."""
    found = []
    for number in range(count):
        start = time.perf_counter()
        client.chat.completions.create(
            model=scripted_daemon.MODEL,
            messages=[{"role": "user", "content": script(f"chat{number}", 1, seconds)}],
            max_tokens=8,
        )
        found.append(time.perf_counter() - start)
    return found


def p99(found: list[float]) -> float:
    """The time that 99 of 100 do not exceed, in milliseconds."""
    return sorted(found)[math.ceil(len(found) * 0.99) - 1] * 1000


def main() -> None:
    """Prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lines", type=int, default=50_000)
    parser.add_argument("--bytes", type=int, default=100_000_000)
    parser.add_argument("--chats", type=int, default=300)
    parser.add_argument("--seconds", type=float, default=0.5, help="how long an answer takes")
    given = parser.parse_args()
    with market(DAEMONS) as (_, server, gateway, client), tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "prompts.jsonl"
        waits(client, 20, given.seconds)
        alone = waits(client, given.chats, given.seconds)
        written(path, given.lines, given.bytes // given.lines, given.seconds)
        print(f"file {path.stat().st_size / 1e6:.1f} MB")
        with Peak(server) as of_server, Peak(gateway) as of_gateway:
            batch_id = created(client, path)
            time.sleep(2)
            beside = waits(client, given.chats, given.seconds)
            client.batches.cancel(batch_id)
        counts = client.batches.retrieve(batch_id).request_counts
        print(
            f"memory at most: server {of_server.bytes / 1e6:.0f} MB, gateway {of_gateway.bytes / 1e6:.0f} MB"
        )
        for name, found in (("alone", alone), ("beside the batch", beside)):
            print(f"chat {name}: median {statistics.median(found) * 1000:.1f} ms, p99 {p99(found):.1f} ms")
        print(f"ratio of p99: {p99(beside) / p99(alone):.2f}; done {counts.completed if counts else 0}")


if __name__ == "__main__":
    main()

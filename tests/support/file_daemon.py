"""The real daemon with an engine that leaves files instead of running a model.

Run as a program, with the settings of ``dcp-daemon``. A job's prompt names the files and their sizes; it is
built by ``order``; ``content`` gives a test the bytes of a file.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import logging
import os
import signal
from collections.abc import AsyncGenerator, Iterator, Sequence
from pathlib import Path
from random import SystemRandom

from dcp.v1 import jobs_pb2, sessions_pb2

from daemon.app import Daemon, Options
from daemon.config import config
from daemon.engines import Engine, EngineError
from daemon.journal.disk import FileDisk, journal_folder
from daemon.journal.journal import Journal
from daemon.link import Link, ServerAddress
from daemon.protocol.effects import EndReason
from daemon.work.artifacts import Artifact, ArtifactSink, Uploader
from tests.support.scripted_daemon import MODEL, _say_ready

BLOCK_BYTES = 1 << 20


def order(**kib: int) -> str:
    """A prompt that requests files of the given sizes in KiB; ``__`` in a name stands for a slash."""
    return " ".join(f"{name.replace('__', '/')}:{size}" for name, size in kib.items())


def content(name: str, kib: int) -> Iterator[bytes]:
    """The bytes of such a file, in pieces."""
    left = kib * 1024
    for number in itertools.count():
        if left <= 0:
            return
        block = hashlib.sha256(f"{name} {number}".encode()).digest() * (BLOCK_BYTES // 32)
        yield block[:left]
        left -= len(block)


def measure(name: str, path: Path) -> Artifact:
    """A file as an artifact."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").digest()
    return Artifact(name, path, path.stat().st_size, digest)


class FileEngine(Engine):
    """Writes the files that each prompt requests, and uploads them."""

    def __init__(self, folder: Path, sink: ArtifactSink) -> None:
        self._folder = folder
        self._sink = sink

    def models(self) -> Sequence[sessions_pb2.ServedModel]:
        """A single model, which does not exist."""
        return [
            sessions_pb2.ServedModel(name=MODEL, context_tokens=2048, warm=True, job_types=self.job_types())
        ]

    def job_types(self) -> Sequence[jobs_pb2.JobType.ValueType]:
        """Only jobs in containers leave files."""
        return [jobs_pb2.JOB_TYPE_CUSTOM_CONTAINER]

    async def prepare(self, offer: sessions_pb2.JobOffer) -> None:
        """Is always ready."""

    async def self_test(self, model: str = "") -> None:
        """Always passes: it needs a lease to upload a file, so there is nothing to test."""

    async def generate(self, offer: sessions_pb2.JobOffer) -> AsyncGenerator[str | jobs_pb2.Usage, None]:
        """Writes the files, reports them as output, and waits until the server has them."""
        folder = self._folder / f"{offer.lease.job_id}-{offer.lease.lease_epoch}"
        artifacts = await asyncio.to_thread(self._write, folder, offer.params.prompt)
        yield "written "
        try:
            await self._sink.upload(offer.lease, artifacts)
        except Exception as error:
            raise EngineError(jobs_pb2.FAILURE_REASON_ENGINE_FAILED, str(error)) from None
        yield "sent"
        yield jobs_pb2.Usage()

    def _write(self, folder: Path, wanted: str) -> list[Artifact]:
        files = []
        for item in wanted.split():
            name, _, kib = item.rpartition(":")
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as file:
                file.writelines(content(name, int(kib)))
            files.append(measure(name, path))
        return files

    async def close(self) -> None:
        """Does nothing."""


async def _serve(settings: config.Config) -> EndReason:
    assert settings.provider_key is not None
    server = ServerAddress(settings.server)
    link = Link(server, settings.provider_key)
    daemon = Daemon(
        server,
        settings.provider_key,
        [FileEngine(settings.state_dir / "output", Uploader(link.upload, SystemRandom()))],
        Journal(FileDisk(journal_folder(settings.state_dir))),
        options=Options(on_ready=_say_ready),
    )
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, daemon.drain)
    return await daemon.run()


def main() -> None:
    """Serves until SIGTERM. Returns exit status 0 after a drain."""
    settings = config.from_env(os.environ)
    logging.basicConfig(level="INFO", format="%(asctime)s %(levelname)s %(name)s %(message)s")
    if asyncio.run(_serve(settings)) is not EndReason.DRAINED:
        raise SystemExit(1)


if __name__ == "__main__":
    main()

"""The real daemon, including NVML, with an engine that plays a script instead of running a model.

Run as a program, with the settings of ``dcp-daemon``. A job's prompt is its script, built by
``script``: a number of words with a pause before each. ``answer_to`` gives a test the expected answer.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncGenerator, Sequence
from functools import partial

from dcp.v1 import jobs_pb2, sessions_pb2

from common import tracing
from common.telemetry import opened
from daemon.app import Daemon, Options
from daemon.cli import logs
from daemon.config import config
from daemon.engines import Engine
from daemon.journal.disk import FileDisk, journal_folder
from daemon.journal.journal import Journal
from daemon.link import ServerAddress
from daemon.machine.gpus.provers import Prover
from daemon.machine.gpus.watched import detect
from daemon.machine.machine import Machine
from daemon.protocol.effects import EndReason
from daemon.runners import Chunk, Piece
from daemon.service.version import daemon_version
from daemon.telemetry import METRICS
from tests.support.chats import chunk, texts_of

MODEL = "test/script"


def script(name: str, words: int, pause_seconds: float) -> str:
    """A prompt that requests ``words`` words with a pause before each; each word contains ``name``."""
    return f"{name} {words} {pause_seconds}"


def answer_to(prompt: str) -> str:
    """The complete answer to such a prompt."""
    name, words, _ = prompt.split()
    return "".join(f"{name}-{number} " for number in range(int(words)))


class ScriptEngine(Engine):
    """Plays the script in each prompt."""

    def models(self) -> Sequence[sessions_pb2.ServedModel]:
        """A single model, which does not exist."""
        return [sessions_pb2.ServedModel(name=MODEL, context_tokens=2048, warm=True)]

    async def prepare(self, offer: sessions_pb2.JobOffer) -> None:
        """Is always ready."""

    async def generate(self, offer: sessions_pb2.JobOffer) -> AsyncGenerator[Piece, None]:
        """Yields the answer word by word."""
        prompt = texts_of(offer)[-1]
        words = answer_to(prompt).split(" ")[:-1]
        for word in words:
            await asyncio.sleep(float(prompt.split()[2]))
            yield Chunk(chunk(content=word + " ")) if offer.chat_request else word + " "
        if offer.chat_request:
            yield Chunk(chunk("stop"))
        yield jobs_pb2.Usage(prompt_tokens=1, completion_tokens=len(words))

    async def self_test(self, model: str = "") -> None:
        """Always passes, because there is no model that can fail."""

    async def close(self) -> None:
        """Does nothing."""


async def _serve(settings: config.Config, engine: Engine) -> EndReason:
    assert settings.provider_key is not None
    traces = tracing.opened(settings.traces, "daemon", daemon_version())
    daemon = Daemon(
        ServerAddress(settings.server, settings.tls_ca),
        settings.provider_key,
        [engine],
        Journal(FileDisk(journal_folder(settings.state_dir))),
        Machine(gpus=detect(settings.engine_environment)),
        options=Options(
            on_ready=_say_ready,
            traces=traces,
            telemetry=opened(settings.metrics_listen, METRICS, "daemon", daemon_version()),
            start_prover=partial(Prover.start, environment=settings.engine_environment)
            if settings.proves_gpus
            else None,
        ),
    )
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, daemon.drain)
    try:
        return await daemon.run()
    finally:
        traces.close()


def _say_ready(provider_id: int) -> None:
    sys.stdout.write(f"ready as provider {provider_id}\n")
    sys.stdout.flush()


def main(engine: Engine | None = None) -> None:
    """Serves until SIGTERM. Returns exit status 0 after a drain."""
    settings = config.from_env(os.environ)
    logs.set_up(settings.log_level, os.environ, format_=settings.log_format)
    if asyncio.run(_serve(settings, engine or ScriptEngine())) is not EndReason.DRAINED:
        raise SystemExit(1)


if __name__ == "__main__":
    main()

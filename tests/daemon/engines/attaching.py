"""Attached engines in front of scripted model servers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

from dcp.v1 import jobs_pb2, sessions_pb2

from daemon.engines.answers import Patience
from daemon.engines.attached import AttachedEngine, Attachment
from tests.daemon.fake_server import offer
from tests.support.openai_server import Script, openai_server

IMAGE = jobs_pb2.JOB_TYPE_IMAGE_GENERATION


def job(model: str = "served-model", prompt: str = "hi", **fields: Any) -> sessions_pb2.JobOffer:
    values: dict[str, Any] = {"model": model, "prompt": prompt, "max_tokens": 8} | fields
    params = jobs_pb2.JobParams(**values)
    return offer(params=params)


def picture_job(**fields: Any) -> sessions_pb2.JobOffer:
    params = jobs_pb2.JobParams(model="served-model", **({"prompt": "a cat"} | fields))
    return offer(params=params, job_type=IMAGE)


@asynccontextmanager
async def attached(
    script: Script, patience: Patience | None = None, **attachment: Any
) -> AsyncIterator[AttachedEngine]:
    with openai_server(script) as url:
        engine = AttachedEngine(Attachment(url, **attachment), patience=patience)
        try:
            await engine.refresh()
            yield engine
        finally:
            await engine.close()


async def run(engine: AttachedEngine, work: sessions_pb2.JobOffer) -> tuple[list[Any], jobs_pb2.Usage]:
    await engine.prepare(work)
    pieces: list[Any] = []
    usage = jobs_pb2.Usage()
    async with aclosing(engine.generate(work)) as stream:
        async for piece in stream:
            if isinstance(piece, jobs_pb2.Usage):
                usage = piece
            else:
                pieces.append(piece)
    return pieces, usage

"""The daemon's uploads of files to the real server: success, and each kind of failure."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from dcp.v1 import jobs_pb2, sessions_pb2

from daemon.link import Link, ServerAddress
from daemon.work.artifacts import (
    Artifact,
    LeaseGoneError,
    UploadBrokenError,
    UploadDamagedError,
    UploadRefusedError,
)
from tests.server.rpc.methods import LOST_WRITES
from tests.support.fake_engine import DEFAULT_MODEL, ScriptedEngine
from tests.support.file_daemon import measure
from tests.support.whole_stack import ADMIN, Stack, running_daemon, running_stack

LIMIT_BYTES = 300_000


class _Engine(ScriptedEngine):
    """Runs until the test ends it, and records its lease."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.lease = sessions_pb2.Lease()
        super().__init__([self.gate, "done"], job_types=[jobs_pb2.JOB_TYPE_CUSTOM_CONTAINER])

    async def prepare(self, offer: sessions_pb2.JobOffer) -> None:
        self.lease = offer.lease
        await super().prepare(offer)


@asynccontextmanager
async def running_job(folder: Path, **settings: Any) -> AsyncIterator[tuple[Stack, Link, _Engine, str]]:
    """A market, the link of a daemon that runs a job, the daemon's engine, and the job's id."""
    async with running_stack(folder, DCP_MAX_ARTIFACT_BYTES=str(LIMIT_BYTES), **settings) as stack:
        _, key = await stack.register("provider", "p@example.com")
        renter_id, renter_key = await stack.register("renter", "r@example.com")
        await stack.post(f"/api/admin/renters/{renter_id}/credit", {"amount_halala": 5000}, **ADMIN)
        engine = _Engine()
        async with running_daemon(stack, key, engine):
            job = {
                "job_type": "custom_container",
                "duration_minutes": 3,
                "container_spec": {"image": "busybox"},
                "params": {"model": DEFAULT_MODEL, "prompt": "x"},
            }
            answer = await stack.post("/api/jobs/submit", job, **{"x-renter-key": renter_key})
            job_id = answer["job"]["job_id"]
            await stack.until_job(job_id, "running")
            yield stack, Link(ServerAddress(stack.server.address), key), engine, job_id


async def test_file_is_uploaded_once_and_can_be_downloaded_when_the_job_has_ended(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(os.urandom(LIMIT_BYTES))
    async with running_job(tmp_path) as (stack, link, engine, job_id):
        for _ in range(2):
            await link.upload(engine.lease, measure("a folder/file.bin", file))
        engine.gate.set()
        job = await stack.until_job(job_id, "completed")
        assert (job["artifact_count"], job["artifact_bytes"]) == (1, LIMIT_BYTES)
        path = f"/api/jobs/{job_id}/artifacts"
        (listed,) = (await stack.get(path, ADMIN))["artifacts"]
        answer = await stack.http.get(f"{path}/{listed['name']}", headers=ADMIN)
        assert (answer.status_code, answer.content) == (200, file.read_bytes())
        with pytest.raises(LeaseGoneError):
            await link.upload(engine.lease, measure("late", file))


async def upload_in_the_end(link: Link, lease: sessions_pb2.Lease, artifact: Artifact) -> None:
    """Uploads as a daemon does: a broken upload is repeated, anything else is its outcome.

    grpc.aio reports a refusal as a broken call if the server ended the stream before the client wrote.
    """
    for _ in range(LOST_WRITES):
        try:
            return await link.upload(lease, artifact)
        except UploadBrokenError as error:
            if type(error) is not UploadBrokenError:
                raise
    raise AssertionError("every upload broke")


async def test_failures_that_a_repetition_cannot_mend_are_distinguished(tmp_path: Path) -> None:
    file, link_to_it = tmp_path / "file", tmp_path / "link"
    file.write_bytes(b"content")
    link_to_it.symlink_to(file)
    artifact = measure("file", file)
    async with running_job(tmp_path) as (stack, link, engine, _):
        for wrong in (replace(artifact, name="../up"), replace(artifact, path=link_to_it)):
            with pytest.raises(UploadRefusedError) as caught:
                await upload_in_the_end(link, engine.lease, wrong)
            assert not caught.value.too_large
        with pytest.raises(UploadRefusedError) as caught:
            await upload_in_the_end(link, engine.lease, replace(artifact, size_bytes=LIMIT_BYTES + 1))
        assert caught.value.too_large
        with pytest.raises(UploadRefusedError):
            await upload_in_the_end(
                Link(ServerAddress(stack.server.address), "dcp-provider-unknown"), engine.lease, artifact
            )
        forged = sessions_pb2.Lease(job_id=engine.lease.job_id, lease_epoch=1, lease_secret=b"x" * 16)
        with pytest.raises(LeaseGoneError):
            await upload_in_the_end(link, forged, artifact)
        file.write_bytes(b"changed")
        with pytest.raises(UploadDamagedError):
            await link.upload(engine.lease, artifact)
        with pytest.raises(UploadBrokenError):
            await Link(ServerAddress("127.0.0.1:1"), "dcp-provider-any").upload(engine.lease, artifact)


@pytest.mark.parametrize(
    ("setting", "is_the_renters"), [("DCP_MAX_RENTER_BYTES", True), ("DCP_MAX_PROVIDER_BYTES", False)]
)
async def test_full_account_refuses_a_file_and_only_a_renters_is_the_renters_affair(
    tmp_path: Path, setting: str, is_the_renters: bool
) -> None:
    file = tmp_path / "file"
    file.write_bytes(bytes(10_000))
    async with running_job(tmp_path, **{setting: "5000"}) as (_, link, engine, _):
        with pytest.raises(UploadRefusedError, match="10000 more are over the 5000") as refused:
            await upload_in_the_end(link, engine.lease, measure("file", file))
    assert refused.value.too_large is is_the_renters

"""What a renter paid for is readable: the text that a job wrote before it failed or was cancelled."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from tests.contract.test_money import Scene
from tests.support.whole_stack import running_daemon, running_stack


async def output(scene: Scene, job_id: str, query: str = "") -> httpx.Response:
    headers = {"x-renter-key": scene.renter_key}
    return await scene.stack.http.get(f"/api/jobs/{job_id}/output{query}", headers=headers)


@pytest.mark.parametrize("how", ["cancelled", "failed"])
async def test_what_an_ended_job_wrote_is_there_if_it_is_asked_for(tmp_path: Path, how: str) -> None:
    async with running_stack(tmp_path) as stack:
        scene = Scene(stack)
        await scene.prepare()
        async with running_daemon(stack, scene.provider_key, scene.engine):
            job_id = await scene.submit()
            await scene.until_first_output(job_id)
            early = await output(scene, job_id, "?partial=true")
            assert (early.status_code, early.headers["retry-after"]) == (202, "1")
            stack.clock.advance(20 if how == "cancelled" else 185)
            if how == "cancelled":
                await stack.post(f"/api/jobs/{job_id}/cancel", {}, **{"x-renter-key": scene.renter_key})
            job = await stack.until_job(job_id, how)
        gone = await output(scene, job_id)
        assert gone.status_code == 410
        assert gone.json()["partial_bytes"] == job["output_bytes"] == len("Model ")
        assert "/output?partial=true" in gone.json()["error"]
        part = await output(scene, job_id, "?partial=True")
        assert part.status_code == 200
        body = part.json()
        assert (body["response"], body["partial"], body["status"]) == ("Model ", True, how)
        assert body["billing"]["actual_cost_halala"] == job["billing"]["actual_cost_halala"] > 0


async def test_a_job_that_wrote_nothing_stays_gone(tmp_path: Path) -> None:
    async with running_stack(tmp_path) as stack:
        scene = Scene(stack)
        await scene.prepare()
        job_id = await scene.submit(provider_id=None)
        await stack.post(f"/api/jobs/{job_id}/cancel", {}, **{"x-renter-key": scene.renter_key})
        gone = await output(scene, job_id, "?partial=true")
        assert (gone.status_code, gone.json()["code"]) == (410, "JOB_CANCELLED")
        assert "partial" not in gone.text


async def test_a_whole_output_is_not_called_partial(tmp_path: Path) -> None:
    async with running_stack(tmp_path) as stack:
        scene = Scene(stack)
        await scene.prepare()
        scene.gate.set()
        async with running_daemon(stack, scene.provider_key, scene.engine):
            job_id = await scene.submit()
            await stack.until_job(job_id, "completed")
        body = (await output(scene, job_id, "?partial=true")).json()
        assert (body["response"], body["partial"]) == ("Model output", False)

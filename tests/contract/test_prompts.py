"""A limit of characters is a limit of characters, in every script and however the JSON is written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from dcp.v1 import sessions_pb2

from tests.contract.test_money import JOB, Scene
from tests.support.fake_engine import ScriptedEngine
from tests.support.whole_stack import running_daemon, running_stack

MOST = 1_000_000


class Listener(ScriptedEngine):
    """An engine that keeps what it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.offers: list[sessions_pb2.JobOffer] = []

    async def prepare(self, offer: sessions_pb2.JobOffer) -> None:
        self.offers.append(offer)
        await super().prepare(offer)


async def submit(scene: Scene, params: dict[str, Any]) -> httpx.Response:
    """Submits as `json.dumps` writes it: six bytes for an Arabic letter, twelve for an emoji."""
    body = json.dumps({**JOB, "params": {"model": "test/model", **params}})
    headers = {"x-renter-key": scene.renter_key}
    return await scene.stack.http.post("/api/jobs/submit", content=body.encode(), headers=headers)


@pytest.mark.parametrize("character", ["م", "\N{GRINNING FACE}"])
async def test_a_million_characters_reach_the_engine_and_the_renters_export(
    tmp_path: Path, character: str
) -> None:
    async with running_stack(tmp_path) as stack:
        scene, engine = Scene(stack), Listener()
        await scene.prepare()
        async with running_daemon(stack, scene.provider_key, engine):
            answer = await submit(scene, {"prompt": character * MOST})
            assert answer.status_code == 201, answer.text
            await stack.until_job(answer.json()["job"]["job_id"], "completed")
        assert [offer.params.prompt == character * MOST for offer in engine.offers] == [True]
        export = await stack.get("/api/renters/export", {"x-renter-key": scene.renter_key})
        assert export["jobs"][0]["params"]["prompt"] == character * MOST


async def test_one_character_more_is_the_fields_own_error(tmp_path: Path) -> None:
    async with running_stack(tmp_path) as stack:
        scene = Scene(stack)
        await scene.prepare()
        for character in ("م", "\N{GRINNING FACE}"):
            answer = await submit(scene, {"prompt": character * (MOST + 1)})
            assert (answer.status_code, answer.json()["field"]) == (400, "params.prompt")
            assert "has 1000001 characters; at most 1000000 are allowed" in answer.json()["error"]


async def test_all_texts_of_a_submit_have_a_limit_together(tmp_path: Path) -> None:
    async with running_stack(tmp_path) as stack:
        scene = Scene(stack)
        await scene.prepare()
        turns = [{"role": "user", "content": "م" * 550_000}] * 2
        answer = await submit(scene, {"messages": turns})
        assert (answer.status_code, answer.json()["field"]) == (400, "params")
        assert "at most 1100000 are allowed" in answer.json()["error"]
        turns = [{"role": "user", "content": "م" * 549_900}] * 2
        assert (await submit(scene, {"messages": turns})).status_code == 201

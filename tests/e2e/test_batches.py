"""A batch over five daemons, two killed and the server restarted: each line is answered and billed once."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from tests.support import scripted_daemon
from tests.support.patient_renter import eventually
from tests.support.scene import Scene, played
from tests.support.scripted_daemon import answer_to, script

WAIT_SECONDS = 400
URL: Any = "/v1/chat/completions"

pytestmark = pytest.mark.e2e


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    with played(tmp_path) as scene:
        yield scene


def prompt(number: int) -> str:
    return script(f"river{number}", 2, 0.02)


def written(count: int) -> bytes:
    lines = []
    for number in range(count):
        body = {
            "model": scripted_daemon.MODEL,
            "messages": [{"role": "user", "content": prompt(number)}],
            "max_tokens": 8,
        }
        lines.append({"custom_id": f"c{number}", "method": "POST", "url": URL, "body": body})
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)


def counted(client: openai.OpenAI, batch_id: str) -> int:
    """How many lines have ended; 0 while nobody can say."""
    try:
        counts = client.batches.retrieve(batch_id).request_counts
    except (openai.APIConnectionError, openai.InternalServerError):
        return 0
    return counts.completed + counts.failed if counts is not None else 0


def test_each_line_is_answered_and_billed_once_whatever_is_killed(
    scene: Scene, pytestconfig: pytest.Config
) -> None:
    count = 2000 if pytestconfig.getoption("--all") else 150
    ids = [scene.add_daemon() for _ in range(5)]
    key = scene.renter._headers["x-renter-key"]
    scene.market.credit(scene.renter.id, 10_000_000)
    client = openai.OpenAI(base_url=f"{scene.market.url}/v1", api_key=key, max_retries=8)
    before = httpx.get(f"{scene.market.url}/api/renters/me", headers={"x-renter-key": key}).json()["renter"]
    file = client.files.create(file=("prompts.jsonl", written(count)), purpose="batch")
    batch = client.batches.create(input_file_id=file.id, endpoint=URL, completion_window="24h")
    eventually("a fifth of the lines", lambda: counted(client, batch.id) > count // 5, WAIT_SECONDS)
    scene.daemons[ids[0]].kill()
    scene.daemons[ids[1]].kill()
    eventually("two fifths of the lines", lambda: counted(client, batch.id) > 2 * count // 5, WAIT_SECONDS)
    scene.server.kill()
    scene.server.restart()
    scene.daemons[ids[0]].restart()
    eventually("the whole batch", lambda: counted(client, batch.id) == count, WAIT_SECONDS)
    time.sleep(1)
    done = client.batches.retrieve(batch.id)
    assert done.status == "completed"
    files = [each for each in (done.output_file_id, done.error_file_id) if each]
    lines = [json.loads(line) for each in files for line in client.files.content(each).text.splitlines()]
    assert sorted(line["custom_id"] for line in lines) == sorted(f"c{number}" for number in range(count))
    for line in lines:
        if line["error"] is None:
            text = line["response"]["body"]["choices"][0]["message"]["content"]
            assert text == answer_to(prompt(int(line["custom_id"][1:])))
    after = httpx.get(f"{scene.market.url}/api/renters/me", headers={"x-renter-key": key}).json()["renter"]
    plain = client.batches.with_raw_response.retrieve(batch.id).http_response.json()
    assert after["held_halala"] == 0
    assert before["balance_halala"] - after["balance_halala"] in (
        plain["charged_halala"],
        plain["charged_halala"] + 1,
    )
    proof = scene.market.prove_ledger()
    assert (proof["balanced"], proof["discrepancies"]) == (True, [])

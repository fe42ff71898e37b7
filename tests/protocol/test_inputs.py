"""Inputs from the renter's upload over HTTP to the submit of a job that reads them."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.whole_stack import ADMIN, Stack, running_stack

DATA = bytes(range(256)) * 40_000
"""More than two pieces."""
SHA256 = hashlib.sha256(DATA).hexdigest()
IMAGE = "docker.io/library/python:3.12"
CONTAINER = {"job_type": "custom_container", "container_spec": {"image": IMAGE}, "wait_for_supply": True}


@pytest.fixture(params=[False, True], ids=["grpc", "embedded"])
async def stack(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Stack]:
    async with running_stack(tmp_path, None, request.param) as stack:
        yield stack


async def renter(stack: Stack, email: str = "r@example.com") -> dict[str, str]:
    """A new renter with money; its headers."""
    renter_id, key = await stack.register("renter", email)
    await stack.post(f"/api/admin/renters/{renter_id}/credit", {"amount_halala": 100_000}, **ADMIN)
    return {"x-renter-key": key}


async def announce(stack: Stack, who: dict[str, str], data: bytes = DATA, name: str = "d.tar") -> Any:
    body = {"name": name, "size_bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    return (await stack.post("/api/inputs", body, **who))["input"]


async def put(
    stack: Stack, who: dict[str, str], found: Any, data: Any, first: int | None = None, **headers: str
) -> httpx.Response:
    if first is not None:
        last = found["size_bytes"] - 1
        headers["content-range"] = f"bytes {first}-{last}/{found['size_bytes']}"
    return await stack.http.put(f"/api/inputs/{found['input_id']}", content=data, headers=who | headers)


async def sent(stack: Stack, who: dict[str, str], data: bytes = DATA, name: str = "d.tar") -> Any:
    answer = await put(stack, who, await announce(stack, who, data, name), data)
    assert answer.is_success, answer.text
    return answer.json()["input"]


async def submit(stack: Stack, who: dict[str, str], **more: Any) -> httpx.Response:
    return await stack.http.post("/api/jobs/submit", json=CONTAINER | more, headers=who)


async def test_an_upload_is_stored_and_never_sent_twice(stack: Stack) -> None:
    who = await renter(stack)
    found = await sent(stack, who)
    assert (found["status"], found["received_bytes"], found["sha256"]) == ("ready", len(DATA), SHA256)
    assert (await announce(stack, who, name="again"))["input_id"] == found["input_id"]
    listed = await stack.get("/api/inputs", who)
    assert [one["input_id"] for one in listed["inputs"]] == [found["input_id"]]
    profile = await stack.get("/api/renters/me", who)
    assert profile["renter"]["stored_bytes"] == len(DATA)
    await stack.post(f"/api/inputs/{found['input_id']}/delete", {}, **who)
    gone = await stack.http.get(f"/api/inputs/{found['input_id']}", headers=who)
    assert (gone.status_code, gone.json()["code"]) == (404, "INPUT_NOT_FOUND")


async def test_an_upload_that_broke_off_goes_on_from_what_has_arrived(stack: Stack) -> None:
    who = await renter(stack)
    found = await announce(stack, who)

    async def part() -> AsyncIterator[bytes]:
        yield DATA[:5_000_001]

    assert (await put(stack, who, found, part())).json()["input"]["status"] == "uploading"
    found = await announce(stack, who)
    place = found["received_bytes"]
    assert place == 5_000_001
    wrong = await put(stack, who, found, DATA[place + 1 :], place + 1)
    assert (wrong.status_code, wrong.json()["code"]) == (409, "INPUT_OFFSET_WRONG")
    assert wrong.json()["received_bytes"] == place
    done = await put(stack, who, found, DATA[place:], place)
    assert done.json()["input"]["status"] == "ready"


async def test_other_bytes_than_announced_are_dropped(stack: Stack) -> None:
    who = await renter(stack)
    found = await announce(stack, who)
    answer = await put(stack, who, found, bytes(len(DATA)))
    assert (answer.status_code, answer.json()["code"]) == (409, "INPUT_DAMAGED")
    assert (await announce(stack, who))["received_bytes"] == 0
    long = await put(stack, who, await announce(stack, who, b"12"), b"123")
    assert (long.status_code, long.json()["code"]) == (413, "INPUT_TOO_LARGE")


async def test_bad_headers_of_an_upload_are_refused(stack: Stack) -> None:
    who = await renter(stack)
    found = await announce(stack, who)
    for headers, code in (
        ({"content-range": "bytes 5-3/9"}, "INVALID_FIELD"),
        ({"content-range": "lines 1-2/3"}, "INVALID_FIELD"),
        ({"content-encoding": "gzip"}, "UNSUPPORTED_MEDIA_TYPE"),
    ):
        answer = await put(stack, who, found, b"x", None, **headers)
        assert answer.json()["code"] == code
    assert (await announce(stack, who))["received_bytes"] == 0


async def test_an_empty_input_is_ready_at_once(stack: Stack) -> None:
    assert (await announce(stack, await renter(stack), b""))["status"] == "ready"


async def test_somebody_elses_input_does_not_exist(stack: Stack) -> None:
    found = await sent(stack, await renter(stack))
    other = await renter(stack, "other@example.com")
    for answer in (
        await stack.http.get(f"/api/inputs/{found['input_id']}", headers=other),
        await put(stack, other, found, b"x"),
        await stack.http.post(f"/api/inputs/{found['input_id']}/delete", headers=other),
        await submit(stack, other, inputs=[{"input_id": found["input_id"]}]),
    ):
        assert (answer.status_code, answer.json()["code"]) == (404, "INPUT_NOT_FOUND")
    assert not (await announce(stack, other))["received_bytes"]


async def test_a_job_names_inputs_that_then_stay(stack: Stack) -> None:
    who = await renter(stack)
    found = await sent(stack, who)
    answer = await submit(stack, who, inputs=[{"input_id": found["input_id"], "unpack": True}])
    assert answer.status_code == 201, answer.text
    kept = await stack.http.post(f"/api/inputs/{found['input_id']}/delete", headers=who)
    assert (kept.status_code, kept.json()["code"]) == (409, "INPUT_IN_USE")
    await stack.post(f"/api/jobs/{answer.json()['job']['job_id']}/cancel", {}, **who)
    await stack.post(f"/api/inputs/{found['input_id']}/delete", {}, **who)


@pytest.mark.parametrize(
    ("more", "status", "code"),
    [
        ({"inputs": [{}]}, 400, "INVALID_FIELD"),
        ({"inputs": [{"input_id": "ID", "artifact": "artifact://job-1/a"}]}, 400, "INVALID_FIELD"),
        ({"inputs": [{"input_id": "ID", "path": "../a"}]}, 400, "INVALID_FIELD"),
        ({"inputs": [{"input_id": "ID", "path": "/a"}]}, 400, "INVALID_FIELD"),
        ({"inputs": [{"input_id": "ID"}, {"input_id": "ID"}]}, 400, "INVALID_FIELD"),
        (
            {"inputs": [{"input_id": "ID", "path": "a"}, {"input_id": "ID", "path": "a/b"}]},
            400,
            "INVALID_FIELD",
        ),
        ({"inputs": [{"artifact": "https://a.example/b"}]}, 400, "INVALID_FIELD"),
        ({"inputs": [{"artifact": "artifact://job-none/b"}]}, 404, "JOB_NOT_FOUND"),
        ({"inputs": [{"input_id": "input-none"}]}, 404, "INPUT_NOT_FOUND"),
        ({"inputs": [{"input_id": "HALF"}]}, 409, "INPUT_NOT_READY"),
        ({"resume_from": "job-none"}, 404, "JOB_NOT_FOUND"),
        (
            {
                "job_type": "llm-inference",
                "params": {"model": "m", "prompt": "p"},
                "inputs": [{"input_id": "ID"}],
            },
            400,
            "INVALID_FIELD",
        ),
    ],
)
async def test_inputs_that_a_job_cannot_have_are_refused(
    tmp_path: Path, more: dict[str, Any], status: int, code: str
) -> None:
    async with running_stack(tmp_path) as stack:
        who = await renter(stack)
        ids = {
            "ID": (await sent(stack, who))["input_id"],
            "HALF": (await announce(stack, who, b"1"))["input_id"],
        }
        inputs = [
            one | ({"input_id": ids.get(one["input_id"], one["input_id"])} if "input_id" in one else {})
            for one in more.get("inputs", [])
        ]
        answer = await submit(stack, who, **(more | {"inputs": inputs}))
        assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text

"""`/v1/files` and `/v1/batches` by OpenAI's own client: a real gateway and server, a daemon's messages."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest

from gateway import batch_checks
from gateway.dialects.openai_batches import MAX_FILE_BYTES
from server.domain.errors import DomainError, Reason
from server.services.batches import Batches
from tests.contract.test_chat_completions import Scene, scene
from tests.contract.test_watch import gateway_to
from tests.support.manual_clock import ManualClock
from tests.support.running_server import HANG_SECONDS, MODEL

CHATS: Any = "/v1/chat/completions"


@pytest.fixture
async def there(sqlite_url: str, clock: ManualClock) -> AsyncIterator[Scene]:
    async with scene(sqlite_url, clock) as opened:
        yield opened


def written(*lines: dict[str, Any]) -> bytes:
    return b"".join(json.dumps(line, ensure_ascii=False).encode() + b"\n" for line in lines)


def line(number: int, **changes: Any) -> dict[str, Any]:
    body = {"model": MODEL, "messages": [{"role": "user", "content": f"سؤال {number}"}], "max_tokens": 5}
    return {"custom_id": f"c{number}", "method": "POST", "url": CHATS, "body": body} | changes


async def uploaded(there: Scene, data: bytes) -> openai.types.FileObject:
    return await there.client().files.create(file=("prompts.jsonl", data), purpose="batch")


async def created(there: Scene, data: bytes, **fields: Any) -> openai.types.Batch:
    """A batch, once its file was checked."""
    file = await uploaded(there, data)
    batch = await there.client().batches.create(
        input_file_id=file.id, endpoint=CHATS, completion_window="24h", **fields
    )
    assert (batch.object, batch.status, batch.input_file_id) == ("batch", "validating", file.id)
    async with asyncio.timeout(HANG_SECONDS):
        while batch.status == "validating":
            await asyncio.sleep(0.02)
            batch = await there.client().batches.retrieve(batch.id)
    return batch


def lines_of(content: openai.HttpxBinaryResponseContent) -> list[dict[str, Any]]:
    return [json.loads(each) for each in content.text.splitlines()]


async def test_batch_by_the_unmodified_client(there: Scene) -> None:
    client = there.client()
    data = written(line(1), line(2))
    batch = await created(there, data, metadata={"name": "دفعة"})
    assert batch.status == "in_progress"
    assert batch.request_counts is not None
    assert batch.request_counts.total == 2
    assert (batch.metadata, batch.output_file_id) == ({"name": "دفعة"}, None)
    await there.market.run_batches()
    await there.answers("one")
    await there.market.run_batches()
    partial = await client.batches.retrieve(batch.id)
    assert partial.output_file_id is not None
    assert partial.request_counts is not None
    assert (partial.status, partial.request_counts.completed) == ("finalizing", 1)
    assert len(lines_of(await client.files.content(partial.output_file_id))) == 1
    await there.answers("two")
    await there.market.run_batches()
    done = await client.batches.retrieve(batch.id)
    assert (done.status, done.error_file_id) == ("completed", None)
    assert done.completed_at
    assert done.in_progress_at
    assert done.output_file_id
    found = lines_of(await client.files.content(done.output_file_id))
    assert [each["custom_id"] for each in found] == ["c1", "c2"]
    texts = [each["response"]["body"]["choices"][0]["message"]["content"] for each in found]
    assert texts == ["one", "two"]
    parsed = openai.types.chat.ChatCompletion.model_validate(found[0]["response"]["body"])
    assert parsed.usage is not None
    assert parsed.usage.total_tokens == 8
    file = await client.files.retrieve(done.output_file_id)
    assert (file.purpose, file.filename) == ("batch_output", f"{batch.id}_output.jsonl")
    assert (await client.files.content(batch.input_file_id)).content == data


async def test_files_and_batches_are_listed_and_deleted(there: Scene) -> None:
    client = there.client()
    files = [await uploaded(there, written(line(number))) for number in range(3)]
    assert files[0].bytes == len(written(line(0)))
    assert (files[0].filename, files[0].purpose, files[0].status) == ("prompts.jsonl", "batch", "processed")
    assert [file.id async for file in client.files.list(limit=2)] == [file.id for file in reversed(files)]
    assert [file.id async for file in client.files.list(purpose="vision")] == []
    gone = await client.files.delete(files[0].id)
    assert (gone.id, gone.deleted) == (files[0].id, True)
    with pytest.raises(openai.NotFoundError):
        await client.files.retrieve(files[0].id)
    batches = [
        await client.batches.create(input_file_id=file.id, endpoint=CHATS, completion_window="24h")
        for file in files[1:]
    ]
    assert [each.id async for each in client.batches.list(limit=1)] == [each.id for each in reversed(batches)]


async def test_batch_with_wrong_lines_fails_with_their_numbers_and_runs_nothing(there: Scene) -> None:
    data = written(line(1), line(1), line(3, url="/v1/models"), line(4, method="GET")) + b"\nnot json\n"
    batch = await created(there, data)
    assert batch.status == "failed"
    assert batch.errors is not None
    assert batch.errors.data is not None
    found = [(error.line, error.code) for error in batch.errors.data]
    assert found == [
        (2, "duplicate_custom_id"),
        (3, "mismatched_url"),
        (4, "invalid_method"),
        (5, "empty_line"),
        (6, "invalid_json_line"),
    ]
    await there.market.run_batches()
    await there.daemon.heard_nothing()


@pytest.mark.slow
async def test_file_of_200_mb_without_a_newline_is_one_line_that_is_too_long(there: Scene) -> None:
    batch = await created(there, bytes(MAX_FILE_BYTES))
    assert batch.errors is not None
    assert batch.errors.data is not None
    assert [(error.line, error.code) for error in batch.errors.data] == [(1, "line_too_long")]
    assert batch.status == "failed"


async def test_cancelled_batch_reports_what_was_not_done(there: Scene) -> None:
    client = there.client()
    batch = await created(there, written(line(1), line(2)))
    await there.market.run_batches()
    await there.answers("one")
    await there.market.run_batches()
    cancelling = await client.batches.cancel(batch.id)
    assert cancelling.status == "cancelling"
    for _ in range(3):
        await there.market.run_batches()
    done = await client.batches.retrieve(batch.id)
    assert done.status == "cancelled"
    assert done.cancelled_at
    assert done.error_file_id
    assert done.output_file_id
    (failed,) = lines_of(await client.files.content(done.error_file_id))
    assert (failed["custom_id"], failed["response"]) == ("c2", None)
    assert failed["error"]["code"] in ("job_cancelled", "batch_cancelled")
    with pytest.raises(openai.ConflictError, match="cancelled"):
        await client.batches.cancel(batch.id)


@pytest.mark.parametrize("reason", [Reason.RATE_LIMITED, Reason.OVERLOADED])
@pytest.mark.parametrize("name", ["add_lines", "start"])
async def test_check_goes_on_when_the_server_had_too_many_requests(
    there: Scene, monkeypatch: pytest.MonkeyPatch, reason: Reason, name: str
) -> None:
    do, tries = getattr(Batches, name), []

    async def refused_once(self: Batches, *given: Any) -> Any:
        tries.append(given)
        if len(tries) == 1:
            raise DomainError(reason, "too many requests; try again", retry_after_seconds=1)
        return await do(self, *given)

    monkeypatch.setattr(Batches, name, refused_once)
    batch = await created(there, written(line(1)))
    assert (batch.status, len(tries)) == ("in_progress", 2)


async def test_creation_whose_answer_was_lost_makes_one_batch(
    there: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = await uploaded(there, written(line(1)))
    create, tries = Batches.create, []

    async def lose_answer(creating: Any) -> Any:
        await creating
        raise DomainError(Reason.STORE_UNAVAILABLE, "the database cannot be reached; try again")

    def lose_first(self: Batches, *given: Any) -> Any:
        tries.append(given)
        creating = create(self, *given)
        return lose_answer(creating) if len(tries) == 1 else creating

    monkeypatch.setattr(Batches, "create", lose_first)
    client = there.client()
    await client.batches.create(input_file_id=file.id, endpoint=CHATS, completion_window="24h")
    assert len(tries) == 2
    assert len([each async for each in client.batches.list()]) == 1


async def test_openais_own_repeat_of_a_creation_makes_one_batch_and_two_creations_make_two(
    there: Scene,
) -> None:
    file = await uploaded(there, written(line(1)))
    body = {"input_file_id": file.id, "endpoint": CHATS, "completion_window": "24h"}
    headers = {"authorization": f"Bearer {there.renter.key}"}

    async def create(retries: str) -> str:
        sent = await there.http.post(
            "/v1/batches", json=body, headers=headers | {"x-stainless-retry-count": retries}
        )
        return str(sent.json()["id"])

    first, again, another = [await create(count) for count in ("0", "1", "0")]
    assert first == again != another
    assert len([each async for each in there.client().batches.list()]) == 2


async def test_check_whose_gateway_ended_is_taken_over_by_the_next_that_is_asked(
    there: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    add, added = Batches.add_lines, asyncio.Event()

    async def add_and_hang(self: Batches, *given: Any) -> Any:
        await add(self, *given)
        added.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(batch_checks, "GROUP_LINES", 1)
    monkeypatch.setattr(Batches, "add_lines", add_and_hang)
    file = await uploaded(there, written(line(1), line(2), line(3)))
    async with gateway_to(there.market) as doomed:
        headers = {"authorization": f"Bearer {there.renter.key}"}
        body = {"input_file_id": file.id, "endpoint": CHATS, "completion_window": "24h"}
        batch_id = (await doomed.post("/v1/batches", json=body, headers=headers)).json()["id"]
        async with asyncio.timeout(HANG_SECONDS):
            await added.wait()
    monkeypatch.setattr(Batches, "add_lines", add)
    there.market.clock.advance(61)
    await there.daemon.heartbeat()  # else its model is not served
    client = there.client()
    async with asyncio.timeout(HANG_SECONDS):
        while (batch := await client.batches.retrieve(batch_id)).status == "validating":
            await asyncio.sleep(0.02)
    assert batch.status == "in_progress"
    assert batch.request_counts is not None
    assert batch.request_counts.total == 3


async def test_batch_that_is_created_again_meanwhile_is_checked_once(
    there: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    add, added, may_add = Batches.add_lines, [], asyncio.Event()

    async def add_later(self: Batches, *given: Any) -> Any:
        added.append(given)
        await may_add.wait()
        return await add(self, *given)

    monkeypatch.setattr(Batches, "add_lines", add_later)
    client, file = there.client(), await uploaded(there, written(line(1)))
    for _ in range(3):
        batch = await client.batches.create(
            input_file_id=file.id,
            endpoint=CHATS,
            completion_window="24h",
            extra_headers={"idempotency-key": "k"},
        )
    await asyncio.sleep(0.3)  # a second check would be there by now
    may_add.set()
    async with asyncio.timeout(HANG_SECONDS):
        while batch.status == "validating":
            await asyncio.sleep(0.02)
            batch = await client.batches.retrieve(batch.id)
    assert (batch.status, len(added)) == ("in_progress", 1)


@pytest.mark.parametrize(
    ("form", "field"),
    [
        ({"data": {"purpose": "batch"}}, "file"),
        ({"files": {"file": ("a", b"x")}}, "purpose"),
        ({"data": {"purpose": "fine-tune"}, "files": {"file": ("a", b"x")}}, "purpose"),
        ({"data": {"purpose": "batch"}, "files": {"file": ("a", b"")}}, "file"),
    ],
)
async def test_upload_that_is_wrong_names_its_field_and_leaves_nothing(
    there: Scene, form: dict[str, Any], field: str
) -> None:
    headers = {"authorization": f"Bearer {there.renter.key}"}
    form = {"files": {"other": b"x"}} | form
    answer = await there.http.post("/v1/files", headers=headers, **form)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"], error["code"]) == (400, field, "invalid_field"), error
    assert [file async for file in there.client().files.list()] == []


async def test_upload_of_more_than_a_batch_may_have_is_refused_before_its_bytes(there: Scene) -> None:
    reader, writer = await asyncio.open_connection(there.http.base_url.host, there.http.base_url.port)
    head = (
        f"POST /v1/files HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {there.renter.key}\r\n"
        "Content-Type: multipart/form-data; boundary=b\r\nContent-Length: 300000000\r\n\r\n"
    )
    writer.write(head.encode())
    async with asyncio.timeout(HANG_SECONDS):
        answer = await reader.read()
    writer.close()
    assert answer.startswith(b"HTTP/1.1 413")
    assert b'"body_too_large"' in answer


async def test_errors_have_the_dialects_form(there: Scene) -> None:
    client = there.client()
    with pytest.raises(openai.NotFoundError) as missing:
        await client.batches.retrieve("batch_none")
    assert missing.value.code == "batch_not_found"
    with pytest.raises(openai.AuthenticationError):
        await there.client("dcp-renter-none").files.create(file=("a", b"x"), purpose="batch")
    with pytest.raises(openai.BadRequestError) as window:
        await client.batches.create(input_file_id="file-a", endpoint=CHATS, completion_window="1h")  # type: ignore[arg-type]
    assert window.value.param == "completion_window"
    with pytest.raises(openai.NotFoundError):
        await client.batches.create(input_file_id="file-a", endpoint=CHATS, completion_window="24h")

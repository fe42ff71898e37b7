"""Batches: their lines as jobs, one budget, what stops them, and that each line is run and paid for once."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import Any, cast

import grpc
import pytest
from dcp.v1 import batches_pb2 as pb
from dcp.v1 import batches_pb2_grpc, jobs_pb2, keys_pb2, options_pb2, privacy_pb2, webhooks_pb2

from market.channel import EmbeddedChannel
from server.domain.batches import JOBS_AT_ONCE, PRIORITY, WINDOW_MS
from server.domain.limits import OFF
from server.services import batch_runs, batches
from server.services.chats import Chats
from server.store import batches as stored
from server.store.models import Batch, BatchLine, Job, WebhookDelivery, tuples
from tests.support import chats, running_server
from tests.support.manual_clock import ManualClock
from tests.support.plans import recorded, walks
from tests.support.running_server import MODEL, Daemon, Market, Party, refusal

CHATS = "/v1/chat/completions"
DAY = WINDOW_MS // 1000
RESULT = "succeeded"


def request(text: str) -> bytes:
    return json.dumps({"messages": [{"role": "user", "content": text}]}).encode()


def line(number: int, **changes: Any) -> pb.BatchLine:
    values: dict[str, Any] = {
        "number": number,
        "custom_id": f"line-{number}",
        "model": MODEL,
        "request": request(f"prompt {number}"),
        "max_tokens": 5,
        "form": b"{}",
    }
    return pb.BatchLine(**(values | changes))


async def file_of(market: Market, renter: Party, data: bytes = b"{}\n") -> str:
    service, metadata = market.batch_service, renter.metadata
    asked = pb.CreateFileRequest(filename="a.jsonl", size_bytes=len(data) + 100)
    file_id = (await service.CreateFile(asked, metadata=metadata)).id
    await service.AppendFile(pb.AppendFileRequest(file_id=file_id, data=data), metadata=metadata)
    await service.FinishFile(pb.FinishFileRequest(file_id=file_id), metadata=metadata)
    return file_id


async def checked(market: Market, renter: Party, **metadata: str) -> str:
    """A batch that is being checked."""
    asked = pb.CreateBatchRequest(
        input_file_id=await file_of(market, renter),
        endpoint=CHATS,
        completion_window="24h",
        metadata=metadata,
    )
    return (await market.batch_service.CreateBatch(asked, metadata=renter.metadata)).id


async def add(market: Market, renter: Party, batch_id: str, *lines: pb.BatchLine) -> None:
    asked = pb.AddBatchLinesRequest(batch_id=batch_id, lines=lines)
    await market.batch_service.AddBatchLines(asked, metadata=renter.metadata)


async def end_check(market: Market, renter: Party, batch_id: str, count: int, *errors: Any) -> pb.Batch:
    asked = pb.EndBatchCheckRequest(batch_id=batch_id, line_count=count, errors=errors)
    return await market.batch_service.EndBatchCheck(asked, metadata=renter.metadata)


async def started(market: Market, renter: Party, count: int, **metadata: str) -> str:
    """A batch whose lines run."""
    batch_id = await checked(market, renter, **metadata)
    await add(market, renter, batch_id, *(line(number + 1) for number in range(count)))
    batch = await end_check(market, renter, batch_id, count)
    assert (batch.status, batch.request_counts.total) == (pb.BATCH_STATUS_IN_PROGRESS, count)
    return batch_id


async def get(market: Market, renter: Party, batch_id: str) -> pb.Batch:
    return await market.batch_service.GetBatch(
        pb.GetBatchRequest(batch_id=batch_id), metadata=renter.metadata
    )


async def cancelled(market: Market, renter: Party, batch_id: str) -> pb.Batch:
    asked = pb.CancelBatchRequest(batch_id=batch_id)
    return await market.batch_service.CancelBatch(asked, metadata=renter.metadata)


async def results(market: Market, renter: Party, file_id: str) -> list[pb.BatchResult]:
    found: list[pb.BatchResult] = []
    while True:
        after = found[-1].number if found else 0
        asked = pb.ListBatchResultsRequest(file_id=file_id, after_number=after)
        more = (await market.batch_service.ListBatchResults(asked, metadata=renter.metadata)).results
        if not more:
            return found
        found += more


async def answer(market: Market, daemon: Daemon, *, seconds: float = 5) -> str:
    """Runs the job that is offered next; returns what it was asked."""
    offer = await daemon.expect("job_offer")
    await daemon.start(offer.lease)
    (text,) = chats.texts_of(offer)
    await daemon.output(offer.lease, 1, chats.answer_to(offer, f"to {text}"))
    market.clock.advance(seconds)
    await daemon.heartbeat()
    await daemon.finished(offer.lease, seconds=seconds, last_output_seq=1)
    return text


async def open_jobs(market: Market) -> list[Job]:
    return await market.sql(
        lambda: list(Job.select().where(Job.ended_ms.is_null()).order_by(Job.created_ms, Job.job_id))
    )


async def test_batch_that_is_created_again_under_its_key_is_the_same(market: Market) -> None:
    renter = await market.renter()
    asked = pb.CreateBatchRequest(
        input_file_id=await file_of(market, renter),
        endpoint=CHATS,
        completion_window="24h",
        idempotency_key="prompts-1",
    )
    made = [await market.batch_service.CreateBatch(asked, metadata=renter.metadata) for _ in range(2)]
    assert made[0].id == made[1].id
    listed = await market.batch_service.ListBatches(pb.ListBatchesRequest(), metadata=renter.metadata)
    assert [each.id for each in listed.data] == [made[0].id]


async def test_each_line_becomes_one_job_and_the_batch_is_the_sum_of_them(any_market: Market) -> None:
    market = any_market
    renter, provider = await market.renter(), await market.provider()
    daemon = await market.daemon(provider)
    batch_id = await started(market, renter, 3)
    asked = []
    for _ in range(3):
        await market.run_batches()
        asked.append(await answer(market, daemon))
    await market.run_batches()
    batch = await get(market, renter, batch_id)
    assert sorted(asked) == ["prompt 1", "prompt 2", "prompt 3"]
    assert (batch.status, batch.request_counts.completed) == (pb.BATCH_STATUS_COMPLETED, 3)
    assert not batch.HasField("error_file_id")
    found = await results(market, renter, batch.output_file_id)
    assert [each.custom_id for each in found] == ["line-1", "line-2", "line-3"]
    assert [b"to prompt %d" % each.number in each.output for each in found] == [True] * 3
    charges = [each.job.billing.actual_cost_halala for each in found]
    assert batch.charged_halala == sum(charges) > 0
    await market.assert_money_adds_up()


async def test_jobs_of_batch_come_after_any_other_job(market: Market) -> None:
    renter, provider = await market.renter(), await market.provider()
    daemon = await market.daemon(provider)
    first = await market.submit(renter)
    await started(market, renter, 1)
    await market.run_batches()
    later = await market.submit(renter)
    offered = (await daemon.expect("job_offer")).lease
    assert offered.job_id == first.job_id
    await daemon.start(offered)
    await daemon.finished(offered, seconds=1)
    assert (await daemon.expect("job_offer")).lease.job_id == later.job_id


async def test_batch_leaves_one_slot_of_its_model_to_interactive_jobs(market: Market) -> None:
    renter = await market.renter(50_000)
    providers = [await market.provider(), await market.provider()]
    await market.vouch(*providers)
    daemons = [await market.daemon(each, slots=2) for each in providers]
    await started(market, renter, 10)
    await market.run_batches()
    await market.tick()
    states = [job.state for job in await open_jobs(market)]
    assert (states.count("pending"), states.count("queued")) == (3, 7)
    chat = await market.chat(renter, request("at once"), max_tokens=5)
    assert (await market.job(chat)).status == jobs_pb2.JOB_STATE_PENDING
    assert daemons


async def test_at_most_so_many_lines_are_jobs_at_once(market: Market) -> None:
    renter = await market.renter(10_000_000)
    batch_id = await started(market, renter, JOBS_AT_ONCE + 10)
    for _ in range(3):
        await market.run_batches()
    jobs = await open_jobs(market)
    assert len(jobs) == JOBS_AT_ONCE
    assert {job.priority for job in jobs} == {PRIORITY}
    waiting = BatchLine.select().where(BatchLine.state == "waiting")
    assert await market.sql(waiting.count) == 10
    assert (await get(market, renter, batch_id)).status == pb.BATCH_STATUS_IN_PROGRESS


async def test_batches_of_a_renter_take_together_half_of_its_open_jobs_and_share_them(
    database_url: str, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running_server.running(database_url, clock, limits=replace(OFF, open_jobs=10)) as market:
        renter, other = [await market.renter(10_000_000) for _ in range(2)]
        first = await started(market, renter, 8)
        for _ in range(3):
            await market.run_batches()
        assert await jobs_of(market, first) == 5
        second, third = await started(market, renter, 2), await started(market, other, 8)
        for _ in range(3):
            await market.run_batches()
        assert await jobs_of(market, first, second) == 5, "the first has all of them until some end"
        assert await jobs_of(market, third) == 5, "each renter has its own"
        for _ in range(5):
            await market.submit(renter)
        assert (await refusal(market.submit(renter))).reason == "RATE_LIMITED"
        for job in (await open_jobs_of(market, first))[:4]:
            await market.job_service.CancelJob(
                jobs_pb2.CancelJobRequest(job_id=job), metadata=renter.metadata
            )
        with recorded(market.server._database, monkeypatch) as seen:
            await market.run_batches()
        assert (await jobs_of(market, first), await jobs_of(market, second)) == (3, 2)
        assert await walks(market.server._database, list(seen)) == {}


async def open_jobs_of(market: Market, *batch_ids: str) -> list[str]:
    query = (
        BatchLine.select(BatchLine.job_id)
        .join(Batch, on=Batch.id == BatchLine.batch_id)
        .join(Job, on=Job.job_id == BatchLine.job_id)
        .where(Batch.batch_id.in_(batch_ids), Job.ended_ms.is_null())
    )
    return await market.sql(lambda: [job_id for (job_id,) in tuples(query)])


async def jobs_of(market: Market, *batch_ids: str) -> int:
    return len(await open_jobs_of(market, *batch_ids))


async def test_line_that_was_submitted_before_a_crash_is_not_run_again(market: Market) -> None:
    renter = await market.renter()
    await started(market, renter, 2)
    await market.run_batches()
    before = [job.job_id for job in await open_jobs(market)]

    def forget() -> None:
        BatchLine.update(state="waiting", job_id=None, hold_micros=0).execute()
        for number in (1, 2):
            BatchLine.update(request=request(f"prompt {number}")).where(BatchLine.number == number).execute()

    await market.sql(forget)
    await market.run_batches()
    assert [job.job_id for job in await open_jobs(market)] == before
    noted = await market.sql(lambda: {each.job_id for each in BatchLine.select()})
    assert noted == set(before)


async def forget_jobs(market: Market) -> None:
    """As if the server had ended between the submits of the jobs and the notes of them."""

    def forget() -> None:
        BatchLine.update(state="waiting", job_id=None, hold_micros=0, request=request("prompt 1")).execute()

    await market.sql(forget)


async def test_job_whose_note_was_lost_ends_with_its_batch_and_is_in_its_counts(any_market: Market) -> None:
    market = any_market
    renter, provider = await market.renter(), await market.provider()
    daemon = await market.daemon(provider)
    batch_id = await started(market, renter, 1)
    await market.run_batches()
    await forget_jobs(market)
    await cancelled(market, renter, batch_id)
    await answer(market, daemon)
    for _ in range(2):
        await market.run_batches()
    batch = await get(market, renter, batch_id)
    assert (batch.status, batch.request_counts.completed) == (pb.BATCH_STATUS_CANCELLED, 1)
    (done,) = await results(market, renter, batch.output_file_id)
    assert batch.charged_halala == done.job.billing.actual_cost_halala > 0


async def test_cancel_also_ends_a_job_whose_note_was_lost(market: Market) -> None:
    renter = await market.renter()
    batch_id = await started(market, renter, 1)
    await market.run_batches()
    assert len(await open_jobs(market)) == 1
    await forget_jobs(market)
    await cancelled(market, renter, batch_id)
    for _ in range(2):
        await market.run_batches()
    assert await open_jobs(market) == []
    assert (await get(market, renter, batch_id)).status == pb.BATCH_STATUS_CANCELLED


@pytest.mark.parametrize("winds_up", [False, True])
async def test_no_line_becomes_a_job_after_the_cancel(
    any_market: Market, monkeypatch: pytest.MonkeyPatch, winds_up: bool
) -> None:
    market = any_market
    renter = await market.renter()
    batch_id = await started(market, renter, 3)
    submit = Chats.submit

    async def submit_late(self: Chats, *who: Any, **rest: Any) -> Any:
        """The cancel comes while the second line is on its way; another server may even wind the batch up."""
        if rest["idempotency_key"].endswith(":2"):
            monkeypatch.setattr(Chats, "submit", submit)
            await cancelled(market, renter, batch_id)
            if winds_up:
                await market.server.services.batch_runs.tick()
        return await submit(self, *who, **rest)

    monkeypatch.setattr(Chats, "submit", submit_late)
    await market.server.services.batch_runs.tick()
    assert await market.sql(Job.select().count) == 1
    for _ in range(2):
        await market.run_batches()
    assert (await market.sql(Job.select().count), await open_jobs(market)) == (1, [])
    batch = await get(market, renter, batch_id)
    assert (batch.status, batch.request_counts.failed) == (pb.BATCH_STATUS_CANCELLED, 3)


async def test_job_of_a_line_that_another_server_refused_meanwhile_is_cancelled(
    market: Market, monkeypatch: pytest.MonkeyPatch
) -> None:
    renter = await market.renter()
    batch_id = await started(market, renter, 2)
    submit = Chats.submit

    async def submit_twice(self: Chats, *who: Any, **rest: Any) -> Any:
        """Another server's submit of this line came first, and was refused."""
        monkeypatch.setattr(Chats, "submit", submit)
        job = await submit(self, *who, **rest)
        number = await market.sql(lambda: Batch.get(Batch.batch_id == batch_id).id)

        def refuse() -> None:
            locked = stored.lock(number)
            assert locked is not None
            stored.refuse(locked, 1, "model_not_served", "not yet", 0)

        await market.sql(refuse)
        return job

    monkeypatch.setattr(Chats, "submit", submit_twice)
    await market.run_batches()
    assert await open_jobs(market) == []
    await market.run_batches()
    assert (await market.sql(Job.select().count), len(await open_jobs(market))) == (2, 1)


async def test_window_also_cuts_the_jobs_of_a_batch_whose_budget_was_used_up(market: Market) -> None:
    renter = await market.renter()
    batch_id = await started(market, renter, 2)
    await market.run_batches()
    assert len(await open_jobs(market)) == 2
    await market.sql(Batch.update(stop="budget_reached").execute)
    await market.run_batches()
    assert len(await open_jobs(market)) == 2
    market.clock.advance(DAY + 1)
    for _ in range(2):
        await market.run_batches()
    assert await open_jobs(market) == []
    assert (await get(market, renter, batch_id)).request_counts.failed == 2


async def test_budget_of_batch_is_never_exceeded_and_the_rest_says_so(market: Market) -> None:
    renter, provider = await market.renter(), await market.provider()
    daemon = await market.daemon(provider)
    # The first job of a renter has a longer limit than those that follow a short one.
    first = await market.chat(renter, request("prompt 0"), max_tokens=5)
    await answer(market, daemon, seconds=0)
    budget = 400
    assert first.cost_halala > budget
    batch_id = await started(market, renter, 40, max_cost_halala=str(budget))
    done = 0
    batch = await get(market, renter, batch_id)
    while batch.status == pb.BATCH_STATUS_IN_PROGRESS or await open_jobs(market):
        await market.run_batches()
        open_now = await open_jobs(market)
        batch = await get(market, renter, batch_id)
        assert batch.charged_micro_halala + sum(job.hold_micros for job in open_now) <= budget * 1_000_000
        if open_now:
            await answer(market, daemon)
            done += 1
    await market.run_batches()
    batch = await get(market, renter, batch_id)
    assert (batch.status, batch.stop_reason) == (pb.BATCH_STATUS_COMPLETED, "budget_reached")
    assert (batch.request_counts.completed, batch.request_counts.failed) == (done, 40 - done)
    assert 0 < done < 40
    failed = await results(market, renter, batch.error_file_id)
    assert {each.error_code for each in failed} == {"budget_reached"}
    await market.assert_money_adds_up()


async def test_empty_wallet_ends_a_batch_with_the_reason(market: Market) -> None:
    renter = await market.renter(0)
    batch_id = await started(market, renter, 2)
    for _ in range(3):
        await market.run_batches()
    batch = await get(market, renter, batch_id)
    assert (batch.status, batch.stop_reason) == (pb.BATCH_STATUS_COMPLETED, "insufficient_balance")
    assert batch.request_counts.failed == 2


async def test_cancel_keeps_and_bills_what_is_done(any_market: Market) -> None:
    market = any_market
    renter, provider = await market.renter(), await market.provider()
    daemon = await market.daemon(provider)
    batch_id = await started(market, renter, 3)
    await market.run_batches()
    await answer(market, daemon)
    running = await daemon.expect("job_offer")
    await daemon.start(running.lease)
    await daemon.heard_nothing()
    assert (await cancelled(market, renter, batch_id)).status == pb.BATCH_STATUS_CANCELLING
    await market.run_batches()
    assert (await daemon.expect("cancel_run")).lease.job_id == running.lease.job_id
    await daemon.finished(running.lease, outcome=3, seconds=0)
    for _ in range(2):
        await market.run_batches()
    batch = await get(market, renter, batch_id)
    assert (batch.status, batch.stop_reason) == (pb.BATCH_STATUS_CANCELLED, "batch_cancelled")
    assert (batch.request_counts.completed, batch.request_counts.failed) == (1, 2)
    assert batch.charged_halala > 0
    (done,) = await results(market, renter, batch.output_file_id)
    assert batch.charged_halala == done.job.billing.actual_cost_halala
    again = await refusal(cancelled(market, renter, batch_id))
    assert (again.reason, again.facts.status) == ("BATCH_NOT_OPEN", "cancelled")
    await market.assert_money_adds_up()


async def test_rest_of_batch_expires_with_its_window(market: Market) -> None:
    renter = await market.renter()
    batch_id = await started(market, renter, JOBS_AT_ONCE + 2)
    await market.run_batches()
    assert len(await open_jobs(market)) > 0
    market.clock.advance(DAY + 1)
    for _ in range(3):
        await market.run_batches()
        await market.tick()
    await market.run_batches()
    batch = await get(market, renter, batch_id)
    assert (batch.status, batch.stop_reason) == (pb.BATCH_STATUS_EXPIRED, "batch_expired")
    assert batch.request_counts.failed == JOBS_AT_ONCE + 2
    assert await open_jobs(market) == []


async def test_line_whose_daemon_was_lost_twice_is_not_tried_again(market: Market) -> None:
    renter = await market.renter()
    batch_id = await started(market, renter, 1)
    await market.run_batches()
    for _ in range(2):
        provider = await market.provider()
        daemon = await market.daemon(provider)
        await market.tick()
        await daemon.start((await daemon.expect("job_offer")).lease)
        await daemon.heard_nothing()
        daemon.cut()
        await market.later(400)
        await market.later(400)
    await market.run_batches()
    batch = await get(market, renter, batch_id)
    assert (batch.status, batch.request_counts.failed) == (pb.BATCH_STATUS_COMPLETED, 1)
    (failed,) = await results(market, renter, batch.error_file_id)
    assert (failed.job.attempt, failed.job.failure_reason) == (2, jobs_pb2.FAILURE_REASON_PROVIDER_LOST)


async def test_line_that_the_server_refuses_is_in_the_error_file_alone(market: Market) -> None:
    renter, provider = await market.renter(), await market.provider()
    daemon = await market.daemon(provider)
    batch_id = await checked(market, renter)
    await add(market, renter, batch_id, line(1, request=b'{"messages": []}'), line(2))
    await end_check(market, renter, batch_id, 2)
    await market.run_batches()
    assert await answer(market, daemon, seconds=0) == "prompt 2"
    await market.run_batches()
    batch = await get(market, renter, batch_id)
    assert (batch.request_counts.completed, batch.request_counts.failed) == (1, 1)
    (failed,) = await results(market, renter, batch.error_file_id)
    assert (failed.custom_id, failed.error_code, failed.HasField("job")) == ("line-1", "invalid_field", False)


async def test_failed_check_runs_nothing_and_says_which_line(market: Market) -> None:
    renter = await market.renter()
    batch_id = await checked(market, renter)
    await add(market, renter, batch_id, line(1))
    error = pb.BatchError(code="invalid_json_line", message="This line is not JSON.", line=2)
    batch = await end_check(market, renter, batch_id, 0, error)
    assert (batch.status, batch.errors.data[0].line) == (pb.BATCH_STATUS_FAILED, 2)
    await market.run_batches()
    assert await open_jobs(market) == []
    late = await refusal(add(market, renter, batch_id, line(3)))
    assert (late.code, late.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "BATCH_NOT_OPEN")


async def resumed(market: Market, renter: Party, batch_id: str) -> bool:
    asked = pb.ResumeBatchCheckRequest(batch_id=batch_id)
    return (await market.batch_service.ResumeBatchCheck(asked, metadata=renter.metadata)).is_callers


async def test_check_that_lost_its_gateway_is_given_to_one_that_asks_for_it(any_market: Market) -> None:
    market, renter = any_market, await any_market.renter()
    batch_id = await checked(market, renter)
    await add(market, renter, batch_id, line(1))
    assert not await resumed(market, renter, batch_id), "it goes on"
    market.clock.advance(61)
    found = await asyncio.gather(*(resumed(market, renter, batch_id) for _ in range(5)))
    assert sorted(found) == [False, False, False, False, True]
    await add(market, renter, batch_id, line(1), line(2))
    await market.batch_service.EndBatchCheck(
        pb.EndBatchCheckRequest(batch_id=batch_id, line_count=2), metadata=renter.metadata
    )
    market.clock.advance(61)
    assert not await resumed(market, renter, batch_id), "it is checked"
    other = await market.renter()
    assert (await refusal(resumed(market, other, batch_id))).reason == "BATCH_NOT_FOUND"


async def test_check_that_lost_its_gateway_goes_to_a_known_gateway_without_its_renter(
    any_market: Market,
) -> None:
    market, renter = any_market, await any_market.renter()
    batch_id = await checked(market, renter)
    await add(market, renter, batch_id, line(1))
    renters_file = (await get(market, renter, batch_id)).input_file_id
    async with EmbeddedChannel(market.server.methods.handler) as channel:  # without a wire, and so known
        gateway: Any = batches_pb2_grpc.BatchServiceStub(cast(Any, channel))

        async def taken() -> str:
            return str((await gateway.TakeBatchCheck(pb.TakeBatchCheckRequest())).batch.id)

        async def content(batch_id: str, file_id: str) -> bytes:
            reading = gateway.ReadFile(pb.ReadFileRequest(file_id=file_id, batch_id=batch_id))
            found = b""
            while (piece := await reading.read()) is not grpc.aio.EOF:
                found += piece.data
            return found

        assert await taken() == "", "it goes on"
        market.clock.advance(61)
        found = await asyncio.gather(*(taken() for _ in range(5)))
        assert sorted(found) == ["", "", "", "", batch_id]
        assert await content(batch_id, renters_file) == b"{}\n"
        await gateway.AddBatchLines(pb.AddBatchLinesRequest(batch_id=batch_id, lines=[line(1), line(2)]))
        ended = pb.EndBatchCheckRequest(batch_id=batch_id, line_count=2)
        for _ in range(2):
            assert (await gateway.EndBatchCheck(ended)).status == pb.BATCH_STATUS_IN_PROGRESS
        other = await checked(market, renter)
        others_file = (await get(market, renter, other)).input_file_id
        for of_batch, file_id in ((batch_id, renters_file), (other, renters_file), ("", others_file)):
            with pytest.raises(grpc.aio.AioRpcError):
                await content(of_batch, file_id)
        market.clock.advance(61)
        assert await taken() == other
        assert await taken() == ""
    refused = await refusal(market.batch_service.TakeBatchCheck(pb.TakeBatchCheckRequest()))
    assert (refused.code, refused.reason) == (grpc.StatusCode.UNAUTHENTICATED, "MISSING_CREDENTIAL")


async def test_check_that_lost_its_gateway_and_that_nobody_asks_for_fails(market: Market) -> None:
    renter = await market.renter()
    batch_id = await checked(market, renter)
    await add(market, renter, batch_id, line(1))
    await market.run_batches()
    assert (await get(market, renter, batch_id)).status == pb.BATCH_STATUS_VALIDATING
    market.clock.advance(3500)
    await market.run_batches()
    assert (await get(market, renter, batch_id)).status == pb.BATCH_STATUS_VALIDATING
    market.clock.advance(101)
    await market.run_batches()
    batch = await get(market, renter, batch_id)
    assert (batch.status, batch.errors.data[0].code) == (pb.BATCH_STATUS_FAILED, "check_interrupted")


async def test_lines_that_arrive_twice_are_there_once(any_market: Market) -> None:
    market = any_market
    renter = await market.renter()
    batch_id = await checked(market, renter)
    for _ in range(2):
        await add(market, renter, batch_id, line(1), line(2))
    wrong = await refusal(end_check(market, renter, batch_id, 3))
    assert (wrong.reason, wrong.facts.field) == ("INVALID_FIELD", "lines")
    assert (await end_check(market, renter, batch_id, 2)).status == pb.BATCH_STATUS_IN_PROGRESS


async def test_only_its_owner_sees_a_batch_and_its_files(market: Market) -> None:
    renter, other = [await market.renter(10_000_000) for _ in range(2)]
    batch_id = await started(market, renter, 1)
    file_id = (await get(market, renter, batch_id)).input_file_id
    for call in (
        get(market, other, batch_id),
        cancelled(market, other, batch_id),
        add(market, other, batch_id, line(2)),
        end_check(market, other, batch_id, 1),
    ):
        assert (await refusal(call)).reason == "BATCH_NOT_FOUND"
    service, metadata = market.batch_service, other.metadata
    output = f"file-{batch_id.removeprefix('batch_')}-output"
    for name in (file_id, output):
        assert (
            await refusal(service.GetFile(pb.GetFileRequest(file_id=name), metadata=metadata))
        ).reason == ("INPUT_NOT_FOUND")
    assert (await refusal(results(market, other, output))).reason == "INPUT_NOT_FOUND"
    asked = pb.DeleteFileRequest(file_id=file_id)
    assert (await refusal(service.DeleteFile(asked, metadata=metadata))).reason == "INPUT_NOT_FOUND"
    listed = await service.ListBatches(pb.ListBatchesRequest(), metadata=metadata)
    files = await service.ListFiles(pb.ListFilesRequest(), metadata=metadata)
    assert (list(listed.data), list(files.data)) == ([], [])


async def test_lists_go_page_by_page(any_market: Market) -> None:
    market = any_market
    renter = await market.renter()
    made = [await checked(market, renter) for _ in range(3)]
    service, metadata = market.batch_service, renter.metadata
    first = await service.ListBatches(pb.ListBatchesRequest(limit=2), metadata=metadata)
    assert ([each.id for each in first.data], first.has_more) == ([made[2], made[1]], True)
    rest = await service.ListBatches(pb.ListBatchesRequest(limit=2, after=first.last_id), metadata=metadata)
    assert ([each.id for each in rest.data], rest.has_more) == ([made[0]], False)
    files = await service.ListFiles(pb.ListFilesRequest(limit=2), metadata=metadata)
    assert (len(files.data), files.has_more) == (2, True)


@pytest.mark.parametrize("expires", [False, True])
async def test_key_that_is_revoked_or_expires_ends_the_batch_that_it_created(
    market: Market, expires: bool
) -> None:
    renter = await market.renter()
    asked = keys_pb2.CreateKeyRequest(name="k", scopes=[options_pb2.SCOPE_INFERENCE])
    if expires:
        asked.expires_in_seconds = 3600
    made = await market.key_service.CreateKey(asked, metadata=renter.metadata)
    batch_id = await started(market, Party(renter.id, made.api_key), 2)
    if expires:
        market.clock.advance(3600)
    else:
        await market.key_service.RevokeKey(
            keys_pb2.RevokeKeyRequest(key_id=made.key.id), metadata=renter.metadata
        )
    for _ in range(3):
        await market.run_batches()
    batch = await get(market, renter, batch_id)
    assert (batch.status, batch.stop_reason) == (pb.BATCH_STATUS_COMPLETED, "account_closed")
    assert await open_jobs(market) == []


async def test_no_line_becomes_a_job_after_its_key_is_revoked(
    any_market: Market, monkeypatch: pytest.MonkeyPatch
) -> None:
    market = any_market
    renter = await market.renter()
    asked = keys_pb2.CreateKeyRequest(name="k", scopes=[options_pb2.SCOPE_INFERENCE])
    made = await market.key_service.CreateKey(asked, metadata=renter.metadata)
    batch_id = await started(market, Party(renter.id, made.api_key), 3)
    submit = Chats.submit

    async def submit_late(self: Chats, *who: Any, **rest: Any) -> Any:
        """The key is revoked while the second line is on its way."""
        if rest["idempotency_key"].endswith(":2"):
            monkeypatch.setattr(Chats, "submit", submit)
            revoke = keys_pb2.RevokeKeyRequest(key_id=made.key.id)
            await market.key_service.RevokeKey(revoke, metadata=renter.metadata)
        return await submit(self, *who, **rest)

    monkeypatch.setattr(Chats, "submit", submit_late)
    await market.server.services.batch_runs.tick()
    assert await market.sql(Job.select().count) == 1
    await market.run_batches()
    assert await market.sql(Job.select().count) == 1
    batch = await get(market, renter, batch_id)
    assert batch.stop_reason == "account_closed"


async def test_webhook_hears_of_the_batch_and_not_of_its_lines(sqlite_url: str, clock: Any) -> None:
    async with running_server.running(sqlite_url, clock, webhooks_allow_private=True) as market:
        renter, provider = await market.renter(), await market.provider()
        asked = webhooks_pb2.SetWebhookRequest(url="https://127.0.0.1:1/events")
        await market.webhook_service.SetWebhook(asked, metadata=renter.metadata)
        daemon = await market.daemon(provider)
        await started(market, renter, 1)
        await market.run_batches()
        await answer(market, daemon, seconds=0)
        await market.run_batches()
        events = await market.sql(lambda: [each.event for each in WebhookDelivery.select()])
        assert events == ["batch.completed"]


async def test_export_of_a_renters_data_has_its_batches_and_nobody_elses(market: Market) -> None:
    renter, other = [await market.renter(10_000_000) for _ in range(2)]
    batch_id = await checked(market, renter, name="spring")
    asked = privacy_pb2.ExportOwnDataRequest()
    for who, expected in ((renter, [(batch_id, {"name": "spring"})]), (other, [])):
        page = await market.privacy_service.ExportOwnData(asked, metadata=who.metadata)
        assert [(each.id, dict(each.metadata)) for each in page.batches] == expected


async def test_old_batches_go_with_their_lines(any_market: Market) -> None:
    market = any_market
    renter = await market.renter(0)
    await started(market, renter, 2)
    for _ in range(3):
        await market.run_batches()
    market.clock.advance(31 * DAY)
    await market.server.services.batch_runs.clean()
    assert await market.sql(lambda: (Batch.select().count(), BatchLine.select().count())) == (0, 0)


async def test_lines_of_a_failed_batch_go_at_once_a_part_at_a_time(
    any_market: Market, monkeypatch: pytest.MonkeyPatch
) -> None:
    market = any_market
    monkeypatch.setattr(batch_runs, "REMOVED", 2)
    renter = await market.renter()
    kept, failed = await started(market, renter, 1), await checked(market, renter)
    await add(market, renter, failed, *(line(number) for number in (1, 2, 3)))
    await end_check(market, renter, failed, 0, pb.BatchError(code="invalid_json_line", message="No.", line=4))
    left = []
    for _ in range(3):
        await market.server.services.batch_runs.clean()
        left.append(await market.sql(BatchLine.select().count))
    assert left == [2, 1, 1]
    batch = await get(market, renter, failed)
    assert (batch.status, batch.errors.data[0].line) == (pb.BATCH_STATUS_FAILED, 4)
    assert (await get(market, renter, kept)).request_counts.total == 1


async def test_of_many_batches_that_ended_the_oldest_go_first(
    any_market: Market, monkeypatch: pytest.MonkeyPatch
) -> None:
    market = any_market
    monkeypatch.setattr(batch_runs, "MAX_KEPT", 2)
    renter, other = [await market.renter(10_000_000) for _ in range(2)]
    running, others = await checked(market, renter), await checked(market, other)
    made = [await checked(market, renter) for _ in range(4)]
    for batch_id in made:
        await end_check(market, renter, batch_id, 0, pb.BatchError(code="empty_file", message="No."))
    await end_check(market, other, others, 0, pb.BatchError(code="empty_file", message="No."))
    await market.server.services.batch_runs.clean()
    asked = pb.ListBatchesRequest()
    listed = await market.batch_service.ListBatches(asked, metadata=renter.metadata)
    assert [each.id for each in listed.data] == [made[3], made[2], running]
    assert (await get(market, other, others)).status == pb.BATCH_STATUS_FAILED


async def test_lines_of_more_bytes_than_a_batch_may_have_are_refused(
    any_market: Market, monkeypatch: pytest.MonkeyPatch
) -> None:
    market = any_market
    monkeypatch.setattr(batches, "MAX_ADDED_BYTES", 1000)
    renter = await market.renter()
    batch_id = await checked(market, renter)
    for _ in range(3):  # the same line again is no more
        await add(market, renter, batch_id, line(1, request=request("x" * 400)))
    wrong = await refusal(add(market, renter, batch_id, line(2, request=request("x" * 600))))
    assert (wrong.reason, wrong.facts.field) == ("INVALID_FIELD", "lines")
    assert (await end_check(market, renter, batch_id, 1)).request_counts.total == 1


@pytest.mark.parametrize("text", ["", "-1", "1.5", "0", "9" * 20, "٣"])
async def test_budget_that_is_no_number_is_refused(market: Market, text: str) -> None:
    renter = await market.renter()
    wrong = await refusal(checked(market, renter, max_cost_halala=text))
    assert (wrong.reason, wrong.facts.field) == ("INVALID_FIELD", "metadata.max_cost_halala")

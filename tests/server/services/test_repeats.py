"""Requests sent twice under one Idempotency-Key have one effect and get the first answer again.

The methods come from the descriptors: a method that takes a key and has no scene here fails a test.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import grpc
import pytest
from dcp.v1 import (
    batches_pb2,
    chats_pb2,
    disputes_pb2,
    jobs_pb2,
    ledger_pb2,
    operations_pb2,
    options_pb2,
    renters_pb2,
    withdrawals_pb2,
)
from google.protobuf.message import Message

from server.domain.withdrawals import WithdrawalAction
from server.services.operators.audit import Operator
from server.store.models import AuditEntry, Batch, Job, Repeat, Transfer
from tests.server.rpc.methods import METHODS, call, rule
from tests.server.services import test_batches, test_disputes
from tests.server.services.test_withdrawals import IBAN, process, provider_with_earnings, request_withdrawal
from tests.support import running_server, vectors
from tests.support.manual_clock import ManualClock
from tests.support.running_server import MODEL, Market, Metadata, read_refusal, refusal

HOUR = 3600
KEYED = [name for name, method in METHODS.items() if rule(method).repeat == options_pb2.REPEAT_KEYED]


@dataclass
class Scene:
    """A valid request, its caller's metadata, and the same request with another body."""

    request: Any
    metadata: Metadata
    other: Any


async def top_up(market: Market) -> Scene:
    renter = await market.renter()
    request_of = renters_pb2.TopUpOwnWalletRequest
    return Scene(request_of(amount_halala=500), renter.metadata, request_of(amount_halala=501))


async def credit(market: Market) -> Scene:
    renter = await market.renter()
    request_of = ledger_pb2.CreditRenterRequest
    return Scene(
        request_of(renter_id=renter.id, amount_halala=500),
        market.admin_metadata,
        request_of(renter_id=renter.id, amount_halala=501),
    )


async def submit(market: Market) -> Scene:
    renter = await market.renter()

    def request_for(minutes: float) -> jobs_pb2.SubmitJobRequest:
        return jobs_pb2.SubmitJobRequest(
            job_type=jobs_pb2.JOB_TYPE_LLM_INFERENCE,
            duration_minutes=minutes,
            params=jobs_pb2.JobParams(model=MODEL, prompt="Say hello."),
        )

    return Scene(request_for(3), renter.metadata, request_for(4))


async def chat(market: Market) -> Scene:
    await market.daemon(await market.provider(), slots=0)  # where nobody serves the model, it is refused
    renter = await market.renter()

    def request_for(text: str) -> chats_pb2.SubmitChatRequest:
        said = json.dumps({"messages": [{"role": "user", "content": text}]}).encode()
        return chats_pb2.SubmitChatRequest(model=MODEL, request=said)

    return Scene(request_for("Say hello."), renter.metadata, request_for("Say hello!"))


async def embed(market: Market) -> Scene:
    kinds = [jobs_pb2.JOB_TYPE_EMBEDDINGS]
    await market.daemon(await market.provider(), slots=0, models=[vectors.served()], job_types=kinds)
    renter = await market.renter()

    def request_for(text: str) -> chats_pb2.SubmitEmbeddingsRequest:
        said = json.dumps({"input": text}).encode()
        return chats_pb2.SubmitEmbeddingsRequest(model=vectors.MODEL, request=said)

    return Scene(request_for("a cat"), renter.metadata, request_for("a dog"))


async def withdraw(market: Market) -> Scene:
    provider = await provider_with_earnings(market)
    request_of = withdrawals_pb2.RequestWithdrawalRequest
    return Scene(
        request_of(amount_halala=2000, iban=IBAN),
        provider.metadata,
        request_of(amount_halala=2001, iban=IBAN),
    )


async def cancel_withdrawal(market: Market) -> Scene:
    provider = await provider_with_earnings(market)
    number = (await request_withdrawal(market, provider)).withdrawal.id
    request_of = withdrawals_pb2.CancelWithdrawalRequest
    return Scene(request_of(withdrawal_id=number), provider.metadata, request_of(withdrawal_id=number + 1))


def act_on_withdrawal(
    kind: type[Message], action: WithdrawalAction, **fields: str
) -> Callable[[Market], Awaitable[Scene]]:
    async def scene(market: Market) -> Scene:
        provider = await provider_with_earnings(market)
        number = (await request_withdrawal(market, provider)).withdrawal.id
        if action is WithdrawalAction.PAY:
            await process(market, number)
        request = kind(withdrawal_id=number, **fields)
        return Scene(request, market.admin_metadata, kind(withdrawal_id=number + 1, **fields))

    return scene


async def requeue(market: Market) -> Scene:
    renter, provider = await market.renter(), await market.provider()
    daemon = await market.daemon(provider)
    job, _ = await market.running_job(renter, provider, daemon)
    request_of = operations_pb2.RequeueJobRequest
    return Scene(
        request_of(job_id=job.job_id), market.admin_metadata, request_of(job_id=job.job_id, reason="another")
    )


async def decide(market: Market) -> Scene:
    disputed = await test_disputes.scene_in(market)
    dispute = await disputed.dispute(await disputed.job())

    def request_with(note: str) -> disputes_pb2.DecideDisputeRequest:
        upheld = disputes_pb2.DISPUTE_DECISION_UPHOLD
        return disputes_pb2.DecideDisputeRequest(dispute_id=dispute.id, decision=upheld, note=note)

    return Scene(request_with("seen"), market.admin_metadata, request_with("not seen"))


async def create_batch(market: Market) -> Scene:
    renter = await market.renter()
    file_id = await test_batches.file_of(market, renter)

    def request_of(endpoint: str) -> batches_pb2.CreateBatchRequest:
        return batches_pb2.CreateBatchRequest(
            input_file_id=file_id, endpoint=endpoint, completion_window="24h"
        )

    return Scene(request_of("/v1/chat/completions"), renter.metadata, request_of("/v1/completions"))


SCENES: dict[str, Callable[[Market], Awaitable[Scene]]] = {
    "BatchService.CreateBatch": create_batch,
    "RenterService.TopUpOwnWallet": top_up,
    "LedgerService.CreditRenter": credit,
    "JobService.SubmitJob": submit,
    "ChatService.SubmitChat": chat,
    "ChatService.SubmitEmbeddings": embed,
    "OperationService.RequeueJob": requeue,
    "DisputeService.DecideDispute": decide,
    "WithdrawalService.RequestWithdrawal": withdraw,
    "WithdrawalService.CancelWithdrawal": cancel_withdrawal,
    "WithdrawalService.ProcessWithdrawal": act_on_withdrawal(
        withdrawals_pb2.ProcessWithdrawalRequest, WithdrawalAction.PROCESS
    ),
    "WithdrawalService.PayWithdrawal": act_on_withdrawal(
        withdrawals_pb2.PayWithdrawalRequest, WithdrawalAction.PAY, reference="SARIE-7"
    ),
    "WithdrawalService.RejectWithdrawal": act_on_withdrawal(
        withdrawals_pb2.RejectWithdrawalRequest, WithdrawalAction.REJECT, reason="no such account"
    ),
}


@pytest.fixture
async def any_market(database_url: str, clock: ManualClock) -> Any:
    """A server on each kind of database, with sandbox top-up."""
    async with running_server.running(database_url, clock, sandbox_topup=True) as market:
        yield market


async def send(market: Market, name: str, scene: Scene, key: str, other: bool = False) -> Message:
    request = type(scene.request)()
    request.CopyFrom(scene.other if other else scene.request)
    request.idempotency_key = key
    return await call(market, METHODS[name], request, scene.metadata)


async def effects(market: Market) -> list[int]:
    """The numbers of transfers, jobs, batches and audit entries."""
    return await market.sql(lambda: [table.select().count() for table in (Transfer, Job, Batch, AuditEntry)])


def test_every_method_that_takes_a_key_has_a_scene() -> None:
    assert set(KEYED) == set(SCENES)


@pytest.mark.parametrize("name", KEYED)
async def test_same_key_and_body_give_the_first_answer_with_one_effect(any_market: Market, name: str) -> None:
    market = any_market
    scene = await SCENES[name](market)
    before = await effects(market)
    first = await send(market, name, scene, "k")
    after_first = await effects(market)
    assert after_first != before
    assert await send(market, name, scene, "k") == first
    assert await effects(market) == after_first
    await market.assert_money_adds_up()


@pytest.mark.parametrize("name", KEYED)
async def test_same_key_with_another_body_is_refused_and_changes_nothing(
    any_market: Market, name: str
) -> None:
    market = any_market
    scene = await SCENES[name](market)
    await send(market, name, scene, "k")
    after_first = await effects(market)
    refused = await refusal(send(market, name, scene, "k", other=True))
    assert (refused.code, refused.reason) == (grpc.StatusCode.ALREADY_EXISTS, "IDEMPOTENCY_CLASH")
    assert refused.facts.field == "Idempotency-Key"
    assert await effects(market) == after_first


@pytest.mark.parametrize("name", KEYED)
async def test_simultaneous_repeats_have_one_effect_and_get_the_same_answer(
    any_market: Market, name: str
) -> None:
    """More requests than database threads: the waiting requests must not block the first."""
    market = any_market
    scene, same = await SCENES[name](market), await SCENES[name](market)
    start = await effects(market)
    await send(market, name, same, "of one")
    before = await effects(market)
    answers = await asyncio.gather(*(send(market, name, scene, "k") for _ in range(20)))
    assert all(answer == answers[0] for answer in answers)
    effects_of_repeats = [now - then for now, then in zip(await effects(market), before, strict=True)]
    assert effects_of_repeats == [now - then for now, then in zip(before, start, strict=True)]
    await market.assert_money_adds_up()


async def test_key_survives_a_restart(database_url: str, clock: ManualClock) -> None:
    name = "LedgerService.CreditRenter"
    async with running_server.running(database_url, clock) as market:
        scene = await credit(market)
        first = await send(market, name, scene, "k")
    async with running_server.running(database_url, clock) as market:
        after_first = await effects(market)
        assert await send(market, name, scene, "k") == first
        assert await effects(market) == after_first


async def test_key_is_kept_for_a_day(any_market: Market) -> None:
    market = any_market
    name, scene = "LedgerService.CreditRenter", await credit(any_market)
    first = await send(market, name, scene, "k")
    await market.later(24 * HOUR)
    assert await send(market, name, scene, "k") == first
    await market.later(1)
    assert await market.sql(lambda: Repeat.select().count()) == 0
    again = await send(market, name, scene, "k")
    assert again.balance_halala == first.balance_halala + 500  # type: ignore[attr-defined]


async def test_key_belongs_to_its_account(any_market: Market) -> None:
    market = any_market
    name, scene, scene_of_another = (
        "RenterService.TopUpOwnWallet",
        await top_up(any_market),
        await top_up(any_market),
    )
    before = await effects(market)
    await send(market, name, scene, "k")
    await send(market, name, scene_of_another, "k", other=True)
    assert (await effects(market))[0] == before[0] + 2


async def test_key_used_for_another_method_is_refused(any_market: Market) -> None:
    """A payment and a rejection may have the same bytes on the wire: an id and a text."""
    market = any_market
    name = "WithdrawalService.PayWithdrawal"
    paid = await SCENES[name](market)
    await send(market, name, paid, "k")
    alike = withdrawals_pb2.RejectWithdrawalRequest.FromString(paid.request.SerializeToString())
    assert (alike.withdrawal_id, alike.reason) == (paid.request.withdrawal_id, "SARIE-7")
    scene = Scene(alike, market.admin_metadata, None)
    refused = await refusal(send(market, "WithdrawalService.RejectWithdrawal", scene, "k"))
    assert refused.reason == "IDEMPOTENCY_CLASH"


async def test_refused_request_does_not_use_up_its_key(any_market: Market) -> None:
    market = any_market
    provider = await provider_with_earnings(market, 1000)
    name = "WithdrawalService.RequestWithdrawal"
    too_large = withdrawals_pb2.RequestWithdrawalRequest(amount_halala=2000, iban=IBAN)
    scene = Scene(too_large, provider.metadata, None)
    assert (await refusal(send(market, name, scene, "k"))).reason == "EARNINGS_TOO_LOW"
    smaller = withdrawals_pb2.RequestWithdrawalRequest(amount_halala=1000, iban=IBAN)
    await send(market, name, Scene(smaller, provider.metadata, None), "k")
    assert await market.earned(provider) == 0


async def test_request_without_a_key_always_takes_effect(any_market: Market) -> None:
    market = any_market
    scene = await credit(market)
    for _ in range(2):
        last = await send(market, "LedgerService.CreditRenter", scene, "")
    assert last.balance_halala == 6000  # type: ignore[attr-defined]


async def test_simultaneous_requests_with_different_bodies_under_one_key_have_one_effect(
    any_market: Market,
) -> None:
    market = any_market
    scene = await credit(market)
    before = await effects(market)
    outcomes = await asyncio.gather(
        *(send(market, "LedgerService.CreditRenter", scene, "k", other=n % 2 == 0) for n in range(20)),
        return_exceptions=True,
    )
    refused = [
        read_refusal(outcome).reason for outcome in outcomes if isinstance(outcome, grpc.aio.AioRpcError)
    ]
    assert refused == ["IDEMPOTENCY_CLASH"] * 10
    assert (await effects(market))[0] == before[0] + 1


# A server process that dies after the effect and before the commit.
DYING_SERVER = """
import asyncio, os, sys
from server.clock import SystemClock
from server.domain.money import whole_halala
from server.services.operators.audit import Operator
from server.services.renters import Renters
from server.services.repeats import Request, keeping
from server.store.database import Database

def die(balance):
    print("credited", whole_halala(balance), flush=True)
    os._exit(9)

async def main():
    database = Database(sys.argv[1])
    database.start()
    with keeping(Request("admin 0", "k", b"digest", die)):
        renters = Renters(database, SystemClock(), False)
        await renters.credit(Operator("admin", "r"), int(sys.argv[2]), 500_000_000)

asyncio.run(main())
"""


async def test_server_that_dies_before_the_commit_leaves_no_effect(
    any_market: Market, database_url: str
) -> None:
    market = any_market
    scene = await credit(market)
    before = await effects(market)
    command = [sys.executable, "-c", DYING_SERVER, database_url, str(scene.request.renter_id)]
    died = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=False)
    assert (died.returncode, died.stdout) == (9, "credited 5500\n"), died.stderr
    assert await effects(market) == before
    answer = await send(market, "LedgerService.CreditRenter", scene, "k")
    assert answer.balance_halala == 5500  # type: ignore[attr-defined]
    await market.assert_money_adds_up()


async def test_stored_answer_contains_no_full_iban(any_market: Market) -> None:
    market = any_market
    scene = await withdraw(market)
    await send(market, "WithdrawalService.RequestWithdrawal", scene, "k")
    kept = await market.sql(lambda: [row.answer for row in Repeat.select()])
    assert len(kept) == 1
    assert IBAN[:-4].encode() not in bytes(kept[0] or b"")
    assert b"7519" in bytes(kept[0] or b"")


async def test_use_case_that_does_not_store_its_answer_raises(any_market: Market) -> None:
    """Guards against a method that takes a key without storing its answer."""
    from server.services.repeats import Request, keeping

    request = Request("admin 0", "k", b"", bytes)
    with pytest.raises(AssertionError), keeping(request):
        await any_market.server.services.renters.profile((await any_market.renter()).id)
    with keeping(Request("admin 0", "k", b"", lambda balance: str(balance).encode())):
        renter = await any_market.renter()
        await any_market.server.services.renters.credit(Operator("admin", "r"), renter.id, 1)

"""Deletion of an account: what is erased, what stays, what prevents it, and what happens at the same time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Any

import grpc
import pytest
from dcp.v1 import (
    accounts_pb2,
    admin_pb2,
    artifacts_pb2,
    jobs_pb2,
    keys_pb2,
    ledger_pb2,
    operations_pb2,
    options_pb2,
    privacy_pb2,
    renters_pb2,
    sessions_pb2,
    statements_pb2,
    webhooks_pb2,
)

from server.blobs.files import MARK
from server.bus.local import LocalBus
from server.config import Config
from server.domain.errors import DomainError, Reason
from server.domain.jobs import JobRequest, JobType
from server.domain.keys import Scope
from server.domain.limits import OFF
from server.domain.money import micros
from server.domain.statements import EVER
from server.domain.webhooks import Answer
from server.rpc.events import body_text
from server.services.deliveries import Deliveries
from server.services.keys import Caller
from server.store.database import Database
from server.store.models import MODELS, ApiKey, Artifact, Job, Renter, Transfer
from server.store.privacy import erasure
from server.wiring import Services
from tests.support import running_server
from tests.support.manual_clock import ManualClock
from tests.support.running_server import Market, Party, refusal
from tests.support.whole_renter import (
    EMAIL,
    FILE,
    FILE_NAME,
    MARKERS,
    OUTPUT,
    delete,
    places_of,
    whole_database,
    whole_renter,
)

BALANCE_HALALA = 5000 - 188


async def register(market: Market, email: str, name: str = "R") -> Party:
    response = await market.renter_service.RegisterRenter(
        renters_pb2.RegisterRenterRequest(name=name, email=email)
    )
    return Party(response.renter_id, response.api_key)


async def top_up(market: Market, renter: Party, halala: int) -> Any:
    request = renters_pb2.TopUpOwnWalletRequest(amount_halala=halala)
    return await market.renter_service.TopUpOwnWallet(request, metadata=renter.metadata)


async def credit(market: Market, renter: Party, halala: int) -> Any:
    request = ledger_pb2.CreditRenterRequest(renter_id=renter.id, amount_halala=halala)
    return await market.ledger_service.CreditRenter(request, metadata=market.admin_metadata)


async def search_renters(market: Market, search: str) -> list[operations_pb2.RenterEntry]:
    request = operations_pb2.ListRentersRequest(search=search)
    answer = await market.operation_service.ListRenters(request, metadata=market.admin_metadata)
    return list(answer.renters)


async def state_of(market: Market, renter: Party) -> str:
    return str(await market.sql(lambda: Renter.get_by_id(renter.id).state))


# --- What is erased. ---


async def test_no_column_holds_what_the_renter_wrote_or_received(any_market: Market) -> None:
    market = any_market
    async with whole_renter(market) as whole:
        before = await whole_database(market)
        assert [marker for marker in MARKERS if not places_of(marker, before)] == []
        await delete(market, whole.renter, forfeit=BALANCE_HALALA)
        after = await whole_database(market)
    assert {marker: places_of(marker, after) for marker in MARKERS} == {marker: [] for marker in MARKERS}


async def test_every_text_of_the_renters_rows_is_erased_or_kept_with_a_reason(market: Market) -> None:
    """Fails for a new column, and for a column that the markers do not reach."""
    kept = {
        "renter.name": "the same for all deleted renters",
        "renter.state": "a fixed word",
        "account.kind": "money",
        "transfer.kind": "money",
        "transfer.job_id": "money",
        "hold.job_id": "money",
        "hold.state": "money",
        "hold.job_type": "the provider's history",
        "transfer.job_type": "the provider's history",
        "job.job_id": "the provider's history",
        "job.job_type": "the provider's history",
        "job.state": "the provider's history",
        "job.model": "the provider's history",
        "job.spec": "an empty object",
        "job.content_type": "reported by the daemon",
        "job.failure_reason": "a fixed word",
        "job.usage": "counts from the daemon",
        "lease.job_id": "the provider's history",
        "lease.secret_sha256": "random",
        "lease.state": "a fixed word",
        "lease.outcome": "a fixed word",
        "lease.failure_reason": "a fixed word",
        "dispute.job_id": "the provider's history",
        "dispute.state": "a fixed word",
        "dispute.note": "the operator's",
        "job.unasked": "a fixed word",
        "job.price": "money",
        "artifact.job_id": "the provider's history",
        "artifact.blob_key": "random, until the bytes are gone",
        "artifact.state": "a fixed word",
        "input.input_id": "random, until the bytes are gone",
        "input.purpose": "a fixed word",
        "input.state": "a fixed word",
        "input_piece.blob_key": "random, until the bytes are gone",
    }
    not_renters = {
        *("provider", "provider_gpu", "provider_model", "provider_standing", "customers_read", "withdrawal"),
        *("audit_entry", "price", "provider_key", "job_tally", "server"),
    }
    async with whole_renter(market) as whole:
        await delete(market, whole.renter, forfeit=BALANCE_HALALA)

        def read() -> set[str]:
            found: set[str] = set()
            for model in MODELS:
                table = model._meta.table_name
                query: Any = model.select()
                if model is ApiKey:
                    query = query.where(ApiKey.role == "renter")
                for row in query.dicts():
                    found |= {
                        f"{table}.{name}"
                        for name, value in row.items()
                        if isinstance(value, str | bytes | memoryview) and len(value) > 0
                    }
            return {place for place in found if place.partition(".")[0] not in not_renters}

        texts = await market.sql(read)
        assert texts == set(kept)
        spec = await market.sql(lambda: {row.spec for row in Job.select()})
        assert spec == {"{}"}


async def test_keys_are_refused_at_once_even_if_cached(any_market: Market) -> None:
    market = any_market
    async with whole_renter(market) as whole:
        rotated = await market.key_service.RotateRenterKey(
            keys_pb2.RotateRenterKeyRequest(grace_seconds=3600), metadata=whole.renter.metadata
        )
        parties = [whole.renter, whole.sub_key, Party(whole.renter.id, rotated.api_key)]
        for party in parties:
            await market.wallet(party)  # the server has cached the key now
        await delete(market, whole.renter, forfeit=BALANCE_HALALA)
        for party in parties:
            assert (await refusal(market.wallet(party))).reason == "INVALID_CREDENTIAL"
        assert (await refusal(delete(market, whole.renter))).reason == "INVALID_CREDENTIAL"


async def test_sweep_erases_the_jobs_that_exceed_one_transaction(any_market: Market) -> None:
    market = any_market
    renter, other = await register(market, "many@example.com"), await market.renter()
    await top_up(market, renter, 450)
    job = await market.cancel(await market.submit(renter, key="k"), renter)
    await market.cancel(await market.submit(other, key="kept"), other)

    def copy_job() -> None:
        """Copies the job until the renter has more jobs than one transaction erases."""
        found: Any = Job.select().where(Job.job_id == job.job_id).dicts()
        (row,) = found
        copies = [
            {**row, "job_id": f"job-{number}", "idempotency_key": f"k{number}", "created_ms": number}
            for number in range(2 * erasure.BATCH)
        ]
        Job.insert_many(copies).execute()

    def idempotency_keys() -> set[str | None]:
        return {row.idempotency_key for row in Job.select()}

    await market.sql(copy_job)
    await delete(market, renter, "many@example.com", 450)
    for _ in range(2):
        await market.tick()
    assert await market.sql(idempotency_keys) == {None, "kept"}
    assert await market.sql(lambda: erasure.to_erase(9)) == []


# --- What stays. ---


async def test_transfers_stay_and_the_provider_keeps_its_job_and_payout(any_market: Market) -> None:
    market = any_market
    async with whole_renter(market) as whole:
        transfers_before = await market.sql(lambda: Transfer.select().count())
        answer = await delete(market, whole.renter, forfeit=BALANCE_HALALA)
        assert (answer.success, answer.renter_id, answer.forfeited_halala) == (
            True,
            whole.renter.id,
            BALANCE_HALALA,
        )
        await market.assert_money_adds_up()
        transfers = await market.sql(lambda: list(Transfer.select().order_by(Transfer.id.desc())))
        assert len(transfers) == transfers_before + 1
        assert (transfers[0].kind, transfers[0].amount_micros) == ("forfeit", micros(BALANCE_HALALA))
        assert await market.earned(whole.provider) == 141
        request = jobs_pb2.GetJobRequest(job_id=whole.completed.job_id)
        shown = (await market.job_service.GetJob(request, metadata=whole.provider.metadata)).job
        assert shown.billing.actual_cost_halala == 188
        assert (await market.why(whole.completed, whole.provider)).attempts[-1].run_seconds == 75


async def test_output_is_reported_as_erased_to_those_who_could_see_it(any_market: Market) -> None:
    market = any_market
    async with whole_renter(market) as whole:
        assert (await market.output(whole.completed, whole.provider)).response == OUTPUT
        await delete(market, whole.renter, forfeit=BALANCE_HALALA)
        for who in (whole.provider, Party(0, running_server.ADMIN_TOKEN)):
            refused = await refusal(market.output(whole.completed, who))
            assert (refused.reason, refused.facts.status) == ("OUTPUT_ERASED", "completed")
            failed = await refusal(market.output(whole.failed, who))
            assert failed.reason == "JOB_FAILED"
        stranger = await market.renter()
        assert (await refusal(market.output(whole.completed, stranger))).reason == "NOT_OWNER"


async def test_files_and_logs_are_reported_as_erased_at_once(any_market: Market) -> None:
    market = any_market
    async with whole_renter(market) as whole:
        await delete(market, whole.renter, forfeit=BALANCE_HALALA)
        stranger = await market.renter()
        for job in (whole.completed, whole.failed):
            for who in (whole.provider, Party(0, running_server.ADMIN_TOKEN)):
                for call in reading_calls(market, job, who):
                    refused = await refusal(call)
                    assert (refused.reason, job.job_id in refused.message) == ("OUTPUT_ERASED", True)
            for call in reading_calls(market, job, stranger):
                assert (await refusal(call)).reason == "NOT_OWNER"
        assert (await market.job(whole.completed)).artifact_count == 0


def reading_calls(market: Market, job: jobs_pb2.Job, who: Party) -> list[Any]:
    """Every call that reads a job's files or log."""
    fields: dict[str, Any] = {"job_id": job.job_id}
    list_files = artifacts_pb2.ListArtifactsRequest(**fields)
    download = artifacts_pb2.DownloadArtifactRequest(name=FILE_NAME, **fields)
    logs = jobs_pb2.GetJobLogsRequest(**fields)
    return [
        market.artifact_service.ListArtifacts(list_files, metadata=who.metadata),
        all_of(market.artifact_service.DownloadArtifact(download, metadata=who.metadata)),
        market.job_service.GetJobLogs(logs, metadata=who.metadata),
    ]


async def all_of(call: Any) -> list[Any]:
    return [message async for message in call]


async def test_cleaning_deletes_the_bytes_of_the_files(any_market: Market, tmp_path: Path) -> None:
    market = any_market
    async with whole_renter(market) as whole:
        assert stored(tmp_path) == [FILE, FILE, FILE]  # two artifacts and an input
        await delete(market, whole.renter, forfeit=BALANCE_HALALA)
        await market.server.services.cleaning.tick()
        await market.server.services.inputs.clean()
        assert stored(tmp_path) == []
        assert await market.sql(lambda: Artifact.select().count()) == 0


async def test_file_uploaded_during_the_deletion_is_not_stored(any_market: Market, tmp_path: Path) -> None:
    market = any_market
    async with whole_renter(market) as whole:
        await whole.daemon.heartbeat()
        job, lease = await market.running_job(
            whole.renter, whole.provider, whole.daemon, job_type=jobs_pb2.JOB_TYPE_CUSTOM_CONTAINER
        )
        upload: Any = market.artifact_service.UploadArtifact(metadata=whole.provider.metadata)
        head = artifacts_pb2.ArtifactHeader(
            lease=lease, name="mrklate", size_bytes=2, sha256=sha256(b"mm").digest()
        )
        await upload.write(artifacts_pb2.UploadArtifactRequest(header=head))
        await upload.read()
        await upload.write(artifacts_pb2.UploadArtifactRequest(data=b"m"))
        await market.cancel(job, whole.renter)
        await whole.daemon.expect("cancel_run")
        await whole.daemon.finished(lease, outcome=sessions_pb2.RUN_OUTCOME_CANCELLED)
        await delete(market, whole.renter, forfeit=(await market.wallet(whole.renter))[0])
        assert places_of("mrklate", await whole_database(market)) == []
        await upload.write(artifacts_pb2.UploadArtifactRequest(data=b"m"))
        await upload.done_writing()
        assert await upload.code() is not grpc.StatusCode.OK
        await market.server.services.cleaning.tick()
        await market.server.services.inputs.clean()
        assert stored(tmp_path) == []


def stored(folder: Path) -> list[bytes]:
    """The contents of all files in the store."""
    return [
        path.read_bytes() for path in (folder / "blobs").rglob("*") if path.is_file() and path.name != MARK
    ]


async def test_operators_see_a_deleted_renter_without_a_name(any_market: Market) -> None:
    market = any_market
    async with whole_renter(market) as whole:
        await delete(market, whole.renter, forfeit=BALANCE_HALALA)
    for search in ("mrkname", "mrkmail", "mrkorganization"):
        assert await search_renters(market, search) == []
    (entry,) = await search_renters(market, str(whole.renter.id))
    assert (entry.name, entry.email, entry.organization) == ("deleted renter", "", "")
    assert (entry.deleted, entry.suspended, entry.balance_halala) == (True, False, 0)
    dashboard = await market.admin_service.GetDashboard(
        admin_pb2.GetDashboardRequest(), metadata=market.admin_metadata
    )
    assert "deleted renter" in {account.name for account in dashboard.recent_signups}


async def test_address_can_be_registered_again(any_market: Market) -> None:
    market = any_market
    renter = await register(market, "Free@example.com")
    await delete(market, renter, "fREE@Example.com")
    again = await register(market, "free@EXAMPLE.com")
    assert again.id != renter.id
    await delete(market, again, "free@example.com")
    assert (await state_of(market, renter), await state_of(market, again)) == ("deleted", "deleted")


# --- What prevents it. ---


@pytest.mark.parametrize("email", ["other@example.com", "mrkmail@example.co", "xmrkmail@example.com"])
async def test_deletion_with_a_wrong_address_changes_nothing(market: Market, email: str) -> None:
    async with whole_renter(market) as whole:
        before = await whole_database(market)
        refused = await refusal(delete(market, whole.renter, email, BALANCE_HALALA))
        assert (refused.code, refused.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "WRONG_EMAIL")
        assert refused.facts.field == "email"
        assert await whole_database(market) == before


async def test_deletion_with_open_jobs_changes_nothing_and_counts_them(any_market: Market) -> None:
    market = any_market
    renter = await register(market, "open@example.com")
    await top_up(market, renter, 900)
    jobs = [await market.submit(renter) for _ in range(2)]
    for open_jobs in (2, 1):
        refused = await refusal(delete(market, renter, "open@example.com", 0))
        assert (refused.reason, refused.facts.open_jobs) == ("JOBS_OPEN", open_jobs)
        assert refused.message.startswith(
            f"{open_jobs} jobs of this account have not ended; cancel them or wait"
        )
        await market.cancel(jobs.pop(), renter)
    assert (await state_of(market, renter), await market.wallet(renter)) == ("active", (900, 0))
    await delete(market, renter, "open@example.com", 900)


@pytest.mark.parametrize("forfeit", [None, 0, 41, 43])
async def test_balance_is_forfeited_only_by_its_exact_amount(market: Market, forfeit: int | None) -> None:
    renter = await register(market, "money@example.com")
    await top_up(market, renter, 42)
    refused = await refusal(delete(market, renter, "money@example.com", forfeit))
    assert (refused.reason, refused.facts.balance_halala) == ("BALANCE_LEFT", 42)
    assert (await state_of(market, renter), await market.wallet(renter)) == ("active", (42, 0))


async def test_more_than_the_balance_cannot_be_forfeited(market: Market) -> None:
    renter = await register(market, "empty@example.com")
    assert (await refusal(delete(market, renter, "empty@example.com", 1))).reason == "BALANCE_LEFT"
    assert (await delete(market, renter, "empty@example.com", 0)).forfeited_halala == 0


async def test_suspended_renter_may_delete_its_account(market: Market) -> None:
    renter = await register(market, "suspended@example.com")
    await market.set_renter(renter, state="suspended")
    await delete(market, renter, "suspended@example.com")
    assert await state_of(market, renter) == "deleted"


async def test_sub_key_may_neither_export_nor_delete(market: Market) -> None:
    async with whole_renter(market) as whole:
        call = market.privacy_service.ExportOwnData(
            privacy_pb2.ExportOwnDataRequest(), metadata=whole.sub_key.metadata
        )
        assert (await refusal(call)).reason == "MAIN_KEY_NEEDED"
        assert (
            await refusal(delete(market, whole.sub_key, EMAIL, BALANCE_HALALA))
        ).reason == "MAIN_KEY_NEEDED"


# --- What can be done to the account afterwards. ---


async def test_deleted_account_gets_no_credit_and_no_decision(any_market: Market) -> None:
    market = any_market
    renter = await register(market, "gone@example.com")
    await delete(market, renter, "gone@example.com")
    refused = await refusal(credit(market, renter, 5))
    assert (refused.reason, refused.facts.status) == ("RENTER_DELETED", "deleted")
    for request, method in (
        (accounts_pb2.SuspendRenterRequest(renter_id=renter.id, reason="r"), "SuspendRenter"),
        (accounts_pb2.UnsuspendRenterRequest(renter_id=renter.id), "UnsuspendRenter"),
    ):
        refused = await refusal(
            getattr(market.account_service, method)(request, metadata=market.admin_metadata)
        )
        assert (refused.reason, refused.facts.status) == ("WRONG_STATE", "deleted")
    await market.assert_money_adds_up()
    log = await market.admin_service.ListAuditEntries(
        admin_pb2.ListAuditEntriesRequest(), metadata=market.admin_metadata
    )
    assert list(log.entries) == []


async def test_key_cached_by_another_server_adds_nothing_to_a_deleted_account(any_market: Market) -> None:
    """A replica caches a key for 10 s after its end; use cases that add to an account check its state."""
    market = any_market
    renter = await register(market, "replica@example.com")
    await top_up(market, renter, 900)
    services = market.server.services
    await delete(market, renter, "replica@example.com", 900)
    for use_case in (
        lambda: services.renters.top_up(renter.id, 5),
        lambda: services.jobs.submit(renter.id, JobRequest(JobType.TRAINING, 60_000)),
        lambda: services.key_ring.create(renter.id, "n", frozenset({Scope.READ}), None),
        lambda: services.key_ring.rotate("renter", renter.id, 0),
        lambda: services.webhooks.put(renter.id, "https://renter.example/e", None),
        lambda: services.deletion.delete(renter.id, "replica@example.com", 0),
    ):
        with pytest.raises(DomainError) as caught:
            await use_case()
        assert caught.value.reason is Reason.RENTER_DELETED
    assert (await services.export.page(renter.id, "", 9)).renter.name == "deleted renter"
    await market.assert_money_adds_up()


# --- What happens at the same time. ---


async def outcome(call: Any) -> str:
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return running_server.read_refusal(error).reason
    return "done"


@pytest.mark.parametrize("seed", range(6))
async def test_calls_during_a_deletion_take_effect_before_it_or_not_at_all(
    any_market: Market, seed: int
) -> None:
    market = any_market
    renter = await register(market, "race@example.com")
    await top_up(market, renter, 450)
    key = keys_pb2.CreateKeyRequest(name="n", scopes=[options_pb2.SCOPE_READ])
    webhook = webhooks_pb2.SetWebhookRequest(url="https://renter.example/e")
    rotation = keys_pb2.RotateRenterKeyRequest(grace_seconds=60)
    money: Callable[[], Any] = {
        0: lambda: top_up(market, renter, 7),
        1: lambda: credit(market, renter, 7),
        2: lambda: market.submit(renter),
    }[seed % 3]
    calls: dict[str, Callable[[], Any]] = {
        "delete": lambda: delete(market, renter, "race@example.com", 450),
        "delete again": lambda: delete(market, renter, "race@example.com", 450),
        "money": money,
        "key": lambda: market.key_service.CreateKey(key, metadata=renter.metadata),
        "rotate": lambda: market.key_service.RotateRenterKey(rotation, metadata=renter.metadata),
        "webhook": lambda: market.webhook_service.SetWebhook(webhook, metadata=renter.metadata),
    }
    names = Random(seed).sample(list(calls), len(calls))
    outcomes = dict(
        zip(names, await asyncio.gather(*(outcome(calls[name]()) for name in names)), strict=True)
    )
    refused = {"RENTER_DELETED", "INVALID_CREDENTIAL"}
    deletions = [outcomes.pop("delete"), outcomes.pop("delete again")]
    if "done" in deletions:
        deletions.remove("done")
        assert {*deletions, outcomes.pop("money")} <= refused
        assert await market.sql(lambda: ApiKey.select().count()) == 0
        assert not any("renter.example" in text for text in (await whole_database(market)).values())
    else:
        assert outcomes.pop("money") == "done"
        assert set(deletions) <= {"BALANCE_LEFT", "JOBS_OPEN"}
    assert set(outcomes.values()) <= {"done"} | refused
    await market.assert_money_adds_up()


async def test_event_in_flight_during_the_deletion_is_the_last(any_market: Market) -> None:
    market = any_market
    async with whole_renter(market) as whole:
        whole.receiver.answers = [None]  # the receiver does not answer the first of two events
        sent = len(whole.receiver.received)
        for _ in range(2):
            await market.cancel(await market.submit(whole.renter), whole.renter)
        await market.server.services.deliveries.tick()
        await whole.receiver.until_received(sent + 1)
        await delete(market, whole.renter, forfeit=BALANCE_HALALA)
        whole.receiver.hang_up()
        await market.server.services.deliveries.settled()
        market.clock.advance(3600)
        await market.server.services.deliveries.tick()
        await market.server.services.deliveries.settled()
        assert len(whole.receiver.received) == sent + 1
        assert not any("webhook" in place for place in await whole_database(market))


async def test_deletion_during_a_delivery_stops_the_events_behind_it(
    database: Database, clock: ManualClock
) -> None:
    """Also when the event in flight succeeds: the sender has already read the events behind it."""
    config = Config(
        "", "", None, True, None, "INFO", limits=OFF, webhooks_allow_private=True, canary_percent=0
    )
    services = Services(database, clock, config, body_text)
    renter = await services.registration.renter(
        name="R", email="r@example.com", mailbox="r@example.com", organization="", phone=""
    )
    await services.renters.top_up(renter.id, micros(900))
    await services.webhooks.put(renter.id, "https://renter.example/e", None)
    for _ in range(3):
        job = await services.jobs.submit(renter.id, JobRequest(JobType.TRAINING, 60_000))
        await services.jobs.cancel(Caller("renter", renter.id), job.job_id)
    sent: list[str] = []

    async def post(url: str, headers: Mapping[str, str], body: bytes) -> Answer:
        sent.append(headers["DCP-Event-Id"])
        await services.deletion.delete(renter.id, "r@example.com", 900)
        return Answer(200, None)

    sender = Deliveries(database, clock, body_text, post, LocalBus())
    await sender.tick()
    await sender.settled()
    assert len(sent) == 1


async def test_late_result_of_a_daemon_restores_nothing(any_market: Market) -> None:
    market = any_market
    async with whole_renter(market) as whole:
        await whole.daemon.heartbeat()
        job, lease = await market.running_job(whole.renter, whole.provider, whole.daemon)
        market.clock.advance(400)
        whole.daemon.cut()
        await market.tick()
        await market.later(700)
        with suppress(grpc.aio.AioRpcError):
            await market.cancel(job, whole.renter)
        balance, held = await market.wallet(whole.renter)
        assert held == 0
        await delete(market, whole.renter, forfeit=balance)
        again = market.connect(whole.provider)
        await again.hello(held_leases=[lease])
        directive = await again.expect("lease_directive")
        assert directive.lease.job_id == job.job_id
        await again.finish(lease, seconds=5, failure_message="mrklate", last_output_seq=0)
        await again.expect("result_ack")
        after = await whole_database(market)
        assert places_of("mrklate", after) == []
        await market.assert_money_adds_up()


async def test_forfeit_is_only_in_the_statement_of_the_deleted_renter(market: Market) -> None:
    """The statement of another renter does not show it."""
    renter, other = await register(market, "a@example.com"), await market.renter()
    await top_up(market, renter, 42)
    await delete(market, renter, "a@example.com", 42)
    lines = (await market.server.services.statements.lines(renter.id, None, EVER, 9)).rows
    assert [(line.kind.value, line.amount_micros, line.balance_micros) for line in lines] == [
        ("forfeit", micros(-42), 0),
        ("topup", micros(42), micros(42)),
    ]
    request = statements_pb2.ListOwnLedgerRequest()
    others_statement = await market.statement_service.ListOwnLedger(request, metadata=other.metadata)
    assert [line.amount_halala for line in others_statement.lines] == [5000]

"""The export of a renter's own data: it is complete, and its pages are small."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
from dcp.v1 import jobs_pb2
from dcp.v1 import privacy_pb2 as pb
from google.protobuf.json_format import MessageToDict

from server.services.privacy.export import PAGE_SIZE
from server.store.models import MODELS, Batch, BatchLine, Chunk, Dispute, Job, Lease, Renter, Webhook
from tests.support.running_server import MODEL, Market, Party, refusal
from tests.support.whole_renter import (
    FILE,
    FILE_NAME,
    IMAGE_DIGEST,
    LOG,
    LOST_OUTPUT,
    OUTPUT,
    Whole,
    export,
    whole_renter,
)

pytestmark = pytest.mark.in_turns

LISTS = ("keys", "deliveries", "jobs", "attempts", "ledger", "disputes")

# The field of the export that shows each column of the tables with renters' rows.
EXPORTED = {
    "renter.id": "renter.id",
    "renter.name": "renter.name",
    "renter.email": "renter.email",
    "renter.email_verified_ms": "renter.email_verified_at",
    "renter.organization": "renter.organization",
    "renter.phone": "renter.phone",
    "renter.created_ms": "renter.created_at",
    "api_key.id": "keys.id",
    "api_key.name": "keys.name",
    "api_key.scopes": "keys.scopes",
    "api_key.last4": "keys.last4",
    "api_key.created_ms": "keys.created_at",
    "api_key.expires_ms": "keys.expires_at",
    "api_key.last_used_ms": "keys.last_used_at",
    "api_key.revoked_ms": "keys.revoked_at",
    "api_key.day_budget_micros": "keys.budget_halala_per_day",
    "api_key.month_budget_micros": "keys.budget_halala_per_month",
    "api_key.total_budget_micros": "keys.budget_halala_total",
    "api_key.allowed_models": "keys.allowed_models",
    "api_key.allowed_providers": "keys.allowed_providers",
    "account.balance_micros": "renter.balance_halala",
    "transfer.id": "ledger.id",
    "transfer.kind": "ledger.kind",
    "transfer.amount_micros": "ledger.amount_halala",
    "transfer.job_id": "ledger.job_id",
    "transfer.created_ms": "ledger.time",
    "hold.job_id": "jobs.job.job_id",
    "hold.renter_id": "jobs.job.renter_id",
    "hold.amount_micros": "jobs.job.cost_halala",
    "hold.charge_micros": "ledger.charged_halala",
    "job.job_id": "jobs.job.job_id",
    "job.renter_id": "jobs.job.renter_id",
    "job.job_type": "jobs.job.job_type",
    "job.state": "jobs.job.status",
    "job.named_provider_id": "jobs.named_provider_id",
    "job.provider_id": "jobs.job.provider_id",
    "job.model": "jobs.job.model",
    "job.gpu_model": "jobs.gpu_requirements.gpu_model",
    "job.min_vram_mib": "jobs.gpu_requirements.min_vram_gb",
    "job.duration_ms": "jobs.job.duration_minutes",
    "job.limit_ms": "jobs.limit_seconds",
    "job.priority": "jobs.job.priority",
    "job.hold_micros": "jobs.job.cost_halala",
    "job.rate_halala_per_minute": "jobs.job.rate_halala_per_minute",
    "job.spec": "jobs.params.prompt",
    "job.attempt": "jobs.job.attempt",
    "job.start_within_ms": "jobs.start_within_seconds",
    "job.lost_after_ms": "jobs.job.lost_after_seconds",
    "job.created_ms": "jobs.job.created_at",
    "job.started_ms": "jobs.job.started_at",
    "job.ended_ms": "jobs.job.ended_at",
    "job.cancel_requested_ms": "jobs.cancel_requested_at",
    "job.output_bytes": "jobs.job.output_bytes",
    "job.output_truncated": "jobs.output_truncated",
    "job.content_type": "jobs.content_type",
    "job.billed_ms": "jobs.job.billing.billed_seconds",
    "job.payout_micros": "jobs.job.billing.provider_halala",
    "job.charge_micros": "jobs.job.billing.actual_cost_halala",
    "job.failure_reason": "jobs.job.failure_reason",
    "job.failure_message": "jobs.job.failure_message",
    "job.price": "jobs.job.price.sar_per_hour",
    "job.usage": "jobs.job.usage.completion_tokens",
    "job.artifact_count": "jobs.job.artifact_count",
    "job.artifact_bytes": "jobs.job.artifact_bytes",
    "job.texts_removed_ms": "jobs.job.texts_removed_at",
    "job.idempotency_key": "jobs.idempotency_key",
    "job.key_id": "jobs.job.key_id",
    "lease.job_id": "attempts.job_id",
    "lease.lease_epoch": "attempts.attempt.lease_epoch",
    "lease.provider_id": "attempts.attempt.provider_id",
    "lease.attempt": "attempts.attempt.attempt",
    "lease.offered_ms": "attempts.attempt.offered_at",
    "lease.accepted_ms": "attempts.attempt.accepted_at",
    "lease.started_ms": "attempts.attempt.started_at",
    "lease.first_output_ms": "attempts.attempt.first_output_at",
    "lease.ended_ms": "attempts.attempt.ended_at",
    "lease.outcome": "attempts.attempt.outcome",
    "lease.failure_reason": "attempts.failure_reason",
    "lease.detail": "attempts.attempt.detail",
    "lease.run_ms": "attempts.attempt.run_seconds",
    "lease.image_digest": "attempts.attempt.image_digest",
    "chunk.job_id": "attempts.job_id",
    "chunk.lease_epoch": "attempts.attempt.lease_epoch",
    "chunk.data": "attempts.output",
    "artifact.job_id": "attempts.job_id",
    "artifact.lease_epoch": "attempts.attempt.lease_epoch",
    "artifact.name": "attempts.artifacts.name",
    "artifact.size_bytes": "attempts.artifacts.size_bytes",
    "artifact.sha256": "attempts.artifacts.sha256",
    "artifact.created_ms": "attempts.artifacts.created_at",
    "input.input_id": "inputs.input.input_id",
    "input.purpose": "inputs.purpose",
    "input.name": "inputs.input.name",
    "input.size_bytes": "inputs.input.size_bytes",
    "input.received_bytes": "inputs.input.received_bytes",
    "input.sha256": "inputs.input.sha256",
    "input.url": "inputs.input.url",
    "input.problem": "inputs.input.problem",
    "input.state": "inputs.input.status",
    "input.created_ms": "inputs.input.created_at",
    "dispute.id": "disputes.id",
    "dispute.job_id": "disputes.job_id",
    "dispute.provider_id": "disputes.provider_id",
    "dispute.state": "disputes.status",
    "dispute.reason": "disputes.reason",
    "dispute.charge_micros": "disputes.charged_halala",
    "dispute.held_micros": "disputes.held_halala",
    "dispute.created_ms": "disputes.created_at",
    "dispute.refund_micros": "disputes.refund_halala",
    "dispute.note": "disputes.note",
    "dispute.decided_ms": "disputes.decided_at",
    "webhook.url": "webhook.url",
    "webhook.balance_low_halala": "webhook.balance_low_halala",
    "webhook.created_ms": "webhook.created_at",
    "webhook_delivery.id": "deliveries.delivery.id",
    "webhook_delivery.event_id": "deliveries.delivery.event_id",
    "webhook_delivery.event": "deliveries.delivery.event",
    "webhook_delivery.body": "deliveries.body",
    "webhook_delivery.status": "deliveries.delivery.status",
    "webhook_delivery.created_ms": "deliveries.delivery.created_at",
    "webhook_delivery.attempts": "deliveries.delivery.attempts",
    "webhook_delivery.last_ms": "deliveries.delivery.last_attempt_at",
    "webhook_delivery.status_code": "deliveries.delivery.status_code",
    "webhook_delivery.error": "deliveries.delivery.error",
}
# Columns that are not exported, and why.
_CODE = "recognizes a mailed secret; goes 30 days after its end"
_BUDGET = "sums of the jobs that the export lists, by their keys"
PIECE = ("id", "owner_id", "first_byte", "size_bytes", "blob_key", "stored_ms")
_LETTER = "a mail that the renter got; goes after two days"
NOT_EXPORTED = {
    "renter.input_bytes": "the size of the inputs that the export lists",
    **{
        f"{model._meta.table_name}.{column.name}": "stands in `batches` of the export, as its routes show it"
        for model in (Batch,)
        for column in model._meta.sorted_fields
    },
    **{
        f"batch_line.{column.name}": "stands in the file that the renter sent, and in the jobs of its lines"
        for column in BatchLine._meta.sorted_fields
    },
    "input.id": "internal number",
    "input.renter_id": "the renter's id",
    "input.used_ms": "the last use, which delays the deletion",
    **dict.fromkeys(
        (f"input_piece.{name}" for name in PIECE), "where the bytes of an input lie, which the renter sent"
    ),
    "job.keeps_files": "whether its cancel waited for its files, which the export lists",
    "job_input.job_id": "stands in the job's request",
    "job_input.input_id": "stands in the job's request",
    "job.logprobs": "kept only of the market's own jobs",
    "job.trace": "drawn by lot, or of the renter's own choice; the operator's collector has what it names",
    "renter.storage_day": "the last day that was paid for; the statement has each",
    "token_remainder.renter_id": "see token_remainder.parts",
    "token_remainder.parts": "less than a millionth of a halala",
    "renter.network": "a digest of where the account was registered, which nobody can read",
    "email_code.id": _CODE,
    "email_code.role": _CODE,
    "email_code.owner_id": _CODE,
    "email_code.purpose": _CODE,
    "email_code.mailbox": _CODE,
    "email_code.sha256": _CODE,
    "email_code.created_ms": _CODE,
    "email_code.expires_ms": _CODE,
    "email_code.guesses": _CODE,
    "email_code.ready_ms": _CODE,
    "email_code.ended_ms": _CODE,
    "budget_use.key_id": _BUDGET,
    "budget_use.period": _BUDGET,
    "budget_use.start_day": _BUDGET,
    "budget_use.used_micros": _BUDGET,
    "budget_use.is_reported": _BUDGET,
    "letter.id": _LETTER,
    "letter.role": _LETTER,
    "letter.owner_id": _LETTER,
    "letter.kind": _LETTER,
    "letter.recipient": _LETTER,
    "letter.mailbox": _LETTER,
    "letter.email_code_id": _LETTER,
    "letter.facts": _LETTER,
    "letter.status": _LETTER,
    "letter.created_ms": _LETTER,
    "letter.attempts": _LETTER,
    "letter.next_ms": _LETTER,
    "letter.error": _LETTER,
    "letter.log_in_code_id": _LETTER,
    "log_in_code.id": _CODE,
    "log_in_code.role": _CODE,
    "log_in_code.owner_id": _CODE,
    "log_in_code.browser_sha256": _CODE,
    "log_in_code.sha256": _CODE,
    "log_in_code.created_ms": _CODE,
    "log_in_code.expires_ms": _CODE,
    "log_in_code.guesses": _CODE,
    "log_in_code.ended_ms": _CODE,
    "renter.mailbox": "derived from the address",
    "renter.state": "exported as suspended",
    "renter.erase_from_ms": "only for deleted renters",
    "renter.request_bytes": "the size of the requests that the export lists",
    "renter.is_market": "marks the market's own accounts, which are not people",
    "api_key.role": "a renter's",
    "api_key.is_log_in": "marks a browser's log-in, which ends within seven days and is no key",
    "api_key.owner_id": "the renter's id",
    "api_key.sha256": "recognizes a secret",
    "account.id": "internal number",
    "account.kind": "wallet or hold",
    "account.owner_id": "the renter's id",
    "transfer.debit_account_id": "the sign of the amount",
    "transfer.credit_account_id": "the sign of the amount",
    "transfer.withdrawal_id": "only for providers",
    "hold.job_type": "the job's",
    "transfer.job_type": "only of payouts, which are a provider's",
    "hold.state": "derived from the job's state",
    "hold.created_ms": "equal to the job's",
    "hold.resolved_ms": "the job's end",
    "job.lease_epoch": "the last attempt's",
    "job.start_by_ms": "derived from two other columns",
    "job.request_digest": "derived from the request",
    "job.image": "derived from the request",
    "job.architecture": "derived from the request",
    "job.unasked": "derived from the request, or drawn by lot",
    "lease.session_epoch": "the provider's session",
    "lease.secret_sha256": "recognizes a secret",
    "lease.state": "derived from its times",
    "lease.output_through_seq": "transport of the output",
    "lease.log_through_seq": "transport of the log",
    "lease.output_limit_bytes": "a setting",
    "chunk.stream": "output or log: the field's name",
    "chunk.seq": "the order in which they are joined",
    "artifact.id": "internal number",
    "artifact.blob_key": "place of the bytes in the store",
    "artifact.state": "only kept files are listed",
    "artifact.published_ms": "the job's end",
    "day_sum.what": "sums of the jobs and holds that the export lists",
    "day_sum.owner_id": "the renter's id",
    "day_sum.day": "sums of the jobs and holds that the export lists",
    "day_sum.part": "sums of the jobs and holds that the export lists",
    "day_sum.number": "sums of the jobs and holds that the export lists",
    "day_sum.micros": "sums of the jobs and holds that the export lists",
    "dispute.renter_id": "the renter's id",
    "dispute.payout_micros": "the provider's share of the charge",
    "dispute.payout_id": "internal number",
    "dispute.maturing_micros": "which account of the provider the payout was in",
    "webhook.renter_id": "the renter's id",
    "webhook.secret": "a secret",
    "lease.number": "derived from job and epoch, to name the attempt in its provider's history",
    "webhook.balance_is_low": "derived from balance and threshold",
    "webhook.due_ms": "state of the sender",
    "webhook.claimed_until_ms": "state of the sender",
    "webhook_delivery.renter_id": "the renter's id",
    "webhook_delivery.next_ms": "state of the sender",
    "webhook.previous_secrets": "secrets",
    "webhook.failures": "how the address answered last",
    "webhook.failed_id": "how the address answered last",
    "webhook.paused_until_ms": "when the sender looks again",
    "webhook_delivery.facts": "what the body is written from",
    "repeat.owner": "the renter's id",
    "repeat.key": "kept for a day with the answer that was given",
    "repeat.digest": "derived from the request",
    "repeat.answer": "the answer that was given",
    "repeat.created_ms": "kept for a day with the answer that was given",
}
TABLES_WITHOUT_RENTERS = {
    *("job_tally", "matured_payouts"),
    *("provider", "provider_gpu", "provider_model", "provider_terms", "gpu_metrics", "withdrawal"),
    *("provider_standing", "provider_customer", "customers_read", "gpu_proof"),
    *("audit_entry", "price", "checkpoint", "checkpoint_sum", "checkpoint_hold", "discard", "canary"),
    *("server", "blob_folder", "incident"),
    *("operator", "operator_invitation", "operator_key", "passkey", "passkey_challenge"),
}


def values_at(message: dict[str, Any], path: str) -> list[Any]:
    """All values at a path, through every list."""
    values: list[Any] = [message]
    for name in path.split("."):
        values = [value[name] for value in values if name in value]
        values = [item for value in values for item in (value if isinstance(value, list) else [value])]
    return values


def as_dict(page: pb.ExportOwnDataResponse) -> dict[str, Any]:
    return dict(MessageToDict(page, preserving_proto_field_name=True))


def test_every_column_of_a_renter_is_exported_or_excluded_with_a_reason() -> None:
    """Whoever adds a column decides here whether the export shows it."""
    columns = {
        f"{model._meta.table_name}.{column.name}"
        for model in MODELS
        if model._meta.table_name not in TABLES_WITHOUT_RENTERS
        for column in model._meta.sorted_fields
    }
    assert columns == EXPORTED.keys() | NOT_EXPORTED.keys()
    assert EXPORTED.keys() & NOT_EXPORTED.keys() == set()


async def test_every_exported_column_has_a_value_in_the_export(any_market: Market) -> None:
    market = any_market
    async with whole_renter(market) as whole:

        def fill() -> None:
            """Sets the columns that no use case of this test sets."""
            Job.update(cancel_requested_ms=5, output_truncated=True).where(
                Job.job_id == whole.completed.job_id
            ).execute()
            Job.update(texts_removed_ms=5).where(Job.job_id == whole.failed.job_id).execute()
            Dispute.update(state="upheld", refund_micros=1_000_000).execute()
            Renter.update(email_verified_ms=5).execute()

        await market.sql(fill)
        whole.receiver.answers = [500]
        await market.cancel(await market.submit(whole.renter), whole.renter)
        await market.server.services.deliveries.tick()
        await market.server.services.deliveries.settled()
        await market.server.services.keys.write_uses(now=True)
        await revoke_expiring_key(market, whole)
        (page,) = await export(market, whole.renter)
    exported = as_dict(page)
    assert [column for column, path in EXPORTED.items() if not values_at(exported, path)] == []
    by_lease = {entry.job_id + str(entry.attempt.lease_epoch): entry for entry in page.attempts}
    first, second = (by_lease[f"{whole.completed.job_id}{epoch}"] for epoch in (1, 2))
    assert (first.output, second.output) == (LOST_OUTPUT, OUTPUT)
    assert (first.attempt.image_digest, second.attempt.image_digest) == ("", IMAGE_DIGEST)
    assert list(first.artifacts) == []  # files of an attempt that did not end the job are not kept
    (file,) = second.artifacts
    assert (file.name, file.size_bytes) == (FILE_NAME, len(FILE))
    assert file.sha256 == hashlib.sha256(FILE).hexdigest()
    assert (second.log, second.log_data) == ("", LOG.encode() + b"\xff")  # not UTF-8: exported as bytes
    (job,) = [entry for entry in page.jobs if entry.job.job_id == whole.completed.job_id]
    assert (job.params.max_tokens, job.container_spec.env["NAME"]) == (7, "mrkenv")
    assert sum(line.amount_halala for line in page.ledger) == page.renter.balance_halala


async def revoke_expiring_key(market: Market, whole: Whole) -> None:
    from dcp.v1 import keys_pb2, options_pb2

    request = keys_pb2.CreateKeyRequest(name="n", scopes=[options_pb2.SCOPE_READ], expires_in_seconds=90)
    created = await market.key_service.CreateKey(request, metadata=whole.renter.metadata)
    revoke = keys_pb2.RevokeKeyRequest(key_id=created.key.id)
    await market.key_service.RevokeKey(revoke, metadata=whole.renter.metadata)


async def test_no_secret_is_exported(market: Market) -> None:
    async with whole_renter(market) as whole:
        secret = await market.sql(lambda: str(Webhook.get_by_id(whole.renter.id).secret))
        text = str([as_dict(page) for page in await export(market, whole.renter)])
        assert whole.renter.key[:-4] not in text
        assert secret not in text


@pytest.mark.parametrize("rows", [1, 2, 3, 5])
async def test_pages_have_no_gap_and_no_duplicate(any_market: Market, rows: int) -> None:
    market = any_market
    async with whole_renter(market) as whole:
        await export(market, whole.renter)
        # Later uses do not change the times of use: the clock stands still.
        await market.server.services.keys.write_uses(now=True)
        (whole_page,) = await export(market, whole.renter)
        pages = await export(market, whole.renter, page_size=rows)
        assert all(sum(len(getattr(page, name)) for name in LISTS) <= rows for page in pages)
        assert all(page.renter == whole_page.renter and page.webhook == whole_page.webhook for page in pages)
        for name in LISTS:
            joined = [entry for page in pages for entry in getattr(page, name)]
            assert joined == list(getattr(whole_page, name)) != []


async def renter_with_many_bytes(market: Market) -> Party:
    """A renter whose prompts and outputs are many pages long."""
    renter, provider = await market.renter(9000), await market.provider()
    daemon = await market.daemon(provider)
    for _ in range(3):
        prompt = "ب" * 900_000
        job, lease = await market.running_job(
            renter, provider, daemon, params=jobs_pb2.JobParams(model=MODEL, prompt=prompt)
        )
        await daemon.finished(lease)

        def write(job_id: str = job.job_id) -> None:
            """Writes an output of three pages, more than a daemon may send."""
            Lease.update(output_through_seq=3).where(Lease.job_id == job_id).execute()
            for seq in range(3):
                row = {"job_id": job_id, "lease_epoch": 1, "stream": "output"}
                Chunk.insert(seq=seq + 1, data=b"o" * (PAGE_SIZE // 2), **row).execute()

        await market.sql(write)
    return renter


async def test_long_prompts_and_outputs_are_spread_over_pages(any_market: Market) -> None:
    market = any_market
    renter = await renter_with_many_bytes(market)
    pages = await export(market, renter)
    assert [(len(page.jobs), len(page.attempts)) for page in pages if page.jobs or page.attempts] == [
        (2, 0),
        (1, 0),
        (0, 1),
        (0, 1),
        (0, 1),
    ]
    assert len({entry.job.job_id for page in pages for entry in page.jobs}) == 3
    assert {len(entry.output) for page in pages for entry in page.attempts} == {PAGE_SIZE * 3 // 2}


@pytest.mark.parametrize(
    "page",
    [
        *("x", "jobs", "jobs:job-of-nobody", "keys:one", "keys:-1", "keys:\u0663", "attempts:job-1:x"),
        *("attempts:1", f"ledger:{9 * 10**20}", "nothing:1"),
    ],
)
async def test_page_that_no_export_named_is_refused(market: Market, page: str) -> None:
    renter = await market.renter()
    request = pb.ExportOwnDataRequest(page=page)
    if page == "jobs":  # a section without a position begins at its first row
        await market.privacy_service.ExportOwnData(request, metadata=renter.metadata)
        return
    refused = await refusal(market.privacy_service.ExportOwnData(request, metadata=renter.metadata))
    assert (refused.reason, refused.facts.field) == ("PAGE_NOT_FOUND", "page")


async def test_rows_of_another_renter_are_on_no_page(any_market: Market) -> None:
    market = any_market
    async with whole_renter(market) as whole:
        stranger = await market.renter()
        (page,) = await export(market, stranger)
        assert [len(getattr(page, name)) for name in LISTS] == [1, 0, 0, 0, 1, 0]
        assert not page.HasField("webhook")
        for place in (f"jobs:{whole.completed.job_id}", f"attempts:{whole.completed.job_id}:1"):
            request = pb.ExportOwnDataRequest(page=place)
            call = market.privacy_service.ExportOwnData(request, metadata=stranger.metadata)
            assert (await refusal(call)).facts.field == "page"
        for place in ("keys:999", "deliveries:999", "ledger:999"):
            request = pb.ExportOwnDataRequest(page=place)
            page = await market.privacy_service.ExportOwnData(request, metadata=stranger.metadata)
            assert "mrk" not in str(as_dict(page)).casefold()


async def test_account_is_exported_while_its_jobs_run(market: Market) -> None:
    renter, provider = await market.renter(), await market.provider()
    daemon = await market.daemon(provider)
    _, lease = await market.running_job(renter, provider, daemon)
    await daemon.output(lease, 1, b"so far")
    (page,) = await export(market, renter)
    assert page.attempts[0].output == "so far"
    assert (page.renter.balance_halala, page.renter.held_halala) == (4550, 450)


@pytest.mark.parametrize("state", ["active", "suspended"])
async def test_suspended_renter_may_export_its_data(market: Market, state: str) -> None:
    renter = await market.renter()
    await market.sql(lambda: Renter.update(state=state).where(Renter.id == renter.id).execute())
    (page,) = await export(market, renter)
    assert page.renter.suspended is (state == "suspended")

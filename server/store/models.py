"""The tables as peewee models. The numbered migrations create the schema; a test compares the two.

Times are milliseconds since 1970, money is micros (server.domain.money); both are 64-bit integers.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import peewee as pw


class Table(pw.Model):
    """The base class of all tables; MODELS lists its subclasses."""


class Provider(Table):
    id = pw.BigAutoField()
    name = pw.TextField()
    email = pw.TextField()
    mailbox = pw.TextField(null=True)
    gpu_model = pw.TextField(default="")
    gpu_vram_mib = pw.BigIntegerField(default=0)
    os = pw.TextField(default="")
    phone = pw.TextField(default="")
    state = pw.TextField(default="active")
    session_epoch = pw.BigIntegerField(default=0)
    connected = pw.BooleanField(default=False)
    draining = pw.BooleanField(default=False)
    models_reported = pw.BooleanField(default=False)
    job_types = pw.TextField(default="")
    last_heartbeat_ms = pw.BigIntegerField(null=True)
    renewed_ms = pw.BigIntegerField(null=True)
    gpu_status = pw.TextField(default="{}")
    created_ms = pw.BigIntegerField()
    claimed_gpu = pw.TextField(default="")
    verdict = pw.TextField(default="unverified")
    verdict_reasons = pw.TextField(default="NO_GPU_MEASURED")
    verdict_ms = pw.BigIntegerField(null=True)
    gpus_changed_ms = pw.BigIntegerField(null=True)
    self_tests = pw.TextField(default="[]")
    architecture = pw.TextField(default="")
    image_patterns = pw.TextField(null=True)
    network = pw.TextField(null=True)
    email_verified_ms = pw.BigIntegerField(null=True)
    server_id = pw.BigIntegerField(null=True)
    boot_id = pw.TextField(default="")
    slots = pw.BigIntegerField(default=0)
    runs_plain_processes = pw.BooleanField(default=False)
    capacity_no = pw.BigIntegerField(default=0)

    class Meta:
        table_name = "provider"


class BlobFolder(Table):
    id = pw.BigIntegerField(primary_key=True)
    mark = pw.TextField()

    class Meta:
        table_name = "blob_folder"


class Server(Table):
    id = pw.BigAutoField()
    name = pw.TextField()
    version = pw.TextField()
    started_ms = pw.BigIntegerField()
    heartbeat_ms = pw.BigIntegerField()

    class Meta:
        table_name = "server"


class ProviderTerms(Table):
    provider_id = pw.BigIntegerField(primary_key=True)
    rates = pw.TextField()
    prices = pw.TextField()
    hours = pw.TextField()
    timezone = pw.TextField()
    max_temp_c = pw.IntegerField(null=True)
    vram_reserve_mib = pw.BigIntegerField()
    changed_ms = pw.BigIntegerField()

    class Meta:
        table_name = "provider_terms"


class ProviderGpu(Table):
    provider_id = pw.BigIntegerField()
    uuid = pw.TextField()

    class Meta:
        table_name = "provider_gpu"
        primary_key = pw.CompositeKey("provider_id", "uuid")


class ProviderModel(Table):
    provider_id = pw.BigIntegerField()
    name = pw.TextField()
    context_tokens = pw.IntegerField(default=0)
    warm = pw.BooleanField(default=False)
    job_types = pw.TextField(default="llm-inference")

    class Meta:
        table_name = "provider_model"
        primary_key = pw.CompositeKey("provider_id", "name")


class Renter(Table):
    id = pw.BigAutoField()
    name = pw.TextField()
    email = pw.TextField()
    mailbox = pw.TextField(null=True)
    organization = pw.TextField(default="")
    phone = pw.TextField(default="")
    state = pw.TextField(default="active")
    created_ms = pw.BigIntegerField()
    erase_from_ms = pw.BigIntegerField(null=True)
    request_bytes = pw.BigIntegerField(default=0)
    input_bytes = pw.BigIntegerField(default=0)
    storage_day = pw.BigIntegerField(default=0)
    network = pw.TextField(null=True)
    is_market = pw.BooleanField(default=False)
    email_verified_ms = pw.BigIntegerField(null=True)

    class Meta:
        table_name = "renter"


class ApiKey(Table):
    id = pw.BigAutoField()
    role = pw.TextField()
    owner_id = pw.BigIntegerField()
    sha256 = pw.BlobField()
    last4 = pw.TextField()
    name = pw.TextField(default="")
    scopes = pw.TextField(null=True)
    created_ms = pw.BigIntegerField()
    expires_ms = pw.BigIntegerField(null=True)
    last_used_ms = pw.BigIntegerField(null=True)
    revoked_ms = pw.BigIntegerField(null=True)
    day_budget_micros = pw.BigIntegerField(null=True)
    month_budget_micros = pw.BigIntegerField(null=True)
    total_budget_micros = pw.BigIntegerField(null=True)
    allowed_models = pw.TextField(default="[]")
    allowed_providers = pw.TextField(default="[]")
    is_log_in = pw.BooleanField(default=False)

    class Meta:
        table_name = "api_key"


class BudgetUse(Table):
    key_id = pw.BigIntegerField()
    period = pw.TextField()
    start_day = pw.BigIntegerField()
    used_micros = pw.BigIntegerField()
    is_reported = pw.BooleanField(default=False)

    class Meta:
        table_name = "budget_use"
        primary_key = pw.CompositeKey("key_id", "period", "start_day")


class Account(Table):
    id = pw.BigAutoField()
    kind = pw.TextField()
    owner_id = pw.BigIntegerField(default=0)
    balance_micros = pw.BigIntegerField(default=0)

    class Meta:
        table_name = "account"


class Transfer(Table):
    id = pw.BigAutoField()
    kind = pw.TextField()
    debit_account_id = pw.BigIntegerField()
    credit_account_id = pw.BigIntegerField()
    amount_micros = pw.BigIntegerField()
    job_id = pw.TextField(null=True)
    withdrawal_id = pw.BigIntegerField(null=True)
    created_ms = pw.BigIntegerField()
    job_type = pw.TextField(null=True)

    class Meta:
        table_name = "transfer"


class Checkpoint(Table):
    id = pw.BigIntegerField(primary_key=True)
    transfer_id = pw.BigIntegerField()
    transfers = pw.BigIntegerField()
    rows_sha256 = pw.BlobField()
    sha256 = pw.BlobField()
    created_ms = pw.BigIntegerField()

    class Meta:
        table_name = "checkpoint"


class CheckpointSum(Table):
    account_id = pw.BigIntegerField()
    checkpoint_id = pw.BigIntegerField()
    sum_micros = pw.BigIntegerField()

    class Meta:
        table_name = "checkpoint_sum"
        primary_key = pw.CompositeKey("account_id", "checkpoint_id")


class CheckpointHold(Table):
    checkpoint_id = pw.BigIntegerField()
    job_id = pw.TextField()
    amount_micros = pw.BigIntegerField()

    class Meta:
        table_name = "checkpoint_hold"
        primary_key = pw.CompositeKey("checkpoint_id", "job_id")


class Hold(Table):
    job_id = pw.TextField(primary_key=True)
    renter_id = pw.BigIntegerField()
    amount_micros = pw.BigIntegerField()
    state = pw.TextField(default="open")
    charge_micros = pw.BigIntegerField(null=True)
    created_ms = pw.BigIntegerField()
    resolved_ms = pw.BigIntegerField(null=True)
    job_type = pw.TextField()

    class Meta:
        table_name = "hold"


class Job(Table):
    job_id = pw.TextField(primary_key=True)
    renter_id = pw.BigIntegerField()
    job_type = pw.TextField()
    state = pw.TextField()
    named_provider_id = pw.BigIntegerField(null=True)
    provider_id = pw.BigIntegerField(null=True)
    model = pw.TextField(null=True)
    gpu_model = pw.TextField(null=True)
    min_vram_mib = pw.BigIntegerField(null=True)
    duration_ms = pw.BigIntegerField()
    limit_ms = pw.BigIntegerField()
    priority = pw.IntegerField()
    hold_micros = pw.BigIntegerField()
    rate_halala_per_minute = pw.BigIntegerField()
    spec = pw.TextField()
    lease_epoch = pw.IntegerField(default=0)
    attempt = pw.IntegerField(default=0)
    start_within_ms = pw.BigIntegerField()
    start_by_ms = pw.BigIntegerField()
    lost_after_ms = pw.BigIntegerField()
    created_ms = pw.BigIntegerField()
    started_ms = pw.BigIntegerField(null=True)
    ended_ms = pw.BigIntegerField(null=True)
    cancel_requested_ms = pw.BigIntegerField(null=True)
    keeps_files = pw.BooleanField(default=False)
    output_bytes = pw.BigIntegerField(default=0)
    output_truncated = pw.BooleanField(default=False)
    content_type = pw.TextField(default="")
    billed_ms = pw.BigIntegerField(null=True)
    charge_micros = pw.BigIntegerField(null=True)
    payout_micros = pw.BigIntegerField(null=True)
    failure_reason = pw.TextField(null=True)
    failure_message = pw.TextField(null=True)
    usage = pw.TextField(null=True)
    logprobs = pw.TextField(null=True)
    price = pw.TextField(null=True)
    idempotency_key = pw.TextField(null=True)
    request_digest = pw.TextField(default="")
    artifact_count = pw.IntegerField(default=0)
    artifact_bytes = pw.BigIntegerField(default=0)
    texts_removed_ms = pw.BigIntegerField(null=True)
    image = pw.TextField(null=True)
    architecture = pw.TextField(null=True)
    unasked = pw.TextField(null=True)
    key_id = pw.BigIntegerField(null=True)
    trace = pw.TextField(default="")

    class Meta:
        table_name = "job"


class JobTally(Table):
    day = pw.BigIntegerField()
    state = pw.TextField()
    jobs = pw.BigIntegerField()

    class Meta:
        table_name = "job_tally"
        primary_key = pw.CompositeKey("day", "state")


class DaySum(Table):
    what = pw.TextField()
    owner_id = pw.BigIntegerField()
    day = pw.BigIntegerField()
    part = pw.TextField()
    number = pw.BigIntegerField()
    micros = pw.BigIntegerField()

    class Meta:
        table_name = "day_sum"
        primary_key = pw.CompositeKey("what", "owner_id", "day", "part")


class Lease(Table):
    job_id = pw.TextField()
    lease_epoch = pw.IntegerField()
    provider_id = pw.BigIntegerField()
    session_epoch = pw.BigIntegerField()
    secret_sha256 = pw.BlobField()
    state = pw.TextField()
    attempt = pw.IntegerField(default=0)
    offered_ms = pw.BigIntegerField()
    accepted_ms = pw.BigIntegerField(null=True)
    started_ms = pw.BigIntegerField(null=True)
    ended_ms = pw.BigIntegerField(null=True)
    outcome = pw.TextField(null=True)
    failure_reason = pw.TextField(null=True)
    detail = pw.TextField(default="")
    run_ms = pw.BigIntegerField(null=True)
    image_digest = pw.TextField(default="")
    output_through_seq = pw.BigIntegerField(default=0)
    log_through_seq = pw.BigIntegerField(default=0)
    output_limit_bytes = pw.BigIntegerField()
    number = pw.BigIntegerField(default=0)
    first_output_ms = pw.BigIntegerField(null=True)

    class Meta:
        table_name = "lease"
        primary_key = pw.CompositeKey("job_id", "lease_epoch")


class Chunk(Table):
    job_id = pw.TextField()
    lease_epoch = pw.IntegerField()
    stream = pw.TextField()
    seq = pw.BigIntegerField()
    data = pw.BlobField()

    class Meta:
        table_name = "chunk"
        primary_key = pw.CompositeKey("job_id", "lease_epoch", "stream", "seq")


class Withdrawal(Table):
    id = pw.BigAutoField()
    provider_id = pw.BigIntegerField()
    amount_micros = pw.BigIntegerField()
    state = pw.TextField()
    iban = pw.TextField()
    iban_last4 = pw.TextField()
    created_ms = pw.BigIntegerField()
    updated_ms = pw.BigIntegerField(null=True)
    reference = pw.TextField(null=True)
    reason = pw.TextField(null=True)

    class Meta:
        table_name = "withdrawal"


class AuditEntry(Table):
    id = pw.BigAutoField()
    at_ms = pw.BigIntegerField()
    actor = pw.TextField()
    action = pw.TextField()
    object = pw.TextField()
    object_id = pw.TextField()
    before = pw.TextField()
    after = pw.TextField()
    request_id = pw.TextField()

    class Meta:
        table_name = "audit_entry"


class Webhook(Table):
    renter_id = pw.BigIntegerField(primary_key=True)
    url = pw.TextField()
    secret = pw.TextField()
    balance_low_halala = pw.BigIntegerField(null=True)
    balance_is_low = pw.BooleanField(default=False)
    due_ms = pw.BigIntegerField(null=True)
    claimed_until_ms = pw.BigIntegerField(default=0)
    created_ms = pw.BigIntegerField()
    previous_secrets = pw.TextField(default="[]")
    failures = pw.IntegerField(default=0)
    failed_id = pw.BigIntegerField(null=True)
    paused_until_ms = pw.BigIntegerField(default=0)

    class Meta:
        table_name = "webhook"


class WebhookDelivery(Table):
    id = pw.BigAutoField()
    renter_id = pw.BigIntegerField()
    event_id = pw.TextField()
    event = pw.TextField()
    body = pw.TextField()
    status = pw.TextField(default="waiting")
    created_ms = pw.BigIntegerField()
    attempts = pw.IntegerField(default=0)
    next_ms = pw.BigIntegerField()
    last_ms = pw.BigIntegerField(null=True)
    status_code = pw.IntegerField(null=True)
    error = pw.TextField(null=True)
    facts = pw.TextField(default="{}")

    class Meta:
        table_name = "webhook_delivery"


class Incident(Table):
    id = pw.BigAutoField()
    condition = pw.TextField()
    bad_since_ms = pw.BigIntegerField()
    read_ms = pw.BigIntegerField()
    facts = pw.TextField()
    began_ms = pw.BigIntegerField(null=True)
    fine_since_ms = pw.BigIntegerField(null=True)
    ended_ms = pw.BigIntegerField(null=True)
    reported_ms = pw.BigIntegerField(null=True)

    class Meta:
        table_name = "incident"


class Repeat(Table):
    owner = pw.TextField()
    key = pw.TextField()
    digest = pw.BlobField()
    answer = pw.BlobField(null=True)
    created_ms = pw.BigIntegerField()

    class Meta:
        table_name = "repeat"
        primary_key = pw.CompositeKey("owner", "key")


class PriceRow(Table):
    kind = pw.TextField()
    subject = pw.TextField()
    price = pw.TextField(null=True)
    since_ms = pw.BigIntegerField()

    class Meta:
        table_name = "price"
        primary_key = pw.CompositeKey("kind", "subject")


class TokenRemainder(Table):
    renter_id = pw.BigIntegerField(primary_key=True)
    parts = pw.BigIntegerField()

    class Meta:
        table_name = "token_remainder"


class GpuMetrics(Table):
    provider_id = pw.BigIntegerField()
    width_seconds = pw.IntegerField()
    start_ms = pw.BigIntegerField()
    writer = pw.BigIntegerField()
    gpus = pw.TextField()

    class Meta:
        table_name = "gpu_metrics"
        primary_key = pw.CompositeKey("provider_id", "width_seconds", "start_ms", "writer")


class Artifact(Table):
    id = pw.BigAutoField()
    job_id = pw.TextField()
    lease_epoch = pw.IntegerField()
    name = pw.TextField()
    size_bytes = pw.BigIntegerField()
    sha256 = pw.BlobField()
    blob_key = pw.TextField()
    state = pw.TextField()
    created_ms = pw.BigIntegerField()
    published_ms = pw.BigIntegerField(null=True)

    class Meta:
        table_name = "artifact"


class Input(Table):
    id = pw.BigAutoField()
    input_id = pw.TextField(unique=True)
    renter_id = pw.BigIntegerField()
    purpose = pw.TextField()
    name = pw.TextField()
    size_bytes = pw.BigIntegerField()
    received_bytes = pw.BigIntegerField(default=0)
    sha256 = pw.BlobField()
    url = pw.TextField(default="")
    problem = pw.TextField(default="")
    state = pw.TextField()
    created_ms = pw.BigIntegerField()
    used_ms = pw.BigIntegerField()

    class Meta:
        table_name = "input"


class InputPiece(Table):
    id = pw.BigAutoField()
    owner_id = pw.BigIntegerField()
    first_byte = pw.BigIntegerField()
    size_bytes = pw.BigIntegerField()
    blob_key = pw.TextField(unique=True)
    stored_ms = pw.BigIntegerField(null=True)

    class Meta:
        table_name = "input_piece"


class JobInput(Table):
    job_id = pw.TextField()
    input_id = pw.TextField()

    class Meta:
        table_name = "job_input"
        primary_key = pw.CompositeKey("job_id", "input_id")


class Batch(Table):
    id = pw.BigAutoField()
    batch_id = pw.TextField(unique=True)
    renter_id = pw.BigIntegerField()
    key_id = pw.BigIntegerField(null=True)
    endpoint = pw.TextField()
    input_id = pw.TextField()
    state = pw.TextField()
    stop = pw.TextField(null=True)
    faults = pw.TextField(default="[]")
    metadata = pw.TextField(default="{}")
    max_cost_micros = pw.BigIntegerField(null=True)
    lines = pw.BigIntegerField(default=0)
    added_bytes = pw.BigIntegerField(default=0)
    completed = pw.BigIntegerField(default=0)
    failed = pw.BigIntegerField(default=0)
    charged_micros = pw.BigIntegerField(default=0)
    output_bytes = pw.BigIntegerField(default=0)
    times = pw.TextField(default="{}")
    created_ms = pw.BigIntegerField()
    touched_ms = pw.BigIntegerField()
    expires_ms = pw.BigIntegerField()
    ended_ms = pw.BigIntegerField(null=True)

    class Meta:
        table_name = "batch"


class BatchLine(Table):
    batch_id = pw.BigIntegerField()
    number = pw.BigIntegerField()
    custom_id = pw.TextField()
    kind = pw.TextField()
    model = pw.TextField()
    request = pw.BlobField(null=True)
    max_tokens = pw.BigIntegerField(null=True)
    cache_key = pw.TextField()
    form = pw.BlobField()
    state = pw.TextField()
    job_id = pw.TextField(null=True)
    hold_micros = pw.BigIntegerField(default=0)
    error_code = pw.TextField(null=True)
    error_message = pw.TextField(null=True)

    class Meta:
        table_name = "batch_line"
        primary_key = pw.CompositeKey("batch_id", "number")


class MaturedPayouts(Table):
    provider_id = pw.BigIntegerField(primary_key=True)
    through_id = pw.BigIntegerField(default=0)
    due_ms = pw.BigIntegerField(default=0)

    class Meta:
        table_name = "matured_payouts"


class Dispute(Table):
    id = pw.BigAutoField()
    job_id = pw.TextField()
    renter_id = pw.BigIntegerField()
    provider_id = pw.BigIntegerField()
    state = pw.TextField()
    reason = pw.TextField()
    charge_micros = pw.BigIntegerField()
    payout_micros = pw.BigIntegerField()
    payout_id = pw.BigIntegerField()
    held_micros = pw.BigIntegerField()
    maturing_micros = pw.BigIntegerField()
    created_ms = pw.BigIntegerField()
    refund_micros = pw.BigIntegerField(null=True)
    note = pw.TextField(null=True)
    decided_ms = pw.BigIntegerField(null=True)

    class Meta:
        table_name = "dispute"


class Discard(Table):
    id = pw.BigAutoField()
    kind = pw.TextField()
    provider_id = pw.BigIntegerField()
    job_id = pw.TextField()
    lease_epoch = pw.IntegerField()
    key_last4 = pw.TextField()
    address = pw.TextField()
    detail = pw.TextField()
    times = pw.BigIntegerField()
    first_ms = pw.BigIntegerField()
    last_ms = pw.BigIntegerField()

    class Meta:
        table_name = "discard"


class ProviderStanding(Table):
    provider_id = pw.BigIntegerField(primary_key=True)
    standing = pw.TextField(null=True)
    reasons = pw.TextField(default="")
    missing = pw.TextField(default="[]")
    lifted_to = pw.TextField(null=True)
    slots = pw.BigIntegerField(null=True)
    value_micros = pw.BigIntegerField(null=True)
    is_checked = pw.BooleanField(default=True)
    since_ms = pw.BigIntegerField()
    due_ms = pw.BigIntegerField(null=True, default=0)
    vouched_ms = pw.BigIntegerField(null=True)

    class Meta:
        table_name = "provider_standing"


class GpuProof(Table):
    provider_id = pw.BigIntegerField(primary_key=True)
    outcome = pw.TextField()
    uuids = pw.TextField()
    gpu_model = pw.TextField()
    mib = pw.BigIntegerField()
    kib_per_second = pw.BigIntegerField()
    decided_ms = pw.BigIntegerField()

    class Meta:
        table_name = "gpu_proof"


class ProviderCustomer(Table):
    provider_id = pw.BigIntegerField()
    renter_id = pw.BigIntegerField()
    paid_micros = pw.BigIntegerField()

    class Meta:
        table_name = "provider_customer"
        primary_key = pw.CompositeKey("provider_id", "renter_id")


class CustomersRead(Table):
    id = pw.BigIntegerField(primary_key=True)
    through_id = pw.BigIntegerField()
    secret = pw.BlobField()

    class Meta:
        table_name = "customers_read"


class Canary(Table):
    id = pw.BigAutoField()
    provider_id = pw.BigIntegerField()
    job_id = pw.TextField()
    kind = pw.TextField()
    subject = pw.TextField()
    question = pw.TextField()
    verdict = pw.TextField(default="pending")
    fault = pw.TextField(null=True)
    figure_permille = pw.BigIntegerField(null=True)
    millitokens_per_second = pw.BigIntegerField(null=True)
    first_token_ms = pw.BigIntegerField(null=True)
    created_ms = pw.BigIntegerField()
    decided_ms = pw.BigIntegerField(null=True)

    class Meta:
        table_name = "canary"


class EmailCode(Table):
    id = pw.BigAutoField()
    role = pw.TextField()
    owner_id = pw.BigIntegerField()
    purpose = pw.TextField()
    mailbox = pw.TextField()
    sha256 = pw.BlobField(null=True)
    created_ms = pw.BigIntegerField()
    expires_ms = pw.BigIntegerField()
    guesses = pw.IntegerField(default=0)
    ready_ms = pw.BigIntegerField(null=True)
    ended_ms = pw.BigIntegerField(null=True)

    class Meta:
        table_name = "email_code"


class Letter(Table):
    id = pw.BigAutoField()
    role = pw.TextField()
    owner_id = pw.BigIntegerField()
    kind = pw.TextField()
    recipient = pw.TextField()
    mailbox = pw.TextField()
    email_code_id = pw.BigIntegerField(null=True)
    facts = pw.TextField(default="{}")
    status = pw.TextField(default="waiting")
    created_ms = pw.BigIntegerField()
    attempts = pw.IntegerField(default=0)
    next_ms = pw.BigIntegerField()
    error = pw.TextField(null=True)
    log_in_code_id = pw.BigIntegerField(null=True)

    class Meta:
        table_name = "letter"


class LogInCode(Table):
    id = pw.BigAutoField()
    role = pw.TextField()
    owner_id = pw.BigIntegerField()
    browser_sha256 = pw.BlobField()
    sha256 = pw.BlobField(null=True)
    created_ms = pw.BigIntegerField()
    expires_ms = pw.BigIntegerField()
    guesses = pw.IntegerField(default=0)
    ended_ms = pw.BigIntegerField(null=True)

    class Meta:
        table_name = "log_in_code"


class Operator(Table):
    id = pw.BigAutoField()
    name = pw.TextField()
    name_key = pw.TextField()
    email = pw.TextField()
    role = pw.TextField()
    handle = pw.BlobField()
    created_ms = pw.BigIntegerField()
    removed_ms = pw.BigIntegerField(null=True)

    class Meta:
        table_name = "operator"


class OperatorInvitation(Table):
    id = pw.BigAutoField()
    operator_id = pw.BigIntegerField()
    sha256 = pw.BlobField()
    created_ms = pw.BigIntegerField()
    expires_ms = pw.BigIntegerField()
    ended_ms = pw.BigIntegerField(null=True)

    class Meta:
        table_name = "operator_invitation"


class OperatorKey(Table):
    id = pw.BigAutoField()
    operator_id = pw.BigIntegerField()
    sha256 = pw.BlobField()
    last4 = pw.TextField()
    name = pw.TextField()
    is_log_in = pw.BooleanField()
    by_key_id = pw.BigIntegerField(null=True)
    by_passkey_id = pw.BigIntegerField(null=True)
    created_ms = pw.BigIntegerField()
    expires_ms = pw.BigIntegerField()
    last_used_ms = pw.BigIntegerField(null=True)
    revoked_ms = pw.BigIntegerField(null=True)

    class Meta:
        table_name = "operator_key"


class Passkey(Table):
    id = pw.BigAutoField()
    operator_id = pw.BigIntegerField()
    credential_id = pw.BlobField()
    public_key = pw.BlobField()
    sign_count = pw.BigIntegerField()
    name = pw.TextField()
    created_ms = pw.BigIntegerField()
    last_used_ms = pw.BigIntegerField(null=True)

    class Meta:
        table_name = "passkey"


class PasskeyChallenge(Table):
    id = pw.BigAutoField()
    browser_sha256 = pw.BlobField()
    purpose = pw.TextField()
    operator_id = pw.BigIntegerField(null=True)
    invitation_id = pw.BigIntegerField(null=True)
    challenge = pw.BlobField()
    expires_ms = pw.BigIntegerField()

    class Meta:
        table_name = "passkey_challenge"


# Every table, in the order of this file.
MODELS: tuple[type[Table], ...] = tuple(Table.__subclasses__())


def tuples(query: Any) -> Iterable[tuple[Any, ...]]:
    """The rows of a query as tuples, one at a time, with a type that peewee does not declare."""
    rows: Iterable[tuple[Any, ...]] = query.tuples().iterator()
    return rows

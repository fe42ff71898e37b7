"""The objects of responses. Generated from protos/ by scripts/generate; edit the protos instead."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any, ClassVar, Dict, List, Mapping, Optional

from dcp_client.reading import Model


@dataclass(frozen=True, eq=False, repr=False)
class AcceptInvitationResponse(Model):
    """The browser is logged in."""

    success: bool = False
    """Always true: a failed request is answered in the error format instead."""
    operator: Optional[Operator] = None
    """Who is logged in."""
    expires_at: Optional[datetime] = None
    """When the log-in ends by itself."""
    KINDS: ClassVar[Mapping[str, str]] = {"operator": "Operator", "expires_at": "time"}


class AccountRole:
    """Whose an account is.

    * `provider`: A provider's.
    * `renter`: A renter's.

    New values can be added: accept one that you do not know.
    """

    PROVIDER = "provider"
    RENTER = "renter"


@dataclass(frozen=True, eq=False, repr=False)
class AddPasskeyResponse(Model):
    """The new passkey."""

    success: bool = False
    """Always true: a failed request is answered in the error format instead."""
    passkey: Optional[Passkey] = None
    """The passkey."""
    KINDS: ClassVar[Mapping[str, str]] = {"passkey": "Passkey"}


@dataclass(frozen=True, eq=False, repr=False)
class ApproveProviderResponse(Model):
    """The provider as it is now."""

    success: bool = False
    """Always true: a failed request is answered in the error format instead."""
    provider_id: int = 0
    """The provider's id."""
    status: str = ""
    """Its current status."""


@dataclass(frozen=True, eq=False, repr=False)
class Artifact(Model):
    """A file that a job left in `/output`."""

    name: str = ""
    """The file's path below `/output`."""
    size_bytes: int = 0
    """The file's size, in bytes."""
    sha256: str = ""
    """The SHA-256 of the file, in hexadecimal."""
    content_type: str = ""
    """The media type, guessed from the file's name."""
    created_at: Optional[datetime] = None
    """When the server stored the file."""
    KINDS: ClassVar[Mapping[str, str]] = {"created_at": "time"}


@dataclass(frozen=True, eq=False, repr=False)
class AskForPasskeyResponse(Model):
    """What a browser needs to ask for a passkey, by `navigator.credentials.get`."""

    success: bool = False
    """Always true: a failed request is answered in the error format instead."""
    challenge: str = ""
    """The challenge."""
    domain: str = ""
    """The domain of this marketplace, which the passkeys are for: `rpId`."""
    expires_at: Optional[datetime] = None
    """Until when the challenge can be answered."""
    KINDS: ClassVar[Mapping[str, str]] = {"expires_at": "time"}


@dataclass(frozen=True, eq=False, repr=False)
class AskToLogInResponse(Model):
    """The same whether such an account exists or not."""

    success: bool = False
    """Always true: a failed request is answered in the error format instead."""
    expires_at: Optional[datetime] = None
    """Until when the code can be used."""
    KINDS: ClassVar[Mapping[str, str]] = {"expires_at": "time"}


class AttemptOutcome:
    """The outcome of an attempt.

    * `succeeded`: The attempt succeeded.
    * `failed`: The attempt failed, and the job with it.
    * `cancelled`: The renter or an operator cancelled the job.
    * `released`: The provider released the lease, through no fault of the renter.
    * `refused`: The provider refused the offer. It is not counted as an attempt.
    * `expired`: The provider did not answer the offer in time. It is not counted as an attempt.
    * `lost`: The provider stopped sending heartbeats.
    * `revoked`: An operator revoked the lease; the job waits in the queue again.

    New values can be added: accept one that you do not know.
    """

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    RELEASED = "released"
    REFUSED = "refused"
    EXPIRED = "expired"
    LOST = "lost"
    REVOKED = "revoked"


class AttemptWeight:
    """How an ended attempt counts for the provider's reliability.

    * `for`: It counts for the provider.
    * `against`: It counts against the provider.
    * `neither`: It does not count: the renter or an operator ended it, or the job itself caused the
      failure.

    New values can be added: accept one that you do not know.
    """

    FOR = "for"
    AGAINST = "against"
    NEITHER = "neither"


@dataclass(frozen=True, eq=False, repr=False)
class AuditEntry(Model):
    """One action of an operator, or of an owner who replaces a lost key."""

    id: int = 0
    """The entry's id; newer entries have greater ids."""
    at: Optional[datetime] = None
    """When it was done."""
    actor: str = ""
    """Who did it: the name of an operator, `admin` for the admin token, `server` for the server's
    command line, or `owner` for what replaces a lost key.
    """
    action: str = ""
    """The action, such as `withdrawal.pay`."""
    object: str = ""
    """The kind of object that the action changed."""
    object_id: str = ""
    """The object's id."""
    before: str = ""
    """The changed fields with their values before the action: a JSON object."""
    after: str = ""
    """The same fields with their values after the action: a JSON object."""
    request_id: str = ""
    """The id of the HTTP or gRPC request that performed the action."""
    KINDS: ClassVar[Mapping[str, str]] = {"at": "time"}


@dataclass(frozen=True, eq=False, repr=False)
class AvailableProvider(Model):
    """A provider as renters see it."""

    id: int = 0
    """The provider's id."""
    gpu_model: str = ""
    """The GPU model, by its canonical name, such as `RTX 4090`."""
    is_live: bool = False
    """Whether the provider is live: its last heartbeat is younger than 30 s."""
    name: str = ""
    """Its name."""
    status: str = ""
    """Its current status."""
    gpu_vram_mib: Optional[int] = None
    """Total memory of the first GPU, in MiB."""
    gpu_count: Optional[int] = None
    """The number of GPUs."""
    models: List[str] = field(default_factory=list)
    """The models that the daemon serves."""
    accepting_jobs: bool = False
    """Whether jobs are offered to the provider now: it is live, its daemon holds a session, an engine
    or runner passed its self-test, the time is within the owner's hours, and the GPU is not too
    hot.
    """
    rates_halala_per_minute: Dict[str, int] = field(default_factory=dict)
    """The rates that a job which names the provider is quoted, by job type, in halala per minute."""
    reliability: Optional[float] = None
    """The share of its newest 50 ended attempts that succeeded, from 0 to 1, leaving out attempts that
    count neither for nor against the provider; see its history. Absent while `reliability_attempts`
    is 0.
    """
    reliability_attempts: int = 0
    """How many of these attempts counted for or against the provider."""
    vram_for_jobs_mib: Optional[int] = None
    """The memory of the first GPU that is available to jobs, in MiB: the total memory minus the
    owner's reserve.
    """
    opens_at: Optional[datetime] = None
    """When the owner's hours begin next. Present while the time is outside them."""
    verification: Optional[Verification] = None
    """The marketplace's verdict on what the machine reports about its GPUs."""
    hindrances: List[Hindrance] = field(default_factory=list)
    """The hindrances that keep jobs away from it."""
    runs_plain_processes: bool = False
    """The provider runs the commands of jobs as plain processes, without their image and without
    isolation. Only jobs that name the provider run that way.
    """
    gpu_name: Optional[str] = None
    """The name of the first GPU as its driver reports it, such as `NVIDIA GeForce RTX 4090`."""
    gpu_vram_is_shared: Optional[bool] = None
    """The first GPU has no memory of its own: its memory is the machine's, which other programs use
    too. Absent if it has its own.
    """
    architecture: Optional[str] = None
    """Its processor, as images name it, such as `amd64`. Absent if its daemon does not report it."""
    image_patterns: List[str] = field(default_factory=list)
    """Patterns of the container images that its owner allows, such as `ghcr.io/acme/*`. Empty if it
    runs no containers, or if its daemon does not report them.
    """
    reliability_lower: float = 0.0
    """The least share that would explain these attempts, with 95 % confidence (Wilson's lower bound);
    0 while there are none. Providers are ordered by it, not by `reliability`.
    """
    standing: Optional[ProviderStanding] = None
    """How far it is trusted, why, what that allows, and what lifts it."""
    prices: List[OfferedPrice] = field(default_factory=list)
    """What jobs cost that name it: by the hour for each job type that it runs, of one GPU where its
    GPU model has a price, and by tokens for each of its models with such a price.
    """
    embedding_models: List[str] = field(default_factory=list)
    """Those of `models` that make embeddings."""
    KINDS: ClassVar[Mapping[str, str]] = {
        "models": "list plain",
        "rates_halala_per_minute": "map plain",
        "opens_at": "time",
        "verification": "Verification",
        "hindrances": "list Hindrance",
        "image_patterns": "list plain",
        "standing": "ProviderStanding",
        "prices": "list OfferedPrice",
        "embedding_models": "list plain",
    }


@dataclass(frozen=True, eq=False, repr=False)
class BalanceLowEvent(Model):
    """The body of an event about a wallet that fell below the threshold."""

    id: str = ""
    """The event's id."""
    type: str = ""
    """The kind of event."""
    created_at: Optional[datetime] = None
    """When the event happened."""
    data: Optional[LowBalance] = None
    """The wallet."""
    KINDS: ClassVar[Mapping[str, str]] = {"created_at": "time", "data": "LowBalance"}


@dataclass(frozen=True, eq=False, repr=False)
class Batch(Model):
    """A batch, as OpenAI's API writes it, and what it cost. Times are in seconds since 1970."""

    id: str = ""
    """Its id."""
    object: str = ""
    """Always `batch`."""
    endpoint: str = ""
    """The path of its requests."""
    errors: Optional[BatchErrors] = None
    """What is wrong with its file. Absent unless it has failed."""
    input_file_id: str = ""
    """The file of its requests."""
    completion_window: str = ""
    """Always `24h`."""
    status: str = ""
    """Where it is."""
    output_file_id: Optional[str] = None
    """The file of its answers, which can be read while it runs. Absent while there is none."""
    error_file_id: Optional[str] = None
    """The file of the lines that gave no answer, each with the reason. Absent while there is none."""
    created_at: int = 0
    """When it was created. Unit: seconds."""
    in_progress_at: Optional[int] = None
    """When its lines began to run. Absent before that, as each of the following times. Unit: seconds."""
    expires_at: int = 0
    """When its window ends. Unit: seconds."""
    finalizing_at: Optional[int] = None
    """Since when no line of it waits. Unit: seconds."""
    completed_at: Optional[int] = None
    """When it was done. Unit: seconds."""
    failed_at: Optional[int] = None
    """When it failed. Unit: seconds."""
    expired_at: Optional[int] = None
    """When it expired. Unit: seconds."""
    cancelling_at: Optional[int] = None
    """When its cancellation began. Unit: seconds."""
    cancelled_at: Optional[int] = None
    """When it was cancelled. Unit: seconds."""
    request_counts: Optional[BatchCounts] = None
    """How many lines it has, and how many have ended."""
    metadata: Dict[str, str] = field(default_factory=dict)
    """What its renter noted about it."""
    charged_halala: int = 0
    """What its ended jobs cost together, in halala, rounded down."""
    charged_micro_halala: int = 0
    """The same exactly, in micros: millionths of a halala."""
    stop_reason: Optional[str] = None
    """Why the rest of it is not done: `batch_expired`, `batch_cancelled`, `budget_reached`,
    `insufficient_balance` or `account_closed`. Absent if nothing stopped it.
    """
    KINDS: ClassVar[Mapping[str, str]] = {
        "errors": "BatchErrors",
        "request_counts": "BatchCounts",
        "metadata": "map plain",
    }


@dataclass(frozen=True, eq=False, repr=False)
class BatchCounts(Model):
    """How far a batch is."""

    total: int = 0
    """Its lines."""
    completed: int = 0
    """Those that are in its output file."""
    failed: int = 0
    """Those that are in its error file."""


@dataclass(frozen=True, eq=False, repr=False)
class BatchError(Model):
    """A fault of a batch's file."""

    code: str = ""
    """Its kind, such as `duplicate_custom_id`."""
    message: str = ""
    """What is wrong, and what to send instead."""
    line: Optional[int] = None
    """The line, counted from 1. Absent if it is about the file as a whole."""
    param: Optional[str] = None
    """The field of the line."""


@dataclass(frozen=True, eq=False, repr=False)
class BatchErrors(Model):
    """The faults of a batch's file, at most 100."""

    object: str = ""
    """Always `list`."""
    data: List[BatchError] = field(default_factory=list)
    """The faults, in the order of the lines."""
    KINDS: ClassVar[Mapping[str, str]] = {"data": "list BatchError"}


@dataclass(frozen=True, eq=False, repr=False)
class BatchEvent(Model):
    """The body of an event about a batch's end."""

    id: str = ""
    """The event's id."""
    type: str = ""
    """The kind of event."""
    created_at: Optional[datetime] = None
    """When the event happened."""
    data: Optional[EndedBatch] = None
    """The batch."""
    KINDS: ClassVar[Mapping[str, str]] = {"created_at": "time", "data": "EndedBatch"}


@dataclass(frozen=True, eq=False, repr=False)
class BatchFile(Model):
    """A file of a batch, as OpenAI's API writes it. Times are in seconds since 1970."""

    id: str = ""
    """Its id."""
    object: str = ""
    """Always `file`."""
    bytes: int = 0
    """Its size. Of what a batch writes, about: the bytes of the answers so far."""
    created_at: int = 0
    """When it was created. Unit: seconds."""
    expires_at: Optional[int] = None
    """When it is deleted, unless it is used before. Absent for what a batch writes, which goes with
    its jobs. Unit: seconds.
    """
    filename: str = ""
    """Its name."""
    purpose: str = ""
    """`batch` for an upload, `batch_output` for what a batch writes."""
    status: str = ""
    """`processed`, or `uploaded` while its bytes arrive."""


class BatchStatus:
    """Where a batch is.

    * `validating`: Its file is being checked; nothing runs yet.
    * `failed`: Its file cannot be used: `errors` says why, by line.
    * `in_progress`: Its lines run.
    * `finalizing`: No line of it waits any more; the last ones run.
    * `completed`: Every line is in its output file or in its error file.
    * `expired`: Its 24 hours ended first: the lines that were not done are in its error file.
    * `cancelling`: It was cancelled; its last jobs are ending.
    * `cancelled`: It was cancelled: the lines that were not done are in its error file.

    New values can be added: accept one that you do not know.
    """

    VALIDATING = "validating"
    FAILED = "failed"
    IN_PROGRESS = "in_progress"
    FINALIZING = "finalizing"
    COMPLETED = "completed"
    EXPIRED = "expired"
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"


@dataclass(frozen=True, eq=False, repr=False)
class BeginPasskeyResponse(Model):
    """What a browser needs to create a passkey, by `navigator.credentials.create`."""

    success: bool = False
    """Always true: a failed request is answered in the error format instead."""
    operator: Optional[Operator] = None
    """Whose the passkey will be."""
    challenge: str = ""
    """The challenge."""
    domain: str = ""
    """The domain of this marketplace, which the passkey is for: `rp.id`."""
    user: str = ""
    """The id of the operator for passkeys: `user.id`."""
    known: List[str] = field(default_factory=list)
    """The passkeys that the operator has: `excludeCredentials`."""
    expires_at: Optional[datetime] = None
    """Until when the challenge can be answered."""
    KINDS: ClassVar[Mapping[str, str]] = {"operator": "Operator", "known": "list plain", "expires_at": "time"}


@dataclass(frozen=True, eq=False, repr=False)
class Billing(Model):
    """A bill, in halala. Charge and refund add up to the hold; payout and fee add up to the charge."""

    hold_halala: int = 0
    """The hold: the amount reserved when the job was submitted."""
    actual_cost_halala: int = 0
    """The charge, never above the hold: by time, the price of the billed time, rounded up once to a
    whole halala; by tokens, exactly what they cost.
    """
    refund_halala: int = 0
    """The refund: the amount of the hold that returned to the renter's wallet."""
    provider_halala: int = 0
    """The payout: the provider's share of the charge."""
    platform_halala: int = 0
    """The fee: the platform's share of the charge."""
    billed_seconds: float = 0.0
    """The billed time, in seconds, to the millisecond."""
    rate_halala_per_minute: int = 0
    """The price of a minute, in halala, rounded up; 0 if tokens are paid for. `price` has it exactly."""
    hold_micro_halala: int = 0
    """Exactly, in millionths of a halala; the field without ``_micro`` is cut to whole halala."""
    actual_cost_micro_halala: int = 0
    """Exactly, in millionths of a halala; the field without ``_micro`` is cut to whole halala."""
    refund_micro_halala: int = 0
    """Exactly, in millionths of a halala; the field without ``_micro`` is cut to whole halala."""
    provider_micro_halala: int = 0
    """Exactly, in millionths of a halala; the field without ``_micro`` is cut to whole halala."""
    platform_micro_halala: int = 0
    """Exactly, in millionths of a halala; the field without ``_micro`` is cut to whole halala."""
    price: Optional[Price] = None
    """The price, as it was fixed when the job was submitted."""
    KINDS: ClassVar[Mapping[str, str]] = {"price": "Price"}


@dataclass(frozen=True, eq=False, repr=False)
class BudgetReachedEvent(Model):
    """The body of an event about a budget that a job would have exceeded."""

    id: str = ""
    """The event's id."""
    type: str = ""
    """The kind of event."""
    created_at: Optional[datetime] = None
    """When the event happened."""
    data: Optional[ReachedBudget] = None
    """The budget."""
    KINDS: ClassVar[Mapping[str, str]] = {"created_at": "time", "data": "ReachedBudget"}


@dataclass(frozen=True, eq=False, repr=False)
class CallFigures(Model):
    """The calls of one server with one answer; streams are not counted."""

    calls: int = 0
    """How many ended."""
    failed: int = 0
    """How many of them failed by the server's fault."""
    p50_ms: Optional[float] = None
    """Half of them took at most this long, in milliseconds. Absent without calls, as the next two."""
    p95_ms: Optional[float] = None
    """95 of 100 took at most this long, in milliseconds."""
    p99_ms: Optional[float] = None
    """99 of 100 took at most this long, in milliseconds."""
    failures: List[FailedCalls] = field(default_factory=list)
    """The calls that failed most often; at most 5."""
    since: Optional[datetime] = None
    """Since when calls are counted: an hour ago, or the server's start."""
    KINDS: ClassVar[Mapping[str, str]] = {"failures": "list FailedCalls", "since": "time"}


@dataclass(frozen=True, eq=False, repr=False)
class Canary(Model):
    """One check of a provider's work."""

    id: int = 0
    """The canary's id."""
    job_id: str = ""
    """The job that it was."""
    kind: str = ""
    """What it asked for."""
    verdict: str = ""
    """What it found."""
    fault: Optional[str] = None
    """Why it failed. Present if it failed."""
    figure: Optional[float] = None
    """How much the answer had in common with those of other providers, from 0 to 1. Present if it was
    compared.
    """
    created_at: Optional[datetime] = None
    """When the job was submitted."""
    KINDS: ClassVar[Mapping[str, str]] = {"created_at": "time"}


class CanaryFault:
    """Why a canary failed.

    * `ANSWER_DIFFERS`: The answer differs from those of other providers with the same model, or
      from the known result.
    * `NO_ANSWER`: The provider took the job and gave no answer.
    * `TOO_SLOW`: The provider needed more than three times as long for a token as others with the
      same GPU model and model.
    * `TOKENS_IMPOSSIBLE`: The reported number of tokens cannot belong to the answer.

    New values can be added: accept one that you do not know.
    """

    ANSWER_DIFFERS = "ANSWER_DIFFERS"
    NO_ANSWER = "NO_ANSWER"
    TOO_SLOW = "TOO_SLOW"
    TOKENS_IMPOSSIBLE = "TOKENS_IMPOSSIBLE"


class CanaryKind:
    """What a canary asks for.

    * `answer`: An answer of a model, compared with the answers of other providers.
    * `computation`: A computation in a container whose result is known.

    New values can be added: accept one that you do not know.
    """

    ANSWER = "answer"
    COMPUTATION = "computation"


class CanaryVerdict:
    """What a canary found.

    * `pending`: The job has not ended.
    * `passed`: The answer was as it should be.
    * `failed`: The answer was not as it should be; `fault` says how.
    * `undecided`: The canary tells nothing, for example because no other provider answered the same
      question.
    * `waiting`: The job has ended, and there is nothing yet to compare its answer with.

    New values can be added: accept one that you do not know.
    """

    PENDING = "pending"
    PASSED = "passed"
    FAILED = "failed"
    UNDECIDED = "undecided"
    WAITING = "waiting"


@dataclass(frozen=True, eq=False, repr=False)
class CancelJobResponse(Model):
    """The job after the cancellation was recorded."""

    success: bool = False
    """Always true: a failed request is answered in the error format instead."""
    job: Optional[Job] = None
    """The job. It is `cancelled`, or still `running` until its daemon has stopped it."""
    KINDS: ClassVar[Mapping[str, str]] = {"job": "Job"}


@dataclass(frozen=True, eq=False, repr=False)
class CancelKeyRecoveryResponse(Model):
    """The account has no code for a new key now."""

    success: bool = False
    """Always true: a failed request is answered in the error format instead."""
    cancelled: bool = False
    """Whether there was one."""


@dataclass(frozen=True, eq=False, repr=False)
class CancelWithdrawalResponse(Model):
    """The request as it is now."""

    success: bool = False
    """Always true: a failed request is answered in the error format instead."""
    withdrawal: Optional[Withdrawal] = None
    """The request."""
    KINDS: ClassVar[Mapping[str, str]] = {"withdrawal": "Withdrawal"}


@dataclass(frozen=True, eq=False, repr=False)
class ChangeRateResponse(Model):
    """The rate card after the change."""

    success: bool = False
    """Always true: a failed request is answered in the error format instead."""
    rates: List[Rate] = field(default_factory=list)
    """The rates, one for each job type."""
    KINDS: ClassVar[Mapping[str, str]] = {"rates": "list Rate"}


@dataclass(frozen=True, eq=False, repr=False)
class ChatMessage(Model):
    """One turn of a conversation."""

    role: str = ""
    """The speaker: `system`, `user` or `assistant`."""
    content: str = ""
    """The text of the turn."""


@dataclass(frozen=True, eq=False, repr=False)
class ConsideredProvider(Model):
    """A provider that was considered for the job, and the obstacle that keeps it from running the job."""

    provider_id: int = 0
    """The provider's id."""
    code: str = ""
    """The obstacle."""
    message: str = ""
    """The same as a sentence for people."""
    free_in_seconds: Optional[int] = None
    """When one of its slots is free at the latest, in seconds from now, computed from the limits of
    its runs. Present while the provider is busy.
    """


@dataclass(frozen=True, eq=False, repr=False)
class ContainerSpec(Model):
    """The container that a job runs in."""

    image_type: str = ""
    """The name of one of the platform's images, such as `vllm-serve`."""
    image: str = ""
    """The image, by tag or digest, such as `docker.io/library/python:3.12`. Required for `training`,
    `rendering`, `benchmark` and `custom_container`. Each provider's owner decides which images the
    provider runs.
    """
    command: List[str] = field(default_factory=list)
    """The command: one item for each argument. Default: the image's own command."""
    env: Dict[str, str] = field(default_factory=dict)
    """Environment variables of the container. Names that begin with `NVIDIA_` or `DCP_` are reserved
    for the provider, and names that begin with `LD_` would also apply to programs outside the
    container: set these in the command.
    """
    gpu_count: Optional[int] = None
    """The number of GPUs that the job needs. Default: the provider decides."""
    vram_required_mb: Optional[int] = None
    """The GPU memory that the job needs, in MB."""
    input_files: Dict[str, str] = field(default_factory=dict)
    """Texts by file name, such as `train.py`. The job finds them as files in `/input`
    (`DCP_INPUT_DIR`).
    """
    architecture: str = ""
    """The processor that the image is for. Default: the job can be given to any provider, and one
    whose processor cannot run the image gives the job back, which is not charged.
    """
    KINDS: ClassVar[Mapping[str, str]] = {
        "command": "list plain",
        "env": "map plain",
        "input_files": "map plain",
    }


@dataclass(frozen=True, eq=False, repr=False)
class CreateInputResponse(Model):
    """The input."""

    success: bool = False
    """Always true: a failed request is answered in the error format instead."""
    input: Optional[InputRecord] = None
    """The input."""
    KINDS: ClassVar[Mapping[str, str]] = {"input": "InputRecord"}


@dataclass(frozen=True, eq=False, repr=False)
class CreateKeyResponse(Model):
    """The new key."""

    success: bool = False
    """Always true: a failed request is answered in the error format instead."""
    key: Optional[Key] = None
    """The key as ListKeys shows it."""
    api_key: str = ""
    """The key. It is shown only in this response."""
    KINDS: ClassVar[Mapping[str, str]] = {"key": "Key"}


@dataclass(frozen=True, eq=False, repr=False)
class CreateOperatorKeyResponse(Model):
    """The new key."""

    success: bool = False
    """Always true: a failed request is answered in the error format instead."""
    key: Optional[OperatorKey] = None
    """The key without its secret part."""
    api_key: str = ""
    """The key itself, which is shown only now."""
    KINDS: ClassVar[Mapping[str, str]] = {"key": "OperatorKey"}


@dataclass(frozen=True, eq=False, repr=False)
class CreditRenterResponse(Model):
    """The wallet after the credit."""

    success: bool = False
    """Always true: a failed request is answered in the error format instead."""
    renter_id: int = 0
    """The renter's id."""
    balance_halala: int = 0
    """The renter's new balance, in halala: holds are already subtracted."""


@dataclass(frozen=True, eq=False, repr=False)
class DashboardStats(Model):
    """The figures of the dashboard."""

    total_providers: int = 0
    """All providers."""
    online_now: int = 0
    """Providers that are live: their last heartbeat is younger than 30 s."""
    total_renters: int = 0
    """All renters."""
    total_jobs: int = 0
    """All jobs."""
    active_jobs: int = 0
    """Jobs that have not ended."""
    charged_halala: int = 0
    """The sum of all charges so far, less refunds after disputes, in halala."""
    fee_halala: int = 0
    """The platform's share of that, in halala."""
    payout_halala: int = 0
    """The providers' share of that, in halala."""
    held_halala: int = 0
    """The sum of the holds of all open jobs, in halala."""
    fee_today_halala: int = 0
    """The platform's share of the charges since midnight UTC, in halala."""
    claimable_halala: int = 0
    """What providers can withdraw, in halala."""
    maturing_halala: int = 0
    """Providers' payouts that are not old enough to be withdrawn, in halala."""
    disputed_halala: int = 0
    """Providers' payouts whose charges are disputed, in halala."""
    reserved_halala: int = 0
    """The sum of the open withdrawal requests, in halala."""
    debt_halala: int = 0
    """What providers owe after disputes, in halala."""
    discards_today: int = 0
    """The number of records in ListDiscards with a last time since midnight UTC. More than a few mean
    that the server runs on an older database than its daemons remember.
    """


@dataclass(frozen=True, eq=False, repr=False)
class DayEarnings(Model):
    """The earnings of one day."""

    date: str = ""
    """The UTC day, in the form `2026-01-31`."""
    earned_halala: int = 0
    """The sum of the payouts of the day, in halala."""
    jobs: int = 0
    """The number of jobs in this sum."""
    by_job_type: Dict[str, int] = field(default_factory=dict)
    """The same sum by job type, in halala."""
    earned_micro_halala: int = 0
    """Exactly, in millionths of a halala; the field without ``_micro`` is cut to whole halala."""
    by_job_type_micro: Dict[str, int] = field(default_factory=dict)
    """Exactly, in millionths of a halala; the field without ``_micro`` is cut to whole halala."""
    KINDS: ClassVar[Mapping[str, str]] = {"by_job_type": "map plain", "by_job_type_micro": "map plain"}


@dataclass(frozen=True, eq=False, repr=False)
class DayMoney(Model):
    """The marketplace's money of one day. Refunds after disputes are not subtracted."""

    date: str = ""
    """The UTC day, in the form `2026-01-31`."""
    charged_halala: int = 0
    """What renters were charged, in halala."""
    charged_micro_halala: int = 0
    """Exactly, in millionths of a halala; the field without ``_micro`` is cut to whole halala."""
    fee_halala: int = 0
    """The platform's share of that, in halala."""
    fee_micro_halala: int = 0
    """Exactly, in millionths of a halala; the field without ``_micro`` is cut to whole halala."""
    payout_halala: int = 0
    """The providers' share of that, in halala."""
    payout_micro_halala: int = 0
    """Exactly, in millionths of a halala; the field without ``_micro`` is cut to whole halala."""
    paid_out_halala: int = 0
    """What was paid to providers' bank accounts, in halala."""
    paid_out_micro_halala: int = 0
    """Exactly, in millionths of a halala; the field without ``_micro`` is cut to whole halala."""
    credited_halala: int = 0
    """What operators credited to renters, in halala."""
    credited_micro_halala: int = 0
    """Exactly, in millionths of a halala; the field without ``_micro`` is cut to whole halala."""
    topped_up_halala: int = 0
    """What renters topped up with play money, in halala."""
    topped_up_micro_halala: int = 0
    """Exactly, in millionths of a halala; the field without ``_micro`` is cut to whole halala."""
    refunded_halala: int = 0
    """What was refunded after disputes, in halala."""
    refunded_micro_halala: int = 0
    """Exactly, in millionths of a halala; the field without ``_micro`` is cut to whole halala."""


@dataclass(frozen=True, eq=False, repr=False)
class DaySpending(Model):
    """The spending of one day."""

    date: str = ""
    """The UTC day, in the form `2026-01-31`."""
    spent_halala: int = 0
    """The sum of the charges of the day, in halala."""
    jobs: int = 0
    """The number of jobs in this sum."""
    by_job_type: Dict[str, int] = field(default_factory=dict)
    """The same sum by job type, in halala."""
    spent_micro_halala: int = 0
    """Exactly, in millionths of a halala; the field without ``_micro`` is cut to whole halala."""
    KINDS: ClassVar[Mapping[str, str]] = {"by_job_type": "map plain"}


@dataclass(frozen=True, eq=False, repr=False)
class DecideDisputeResponse(Model):
    """The dispute as it is now."""

    success: bool = False
    """Always true: a failed request is answered in the error format instead."""
    dispute: Optional[Dispute] = None
    """The dispute."""
    KINDS: ClassVar[Mapping[str, str]] = {"dispute": "Dispute"}


@dataclass(frozen=True, eq=False, repr=False)
class DeleteFileResponse(Model):
    """The file is deleted."""

    id: str = ""
    """The file's id."""
    object: str = ""
    """Always `file`."""
    deleted: bool = False
    """Always true."""


@dataclass(frozen=True, eq=False, repr=False)
class DeleteInputResponse(Model):
    """The input is deleted."""

    success: bool = False
    """Always true: a failed request is answered in the error format instead."""


@dataclass(frozen=True, eq=False, repr=False)
class DeleteOwnAccountResponse(Model):
    """The account was deleted."""

    success: bool = False
    """Always true: a failed request is answered in the error format instead."""
    renter_id: int = 0
    """The id under which the records of money remain."""
    forfeited_halala: int = 0
    """The amount given up, in halala."""


class DeliveryStatus:
    """The status of a delivery.

    * `waiting`: The event waits to be sent or sent again.
    * `delivered`: The address answered with a 2xx status.
    * `failed`: The delivery was given up, because two hours had passed or the address was removed.

    New values can be added: accept one that you do not know.
    """

    WAITING = "waiting"
    DELIVERED = "delivered"
    FAILED = "failed"


@dataclass(frozen=True, eq=False, repr=False)
class Discard(Model):
    """Something that a daemon reported and that the server did not know."""

    id: int = 0
    """The record's id; newer records have greater ids."""
    kind: str = ""
    """What was not known."""
    provider_id: Optional[int] = None
    """The provider whose daemon reported it. Absent for an unknown key."""
    job_id: Optional[str] = None
    """The id of the job. Absent for an unknown key."""
    lease_epoch: Optional[int] = None
    """The lease's number within the job. Absent for an unknown key."""
    key_last4: Optional[str] = None
    """The last four characters of the unknown key."""
    address: Optional[str] = None
    """The address from which the unknown key came."""
    detail: str = ""
    """What differs from the server's records, for a person."""
    times: int = 0
    """How often it was reported."""
    first_at: Optional[datetime] = None
    """When it was reported first."""
    last_at: Optional[datetime] = None
    """When it was reported last."""
    KINDS: ClassVar[Mapping[str, str]] = {"first_at": "time", "last_at": "time"}


class DiscardKind:
    """What the server did not know.

    * `lease`: A lease that is not on record: its run was stopped, and its result is not used.
    * `run`: A run that does not continue what is stored of it: its attempt is lost, and its job was
      queued again.
    * `key`: A provider's key that no account has: the call was refused.

    New values can be added: accept one that you do not know.
    """

    LEASE = "lease"
    RUN = "run"
    KEY = "key"


@dataclass(frozen=True, eq=False, repr=False)
class Dispute(Model):
    """A renter's objection to the charge of a job, as its renter, its provider and operators see it."""

    id: int = 0
    """The dispute's id."""
    job_id: str = ""
    """The job's id."""
    status: str = ""
    """Its current state."""
    reason: str = ""
    """The renter's reason. Empty if the renter has deleted its account."""
    charged_halala: int = 0
    """The charge of the job, in halala."""
    provider_id: int = 0
    """The id of the provider that earned the payout."""
    held_halala: int = 0
    """How much of the payout was held when the dispute was opened, in halala. It is less than the
    payout if the provider had withdrawn it.
    """
    created_at: Optional[datetime] = None
    """When the renter opened it."""
    decided_at: Optional[datetime] = None
    """When an operator decided. Absent before that."""
    refund_halala: Optional[int] = None
    """The refund, in halala. Present if the dispute was upheld."""
    note: Optional[str] = None
    """The operator's reasons for the decision. Absent before that."""
    KINDS: ClassVar[Mapping[str, str]] = {"created_at": "time", "decided_at": "time"}


@dataclass(frozen=True, eq=False, repr=False)
class DisputeEvent(Model):
    """The body of an event about a dispute."""

    id: str = ""
    """The event's id."""
    type: str = ""
    """The kind of event."""
    created_at: Optional[datetime] = None
    """When the event happened."""
    data: Optional[Dispute] = None
    """The dispute as it was then."""
    KINDS: ClassVar[Mapping[str, str]] = {"created_at": "time", "data": "Dispute"}


class DisputeStatus:
    """The states of a dispute. `upheld` and `rejected` are final.

    * `open`: The dispute waits for an operator.
    * `upheld`: The renter got a refund.
    * `rejected`: The charge stays as it is.

    New values can be added: accept one that you do not know.
    """

    OPEN = "open"
    UPHELD = "upheld"
    REJECTED = "rejected"


@dataclass(frozen=True, eq=False, repr=False)
class DisputedProvider(Model):
    """How a provider did until the end of a disputed job."""

    provider_id: int = 0
    """The provider's id."""
    reliability: Optional[float] = None
    """The share of the attempts below that succeeded, from 0 to 1, leaving out attempts that count
    neither for nor against the provider.
    """
    reliability_attempts: int = 0
    """How many of them counted for or against the provider. While it is 0, `reliability` is absent."""
    attempts: List[PastAttempt] = field(default_factory=list)
    """The provider's last 50 attempts that ended until the end of the job, newest first."""
    open_disputes: int = 0
    """How many disputes about its jobs are open."""
    upheld_disputes: int = 0
    """How many disputes about its jobs were upheld."""
    rejected_disputes: int = 0
    """How many disputes about its jobs were rejected."""
    canaries: List[Canary] = field(default_factory=list)
    """The market's checks of its work within seven days before and after the end of the job, newest
    first; at most 50.
    """
    KINDS: ClassVar[Mapping[str, str]] = {"attempts": "list PastAttempt", "canaries": "list Canary"}


@dataclass(frozen=True, eq=False, repr=False)
class Earnings(Model):
    """A provider's earnings, in halala."""

    total_halala: int = 0
    """The sum of all payouts so far."""
    claimable_halala: int = 0
    """The amount that can be withdrawn now: payouts that have matured, less any debt."""
    today_halala: int = 0
    """The payouts of today: since midnight UTC."""
    this_week_halala: int = 0
    """The payouts of this week, including today: since Monday, midnight UTC (ISO 8601 weeks)."""
    maturing_halala: int = 0
    """Payouts that are not old enough to be withdrawn."""
    held_halala: int = 0
    """What waits for a decision of an operator: disputed payouts and the open withdrawal request."""
    disputed_halala: int = 0
    """The part of `held_halala` that renters dispute."""
    debt_halala: int = 0
    """What the provider owes, because it had withdrawn the payouts of charges that were refunded. It
    is repaid from what could be withdrawn otherwise.
    """
    maturing_hours: Optional[int] = None
    """How long the provider's payouts mature now, in hours. Absent while they do not."""
    total_micro_halala: int = 0
    """Exactly, in millionths of a halala; the field without ``_micro`` is cut to whole halala."""
    claimable_micro_halala: int = 0
    """Exactly, in millionths of a halala; the field without ``_micro`` is cut to whole halala."""
    today_micro_halala: int = 0
    """Exactly, in millionths of a halala; the field without ``_micro`` is cut to whole halala."""
    this_week_micro_halala: int = 0
    """Exactly, in millionths of a halala; the field without ``_micro`` is cut to whole halala."""
    maturing_micro_halala: int = 0
    """Exactly, in millionths of a halala; the field without ``_micro`` is cut to whole halala."""
    held_micro_halala: int = 0
    """Exactly, in millionths of a halala; the field without ``_micro`` is cut to whole halala."""
    disputed_micro_halala: int = 0
    """Exactly, in millionths of a halala; the field without ``_micro`` is cut to whole halala."""
    debt_micro_halala: int = 0
    """Exactly, in millionths of a halala; the field without ``_micro`` is cut to whole halala."""


@dataclass(frozen=True, eq=False, repr=False)
class EndedBatch(Model):
    """A batch that has ended."""

    id: str = ""
    """The batch's id, as the clients of other APIs read it from an event."""
    total: int = 0
    """How many lines it had."""
    completed: int = 0
    """How many of them are in its output file."""
    failed: int = 0
    """How many of them are in its error file."""
    charged_halala: int = 0
    """What its jobs cost together, in halala, rounded down."""


@dataclass(frozen=True, eq=False, repr=False)
class EndedJob(Model):
    """A job that has ended. Its fields are those of the job in the API, and the two sums of the bill
    that matter most.
    """

    job_id: str = ""
    """The job's id."""
    job_type: str = ""
    """The job type."""
    status: str = ""
    """The final state."""
    charged_halala: int = 0
    """The charge, in halala."""
    refunded_halala: int = 0
    """The amount of the hold that returned to the wallet, in halala."""
    failure_reason: Optional[str] = None
    """Why the job did not complete. Absent if it completed."""
    failure_message: Optional[str] = None
    """The same as a sentence for people. Absent if it completed."""
    provider_id: Optional[int] = None
    """The id of the provider that ran the job, or that it names. Absent if there is none."""
    model: Optional[str] = None
    """The model that the job used. Present for inference jobs."""
    created_at: Optional[datetime] = None
    """When it was submitted."""
    started_at: Optional[datetime] = None
    """When its last attempt started to run. Absent if none did."""
    ended_at: Optional[datetime] = None
    """When it ended."""
    billing: Optional[Billing] = None
    """The bill, with the billed time."""
    KINDS: ClassVar[Mapping[str, str]] = {
        "created_at": "time",
        "started_at": "time",
        "ended_at": "time",
        "billing": "Billing",
    }


@dataclass(frozen=True, eq=False, repr=False)
class ErrorFacts(Model):
    """The format of every error. Only the facts that apply are present."""

    field: Optional[str] = None
    """The field at fault, as a path in the body or query, such as `params.messages[0].role`."""
    balance_halala: Optional[int] = None
    """The wallet's current balance, in halala: holds are already subtracted."""
    required_halala: Optional[int] = None
    """The amount that the request needs, in halala, such as the job's hold."""
    shortfall_halala: Optional[int] = None
    """The missing amount, in halala: `required_halala` minus `balance_halala`."""
    charged_halala: Optional[int] = None
    """The amount charged, in halala."""
    refunded_halala: Optional[int] = None
    """The amount returned to the wallet, in halala."""
    status: Optional[str] = None
    """The state of the object that prevents the operation, such as `offline` or `completed`."""
    reason: Optional[str] = None
    """Why the job ended, such as `PROMPT_TOO_LONG`."""
    advice: Optional[str] = None
    """What to do about the error, for people."""
    retry_after_seconds: Optional[int] = None
    """How long to wait before the next request, in seconds; also sent as the header `Retry-After`."""
    request_id: Optional[str] = None
    """The id under which the server logged the fault."""
    limit: Optional[str] = None
    """The limit that was reached: `address`, `key`, `registration` or `failed-key`; also named in the
    header `RateLimit`.
    """
    limit_per_minute: Optional[int] = None
    """How many requests this limit allows per minute."""
    open_jobs: Optional[int] = None
    """How many jobs of the account have not ended."""
    size_bytes: Optional[int] = None
    """The size of the whole file, in bytes."""
    partial_bytes: Optional[int] = None
    """The size of the text that the job wrote before it failed or was cancelled, in bytes. It can be
    fetched with `partial=true`.
    """
    stored_bytes: Optional[int] = None
    """How many bytes are kept for the account."""
    stored_bytes_limit: Optional[int] = None
    """How many bytes may be kept for the account."""
    budget: Optional[str] = None
    """The budget of the key that was reached: `day`, `month` or `total`."""
    budget_halala: Optional[int] = None
    """That budget, in halala."""
    used_halala: Optional[int] = None
    """What the key has spent and what its open jobs hold in that day or month, or in all, in halala."""
    received_bytes: Optional[int] = None
    """How many bytes of the input have arrived; the next piece begins there."""
    free_bytes: Optional[int] = None
    """How many more bytes may be kept for the account."""


@dataclass(frozen=True, eq=False, repr=False)
class ExplainJobResponse(Model):
    """Why the job is in its current state."""

    job_id: str = ""
    """The job's id."""
    status: str = ""
    """The job's state."""
    code: str = ""
    """Why it is in that state."""
    message: str = ""
    """The same as a sentence for people."""
    queue_position: Optional[int] = None
    """The job's position in the queue: 1 plus the number of jobs ahead of it that compete for the same
    providers. Present while the job is queued and among the first 500.
    """
    estimated_start_seconds: Optional[int] = None
    """When the job may start, in seconds from now, estimated from the run limits of the jobs ahead of
    it. Absent if there is no basis for an estimate.
    """
    providers: List[ConsideredProvider] = field(default_factory=list)
    """The providers that were considered, sorted by how soon they could run the job; at most 50."""
    attempts: List[JobAttempt] = field(default_factory=list)
    """Every lease of the job that was offered, oldest first. If there are more than 100, only the
    newest 100.
    """
    failure_reason: Optional[str] = None
    """Why the job failed. Present if it failed."""
    preparation: Optional[JobPreparation] = None
    """How far the provider is with what the job needs before its start. Present while it is `assigned`
    and the provider fetches something.
    """
    KINDS: ClassVar[Mapping[str, str]] = {
        "providers": "list ConsideredProvider",
        "attempts": "list JobAttempt",
        "preparation": "JobPreparation",
    }


@dataclass(frozen=True, eq=False, repr=False)
class ExportOwnDataResponse(Model):
    """One page of the export. Each list continues where the list of the previous page ended."""

    renter: Optional[ExportedRenter] = None
    """The profile. Present on every page."""
    webhook: Optional[Webhook] = None
    """The webhook, without its secret. Present on every page; absent if no webhook is set."""
    keys: List[Key] = field(default_factory=list)
    """The keys, newest first, without their secret parts."""
    deliveries: List[ExportedDelivery] = field(default_factory=list)
    """The deliveries to the webhook, newest first."""
    jobs: List[ExportedJob] = field(default_factory=list)
    """The jobs, newest first."""
    attempts: List[ExportedAttempt] = field(default_factory=list)
    """The attempts of these jobs, with what each attempt wrote."""
    ledger: List[LedgerLine] = field(default_factory=list)
    """The statement: every change of the renter's balance, newest first."""
    disputes: List[Dispute] = field(default_factory=list)
    """The disputes, newest first."""
    inputs: List[ExportedUpload] = field(default_factory=list)
    """What was uploaded for jobs and batches, newest first."""
    batches: List[Batch] = field(default_factory=list)
    """The batches, newest first."""
    next_page: Optional[str] = None
    """Pass it as `page` to get the next page. Absent on the last page."""
    KINDS: ClassVar[Mapping[str, str]] = {
        "renter": "ExportedRenter",
        "webhook": "Webhook",
        "keys": "list Key",
        "deliveries": "list ExportedDelivery",
        "jobs": "list ExportedJob",
        "attempts": "list ExportedAttempt",
        "ledger": "list LedgerLine",
        "disputes": "list Dispute",
        "inputs": "list ExportedUpload",
        "batches": "list Batch",
    }


@dataclass(frozen=True, eq=False, repr=False)
class ExportedAttempt(Model):
    """One lease of a job, with everything that its run wrote and that is still stored."""

    job_id: str = ""
    """The job's id."""
    attempt: Optional[JobAttempt] = None
    """The lease and its outcome. Its `attempt` is 0 for an offer that no daemon accepted."""
    output: Optional[str] = None
    """The output, if it is text."""
    output_data: Optional[str] = None
    """The output, if it is not valid UTF-8; encoded as base64 in JSON."""
    log: Optional[str] = None
    """The log, if it is text."""
    log_data: Optional[str] = None
    """The log, if it is not valid UTF-8; encoded as base64 in JSON."""
    failure_reason: Optional[str] = None
    """Why the attempt failed. Present if it failed."""
    artifacts: List[Artifact] = field(default_factory=list)
    """The files of the attempt that are still stored, sorted by name, without their bytes: download
    them from `/api/jobs/{job_id}/artifacts/{name}`.
    """
    KINDS: ClassVar[Mapping[str, str]] = {"attempt": "JobAttempt", "artifacts": "list Artifact"}


@dataclass(frozen=True, eq=False, repr=False)
class ExportedDelivery(Model):
    """One delivery to the webhook."""

    delivery: Optional[WebhookDelivery] = None
    """The state of the delivery."""
    body: str = ""
    """The body that was sent, byte for byte. Empty: nothing was sent yet."""
    KINDS: ClassVar[Mapping[str, str]] = {"delivery": "WebhookDelivery"}


@dataclass(frozen=True, eq=False, repr=False)
class ExportedJob(Model):
    """One job with its parameters as submitted."""

    job: Optional[Job] = None
    """The job as GetJob shows it, with its bill."""
    container_spec: Optional[ContainerSpec] = None
    """The container that was requested."""
    params: Optional[JobParams] = None
    """The parameters of the job, including prompts."""
    gpu_requirements: Optional[GpuRequirements] = None
    """The requirements on the provider."""
    named_provider_id: Optional[int] = None
    """The id of the provider that the job named. Absent if it named none."""
    limit_seconds: float = 0.0
    """The greatest time that the job may run, limited by its duration and its greatest charge, in
    seconds, to the millisecond.
    """
    start_within_seconds: int = 0
    """How long the job may wait until a provider accepts it, in seconds."""
    cancel_requested_at: Optional[datetime] = None
    """When its cancellation was first requested. Absent if it was not."""
    idempotency_key: Optional[str] = None
    """The `Idempotency-Key` of the request that submitted it."""
    content_type: str = ""
    """The media type of the output."""
    output_truncated: bool = False
    """The output was truncated."""
    chat_request: Optional[str] = None
    """The conversation of a chat, as JSON. Absent for other jobs."""
    embeddings_request: Optional[str] = None
    """What a job of the type `embeddings` was to embed, as JSON. Absent for other jobs."""
    KINDS: ClassVar[Mapping[str, str]] = {
        "job": "Job",
        "container_spec": "ContainerSpec",
        "params": "JobParams",
        "gpu_requirements": "GpuRequirements",
        "cancel_requested_at": "time",
    }


@dataclass(frozen=True, eq=False, repr=False)
class ExportedRenter(Model):
    """The account."""

    id: int = 0
    """The renter's id."""
    name: str = ""
    """The renter's name."""
    email: str = ""
    """The renter's e-mail address."""
    organization: str = ""
    """The renter's organization."""
    phone: str = ""
    """A telephone number in international form."""
    suspended: bool = False
    """An operator suspended the account."""
    created_at: Optional[datetime] = None
    """When it registered."""
    balance_halala: int = 0
    """The amount that can be spent now, in halala."""
    held_halala: int = 0
    """The sum of the holds of all open jobs, in halala."""
    email_verified_at: Optional[datetime] = None
    """When its e-mail address was proven. Absent if it was not."""
    KINDS: ClassVar[Mapping[str, str]] = {"created_at": "time", "email_verified_at": "time"}


@dataclass(frozen=True, eq=False, repr=False)
class ExportedUpload(Model):
    """An upload of the renter. Its bytes are not in the export."""

    input: Optional[InputRecord] = None
    """The upload."""
    purpose: str = ""
    """What it is for: `job` or `batch`."""
    KINDS: ClassVar[Mapping[str, str]] = {"input": "InputRecord"}


@dataclass(frozen=True, eq=False, repr=False)
class FailedCalls(Model):
    """Calls that failed."""

    method: str = ""
    """The method, such as `JobService/GetJob`."""
    calls: int = 0
    """How many of its calls failed."""


@dataclass(frozen=True, eq=False, repr=False)
class FailedJobs(Model):
    """Jobs that failed for one reason."""

    reason: str = ""
    """The reason."""
    jobs: int = 0
    """How many jobs."""


class FailureReason:
    """Why a job did not complete.

    * `PROMPT_TOO_LONG`: The prompt and the requested tokens do not fit into the model's context:
      shorten `params.prompt` or lower `params.max_tokens`. Not charged.
    * `MODEL_NOT_SERVED`: The provider's daemon no longer serves the model. Not charged.
    * `ENGINE_FAILED`: The model server or the runner failed. Not charged.
    * `DURATION_LIMIT`: The job reached its `duration_minutes` or `max_cost_halala`. The time that
      it ran is charged.
    * `PROVIDER_LOST`: The provider stopped sending heartbeats and no further attempt is left. Not
      charged.
    * `PROVIDER_DRAINED`: The provider's owner stopped the daemon or needed the GPU, and no further
      attempt is left. Not charged.
    * `CANCELLED`: The renter or an operator cancelled the job.
    * `BAD_PARAMS`: The model server rejected the parameters: correct `params`. Not charged.
    * `OUTPUT_TOO_LARGE`: The job left more files or larger files than the limits allow, or an image
      larger than the limit for an output. The time that it ran is charged.
    * `START_DEADLINE`: No provider started the job within its `start_within_seconds`. Not charged.
    * `IMAGE_NOT_ALLOWED`: The provider's owner does not allow this image: name a provider that
      allows it. Not charged.
    * `IMAGE_PULL_FAILED`: The image does not exist, is too large, or its registry cannot be
      reached. Not charged.
    * `CONTAINER_EXIT`: The job's program ended with an exit code other than 0. The time that it ran
      is charged.
    * `OUT_OF_MEMORY`: The job's program used more memory than the provider allows a job. The time
      that it ran is charged.
    * `DISK_LIMIT`: The job's program filled `/output` or `/tmp`. The time that it ran is charged.
    * `CONTAINER_ENGINE_UNAVAILABLE`: The provider's container engine does not answer. Not charged.
    * `CONTAINER_START_FAILED`: The container could not be started: correct
      `container_spec.command`. Not charged.
    * `PROCESS_LIMIT`: The job's program needed more processes and threads than it may have, and
      failed. The time that it ran is charged.
    * `GPU_FAILED`: The GPU that ran the job failed and no further attempt is left. Not charged.
    * `ENGINE_BUSY`: The provider's model server was busy with other requests and no further attempt
      is left: submit the job again later. Not charged.
    * `NO_ANSWER`: The model wrote no answer before it had used `params.max_tokens`, for example
      because it spent them on thinking: raise `params.max_tokens`. Not charged.
    * `OTHER_ARCHITECTURE`: The image is for another processor than the provider's, and no further
      attempt is left: set `container_spec.architecture`. Not charged.
    * `IMPOSSIBLE_REPORT`: The provider's daemon reported an end that this job cannot have, or
      cancelled it although nobody had asked for that. Not charged.
    * `INPUT_REFUSED`: The provider did not take the job's inputs: a tar has names or links that
      lead out of its folder, devices, or more files or bytes than it unpacks, or two inputs lie at
      one place. Not charged.

    New values can be added: accept one that you do not know.
    """

    PROMPT_TOO_LONG = "PROMPT_TOO_LONG"
    MODEL_NOT_SERVED = "MODEL_NOT_SERVED"
    ENGINE_FAILED = "ENGINE_FAILED"
    DURATION_LIMIT = "DURATION_LIMIT"
    PROVIDER_LOST = "PROVIDER_LOST"
    PROVIDER_DRAINED = "PROVIDER_DRAINED"
    CANCELLED = "CANCELLED"
    BAD_PARAMS = "BAD_PARAMS"
    OUTPUT_TOO_LARGE = "OUTPUT_TOO_LARGE"
    START_DEADLINE = "START_DEADLINE"
    IMAGE_NOT_ALLOWED = "IMAGE_NOT_ALLOWED"
    IMAGE_PULL_FAILED = "IMAGE_PULL_FAILED"
    CONTAINER_EXIT = "CONTAINER_EXIT"
    OUT_OF_MEMORY = "OUT_OF_MEMORY"
    DISK_LIMIT = "DISK_LIMIT"
    CONTAINER_ENGINE_UNAVAILABLE = "CONTAINER_ENGINE_UNAVAILABLE"
    CONTAINER_START_FAILED = "CONTAINER_START_FAILED"
    PROCESS_LIMIT = "PROCESS_LIMIT"
    GPU_FAILED = "GPU_FAILED"
    ENGINE_BUSY = "ENGINE_BUSY"
    NO_ANSWER = "NO_ANSWER"
    OTHER_ARCHITECTURE = "OTHER_ARCHITECTURE"
    IMPOSSIBLE_REPORT = "IMPOSSIBLE_REPORT"
    INPUT_REFUSED = "INPUT_REFUSED"


@dataclass(frozen=True, eq=False, repr=False)
class FullDisk(Model):
    """A disk with too little room."""

    place: str = ""
    """What is on it: `files` of jobs, or `database`."""
    free_bytes: int = 0
    """The room that is left, in bytes."""
    total_bytes: int = 0
    """The whole size, in bytes."""


@dataclass(frozen=True, eq=False, repr=False)
class GetDashboardResponse(Model):
    """The dashboard."""

    stats: Optional[DashboardStats] = None
    """The figures."""
    jobs_by_state: Dict[str, int] = field(default_factory=dict)
    """The number of jobs by state."""
    providers_by_gpu: Dict[str, int] = field(default_factory=dict)
    """The number of providers by GPU model."""
    gpus: List[GpuFigures] = field(default_factory=list)
    """The 100 most frequent GPU models."""
    recent_signups: List[Signup] = field(default_factory=list)
    """The newest 10 accounts."""
    KINDS: ClassVar[Mapping[str, str]] = {
        "stats": "DashboardStats",
        "jobs_by_state": "map plain",
        "providers_by_gpu": "map plain",
        "gpus": "list GpuFigures",
        "recent_signups": "list Signup",
    }


@dataclass(frozen=True, eq=False, repr=False)
class GetDisputeResponse(Model):
    """A dispute with its evidence."""

    dispute: Optional[Dispute] = None
    """The dispute."""
    job: Optional[Job] = None
    """The job, with its times and its bill."""
    attempts: List[JobAttempt] = field(default_factory=list)
    """Every lease of the job that was offered, oldest first. If there are more than 100, only the
    newest 100.
    """
    output: str = ""
    """The first 64 KiB of the output. Bytes that are not valid UTF-8 are replaced. Empty for an image,
    and if it is no longer kept.
    """
    output_truncated: bool = False
    """The output is longer."""
    log: str = ""
    """The first 64 KiB of the log."""
    log_truncated: bool = False
    """The log is longer."""
    provider: Optional[DisputedProvider] = None
    """The provider's record."""
    KINDS: ClassVar[Mapping[str, str]] = {
        "dispute": "Dispute",
        "job": "Job",
        "attempts": "list JobAttempt",
        "provider": "DisputedProvider",
    }


@dataclass(frozen=True, eq=False, repr=False)
class GetHealthResponse(Model):
    """How the marketplace is doing."""

    as_of: Optional[datetime] = None
    """When the figures were read."""
    queues: List[WaitingQueue] = field(default_factory=list)
    """What waits, by model, type of job or named provider, in the queue's order; at most 20."""
    more_queues: bool = False
    """More queues wait than are listed."""
    sessions: Optional[SessionFigures] = None
    """The daemons."""
    calls: Optional[CallFigures] = None
    """The calls that this server answered within the last hour, or since its start."""
    jobs: Optional[JobFigures] = None
    """The jobs that ended within the last hour."""
    disks: List[FullDisk] = field(default_factory=list)
    """The disks that this server fills. Empty if it fills none, and until they were read."""
    incidents: List[Incident] = field(default_factory=list)
    """The incidents that last; at most one for each condition."""
    payouts: Optional[WaitingPayouts] = None
    """The withdrawal requests that are open."""
    open_disputes: int = 0
    """How many disputes are open."""
    ledger_balanced: Optional[bool] = None
    """Whether the newest proof of the ledger's changes balanced. Absent before the first proof."""
    KINDS: ClassVar[Mapping[str, str]] = {
        "as_of": "time",
        "queues": "list WaitingQueue",
        "sessions": "SessionFigures",
        "calls": "CallFigures",
        "jobs": "JobFigures",
        "disks": "list FullDisk",
        "incidents": "list Incident",
        "payouts": "WaitingPayouts",
    }


@dataclass(frozen=True, eq=False, repr=False)
class GetInputResponse(Model):
    """The input."""

    input: Optional[InputRecord] = None
    """The input."""
    KINDS: ClassVar[Mapping[str, str]] = {"input": "InputRecord"}


@dataclass(frozen=True, eq=False, repr=False)
class GetJobLogsResponse(Model):
    """A job's log, or the part of it that follows `after_seq`."""

    job_id: str = ""
    """The job's id."""
    status: str = ""
    """The job's state."""
    lease_epoch: int = 0
    """The epoch of the lease that wrote the log. If it differs from that of an earlier response, the
    job was started again and its log begins again.
    """
    log: str = ""
    """The text of the log. Bytes that are not valid UTF-8 are replaced."""
    through_seq: int = 0
    """The number of the last piece in `log`."""
    is_complete: bool = False
    """The job has ended: the log is complete."""


@dataclass(frozen=True, eq=False, repr=False)
class GetJobOutputResponse(Model):
    """The job's output, or its progress towards one."""

    availability: str = ""
    """Whether the output is available."""
    status: str = ""
    """The job's state."""
    message: Optional[str] = None
    """What to do next, as a sentence for people. Present while there is no output."""
    type: Optional[str] = None
    """The kind of output: `text`, `image` or `embeddings`."""
    response: Optional[str] = None
    """The text of the output."""
    data: Optional[str] = None
    """The bytes of an image, encoded as base64 in JSON."""
    content_type: Optional[str] = None
    """The media type of the output."""
    billing: Optional[Billing] = None
    """The bill. Present when the job has ended."""
    usage: Optional[Usage] = None
    """The model server's own counts."""
    job_id: str = ""
    """The job's id."""
    truncated: bool = False
    """The run wrote more output than the limit. The text was truncated and ends with a line that says
    how much is missing.
    """
    partial: bool = False
    """The job failed or was cancelled, and the text is what it wrote before that. Only with
    `partial=true`.
    """
    chunks: Optional[str] = None
    """Of a job that came through `/v1`: the chunks of the model server, a JSON object a line, from
    which the text is drawn. They also have tool calls, what the model thought, further choices, and
    why each ended. Of `embeddings`: the vectors, a JSON object a line with the `index` of its text
    and the `embedding`, which is base64 of 32-bit floating-point numbers, the least significant
    byte first.
    """
    KINDS: ClassVar[Mapping[str, str]] = {"billing": "Billing", "usage": "Usage"}


@dataclass(frozen=True, eq=False, repr=False)
class GetJobResponse(Model):
    """The job as it is now."""

    job: Optional[Job] = None
    """The job."""
    KINDS: ClassVar[Mapping[str, str]] = {"job": "Job"}


@dataclass(frozen=True, eq=False, repr=False)
class GetOperatorWebhookResponse(Model):
    """The address, if one is set."""

    webhook: Optional[Webhook] = None
    """The address. Absent if none is set."""
    KINDS: ClassVar[Mapping[str, str]] = {"webhook": "Webhook"}


@dataclass(frozen=True, eq=False, repr=False)
class GetOwnEarningsResponse(Model):
    """The provider's earnings."""

    days: List[DayEarnings] = field(default_factory=list)
    """All days, newest first, including days without earnings."""
    earned_halala: int = 0
    """The sum of the payouts on these days, in halala."""
    jobs: int = 0
    """The number of jobs in this sum."""
    by_job_type: Dict[str, int] = field(default_factory=dict)
    """The same sum by job type, in halala."""
    claimable_halala: int = 0
    """The amount that can be withdrawn now, in halala."""
    maturing_halala: int = 0
    """Payouts that are not old enough to be withdrawn, in halala."""
    held_halala: int = 0
    """Disputed payouts and the open withdrawal request, in halala."""
    debt_halala: int = 0
    """What the provider owes, in halala."""
    earned_micro_halala: int = 0
    """Exactly, in millionths of a halala; the field without ``_micro`` is cut to whole halala."""
    claimable_micro_halala: int = 0
    """Exactly, in millionths of a halala; the field without ``_micro`` is cut to whole halala."""
    maturing_micro_halala: int = 0
    """Exactly, in millionths of a halala; the field without ``_micro`` is cut to whole halala."""
    held_micro_halala: int = 0
    """Exactly, in millionths of a halala; the field without ``_micro`` is cut to whole halala."""
    debt_micro_halala: int = 0
    """Exactly, in millionths of a halala; the field without ``_micro`` is cut to whole halala."""
    by_job_type_micro: Dict[str, int] = field(default_factory=dict)
    """Exactly, in millionths of a halala; the field without ``_micro`` is cut to whole halala."""
    KINDS: ClassVar[Mapping[str, str]] = {
        "days": "list DayEarnings",
        "by_job_type": "map plain",
        "by_job_type_micro": "map plain",
    }


@dataclass(frozen=True, eq=False, repr=False)
class GetOwnMetricsResponse(Model):
    """One time series for each GPU that was reported in the range."""

    range: str = ""
    """The time range of the series."""
    point_seconds: int = 0
    """The length of the period that each point covers, in seconds."""
    gpus: List[GpuSeries] = field(default_factory=list)
    """The GPUs, sorted by index. If there are more than 64, the 64 that were reported most recently."""
    KINDS: ClassVar[Mapping[str, str]] = {"gpus": "list GpuSeries"}


@dataclass(frozen=True, eq=False, repr=False)
class GetOwnMissedJobsResponse(Model):
    """What the provider misses."""

    waiting: List[WaitingNeeds] = field(default_factory=list)
    """What waits now, and the obstacle that keeps it from the provider; what is wanted most comes
    first.
    """
    offers: List[MissedOffer] = field(default_factory=list)
    """The newest offers that ended before the daemon accepted them, newest first."""
    KINDS: ClassVar[Mapping[str, str]] = {"waiting": "list WaitingNeeds", "offers": "list MissedOffer"}


@dataclass(frozen=True, eq=False, repr=False)
class GetOwnOperatorResponse(Model):
    """Who calls."""

    operator: Optional[Operator] = None
    """The operator; for the admin token, an admin with the id 0."""
    by: str = ""
    """What the request carried."""
    expires_at: Optional[datetime] = None
    """When the log-in or the key ends. Absent for the admin token."""
    KINDS: ClassVar[Mapping[str, str]] = {"operator": "Operator", "expires_at": "time"}


@dataclass(frozen=True, eq=False, repr=False)
class GetOwnProviderResponse(Model):
    """The provider's own profile."""

    provider: Optional[Provider] = None
    """The account and its machine."""
    recent_jobs: List[Job] = field(default_factory=list)
    """The newest 20 jobs."""
    KINDS: ClassVar[Mapping[str, str]] = {"provider": "Provider", "recent_jobs": "list Job"}


@dataclass(frozen=True, eq=False, repr=False)
class GetOwnRenterResponse(Model):
    """The renter's own profile."""

    renter: Optional[Renter] = None
    """The account and its wallet."""
    recent_jobs: List[Job] = field(default_factory=list)
    """The newest 20 jobs."""
    KINDS: ClassVar[Mapping[str, str]] = {"renter": "Renter", "recent_jobs": "list Job"}


@dataclass(frozen=True, eq=False, repr=False)
class GetOwnSettingsResponse(Model):
    """The provider's settings."""

    settings: Optional[ProviderSettings] = None
    """The settings. Empty if the owner has set no limits."""
    KINDS: ClassVar[Mapping[str, str]] = {"settings": "ProviderSettings"}


@dataclass(frozen=True, eq=False, repr=False)
class GetOwnSpendingResponse(Model):
    """The renter's spending."""

    days: List[DaySpending] = field(default_factory=list)
    """All days, newest first, including days without spending."""
    spent_halala: int = 0
    """The sum of the charges on these days, in halala."""
    jobs: int = 0
    """The number of jobs in this sum."""
    by_job_type: Dict[str, int] = field(default_factory=dict)
    """The same sum by job type, in halala."""
    spent_micro_halala: int = 0
    """Exactly, in millionths of a halala; the field without ``_micro`` is cut to whole halala."""
    KINDS: ClassVar[Mapping[str, str]] = {"days": "list DaySpending", "by_job_type": "map plain"}


@dataclass(frozen=True, eq=False, repr=False)
class GetOwnUsageResponse(Model):
    """One page of usage."""

    rows: List[UsageRow] = field(default_factory=list)
    """The rows, ordered by day, key and model."""
    next_after: Optional[str] = None
    """Pass it as `after` to get the next page. Absent on the last page."""
    KINDS: ClassVar[Mapping[str, str]] = {"rows": "list UsageRow"}


@dataclass(frozen=True, eq=False, repr=False)
class GetPayoutEvidenceResponse(Model):
    """What is known about a withdrawal request."""

    withdrawal: Optional[Withdrawal] = None
    """The request."""
    provider: Optional[Provider] = None
    """The provider that made it."""
    payers: List[Payer] = field(default_factory=list)
    """The renters that paid it most, up to a minute ago; at most 20."""
    earlier: List[Withdrawal] = field(default_factory=list)
    """Its earlier requests, newest first; at most 20."""
    same_bank_account: List[int] = field(default_factory=list)
    """Other providers that withdrew to the same bank account; at most 20."""
    open_disputes: int = 0
    """How many disputes about its jobs are open."""
    upheld_disputes: int = 0
    """How many disputes about its jobs were upheld."""
    findings: List[PayoutFinding] = field(default_factory=list)
    """What asks for a second look. Empty if nothing does."""
    KINDS: ClassVar[Mapping[str, str]] = {
        "withdrawal": "Withdrawal",
        "provider": "Provider",
        "payers": "list Payer",
        "earlier": "list Withdrawal",
        "same_bank_account": "list plain",
        "findings": "list PayoutFinding",
    }


@dataclass(frozen=True, eq=False, repr=False)
class GetProviderAccountResponse(Model):
    """A provider's account."""

    provider: Optional[Provider] = None
    """Its profile, its machine and its earnings."""
    KINDS: ClassVar[Mapping[str, str]] = {"provider": "Provider"}


@dataclass(frozen=True, eq=False, repr=False)
class GetProviderMetricsResponse(Model):
    """One time series for each GPU that was reported in the range."""

    range: str = ""
    """The time range of the series."""
    point_seconds: int = 0
    """The length of the period that each point covers, in seconds."""
    gpus: List[GpuSeries] = field(default_factory=list)
    """The GPUs, sorted by index. If there are more than 64, the 64 that were reported most recently."""
    KINDS: ClassVar[Mapping[str, str]] = {"gpus": "list GpuSeries"}


@dataclass(frozen=True, eq=False, repr=False)
class GetRenterAccountResponse(Model):
    """A renter's account."""

    renter: Optional[Renter] = None
    """Its profile and its wallet."""
    suspended: bool = False
    """An operator suspended it."""
    deleted: bool = False
    """The renter deleted it; only its money records remain."""
    KINDS: ClassVar[Mapping[str, str]] = {"renter": "Renter"}


@dataclass(frozen=True, eq=False, repr=False)
class GetWebhookResponse(Model):
    """The address, if one is set."""

    webhook: Optional[Webhook] = None
    """The address. Absent if none is set."""
    KINDS: ClassVar[Mapping[str, str]] = {"webhook": "Webhook"}


@dataclass(frozen=True, eq=False, repr=False)
class GetWithdrawalResponse(Model):
    """A withdrawal request with the bank account to pay."""

    withdrawal: Optional[Withdrawal] = None
    """The request."""
    iban: str = ""
    """The full IBAN."""
    KINDS: ClassVar[Mapping[str, str]] = {"withdrawal": "Withdrawal"}


@dataclass(frozen=True, eq=False, repr=False)
class GpuDevice(Model):
    """One GPU: its fingerprint and a sample."""

    index: int = 0
    """The GPU's index on the machine, counted from 0. It can change when the machine restarts; the
    UUID identifies the GPU. MIG devices have indices from 64: 64 + 8 x the index of their GPU +
    their own.
    """
    uuid: str = ""
    """The UUID that the driver reports, such as `GPU-8f6d...`."""
    gpu_name: Optional[str] = None
    """The product name."""
    gpu_vram_mib: Optional[int] = None
    """Total memory, in MiB."""
    free_vram_mib: Optional[int] = None
    """Free memory, in MiB."""
    memory_used_mb: Optional[int] = None
    """Used memory, in MiB."""
    gpu_util_pct: Optional[float] = None
    """Utilization in the last sample period, in percent."""
    temp_c: Optional[float] = None
    """Core temperature, in degrees Celsius."""
    power_w: Optional[float] = None
    """Power draw, in watts."""
    state: Optional[str] = None
    """Whether the GPU may get work."""
    state_reason: Optional[str] = None
    """Why the GPU is not healthy. Absent if it is healthy."""
    throttled: Optional[bool] = None
    """Whether the GPU runs below its full speed now. Absent if the driver does not report it."""
    throttle_reasons: List[str] = field(default_factory=list)
    """The reasons why it runs below its full speed."""
    ecc_enabled: Optional[bool] = None
    """Whether ECC is enabled. Absent if the GPU's memory has no ECC."""
    ecc_volatile_uncorrected: Optional[int] = None
    """The number of memory errors since the driver was loaded that ECC could not correct."""
    ecc_aggregate_uncorrected: Optional[int] = None
    """The number of memory errors in the GPU's lifetime that ECC could not correct."""
    row_remap_pending: Optional[bool] = None
    """A damaged row of the GPU's memory will be replaced at the next reset."""
    row_remap_failed: Optional[bool] = None
    """A damaged row of the GPU's memory could not be replaced."""
    retired_pages_pending: Optional[bool] = None
    """A damaged page of the GPU's memory will be retired at the next restart. Older GPUs retire pages
    instead of replacing rows.
    """
    xid_count: Optional[int] = None
    """The number of Xid errors since the daemon's start that the GPU caused, not a program. Absent if
    the daemon cannot watch Xid errors.
    """
    last_xid: Optional[int] = None
    """The number of the last of these Xid errors in NVIDIA's list."""
    foreign_processes: Optional[int] = None
    """The number of compute processes on the GPU that the daemon did not start."""
    foreign_memory_mib: Optional[int] = None
    """The GPU memory that these processes use, in MiB."""
    persistence_mode: Optional[bool] = None
    """Whether the driver stays loaded while no program uses the GPU."""
    compute_capability: Optional[str] = None
    """CUDA compute capability, such as `8.9`."""
    vram_is_shared: Optional[bool] = None
    """The GPU has no memory of its own and uses the machine's, as a GB10 or a Jetson does. Its figures
    of memory are then those of the machine. Absent if it has its own.
    """
    KINDS: ClassVar[Mapping[str, str]] = {"throttle_reasons": "list plain"}


class GpuFault:
    """Why a GPU is not healthy.

    * `LOST`: The GPU has stopped answering or must be reset.
    * `XID`: The driver reported a critical Xid error, after which a GPU must be reset or inspected;
      `last_xid` is its number.
    * `ECC`: The GPU's memory had an error that ECC could not correct.
    * `ROW_REMAP`: The GPU could not replace a damaged row of its memory.
    * `DRIVER_LOST`: The driver of the machine does not answer.

    New values can be added: accept one that you do not know.
    """

    LOST = "LOST"
    XID = "XID"
    ECC = "ECC"
    ROW_REMAP = "ROW_REMAP"
    DRIVER_LOST = "DRIVER_LOST"


@dataclass(frozen=True, eq=False, repr=False)
class GpuFigures(Model):
    """The number of providers that have one GPU model."""

    gpu_model: str = ""
    """The GPU's name; `unknown` for providers that reported none."""
    providers: int = 0
    """How many providers have it."""
    live: int = 0
    """How many of them are live."""


@dataclass(frozen=True, eq=False, repr=False)
class GpuPoint(Model):
    """The samples of a GPU within the period of one point. A value that the machine cannot measure is
    absent, never 0.
    """

    at: Optional[datetime] = None
    """When the period of the point begins."""
    gpu_util_pct: Optional[float] = None
    """Average utilization, in percent."""
    memory_used_mb: Optional[float] = None
    """Average used memory, in MiB."""
    temp_c: Optional[float] = None
    """Average core temperature, in degrees Celsius."""
    power_w: Optional[float] = None
    """Average power draw, in watts."""
    max_memory_used_mb: Optional[float] = None
    """Greatest used memory, in MiB."""
    max_temp_c: Optional[float] = None
    """Highest core temperature, in degrees Celsius."""
    max_power_w: Optional[float] = None
    """Highest power draw, in watts."""
    KINDS: ClassVar[Mapping[str, str]] = {"at": "time"}


@dataclass(frozen=True, eq=False, repr=False)
class GpuRequirements(Model):
    """What a provider must have to get a job that names no provider."""

    gpu_model: str = ""
    """The GPU model, such as `RTX 4090` or `A100 80GB`. Other spellings of the same model are
    understood; a name that is not known is compared without case and spaces.
    """
    min_vram_gb: Optional[float] = None
    """The least total memory of a GPU, in GB (1,024 MiB)."""


@dataclass(frozen=True, eq=False, repr=False)
class GpuSeries(Model):
    """The time series of one GPU. A GPU is identified by its UUID."""

    uuid: Optional[str] = None
    """The GPU's UUID. Absent if the machine does not report one; the index then identifies the GPU."""
    index: int = 0
    """The GPU's index on the machine, as last reported."""
    gpu_name: Optional[str] = None
    """The GPU's product name, as last reported."""
    points: List[GpuPoint] = field(default_factory=list)
    """The points, oldest first; at most 120. A period without a sample has no point."""
    KINDS: ClassVar[Mapping[str, str]] = {"points": "list GpuPoint"}


class GpuState:
    """Whether a GPU may be given work.

    * `healthy`: The GPU works.
    * `failed`: The GPU failed. It gets no work, and the daemon released the leases of the jobs that
      ran on it.
    * `unknown`: The driver does not answer, so the state is unknown. The GPU gets no new work.
    * `drained`: The GPU works, and the machine's owner keeps it: the owner drained it, or a program
      of the owner uses it. It gets no new work.

    New values can be added: accept one that you do not know.
    """

    HEALTHY = "healthy"
    FAILED = "failed"
    UNKNOWN = "unknown"
    DRAINED = "drained"


@dataclass(frozen=True, eq=False, repr=False)
class GpuStatus(Model):
    """A report of a provider's machine about itself and its GPUs. It combines the fingerprint (facts
    that rarely change, such as name, memory and driver) with a sample (utilization, temperature,
    power). The fields at the top level describe the first GPU; `all_gpus` lists every GPU. A value
    that the machine cannot measure is left out and never sent as 0. Unknown keys are ignored,
    because a daemon can be newer than the server.
    """

    gpu_name: Optional[str] = None
    """The product name of the first GPU, such as `NVIDIA RTX 4090`."""
    gpu_vram_mib: Optional[int] = None
    """Total memory of the first GPU, in MiB."""
    free_vram_mib: Optional[int] = None
    """Free memory of the first GPU, in MiB."""
    memory_used_mb: Optional[int] = None
    """Used memory of the first GPU, in MiB. The name ends in `mb` because the published API uses it."""
    gpu_util_pct: Optional[float] = None
    """Utilization of the first GPU in the last sample period, in percent."""
    temp_c: Optional[float] = None
    """Core temperature of the first GPU, in degrees Celsius."""
    power_w: Optional[float] = None
    """Power draw of the first GPU, in watts."""
    driver_version: Optional[str] = None
    """Version of the NVIDIA driver."""
    compute_capability: Optional[str] = None
    """CUDA compute capability of the first GPU, such as `8.9`."""
    cuda_version: Optional[str] = None
    """The newest CUDA version that the driver supports, such as `12.4`."""
    gpu_count: Optional[int] = None
    """The number of GPUs in the machine."""
    all_gpus: List[GpuDevice] = field(default_factory=list)
    """Every GPU of the machine, sorted by index."""
    daemon_version: Optional[str] = None
    """Version of the daemon."""
    python_version: Optional[str] = None
    """Version of the Python interpreter that runs the daemon."""
    os_info: Optional[str] = None
    """The operating system, as a text for people."""
    container_toolkit_version: Optional[str] = None
    """Version of the NVIDIA Container Toolkit. Absent if it is not installed or does not report its
    version.
    """
    driver_lost: Optional[bool] = None
    """The driver does not answer: it answered earlier and has stopped, or it hangs since the daemon's
    start. Until it answers, the state of the GPUs is unknown.
    """
    vram_is_shared: Optional[bool] = None
    """The first GPU has no memory of its own and uses the machine's, as a GB10 or a Jetson does. Its
    figures of memory are then those of the machine. Absent if it has its own.
    """
    empty_mig_gpus: List[int] = field(default_factory=list)
    """The indices of the GPUs in MIG mode that have no MIG device. No job can use them, so they are
    not in `all_gpus`. Where a GPU has MIG devices, `all_gpus` lists each of these instead of the
    GPU.
    """
    architecture: Optional[str] = None
    """The machine's processor, as images name it: `amd64` or `arm64`."""
    KINDS: ClassVar[Mapping[str, str]] = {"all_gpus": "list GpuDevice", "empty_mig_gpus": "list plain"}


@dataclass(frozen=True, eq=False, repr=False)
class HeartbeatResponse(Model):
    """The answer to a heartbeat."""

    success: bool = False
    """Always true: a failed request is answered in the error format instead."""
    status: str = ""
    """The provider's current status."""
    update_available: bool = False
    """A newer release of the daemon exists than the one that sent the heartbeat."""


@dataclass(frozen=True, eq=False, repr=False)
class Hindrance(Model):
    """A hindrance: it keeps all jobs or some job types from a provider, whatever the job requests."""

    code: str = ""
    """The stable reason."""
    message: str = ""
    """The same as a sentence for people."""
    job_types: List[str] = field(default_factory=list)
    """The job types that it keeps away."""
    KINDS: ClassVar[Mapping[str, str]] = {"job_types": "list plain"}


@dataclass(frozen=True, eq=False, repr=False)
class Incident(Model):
    """Something that is or was wrong with the marketplace."""

    id: int = 0
    """The incident's id: the same in every event about it."""
    condition: str = ""
    """What it is about."""
    severity: str = ""
    """How soon somebody must look."""
    summary: str = ""
    """One sentence for people."""
    runbook: str = ""
    """The section of the documentation that says what to do."""
    began_at: Optional[datetime] = None
    """When the condition was first seen."""
    ended_at: Optional[datetime] = None
    """When the condition was gone. Absent while the incident lasts, and for the ten minutes after it."""
    unserved: Optional[UnservedModels] = None
    """The jobs that wait. Present for `model_unserved`."""
    payouts: Optional[WaitingPayouts] = None
    """The requests that wait. Present for `payouts_wait`."""
    proof: Optional[UncleanProof] = None
    """What the proof found. Present for `proof_unclean`."""
    disks: List[FullDisk] = field(default_factory=list)
    """The disks with too little room. Present for `disk_nearly_full` and `disk_full`."""
    sessions: Optional[LostSessions] = None
    """How many daemons there were and are. Present for `sessions_lost`."""
    KINDS: ClassVar[Mapping[str, str]] = {
        "began_at": "time",
        "ended_at": "time",
        "unserved": "UnservedModels",
        "payouts": "WaitingPayouts",
        "proof": "UncleanProof",
        "disks": "list FullDisk",
        "sessions": "LostSessions",
    }


class IncidentCondition:
    """What an incident is about.

    * `model_unserved`: Jobs that name no provider have waited for `DCP_INCIDENT_UNSERVED_MINUTES`
      or longer for a model that no live provider serves.
    * `payouts_wait`: A withdrawal request has waited for `DCP_INCIDENT_PAYOUT_HOURS` or longer to
      be paid or rejected.
    * `proof_unclean`: The proof of the ledger found discrepancies.
    * `disk_nearly_full`: Of the disk with the files of jobs, or with the SQLite database, less than
      `DCP_INCIDENT_DISK_FREE_PERCENT` is free.
    * `disk_full`: Less than a fifth of that is free.
    * `sessions_lost`: `DCP_INCIDENT_SESSIONS_LOST_PERCENT` or more of the daemons, and at least
      three, went away within a quarter of an hour and stayed away for three minutes.

    New values can be added: accept one that you do not know.
    """

    MODEL_UNSERVED = "model_unserved"
    PAYOUTS_WAIT = "payouts_wait"
    PROOF_UNCLEAN = "proof_unclean"
    DISK_NEARLY_FULL = "disk_nearly_full"
    DISK_FULL = "disk_full"
    SESSIONS_LOST = "sessions_lost"


@dataclass(frozen=True, eq=False, repr=False)
class IncidentEvent(Model):
    """The body of an event about an incident."""

    id: str = ""
    """The event's id."""
    type: str = ""
    """The kind of event."""
    created_at: Optional[datetime] = None
    """When the event happened."""
    data: Optional[Incident] = None
    """The incident as it was then."""
    KINDS: ClassVar[Mapping[str, str]] = {"created_at": "time", "data": "Incident"}


class IncidentSeverity:
    """How soon somebody must look.

    * `page`: Now, also at night.
    * `ticket`: Within a day.

    New values can be added: accept one that you do not know.
    """

    PAGE = "page"
    TICKET = "ticket"


@dataclass(frozen=True, eq=False, repr=False)
class InputRecord(Model):
    """An input."""

    input_id: str = ""
    """Its id."""
    name: str = ""
    """Its name, as announced."""
    size_bytes: int = 0
    """Its size, in bytes."""
    received_bytes: int = 0
    """How many of its bytes have arrived."""
    sha256: str = ""
    """The SHA-256 of the whole input, in hexadecimal."""
    status: str = ""
    """Whether it can be used."""
    created_at: Optional[datetime] = None
    """When it was announced."""
    expires_at: Optional[datetime] = None
    """When it is deleted, unless it is used before."""
    url: Optional[str] = None
    """The address from which the market fetches it. Absent if the account sends it."""
    problem: Optional[str] = None
    """Why it could not be fetched. Announce it again to try again."""
    KINDS: ClassVar[Mapping[str, str]] = {"created_at": "time", "expires_at": "time"}


class InputStatus:
    """Whether an input can be used.

    * `uploading`: Its bytes may arrive.
    * `ready`: It is complete; jobs can name it.

    New values can be added: accept one that you do not know.
    """

    UPLOADING = "uploading"
    READY = "ready"


@dataclass(frozen=True, eq=False, repr=False)
class InviteOperatorAgainResponse(Model):
    """The operator, and the invitation."""

    success: bool = False
    """Always true: a failed request is answered in the error format instead."""
    operator: Optional[Operator] = None
    """The operator."""
    link: str = ""
    """The page that uses the invitation, which is shown only now. Without DCP_PUBLIC_URL it is a path
    on the address by which operators reach the marketplace.
    """
    expires_at: Optional[datetime] = None
    """Until when it can be used."""
    KINDS: ClassVar[Mapping[str, str]] = {"operator": "Operator", "expires_at": "time"}


@dataclass(frozen=True, eq=False, repr=False)
class InviteOperatorResponse(Model):
    """The operator, and the invitation."""

    success: bool = False
    """Always true: a failed request is answered in the error format instead."""
    operator: Optional[Operator] = None
    """The operator."""
    link: str = ""
    """The page that uses the invitation, which is shown only now. Without DCP_PUBLIC_URL it is a path
    on the address by which operators reach the marketplace.
    """
    expires_at: Optional[datetime] = None
    """Until when it can be used."""
    KINDS: ClassVar[Mapping[str, str]] = {"operator": "Operator", "expires_at": "time"}


@dataclass(frozen=True, eq=False, repr=False)
class Job(Model):
    """A job as its renter, its provider and operators see it."""

    job_id: str = ""
    """The job's id, `job-...`."""
    status: str = ""
    """Its current state."""
    job_type: str = ""
    """The job type."""
    renter_id: int = 0
    """The id of the renter that submitted the job. Absent for providers: whose job it is does not
    matter to them.
    """
    provider_id: Optional[int] = None
    """The id of the provider that the job names, or that runs or ran it."""
    model: Optional[str] = None
    """The model that the job uses. Present for inference jobs."""
    duration_minutes: float = 0.0
    """The greatest time that the job may run, in minutes."""
    priority: int = 0
    """The job's priority: jobs with a higher number run sooner."""
    cost_halala: int = 0
    """The hold, in halala. It equals the quote and is the greatest possible charge."""
    rate_halala_per_minute: int = 0
    """The price of a minute, in halala, rounded up; 0 if tokens are paid for. `price` has it exactly."""
    attempt: int = 0
    """The number of the current attempt, counted from 1; 0 until a daemon accepts the job."""
    created_at: Optional[datetime] = None
    """When it was submitted."""
    started_at: Optional[datetime] = None
    """When the current or last attempt started to run. Absent before that."""
    ended_at: Optional[datetime] = None
    """When it ended. Absent before that."""
    output_bytes: int = 0
    """The size of the output that the server has received so far, in bytes."""
    billing: Optional[Billing] = None
    """The bill. Present when the job has ended."""
    failure_reason: Optional[str] = None
    """Why the job did not complete. Absent if it completed or has not ended."""
    failure_message: Optional[str] = None
    """The same as a sentence for people."""
    cancel_requested: bool = False
    """A cancellation was requested, and the daemon has not stopped the job yet."""
    usage: Optional[Usage] = None
    """The model server's own counts."""
    queue_position: Optional[int] = None
    """The job's position in the queue: 1 plus the number of jobs ahead of it that compete for the same
    providers. Present only in GetJob, while the job is queued and among the first 500.
    """
    estimated_start_seconds: Optional[int] = None
    """When the job may start, in seconds from now, estimated from the run limits of the jobs ahead of
    it. Present while the job is queued and there is a basis for an estimate.
    """
    start_by: Optional[datetime] = None
    """When the job fails with a full refund if no daemon has accepted it by then. Present until a
    daemon accepts it. If that attempt is lost, the job gets its whole waiting time again.
    """
    lost_after_seconds: int = 0
    """How long the job's daemon may be silent before the job returns to the queue, in seconds."""
    artifact_count: int = 0
    """The number of files that the job left in `/output` and that can be downloaded; 0 until the job
    has ended.
    """
    artifact_bytes: int = 0
    """The total size of these files, in bytes."""
    texts_removed_at: Optional[datetime] = None
    """When the job's request (prompt, parameters, input files), output and log were removed, because
    their retention time had ended. Absent while they are kept.
    """
    dispute: Optional[Dispute] = None
    """The dispute about the job's charge. Present only in GetJob, if there is one."""
    price: Optional[Price] = None
    """The price, fixed when the job was submitted."""
    key_id: Optional[int] = None
    """The id of the key that submitted the job. Absent for providers, and for older jobs, whose key
    was not recorded.
    """
    KINDS: ClassVar[Mapping[str, str]] = {
        "created_at": "time",
        "started_at": "time",
        "ended_at": "time",
        "billing": "Billing",
        "usage": "Usage",
        "start_by": "time",
        "texts_removed_at": "time",
        "dispute": "Dispute",
        "price": "Price",
    }


@dataclass(frozen=True, eq=False, repr=False)
class JobAttempt(Model):
    """A lease of a job."""

    attempt: int = 0
    """The number of the attempt, counted from 1. A refused or expired offer has the number of the
    attempt that followed it.
    """
    lease_epoch: int = 0
    """The fencing token of the lease: it grows by 1 with each offer of the job."""
    provider_id: int = 0
    """The id of the provider that the lease was offered to."""
    offered_at: Optional[datetime] = None
    """When the lease was offered."""
    accepted_at: Optional[datetime] = None
    """When the daemon accepted the lease. Absent if it did not."""
    started_at: Optional[datetime] = None
    """When it started to run."""
    ended_at: Optional[datetime] = None
    """When it ended. Absent before that."""
    outcome: Optional[str] = None
    """The outcome."""
    detail: str = ""
    """The reason for the outcome, as a sentence for people."""
    run_seconds: Optional[float] = None
    """How long it ran, in seconds, to the millisecond."""
    image_digest: Optional[str] = None
    """The digest that the image's name referred to during the run, such as `sha256:...`, as the
    provider reported it.
    """
    first_output_at: Optional[datetime] = None
    """When its first output reached the server. Absent if none did."""
    KINDS: ClassVar[Mapping[str, str]] = {
        "offered_at": "time",
        "accepted_at": "time",
        "started_at": "time",
        "ended_at": "time",
        "first_output_at": "time",
    }


@dataclass(frozen=True, eq=False, repr=False)
class JobAttemptEvent(Model):
    """The end of an attempt whose job begins anew."""

    ended_attempt: int = 0
    """The number of the attempt that has ended."""
    outcome: str = ""
    """How it ended."""
    at: Optional[datetime] = None
    """When it ended."""
    KINDS: ClassVar[Mapping[str, str]] = {"at": "time"}


class JobCondition:
    """Why a job waits or ended, in one code.

    * `NEXT`: A provider is free to run the job: it is about to be offered.
    * `ALL_BUSY`: Every provider that can run the job is busy.
    * `PROVIDER_BUSY`: The provider that the job names is busy.
    * `PROVIDER_AWAY`: The provider that the job names is not live or takes no jobs now.
    * `NO_PROVIDER`: No live provider can run the job.
    * `STARTING`: The job is offered to a provider, or a provider prepares it.
    * `RUNNING`: The job runs.
    * `COMPLETED`: The job completed.
    * `FAILED`: The job failed; `failure_reason` says why.
    * `CANCELLED`: The job was cancelled.

    New values can be added: accept one that you do not know.
    """

    NEXT = "NEXT"
    ALL_BUSY = "ALL_BUSY"
    PROVIDER_BUSY = "PROVIDER_BUSY"
    PROVIDER_AWAY = "PROVIDER_AWAY"
    NO_PROVIDER = "NO_PROVIDER"
    STARTING = "STARTING"
    RUNNING = "RUNNING"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"


@dataclass(frozen=True, eq=False, repr=False)
class JobEndEvent(Model):
    """The end of a job."""

    job: Optional[Job] = None
    """The job with its bill, as GetJob returns it."""
    texts_removed: bool = False
    """The output and the log were removed or erased and are not in the stream."""
    KINDS: ClassVar[Mapping[str, str]] = {"job": "Job"}


@dataclass(frozen=True, eq=False, repr=False)
class JobEvent(Model):
    """The body of an event about a job's end."""

    id: str = ""
    """The event's id."""
    type: str = ""
    """The kind of event."""
    created_at: Optional[datetime] = None
    """When the event happened."""
    data: Optional[EndedJob] = None
    """The job."""
    KINDS: ClassVar[Mapping[str, str]] = {"created_at": "time", "data": "EndedJob"}


@dataclass(frozen=True, eq=False, repr=False)
class JobFigures(Model):
    """Jobs that ended; if there are more than 2,000, only the newest 2,000."""

    completed: int = 0
    """How many completed."""
    failed: int = 0
    """How many failed."""
    cancelled: int = 0
    """How many were cancelled."""
    failures: List[FailedJobs] = field(default_factory=list)
    """Why they failed, most frequent first; at most 5."""
    waited_p50_ms: Optional[int] = None
    """Half of those that started had waited at most this long, in milliseconds. Absent if none
    started.
    """
    waited_p95_ms: Optional[int] = None
    """95 of 100 had waited at most this long, in milliseconds."""
    more: bool = False
    """There were more jobs than are counted."""
    KINDS: ClassVar[Mapping[str, str]] = {"failures": "list FailedJobs"}


@dataclass(frozen=True, eq=False, repr=False)
class JobFileEvent(Model):
    """An output that is not text."""

    content_type: str = ""
    """Its media type."""
    size_bytes: int = 0
    """Its size, in bytes."""
    path: str = ""
    """The path to fetch it from."""


@dataclass(frozen=True, eq=False, repr=False)
class JobParams(Model):
    """The parameters of a job. `llm-inference` needs `model` and either `prompt` or `messages`;
    `image_generation` needs `model` and `prompt`, and so does `embeddings`, of which the prompt is
    the text.
    """

    model: str = ""
    """The model's public name, such as `HuggingFaceTB/SmolLM2-135M-Instruct`."""
    prompt: str = ""
    """A single prompt. It is treated as one turn of the user."""
    messages: List[ChatMessage] = field(default_factory=list)
    """A conversation, instead of `prompt`."""
    max_tokens: Optional[int] = None
    """The greatest number of tokens in the answer. Default: 256."""
    temperature: Optional[float] = None
    """The randomness of the answer; 0 means none. Default: the model server's default."""
    image_size: str = ""
    """The width and height of the image in pixels, such as `1024x1024`, for `image_generation`.
    Default: the model server's default.
    """
    KINDS: ClassVar[Mapping[str, str]] = {"messages": "list ChatMessage"}


@dataclass(frozen=True, eq=False, repr=False)
class JobPreparation(Model):
    """How far a provider is with what a job needs before its start, as it last reported."""

    step: str = ""
    """What is being fetched."""
    done_bytes: int = 0
    """How many bytes are there. Unit: bytes."""
    total_bytes: Optional[int] = None
    """How many there will be. Absent if that is not known. Unit: bytes."""
    at: Optional[datetime] = None
    """When it was reported."""
    KINDS: ClassVar[Mapping[str, str]] = {"at": "time"}


class JobState:
    """The states of a job. `completed`, `failed` and `cancelled` are final: they never change.

    * `queued`: The job waits for a provider or for a free slot.
    * `pending`: A provider was chosen, and a lease was offered to its daemon.
    * `assigned`: The daemon accepted the lease and prepares the job: it pulls the image or loads
      the model.
    * `running`: The job runs, and its time is metered.
    * `completed`: The job ended with success.
    * `failed`: The job ended without success; `failure_reason` says why. It is charged only if the
      job's own program or one of its limits ended it.
    * `cancelled`: The renter or an operator cancelled the job.

    New values can be added: accept one that you do not know.
    """

    QUEUED = "queued"
    PENDING = "pending"
    ASSIGNED = "assigned"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass(frozen=True, eq=False, repr=False)
class JobStateEvent(Model):
    """A state of a job."""

    status: str = ""
    """The state. Final states come with `end`."""
    at: Optional[datetime] = None
    """When it began."""
    attempt: int = 0
    """The attempt that it belongs to, counted from 1. 0: none has begun."""
    provider_id: Optional[int] = None
    """The provider that the job is offered to or runs on. Absent while it waits."""
    cancel_requested: bool = False
    """A cancel was requested, and the daemon has been asked to stop the job."""
    KINDS: ClassVar[Mapping[str, str]] = {"at": "time"}


@dataclass(frozen=True, eq=False, repr=False)
class JobTextEvent(Model):
    """The next part of an output or a log."""

    text: str = ""
    """The text. Bytes that are not UTF-8 are replaced by U+FFFD."""


class JobType:
    """The kind of work that a job does. It determines the rate.

    * `llm-inference`: An answer of a language model to one prompt or conversation.
    * `image_generation`: An image generated from a prompt.
    * `training`: Training or fine-tuning of a model.
    * `rendering`: Rendering of scenes.
    * `benchmark`: A benchmark of the machine.
    * `custom_container`: A container that the renter supplies.
    * `vllm_serve`: A model server that the renter uses while the job runs. No daemon can run it
      yet: it is refused.
    * `embeddings`: Embeddings of texts: a vector of numbers for each.

    New values can be added: accept one that you do not know.
    """

    LLM_INFERENCE = "llm-inference"
    IMAGE_GENERATION = "image_generation"
    TRAINING = "training"
    RENDERING = "rendering"
    BENCHMARK = "benchmark"
    CUSTOM_CONTAINER = "custom_container"
    VLLM_SERVE = "vllm_serve"
    EMBEDDINGS = "embeddings"


@dataclass(frozen=True, eq=False, repr=False)
class Key(Model):
    """A key without its secret part."""

    id: int = 0
    """The key's id."""
    name: str = ""
    """The name that its owner gave it. Empty for a main key."""
    scopes: List[str] = field(default_factory=list)
    """The scopes of a sub-key. Empty for a main key, which can be used for everything."""
    last4: str = ""
    """The last four characters of the key."""
    created_at: Optional[datetime] = None
    """When it was created."""
    expires_at: Optional[datetime] = None
    """When the key expires. Absent if it does not expire."""
    last_used_at: Optional[datetime] = None
    """When the key was last used, to the minute. Absent if it was never used."""
    revoked_at: Optional[datetime] = None
    """When the key was revoked. Absent if it was not revoked."""
    main: bool = False
    """Whether it is a main key; false for a sub-key."""
    budget_halala_per_day: Optional[int] = None
    """What the jobs of the key may cost on one day (UTC), in halala: charges of ended jobs and holds
    of open ones. Absent: no limit.
    """
    budget_halala_per_month: Optional[int] = None
    """The same for a calendar month (UTC)."""
    budget_halala_total: Optional[int] = None
    """The same for all time."""
    allowed_models: List[str] = field(default_factory=list)
    """The models that the key may use. A job must then name one of them. Empty: any."""
    allowed_providers: List[int] = field(default_factory=list)
    """The ids of the providers that the key may use. A job must then name one of them. Empty: any."""
    used_today_halala: Optional[int] = None
    """What counts against the budget of today (UTC), in halala. Present if the key has budgets, as the
    next five fields.
    """
    used_today_micro_halala: Optional[int] = None
    """Exactly, in millionths of a halala; the field without ``_micro`` is cut to whole halala."""
    used_this_month_halala: Optional[int] = None
    """What counts against the budget of this month (UTC), in halala."""
    used_this_month_micro_halala: Optional[int] = None
    """Exactly, in millionths of a halala; the field without ``_micro`` is cut to whole halala."""
    used_in_total_halala: Optional[int] = None
    """What counts against the budget for all time, in halala."""
    used_in_total_micro_halala: Optional[int] = None
    """Exactly, in millionths of a halala; the field without ``_micro`` is cut to whole halala."""
    KINDS: ClassVar[Mapping[str, str]] = {
        "scopes": "list plain",
        "created_at": "time",
        "expires_at": "time",
        "last_used_at": "time",
        "revoked_at": "time",
        "allowed_models": "list plain",
        "allowed_providers": "list plain",
    }


@dataclass(frozen=True, eq=False, repr=False)
class KeyRecovery(Model):
    """The replacement of the main key that a code for lost keys started."""

    ready_at: Optional[datetime] = None
    """From when on the code gives a new main key, which revokes the present one."""
    KINDS: ClassVar[Mapping[str, str]] = {"ready_at": "time"}


@dataclass(frozen=True, eq=False, repr=False)
class KeyRecoveryEvent(Model):
    """The body of the event that a code for lost keys was sent."""

    id: str = ""
    """The event's id."""
    type: str = ""
    """The kind of event."""
    created_at: Optional[datetime] = None
    """When the event happened."""
    data: Optional[KeyRecovery] = None
    """When the main key can be replaced."""
    KINDS: ClassVar[Mapping[str, str]] = {"created_at": "time", "data": "KeyRecovery"}


@dataclass(frozen=True, eq=False, repr=False)
class LedgerLine(Model):
    """One change of the renter's balance."""

    id: int = 0
    """The line's id; newer lines have greater ids."""
    time: Optional[datetime] = None
    """When the balance changed."""
    kind: str = ""
    """The reason for a transfer of money."""
    amount_halala: int = 0
    """The change, in halala: positive if money came in, negative if money went out."""
    balance_halala: int = 0
    """The balance after the change, in halala."""
    charged_halala: Optional[int] = None
    """The charge of the job, in halala. Present on the line of a hold whose job has ended."""
    job_id: Optional[str] = None
    """The id of the job that the line belongs to. Absent if it belongs to no job."""
    job_type: Optional[str] = None
    """The type of that job, as written in JSON."""
    model: Optional[str] = None
    """The model that the job requested."""
    description: str = ""
    """A description of the change, for people."""
    amount_micro_halala: int = 0
    """Exactly, in millionths of a halala; the field without ``_micro`` is cut to whole halala."""
    balance_micro_halala: int = 0
    """Exactly, in millionths of a halala; the field without ``_micro`` is cut to whole halala."""
    charged_micro_halala: Optional[int] = None
    """Exactly, in millionths of a halala; the field without ``_micro`` is cut to whole halala."""
    KINDS: ClassVar[Mapping[str, str]] = {"time": "time"}


@dataclass(frozen=True, eq=False, repr=False)
class ListArtifactsResponse(Model):
    """The files of a job."""

    job_id: str = ""
    """The job's id."""
    status: str = ""
    """The job's state. The list stays empty until the job has ended."""
    artifacts: List[Artifact] = field(default_factory=list)
    """The files, sorted by name."""
    expires_at: Optional[datetime] = None
    """When the files are deleted. Absent if there are no files."""
    KINDS: ClassVar[Mapping[str, str]] = {"artifacts": "list Artifact", "expires_at": "time"}


@dataclass(frozen=True, eq=False, repr=False)
class ListAuditEntriesResponse(Model):
    """One page of the log."""

    entries: List[AuditEntry] = field(default_factory=list)
    """The entries, newest first."""
    next_before_id: Optional[int] = None
    """Pass it as `before_id` to get the next page. Absent on the last page."""
    KINDS: ClassVar[Mapping[str, str]] = {"entries": "list AuditEntry"}


@dataclass(frozen=True, eq=False, repr=False)
class ListAvailableProvidersResponse(Model):
    """The live providers that match."""

    providers: List[AvailableProvider] = field(default_factory=list)
    """One page of providers."""
    total: int = 0
    """The number of entries on all pages."""
    page: int = 0
    """This page's number."""
    page_size: int = 0
    """The number of entries on a full page."""
    next_after_id: Optional[int] = None
    """Pass it as `after_id` to get the next page. Absent on the last page, and in another order than
    by id.
    """
    nearest_gpu_models: List[str] = field(default_factory=list)
    """The known GPU models whose names are most like the wanted one. Only for a name that is not known
    and that no provider has.
    """
    next_cursor: Optional[str] = None
    """Pass it as `cursor` to get the next page of this order. Absent on the last page, and in the
    order of ids.
    """
    KINDS: ClassVar[Mapping[str, str]] = {
        "providers": "list AvailableProvider",
        "nearest_gpu_models": "list plain",
    }


@dataclass(frozen=True, eq=False, repr=False)
class ListBatchesResponse(Model):
    """One page of batches."""

    object: str = ""
    """Always `list`."""
    data: List[Batch] = field(default_factory=list)
    """The batches, newest first."""
    first_id: Optional[str] = None
    """The first of the page. Absent if it is empty."""
    last_id: Optional[str] = None
    """The last of the page: pass it as `after` to get the next one. Absent if it is empty."""
    has_more: bool = False
    """Whether more follow."""
    KINDS: ClassVar[Mapping[str, str]] = {"data": "list Batch"}


@dataclass(frozen=True, eq=False, repr=False)
class ListDiscardsResponse(Model):
    """One page of records."""

    discards: List[Discard] = field(default_factory=list)
    """The records, newest first."""
    next_before_id: Optional[int] = None
    """Pass it as `before_id` to get the next page. Absent on the last page."""
    KINDS: ClassVar[Mapping[str, str]] = {"discards": "list Discard"}


@dataclass(frozen=True, eq=False, repr=False)
class ListDisputesResponse(Model):
    """One page of the disputes."""

    disputes: List[Dispute] = field(default_factory=list)
    """The disputes, newest first."""
    next_before_id: Optional[int] = None
    """Pass it as `before_id` to get the next page. Absent on the last page."""
    KINDS: ClassVar[Mapping[str, str]] = {"disputes": "list Dispute"}


@dataclass(frozen=True, eq=False, repr=False)
class ListFilesResponse(Model):
    """One page of files."""

    object: str = ""
    """Always `list`."""
    data: List[BatchFile] = field(default_factory=list)
    """The files, newest first."""
    first_id: Optional[str] = None
    """The first of the page. Absent if it is empty."""
    last_id: Optional[str] = None
    """The last of the page: pass it as `after` to get the next one. Absent if it is empty."""
    has_more: bool = False
    """Whether more follow."""
    KINDS: ClassVar[Mapping[str, str]] = {"data": "list BatchFile"}


@dataclass(frozen=True, eq=False, repr=False)
class ListIncidentsResponse(Model):
    """One page of incidents."""

    incidents: List[Incident] = field(default_factory=list)
    """The incidents, newest first."""
    next_before_id: Optional[int] = None
    """Pass it as `before_id` to get the next page. Absent on the last page."""
    KINDS: ClassVar[Mapping[str, str]] = {"incidents": "list Incident"}


@dataclass(frozen=True, eq=False, repr=False)
class ListInputsResponse(Model):
    """A page of inputs."""

    inputs: List[InputRecord] = field(default_factory=list)
    """The inputs, newest first."""
    next_before_id: Optional[int] = None
    """What `before_id` of the next page is. Absent on the last page."""
    KINDS: ClassVar[Mapping[str, str]] = {"inputs": "list InputRecord"}


@dataclass(frozen=True, eq=False, repr=False)
class ListJobsResponse(Model):
    """One page of jobs."""

    jobs: List[Job] = field(default_factory=list)
    """The jobs, newest first."""
    next_before_job_id: Optional[str] = None
    """Pass it as `before_job_id` to get the next page. Absent on the last page."""
    KINDS: ClassVar[Mapping[str, str]] = {"jobs": "list Job"}


@dataclass(frozen=True, eq=False, repr=False)
class ListKeysResponse(Model):
    """One page of the account's keys."""

    keys: List[Key] = field(default_factory=list)
    """The keys, newest first."""
    next_before_id: Optional[int] = None
    """Pass it as `before_id` to get the next page. Absent on the last page."""
    KINDS: ClassVar[Mapping[str, str]] = {"keys": "list Key"}


@dataclass(frozen=True, eq=False, repr=False)
class ListModelPricesResponse(Model):
    """What the models that are served now cost."""

    object: str = ""
    """Always `list`."""
    currency: str = ""
    """Always `USD`."""
    sar_per_usd: Optional[Decimal] = None
    """How many SAR are a US dollar here."""
    data: List[ModelPrice] = field(default_factory=list)
    """The price of each model, in the order of `/v1/models`."""
    KINDS: ClassVar[Mapping[str, str]] = {"sar_per_usd": "sar", "data": "list ModelPrice"}


@dataclass(frozen=True, eq=False, repr=False)
class ListModelsResponse(Model):
    """The models that are served now."""

    object: str = ""
    """Always `list`."""
    data: List[ServedModelEntry] = field(default_factory=list)
    """The models."""
    has_more: bool = False
    """Always false: the list is whole."""
    KINDS: ClassVar[Mapping[str, str]] = {"data": "list ServedModelEntry"}


@dataclass(frozen=True, eq=False, repr=False)
class ListMoneyByDayResponse(Model):
    """The marketplace's money by day."""

    days: List[DayMoney] = field(default_factory=list)
    """The days, newest first."""
    KINDS: ClassVar[Mapping[str, str]] = {"days": "list DayMoney"}


@dataclass(frozen=True, eq=False, repr=False)
class ListOperatorKeysResponse(Model):
    """One page of keys."""

    keys: List[OperatorKey] = field(default_factory=list)
    """The keys, newest first."""
    next_before_id: Optional[int] = None
    """Pass it as `before_id` to get the next page. Absent on the last page."""
    KINDS: ClassVar[Mapping[str, str]] = {"keys": "list OperatorKey"}


@dataclass(frozen=True, eq=False, repr=False)
class ListOperatorWebhookDeliveriesResponse(Model):
    """One page of deliveries."""

    deliveries: List[WebhookDelivery] = field(default_factory=list)
    """The deliveries, newest first."""
    next_before_id: Optional[int] = None
    """Pass it as `before_id` to get the next page. Absent on the last page."""
    KINDS: ClassVar[Mapping[str, str]] = {"deliveries": "list WebhookDelivery"}


@dataclass(frozen=True, eq=False, repr=False)
class ListOperatorsResponse(Model):
    """One page of operators."""

    operators: List[Operator] = field(default_factory=list)
    """The operators, newest first."""
    next_before_id: Optional[int] = None
    """Pass it as `before_id` to get the next page. Absent on the last page."""
    KINDS: ClassVar[Mapping[str, str]] = {"operators": "list Operator"}


@dataclass(frozen=True, eq=False, repr=False)
class ListOwnDisputesResponse(Model):
    """One page of the renter's disputes."""

    disputes: List[Dispute] = field(default_factory=list)
    """The disputes, newest first."""
    next_before_id: Optional[int] = None
    """Pass it as `before_id` to get the next page. Absent on the last page."""
    KINDS: ClassVar[Mapping[str, str]] = {"disputes": "list Dispute"}


@dataclass(frozen=True, eq=False, repr=False)
class ListOwnJobsResponse(Model):
    """One page of the renter's jobs."""

    jobs: List[Job] = field(default_factory=list)
    """The jobs, newest first."""
    next_before_job_id: Optional[str] = None
    """Pass it as `before_job_id` to get the next page. Absent on the last page."""
    KINDS: ClassVar[Mapping[str, str]] = {"jobs": "list Job"}


@dataclass(frozen=True, eq=False, repr=False)
class ListOwnLedgerResponse(Model):
    """One page of the statement."""

    lines: List[LedgerLine] = field(default_factory=list)
    """The lines, newest first."""
    next_before_id: Optional[int] = None
    """Pass it as `before_id` to get the next page. Absent on the last page."""
    KINDS: ClassVar[Mapping[str, str]] = {"lines": "list LedgerLine"}


@dataclass(frozen=True, eq=False, repr=False)
class ListOwnPricesResponse(Model):
    """The provider's prices."""

    prices: List[OwnPrice] = field(default_factory=list)
    """The prices by GPU model, then by model: of everything that has a price of the platform or an own
    one.
    """
    KINDS: ClassVar[Mapping[str, str]] = {"prices": "list OwnPrice"}


@dataclass(frozen=True, eq=False, repr=False)
class ListOwnRatesResponse(Model):
    """The rates that new jobs are quoted."""

    rates: List[OwnRate] = field(default_factory=list)
    """The rates, one for each job type."""
    KINDS: ClassVar[Mapping[str, str]] = {"rates": "list OwnRate"}


@dataclass(frozen=True, eq=False, repr=False)
class ListOwnWithdrawalsResponse(Model):
    """One page of the provider's requests."""

    withdrawals: List[Withdrawal] = field(default_factory=list)
    """The requests, newest first."""
    next_before_id: Optional[int] = None
    """Pass it as `before_id` to get the next page. Absent on the last page."""
    KINDS: ClassVar[Mapping[str, str]] = {"withdrawals": "list Withdrawal"}


@dataclass(frozen=True, eq=False, repr=False)
class ListPasskeysResponse(Model):
    """The passkeys."""

    passkeys: List[Passkey] = field(default_factory=list)
    """All of them, newest first; at most ten."""
    KINDS: ClassVar[Mapping[str, str]] = {"passkeys": "list Passkey"}


@dataclass(frozen=True, eq=False, repr=False)
class ListPricesResponse(Model):
    """The platform's prices."""

    prices: List[PriceEntry] = field(default_factory=list)
    """The prices by job type, then by GPU model, then by model."""
    sar_per_gb_day: Optional[Decimal] = None
    """What renters pay for a day of each GB that is kept for them, in SAR. Absent: nothing."""
    KINDS: ClassVar[Mapping[str, str]] = {"prices": "list PriceEntry", "sar_per_gb_day": "sar"}


@dataclass(frozen=True, eq=False, repr=False)
class ListProviderDisputesResponse(Model):
    """One page of the disputes about the provider's jobs."""

    disputes: List[Dispute] = field(default_factory=list)
    """The disputes, newest first."""
    next_before_id: Optional[int] = None
    """Pass it as `before_id` to get the next page. Absent on the last page."""
    KINDS: ClassVar[Mapping[str, str]] = {"disputes": "list Dispute"}


@dataclass(frozen=True, eq=False, repr=False)
class ListProviderHistoryResponse(Model):
    """One page of the history."""

    attempts: List[PastAttempt] = field(default_factory=list)
    """The attempts, newest first."""
    next_before: Optional[str] = None
    """Pass it as `before` to get the next page. Absent on the last page."""
    KINDS: ClassVar[Mapping[str, str]] = {"attempts": "list PastAttempt"}


@dataclass(frozen=True, eq=False, repr=False)
class ListProviderJobsResponse(Model):
    """One page of the provider's jobs."""

    jobs: List[Job] = field(default_factory=list)
    """The jobs, newest first."""
    next_before_job_id: Optional[str] = None
    """Pass it as `before_job_id` to get the next page. Absent on the last page."""
    KINDS: ClassVar[Mapping[str, str]] = {"jobs": "list Job"}


@dataclass(frozen=True, eq=False, repr=False)
class ListProviderKeysResponse(Model):
    """One page of keys."""

    keys: List[Key] = field(default_factory=list)
    """The keys, newest first."""
    next_before_id: Optional[int] = None
    """Pass it as `before_id` to get the next page. Absent on the last page."""
    KINDS: ClassVar[Mapping[str, str]] = {"keys": "list Key"}


@dataclass(frozen=True, eq=False, repr=False)
class ListProviderLedgerResponse(Model):
    """One page of transfers."""

    transfers: List[ProviderTransfer] = field(default_factory=list)
    """The transfers, newest first."""
    next_before_id: Optional[int] = None
    """Pass it as `before_id` to get the next page. Absent on the last page."""
    KINDS: ClassVar[Mapping[str, str]] = {"transfers": "list ProviderTransfer"}


@dataclass(frozen=True, eq=False, repr=False)
class ListProvidersResponse(Model):
    """One page of providers."""

    providers: List[ProviderEntry] = field(default_factory=list)
    """The providers, newest first."""
    next_before_id: Optional[int] = None
    """Pass it as `before_id` to get the next page. Absent on the last page."""
    KINDS: ClassVar[Mapping[str, str]] = {"providers": "list ProviderEntry"}


@dataclass(frozen=True, eq=False, repr=False)
class ListRatesResponse(Model):
    """The rate card."""

    rates: List[Rate] = field(default_factory=list)
    """The rates, one for each job type."""
    KINDS: ClassVar[Mapping[str, str]] = {"rates": "list Rate"}


@dataclass(frozen=True, eq=False, repr=False)
class ListRenterKeysResponse(Model):
    """One page of keys."""

    keys: List[Key] = field(default_factory=list)
    """The keys, newest first."""
    next_before_id: Optional[int] = None
    """Pass it as `before_id` to get the next page. Absent on the last page."""
    KINDS: ClassVar[Mapping[str, str]] = {"keys": "list Key"}


@dataclass(frozen=True, eq=False, repr=False)
class ListRenterLedgerResponse(Model):
    """One page of lines."""

    lines: List[LedgerLine] = field(default_factory=list)
    """The lines, newest first."""
    next_before_id: Optional[int] = None
    """Pass it as `before_id` to get the next page. Absent on the last page."""
    KINDS: ClassVar[Mapping[str, str]] = {"lines": "list LedgerLine"}


@dataclass(frozen=True, eq=False, repr=False)
class ListRentersResponse(Model):
    """One page of renters."""

    renters: List[RenterEntry] = field(default_factory=list)
    """The renters, newest first."""
    next_before_id: Optional[int] = None
    """Pass it as `before_id` to get the next page. Absent on the last page."""
    KINDS: ClassVar[Mapping[str, str]] = {"renters": "list RenterEntry"}


@dataclass(frozen=True, eq=False, repr=False)
class ListWebhookDeliveriesResponse(Model):
    """One page of deliveries."""

    deliveries: List[WebhookDelivery] = field(default_factory=list)
    """The deliveries, newest first."""
    next_before_id: Optional[int] = None
    """Pass it as `before_id` to get the next page. Absent on the last page."""
    KINDS: ClassVar[Mapping[str, str]] = {"deliveries": "list WebhookDelivery"}


@dataclass(frozen=True, eq=False, repr=False)
class ListWithdrawalsResponse(Model):
    """The requests."""

    pending: List[Withdrawal] = field(default_factory=list)
    """The requests that wait for an operator, oldest first; at most 200."""
    all: List[Withdrawal] = field(default_factory=list)
    """One page of all requests, newest first."""
    summary: Optional[WithdrawalSummary] = None
    """The number and the sums of the requests, by status."""
    pagination: Optional[Pagination] = None
    """The position of this page in the list."""
    next_before_id: Optional[int] = None
    """Pass it as `before_id` to get the next page of `all`. Absent on the last page."""
    KINDS: ClassVar[Mapping[str, str]] = {
        "pending": "list Withdrawal",
        "all": "list Withdrawal",
        "summary": "WithdrawalSummary",
        "pagination": "Pagination",
    }


@dataclass(frozen=True, eq=False, repr=False)
class LogInByPasskeyResponse(Model):
    """The browser is logged in."""

    success: bool = False
    """Always true: a failed request is answered in the error format instead."""
    operator: Optional[Operator] = None
    """Who is logged in."""
    expires_at: Optional[datetime] = None
    """When the log-in ends by itself."""
    KINDS: ClassVar[Mapping[str, str]] = {"operator": "Operator", "expires_at": "time"}


@dataclass(frozen=True, eq=False, repr=False)
class LogInOperatorResponse(Model):
    """The browser is logged in."""

    success: bool = False
    """Always true: a failed request is answered in the error format instead."""
    operator: Optional[Operator] = None
    """Who is logged in."""
    expires_at: Optional[datetime] = None
    """When the log-in ends by itself."""
    KINDS: ClassVar[Mapping[str, str]] = {"operator": "Operator", "expires_at": "time"}


@dataclass(frozen=True, eq=False, repr=False)
class LogInResponse(Model):
    """The browser is logged in."""

    success: bool = False
    """Always true: a failed request is answered in the error format instead."""
    role: str = ""
    """Whose the account is."""
    account_id: int = 0
    """The account's id."""
    expires_at: Optional[datetime] = None
    """When the log-in ends by itself."""
    KINDS: ClassVar[Mapping[str, str]] = {"expires_at": "time"}


@dataclass(frozen=True, eq=False, repr=False)
class LogOutResponse(Model):
    """The log-ins have ended."""

    success: bool = False
    """Always true: a failed request is answered in the error format instead."""
    ended: int = 0
    """How many log-ins this ended."""


@dataclass(frozen=True, eq=False, repr=False)
class LostSessions(Model):
    """How many daemons have a session."""

    before: int = 0
    """Before some of them went away."""
    present: int = 0
    """Now."""


@dataclass(frozen=True, eq=False, repr=False)
class LowBalance(Model):
    """A wallet below its threshold."""

    balance_halala: int = 0
    """The balance, in halala."""
    balance_low_halala: int = 0
    """The threshold, in halala."""


class MetricsRange:
    """A time range that ends now. Its last point covers a period that has not ended yet.

    * `1h`: One hour, with a point for each minute.
    * `6h`: Six hours, with a point for each 3 minutes.
    * `24h`: One day, with a point for each 12 minutes.
    * `7d`: One week, with a point for each 84 minutes.

    New values can be added: accept one that you do not know.
    """

    _1H = "1h"
    _6H = "6h"
    _24H = "24h"
    _7D = "7d"


@dataclass(frozen=True, eq=False, repr=False)
class MissedOffer(Model):
    """An offer that ended before the provider's daemon accepted it."""

    job_id: str = ""
    """The job's id, as the offer named it."""
    job_type: str = ""
    """The job type."""
    outcome: str = ""
    """How the offer ended."""
    message: str = ""
    """What the daemon or the server said about it."""
    offered_at: Optional[datetime] = None
    """When the job was offered."""
    ended_at: Optional[datetime] = None
    """When the offer ended."""
    KINDS: ClassVar[Mapping[str, str]] = {"offered_at": "time", "ended_at": "time"}


@dataclass(frozen=True, eq=False, repr=False)
class ModelPrice(Model):
    """The platform's price of a model: either by tokens or by the minute."""

    id: str = ""
    """The public name of the model."""
    pricing: Optional[TokenPricing] = None
    """By tokens."""
    usd_per_minute: Optional[Decimal] = None
    """For a minute of the run, in US dollars, as a decimal number. Present if there is no price by
    tokens.
    """
    KINDS: ClassVar[Mapping[str, str]] = {"pricing": "TokenPricing", "usd_per_minute": "sar"}


class Obstacle:
    """The obstacle that keeps a provider from running a job now.

    * `NONE`: No obstacle: the provider is free and can run the job.
    * `NOT_LIVE`: The provider has not sent a heartbeat for 30 s.
    * `NO_SESSION`: The provider is live, but its daemon holds no session.
    * `PAUSED`: The provider's owner paused it.
    * `DRAINING`: The provider is draining: it finishes the jobs that it runs and takes no more.
    * `NOT_ADMITTED`: An operator suspended the provider or has not approved it yet.
    * `JOB_TYPE_NOT_SERVED`: The provider does not run this job type.
    * `MODEL_NOT_SERVED`: The provider does not serve the model.
    * `OTHER_GPU`: The provider's GPU is not the model that the job requests.
    * `TOO_LITTLE_VRAM`: The provider's GPU has too little memory.
    * `BUSY`: All slots of the provider are taken.
    * `REFUSED`: The provider refused this job, or let its offer expire, a moment ago.
    * `OUTSIDE_HOURS`: The provider is outside the hours in which its owner lets it take jobs;
      `message` says when they begin.
    * `TOO_HOT`: The provider's GPU is hotter than its owner's limit for new jobs, or has not yet
      cooled to 5 degrees below it.
    * `RATE_ABOVE_QUOTE`: The job names no provider, and this provider's own rate is above the rate
      that the job was quoted.
    * `VRAM_RESERVED`: The provider's GPU has enough memory, but its owner reserves too much of it.
    * `NO_CONTAINERS`: The provider runs commands as plain processes, without the image and without
      isolation: only jobs that name the provider run there.
    * `DAEMON_TOO_OLD`: The provider's daemon is older than the oldest version that this marketplace
      accepts.
    * `DRIVER_TOO_OLD`: The provider's NVIDIA driver is older than the oldest version that this
      marketplace accepts.
    * `TOOLKIT_TOO_OLD`: The provider's NVIDIA Container Toolkit is missing or older than the oldest
      version that this marketplace accepts for jobs in containers.
    * `GPUS_FAILED`: No GPU of the provider is healthy now.
    * `SELF_TEST_FAILED`: The engine or runner that would run the job has not passed the daemon's
      self-test.
    * `VRAM_UNKNOWN`: The job asks for GPU memory, and the provider does not report how much its GPU
      has.
    * `TWO_DAEMONS`: Two daemons with the provider's key took the session from each other within the
      last 10 minutes. Only the provider's owner and operators see it; it keeps no jobs away by
      itself.
    * `IMAGE_NOT_ALLOWED`: The provider's owner does not allow the job's image.
    * `OTHER_ARCHITECTURE`: The provider's processor is not the one that the job requests, or that
      its image is for.
    * `STANDING_TOO_LOW`: The job names no provider, and goes to providers with a better standing:
      the one that its `min_standing` demands, or the best that is there.
    * `VALUE_AT_RISK`: The provider's open jobs already hold as much of renters' money as its
      standing allows.

    New values can be added: accept one that you do not know.
    """

    NONE = "NONE"
    NOT_LIVE = "NOT_LIVE"
    NO_SESSION = "NO_SESSION"
    PAUSED = "PAUSED"
    DRAINING = "DRAINING"
    NOT_ADMITTED = "NOT_ADMITTED"
    JOB_TYPE_NOT_SERVED = "JOB_TYPE_NOT_SERVED"
    MODEL_NOT_SERVED = "MODEL_NOT_SERVED"
    OTHER_GPU = "OTHER_GPU"
    TOO_LITTLE_VRAM = "TOO_LITTLE_VRAM"
    BUSY = "BUSY"
    REFUSED = "REFUSED"
    OUTSIDE_HOURS = "OUTSIDE_HOURS"
    TOO_HOT = "TOO_HOT"
    RATE_ABOVE_QUOTE = "RATE_ABOVE_QUOTE"
    VRAM_RESERVED = "VRAM_RESERVED"
    NO_CONTAINERS = "NO_CONTAINERS"
    DAEMON_TOO_OLD = "DAEMON_TOO_OLD"
    DRIVER_TOO_OLD = "DRIVER_TOO_OLD"
    TOOLKIT_TOO_OLD = "TOOLKIT_TOO_OLD"
    GPUS_FAILED = "GPUS_FAILED"
    SELF_TEST_FAILED = "SELF_TEST_FAILED"
    VRAM_UNKNOWN = "VRAM_UNKNOWN"
    TWO_DAEMONS = "TWO_DAEMONS"
    IMAGE_NOT_ALLOWED = "IMAGE_NOT_ALLOWED"
    OTHER_ARCHITECTURE = "OTHER_ARCHITECTURE"
    STANDING_TOO_LOW = "STANDING_TOO_LOW"
    VALUE_AT_RISK = "VALUE_AT_RISK"


@dataclass(frozen=True, eq=False, repr=False)
class ObstacleCount(Model):
    """How many providers have an obstacle."""

    code: str = ""
    """The obstacle."""
    providers: int = 0
    """How many of at most 200 connected providers have it."""


@dataclass(frozen=True, eq=False, repr=False)
class OfferedPrice(Model):
    """What jobs cost on a provider that they name."""

    job_type: str = ""
    """The job type."""
    model: Optional[str] = None
    """The model. Absent: the price is for jobs of this type with any other."""
    price: Optional[Price] = None
    """The price."""
    tokens_per_second: Optional[float] = None
    """Tokens per second with this model, as the market measured by its own checks. Present only for
    the `model` that the request asks for, and if it was measured in the last 30 days.
    """
    first_token_ms: Optional[int] = None
    """Milliseconds from the offer of a job to its first output, measured by the same check: loading
    the model is in it.
    """
    KINDS: ClassVar[Mapping[str, str]] = {"price": "Price"}


@dataclass(frozen=True, eq=False, repr=False)
class OpenDisputeResponse(Model):
    """The job's dispute."""

    success: bool = False
    """Always true: a failed request is answered in the error format instead."""
    dispute: Optional[Dispute] = None
    """The dispute."""
    KINDS: ClassVar[Mapping[str, str]] = {"dispute": "Dispute"}


@dataclass(frozen=True, eq=False, repr=False)
class OpenInvitationResponse(Model):
    """What a browser needs to create a passkey, by `navigator.credentials.create`."""

    success: bool = False
    """Always true: a failed request is answered in the error format instead."""
    operator: Optional[Operator] = None
    """Whose the passkey will be."""
    challenge: str = ""
    """The challenge."""
    domain: str = ""
    """The domain of this marketplace, which the passkey is for: `rp.id`."""
    user: str = ""
    """The id of the operator for passkeys: `user.id`."""
    known: List[str] = field(default_factory=list)
    """The passkeys that the operator has: `excludeCredentials`."""
    expires_at: Optional[datetime] = None
    """Until when the challenge can be answered."""
    KINDS: ClassVar[Mapping[str, str]] = {"operator": "Operator", "known": "list plain", "expires_at": "time"}


@dataclass(frozen=True, eq=False, repr=False)
class Operator(Model):
    """A person who runs the marketplace."""

    id: int = 0
    """The operator's id. 0 for the admin token."""
    name: str = ""
    """The name, under which the audit log records what the operator does."""
    email: str = ""
    """The e-mail address, for other operators. Empty if none was given."""
    role: str = ""
    """What the operator may do."""
    created_at: Optional[datetime] = None
    """When the operator was invited first. Absent for the admin token."""
    removed_at: Optional[datetime] = None
    """When the operator was removed. Absent while it was not."""
    passkeys: int = 0
    """How many passkeys the operator has. 0: it cannot log in before it uses an invitation."""
    invited_until: Optional[datetime] = None
    """Until when the operator's invitation can be used. Absent if there is none."""
    KINDS: ClassVar[Mapping[str, str]] = {"created_at": "time", "removed_at": "time", "invited_until": "time"}


class OperatorCredential:
    """What a request of an operator carried.

    * `log_in`: The log-in of a browser.
    * `key`: A key of the operator.
    * `token`: The admin token, which belongs to no operator.

    New values can be added: accept one that you do not know.
    """

    LOG_IN = "log_in"
    KEY = "key"
    TOKEN = "token"


@dataclass(frozen=True, eq=False, repr=False)
class OperatorKey(Model):
    """A key of an operator, without its secret part."""

    id: int = 0
    """The key's id."""
    name: str = ""
    """The name that the operator gave it."""
    last4: str = ""
    """The last four characters of the key."""
    created_at: Optional[datetime] = None
    """When it was created."""
    expires_at: Optional[datetime] = None
    """When it ends."""
    last_used_at: Optional[datetime] = None
    """When it was last used, to the minute. Absent if it was never used."""
    revoked_at: Optional[datetime] = None
    """When it was revoked. Absent if it was not revoked."""
    KINDS: ClassVar[Mapping[str, str]] = {
        "created_at": "time",
        "expires_at": "time",
        "last_used_at": "time",
        "revoked_at": "time",
    }


class OperatorRole:
    """What an operator may do. Each role may do what the ones before it may.

    * `support`: Reads everything, and looks up accounts, jobs and disputes.
    * `finance`: Also moves money: payouts, credits, refunds after disputes, and rates.
    * `admin`: Everything, and the operators themselves.

    New values can be added: accept one that you do not know.
    """

    SUPPORT = "support"
    FINANCE = "finance"
    ADMIN = "admin"


@dataclass(frozen=True, eq=False, repr=False)
class OthersRates(Model):
    """What the connected providers but the caller charge for a job type: at most 10,000 of them are
    looked at.
    """

    providers: int = 0
    """The number of these providers."""
    lowest_halala_per_minute: int = 0
    """The lowest of their rates, in halala per minute."""
    lower_quartile_halala_per_minute: int = 0
    """The rate that a quarter of them do not exceed, in halala per minute."""
    median_halala_per_minute: int = 0
    """The rate that half of them do not exceed, in halala per minute."""
    upper_quartile_halala_per_minute: int = 0
    """The rate that three quarters of them do not exceed, in halala per minute."""
    highest_halala_per_minute: int = 0
    """The highest of their rates, in halala per minute."""


class OutputAvailability:
    """Whether an output is available.

    * `not_yet`: The job has not ended: repeat the request later.
    * `ready`: The output is in the response.
    * `empty`: The job completed without writing any output.

    New values can be added: accept one that you do not know.
    """

    NOT_YET = "not_yet"
    READY = "ready"
    EMPTY = "empty"


@dataclass(frozen=True, eq=False, repr=False)
class OwnPrice(Model):
    """A provider's price of one thing."""

    gpu_model: Optional[str] = None
    """The GPU model that it is for."""
    model: Optional[str] = None
    """The model that it is for."""
    price: Optional[Price] = None
    """The price of jobs that name the provider."""
    own: bool = False
    """Whether it is the provider's own; false for the platform's."""
    platform: Optional[Price] = None
    """The platform's price. Absent if it ended after the own one was set."""
    least: Optional[Price] = None
    """The lowest own price that can be set now."""
    most: Optional[Price] = None
    """The highest own price that can be set now."""
    KINDS: ClassVar[Mapping[str, str]] = {
        "price": "Price",
        "platform": "Price",
        "least": "Price",
        "most": "Price",
    }


@dataclass(frozen=True, eq=False, repr=False)
class OwnRate(Model):
    """A provider's rate for one job type."""

    job_type: str = ""
    """The job type."""
    halala_per_minute: int = 0
    """The rate that jobs which name the provider are quoted, in halala per minute."""
    own: bool = False
    """Whether it is the provider's own rate; false for the platform's rate."""
    platform_halala_per_minute: int = 0
    """The platform's rate, in halala per minute."""
    least_halala_per_minute: int = 0
    """The lowest own rate that can be set now, in halala per minute."""
    most_halala_per_minute: int = 0
    """The highest own rate that can be set now, in halala per minute."""
    others: Optional[OthersRates] = None
    """What the other connected providers charge for this job type. Absent if there are none."""
    KINDS: ClassVar[Mapping[str, str]] = {"others": "OthersRates"}


@dataclass(frozen=True, eq=False, repr=False)
class Pagination(Model):
    """The position of a page in a list."""

    page: int = 0
    """This page's number, counted from 1."""
    page_size: int = 0
    """The number of entries on a full page."""
    total: int = 0
    """The number of entries on all pages."""


@dataclass(frozen=True, eq=False, repr=False)
class Passkey(Model):
    """A passkey of an operator."""

    id: int = 0
    """The passkey's id."""
    name: str = ""
    """The name that the operator gave it."""
    created_at: Optional[datetime] = None
    """When it was added."""
    last_used_at: Optional[datetime] = None
    """When it was used last to log in. Absent if it was not used since it was added."""
    KINDS: ClassVar[Mapping[str, str]] = {"created_at": "time", "last_used_at": "time"}


@dataclass(frozen=True, eq=False, repr=False)
class PastAttempt(Model):
    """The public view of an ended attempt."""

    number: int = 0
    """A random number that identifies the attempt without identifying the job."""
    job_type: str = ""
    """The job type."""
    outcome: str = ""
    """The outcome."""
    failure_reason: Optional[str] = None
    """Why the attempt failed. Present if it failed, and, as `IMPOSSIBLE_REPORT`, if its daemon's
    report cannot be true.
    """
    counts: str = ""
    """How it counts for the provider's reliability."""
    accepted_at: Optional[datetime] = None
    """When the daemon accepted it."""
    started_at: Optional[datetime] = None
    """When it started to run. Absent if it did not."""
    ended_at: Optional[datetime] = None
    """When it ended."""
    run_seconds: Optional[float] = None
    """How long it ran, in seconds, to the millisecond. Absent if unknown."""
    KINDS: ClassVar[Mapping[str, str]] = {"accepted_at": "time", "started_at": "time", "ended_at": "time"}


@dataclass(frozen=True, eq=False, repr=False)
class PauseOwnProviderResponse(Model):
    """The provider after the pause began."""

    success: bool = False
    """Always true: a failed request is answered in the error format instead."""
    status: str = ""
    """The provider's current status."""


@dataclass(frozen=True, eq=False, repr=False)
class PayWithdrawalResponse(Model):
    """The request as it is now."""

    success: bool = False
    """Always true: a failed request is answered in the error format instead."""
    withdrawal: Optional[Withdrawal] = None
    """The request."""
    KINDS: ClassVar[Mapping[str, str]] = {"withdrawal": "Withdrawal"}


@dataclass(frozen=True, eq=False, repr=False)
class Payer(Model):
    """A renter whose jobs a provider was paid for."""

    renter_id: int = 0
    """The renter's id."""
    name: str = ""
    """Its name. Empty if it deleted its account."""
    created_at: Optional[datetime] = None
    """When it registered."""
    paid_halala: int = 0
    """The provider's share of what it paid so far, in halala."""
    paid_micro_halala: int = 0
    """Exactly, in millionths of a halala; the field without ``_micro`` is cut to whole halala."""
    suspended: bool = False
    """An operator suspended it."""
    market: bool = False
    """It belongs to the market, which pays for checks."""
    KINDS: ClassVar[Mapping[str, str]] = {"created_at": "time"}


@dataclass(frozen=True, eq=False, repr=False)
class PayoutFinding(Model):
    """Something that asks for a second look."""

    code: str = ""
    """The stable code."""
    message: str = ""
    """The same as a sentence for people."""


class PayoutFindingCode:
    """What asks for a second look at a withdrawal request. None of it decides.

    * `DOUBTFUL_STANDING`: The provider is suspect, or an operator suspended it.
    * `NEW_ACCOUNT`: The provider registered less than 14 days before the request.
    * `FEW_PAYERS`: More than 80 of 100 halala of its earnings come from one renter.
    * `SHARED_BANK_ACCOUNT`: Another provider withdraws to the same bank account.
    * `NEW_BANK_ACCOUNT`: Its last paid withdrawal went to another bank account.
    * `OPEN_DISPUTES`: Charges of its jobs are disputed.
    * `FIRST_WITHDRAWAL`: It never withdrew before.

    New values can be added: accept one that you do not know.
    """

    DOUBTFUL_STANDING = "DOUBTFUL_STANDING"
    NEW_ACCOUNT = "NEW_ACCOUNT"
    FEW_PAYERS = "FEW_PAYERS"
    SHARED_BANK_ACCOUNT = "SHARED_BANK_ACCOUNT"
    NEW_BANK_ACCOUNT = "NEW_BANK_ACCOUNT"
    OPEN_DISPUTES = "OPEN_DISPUTES"
    FIRST_WITHDRAWAL = "FIRST_WITHDRAWAL"


class PreparationStep:
    """What a provider fetches before a run starts.

    * `inputs`: The inputs of the job.
    * `image`: The container image. Its size is known as far as the registry has reported it.

    New values can be added: accept one that you do not know.
    """

    INPUTS = "inputs"
    IMAGE = "image"


@dataclass(frozen=True, eq=False, repr=False)
class Price(Model):
    """A price, in SAR: by time, or by tokens."""

    sar_per_hour: Optional[Decimal] = None
    """For an hour of the run, as a decimal number. Present if time is paid for."""
    sar_per_million_input_tokens: Optional[Decimal] = None
    """For a million tokens of the prompt. Present if tokens are paid for."""
    sar_per_million_cached_input_tokens: Optional[Decimal] = None
    """For a million tokens of the prompt that the model server still had from earlier."""
    sar_per_million_output_tokens: Optional[Decimal] = None
    """For a million tokens of the answer."""
    KINDS: ClassVar[Mapping[str, str]] = {
        "sar_per_hour": "sar",
        "sar_per_million_input_tokens": "sar",
        "sar_per_million_cached_input_tokens": "sar",
        "sar_per_million_output_tokens": "sar",
    }


@dataclass(frozen=True, eq=False, repr=False)
class PriceEntry(Model):
    """The platform's price of one thing."""

    job_type: str = ""
    """The job type that it is for. Absent if it is for a GPU model or a model."""
    gpu_model: Optional[str] = None
    """The GPU model that it is for. It is for each GPU that the job asks for."""
    model: Optional[str] = None
    """The model that it is for."""
    price: Optional[Price] = None
    """The price."""
    since: Optional[datetime] = None
    """Since when it applies. Absent if it was never changed."""
    KINDS: ClassVar[Mapping[str, str]] = {"price": "Price", "since": "time"}


@dataclass(frozen=True, eq=False, repr=False)
class ProcessWithdrawalResponse(Model):
    """The request as it is now."""

    success: bool = False
    """Always true: a failed request is answered in the error format instead."""
    withdrawal: Optional[Withdrawal] = None
    """The request."""
    KINDS: ClassVar[Mapping[str, str]] = {"withdrawal": "Withdrawal"}


class ProofExtent:
    """What a proof read.

    * `changes`: The transfers since the checkpoint, and the accounts that they touched or that hold
      money of something open. A change of another account's balance, past the server, is not found.
    * `accounts`: Every account, and the transfers since the checkpoint. A change of a transfer that
      the checkpoint covers is not found.
    * `replay`: Every row. Only the command `dcp-server prove` reads them.

    New values can be added: accept one that you do not know.
    """

    CHANGES = "changes"
    ACCOUNTS = "accounts"
    REPLAY = "replay"


@dataclass(frozen=True, eq=False, repr=False)
class ProveLedgerResponse(Model):
    """The outcome of a proof."""

    balanced: bool = False
    """True if no discrepancy was found."""
    transfers: int = 0
    """The number of transfers in the ledger."""
    postings_sum_halala: int = 0
    """The sum of all postings, in halala. It must be 0."""
    open_holds: int = 0
    """The number of open holds."""
    open_holds_halala: int = 0
    """The sum of the open holds, in halala."""
    discrepancies: List[str] = field(default_factory=list)
    """The discrepancies, one sentence for each."""
    open_withdrawals: int = 0
    """The number of open withdrawal requests."""
    open_withdrawals_halala: int = 0
    """The sum that the open withdrawal requests reserve, in halala."""
    checkpoint_id: int = 0
    """The checkpoint that the sums start from; 0 if there is none yet."""
    transfers_read: int = 0
    """The number of transfers since that checkpoint, which this proof added up."""
    claimable_halala: int = 0
    """What providers can withdraw, in halala."""
    maturing_halala: int = 0
    """Providers' payouts that are not old enough to be withdrawn, in halala."""
    held_halala: int = 0
    """What providers have in open disputes and open withdrawal requests, in halala."""
    open_disputes: int = 0
    """The number of open disputes."""
    disputed_halala: int = 0
    """The sum that open disputes hold, in halala."""
    debt_halala: int = 0
    """What providers owe after disputes, in halala. Besides the world outside, only the accounts of
    such debts and the one that pays for checks have negative balances.
    """
    canaries_halala: int = 0
    """What the market has paid for checks of providers' work, in halala."""
    extent: str = ""
    """What was read."""
    postings_sum_micro_halala: int = 0
    """Exactly, in millionths of a halala; the field without ``_micro`` is cut to whole halala."""
    open_holds_micro_halala: int = 0
    """Exactly, in millionths of a halala; the field without ``_micro`` is cut to whole halala."""
    open_withdrawals_micro_halala: int = 0
    """Exactly, in millionths of a halala; the field without ``_micro`` is cut to whole halala."""
    claimable_micro_halala: int = 0
    """Exactly, in millionths of a halala; the field without ``_micro`` is cut to whole halala."""
    maturing_micro_halala: int = 0
    """Exactly, in millionths of a halala; the field without ``_micro`` is cut to whole halala."""
    held_micro_halala: int = 0
    """Exactly, in millionths of a halala; the field without ``_micro`` is cut to whole halala."""
    disputed_micro_halala: int = 0
    """Exactly, in millionths of a halala; the field without ``_micro`` is cut to whole halala."""
    debt_micro_halala: int = 0
    """Exactly, in millionths of a halala; the field without ``_micro`` is cut to whole halala."""
    canaries_micro_halala: int = 0
    """Exactly, in millionths of a halala; the field without ``_micro`` is cut to whole halala."""
    KINDS: ClassVar[Mapping[str, str]] = {"discrepancies": "list plain"}


@dataclass(frozen=True, eq=False, repr=False)
class Provider(Model):
    """A provider as its owner sees it."""

    id: int = 0
    """The provider's id."""
    status: str = ""
    """Its current status."""
    total_jobs: int = 0
    """The number of jobs that it has run and that have ended."""
    name: str = ""
    """The name that renters see."""
    email: str = ""
    """The e-mail address."""
    gpu_model: str = ""
    """The GPU model."""
    os: str = ""
    """The operating system."""
    phone: str = ""
    """The telephone number."""
    created_at: Optional[datetime] = None
    """When it registered."""
    last_heartbeat_at: Optional[datetime] = None
    """When the server received its last heartbeat, by stream or POST. Absent if it never sent one."""
    connected: bool = False
    """Whether a daemon holds a session now."""
    gpu_status: Optional[GpuStatus] = None
    """The daemon's last report about the GPUs."""
    earnings: Optional[Earnings] = None
    """The earnings, and how much of them can be withdrawn."""
    models: List[str] = field(default_factory=list)
    """The models that the daemon serves."""
    reliability: Optional[float] = None
    """The share of its newest 50 ended attempts that succeeded, from 0 to 1, leaving out attempts that
    count neither for nor against the provider; see its history. Absent while `reliability_attempts`
    is 0.
    """
    reliability_attempts: int = 0
    """How many of these attempts counted for or against the provider."""
    settings: Optional[ProviderSettings] = None
    """The owner's limits for jobs on the machine."""
    verification: Optional[Verification] = None
    """The marketplace's verdict on what the machine reports about its GPUs."""
    self_tests: List[SelfTest] = field(default_factory=list)
    """The newest self-tests of the daemon's engines and runners."""
    hindrances: List[Hindrance] = field(default_factory=list)
    """The hindrances that keep jobs away from the provider."""
    stored_bytes: int = 0
    """How many bytes are kept of the files that the provider's runs left."""
    stored_bytes_limit: Optional[int] = None
    """How many bytes may be kept. Absent without a limit."""
    reliability_lower: float = 0.0
    """The least share that would explain these attempts, with 95 % confidence (Wilson's lower bound);
    0 while there are none. Providers are ordered by it, not by `reliability`.
    """
    standing: Optional[ProviderStanding] = None
    """How far it is trusted, why, what that allows, and what lifts it."""
    email_verified: bool = False
    """Whether the e-mail address is proven. On a marketplace that sends no mail nothing needs the
    proof.
    """
    embedding_models: List[str] = field(default_factory=list)
    """Those of `models` that make embeddings."""
    KINDS: ClassVar[Mapping[str, str]] = {
        "created_at": "time",
        "last_heartbeat_at": "time",
        "gpu_status": "GpuStatus",
        "earnings": "Earnings",
        "models": "list plain",
        "settings": "ProviderSettings",
        "verification": "Verification",
        "self_tests": "list SelfTest",
        "hindrances": "list Hindrance",
        "standing": "ProviderStanding",
        "embedding_models": "list plain",
    }


class ProviderAccountKind:
    """An account of the ledger that belongs to a provider.

    * `provider`: What it can withdraw.
    * `provider_maturing`: Payouts that are not old enough to be withdrawn.
    * `provider_disputed`: Payouts whose charges are disputed.
    * `provider_debt`: What it owes after disputes.
    * `withdrawal`: What it requested to withdraw.

    New values can be added: accept one that you do not know.
    """

    PROVIDER = "provider"
    PROVIDER_MATURING = "provider_maturing"
    PROVIDER_DISPUTED = "provider_disputed"
    PROVIDER_DEBT = "provider_debt"
    WITHDRAWAL = "withdrawal"


@dataclass(frozen=True, eq=False, repr=False)
class ProviderEntry(Model):
    """A provider as operators see it in the list."""

    id: int = 0
    """The provider's id."""
    name: str = ""
    """The account's name."""
    email: str = ""
    """The e-mail address."""
    gpu_model: str = ""
    """The GPU model."""
    status: str = ""
    """Its current status."""
    created_at: Optional[datetime] = None
    """When it registered."""
    last_heartbeat_at: Optional[datetime] = None
    """When the server received its last heartbeat. Absent if it never sent one."""
    verification: Optional[Verification] = None
    """The marketplace's verdict on what the machine reports about its GPUs."""
    hindrances: List[Hindrance] = field(default_factory=list)
    """The hindrances that keep jobs away from it."""
    standing: Optional[ProviderStanding] = None
    """How far it is trusted, why, what that allows, and what lifts it."""
    KINDS: ClassVar[Mapping[str, str]] = {
        "created_at": "time",
        "last_heartbeat_at": "time",
        "verification": "Verification",
        "hindrances": "list Hindrance",
        "standing": "ProviderStanding",
    }


@dataclass(frozen=True, eq=False, repr=False)
class ProviderSettings(Model):
    """The owner's limits for jobs on a provider's machine."""

    hours: List[WeeklyHours] = field(default_factory=list)
    """The hours in which the machine takes jobs. Empty: always."""
    timezone: str = ""
    """The time zone of the hours: an IANA name, such as `Asia/Riyadh`."""
    max_temp_c: Optional[int] = None
    """The GPU temperature limit for new jobs, in degrees Celsius. A GPU that gets hotter takes no new
    job until it has cooled to 5 degrees below the limit. Default: no limit.
    """
    vram_reserve_mib: int = 0
    """The GPU memory that is reserved for the owner, in MiB; jobs may use the rest."""
    KINDS: ClassVar[Mapping[str, str]] = {"hours": "list WeeklyHours"}


@dataclass(frozen=True, eq=False, repr=False)
class ProviderStanding(Model):
    """A provider's standing."""

    standing: str = ""
    """The standing."""
    since: Optional[datetime] = None
    """Since when."""
    reasons: List[StandingFinding] = field(default_factory=list)
    """Why."""
    missing: List[StandingFinding] = field(default_factory=list)
    """What is missing for the standing in `lifted_to`. Empty if only an operator can lift it."""
    lifted_to: Optional[str] = None
    """The standing that the provider gets once nothing is missing. Absent if there is no higher one."""
    slots: Optional[int] = None
    """How many slots are believed, whatever its daemon says. Absent without a bound."""
    value_halala: Optional[int] = None
    """How much the holds of its open jobs that named no provider may come to, in halala; one such job
    is always allowed. Absent without a bound. Unit: halala.
    """
    KINDS: ClassVar[Mapping[str, str]] = {
        "since": "time",
        "reasons": "list StandingFinding",
        "missing": "list StandingFinding",
    }


class ProviderStatus:
    """A provider's public status. If several values apply, the last of them in this list is shown:
    decisions of an operator or the owner come before liveness.

    * `online`: The provider is live: its last heartbeat is younger than 30 s.
    * `offline`: The provider is not live.
    * `paused`: The provider's owner paused it: it takes no jobs for now.
    * `draining`: The provider is draining: it finishes the jobs that it runs and takes no more.
    * `pending_approval`: The provider waits for an operator's approval.
    * `suspended`: An operator suspended the provider.

    New values can be added: accept one that you do not know.
    """

    ONLINE = "online"
    OFFLINE = "offline"
    PAUSED = "paused"
    DRAINING = "draining"
    PENDING_APPROVAL = "pending_approval"
    SUSPENDED = "suspended"


@dataclass(frozen=True, eq=False, repr=False)
class ProviderTransfer(Model):
    """A transfer from or to a provider's accounts."""

    id: int = 0
    """The transfer's id; newer transfers have greater ids."""
    time: Optional[datetime] = None
    """When it was made."""
    kind: str = ""
    """The reason for it."""
    amount_halala: int = 0
    """The amount, in halala."""
    amount_micro_halala: int = 0
    """Exactly, in millionths of a halala; the field without ``_micro`` is cut to whole halala."""
    from_account: Optional[str] = None
    """The provider's account that it was taken from. Absent if it came from outside."""
    to_account: Optional[str] = None
    """The provider's account that it went to. Absent if it left."""
    job_id: Optional[str] = None
    """The id of the job that it belongs to. Absent if it belongs to no job."""
    withdrawal_id: Optional[int] = None
    """The id of the withdrawal request that it belongs to. Absent if it belongs to none."""
    KINDS: ClassVar[Mapping[str, str]] = {"time": "time"}


@dataclass(frozen=True, eq=False, repr=False)
class QuoteJobResponse(Model):
    """What a job would cost, and who could run it."""

    quote_id: str = ""
    """Send it with the same request to have this price. It is for this account alone."""
    expires_at: Optional[datetime] = None
    """Until when."""
    price: Optional[Price] = None
    """The price."""
    hold_halala: int = 0
    """What a submit holds: the most that the job can cost."""
    hold_micro_halala: int = 0
    """Exactly, in millionths of a halala; the field without ``_micro`` is cut to whole halala."""
    likely_halala: Optional[int] = None
    """What it will likely cost: by your last jobs with the same model, by what its prompt and
    `max_tokens` ask for, and by the measured speed of the best provider. Absent if nothing is
    known.
    """
    likely_micro_halala: Optional[int] = None
    """Exactly, in millionths of a halala; the field without ``_micro`` is cut to whole halala."""
    duration_minutes: float = 0.0
    """The greatest time that it may run, in minutes."""
    max_tokens: Optional[int] = None
    """The most tokens of the answer, where `max_cost_halala` allows fewer than the request asks for."""
    providers: List[QuotedProvider] = field(default_factory=list)
    """The providers that could run it, best first, at most 20: those that would get it now or as soon
    as they have a free slot.
    """
    able: int = 0
    """How many could, of the first 1,000 that are connected."""
    KINDS: ClassVar[Mapping[str, str]] = {
        "expires_at": "time",
        "price": "Price",
        "providers": "list QuotedProvider",
    }


@dataclass(frozen=True, eq=False, repr=False)
class QuotedProvider(Model):
    """A provider that could run a job, and what it would cost if the job named it."""

    provider_id: int = 0
    """Its id: put it into `provider_id`, and ask for another quote, to have its own price."""
    gpu_model: str = ""
    """Its GPU model. Empty: it has no GPU."""
    price: Optional[Price] = None
    """Its price."""
    hold_halala: int = 0
    """What a submit holds."""
    hold_micro_halala: int = 0
    """Exactly, in millionths of a halala; the field without ``_micro`` is cut to whole halala."""
    likely_halala: Optional[int] = None
    """What it will likely cost. Absent if nothing is known."""
    likely_micro_halala: Optional[int] = None
    """Exactly, in millionths of a halala; the field without ``_micro`` is cut to whole halala."""
    tokens_per_second: Optional[float] = None
    """Tokens per second with this model, as the market measured by its own checks. Absent if it did
    not yet.
    """
    free_slots: int = 0
    """How many jobs it can begin now."""
    warm: bool = False
    """Whether the job's model is loaded."""
    first_token_ms: Optional[int] = None
    """Milliseconds from the offer of a job to its first output with this model, as the market measured
    by its own checks: loading the model is in it. Absent if it did not yet.
    """
    free_since: Optional[datetime] = None
    """Since when it has had a free slot without a break. Absent: it has none now."""
    KINDS: ClassVar[Mapping[str, str]] = {"price": "Price", "free_since": "time"}


@dataclass(frozen=True, eq=False, repr=False)
class Rate(Model):
    """The rate of one job type."""

    job_type: str = ""
    """The job type."""
    halala_per_minute: int = 0
    """The rate, in halala per minute."""


@dataclass(frozen=True, eq=False, repr=False)
class ReachedBudget(Model):
    """A budget that a job would have exceeded."""

    key_id: int = 0
    """The key's id."""
    budget: str = ""
    """The budget: `day`, `month` or `total`."""
    budget_halala: int = 0
    """The budget, in halala."""
    used_halala: int = 0
    """What counted against it, in halala, rounded up."""
    required_halala: int = 0
    """What the refused job would have held, in halala, rounded up."""
    resets_at: Optional[datetime] = None
    """When the day or month ends (UTC). Absent for a budget for all time."""
    KINDS: ClassVar[Mapping[str, str]] = {"resets_at": "time"}


@dataclass(frozen=True, eq=False, repr=False)
class RecoverProviderKeyResponse(Model):
    """The code is mailed, or shown here."""

    success: bool = False
    """Always true: a failed request is answered in the error format instead."""
    provider_id: int = 0
    """The provider's id."""
    code: Optional[str] = None
    """The code. It is shown only in this response; absent if it was mailed."""


@dataclass(frozen=True, eq=False, repr=False)
class RecoverRenterKeyResponse(Model):
    """The code is mailed, or shown here."""

    success: bool = False
    """Always true: a failed request is answered in the error format instead."""
    renter_id: int = 0
    """The renter's id."""
    code: Optional[str] = None
    """The code. It is shown only in this response; absent if it was mailed."""


@dataclass(frozen=True, eq=False, repr=False)
class RedeemKeyCodeResponse(Model):
    """The new key, or when to ask for it."""

    success: bool = False
    """Always true: a failed request is answered in the error format instead."""
    role: str = ""
    """Whose the account is."""
    account_id: int = 0
    """The account's id."""
    ready_at: Optional[datetime] = None
    """From when on the code gives the key."""
    api_key: Optional[str] = None
    """The new main key. It is shown only in this response; absent before `ready_at`."""
    KINDS: ClassVar[Mapping[str, str]] = {"ready_at": "time"}


@dataclass(frozen=True, eq=False, repr=False)
class RedeemLogInCodeResponse(Model):
    """The browser is logged in."""

    success: bool = False
    """Always true: a failed request is answered in the error format instead."""
    role: str = ""
    """Whose the account is."""
    account_id: int = 0
    """The account's id."""
    expires_at: Optional[datetime] = None
    """When the log-in ends by itself."""
    KINDS: ClassVar[Mapping[str, str]] = {"expires_at": "time"}


@dataclass(frozen=True, eq=False, repr=False)
class RegisterProviderResponse(Model):
    """The new provider's id and key."""

    success: bool = False
    """Always true: a failed request is answered in the error format instead."""
    provider_id: int = 0
    """The new provider's id."""
    api_key: str = ""
    """The key. It is shown only in this response."""


@dataclass(frozen=True, eq=False, repr=False)
class RegisterRenterResponse(Model):
    """The new renter's id and key."""

    success: bool = False
    """Always true: a failed request is answered in the error format instead."""
    renter_id: int = 0
    """The new renter's id."""
    api_key: str = ""
    """The key. It is shown only in this response."""


@dataclass(frozen=True, eq=False, repr=False)
class RejectWithdrawalResponse(Model):
    """The request as it is now."""

    success: bool = False
    """Always true: a failed request is answered in the error format instead."""
    withdrawal: Optional[Withdrawal] = None
    """The request."""
    KINDS: ClassVar[Mapping[str, str]] = {"withdrawal": "Withdrawal"}


@dataclass(frozen=True, eq=False, repr=False)
class RemoveOperatorResponse(Model):
    """The operator after the change."""

    success: bool = False
    """Always true: a failed request is answered in the error format instead."""
    operator: Optional[Operator] = None
    """The operator."""
    KINDS: ClassVar[Mapping[str, str]] = {"operator": "Operator"}


@dataclass(frozen=True, eq=False, repr=False)
class RemoveOperatorWebhookResponse(Model):
    """The address was removed."""

    success: bool = False
    """Always true: a failed request is answered in the error format instead."""


@dataclass(frozen=True, eq=False, repr=False)
class RemovePasskeyResponse(Model):
    """The passkey that was removed."""

    success: bool = False
    """Always true: a failed request is answered in the error format instead."""
    passkey: Optional[Passkey] = None
    """The passkey."""
    KINDS: ClassVar[Mapping[str, str]] = {"passkey": "Passkey"}


@dataclass(frozen=True, eq=False, repr=False)
class RemoveWebhookResponse(Model):
    """The address was removed."""

    success: bool = False
    """Always true: a failed request is answered in the error format instead."""


@dataclass(frozen=True, eq=False, repr=False)
class Renter(Model):
    """A renter as it sees itself."""

    id: int = 0
    """The renter's id."""
    balance_halala: int = 0
    """The amount that can be spent now, in halala: holds are already subtracted."""
    held_halala: int = 0
    """The sum of the holds of all open jobs, in halala."""
    spent_halala: int = 0
    """The sum of the charges of all ended jobs, in halala."""
    name: str = ""
    """The renter's name."""
    email: str = ""
    """The renter's e-mail address."""
    organization: str = ""
    """The renter's organization."""
    created_at: Optional[datetime] = None
    """When it registered."""
    total_jobs: int = 0
    """The number of jobs that the renter has submitted."""
    stored_bytes: int = 0
    """How many bytes are kept for the renter: the requests of its jobs, and the files that they left."""
    stored_bytes_limit: Optional[int] = None
    """How many bytes may be kept. Absent without a limit."""
    email_verified: bool = False
    """Whether the e-mail address is proven. On a marketplace that sends no mail nothing needs the
    proof.
    """
    balance_micro_halala: int = 0
    """Exactly, in millionths of a halala; the field without ``_micro`` is cut to whole halala."""
    held_micro_halala: int = 0
    """Exactly, in millionths of a halala; the field without ``_micro`` is cut to whole halala."""
    spent_micro_halala: int = 0
    """Exactly, in millionths of a halala; the field without ``_micro`` is cut to whole halala."""
    must_prove_email: bool = False
    """Whether jobs and top-ups wait until the e-mail address is proven."""
    can_top_up: bool = False
    """Whether the renter may top up its wallet itself, with play money. Elsewhere the operator credits
    it.
    """
    KINDS: ClassVar[Mapping[str, str]] = {"created_at": "time"}


@dataclass(frozen=True, eq=False, repr=False)
class RenterEntry(Model):
    """A renter as operators see it in the list."""

    id: int = 0
    """The renter's id."""
    name: str = ""
    """The account's name."""
    email: str = ""
    """The e-mail address."""
    organization: str = ""
    """The renter's organization."""
    suspended: bool = False
    """An operator suspended the account."""
    balance_halala: int = 0
    """The amount that can be spent now, in halala."""
    created_at: Optional[datetime] = None
    """When it registered."""
    deleted: bool = False
    """The renter deleted the account; only its money records remain."""
    KINDS: ClassVar[Mapping[str, str]] = {"created_at": "time"}


@dataclass(frozen=True, eq=False, repr=False)
class ReportLostKeyResponse(Model):
    """The same whether such an account exists or not."""

    success: bool = False
    """Always true: a failed request is answered in the error format instead."""


@dataclass(frozen=True, eq=False, repr=False)
class RequestWithdrawalResponse(Model):
    """The new withdrawal request."""

    success: bool = False
    """Always true: a failed request is answered in the error format instead."""
    withdrawal: Optional[Withdrawal] = None
    """The request."""
    claimable_halala: int = 0
    """The amount that can still be withdrawn, in halala."""
    KINDS: ClassVar[Mapping[str, str]] = {"withdrawal": "Withdrawal"}


@dataclass(frozen=True, eq=False, repr=False)
class RequeueJobResponse(Model):
    """The job, back in the queue."""

    success: bool = False
    """Always true: a failed request is answered in the error format instead."""
    job: Optional[Job] = None
    """The job."""
    KINDS: ClassVar[Mapping[str, str]] = {"job": "Job"}


@dataclass(frozen=True, eq=False, repr=False)
class ResendEmailCodeResponse(Model):
    """The code is on its way, unless the address is proven already."""

    success: bool = False
    """Always true: a failed request is answered in the error format instead."""
    email_verified: bool = False
    """Whether the account's e-mail address is proven."""


@dataclass(frozen=True, eq=False, repr=False)
class ResumeOwnProviderResponse(Model):
    """The provider after the pause ended."""

    success: bool = False
    """Always true: a failed request is answered in the error format instead."""
    status: str = ""
    """The provider's current status."""


@dataclass(frozen=True, eq=False, repr=False)
class RevokeKeyResponse(Model):
    """The key as it is now."""

    success: bool = False
    """Always true: a failed request is answered in the error format instead."""
    key: Optional[Key] = None
    """The key."""
    KINDS: ClassVar[Mapping[str, str]] = {"key": "Key"}


@dataclass(frozen=True, eq=False, repr=False)
class RevokeOperatorKeyResponse(Model):
    """The key after the change."""

    success: bool = False
    """Always true: a failed request is answered in the error format instead."""
    key: Optional[OperatorKey] = None
    """The key."""
    KINDS: ClassVar[Mapping[str, str]] = {"key": "OperatorKey"}


@dataclass(frozen=True, eq=False, repr=False)
class RotateOperatorWebhookSecretResponse(Model):
    """The new secret."""

    success: bool = False
    """Always true: a failed request is answered in the error format instead."""
    secret: str = ""
    """The secret. It is shown only in this response."""
    previous_expires_at: Optional[datetime] = None
    """When events are no longer signed with the previous secret."""
    KINDS: ClassVar[Mapping[str, str]] = {"previous_expires_at": "time"}


@dataclass(frozen=True, eq=False, repr=False)
class RotateProviderKeyResponse(Model):
    """The new key."""

    success: bool = False
    """Always true: a failed request is answered in the error format instead."""
    api_key: str = ""
    """The key. It is shown only in this response."""
    previous_expires_at: Optional[datetime] = None
    """When the previous key stops working."""
    KINDS: ClassVar[Mapping[str, str]] = {"previous_expires_at": "time"}


@dataclass(frozen=True, eq=False, repr=False)
class RotateRenterKeyResponse(Model):
    """The new main key."""

    success: bool = False
    """Always true: a failed request is answered in the error format instead."""
    api_key: str = ""
    """The key. It is shown only in this response."""
    previous_expires_at: Optional[datetime] = None
    """When the previous key stops working."""
    KINDS: ClassVar[Mapping[str, str]] = {"previous_expires_at": "time"}


@dataclass(frozen=True, eq=False, repr=False)
class RotateWebhookSecretResponse(Model):
    """The new secret."""

    success: bool = False
    """Always true: a failed request is answered in the error format instead."""
    secret: str = ""
    """The secret. It is shown only in this response."""
    previous_expires_at: Optional[datetime] = None
    """When events are no longer signed with the previous secret."""
    KINDS: ClassVar[Mapping[str, str]] = {"previous_expires_at": "time"}


class Scope:
    """What a renter's sub-key can be used for. The main key can be used for everything.

    * `inference`: To submit and cancel jobs, and to read a job by its id, with its output, log and
      files.
    * `billing`: To read the wallet and to top it up.
    * `read`: To read the profile, the wallet and all jobs, without changing anything.

    New values can be added: accept one that you do not know.
    """

    INFERENCE = "inference"
    BILLING = "billing"
    READ = "read"


@dataclass(frozen=True, eq=False, repr=False)
class SelfTest(Model):
    """The result of the newest self-test of a runner, or of those models of an engine that have the
    same result. They take jobs only if it passed; before their first test they take none.
    """

    name: str = ""
    """The engine or runner that was tested, such as `llamacpp`."""
    passed: bool = False
    """It passed its test or completed a job within about the last hour; a model that is neither loaded
    nor used is not tested again meanwhile, and one that passed within the day before a restart of
    the daemon is not tested again at once.
    """
    reason: str = ""
    """Why the test failed, as a sentence for people. It contains no paths, keys or prompts."""
    models: List[str] = field(default_factory=list)
    """The models that the result is about."""
    job_types: List[str] = field(default_factory=list)
    """The job types that this engine or runner runs."""
    pending: bool = False
    """The first test has not ended yet. A job that names the provider waits until it ends."""
    KINDS: ClassVar[Mapping[str, str]] = {"models": "list plain", "job_types": "list plain"}


@dataclass(frozen=True, eq=False, repr=False)
class SendInputResponse(Model):
    """The input after the bytes were stored."""

    success: bool = False
    """Always true: a failed request is answered in the error format instead."""
    input: Optional[InputRecord] = None
    """The input."""
    KINDS: ClassVar[Mapping[str, str]] = {"input": "InputRecord"}


@dataclass(frozen=True, eq=False, repr=False)
class ServedModelEntry(Model):
    """A model that live providers serve."""

    id: str = ""
    """The public name of the model, as `params.model` of a job takes it."""
    object: str = ""
    """Always `model`."""
    created: int = 0
    """When the first of the providers that serve it now registered, in seconds since 1970."""
    owned_by: str = ""
    """What its name has before the slash; `dcp` if it has none."""
    name: str = ""
    """The name to show: the same as `id`."""
    input_modalities: List[str] = field(default_factory=list)
    """What it reads: `text`."""
    output_modalities: List[str] = field(default_factory=list)
    """What it writes: `text`, or `embeddings` for a model that makes these."""
    context_length: Optional[int] = None
    """The longest context of a live provider, in tokens. Absent if none reports it."""
    max_output_length: Optional[int] = None
    """The greatest `max_tokens` that fits: the context, up to what a job may ask for. Absent if the
    context is not known, and for a model that writes no text.
    """
    pricing: Optional[TokenPricing] = None
    """The platform's price by tokens. Absent for a model without one: it is paid by the minute, see
    `/v1/pricing`.
    """
    supported_sampling_parameters: List[str] = field(default_factory=list)
    """The sampling parameters that a job may set; none for a model that writes no text."""
    supported_features: List[str] = field(default_factory=list)
    """What it supports beyond text, such as tools: always empty."""
    type: str = ""
    """Always `model`: what clients of Anthropic's API read."""
    display_name: str = ""
    """The same as `id`, for the same clients."""
    created_at: Optional[datetime] = None
    """The same as `created`, for the same clients."""
    KINDS: ClassVar[Mapping[str, str]] = {
        "input_modalities": "list plain",
        "output_modalities": "list plain",
        "pricing": "TokenPricing",
        "supported_sampling_parameters": "list plain",
        "supported_features": "list plain",
        "created_at": "time",
    }


@dataclass(frozen=True, eq=False, repr=False)
class SessionFigures(Model):
    """The daemons of the whole market."""

    live: int = 0
    """How many are connected."""
    lost: int = 0
    """How many went away within the last quarter of an hour."""
    slots_used: int = 0
    """How many slots run jobs."""
    slots: int = 0
    """How many slots there are."""


@dataclass(frozen=True, eq=False, repr=False)
class SetKeyLimitsResponse(Model):
    """The key as it is now."""

    success: bool = False
    """Always true: a failed request is answered in the error format instead."""
    key: Optional[Key] = None
    """The key."""
    KINDS: ClassVar[Mapping[str, str]] = {"key": "Key"}


@dataclass(frozen=True, eq=False, repr=False)
class SetOperatorRoleResponse(Model):
    """The operator after the change."""

    success: bool = False
    """Always true: a failed request is answered in the error format instead."""
    operator: Optional[Operator] = None
    """The operator."""
    KINDS: ClassVar[Mapping[str, str]] = {"operator": "Operator"}


@dataclass(frozen=True, eq=False, repr=False)
class SetOperatorWebhookResponse(Model):
    """The current address."""

    success: bool = False
    """Always true: a failed request is answered in the error format instead."""
    webhook: Optional[Webhook] = None
    """The address."""
    secret: Optional[str] = None
    """The secret. It is shown only in this response; absent if the secret has not changed."""
    KINDS: ClassVar[Mapping[str, str]] = {"webhook": "Webhook"}


@dataclass(frozen=True, eq=False, repr=False)
class SetOwnRateResponse(Model):
    """The rates that apply from now on."""

    success: bool = False
    """Always true: a failed request is answered in the error format instead."""
    rates: List[OwnRate] = field(default_factory=list)
    """The rates, one for each job type."""
    KINDS: ClassVar[Mapping[str, str]] = {"rates": "list OwnRate"}


@dataclass(frozen=True, eq=False, repr=False)
class SetOwnSettingsResponse(Model):
    """The settings that apply from now on."""

    success: bool = False
    """Always true: a failed request is answered in the error format instead."""
    settings: Optional[ProviderSettings] = None
    """The provider's settings."""
    KINDS: ClassVar[Mapping[str, str]] = {"settings": "ProviderSettings"}


@dataclass(frozen=True, eq=False, repr=False)
class SetWebhookResponse(Model):
    """The current address."""

    success: bool = False
    """Always true: a failed request is answered in the error format instead."""
    webhook: Optional[Webhook] = None
    """The address."""
    secret: Optional[str] = None
    """The secret. It is shown only in this response; absent if the secret has not changed."""
    KINDS: ClassVar[Mapping[str, str]] = {"webhook": "Webhook"}


@dataclass(frozen=True, eq=False, repr=False)
class Signup(Model):
    """A new account."""

    role: str = ""
    """`provider` or `renter`."""
    id: int = 0
    """The account's id."""
    name: str = ""
    """Its name."""
    created_at: Optional[datetime] = None
    """When it registered."""
    KINDS: ClassVar[Mapping[str, str]] = {"created_at": "time"}


class Standing:
    """How far a provider is trusted. It follows from checked facts alone: what independent renters
    paid for its work, what checks of it found, how its attempts ended, how old it is, and what an
    operator decided.

    * `banned`: An operator suspended it.
    * `suspect`: Checks of its work failed, its reports contradict themselves, or most of its
      attempts fail. It gets jobs that name no provider only while nobody else can run them.
    * `new`: Too little is known. Everybody begins here.
    * `proven`: Independent renters paid for its work, and checks of it passed.
    * `trusted`: The same, for longer and more of it.

    New values can be added: accept one that you do not know.
    """

    BANNED = "banned"
    SUSPECT = "suspect"
    NEW = "new"
    PROVEN = "proven"
    TRUSTED = "trusted"


@dataclass(frozen=True, eq=False, repr=False)
class StandingFinding(Model):
    """A reason, or something that is missing."""

    code: str = ""
    """The stable reason."""
    message: str = ""
    """The same as a sentence for people."""
    has: Optional[int] = None
    """The figure as it is. Present for what is missing, if it is a figure."""
    needs: Optional[int] = None
    """The figure as it must be."""


class StandingReason:
    """Why a provider has its standing.

    * `SUSPENDED`: An operator suspended it.
    * `CHECKS_FAILED`: Checks of its work failed.
    * `GPU_CONTRADICTS`: What its machine reports about its GPUs contradicts itself or known facts.
    * `IMPOSSIBLE_REPORTS`: Its daemon reported ends of jobs that cannot be true.
    * `UNRELIABLE`: Most of its attempts fail.
    * `TOO_YOUNG`: It registered too lately; the figures are days.
    * `FEW_CUSTOMERS`: Too few independent renters have paid for its work.
    * `LITTLE_PAID`: Independent renters have paid too little; the figures are halala.
    * `FEW_CHECKS`: Too few checks of its work have passed.
    * `RELIABILITY_UNPROVEN`: Too few of its attempts have succeeded to be sure of its reliability;
      the figures are percent.
    * `VOUCHED`: An operator knows its owner and vouches for it.
    * `EARNED`: It earned this standing by its work.

    New values can be added: accept one that you do not know.
    """

    SUSPENDED = "SUSPENDED"
    CHECKS_FAILED = "CHECKS_FAILED"
    GPU_CONTRADICTS = "GPU_CONTRADICTS"
    IMPOSSIBLE_REPORTS = "IMPOSSIBLE_REPORTS"
    UNRELIABLE = "UNRELIABLE"
    TOO_YOUNG = "TOO_YOUNG"
    FEW_CUSTOMERS = "FEW_CUSTOMERS"
    LITTLE_PAID = "LITTLE_PAID"
    FEW_CHECKS = "FEW_CHECKS"
    RELIABILITY_UNPROVEN = "RELIABILITY_UNPROVEN"
    VOUCHED = "VOUCHED"
    EARNED = "EARNED"


@dataclass(frozen=True, eq=False, repr=False)
class SubmitJobResponse(Model):
    """The submitted job."""

    success: bool = False
    """Always true: a failed request is answered in the error format instead."""
    job: Optional[Job] = None
    """The submitted job."""
    KINDS: ClassVar[Mapping[str, str]] = {"job": "Job"}


@dataclass(frozen=True, eq=False, repr=False)
class SuspendProviderResponse(Model):
    """The provider as it is now."""

    success: bool = False
    """Always true: a failed request is answered in the error format instead."""
    provider_id: int = 0
    """The provider's id."""
    status: str = ""
    """Its current status."""


@dataclass(frozen=True, eq=False, repr=False)
class SuspendRenterResponse(Model):
    """The renter as it is now."""

    success: bool = False
    """Always true: a failed request is answered in the error format instead."""
    renter_id: int = 0
    """The renter's id."""
    suspended: bool = False
    """Whether the account is suspended now."""


@dataclass(frozen=True, eq=False, repr=False)
class TestEvent(Model):
    """The body of a test event."""

    id: str = ""
    """The event's id."""
    type: str = ""
    """The kind of event."""
    created_at: Optional[datetime] = None
    """When the event happened."""
    data: Optional[TestEventData] = None
    """Nothing: the object is empty."""
    KINDS: ClassVar[Mapping[str, str]] = {"created_at": "time", "data": "TestEventData"}


@dataclass(frozen=True, eq=False, repr=False)
class TestEventData(Model):
    """The data of a test event: none."""


@dataclass(frozen=True, eq=False, repr=False)
class TestOperatorWebhookResponse(Model):
    """The test event, which waits to be sent."""

    success: bool = False
    """Always true: a failed request is answered in the error format instead."""
    delivery: Optional[WebhookDelivery] = None
    """The delivery."""
    KINDS: ClassVar[Mapping[str, str]] = {"delivery": "WebhookDelivery"}


@dataclass(frozen=True, eq=False, repr=False)
class TestWebhookResponse(Model):
    """The test event, which waits to be sent."""

    success: bool = False
    """Always true: a failed request is answered in the error format instead."""
    delivery: Optional[WebhookDelivery] = None
    """The delivery."""
    KINDS: ClassVar[Mapping[str, str]] = {"delivery": "WebhookDelivery"}


class ThrottleReason:
    """Why a GPU runs below its full speed.

    * `sw_thermal`: The driver measured too high a temperature.
    * `hw_thermal`: The hardware measured too high a temperature.
    * `power_cap`: The GPU reached its power limit.
    * `hw_power_brake`: The power supply requested a lower power draw.
    * `hw_slowdown`: The hardware lowered the clocks because of heat, power or a fault.
    * `application_clocks`: The provider's owner set lower clocks.
    * `sync_boost`: The GPU keeps the same clocks as the other GPUs of its group.
    * `display_clocks`: The clocks are set for an attached display.

    New values can be added: accept one that you do not know.
    """

    SW_THERMAL = "sw_thermal"
    HW_THERMAL = "hw_thermal"
    POWER_CAP = "power_cap"
    HW_POWER_BRAKE = "hw_power_brake"
    HW_SLOWDOWN = "hw_slowdown"
    APPLICATION_CLOCKS = "application_clocks"
    SYNC_BOOST = "sync_boost"
    DISPLAY_CLOCKS = "display_clocks"


@dataclass(frozen=True, eq=False, repr=False)
class TokenPricing(Model):
    """Prices in US dollars, as decimal numbers. What is not a finite decimal number is rounded up at
    the 20th decimal.
    """

    prompt: str = ""
    """Of a token of the prompt."""
    completion: str = ""
    """Of a token of the answer."""
    request: str = ""
    """Of a request, beside its tokens: always `0`."""
    image: str = ""
    """Of an image of the prompt: always `0`."""
    input_cache_read: str = ""
    """Of a token of the prompt that the model server still had from earlier."""


@dataclass(frozen=True, eq=False, repr=False)
class TopUpOwnWalletResponse(Model):
    """The wallet after the top-up."""

    success: bool = False
    """Always true: a failed request is answered in the error format instead."""
    balance_halala: int = 0
    """The amount that can be spent now, in halala."""


class TransferKind:
    """The reason for a transfer of money.

    * `credit`: An operator credited a renter's wallet.
    * `topup`: A renter topped up its own wallet with play money.
    * `hold`: The greatest possible charge of a job was held.
    * `payout`: The provider's share of a charge.
    * `fee`: The platform's share of a charge.
    * `refund`: The rest of a job's hold returned to the renter.
    * `withdraw`: A provider requested a withdrawal of its earnings.
    * `withdrawal_paid`: A withdrawal was paid through the bank.
    * `withdrawal_returned`: A withdrawal was rejected, and its amount returned to the provider.
    * `forfeit`: A renter deleted its account and gave up the rest of its wallet.
    * `matured`: Payouts became old enough to be withdrawn.
    * `disputed`: A renter disputed a charge, and its payout is held until an operator decides.
    * `dispute_returned`: A held payout, or the rest of it, returned to the provider.
    * `dispute_refund`: The provider's part of a refund after a dispute.
    * `fee_refund`: The platform's part of a refund after a dispute.
    * `debt_repaid`: A provider repaid what it owed after a dispute.
    * `canary_funded`: The market paid for a check of a provider's work.
    * `storage`: The renter paid for the requests and files that were kept for it on a day.

    New values can be added: accept one that you do not know.
    """

    CREDIT = "credit"
    TOPUP = "topup"
    HOLD = "hold"
    PAYOUT = "payout"
    FEE = "fee"
    REFUND = "refund"
    WITHDRAW = "withdraw"
    WITHDRAWAL_PAID = "withdrawal_paid"
    WITHDRAWAL_RETURNED = "withdrawal_returned"
    FORFEIT = "forfeit"
    MATURED = "matured"
    DISPUTED = "disputed"
    DISPUTE_RETURNED = "dispute_returned"
    DISPUTE_REFUND = "dispute_refund"
    FEE_REFUND = "fee_refund"
    DEBT_REPAID = "debt_repaid"
    CANARY_FUNDED = "canary_funded"
    STORAGE = "storage"


@dataclass(frozen=True, eq=False, repr=False)
class UncleanProof(Model):
    """What the proof of the ledger found."""

    discrepancies: int = 0
    """How many discrepancies it found; at most 1,000 are counted."""


@dataclass(frozen=True, eq=False, repr=False)
class UnservedModel(Model):
    """A model that no live provider serves."""

    model: str = ""
    """The model."""
    jobs: int = 0
    """How many jobs wait for it."""
    oldest_at: Optional[datetime] = None
    """When the oldest of them was submitted."""
    KINDS: ClassVar[Mapping[str, str]] = {"oldest_at": "time"}


@dataclass(frozen=True, eq=False, repr=False)
class UnservedModels(Model):
    """Jobs that wait for models that no live provider serves."""

    models: List[UnservedModel] = field(default_factory=list)
    """At most 20 models, the one for which most jobs wait first."""
    jobs: int = 0
    """How many jobs wait for these models."""
    KINDS: ClassVar[Mapping[str, str]] = {"models": "list UnservedModel"}


@dataclass(frozen=True, eq=False, repr=False)
class UnsuspendProviderResponse(Model):
    """The provider as it is now."""

    success: bool = False
    """Always true: a failed request is answered in the error format instead."""
    provider_id: int = 0
    """The provider's id."""
    status: str = ""
    """Its current status."""


@dataclass(frozen=True, eq=False, repr=False)
class UnsuspendRenterResponse(Model):
    """The renter as it is now."""

    success: bool = False
    """Always true: a failed request is answered in the error format instead."""
    renter_id: int = 0
    """The renter's id."""
    suspended: bool = False
    """Whether the account is suspended now."""


@dataclass(frozen=True, eq=False, repr=False)
class Usage(Model):
    """A model server's own counts, as far as they can be true. A job that is paid by the minute does
    not depend on them; one that is paid by tokens is billed by them, up to the bytes of its prompt
    and its `max_tokens`.
    """

    prompt_tokens: int = 0
    """Tokens of the prompt."""
    completion_tokens: int = 0
    """Tokens of the answer."""
    first_token_ms: int = 0
    """The time from the start of the run to the first token, in milliseconds, measured with the
    daemon's monotonic clock.
    """
    tokens_per_second: float = 0.0
    """Tokens of the answer per second of generation."""
    bounded: List[str] = field(default_factory=list)
    """The counts that were greater than they can be, by what the server relayed and clocked, and that
    the server replaced by the greatest possible value. What a model thinks is counted and not
    relayed.
    """
    cached_tokens: int = 0
    """Tokens of the prompt that the model server still had from earlier, where it says so."""
    KINDS: ClassVar[Mapping[str, str]] = {"bounded": "list plain"}


@dataclass(frozen=True, eq=False, repr=False)
class UsageRow(Model):
    """What some charged jobs used."""

    date: Optional[str] = None
    """The UTC day, in the form `2026-01-31`. Absent if the rows are not by day."""
    key_id: Optional[int] = None
    """The key's id. Absent if the rows are not by key, and for older jobs, whose key was not recorded."""
    key_name: Optional[str] = None
    """The name of the key. Absent if the rows are not by key, and for a main key."""
    model: Optional[str] = None
    """The model. Absent if the rows are not by model, and for jobs without one."""
    jobs: int = 0
    """The number of jobs."""
    input_tokens: int = 0
    """Tokens of their prompts."""
    output_tokens: int = 0
    """Tokens of their answers."""
    billed_seconds: float = 0.0
    """Their billed time, in seconds."""
    charged_halala: int = 0
    """The sum of their charges, in halala."""
    charged_micro_halala: int = 0
    """Exactly, in millionths of a halala; the field without ``_micro`` is cut to whole halala."""


class Verdict:
    """How far the server believes what a machine reports about its GPUs.

    * `verified`: The provider's claims and the daemon's measurements agree with each other and with
      what is known about these GPUs. Where the market makes checks, one of the provider's work
      passed too, and the machine proved the memory and the speed of its GPUs.
    * `unverified`: There is too little data to compare, or the set of GPUs changed less than 24
      hours ago.
    * `suspect`: The claims, the measurements and what is known about these GPUs contradict each
      other. The provider gets jobs only after all others.
    * `claimed`: The provider's claims and the daemon's measurements agree, but no check of its work
      has passed yet, or the memory of its GPUs is not proved.

    New values can be added: accept one that you do not know.
    """

    VERIFIED = "verified"
    UNVERIFIED = "unverified"
    SUSPECT = "suspect"
    CLAIMED = "claimed"


@dataclass(frozen=True, eq=False, repr=False)
class VerdictFinding(Model):
    """One reason why a provider is not verified."""

    code: str = ""
    """The stable reason."""
    message: str = ""
    """The same as a sentence for people."""


class VerdictReason:
    """Why a provider is not verified.

    * `NO_GPU_MEASURED`: No NVIDIA GPU was measured on the machine.
    * `FIGURES_MISSING`: The report lacks a value that a driver reports for every GPU: name, total
      memory or UUID.
    * `MODEL_NOT_KNOWN`: The server has no reference figures for this GPU model.
    * `GPUS_CHANGED`: The set of GPUs changed less than 24 hours ago.
    * `TOO_SLOW`: The provider's jobs ran far slower than on any GPU.
    * `NOT_CHECKED`: No check of the provider's work has passed yet.
    * `NOT_PROVED`: The machine has not proved the memory of its GPUs within the last 30 days.
    * `CLAIM_MISMATCH`: The provider registered with a different GPU model from the one that the
      daemon reports.
    * `MEMORY_MISMATCH`: The reported memory does not match any GPU of this model.
    * `CAPABILITY_MISMATCH`: The reported compute capability does not match this GPU model.
    * `FIGURES_IMPLAUSIBLE`: Used and free memory do not add up to the total.
    * `UUID_SHARED`: Two GPUs of the machine have the same UUID, or another live provider reports
      the same UUID.
    * `PROOF_FAILED`: In the newest proof, the memory of a GPU did not hold what was written to it,
      or the GPU was far slower than others of its model.

    New values can be added: accept one that you do not know.
    """

    NO_GPU_MEASURED = "NO_GPU_MEASURED"
    FIGURES_MISSING = "FIGURES_MISSING"
    MODEL_NOT_KNOWN = "MODEL_NOT_KNOWN"
    GPUS_CHANGED = "GPUS_CHANGED"
    TOO_SLOW = "TOO_SLOW"
    NOT_CHECKED = "NOT_CHECKED"
    NOT_PROVED = "NOT_PROVED"
    CLAIM_MISMATCH = "CLAIM_MISMATCH"
    MEMORY_MISMATCH = "MEMORY_MISMATCH"
    CAPABILITY_MISMATCH = "CAPABILITY_MISMATCH"
    FIGURES_IMPLAUSIBLE = "FIGURES_IMPLAUSIBLE"
    UUID_SHARED = "UUID_SHARED"
    PROOF_FAILED = "PROOF_FAILED"


@dataclass(frozen=True, eq=False, repr=False)
class Verification(Model):
    """The verdict on a provider."""

    verdict: str = ""
    """How far the machine is believed."""
    findings: List[VerdictFinding] = field(default_factory=list)
    """The findings that keep the provider from being verified. Empty if it is verified."""
    since: Optional[datetime] = None
    """When the verdict last changed."""
    KINDS: ClassVar[Mapping[str, str]] = {"findings": "list VerdictFinding", "since": "time"}


@dataclass(frozen=True, eq=False, repr=False)
class VerifyEmailResponse(Model):
    """The account after the proof."""

    success: bool = False
    """Always true: a failed request is answered in the error format instead."""
    email_verified: bool = False
    """Whether the account's e-mail address is proven."""


@dataclass(frozen=True, eq=False, repr=False)
class VouchForProviderResponse(Model):
    """The provider's standing from now on."""

    success: bool = False
    """Always true: a failed request is answered in the error format instead."""
    provider_id: int = 0
    """The provider's id."""
    standing: Optional[ProviderStanding] = None
    """Its standing."""
    KINDS: ClassVar[Mapping[str, str]] = {"standing": "ProviderStanding"}


@dataclass(frozen=True, eq=False, repr=False)
class WaitingNeeds(Model):
    """Jobs that wait now, and that the provider does not get."""

    obstacle: str = ""
    """The obstacle between these jobs and the provider."""
    job_type: str = ""
    """The job type."""
    needs: int = 0
    """How many different needs the waiting jobs have: jobs that ask for the same count once."""


@dataclass(frozen=True, eq=False, repr=False)
class WaitingPayouts(Model):
    """Withdrawal requests that have waited for too long."""

    requests: int = 0
    """How many there are."""
    amount_halala: int = 0
    """Their sum, in halala."""
    oldest_at: Optional[datetime] = None
    """When the oldest was made."""
    KINDS: ClassVar[Mapping[str, str]] = {"oldest_at": "time"}


@dataclass(frozen=True, eq=False, repr=False)
class WaitingQueue(Model):
    """Jobs that wait for the same model, type or provider."""

    model: Optional[str] = None
    """The model that they name. Absent if they name none."""
    job_type: str = ""
    """The type of the first of them, as written in JSON."""
    provider_id: Optional[int] = None
    """The provider that they name. Absent if they name none."""
    jobs: int = 0
    """How many wait; at most 1,000 are counted."""
    oldest_at: Optional[datetime] = None
    """When the oldest of the counted ones was submitted."""
    first_job_id: str = ""
    """The job that is served first."""
    code: str = ""
    """Why that job waits."""
    message: str = ""
    """The same as a sentence for people."""
    obstacles: List[ObstacleCount] = field(default_factory=list)
    """What keeps it from the providers that are connected, most frequent first."""
    KINDS: ClassVar[Mapping[str, str]] = {"oldest_at": "time", "obstacles": "list ObstacleCount"}


@dataclass(frozen=True, eq=False, repr=False)
class WatchJobResponse(Model):
    """An event of a job. A message without one only shows that the stream is open."""

    id: str = ""
    """The id of the event, as opaque text. It stays valid when programs restart."""
    state: Optional[JobStateEvent] = None
    """The job has a new state, or its cancel was requested."""
    attempt: Optional[JobAttemptEvent] = None
    """The attempt gave no result and the job begins anew: discard its output and log."""
    output: Optional[JobTextEvent] = None
    """The output goes on with this text."""
    log: Optional[JobTextEvent] = None
    """The log goes on with this text."""
    file: Optional[JobFileEvent] = None
    """The output is not text, and is here."""
    end: Optional[JobEndEvent] = None
    """The job has ended; nothing follows."""
    preparation: Optional[JobPreparation] = None
    """How far the provider is with what the job needs before its start; at most one a second. It has
    the id of the event before it, and is not sent again to a reader that continues.
    """
    KINDS: ClassVar[Mapping[str, str]] = {
        "state": "JobStateEvent",
        "attempt": "JobAttemptEvent",
        "output": "JobTextEvent",
        "log": "JobTextEvent",
        "file": "JobFileEvent",
        "end": "JobEndEvent",
        "preparation": "JobPreparation",
    }


@dataclass(frozen=True, eq=False, repr=False)
class Webhook(Model):
    """The address that events are sent to."""

    url: str = ""
    """The address."""
    balance_low_halala: Optional[int] = None
    """The threshold of the wallet's balance, in halala, below which `balance.low` is sent. Absent if
    it is never sent.
    """
    created_at: Optional[datetime] = None
    """When the address was first set."""
    KINDS: ClassVar[Mapping[str, str]] = {"created_at": "time"}


@dataclass(frozen=True, eq=False, repr=False)
class WebhookDelivery(Model):
    """The delivery of one event."""

    id: int = 0
    """The delivery's id."""
    event_id: str = ""
    """The event's id, as in the header `webhook-id` and in the body."""
    event: str = ""
    """The kind of event."""
    status: str = ""
    """The status of the delivery."""
    attempts: int = 0
    """How many times the event was sent."""
    created_at: Optional[datetime] = None
    """When the event happened."""
    last_attempt_at: Optional[datetime] = None
    """When the event was last sent. Absent if it has not been sent yet."""
    status_code: Optional[int] = None
    """The HTTP status of the last answer. Absent if there was no answer."""
    error: Optional[str] = None
    """The error of the last attempt. Absent if it succeeded."""
    KINDS: ClassVar[Mapping[str, str]] = {"created_at": "time", "last_attempt_at": "time"}


class WebhookEvent:
    """The kind of event.

    * `job.completed`: A job completed.
    * `job.failed`: A job failed.
    * `job.cancelled`: A job was cancelled.
    * `balance.low`: The wallet fell below the threshold. It is sent again only after the balance
      has reached the threshold again.
    * `webhook.test`: The webhook's owner requested a test event.
    * `dispute.opened`: A dispute was opened.
    * `dispute.decided`: An operator decided a dispute.
    * `key.recovery_started`: Somebody sent a code for lost keys, which gives a new main key after a
      delay; see `POST /api/accounts/lost-key/cancel`.
    * `budget.reached`: A job was refused because of a budget of its key. It is sent once for each
      day or month and for each change of the key's limits.
    * `incident.began`: An incident of the marketplace began. Only the operators' webhook gets it.
    * `incident.lasts`: An incident lasts: it is sent a day after the last event about it. Only the
      operators' webhook gets it.
    * `incident.ended`: An incident ended. Only the operators' webhook gets it.
    * `batch.completed`: A batch is done: each of its lines is in its output file or in its error
      file. The lines have no events of their own.
    * `batch.failed`: The file of a batch cannot be used; nothing was run.
    * `batch.expired`: The window of a batch ended before all of its lines were done.
    * `batch.cancelled`: A batch was cancelled, and its last line has ended.

    New values can be added: accept one that you do not know.
    """

    JOB_COMPLETED = "job.completed"
    JOB_FAILED = "job.failed"
    JOB_CANCELLED = "job.cancelled"
    BALANCE_LOW = "balance.low"
    WEBHOOK_TEST = "webhook.test"
    DISPUTE_OPENED = "dispute.opened"
    DISPUTE_DECIDED = "dispute.decided"
    KEY_RECOVERY_STARTED = "key.recovery_started"
    BUDGET_REACHED = "budget.reached"
    INCIDENT_BEGAN = "incident.began"
    INCIDENT_LASTS = "incident.lasts"
    INCIDENT_ENDED = "incident.ended"
    BATCH_COMPLETED = "batch.completed"
    BATCH_FAILED = "batch.failed"
    BATCH_EXPIRED = "batch.expired"
    BATCH_CANCELLED = "batch.cancelled"


class Weekday:
    """A day of the week.

    * `monday`: Monday.
    * `tuesday`: Tuesday.
    * `wednesday`: Wednesday.
    * `thursday`: Thursday.
    * `friday`: Friday.
    * `saturday`: Saturday.
    * `sunday`: Sunday.

    New values can be added: accept one that you do not know.
    """

    MONDAY = "monday"
    TUESDAY = "tuesday"
    WEDNESDAY = "wednesday"
    THURSDAY = "thursday"
    FRIDAY = "friday"
    SATURDAY = "saturday"
    SUNDAY = "sunday"


@dataclass(frozen=True, eq=False, repr=False)
class WeeklyHours(Model):
    """Hours of the week in which the machine takes jobs, in local time."""

    days: List[str] = field(default_factory=list)
    """The days on which the hours begin. Default: every day."""
    start: str = ""
    """The time of day at which they begin, such as `22:00`."""
    end: str = ""
    """The time of day at which they end, such as `08:00`. If it is not later than `start`, they end on
    the next day. `24:00` is the end of the day.
    """
    KINDS: ClassVar[Mapping[str, str]] = {"days": "list plain"}


@dataclass(frozen=True, eq=False, repr=False)
class Withdrawal(Model):
    """A withdrawal request."""

    id: int = 0
    """Its id."""
    provider_id: int = 0
    """The id of the provider that made the request."""
    amount_halala: int = 0
    """The amount, in halala."""
    status: str = ""
    """Its current state."""
    iban_last4: str = ""
    """The last four characters of the IBAN."""
    created_at: Optional[datetime] = None
    """When the provider made the request."""
    updated_at: Optional[datetime] = None
    """When an operator last changed the status. Absent while the request is pending."""
    reference: Optional[str] = None
    """The bank's reference of the transfer. Present once the request is paid."""
    reason: Optional[str] = None
    """The reason for the rejection. Present when the request was rejected."""
    KINDS: ClassVar[Mapping[str, str]] = {"created_at": "time", "updated_at": "time"}


class WithdrawalStatus:
    """The states of a withdrawal request.

    * `pending`: The request waits for an operator.
    * `processing`: An operator has ordered the bank transfer.
    * `paid`: The bank transfer was made.
    * `rejected`: An operator rejected the request, or the provider cancelled it; the money can be
      withdrawn again.

    New values can be added: accept one that you do not know.
    """

    PENDING = "pending"
    PROCESSING = "processing"
    PAID = "paid"
    REJECTED = "rejected"


@dataclass(frozen=True, eq=False, repr=False)
class WithdrawalSummary(Model):
    """Counts and sums of withdrawal requests."""

    pending_count: int = 0
    """How many requests wait for an operator."""
    pending_halala: int = 0
    """The sum of the requests that wait, in halala."""
    processing_count: int = 0
    """How many requests are ordered at the bank."""
    paid_count: int = 0
    """How many requests are paid."""
    paid_halala: int = 0
    """The sum of the paid requests, in halala."""
    rejected_count: int = 0
    """How many requests were rejected."""

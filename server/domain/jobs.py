"""Jobs: their states, the events that change the state, and the record that services pass around.

A job is queued until its lease is offered (pending), is prepared by the daemon that accepted it
(assigned), is metered while it runs (running), and ends once (completed, failed or cancelled). An event that
JOB_TRANSITIONS does not allow changes nothing: the store derives the guards of its writes from that table.
This module does not know leases, money or the database.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from server.domain.levels import Unasked
from server.domain.transitions import Transitions

if TYPE_CHECKING:
    from server.domain.inputs import AskedInput
    from server.domain.pricing import Price

# Tokens of an answer with the natural logarithms of their probabilities; the most that are taken.
Logprobs = tuple[tuple[str, float], ...]
MAX_LOGPROBS = 64


class JobState(StrEnum):
    QUEUED = "queued"
    PENDING = "pending"
    ASSIGNED = "assigned"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


class JobEvent(StrEnum):
    SUBMIT = "submit"
    OFFER = "offer"
    ACCEPT = "accept"
    START = "start"
    REQUEST_CANCEL = "request_cancel"
    REQUEUE = "requeue"
    COMPLETE = "complete"
    FAIL = "fail"
    CANCEL = "cancel"


class JobType(StrEnum):
    LLM_INFERENCE = "llm-inference"
    IMAGE_GENERATION = "image_generation"
    TRAINING = "training"
    RENDERING = "rendering"
    BENCHMARK = "benchmark"
    CUSTOM_CONTAINER = "custom_container"
    VLLM_SERVE = "vllm_serve"
    EMBEDDINGS = "embeddings"


# The job types that run a container image that the renter chooses.
NEED_IMAGE = frozenset({JobType.TRAINING, JobType.RENDERING, JobType.BENCHMARK, JobType.CUSTOM_CONTAINER})
# The job types whose runners have a folder /output: only their runs can leave files.
LEAVE_FILES = NEED_IMAGE


class FailureReason(StrEnum):
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


# The renter's own program, or a limit that the renter chose, ended the run: its run time is charged.
# Other failures are not charged. The comments of FailureReason in jobs.proto say the same to renters.
CHARGED = frozenset(
    {
        FailureReason.DURATION_LIMIT,
        FailureReason.CONTAINER_EXIT,
        FailureReason.OUT_OF_MEMORY,
        FailureReason.DISK_LIMIT,
        FailureReason.PROCESS_LIMIT,
        FailureReason.OUTPUT_TOO_LARGE,
    }
)
# Failures that count against a provider's reliability; the others are not the provider's fault.
PROVIDERS_FAULT = frozenset(
    {
        FailureReason.ENGINE_FAILED,
        FailureReason.MODEL_NOT_SERVED,
        FailureReason.PROVIDER_LOST,
        FailureReason.PROVIDER_DRAINED,
        FailureReason.CONTAINER_ENGINE_UNAVAILABLE,
        FailureReason.GPU_FAILED,
        FailureReason.IMPOSSIBLE_REPORT,
    }
)
# Job types whose only result is their output: a run without output is not charged, however it ends.
INFERENCE = frozenset(
    {JobType.LLM_INFERENCE, JobType.IMAGE_GENERATION, JobType.VLLM_SERVE, JobType.EMBEDDINGS}
)
# Job types that a model serves or does not serve; each model says which.
OF_MODELS = frozenset({JobType.LLM_INFERENCE, JobType.IMAGE_GENERATION, JobType.EMBEDDINGS})
# Those that can be paid by tokens.
BY_TOKENS = frozenset({JobType.LLM_INFERENCE, JobType.EMBEDDINGS})
# Types that have a price, and that no daemon can run yet.
NOT_RUN = frozenset({JobType.VLLM_SERVE})
START_WITHIN_SECONDS = 600
LOST_AFTER_SECONDS = 300


FINAL = frozenset({JobState.COMPLETED, JobState.FAILED, JobState.CANCELLED})
OPEN = frozenset(JobState) - FINAL

JOB_TRANSITIONS: Transitions[JobState, JobEvent] = Transitions(
    {
        (None, JobEvent.SUBMIT): JobState.QUEUED,
        (JobState.QUEUED, JobEvent.OFFER): JobState.PENDING,
        (JobState.QUEUED, JobEvent.FAIL): JobState.FAILED,
        (JobState.QUEUED, JobEvent.CANCEL): JobState.CANCELLED,
        (JobState.PENDING, JobEvent.ACCEPT): JobState.ASSIGNED,
        (JobState.PENDING, JobEvent.REQUEUE): JobState.QUEUED,
        (JobState.PENDING, JobEvent.FAIL): JobState.FAILED,
        (JobState.PENDING, JobEvent.CANCEL): JobState.CANCELLED,
        (JobState.ASSIGNED, JobEvent.START): JobState.RUNNING,
        (JobState.ASSIGNED, JobEvent.REQUEUE): JobState.QUEUED,
        (JobState.ASSIGNED, JobEvent.FAIL): JobState.FAILED,
        (JobState.ASSIGNED, JobEvent.CANCEL): JobState.CANCELLED,
        (JobState.RUNNING, JobEvent.REQUEST_CANCEL): JobState.RUNNING,
        (JobState.RUNNING, JobEvent.REQUEUE): JobState.QUEUED,
        (JobState.RUNNING, JobEvent.COMPLETE): JobState.COMPLETED,
        (JobState.RUNNING, JobEvent.FAIL): JobState.FAILED,
        (JobState.RUNNING, JobEvent.CANCEL): JobState.CANCELLED,
    }
)


@dataclass(frozen=True, slots=True)
class Bill:
    """What a job cost, in micros. charge + refund = hold; payout + fee = charge."""

    hold_micros: int
    charge_micros: int
    refund_micros: int
    payout_micros: int
    fee_micros: int
    billed_ms: int


@dataclass(frozen=True, slots=True)
class JobRequest:
    """A submitted job whose fields rpc has checked. ``spec`` is what the daemon receives, as plain data."""

    job_type: JobType
    duration_ms: int
    """The longest run that the renter allows; 0: as long as is usual."""
    provider_id: int | None = None
    model: str | None = None
    spec: dict[str, Any] = field(default_factory=dict)
    gpu_model: str | None = None
    min_vram_mib: int | None = None
    image: str | None = None
    """The image of a job that brings one, by its full name."""
    architecture: str | None = None
    """The processor that the image is for, if the renter says so."""
    unasked: Unasked | None = None
    """Which providers get it; None if it names one, or if the platform chooses the way."""
    priority: int = 2
    max_cost_halala: int | None = None
    start_within_ms: int = START_WITHIN_SECONDS * 1000
    lost_after_ms: int = LOST_AFTER_SECONDS * 1000
    wait_for_supply: bool = False
    quote_id: str | None = None
    """A quote whose price it shall have."""
    fits_wallet: bool = False
    """Whether it gets as much time or as many tokens as the wallet allows, where it asks for more."""
    cache_key: str = ""
    """What its conversation is known by; empty: it is none."""
    is_awaited: bool = False
    """Whether its client waits for it at a connection."""
    of_batch: int | None = None
    """The batch of which it is a line, by its row; it is refused once that takes no more jobs."""
    most_hold_micros: int | None = None
    """What is left of its batch's budget; None without one."""
    inputs: tuple[AskedInput, ...] = ()
    """What it reads at `/input`."""
    resume_from: str | None = None
    """The job whose files it goes on from."""
    idempotency_key: str | None = None
    digest: str = ""
    trace: str = field(default="", compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Job:
    """A job as stored. Times are milliseconds since 1970 by the server's clock."""

    job_id: str
    renter_id: int
    job_type: JobType
    state: JobState
    named_provider_id: int | None
    provider_id: int | None
    model: str | None
    duration_ms: int
    limit_ms: int
    priority: int
    hold_micros: int
    price: Price
    lease_epoch: int
    attempt: int
    start_within_ms: int
    start_by_ms: int
    lost_after_ms: int
    created_ms: int
    started_ms: int | None
    ended_ms: int | None
    cancel_requested_ms: int | None
    keeps_files: bool
    """Whether its cancel waits for the files that it has written."""
    output_bytes: int
    output_truncated: bool
    content_type: str
    bill: Bill | None
    failure_reason: FailureReason | None
    failure_message: str | None
    usage: dict[str, Any] | None
    spec: dict[str, Any]
    """The request, as the daemon receives it. Empty in a list of jobs."""
    request_digest: str
    artifact_count: int = 0
    artifact_bytes: int = 0
    texts_removed_ms: int | None = None
    """When its request, output and log were removed."""
    key_id: int | None = None
    """The key that submitted it; None if no key did, and for older jobs, whose key was not recorded."""
    logprobs: Logprobs = field(default=(), repr=False)
    """Of its first tokens; only of the market's own jobs."""
    trace: str = field(default="", repr=False)
    """The traceparent of the call that submitted it, if that was traced."""
    is_renter_deleted: bool | None = field(default=None, compare=False)
    """Whether its renter has deleted its account; None where a job is read for other purposes."""

    @property
    def rate_halala_per_minute(self) -> int:
        """The price of a minute, rounded up; 0 if tokens are paid for."""
        return self.price.halala_per_minute

    @property
    def completion_tokens(self) -> int:
        """The tokens of its answer, as its daemon counted them; 0 without a count."""
        return int((self.usage or {}).get("completion_tokens", 0))

    @property
    def cancel_requested(self) -> bool:
        """Whether a cancel was requested and the job has not ended."""
        return self.cancel_requested_ms is not None and self.state not in FINAL

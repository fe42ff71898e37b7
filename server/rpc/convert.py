"""Converts wire messages to the types of server.domain and back. It decides nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any, TypeVar

from dcp.v1 import canaries_pb2, gpus_pb2, honesty_pb2, jobs_pb2, providers_pb2, renters_pb2, standing_pb2
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.json_format import MessageToDict, ParseDict
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from common.images import ImageNameError, parse
from server.domain import embeddings
from server.domain.canaries import Canary, CanaryFault, CanaryKind, CanaryVerdict
from server.domain.comparison import Sort
from server.domain.disputes import Dispute, DisputeState
from server.domain.errors import invalid_field
from server.domain.gpus import GpuReport, from_plain, to_plain
from server.domain.hindrances import Hindrance
from server.domain.honesty import SENTENCES, Verdict, VerdictReason
from server.domain.inputs import AskedInput
from server.domain.jobs import (
    FINAL,
    LOST_AFTER_SECONDS,
    NEED_IMAGE,
    START_WITHIN_SECONDS,
    Bill,
    FailureReason,
    Job,
    JobRequest,
    JobState,
    JobType,
)
from server.domain.leases import LeaseOutcome
from server.domain.ledger import too_large
from server.domain.levels import Standing, Unasked
from server.domain.money import MAX_BALANCE_HALALA, micros, whole_halala, whole_or_none
from server.domain.placement import Model, Obstacle
from server.domain.preparations import Preparation, PreparationStep
from server.domain.pricing import Price, TimePrice, sar, whole_shares
from server.domain.providers import ProviderStatus
from server.domain.queue import JobCondition, Prospect
from server.domain.reliability import Weight, weight
from server.domain.standing import SENTENCES as STANDING_SENTENCES
from server.domain.standing import StandingReason
from server.rpc.enums import enum_map, member_map
from server.services.explain import Attempt, Considered, Explanation
from server.store.leases import MissedOffer
from server.store.providers import ProviderRow
from server.store.reliability import PastAttempt
from server.store.standing import StandingRow

M = TypeVar("M", bound=Message)

_JOB_TYPES = member_map(JobType, jobs_pb2.JobType)
_JOB_TYPE_NUMBERS = enum_map(JobType, jobs_pb2.JobType)
_STATES = enum_map(JobState, jobs_pb2.JobState)
_STATE_OF = member_map(JobState, jobs_pb2.JobState)
_FAILURES = enum_map(FailureReason, jobs_pb2.FailureReason)
_FAILURE_REASONS = member_map(FailureReason, jobs_pb2.FailureReason)
_CONDITIONS = enum_map(JobCondition, jobs_pb2.JobCondition)
_OBSTACLES = enum_map(Obstacle, jobs_pb2.Obstacle)
_OUTCOMES = enum_map(LeaseOutcome, jobs_pb2.AttemptOutcome)
_PREPARATION_STEPS = enum_map(PreparationStep, jobs_pb2.PreparationStep)
_STEP_OF = member_map(PreparationStep, jobs_pb2.PreparationStep)
_WEIGHTS = enum_map(Weight, providers_pb2.AttemptWeight)
NOTHING_KNOWN = Prospect()
# An offered job still waits for its start: the offer may be refused, and the deadline still applies.
_NOT_STARTED = (JobState.QUEUED, JobState.PENDING)
_VERDICTS = enum_map(Verdict, honesty_pb2.Verdict)
_VERDICT_REASONS = enum_map(VerdictReason, honesty_pb2.VerdictReason)
_STANDINGS = enum_map(Standing, standing_pb2.Standing)
_SORTS = member_map(Sort, renters_pb2.ProviderSort)
_STANDING_MEMBERS = member_map(Standing, standing_pb2.Standing)
_STANDING_REASONS = enum_map(StandingReason, standing_pb2.StandingReason)
_STATUSES = enum_map(ProviderStatus, providers_pb2.ProviderStatus)
_DISPUTES = enum_map(DisputeState, jobs_pb2.DisputeStatus)
_CANARY_KINDS = enum_map(CanaryKind, canaries_pb2.CanaryKind)
_CANARY_VERDICTS = enum_map(CanaryVerdict, canaries_pb2.CanaryVerdict)
_CANARY_FAULTS = enum_map(CanaryFault, canaries_pb2.CanaryFault)
_DISPUTE_STATES = member_map(DisputeState, jobs_pb2.DisputeStatus)


def job_type(number: int) -> JobType | None:
    """The job type of a wire number; None for a type that this server does not know."""
    return _JOB_TYPES.get(number)


def job_type_number(kind: JobType) -> jobs_pb2.JobType.ValueType:
    return _JOB_TYPE_NUMBERS[kind]


def failure_reason(number: int) -> FailureReason | None:
    return _FAILURE_REASONS.get(number)


def failure_reason_number(reason: FailureReason) -> jobs_pb2.FailureReason.ValueType:
    return _FAILURES[reason]


def dispute_state(number: int) -> DisputeState:
    """Raises INVALID_FIELD for a state that this server does not know."""
    state = _DISPUTE_STATES.get(number)
    if state is None:
        raise invalid_field("status", f"must be one of: {', '.join(DisputeState)}")
    return state


def outcome(how: LeaseOutcome) -> jobs_pb2.AttemptOutcome.ValueType:
    return _OUTCOMES[how]


def condition_number(condition: JobCondition) -> jobs_pb2.JobCondition.ValueType:
    return _CONDITIONS[condition]


def obstacle_number(obstacle: Obstacle) -> jobs_pb2.Obstacle.ValueType:
    return _OBSTACLES[obstacle]


def provider_status(status: ProviderStatus) -> providers_pb2.ProviderStatus.ValueType:
    return _STATUSES[status]


def plain(message: Message) -> dict[str, Any]:
    """A message as a dict by field names; unset fields are left out."""
    return dict(MessageToDict(message, preserving_proto_field_name=True, use_integers_for_enums=True))


def duration_ms(duration: Duration) -> int:
    return duration.ToMilliseconds()


def duration(seconds: float) -> Duration:
    message = Duration()
    message.FromMilliseconds(round(seconds * 1000))
    return message


def timestamp(at_ms: int | None) -> Timestamp | None:
    if at_ms is None:
        return None
    message = Timestamp()
    message.FromMilliseconds(at_ms)
    return message


def gpu_report(message: gpus_pb2.GpuStatus) -> GpuReport:
    return from_plain(_set_fields(message))


def gpu_status(report: GpuReport) -> gpus_pb2.GpuStatus:
    return ParseDict(to_plain(report), gpus_pb2.GpuStatus())


def _set_fields(message: Message) -> dict[str, Any]:
    return {field.name: _plain_value(field, value) for field, value in message.ListFields()}


def _plain_value(field: FieldDescriptor, value: Any) -> Any:
    if field.message_type is not None:
        return [_set_fields(item) for item in value]
    return list(value) if field.is_repeated else value


def verification(row: ProviderRow) -> honesty_pb2.Verification:
    """A provider's verdict, and the findings that led to it."""
    return honesty_pb2.Verification(
        verdict=_VERDICTS[row.verdict],
        findings=[
            honesty_pb2.VerdictFinding(code=_VERDICT_REASONS[reason], message=SENTENCES[reason])
            for reason in row.verdict_reasons
        ],
        since=timestamp(row.verdict_ms),
    )


def self_tests(row: ProviderRow) -> list[honesty_pb2.SelfTest]:
    """The newest self-tests of a provider's daemon."""
    return [
        honesty_pb2.SelfTest(
            name=test.name,
            passed=test.passed,
            reason=test.reason,
            models=test.models,
            job_types=job_type_numbers(test.job_types),
            pending=test.is_pending,
        )
        for test in row.self_tests
    ]


def hindrances(found: Iterable[Hindrance]) -> list[honesty_pb2.Hindrance]:
    """The reasons that keep jobs of whole types away from a provider."""
    return [
        honesty_pb2.Hindrance(
            code=_OBSTACLES[hindrance.obstacle],
            message=hindrance.message,
            job_types=job_type_numbers(hindrance.job_types),
        )
        for hindrance in found
    ]


def job_type_numbers(kinds: Iterable[JobType]) -> list[jobs_pb2.JobType.ValueType]:
    return [_JOB_TYPE_NUMBERS[kind] for kind in sorted(kinds)]


def job_request(request: jobs_pb2.SubmitJobRequest) -> JobRequest:
    """A submit as the service takes it; its digest distinguishes two bodies under one idempotency key."""
    digested = jobs_pb2.SubmitJobRequest()
    digested.CopyFrom(request)
    digested.idempotency_key = digested.quote_id = ""
    needs = request.gpu_requirements
    vram = (
        request.container_spec.vram_required_mb if request.container_spec.HasField("vram_required_mb") else 0
    )
    min_vram = max(round(needs.min_vram_gb * 1024), vram)
    return JobRequest(
        job_type=_JOB_TYPES[request.job_type],
        duration_ms=round(request.duration_minutes * 60_000),
        provider_id=request.provider_id if request.HasField("provider_id") else None,
        model=request.params.model.strip() or None,
        spec=_spec(request),
        gpu_model=needs.gpu_model.strip() or None,
        min_vram_mib=min_vram or None,
        image=_image(request),
        architecture=request.container_spec.architecture or None,
        unasked=_unasked(request),
        priority=_value_or(request, "priority", 2),
        max_cost_halala=request.max_cost_halala if request.HasField("max_cost_halala") else None,
        start_within_ms=1000 * _value_or(request, "start_within_seconds", START_WITHIN_SECONDS),
        lost_after_ms=1000 * _value_or(request, "lost_after_seconds", LOST_AFTER_SECONDS),
        wait_for_supply=request.wait_for_supply,
        quote_id=request.quote_id or None,
        inputs=tuple(
            AskedInput(asked.input_id, asked.artifact, asked.path, asked.unpack) for asked in request.inputs
        ),
        resume_from=request.resume_from or None,
        idempotency_key=request.idempotency_key or None,
        digest=hashlib.sha256(digested.SerializeToString(deterministic=True)).hexdigest(),
    )


def embedding_models(models: Iterable[Model]) -> list[str]:
    """The names of those that make embeddings."""
    return [model.name for model in models if model.serves(JobType.EMBEDDINGS)]


def _spec(request: jobs_pb2.SubmitJobRequest) -> dict[str, Any]:
    spec = {"container_spec": plain(request.container_spec), "params": _params(request.params)}
    if request.job_type != jobs_pb2.JOB_TYPE_EMBEDDINGS:
        return spec
    # The text is in the request that is carried, once.
    params = {name: value for name, value in spec["params"].items() if name == "model"}
    return spec | {"params": params, "embeddings": embeddings.of_prompt(request.params.prompt).spec}


def _unasked(request: jobs_pb2.SubmitJobRequest) -> Unasked | None:
    """Which providers get a job that names none; None if it does not say so."""
    if not request.min_standing:
        return None
    if request.HasField("provider_id"):
        raise invalid_field(
            "min_standing", "is for jobs that name no provider; leave it out, or leave provider_id out"
        )
    least = _STANDING_MEMBERS.get(request.min_standing)
    if least is None or not least.reaches(Standing.NEW):
        raise invalid_field("min_standing", "ask for new, proven or trusted")
    return Unasked(least.value)


def standing_member(number: int) -> Standing | None:
    """The standing of the wire's number; None for none."""
    return _STANDING_MEMBERS.get(number)


def provider_sort(number: int) -> Sort:
    """The order of the wire's number. Raises INVALID_FIELD for one that this server does not know."""
    if number and number not in _SORTS:
        raise invalid_field("sort", f"is not an order of this list; send one of {', '.join(Sort)}")
    return _SORTS.get(number, Sort.ID)


def standing(row: StandingRow | None) -> standing_pb2.ProviderStanding | None:
    """A provider's standing, with its reasons and what lifts it."""
    if row is None:
        return None
    found = row.assessment
    return standing_pb2.ProviderStanding(
        standing=_STANDINGS[found.standing],
        since=timestamp(row.since_ms),
        reasons=[
            standing_pb2.StandingFinding(code=_STANDING_REASONS[reason], message=STANDING_SENTENCES[reason])
            for reason in found.reasons
        ],
        missing=[
            standing_pb2.StandingFinding(
                code=_STANDING_REASONS[lack.reason],
                message=lack.sentence,
                has=lack.has if lack.needs else None,
                needs=lack.needs or None,
            )
            for lack in found.missing
        ],
        lifted_to=_STANDINGS[found.lifted_to] if found.lifted_to else None,
        slots=found.bounds.slots,
        value_halala=whole_or_none(found.bounds.value_micros),
    )


def _image(request: jobs_pb2.SubmitJobRequest) -> str | None:
    """The image of a job that brings one, by its full name; what is not a name of one, its daemon refuses."""
    if _JOB_TYPES[request.job_type] not in NEED_IMAGE:
        return None
    try:
        return str(parse(request.container_spec.image))
    except ImageNameError:
        return None


def _value_or(request: jobs_pb2.SubmitJobRequest, field: str, default: int) -> int:
    return int(getattr(request, field)) if request.HasField(field) else default  # type: ignore[arg-type]


def _params(params: jobs_pb2.JobParams) -> dict[str, Any]:
    """The parameters, with the model's name stripped as placement expects it."""
    data = plain(params)
    if "model" in data:
        data["model"] = data["model"].strip()
    return data


def job(record: Job, prospect: Prospect = NOTHING_KNOWN) -> jobs_pb2.Job:
    """A job as its parties see it."""
    message = jobs_pb2.Job(
        job_id=record.job_id,
        status=_STATES[record.state],
        job_type=_JOB_TYPE_NUMBERS[record.job_type],
        renter_id=record.renter_id,
        provider_id=record.provider_id,
        model=record.model,
        duration_minutes=record.duration_ms / 60_000,
        priority=record.priority,
        cost_halala=whole_halala(record.hold_micros),
        rate_halala_per_minute=record.rate_halala_per_minute,
        price=price(record.price),
        attempt=record.attempt,
        created_at=timestamp(record.created_ms),
        started_at=timestamp(record.started_ms),
        ended_at=timestamp(record.ended_ms),
        output_bytes=record.output_bytes,
        cancel_requested=record.cancel_requested,
        billing=billing(record) if record.bill else None,
        usage=usage(record.usage) if record.usage else None,
        start_by=timestamp(record.start_by_ms) if record.state in _NOT_STARTED else None,
        lost_after_seconds=record.lost_after_ms // 1000,
        queue_position=prospect.position,
        estimated_start_seconds=_seconds_up(prospect.start_in_ms),
        artifact_count=record.artifact_count if record.state in FINAL else 0,
        artifact_bytes=record.artifact_bytes if record.state in FINAL else 0,
        texts_removed_at=timestamp(record.texts_removed_ms),
        key_id=record.key_id,
    )
    if record.failure_reason is not None:
        message.failure_reason = _FAILURES[record.failure_reason]
        message.failure_message = record.failure_message or ""
    return message


def providers_job(record: Job, prospect: Prospect = NOTHING_KNOWN) -> jobs_pb2.Job:
    """A job as its provider sees it: whose it is would tell the market's own jobs from others."""
    shown = job(record, prospect)
    shown.ClearField("renter_id")
    shown.ClearField("key_id")
    return shown


def canary(found: Canary) -> canaries_pb2.Canary:
    """A check of a provider's work as an operator sees it."""
    return canaries_pb2.Canary(
        id=found.id,
        job_id=found.job_id,
        kind=_CANARY_KINDS[found.kind],
        verdict=_CANARY_VERDICTS[found.verdict],
        fault=_CANARY_FAULTS[found.fault] if found.fault is not None else None,
        figure=found.figure,
        created_at=timestamp(found.created_ms),
    )


def dispute(found: Dispute) -> jobs_pb2.Dispute:
    """A dispute as its parties and operators see it."""
    return jobs_pb2.Dispute(
        id=found.id,
        job_id=found.job_id,
        status=_DISPUTES[found.state],
        reason=found.reason,
        charged_halala=whole_halala(found.charge_micros),
        provider_id=found.provider_id,
        held_halala=whole_halala(found.held_micros),
        created_at=timestamp(found.created_ms),
        decided_at=timestamp(found.decided_ms),
        refund_halala=whole_or_none(found.refund_micros),
        note=found.note,
    )


def explanation(found: Explanation) -> jobs_pb2.ExplainJobResponse:
    """Why a job waits or failed."""
    job = found.job
    return jobs_pb2.ExplainJobResponse(
        job_id=job.job_id,
        status=_STATES[job.state],
        code=_CONDITIONS[found.condition],
        message=found.message,
        queue_position=found.prospect.position,
        estimated_start_seconds=_seconds_up(found.prospect.start_in_ms),
        providers=[_considered(provider) for provider in found.considered],
        attempts=[attempt(numbered) for numbered in found.attempts],
        failure_reason=_FAILURES[job.failure_reason] if job.failure_reason is not None else None,
        preparation=preparation(found.preparation) if found.preparation is not None else None,
    )


def preparation(found: Preparation) -> jobs_pb2.JobPreparation:
    """How far a provider is before a run starts."""
    return jobs_pb2.JobPreparation(
        step=_PREPARATION_STEPS[found.step],
        done_bytes=found.done_bytes,
        total_bytes=found.total_bytes or None,
        at=timestamp(found.at_ms),
    )


def preparation_step(number: int) -> PreparationStep | None:
    """A step by its number; None for one that this server does not know."""
    return _STEP_OF.get(number)


def _considered(provider: Considered) -> jobs_pb2.ConsideredProvider:
    return jobs_pb2.ConsideredProvider(
        provider_id=provider.provider_id,
        code=_OBSTACLES[provider.obstacle],
        message=provider.message,
        free_in_seconds=_seconds_up(provider.free_in_ms),
    )


def attempt(numbered: Attempt) -> jobs_pb2.JobAttempt:
    """One lease of a job as its parties see it."""
    lease = numbered.lease
    return jobs_pb2.JobAttempt(
        attempt=numbered.number,
        lease_epoch=lease.lease_epoch,
        provider_id=lease.provider_id,
        offered_at=timestamp(lease.offered_ms),
        accepted_at=timestamp(lease.accepted_ms),
        started_at=timestamp(lease.started_ms),
        first_output_at=timestamp(lease.first_output_ms),
        ended_at=timestamp(lease.ended_ms),
        outcome=_OUTCOMES[lease.outcome] if lease.outcome is not None else None,
        detail=lease.detail,
        run_seconds=lease.run_ms / 1000 if lease.run_ms is not None else None,
        image_digest=lease.image_digest or None,
    )


def past_attempt(past: PastAttempt) -> providers_pb2.PastAttempt:
    """An ended attempt as it is public, without its job and renter."""
    return providers_pb2.PastAttempt(
        number=past.number,
        job_type=_JOB_TYPE_NUMBERS[past.job_type],
        outcome=_OUTCOMES[past.outcome],
        failure_reason=_FAILURES[past.failure_reason] if past.failure_reason is not None else None,
        counts=_WEIGHTS[weight(past.outcome, past.failure_reason)],
        accepted_at=timestamp(past.accepted_ms),
        started_at=timestamp(past.started_ms),
        ended_at=timestamp(past.ended_ms),
        run_seconds=past.run_ms / 1000 if past.run_ms is not None else None,
    )


def waiting_needs(kept_by: Obstacle, kind: JobType, needs: int) -> providers_pb2.WaitingNeeds:
    """What waits now without a provider, as its owner sees it."""
    return providers_pb2.WaitingNeeds(
        obstacle=_OBSTACLES[kept_by], job_type=_JOB_TYPE_NUMBERS[kind], needs=needs
    )


def missed_offer(offer: MissedOffer) -> providers_pb2.MissedOffer:
    """An offer that its provider did not take."""
    return providers_pb2.MissedOffer(
        job_id=offer.job_id,
        job_type=_JOB_TYPE_NUMBERS[offer.job_type],
        outcome=_OUTCOMES[offer.outcome],
        message=offer.detail,
        offered_at=timestamp(offer.offered_ms),
        ended_at=timestamp(offer.ended_ms),
    )


def _seconds_up(time_ms: int | None) -> int | None:
    return -(-time_ms // 1000) if time_ms is not None else None


def billing(record: Job) -> jobs_pb2.Billing:
    unbilled = Bill(record.hold_micros, 0, record.hold_micros, 0, 0, 0)
    return bill(record.bill or unbilled, record.price)


def bill(of: Bill, at: Price) -> jobs_pb2.Billing:
    billed = with_money(
        jobs_pb2.Billing(
            billed_seconds=of.billed_ms / 1000,
            rate_halala_per_minute=at.halala_per_minute,
            price=price(at),
        ),
        hold=of.hold_micros,
        actual_cost=of.charge_micros,
        refund=of.refund_micros,
        provider=of.payout_micros,
        platform=of.fee_micros,
    )
    # Whole shares are rounded instead of cut, so that they sum to the whole cost.
    billed.provider_halala, billed.platform_halala = whole_shares(of.charge_micros)
    return billed


def price(of: Price) -> jobs_pb2.Price:
    """A price in decimal SAR."""
    if isinstance(of, TimePrice):
        return jobs_pb2.Price(sar_per_hour=sar(of.micros_per_hour))
    return jobs_pb2.Price(
        sar_per_million_input_tokens=sar(of.prompt),
        sar_per_million_cached_input_tokens=sar(of.cached),
        sar_per_million_output_tokens=sar(of.completion),
    )


def with_money(message: M, **amounts: int | None) -> M:
    """Sets ``NAME_halala`` and ``NAME_micro_halala`` of a message for each amount in micros that is there."""
    for name, amount in amounts.items():
        if amount is not None:
            setattr(message, f"{name}_halala", whole_halala(amount))
            setattr(message, f"{name}_micro_halala", amount)
    return message


def micros_of(amount_halala: int) -> int:
    """The amount of a request in micros. Raises AMOUNT_TOO_LARGE if no account can hold it."""
    if amount_halala > MAX_BALANCE_HALALA:
        raise too_large()
    return micros(amount_halala)


def usage(data: dict[str, Any]) -> jobs_pb2.Usage:
    return ParseDict(data, jobs_pb2.Usage(), ignore_unknown_fields=True)


def job_state(number: int) -> JobState:
    """Raises INVALID_FIELD for a state that this server does not know."""
    state = _STATE_OF.get(number)
    if state is None:
        raise invalid_field("status", f"must be one of: {', '.join(JobState)}")
    return state


def state_number(state: JobState) -> jobs_pb2.JobState.ValueType:
    return _STATES[state]

"""Explains why a job waits or failed: its place in the queue, each considered provider, each attempt.

It only reads, and within the limits below. It runs inside its caller's transaction, in a worker thread, and
sees the fleet as of one moment.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

from server.domain.jobs import Job, JobState, JobType
from server.domain.leases import Lease
from server.domain.placement import OF_THE_JOB, Candidate, Model, Obstacle, Wants, can_run, obstacle
from server.domain.preparations import Preparation, PreparationStep
from server.domain.pricing import words
from server.domain.providers import ProviderStatus, is_live, status
from server.domain.queue import JobCondition, Occupancy, Prospect, condition, free_in_ms, prospect
from server.services.dispatch import RETRY_SAME_PROVIDER_SECONDS, WANTS_LIMIT, refused_since_ms
from server.services.fleet import Fleet, Presence
from server.services.terms import terms_message
from server.store import jobs, leases, providers, queue
from server.store.providers import ProviderRow
from server.store.queue import WaitingKind

# Jobs further back in the queue get no position.
QUEUE_LIMIT = 500
# Providers examined: at most this many connected ones per list, and this many of those seen last.
CONSIDERED_LIMIT = 200
# Providers in the answer, best first.
SHOWN_LIMIT = 50
# Attempts in the answer.
ATTEMPTS_LIMIT = 100

# Sorted by how soon the provider could run the job.
_SOONEST = [
    Obstacle.NONE,
    Obstacle.REFUSED,
    Obstacle.BUSY,
    Obstacle.VALUE_AT_RISK,
    Obstacle.TOO_HOT,
    Obstacle.OUTSIDE_HOURS,
    Obstacle.NO_SESSION,
    Obstacle.NOT_LIVE,
    Obstacle.DRAINING,
    Obstacle.PAUSED,
    Obstacle.NOT_ADMITTED,
    Obstacle.STANDING_TOO_LOW,
    Obstacle.RATE_ABOVE_QUOTE,
    Obstacle.NO_CONTAINERS,
    Obstacle.VRAM_RESERVED,
    Obstacle.SELF_TEST_FAILED,
    Obstacle.GPUS_FAILED,
    Obstacle.DAEMON_TOO_OLD,
    Obstacle.TOOLKIT_TOO_OLD,
    Obstacle.DRIVER_TOO_OLD,
    Obstacle.IMAGE_NOT_ALLOWED,
    Obstacle.OTHER_ARCHITECTURE,
    Obstacle.MODEL_NOT_SERVED,
    Obstacle.JOB_TYPE_NOT_SERVED,
    Obstacle.VRAM_UNKNOWN,
    Obstacle.TOO_LITTLE_VRAM,
    Obstacle.OTHER_GPU,
]


@dataclass(frozen=True, slots=True)
class Considered:
    """A provider, the obstacle that keeps the job from it, and, if it is busy, when a slot gets free."""

    provider_id: int
    obstacle: Obstacle
    message: str
    free_in_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Attempt:
    """A lease of the job. A refused or expired offer has the number of the attempt that followed it."""

    number: int
    lease: Lease


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why a job waits or failed."""

    job: Job
    condition: JobCondition
    message: str
    prospect: Prospect
    considered: list[Considered]
    attempts: list[Attempt]
    preparation: Preparation | None = None


def place_in_queue(job: Job, fleet: Fleet, now_ms: int) -> Prospect:
    """A queued job's position and estimated start; an empty prospect for any other job."""
    found = queue.queue_through(job.job_id, QUEUE_LIMIT) if job.state is JobState.QUEUED else None
    if found is None:
        return Prospect()
    waiting, before = found
    live = [
        presence
        for presence in _present(fleet, waiting.named_provider_id, waiting.wants.model)
        if is_live(fleet.last_heartbeat_ms(presence.provider_id, None), now_ms)
    ]
    left = leases.time_left([presence.provider_id for presence in live], now_ms)
    occupied = [
        Occupancy(presence.candidate(now_ms), free_in_ms(presence.believed_slots, left[presence.provider_id]))
        for presence in live
    ]
    return prospect(waiting, before, occupied)


def explain(job: Job, fleet: Fleet, now_ms: int) -> Explanation:
    """Collects all facts about why a job waits or how it ended."""
    considered = _considered(job, fleet, now_ms) if job.state is JobState.QUEUED else []
    code = condition(
        job.state, job.named_provider_id is not None, {provider.obstacle for provider in considered}
    )
    return Explanation(
        job,
        code,
        _message(job, code),
        place_in_queue(job, fleet, now_ms),
        considered[:SHOWN_LIMIT],
        numbered(job, leases.of_job(job.job_id, ATTEMPTS_LIMIT)),
    )


def glance(waiting: WaitingKind, fleet: Fleet, now_ms: int) -> tuple[JobCondition, str, Counter[Obstacle]]:
    """Why the first job of a kind waits, from memory: the condition, its sentence, and what keeps it away.

    It looks at connected providers only, and not at who refused this job lately.
    """
    wants = fleet.resolve(waiting.wants, now_ms)
    serving = _present(fleet, waiting.named_provider_id, wants.model)
    others = fleet.serving(None, CONSIDERED_LIMIT) if waiting.named_provider_id is None else []
    present = {presence.provider_id: presence for presence in (*serving, *others)}
    counts = Counter(
        obstacle(presence.candidate(now_ms), wants)
        if is_live(fleet.last_heartbeat_ms(presence.provider_id, None), now_ms)
        else Obstacle.NOT_LIVE
        for presence in list(present.values())[:CONSIDERED_LIMIT]
    )
    is_named = waiting.named_provider_id is not None
    found = condition(JobState.QUEUED, is_named, counts.keys() or ({Obstacle.NO_SESSION} if is_named else {}))
    return found, _CONDITIONS[found], counts


def with_preparation(found: Explanation, preparation: Preparation | None) -> Explanation:
    """The explanation with how far the provider is before the run starts, if it says so."""
    if preparation is None:
        return found
    total = f" of {preparation.total_bytes}" if preparation.total_bytes else ""
    what = _STEPS[preparation.step].format(done=f"{preparation.done_bytes}{total}")
    message = f"Provider {found.job.provider_id} prepares it: {what}."
    return replace(found, message=message, preparation=preparation)


_STEPS = {
    PreparationStep.INPUTS: "{done} bytes of its inputs are there",
    PreparationStep.IMAGE: "{done} bytes of its image are there",
}


def last_obstacle(job: Job, fleet: Fleet, now_ms: int) -> str:
    """Why a job has not started, and what helps, as the end of a sentence about it."""
    considered = _considered(job, fleet, now_ms)
    if not considered:
        return "no provider was there; submit it again later, or raise start_within_seconds"
    best = considered[0]
    message = best.message.rstrip(".")
    if best.obstacle in OF_THE_JOB and job.named_provider_id is None:
        return (
            f"the nearest was provider {best.provider_id}: {message}; ask for what a provider serves, "
            "see /api/renters/available-providers"
        )
    return (
        f"the nearest was provider {best.provider_id}: {message}; "
        "submit it again, or raise start_within_seconds"
    )


def waiting_without(row: ProviderRow, fleet: Fleet, now_ms: int) -> list[tuple[Obstacle, JobType, int]]:
    """The obstacles between a provider and the jobs that wait now, each with how many needs it keeps away.

    Jobs that name another provider do not count; nothing of a job is returned but its type.
    """
    presence = fleet.get(row.id)
    candidate = replace(
        presence.candidate(now_ms)
        if presence is not None
        else _absent(row, providers.models_of([row.id])[row.id]),
        status=_status(row, presence, fleet, now_ms),
    )
    found: Counter[tuple[Obstacle, JobType]] = Counter()
    for named_id, wants in queue.some_wants(WANTS_LIMIT):
        if named_id in (None, row.id):
            found[obstacle(candidate, fleet.resolve(wants, now_ms)), wants.job_type] += 1
    return [(kept, kind, count) for (kept, kind), count in found.most_common() if kept is not Obstacle.NONE]


def _present(fleet: Fleet, named_id: int | None, model: str | None) -> list[Presence]:
    if named_id is None:
        return fleet.serving(model, CONSIDERED_LIMIT)
    presence = fleet.get(named_id)
    return [presence] if presence is not None else []


def _considered(job: Job, fleet: Fleet, now_ms: int) -> list[Considered]:
    """Every examined provider, sorted by how soon it could run the job."""
    if job.named_provider_id is not None:
        ids = [job.named_provider_id]
    else:
        connected = [*fleet.serving(job.model, CONSIDERED_LIMIT), *fleet.serving(None, CONSIDERED_LIMIT)]
        seen = providers.lately_seen(CONSIDERED_LIMIT)
        ids = list(dict.fromkeys([*(presence.provider_id for presence in connected), *seen]))
    wants = fleet.resolve(jobs.wants(job.job_id), now_ms)
    refused = leases.refused_by(job.job_id, refused_since_ms(now_ms))
    unfit = leases.unfit_for(job.job_id)
    models, left = providers.models_of(ids), leases.time_left(ids, now_ms)
    considered = []
    for row in providers.by_ids(ids):
        presence = fleet.get(row.id)
        candidate = replace(
            presence.candidate(now_ms) if presence is not None else _absent(row, models[row.id]),
            status=_status(row, presence, fleet, now_ms),
            has_refused=row.id in refused,
        )
        free = free_in_ms(presence.believed_slots, left[row.id]) if presence is not None else ()
        if row.id in unfit and can_run(candidate, wants):
            message = _OBSTACLES[Obstacle.OTHER_ARCHITECTURE].format(**_facts(candidate, wants))
            considered.append(Considered(row.id, Obstacle.OTHER_ARCHITECTURE, message))
            continue
        considered.append(_consider(candidate, wants, min(free, default=None), presence, now_ms))
    return sorted(considered, key=_rank)


def _absent(row: ProviderRow, models: list[Model]) -> Candidate:
    return Candidate(
        row.id,
        0,
        row.job_types,
        tuple(models),
        row.gpu_model,
        row.gpu_vram_mib,
        image_patterns=row.image_patterns,
        architecture=row.architecture,
        has_session=False,
    )


def _status(row: ProviderRow, presence: Presence | None, fleet: Fleet, now_ms: int) -> ProviderStatus:
    draining = presence.draining if presence is not None else row.draining
    last_ms = fleet.last_heartbeat_ms(row.id, row.last_heartbeat_ms)
    return status(row.state, is_live(last_ms, now_ms), draining)


def _consider(
    candidate: Candidate, wants: Wants, free_ms: int | None, presence: Presence | None, now_ms: int
) -> Considered:
    found = obstacle(candidate, wants)
    if presence is not None and found in (Obstacle.OUTSIDE_HOURS, Obstacle.TOO_HOT):
        message = terms_message(found, "It", presence.terms.settings, presence.temp_c, now_ms)
        return Considered(candidate.provider_id, found, f"{message}.")
    if found is not Obstacle.BUSY:
        return Considered(candidate.provider_id, found, _OBSTACLES[found].format(**_facts(candidate, wants)))
    if free_ms is None:
        return Considered(candidate.provider_id, found, "It takes no jobs for now.")
    message = f"Busy until about {_seconds(free_ms)} s from now."
    return Considered(candidate.provider_id, found, message, free_ms)


def _rank(provider: Considered) -> tuple[int, bool, int, int]:
    free_in_ms = provider.free_in_ms
    return _SOONEST.index(provider.obstacle), free_in_ms is None, free_in_ms or 0, provider.provider_id


def _facts(candidate: Candidate, wants: Wants) -> dict[str, object]:
    return {
        "job_type": wants.job_type.value,
        "model": wants.model,
        "image": wants.image,
        "architecture": candidate.architecture or "not known",
        "gpu_wanted": wants.gpu_model,
        "gpu": _gpu(candidate),
        "vram_wanted": wants.min_vram_mib,
        "vram": candidate.vram_mib,
        "memory": f"{candidate.vram_mib} MiB of GPU memory" if candidate.vram_mib else "no GPU",
        "vram_reserved": candidate.vram_reserve_mib,
        "price": words(candidate.own_prices.of(wants.job_type, wants.model, candidate.gpu_model)),
        "standing": candidate.standing.value if candidate.is_checked else "new and unchecked",
        "quoted": words(wants.quoted),
    }


def _gpu(candidate: Candidate) -> str:
    memory = f" with {candidate.vram_mib} MiB" if candidate.vram_mib else ""
    return f"{candidate.gpu_model}{memory}" if candidate.gpu_model else "no GPU"


_OBSTACLES = {
    Obstacle.NONE: "It is free and can run the job.",
    Obstacle.NOT_LIVE: "It is offline: no heartbeat for 30 s.",
    Obstacle.NO_SESSION: "It is live, but its daemon is not connected.",
    Obstacle.PAUSED: "Its owner paused it.",
    Obstacle.DRAINING: "It finishes what it runs and takes no more jobs.",
    Obstacle.NOT_ADMITTED: "It is suspended or not approved yet.",
    Obstacle.JOB_TYPE_NOT_SERVED: "It does not run jobs of the type {job_type}.",
    Obstacle.MODEL_NOT_SERVED: "It does not serve the model {model}.",
    Obstacle.IMAGE_NOT_ALLOWED: "Its owner does not allow the image {image}.",
    Obstacle.OTHER_ARCHITECTURE: "Its processor is {architecture}, which the job or its image does not fit.",
    Obstacle.OTHER_GPU: "It has {gpu} and the job asks for {gpu_wanted}.",
    Obstacle.TOO_LITTLE_VRAM: "It reports {memory} and the job asks for {vram_wanted} MiB.",
    Obstacle.VRAM_UNKNOWN: "It does not report the memory of its {gpu} "
    "and the job asks for {vram_wanted} MiB.",
    Obstacle.VRAM_RESERVED: "Its owner reserves {vram_reserved} of its {vram} MiB of GPU memory "
    "and the job asks for {vram_wanted} MiB.",
    Obstacle.RATE_ABOVE_QUOTE: "It charges {price} and the job was quoted {quoted}; "
    "name it in provider_id to be quoted its price.",
    Obstacle.NO_CONTAINERS: "It runs commands as plain processes, without their image and with no isolation; "
    "name it in provider_id if you want that.",
    Obstacle.DAEMON_TOO_OLD: "Its daemon is older than this marketplace accepts.",
    Obstacle.DRIVER_TOO_OLD: "Its NVIDIA driver is older than this marketplace accepts.",
    Obstacle.TOOLKIT_TOO_OLD: "Its NVIDIA Container Toolkit is missing or older "
    "than this marketplace accepts.",
    Obstacle.GPUS_FAILED: "None of its GPUs is healthy now.",
    Obstacle.SELF_TEST_FAILED: "Its engine or runner for this job did not pass the daemon's self-test.",
    Obstacle.TWO_DAEMONS: "Two daemons use its key at the same time.",
    Obstacle.STANDING_TOO_LOW: "Its standing is {standing}, and the job goes to providers with a better one.",
    Obstacle.VALUE_AT_RISK: "Its open jobs hold as much as its standing allows; "
    "it is offered the job when one of them ends.",
    Obstacle.REFUSED: "It refused the job or did not answer, "
    f"and is offered it again within {RETRY_SAME_PROVIDER_SECONDS:.0f} s.",
}
_CONDITIONS = {
    JobCondition.NEXT: "A free provider can run it; it is about to be offered.",
    JobCondition.ALL_BUSY: "Every provider that can run it is busy.",
    JobCondition.PROVIDER_BUSY: "The provider that it names is busy.",
    JobCondition.PROVIDER_AWAY: "The provider that it names is offline or takes no jobs now; "
    "cancel the job and leave provider_id out to have it placed elsewhere.",
    JobCondition.NO_PROVIDER: "No connected provider can run it.",
    JobCondition.STARTING: "Provider {provider} was offered the job or prepares it.",
    JobCondition.RUNNING: "It runs on provider {provider}.",
    JobCondition.COMPLETED: "It completed.",
    JobCondition.FAILED: "It failed: {failure}.",
    JobCondition.CANCELLED: "It was cancelled: {failure}.",
}


def _message(job: Job, code: JobCondition) -> str:
    return _CONDITIONS[code].format(provider=job.provider_id, failure=job.failure_message)


def numbered(job: Job, history: list[Lease]) -> list[Attempt]:
    """The leases of a job, oldest first, with the numbers of their attempts."""
    found, following = [], job.attempt + 1
    for lease in reversed(history):
        following = lease.attempt or following
        found.append(Attempt(following, lease))
    return found[::-1]


def _seconds(time_ms: int) -> int:
    return -(-time_ms // 1000)

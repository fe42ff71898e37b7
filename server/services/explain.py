"""Why a job waits or failed: its place in the queue, each provider that was considered, each attempt.

Reads only, within bounds: so much of the queue, so many providers, so many attempts. Runs inside its
caller's transaction, in a worker thread; what it reads of the fleet is as of one moment.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from server.domain.jobs import Job, JobState
from server.domain.leases import Lease
from server.domain.placement import Candidate, Model, Obstacle, Wants, obstacle
from server.domain.providers import ProviderStatus, is_live, status
from server.domain.queue import JobCondition, Occupancy, Prospect, condition, free_in_ms, prospect
from server.services.dispatch import RETRY_SAME_PROVIDER_SECONDS, refused_since_ms
from server.services.fleet import Fleet, Presence
from server.services.terms import closure_words
from server.store import jobs, leases, providers
from server.store.providers import ProviderRow

# A job is told its place when it is among the first so many.
QUEUE_LIMIT = 500
# So many providers that are there are looked at, and so many that were seen last; the best are told.
LOOKED_AT_LIMIT = 200
TOLD_LIMIT = 50
ATTEMPTS_LIMIT = 100

# The one that can soonest comes first.
_SOONEST = [
    Obstacle.NONE,
    Obstacle.REFUSED,
    Obstacle.BUSY,
    Obstacle.TOO_HOT,
    Obstacle.OUTSIDE_HOURS,
    Obstacle.NO_SESSION,
    Obstacle.NOT_LIVE,
    Obstacle.DRAINING,
    Obstacle.PAUSED,
    Obstacle.NOT_ADMITTED,
    Obstacle.RATE_ABOVE_QUOTE,
    Obstacle.NO_CONTAINERS,
    Obstacle.VRAM_RESERVED,
    Obstacle.SELF_TEST_FAILED,
    Obstacle.GPUS_FAILED,
    Obstacle.DAEMON_TOO_OLD,
    Obstacle.TOOLKIT_TOO_OLD,
    Obstacle.DRIVER_TOO_OLD,
    Obstacle.MODEL_NOT_SERVED,
    Obstacle.JOB_TYPE_NOT_SERVED,
    Obstacle.TOO_LITTLE_VRAM,
    Obstacle.OTHER_GPU,
]


@dataclass(frozen=True, slots=True)
class Considered:
    """A provider, what keeps it from running the job, and when a slot gets free while it is busy."""

    provider_id: int
    obstacle: Obstacle
    message: str
    free_in_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Attempt:
    """A lease of the job. One that was refused or expired has the number of the try that followed it."""

    number: int
    lease: Lease


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why a job is where it is."""

    job: Job
    condition: JobCondition
    message: str
    prospect: Prospect
    considered: list[Considered]
    attempts: list[Attempt]


def place_in_queue(job: Job, fleet: Fleet, now_ms: int) -> Prospect:
    """Where a queued job stands and when it may start; nothing for any other job."""
    found = jobs.queue_through(job.job_id, QUEUE_LIMIT) if job.state is JobState.QUEUED else None
    if found is None:
        return Prospect()
    waiting, before = found
    there = [
        presence
        for presence in _present(fleet, waiting.named_provider_id, waiting.wants.model)
        if is_live(fleet.last_heartbeat_ms(presence.provider_id, None), now_ms)
    ]
    left = leases.time_left([presence.provider_id for presence in there], now_ms)
    occupied = [
        Occupancy(presence.candidate(now_ms), free_in_ms(presence.slots, left[presence.provider_id]))
        for presence in there
    ]
    return prospect(waiting, before, occupied)


def explain(job: Job, fleet: Fleet, now_ms: int) -> Explanation:
    """The whole story of a job."""
    considered = _considered(job, fleet, now_ms) if job.state is JobState.QUEUED else []
    code = condition(job.state, job.named_provider_id is not None, {one.obstacle for one in considered})
    return Explanation(
        job,
        code,
        _words(job, code),
        place_in_queue(job, fleet, now_ms),
        considered[:TOLD_LIMIT],
        _numbered(job, leases.of_job(job.job_id, ATTEMPTS_LIMIT)),
    )


def _present(fleet: Fleet, named_id: int | None, model: str | None) -> list[Presence]:
    if named_id is None:
        return fleet.serving(model, LOOKED_AT_LIMIT)
    presence = fleet.get(named_id)
    return [presence] if presence is not None else []


def _considered(job: Job, fleet: Fleet, now_ms: int) -> list[Considered]:
    """Every provider that was looked at, the one that can soonest first."""
    if job.named_provider_id is not None:
        ids = [job.named_provider_id]
    else:
        there = [*fleet.serving(job.model, LOOKED_AT_LIMIT), *fleet.serving(None, LOOKED_AT_LIMIT)]
        seen = providers.lately_seen(LOOKED_AT_LIMIT)
        ids = list(dict.fromkeys([*(presence.provider_id for presence in there), *seen]))
    wants = jobs.wants(job.job_id)
    refused = leases.refused_by(job.job_id, refused_since_ms(now_ms))
    models, left = providers.models_of(ids), leases.time_left(ids, now_ms)
    told = []
    for row in providers.by_ids(ids):
        presence = fleet.get(row.id)
        candidate = replace(
            presence.candidate(now_ms) if presence is not None else _absent(row, models[row.id]),
            status=_status(row, presence, fleet, now_ms),
            has_refused=row.id in refused,
        )
        free = free_in_ms(presence.slots, left[row.id]) if presence is not None else ()
        told.append(_told(candidate, wants, min(free, default=None), presence, now_ms))
    return sorted(told, key=_rank)


def _absent(row: ProviderRow, models: list[Model]) -> Candidate:
    return Candidate(
        row.id,
        0,
        row.job_types,
        tuple(models),
        row.gpu_model,
        row.gpu_vram_mib,
        has_session=False,
    )


def _status(row: ProviderRow, presence: Presence | None, fleet: Fleet, now_ms: int) -> ProviderStatus:
    draining = presence.draining if presence is not None else row.draining
    last_ms = fleet.last_heartbeat_ms(row.id, row.last_heartbeat_ms)
    return status(row.state, is_live(last_ms, now_ms), draining)


def _told(
    candidate: Candidate, wants: Wants, free_ms: int | None, presence: Presence | None, now_ms: int
) -> Considered:
    what = obstacle(candidate, wants)
    if presence is not None and what in (Obstacle.OUTSIDE_HOURS, Obstacle.TOO_HOT):
        words = closure_words(what, "It", presence.terms.settings, presence.temp_c, now_ms)
        return Considered(candidate.provider_id, what, f"{words}.")
    if what is not Obstacle.BUSY:
        return Considered(candidate.provider_id, what, _OBSTACLES[what].format(**_facts(candidate, wants)))
    if free_ms is None:
        return Considered(candidate.provider_id, what, "It takes no jobs for now.")
    message = f"Busy until about {_seconds(free_ms)} s from now."
    return Considered(candidate.provider_id, what, message, free_ms)


def _rank(one: Considered) -> tuple[int, bool, int, int]:
    return _SOONEST.index(one.obstacle), one.free_in_ms is None, one.free_in_ms or 0, one.provider_id


def _facts(candidate: Candidate, wants: Wants) -> dict[str, object]:
    return {
        "job_type": wants.job_type.value,
        "model": wants.model,
        "gpu_wanted": wants.gpu_model,
        "gpu": candidate.gpu_model or "no GPU",
        "vram_wanted": wants.min_vram_mib,
        "vram": candidate.vram_mib,
        "vram_kept": candidate.vram_reserve_mib,
        "rate": candidate.own_rates.get(wants.job_type),
        "quoted": wants.quoted_halala_per_minute,
    }


_OBSTACLES = {
    Obstacle.NONE: "It is free and can run the job.",
    Obstacle.NOT_LIVE: "It is offline: no heartbeat for 30 s.",
    Obstacle.NO_SESSION: "It is live, but its daemon is not connected.",
    Obstacle.PAUSED: "Its owner paused it.",
    Obstacle.DRAINING: "It finishes what it runs and takes no more jobs.",
    Obstacle.NOT_ADMITTED: "It is suspended or not approved yet.",
    Obstacle.JOB_TYPE_NOT_SERVED: "It does not run jobs of the type {job_type}.",
    Obstacle.MODEL_NOT_SERVED: "It does not serve the model {model}.",
    Obstacle.OTHER_GPU: "It has {gpu} and the job asks for {gpu_wanted}.",
    Obstacle.TOO_LITTLE_VRAM: "It has {vram} MiB of GPU memory and the job asks for {vram_wanted}.",
    Obstacle.VRAM_RESERVED: "Its owner keeps {vram_kept} of its {vram} MiB of GPU memory "
    "and the job asks for {vram_wanted}.",
    Obstacle.RATE_ABOVE_QUOTE: "It asks for {rate} halala per minute and the job was quoted {quoted}; "
    "a job that names it is quoted its rate.",
    Obstacle.NO_CONTAINERS: "It runs commands as plain processes, without their image; "
    "name it in provider_id if that is what you want.",
    Obstacle.DAEMON_TOO_OLD: "Its daemon is older than this marketplace takes.",
    Obstacle.DRIVER_TOO_OLD: "Its NVIDIA driver is older than this marketplace takes.",
    Obstacle.TOOLKIT_TOO_OLD: "Its NVIDIA Container Toolkit is missing or older than this marketplace takes.",
    Obstacle.GPUS_FAILED: "None of its GPUs is healthy now.",
    Obstacle.SELF_TEST_FAILED: "What would run the job did not pass its daemon's self-test.",
    Obstacle.REFUSED: "It refused the job or did not answer, "
    f"and is asked again within {RETRY_SAME_PROVIDER_SECONDS:.0f} s.",
}
_CONDITIONS = {
    JobCondition.NEXT: "A provider is free for it: it is about to be offered.",
    JobCondition.ALL_BUSY: "Every provider that can run it is busy.",
    JobCondition.PROVIDER_BUSY: "The provider that it names is busy.",
    JobCondition.PROVIDER_AWAY: "The provider that it names is not there or takes no jobs now; "
    "cancel the job and leave provider_id out to have it placed elsewhere.",
    JobCondition.NO_PROVIDER: "No provider that is there now can run it.",
    JobCondition.STARTING: "Provider {provider} was offered the job or prepares it.",
    JobCondition.RUNNING: "It runs on provider {provider}.",
    JobCondition.COMPLETED: "It completed.",
    JobCondition.FAILED: "It failed: {failure}.",
    JobCondition.CANCELLED: "It was cancelled: {failure}.",
}


def _words(job: Job, code: JobCondition) -> str:
    return _CONDITIONS[code].format(provider=job.provider_id, failure=job.failure_message)


def _numbered(job: Job, history: list[Lease]) -> list[Attempt]:
    numbered, following = [], job.attempt + 1
    for lease in reversed(history):
        following = lease.attempt or following
        numbered.append(Attempt(following, lease))
    return numbered[::-1]


def _seconds(time_ms: int) -> int:
    return -(-time_ms // 1000)

"""Whether a submitted job can be served: by the provider that it names, or by any that was seen lately.

It refuses what no provider could take, so that a renter learns at once what would otherwise wait until its
deadline. It runs inside its caller's transaction. Which provider gets a job is server.services.dispatch's.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from common.nearest import did_you_mean, nearest
from server.clock import Clock, ms
from server.domain.errors import DomainError, Reason, invalid_field
from server.domain.gpu_models import is_known, nearest_models, satisfies
from server.domain.hindrances import failing_models, is_pending
from server.domain.jobs import NOT_RUN, START_WITHIN_SECONDS, JobRequest, JobType
from server.domain.leases import LIVE_SECONDS
from server.domain.placement import Model, Obstacle, allows, serves, vram_for_jobs_mib
from server.domain.providers import ProviderStatus, is_live, status
from server.domain.terms import Settings
from server.services.fleet import Fleet
from server.services.terms import terms_message, terms_obstacle
from server.store import providers, terms
from server.store.providers import ProviderRow

# A provider that was seen within this time counts as supply: a restart or a short outage refuses no job.
SUPPLY_SECONDS = START_WITHIN_SECONDS
SUPPLY_LIMIT = 200
UNAVAILABLE_RETRY_SECONDS = 10
# Patterns of images in a refusal.
SHOWN_PATTERNS = 10


class Supply:
    """The checks of a job's request against the providers that there are."""

    def __init__(self, fleet: Fleet, clock: Clock) -> None:
        self._fleet = fleet
        self._clock = clock

    def check(self, request: JobRequest) -> None:
        """Checks a job that names no provider.

        Raises JOB_TYPE_NOT_SERVED, MODEL_NOT_SERVED, IMAGE_NOT_ALLOWED; and PROVIDER_UNAVAILABLE for a job
        that a client waits for at a connection, if nobody serves its model at this moment.
        """
        now_ms = ms(self._clock)
        _check_seen(request, now_ms)
        if not request.is_awaited or self._fleet.is_served(request.job_type, request.model or ""):
            return
        if not providers.is_served(request.job_type, request.model, now_ms - int(LIVE_SECONDS * 1000)):
            raise _unavailable(request.model)

    def check_provider(self, provider_id: int, request: JobRequest) -> None:
        """Raises PROVIDER_NOT_FOUND, PROVIDER_UNAVAILABLE, or the reason why it does not serve the job."""
        provider = providers.get(provider_id)
        if provider is None:
            raise DomainError(
                Reason.PROVIDER_NOT_FOUND,
                f"provider_id: no provider {provider_id}; list the live providers at "
                "/api/renters/available-providers, or leave provider_id out",
                field="provider_id",
            )
        last_ms = self._fleet.last_heartbeat_ms(provider_id, provider.last_heartbeat_ms)
        now = status(provider.state, is_live(last_ms, ms(self._clock)), provider.draining)
        if now is not ProviderStatus.ONLINE:
            raise DomainError(
                Reason.PROVIDER_UNAVAILABLE,
                f"provider {provider_id} is {now.value} and takes no jobs; "
                "leave provider_id out and the platform places the job",
                field="provider_id",
                status=now.value,
                advice="leave provider_id out",
            )
        own = terms.of(provider_id)
        self._check_open(provider, own.settings)
        if is_pending(provider.self_tests, request.job_type, request.model):
            return  # its self-test has not ended, so it is not known whether it serves this; the job waits
        self._check_unhindered(provider_id, request.job_type)
        if provider.models_reported:
            _check_serves(provider, request, own.settings.vram_reserve_mib)

    def _check_open(self, provider: providers.ProviderRow, settings: Settings) -> None:
        """Raises PROVIDER_UNAVAILABLE outside the owner's hours, and while the GPU is too hot."""
        now_ms = ms(self._clock)
        obstacle, temp_c = terms_obstacle(provider, settings, self._fleet, now_ms)
        if obstacle is not Obstacle.NONE:
            message = terms_message(obstacle, f"provider {provider.id}", settings, temp_c, now_ms)
            raise DomainError(
                Reason.PROVIDER_UNAVAILABLE,
                f"{message}; leave provider_id out and the platform places the job",
                field="provider_id",
                status=obstacle.value.lower(),
                advice="leave provider_id out",
            )

    def _check_unhindered(self, provider_id: int, kind: JobType) -> None:
        """Raises PROVIDER_UNAVAILABLE while a hindrance keeps jobs of this type away from the session."""
        presence = self._fleet.get(provider_id)
        for hindrance in presence.hindrances if presence is not None else ():
            if kind in hindrance.job_types:
                raise DomainError(
                    Reason.PROVIDER_UNAVAILABLE,
                    f"provider {provider_id} takes no jobs of the type {kind.value} now. {hindrance.message} "
                    "Leave provider_id out and the platform places the job",
                    field="provider_id",
                    status="online",
                    advice="leave provider_id out",
                )


def check_can_be_run(kind: JobType) -> None:
    """Raises JOB_TYPE_NOT_SERVED for a type that no daemon can run, also if the job would wait."""
    if kind in NOT_RUN:
        raise DomainError(
            Reason.JOB_TYPE_NOT_SERVED,
            f"job_type: no daemon can run {kind.value} jobs yet; ask a model by llm-inference, or bring "
            "a server of your own as a custom_container",
            field="job_type",
        )


def check_gpu_exists(gpu_model: str | None) -> None:
    """Raises INVALID_FIELD for a model that is not known and that no provider has."""
    if gpu_model and not is_known(gpu_model) and not providers.has_gpu(gpu_model):
        near = nearest_models(gpu_model)
        remedy = f"did you mean {' or '.join(near)}?" if near else "leave it out to get any GPU"
        raise invalid_field(
            "gpu_requirements.gpu_model",
            f"{gpu_model!r} is not a known GPU model, and no provider has one; {remedy}",
        )


def _check_serves(provider: providers.ProviderRow, request: JobRequest, vram_reserve_mib: int) -> None:
    if request.job_type not in provider.job_types:
        runs = ", ".join(sorted(provider.job_types)) or "none"
        raise DomainError(
            Reason.JOB_TYPE_NOT_SERVED,
            f"job_type: provider {provider.id} runs {runs}; choose one of these or another provider",
            field="job_type",
        )
    if request.image is not None and not allows(provider.image_patterns, request.image):
        raise DomainError(
            Reason.IMAGE_NOT_ALLOWED,
            f"container_spec.image: provider {provider.id} does not allow {request.image}; "
            f"{_choose_image([provider])}",
            field="container_spec.image",
        )
    if request.architecture and provider.architecture != request.architecture:
        raise invalid_field(
            "container_spec.architecture",
            f"provider {provider.id} has the processor {provider.architecture or 'that it does not report'}; "
            "ask for that, or leave provider_id out",
        )
    if request.gpu_model and not satisfies(provider.gpu_model, provider.gpu_vram_mib, request.gpu_model):
        memory = f" with {provider.gpu_vram_mib} MiB" if provider.gpu_vram_mib else ""
        raise invalid_field(
            "gpu_requirements.gpu_model",
            f"provider {provider.id} has {provider.gpu_model or 'no GPU'}{memory}; ask for that, "
            "or leave provider_id out",
        )
    _check_memory(provider, request.min_vram_mib, vram_reserve_mib)
    if request.model is None:
        return
    models, kind = providers.models_of([provider.id])[provider.id], request.job_type
    if not serves(models, request.model, kind):
        served = [model.name for model in models if model.serves(kind)]
        meant = did_you_mean(request.model, served, "choose one of these, or leave provider_id out")
        other = _other_use(request.model, models)
        raise DomainError(
            Reason.MODEL_NOT_SERVED,
            f"params.model: provider {provider.id} serves {', '.join(served[:20]) or 'no model'}"
            f"{f' for {kind.value}' if other else ''}{other}; {meant}",
            field="params.model",
        )


def _check_memory(provider: ProviderRow, wanted_mib: int | None, reserve_mib: int) -> None:
    has_mib = vram_for_jobs_mib(provider.gpu_vram_mib, reserve_mib)
    if not wanted_mib or (has_mib is not None and wanted_mib <= has_mib):
        return
    wants = f"the job asks for {wanted_mib} MiB here or in container_spec.vram_required_mb"
    if has_mib:
        text = f"has {has_mib} MiB of GPU memory for jobs and {wants}; ask for less"
    elif provider.gpu_vram_mib:
        text = f"keeps its {provider.gpu_vram_mib} MiB of GPU memory for its owner and {wants}"
    elif provider.gpu_model:
        text = f"does not report how much memory its {provider.gpu_model} has and {wants}; leave it out"
    else:
        text = f"reports no GPU and {wants}; leave it out"
    raise invalid_field("gpu_requirements.min_vram_gb", f"provider {provider.id} {text}, or name another")


def _unavailable(model: str | None) -> DomainError:
    return DomainError(
        Reason.PROVIDER_UNAVAILABLE,
        f"no provider of {model!r} is live now; repeat it in a moment, or choose another model of /v1/models",
        retry_after_seconds=UNAVAILABLE_RETRY_SECONDS,
    )


def _other_use(name: str, models: Iterable[Model]) -> str:
    """What else a model is served for, as the end of a part of a sentence; empty if it is not served."""
    kinds = sorted({kind.value for model in models if model.name == name for kind in model.job_types})
    return f", and {name!r} for {' and '.join(kinds)}" if kinds else ""


def _check_seen(request: JobRequest, now_ms: int) -> None:
    """Raises JOB_TYPE_NOT_SERVED, MODEL_NOT_SERVED or IMAGE_NOT_ALLOWED.

    The providers that were seen lately decide. While none of them has reported what it serves, nothing is
    known. One whose models still load, or whose self-tests still run, may serve this in a moment.
    """
    since_ms, kind, model = now_ms - SUPPLY_SECONDS * 1000, request.job_type, request.model
    is_served = providers.is_served(kind, model, since_ms)
    if is_served and request.image is None:
        return
    lately = providers.seen_since(since_ms, SUPPLY_LIMIT)
    if is_served and len(lately) == SUPPLY_LIMIT:
        return  # others may allow the image
    seen = [provider for provider in lately if provider.models_reported]
    if not seen or any(is_pending(provider.self_tests, kind, model) for provider in seen):
        return
    if is_served:
        _check_image(request.image, [provider for provider in seen if kind in provider.job_types])
        return
    if request.is_awaited and any(model in failing_models(provider.self_tests) for provider in seen):
        raise _unavailable(model)  # its providers test it again by themselves
    running = [provider.id for provider in seen if kind in provider.job_types]
    if model is None or not (running or request.is_awaited):
        kinds = ", ".join(sorted({name for provider in seen for name in provider.job_types}))
        others = f"choose one of {kinds}, or " if kinds else ""
        raise DomainError(
            Reason.JOB_TYPE_NOT_SERVED,
            f"job_type: no provider runs {kind.value} now; {others}set wait_for_supply to wait for one",
            field="job_type",
        )
    found = [each for models in providers.models_of([row.id for row in seen]).values() for each in models]
    if not all(providers.models_of(running).values()):
        return
    names = sorted({each.name for each in found if each.serves(kind)})
    near = nearest(model, names, 3) or names[:3]
    served = f"no provider serves {model!r} for {kind.value} now{_other_use(model, found)}"
    raise DomainError(
        Reason.MODEL_NOT_SERVED,
        f"params.model: {served}; the closest names are {', '.join(near) or 'none'}; "
        "choose a served one, see /api/renters/available-providers, or set wait_for_supply",
        field="params.model",
    )


def _check_image(image: str | None, running: Sequence[ProviderRow]) -> None:
    """Raises IMAGE_NOT_ALLOWED if none of the providers that run such jobs allows the image."""
    if image is None or not running or any(allows(row.image_patterns, image) for row in running):
        return
    raise DomainError(
        Reason.IMAGE_NOT_ALLOWED,
        f"container_spec.image: no provider allows {image} now; {_choose_image(running)}, "
        "or set wait_for_supply to wait for one",
        field="container_spec.image",
    )


def _choose_image(rows: Iterable[ProviderRow]) -> str:
    patterns = sorted({pattern for row in rows for pattern in row.image_patterns or ()})
    shown = ", ".join(patterns[:SHOWN_PATTERNS])
    return f"choose one that is allowed, such as {shown}" if shown else "choose another image"

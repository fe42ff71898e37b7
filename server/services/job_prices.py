"""What a new job costs, and what its renter's earlier ones like it took. Inside a transaction."""

from __future__ import annotations

from server.domain.gpu_models import asked
from server.domain.honesty import Verdict
from server.domain.jobs import NEED_IMAGE, JobRequest, JobState
from server.domain.pricing import NO_PRICES, Price, gpu_count, of_provider
from server.domain.quotes import PastRun
from server.store import jobs, prices, providers, terms

# A renter's newest jobs among which those like a new one are looked for.
NEWEST = 100


def price_of(request: JobRequest) -> Price:
    """The price of a job: the own one of the provider that it names, or the platform's."""
    kind, model, gpus = request.job_type, request.model, gpu_count(request.spec)
    if request.provider_id is None:
        gpu_model = str(asked(request.gpu_model)) if request.gpu_model else None
        card = prices.of(request, gpu_model)
        return of_provider(NO_PRICES, card, kind, model, gpu_model, gpus, is_verified=True)
    named = providers.get(request.provider_id) if kind in NEED_IMAGE else None
    gpu_model = named.gpu_model if named is not None else None
    is_verified = named is not None and named.verdict is Verdict.VERIFIED
    own, card = terms.of(request.provider_id).prices, prices.of(request, gpu_model)
    return of_provider(own, card, kind, model, gpu_model, gpus, is_verified=is_verified)


def past_runs(renter_id: int, request: JobRequest) -> list[PastRun]:
    """The newest completed runs of the same renter with the same model, or of the same type without one."""
    found = jobs.newest_runs(renter_id, request.job_type, request.model, JobState.COMPLETED, NEWEST)
    return [PastRun(billed_ms, int(usage.get("completion_tokens", 0))) for billed_ms, usage in found]

"""Quotes as renters ask for them: what a job holds, what it will likely cost, and who could run it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from server.clock import Clock, ms
from server.domain import quotes as rules
from server.domain.canaries import NOT_MEASURED, Measured
from server.domain.holds import Reservation, reserve
from server.domain.jobs import NEED_IMAGE, JobRequest
from server.domain.placement import Candidate, Wants, can_run, rank, wants_for
from server.domain.pricing import Price
from server.domain.quotes import PastRun, Quote
from server.services.fleet import Fleet
from server.services.job_prices import past_runs, price_of
from server.services.jobs import Jobs
from server.services.market import SPEEDS_MS
from server.services.supply import Supply, check_can_be_run, check_gpu_exists
from server.store import canaries
from server.store.database import Database

# Connected providers that are looked at, and those that are shown, best first.
CONSIDERED, SHOWN = 1000, 20


@dataclass(frozen=True, slots=True)
class Offer:
    """A provider that could run the job: what it costs there if the job names it."""

    candidate: Candidate
    price: Price
    hold_micros: int
    likely_micros: int | None
    measured: Measured
    """By the market's own checks."""


@dataclass(frozen=True, slots=True)
class Quoted:
    """The answer to a question for a price."""

    quote_id: str
    expires_ms: int
    price: Price
    reserved: Reservation
    likely_micros: int | None
    offers: tuple[Offer, ...]
    able: int
    """How many providers of those that were looked at could run it."""


class Quotes:
    """The use case of a quote."""

    def __init__(self, database: Database, jobs: Jobs, fleet: Fleet, clock: Clock) -> None:
        self._database = database
        self._jobs = jobs
        self._fleet = fleet
        self._clock = clock
        self._supply = Supply(fleet, clock)

    async def quote(self, renter_id: int, request: JobRequest) -> Quoted:
        """A binding price for a request, and who could run it now. It holds nothing.

        Raises what a submit raises that cannot be run; not INSUFFICIENT_BALANCE.
        """
        key, now_ms = await self._jobs.quote_key(), ms(self._clock)

        def read() -> Quoted:
            check_can_be_run(request.job_type)
            check_gpu_exists(request.gpu_model)
            if request.provider_id is not None:
                self._supply.check_provider(request.provider_id, request)
            elif not request.wait_for_supply:
                self._supply.check(request)
            price = price_of(request)
            past = past_runs(renter_id, request)
            limited = request if request.duration_ms else _limited(request, past)
            wants = replace(wants_for(request), quoted=price if request.provider_id is None else None)
            able = self._able(request, wants, now_ms)
            ids = [each.provider_id for each in able]
            measured = canaries.measured(request.model, ids, now_ms - SPEEDS_MS) if request.model else {}
            context = self._jobs.longest_context(price, request)
            platform = price if request.provider_id is None else price_of(replace(request, provider_id=None))
            offers = tuple(
                _offer(each, limited, platform, past, measured.get(each.provider_id, NOT_MEASURED))
                for each in able[:SHOWN]
            )
            speed = measured.get(ids[0], NOT_MEASURED).tokens_per_second if ids else None
            expires_ms = now_ms + rules.VALID_MS
            return Quoted(
                Quote(renter_id, request.digest, price, expires_ms).sign(key),
                expires_ms,
                price,
                reserve(price, limited, context),
                rules.likely_micros(price, limited, past, speed),
                offers,
                len(able),
            )

        return await self._database.read(read)

    def _able(self, request: JobRequest, wants: Wants, now_ms: int) -> list[Candidate]:
        """The connected providers that could run the job, best first."""
        present = (
            presence.candidate(now_ms)
            for presence in self._fleet.serving(request.model, CONSIDERED)
            if request.provider_id in (None, presence.provider_id)
        )
        able = [each for each in present if can_run(each, wants)]
        return sorted(able, key=lambda each: rank(each, request.model))


def _limited(request: JobRequest, past: Sequence[PastRun]) -> JobRequest:
    return replace(request, duration_ms=rules.limit_ms(request, past))


def _offer(
    candidate: Candidate,
    request: JobRequest,
    platform: Price,
    past: Sequence[PastRun],
    measured: Measured,
) -> Offer:
    own = candidate.own_prices.of(request.job_type, request.model, candidate.gpu_model)
    # A job in a container that names its provider may have the price of its GPU.
    named = replace(request, provider_id=candidate.provider_id)
    price = price_of(named) if request.job_type in NEED_IMAGE else own or platform
    contexts = [model.context_tokens for model in candidate.models if model.name == request.model]
    hold = reserve(price, named, max(contexts, default=0)).hold_micros
    likely = rules.likely_micros(price, named, past, measured.tokens_per_second)
    return Offer(candidate, price, hold, likely, measured)

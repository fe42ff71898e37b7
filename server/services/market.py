"""The market that renters see: the live providers with their rates, and their past attempts."""

from __future__ import annotations

from dataclasses import dataclass

from server.clock import Clock, ms
from server.domain.gpu_models import is_known, nearest_models
from server.domain.hindrances import Hindrance
from server.domain.honesty import Verdict
from server.domain.jobs import NOT_RUN, JobType
from server.domain.leases import LIVE_SECONDS
from server.domain.levels import Standing
from server.domain.placement import Model, Obstacle, vram_for_jobs_mib
from server.domain.pricing import Price, Prices, of_provider
from server.domain.reliability import TrackRecord
from server.domain.terms import Terms
from server.services.fleet import Fleet
from server.services.pages import Page, first_page
from server.services.providers import Providers, existing
from server.services.terms import terms_obstacle
from server.store import canaries, prices, providers, reliability, standing, terms
from server.store.database import Database
from server.store.providers import ProviderRow
from server.store.reliability import PastAttempt
from server.store.standing import StandingRow

# How old a measured speed may be.
SPEEDS_MS = 30 * 24 * 3600 * 1000
# What a provider may run that has not said yet what it does.
RUN = frozenset(JobType) - NOT_RUN


@dataclass(frozen=True, slots=True)
class Offered:
    """What jobs of a type cost on a provider that they name, or those that use a model."""

    kind: JobType
    model: str | None
    price: Price
    tokens_per_second: float | None = None
    """As the market measured it by its own checks."""


@dataclass(frozen=True, slots=True)
class Offering:
    """A live provider as renters see it."""

    provider: ProviderRow
    models: list[Model]
    rates: dict[JobType, int]
    """In halala per minute: the provider's own rates, else the platform's, for the job types that it runs."""
    record: TrackRecord
    standing: StandingRow | None
    vram_for_jobs_mib: int | None
    """None if its memory is not known."""
    is_accepting: bool
    opens_ms: int | None
    """When its hours begin next; None while it is within them."""
    hindrances: tuple[Hindrance, ...]
    runs_plain_processes: bool
    """It runs jobs without the image that they bring, so it gets such jobs only if they name it."""
    prices: tuple[Offered, ...]


class Market:
    """Reads the market; changes nothing."""

    def __init__(self, database: Database, fleet: Fleet, accounts: Providers, clock: Clock) -> None:
        self._database = database
        self._fleet = fleet
        self._accounts = accounts
        self._clock = clock

    async def available(
        self,
        *,
        gpu_model: str | None,
        min_vram_mib: int | None,
        model: str | None,
        after_id: int,
        page: int,
        page_size: int,
        verified: bool = False,
        min_standing: Standing | None = None,
        architecture: str | None = None,
    ) -> tuple[Page[Offering], int, list[str]]:
        """One page of the live providers, by id, their number on all pages, and names like ``gpu_model``.

        Only a name that is not known, and that no provider has, gets such names.
        """
        now_ms = ms(self._clock)
        since_ms = now_ms - int(LIVE_SECONDS * 1000)

        def read() -> tuple[Page[Offering], int, list[str]]:
            rows, total = providers.live(
                since_ms=since_ms,
                gpu_model=gpu_model,
                min_vram_mib=min_vram_mib,
                model=model,
                after_id=after_id,
                offset=(page - 1) * page_size,
                limit=page_size + 1,
                verified=verified,
                min_standing=min_standing,
                architecture=architecture,
            )
            listed = first_page(rows, page_size)
            ids = [row.id for row in listed.rows]
            models, own = (providers.models_of(ids), terms.of_all(ids)) if ids else ({}, {})
            card = prices.card().prices
            since = now_ms - SPEEDS_MS
            speeds = canaries.measured(model, ids, since) if model and ids else {}
            known, granted = reliability.track_records(ids), standing.of(ids)
            offerings = [
                self._offering(
                    row,
                    models[row.id],
                    own[row.id],
                    _offered(row, models[row.id], own[row.id].prices, card, model, speeds.get(row.id)),
                    known[row.id],
                    granted.get(row.id),
                    now_ms,
                )
                for row in listed.rows
            ]
            return Page(offerings, listed.next_id), total, _nearest(gpu_model)

        return await self._database.read(read)

    async def history(
        self, provider_id: int, before: tuple[int, int] | None, limit: int
    ) -> tuple[list[PastAttempt], tuple[int, int] | None]:
        """One page of ended attempts, newest first, and where the next page begins: an end and a number.

        Raises PROVIDER_NOT_FOUND.
        """

        def read() -> list[PastAttempt]:
            existing(provider_id)
            return reliability.page(provider_id, before, limit + 1)

        found = await self._database.read(read)
        last = found[limit - 1] if len(found) > limit else None
        return found[:limit], (last.ended_ms, last.number) if last is not None else None

    def _offering(
        self,
        row: ProviderRow,
        models: list[Model],
        own: Terms,
        offered: tuple[Offered, ...],
        known: TrackRecord,
        granted: StandingRow | None,
        now_ms: int,
    ) -> Offering:
        closed, _ = terms_obstacle(row, own.settings, self._fleet, now_ms)
        opens = own.settings.opens(now_ms)
        presence = self._fleet.get(row.id)
        return Offering(
            row,
            models,
            {each.kind: each.price.halala_per_minute for each in offered if each.model is None},
            known,
            granted,
            vram_for_jobs_mib(row.gpu_vram_mib, own.settings.vram_reserve_mib),
            row.connected and not row.draining and closed is Obstacle.NONE,
            int(opens.timestamp() * 1000) if opens is not None else None,
            self._accounts.hindrances(row),
            presence is not None and presence.runs_plain_processes,
            offered,
        )


def _offered(
    row: ProviderRow, models: list[Model], own: Prices, card: Prices, model: str | None, speed: float | None
) -> tuple[Offered, ...]:
    """The prices by job type, and of each model with one by tokens; the speed is that with one model."""
    is_verified, kinds = row.verdict is Verdict.VERIFIED, sorted(row.job_types or RUN)

    def price(kind: JobType, name: str | None) -> Price:
        return of_provider(own, card, kind, name, row.gpu_model, is_verified=is_verified)

    by_type = [Offered(kind, None, price(kind, None)) for kind in kinds]
    if JobType.LLM_INFERENCE not in kinds:
        return tuple(by_type)
    names = [served.name for served in models if {served.name} & {model, *card.tokens, *own.tokens}]
    return (
        *by_type,
        *(
            Offered(
                JobType.LLM_INFERENCE,
                name,
                price(JobType.LLM_INFERENCE, name),
                speed if name == model else None,
            )
            for name in names
        ),
    )


def _nearest(gpu_model: str | None) -> list[str]:
    if gpu_model is None or is_known(gpu_model) or providers.has_gpu(gpu_model):
        return []
    return nearest_models(gpu_model)

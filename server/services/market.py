"""The market that renters see: the live providers with their rates, and their past attempts."""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass

from server.clock import Clock, ms
from server.domain.canaries import NOT_MEASURED, Measured
from server.domain.comparison import Figures, Place, Sort, Wanted, place_of
from server.domain.errors import no_page
from server.domain.gpu_models import is_known, nearest_models
from server.domain.hindrances import Hindrance
from server.domain.honesty import Verdict
from server.domain.jobs import BY_TOKENS, NOT_RUN, JobType
from server.domain.leases import LIVE_SECONDS
from server.domain.placement import Model, Obstacle, vram_for_jobs_mib
from server.domain.pricing import Price, Prices, of_provider
from server.domain.reliability import TrackRecord
from server.domain.terms import NO_TERMS, Terms
from server.services.explain import waiting_without
from server.services.fleet import Fleet
from server.services.pages import first_page
from server.services.providers import Providers, existing
from server.services.terms import terms_obstacle
from server.store import canaries, leases, prices, providers, reliability, standing, terms
from server.store.database import Database
from server.store.leases import MissedOffer
from server.store.providers import Compared, Filters, ProviderRow
from server.store.reliability import PastAttempt
from server.store.standing import StandingRow

LIVE_MS = int(LIVE_SECONDS * 1000)
# Providers that one page compares, where the database cannot sort them by itself.
MOST_COMPARED = 10_000
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
    measured: Measured = NOT_MEASURED
    """By the market's own checks."""


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


@dataclass(frozen=True, slots=True)
class View:
    """Which part of the list is asked for."""

    page: int
    page_size: int
    after_id: int = 0
    cursor: str = ""

    @property
    def offset(self) -> int:
        """How many entries after the position are skipped."""
        return (self.page - 1) * self.page_size


@dataclass(frozen=True, slots=True)
class Listing:
    """One page of the list, and the number of entries on all pages."""

    offerings: list[Offering]
    total: int
    next_id: int | None
    """With which the next page continues in the order of ids."""
    next_cursor: str | None
    """With which it continues in another order."""
    nearest: list[str]
    """The GPU models most like a wanted one that is not known and that no provider has."""


@dataclass(frozen=True, slots=True)
class _Rows:
    rows: list[ProviderRow]
    total: int
    next_id: int | None = None
    next_cursor: str | None = None


class Market:
    """Reads the market; changes nothing."""

    def __init__(self, database: Database, fleet: Fleet, accounts: Providers, clock: Clock) -> None:
        self._database = database
        self._fleet = fleet
        self._accounts = accounts
        self._clock = clock

    async def available(self, filters: Filters, wanted: Wanted, view: View) -> Listing:
        """One page of the live providers. Raises PAGE_NOT_FOUND for a position in another list."""
        now_ms = ms(self._clock)

        def read() -> Listing:
            page = (
                _by_id(filters, view, now_ms) if wanted.is_plain else _compared(filters, wanted, view, now_ms)
            )
            return Listing(
                self._offerings(page.rows, filters.model, now_ms),
                page.total,
                page.next_id,
                page.next_cursor,
                _nearest(filters.gpu_model),
            )

        return await self._database.read(read)

    def _offerings(self, rows: list[ProviderRow], model: str | None, now_ms: int) -> list[Offering]:
        ids = [row.id for row in rows]
        models, own = (providers.models_of(ids), terms.of_all(ids)) if ids else ({}, {})
        card = prices.card().prices
        measured = canaries.measured(model, ids, now_ms - SPEEDS_MS) if model else {}
        known, granted = reliability.track_records(ids), standing.of(ids)
        return [
            self._offering(
                row,
                models[row.id],
                own[row.id],
                _offered(
                    row, models[row.id], own[row.id].prices, card, model, measured.get(row.id, NOT_MEASURED)
                ),
                known[row.id],
                granted.get(row.id),
                now_ms,
            )
            for row in rows
        ]

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

    async def missed(
        self, provider_id: int, limit: int
    ) -> tuple[list[tuple[Obstacle, JobType, int]], list[MissedOffer]]:
        """What waits now without a provider, and the newest offers that its daemon did not take."""
        now_ms = ms(self._clock)
        return await self._database.read(
            lambda: (
                waiting_without(existing(provider_id), self._fleet, now_ms),
                leases.missed_offers(provider_id, limit),
            )
        )

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


def _by_id(filters: Filters, view: View, now_ms: int) -> _Rows:
    """A page in the order of ids, which the database filters."""
    if view.cursor:
        raise no_page("cursor")
    rows, total = providers.live(
        filters,
        since_ms=now_ms - LIVE_MS,
        after_id=view.after_id,
        offset=view.offset,
        limit=view.page_size + 1,
    )
    listed = first_page(rows, view.page_size)
    return _Rows(listed.rows, total, listed.next_id)


def _compared(filters: Filters, wanted: Wanted, view: View, now_ms: int) -> _Rows:
    """A page for which every provider is compared."""
    walk = repr((filters, wanted))
    place = _place(wanted, view, walk)
    found = _figures(filters, wanted, now_ms)
    places = [(f.key(wanted.sort), provider_id) for provider_id, f in found.items() if f.fits(wanted)]
    places.sort()
    begin = bisect_right(places, (place.key, place.provider_id)) + view.offset
    page = places[begin : begin + view.page_size]
    rows = {row.id: row for row in providers.by_ids([provider_id for _, provider_id in page])}
    next_id, next_cursor = None, None
    if begin + len(page) < len(places) and page:
        last = Place(*page[-1])
        next_id = last.provider_id if wanted.sort is Sort.ID else None
        next_cursor = None if wanted.sort is Sort.ID else last.cursor(walk)
    return _Rows([rows[provider_id] for _, provider_id in page], len(places), next_id, next_cursor)


def _place(wanted: Wanted, view: View, walk: str) -> Place:
    """Where the page begins."""
    if wanted.sort is Sort.ID:
        if view.cursor:
            raise no_page("cursor")
        return Place((), view.after_id)
    if view.after_id:
        raise no_page("after_id")
    return place_of(view.cursor, walk) if view.cursor else Place((-math.inf,), 0)


def _figures(filters: Filters, wanted: Wanted, now_ms: int) -> dict[int, Figures]:
    """What the order and the bounds need of each provider that matches the filters, and no more."""
    rows = providers.compared(filters, since_ms=now_ms - LIVE_MS, limit=MOST_COMPARED)
    ids = [row.id for row in rows]
    own = terms.of_many(ids) if wanted.asks_price or wanted.sort is Sort.VRAM else {}
    card = prices.card().prices
    lower = reliability.lower_bounds(ids) if wanted.asks_record else {}
    measured: dict[int, Measured] = {}
    if wanted.asks_speed and wanted.model:
        measured = canaries.measured(wanted.model, ids, now_ms - SPEEDS_MS)
    found = {}
    for row in rows:
        its = own.get(row.id, NO_TERMS)
        found[row.id] = Figures(
            _price(row, its.prices, card, wanted) if wanted.asks_price else None,
            measured.get(row.id, NOT_MEASURED),
            lower.get(row.id, 0.0),
            vram_for_jobs_mib(row.gpu_vram_mib, its.settings.vram_reserve_mib),
        )
    return found


def _price(row: Compared, own: Prices, card: Prices, wanted: Wanted) -> Price | None:
    if wanted.kind not in (row.job_types or RUN):
        return None
    return of_provider(own, card, wanted.kind, wanted.model, row.gpu_model, is_verified=row.is_verified)


def _offered(
    row: ProviderRow,
    models: list[Model],
    own: Prices,
    card: Prices,
    model: str | None,
    measured: Measured,
) -> tuple[Offered, ...]:
    """The prices by job type, and of each model with one by tokens; what was measured is with one model."""
    is_verified, kinds = row.verdict is Verdict.VERIFIED, sorted(row.job_types or RUN)

    def price(kind: JobType, name: str | None) -> Price:
        return of_provider(own, card, kind, name, row.gpu_model, is_verified=is_verified)

    by_type = [Offered(kind, None, price(kind, None)) for kind in kinds]
    priced = {model, *card.tokens, *own.tokens}
    served = [(kind, each) for each in models for kind in kinds if kind in BY_TOKENS and each.serves(kind)]
    return (
        *by_type,
        *(
            Offered(
                kind,
                each.name,
                price(kind, each.name),
                measured if each.name == model and kind is JobType.LLM_INFERENCE else NOT_MEASURED,
            )
            for kind, each in served
            if each.name in priced
        ),
    )


def _nearest(gpu_model: str | None) -> list[str]:
    if gpu_model is None or is_known(gpu_model) or providers.has_gpu(gpu_model):
        return []
    return nearest_models(gpu_model)

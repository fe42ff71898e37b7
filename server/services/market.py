"""The market that renters see: the live providers with their rates, and their past attempts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from server.clock import Clock, ms
from server.domain.gpu_models import is_known, nearest_models
from server.domain.hindrances import Hindrance
from server.domain.jobs import NOT_RUN, JobType
from server.domain.leases import LIVE_SECONDS
from server.domain.levels import Standing
from server.domain.placement import Model, Obstacle, vram_for_jobs_mib
from server.domain.reliability import TrackRecord
from server.domain.terms import Terms
from server.services.fleet import Fleet
from server.services.pages import Page, first_page
from server.services.providers import Providers, existing
from server.services.terms import terms_obstacle
from server.store import prices, providers, reliability, standing, terms
from server.store.database import Database
from server.store.providers import ProviderRow
from server.store.reliability import PastAttempt
from server.store.standing import StandingRow

# What a provider may run that has not said yet what it does.
RUN = frozenset(JobType) - NOT_RUN


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
            card = prices.card().prices.rates
            known, granted = reliability.track_records(ids), standing.of(ids)
            offerings = [
                self._offering(
                    row, models[row.id], own[row.id], card, known[row.id], granted.get(row.id), now_ms
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
        card: Mapping[JobType, int],
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
            {
                kind: rate
                for kind, rate in {**card, **own.prices.rates}.items()
                if kind in (row.job_types or RUN)
            },
            known,
            granted,
            vram_for_jobs_mib(row.gpu_vram_mib, own.settings.vram_reserve_mib),
            row.connected and not row.draining and closed is Obstacle.NONE,
            int(opens.timestamp() * 1000) if opens is not None else None,
            self._accounts.hindrances(row),
            presence is not None and presence.runs_plain_processes,
        )


def _nearest(gpu_model: str | None) -> list[str]:
    if gpu_model is None or is_known(gpu_model) or providers.has_gpu(gpu_model):
        return []
    return nearest_models(gpu_model)

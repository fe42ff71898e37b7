"""Providers' terms as their owners use them: own rates, and hours, temperature and memory for jobs.

Changes apply to future jobs only: a job that is already queued, leased or running keeps the rate that it was
quoted, and a run that has begun continues.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from server.clock import Clock, ms
from server.domain.jobs import NOT_RUN, JobType
from server.domain.placement import Obstacle, settings_obstacle
from server.domain.pricing import with_entry
from server.domain.terms import (
    COOL_DEGREES,
    Settings,
    Spread,
    Terms,
    bounds,
    check_rate,
    opening_words,
    spread,
)
from server.services.dispatch import Dispatch, hasten
from server.services.fleet import Fleet
from server.store import prices, terms
from server.store.database import Database
from server.store.providers import ProviderRow

log = logging.getLogger(__name__)
# Changes of other servers are read again for this long: no clock differs by more, no commit takes longer.
OVERLAP_MS = 60_000
# Changes of other servers that are read at once.
CHANGES_PAGE = 1000
# Other providers whose rates are compared with a provider's own.
MOST_COMPARED = 10_000


@dataclass(frozen=True, slots=True)
class OwnRate:
    """A provider's rate for a job type, beside the platform's rate. In halala per minute."""

    kind: JobType
    rate: int
    is_own: bool
    platform_rate: int
    others: Spread | None = None
    """What the other connected providers charge; None if there are none."""

    @property
    def bounds(self) -> tuple[int, int]:
        """The lowest and the highest rate that the provider may set."""
        return bounds(self.platform_rate)


class OwnTerms:
    """The use cases of providers' terms."""

    def __init__(self, database: Database, fleet: Fleet, dispatch: Dispatch, clock: Clock) -> None:
        self._database = database
        self._fleet = fleet
        self._dispatch = dispatch
        self._clock = clock
        self._read_ms = ms(clock)

    async def rates(self, provider_id: int) -> list[OwnRate]:
        """A provider's rate for each job type that daemons can run."""
        return await self._database.read(lambda: self._rates(provider_id, terms.of(provider_id)))

    async def set_rate(self, provider_id: int, kind: JobType, rate: int | None) -> list[OwnRate]:
        """Sets a rate for new jobs, in halala per minute; None restores the platform's rate.

        Raises RATE_OUT_OF_BOUNDS.
        """

        def check() -> None:
            if rate is not None:
                check_rate(kind, rate, prices.card().prices.rates[kind])

        def alter(before: Terms) -> Terms:
            return replace(
                before, prices=replace(before.prices, rates=with_entry(before.prices.rates, kind, rate))
            )

        after = await self.change(provider_id, alter, check)
        log.info("set a rate provider_id=%d job_type=%s halala_per_minute=%s", provider_id, kind, rate)
        return await self._database.read(lambda: self._rates(provider_id, after))

    async def settings(self, provider_id: int) -> Settings:
        """A provider's hours, temperature and memory for jobs."""
        return await self._database.read(lambda: terms.of(provider_id).settings)

    async def set_settings(self, provider_id: int, settings: Settings) -> Settings:
        """Replaces all settings and notifies the provider's daemon."""

        changed = await self.change(provider_id, lambda before: replace(before, settings=settings))
        log.info("changed a provider's settings provider_id=%d", provider_id)
        return changed.settings

    def _rates(self, provider_id: int, own: Terms) -> list[OwnRate]:
        others = [each for each in self._fleet.all() if each.provider_id != provider_id][:MOST_COMPARED]
        return [
            OwnRate(
                kind,
                own.prices.rates.get(kind, platform_rate),
                kind in own.prices.rates,
                platform_rate,
                spread(
                    each.terms.prices.rates.get(kind, platform_rate)
                    for each in others
                    if kind in each.job_types
                ),
            )
            for kind, platform_rate in prices.card().prices.rates.items()
            if kind not in NOT_RUN
        ]

    async def read_changes(self) -> None:
        """Applies the changes that other servers stored, or that were stored while a session opened."""
        if not self._fleet.all():
            return
        now_ms = ms(self._clock)
        place = (self._read_ms - OVERLAP_MS, 0)
        while page := await self._database.read(partial(terms.changed_after, place, CHANGES_PAGE)):
            for (_, provider_id), changed in page:
                self._fleet.apply_terms(provider_id, changed)
            place, _ = page[-1]
        self._read_ms = now_ms

    async def change(
        self, provider_id: int, alter: Callable[[Terms], Terms], check: Callable[[], None] = lambda: None
    ) -> Terms:
        """Changes a provider's terms if ``check`` allows it, and offers the waiting jobs that now fit."""
        now_ms = ms(self._clock)

        def store() -> Terms:
            check()
            return terms.change(provider_id, alter, now_ms)

        changed = await self._database.run(store)
        self._fleet.apply_terms(provider_id, changed)
        self._fleet.announce(provider_id)
        await hasten(self._dispatch.fill(provider_id))
        return changed


def terms_obstacle(
    provider: ProviderRow, settings: Settings, fleet: Fleet, now_ms: int
) -> tuple[Obstacle, float | None]:
    """The obstacle to every job that follows from a provider's settings, and its temperature.

    For a provider that is connected to another server, the temperature comes from the stored report.
    """
    presence = fleet.get(provider.id)
    temp_c = presence.temp_c if presence is not None else provider.report.hottest_c
    was_too_hot = presence is not None and presence.is_too_hot
    is_too_hot = settings.is_too_hot(was_too_hot, temp_c)
    return settings_obstacle(is_open=settings.is_open(now_ms), is_too_hot=is_too_hot), temp_c


def terms_message(obstacle: Obstacle, who: str, settings: Settings, temp_c: float | None, now_ms: int) -> str:
    """Says to people why a provider's terms keep jobs away, and when it takes jobs again."""
    if obstacle is Obstacle.OUTSIDE_HOURS:
        when = opening_words(settings.opens(now_ms), settings.timezone, now_ms)
        return f"{who} takes jobs again {when}"
    assert settings.max_temp_c is not None
    cool = settings.max_temp_c - COOL_DEGREES
    return f"{who} is too hot ({temp_c:.0f} °C) and takes jobs again at {cool} °C or less"

"""Providers' terms as rows: own rates and settings. A provider without a row has neither."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import peewee as pw

from server.domain.jobs import JobType
from server.domain.levels import Standing
from server.domain.pricing import Prices, TokenPrice
from server.domain.standing import Bounds
from server.domain.terms import NO_TERMS, Settings, Terms, Weekday, Window
from server.store.leases import counted_open, open_by_provider, open_value
from server.store.models import Provider, ProviderStanding, ProviderTerms, tuples
from server.store.prepared import PreparedQuery, PreparedRows, arg, locking

_get = PreparedRows(ProviderTerms, lambda rows: rows.where(ProviderTerms.provider_id == arg("provider_id")))
_PLACE = (ProviderTerms.changed_ms, ProviderTerms.provider_id)
_changed_after = PreparedRows(
    ProviderTerms,
    lambda rows: (
        rows.where(pw.Tuple(*_PLACE) > pw.Tuple(arg("changed_ms"), arg("provider_id")))
        .order_by(*_PLACE)
        .limit(arg("limit"))
    ),
)


# Providers of one statement.
BATCH = 1000
_STORED = (
    ProviderTerms.rates,
    ProviderTerms.prices,
    ProviderTerms.hours,
    ProviderTerms.timezone,
    ProviderTerms.max_temp_c,
    ProviderTerms.vram_reserve_mib,
)
_GRANTED = (
    ProviderStanding.standing,
    ProviderStanding.slots,
    ProviderStanding.value_micros,
    ProviderStanding.is_checked,
)


def _bound(*columns: Any) -> Any:
    """A query of providers: the columns, then what binds each, if it is stored."""
    return (
        Provider.select(*columns, *_GRANTED, *_STORED)
        .join(ProviderTerms, pw.JOIN.LEFT_OUTER, on=(ProviderTerms.provider_id == Provider.id))
        .join(
            ProviderStanding,
            pw.JOIN.LEFT_OUTER,
            on=(ProviderStanding.provider_id == Provider.id),
            src=Provider,
        )
    )


_commitments = PreparedQuery(
    lambda: _bound(counted_open(), open_value()).where(Provider.id == arg("provider_id"))
)


class Commitments(NamedTuple):
    """What a provider is bound by, and what it has taken on."""

    terms: Terms
    used_slots: int
    """Its leases that have not ended."""
    open_value_micros: int
    """The holds of those of their jobs that named no provider."""
    granted: tuple[Standing, Bounds] | None
    """Its standing and what that allows; None before its first assessment."""


class _Stored(NamedTuple):
    rates: str
    prices: str
    hours: str
    timezone: str
    max_temp_c: int | None
    vram_reserve_mib: int


def of(provider_id: int) -> Terms:
    """The terms of a provider."""
    row = _get.one(provider_id=provider_id)
    return _terms(row) if row is not None else NO_TERMS


def commitments(provider_id: int) -> Commitments:
    """The terms and the standing of a provider, and what its open leases take of both."""
    row = _commitments.one(provider_id=provider_id)
    assert row is not None, "no such provider"
    return _commitments_of(*row)


def commitments_of(provider_ids: Sequence[int]) -> dict[int, Commitments]:
    """The same of each of these providers, in two queries."""
    taken = open_by_provider(provider_ids)
    rows = tuples(_bound(Provider.id).where(Provider.id.in_(list(provider_ids))))
    return {id_: _commitments_of(*taken.get(id_, (0, 0)), *stored) for id_, *stored in rows}


def _commitments_of(
    count: int,
    value: int | None,
    standing: str | None,
    slots: int,
    value_bound: int,
    is_checked: bool,
    *values: Any,
) -> Commitments:
    return Commitments(
        _terms(_Stored(*values)) if values[0] is not None else NO_TERMS,
        int(count),
        int(value or 0),
        (Standing(standing), Bounds(slots, value_bound, bool(is_checked))) if standing is not None else None,
    )


def of_all(provider_ids: Sequence[int]) -> dict[int, Terms]:
    """The terms of each of these providers."""
    return dict.fromkeys(provider_ids, NO_TERMS) | of_many(provider_ids)


def of_many(provider_ids: Sequence[int]) -> dict[int, Terms]:
    """The terms of those of many providers that have any."""
    found: dict[int, Terms] = {}
    for first in range(0, len(provider_ids), BATCH):
        ids = list(provider_ids[first : first + BATCH])
        rows = tuples(
            ProviderTerms.select(ProviderTerms.provider_id, *_STORED).where(
                ProviderTerms.provider_id.in_(ids)
            )
        )
        found |= {int(provider_id): _terms(_Stored(*stored)) for provider_id, *stored in rows}
    return found


def changed_after(place: tuple[int, int], limit: int) -> list[tuple[tuple[int, int], Terms]]:
    """The terms that were changed after a place, a time and a provider, oldest first: each with its place."""
    rows = _changed_after.all(changed_ms=place[0], provider_id=place[1], limit=limit)
    return [((row.changed_ms, row.provider_id), _terms(row)) for row in rows]


def change(provider_id: int, alter: Callable[[Terms], Terms], now_ms: int) -> Terms:
    """Changes the terms of a provider and returns them; concurrent changes wait for this transaction."""
    ProviderTerms.insert(
        provider_id=provider_id, **_columns(NO_TERMS), changed_ms=now_ms
    ).on_conflict_ignore().execute()
    row = locking(ProviderTerms.select().where(ProviderTerms.provider_id == provider_id)).get()
    terms = alter(_terms(row))
    ProviderTerms.update(**_columns(terms), changed_ms=now_ms).where(
        ProviderTerms.provider_id == provider_id
    ).execute()
    return terms


def _columns(terms: Terms) -> dict[str, Any]:
    settings = terms.settings
    tokens = {name: [of.prompt, of.cached, of.completion] for name, of in terms.prices.tokens.items()}
    hours = [[sorted(window.days), window.start_minute, window.end_minute] for window in settings.hours]
    return {
        "rates": json.dumps({kind.value: rate for kind, rate in terms.prices.rates.items()}),
        "prices": json.dumps({"gpu_hours": dict(terms.prices.gpu_hours), "tokens": tokens}),
        "hours": json.dumps(hours),
        "timezone": settings.timezone,
        "max_temp_c": settings.max_temp_c,
        "vram_reserve_mib": settings.vram_reserve_mib,
    }


def _terms(row: Any) -> Terms:
    hours = tuple(
        Window(frozenset(Weekday(day) for day in days), start, end)
        for days, start, end in json.loads(row.hours)
    )
    rates = {JobType(kind): int(rate) for kind, rate in json.loads(row.rates).items()}
    others = json.loads(row.prices)
    tokens = {name: TokenPrice(*amounts) for name, amounts in others.get("tokens", {}).items()}
    prices = Prices(rates, others.get("gpu_hours", {}), tokens)
    return Terms(prices, Settings(hours, row.timezone, row.max_temp_c, row.vram_reserve_mib))

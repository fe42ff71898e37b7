"""The platform's prices as rows, each with what it is for and since when.

Without a row, a job type has its initial rate; a GPU model or a model has no price of its own.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from server.domain.jobs import JobRequest, JobType
from server.domain.pricing import (
    RATE_HALALA_PER_MINUTE,
    Price,
    Prices,
    TimePrice,
    TokenPrice,
    parse,
    per_minute,
)
from server.store import models as db
from server.store.models import PriceRow
from server.store.prepared import PreparedQuery, arg, locking


class Kind(StrEnum):
    """What a price is for."""

    JOB_TYPE = "job_type"
    GPU_MODEL = "gpu_model"
    MODEL = "model"
    STORAGE = "storage"


GB_DAY = "gb_day"
_COLUMNS = (PriceRow.kind, PriceRow.subject, PriceRow.price, PriceRow.since_ms)
_of = PreparedQuery(
    lambda: PriceRow.select(*_COLUMNS).where(
        PriceRow.subject.in_([arg("job_type"), arg("model"), arg("gpu_model")])
    )
)


@dataclass(frozen=True, slots=True)
class Card:
    """The platform's prices, and since when each is that was changed."""

    prices: Prices
    since_ms: Mapping[tuple[Kind, str], int]
    storage_micros: int | None = None
    """For a day of a GB that is kept."""


def of(request: JobRequest, gpu_model: str | None) -> Prices:
    """The platform's prices that a job may have: of its type, its model and this GPU model."""
    values = {"job_type": request.job_type.value, "model": request.model, "gpu_model": gpu_model}
    return _card(_of.all(**values), [request.job_type]).prices


def card() -> Card:
    """The platform's prices."""
    return _card(db.tuples(PriceRow.select(*_COLUMNS)), RATE_HALALA_PER_MINUTE)


def change(kind: Kind, subject: str, price: Price | None, now_ms: int) -> Price | None:
    """Sets a price, or ends it, and returns the previous one; concurrent changes of it wait for this one."""
    stored = _replace(kind, subject, price.text if price is not None else None, now_ms)
    if stored is None and kind is Kind.JOB_TYPE:
        return per_minute(RATE_HALALA_PER_MINUTE[JobType(subject)])
    return parse(stored) if stored is not None else None


def storage_micros() -> int | None:
    """What a day of a GB costs that is kept for a renter; None: nothing."""
    stored = PriceRow.select(PriceRow.price).where(PriceRow.kind == Kind.STORAGE.value).scalar()
    return int(stored) if stored is not None else None


def change_storage(micros: int | None, now_ms: int) -> int | None:
    """Sets what a day of a kept GB costs, or ends it, and returns what it cost before."""
    stored = _replace(Kind.STORAGE, GB_DAY, str(micros) if micros is not None else None, now_ms)
    return int(stored) if stored is not None else None


def _replace(kind: Kind, subject: str, text: str | None, now_ms: int) -> str | None:
    PriceRow.insert(kind=kind.value, subject=subject, since_ms=now_ms).on_conflict_ignore().execute()
    is_it = (PriceRow.kind == kind.value) & (PriceRow.subject == subject)
    before: str | None = locking(PriceRow.select().where(is_it)).get().price
    if before != text:
        PriceRow.update(price=text, since_ms=now_ms).where(is_it).execute()
    return before


def _card(rows: Any, kinds: Collection[JobType]) -> Card:
    found: dict[tuple[Kind, str], Price] = {}
    since: dict[tuple[Kind, str], int] = {}
    storage: int | None = None
    for kind, subject, price, since_ms in rows:
        if price is None:
            continue
        since[Kind(kind), subject] = int(since_ms)
        if kind == Kind.STORAGE.value:
            storage = int(price)
        else:
            found[Kind(kind), subject] = parse(price)
    of_type = {name: price for (kind, name), price in found.items() if kind is Kind.JOB_TYPE}
    rates = {
        kind: of_type[kind.value].halala_per_minute if kind.value in of_type else RATE_HALALA_PER_MINUTE[kind]
        for kind in kinds
    }
    hours = {
        name: price.micros_per_hour
        for (kind, name), price in found.items()
        if kind is Kind.GPU_MODEL and isinstance(price, TimePrice)
    }
    tokens = {name: price for (_, name), price in found.items() if isinstance(price, TokenPrice)}
    return Card(Prices(rates, hours, tokens), since, storage)

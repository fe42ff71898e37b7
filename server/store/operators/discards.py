"""Records of what daemons reported and the server did not know, as rows.

Every function runs inside its caller's transaction.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

from server.domain.discards import DiscardKind, Unknown, limit_of
from server.store.models import Discard

_SUBJECT = (
    Discard.provider_id,
    Discard.kind,
    Discard.job_id,
    Discard.lease_epoch,
    Discard.key_last4,
    Discard.address,
)


@dataclass(frozen=True, slots=True)
class DiscardRow:
    """A record; times are in ms since 1970."""

    id: int
    about: Unknown
    detail: str
    times: int
    first_ms: int
    last_ms: int


def record(about: Unknown, detail: str, times: int, now_ms: int) -> None:
    """Adds a record, or adds to the record of the same. The oldest of the provider make room for it."""
    values = asdict(about) | {"kind": about.kind.value}
    row = Discard.insert(**values, detail=detail, times=times, first_ms=now_ms, last_ms=now_ms)
    row.on_conflict(
        conflict_target=_SUBJECT,
        update={Discard.times: Discard.times + times, Discard.last_ms: now_ms, Discard.detail: detail},
    ).execute()
    of_provider = Discard.select(Discard.id).where(Discard.provider_id == about.provider_id)
    spare = of_provider.order_by(Discard.last_ms.desc(), Discard.id.desc()).offset(
        limit_of(about.provider_id)
    )
    if ids := [row.id for row in spare.limit(limit_of(about.provider_id))]:
        Discard.delete().where(Discard.id.in_(ids)).execute()


def page(provider_id: int | None, before_id: int | None, limit: int) -> list[DiscardRow]:
    """One page, newest first; optionally of one provider."""
    query = Discard.select()
    if provider_id is not None:
        query = query.where(Discard.provider_id == provider_id)
    if before_id is not None:
        query = query.where(Discard.id < before_id)
    return [_row(row) for row in query.order_by(Discard.id.desc()).limit(limit)]


def count_since(since_ms: int) -> int:
    """How many records were last added to since a time."""
    return int(Discard.select().where(Discard.last_ms >= since_ms).count())


def any_before(before_ms: int) -> bool:
    """Whether a record was last added to before a time."""
    return bool(Discard.select().where(Discard.last_ms < before_ms).exists())


def forget_before(before_ms: int, limit: int) -> None:
    """Deletes records that were last added to before a time."""
    old = Discard.select(Discard.id).where(Discard.last_ms < before_ms).limit(limit)
    Discard.delete().where(Discard.id.in_(old)).execute()


def _row(row: Discard) -> DiscardRow:
    about = Unknown(
        DiscardKind(row.kind), row.provider_id, row.job_id, row.lease_epoch, row.key_last4, row.address
    )
    return DiscardRow(row.id, about, row.detail, row.times, row.first_ms, row.last_ms)

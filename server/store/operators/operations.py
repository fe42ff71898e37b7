"""The lists that operators search, as rows: newest first, a page at a time."""

from __future__ import annotations

import re
from typing import Any

import peewee as pw

from server.domain.jobs import OPEN, Job, JobState
from server.domain.ledger import AccountKind
from server.store import jobs, states
from server.store import models as db

# The conditions of the partial indexes job_open and job_final, so that a search by state reads only its jobs.
OPEN_JOBS = pw.SQL("state IN ('queued', 'pending', 'assigned', 'running')")
_FINAL_JOBS = pw.SQL("state IN ('completed', 'failed', 'cancelled')")
# Up to this many found jobs are read by their ids. Where there are more, the newest are not far, as ids are
# random.
SEARCH_LIMIT = 1000


def provider_ids(search: str, before_id: int | None, limit: int) -> list[int]:
    """The ids of providers that match a search text."""
    return [int(row.id) for row in _accounts(db.Provider, search, before_id, limit)]


def renter_ids(search: str, before_id: int | None, limit: int) -> list[int]:
    """The ids of renters that match a search text, without the market's own."""
    found = _accounts(db.Renter, search, before_id, limit).where(~db.Renter.is_market)
    return [int(row.id) for row in found]


def _accounts(model: Any, search: str, before_id: int | None, limit: int) -> Any:
    """Matches a part of the name or email, in any case, or the beginning of the id."""
    query = model.select(model.id)
    if search:
        # peewee escapes the wildcards of LIKE.
        found = model.name.contains(search) | model.email.contains(search)
        if search.isdecimal():
            found |= model.id.cast("TEXT").startswith(search)
        query = query.where(found)
    if before_id is not None:
        query = query.where(model.id < before_id)
    return query.order_by(model.id.desc()).limit(limit)


def wallets(renter_ids: list[int]) -> dict[int, int]:
    """The balance of each of these renters, in micros; renters without any transfer are left out."""
    query = db.Account.select(db.Account.owner_id, db.Account.balance_micros).where(
        db.Account.kind == AccountKind.RENTER.value, db.Account.owner_id.in_(renter_ids)
    )
    return {int(owner): int(balance) for owner, balance in db.tuples(query)}


def job_page(
    *,
    state: JobState | None,
    search: str,
    renter_id: int | None,
    provider_id: int | None,
    before: Job | None,
    limit: int,
) -> list[Job]:
    """Jobs, newest first; optionally of one state, renter or provider, or whose id begins with ``search``."""
    query = jobs.listed()
    if state is not None:
        query = query.where(states.is_in(db.Job.state, state), OPEN_JOBS if state in OPEN else _FINAL_JOBS)
    if search:
        found = db.Job.select(db.Job.job_id).where(_begins(search)).limit(SEARCH_LIMIT)
        ids = [job_id for (job_id,) in db.tuples(found)]
        if not ids:
            return []
        query = query.where(db.Job.job_id.in_(ids) if len(ids) < SEARCH_LIMIT else _begins(search, walk=True))
    if renter_id is not None:
        query = query.where(db.Job.renter_id == renter_id)
    if provider_id is not None:
        query = query.where(db.Job.provider_id == provider_id)
    return jobs.newest_page(query, before, limit)


def _begins(search: str, *, walk: bool = False) -> Any:
    """The condition for the jobs whose id begins with a search text, in any case.

    With ``walk``, no index of ids can help: the jobs are read in their order until a page is full, instead of
    all those that match, to be sorted.
    """
    text, job_id = search.lower(), db.Job.job_id.concat("") if walk else db.Job.job_id
    if db.Job._meta.database.for_update:  # PostgreSQL
        return pw.Expression(job_id, "LIKE", re.sub(r"([\\%_])", r"\\\1", text) + "%")
    return (job_id >= text) & (job_id < text + chr(0x10FFFF))


def gpus(live_since_ms: int, limit: int) -> list[tuple[str, int, int]]:
    """GPU models, most frequent first: name, number of providers, and number of live ones."""
    count = pw.fn.COUNT(db.Provider.id)
    live = pw.fn.SUM(pw.Case(None, [(db.Provider.last_heartbeat_ms > live_since_ms, 1)], 0))
    query = (
        db.Provider.select(db.Provider.gpu_model, count, live)
        .group_by(db.Provider.gpu_model)
        .order_by(count.desc(), db.Provider.gpu_model)
        .limit(limit)
    )
    return [(name, int(number), int(up)) for name, number, up in db.tuples(query)]


def signups(limit: int) -> list[tuple[str, int, str, int]]:
    """The newest accounts: role, id, name, and when (ms)."""
    found = [
        (role, int(row.id), row.name, int(row.created_ms))
        for role, model, theirs in (
            ("provider", db.Provider, pw.SQL("1 = 1")),
            ("renter", db.Renter, ~db.Renter.is_market),
        )
        for row in model.select(model.id, model.name, model.created_ms)
        .where(theirs)
        .order_by(model.id.desc())
        .limit(limit)
    ]
    return sorted(found, key=lambda signup: signup[3], reverse=True)[:limit]

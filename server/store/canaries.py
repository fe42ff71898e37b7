"""Canaries, as rows. Every function runs inside its caller's transaction."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import peewee as pw

from server.domain.canaries import (
    OPEN,
    Canary,
    CanaryFault,
    CanaryKind,
    CanaryVerdict,
    Finding,
    Measured,
)
from server.domain.jobs import JobType
from server.store import models as db
from server.store import renters
from server.store.models import tuples

MAX_NEWEST = 200
# Providers of one statement.
BATCH = 1000
# The largest request that is imitated, in characters.
MAX_SAMPLE = 20_000
_DECIDED = (CanaryVerdict.PASSED.value, CanaryVerdict.FAILED.value)


@dataclass(frozen=True, slots=True)
class Sample:
    """What a renter's job looked like."""

    job_type: JobType
    subject: str
    """The model, or the image."""
    spec: dict[str, Any]
    duration_ms: int


@dataclass(slots=True)
class WaitingQuestion:
    """A question of which at least one answer waits for those of others."""

    subject: str
    question: str
    since_ms: int
    """When the first whose answer waits was asked."""
    asked: set[int]
    """The providers that were asked it."""
    is_pending: bool = False
    """One of them has not answered yet."""


def insert(
    *, provider_id: int, job_id: str, kind: CanaryKind, subject: str, question: str, now_ms: int
) -> None:
    """Inserts a canary that waits for its judgement."""
    db.Canary.insert(
        provider_id=provider_id,
        job_id=job_id,
        kind=kind.value,
        subject=subject,
        question=question,
        created_ms=now_ms,
    ).execute()


def note_measured(canary_id: int, measured: Measured) -> None:
    """Stores how fast the answer came."""
    db.Canary.update(
        millitokens_per_second=_thousandths(measured.tokens_per_second),
        first_token_ms=measured.first_token_ms,
    ).where(db.Canary.id == canary_id).execute()


def decide(canary_id: int, finding: Finding, now_ms: int) -> bool:
    """Stores what a canary found; False if it was decided before."""
    is_open = finding.verdict in OPEN
    query = db.Canary.update(
        verdict=finding.verdict.value,
        fault=finding.fault.value if finding.fault is not None else None,
        figure_permille=_thousandths(finding.figure),
        decided_ms=None if is_open else now_ms,
    )
    return bool(query.where(db.Canary.id == canary_id, db.Canary.decided_ms.is_null()).execute())


def newest(provider_ids: Collection[int], limit: int = MAX_NEWEST) -> dict[int, tuple[bool, ...]]:
    """Whether the newest canaries of each provider passed, oldest first, without those that tell nothing."""
    return {
        provider_id: tuple(
            verdict == CanaryVerdict.PASSED.value
            for (verdict,) in reversed(
                list(
                    tuples(
                        db.Canary.select(db.Canary.verdict)
                        .where(db.Canary.provider_id == provider_id, db.Canary.verdict.in_(_DECIDED))
                        .order_by(db.Canary.id.desc())
                        .limit(limit)
                    )
                )
            )
        )
        for provider_id in provider_ids
    }


def passed(provider_ids: Collection[int]) -> dict[int, int]:
    """How many canaries each provider passed."""
    query = (
        db.Canary.select(db.Canary.provider_id, pw.fn.COUNT(db.Canary.id))
        .where(db.Canary.provider_id.in_(list(provider_ids)), db.Canary.verdict == CanaryVerdict.PASSED.value)
        .group_by(db.Canary.provider_id)
    )
    counts = {int(provider_id): int(count) for provider_id, count in tuples(query)}
    return {provider_id: counts.get(provider_id, 0) for provider_id in provider_ids}


def asked(provider_ids: Collection[int]) -> dict[int, int]:
    """How many canaries each provider got; those without any are left out."""
    query = (
        db.Canary.select(db.Canary.provider_id, pw.fn.COUNT(db.Canary.id))
        .where(db.Canary.provider_id.in_(list(provider_ids)))
        .group_by(db.Canary.provider_id)
    )
    return {int(provider_id): int(count) for provider_id, count in tuples(query)}


def has_passed(provider_id: int) -> bool:
    """Whether a provider passed a canary."""
    query = db.Canary.select().where(
        db.Canary.provider_id == provider_id, db.Canary.verdict == CanaryVerdict.PASSED.value
    )
    return bool(query.exists())


def ended(limit: int) -> list[Canary]:
    """Canaries whose jobs have ended and that nobody looked at since."""
    query = (
        db.Canary.select(db.Canary)
        .join(db.Job, on=(db.Job.job_id == db.Canary.job_id))
        .where(_is(CanaryVerdict.PENDING), db.Job.ended_ms.is_null(False))
        .order_by(db.Canary.id)
        .limit(limit)
    )
    return [_canary(row) for row in query]


def waiting(questions: Collection[str]) -> list[Canary]:
    """The canaries that wait for answers of others to one of these questions."""
    query = db.Canary.select().where(_is(CanaryVerdict.WAITING), db.Canary.question.in_(list(questions)))
    return [_canary(row) for row in query.order_by(db.Canary.id)]


def waiting_questions(skipped: int, limit: int) -> tuple[list[WaitingQuestion], bool]:
    """The oldest canaries that wait for others' answers, but the first, as questions; True: none follow."""
    waits = list(
        tuples(
            db.Canary.select(db.Canary.subject, db.Canary.question, db.Canary.created_ms)
            .where(_is(CanaryVerdict.WAITING))
            .order_by(db.Canary.created_ms)
            .offset(skipped)
            .limit(limit)
        )
    )
    found: dict[str, WaitingQuestion] = {}
    for subject, question, created_ms in waits:
        found.setdefault(question, WaitingQuestion(str(subject), str(question), int(created_ms), set()))
    if not found:
        return [], True
    query = db.Canary.select(db.Canary.question, db.Canary.provider_id, db.Canary.verdict)
    for question, provider_id, verdict in tuples(query.where(db.Canary.question.in_(list(found)))):
        found[question].asked.add(int(provider_id))
        found[question].is_pending |= verdict == CanaryVerdict.PENDING.value
    return list(found.values()), len(waits) < limit


def any_expired(before_ms: int) -> bool:
    """Whether ``expire`` would find a canary."""
    query = db.Canary.select().where(_is(CanaryVerdict.WAITING), db.Canary.created_ms < before_ms)
    return bool(query.exists())


def expire(before_ms: int, now_ms: int, limit: int) -> int:
    """Ends the wait of canaries from before a time: they tell nothing. Returns their number."""
    old = (
        db.Canary.select(db.Canary.id)
        .where(_is(CanaryVerdict.WAITING), db.Canary.created_ms < before_ms)
        .order_by(db.Canary.created_ms)
        .limit(limit)
    )
    query = db.Canary.update(verdict=CanaryVerdict.UNDECIDED.value, decided_ms=now_ms)
    return int(query.where(db.Canary.id.in_(old)).execute())


def open_of(provider_ids: Collection[int]) -> set[int]:
    """Those of the providers whose canary has not ended."""
    query = db.Canary.select(db.Canary.provider_id).where(
        _is(CanaryVerdict.PENDING), db.Canary.provider_id.in_(list(provider_ids))
    )
    return {int(provider_id) for (provider_id,) in tuples(query)}


def of_provider(provider_id: int, limit: int) -> list[Canary]:
    """The newest canaries of a provider, newest first."""
    query = db.Canary.select().where(db.Canary.provider_id == provider_id)
    return [_canary(row) for row in query.order_by(db.Canary.id.desc()).limit(limit)]


def near(provider_id: int, from_ms: int, to_ms: int, limit: int) -> list[Canary]:
    """The canaries of a provider that were submitted between two times, newest first."""
    query = db.Canary.select().where(
        db.Canary.provider_id == provider_id, db.Canary.created_ms.between(from_ms, to_ms)
    )
    return [_canary(row) for row in query.order_by(db.Canary.id.desc()).limit(limit)]


def same_question(question: str, but_provider_id: int, limit: int) -> list[Canary]:
    """The newest canary of each other provider that was asked the same question."""
    query = (
        db.Canary.select()
        .where(db.Canary.question == question, db.Canary.provider_id != but_provider_id)
        .order_by(db.Canary.id.desc())
        .limit(limit)
    )
    return [_canary(row) for row in query]


def question_of_others(subject: str, provider_id: int, since_ms: int, most: int) -> str | None:
    """The newest question about a subject that others were asked lately, and this provider never.

    None also if ``most`` or more were asked it.
    """
    own = db.Canary.select(db.Canary.question).where(db.Canary.provider_id == provider_id)
    query = (
        db.Canary.select(db.Canary.question)
        .where(
            db.Canary.subject == subject,
            db.Canary.created_ms >= since_ms,
            db.Canary.kind == CanaryKind.ANSWER.value,
            db.Canary.provider_id != provider_id,
            db.Canary.question.not_in(own),
        )
        .order_by(db.Canary.created_ms.desc())
        .limit(1)
    )
    found = query.scalar()
    if found is None or db.Canary.select().where(db.Canary.question == found).count() >= most:
        return None
    return str(found)


def speeds(subject: str, gpu_model: str, but_provider_id: int, since_ms: int) -> list[float]:
    """Tokens per second of each other provider with a GPU model, by its newest canary about a subject."""
    query = (
        db.Canary.select(db.Canary.provider_id, db.Canary.millitokens_per_second)
        .join(db.Provider, on=(db.Provider.id == db.Canary.provider_id))
        .where(
            db.Canary.subject == subject,
            db.Canary.created_ms >= since_ms,
            db.Canary.millitokens_per_second.is_null(False),
            db.Canary.provider_id != but_provider_id,
            db.Provider.gpu_model == gpu_model,
        )
        .order_by(db.Canary.created_ms)
    )
    return list({int(provider_id): int(speed) / 1000 for provider_id, speed in tuples(query)}.values())


def measured(subject: str, provider_ids: Sequence[int], since_ms: int) -> dict[int, Measured]:
    """How fast each of these providers was with a model, by its newest canary about it that has a speed.

    They may be many: of each only that canary is read.
    """
    older = db.Canary.alias()
    newest = (
        older.select(older.id)
        .where(
            older.provider_id == db.Provider.id,
            older.subject == subject,
            older.created_ms >= since_ms,
            older.millitokens_per_second.is_null(False),
        )
        .order_by(older.id.desc())
        .limit(1)
    )
    columns = (db.Canary.provider_id, db.Canary.millitokens_per_second, db.Canary.first_token_ms)
    found: dict[int, Measured] = {}
    for first in range(0, len(provider_ids), BATCH):
        ids = list(provider_ids[first : first + BATCH])
        those = db.Provider.select(newest).where(db.Provider.id.in_(ids))
        for provider_id, speed, token_ms in tuples(db.Canary.select(*columns).where(db.Canary.id.in_(those))):
            found[int(provider_id)] = Measured(int(speed) / 1000, None if token_ms is None else int(token_ms))
    return found


def jobs_since(provider_ids: Sequence[int], since_ms: int) -> dict[int, int]:
    """How many jobs of others each provider had since a time."""
    query = (
        db.Job.select(db.Job.provider_id, pw.fn.COUNT(db.Job.job_id))
        .where(db.Job.provider_id.in_(list(provider_ids)), db.Job.created_ms >= since_ms)
        .group_by(db.Job.provider_id)
    )
    return {int(provider_id): int(count) for provider_id, count in tuples(query)}


def jobs_of_renters(provider_id: int, limit: int) -> list[Sample]:
    """The newest jobs of a provider, without the market's own and very large ones."""
    newest = (
        db.Job.select(
            db.Job.renter_id, db.Job.job_type, db.Job.model, db.Job.image, db.Job.spec, db.Job.duration_ms
        )
        .where(db.Job.provider_id == provider_id)
        .order_by(db.Job.created_ms.desc(), db.Job.job_id.desc())
        .limit(limit)
    )
    own = set(renters.of_market())
    return [
        Sample(JobType(job_type), model or image or "", json.loads(spec), int(duration_ms))
        for renter_id, job_type, model, image, spec, duration_ms in tuples(newest)
        if renter_id not in own and len(spec) <= MAX_SAMPLE
    ]


def _is(verdict: CanaryVerdict) -> Any:
    """The condition for a verdict, as SQL text: with a parameter, the partial indexes are not used."""
    return db.Canary.verdict == pw.SQL(f"'{verdict.value}'")


def _thousandths(value: float | None) -> int | None:
    return round(value * 1000) if value is not None else None


def _canary(row: Any) -> Canary:
    return Canary(
        row.id,
        row.provider_id,
        row.job_id,
        CanaryKind(row.kind),
        row.subject,
        row.question,
        CanaryVerdict(row.verdict),
        CanaryFault(row.fault) if row.fault is not None else None,
        row.figure_permille / 1000 if row.figure_permille is not None else None,
        row.millitokens_per_second / 1000 if row.millitokens_per_second is not None else None,
        row.created_ms,
        row.decided_ms,
    )

"""Incidents: conditions of the marketplace that an operator should know of, with a begin and an end.

A condition is read again and again. It becomes an incident when it has held without a break for as long as
its row of ``BEGINS_AFTER_SECONDS`` says, and the incident ends when the condition has been gone for
``ENDS_AFTER_SECONDS``: what flaps is one incident. Between "bad" and "fine" there is a middle, at which an
incident neither begins nor ends. Pure: readings and the time in, the next state and the event to report out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from server.domain.webhooks import WebhookEvent

ENDS_AFTER_SECONDS = 600
REMIND_SECONDS = 24 * 3600
"""How long after the last event about an incident the next one reminds of it."""
KEEP_DAYS = 90
"""How long incidents that ended are kept."""
MAX_MODELS = 20
"""Most models that one incident names."""
LOST_WITHIN_SECONDS = 15 * 60
"""Daemons that went away within this time went away at once."""
MIN_LOST = 3
"""Fewer lost daemons are no incident: in a small market each machine that restarts is a large part."""
FULL_PART = 5
"""A disk is full when a fifth is free of what makes it nearly full."""
FRESH_SECONDS = 120
"""A condition that was last read longer ago than this has not held without a break."""


class Condition(StrEnum):
    """What an incident is about."""

    MODEL_UNSERVED = "model_unserved"
    PAYOUTS_WAIT = "payouts_wait"
    PROOF_UNCLEAN = "proof_unclean"
    DISK_NEARLY_FULL = "disk_nearly_full"
    DISK_FULL = "disk_full"
    SESSIONS_LOST = "sessions_lost"


class Severity(StrEnum):
    """How soon somebody must look: now, or within a day."""

    PAGE = "page"
    TICKET = "ticket"


class Level(StrEnum):
    """What one reading says."""

    BAD = "bad"
    BETWEEN = "between"
    FINE = "fine"


BEGINS_AFTER_SECONDS = {
    Condition.MODEL_UNSERVED: 120,  # a daemon that restarts takes its models away for a moment
    Condition.PAYOUTS_WAIT: 0,
    Condition.PROOF_UNCLEAN: 0,
    Condition.DISK_NEARLY_FULL: 60,
    Condition.DISK_FULL: 0,
    Condition.SESSIONS_LOST: 180,  # daemons come back by themselves after a restart of the server
}
SEVERITIES = {
    Condition.MODEL_UNSERVED: Severity.TICKET,
    Condition.PAYOUTS_WAIT: Severity.TICKET,
    Condition.PROOF_UNCLEAN: Severity.PAGE,
    Condition.DISK_NEARLY_FULL: Severity.TICKET,
    Condition.DISK_FULL: Severity.PAGE,
    Condition.SESSIONS_LOST: Severity.PAGE,
}


@dataclass(frozen=True, slots=True)
class Thresholds:
    """What an operator calls an incident."""

    unserved_minutes: int = 5
    payout_hours: int = 72
    disk_free_percent: int = 10
    sessions_lost_percent: int = 50


@dataclass(frozen=True, slots=True)
class Reading:
    """What a condition is like now; ``facts`` are those of an event: numbers, names of models, no secrets."""

    condition: Condition
    level: Level
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Incident:
    """A condition that holds or held. It is an incident since ``began_ms``; before, it may become one."""

    id: int
    condition: Condition
    bad_since_ms: int
    read_ms: int
    """When it was last read as bad before it began."""
    facts: Mapping[str, Any]
    began_ms: int | None = None
    fine_since_ms: int | None = None
    ended_ms: int | None = None
    reported_ms: int | None = None
    """When the last event about it was written. None: it was not reported."""

    @property
    def severity(self) -> Severity:
        """How soon somebody must look."""
        return SEVERITIES[self.condition]


@dataclass(frozen=True, slots=True)
class Step:
    """What a reading changes: the condition as it is to be stored, or None if it is forgotten."""

    incident: Incident | None
    event: WebhookEvent | None = None


def seen(reading: Reading, now_ms: int) -> Incident | None:
    """What is to be stored of a condition of which nothing is stored; its id is 0."""
    if reading.level is not Level.BAD:
        return None
    return Incident(0, reading.condition, now_ms, now_ms, reading.facts)


def step(known: Incident, reading: Reading, now_ms: int, *, webhook_since_ms: int | None) -> Step:
    """What becomes of a condition that is stored.

    ``webhook_since_ms`` says since when the operators have a webhook. A new one gets what an older one got.
    """
    if known.began_ms is None:
        return _waiting(known, reading, now_ms, webhook_since_ms=webhook_since_ms)
    if reading.level is Level.FINE:
        return _fine(known, now_ms, webhook_since_ms=webhook_since_ms)
    lasting = replace(known, fine_since_ms=None, facts=reading.facts or known.facts)
    return _reported(lasting, now_ms, webhook_since_ms=webhook_since_ms)


def _waiting(known: Incident, reading: Reading, now_ms: int, *, webhook_since_ms: int | None) -> Step:
    """A condition that has not held for long enough."""
    if reading.level is not Level.BAD:
        return Step(None)
    is_broken = now_ms - known.read_ms > FRESH_SECONDS * 1000
    since_ms = now_ms if is_broken else known.bad_since_ms
    held = replace(known, bad_since_ms=since_ms, read_ms=now_ms, facts=reading.facts)
    if now_ms - since_ms < BEGINS_AFTER_SECONDS[known.condition] * 1000:
        return Step(held)
    return _reported(replace(held, began_ms=since_ms), now_ms, webhook_since_ms=webhook_since_ms)


def _fine(known: Incident, now_ms: int, *, webhook_since_ms: int | None) -> Step:
    since_ms = now_ms if known.fine_since_ms is None else known.fine_since_ms
    fine = replace(known, fine_since_ms=since_ms)
    if now_ms - since_ms < ENDS_AFTER_SECONDS * 1000:
        return Step(fine)
    ended = replace(fine, ended_ms=since_ms)
    if _reported_ms(known, webhook_since_ms) is None:
        return Step(ended)
    return Step(replace(ended, reported_ms=now_ms), WebhookEvent.INCIDENT_ENDED)


def _reported(lasting: Incident, now_ms: int, *, webhook_since_ms: int | None) -> Step:
    """An incident that lasts, with the event that is due about it."""
    before_ms = _reported_ms(lasting, webhook_since_ms)
    if webhook_since_ms is None or (before_ms is not None and now_ms - before_ms < REMIND_SECONDS * 1000):
        return Step(lasting)
    event = WebhookEvent.INCIDENT_BEGAN if before_ms is None else WebhookEvent.INCIDENT_LASTS
    return Step(replace(lasting, reported_ms=now_ms), event)


def _reported_ms(incident: Incident, webhook_since_ms: int | None) -> int | None:
    """When an incident was last reported to the webhook that the operators have now; None: never."""
    at_ms = incident.reported_ms
    return at_ms if at_ms is not None and webhook_since_ms is not None and at_ms >= webhook_since_ms else None


def unserved_models(models: list[dict[str, Any]]) -> Reading:
    """Of the models that nobody serves and for which a job has waited too long, the most wanted first."""
    if not models:
        return Reading(Condition.MODEL_UNSERVED, Level.FINE)
    facts = {"models": models[:MAX_MODELS], "jobs": sum(each["jobs"] for each in models)}
    return Reading(Condition.MODEL_UNSERVED, Level.BAD, facts)


def waiting_payouts(requests: int, amount_micros: int, oldest_ms: int | None) -> Reading:
    """Of the requests that have waited for too long."""
    if not requests:
        return Reading(Condition.PAYOUTS_WAIT, Level.FINE)
    facts = {"requests": requests, "amount_micros": amount_micros, "oldest_ms": oldest_ms}
    return Reading(Condition.PAYOUTS_WAIT, Level.BAD, facts)


def proof(discrepancies: int) -> Reading:
    """Of the number of discrepancies that the newest proof found."""
    if not discrepancies:
        return Reading(Condition.PROOF_UNCLEAN, Level.FINE)
    return Reading(Condition.PROOF_UNCLEAN, Level.BAD, {"discrepancies": discrepancies})


@dataclass(frozen=True, slots=True)
class Room:
    """The room on the disk of a place, in bytes."""

    place: str
    free_bytes: int
    total_bytes: int

    def level(self, percent: float) -> Level:
        """Bad below so much of the whole; fine from a fifth more on."""
        free = 100 * self.free_bytes / max(1, self.total_bytes)
        return Level.BAD if free < percent else Level.BETWEEN if free < percent * 1.2 else Level.FINE


def disks(rooms: list[Room], thresholds: Thresholds) -> list[Reading]:
    """Of the disks, whether one is nearly full, and whether one is full."""
    nearly = thresholds.disk_free_percent
    return [
        _disks(Condition.DISK_NEARLY_FULL, rooms, nearly),
        _disks(Condition.DISK_FULL, rooms, nearly / FULL_PART),
    ]


def _disks(condition: Condition, rooms: list[Room], percent: float) -> Reading:
    levels = [room.level(percent) for room in rooms]
    worst = next((level for level in Level if level in levels), Level.FINE)
    short = [room for room, level in zip(rooms, levels, strict=True) if level is not Level.FINE]
    facts = {
        "disks": [
            {"place": room.place, "free_bytes": room.free_bytes, "total_bytes": room.total_bytes}
            for room in short
        ]
    }
    return Reading(condition, worst, facts if short else {})


def lost_sessions(
    present: int, lost: int, known: Incident | None, thresholds: Thresholds, now_ms: int
) -> Reading:
    """Of the daemons that are there, and those that went away lately.

    An incident remembers how many there were, since those that stay away are soon no longer lost lately. It
    is over when four fifths of them are there, and after a day, when the rest will not come back.
    """
    before = present + lost
    if known is not None and known.began_ms is not None:
        before = int(known.facts["before"])
        if now_ms - known.began_ms >= REMIND_SECONDS * 1000 or present * 5 >= before * 4:
            return Reading(Condition.SESSIONS_LOST, Level.FINE)
    facts = {"before": before, "present": present}
    lost = before - present
    if lost >= MIN_LOST and lost * 100 >= thresholds.sessions_lost_percent * before:
        return Reading(Condition.SESSIONS_LOST, Level.BAD, facts)
    return Reading(Condition.SESSIONS_LOST, Level.BETWEEN if known is not None else Level.FINE, facts)


def summary(incident: Incident) -> str:
    """One sentence for people, without anything that is secret."""
    facts = incident.facts
    match incident.condition:
        case Condition.MODEL_UNSERVED:
            return f"No provider serves the models of {_count(facts['jobs'], 'waiting job')}."
        case Condition.PAYOUTS_WAIT:
            return f"{_count(facts['requests'], 'withdrawal request')} waited too long for an operator."
        case Condition.PROOF_UNCLEAN:
            return f"The proof of the ledger found {_count(facts['discrepancies'], 'discrepancy')}."
        case Condition.DISK_NEARLY_FULL | Condition.DISK_FULL:
            state = "full" if incident.condition is Condition.DISK_FULL else "nearly full"
            places = " and ".join(f"the {disk['place']}" for disk in facts["disks"])
            return f"The disk of {places} is {state}."
        case Condition.SESSIONS_LOST:
            return f"Of {facts['before']} daemons, {facts['present']} are left."


def _count(number: int, noun: str) -> str:
    plural = f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}s"
    return f"{number} {noun if number == 1 else plural}"

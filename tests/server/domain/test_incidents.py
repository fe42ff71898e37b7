"""The rules of incidents: when they begin, end and are reported, whatever the readings do in between."""

from __future__ import annotations

import random
from itertools import pairwise
from typing import Any

import pytest

from server.domain import incidents as rules
from server.domain.incidents import (
    BEGINS_AFTER_SECONDS,
    ENDS_AFTER_SECONDS,
    MAX_MODELS,
    REMIND_SECONDS,
    SEVERITIES,
    Condition,
    Incident,
    Level,
    Reading,
    Room,
    Thresholds,
    seen,
    step,
    summary,
)
from server.domain.webhooks import WebhookEvent

PERIOD = 15
FACTS: dict[Condition, dict[str, Any]] = {
    Condition.MODEL_UNSERVED: {"models": [], "jobs": 1},
    Condition.PAYOUTS_WAIT: {"requests": 2, "amount_micros": 1, "oldest_ms": 1},
    Condition.PROOF_UNCLEAN: {"discrepancies": 1},
    Condition.DISK_NEARLY_FULL: {"disks": [{"place": "files", "free_bytes": 1, "total_bytes": 20}]},
    Condition.DISK_FULL: {"disks": [{"place": "database", "free_bytes": 0, "total_bytes": 20}]},
    Condition.SESSIONS_LOST: {"before": 10, "present": 2},
}


class Watch:
    """One condition, read every ``PERIOD`` seconds."""

    def __init__(self, condition: Condition, *, webhook_since_ms: int | None = 0) -> None:
        self.condition = condition
        self.webhook_since_ms = webhook_since_ms
        self.now = 1_000_000
        self.known: Incident | None = None
        self.events: list[tuple[int, WebhookEvent]] = []
        self.ended: list[Incident] = []

    def read(self, level: Level, seconds: int = PERIOD) -> None:
        """Readings of one level for so long."""
        for _ in range(max(1, seconds // PERIOD)):
            self.now += PERIOD
            reading = Reading(self.condition, level, FACTS[self.condition] if level is not Level.FINE else {})
            known = self.known or seen(reading, self.now * 1000)
            if known is None:
                continue
            after = step(known, reading, self.now * 1000, webhook_since_ms=self.webhook_since_ms)
            self.known = after.incident
            if after.event is not None:
                self.events.append((self.now, after.event))
            if self.known is not None and self.known.ended_ms is not None:
                self.ended.append(self.known)
                self.known = None

    @property
    def kinds(self) -> list[str]:
        return [event.value.removeprefix("incident.") for _, event in self.events]


@pytest.mark.parametrize("condition", Condition)
def test_condition_begins_after_its_time_and_ends_ten_minutes_after_it_is_gone(condition: Condition) -> None:
    watch = Watch(condition)
    watch.read(Level.BAD, BEGINS_AFTER_SECONDS[condition])
    assert watch.kinds == ([] if BEGINS_AFTER_SECONDS[condition] else ["began"])
    watch.read(Level.BAD, PERIOD)
    assert watch.kinds == ["began"]
    gone = watch.now + PERIOD
    watch.read(Level.FINE, ENDS_AFTER_SECONDS)
    assert watch.kinds == ["began"]
    watch.read(Level.FINE)
    assert watch.kinds == ["began", "ended"]
    assert watch.ended[0].ended_ms == gone * 1000
    assert summary(watch.ended[0]).endswith(".")
    assert condition in SEVERITIES


@pytest.mark.parametrize("gap", [Level.FINE, Level.BETWEEN])
def test_condition_that_is_gone_before_its_time_is_no_incident(gap: Level) -> None:
    watch = Watch(Condition.SESSIONS_LOST)
    for _ in range(20):
        watch.read(Level.BAD, BEGINS_AFTER_SECONDS[Condition.SESSIONS_LOST])
        watch.read(gap)
    assert (watch.events, watch.known) == ([], None)


def test_condition_that_nobody_read_for_a_while_has_to_hold_again() -> None:
    """The server was down: what it saw before says nothing about the time between."""
    watch = Watch(Condition.SESSIONS_LOST)
    watch.read(Level.BAD, 60)
    watch.now += 3600
    watch.read(Level.BAD, 60)
    assert watch.events == []
    watch.read(Level.BAD, BEGINS_AFTER_SECONDS[Condition.SESSIONS_LOST])
    assert watch.kinds == ["began"]


def test_incident_that_lastsreported_once_again_once_a_day() -> None:
    watch = Watch(Condition.PAYOUTS_WAIT)
    watch.read(Level.BAD, 3 * REMIND_SECONDS + PERIOD)
    assert watch.kinds == ["began", "lasts", "lasts", "lasts"]
    times = [at for at, _ in watch.events]
    assert {later - earlier for earlier, later in pairwise(times)} == {REMIND_SECONDS}


@pytest.mark.parametrize("seed", range(20))
def test_what_flaps_is_one_incident(seed: int) -> None:
    """However the readings change: as long as no break lasts ten minutes, one event reports it in a day."""
    rng = random.Random(seed)
    watch = Watch(rng.choice([Condition.DISK_FULL, Condition.PAYOUTS_WAIT]))
    watch.read(Level.BAD)
    end = watch.now + REMIND_SECONDS - 2 * ENDS_AFTER_SECONDS
    while watch.now < end:
        watch.read(rng.choice(list(Level)), rng.randrange(PERIOD, ENDS_AFTER_SECONDS))
        watch.read(Level.BAD)
    assert watch.kinds == ["began"]


def test_middle_neither_begins_nor_ends_an_incident() -> None:
    watch = Watch(Condition.DISK_FULL)
    watch.read(Level.BETWEEN, 3600)
    assert watch.known is None
    watch.read(Level.BAD)
    watch.read(Level.BETWEEN, 3600)
    watch.read(Level.FINE, ENDS_AFTER_SECONDS)
    watch.read(Level.BETWEEN)
    watch.read(Level.FINE, ENDS_AFTER_SECONDS)
    assert watch.kinds == ["began"]


def test_incident_that_nobody_heard_ofreported_once_as_soon_as_somebody_listens() -> None:
    watch = Watch(Condition.DISK_FULL, webhook_since_ms=None)
    watch.read(Level.BAD, 3600)
    assert watch.events == []
    watch.webhook_since_ms = watch.now * 1000
    watch.read(Level.BAD, 60)
    assert watch.kinds == ["began"]


def test_new_webhook_gets_what_the_one_before_it_got() -> None:
    watch = Watch(Condition.DISK_FULL)
    watch.read(Level.BAD, 3600)
    watch.webhook_since_ms = watch.now * 1000
    watch.read(Level.BAD, 3600)
    assert watch.kinds == ["began", "began"]
    watch.webhook_since_ms = watch.now * 1000
    watch.read(Level.FINE, 3600)
    assert watch.kinds == ["began", "began"]


def test_end_of_an_incident_that_nobody_heard_of_is_not_reported() -> None:
    watch = Watch(Condition.DISK_FULL, webhook_since_ms=None)
    watch.read(Level.BAD)
    watch.webhook_since_ms = watch.now * 1000
    watch.read(Level.FINE, 3600)
    assert (watch.events, len(watch.ended)) == ([], 1)


@pytest.mark.parametrize(
    ("free", "nearly", "full"),
    [
        (0, Level.BAD, Level.BAD),
        (19, Level.BAD, Level.BAD),
        (20, Level.BAD, Level.BETWEEN),
        (24, Level.BAD, Level.FINE),
        (99, Level.BAD, Level.FINE),
        (100, Level.BETWEEN, Level.FINE),
        (119, Level.BETWEEN, Level.FINE),
        (120, Level.FINE, Level.FINE),
    ],
)
def test_disk_is_judged_by_its_fullest_place(free: int, nearly: Level, full: Level) -> None:
    rooms = [Room("files", 900, 1000), Room("database", free, 1000)]
    readings = rules.disks(rooms, Thresholds(disk_free_percent=10))
    assert [reading.level for reading in readings] == [nearly, full]
    for reading in readings:
        places = [disk["place"] for disk in reading.facts.get("disks", [])]
        assert places == ([] if reading.level is Level.FINE else ["database"])


def test_server_without_a_disk_of_its_own_has_none_that_is_full() -> None:
    assert {reading.level for reading in rules.disks([], Thresholds())} == {Level.FINE}


@pytest.mark.parametrize(
    ("present", "lost", "level"),
    [
        (0, 2, Level.FINE),
        (0, 3, Level.BAD),
        (3, 3, Level.BAD),
        (4, 3, Level.FINE),
        (100, 99, Level.FINE),
        (100, 100, Level.BAD),
    ],
)
def test_lost_daemons_are_judged_by_their_share_of_all(present: int, lost: int, level: Level) -> None:
    assert rules.lost_sessions(present, lost, None, Thresholds(), 0).level is level


def test_lost_daemons_are_back_when_four_fifths_are() -> None:
    """Those that stay away are soon not lost lately: the incident remembers how many there were."""
    known = Incident(1, Condition.SESSIONS_LOST, 0, 0, {"before": 10, "present": 4}, began_ms=0)

    def level(present: int, now_ms: int = 3_600_000) -> Level:
        return rules.lost_sessions(present, 0, known, Thresholds(), now_ms).level

    assert [level(present) for present in (0, 5, 6, 7, 8)] == [
        *(Level.BAD, Level.BAD, Level.BETWEEN, Level.BETWEEN, Level.FINE)
    ]
    assert level(5, REMIND_SECONDS * 1000) is Level.FINE  # the market is smaller now


def test_incident_names_a_bounded_number_of_models() -> None:
    models = [{"model": f"m{n}", "jobs": 1, "oldest_ms": 1} for n in range(500)]
    facts = rules.unserved_models(models).facts
    assert (len(facts["models"]), facts["jobs"]) == (MAX_MODELS, 500)


def test_summaries_are_sentences() -> None:
    texts = {
        condition: summary(Incident(1, condition, 0, 0, facts, began_ms=0))
        for condition, facts in FACTS.items()
    }
    assert texts == {
        Condition.MODEL_UNSERVED: "No provider serves the models of 1 waiting job.",
        Condition.PAYOUTS_WAIT: "2 withdrawal requests waited too long for an operator.",
        Condition.PROOF_UNCLEAN: "The proof of the ledger found 1 discrepancy.",
        Condition.DISK_NEARLY_FULL: "The disk of the files is nearly full.",
        Condition.DISK_FULL: "The disk of the database is full.",
        Condition.SESSIONS_LOST: "Of 10 daemons, 2 are left.",
    }

"""The fleet in memory: the choice among free daemons, and what it costs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from server.domain.gpus import GpuReport
from server.domain.hindrances import Hindrance
from server.domain.jobs import JobType
from server.domain.levels import Standing, Unasked, tier
from server.domain.placement import Candidate, Model, Obstacle, Wants, can_run, obstacle
from server.domain.pricing import Prices, per_minute
from server.domain.providers import AccountState
from server.domain.reliability import TrackRecord
from server.domain.standing import Bounds, Facts, assess
from server.domain.terms import Settings, Terms, window
from server.services.dispatch import CANDIDATES_LIMIT, Dispatch
from server.services.fleet import Fleet, Presence
from server.store.database import Database
from tests.support import databases
from tests.support.manual_clock import ManualClock

KINDS = [JobType.LLM_INFERENCE, JobType.TRAINING]
MODELS = ["a", "b"]
GPUS = ["NVIDIA RTX 4090", "NVIDIA H100"]
CLOSED = Settings((window([], "00:00", "00:01"),), "Asia/Riyadh")
HINDERED = Hindrance(Obstacle.TOOLKIT_TOO_OLD, "", frozenset({JobType.TRAINING}))
WANTED = [
    Wants(kind, model, gpu, mib, quote, unasked=unasked)
    for unasked in Unasked
    for kind in KINDS
    for model in (None, *MODELS)
    for gpu in (None, "H100")
    for mib in (None, 30_000)
    for quote in (None, per_minute(100))
]


def presence(number: int, rng: Random, epoch: int) -> Presence:
    """A session with random properties."""
    settings = rng.choice(
        [Settings(), Settings(vram_reserve_mib=60_000), *[Settings(max_temp_c=70)] * 3, CLOSED]
    )
    return Presence(
        number,
        epoch,
        "boot",
        lambda _: None,
        0,
        rng.randint(0, 3),
        frozenset(rng.sample(KINDS, rng.randint(0, 2))),
        served(rng),
        rng.choice(GPUS),
        rng.choice([None, 24_000, 80_000]),
        terms=Terms(
            Prices({kind: rng.choice([50, 150]) for kind in rng.sample(KINDS, rng.randint(0, 2))}), settings
        ),
        runs_plain_processes=rng.random() < 0.2,
    )


def served(rng: Random) -> tuple[Model, ...]:
    return tuple(Model(name, warm=rng.random() < 0.5) for name in rng.sample(MODELS, rng.randint(0, 2)))


def change(fleet: Fleet, one: Presence, rng: Random, now_ms: int) -> None:
    """Something that happens to a session."""
    match rng.choice([*range(13), 9, 9, 12, 12]):
        case 0:
            fleet.leave(one)
        case 1:
            fleet.join(presence(one.provider_id, rng, one.session_epoch + rng.choice([-1, 1])))
        case 2:
            fleet.serve(one, served(rng))
        case 3:
            one.used_slots = rng.randint(0, 3)
        case 4:
            one.slots = rng.randint(0, 3)
        case 5:
            one.record = rng.choice([TrackRecord(), TrackRecord(0, 4), TrackRecord(40, 40)])
        case 6:
            fleet.suspect(one.provider_id, rng.random() < 0.5)
        case 7:
            fleet.set_state(one.provider_id, rng.choice([AccountState.ACTIVE, AccountState.PAUSED]))
        case 8:
            one.draining = rng.random() < 0.5
        case 9:
            fleet.beat(
                one.provider_id, now_ms, GpuReport(gpu_name=rng.choice(GPUS), temp_c=rng.choice([50, 90]))
            )
        case 10:
            one.job_types = frozenset(rng.sample(KINDS, rng.randint(0, 2)))
        case 12:
            fleet.apply(one, (rng.choice(list(Standing)), Bounds(rng.choice([None, 1, 2]), None)))
        case 11:
            one.hindrances = rng.choice([(), (HINDERED,)])


def by_a_full_walk(fleet: Fleet, wants: Wants, now_ms: int) -> int | None:
    """The best provider among all sessions, looked at one by one."""

    def order(candidate: Candidate) -> tuple[object, ...]:
        warm = any(model.warm and model.name == wants.model for model in candidate.models)
        shares = (-int(candidate.record.lower * 10), -int(candidate.record.upper * 10))
        rest = (*shares, -candidate.free_slots, candidate.provider_id)
        is_other = wants.unasked is Unasked.NEWCOMERS and candidate.standing is not Standing.NEW
        return (is_other, -tier(candidate.standing).level, not warm, *rest)

    candidates = [
        one.candidate(now_ms)
        for one in fleet.all()
        if now_ms - (fleet.last_heartbeat_ms(one.provider_id, None) or 0) < 30_000
    ]
    least = wants.unasked.least if wants.unasked else None
    if least is None:
        able = [tier(candidate.standing) for candidate in candidates if can_run(candidate, wants)]
        least = max(able, key=lambda one: one.level, default=None)
        if wants.unasked is Unasked.NEWCOMERS and least is Standing.PROVEN:
            least = Standing.NEW
    wants = replace(wants, least_standing=least)
    suitable = [candidate for candidate in candidates if obstacle(candidate, wants) is Obstacle.NONE]
    return min(suitable, key=order).provider_id if suitable else None


@pytest.mark.parametrize("seed", range(20))
def test_choice_from_the_index_is_the_choice_of_a_full_walk(seed: int, tmp_path: Path) -> None:
    rng, clock, fleet = Random(seed), ManualClock(), Fleet(assess(Facts()))
    dispatch = Dispatch(Database(databases.sqlite_url(tmp_path)), fleet, clock, 1)
    chosen: set[int | None] = set()
    now_ms = int(clock.now() * 1000)
    silent = set(rng.sample(range(1, 13), 3))
    for number in range(1, 13):
        fleet.join(presence(number, rng, 1))
    for _ in range(120):
        clock.advance(1)  # the best standing is looked for once a second
        now_ms = int(clock.now() * 1000)
        for number in range(1, 13):
            fleet.beat(number, now_ms - 40_000 * (number in silent), None)
        for one in rng.sample(fleet.all(), min(3, len(fleet.all()))):
            change(fleet, one, rng, now_ms)
        for wants in rng.sample(WANTED, 6):
            best = dispatch.place(wants)
            expected = by_a_full_walk(fleet, wants, now_ms)
            assert (best and best.provider_id) == expected
            chosen.add(expected)
    assert len(chosen) > 1


@pytest.mark.parametrize("busy", [False, True])
def test_placement_looks_only_at_the_first_suitable_daemon(
    busy: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside thousands of daemons that are busy, serve another model, or have another GPU."""
    fleet, clock = Fleet(), ManualClock()
    now_ms = int(clock.now() * 1000)
    for number in range(1, 3001):
        model, gpu = ("a", GPUS[0]) if number % 2 else ("b", GPUS[1])
        one = Presence(number, 1, "b", lambda _: None, 0, 1, frozenset(KINDS), (Model(model),), gpu, 80_000)
        one.used_slots = int(busy and number < 3000)
        fleet.join(one)
        fleet.beat(number, now_ms, None)
    looked: list[int] = []
    real = Presence.candidate

    def noted(self: Presence, now_ms: int) -> Candidate:
        looked.append(self.provider_id)
        return real(self, now_ms)

    monkeypatch.setattr(Presence, "candidate", noted)
    dispatch = Dispatch(Database(databases.sqlite_url(tmp_path)), fleet, clock, 1)
    best = dispatch.place(Wants(JobType.TRAINING, gpu_model="H100"))
    assert best is not None
    assert looked == [best.provider_id] == [3000 if busy else 2]
    assert dispatch.place(Wants(JobType.LLM_INFERENCE, "c")) is None
    assert len(looked) == 1
    assert CANDIDATES_LIMIT < 1500  # the others would have hidden the one that fits


def test_daemons_whose_rate_is_above_the_quote_hide_no_other(tmp_path: Path) -> None:
    fleet, clock = Fleet(), ManualClock()
    now_ms = int(clock.now() * 1000)
    for number in range(1, CANDIDATES_LIMIT + 2):
        rate = 100 if number > CANDIDATES_LIMIT else 150
        terms = Terms(Prices({JobType.TRAINING: rate}), Settings())
        one = Presence(
            number, 1, "b", lambda _: None, 0, 1, frozenset(KINDS), (), GPUS[0], 80_000, terms=terms
        )
        fleet.join(one)
        fleet.beat(number, now_ms, None)
    dispatch = Dispatch(Database(databases.sqlite_url(tmp_path)), fleet, clock, 1)
    best = dispatch.place(Wants(JobType.TRAINING, quoted=per_minute(100), unasked=Unasked.NEW))
    assert best is not None
    assert best.provider_id == CANDIDATES_LIMIT + 1

"""The daemons that are connected to the market, in memory: presence, capacity, and their outboxes.

Those at other servers are here too, as their rows were read last (server.services.neighbours): so every
server places jobs and answers alike. Only the server that has a session leases jobs to it and sends it
messages.

Nothing here is authoritative: a restart loses it, and the database and the daemons' next Hello restore
it. Heartbeats that wait to be written are in server.services.heartbeats.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

from server.domain.gpus import GpuReport
from server.domain.hindrances import Hindrance, SelfTest, by_job_type, failing_models
from server.domain.honesty import Facts
from server.domain.jobs import JobType
from server.domain.leases import HEARTBEAT_SECONDS, LIVE_SECONDS
from server.domain.levels import Standing, Unasked, tier
from server.domain.messages import ServerMessage, SettingsUpdate
from server.domain.placement import (
    Candidate,
    Model,
    Obstacle,
    Wants,
    allows,
    can_run,
    gpu_obstacle,
    price_obstacle,
    reaches,
    serves,
    value_left_micros,
)
from server.domain.providers import AccountState, status
from server.domain.reliability import NO_RECORD, TrackRecord
from server.domain.standing import Assessment, Bounds
from server.domain.terms import NO_TERMS, Terms
from server.services.free_slots import LISTED_BY, FreeSlots

MAX_BEATS_PER_SECOND = 1000
MS_PER_MINUTE = 60_000
# Two daemons that take the session from each other within this time use one key.
CONTEST_MS = 10 * MS_PER_MINUTE
NO_BOUNDS = Bounds(None, None)
# Answers of ``best_there`` that are kept, each for a second.
KEPT_ANSWERS = 1000
# A session whose last heartbeat is no older than this many intervals is there.
FRESH_INTERVALS = 1.5

Outbox = Callable[[ServerMessage], None]


@dataclass(slots=True)
class Presence:
    """A connected daemon. ``used_slots`` counts open leases; the number in the store is authoritative."""

    provider_id: int
    session_epoch: int
    boot_id: str
    """Stays the same until the daemon's process ends."""
    send: Outbox
    joined_ms: int
    slots: int
    job_types: frozenset[JobType]
    models: tuple[Model, ...]
    gpu_model: str = ""
    vram_mib: int | None = None
    draining: bool = False
    state: AccountState = AccountState.ACTIVE
    """As last read from the store: only an active provider takes jobs."""
    used_slots: int = field(default=0)
    free_since_ms: int | None = field(default=None, init=False)
    """Since when it has had a free slot; None while it has none."""
    open_value_micros: int = 0
    """The holds of its open jobs that named no provider."""
    granted: Standing = Standing.NEW
    """Its standing as last read from the store."""
    bounds: Bounds = NO_BOUNDS
    """What its standing allows, as last read from the store."""
    record: TrackRecord = NO_RECORD
    """As last read from the store."""
    is_record_old: bool = True
    """An attempt has ended since the record was read from the store."""
    terms: Terms = NO_TERMS
    """As last read from the store."""
    temp_c: float | None = None
    """Of its hottest GPU, by the last heartbeat with a temperature."""
    is_too_hot: bool = False
    _open_in_minute: tuple[int, bool] = (-1, True)
    """The last checked minute, and whether it was within the hours: these change only with minutes."""
    self_tests: tuple[SelfTest, ...] = ()
    hindrances: tuple[Hindrance, ...] = ()
    """What keeps every job of a kind away, by its newest report and self-tests."""
    is_suspect: bool = False
    runs_plain_processes: bool = False
    """It runs jobs without the image that they bring."""
    takes_inputs: bool = False
    """Its daemon gives runs their inputs."""
    image_patterns: tuple[str, ...] | None = None
    """Of the images that its owner allows; None if its daemon does not report them."""
    architecture: str = ""
    is_here: bool = True
    """Its stream ends at this server; else at another one, and ``send`` sends nothing."""
    changed: set[int] | None = None
    """Where the session notes its changes, while it is in the fleet."""

    def __setattr__(self, name: str, value: Any) -> None:
        """Sets a field, here for every service and thread that does: none can forget to note the change."""
        changed = getattr(self, "changed", None) if name in LISTED_BY else None
        if changed is None:
            object.__setattr__(self, name, value)
        elif getattr(self, name) != value:
            object.__setattr__(self, name, value)
            changed.add(self.provider_id)

    def note_used(self, slots: int, now_ms: int) -> None:
        """Takes how many slots are in use."""
        self.used_slots = slots
        self.free_since_ms = (self.free_since_ms or now_ms) if self.free_slots else None

    def is_open(self, now_ms: int) -> bool:
        """Whether it is within the hours that its owner set for jobs."""
        minute = now_ms // MS_PER_MINUTE
        if self._open_in_minute[0] != minute:
            self._open_in_minute = (minute, self.terms.settings.is_open(now_ms))
        return self._open_in_minute[1]

    def note_gpu(self, report: GpuReport) -> None:
        """Takes the GPU of a report that names one: a driver may answer later than the session begins."""
        if report.gpu_model:
            self.gpu_model, self.vram_mib = report.gpu_model, report.total_mib
        if report.architecture:
            self.architecture = report.architecture
        self.note_temperature(report)

    def note_temperature(self, report: GpuReport) -> None:
        """Takes the temperature of a report that has one."""
        if (temp_c := report.hottest_c) is not None:
            self.temp_c = temp_c
            self.is_too_hot = self.terms.settings.is_too_hot(self.is_too_hot, temp_c)

    def apply_terms(self, terms: Terms) -> None:
        """Applies new terms; sends its daemon the settings that changed. On the event loop."""
        if terms == self.terms:
            return
        before, self.terms = self.terms, terms
        if terms.settings != before.settings:
            self._open_in_minute = (-1, True)
            self.is_too_hot = terms.settings.is_too_hot(False, self.temp_c)
            self.send(SettingsUpdate(terms.settings))

    @property
    def free_slots(self) -> int:
        """How many more jobs it gets now."""
        takes_none = self.draining or self.state is not AccountState.ACTIVE
        return 0 if takes_none else max(0, self.believed_slots - self.used_slots)

    @property
    def believed_slots(self) -> int:
        """As many slots as it says that it has, and its standing allows."""
        return self.slots if self.bounds.slots is None else min(self.slots, self.bounds.slots)

    @property
    def standing(self) -> Standing:
        """As which it gets jobs: a contradiction is seen before the standing is stored."""
        is_doubtful = self.is_suspect or not self.bounds.is_checked
        return min(self.granted, Standing.SUSPECT, key=_level) if is_doubtful else self.granted

    def is_above_value(self, hold_micros: int) -> bool:
        """Whether one more unasked job with this hold is more than its standing allows."""
        left = value_left_micros(self.bounds.value_micros, self.open_value_micros)
        return left is not None and hold_micros > left

    def candidate(self, now_ms: int, terms: Terms | None = None) -> Candidate:
        """The provider as placement sees it, by its known terms or by newer terms."""
        if terms is None or terms == self.terms:
            terms, is_open, is_too_hot = self.terms, self.is_open(now_ms), self.is_too_hot
        else:
            is_open = terms.settings.is_open(now_ms)
            is_too_hot = terms.settings.is_too_hot(False, self.temp_c)
        return Candidate(
            provider_id=self.provider_id,
            free_slots=self.free_slots,
            job_types=self.job_types,
            models=self.models,
            gpu_model=self.gpu_model,
            vram_mib=self.vram_mib,
            vram_reserve_mib=terms.settings.vram_reserve_mib,
            own_prices=terms.prices,
            is_open=is_open,
            is_too_hot=is_too_hot,
            record=self.record,
            status=status(self.state, True, self.draining),
            hindered=by_job_type(self.hindrances) if self.hindrances else {},
            failing_models=failing_models(self.self_tests),
            standing=self.standing,
            is_checked=self.bounds.is_checked,
            free_since_ms=self.free_since_ms if self.free_slots else None,
            value_left_micros=value_left_micros(self.bounds.value_micros, self.open_value_micros),
            image_patterns=self.image_patterns,
            architecture=self.architecture,
            runs_plain_processes=self.runs_plain_processes,
        )


def _level(standing: Standing) -> int:
    return standing.level


@dataclass(slots=True)
class Judged:
    """The facts by which a provider was last judged, and when it is due to be judged again."""

    facts: Facts
    judged_ms: int
    again_ms: int
    is_suspect: bool = False


class Fleet:
    """All presences of this server, and the time of each provider's last heartbeat."""

    def __init__(self, first: Assessment | None = None) -> None:
        """``first`` is the standing of a provider without one; None: standings bound nothing here."""
        self._first = first
        self._present: dict[int, Presence] = {}
        self._here = 0
        """How many of them are at this server."""
        self._free = FreeSlots(self._present)
        self._serving: dict[str, dict[int, Presence]] = {}
        """By the names of models, whatever they do."""
        self._contexts: dict[str, int] = {}
        """The longest context of each model that was asked for since the sessions last changed."""
        self._last_ms: dict[int, int] = {}
        self._renewed_ms: dict[int, int] = {}
        """The last heartbeat that came by a session's stream; one by POST may come from any process."""
        self._reports: dict[int, GpuReport] = {}
        self.judged: dict[int, Judged] = {}
        """The last judgement of each provider that reports to this server."""
        self.to_assess: set[int] = set()
        """Providers whose standing may have changed: the next look assesses them."""
        self._tiers: frozenset[Standing] | None = None
        """The tiers of all sessions; None: to be found anew."""
        self._best_there: dict[Wants, tuple[int, Standing]] = {}
        self.announce: Callable[[int], None] = lambda provider_id: None
        """Tells other servers that a provider's session, account or terms changed; after the commit."""
        self._taken_over_ms: dict[int, int] = {}
        self._contested_ms: dict[int, int] = {}

    def join(self, presence: Presence) -> Presence | None:
        """Adds a new session. Returns the superseded session: an older one of the provider, or this one."""
        older = self._present.get(presence.provider_id)
        if older is not None and older.session_epoch > presence.session_epoch:
            return presence
        if older is not None and older.boot_id != presence.boot_id:
            if self._took_over_lately(presence.provider_id, presence.joined_ms):
                self._contested_ms[presence.provider_id] = presence.joined_ms
            self._taken_over_ms[presence.provider_id] = presence.joined_ms
        if older is not None:
            self._unlist(older)
            presence.is_too_hot = presence.terms.settings.is_too_hot(older.is_too_hot, presence.temp_c)
        self._present[presence.provider_id] = presence
        self._here += presence.is_here - (older is not None and older.is_here)
        self._list(presence)
        if presence.is_here:
            self.to_assess.add(presence.provider_id)
            if judged := self.judged.get(presence.provider_id):
                presence.is_suspect = judged.is_suspect
        else:
            self._reports.pop(presence.provider_id, None)  # the newest ones are no longer noted here
        return older

    def must_wait_for(self, provider_id: int, boot_id: str, now_ms: int) -> Presence | None:
        """The session that another process must not take over if it has runs; None: it may.

        One take-over is a restart on a machine that lost power, or the move to another machine. A second
        soon after it is two machines with one key, and each would end the other's runs. Notes it. The other
        process may try again: it is the same machine once more if the present session falls silent.
        """
        present = self._present.get(provider_id)
        if present is None or present.boot_id == boot_id or not self._took_over_lately(provider_id, now_ms):
            return None
        if now_ms - self._renewed_ms.get(provider_id, 0) > FRESH_INTERVALS * 1000 * self.heartbeat_seconds():
            return None
        self._contested_ms[provider_id] = now_ms
        return present

    def is_contested(self, provider_id: int, now_ms: int) -> bool:
        """Whether two daemons with the provider's key took the session from each other lately, here."""
        return now_ms - self._contested_ms.get(provider_id, -CONTEST_MS) < CONTEST_MS

    def _took_over_lately(self, provider_id: int, now_ms: int) -> bool:
        return now_ms - self._taken_over_ms.get(provider_id, -CONTEST_MS) < CONTEST_MS

    def leave(self, presence: Presence) -> None:
        """Removes an ended session; a newer session of the same provider stays."""
        if self._present.get(presence.provider_id) is presence:
            del self._present[presence.provider_id]
            self._here -= presence.is_here
            self._unlist(presence)

    def serve(self, presence: Presence, models: tuple[Model, ...]) -> None:
        """Replaces the models that the session serves."""
        self._unlist(presence)
        presence.models = models
        if self._present.get(presence.provider_id) is presence:
            self._list(presence)

    def _list(self, presence: Presence) -> None:
        self._tiers, self._contexts = None, {}
        presence.changed = self._free.changed
        self._free.changed.add(presence.provider_id)
        for model in presence.models:
            self._serving.setdefault(model.name, {})[presence.provider_id] = presence

    def _unlist(self, presence: Presence) -> None:
        self._tiers, self._contexts = None, {}
        self._free.changed.add(presence.provider_id)
        for model in presence.models:
            serving = self._serving.get(model.name, {})
            serving.pop(presence.provider_id, None)
            if not serving:
                self._serving.pop(model.name, None)

    def get(self, provider_id: int) -> Presence | None:
        """The provider's session, at whichever server."""
        return self._present.get(provider_id)

    def suspect(self, provider_id: int, is_suspect: bool) -> None:
        """Notes whether a provider is suspect."""
        if judged := self.judged.get(provider_id):
            judged.is_suspect = is_suspect
        self._tiers = None
        self.to_assess.add(provider_id)
        if presence := self._present.get(provider_id):
            presence.is_suspect = is_suspect

    def set_state(self, provider_id: int, state: AccountState) -> None:
        """Sets the account's state in a provider's session."""
        if presence := self._present.get(provider_id):
            presence.state = state

    def set_states(self, kept_back: Mapping[int, AccountState]) -> list[Presence]:
        """Sets the states of all sessions, and returns those here that have a new one.

        Providers that are not listed are active.
        """
        changed = []
        for provider_id, presence in self._present.items():
            state = kept_back.get(provider_id, AccountState.ACTIVE)
            if presence.state is not state:
                presence.state = state
                if presence.is_here:
                    changed.append(presence)
        return changed

    def apply_terms(self, provider_id: int, terms: Terms) -> None:
        """Applies new terms of a provider to its session on this server."""
        if presence := self._present.get(provider_id):
            presence.apply_terms(terms)

    def all(self) -> list[Presence]:
        """Every session, at whichever server."""
        return list(self._present.values())

    def here(self) -> list[Presence]:
        """The sessions whose streams end at this server."""
        return [presence for presence in list(self._present.values()) if presence.is_here]

    def get_here(self, provider_id: int) -> Presence | None:
        """The provider's session, if its stream ends at this server."""
        presence = self._present.get(provider_id)
        return presence if presence is not None and presence.is_here else None

    def serving(self, model: str | None, limit: int) -> list[Presence]:
        """The first sessions, in the order of joining, that serve the model; all sessions without a model."""
        return list(islice(list(self._serving_or_all(model)), limit))

    def is_served(self, kind: JobType, model: str) -> bool:
        """Whether a session serves the model for jobs of this type."""
        present = list(self._serving.get(model, {}).values())
        return any(serves(presence.models, model, kind) for presence in present)

    def longest_context(self, model: str, provider_id: int | None) -> int:
        """The longest context of a model, in tokens, on a provider or anywhere; 0 if one is not known."""
        if provider_id is not None:
            presence = self._present.get(provider_id)
            return _context(model, [presence] if presence is not None else [])
        contexts = self._contexts
        if (found := contexts.get(model)) is None:
            found = contexts[model] = _context(model, list(self._serving.get(model, {}).values()))
        return found

    def _serving_or_all(self, model: str | None) -> Iterable[Presence]:
        return (self._present if model is None else self._serving.get(model, {})).values()

    def resolve(self, wants: Wants, now_ms: int) -> Wants:
        """What a job requires, with the least standing that gets it now."""
        if wants.unasked is None:
            return wants
        least = wants.unasked.least or self._best(wants, now_ms)
        if wants.unasked is Unasked.NEWCOMERS:
            least = min(least, Standing.NEW, key=_level)
        return replace(wants, least_standing=least)

    def _best(self, wants: Wants, now_ms: int) -> Standing:
        """The best standing among the live providers that can run a job, be they busy; see ``tier``.

        It is looked for once a second: the answer may need a look at every session that serves a model.
        """
        if self._tiers is None:
            self._tiers = frozenset(tier(presence.standing) for presence in list(self._present.values()))
            self._best_there.clear()
        if len(self._tiers) < 2:
            return next(iter(self._tiers), Standing.NEW)
        second, known = now_ms // 1000, self._best_there.get(wants)
        if known is not None and known[0] == second:
            return known[1]
        highest = max(self._tiers, key=_level)
        best, fits = Standing.BANNED, self._filter(wants, now_ms, now_ms - int(LIVE_SECONDS * 1000))
        for presence in list(self._serving_or_all(wants.model)):
            found = tier(presence.standing)
            if found.level > best.level and fits(presence) and can_run(presence.candidate(now_ms), wants):
                best = found
                if best is highest:
                    break
        if len(self._best_there) >= KEPT_ANSWERS:
            self._best_there.clear()
        self._best_there[wants] = (second, best)
        return best

    def apply(self, presence: Presence, granted: tuple[Standing, Bounds] | None) -> None:
        """Applies a standing, as stored, to a session; None: none is stored yet."""
        self._tiers = None
        if self._first is not None:
            presence.granted, presence.bounds = granted or (self._first.standing, self._first.bounds)

    def grant(self, provider_id: int, standing: Standing, bounds: Bounds) -> None:
        """Applies a provider's standing to its session on this server."""
        if presence := self._present.get(provider_id):
            self.apply(presence, (standing, bounds))

    def heartbeat_seconds(self) -> float:
        """The interval of each daemon's heartbeats: 10 s, or longer to keep all under 1,000 a second."""
        return max(HEARTBEAT_SECONDS, self._here / MAX_BEATS_PER_SECOND)

    def candidates(self, wants: Wants, now_ms: int, since_ms: int) -> Iterator[Candidate]:
        """Connected providers with a free slot and a heartbeat after ``since_ms`` for a job, best first.

        Leaves out those whose hours, rates, images, processor or GPU do not fit, so that many of them cannot
        hide the others. On the event loop, and at once: no session may change before the last one was taken.
        """
        fits = self._filter(wants, now_ms, since_ms)
        for presence in self._free.best_first(wants):
            if reaches(presence.standing, wants) and fits(presence):
                yield presence.candidate(now_ms)

    def _filter(self, wants: Wants, now_ms: int, since_ms: int) -> Callable[[Presence], bool]:
        """Tells quickly the sessions that surely cannot run a job from those that may."""
        of_gpus: dict[tuple[str, int | None, int], bool] = {}

        def fits(presence: Presence) -> bool:
            if self._last_ms.get(presence.provider_id, 0) <= since_ms or not presence.is_open(now_ms):
                return False
            plain = presence.runs_plain_processes
            prices = presence.terms.prices
            by_price = price_obstacle(prices, presence.gpu_model, wants, runs_plain_processes=plain)
            if by_price is not Obstacle.NONE:
                return False
            if wants.image is not None and not allows(presence.image_patterns, wants.image):
                return False
            if wants.architecture is not None and presence.architecture != wants.architecture:
                return False
            gpu = (presence.gpu_model, presence.vram_mib, presence.terms.settings.vram_reserve_mib)
            if gpu not in of_gpus:
                of_gpus[gpu] = gpu_obstacle(*gpu, wants) is Obstacle.NONE
            return of_gpus[gpu]

        return fits

    def beat(self, provider_id: int, now_ms: int, report: GpuReport | None, *, renews: bool = True) -> None:
        """Notes the time of a provider's heartbeat, its GPU and its temperature; by stream, it ``renews``."""
        self._last_ms[provider_id] = max(now_ms, self._last_ms.get(provider_id, 0))
        if renews:
            self._renewed_ms[provider_id] = max(now_ms, self._renewed_ms.get(provider_id, 0))
        if report:
            self._reports[provider_id] = report
            if presence := self._present.get(provider_id):
                presence.note_gpu(report)

    def hear_of(self, provider_id: int, last_ms: int, renewed_ms: int) -> None:
        """Notes the time of a heartbeat at another server."""
        self._last_ms[provider_id] = max(last_ms, self._last_ms.get(provider_id, 0))
        self._renewed_ms[provider_id] = max(renewed_ms, self._renewed_ms.get(provider_id, 0))

    def last_heartbeat_ms(self, provider_id: int, stored_ms: int | None) -> int | None:
        """The newest known heartbeat: noted here or at another server, or stored before a restart."""
        here = self._last_ms.get(provider_id)
        return max((t for t in (here, stored_ms) if t is not None), default=None)

    def newest_report(self, provider_id: int, stored_ms: int | None) -> GpuReport | None:
        """The newest report that was noted here, unless a heartbeat after it was stored by another server."""
        is_newest = self._last_ms.get(provider_id, 0) >= (stored_ms or 0)
        return self._reports.get(provider_id) if is_newest else None

    def is_heard(self, provider_id: int) -> bool:
        """Whether heartbeats of a provider have arrived lately, at whichever server."""
        return provider_id in self._last_ms

    def forget_before(self, before_ms: int) -> None:
        """Drops providers that are silent since that time, so that memory use follows the live fleet."""
        for provider_id in [p for p, at in self._last_ms.items() if at < before_ms]:
            if provider_id not in self._present:
                del self._last_ms[provider_id]
                self._renewed_ms.pop(provider_id, None)
                self.judged.pop(provider_id, None)
                self._taken_over_ms.pop(provider_id, None)
                self._contested_ms.pop(provider_id, None)
                self._reports.pop(provider_id, None)


def _context(model: str, serving: Iterable[Presence]) -> int:
    found = [each.context_tokens for presence in serving for each in presence.models if each.name == model]
    return max(found) if found and all(found) else 0

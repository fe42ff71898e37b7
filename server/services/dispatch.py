"""Dispatch: gives queued jobs to providers with a session and a free slot, and sends the offers.

``lease_to`` runs inside a transaction; ``deliver`` after its commit. A crash between the two delays a job
but never loses it, because an offer without an answer expires.

Every server chooses among all sessions; only the one that has the session leases to it. So a job that is
placed on a session elsewhere stays queued, and a hint of the bus lets its server lease it at once.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from itertools import islice

from server.bus import Bus, Topic
from server.bus.local import LocalBus
from server.clock import Clock, ms
from server.domain.batches import PRIORITY
from server.domain.embeddings import most_bytes as most_vector_bytes
from server.domain.inputs import given
from server.domain.jobs import Job
from server.domain.leases import LIVE_SECONDS, LeaseRef, Offer
from server.domain.messages import CancelRun, JobOffer
from server.domain.placement import (
    Candidate,
    Obstacle,
    Wants,
    able,
    can_run,
    obstacle,
    rank,
    value_left_micros,
)
from server.domain.reliability import TrackRecord
from server.services.each import each
from server.services.fleet import Fleet, Presence
from server.store import leases, providers, queue, reliability, terms
from server.store.database import Database

log = logging.getLogger(__name__)

# A provider that refused a job, let its offer expire, or gave it back because it is busy, is not offered that
# job again before this time.
RETRY_SAME_PROVIDER_SECONDS = 15.0
SECRET_BYTES = 16
# Distinct job requirements examined per poll.
WANTS_LIMIT = 100
# Candidates examined per placement of a job.
CANDIDATES_LIMIT = 256
# Jobs that cannot be read, of which one log line each is written.
PASSED_OVER_LIMIT = 1000
# Providers that one poll offers jobs to.
FILLS_LIMIT = 200


async def hasten(work: Awaitable[object]) -> None:
    """Awaits what gets a job to a provider sooner, for a caller whose own work is stored already.

    A fault must not deny that work; the next poll finds what was missed.
    """
    try:
        await work
    except Exception as error:
        log.warning("could not offer a job at once, it waits for the next look error=%r", error)


class Dispatch:
    """Leases queued jobs to sessions."""

    def __init__(
        self, database: Database, fleet: Fleet, clock: Clock, max_output_bytes: int, bus: Bus | None = None
    ) -> None:
        self._bus = bus or LocalBus()
        self._database = database
        self._fleet = fleet
        self._clock = clock
        self._max_output_bytes = max_output_bytes
        self._passed_over: set[str] = set()
        self.left_queued = 0
        """Counts the submits that found nobody: who reads the queue meanwhile does not see such a job."""

    def place(self, wants: Wants, preferred_id: int | None = None) -> Candidate | None:
        """The most suitable live provider with a free slot, or the preferred one if it is as good.

        As good is what has the same standing, and the model as warm. Runs on the event loop.
        """
        best = next(self._able_now(wants), None)
        preferred = self._fleet.get(preferred_id) if preferred_id is not None else None
        now_ms = ms(self._clock)
        if best is None or preferred is None or not self._is_live(preferred.provider_id, now_ms):
            return best
        candidate = preferred.candidate(now_ms)
        is_able = obstacle(candidate, self._fleet.resolve(wants, now_ms)) is Obstacle.NONE
        is_as_good = rank(candidate, wants.model)[:2] <= rank(best, wants.model)[:2]
        return candidate if is_able and is_as_good else best

    def _able_now(self, wants: Wants) -> Iterator[Candidate]:
        """The live providers that can run a job now, best first, among the first ``CANDIDATES_LIMIT``."""
        now_ms = ms(self._clock)
        wants = self._fleet.resolve(wants, now_ms)
        candidates = self._fleet.candidates(wants, now_ms, now_ms - int(LIVE_SECONDS * 1000))
        return able(islice(candidates, CANDIDATES_LIMIT), wants)

    def lease_to(self, provider_id: int) -> list[Offer]:
        """Leases queued jobs to a provider, one per free slot. Runs inside a transaction."""
        presence = self._fleet.get_here(provider_id)
        now_ms = ms(self._clock)
        if presence is None or not self._is_live(provider_id, now_ms):
            return []
        if providers.lock(provider_id) != presence.session_epoch:
            return []
        # The terms as stored now: no provider gets a job below the rate that it has just set.
        stored = terms.commitments(provider_id)
        self._note_used(presence, stored.used_slots, now_ms)
        presence.open_value_micros = stored.open_value_micros
        self._fleet.apply(presence, stored.granted)
        candidate = presence.candidate(now_ms, stored.terms)
        if candidate.free_slots <= 0:
            return []
        offers: list[Offer] = []
        for job in queue.next_queued(
            candidate,
            candidate.free_slots,
            now_ms,
            refused_since_ms(now_ms),
            self._pass_over,
            partial(self._fleet.resolve, now_ms=now_ms),
            partial(self._take, presence),
        ):
            if job.named_provider_id is None and presence.is_above_value(job.hold_micros):
                continue
            if job.priority == PRIORITY and not self._leaves_a_slot(job, len(offers)):
                continue
            secret = secrets.token_bytes(SECRET_BYTES)
            # Vectors are long, and a part of them is no result.
            most_bytes = max(self._max_output_bytes, most_vector_bytes(job.spec))
            offer = leases.offer(job, provider_id, presence.session_epoch, secret, now_ms, most_bytes)
            if offer is not None:
                offers.append(offer)
                presence.open_value_micros += job.hold_micros if job.named_provider_id is None else 0
        self._note_used(presence, presence.used_slots + len(offers), now_ms)
        return offers

    def _take(self, presence: Presence, job: Job) -> queue.Take:
        """Whether a session takes a queued job, as far as other offers of the same time do not matter."""
        if given(job.spec) and not presence.takes_inputs:
            return queue.Take.NO  # a daemon of before inputs would run it without them
        if job.priority == PRIORITY and not self._leaves_a_slot(job, 0):
            return queue.Take.NO_MORE  # behind it are only jobs of batches, of the same model
        return queue.Take.YES

    def _leaves_a_slot(self, job: Job, offered: int) -> bool:
        """Whether a job of a batch leaves a free slot for an interactive one that comes after it.

        ``offered``: slots that were taken since they were last noted. Where there is only one slot in all, it
        would never run: there it comes after whatever waits.
        """
        serving = self._fleet.serving(job.model, CANDIDATES_LIMIT)
        live = [presence for presence in serving if not presence.draining]
        slots = sum(presence.slots for presence in live)
        return slots <= 1 or sum(presence.free_slots for presence in live) - offered > 1

    def _note_used(self, presence: Presence, slots: int, now_ms: int) -> None:
        """Notes how many slots of a session here are in use, and tells the other servers."""
        if presence.used_slots != slots:
            self._bus.publish(Topic.SLOTS, [f"{presence.provider_id} {presence.session_epoch} {slots}"])
        presence.note_used(slots, now_ms)

    def _pass_over(self, job_id: str, error: Exception) -> None:
        """Logs a job that cannot be read, once, though every provider meets it."""
        if job_id not in self._passed_over and len(self._passed_over) < PASSED_OVER_LIMIT:
            self._passed_over.add(job_id)
            log.error("passed over a queued job that cannot be read job_id=%s error=%r", job_id, error)

    def deliver(self, offers: list[Offer]) -> None:
        """Sends each offer to its session. Call it after the commit."""
        for offer in offers:
            presence = self._fleet.get_here(offer.provider_id)
            if presence is None or presence.session_epoch != offer.session_epoch:
                continue
            log.info(
                "offered job_id=%s attempt=%d lease_epoch=%d provider_id=%d session_epoch=%d",
                offer.lease.job_id,
                offer.attempt,
                offer.lease.lease_epoch,
                offer.provider_id,
                offer.session_epoch,
            )
            presence.send(JobOffer(offer))

    async def fill(self, provider_id: int) -> None:
        """Offers a provider the jobs that wait for it. Reads first, so that an empty queue writes nothing.

        A submit that saw no free slot while this one was being read is looked for once more. If the session
        is at another server, that one is told.
        """
        if self._fleet.get_here(provider_id) is None:
            self._pass_on(provider_id)
            return
        left_queued = self.left_queued
        await self._fill(provider_id)
        presence = self._fleet.get_here(provider_id)
        if self.left_queued != left_queued and presence is not None and presence.free_slots:
            await self._fill(provider_id)

    def placed(self, provider_id: int) -> None:
        """Passes on that a job was queued for a session at another server; call it after the commit."""
        presence = self._fleet.get(provider_id)
        if presence is not None and not presence.is_here:
            # Until its server tells better, so that the next job goes to another one.
            presence.note_used(presence.used_slots + 1, ms(self._clock))
            self._pass_on(provider_id)

    def _pass_on(self, provider_id: int) -> None:
        if self._fleet.get(provider_id) is not None:
            self._bus.publish(Topic.PLACED, [str(provider_id)])

    async def offer(self, provider_id: int) -> None:
        """Offers a provider the jobs that another server has queued for it."""
        if self._fleet.get_here(provider_id) is not None:
            self.deliver(await self._database.run(lambda: self.lease_to(provider_id)))

    async def _fill(self, provider_id: int) -> None:
        presence = self._fleet.get_here(provider_id)
        if presence is None:
            return
        now_ms, is_old = ms(self._clock), presence.is_record_old
        presence.is_record_old = False

        def look() -> tuple[TrackRecord, int, int, bool]:
            known = reliability.track_record(provider_id) if is_old else presence.record
            used_slots, value_micros, has_queued = queue.glance(provider_id)
            left = value_left_micros(presence.bounds.value_micros, value_micros)
            candidate = replace(presence.candidate(now_ms), value_left_micros=left)
            resolve = partial(self._fleet.resolve, now_ms=now_ms)
            return known, used_slots, value_micros, has_queued and queue.has_queued_for(candidate, resolve)

        try:
            presence.record, used_slots, value_micros, waiting = await self._database.read(look)
        except Exception:
            presence.is_record_old |= is_old
            raise
        self._note_used(presence, used_slots, now_ms)
        # Also with an empty queue: what ended holds nothing, and the next submit looks at this.
        presence.open_value_micros = value_micros
        if waiting and presence.free_slots:
            self.deliver(await self._database.run(lambda: self.lease_to(provider_id)))

    async def lease_ended(self, provider_id: int) -> None:
        """A slot is free again: offers the next jobs, and reads the provider's record anew."""
        if presence := self._fleet.get(provider_id):
            presence.is_record_old = True
            self._fleet.to_assess.add(provider_id)
        await self.fill(provider_id)

    async def fill_all(self) -> None:
        """Offers waiting jobs to providers that can run them: a slow poll that finds what ``fill`` missed."""
        if not self._fleet.here():
            return
        await each("a provider's free slots", await self._to_fill(), self.fill)

    async def _to_fill(self) -> Iterable[int]:
        """The providers that can run waiting jobs, by the order of these jobs, up to ``FILLS_LIMIT``."""
        found: dict[int, None] = {}
        for named_id, wants in await self._database.read(lambda: queue.queued_wants(WANTS_LIMIT)):
            found |= dict.fromkeys(self._able(named_id, wants))
            if len(found) >= FILLS_LIMIT:
                break
            await asyncio.sleep(0)  # a long queue must not block the event loop
        return list(found)[:FILLS_LIMIT]

    def _able(self, named_id: int | None, wants: Wants) -> list[int]:
        if named_id is None:
            able_now = (candidate.provider_id for candidate in self._able_now(wants))
            return [provider_id for provider_id in able_now if self._fleet.get_here(provider_id) is not None]
        presence = self._fleet.get_here(named_id)
        suits = presence is not None and can_run(presence.candidate(ms(self._clock)), wants)
        return [named_id] if suits else []

    def cancel(self, provider_id: int, job_id: str, lease_epoch: int, *, keep_files: bool = False) -> None:
        """Tells the daemon to end a run, at whichever server it is. Call it after the commit."""
        if not self.end_run(provider_id, job_id, lease_epoch, keep_files=keep_files):
            self._bus.publish(Topic.ENDED, [f"{provider_id} {job_id} {lease_epoch}"])

    def end_run(self, provider_id: int, job_id: str, lease_epoch: int, *, keep_files: bool = False) -> bool:
        """Sends a daemon the message that ends a run; False if it is not connected to this server."""
        presence = self._fleet.get_here(provider_id)
        if presence is not None:
            # The message needs no secret: the daemon knows the secret of its own lease.
            presence.send(CancelRun(LeaseRef(job_id, lease_epoch, b""), keep_files))
        return presence is not None

    def _is_live(self, provider_id: int, now_ms: int) -> bool:
        last = self._fleet.last_heartbeat_ms(provider_id, None)
        return last is not None and now_ms - last < LIVE_SECONDS * 1000


def refused_since_ms(now_ms: int) -> int:
    """A provider that did not take a job after this time is not offered it again yet."""
    return now_ms - int(RETRY_SAME_PROVIDER_SECONDS * 1000)

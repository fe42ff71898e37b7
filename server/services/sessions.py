"""Sessions of daemons: drives the server's side of the protocol for each stream, and stores its effects.

Every write carries the session's epoch, so that an older stream of the same provider changes
nothing once a newer one has sent its Hello.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from server.clock import Clock, ms
from server.domain.errors import DomainError, Reason
from server.domain.honesty import Verdict
from server.domain.leases import (
    Channel,
    Disposition,
    FinishReport,
    Lease,
    LeaseOutcome,
    LeaseRef,
    LeaseState,
)
from server.domain.messages import (
    CancelRun,
    Capacity,
    Chunk,
    DaemonMessage,
    Drain,
    Finished,
    Goodbye,
    Heartbeat,
    HeartbeatAck,
    Hello,
    LeaseDirective,
    OfferReply,
    Preparing,
    Reconnect,
    ResultAck,
    ServerMessage,
    Started,
    Superseded,
    Welcome,
    lease_of,
)
from server.domain.placement import Model
from server.domain.providers import AccountState
from server.domain.sessions import Breach, Kept, Reply, ServerSession, stranger
from server.domain.versions import is_older
from server.services.dispatch import Dispatch
from server.services.endings import break_off, give_up, note_run, record_finish
from server.services.fleet import Fleet, Presence
from server.services.heartbeats import Heartbeats
from server.services.operators.discards import Discards
from server.services.preparations import Preparations
from server.services.providers import refuse_shut_out
from server.services.servers import Servers
from server.services.stream_outbox import Outbox
from server.store import jobs, leases, providers, sessions, terms
from server.store.database import Database
from server.store.providers import ProviderRow
from server.store.sessions import Beat, Opened
from server.store.terms import Commitments
from server.version import CURRENT

log = logging.getLogger(__name__)
MAX_UNTRUE = 20
"""How many fields of a session's messages the log names that cannot be true."""
HELLOS_AT_ONCE = 64
"""Hellos handled at once; further ones wait before they use the database, so that its queue stays short."""
LEASE_MESSAGES_AT_ONCE = 4096
"""Messages about jobs handled at once, of all streams; the database's queue holds more than twice as many."""


@dataclass(frozen=True)
class Shared:
    """What all sessions of a server use."""

    database: Database
    dispatch: Dispatch
    fleet: Fleet
    heartbeats: Heartbeats
    discards: Discards
    clock: Clock
    servers: Servers
    preparations: Preparations
    newest_daemon: str = CURRENT
    payouts_mature: bool = True
    show: Callable[[Chunk], None] = lambda chunk: None
    """Gets a chunk whose guards have passed, before its commit, in the thread of the transaction."""
    hellos: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(HELLOS_AT_ONCE))
    lease_messages: asyncio.Semaphore = field(
        default_factory=lambda: asyncio.Semaphore(LEASE_MESSAGES_AT_ONCE)
    )


class Session:
    """One stream: messages in by ``handle``, messages out through ``outbox``."""

    __slots__ = (
        "_presence",
        "_protocol",
        "_session_epoch",
        "_shared",
        "_skips_kinds",
        "_untrue",
        "key_id",
        "outbox",
        "provider_id",
        "refusal",
    )

    def __init__(self, shared: Shared, provider_id: int, key_id: int) -> None:
        self.outbox = Outbox()
        self.key_id = key_id
        self.refusal: DomainError | None = None
        """Why the stream ends, if its credential was revoked or a message about a job cannot be handled."""
        self._shared = shared
        self.provider_id = provider_id
        self._protocol = ServerSession()
        self._presence: Presence | None = None
        self._session_epoch = 0
        self._untrue: frozenset[str] = frozenset()
        """The fields that were left out of a message, which the log has already."""
        self._skips_kinds = False
        """Whether the log has it already that messages are skipped."""

    def note_untrue(self, faults: Mapping[str, str]) -> None:
        """Logs, once in a session for each field, what was left out because it cannot be true."""
        for path in sorted(faults.keys() - self._untrue)[: MAX_UNTRUE - len(self._untrue)]:
            log.warning("left out what cannot be true field=%s: %s %s", path, faults[path], self._who())
            self._untrue |= {path}

    def note_unknown_kind(self) -> None:
        """Logs, once in a session, that messages of a newer daemon are skipped."""
        if not self._skips_kinds:
            self._skips_kinds = True
            log.warning("skipped messages of a kind that this server does not know %s", self._who())

    async def handle(self, message: DaemonMessage) -> None:
        """Carries out one message. Raises DomainError when the stream must end.

        Messages about different jobs may be handled at once; those about one job in the order of their
        arrival, and those about the session alone.
        """
        if self.refusal is not None:
            raise self.refusal
        if lease_of(message) is None:
            await self._carry_out(message)
            return
        async with self._shared.lease_messages:
            await self._carry_out(message)

    async def lose(self, lease: LeaseRef) -> None:
        """Ends a lease because the server failed at a message about it. The session continues."""
        breach = self._protocol.fail(lease)
        if breach is not None:
            await self._give_up([breach.lease], breach.detail)

    def fail(self, error: DomainError) -> None:
        """Ends the stream at once, for a reason that its daemon must learn."""
        if self.refusal is None:
            self.refusal = error
            log.warning("ended a session %s reason=%s: %s", self._who(), error.reason, error.message)
        self.outbox.abort()

    async def _carry_out(self, message: DaemonMessage) -> None:
        effect = self._protocol.receive(message)
        match effect:
            case None:
                return
            case Reply(answer):
                if isinstance(answer, LeaseDirective):
                    self._warn("a message named a lease that the session does not hold", answer.lease)
                    self._shared.discards.note_lease(self.provider_id, answer.lease)
                self._send(answer)
            case Breach(lease, detail):
                self._shared.discards.note_run(self.provider_id, lease, detail)
                await self._give_up([lease], f"its daemon broke the protocol: {detail}")
            case Hello():
                async with self._shared.hellos:
                    await self._open(effect)
            case Heartbeat():
                await self._heartbeat(effect)
            case OfferReply():
                await self._offer_reply(effect)
            case Preparing():
                self._preparing(effect)
            case Started():
                await self._started(effect)
            case Chunk():
                await self._chunk(effect)
            case Finished():
                await self._finished(effect.report)
            case Capacity():
                await self._capacity(effect)
            case Drain():
                await self._drain()
            case Goodbye():
                log.info("received a goodbye %s", self._who())
                self.outbox.close()

    def expect_hello(self) -> None:
        """Ends a stream whose first message did not arrive in time.

        A Hello that has arrived counts as in time, however long it waits here: the daemon did not delay it.
        """
        if self._protocol.awaits_hello:
            self.outbox.close()

    async def end(self) -> None:
        """Records the end of the stream. Its leases stay: the daemon may reconnect and continue them."""
        presence, self._presence = self._presence, None
        if presence is not None:
            self._shared.fleet.leave(presence)
        if not self._session_epoch:
            return
        if not self._shared.servers.is_leaving:
            await self._run(lambda: sessions.end(self.provider_id, self._session_epoch))
            self._shared.fleet.announce(self.provider_id)
        log.info("session ended %s", self._who())

    def recheck(self, state: AccountState | None) -> None:
        """Ends the stream unless the provider's state still allows one; None means that its key has ended.

        A provider that is suspended while it runs a job may finish that job; its stream ends after that.
        """
        if state is AccountState.SUSPENDED and self._protocol.is_at_work():
            return
        try:
            if state is None:
                raise DomainError(Reason.INVALID_CREDENTIAL, "this key is no longer valid")
            refuse_shut_out(state)
        except DomainError as error:
            log.warning("revoked a session %s reason=%s", self._who(), error.reason)
            self.refusal = error
            self.outbox.close()

    def push(self, message: ServerMessage) -> None:
        """Sends a message that does not answer one: an offer, a cancel, Superseded, Reconnect.

        If the daemon does not read, its stream ends; the caller gets no error.
        """
        prepared = self._protocol.push(message)
        if prepared is not None:
            with contextlib.suppress(DomainError):
                self._send(prepared)
        if isinstance(message, Superseded | Reconnect):
            self.outbox.close()

    async def _open(self, hello: Hello) -> None:
        shared = self._shared
        now_ms = ms(shared.clock)
        present = shared.fleet.must_wait_for(self.provider_id, hello.boot_id, now_ms)
        if present is not None and await self._run(lambda: _has_runs(self.provider_id)):
            raise DomainError(
                Reason.SESSION_SUPERSEDED,
                f"another daemon with this key has session {present.session_epoch} and runs jobs, and they "
                "have taken the session from each other; stop one of them, or register its machine as a "
                "provider of its own",
            )
        beat, epoch, kept, known, stored = await self._run(lambda: self._record_hello(hello))
        self._presence = Presence(
            self.provider_id,
            epoch,
            hello.boot_id,
            self.push,
            ms(shared.clock),
            hello.slots,
            hello.job_types,
            hello.models,
            hello.report.gpu_model,
            hello.report.total_mib,
            state=known.state,
            terms=stored.terms,
            self_tests=hello.self_tests,
            is_suspect=known.verdict is Verdict.SUSPECT,
            runs_plain_processes=hello.runs_plain_processes,
            takes_inputs=hello.takes_inputs,
            image_patterns=hello.image_patterns,
            architecture=hello.report.architecture or known.architecture,
        )
        shared.fleet.apply(self._presence, stored.granted)
        self._presence.note_temperature(hello.report)
        shared.heartbeats.refresh_hindrances(self._presence, hello.report or known.report)
        older = shared.fleet.join(self._presence)
        if older is self._presence:
            raise DomainError(Reason.SESSION_SUPERSEDED, "a newer session of this provider exists")
        shared.heartbeats.opened(beat)
        shared.fleet.announce(self.provider_id)
        if older is not None:
            older.send(farewell(older, self._presence))
        welcome = Welcome(
            epoch,
            self.provider_id,
            shared.fleet.heartbeat_seconds(),
            stored.terms.settings,
            newest_daemon=shared.newest_daemon,
            update_available=is_older(hello.daemon_version, shared.newest_daemon),
        )
        for message in self._protocol.opened(welcome, [k for k, _, _ in kept]):
            self._send(message)
        log.info("session opened %s slots=%d models=%d", self._who(), hello.slots, len(hello.models))
        if hello.runs_plain_processes:
            log.warning("the daemon runs jobs as plain processes, with no isolation %s", self._who())
        held = {(k.ref.job_id, k.ref.lease_epoch) for k, _, _ in kept}
        for ref in hello.held:
            if (ref.job_id, ref.lease_epoch) not in held:
                shared.discards.note_lease(self.provider_id, ref)
                self._send(stranger(ref).message)
        for lease, cancel, keeps_files in kept:
            if cancel:
                self.push(CancelRun(lease.ref, keeps_files))
        await shared.dispatch.fill(self.provider_id)

    def _record_hello(
        self, hello: Hello
    ) -> tuple[Beat, int, list[tuple[Kept, bool, bool]], ProviderRow, Commitments]:
        """Stores the session with its first heartbeat, then compares the leases that the daemon holds.

        The heartbeat counts from now on: a wait for the database makes no daemon look silent.
        """
        provider = providers.get(self.provider_id)
        assert provider is not None, "a key without its provider"
        if not (provider.state is AccountState.SUSPENDED and leases.count_open(self.provider_id)):
            refuse_shut_out(provider.state)
        now_ms = ms(self._shared.clock)
        beat = Beat(self.provider_id, now_ms, hello.report, renewed_ms=now_ms)
        opened = Opened(
            self._shared.servers.id, hello.boot_id, hello.slots, hello.job_types, hello.runs_plain_processes
        )
        epoch = sessions.begin(self.provider_id, opened, now_ms)
        self._session_epoch = epoch  # set now, so that ``end`` has it if the stream breaks
        sessions.write_beats([beat])
        if not (provider.models_reported and self._serves(hello.models)):
            providers.replace_models(self.provider_id, hello.models)
        if hello.self_tests != provider.self_tests:
            providers.set_self_tests(self.provider_id, epoch, hello.self_tests)
        if hello.image_patterns != provider.image_patterns:
            providers.set_image_patterns(self.provider_id, epoch, hello.image_patterns)
        ended = dict(zip(hello.unacknowledged, hello.run_ms, strict=False))
        kept = []
        for lease in leases.open_of(self.provider_id):
            named = _find(lease, hello.held) or _find(lease, hello.unacknowledged)
            if lease.state is LeaseState.OFFERED:
                _give_up_offer(lease, now_ms)
                continue
            if named is None:
                give_up(lease, now_ms, "the daemon no longer holds it")
                continue
            resend = named in hello.unacknowledged
            job = jobs.get(lease.job_id)
            assert job is not None
            leases.move_to_session(lease, epoch)
            if named in ended:
                note_run(job, lease, ended[named])
            kept.append(
                (
                    Kept(
                        named,
                        lease.state,
                        lease.output_through_seq,
                        lease.log_through_seq,
                        job.output_bytes,
                        leases.stream_bytes(lease.job_id, lease.lease_epoch, Channel.LOG),
                        lease.output_limit_bytes,
                        resend,
                    ),
                    job.cancel_requested,
                    job.keeps_files,
                )
            )
        return beat, epoch, kept, provider, terms.commitments(self.provider_id)

    def _serves(self, models: Sequence[Model]) -> bool:
        """Whether exactly these models are on record."""
        stored = providers.models_of([self.provider_id])[self.provider_id]
        return {model.name: model for model in stored} == {model.name: model for model in models}

    async def _heartbeat(self, beat: Heartbeat) -> None:
        shared, presence = self._shared, self._presence
        if shared.fleet.get(self.provider_id) is not presence:
            return  # only the newest session renews the leases
        await shared.heartbeats.record(self.provider_id, beat.report, renews=True)
        if presence is not None and presence.state is AccountState.SUSPENDED:
            self.recheck(presence.state)
        if shared.heartbeats.is_stored(self.provider_id):
            self._send(HeartbeatAck(beat.sequence))
        unknown, missing = self._protocol.reconcile(beat)
        for ref in unknown:
            self._warn("a heartbeat listed a lease that the session does not hold", ref)
            shared.discards.note_lease(self.provider_id, ref)
            self._send(stranger(ref).message)
        if missing:
            await self._give_up(missing, "the daemon no longer holds it")

    async def _give_up(self, refs: list[LeaseRef], detail: str) -> None:
        """Ends leases whose attempts are lost although the daemon is live."""

        def give_up_all() -> None:
            for ref in refs:
                lease = leases.get(ref.job_id, ref.lease_epoch)
                if lease is not None and lease.session_epoch == self._session_epoch:
                    break_off(lease, ms(self._shared.clock), detail)

        await self._run(give_up_all)
        for ref in refs:
            self._warn(f"lost an attempt: {detail}", ref)
            self._protocol.dropped(ref)
            self._send(stranger(ref).message)
        await self._shared.dispatch.lease_ended(self.provider_id)

    async def _offer_reply(self, reply: OfferReply) -> None:
        if reply.accepted and reply.started:
            await self._advance(reply.lease, LeaseState.RUNNING, leases.accept_started)
            return
        if reply.accepted:
            await self._advance(reply.lease, LeaseState.ACCEPTED, leases.accept)
            return

        def refuse() -> None:
            lease = leases.get(reply.lease.job_id, reply.lease.lease_epoch)
            if lease is not None and lease.matches(reply.lease):
                give_up(lease, ms(self._shared.clock), reply.refusal[:200], LeaseOutcome.REFUSED)

        await self._run(refuse)
        self._protocol.dropped(reply.lease)
        self._warn(f"the daemon refused an offer reason={reply.refusal[:200]!r}", reply.lease)
        await self._shared.dispatch.fill(self.provider_id)

    def _preparing(self, preparing: Preparing) -> None:
        assert preparing.step is not None, "the protocol drops what it does not know"
        self._shared.preparations.note(
            preparing.lease.job_id,
            preparing.lease.lease_epoch,
            preparing.step,
            preparing.done_bytes,
            preparing.total_bytes,
        )

    async def _started(self, started: Started) -> None:
        await self._advance(started.lease, LeaseState.RUNNING, leases.start)

    async def _advance(
        self, ref: LeaseRef, state: LeaseState, move: Callable[[LeaseRef, int, int, int], bool]
    ) -> None:
        now_ms = ms(self._shared.clock)

        def record() -> None:
            if not move(ref, self.provider_id, self._session_epoch, now_ms):
                raise DomainError(Reason.STALE_LEASE, "the lease is not on record")

        try:
            await self._run(record)
        except DomainError as error:
            await self._stale(error, ref)
            return
        self._protocol.advanced(ref, state)
        log.info("lease %s job_id=%s lease_epoch=%d %s", state, ref.job_id, ref.lease_epoch, self._who())

    async def _chunk(self, chunk: Chunk) -> None:
        now_ms = ms(self._shared.clock)

        def store() -> None:
            if not leases.store_chunk(
                chunk.lease,
                self.provider_id,
                self._session_epoch,
                chunk.stream,
                chunk.seq,
                chunk.data,
                now_ms,
            ):
                raise DomainError(Reason.STALE_LEASE, "the lease is not on record")
            self._shared.show(chunk)

        try:
            await self._run(store)
        except DomainError as error:
            await self._stale(error, chunk.lease)
            return
        if (answer := self._protocol.stored(chunk)) is not None:
            self._send(answer)

    async def _finished(self, report: FinishReport) -> None:
        now_ms = ms(self._shared.clock)
        matures = self._shared.payouts_mature
        answer = await self._run(lambda: record_finish(report, self.provider_id, now_ms, matures=matures))
        if isinstance(answer, LeaseDirective) and not self._protocol.may_resend(report.lease):
            lost = "its daemon cannot send the output that its result names"
            self._shared.discards.note_run(self.provider_id, report.lease, lost)
            await self._give_up([report.lease], lost)
            return
        self._send(answer)
        if isinstance(answer, ResultAck):
            if answer.disposition is Disposition.STALE:
                self._shared.discards.note_lease(self.provider_id, report.lease)
            self._protocol.dropped(report.lease)
            log.info(
                "result %s job_id=%s lease_epoch=%d outcome=%s %s",
                answer.disposition,
                report.lease.job_id,
                report.lease.lease_epoch,
                report.outcome,
                self._who(),
            )
            await self._shared.dispatch.lease_ended(self.provider_id)

    async def _capacity(self, capacity: Capacity) -> None:
        presence = self._presence
        assert presence is not None, "the protocol lets no message through before the Hello"
        if self._is_news(capacity, presence):
            await self._run(lambda: self._record_capacity(capacity, presence))
            await self._learn(capacity, presence)
            self._shared.fleet.announce(self.provider_id)
        presence.slots = capacity.slots
        await self._shared.dispatch.fill(self.provider_id)

    def _is_news(self, capacity: Capacity, presence: Presence) -> bool:
        """Whether there is something to store."""
        return (
            capacity.slots != presence.slots
            or capacity.models != presence.models
            or capacity.job_types not in (None, presence.job_types)
            or capacity.self_tests not in (None, presence.self_tests)
            or capacity.image_patterns not in (None, presence.image_patterns)
        )

    def _record_capacity(self, capacity: Capacity, presence: Presence) -> None:
        sessions.note_capacity(self.provider_id, self._session_epoch, capacity.slots)
        if capacity.models != presence.models:
            providers.replace_models(self.provider_id, capacity.models)
        if capacity.job_types is not None and capacity.job_types != presence.job_types:
            providers.set_job_types(self.provider_id, self._session_epoch, capacity.job_types)
        if capacity.self_tests is not None and capacity.self_tests != presence.self_tests:
            providers.set_self_tests(self.provider_id, self._session_epoch, capacity.self_tests)
        if capacity.image_patterns not in (None, presence.image_patterns):
            providers.set_image_patterns(self.provider_id, self._session_epoch, capacity.image_patterns)

    async def _learn(self, capacity: Capacity, presence: Presence) -> None:
        """Applies the stored capacity to the session's future offers."""
        self._shared.fleet.serve(presence, capacity.models)
        if capacity.job_types is not None:
            presence.job_types = capacity.job_types
        if capacity.image_patterns is not None:
            presence.image_patterns = capacity.image_patterns
        if capacity.self_tests is not None and capacity.self_tests != presence.self_tests:
            presence.self_tests = capacity.self_tests
            row = await self._shared.database.read(lambda: providers.get(self.provider_id))
            if row is not None:
                self._shared.heartbeats.refresh_hindrances(presence, row.report)

    async def _drain(self) -> None:
        if self._presence is not None:
            self._presence.draining = True
        await self._run(lambda: sessions.set_draining(self.provider_id, self._session_epoch))
        self._shared.fleet.announce(self.provider_id)
        log.info("began to drain %s", self._who())

    async def _run(self, work: Callable[[], Any]) -> Any:
        return await self._shared.database.run(work)

    async def _stale(self, error: DomainError, ref: LeaseRef) -> None:
        if error.reason is not Reason.STALE_LEASE:
            raise error
        if await self._run(lambda: self._is_elsewhere(ref)):
            self._warn("a newer session of the provider holds the lease; asked the daemon to reconnect", ref)
            self.push(Reconnect(0.0, 0.0))
            return
        self._warn("received a message for a stale lease; nothing changed", ref)
        self._shared.discards.note_lease(self.provider_id, ref)
        self._protocol.dropped(ref)
        self._send(stranger(ref).message)

    def _is_elsewhere(self, ref: LeaseRef) -> bool:
        """Whether the daemon's lease continues under a newer session, on another stream."""
        lease = leases.get(ref.job_id, ref.lease_epoch)
        return (
            lease is not None
            and lease.matches(ref)
            and lease.provider_id == self.provider_id
            and lease.state is not LeaseState.ENDED
            and lease.session_epoch > self._session_epoch
        )

    def _send(self, message: ServerMessage) -> None:
        if not self.outbox.put(message):
            # The daemon does not read. Its next Hello brings both sides to the same state again.
            self.outbox.close()
            raise DomainError(Reason.OVERLOADED, "the daemon does not read its messages")

    def _who(self) -> str:
        return f"provider_id={self.provider_id} session_epoch={self._session_epoch}"

    def _warn(self, text: str, ref: LeaseRef) -> None:
        log.warning("%s job_id=%.100r lease_epoch=%d %s", text, ref.job_id, ref.lease_epoch, self._who())


def _has_runs(provider_id: int) -> bool:
    return any(lease.state is not LeaseState.OFFERED for lease in leases.open_of(provider_id))


def _give_up_offer(lease: Lease, now_ms: int) -> None:
    """Ends an offer whose session ended before the answer.

    It is offered again at once; the second time it counts as expired, so that a daemon whose sessions end at
    once does not get it again and again.
    """
    outcome = LeaseOutcome.EXPIRED if leases.was_unanswered(lease) else LeaseOutcome.LOST
    give_up(lease, now_ms, "the session ended before the daemon answered the offer", outcome)


def farewell(older: Presence, newer: Presence) -> Superseded | Reconnect:
    """The message to a session that a newer one replaces.

    The newer Hello may be a delayed one of the same process, from a stream that the process has left. The
    process must not end then: it reconnects and sends another Hello, which is the newest.
    """
    if older.boot_id == newer.boot_id:
        return Reconnect(0.0, 0.0)
    return Superseded(newer.session_epoch)


def _find(lease: Lease, refs: tuple[LeaseRef, ...]) -> LeaseRef | None:
    return next((ref for ref in refs if lease.matches(ref)), None)

"""A daemon's session without a daemon: its clock, its journal and its server are a test's."""

from __future__ import annotations

from random import Random
from typing import Any

from dcp.v1 import jobs_pb2, sessions_pb2

from daemon.protocol import events as ev
from daemon.protocol.effects import Effect, Forget, Persist, Send
from daemon.protocol.events import succeeded
from daemon.protocol.records import Channel, Record, replay
from daemon.protocol.session import DaemonSession, Introduction
from tests.daemon.fake_server import lease, offer, seconds

DONE = succeeded(jobs_pb2.Usage(completion_tokens=1))


class Bench:
    """A session with its clock, its effects so far, and a journal that saves at once.

    `disk`: "well", "slow" (unsaved records wait in `unsaved`) or "full".
    """

    def __init__(self, slots: int = 1, rng: Random | None = None, *, warm: bool = False) -> None:
        self.rest = b""
        """What the run wrote and did not report yet."""
        self.now = 100.0
        self.disk = "well"
        self.unsaved: list[Persist] = []
        self.saved: list[Persist] = []
        self.forgotten: list[sessions_pb2.Lease] = []
        self.effects: list[Effect] = []
        self.session = DaemonSession(
            Introduction("boot", "1"),
            rng or Random(7),
            ev.Capacity(
                slots,
                [sessions_pb2.ServedModel(name="test/model", warm=warm)],
                [jobs_pb2.JOB_TYPE_LLM_INFERENCE],
            ),
            rest=self._take_rest,
        )

    def _take_rest(self, held: sessions_pb2.Lease) -> list[tuple[Channel, bytes]]:
        rest, self.rest = self.rest, b""
        return [(Channel.OUTPUT, rest)]

    def take(self, effects: list[Effect]) -> list[Effect]:
        """Carries out the journal's effects; returns the other effects, with those that followed."""
        others: list[Effect] = []
        for effect in effects:
            match effect:
                case Persist():
                    self.unsaved.append(effect)
                case Forget(held):
                    self.forgotten.append(held)
                case _:
                    self.effects.append(effect)
                    others.append(effect)
        return others if self.disk == "slow" else others + self.save()

    def happen(self, event: ev.Event) -> list[Effect]:
        return self.take(self.session.handle(event, self.now))

    def save(self) -> list[Effect]:
        """Saves the waiting records, or fails to."""
        effects: list[Effect] = []
        while self.unsaved:
            entry = self.unsaved.pop(0)
            if self.disk == "full":
                effects += self.happen(ev.NotPersisted(entry.number, "no space left"))
            else:
                self.saved.append(entry)
                effects += self.happen(ev.Persisted(entry.number))
        return effects

    def hear(self, **kind: Any) -> list[Effect]:
        return self.happen(ev.Received(sessions_pb2.ServerMessage(**kind)))

    def restarted(self, adopted: bool = False) -> Bench:
        """The daemon after a crash, with the records that it had saved."""
        again = Bench()
        again.now = self.now
        by_lease: dict[str, list[Record]] = {}
        for entry in self.saved:
            if entry.lease not in self.forgotten:
                by_lease.setdefault(str(entry.lease), []).extend(entry.records)
        for records in by_lease.values():
            if (history := replay(records)) is not None:
                again.happen(ev.Recovered(history, adopted))
        return again

    def link_again(self) -> None:
        """Opens a new stream on which the server keeps every lease."""
        self.lose()
        self.connect()
        self.welcome()
        self.direct(sessions_pb2.LEASE_ACTION_KEEP)

    def connect(self) -> list[Effect]:
        return self.happen(ev.Connected())

    def welcome(self, credit: int = 16, lost_after: float = 300.0, *, merges: bool = False) -> list[Effect]:
        return self.hear(
            welcome=sessions_pb2.Welcome(
                session_epoch=3,
                provider_id=42,
                heartbeat_interval=seconds(10),
                lost_after=seconds(lost_after),
                chunk_credit=credit,
                takes_merged_messages=merges,
            )
        )

    def open(self, credit: int = 16, lost_after: float = 300.0, *, merges: bool = False) -> Bench:
        self.connect()
        self.welcome(credit, lost_after, merges=merges)
        return self

    def running(self, **offered: Any) -> Bench:
        self.hear(job_offer=offer(**offered))
        self.happen(ev.AttemptStarted(lease()))
        return self

    def write(self, data: bytes) -> list[Effect]:
        return self.happen(ev.AttemptWrote(lease(), Channel.OUTPUT, data))

    def finish(self) -> list[Effect]:
        return self.happen(ev.AttemptFinished(lease(), DONE))

    def lose(self) -> list[Effect]:
        return self.happen(ev.Disconnected())

    def direct(self, action: sessions_pb2.LeaseAction.ValueType, through: int = 0) -> list[Effect]:
        return self.hear(
            lease_directive=sessions_pb2.LeaseDirective(
                lease=lease(), action=action, output_through_seq=through
            )
        )

    def acknowledge_heartbeats(self) -> None:
        for message in sent(self.effects, "heartbeat"):
            self.hear(heartbeat_ack=sessions_pb2.HeartbeatAck(sequence=message.sequence))

    def pass_time(self, duration: float, answering: bool = True, step: float = 1.0) -> list[Effect]:
        """Advances the clock in steps; the server answers heartbeats or does not."""
        effects: list[Effect] = []
        end = self.now + duration
        while self.now < end:
            self.now = min(end, self.now + step)
            ticked = self.happen(ev.Tick())
            effects += ticked
            for beat in sent(ticked, "heartbeat") if answering else []:
                effects += self.hear(heartbeat_ack=sessions_pb2.HeartbeatAck(sequence=beat.sequence))
        return effects


def sent(effects: list[Effect], kind: str) -> list[Any]:
    """The messages of one kind among the effects."""
    messages = [effect.message for effect in effects if isinstance(effect, Send)]
    return [getattr(message, kind) for message in messages if message.WhichOneof("kind") == kind]


def kinds(effects: list[Effect]) -> list[str]:
    """The names of the effects, and of messages their kind."""
    return [
        effect.message.WhichOneof("kind") or "" if isinstance(effect, Send) else type(effect).__name__
        for effect in effects
    ]

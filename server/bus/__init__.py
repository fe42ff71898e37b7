"""The port through which servers tell one another what has changed.

A message is a hint: a topic and ids. Who hears it reads what is stored. One that is lost costs a delay, until
the next slow look at the database, and never a job.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Protocol

Wake = Callable[[], None]
Heard = Callable[[frozenset[str]], None]
"""Gets the ids of the hints that came at once, on the event loop."""


@dataclass(frozen=True, slots=True)
class BusAddress:
    """Where NATS is."""

    servers: tuple[str, ...] = field(repr=False)
    """URLs, which may have a password."""
    ca: Path | None = None
    """The certificate authority of its servers; None: those of the system."""
    credentials: Path | None = None
    """NATS's file of a user's token and key."""


class Topic(StrEnum):
    """What has changed; the ids are those of ..."""

    JOB = "job"
    """... jobs that have new states, output or log: for their watchers."""
    TEXT = "text"
    """... jobs that have new output or log, which is shown to their watchers at this server already."""
    PLACED = "placed"
    """... providers for which a job was queued: the server that has the session offers it."""
    ENDED = "ended"
    """... runs that are to end: ``provider job lease_epoch``."""
    PROVIDER = "provider"
    """... providers whose session, account, capacity or terms changed."""
    SLOTS = "slots"
    """... providers that have another number of slots in use: ``provider session_epoch slots``."""
    GUESS = "guess"
    """... addresses that sent an unknown key."""
    KEY = "key"
    """... credentials that were revoked or changed: the digests of the keys, in hexadecimal."""
    PREPARATION = "preparation"
    """... runs that are being prepared, each with its newest report (``server.domain.preparations``)."""
    LEFT = "left"
    """... jobs that no reader attends at this server any more: does one elsewhere?"""
    ATTENDED = "attended"
    """... such jobs that a reader attends at this server."""
    OUTBOX = "outbox"
    """... owners of webhooks with events that the server which wrote them cannot send now."""


class Bus(Protocol):
    """What a bus between servers has to do."""

    @property
    def is_connected(self) -> bool:
        """Whether hints reach the other servers now."""

    def publish(self, topic: Topic, ids: Iterable[str]) -> None:
        """Gives hints, after the commit. It is called in any thread, and never raises."""

    def subscribe(self, job_id: str, wake: Wake) -> Wake:
        """Calls ``wake`` on the event loop after each change of a job; returns what ends that."""

    def listen(self, topic: Topic, heard: Heard) -> None:
        """Calls ``heard`` with what other servers tell about a topic. Call it before ``start``."""

    async def start(self) -> None:
        """Begins to connect. It does not wait for the connection, without which all goes on more slowly."""

    async def stop(self) -> None:
        """Sends what waits, for a moment at most, and disconnects."""

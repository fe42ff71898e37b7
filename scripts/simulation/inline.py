"""The server's database without threads, and its coroutines without an event loop.

A coroutine of the server stops before and after every commit. The scheduler decides what happens then: it
continues, others continue before it, or the server dies.
"""

from __future__ import annotations

import secrets
import sqlite3
import types
from collections.abc import Callable, Coroutine, Generator, Iterator
from contextlib import contextmanager
from enum import Enum
from random import Random
from typing import Any, TypeVar

import peewee

from server.domain.errors import DomainError, Reason
from server.store.database import Database, migrate
from server.store.models import MODELS

T = TypeVar("T")


class Side(Enum):
    """Whether a coroutine has stopped before or after a commit."""

    BEFORE = "before"
    AFTER = "after"


class ServerDied(BaseException):
    """The server's process died on this side of a commit. The server's code does not catch this."""

    def __init__(self, side: Side) -> None:
        super().__init__(side)
        self.side = side


class InlineDatabase(Database):
    """A SQLite database in memory; each transaction runs at once, in the thread of its caller."""

    def __init__(self) -> None:
        self.peewee = peewee.SqliteDatabase(":memory:", pragmas={"foreign_keys": 1})
        for model in MODELS:
            model.bind(self.peewee, bind_refs=False, bind_backrefs=False)
        migrate(self.peewee)
        raw: Any = self.peewee
        self.raw: sqlite3.Connection = raw.connection()
        self.is_sqlite = True
        self.is_down = False
        self.dies: Side | None = None
        """If set, the server's process dies at its next commit, on this side of it."""

    async def run(self, work: Callable[[], T]) -> T:
        """One write transaction."""
        await _stop(Side.BEFORE)
        value = self.commit(work)
        await _stop(Side.AFTER)
        return value

    async def read(self, work: Callable[[], T]) -> T:
        """One read transaction."""
        self._check()
        return work()

    def commit(self, work: Callable[[], T]) -> T:
        """Runs the transaction now."""
        self._check()
        self.raw.execute("BEGIN IMMEDIATE")
        try:
            value = work()
            self._die(Side.BEFORE)
        except BaseException:
            self.raw.execute("ROLLBACK")
            raise
        self.raw.execute("COMMIT")
        self._die(Side.AFTER)
        return value

    def restore(self, template: sqlite3.Connection) -> None:
        """Becomes a copy of another database."""
        template.backup(self.raw)
        self.is_down, self.dies = False, None

    def _check(self) -> None:
        if self.is_down:
            raise DomainError(Reason.STORE_UNAVAILABLE, "the simulated database is down")

    def _die(self, side: Side) -> None:
        if self.dies is side:
            self.dies = None
            raise ServerDied(side)


@types.coroutine
def _stop(side: Side) -> Generator[Side, None, None]:
    yield side


class Task:
    """One coroutine of the server."""

    def __init__(self, work: Coroutine[Any, Any, Any], on_end: Callable[[Exception | None], None]) -> None:
        self.side: Side | None = None
        self.job_id: str | None = None
        """The job that the message is about which it handles, if it is one."""
        self._work = work
        self._on_end = on_end

    def go_on(self, stops: int | None) -> bool:
        """Runs to its end, or past `stops` stops; True at the end. Raises ServerDied."""
        error: Exception | None = None
        try:
            while True:
                self.side = self._work.send(None)
                if self.side is not None and stops is not None:
                    if stops == 0:
                        return False
                    stops -= 1
        except StopIteration:
            pass
        except Exception as raised:
            error = raised
        self._on_end(error)
        return True

    def abandon(self) -> None:
        """Its caller no longer waits: a write that it has requested is carried out, and nothing after it."""
        if self.side is Side.BEFORE:
            try:
                self.side = self._work.send(None)
            except (StopIteration, DomainError):
                return
        self.kill()

    def kill(self) -> None:
        """Ends it at its current stop."""
        self._work.close()


def finish(work: Coroutine[Any, Any, T]) -> T:
    """Runs a coroutine to its end and returns its value."""
    while True:
        try:
            work.send(None)
        except StopIteration as end:
            value: T = end.value
            return value


@contextmanager
def seeded_secrets(rng: Random) -> Iterator[None]:
    """Draws ids and secrets from a seed, so that a schedule is the same each time."""
    token_hex, token_bytes = secrets.token_hex, secrets.token_bytes
    secrets.token_hex = lambda nbytes=None: rng.randbytes(nbytes or 32).hex()
    secrets.token_bytes = lambda nbytes=None: rng.randbytes(nbytes or 32)
    try:
        yield
    finally:
        secrets.token_hex, secrets.token_bytes = token_hex, token_bytes

"""The server's database without threads, and its coroutines without an event loop.

A coroutine of the server stops on both sides of every commit; what happens to it there (it goes on,
others go on before it, the server dies) is for the scheduler to say.
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
    """Where a coroutine stands beside a commit."""

    BEFORE = "before"
    AFTER = "after"


class ServerDied(BaseException):
    """The server's process is gone, on this side of a commit. Nothing of its code catches it."""

    def __init__(self, side: Side) -> None:
        super().__init__(side)
        self.side = side


class InlineDatabase(Database):
    """One SQLite in memory; a transaction is run where it is asked for."""

    def __init__(self) -> None:
        self.peewee = peewee.SqliteDatabase(":memory:", pragmas={"foreign_keys": 1})
        for model in MODELS:
            model.bind(self.peewee, bind_refs=False, bind_backrefs=False)
        migrate(self.peewee)
        raw: Any = self.peewee
        self.raw: sqlite3.Connection = raw.connection()
        self.is_down = False
        self.dies: Side | None = None
        """The server's process dies at the next commit, on this side of it."""

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
        self._work = work
        self._on_end = on_end

    def go_on(self, stops: int | None) -> bool:
        """Runs to its end, or until it has come to so many stops; True at the end. Raises ServerDied."""
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
        """Nobody waits for it any more: a write that was asked for is carried out, and nothing behind it."""
        if self.side is Side.BEFORE:
            try:
                self.side = self._work.send(None)
            except (StopIteration, DomainError):
                return
        self.kill()

    def kill(self) -> None:
        """It ends where it stands."""
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
    """Ids and secrets come from a seed, so that a schedule is the same each time."""
    token_hex, token_bytes = secrets.token_hex, secrets.token_bytes
    secrets.token_hex = lambda nbytes=None: rng.randbytes(nbytes or 32).hex()
    secrets.token_bytes = lambda nbytes=None: rng.randbytes(nbytes or 32)
    try:
        yield
    finally:
        secrets.token_hex, secrets.token_bytes = token_hex, token_bytes

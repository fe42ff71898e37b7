"""The database: connections, threads and transactions. This module does not know the tables.

``await database.run(work)`` runs ``work`` in a write transaction in a worker thread and returns its
value after the commit; ``await database.read(work)`` uses a read transaction. No query runs on the event
loop. SQLite has one writer thread that runs the waiting functions in one ``BEGIN IMMEDIATE``, all but
the first in savepoints, so that they share one fsync (group commit); PostgreSQL has a pool of threads, each
with its own connection. Reads that may grow have threads of their own (server.store.reading).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar
from urllib.parse import urlsplit

import peewee
from playhouse.migrations import Runner

from common import tracing
from common.logs import carried
from common.telemetry import OFF, Telemetry
from common.tracing import Past, Traces
from server.domain.errors import DatabaseAwayError, DatabaseUrlError, DomainError, Reason
from server.domain.reads import Purpose, present, too_slow
from server.store import changes, counted, sqlite_files
from server.store.faults import (
    Faults,
    damaged,
    is_away,
    is_of_the_store,
    is_retryable,
    start_fault,
)
from server.store.models import MODELS
from server.store.reading import Interruptible, Reads, StopsReads

log = logging.getLogger(__name__)
T = TypeVar("T")

GROUP_SIZE = 64
WRITE_QUEUE_SIZE = 10_000
READ_THREADS = 4
POSTGRES_THREADS = 8
POSTGRES_TRIES = 4
CLOCK_TRIES = 3
# Of the advisory lock that a program holds while it migrates: any number, the same for every version.
MIGRATION_LOCK = 0x6463705F6D6967
MIGRATIONS = Path(__file__).parent / "migrations"
# The end of the name of a migration that the release before it cannot run on.
CONTRACT = "_contract"
SQLITE_PRAGMAS = {
    "journal_mode": "wal",
    # With less, what was answered may be gone after a power cut.
    "synchronous": "full",
    "foreign_keys": 1,
    "busy_timeout": 5000,
    # 2048 KiB for each connection; the operating system also caches the file for all connections.
    "cache_size": -2048,
}


class PartError(Exception):
    """A part of a transaction failed and was undone; the rest of the transaction can go on."""


def apart(work: Callable[[], T]) -> T:
    """Runs a part of a write transaction. Raises PartError if it failed, which undoes only this part.

    Faults of the connection or the disk are raised as they are: they end the whole transaction.
    """
    counted_before = counted.mark()
    try:
        with MODELS[0]._meta.database.savepoint():
            return work()
    except Exception as error:
        counted.undo(counted_before)
        if is_of_the_store(error):
            raise
        # Only the first line: PostgreSQL's next one shows the row, which may hold an address or a prompt.
        raise PartError(f"{type(error).__name__}: {str(error).partition(chr(10))[0]}") from error


class _Sqlite(StopsReads, peewee.SqliteDatabase):
    """A SQLite file."""


class Database:
    """One database. Call ``start`` and ``stop`` once each; a process may have only one open."""

    def __init__(self, url: str) -> None:
        self.peewee = _connect(url)
        self.is_sqlite = isinstance(self.peewee, peewee.SqliteDatabase)
        self.faults = Faults()
        self._readers = ThreadPoolExecutor(
            READ_THREADS if self.is_sqlite else POSTGRES_THREADS, thread_name_prefix="db"
        )
        self._reads = Reads(self._snapshot, self._readers)
        self._writer: _GroupWriter | None = None
        self.announce: Callable[[changes.Changed], None] = lambda changed: None
        """Gets what a transaction changed, after its commit, in the thread that wrote it."""
        self.telemetry: Telemetry = OFF
        self.traces: Traces = tracing.OFF

    @property
    def waiting(self) -> dict[str, int]:
        """How many transactions wait for a thread, by queue. On PostgreSQL reads and writes share one."""
        reads, long_reads = (threads._work_queue.qsize() for threads in (self._readers, self._reads.long))
        writes = self._writer.waiting if self._writer is not None else reads
        return {"read": reads, "long_read": long_reads, "write": writes}

    def _committed(self) -> None:
        for each in counted.take():
            try:
                if isinstance(each, Past):
                    self.traces.record(each)
                else:
                    self.telemetry.count(each.name, *each.labels, by=each.by)
            except Exception:  # what is committed is committed, and others wait for this thread
                log.exception("a measurement was lost name=%s", each.name)
        if changed := changes.take():
            self.announce(changed)

    def start(self, *, may_migrate: bool = True, first: Callable[[], object] | None = None) -> None:
        """Connects, migrates and runs the ``first`` transaction. Raises DatabaseUrlError if it cannot.

        Without ``may_migrate`` it changes nothing, and a database that is too old is an error too.
        """
        for model in MODELS:
            model.bind(self.peewee, bind_refs=False, bind_backrefs=False)
        if self.is_sqlite:
            sqlite_files.make_private(Path(self.peewee.database), may_create=may_migrate)
        try:
            with self._alone():
                migrate(self.peewee, may_migrate=may_migrate)
                if first is not None:
                    self._atomic(first)
        except peewee.PeeweeException as error:
            kind = DatabaseAwayError if is_away(error) else DatabaseUrlError
            raise kind(start_fault(error)) from None
        finally:
            self.peewee.close()  # this thread's connection; stop may be called from another thread
        if self.is_sqlite:
            self._writer = _GroupWriter(self.peewee, self.faults, self._committed)
            self._writer.start()

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """The block in which no other program migrates this database; one that starts meanwhile waits."""
        self.peewee.connect(reuse_if_open=True)
        if self.is_sqlite:
            yield
            return
        self.peewee.execute_sql("SELECT pg_advisory_lock(%s)", (MIGRATION_LOCK,))
        try:
            yield
        finally:
            # A connection that is broken has released it already.
            with contextlib.suppress(peewee.PeeweeException):
                self.peewee.execute_sql("SELECT pg_advisory_unlock(%s)", (MIGRATION_LOCK,))

    def stop(self) -> None:
        """Completes the accepted transactions, then closes all connections."""
        if self._writer is not None:
            self._writer.stop()
        self._reads.end_unwanted()
        for threads in (self._reads.long, self._readers):
            # Each thread closes its own connection. The barrier stops a thread from taking a second task.
            barrier = threading.Barrier(threads._max_workers)
            for _ in range(barrier.parties):
                threads.submit(self._close_own, barrier)
            threads.shutdown(wait=True)
        self._reads.stop()
        self.peewee.close()

    def _close_own(self, barrier: threading.Barrier) -> None:
        self.peewee.close()
        barrier.wait()

    async def run(self, work: Callable[[], T]) -> T:
        """Runs one write transaction. An exception in ``work`` undoes only this one, and is raised here.

        Raises OVERLOADED if too many wait, or if it has not begun at the end of its caller's patience. Once
        begun it is done as a whole, whether its caller waits or not.
        """
        if self.telemetry.is_on:
            with self.telemetry.timed("dcp_database_transaction_seconds", "write"):
                return await self._noted(work)
        return await self._noted(work)

    async def _noted(self, work: Callable[[], T]) -> T:
        purpose = present()
        value = await self._run(work, purpose)
        if purpose is not None:
            purpose.has_written = True
        return value

    async def _run(self, work: Callable[[], T], purpose: Purpose | None) -> T:
        if purpose is None or purpose.end_s is None:
            return await asyncio.wrap_future(self._submit(work))
        turn = _Turn(work)
        future = asyncio.wrap_future(self._submit(turn))
        timer = asyncio.get_running_loop().call_at(
            purpose.end_s, lambda: future.cancel() if turn.give_up() else None
        )
        try:
            return await future
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if turn.is_given_up and not (task and task.cancelling()):
                raise _overloaded() from None
            raise
        finally:
            timer.cancel()

    def _submit(self, work: Callable[[], T]) -> Future[T]:
        work = carried(work)
        if self._writer is not None:
            return self._writer.submit(work)
        if self._readers._work_queue.qsize() >= WRITE_QUEUE_SIZE:
            raise _overloaded()
        return self._readers.submit(self._transact, work)

    async def read(self, work: Callable[[], T]) -> T:
        """Runs one read transaction: all queries in ``work`` see the same state.

        It is interrupted if the call for which it reads is cancelled, and at the end of the call's reads
        (server.domain.reads): then it raises TIMEOUT.
        """
        if self.telemetry.is_on:
            with self.telemetry.timed("dcp_database_transaction_seconds", "read"):
                return await self._reads.run(work)
        return await self._reads.run(work)

    async def clock_offset(self, now: Callable[[], float]) -> tuple[float, float]:
        """By how many seconds the database's clock is ahead of ``now``, and the most that this may be wrong.

        PostgreSQL only: a SQLite file has no clock.
        """

        def ask() -> tuple[float, float]:
            before = now()
            (text,) = self.peewee.execute_sql("SELECT extract(epoch FROM clock_timestamp())").fetchone()
            after = now()
            return float(text) - (before + after) / 2, (after - before) / 2

        return min([await self.read(ask) for _ in range(CLOCK_TRIES)], key=lambda found: found[1])

    async def probe(self) -> None:
        """Raises DomainError if the database is damaged, or cannot begin to write or cannot read now."""
        if self.faults.is_damaged:
            raise damaged()
        query = "SELECT name FROM schema_migration LIMIT 1"
        if not self.is_sqlite:
            query += " FOR KEY SHARE"  # which a standby or a read-only database refuses
        await self.run(lambda: self.peewee.execute_sql(query))

    def _snapshot(self, work: Callable[[], T], read: Interruptible) -> T:
        # A SQLite transaction is always a snapshot; PostgreSQL needs this isolation level.
        isolation = () if self.is_sqlite else ("REPEATABLE READ",)
        try:
            self.peewee.connect(reuse_if_open=True)
            with read.on(self.peewee.connection()):
                return self._atomic(partial(read.checked, work), *isolation)
        except (peewee.DatabaseError, peewee.InterfaceError) as error:
            if read.is_unwanted:
                raise too_slow() from error
            if (refusal := self._refusal(error, during_commit=False)) is None:
                raise
            raise refusal from error
        finally:
            if read.is_unwanted:
                # An interruption that comes late must not meet the next read of this thread.
                self.peewee.close()

    def _transact(self, work: Callable[[], T]) -> T:
        for tries_left in reversed(range(POSTGRES_TRIES)):
            done: list[T] = []  # its only member is the value of ``work``, as soon as there is one

            def step(done: list[T] = done) -> None:
                done.append(work())

            changes.take()  # those of a try that failed
            counted.undo()
            try:
                self._atomic(step)
            except (peewee.DatabaseError, peewee.InterfaceError) as error:
                if tries_left and is_retryable(error):
                    time.sleep(0.01 * (POSTGRES_TRIES - tries_left))
                    continue
                if (refusal := self._refusal(error, during_commit=bool(done))) is None:
                    raise
                raise refusal from error
            self._committed()
            return done[0]
        raise AssertionError("unreachable")

    def _atomic(self, work: Callable[[], T], *isolation: str) -> T:
        self.peewee.connect(reuse_if_open=True)
        with self.peewee.atomic(*isolation):
            return work()

    def _refusal(self, error: Exception, *, during_commit: bool) -> DomainError | None:
        """What the caller is told; None if the fault is the statement's, not the database's."""
        refusal = self.faults.refusal(error, during_commit=during_commit)
        if refusal is not None:
            self.peewee.close()
        return refusal


class _Turn(Generic[T]):
    """A write that waits for its turn, which its caller can give up until it begins."""

    def __init__(self, work: Callable[[], T]) -> None:
        self._work = work
        self._lock = threading.Lock()
        self._has_begun = False
        self.is_given_up = False

    def __call__(self) -> T:
        with self._lock:
            if self.is_given_up:
                raise _overloaded()
            self._has_begun = True
        return self._work()

    def give_up(self) -> bool:
        """Keeps it from beginning; False if it has begun."""
        with self._lock:
            self.is_given_up = not self._has_begun
        return self.is_given_up


def _overloaded() -> DomainError:
    return DomainError(
        Reason.OVERLOADED,
        "the server has too much to write; nothing was changed, try again",
        retry_after_seconds=1,
    )


class _GroupWriter(threading.Thread):
    """SQLite's only writer: it runs a group of functions in one transaction with one fsync."""

    def __init__(self, database: peewee.Database, faults: Faults, committed: Callable[[], None]) -> None:
        super().__init__(name="db-writer", daemon=True)
        self._committed = committed
        self._database = database
        self._faults = faults
        self._queue: queue.Queue[tuple[Callable[[], Any], Future[Any]] | None] = queue.Queue(WRITE_QUEUE_SIZE)
        self._stopping = False

    @property
    def waiting(self) -> int:
        """How many functions wait."""
        return self._queue.qsize()

    def submit(self, work: Callable[[], T]) -> Future[T]:
        future: Future[T] = Future()
        if self._stopping:
            raise DomainError(Reason.UNAVAILABLE, "the server is stopping; try again in a moment")
        try:
            self._queue.put_nowait((work, future))
        except queue.Full:
            raise _overloaded() from None
        return future

    def stop(self) -> None:
        self._stopping = True
        self._queue.put(None)
        self.join()

    def run(self) -> None:
        self._database.connect(reuse_if_open=True)
        more = True
        while more:
            group, more = self._next_group()
            if group:
                self._commit(group)
        self._database.close()

    def _next_group(self) -> tuple[list[tuple[Callable[[], Any], Future[Any]]], bool]:
        group: list[tuple[Callable[[], Any], Future[Any]]] = []
        item = self._queue.get()
        while item is not None:
            group.append(item)
            if len(group) == GROUP_SIZE:
                return group, True
            try:
                item = self._queue.get_nowait()
            except queue.Empty:
                return group, True
        return group, False

    def _commit(self, group: list[tuple[Callable[[], Any], Future[Any]]]) -> None:
        """Runs a group. Callers get their results only after the commit is durable."""
        outcomes: list[tuple[Future[Any], Any, BaseException | None]] = []
        during_commit = False
        try:
            self._database.execute_sql("BEGIN IMMEDIATE")
            is_new = True
            for work, future in group:
                value, raised = self._alone(work) if is_new else self._savepoint(work)
                is_new = is_new and raised is not None
                outcomes.append((future, value, raised))
            during_commit = True
            self._database.execute_sql("COMMIT")
        except Exception as error:
            changes.take()
            counted.undo()
            self._abandon()
            failure = self._faults.refusal(error, during_commit=during_commit) or self._faults.unavailable(
                error
            )
            failure.__cause__ = error
            outcomes = [(future, None, failure) for _, future in group]
        else:
            self._committed()
        for future, value, raised in outcomes:
            _resolve(future, value, raised)

    def _alone(self, work: Callable[[], Any]) -> tuple[Any, BaseException | None]:
        """Runs a function before which nothing was written: to undo it takes no savepoint."""
        try:
            return work(), None
        except Exception as error:
            if is_of_the_store(error):
                raise  # the whole group fails
            counted.undo()
            self._database.execute_sql("ROLLBACK")
            self._database.execute_sql("BEGIN IMMEDIATE")
            return None, error

    def _savepoint(self, work: Callable[[], Any]) -> tuple[Any, BaseException | None]:
        self._database.execute_sql("SAVEPOINT work")
        counted_before = counted.mark()
        try:
            value = work()
        except Exception as error:
            if is_of_the_store(error):
                raise  # the whole group fails
            counted.undo(counted_before)
            self._database.execute_sql("ROLLBACK TO work")
            self._database.execute_sql("RELEASE work")
            return None, error
        self._database.execute_sql("RELEASE work")
        return value, None

    def _abandon(self) -> None:
        try:
            self._database.execute_sql("ROLLBACK")
        except peewee.PeeweeException:
            self._database.close()
            self._database.connect(reuse_if_open=True)


def _resolve(future: Future[Any], value: Any, raised: BaseException | None) -> None:
    if not future.set_running_or_notify_cancel():
        return  # the caller was cancelled; the write remains
    if raised is not None:
        future.set_exception(raised)
    else:
        future.set_result(value)


def migrate(database: peewee.Database, *, may_migrate: bool = True) -> None:
    """Migrates the schema to this program's version. Raises DatabaseUrlError if that is too old for it.

    A newer release's migration only adds, so that servers of this release go on and may start again beside
    it; one that takes away what this release may use has a name that ends in ``_contract``.
    """
    database.connect(reuse_if_open=True)
    runner = Runner(database, str(MIGRATIONS))
    newer = [migration.name for migration in runner.status() if migration.path is None]
    unknown = [name for name in newer if name.endswith(CONTRACT)]
    if newer and not unknown:
        log.warning("the database is newer than this program, which can run on it: %s", ", ".join(newer))
    if unknown:
        raise DatabaseUrlError(
            f"the database is newer than this program (it has {', '.join(unknown)}); "
            "run the newer program, or restore a backup"
        )
    if not may_migrate:
        if any(not migration.applied for migration in runner.status()):
            raise DatabaseUrlError(
                "the database is empty or older than this program; start dcp-server on it first"
            )
        return
    if not any(migration.applied for migration in runner.status()):
        log.warning(
            "new database: it is empty, so no account, job or balance exists; if this marketplace has had "
            "any, stop the server and correct DCP_DATABASE_URL or mount its disk database=%s",
            _name(database),
        )
    for name in runner.up():
        log.info("applied migration name=%s", name)


def _name(database: peewee.Database) -> str:
    """Which database it is, for the log: of a URL, nothing that could be a password."""
    name = str(database.database)
    return urlsplit(name).path.strip("/") if "://" in name else name


def sqlite_path(url: str) -> Path | None:
    """The file of a SQLite database; None for another database. Raises DatabaseUrlError."""
    return Path(_connect(url).database) if url.startswith("sqlite:") else None


def _connect(url: str) -> peewee.Database:
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise DatabaseUrlError(
            f"is not a URL ({error}); write sqlite:///FILE or postgresql://USER:PASSWORD@HOST/NAME"
        ) from None
    scheme = parts.scheme
    if scheme == "sqlite":
        return _sqlite(url.removeprefix("sqlite:///") if url.startswith("sqlite:///") else "")
    if scheme in {"postgresql", "postgres"}:
        # The driver would take a part of the password for the host, and show it in an error.
        if parts.netloc.count("@") > 1:
            raise DatabaseUrlError("write an @ in the user's name or password as %40")
        from server.store.postgres import connect  # its driver takes long to load

        return connect("postgresql" + url[len(scheme) :])
    raise DatabaseUrlError(
        "write sqlite:///FILE or postgresql://USER:PASSWORD@HOST/NAME "
        f"(the scheme {scheme!r} is not supported)"
    )


def _sqlite(path: str) -> peewee.Database:
    if not path or path == ":memory:":
        raise DatabaseUrlError("write a SQLite URL as sqlite:/// and the path of a file")
    if not Path(path).absolute().parent.is_dir():
        raise DatabaseUrlError(f"the folder of {path} does not exist; create it first")
    return _Sqlite(path, pragmas=SQLITE_PRAGMAS)

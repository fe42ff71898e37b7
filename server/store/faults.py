"""Faults of the database: which they are, and what the answer may say about the outcome.

A transaction that failed before its COMMIT changed nothing. When the answer to a COMMIT is lost, it is not
known whether it took effect, and no answer may say that it did not. A damaged database stays damaged: only
an operator can help.
"""

from __future__ import annotations

import logging
import sqlite3

import peewee

from server.domain.errors import DomainError, Reason, outcome_unknown

log = logging.getLogger(__name__)

# SQLite: the primary result codes. PostgreSQL: data_corrupted and index_corrupted.
_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_DAMAGED_STATES = {"XX001", "XX002"}
# SQLite answers these to a COMMIT that did not happen; after an I/O error a crash may still bring it back.
_REFUSED_COMMITS = {
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_CONSTRAINT,
}
# PostgreSQL's classes of errors with which it rolls back: integrity, invalid transaction state, rollback.
_ROLLED_BACK_CLASSES = ("23", "25", "40")
_COMPLETION_UNKNOWN = "40003"
# PostgreSQL is a standby, or read-only; or it ended a session that was idle in its transaction for too long.
_OF_THE_STORE_STATES = {"25006", "25P03", "25P04"}
# PostgreSQL's serialization_failure and deadlock_detected: the same transaction may succeed when repeated.
_RETRYABLE_STATES = {"40001", "40P01"}


class Faults:
    """Turns faults of one database into the errors that its callers get."""

    def __init__(self) -> None:
        self.is_damaged = False
        """Whether the database was found damaged; it stays so until the server is started again."""

    def refusal(self, error: Exception, *, during_commit: bool) -> DomainError | None:
        """The error for the caller; None if the fault is the statement's."""
        if not is_of_the_store(error):
            return None
        if _is_damaged(error):
            return self._damaged(error)
        if during_commit and not _is_rolled_back(error):
            log.error("the outcome of a transaction is not known", exc_info=error)
            return outcome_unknown()
        return self.unavailable(error)

    def unavailable(self, error: Exception) -> DomainError:
        """The error when nothing was changed."""
        log.error("a transaction failed in the database", exc_info=error)
        return DomainError(
            Reason.STORE_UNAVAILABLE, "the database cannot be used now; nothing was changed, try again"
        )

    def _damaged(self, error: Exception) -> DomainError:
        if not self.is_damaged:
            self.is_damaged = True
            log.critical(
                "THE DATABASE IS DAMAGED: stop the server, check the disk, and restore a backup",
                exc_info=error,
            )
        return damaged()


def damaged() -> DomainError:
    """The error for calls to a damaged database."""
    return DomainError(
        Reason.STORE_DAMAGED,
        "the marketplace's database is damaged; its operator must repair it: do not repeat the request",
    )


def is_of_the_store(error: BaseException) -> bool:
    """Whether a fault is the connection's, the disk's or the file's, rather than one statement's."""
    return (
        isinstance(error, (peewee.OperationalError, peewee.InterfaceError))
        or _sqlstate(error) in _OF_THE_STORE_STATES
        or _is_damaged(error)
    )


def is_retryable(error: BaseException) -> bool:
    """Whether the transaction failed only because of others that ran at the same time."""
    return _sqlstate(error) in _RETRYABLE_STATES


def start_fault(error: Exception) -> str:
    """Why the database cannot be opened, in one line with the remedy."""
    # The driver's text may quote the host, but never a password.
    text = " ".join(str(error).split())
    remedies = {
        sqlite3.SQLITE_FULL: "the disk is full: make room",
        sqlite3.SQLITE_READONLY: "the disk or the file is read-only: make it writable for this user",
        sqlite3.SQLITE_CANTOPEN: "the disk is full or read-only, or this user may not write the folder",
        sqlite3.SQLITE_IOERR: "the disk is full or fails: check it",
        sqlite3.SQLITE_CORRUPT: "the file is damaged: restore a backup",
        sqlite3.SQLITE_NOTADB: "the file is damaged or no database: restore a backup",
        sqlite3.SQLITE_BUSY: "another program uses it: stop that first",
    }
    remedy = remedies.get(_sqlite_code(error))
    return f"the database cannot be opened: {text}" + (f"; {remedy}" if remedy else "")


def is_away(error: BaseException) -> bool:
    """Whether a PostgreSQL cannot be reached, or does not serve yet or any more. SQLite is a file."""
    state = _sqlstate(error)
    is_postgres = not _sqlite_code(error) and isinstance(
        error, (peewee.OperationalError, peewee.InterfaceError)
    )
    return is_postgres and (state is None or state.startswith(("08", "57P")))


def _is_damaged(error: BaseException) -> bool:
    return _sqlite_code(error) in _DAMAGED or _sqlstate(error) in _DAMAGED_STATES


def _is_rolled_back(error: Exception) -> bool:
    state = _sqlstate(error)
    if state is not None:
        return state.startswith(_ROLLED_BACK_CLASSES) and state != _COMPLETION_UNKNOWN
    return _sqlite_code(error) in _REFUSED_COMMITS


def _sqlite_code(error: BaseException) -> int:
    """The primary result code; 0 if the fault is not SQLite's."""
    return int(getattr(_original(error), "sqlite_errorcode", 0)) & 0xFF


def _sqlstate(error: BaseException) -> str | None:
    state: str | None = getattr(_original(error), "sqlstate", None)
    return state


def _original(error: BaseException) -> object:
    """The driver's own error."""
    return getattr(error, "orig", None) or error.__cause__ or error.__context__

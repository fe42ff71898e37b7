"""The error class that the rules, the store and the services raise.

Owns the names of the reasons; must not know gRPC or HTTP codes. protos/dcp/v1/errors.proto lists
the codes beside the same names, and a test keeps the two lists equal.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TypeAlias

Fact: TypeAlias = str | int


class Reason(StrEnum):
    """Stable causes of errors; errors.proto describes each of them."""

    INVALID_FIELD = "INVALID_FIELD"
    UNKNOWN_FIELD = "UNKNOWN_FIELD"
    MALFORMED_JSON = "MALFORMED_JSON"
    BODY_TOO_LARGE = "BODY_TOO_LARGE"
    UNSUPPORTED_MEDIA_TYPE = "UNSUPPORTED_MEDIA_TYPE"
    CONFLICTING_CREDENTIALS = "CONFLICTING_CREDENTIALS"
    MISSING_CREDENTIAL = "MISSING_CREDENTIAL"
    INVALID_CREDENTIAL = "INVALID_CREDENTIAL"
    WRONG_ROLE = "WRONG_ROLE"
    ADMIN_NOT_CONFIGURED = "ADMIN_NOT_CONFIGURED"
    EMAIL_TAKEN = "EMAIL_TAKEN"
    INSUFFICIENT_BALANCE = "INSUFFICIENT_BALANCE"
    PROVIDER_NOT_FOUND = "PROVIDER_NOT_FOUND"
    RENTER_NOT_FOUND = "RENTER_NOT_FOUND"
    JOB_NOT_FOUND = "JOB_NOT_FOUND"
    ROUTE_NOT_FOUND = "ROUTE_NOT_FOUND"
    METHOD_NOT_ALLOWED = "METHOD_NOT_ALLOWED"
    NOT_OWNER = "NOT_OWNER"
    RENTER_SUSPENDED = "RENTER_SUSPENDED"
    PROVIDER_SUSPENDED = "PROVIDER_SUSPENDED"
    PROVIDER_NOT_APPROVED = "PROVIDER_NOT_APPROVED"
    PROVIDER_UNAVAILABLE = "PROVIDER_UNAVAILABLE"
    MODEL_NOT_SERVED = "MODEL_NOT_SERVED"
    JOB_TYPE_NOT_SERVED = "JOB_TYPE_NOT_SERVED"
    IMAGE_NOT_ALLOWED = "IMAGE_NOT_ALLOWED"
    IDEMPOTENCY_CLASH = "IDEMPOTENCY_CLASH"
    JOB_FAILED = "JOB_FAILED"
    JOB_CANCELLED = "JOB_CANCELLED"
    JOB_ALREADY_FINAL = "JOB_ALREADY_FINAL"
    SANDBOX_OFF = "SANDBOX_OFF"
    RATE_LIMITED = "RATE_LIMITED"
    OVERLOADED = "OVERLOADED"
    UNAVAILABLE = "UNAVAILABLE"
    TIMEOUT = "TIMEOUT"
    INTERNAL = "INTERNAL"
    PROTOCOL_VIOLATION = "PROTOCOL_VIOLATION"
    SESSION_SUPERSEDED = "SESSION_SUPERSEDED"
    STALE_LEASE = "STALE_LEASE"
    HOLD_ALREADY_RESOLVED = "HOLD_ALREADY_RESOLVED"
    AMOUNT_TOO_LARGE = "AMOUNT_TOO_LARGE"
    STORE_UNAVAILABLE = "STORE_UNAVAILABLE"
    WITHDRAWAL_NOT_FOUND = "WITHDRAWAL_NOT_FOUND"
    WITHDRAWAL_OPEN = "WITHDRAWAL_OPEN"
    EARNINGS_TOO_LOW = "EARNINGS_TOO_LOW"
    WRONG_STATE = "WRONG_STATE"
    MISSING_SCOPE = "MISSING_SCOPE"
    MAIN_KEY_NEEDED = "MAIN_KEY_NEEDED"
    KEY_NOT_FOUND = "KEY_NOT_FOUND"
    TOO_MANY_KEYS = "TOO_MANY_KEYS"
    RENTER_DELETED = "RENTER_DELETED"
    JOBS_OPEN = "JOBS_OPEN"
    BALANCE_LEFT = "BALANCE_LEFT"
    OUTPUT_ERASED = "OUTPUT_ERASED"
    WRONG_EMAIL = "WRONG_EMAIL"
    PAGE_NOT_FOUND = "PAGE_NOT_FOUND"
    RATE_OUT_OF_BOUNDS = "RATE_OUT_OF_BOUNDS"
    ARTIFACT_NOT_FOUND = "ARTIFACT_NOT_FOUND"
    ARTIFACT_TOO_LARGE = "ARTIFACT_TOO_LARGE"
    ARTIFACT_DAMAGED = "ARTIFACT_DAMAGED"
    ARTIFACT_NAME_TAKEN = "ARTIFACT_NAME_TAKEN"
    RANGE_NOT_SATISFIABLE = "RANGE_NOT_SATISFIABLE"
    HEAD_TOO_LARGE = "HEAD_TOO_LARGE"
    REQUEST_TOO_SLOW = "REQUEST_TOO_SLOW"
    OUTCOME_UNKNOWN = "OUTCOME_UNKNOWN"
    STORE_DAMAGED = "STORE_DAMAGED"
    NO_FILES_EXPECTED = "NO_FILES_EXPECTED"
    RENTER_STORAGE_FULL = "RENTER_STORAGE_FULL"
    PROVIDER_STORAGE_FULL = "PROVIDER_STORAGE_FULL"
    DISPUTE_NOT_FOUND = "DISPUTE_NOT_FOUND"
    NOT_CHARGED = "NOT_CHARGED"
    DISPUTE_TOO_LATE = "DISPUTE_TOO_LATE"
    TOO_MANY_DISPUTES = "TOO_MANY_DISPUTES"
    EMAIL_NOT_VERIFIED = "EMAIL_NOT_VERIFIED"
    WRONG_CODE = "WRONG_CODE"
    MAIL_OFF = "MAIL_OFF"
    BUDGET_REACHED = "BUDGET_REACHED"
    MODEL_NOT_ALLOWED = "MODEL_NOT_ALLOWED"
    PROVIDER_NOT_ALLOWED = "PROVIDER_NOT_ALLOWED"
    MODEL_NOT_FOUND = "MODEL_NOT_FOUND"
    INPUT_NOT_FOUND = "INPUT_NOT_FOUND"
    INPUT_NOT_READY = "INPUT_NOT_READY"
    INPUT_NOT_WAITING = "INPUT_NOT_WAITING"
    INPUT_OFFSET_WRONG = "INPUT_OFFSET_WRONG"
    INPUT_DAMAGED = "INPUT_DAMAGED"
    INPUT_TOO_LARGE = "INPUT_TOO_LARGE"
    INPUT_IN_USE = "INPUT_IN_USE"
    TOO_MANY_INPUTS = "TOO_MANY_INPUTS"
    CROSS_ORIGIN = "CROSS_ORIGIN"
    BATCH_NOT_FOUND = "BATCH_NOT_FOUND"
    BATCH_NOT_OPEN = "BATCH_NOT_OPEN"
    TOO_MANY_BATCHES = "TOO_MANY_BATCHES"
    OPERATOR_ROLE_NEEDED = "OPERATOR_ROLE_NEEDED"
    OPERATOR_NOT_FOUND = "OPERATOR_NOT_FOUND"
    OPERATOR_NAME_TAKEN = "OPERATOR_NAME_TAKEN"
    TOO_MANY_OPERATORS = "TOO_MANY_OPERATORS"
    INVITATION_OVER = "INVITATION_OVER"
    LOG_IN_NEEDED = "LOG_IN_NEEDED"
    PASSKEY_REFUSED = "PASSKEY_REFUSED"
    PASSKEY_NOT_FOUND = "PASSKEY_NOT_FOUND"
    TOO_MANY_PASSKEYS = "TOO_MANY_PASSKEYS"


# With one of these the database failed, not the request.
STORE_FAULTS = frozenset({Reason.STORE_UNAVAILABLE, Reason.OUTCOME_UNKNOWN, Reason.STORE_DAMAGED})


class DomainError(Exception):
    """A request cannot be fulfilled: a stable reason, a sentence for a person, and typed facts.

    Each fact has the name of a field of ``dcp.v1.ErrorFacts``.
    """

    def __init__(self, reason: Reason, message: str, /, **facts: Fact) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.facts = facts


def outcome_unknown() -> DomainError:
    """The error of a call of which nobody can say whether, or how much of it, was done."""
    return DomainError(
        Reason.OUTCOME_UNKNOWN,
        "the database did not answer in the end, so it is not known whether this was done; repeat it "
        "with the same Idempotency-Key, or read what it should have changed before you try again",
    )


class DatabaseUrlError(ValueError):
    """The database cannot be used; the message says why, and what to do."""


class DatabaseAwayError(DatabaseUrlError):
    """The database cannot be reached now; the message says why. It may be there in a moment."""


class CopyError(Exception):
    """A copy of the database cannot be written or restored; the message says why, and what to do."""


def invalid_field(field: str, message: str) -> DomainError:
    """The error for one bad field of a request; ``message`` says what to send instead."""
    return DomainError(Reason.INVALID_FIELD, f"{field}: {message}", field=field)


def no_page(field: str) -> DomainError:
    """The error for a page token that does not belong to this list."""
    return DomainError(
        Reason.PAGE_NOT_FOUND,
        f"{field}: is not a position in this list; send the value that the previous page returned",
        field=field,
    )

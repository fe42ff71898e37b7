"""A class of errors for each reason. Generated from protos/ by scripts/generate; edit the protos instead."""

from dcp_client.errors import APIError, classes_of


class InvalidFieldError(APIError):
    """A field is missing, has the wrong type, is malformed or is out of its limits; `field` names it."""

    REASON = "INVALID_FIELD"


class UnknownFieldError(APIError):
    """The body or the query has a field that this request does not have; `field` names it."""

    REASON = "UNKNOWN_FIELD"


class MalformedJsonError(APIError):
    """The body is not a JSON object in UTF-8."""

    REASON = "MALFORMED_JSON"


class BodyTooLargeError(APIError):
    """The body is larger than the route's limit: 1 MiB, or more where the texts of the request may be
    longer.
    """

    REASON = "BODY_TOO_LARGE"


class ConflictingCredentialsError(APIError):
    """The request carries two different credentials: send only one."""

    REASON = "CONFLICTING_CREDENTIALS"


class MissingCredentialError(APIError):
    """The route needs a credential and the request carries none."""

    REASON = "MISSING_CREDENTIAL"


class InvalidCredentialError(APIError):
    """The credential is unknown, expired or revoked."""

    REASON = "INVALID_CREDENTIAL"


class WrongRoleError(APIError):
    """The credential is valid, but its role may not call this route."""

    REASON = "WRONG_ROLE"


class AdminNotConfiguredError(APIError):
    """The server was started without an admin token, so operators' routes are closed."""

    REASON = "ADMIN_NOT_CONFIGURED"


class EmailTakenError(APIError):
    """Another account of the same kind has this mailbox, however its address is written."""

    REASON = "EMAIL_TAKEN"


class InsufficientBalanceError(APIError):
    """The renter's wallet holds less than the job's hold; `shortfall_halala` is the difference."""

    REASON = "INSUFFICIENT_BALANCE"


class ProviderNotFoundError(APIError):
    """No provider has this id."""

    REASON = "PROVIDER_NOT_FOUND"


class RenterNotFoundError(APIError):
    """No renter has this id."""

    REASON = "RENTER_NOT_FOUND"


class JobNotFoundError(APIError):
    """No job has this id."""

    REASON = "JOB_NOT_FOUND"


class RouteNotFoundError(APIError):
    """The reason ROUTE_NOT_FOUND."""

    REASON = "ROUTE_NOT_FOUND"


class MethodNotAllowedError(APIError):
    """The reason METHOD_NOT_ALLOWED."""

    REASON = "METHOD_NOT_ALLOWED"


class NotOwnerError(APIError):
    """The object belongs to another account."""

    REASON = "NOT_OWNER"


class RenterSuspendedError(APIError):
    """The renter's account is suspended."""

    REASON = "RENTER_SUSPENDED"


class ProviderSuspendedError(APIError):
    """The provider's account is suspended."""

    REASON = "PROVIDER_SUSPENDED"


class ProviderNotApprovedError(APIError):
    """An operator has not yet approved the provider's account."""

    REASON = "PROVIDER_NOT_APPROVED"


class ProviderUnavailableError(APIError):
    """The named provider takes no jobs now because it is not live, paused, draining or suspended;
    `status` is its status.
    """

    REASON = "PROVIDER_UNAVAILABLE"


class ModelNotServedError(APIError):
    """The named provider does not serve this model or, if none is named, no provider that was seen
    lately does; `error` names the closest served names.
    """

    REASON = "MODEL_NOT_SERVED"


class JobTypeNotServedError(APIError):
    """The named provider does not run jobs of this type or, if none is named, no provider that was
    seen lately does.
    """

    REASON = "JOB_TYPE_NOT_SERVED"


class IdempotencyClashError(APIError):
    """The idempotency key was used earlier with a different body: use a new key."""

    REASON = "IDEMPOTENCY_CLASH"


class JobFailedError(APIError):
    """The job failed, so it has no output; `reason` is the cause and `refunded_halala` the refund."""

    REASON = "JOB_FAILED"


class JobCancelledError(APIError):
    """The job was cancelled, so it has no output; `charged_halala` is the charge and `refunded_halala`
    the refund.
    """

    REASON = "JOB_CANCELLED"


class JobAlreadyFinalError(APIError):
    """The job has already ended and cannot be cancelled."""

    REASON = "JOB_ALREADY_FINAL"


class SandboxOffError(APIError):
    """Renters cannot top up their own wallets on this marketplace."""

    REASON = "SANDBOX_OFF"


class RateLimitedError(APIError):
    """Too many requests: wait `retry_after_seconds` before the next one."""

    REASON = "RATE_LIMITED"


class OverloadedError(APIError):
    """The server cannot take more work now: wait `retry_after_seconds` and repeat the request."""

    REASON = "OVERLOADED"


class UnavailableError(APIError):
    """The server cannot be reached or is stopping: repeat the request later."""

    REASON = "UNAVAILABLE"


class ServerTimeoutError(APIError):
    """The server did not respond in time. The request may have taken effect: repeat it with the same
    idempotency key.
    """

    REASON = "TIMEOUT"


class InternalError(APIError):
    """An internal fault of the marketplace. The server logged it under the `request_id` of the
    response.
    """

    REASON = "INTERNAL"


class ProtocolViolationError(APIError):
    """The reason PROTOCOL_VIOLATION."""

    REASON = "PROTOCOL_VIOLATION"


class SessionSupersededError(APIError):
    """The reason SESSION_SUPERSEDED."""

    REASON = "SESSION_SUPERSEDED"


class StaleLeaseError(APIError):
    """The reason STALE_LEASE."""

    REASON = "STALE_LEASE"


class HoldAlreadyResolvedError(APIError):
    """The reason HOLD_ALREADY_RESOLVED."""

    REASON = "HOLD_ALREADY_RESOLVED"


class AmountTooLargeError(APIError):
    """The amount would take the account beyond the largest balance that the ledger can store."""

    REASON = "AMOUNT_TOO_LARGE"


class StoreUnavailableError(APIError):
    """The database cannot be reached now. Nothing changed: repeat the request later."""

    REASON = "STORE_UNAVAILABLE"


class WithdrawalNotFoundError(APIError):
    """No withdrawal request has this id."""

    REASON = "WITHDRAWAL_NOT_FOUND"


class WithdrawalOpenError(APIError):
    """The provider already has an open withdrawal request; it can have one at a time."""

    REASON = "WITHDRAWAL_OPEN"


class EarningsTooLowError(APIError):
    """The provider can withdraw less than the requested amount; `shortfall_halala` is the difference."""

    REASON = "EARNINGS_TOO_LOW"


class WrongStateError(APIError):
    """The object's state does not allow this operation; `status` is that state."""

    REASON = "WRONG_STATE"


class MissingScopeError(APIError):
    """The key is a sub-key without a scope that this route needs; `error` names the scope."""

    REASON = "MISSING_SCOPE"


class MainKeyNeededError(APIError):
    """The key is a sub-key, and this route needs the account's main key."""

    REASON = "MAIN_KEY_NEEDED"


class KeyNotFoundError(APIError):
    """The caller's account has no key with this id."""

    REASON = "KEY_NOT_FOUND"


class TooManyKeysError(APIError):
    """The account has reached its limit of active keys: revoke a key first."""

    REASON = "TOO_MANY_KEYS"


class RenterDeletedError(APIError):
    """The renter's account was deleted: it can no longer be used or changed."""

    REASON = "RENTER_DELETED"


class JobsOpenError(APIError):
    """The account cannot be deleted while it has jobs that have not ended; `open_jobs` is their
    number.
    """

    REASON = "JOBS_OPEN"


class BalanceLeftError(APIError):
    """The account was not deleted, because the wallet's balance differs from `forfeit_balance_halala`;
    `balance_halala` is the balance.
    """

    REASON = "BALANCE_LEFT"


class WrongEmailError(APIError):
    """The e-mail address that confirms the deletion is not the account's address; nothing changed."""

    REASON = "WRONG_EMAIL"


class PageNotFoundError(APIError):
    """There is no such page: use the value that the previous page returned."""

    REASON = "PAGE_NOT_FOUND"


class OutputErasedError(APIError):
    """The job's output or log was removed when its retention time ended, or erased, with its files,
    together with its renter's account.
    """

    REASON = "OUTPUT_ERASED"


class RateOutOfBoundsError(APIError):
    """The provider's own rate is too far from the platform's rate; `error` names the bounds."""

    REASON = "RATE_OUT_OF_BOUNDS"


class ArtifactNotFoundError(APIError):
    """The job left no file of this name, has not ended yet, or the file was deleted when its retention
    time ended.
    """

    REASON = "ARTIFACT_NOT_FOUND"


class ArtifactTooLargeError(APIError):
    """The reason ARTIFACT_TOO_LARGE."""

    REASON = "ARTIFACT_TOO_LARGE"


class ArtifactDamagedError(APIError):
    """The reason ARTIFACT_DAMAGED."""

    REASON = "ARTIFACT_DAMAGED"


class ArtifactNameTakenError(APIError):
    """The reason ARTIFACT_NAME_TAKEN."""

    REASON = "ARTIFACT_NAME_TAKEN"


class RangeNotSatisfiableError(APIError):
    """The range begins beyond the end of the file; `size_bytes` is the size of the file."""

    REASON = "RANGE_NOT_SATISFIABLE"


class HeadTooLargeError(APIError):
    """The request line and the headers are larger than 64 KiB, or there are more than 100 headers. The
    connection was closed.
    """

    REASON = "HEAD_TOO_LARGE"


class RequestTooSlowError(APIError):
    """The request arrived too slowly. It was not carried out, and the connection was closed: send it
    again.
    """

    REASON = "REQUEST_TOO_SLOW"


class UnsupportedMediaTypeError(APIError):
    """The body has an encoding or a format that the gateway does not read: send JSON, plain or with
    `Content-Encoding: gzip`.
    """

    REASON = "UNSUPPORTED_MEDIA_TYPE"


class OutcomeUnknownError(APIError):
    """The database or the server did not answer in the end, so it is not known whether the request
    took effect: repeat it with the same idempotency key, or read what it should have changed first.
    """

    REASON = "OUTCOME_UNKNOWN"


class StoreDamagedError(APIError):
    """The marketplace's database is damaged and its operator has to repair it: repeating the request
    does not help.
    """

    REASON = "STORE_DAMAGED"


class NoFilesExpectedError(APIError):
    """The reason NO_FILES_EXPECTED."""

    REASON = "NO_FILES_EXPECTED"


class RenterStorageFullError(APIError):
    """The marketplace keeps as many bytes of requests and files for the renter as it keeps for one
    account.
    """

    REASON = "RENTER_STORAGE_FULL"


class ProviderStorageFullError(APIError):
    """The reason PROVIDER_STORAGE_FULL."""

    REASON = "PROVIDER_STORAGE_FULL"


class ImageNotAllowedError(APIError):
    """The named provider's owner does not allow the job's image or, if no provider is named, no owner
    of a provider that was seen lately does.
    """

    REASON = "IMAGE_NOT_ALLOWED"


class DisputeNotFoundError(APIError):
    """No dispute has this id."""

    REASON = "DISPUTE_NOT_FOUND"


class NotChargedError(APIError):
    """The job was not charged or has not ended, so there is nothing to dispute; `status` is its state."""

    REASON = "NOT_CHARGED"


class DisputeTooLateError(APIError):
    """The time in which the job's charge could be disputed has ended."""

    REASON = "DISPUTE_TOO_LATE"


class TooManyDisputesError(APIError):
    """The renter has as many open disputes as are allowed: wait for a decision."""

    REASON = "TOO_MANY_DISPUTES"


class EmailNotVerifiedError(APIError):
    """The account's e-mail address is not proven: send the mailed code to `POST /api/accounts/verify-
    email`.
    """

    REASON = "EMAIL_NOT_VERIFIED"


class WrongCodeError(APIError):
    """The code is wrong, was used, or is no longer valid."""

    REASON = "WRONG_CODE"


class MailOffError(APIError):
    """This marketplace sends no mail: ask its operator."""

    REASON = "MAIL_OFF"


class CrossOriginError(APIError):
    """A page of another site sent the request, or one of our own sent no JSON: cookies log in only our
    own pages.
    """

    REASON = "CROSS_ORIGIN"


class BudgetReachedError(APIError):
    """The job would exceed a budget of the key; `budget` names it. Repeating the request helps only
    after `retry_after_seconds`, if that is present.
    """

    REASON = "BUDGET_REACHED"


class ModelNotAllowedError(APIError):
    """The key may use other models only; `error` names them."""

    REASON = "MODEL_NOT_ALLOWED"


class ProviderNotAllowedError(APIError):
    """The key may use other providers only, or the job names none; `error` names them."""

    REASON = "PROVIDER_NOT_ALLOWED"


class ModelNotFoundError(APIError):
    """No provider has reported a model of this name; `error` names the closest one."""

    REASON = "MODEL_NOT_FOUND"


class InputNotFoundError(APIError):
    """The account has no input of this id, or it was deleted when its retention time ended."""

    REASON = "INPUT_NOT_FOUND"


class InputNotReadyError(APIError):
    """Not all bytes of the input have arrived; `received_bytes` have. Send the rest before a job names
    it.
    """

    REASON = "INPUT_NOT_READY"


class InputNotWaitingError(APIError):
    """The input is complete and takes no more bytes."""

    REASON = "INPUT_NOT_WAITING"


class InputOffsetWrongError(APIError):
    """The bytes do not follow those that have arrived: send them from `received_bytes` on."""

    REASON = "INPUT_OFFSET_WRONG"


class InputDamagedError(APIError):
    """The received bytes do not have the announced SHA-256. Nothing was kept: announce and send the
    input again.
    """

    REASON = "INPUT_DAMAGED"


class InputTooLargeError(APIError):
    """The input is larger than the limit for one, or more bytes arrived than were announced."""

    REASON = "INPUT_TOO_LARGE"


class InputInUseError(APIError):
    """A job that has not ended names the input."""

    REASON = "INPUT_IN_USE"


class TooManyInputsError(APIError):
    """The account has as many inputs as are kept for one account."""

    REASON = "TOO_MANY_INPUTS"


class BatchNotFoundError(APIError):
    """The account has no batch with this id."""

    REASON = "BATCH_NOT_FOUND"


class BatchNotOpenError(APIError):
    """The batch is in a state that does not allow this: it has ended, or its lines were read already."""

    REASON = "BATCH_NOT_OPEN"


class TooManyBatchesError(APIError):
    """The reason TOO_MANY_BATCHES."""

    REASON = "TOO_MANY_BATCHES"


class OperatorRoleNeededError(APIError):
    """The operator's role does not allow this; the message names the least role that does."""

    REASON = "OPERATOR_ROLE_NEEDED"


class OperatorNotFoundError(APIError):
    """There is no such operator."""

    REASON = "OPERATOR_NOT_FOUND"


class OperatorNameTakenError(APIError):
    """An operator has or had this name: names are not given twice, since the audit log shows them."""

    REASON = "OPERATOR_NAME_TAKEN"


class TooManyOperatorsError(APIError):
    """The marketplace has as many operators as it may have: remove one first."""

    REASON = "TOO_MANY_OPERATORS"


class InvitationOverError(APIError):
    """The invitation is wrong, was used, or is older than a day: ask an admin for another one."""

    REASON = "INVITATION_OVER"


class LogInNeededError(APIError):
    """Only an operator who logged in with a passkey may do this."""

    REASON = "LOG_IN_NEEDED"


class PasskeyRefusedError(APIError):
    """The passkey does not prove who the operator is: it is unknown here, of another site, or answered
    another request.
    """

    REASON = "PASSKEY_REFUSED"


class PasskeyNotFoundError(APIError):
    """The operator has no such passkey."""

    REASON = "PASSKEY_NOT_FOUND"


class TooManyPasskeysError(APIError):
    """The operator has as many passkeys as an operator may have: remove one first."""

    REASON = "TOO_MANY_PASSKEYS"


class AbortedError(APIError):
    """The reason ABORTED."""

    REASON = "ABORTED"


class AlreadyExistsError(APIError):
    """The reason ALREADY_EXISTS."""

    REASON = "ALREADY_EXISTS"


class FailedPreconditionError(APIError):
    """The reason FAILED_PRECONDITION."""

    REASON = "FAILED_PRECONDITION"


class NotFoundError(APIError):
    """The reason NOT_FOUND."""

    REASON = "NOT_FOUND"


class PermissionDeniedError(APIError):
    """The reason PERMISSION_DENIED."""

    REASON = "PERMISSION_DENIED"


BY_REASON = classes_of(globals())

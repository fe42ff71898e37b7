"""Owns the exit codes of the command, and which error has which. The table is in its help and in the docs."""

from __future__ import annotations

from dcp_client import errors
from dcp_client.cli.texts import mark

OK = 0
UNSUCCESSFUL = 1
USAGE = 2
CREDENTIAL = 3
REFUSED = 4
MONEY = 5
NOT_FOUND = 6
UNREACHABLE = 7
LOCAL_FILE = 8
INTERRUPTED = 130

MEANINGS = (
    (OK, mark("done")),
    (
        UNSUCCESSFUL,
        mark("a job or a line failed or was cancelled, or the proof found a fault"),
    ),
    (USAGE, mark("the command line or a setting is wrong")),
    (CREDENTIAL, mark("no key, or the key may not do this")),
    (REFUSED, mark("the market refused the request")),
    (MONEY, mark("the wallet or a budget does not suffice")),
    (NOT_FOUND, mark("there is no such job, file or other object")),
    (UNREACHABLE, mark("the market cannot be reached or has a fault: try again")),
    (LOCAL_FILE, mark("a local file cannot be read, written or sent, or a download is damaged")),
    (INTERRUPTED, mark("interrupted by Ctrl-C")),
)

_BY_STATUS = {401: CREDENTIAL, 402: MONEY, 403: CREDENTIAL, 404: NOT_FOUND}


def code_of(error: Exception) -> int:
    """The exit code of an error."""
    if isinstance(error, errors.APIError):
        if error.reason in ("JOB_FAILED", "JOB_CANCELLED"):
            return UNSUCCESSFUL
        if error.status == 429 or error.status >= 500:
            return UNREACHABLE
        return _BY_STATUS.get(error.status, REFUSED)
    if isinstance(error, errors.SettingError):
        return USAGE
    if isinstance(error, (OSError, errors.DigestError, errors.UnsafeNameError)):
        return LOCAL_FILE
    return UNREACHABLE

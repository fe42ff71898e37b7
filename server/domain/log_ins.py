"""How long browsers stay logged in, and how long a mailed code logs one in."""

from __future__ import annotations

from server.domain.mailboxes import KEPT_MS as KEPT_MS
from server.domain.mailboxes import MAX_GUESSES as MAX_GUESSES
from server.domain.statements import DAY_MS

NAME = "browser"
"""The name of each log-in among keys, as usage by key shows it."""
LOG_IN_MS = 7 * DAY_MS
"""A log-in ends after this, also while it is used. The cookie's age in log_ins.proto is the same."""
ASKED_MS = 15 * 60 * 1000
"""A mailed code logs in for this long. The cookie's age in log_ins.proto is the same."""
MAX_LOG_INS = 20
"""At most this many browsers of one account are logged in; one more ends the oldest."""

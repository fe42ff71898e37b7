"""What the marketplace mails to people, and when it tries again. Pure; the time is an argument.

A mail has no secret but a code that works once and for a limited time, and no text that others wrote.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

MINUTE_MS = 60_000
HOUR_MS = 60 * MINUTE_MS
# How long a mailed proof of the mailbox works.
PROOF_MS = 24 * HOUR_MS
# How long a code for a lost key works, from when it begins to.
RECOVERY_MS = 7 * 24 * HOUR_MS
# The least time between two mails of one kind to one account.
LEAST_MS = HOUR_MS
# A mail that could not be sent for this long is dropped: its code has little time left.
GIVE_UP_MS = 12 * HOUR_MS
FIRST_RETRY_MS = 15_000
# The longest time that one attempt takes.
SEND_SECONDS = 20.0


class MailError(Exception):
    """A mail could not be sent; ``is_final``: and never can."""

    def __init__(self, message: str, *, is_final: bool) -> None:
        super().__init__(message)
        self.is_final = is_final


@dataclass(frozen=True, slots=True)
class MailTerms:
    """Where mail goes out; without ``smtp_url``, no mail is sent and no mailbox must be proven."""

    smtp_url: str = ""
    sender: str = ""
    market_url: str = ""
    """Where people reach the gateway, without a slash at the end."""
    recovery_hours: int = 24
    """How long a new key for a lost one must be waited for, so that its owner can stop it."""

    @property
    def is_on(self) -> bool:
        """Whether mail is sent."""
        return bool(self.smtp_url)


@dataclass(frozen=True, slots=True)
class Text:
    """A mail's subject and body."""

    subject: str
    body: str


def retry_ms(created_ms: int, attempts: int, now_ms: int) -> int | None:
    """When to try again after so many failed attempts; None: not at all."""
    next_ms = now_ms + min(HOUR_MS, FIRST_RETRY_MS * 2 ** min(attempts, 10))
    return next_ms if next_ms < created_ms + GIVE_UP_MS else None


def proof(role: str, code: str, market_url: str) -> Text:
    """Asks the owner of a mailbox whether an account is theirs."""
    return Text(
        "Confirm your e-mail address",
        f"Somebody registered a {role} account with this e-mail address at {market_url}.\n\n"
        "If it was you, confirm it within 24 hours:\n\n"
        f'curl {market_url}/api/mailbox/prove -d \'{{"code": "{code}"}}\'\n\n'
        "If it was not you, do nothing: without this code the account can neither spend nor withdraw.\n",
    )


def taken(role: str, market_url: str) -> Text:
    """Tells the owner of an account that somebody tried to register their mailbox again."""
    return Text(
        "You have an account already",
        f"Somebody tried to register another {role} account with this e-mail address at {market_url}.\n\n"
        "You have one already, and it stays as it is. If you lost its key, ask for a new one:\n\n"
        f'curl {market_url}/api/lost-key -d \'{{"role": "{role}", "email": "YOUR ADDRESS"}}\'\n\n'
        "If it was not you, do nothing.\n",
    )


def recovery(role: str, code: str, from_ms: int, market_url: str) -> Text:
    """The code for a new main key, and how to stop it."""
    at = datetime.fromtimestamp(from_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M UTC")
    return Text(
        "A new key for your account",
        f"A new main key was requested for your {role} account at {market_url}.\n\n"
        f"From {at} on, and for seven days, this gives you the key and ends the old one:\n\n"
        f'curl {market_url}/api/lost-key/redeem -d \'{{"code": "{code}"}}\'\n\n'
        "If it was not you, stop it before that with your present key:\n\n"
        f"curl -X POST {market_url}/api/lost-key/cancel -H 'Authorization: Bearer YOUR-KEY'\n",
    )


def recovered(role: str, market_url: str) -> Text:
    """Tells the owner that the main key was replaced."""
    return Text(
        "Your key was replaced",
        f"The main key of your {role} account at {market_url} was replaced. The old one no longer works.\n\n"
        "If it was not you, write to the marketplace's operator at once.\n",
    )

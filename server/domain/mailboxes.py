"""Which e-mail addresses are one mailbox, so that one person has one account of each role; and codes by mail.

The standard library only: what is an address at all, server.rpc.validate decides.
"""

from __future__ import annotations

import base64
import hashlib
import unicodedata
from enum import StrEnum

from server.domain.errors import DomainError, Reason
from server.domain.statements import DAY_MS

CODE_MS = DAY_MS
"""How long a mailed code can be used."""
MAX_GUESSES = 10
"""After this many wrong codes, the codes of an account are void."""
MAX_CODES_A_DAY = 5
CODE_BYTES = 16
COLLECT_MS = 7 * DAY_MS
"""How long a new key can be collected, after the delay."""
KEPT_MS = 30 * DAY_MS
"""How long a code is kept after its end, to show what happened."""


class Purpose(StrEnum):
    """What a code is for."""

    VERIFY_EMAIL = "verify_email"
    NEW_KEY = "new_key"


_ONE_DOMAIN = {"googlemail.com": "gmail.com"}
"""Domains that are another name for a domain with the same mailboxes."""
_IGNORE_DOTS = frozenset({"gmail.com", "proton.me", "protonmail.com", "pm.me"})
"""Domains whose mailboxes are the same with and without dots before the @."""


def mailbox(address: str) -> str:
    """The mailbox of an address whose domain is in Unicode, as IDNA maps it.

    Letter case and what follows a ``+`` name no other mailbox, and at some domains dots do not either.
    """
    local, _, domain = unicodedata.normalize("NFC", address).casefold().rpartition("@")
    domain = _ONE_DOMAIN.get(domain, domain)
    local = local[:1] + local[1:].partition("+")[0]
    if domain in _IGNORE_DOTS:
        local = local.replace(".", "")
    return f"{local}@{domain}"


def barred(box: str) -> str:
    """What a suspended account that was deleted leaves of its mailbox: no address."""
    return f"barred {hashlib.sha256(box.encode()).hexdigest()}"


def written_code(random: bytes) -> str:
    """A code as it is mailed: lower-case letters and digits, which are easy to copy."""
    return base64.b32encode(random).decode().rstrip("=").lower()


def code_digest(code: str) -> bytes:
    """What is stored of a code, however a person copied it: blanks and capitals do not count."""
    return hashlib.sha256("".join(code.split()).lower().encode()).digest()


def refuse_unproven(needs_proof: bool, verified_ms: int | None) -> None:
    """Raises EMAIL_NOT_VERIFIED for an account whose address must be proven and is not."""
    if needs_proof and verified_ms is None:
        raise DomainError(
            Reason.EMAIL_NOT_VERIFIED,
            "this account's e-mail address is not proven: send the mailed code to "
            "POST /api/accounts/verify-email, or ask for another with POST /api/accounts/verify-email/resend",
        )


def mail_off(remedy: str) -> DomainError:
    """The error of what needs mail, on a marketplace that sends none."""
    return DomainError(Reason.MAIL_OFF, f"this marketplace sends no mail; {remedy}")


def wrong_code() -> DomainError:
    """The error for a code that does nothing, without the reason: whoever guesses learns nothing."""
    return DomainError(
        Reason.WRONG_CODE,
        "code: is wrong, was used, or is no longer valid; ask for another one",
        field="code",
    )

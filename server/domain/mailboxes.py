"""Which e-mail addresses are one mailbox, so that one person has one account of each role.

The standard library only: what is an address at all, server.rpc.validate decides.
"""

from __future__ import annotations

import hashlib
import unicodedata

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

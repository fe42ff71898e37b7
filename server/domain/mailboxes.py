"""Which mailbox an address belongs to: many spellings of one are one account. Pure."""

from __future__ import annotations

# Providers of mail that ignore dots, and the names under which each takes mail.
_IGNORE_DOTS = frozenset({"gmail.com"})
_SAME = {"googlemail.com": "gmail.com"}


def mailbox(address: str) -> str:
    """The mailbox of a valid address, in the form by which accounts are compared.

    Letter case is ignored, and so is what follows a plus sign, by which most providers of mail sort it. Dots
    are ignored where their provider does.
    """
    local, _, domain = address.casefold().rpartition("@")
    domain = _SAME.get(domain, domain)
    if not local.startswith('"'):
        local = local.partition("+")[0] or local
        if domain in _IGNORE_DOTS:
            local = local.replace(".", "") or local
    return f"{local}@{domain}"

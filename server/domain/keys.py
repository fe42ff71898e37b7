"""The scopes of keys, and how many keys an account may have."""

from __future__ import annotations

from enum import StrEnum


class Scope(StrEnum):
    """A right of a renter's sub-key; the protos say which scope each method needs."""

    INFERENCE = "inference"
    BILLING = "billing"
    READ = "read"


MAX_SUB_KEYS = 100
"""At most this many valid sub-keys of one renter."""
MAX_MAIN_KEYS = 10
"""At most this many valid main keys of one account: the newest, and older ones in their grace period."""

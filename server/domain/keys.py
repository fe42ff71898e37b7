"""What keys may be used for, and how many an account may have."""

from __future__ import annotations

from enum import StrEnum


class Scope(StrEnum):
    """What a renter's sub-key may be used for; which method needs which is in the protos."""

    INFERENCE = "inference"
    BILLING = "billing"
    READ = "read"


MAX_SUB_KEYS = 100
"""Sub-keys of one renter that work."""
MAX_MAIN_KEYS = 10
"""Main keys of one account that work: the newest, and those in their grace."""

"""What a daemon reported and the server did not know, such as after a restore of an older database.

Each is discarded without anybody's help; the record tells an operator what was lost.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

MAX_OF_PROVIDER = 100
MAX_OF_UNKNOWN_KEYS = 1000
MAX_PENDING = 1000
KEEP_DAYS = 30
MAX_DETAIL = 300


class DiscardKind(StrEnum):
    LEASE = "lease"
    """A lease that is not on record: the run is stopped and its result is not used."""
    RUN = "run"
    """A run of a known lease that does not continue what is stored: its attempt is lost."""
    KEY = "key"
    """A provider's key of no account: the daemon tries again for a day."""


@dataclass(frozen=True, slots=True)
class Unknown:
    """What was not known. Equal ones share a record, which counts them."""

    kind: DiscardKind
    provider_id: int = 0
    """0: of an unknown key."""
    job_id: str = ""
    lease_epoch: int = 0
    key_last4: str = ""
    address: str = ""
    """From where an unknown key came."""


def limit_of(provider_id: int) -> int:
    """The number of records that are kept for a provider, or, for 0, of unknown keys."""
    return MAX_OF_PROVIDER if provider_id else MAX_OF_UNKNOWN_KEYS

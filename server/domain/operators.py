"""The roles of operators, and how many and how long their credentials may be."""

from __future__ import annotations

import unicodedata
from enum import StrEnum

from server.domain.errors import DomainError, Reason, invalid_field
from server.domain.mailboxes import KEPT_MS as KEPT_MS
from server.domain.statements import DAY_MS

INVITATION_MS = DAY_MS
"""An invitation can be used for this long."""
LOG_IN_MS = 12 * 3600 * 1000
"""A log-in ends after this, also while it is used. The cookie's age in operators.proto is the same."""
CHALLENGE_MS = 5 * 60 * 1000
"""A passkey answers within this time. The cookie's age in operators.proto is the same."""
MAX_OPERATORS = 200
"""At most this many operators that were not removed."""
MAX_LOG_INS = 10
"""At most this many browsers of one operator are logged in; one more ends the oldest."""
MAX_KEYS = 20
"""At most this many valid keys of one operator."""
MAX_PASSKEYS = 10
"""At most this many passkeys of one operator."""
TOKEN_NAME = "admin"  # noqa: S105  (the name under which it acts)
"""Under this name the audit log records what the admin token does."""
_NOT_FOR_PEOPLE = frozenset({TOKEN_NAME, "owner", "server"})


class OperatorRole(StrEnum):
    """What an operator may do, from the least role; the protos say which one each method needs."""

    SUPPORT = "support"
    FINANCE = "finance"
    ADMIN = "admin"

    def allows(self, needed: OperatorRole) -> bool:
        """Whether whoever has this role may do what needs the other."""
        return _ORDER[self] >= _ORDER[needed]


_ORDER = {role: place for place, role in enumerate(OperatorRole)}


def name_key(name: str) -> str:
    """What two names that a person reads as one have in common. Raises INVALID_FIELD for a reserved name."""
    key = " ".join(unicodedata.normalize("NFKC", name).casefold().split())
    if key in _NOT_FOR_PEOPLE:
        raise invalid_field(
            "name", f"{key!r} is in the audit log for what no operator did; choose the name of a person"
        )
    return key


def refuse_role(role: OperatorRole, needed: OperatorRole) -> None:
    """Raises OPERATOR_ROLE_NEEDED if the role does not allow what needs another."""
    if not role.allows(needed):
        raise DomainError(
            Reason.OPERATOR_ROLE_NEEDED,
            f"this needs an operator with the role {_or_more(needed)}; yours is {role}",
        )


def _or_more(needed: OperatorRole) -> str:
    return needed.value if needed is OperatorRole.ADMIN else f"{needed} or more"

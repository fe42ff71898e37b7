"""Providers: the one rule of liveness and the status that everybody sees (contract, 5)."""

from __future__ import annotations

from enum import StrEnum

from server.domain.leases import LIVE_SECONDS


class AccountState(StrEnum):
    """What an operator or the owner decided about an account."""

    ACTIVE = "active"
    PAUSED = "paused"
    PENDING_APPROVAL = "pending_approval"
    SUSPENDED = "suspended"
    # Of renters alone, by their own wish, and for good: no decision leads out of it.
    DELETED = "deleted"


class AccountDecision(StrEnum):
    """What an operator, or for a pause the owner, can do to an account."""

    SUSPEND = "suspend"
    UNSUSPEND = "unsuspend"
    APPROVE = "approve"
    PAUSE = "pause"
    RESUME = "resume"


# A pause may be asked for twice: its owner wants it so, whatever it was. An operator acts on what it saw.
_NEXT = {
    (AccountState.ACTIVE, AccountDecision.SUSPEND): AccountState.SUSPENDED,
    (AccountState.PAUSED, AccountDecision.SUSPEND): AccountState.SUSPENDED,
    (AccountState.PENDING_APPROVAL, AccountDecision.SUSPEND): AccountState.SUSPENDED,
    (AccountState.SUSPENDED, AccountDecision.UNSUSPEND): AccountState.ACTIVE,
    (AccountState.PENDING_APPROVAL, AccountDecision.APPROVE): AccountState.ACTIVE,
    (AccountState.ACTIVE, AccountDecision.PAUSE): AccountState.PAUSED,
    (AccountState.PAUSED, AccountDecision.PAUSE): AccountState.PAUSED,
    (AccountState.PAUSED, AccountDecision.RESUME): AccountState.ACTIVE,
    (AccountState.ACTIVE, AccountDecision.RESUME): AccountState.ACTIVE,
}


def next_state(state: AccountState, decision: AccountDecision) -> AccountState | None:
    """What the decision makes of an account; None where it is not allowed."""
    return _NEXT.get((state, decision))


class ProviderStatus(StrEnum):
    ONLINE = "online"
    OFFLINE = "offline"
    PAUSED = "paused"
    DRAINING = "draining"
    PENDING_APPROVAL = "pending_approval"
    SUSPENDED = "suspended"


def is_live(last_heartbeat_ms: int | None, now_ms: int) -> bool:
    """The last heartbeat, by stream or POST, is younger than 30 s."""
    return last_heartbeat_ms is not None and now_ms - last_heartbeat_ms < LIVE_SECONDS * 1000


def status(account: AccountState, live: bool, draining: bool) -> ProviderStatus:
    """What was decided comes before draining, draining before liveness."""
    if account is not AccountState.ACTIVE:
        return ProviderStatus(account.value)
    if draining:
        return ProviderStatus.DRAINING
    return ProviderStatus.ONLINE if live else ProviderStatus.OFFLINE

"""Providers: the only definition of liveness, and the public status (contract, 5)."""

from __future__ import annotations

from enum import StrEnum

from server.domain.leases import LIVE_SECONDS


class AccountState(StrEnum):
    """The state of an account, as an operator or its owner decided it."""

    ACTIVE = "active"
    PAUSED = "paused"
    PENDING_APPROVAL = "pending_approval"
    SUSPENDED = "suspended"
    # Only renters, at their own request, and final: no decision leads out of it.
    DELETED = "deleted"


class AccountDecision(StrEnum):
    """What an operator can do to an account, and its owner for PAUSE and RESUME."""

    SUSPEND = "suspend"
    UNSUSPEND = "unsuspend"
    APPROVE = "approve"
    PAUSE = "pause"
    RESUME = "resume"


# An owner may pause or resume twice: the request names the wanted state. An operator's decision is allowed
# only in the state that it is meant for.
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
    """The state that the decision leads to; None if it is not allowed."""
    return _NEXT.get((state, decision))


class ProviderStatus(StrEnum):
    ONLINE = "online"
    OFFLINE = "offline"
    PAUSED = "paused"
    DRAINING = "draining"
    PENDING_APPROVAL = "pending_approval"
    SUSPENDED = "suspended"


def is_live(last_heartbeat_ms: int | None, now_ms: int) -> bool:
    """Whether the last heartbeat, by stream or POST, is younger than 30 s."""
    return last_heartbeat_ms is not None and now_ms - last_heartbeat_ms < LIVE_SECONDS * 1000


def status(account: AccountState, live: bool, draining: bool) -> ProviderStatus:
    """The public status: the account's state comes before draining, and draining before liveness."""
    if account is not AccountState.ACTIVE:
        return ProviderStatus(account.value)
    if draining:
        return ProviderStatus.DRAINING
    return ProviderStatus.ONLINE if live else ProviderStatus.OFFLINE

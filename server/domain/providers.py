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

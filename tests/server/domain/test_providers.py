"""Liveness and status of providers, as tables."""

from __future__ import annotations

import itertools

import pytest

from server.domain.providers import AccountDecision, AccountState, ProviderStatus, is_live, next_state, status

NOW = 1_800_000_000_000


@pytest.mark.parametrize(
    ("last_heartbeat_ms", "live"),
    [(None, False), (NOW, True), (NOW - 29_999, True), (NOW - 30_000, False), (0, False), (NOW + 5, True)],
)
def test_provider_is_live_for_thirty_seconds_after_a_heartbeat(
    last_heartbeat_ms: int | None, live: bool
) -> None:
    assert is_live(last_heartbeat_ms, NOW) is live


STATUS = {
    (AccountState.ACTIVE, True, False): ProviderStatus.ONLINE,
    (AccountState.ACTIVE, False, False): ProviderStatus.OFFLINE,
    (AccountState.ACTIVE, True, True): ProviderStatus.DRAINING,
    (AccountState.ACTIVE, False, True): ProviderStatus.DRAINING,
    **{
        (account, live, draining): ProviderStatus(account.value)
        for account in (AccountState.PAUSED, AccountState.PENDING_APPROVAL, AccountState.SUSPENDED)
        for live, draining in itertools.product([True, False], repeat=2)
    },
}


@pytest.mark.parametrize(
    ("account", "live", "draining"),
    # Only renters delete their accounts.
    list(
        itertools.product(
            [s for s in AccountState if s is not AccountState.DELETED], [True, False], [True, False]
        )
    ),
)
def test_account_state_takes_precedence_over_draining_and_draining_over_liveness(
    account: AccountState, live: bool, draining: bool
) -> None:
    assert status(account, live, draining) is STATUS[account, live, draining]


def test_no_decision_leads_into_or_out_of_a_deleted_account() -> None:
    for decision in AccountDecision:
        assert next_state(AccountState.DELETED, decision) is None
        assert AccountState.DELETED not in {next_state(state, decision) for state in AccountState}

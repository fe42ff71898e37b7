"""Accounts of renters and providers: an address belongs to at most one of each."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest

from server.domain.errors import DomainError, Reason
from server.domain.providers import AccountState
from server.store import providers, renters
from server.store.database import Database
from tests.server.store.rows import NOW_MS, Rows


def new_provider(email: str) -> int:
    return providers.create(
        name="P", email=email, mailbox=email.lower(), gpu_model="", os="", phone="", now_ms=NOW_MS
    )


def new_renter(email: str) -> int:
    return renters.create(
        name="R", email=email, mailbox=email.lower(), organization="", phone="", now_ms=NOW_MS
    )


@pytest.mark.parametrize("create", [new_provider, new_renter])
async def test_address_can_be_registered_once_ignoring_case(
    database: Database, create: Callable[[str], int]
) -> None:
    await database.run(lambda: create("A@example.com"))
    with pytest.raises(DomainError) as caught:
        await database.run(lambda: create("a@EXAMPLE.com"))
    assert caught.value.reason is Reason.EMAIL_TAKEN
    assert caught.value.facts == {"field": "email"}


async def test_provider_and_renter_may_share_an_address(database: Database) -> None:
    await database.run(lambda: new_provider("a@example.com"))
    await database.run(lambda: new_renter("a@example.com"))


async def test_outdated_reading_of_an_account_cannot_change_its_state(database: Database, rows: Rows) -> None:
    """Two callers read the same state; the second write changes nothing."""
    provider_id, renter_id = await rows.provider(), await rows.renter()
    for move, account_id in (
        (providers.set_state, provider_id),
        (renters.set_state, renter_id),
    ):
        work = partial(move, account_id, AccountState.ACTIVE, AccountState.SUSPENDED)
        assert [await database.run(work), await database.run(work)] == [True, False]

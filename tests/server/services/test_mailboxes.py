"""One mailbox has one account of each role, through the gateway, on both databases."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.whole_stack import ADMIN, Stack, running_stack

ROLES = ("provider", "renter")
SPELLINGS = ("SARA@GMAIL.COM", "sara+again@gmail.com", "s.a.r.a@gmail.com", "S.ara+2@googlemail.com")


@pytest.fixture
async def stack(database_url: str, tmp_path: Path) -> AsyncIterator[Stack]:
    """Server and gateway on each kind of database."""
    async with running_stack(tmp_path, None, True, DCP_DATABASE_URL=database_url) as stack:
        yield stack


async def register(stack: Stack, role: str, email: str) -> tuple[int, dict[str, Any]]:
    response = await stack.http.post(f"/api/{role}s/register", json={"name": "N", "email": email})
    return response.status_code, response.json()


@pytest.mark.parametrize("role", ROLES)
async def test_mailbox_is_registered_once_however_it_is_written(stack: Stack, role: str) -> None:
    assert (await register(stack, role, "sara@gmail.com"))[0] == 201
    for spelling in SPELLINGS:
        status, answer = await register(stack, role, spelling)
        assert (status, answer["code"], answer["field"]) == (409, "EMAIL_TAKEN", "email")
    assert (await register(stack, role, "sarah@gmail.com"))[0] == 201


@pytest.mark.parametrize("role", ROLES)
async def test_simultaneous_registrations_of_a_mailbox_give_one_account(stack: Stack, role: str) -> None:
    answers = await asyncio.gather(*(register(stack, role, spelling) for spelling in SPELLINGS))
    assert sorted(status for status, _ in answers) == [201, 409, 409, 409]


async def test_provider_and_renter_may_share_a_mailbox(stack: Stack) -> None:
    assert (await register(stack, "provider", "sara@gmail.com"))[0] == 201
    assert (await register(stack, "renter", "sara@gmail.com"))[0] == 201


@pytest.mark.parametrize("role", ROLES)
async def test_suspended_owner_does_not_come_back_by_another_spelling(stack: Stack, role: str) -> None:
    account_id, _ = await stack.register(role, "sara@gmail.com")
    await stack.post(f"/api/admin/{role}s/{account_id}/suspend", {"reason": "fraud"}, **ADMIN)
    for spelling in SPELLINGS:
        status, answer = await register(stack, role, spelling)
        assert (status, answer["code"]) == (409, "EMAIL_TAKEN")


async def test_suspended_renter_does_not_come_back_by_deleting_its_account(stack: Stack) -> None:
    renter_id, key = await stack.register("renter", "sara@gmail.com")
    await stack.post(f"/api/admin/renters/{renter_id}/suspend", {"reason": "fraud"}, **ADMIN)
    await stack.post("/api/renters/delete", {"email": "Sara@gmail.com"}, **{"x-renter-key": key})
    for spelling in ("sara@gmail.com", *SPELLINGS):
        assert (await register(stack, "renter", spelling))[0] == 409


async def test_deleted_renter_may_register_again(stack: Stack) -> None:
    _, key = await stack.register("renter", "sara@gmail.com")
    await stack.post("/api/renters/delete", {"email": "sara@gmail.com"}, **{"x-renter-key": key})
    assert (await register(stack, "renter", "s.ara@gmail.com"))[0] == 201

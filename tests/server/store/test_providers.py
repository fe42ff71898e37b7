"""Accounts: one per address, sessions that count, heartbeats that never go back."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest

from server.domain.errors import DomainError, Reason
from server.domain.jobs import JobType
from server.domain.placement import Model
from server.domain.providers import AccountState
from server.store import accounts
from server.store.accounts import Beat, KeyOwner, ProviderRow
from server.store.database import Database
from server.store.models import Provider
from tests.server.store.rows import NOW_MS, Rows


def new_provider(email: str) -> int:
    return accounts.create_provider(
        name="P", email=email, email_key=email.lower(), gpu_model="", os="", phone="", now_ms=NOW_MS
    )


def new_renter(email: str) -> int:
    return accounts.create_renter(
        name="R", email=email, email_key=email.lower(), organization="", phone="", now_ms=NOW_MS
    )


@pytest.mark.parametrize("create", [new_provider, new_renter])
async def test_address_is_taken_once_without_case(database: Database, create: Callable[[str], int]) -> None:
    await database.run(lambda: create("A@example.com"))
    with pytest.raises(DomainError) as caught:
        await database.run(lambda: create("a@EXAMPLE.com"))
    assert caught.value.reason is Reason.EMAIL_TAKEN
    assert caught.value.facts == {"field": "email"}


async def test_provider_and_renter_may_share_an_address(database: Database) -> None:
    await database.run(lambda: new_provider("a@example.com"))
    await database.run(lambda: new_renter("a@example.com"))


async def test_key_is_found_by_its_digest_alone(database: Database) -> None:
    await database.run(lambda: accounts.add_key("renter", 7, b"d" * 32, "last", NOW_MS))
    assert await database.read(lambda: accounts.find_key(b"d" * 32)) == KeyOwner("renter", 7, 1)
    assert await database.read(lambda: accounts.find_key(b"e" * 32)) is None


async def provider_row(database: Database, provider_id: int) -> ProviderRow:
    row = await database.read(lambda: accounts.provider(provider_id))
    assert row is not None
    return row


async def test_every_session_has_the_next_epoch(database: Database, rows: Rows) -> None:
    provider_id = await rows.provider()
    epochs = [
        await database.run(lambda: accounts.open_session(provider_id, [JobType.TRAINING], NOW_MS))
        for _ in range(3)
    ]
    assert epochs == [2, 3, 4]
    row = await provider_row(database, provider_id)
    assert (row.connected, row.job_types) == (True, frozenset({JobType.TRAINING}))


async def test_end_of_an_older_session_changes_nothing(database: Database, rows: Rows) -> None:
    provider_id = await rows.provider()
    await database.run(lambda: accounts.open_session(provider_id, JobType, NOW_MS))
    await database.run(lambda: accounts.close_session(provider_id, 1))
    await database.run(lambda: accounts.set_draining(provider_id, 1))
    row = await provider_row(database, provider_id)
    assert (row.connected, row.draining) == (True, False)
    await database.run(lambda: accounts.set_draining(provider_id, 2))
    assert (await provider_row(database, provider_id)).draining
    await database.run(lambda: accounts.close_session(provider_id, 2))
    row = await provider_row(database, provider_id)
    assert (row.connected, row.draining) == (False, False)


async def test_older_heartbeat_changes_nothing(database: Database, rows: Rows) -> None:
    provider_id = await rows.provider()
    await database.run(lambda: accounts.write_beats([Beat(provider_id, 200, {"gpu_name": "new"})]))
    await database.run(lambda: accounts.write_beats([Beat(provider_id, 100, {"gpu_name": "old"})]))
    row = await provider_row(database, provider_id)
    assert (row.last_heartbeat_ms, row.gpu_model) == (200, "new")


async def test_heartbeat_without_a_status_keeps_the_last_one(database: Database, rows: Rows) -> None:
    provider_id = await rows.provider()
    status = {"gpu_name": "NVIDIA RTX 4090", "gpu_vram_mib": 24576}
    await database.run(lambda: accounts.write_beats([Beat(provider_id, 100, status)]))
    await database.run(lambda: accounts.write_beats([Beat(provider_id, 200, None)]))
    row = await provider_row(database, provider_id)
    assert (row.last_heartbeat_ms, row.gpu_status, row.gpu_vram_mib) == (200, status, 24576)


async def test_models_are_replaced_as_a_whole(database: Database, rows: Rows) -> None:
    provider_id = await rows.provider()
    assert not (await provider_row(database, provider_id)).models_reported
    histories: list[list[Model]] = [[Model("a"), Model("b"), Model("b", 7)], [Model("c", 10, True)], []]
    for models in histories:
        await database.run(partial(accounts.replace_models, provider_id, models))
    assert (await provider_row(database, provider_id)).models_reported
    assert await database.read(lambda: accounts.models_of([provider_id])) == {provider_id: []}


@pytest.mark.parametrize(
    ("filters", "found"),
    [
        ({}, [1, 2]),
        ({"gpu_model": "rtx"}, [1]),
        ({"gpu_model": "%"}, []),
        ({"gpu_model": "_"}, []),
        ({"min_vram_mib": 24577}, [2]),
        ({"model": "a"}, [1]),
        ({"model": "A"}, []),
        ({"offset": 1}, [2]),
        ({"limit": 1}, [1]),
    ],
)
async def test_market_list_filters(
    database: Database, rows: Rows, filters: dict[str, int | str], found: list[int]
) -> None:
    ids = [await rows.provider() for _ in range(4)]
    gpus = [("NVIDIA RTX 4090", 24576), ("NVIDIA H100", 81920), ("NVIDIA RTX 3090", 24576), ("RTX 1", 1)]
    beats = [
        Beat(provider_id, NOW_MS if n < 3 else NOW_MS - 30_000, {"gpu_name": name, "gpu_vram_mib": vram})
        for n, (provider_id, (name, vram)) in enumerate(zip(ids, gpus, strict=True))
    ]
    await database.run(lambda: accounts.write_beats(beats))
    await database.run(lambda: accounts.replace_models(ids[0], [Model("a")]))
    await database.run(lambda: Provider.update(state="suspended").where(Provider.id == ids[2]).execute())
    query = {"gpu_model": None, "min_vram_mib": None, "model": None, "offset": 0, "limit": 10} | filters
    listed, total = await database.read(
        lambda: accounts.live_providers(since_ms=NOW_MS - 30_000, **query)  # type: ignore[arg-type]
    )
    assert [ids.index(row.id) + 1 for row in listed] == found
    assert total == (2 if {"offset", "limit"} & set(filters) else len(found))


async def test_account_that_was_decided_about_meanwhile_is_not_moved(database: Database, rows: Rows) -> None:
    """Of two who read the same state, the second changes nothing."""
    provider_id, renter_id = await rows.provider(), await rows.renter()
    for move, account_id in (
        (accounts.set_provider_state, provider_id),
        (accounts.set_renter_state, renter_id),
    ):
        work = partial(move, account_id, AccountState.ACTIVE, AccountState.SUSPENDED)
        assert [await database.run(work), await database.run(work)] == [True, False]

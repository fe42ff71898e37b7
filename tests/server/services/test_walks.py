"""Lists that are walked by cursor while rows are added and removed: no row is skipped, none appears twice."""

from __future__ import annotations

from abc import ABC, abstractmethod
from random import Random

import pytest
from dcp.v1 import admin_pb2, keys_pb2, operations_pb2, options_pb2, renters_pb2
from dcp.v1 import withdrawals_pb2 as pb

from server.domain import ledger as rules
from server.domain.ledger import EXTERNAL, Transfer, TransferKind
from server.store import ledger
from tests.support.running_server import Market, Party

IBAN = "SA0380000000608010167519"


class Walk(ABC):
    """One list: how to read a page of it, and how to add or remove rows meanwhile."""

    def __init__(self, market: Market, rng: Random) -> None:
        self.market = market
        self.rng = rng
        self.rows: dict[int, Party] = {}

    async def begin(self) -> None:
        for _ in range(9):
            await self.add()

    @abstractmethod
    async def add(self) -> None:
        """Adds a row to the list."""

    async def remove(self) -> int | None:
        """Removes a row and returns its id; None if rows of this list are never removed."""
        return None

    @abstractmethod
    async def read(self, cursor: int | None) -> tuple[list[int], int | None]:
        """Reads one page: its ids, and the cursor of the next."""


class AvailableProviders(Walk):
    async def add(self) -> None:
        provider = await self.market.provider()
        await self.market.daemon(provider)
        self.rows[provider.id] = provider

    async def remove(self) -> int | None:
        provider = self.rows.pop(self.rng.choice(sorted(self.rows)))
        await self.market.set_provider(provider, last_heartbeat_ms=0)
        return provider.id

    async def read(self, cursor: int | None) -> tuple[list[int], int | None]:
        request = renters_pb2.ListAvailableProvidersRequest(after_id=cursor, page_size=2)
        found = await self.market.renter_service.ListAvailableProviders(request)
        assert found.total == len(self.rows)
        return [row.id for row in found.providers], found.next_after_id or None


class AllWithdrawals(Walk):
    async def add(self) -> None:
        market, provider = self.market, await self.market.provider()
        earned = Transfer(TransferKind.PAYOUT, EXTERNAL, rules.provider(provider.id), 2000)
        await market.sql(lambda: ledger.apply([earned], 0))
        request = pb.RequestWithdrawalRequest(amount_halala=2000, iban=IBAN)
        created = await market.withdrawal_service.RequestWithdrawal(request, metadata=provider.metadata)
        self.rows[created.withdrawal.id] = provider

    async def read(self, cursor: int | None) -> tuple[list[int], int | None]:
        request = admin_pb2.ListWithdrawalsRequest(before_id=cursor, page_size=2)
        found = await self.market.admin_service.ListWithdrawals(request, metadata=self.market.admin_metadata)
        assert found.pagination.total == len(self.rows)
        return [row.id for row in found.all], found.next_before_id or None


class OwnKeys(Walk):
    async def begin(self) -> None:
        self.renter = await self.market.renter()
        await super().begin()

    async def add(self) -> None:
        request = keys_pb2.CreateKeyRequest(name="a key", scopes=[options_pb2.SCOPE_READ])
        created = await self.market.key_service.CreateKey(request, metadata=self.renter.metadata)
        self.rows[created.key.id] = self.renter

    async def read(self, cursor: int | None) -> tuple[list[int], int | None]:
        request = keys_pb2.ListKeysRequest(before_id=cursor, page_size=2)
        found = await self.market.key_service.ListKeys(request, metadata=self.renter.metadata)
        return [row.id for row in found.keys], found.next_before_id or None


class OperatorsProviders(Walk):
    async def add(self) -> None:
        provider = await self.market.provider()
        self.rows[provider.id] = provider

    async def read(self, cursor: int | None) -> tuple[list[int], int | None]:
        request = operations_pb2.ListProvidersRequest(before_id=cursor, page_size=2)
        found = await self.market.operation_service.ListProviders(
            request, metadata=self.market.admin_metadata
        )
        return [row.id for row in found.providers], found.next_before_id or None


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("kind", [AvailableProviders, AllWithdrawals, OwnKeys, OperatorsProviders])
async def test_rows_that_stay_appear_exactly_once(any_market: Market, kind: type[Walk], seed: int) -> None:
    walk = kind(any_market, rng := Random(seed))
    await walk.begin()
    stayed, gone, seen = set(walk.rows), set[int | None](), list[int]()
    cursor: int | None = None
    while True:
        page, cursor = await walk.read(cursor)
        assert len(page) <= 2
        seen += page
        if cursor is None:
            break
        for _ in range(rng.randint(0, 2)):
            await walk.add()
        if rng.random() < 0.7:
            gone.add(await walk.remove())
    assert len(seen) == len(set(seen))
    assert stayed - gone <= set(seen)

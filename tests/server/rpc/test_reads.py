"""Lists and reports run apart from short reads, by an option of their RPC, and end when the caller leaves."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest
from dcp.v1 import jobs_pb2, renters_pb2, withdrawals_pb2
from google.api import annotations_pb2

from tests.server.rpc.methods import METHODS, rule
from tests.support.databases import execute
from tests.support.running_server import Market, Party, refusal

# Fields of a request by which its reads can grow, beside lists of the whole market.
GROWING = {"page_size", "limit", "max_lines", "days", "range"}
OF_THE_MARKET = {
    "AdminService.GetDashboard",
    "JobService.ExplainJob",
    "LedgerService.ProveLedger",
}
# Pages that gateways read for what they write; they have no route.
OF_GATEWAYS = {"BatchService.ListBatchResults"}
# The header of a download; the file does not come from the database.
OF_ONE_FILE = {"ArtifactService.DownloadArtifact"}
# Reading any withdrawal takes hours, on both databases.
SLOW_WITHDRAWALS = (
    "ALTER TABLE withdrawal RENAME TO stored_withdrawal",
    "CREATE VIEW withdrawal AS WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n "
    "WHERE i < 100000000000) SELECT stored_withdrawal.* FROM stored_withdrawal "
    "WHERE (SELECT COUNT(*) FROM n) > 0 UNION ALL SELECT stored_withdrawal.* FROM stored_withdrawal "
    "CROSS JOIN n WHERE i < 0",
)
RESTORED = ("DROP VIEW withdrawal", "ALTER TABLE stored_withdrawal RENAME TO withdrawal")


@pytest.mark.parametrize("name", METHODS)
def test_each_rpc_whose_reads_can_grow_says_so(name: str) -> None:
    method = METHODS[name]
    is_get = bool(method.GetOptions().Extensions[annotations_pb2.http].get)
    fields = {field.name for field in method.input_type.fields}
    grows = is_get and bool(fields & GROWING) and name not in OF_ONE_FILE
    assert rule(method).may_grow == (grows or name in OF_THE_MARKET | OF_GATEWAYS)


async def slow_down(market: Market, provider: Party) -> None:
    """Makes each read of a withdrawal last until it is interrupted."""
    values = f"({provider.id}, 1, 'paid', '', '7519', 1)"
    columns = "(provider_id, amount_micros, state, iban, iban_last4, created_ms)"
    await run(market, f"INSERT INTO withdrawal {columns} VALUES {values}", *SLOW_WITHDRAWALS)


async def run(market: Market, *statements: str) -> None:
    def all_of_them() -> None:
        for statement in statements:
            execute(market.server._database, statement)

    await market.sql(all_of_them)


def withdrawals(market: Market, provider: Party, **options: Any) -> Any:
    return market.withdrawal_service.ListOwnWithdrawals(
        withdrawals_pb2.ListOwnWithdrawalsRequest(), metadata=provider.metadata, **options
    )


async def me(market: Market, renter: Party) -> None:
    await market.renter_service.GetOwnRenter(renters_pb2.GetOwnRenterRequest(), metadata=renter.metadata)


async def test_a_list_that_takes_too_long_is_answered_at_the_deadline_and_holds_up_nobody(
    any_market: Market,
) -> None:
    """Eight lists of one account at once: other calls are answered meanwhile, and the lists afterwards."""
    provider, renter = await any_market.provider(), await any_market.renter()
    await slow_down(any_market, provider)
    try:
        lists = [
            asyncio.ensure_future(refusal(withdrawals(any_market, provider, timeout=2))) for _ in range(8)
        ]
        await asyncio.sleep(0.3)  # until they have arrived
        async with asyncio.timeout(1.5):
            for _ in range(8):
                await me(any_market, renter)
            request = jobs_pb2.ListOwnJobsRequest()
            await any_market.job_service.ListOwnJobs(request, metadata=renter.metadata)
        assert not any(each.done() for each in lists)
        for refused in await asyncio.gather(*lists):
            assert (refused.code, refused.reason) == (grpc.StatusCode.DEADLINE_EXCEEDED, "TIMEOUT")
            assert "was interrupted; nothing was changed" in refused.message
    finally:
        await run(any_market, *RESTORED)
    assert len((await withdrawals(any_market, provider)).withdrawals) == 1


async def test_a_list_ends_when_its_caller_leaves(any_market: Market) -> None:
    """The account's next list does not wait for it."""
    provider = await any_market.provider()
    await slow_down(any_market, provider)
    try:
        call = withdrawals(any_market, provider)
        await asyncio.sleep(0.3)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
    finally:
        await run(any_market, *RESTORED)  # on PostgreSQL this waits for the end of the read
    assert len((await withdrawals(any_market, provider, timeout=10)).withdrawals) == 1

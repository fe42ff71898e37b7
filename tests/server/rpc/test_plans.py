"""No statement of a request walks through a table that grows with the jobs of the whole market."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from dcp.v1 import options_pb2
from google.api import annotations_pb2
from google.protobuf.descriptor import MethodDescriptor

from server.store.models import Withdrawal
from tests.server.rpc.methods import METHODS, call, empty, rule
from tests.server.services import test_batches
from tests.support import running_server
from tests.support.manual_clock import ManualClock
from tests.support.plans import recorded, walks
from tests.support.running_server import Market, Metadata
from tests.support.whole_renter import FILE_NAME, Whole, whole_renter

READS = {
    name: method
    for name, method in METHODS.items()
    if method.GetOptions().Extensions[annotations_pb2.http].get
    and method.name != "GetModel"  # one of ListModels, and no provider is live here
    and method.name != "GetOwnOperator"  # nothing is stored of the admin token
}
# What each call sends besides its other fields: one call for each value.
VALUES: dict[str, tuple[Any, ...]] = {
    "search": ("job-", "P", "nothing"),
    "days": (366,),
    "object": ("renter",),
    "partial": (True,),
    "after_seq": (1,),
    "model": (running_server.MODEL,),
    "gpu_model": ("RTX 4090",),
    "verified": (True,),
    "all_accounts": (True,),
    "page": (2,),
}


@pytest.fixture
async def any_market(database_url: str, clock: ManualClock, tmp_path: Path) -> AsyncIterator[Market]:
    running = running_server.running(
        database_url,
        clock,
        sandbox_topup=True,
        webhooks_allow_private=True,
        blob_store=f"file:{tmp_path / 'blobs'}",
    )
    async with running as market:
        yield market


async def test_no_statement_of_a_request_walks_through_a_table_that_grows_with_the_jobs(
    any_market: Market, monkeypatch: pytest.MonkeyPatch
) -> None:
    database, found = any_market.server._database, dict[str, dict[str, list[str]]]()
    with recorded(database, monkeypatch) as seen:
        async with whole_renter(any_market) as whole:
            values = await known(any_market, whole)
            of_writes = list(seen)
            for name, method in READS.items():
                seen.clear()
                await read(any_market, whole, method, values)
                assert seen, name
                found[name] = await walks(database, list(seen))
            await test_batches.started(any_market, whole.renter, 2)
            seen.clear()
            for loop in any_market.server.loops:
                assert await loop.tick() == []
            found["duties"] = await walks(database, list(seen))
    found["writes"] = await walks(database, of_writes)
    assert {name: statements for name, statements in found.items() if statements} == {}


async def known(market: Market, whole: Whole) -> dict[str, Any]:
    """A value for each field that a request must have, or by which it can choose rows."""
    values = {"provider_id": whole.provider.id, "amount_micros": 1, "state": "paid", "created_ms": 1}
    insert = Withdrawal.insert(**values, iban="", iban_last4="7519")
    return {
        "job_id": whole.completed.job_id,
        "name": FILE_NAME,
        "provider_id": whole.provider.id,
        "renter_id": whole.renter.id,
        "withdrawal_id": await market.sql(insert.execute),
        "dispute_id": 1,
        "input_id": whole.input_id,
        "batch_id": await test_batches.checked(market, whole.renter),
        "file_id": await test_batches.file_of(market, whole.renter),
    }


async def read(market: Market, whole: Whole, method: MethodDescriptor, known: dict[str, Any]) -> None:
    """Calls an RPC as each role that may, with each of the values, and reads a second page."""
    fields = {field.name for field in method.input_type.fields}
    needed = {name: value for name, value in known.items() if name in fields}
    requests = [needed]
    if method.name == "ListJobs":
        requests = [{}, *({name: value} for name, value in needed.items()), needed]
    for name in sorted(fields & {*VALUES, "status"}):
        if name != "page" or method.name != "ExportOwnData":
            enum = method.input_type.fields_by_name[name].enum_type
            values = enum.values_by_number if enum is not None else VALUES[name]
            requests += [{**base, name: value} for base in list(requests) for value in values if value]
    for role in rule(method).roles:
        for request in requests:
            await pages(market, method, credential(market, whole, role), request)


async def pages(market: Market, method: MethodDescriptor, metadata: Metadata, values: dict[str, Any]) -> None:
    request: Any = empty(method)
    for name, value in values.items():
        setattr(request, name, value)
    has_pages = "page_size" in {field.name for field in method.input_type.fields}
    if has_pages:
        request.page_size = 1
    answer = await call(market, method, request, metadata)
    for field in answer.DESCRIPTOR.fields:
        if field.name.startswith("next_") and answer.HasField(field.name):
            setattr(request, field.name.removeprefix("next_"), getattr(answer, field.name))
            await call(market, method, request, metadata)


def credential(market: Market, whole: Whole, role: int) -> Metadata:
    """The credential of a role."""
    of_role: dict[int, Metadata] = {
        options_pb2.ROLE_RENTER: whole.renter.metadata,
        options_pb2.ROLE_PROVIDER: whole.provider.metadata,
        options_pb2.ROLE_ADMIN: market.admin_metadata,
    }
    return of_role.get(role, ())

"""The audit log: every action of an operator, with its effect, immutable."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import pytest
from dcp.v1 import admin_pb2, jobs_pb2, ledger_pb2

from server.domain.money import micros
from server.store.database import Database
from server.store.models import Withdrawal
from server.store.operators import audit
from tests.server.services.test_withdrawals import (
    pay,
    process,
    provider_with_earnings,
    reject,
    request_withdrawal,
)
from tests.support.databases import execute
from tests.support.running_server import Market, refusal


async def page(market: Market, **filters: Any) -> admin_pb2.ListAuditEntriesResponse:
    request = admin_pb2.ListAuditEntriesRequest(**filters)
    return await market.admin_service.ListAuditEntries(request, metadata=market.admin_metadata)


async def test_each_step_of_a_withdrawal_is_logged(any_market: Market) -> None:
    market = any_market
    provider = await provider_with_earnings(market)
    number = (await request_withdrawal(market, provider)).withdrawal.id
    await process(market, number)
    await pay(market, number, "SARIE-9")
    paid, processed = (await page(market, object="withdrawal", object_id=str(number))).entries
    assert (processed.actor, processed.action, processed.object) == (
        "admin",
        "withdrawal.process",
        "withdrawal",
    )
    assert processed.at.ToMilliseconds() == int(market.clock.now() * 1000)
    assert processed.request_id
    assert processed.request_id != paid.request_id
    assert json.loads(processed.before) == {"status": "pending", "amount_halala": 2000}
    assert json.loads(processed.after) == {"status": "processing", "amount_halala": 2000}
    assert json.loads(paid.after) == {"status": "paid", "amount_halala": 2000, "reference": "SARIE-9"}


async def test_credit_is_logged_with_the_balances(any_market: Market) -> None:
    market = any_market
    renter = await market.renter(700)
    await market.ledger_service.CreditRenter(
        ledger_pb2.CreditRenterRequest(renter_id=renter.id, amount_halala=50),
        metadata=(*market.admin_metadata, ("x-request-id", "req-7")),
    )
    newest = (await page(market, object="renter", object_id=str(renter.id))).entries[0]
    assert (newest.action, newest.request_id) == ("renter.credit", "req-7")
    assert json.loads(newest.before) == {"balance_halala": 700}
    assert json.loads(newest.after) == {"balance_halala": 750}


async def test_cancel_is_logged_only_when_an_operator_does_it(market: Market) -> None:
    renter = await market.renter()
    own, other = await market.submit(renter), await market.submit(renter)
    await market.cancel(own, renter)
    request = jobs_pb2.CancelJobRequest(job_id=other.job_id)
    await market.job_service.CancelJob(request, metadata=market.admin_metadata)
    (entry,) = (await page(market, object="job")).entries
    assert (entry.action, entry.object_id) == ("job.cancel", other.job_id)
    assert json.loads(entry.before)["status"] == "queued"
    assert json.loads(entry.after)["status"] == "cancelled"


async def test_refused_action_is_not_logged(market: Market) -> None:
    provider = await provider_with_earnings(market)
    number = (await request_withdrawal(market, provider)).withdrawal.id
    await refusal(pay(market, number))
    await refusal(process(market, number + 1))
    assert not (await page(market)).entries


async def test_action_whose_transfer_fails_changes_nothing(any_market: Market) -> None:
    """State, money and entry are one transaction."""
    market = any_market
    provider = await provider_with_earnings(market)
    number = (await request_withdrawal(market, provider)).withdrawal.id
    # The amount exceeds what is reserved, so the ledger refuses the payment.
    await market.sql(lambda: Withdrawal.update(amount_micros=micros(9000)).execute())
    await process(market, number)
    await refusal(pay(market, number))
    stored = await market.sql(lambda: Withdrawal.get_by_id(number).state)
    assert stored == "processing"
    assert [entry.action for entry in (await page(market)).entries] == ["withdrawal.process"]


async def test_log_comes_in_pages_newest_first(market: Market) -> None:
    provider = await provider_with_earnings(market)
    for _ in range(3):
        await reject(market, (await request_withdrawal(market, provider)).withdrawal.id)
    await market.renter(5)
    first = await page(market, page_size=2)
    second = await page(market, page_size=2, before_id=first.next_before_id)
    assert [entry.action for entry in first.entries] == ["renter.credit", "withdrawal.reject"]
    assert [entry.action for entry in second.entries] == ["withdrawal.reject"] * 2
    assert not second.HasField("next_before_id")
    assert len((await page(market, object="withdrawal")).entries) == 3


async def test_object_id_without_its_kind_is_refused(market: Market) -> None:
    refused = await refusal(page(market, object_id="1"))
    assert (refused.reason, refused.facts.field) == ("INVALID_FIELD", "object")


@pytest.mark.parametrize("change", ["UPDATE audit_entry SET actor = 'nobody'", "DELETE FROM audit_entry"])
async def test_database_itself_refuses_to_change_the_log(database: Database, change: str) -> None:
    note = partial(
        audit.write, at_ms=1, actor="a", action="job.cancel", object_id=1, before={}, after={}, request_id="r"
    )
    await database.run(note)
    with pytest.raises(Exception, match="the audit log is immutable"):
        await database.run(partial(execute, database, change))
    (entry,) = await database.read(lambda: audit.entries(None, None, None, None, 10))
    assert entry.actor == "a"

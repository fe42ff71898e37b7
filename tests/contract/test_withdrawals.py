"""Withdrawals over HTTP, from a daemon's earnings to the bank."""

from __future__ import annotations

from pathlib import Path

from server.domain import ledger as rules
from server.domain.jobs import JobType
from server.domain.ledger import EXTERNAL, Transfer, TransferKind
from server.store import ledger
from tests.support.whole_stack import ADMIN, Stack, running_stack

IBAN = "SA0380000000608010167519"


async def provider_with_earnings(stack: Stack) -> dict[str, str]:
    """A provider with earnings; returns its credential."""
    number, key = await stack.register("provider", "p@example.com")
    account = rules.provider(number)
    transfer = Transfer(TransferKind.PAYOUT, EXTERNAL, account, 5000, job_type=JobType.BENCHMARK)
    await stack.server._database.run(lambda: ledger.apply([transfer], 0))
    return {"x-provider-key": key}


async def test_withdrawal_from_the_request_to_the_bank(tmp_path: Path) -> None:
    async with running_stack(tmp_path) as stack:
        provider = await provider_with_earnings(stack)
        body = {"amount_halala": 2000, "iban": IBAN}
        requested = await stack.http.post("/api/providers/withdrawals", json=body, headers=provider)
        assert requested.status_code == 201
        withdrawal = requested.json()["withdrawal"]
        assert (withdrawal["status"], withdrawal["iban_last4"]) == ("pending", "7519")
        assert requested.json()["claimable_halala"] == 3000
        again = await stack.http.post("/api/providers/withdrawals", json=body, headers=provider)
        assert (again.status_code, again.json()["code"]) == (409, "WITHDRAWAL_OPEN")

        path = f"/api/admin/withdrawals/{withdrawal['id']}"
        assert (await stack.get(path, ADMIN))["iban"] == IBAN
        assert (await stack.http.post(f"{path}/process", headers=ADMIN)).status_code == 200
        repeated = await stack.http.post(f"{path}/process", json={}, headers=ADMIN)
        assert repeated.status_code == 409
        assert (repeated.json()["code"], repeated.json()["status"]) == ("WRONG_STATE", "processing")
        paid = await stack.post(f"{path}/pay", {"reference": "SARIE-1"}, **ADMIN)
        assert paid["withdrawal"]["status"] == "paid"

        me = (await stack.get("/api/providers/me", provider))["provider"]
        earned = me["earnings"]
        assert (earned["total_halala"], earned["claimable_halala"]) == (5000, 3000)
        own = await stack.http.get("/api/providers/withdrawals", headers=provider)
        assert own.json()["withdrawals"][0]["reference"] == "SARIE-1"
        assert IBAN not in own.text
        page = await stack.get("/api/admin/audit?object=withdrawal&page_size=1", ADMIN)
        assert page["entries"][0]["action"] == "withdrawal.pay"
        older = await stack.get(f"/api/admin/audit?before_id={page['next_before_id']}", ADMIN)
        assert [entry["action"] for entry in older["entries"]] == ["withdrawal.process"]
        all_of_them = await stack.http.get("/api/admin/withdrawals", headers=ADMIN)
        assert all_of_them.json()["summary"]["paid_halala"] == 2000
        assert IBAN not in all_of_them.text
        proof = await stack.get("/api/admin/ledger/proof", ADMIN)
        assert (proof["balanced"], proof["open_withdrawals"]) == (True, 0)


async def test_request_over_the_earnings_is_refused_with_the_amounts(tmp_path: Path) -> None:
    async with running_stack(tmp_path) as stack:
        provider = await provider_with_earnings(stack)
        body = {"amount_halala": 5001, "iban": IBAN}
        refused = await stack.http.post("/api/providers/withdrawals", json=body, headers=provider)
        assert refused.status_code == 409
        error = refused.json()
        assert (error["code"], error["shortfall_halala"]) == ("EARNINGS_TOO_LOW", 1)
        assert (error["balance_halala"], error["required_halala"]) == (5000, 5001)

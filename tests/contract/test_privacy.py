"""Export and deletion as a renter's script uses them: over HTTP, with all kinds of file names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.whole_stack import ADMIN, Stack, running_stack

NAME = "شركة النخلة 🌴"
SANDBOX = {"DCP_SANDBOX_TOPUP": "true"}


async def exported(stack: Stack, key: str, **query: Any) -> list[dict[str, Any]]:
    """Fetches the export with the loop that docs/renters.md shows."""
    pages, place = [], ""
    while True:
        answer = await stack.http.get(
            "/api/renters/export", params={"page": place, **query}, headers={"x-renter-key": key}
        )
        assert answer.headers["content-type"] == "application/json"
        pages.append(answer.json())
        place = pages[-1].get("next_page", "")
        if not place:
            return pages


async def delete(stack: Stack, key: str, **body: Any) -> tuple[int, dict[str, Any]]:
    answer = await stack.http.post("/api/renters/delete", json=body, headers={"x-renter-key": key})
    return answer.status_code, answer.json()


async def test_renter_exports_its_data_and_deletes_its_account(tmp_path: Path) -> None:
    async with running_stack(tmp_path, prove=True, **SANDBOX) as stack:
        body = {"name": NAME, "email": "Nakhla@Example.com", "organization": "=1+1"}
        registered = await stack.post("/api/renters/register", body)
        key = registered["api_key"]
        clash = await stack.http.post("/api/renters/register", json=body | {"email": "nakhla@example.COM"})
        assert (clash.status_code, clash.json()["code"]) == (409, "EMAIL_TAKEN")
        await stack.post("/api/renters/topup", {"amount_halala": 5000}, **{"x-renter-key": key})
        job = {"job_type": "llm-inference", "duration_minutes": 3, "params": {"model": "m", "prompt": "سؤال"}}
        job_id = (await stack.post("/api/jobs/submit", job, **{"x-renter-key": key}))["job"]["job_id"]

        assert [len(await exported(stack, key, page_size=size)) for size in (200, 1)] == [1, 5]
        (page,) = await exported(stack, key)
        assert page["renter"]["name"] == NAME
        assert (page["renter"]["balance_halala"], page["renter"]["held_halala"]) == (4550, 450)
        assert page["jobs"][0]["params"]["prompt"] == "سؤال"
        assert [line["kind"] for line in page["ledger"]] == ["hold", "topup"]

        assert (await delete(stack, key, email="other@example.com"))[0] == 409
        status, answer = await delete(stack, key, email="nakhla@example.com", forfeit_balance_halala=4550)
        assert (status, answer["code"], answer["open_jobs"]) == (409, "JOBS_OPEN", 1)
        await stack.post(f"/api/jobs/{job_id}/cancel", {}, **{"x-renter-key": key})
        status, answer = await delete(stack, key, email="nakhla@example.com")
        assert (status, answer["code"], answer["balance_halala"]) == (409, "BALANCE_LEFT", 5000)
        assert await delete(stack, key, email="NAKHLA@example.com", forfeit_balance_halala=5000) == (
            200,
            {"success": True, "renter_id": registered["renter_id"], "forfeited_halala": 5000},
        )

        status, answer = await delete(stack, key, email="nakhla@example.com")
        assert (status, answer["code"]) == (401, "INVALID_CREDENTIAL")
        credit = await stack.http.post(
            f"/api/admin/renters/{registered['renter_id']}/credit", json={"amount_halala": 5}, headers=ADMIN
        )
        assert (credit.status_code, credit.json()["code"]) == (410, "RENTER_DELETED")
        assert (await stack.get("/api/admin/ledger/proof", ADMIN))["balanced"] is True
        again = await stack.post("/api/renters/register", body)
        assert again["renter_id"] != registered["renter_id"]


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"email": ""},
        {"email": "no address"},
        {"email": "a@example.com", "forfeit_balance_halala": -1},
        {"email": "a@example.com", "forfeit_balance_halala": 1.5},
        {"email": "a@example.com", "forfeit_balance_halala": "all"},
        {"email": "a@example.com", "sure": True},
        {"email": ["a@example.com"]},
    ],
)
async def test_invalid_confirmation_deletes_nothing(tmp_path: Path, body: dict[str, Any]) -> None:
    async with running_stack(tmp_path) as stack:
        _, key = await stack.register("renter", "a@example.com")
        status, answer = await delete(stack, key, **body)
        assert (status, "field" in answer) == (400, True)
        assert (await stack.get("/api/renters/me", {"x-renter-key": key}))["renter"][
            "email"
        ] == "a@example.com"

"""A renter's statement over HTTP, as JSON and as a file."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from tests.support.whole_stack import ADMIN, running_stack


async def test_statement_comes_as_json_and_as_a_file_to_download(tmp_path: Path) -> None:
    async with running_stack(tmp_path) as stack:
        number, key = await stack.register("renter", "r@example.com")
        renter = {"x-renter-key": key}
        await stack.post(f"/api/admin/renters/{number}/credit", {"amount_halala": 9000}, **ADMIN)
        job = {
            "job_type": "training",
            "duration_minutes": 3,
            "container_spec": {"image": "busybox"},
            "params": {"model": "=cmd|'/c calc'!A1"},
        }
        await stack.post("/api/jobs/submit", job, **renter)
        page = await stack.get("/api/renters/ledger?page_size=1", renter)
        assert page["lines"][0]["kind"] == "hold"
        assert (page["lines"][0]["amount_halala"], page["lines"][0]["balance_halala"]) == (-750, 8250)
        assert page["next_before_id"] == page["lines"][0]["id"]

        accept = {"accept": "text/html,application/json"}
        file = await stack.http.get("/api/renters/ledger.csv", headers=renter | accept)
        assert file.headers["content-type"] == "text/csv; charset=utf-8"
        assert file.headers["content-disposition"] == 'attachment; filename="dcp-ledger.csv"'
        assert file.content.startswith(b"\xef\xbb\xbfid,time,")  # a spreadsheet recognizes UTF-8 by it
        held, credited = csv.DictReader(io.StringIO(file.content.decode("utf-8-sig"), newline=""))
        assert (held["model"], held["amount_halala"]) == ("'=cmd|'/c calc'!A1", "-750")
        assert (credited["kind"], credited["balance_halala"]) == ("credit", "9000")

        spent = await stack.get("/api/renters/spending?days=1", renter)
        assert (spent["spent_halala"], len(spent["days"])) == (0, 1)
        refused = await stack.http.get("/api/renters/ledger.csv?max_lines=10001", headers=renter)
        assert (refused.status_code, refused.json()["field"]) == (400, "max_lines")


async def test_key_with_a_budget_and_its_usage_over_http(tmp_path: Path) -> None:
    async with running_stack(tmp_path) as stack:
        number, main = await stack.register("renter", "r@example.com")
        renter = {"x-renter-key": main}
        await stack.post(f"/api/admin/renters/{number}/credit", {"amount_halala": 9000}, **ADMIN)
        asked = {"name": "batch", "scopes": ["inference"], "budget_halala_per_day": 1000}
        created = await stack.post("/api/renters/keys", asked, **renter)
        key = {"x-renter-key": created["api_key"]}
        job = {
            "job_type": "training",
            "duration_minutes": 3,
            "container_spec": {"image": "busybox"},
        }
        await stack.post("/api/jobs/submit", job, **key)
        refused = await stack.http.post("/api/jobs/submit", json=job, headers=key)
        facts = refused.json()
        wait = facts.pop("retry_after_seconds")
        assert 0 < wait <= 24 * 3600
        assert refused.status_code == 402
        assert facts.pop("error").startswith("this key may spend 1000 halala per day; 750 are spent or held")
        assert facts == {
            "code": "BUDGET_REACHED",
            "budget": "day",
            "budget_halala": 1000,
            "used_halala": 750,
            "required_halala": 750,
        }
        path = f"/api/renters/keys/{created['key']['id']}/limits"
        zero = await stack.http.post(path, json={"budget_halala_total": 0}, headers=renter)
        assert (zero.status_code, zero.json()["field"]) == (400, "budget_halala_total")
        assert (await stack.http.post(path, json={}, headers=key)).json()["code"] == "MAIN_KEY_NEEDED"
        raised = await stack.post(path, {"budget_halala_total": 2000}, **renter)
        assert "budget_halala_per_day" not in raised["key"]
        assert (raised["key"]["budget_halala_total"], raised["key"]["used_today_halala"]) == (2000, 750)
        await stack.post("/api/jobs/submit", job, **key)

        query = "from=2026-01-01&to=2026-02-01&group_by=key&group_by=model"
        assert (await stack.get(f"/api/renters/usage?{query}", renter))["rows"] == []
        file = await stack.http.get(f"/api/renters/usage.csv?{query}", headers=renter)
        assert file.headers["content-disposition"] == 'attachment; filename="dcp-usage.csv"'
        assert file.content.startswith(b"\xef\xbb\xbfdate,key_id,key_name,model,jobs,")
        bad = await stack.http.get("/api/renters/usage?from=2026-02-02&to=2026-02-01", headers=renter)
        assert (bad.status_code, bad.json()["field"]) == (400, "from")

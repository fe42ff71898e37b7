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

"""A market checks its ledger when it stops, so that a test that left it unbalanced fails."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from scripts.market import Market, UnbalancedError

ADMIN_TOKEN = "operator-token-of-all-of-the-tests"


@pytest.mark.e2e
def test_a_market_whose_ledger_does_not_balance_raises_when_it_stops(tmp_path: Path) -> None:
    market = Market(tmp_path, admin_token=ADMIN_TOKEN).start()
    renter_id, _ = market.register_renter("Acme AI", "renter@example.com")
    market.credit(renter_id, 5000)
    market.check_ledger()
    server = market.programs[0]
    server.stop()
    with sqlite3.connect(tmp_path / "dcp.sqlite3") as database:
        change = "UPDATE account SET balance_micros = balance_micros + 1 WHERE balance_micros = 5000000000"
        database.execute(change)
        assert database.total_changes == 1
    server.restart()
    with pytest.raises(UnbalancedError, match="renter"):
        market.stop()
    assert [program.process.poll() for program in market.programs] == [0]

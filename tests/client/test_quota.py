"""An account's quota ends in the middle of a folder: what has arrived stays, and the rest follows."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from dcp_client import Client

from scripts.market import UNLIMITED, Market
from tests.client.conftest import ADMIN_TOKEN, AT_START, Terminal
from tests.support.clustered_market import StartMarket

pytestmark = pytest.mark.e2e

MIB = 1 << 20
QUOTA = 5 * MIB


@pytest.fixture
def narrow(start_market: StartMarket, tmp_path: Path) -> Iterator[Market]:
    settings = {**UNLIMITED, "DCP_MAX_RENTER_BYTES": str(QUOTA)}
    with start_market(tmp_path, admin_token=ADMIN_TOKEN, settings=settings) as market:
        yield market


def test_upload_that_has_no_room_left_goes_on_when_there_is(narrow: Market, tmp_path: Path) -> None:
    _, key = narrow.register_renter("Acme AI", "acme@example.com")
    home = tmp_path / "home"
    environ = {"PATH": os.environ["PATH"], "HOME": str(home), "DCP_API_URL": narrow.url, "DCP_API_KEY": key}
    user = Terminal(home, {**environ, **AT_START})
    (home / "data").mkdir(parents=True)
    for name in "abc":
        (home / "data" / f"{name}.bin").write_bytes(os.urandom(MIB + 1))
    (home / "old.bin").write_bytes(os.urandom(3 * MIB))
    with Client(narrow.url, key) as client:
        (old,) = client.upload(home / "old.bin")
        full = user.run("inputs", "upload", "data")
        assert full.returncode == 4, full.stderr
        assert "dcp inputs delete" in full.stderr, "the remedy"
        there = {each.name: each.input_id for each in client.inputs()}
        assert set(there) == {"old.bin", "a.bin"}, "what had room has arrived"
        user.output("inputs", "delete", str(old["input_id"]))
        sent = json.loads(user.output("inputs", "upload", "--json", "data"))
        assert [each["path"] for each in sent] == ["data/a.bin", "data/b.bin", "data/c.bin"]
        assert sent[0]["input_id"] == there["a.bin"], "what had arrived is not sent again"
        assert {each.status for each in client.inputs()} == {"ready"}
        assert client.wallet().stored_bytes == 3 * (MIB + 1)

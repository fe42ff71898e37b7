"""Uploads with curl to a market of real programs: whole, cut in the middle, and gone on with."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from scripts.market import UNLIMITED, Market

ADMIN_TOKEN = "operator-token-of-all-of-the-tests"
DATA = os.urandom(1 << 20) * 64


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Market]:
    with Market(tmp_path_factory.mktemp("inputs"), admin_token=ADMIN_TOKEN, settings=UNLIMITED) as market:
        yield market


def announced(market: Market, key: str) -> dict[str, object]:
    body = {"name": "data.bin", "size_bytes": len(DATA), "sha256": hashlib.sha256(DATA).hexdigest()}
    answer = httpx.post(f"{market.url}/api/inputs", json=body, headers={"x-renter-key": key})
    assert answer.status_code == 201, answer.text
    found: dict[str, object] = answer.json()["input"]
    return found


def curl(market: Market, key: str, found: dict[str, object], file: Path, *more: str) -> list[str]:
    url = f"{market.url}/api/inputs/{found['input_id']}"
    return ["curl", "-s", "-T", str(file), url, "-H", f"x-renter-key: {key}", *more]


def test_curl_goes_on_with_an_upload_that_was_cut(market: Market, tmp_path: Path) -> None:
    _, key = market.register_renter("Acme AI", "curl@example.com")
    file = tmp_path / "data.bin"
    file.write_bytes(DATA)
    found = announced(market, key)
    with subprocess.Popen(curl(market, key, found, file, "--limit-rate", "16M")) as sending:
        while not int(str(announced(market, key)["received_bytes"])):
            assert sending.poll() is None, "curl ended before it could be cut"
            time.sleep(0.05)
        sending.kill()
    found = announced(market, key)
    received = int(str(found["received_bytes"]))
    assert 0 < received < len(DATA)
    for _ in range(5):  # the last piece of the one that was cut may still arrive
        again = subprocess.run(
            curl(market, key, found, file, "-C", str(received)), capture_output=True, text=True, check=True
        )
        answer = json.loads(again.stdout)
        if answer.get("code") != "INPUT_OFFSET_WRONG":
            break
        received = answer["received_bytes"]
    assert answer["input"]["status"] == "ready", answer
    assert announced(market, key)["status"] == "ready"

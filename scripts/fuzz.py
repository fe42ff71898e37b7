"""Sends random requests to the real programs: schemathesis draws them from /openapi.json.

It starts a market without rate limits and sends requests with a renter's, a provider's and the operator's
key. No response may be a 5xx or differ from the document in status, type, headers or body. Requests that
the document allows must be accepted, and requests that it forbids must be refused. All checks of
schemathesis run.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from scripts.market import UNLIMITED, Market

ADMIN_TOKEN = "operator-token-of-the-fuzzing-alone"
# Valid data can be refused because of a state, such as an unknown id, but never with a 400. Invalid data is
# never accepted. A second credential and U+0000, which the document's introduction forbids, are not drawn:
# the gateway would refuse them before anything else is checked.
CONFIG = """
[phases]
stateful.enabled = false
coverage.enabled = {covers}

[[operations]]
exclude-path-regex = "{covered}"
phases.coverage.enabled = false

[generation]
with-security-parameters = false
allow-x00 = false

[checks.positive_data_acceptance]
expected-statuses = ["2xx", 401, 402, 403, 404, 409, 410]

[checks.negative_data_rejection]
expected-statuses = ["4xx"]
"""
ROOT = Path(__file__).parents[1]
# Each key, and the routes that take it, as a regular expression for their paths.
HEADERS = {
    "x-renter-key": "^/(v1|api/(?!admin|providers))",
    "x-provider-key": "^/api/(providers|jobs|accounts|log-)",
    "x-admin-token": "^/api/(admin|jobs)",
}


@dataclass(frozen=True)
class Length:
    """The number of requests to send."""

    examples: int
    """Requests drawn for each route and key."""
    covering: Collection[str] = tuple(HEADERS)
    """The keys with which every limit of every field is also tested, which takes the longest."""
    covered: str = "."
    """The routes that are tested with these keys: a regular expression for their paths."""
    own_routes: bool = False
    """Whether each key is sent only to the routes that take it."""


def fuzz(market: Market, header: str, key: str, length: Length, seed: int) -> tuple[bool, int, str]:
    """Sends requests to all routes with a key. Returns success, the number of cases, and the output."""
    folder = market.folder / header
    folder.mkdir()
    covers = str(header in length.covering).lower()
    config = CONFIG.format(covers=covers, covered=length.covered)
    (folder / "schemathesis.toml").write_text(config, encoding="utf-8")
    done = subprocess.run(
        [
            *(str(Path(sys.executable).parent / "schemathesis"), "run", f"{market.url}/openapi.json"),
            *("--header", f"{header}: {key}"),
            *("--max-examples", str(length.examples), "--seed", str(seed)),
            *(("--include-path-regex", HEADERS[header]) if length.own_routes else ()),
            *("--continue-on-failure", "--no-shrink", "--warnings", "off"),
        ],
        cwd=folder,
        env={**os.environ, "SCHEMATHESIS_HOOKS": "scripts.fuzz_hooks", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        encoding="utf-8",
        errors="replace",
    )
    output = done.stdout + done.stderr
    cases = re.search(r"(\d+) generated", output)
    return done.returncode == 0, int(cases[1]) if cases else 0, output


def fuzz_all(folder: Path, length: Length, seed: int) -> tuple[int, dict[str, str]]:
    """Tests a new market with each kind of key. Returns the number of cases and the output of failed runs."""
    settings = {**UNLIMITED, "DCP_SANDBOX_TOPUP": "true"}
    total, failed = 0, {}
    with Market(folder, admin_token=ADMIN_TOKEN, settings=settings) as market:
        _, provider = market.register_provider("Fuzz", "provider@fuzz.example.com")
        renter_id, renter = market.register_renter("Fuzz", "renter@fuzz.example.com")
        market.credit(renter_id, 100_000)
        for header, key in zip(HEADERS, (renter, provider, ADMIN_TOKEN), strict=True):
            succeeded, cases, output = fuzz(market, header, key, length, seed)
            total += cases
            if not succeeded:
                failed[header] = output
        proof = market.prove_ledger()
        if not proof["balanced"]:
            failed["ledger"] = str(proof)
    return total, failed


def main() -> int:
    """Prints how many cases ran. Returns 1 if a response did not match the document."""
    parser = argparse.ArgumentParser(prog="scripts/fuzz", description=__doc__)
    parser.add_argument("--examples", type=int, default=40, help="requests drawn for each route and key")
    parser.add_argument("--seed", type=int, default=1, help="the same seed draws the same cases")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        total, failed = fuzz_all(Path(folder), Length(options.examples), options.seed)
    for header, output in failed.items():
        print(f"== {header}\n{output}")
    print(f"{total} cases with three keys, seed {options.seed}: {'failed' if failed else 'all well'}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

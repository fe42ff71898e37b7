"""Random requests to the real programs, drawn from their own document; scripts/fuzz runs more of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from scripts.fuzz import Length, fuzz_all
from tests.support.lengths import lengths

# The routes whose bodies have budgets, names, scopes and models, and of which each request is drawn fast.
LIMITED = "/renters/keys$"


@pytest.mark.e2e
@lengths(
    "length",
    short=Length(examples=1, covering=["x-renter-key"], covered=LIMITED, own_routes=True),
    full=Length(examples=5, covering=["x-renter-key"]),
)
def test_no_request_gets_a_response_that_the_document_does_not_describe(
    tmp_path: Path, length: Length, record_property: Callable[[str, object], None]
) -> None:
    cases, failed = fuzz_all(tmp_path, length, seed=1)
    record_property("schemathesis, cases with three keys", cases)
    assert not failed, "\n".join(failed.values())[:3000]
    assert cases >= (140 if length.own_routes else 500)  # each key and route

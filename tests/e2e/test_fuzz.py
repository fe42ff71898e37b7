"""Random requests to the real programs, drawn from their own document; scripts/fuzz runs more of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from scripts.fuzz import fuzz_all


@pytest.mark.e2e
def test_no_request_gets_a_response_that_the_document_does_not_describe(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    cases, failed = fuzz_all(tmp_path, examples=5, seed=1, covering=["x-renter-key"])
    record_property("schemathesis, cases with three keys", cases)
    assert failed == {}
    assert cases >= 300

"""The real programs, asked at random by their own document; scripts/fuzz does it at length."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from scripts.fuzz import fuzz_all


@pytest.mark.e2e
def test_no_request_gets_an_answer_that_the_document_does_not_tell(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    cases, failed = fuzz_all(tmp_path, examples=5, seed=1, covering=["x-renter-key"])
    record_property("schemathesis, cases with three keys", cases)
    assert failed == {}
    assert cases >= 300

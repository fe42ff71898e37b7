"""Writes the baseline for the test of breaking changes. Run it at a release.

.venv/bin/python -m tests.architecture.renew_baseline
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from tests.architecture.test_protos import BASELINE, buf, workspace


def main() -> None:
    """Builds the image of the current protos."""
    with tempfile.TemporaryDirectory() as scratch:
        status, output = buf(
            workspace(Path(scratch)), "build", "protos", "--exclude-source-info", "-o", BASELINE
        )
    assert status == 0, output


if __name__ == "__main__":
    main()

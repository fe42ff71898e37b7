"""The trial of the installer takes minutes and root; what it needs of the daemon's source is checked here."""

from __future__ import annotations

import pytest

from scripts.try_install import LATER, ROOT


@pytest.mark.parametrize("version", LATER)
def test_line_that_a_later_release_changes_exists(version: str) -> None:
    old, _ = LATER[version]
    assert (ROOT / "daemon/__main__.py").read_text(encoding="utf-8").count(old) == 1

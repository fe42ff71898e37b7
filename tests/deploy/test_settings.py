"""What the files of ``deploy`` say about settings, and about each other."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support import deployments
from tests.support.deployments import DEPLOY

FILES = deployments.files()


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(DEPLOY)))
def test_every_setting_that_is_named_exists(path: Path) -> None:
    assert deployments.unknown_settings(path.read_text(encoding="utf-8")) == set()


def test_misspelt_setting_is_found() -> None:
    assert deployments.unknown_settings("DCP_ADMIN_TOKEN: x\nDCP_ADMIN_TOKENS: y") == {"DCP_ADMIN_TOKENS"}


def test_no_file_has_a_secret_or_names_a_place_of_this_machine() -> None:
    for path in FILES:
        text = path.read_text(encoding="utf-8")
        assert "BEGIN PRIVATE" not in text, path
        assert not re.search(r"/(root|home|tmp/)\w", text), path


@pytest.mark.parametrize("name", deployments.PROGRAMS[:2])
def test_settings_of_the_units_are_accepted(name: str, tmp_path: Path) -> None:
    text = (DEPLOY / f"systemd/{name}.env").read_text(encoding="utf-8")
    given = dict(re.findall(r"^(DCP_\w+)=(.*)$", text, re.MULTILINE))
    deployments.check(name, given, tmp_path)
    # Those that are left out are examples, and must be good too.
    commented = dict(re.findall(r"^#(DCP_\w+)=(.*)$", text, re.MULTILINE))
    assert commented
    deployments.check(name, given | commented, tmp_path)

"""A reload of the settings: what changes at once, and what leaves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from daemon.config.config import Config, from_env
from daemon.machine.policy import Rules
from daemon.runners import Runner
from daemon.service.reload import Reloader
from tests.support.fake_engine import ScriptedEngine


class Serving:
    """Records what it is to serve with."""

    def __init__(self) -> None:
        self.engines: list[Runner] = []
        self.rules = Rules()

    def reconfigure(self, engines: Sequence[Runner], rules: Rules) -> None:
        self.engines, self.rules = list(engines), rules


def config(tmp_path: Path, **settings: str) -> Config:
    model = tmp_path / "model.gguf"
    model.write_bytes(b"")
    found = from_env({"DCP_MODELS": f"a/model={model}", "DCP_STATE_DIR": str(tmp_path), **settings})
    return replace(found, path=tmp_path / "daemon.toml")


def test_attached_server_that_is_not_named_any_more_leaves(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its owner may give the GPUs to other programs; the two settings exclude each other."""
    attached, other, model, daemon = ScriptedEngine(), ScriptedEngine(), ScriptedEngine(), Serving()
    before = config(tmp_path, DCP_ATTACHED_URL="http://127.0.0.1:1/v1", DCP_ATTACHED_SLOTS="2")
    reloader = Reloader(before, lambda _: model, [other, attached], [attached])
    assert reloader.engines == [model, other, attached]
    reloader.reload(daemon, lambda: before)
    assert daemon.engines == [model, other, attached]
    caplog.set_level("INFO")
    reloader.reload(daemon, lambda: config(tmp_path, DCP_YIELD_TO_OWNER="true"))
    assert daemon.engines == [model, other]
    assert daemon.rules.yield_to_owner
    assert "leaves with its last job" in caplog.text
    assert "needs a restart" not in caplog.text
    reloader.reload(daemon, lambda: before)
    assert daemon.engines == [model, other]
    assert "needs a restart to change: attached_url" in caplog.text


def test_settings_that_leave_nothing_to_serve_change_nothing(tmp_path: Path) -> None:
    attached, daemon = ScriptedEngine(), Serving()
    before = config(tmp_path, DCP_ATTACHED_URL="http://127.0.0.1:1/v1", DCP_MODELS="")
    reloader = Reloader(before, lambda _: ScriptedEngine(), [attached], [attached])
    reloader.reload(daemon, lambda: config(tmp_path, DCP_MODELS=""))
    assert daemon.engines == []
    assert reloader.engines == [attached]

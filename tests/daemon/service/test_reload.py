"""A reload of the settings: what changes at once, and what leaves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from daemon.config.config import Config, ModelFile, from_env
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


class Attaching:
    """Creates engines of attached model servers, and records from which addresses."""

    def __init__(self) -> None:
        self.engines: list[Runner] = []
        self.urls: list[str] = []

    def __call__(self, config: Config) -> Sequence[Runner]:
        if config.attached_url is None:
            return []
        self.urls.append(config.attached_url)
        self.engines.append(ScriptedEngine())
        return self.engines[-1:]


ONE, OTHER = "http://127.0.0.1:1/v1", "http://127.0.0.1:2/v1"


def test_attached_server_that_is_not_named_any_more_leaves(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its owner may give the GPUs to other programs; the two settings exclude each other."""
    other, model, daemon, attaching = ScriptedEngine(), ScriptedEngine(), Serving(), Attaching()
    before = config(tmp_path, DCP_ATTACHED_URL=ONE, DCP_ATTACHED_SLOTS="2")
    reloader = Reloader(before, lambda _: model, [other], attaching)
    attached = attaching.engines[0]
    assert reloader.engines == [model, attached, other]
    reloader.reload(daemon, lambda: before)
    assert daemon.engines == [model, attached, other]
    caplog.set_level("INFO")
    reloader.reload(daemon, lambda: config(tmp_path, DCP_YIELD_TO_OWNER="true"))
    assert daemon.engines == [model, other]
    assert daemon.rules.yield_to_owner
    assert "leaves with its last job" in caplog.text
    reloader.reload(daemon, lambda: before)
    assert daemon.engines == [model, attaching.engines[1], other]
    assert "needs a restart" not in caplog.text


@pytest.mark.parametrize(
    "changed",
    [
        {"DCP_ATTACHED_URL": OTHER},
        {"DCP_ATTACHED_API_KEY": "another"},
        {"DCP_ATTACHED_SLOTS": "3"},
        {"DCP_ATTACHED_IMAGE_MODELS": "a/painter"},
        {"DCP_ALIASES": "a/name=its-own"},
    ],
)
def test_attached_server_that_is_set_otherwise_takes_the_place_of_the_old_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, changed: dict[str, str]
) -> None:
    model, daemon, attaching = ScriptedEngine(), Serving(), Attaching()
    reloader = Reloader(config(tmp_path, DCP_ATTACHED_URL=ONE), lambda _: model, (), attaching)
    after = config(tmp_path, **{"DCP_ATTACHED_URL": ONE} | changed)
    reloader.reload(daemon, lambda: after)
    assert daemon.engines == [model, attaching.engines[1]]
    reloader.reload(daemon, lambda: after)
    assert daemon.engines == [model, attaching.engines[1]]
    assert attaching.urls == [ONE, changed.get("DCP_ATTACHED_URL", ONE)]
    assert "needs a restart" not in caplog.text


def test_attached_server_that_is_named_for_the_first_time_serves(tmp_path: Path) -> None:
    model, daemon, attaching = ScriptedEngine(), Serving(), Attaching()
    reloader = Reloader(config(tmp_path), lambda _: model, (), attaching)
    reloader.reload(daemon, lambda: config(tmp_path, DCP_ATTACHED_URL=ONE, DCP_MODELS=""))
    assert daemon.engines == attaching.engines
    assert attaching.urls == [ONE]


def test_settings_that_leave_nothing_to_serve_change_nothing(tmp_path: Path) -> None:
    attaching, daemon = Attaching(), Serving()
    before = config(tmp_path, DCP_ATTACHED_URL=ONE, DCP_MODELS="")
    reloader = Reloader(before, lambda _: ScriptedEngine(), (), attaching)
    reloader.reload(daemon, lambda: config(tmp_path, DCP_MODELS=""))
    assert daemon.engines == []
    assert reloader.engines == attaching.engines


def test_model_that_shall_make_embeddings_gets_another_engine(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made: list[bool] = []

    def make(model: ModelFile) -> Runner:
        made.append(model.embeds)
        return ScriptedEngine()

    daemon, before = Serving(), config(tmp_path)
    reloader = Reloader(before, make, (), Attaching())
    reloader.reload(daemon, lambda: config(tmp_path, DCP_EMBEDDING_MODELS="a/model"))
    assert made == [False, True]
    assert "needs a restart" not in caplog.text

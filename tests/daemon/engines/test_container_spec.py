"""What a model server in a container is told, and who it is."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from daemon.config.config import from_env
from daemon.engines.build import order
from daemon.engines.container_spec import ModelServerSpec, ServerNames, ServerSettings, server_config


def made(path: Path, settings: ServerSettings | None = None) -> ModelServerSpec:
    return ModelServerSpec("acme/llama", path, settings or ServerSettings(), "1000:1000", 8, 1 << 30)


def test_vllm_is_told_model_name_and_socket(tmp_path: Path) -> None:
    told = "--model /model --served-model-name acme/llama --uds /run/dcp/engine.sock"
    assert made(tmp_path).command() == told.split()


def test_one_file_keeps_its_name_and_braces_of_json_stay(tmp_path: Path) -> None:
    file = tmp_path / "llama.gguf"
    file.write_bytes(b"")
    settings = ServerSettings(arguments=("{model}", "--slots={slots}", '{"uds": "{socket}"}'))
    told = ["/model/llama.gguf", "--slots=8", '{"uds": "/run/dcp/engine.sock"}']
    assert made(file, settings).command() == told


def test_name_of_a_model_is_one_argument_whatever_it_is(tmp_path: Path) -> None:
    order = replace(made(tmp_path), name="a b --trust-remote-code {model}")
    assert len(order.command()) == 6


def test_folders_that_the_image_declares_lie_in_memory(tmp_path: Path) -> None:
    image = {"Id": "sha256:1", "Config": {"Volumes": {"/cache": {}}}}
    host = server_config(made(tmp_path), ServerNames.new("o"), tmp_path, image, ())["HostConfig"]
    assert set(host["Tmpfs"]) == {"/tmp", "/cache"}
    assert all("size=" in options for options in host["Tmpfs"].values())


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_server_is_the_daemons_own_user_where_that_is_not_root() -> None:
    settings = {"DCP_ENGINE_MODELS": "a=/m", "DCP_ENGINE_IMAGE": "x", "DCP_CONTAINER_USER": "7:8"}
    config = from_env(settings)
    assert order(config, config.engine_models[0]).user == "7:8"
    groups = os.getegid()
    os.setegid(4322)
    os.seteuid(4321)
    try:
        assert order(config, config.engine_models[0]).user == "4321:4322"
    finally:
        os.seteuid(0)
        os.setegid(groups)

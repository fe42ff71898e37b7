"""The command and the user of a model server in a container."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from daemon.config.config import from_env
from daemon.engines.build import order
from daemon.engines.container_spec import (
    ModelServerSpec,
    ServerNames,
    ServerSettings,
    keeper_config,
    server_config,
    volumes_of,
)
from daemon.runners.containers.docker import EngineFacts


def server_spec(path: Path, settings: ServerSettings | None = None) -> ModelServerSpec:
    return ModelServerSpec("acme/llama", path, settings or ServerSettings(), "1000:1000", 8, 1 << 30)


def test_vllm_gets_model_name_and_socket(tmp_path: Path) -> None:
    expected = "--model /model --served-model-name acme/llama --uds /run/dcp/engine.sock"
    assert server_spec(tmp_path).command() == expected.split()


def test_model_file_keeps_its_name_and_json_braces_are_not_replaced(tmp_path: Path) -> None:
    file = tmp_path / "llama.gguf"
    file.write_bytes(b"")
    settings = ServerSettings(arguments=("{model}", "--slots={slots}", '{"uds": "{socket}"}'))
    expected = ["/model/llama.gguf", "--slots=8", '{"uds": "/run/dcp/engine.sock"}']
    assert server_spec(file, settings).command() == expected


def test_model_name_is_always_a_single_argument(tmp_path: Path) -> None:
    spec = replace(server_spec(tmp_path), name="a b --trust-remote-code {model}")
    assert len(spec.command()) == 6


@pytest.mark.parametrize("name", ["Engine", "Podman Engine"])
def test_volumes_of_the_image_are_in_memory_and_share_half_of_it(tmp_path: Path, name: str) -> None:
    own: dict[str, object] = {"/tmp": {}, "/model": {}, "/run/dcp/": {}}
    image = {"Id": "sha256:1", "Config": {"Volumes": {"/cache": {}, "/data": {}, **own}}}
    engine = EngineFacts(name, "28.0.1", "x86_64", ("local",), ())
    order, names = server_spec(tmp_path), ServerNames.new("o")
    host = server_config(order, names, tmp_path, image, (), engine)["HostConfig"]
    half = order.settings.memory_bytes // 2
    if engine.is_podman:
        assert set(host["Tmpfs"]) == {"/tmp", "/cache", "/data"}
        assert f"size={half // 2}," in host["Tmpfs"]["/cache"]
        return
    assert set(host["Tmpfs"]) == {"/tmp"}
    volumes = {mount["Target"]: mount for mount in host["Mounts"] if mount["Type"] == "volume"}
    assert set(volumes) == {"/cache", "/data"}
    assert not any(mount["VolumeOptions"]["NoCopy"] for mount in volumes.values())
    kept = {mount["Source"] for mount in keeper_config(names, 2)["HostConfig"]["Mounts"]}
    assert kept == {mount["Source"] for mount in volumes.values()} == set(volumes_of(order, names, 2))
    assert all(
        f"nr_blocks={half // 2 // 4096}," in options for options in volumes_of(order, names, 2).values()
    )


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_server_runs_as_the_daemons_user_unless_that_is_root() -> None:
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

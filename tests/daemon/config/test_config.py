"""The daemon's settings from environment variables."""

from __future__ import annotations

from pathlib import Path

import certifi
import pytest
from dcp.settings import SETTINGS

from daemon.config.config import BUNDLED_MODEL, VARIABLES, ConfigError, from_env, is_loopback
from daemon.runners.input_files import InputRoom


def test_defaults_without_variables() -> None:
    config = from_env({"HOME": "/home/p"})
    assert config.server == "127.0.0.1:50051"
    assert config.state_dir == Path("/home/p/.local/state/dcp-daemon")
    assert config.provider_key is None
    assert [model.name for model in config.models] == [BUNDLED_MODEL]
    assert config.models[0].path.suffix == ".gguf"


def test_empty_variable_is_unset() -> None:
    others = [name for name in SETTINGS if name != "DCP_MODELS"]
    assert from_env(dict.fromkeys(others, "")) == from_env({})


def test_empty_list_of_models_serves_not_even_the_bundled_one() -> None:
    assert from_env({}).models != ()
    assert from_env({"DCP_MODELS": ""}).models == ()


def test_variables_of_the_other_programs_are_accepted() -> None:
    from_env({"DCP_DATABASE_URL": "sqlite:///x", "DCP_HTTP_LISTEN": ":8080", "PATH": "/bin"})


def test_container_limits_are_read() -> None:
    assert from_env({}).containers.images == ()
    settings = {
        "DCP_CONTAINER_IMAGES": "busybox, ghcr.io/acme/*,",
        "DCP_CONTAINER_MEMORY_MB": "256",
        "DCP_CONTAINER_CPUS": "0.5",
        "DCP_CONTAINER_USER": "1000:1001",
        "DCP_CONTAINER_NETWORK": "bridge",
        "DCP_CONTAINER_IMAGE_MB": "100",
        "DCP_CONTAINER_FREE_MB": "200",
        "DCP_CONTAINER_KEEP_MB": "400",
        "DCP_CONTAINER_KEEP_DAYS": "2",
        "DCP_CONTAINER_MIN_RUNC": "1.3.3",
        "DCP_CONTAINER_MIN_TOOLKIT": "0",
    }
    containers = from_env(settings).containers
    assert containers.images == ("busybox", "ghcr.io/acme/*")
    assert (containers.memory_bytes, containers.cpus) == (256 * 1024 * 1024, 0.5)
    assert (containers.user_id, containers.group_id, containers.network) == (1000, 1001, "bridge")
    mib = 1024 * 1024
    assert (containers.image_bytes, containers.unpacked_bytes) == (100 * mib, 300 * mib)
    assert (containers.free_bytes, containers.kept_bytes) == (200 * mib, 400 * mib)
    assert containers.kept_seconds == 2 * 86400
    assert containers.minimums == {"runc": "1.3.3", "toolkit": "0"}
    assert from_env({}).containers.minimums == {"runc": "1.1.12", "toolkit": "1.17.8"}
    inputs = from_env({"DCP_INPUT_KEEP_MB": "64", "DCP_INPUT_FREE_MB": "32", "DCP_INPUT_UNPACKED_MB": "128"})
    assert (inputs.input_room.kept_bytes, inputs.input_room.free_bytes) == (64 * mib, 32 * mib)
    assert inputs.containers.unpacked_input_bytes == 128 * mib
    assert from_env({}).input_room == InputRoom(kept_bytes=32768 * mib, free_bytes=2048 * mib)
    for name in ("DCP_INPUT_KEEP_MB", "DCP_INPUT_FREE_MB", "DCP_INPUT_UNPACKED_MB"):
        with pytest.raises(ConfigError, match=f"{name} must be a whole number from 16"):
            from_env({name: "15"})
    unpacked = from_env({"DCP_CONTAINER_UNPACKED_MB": "16"}).containers.unpacked_bytes
    assert unpacked == 16 * mib


def test_models_are_read_with_their_files() -> None:
    models = from_env({"DCP_MODELS": "a/b=/m/b.gguf, c=d=e.gguf"}).models
    assert [(model.name, model.path.name) for model in models] == [("a/b", "b.gguf"), ("c", "d=e.gguf")]


def test_models_that_make_embeddings_are_those_that_are_named() -> None:
    settings = {"DCP_MODELS": "a/b=/m/b.gguf, c=/m/c.gguf", "DCP_EMBEDDING_MODELS": "c"}
    models = from_env(settings).models
    assert [(model.name, model.embeds) for model in models] == [("a/b", False), ("c", True)]


def test_settings_of_model_servers_in_containers_are_read() -> None:
    assert from_env({}).engine_models == ()
    settings = {
        "DCP_ENGINE_MODELS": "a/b=/m/b, c=/m/c.gguf",
        "DCP_ENGINE_IMAGE": "vllm/vllm-openai:v1",
        "DCP_ENGINE_ARGS": "--uds {socket} --override '{\"a b\": 1}'",
        "DCP_ENGINE_MEMORY_MB": "256",
        "DCP_ENGINE_SHM_MB": "32",
        "DCP_ENGINE_MODEL_MB": "70000",
    }
    config = from_env(settings)
    assert [(model.name, str(model.path)) for model in config.engine_models] == [
        ("a/b", "/m/b"),
        ("c", "/m/c.gguf"),
    ]
    engine = config.engine
    assert engine.image == "vllm/vllm-openai:v1"
    assert engine.arguments == ("--uds", "{socket}", "--override", '{"a b": 1}')
    assert (engine.memory_bytes, engine.shm_bytes, engine.model_mib) == (256 << 20, 32 << 20, 70000)


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({"DCP_ENGINE_MODELS": "a=/m"}, "set DCP_ENGINE_IMAGE"),
        ({"DCP_ENGINE_MODELS": "a", "DCP_ENGINE_IMAGE": "x"}, "public/name=FILE-OR-FOLDER"),
        ({"DCP_ENGINE_MODELS": "a=/m,a=/n", "DCP_ENGINE_IMAGE": "x"}, "twice"),
        ({"DCP_ENGINE_IMAGE": "No Image"}, "DCP_ENGINE_IMAGE must be an image"),
        ({"DCP_ENGINE_ARGS": "--port 8000"}, "must say {socket}"),
        ({"DCP_ENGINE_ARGS": "{socket} 'open"}, "quotation"),
        ({"DCP_ENGINE_MEMORY_MB": "1"}, "DCP_ENGINE_MEMORY_MB"),
        ({"DCP_SERVRE": "x:1"}, "DCP_SERVRE is not a variable of DCP; did you mean DCP_SERVER?"),
        ({"DCP_CONTAINER_USER": "0:0"}, "above 0"),
        ({"DCP_CONTAINER_USER": "nobody"}, "above 0"),
        ({"DCP_CONTAINER_USER": "1000"}, "above 0"),
        ({"DCP_CONTAINER_NETWORK": "host"}, "DCP_CONTAINER_NETWORK"),
        ({"DCP_CONTAINER_NETWORK": "container:x"}, "DCP_CONTAINER_NETWORK"),
        ({"DCP_CONTAINER_CPUS": "0"}, "DCP_CONTAINER_CPUS"),
        ({"DCP_CONTAINER_CPUS": "many"}, "DCP_CONTAINER_CPUS"),
        ({"DCP_CONTAINER_CPUS": "100000"}, "DCP_CONTAINER_CPUS"),
        ({"DCP_CONTAINER_MEMORY_MB": "1"}, "DCP_CONTAINER_MEMORY_MB"),
        ({"DCP_CONTAINER_PIDS": "-1"}, "DCP_CONTAINER_PIDS"),
        ({"DCP_CONTAINER_OUTPUT_MB": "1.5"}, "DCP_CONTAINER_OUTPUT_MB"),
        ({"DCP_CONTAINER_KEEP_DAYS": "1.5"}, "DCP_CONTAINER_KEEP_DAYS"),
        ({"DCP_CONTAINER_MIN_RUNC": "newest"}, "DCP_CONTAINER_MIN_RUNC"),
        ({"DCP_CONTAINER_MIN_TOOLKIT": "-"}, "DCP_CONTAINER_MIN_TOOLKIT"),
        ({"DCP_CONTAINER_IMAGES": ",".join(["a"] * 201)}, "DCP_CONTAINER_IMAGES"),
        ({"DCP_CONTAINER_IMAGES": "a" * 501}, "DCP_CONTAINER_IMAGES"),
        ({"DCP_SERVER": "example.com"}, "host:port"),
        ({"DCP_SERVER": "example.com:http"}, "host:port"),
        ({"DCP_SERVER": "127.0.0.1:70000"}, "host:port"),
        ({"DCP_SERVER": "http://127.0.0.1:8080"}, "host:port without http://, such as dcp.example.com:50051"),
        ({"DCP_SERVER": "https://dcp.example.com"}, "host:port without https://"),
        ({"DCP_SERVER": "example.com:443"}, "plain text.*DCP_TLS_CA"),
        ({"DCP_SERVER": "127.0.0.1.example.com:443"}, "plain text"),
        ({"DCP_SERVER": "example.com:443", "DCP_INSECURE": "false"}, "plain text"),
        ({"DCP_INSECURE": "yes"}, "DCP_INSECURE must be true or false"),
        ({"DCP_TLS_CA": "/nowhere.pem"}, "DCP_TLS_CA names /nowhere.pem"),
        ({"DCP_TLS_CA": certifi.where(), "DCP_INSECURE": "true"}, "contradict"),
        ({"DCP_MODELS": "nonsense"}, "public/name=path"),
        ({"DCP_MODELS": "a=b,a=c"}, "twice"),
        (
            {"DCP_MODELS": "a/b=/m/b.gguf", "DCP_EMBEDDING_MODELS": "a/bb"},
            "DCP_EMBEDDING_MODELS: 'a/bb' is not a model of DCP_MODELS; did you mean a/b?",
        ),
        ({"DCP_LOG_LEVEL": "loud"}, "debug, info"),
        ({"DCP_LOG_FORMAT": "xml"}, "DCP_LOG_FORMAT must be one of text, json"),
        ({"DCP_METRICS_LISTEN": "9464"}, "DCP_METRICS_LISTEN: '9464' is not HOST:PORT"),
        ({"DCP_TRACES": "127.0.0.1:4318"}, "DCP_TRACES: is not http://HOST:PORT"),
        ({"DCP_TRACES_SAMPLED": "2"}, "DCP_TRACES_SAMPLED: '2' is not a number from 0 to 1"),
    ],
)
def test_bad_setting_is_refused_with_its_name(environ: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        from_env(environ)


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({"DCP_PROVIDER_KEY": "dcp-pro\rvider"}, r"DCP_PROVIDER_KEY has the character U\+000D at position 8"),
        (
            {"DCP_PROVIDER_KEY": "dcp\u200b-provider"},
            r"DCP_PROVIDER_KEY has the character U\+200B \(ZERO WIDTH SPACE\) at position 4",
        ),
        ({"DCP_PROVIDER_KEY": "\ufeffdcp-provider"}, r"U\+FEFF"),
        ({"DCP_ATTACHED_API_KEY": "sk-é"}, r"DCP_ATTACHED_API_KEY has the character U\+00E9"),
        ({"DCP_ATTACHED_URL": "http://127.0.0.1:80 00/v1"}, r"DCP_ATTACHED_URL has the character U\+0020"),
        ({"DCP_SERVER": "127.0.0.1:\u200e50051"}, r"DCP_SERVER has the character U\+200E"),
        ({"DCP_SCHEDULE": "Mon 08:00\x00-09:00"}, r"DCP_SCHEDULE has the character U\+0000"),
    ],
)
def test_character_that_cannot_be_seen_is_named(environ: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        from_env(environ)
    assert "provider" not in str(caught.value)


@pytest.mark.parametrize("around", ["{}\r", "{}\r\n", " {}\t", "\n{}"])
def test_white_space_around_a_setting_does_not_count(around: str) -> None:
    settings = {
        "DCP_SERVER": "127.0.0.1:50052",
        "DCP_PROVIDER_KEY": "dcp-provider-x",
        "DCP_ATTACHED_URL": "http://127.0.0.1:8000/v1",
        "DCP_ATTACHED_SLOTS": "7",
        "DCP_INSECURE": "false",
        "DCP_LOG_LEVEL": "debug",
        "DCP_MODELS": "a=/m/a.gguf",
    }
    assert from_env({name: around.format(text) for name, text in settings.items()}) == from_env(settings)


@pytest.mark.parametrize("trust", [{"DCP_TLS_CA": certifi.where()}, {"DCP_INSECURE": "true"}])
def test_server_on_another_machine_is_accepted_with_tls_or_an_explicit_exception(
    trust: dict[str, str],
) -> None:
    assert from_env({"DCP_SERVER": "example.com:443", **trust}).server == "example.com:443"


@pytest.mark.parametrize(
    ("server", "is_local"),
    [
        ("localhost:1", True),
        ("127.8.9.10:1", True),
        ("[::1]:1", True),
        ("10.0.0.1:1", False),
        ("localhost.evil.com:1", False),
    ],
)
def test_loopback_addresses_are_local(server: str, is_local: bool) -> None:
    assert is_loopback(server) is is_local


def test_yielding_to_the_owner_is_a_rule_that_an_attached_server_excludes() -> None:
    assert not from_env({}).rules.yield_to_owner
    assert from_env({"DCP_YIELD_TO_OWNER": "true"}).rules.yield_to_owner
    with pytest.raises(ConfigError, match="DCP_YIELD_TO_OWNER must be true or false"):
        from_env({"DCP_YIELD_TO_OWNER": "1"})
    with pytest.raises(ConfigError, match="DCP_YIELD_TO_OWNER cannot be true beside DCP_ATTACHED_URL"):
        from_env({"DCP_YIELD_TO_OWNER": "true", "DCP_ATTACHED_URL": "http://127.0.0.1:8000/v1"})


def test_key_is_not_in_the_repr() -> None:
    assert "secret" not in repr(from_env({"DCP_PROVIDER_KEY": "secret"}))


def test_every_variable_is_documented() -> None:
    assert all(variable.meaning.endswith(".") for variable in VARIABLES)

"""The daemon's settings file, which environment variables override."""

from __future__ import annotations

import base64
import os
import re
import tomllib
from pathlib import Path

import pytest

from daemon.config import text as config_text
from daemon.config.config import VARIABLES, Config, ConfigError, load
from daemon.config.file import NOT_IN_THE_FILE, key_of, parse
from tests.architecture.tools import ROOT

KEY = base64.b64encode(b"k" * 32).decode()
SAMPLES: dict[str, str] = {
    "server": '"127.0.0.1:7"',
    "state_dir": '"/var/lib/dcp-daemon"',
    "models": '"a/b=/m/b.gguf"',
    "insecure": "true",
    "log_level": '"debug"',
    "log_format": '"json"',
    "metrics_listen": '"127.0.0.1:9466"',
    "traces": '"http://127.0.0.1:4318"',
    "traces_sampled": '"0.01"',
    "max_temp_c": "80",
    "vram_reserve_mib": "2048",
    "schedule": '["Mon-Fri 20:00-08:00", "Sat-Sun 00:00-24:00"]',
    "time_zone": '"UTC"',
    "update_url": '"https://releases.example.com/release.json"',
    "update_public_key": f'"{KEY}"',
}


def write(folder: Path, text: str) -> Path:
    path = folder / "config.toml"
    path.write_text(text)
    path.chmod(0o644)
    return path


def loaded(folder: Path, text: str, **environ: str) -> Config:
    return load({"HOME": str(folder), **environ}, str(write(folder, text)))


def test_environment_overrides_the_file(tmp_path: Path) -> None:
    text = 'server = "127.0.0.1:7"\nlog_level = "debug"\nmax_temp_c = 80\n'
    config = loaded(tmp_path, text, DCP_LOG_LEVEL="error")
    assert (config.server, config.log_level, config.rules.max_temp_c) == ("127.0.0.1:7", "error", 80)
    assert config.path == tmp_path / "config.toml"


@pytest.mark.parametrize("text", ['models = ""', "[models]"])
def test_file_can_switch_the_bundled_model_off(tmp_path: Path, text: str) -> None:
    assert loaded(tmp_path, text).models == ()
    assert loaded(tmp_path, "[models]\n'a/b' = '/m.gguf'", DCP_MODELS="").models == ()
    assert loaded(tmp_path, "").models != ()


def test_mark_before_the_text_and_other_line_ends_change_nothing(tmp_path: Path) -> None:
    text = 'server = "127.0.0.1:7"\n# عربي\n[models]\n"a/b" = "/m.gguf"\n'
    path = write(tmp_path, "")
    path.write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    config = load({"HOME": str(tmp_path)}, str(path))
    assert (config.server, config.models[0].name) == ("127.0.0.1:7", "a/b")
    assert tomllib.loads(config_text.render(config, path, {}))["models"] == {"a/b": "/m.gguf"}


@pytest.mark.parametrize(
    ("encoding", "sentence"),
    [("utf-16", "UTF-16"), ("utf-16-be", "UTF-16"), ("utf-16-le", "UTF-16"), ("cp1256", "not UTF-8")],
)
def test_file_in_another_encoding_is_refused_by_its_name(
    tmp_path: Path, encoding: str, sentence: str
) -> None:
    path = write(tmp_path, "")
    path.write_bytes('server = "127.0.0.1:7"  # عربي'.encode(encoding))
    with pytest.raises(ConfigError, match=f"config.toml is (saved as )?{sentence}.*save it as UTF-8"):
        load({"HOME": str(tmp_path)}, str(path))


def test_default_path_is_read_and_may_be_missing(tmp_path: Path) -> None:
    assert load({"HOME": str(tmp_path)}).path is None
    folder = tmp_path / ".config" / "dcp-daemon"
    folder.mkdir(parents=True)
    write(folder, 'server = "127.0.0.1:7"')
    assert load({"HOME": str(tmp_path)}).server == "127.0.0.1:7"


def test_flag_wins_over_the_variable_and_named_files_must_exist(tmp_path: Path) -> None:
    named = write(tmp_path, 'server = "127.0.0.1:7"')
    environ = {"HOME": str(tmp_path), "DCP_CONFIG": str(tmp_path / "nowhere.toml")}
    assert load(environ, str(named)).server == "127.0.0.1:7"
    with pytest.raises(ConfigError, match=r"nowhere\.toml does not exist"):
        load(environ)
    assert load(environ, must_exist=False).path is None


def test_tables_name_models_and_aliases(tmp_path: Path) -> None:
    text = '[models]\n"a/b" = "/m/with,comma=x.gguf"\n"c" = "~/c.gguf"\n[aliases]\n"public/x" = "engine-x"\n'
    config = loaded(tmp_path, text)
    assert [(model.name, str(model.path)) for model in config.models] == [
        ("a/b", "/m/with,comma=x.gguf"),
        ("c", str(tmp_path / "c.gguf")),
    ]
    assert config.aliases == (("public/x", "engine-x"),)
    over = loaded(tmp_path, text, DCP_MODELS="d=/d.gguf")
    assert [model.name for model in over.models] == ["d"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('servre = "x:1"', "servre is not a setting; did you mean server"),
        ('DCP_SERVER = "x:1"', "DCP_SERVER is not a setting; did you mean server"),
        ("[modles]\na = 'b'", "modles is not a setting; did you mean models"),
        ("colour = 1", "colour is not a setting; see dcp-daemon --help"),
        ('provider_key = "dcp-provider-x"', "provider_key is not allowed here.*identity file"),
        ('config = "x"', "config is not allowed here"),
        ("server = {a = 1}", "server must be a text, a number"),
        ('schedule = ["00:00-12:00,13:00-14:00"]', "schedule must be .* without commas"),
        ("[models]\na = 1", r"a line of \[models\]"),
        ("server = ", "is not TOML"),
        ('server = "example.com"', r"DCP_SERVER must be host:port.*config\.toml: server\)"),
        ("max_temp_c = 500", r"DCP_MAX_TEMP_C must be a whole number from 30 to 120.*: max_temp_c\)"),
        ('schedule = "sometimes"', "DCP_SCHEDULE: 'sometimes' is not like Mon-Fri 20:00-08:00"),
        ('time_zone = "Mars/Olympus"', "there is no time zone 'Mars/Olympus'"),
        ('update_url = "http://example.com/r.json"', "DCP_UPDATE_URL must be an https URL or a file"),
        ('update_public_key = "c2hvcnQ="', "must be 32 bytes in Base64"),
    ],
)
def test_bad_file_is_refused_with_its_path(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        loaded(tmp_path, text)


def test_error_does_not_repeat_a_refused_key(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        loaded(tmp_path, 'provider_key = "dcp-provider-secret"')
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("mode", [0o664, 0o646])
def test_file_that_others_can_write_is_refused(tmp_path: Path, mode: int) -> None:
    path = write(tmp_path, 'server = "127.0.0.1:7"')
    path.chmod(mode)
    with pytest.raises(ConfigError, match="can be written by other users: run chmod go-w"):
        load({"HOME": str(tmp_path)}, str(path))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make files of other users")
def test_file_of_another_user_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, 'server = "127.0.0.1:7"')
    os.chown(path, 65534, -1)
    with pytest.raises(ConfigError, match="belongs to another user"):
        load({"HOME": str(tmp_path)}, str(path))


def test_endless_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="larger than 1024 KiB"):
        loaded(tmp_path, "#" * (2 << 20))


def test_every_setting_of_the_reference_can_stand_in_the_file(tmp_path: Path) -> None:
    _, sections = (ROOT / "docs/reference/settings.md").read_text().split("\n## Daemon\n")
    section, *_ = sections.split("\n## ")
    names = set(re.findall(r"^\| `(DCP_\w+)` \|", section, re.MULTILINE))
    assert names == {variable.name for variable in VARIABLES}
    for name in names - set(NOT_IN_THE_FILE):
        assert parse(tmp_path, f'{key_of(name)} = "text"'.encode(), names).settings == {name: "text"}
    assert set(SAMPLES) <= {key_of(name) for name in names}
    config = loaded(tmp_path, "\n".join(f"{key} = {value}" for key, value in SAMPLES.items()))
    assert config.rules.vram_reserve_mib == 2048
    assert len(config.rules.schedules[0].windows) == 2
    assert config.update_public_key == b"k" * 32


def test_written_file_reads_back_the_same_settings(tmp_path: Path) -> None:
    text = (
        'schedule = ["Sat 00:00-24:00"]\nmax_temp_c = 80\n[aliases]\n"x" = "y"\n[models]\n"old" = "/o.gguf"\n'
    )
    path = write(tmp_path, text)
    environ = {"HOME": str(tmp_path), "DCP_MODELS": 'a/"b"=/m/a.gguf', "DCP_SERVER": "127.0.0.1:9"}
    config = load(environ, str(path))
    written = config_text.render(config, path, environ)
    again = loaded(tmp_path, written)
    assert (again.server, again.models, again.rules) == (config.server, config.models, config.rules)
    assert again.aliases == (("x", "y"),)
    assert again.state_dir == config.state_dir
    assert tomllib.loads(written)["max_temp_c"] == 80
    assert config_text.same(written, "# another comment\n" + written)
    assert not config_text.same(written, text)

